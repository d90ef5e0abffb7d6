"""From a name in a config to the code that it means.

A bare name stays inside the project's packages: `ewc` is the one public class of `strategies/ewc.py`, `clinc150` the
one public function of `streams/clinc150.py`. A dotted path (`my_project.mine.Mine`) imports that module, so a config is
trusted as a script is.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from cl_mlm.config.checking import check
from cl_mlm.errors import ConfigError, nearest
from cl_mlm.objective import Objective
from cl_mlm.strategy import Strategy
from cl_mlm.stream import Stream

COMPONENT_PACKAGES = {"stream": "streams", "strategy": "strategies", "objective": "cl_mlm.objectives"}


def names(kind: str) -> list[str]:
    """Returns the names that a config may use for `kind` (stream, strategy or objective), sorted; imports none."""
    package = importlib.import_module(COMPONENT_PACKAGES[kind])
    modules = [module.name for module in pkgutil.iter_modules(package.__path__) if not module.name.startswith("_")]
    return sorted(name for name in modules if kind != "stream" or _makes_stream(f"{COMPONENT_PACKAGES[kind]}.{name}"))


def find(kind: str, name: str) -> Any:
    """Returns the class or function that `name` means.

    Raises:
        ConfigError: there is no such module, or it holds nothing of that kind.
    """
    if "." in name.strip("."):
        return _check(kind, name, _import_path(kind, name))
    if name.startswith("_") or name not in names(kind):
        known = names(kind)
        raise ConfigError(f"{kind}: no {kind} is called {name!r}{nearest(name, known)}; allowed: {', '.join(known)}")
    module = importlib.import_module(f"{COMPONENT_PACKAGES[kind]}.{name}")
    return _check(kind, name, _only_public(kind, module))


def make_objective(name: str, options: Mapping[str, Any]) -> Objective:
    """Returns the objective called `name`, built with `options`.

    Raises:
        ConfigError: there is no such objective, or it has no such option, or an option is of another type.
    """
    kind = find("objective", name)
    types = parameters(kind)
    known = list(types)
    allowed = ", ".join(known) or "none"
    faults = [
        f"stream.options.{key}: no option of objective {name}{nearest(key, known)}; allowed: {allowed}"
        for key in options
        if key not in known
    ]
    given = {
        key: check(f"stream.options.{key}", value, types[key].annotation, {}, faults)
        for key, value in options.items()
        if key in types
    }
    if faults:
        raise ConfigError(faults)
    objective: Objective = kind(**given)
    return objective


def parameters(component: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Returns the arguments that a config may set, by name, with evaluated annotations."""
    signature = inspect.signature(component, eval_str=True)
    return {name: p for name, p in signature.parameters.items() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}


def _import_path(kind: str, path: str) -> Any:
    module_name, _, attribute = path.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ConfigError(f"{kind}: cannot import {module_name!r} for {path!r}: {error}") from error
    if not hasattr(module, attribute):
        public = [name for name in vars(module) if not name.startswith("_")]
        raise ConfigError(f"{kind}: {module.__file__} has no {attribute!r}{nearest(attribute, public)}")
    return getattr(module, attribute)


def _only_public(kind: str, module: ModuleType) -> Any:
    """Returns the one public class of a module, or its one public function that is annotated to return a Stream."""
    own = [
        value
        for name, value in vars(module).items()
        if getattr(value, "__module__", None) == module.__name__ and not name.startswith("_")
    ]
    found: list[Any]
    if kind == "stream":
        found = [v for v in own if inspect.isfunction(v) and v.__annotations__.get("return") in ("Stream", Stream)]
    else:
        found = [v for v in own if inspect.isclass(v)]
    if len(found) != 1:
        listed = ", ".join(value.__name__ for value in found) or "none"
        raise ConfigError(f"{kind}: {module.__file__} must hold exactly one public {kind}, found {listed}")
    return found[0]


def _makes_stream(module_name: str) -> bool:
    spec = importlib.util.find_spec(module_name)
    if spec is None or spec.origin is None:
        return False
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")]
    return any(isinstance(f.returns, ast.Name) and f.returns.id == "Stream" for f in functions)


def _check(kind: str, name: str, component: Any) -> Any:
    origin = getattr(inspect.getmodule(component), "__file__", "an unknown place")
    if kind == "strategy" and not (inspect.isclass(component) and issubclass(component, Strategy)):
        raise ConfigError(f"strategy: {name!r} must be a subclass of cl_mlm.Strategy, got {component!r} from {origin}")
    if kind == "objective" and not (inspect.isclass(component) and issubclass(component, Objective)):
        raise ConfigError(f"objective: {name!r} must be a subclass of Objective, got {component!r} from {origin}")
    if kind == "stream" and not callable(component):
        raise ConfigError(f"stream: {name!r} must be a function that returns a Stream, got {component!r} from {origin}")
    return component


def make_stream(name: str, arguments: Mapping[str, Any]) -> Stream:
    """Returns the stream that `name` means, built with `arguments`.

    Raises:
        ConfigError: what was built is no Stream.
    """
    factory = find("stream", name)
    stream = factory(**arguments)
    if not isinstance(stream, Stream):
        origin = getattr(inspect.getmodule(factory), "__file__", "an unknown place")
        raise ConfigError(f"stream.name: {name!r} must return a Stream, got {type(stream).__name__} from {origin}")
    return stream
