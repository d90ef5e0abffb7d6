"""From YAML and the command line to a checked `Config`, and from names to code; what outsiders import stands here."""

from cl_mlm.config.checking import check, unknown_keys
from cl_mlm.config.components import find, make_objective, make_stream, parameters
from cl_mlm.config.loading import load_config
from cl_mlm.config.schema import Config

__all__ = [
    "Config",
    "check",
    "find",
    "load_config",
    "make_objective",
    "make_stream",
    "parameters",
    "unknown_keys",
]
