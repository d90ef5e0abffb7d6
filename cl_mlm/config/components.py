"""Finds the stream, strategy or objective that a name in a config means.

A bare name stays inside the project's packages: `ewc` is the one public class of `strategies/ewc.py`, `clinc150` the
one public function of `streams/clinc150.py`. A dotted path (`my_project.mine.Mine`) imports that module, so that a
config must be trusted like a script; `own_modules.py` makes modules beside a config importable.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import pkgutil
import sys
import traceback
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cl_mlm.config.checking import check
from cl_mlm.config.own_objectives import watched
from cl_mlm.errors import ConfigError, SignalExit, nearest, text_of
from cl_mlm.objective import Objective
from cl_mlm.own_code import OwnCode, broken, label_of
from cl_mlm.strategy import Strategy
from cl_mlm.stream import Stream

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import ModuleType

COMPONENT_PACKAGES = {"stream": "streams", "strategy": "strategies", "objective": "cl_mlm.objectives"}


def names(kind: str) -> list[str]:
    """Returns the bare names that a config may use for `kind` (stream, strategy or objective), sorted.

    None of these modules is imported.
    """
    package = importlib.import_module(COMPONENT_PACKAGES[kind])
    modules = sorted(module.name for module in pkgutil.iter_modules(package.__path__))
    public = [name for name in modules if not name.startswith("_")]
    if kind == "stream":
        return [name for name in public if _makes_stream(f"{package.__name__}.{name}")]
    return public


def find(kind: str, name: str) -> Any:
    """Returns the class or function that `name` means; `kind` is stream, strategy or objective.

    Raises:
        ConfigError: there is no such module, or it holds no component of that kind.
    """
    if "." in name.strip("."):
        return _check(kind, name, _import_path(kind, name))
    known = names(kind)
    if name not in known:
        raise ConfigError(f"{kind}: no {kind} is called {name!r}{nearest(name, known)}; allowed: {', '.join(known)}")
    module = importlib.import_module(f"{COMPONENT_PACKAGES[kind]}.{name}")
    return _check(kind, name, _only_public(kind, module))


def make_objective(name: str, options: Mapping[str, Any]) -> Objective:
    """Returns the objective called `name`, built with `options`.

    Raises:
        ConfigError: there is no such objective, or it has no such option, or an option is of another type.
    """
    objective_class = find("objective", name)
    known = parameters(objective_class)
    allowed = ", ".join(known) or "none"
    faults = [
        f"stream.options.{key}: no option of objective {name}{nearest(key, known)}; allowed: {allowed}"
        for key in options
        if key not in known
    ]
    arguments = {
        key: check(f"stream.options.{key}", value, known[key].annotation, {}, faults)
        for key, value in options.items()
        if key in known
    }
    if faults:
        raise ConfigError(faults)
    with OwnCode("objective", f"objective {label_of(objective_class)}, __init__"):
        objective: Objective = objective_class(**arguments)
    return watched(objective)


def make_strategy(name: str, arguments: Mapping[str, Any]) -> Strategy:
    """Returns the strategy called `name`, built with `arguments`.

    Raises:
        ConfigError: there is no such strategy.
        OwnCodeError: its class raises.
    """
    kind = find("strategy", name)
    with OwnCode("strategy", f"strategy {label_of(kind)}, __init__"):
        strategy: Strategy = kind(**arguments)
    return strategy


def told_faults(strategy: Strategy, hook: str, *arguments: Any) -> list[str]:
    """Returns what `validate` or `unfit` of a strategy says.

    Raises:
        OwnCodeError: it raises, or returns other than texts.
    """
    who = f"strategy {label_of(type(strategy))}, hook {hook}"
    with OwnCode("strategy", who):
        found = getattr(strategy, hook)(*arguments)
    if not isinstance(found, list | tuple) or not all(isinstance(line, str) for line in found):
        raise broken("strategy", who, "must be a list of texts, empty where all is good", found)
    return list(found)


def parameters(component: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Returns the arguments of a class or function that a config may set, by name; annotations are evaluated."""
    signature = inspect.signature(component, eval_str=True)
    named = {name: p for name, p in signature.parameters.items() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
    # Where a user's own class says nothing of a type, any value will do.
    return {name: p.replace(annotation=Any) if p.annotation is p.empty else p for name, p in named.items()}


def _import_path(kind: str, path: str) -> Any:
    module_name, _, attribute = path.rpartition(".")
    if "<locals>" in path or (module_name == "__main__" and not hasattr(sys.modules["__main__"], attribute)):
        raise ConfigError(
            f"{kind}: {path!r} was defined in a notebook, a script or a function and is known only there; run it from "
            "there, or put it into a module"
        )
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        where = ""
        if error.name and (module_name == error.name or module_name.startswith(f"{error.name}.")):
            where = (
                "; a module of your own is found beside the config, in the working folder, and in the folders that the "
                "key `code` names"
            )
        raise ConfigError(f"{kind}: cannot import {module_name!r} for {path!r}: {error}{where}") from error
    except (KeyboardInterrupt, SignalExit):
        raise
    except BaseException as error:  # a fault in a module of the user's, or its `sys.exit`
        raise ConfigError(f"{kind}: cannot import {module_name!r} for {path!r}: {_fault(error)}") from error
    if not hasattr(module, attribute):
        public = [name for name in vars(module) if not name.startswith("_")]
        raise ConfigError(f"{kind}: {module.__file__} has no {attribute!r}{nearest(attribute, public)}")
    return getattr(module, attribute)


def _fault(error: BaseException) -> str:
    """Returns what went wrong in a module while it was imported, with file and line."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}:{error.lineno}: {type(error).__name__}: {error.msg}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "importlib" not in frame.filename]
    return f"{own[-1].filename}:{own[-1].lineno}: {type(error).__name__}: {text_of(error)}"


def _only_public(kind: str, module: ModuleType) -> Any:
    """Returns the one public class of a module, or its one public function that is annotated to return a Stream."""
    public = [
        value
        for name, value in vars(module).items()
        if getattr(value, "__module__", None) == module.__name__ and not name.startswith("_")
    ]
    candidates: list[Any]
    if kind == "stream":
        functions = [value for value in public if inspect.isfunction(value)]
        candidates = [value for value in functions if value.__annotations__.get("return") in ("Stream", Stream)]
    else:
        candidates = [value for value in public if inspect.isclass(value)]
    if len(candidates) != 1:
        listed = ", ".join(value.__name__ for value in candidates) or "none"
        raise ConfigError(f"{kind}: {module.__file__} must hold exactly one public {kind}, found {listed}")
    return candidates[0]


def _makes_stream(module_name: str) -> bool:
    """Says whether a module has a public function annotated `-> Stream`; reads its source, without importing it."""
    spec = importlib.util.find_spec(module_name)
    if spec is None or spec.origin is None:
        return False
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")]
    return any(isinstance(f.returns, ast.Name) and f.returns.id == "Stream" for f in functions)


def _check(kind: str, name: str, component: Any) -> Any:
    """Returns the component; refuses what is not of its kind.

    Raises:
        ConfigError: naming the file that it comes from.
    """
    origin = getattr(inspect.getmodule(component), "__file__", "an unknown place")
    if kind == "strategy" and not (inspect.isclass(component) and issubclass(component, Strategy)):
        raise ConfigError(f"strategy: {name!r} must be a subclass of cl_mlm.Strategy, got {component!r} from {origin}")
    if kind == "objective" and not (inspect.isclass(component) and issubclass(component, Objective)):
        raise ConfigError(f"objective: {name!r} must be a subclass of Objective, got {component!r} from {origin}")
    if kind == "stream" and not callable(component):
        raise ConfigError(f"stream: {name!r} must be a function that returns a Stream, got {component!r} from {origin}")
    return component


def make_stream(name: str, arguments: Mapping[str, Any]) -> Stream:
    """Returns the stream that the factory called `name` builds from `arguments`.

    Raises:
        ConfigError: there is no such factory, or it returns no Stream.
    """
    factory = find("stream", name)
    with OwnCode("stream", f"stream {label_of(factory)}") if "." in name else nullcontext():
        stream = factory(**arguments)
    if not isinstance(stream, Stream):
        origin = getattr(inspect.getmodule(factory), "__file__", "an unknown place")
        raise ConfigError(f"stream.name: {name!r} must return a Stream, got {type(stream).__name__} from {origin}")
    return stream
