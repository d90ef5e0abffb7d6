"""Finds modules of one's own that a config names: in the folders of `code`, beside the config, in the working folder.

A folder that holds one is put behind all others where Python looks for modules, so that it hides nothing that is
installed, and the module may import what lies beside it.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cl_mlm.errors import ConfigError, SignalExit
from cl_mlm.own_code import is_own

DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")
NAMED = ("name", "objective")  # keys of a stream section that may name code


def find_own_modules(values: Mapping[str, Any], config_folder: Path | None) -> list[str]:
    """Makes the modules of one's own that a config names importable; returns their folders, absolute.

    Args:
        values: the merged config.
        config_folder: where its file lies; None: it is no file.

    Raises:
        ConfigError: Python knows another module under the name of one of them.
    """
    code = values.get("code")
    given = [Path(folder) for folder in code if isinstance(folder, str)] if isinstance(code, list) else []
    places = [*given, *([] if config_folder is None else [config_folder]), Path()]
    folders = list(dict.fromkeys(place.absolute() for place in places))
    found: list[str] = []
    problems: list[str] = []
    for module in dict.fromkeys(_modules(values)):
        file = next((file for folder in folders if (file := _file(folder, module)) is not None), None)
        if file is not None:
            folder = _folder(file, module)
            _look_in(folder)
            known = _known_file(module)
            if known is not None and known.resolve() != file.resolve():
                problems.append(
                    f"code: Python knows another module {module!r} ({known}), so that {file} cannot be meant by it; "
                    "give that file another name"
                )
        found += own_folder(module)
    if problems:
        raise ConfigError(problems)
    return list(dict.fromkeys(found))


def own_folder(module: str) -> list[str]:
    """Returns the folder where Python finds a module of one's own; none where it is installed, or not to be found."""
    file = None if module == "__main__" else _known_file(module)
    return [str(_folder(file.absolute(), module))] if file is not None and is_own(file.absolute()) else []


def _modules(values: Mapping[str, Any]) -> Iterator[str]:
    """Yields the modules of dotted names, in every place of a config that may name code."""
    strategies, prompting = values.get("strategies"), values.get("prompting")
    names = [*strategies] if isinstance(strategies, Mapping) else []
    names += _named(values.get("stream"))
    names += _named(prompting.get("data")) if isinstance(prompting, Mapping) else []
    yield from (name.rpartition(".")[0] for name in names if isinstance(name, str) and DOTTED.fullmatch(name))


def _named(section: Any) -> Iterator[str]:
    """Yields every text under a key that may name code, at any depth."""
    if isinstance(section, Mapping):
        for key, value in section.items():
            if key in NAMED and isinstance(value, str):
                yield value
            yield from _named(value)
    elif isinstance(section, Sequence) and not isinstance(section, str):
        for value in section:
            yield from _named(value)


def _file(folder: Path, module: str) -> Path | None:
    path = folder.joinpath(*module.split("."))
    candidates = (path.with_name(f"{path.name}.py"), path / "__init__.py")
    return next((file for file in candidates if file.is_file()), None)


def _folder(file: Path, module: str) -> Path:
    """Returns the folder from which a module's file is imported under this name."""
    depth = module.count(".") + (file.name == "__init__.py")
    return file.parents[depth]


def _look_in(folder: Path) -> None:
    if folder.resolve() not in {Path(place).resolve() for place in sys.path}:
        sys.path.append(str(folder))
    importlib.invalidate_caches()  # the file may be younger than Python's listing of its folder


def _known_file(module: str) -> Path | None:
    """Returns the file that Python finds under a module's name; None: it has none, or cannot be found."""
    loaded = sys.modules.get(module)
    if loaded is not None:
        file = getattr(loaded, "__file__", None)
        return None if file is None else Path(file)
    try:
        spec = importlib.util.find_spec(module)
    except (KeyboardInterrupt, SignalExit):
        raise
    except BaseException:  # a package of the user's fails while it is imported, which is told where it is looked up
        return None
    return None if spec is None or spec.origin in (None, "built-in", "frozen") else Path(str(spec.origin))
