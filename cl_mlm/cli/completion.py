"""What the shell offers after Tab: shipped configs and YAML files, arms of a config, lists and keys.

A fault of a half-typed line gives no offers instead of a message.
"""

from pathlib import Path

import typer

from cl_mlm.errors import ClMlmError


def complete_config(incomplete: str) -> list[str]:
    """Returns the config files and folders that begin so, and shipped configs by their bare names."""
    from cl_mlm.config.shipped import shipped_configs

    beginning = Path(incomplete)
    folder = beginning if incomplete.endswith("/") else beginning.parent
    found = sorted(folder.glob("*")) if folder.is_dir() else []
    own = [f"{path}/" if path.is_dir() else str(path) for path in found if path.is_dir() or path.suffix == ".yaml"]
    return [name for name in [*shipped_configs(), *own] if name.startswith(incomplete)]


def complete_shipped(incomplete: str) -> list[str]:
    """Returns the shipped configs whose names begin so."""
    from cl_mlm.config.shipped import shipped_configs

    return [name for name in shipped_configs() if name.startswith(incomplete)]


def complete_arm(context: typer.Context, incomplete: str) -> list[str]:
    """Returns the arms of the config that the line names: its first word that is one."""
    from cl_mlm.config.layers import arm_layers, read_layer

    # The option lacks its value, so the words before it are not yet read as the command's arguments.
    for word in context.args:
        try:
            arms = [*arm_layers(read_layer(word)), "all"]
        except ClMlmError:
            continue
        return [name for name in arms if name.startswith(incomplete)]
    return []


def complete_list(incomplete: str) -> list[str]:
    """Returns what `list` lists."""
    from cl_mlm.cli.listing import LISTS

    return [name for name in LISTS if name.startswith(incomplete)]


def complete_part(context: typer.Context, incomplete: str) -> list[str]:
    """Returns what `list keys` tells of: sections of a config, streams, strategies and objectives."""
    from cl_mlm.config.components import COMPONENT_PACKAGES, names
    from cl_mlm.config.key_reference import keys

    sections = [key.path.partition(".")[0] for key in keys()]
    components = [name for kind in COMPONENT_PACKAGES for name in names(kind)]
    offered = dict.fromkeys([*sections, *components]) if context.params.get("what") == "keys" else ()
    return [name for name in offered if name.startswith(incomplete)]


def complete_key(incomplete: str) -> list[str]:
    """Returns the keys of a config that begin so, each with its `=`."""
    from cl_mlm.config.key_reference import keys

    return [f"{key.path}=" for key in keys() if key.path.startswith(incomplete)]


def complete_run(incomplete: str) -> list[str]:
    """Returns the folders that begin so: runs, and folders that may hold some."""
    beginning = Path(incomplete)
    folder = beginning if incomplete.endswith("/") else beginning.parent
    found = sorted(path for path in folder.glob("*") if path.is_dir()) if folder.is_dir() else []
    return [f"{path}/" for path in found if str(path).startswith(incomplete) and not path.name.startswith(".")]
