"""Tells by digests whether own code, which no version of this project covers, is what it was.

Code in a file counts as the whole file, with the own files that it imports. Code without one (a cell of a notebook, a
script that is run) counts as it was compiled, with the own code and the values that it reaches by name: an edit
elsewhere in the notebook or script is no change.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from cl_mlm.config.compiled_code import CodeDigest, code_within, functions_of
from cl_mlm.own_code import SOURCE_PACKAGES, is_own

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from importlib.machinery import ModuleSpec
    from types import CodeType

    from cl_mlm.config.compiled_code import Place

VALUE = "value of "  # begins the names of the parts that are values of globals
# Name of a loaded module -> its spec, which a reload replaces, and the digest of its file when it was first seen.
_SEEN: dict[str, tuple[ModuleSpec, str]] = {}


def own_source(components: Iterable[Any]) -> dict[str, str]:
    """Returns a digest (12 hexadecimal digits) of every part of the own code of components, by name.

    A part is the file of a module, named by the module; or code without a file, named by the component; or the value of
    a global that such code names (`value of __main__.RATE`), other than a class, function or module. Of a loaded
    module the file counts as it was when it was loaded, even if it has been edited since.

    Args:
        components: classes and functions; those of this project have no part.
    """
    return {name: digest for name, (digest, _) in _parts(components).items()}


def outdated(components: Iterable[Any]) -> list[str]:
    """Returns a line for each own file that was edited after it was loaded: a run would use the old code."""
    return [
        f"{name}: {path} was edited after Python had imported it, so the old code would run: restart Python, or "
        f"importlib.reload({name}) and make its objects anew"
        for name, (digest, path) in _parts(components).items()
        if path is not None and name in sys.modules and (digest != _file_digest(path) or not _is_loaded(name, path))
    ]


def _parts(components: Iterable[Any]) -> dict[str, tuple[str, Path | None]]:
    """Returns digest and file (None: none) of every part of the code of components, by name."""
    found: dict[str, tuple[str, Path | None]] = {}
    for component in components:
        code = CodeDigest(_place_of)
        code.add(component)
        named = [*sorted(code.modules), *sorted(code.imports if code.has_more else ())]
        for name, path in _imported(named).items():
            found[name] = _digest_of(name, path), path
        found |= {f"{VALUE}{name}": (digest, None) for name, digest in code.values().items()}
        if code.has_more:
            found[f"{component.__module__}.{component.__qualname__}"] = code.hexdigest(), None
    return dict(sorted(found.items()))


def _place_of(module: ModuleType) -> Place:
    """Returns where the code of a loaded module stands."""
    if module.__name__.partition(".")[0] in SOURCE_PACKAGES:
        return False
    if module.__name__ == "__main__":
        return True
    path = _origin(getattr(module, "__spec__", None))
    if path is None:
        return module.__name__.partition(".")[0] not in sys.stdlib_module_names
    return path if is_own(path) else False


def _origin(spec: ModuleSpec | None) -> Path | None:
    return Path(spec.origin) if spec is not None and spec.has_location and spec.origin else None


def _imported(names: Iterable[str]) -> dict[str, Path]:
    """Returns the own modules among `names`, and those that their files import, at any depth: name -> file."""
    found: dict[str, Path] = {}
    waiting = list(names)
    while waiting:
        for name, path in _files(waiting.pop()).items():
            if name not in found:
                found[name] = path
                waiting += _asked_for(name, path)
    return found


def _files(name: str) -> dict[str, Path]:
    """Returns the own files that an import of `name` runs: the module's and those of the packages that it lies in."""
    parts = name.split(".")
    if parts[0] in SOURCE_PACKAGES or parts[0] in sys.stdlib_module_names or not parts[0]:
        return {}
    found: dict[str, Path] = {}
    places: list[Path] = []
    for depth, part in enumerate(parts, start=1):
        module = ".".join(parts[:depth])
        spec = _spec(module) if depth == 1 or module in sys.modules else None
        file = _origin(spec)
        if spec is None:
            candidates = [*(place / part / "__init__.py" for place in places), *(p / f"{part}.py" for p in places)]
            file = next((path for path in candidates if path.is_file()), None)
        if file is not None and is_own(file):
            found[module] = file
        inner = spec.submodule_search_locations if spec is not None else None
        places = [place / part for place in places] if spec is None else [Path(place) for place in inner or ()]
    return found


def _spec(name: str) -> ModuleSpec | None:
    """Returns where a loaded module, or one at the top level, is found; nothing is imported."""
    if name in sys.modules:
        return getattr(sys.modules[name], "__spec__", None)
    try:
        return importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None


def _asked_for(name: str, path: Path) -> Iterator[str]:
    """Yields what the imports of a file may mean, those in functions too, and the modules that it holds once loaded.

    `from a import b` means two. Of `import_module` and `__import__` names that are written out count.
    """
    if name in sys.modules:
        held = [*vars(sys.modules[name]).values()]
        yield from (value.__name__ for value in held if isinstance(value, ModuleType))
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):  # told when it is imported
        return
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(package, node.level, node.module or "")
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and _called(node) in ("import_module", "__import__"):
            for given in [*node.args[:1], *(word.value for word in node.keywords if word.arg == "name")]:
                if isinstance(given, ast.Constant) and isinstance(given.value, str):
                    inner = given.value.lstrip(".")
                    yield _absolute(package, len(given.value) - len(inner), inner)


def _absolute(package: str, level: int, module: str) -> str:
    """Returns the absolute name of a module that a module of `package` imports; `level` dots precede its name."""
    above = package.split(".") if level else []
    return ".".join([*above[: len(above) + 1 - max(1, level)], *filter(None, [module])])


def _called(call: ast.Call) -> str:
    """Returns the last part of the name of what is called."""
    return getattr(call.func, "attr", getattr(call.func, "id", ""))


def _digest_of(name: str, path: Path) -> str:
    """Returns the digest of a module's file; of a loaded module, as it was when the module was first seen."""
    spec = getattr(sys.modules.get(name), "__spec__", None)
    if spec is None:
        return _file_digest(path)
    if name not in _SEEN or _SEEN[name][0] is not spec:
        _SEEN[name] = (spec, _file_digest(path))
    return _SEEN[name][1]


def _file_digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    except OSError:
        return "missing"


def _is_loaded(name: str, path: Path) -> bool:
    """Says whether every function of a loaded module is one of its file, so far as that can be told."""
    module = sys.modules[name]
    # Other loaders, such as pytest's, compile something else than the file.
    if type(getattr(module.__spec__, "loader", None)) is not SourceFileLoader:
        return True
    try:
        compiled = SourceFileLoader(name, str(path)).source_to_code(path.read_bytes(), str(path))
    except (OSError, SyntaxError, ValueError):
        return False
    known = {_code_digest(code) for code in code_within(compiled)}
    codes = [f.__code__ for f in _own_functions(vars(module), name)]
    return all(_code_digest(code) in known for code in codes if Path(code.co_filename) == path)


def _own_functions(values: Mapping[str, Any], module_name: str) -> Iterator[Any]:
    for value in values.values():
        if isinstance(value, type) and value.__module__ == module_name:
            yield from (f for attribute in vars(value).values() for f in functions_of(attribute))
        else:
            yield from functions_of(value)


def _code_digest(code: CodeType) -> str:
    digest = CodeDigest(_place_of)
    digest.add(code)
    return digest.hexdigest()
