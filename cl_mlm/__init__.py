"""Continual learning of language models: streams, strategies, forgetting measured after every stage."""

from cl_mlm.cli.early import is_command as _is_command  # noqa: F401, before anything that takes time

# isort: split
from cl_mlm.api import compare, run, verify
from cl_mlm.errors import ClMlmError, ConfigError, DataError
from cl_mlm.experiment.prompt_run import Prompted
from cl_mlm.experiment.prompt_run import prompt_run as prompt
from cl_mlm.experiment.result import Result
from cl_mlm.experiment.result import load_result as load
from cl_mlm.strategy import RunView, Strategy
from cl_mlm.stream import Stage, Stream

__all__ = [
    "ClMlmError",
    "ConfigError",
    "DataError",
    "Prompted",
    "Result",
    "RunView",
    "Stage",
    "Strategy",
    "Stream",
    "compare",
    "load",
    "prompt",
    "run",
    "verify",
]
