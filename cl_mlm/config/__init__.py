"""Reads YAML and the command line into a checked `Config`, and finds the code that a name in a config means.

Streams and other code outside the platform import the names of this room from here.
"""

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
