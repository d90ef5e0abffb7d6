"""A digest of compiled code: what it does, without its place in a file, and what it reaches by name."""

from __future__ import annotations

import copyreg
import dis
import hashlib
import re
import sys
import weakref
from functools import cached_property, partial, partialmethod, singledispatch, singledispatchmethod
from pathlib import Path, PurePath
from types import CodeType, FunctionType, GeneratorType, MappingProxyType, MethodType, ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# Where code stands: the file of an own module; True: it is own and stands in no file; False: it is not own.
Place = Path | bool
PLAIN = (bool, int, float, complex, str, bytes, type(None), type(...), PurePath)
PLAIN_CONTAINERS = (tuple, list, dict, MappingProxyType, set, frozenset)
# What is held weakly is held elsewhere, too, and comes and goes.
WEAK = (weakref.ref, weakref.WeakKeyDictionary, weakref.WeakValueDictionary, weakref.WeakSet)
# What Python sets in a class itself, and what says nothing of what the class does.
CLASS_KEYS = {
    *("__module__", "__qualname__", "__doc__", "__dict__", "__weakref__", "__annotations__", "__abstractmethods__"),
    *("_abc_impl", "__firstlineno__", "__static_attributes__", "__parameters__", "__orig_bases__", "__slotnames__"),
}
LOCAL = "<locals>"
MADE_IN_PYTHON = 1 << 9  # Py_TPFLAGS_HEAPTYPE


class CodeDigest:
    """Takes in code, and the own code and values that it reaches.

    A value counts by what pickling would keep of it, or else by its attributes and its text without addresses. What
    lies behind these (an open file, a lock, data on a server), what is held weakly, names that are looked up as texts
    (`globals()["x"]`) and values nested too deep for Python's stack count by their types alone.

    Args:
        place_of: the place of the code of a loaded module.

    Attributes:
        modules: names of the own modules with a file that were reached: their code counts by the file.
        imports: names of modules that the code imports when it runs.
        has_more: whether those files do not hold all of it.
    """

    def __init__(self, place_of: Callable[[ModuleType], Place]) -> None:
        self._place_of = place_of
        self._digest = hashlib.sha256()
        self._seen: dict[int, tuple[int, Any]] = {}  # keeps what it has seen, so that no id is used twice
        self._waiting: list[Any] = []  # code reached by name: a chain of calls may be longer than Python's stack
        self._values: dict[tuple[int, str], tuple[str, str]] = {}  # scope and name of a global -> name, digest
        self.modules: set[str] = set()
        self.imports: set[str] = set()
        self.has_more = False

    def hexdigest(self) -> str:
        """Returns 12 hexadecimal digits, of all but the values of globals."""
        return self._digest.hexdigest()[:12]

    def values(self) -> dict[str, str]:
        """Returns a digest of the value of every global that the code names, other than code, by dotted name."""
        found: dict[str, list[str]] = {}
        for name, digest in self._values.values():
            found.setdefault(name, []).append(digest)
        return {name: hashlib.sha256("".join(several).encode()).hexdigest()[:12] for name, several in found.items()}

    def add(self, value: Any) -> None:
        """Takes in a class, function, module, code or value, and what it reaches."""
        self._add(value)
        while self._waiting:
            self._add(self._waiting.pop())

    def _add(self, value: Any) -> None:
        if isinstance(value, PLAIN):
            self._tell(type(value).__name__, hashlib.sha256(value).hexdigest() if type(value) is bytes else repr(value))
            if self._is_own(type(value)):
                self._add(type(value))
        elif type(value) in (tuple, frozenset, CodeType):
            self._add_new(value)  # Python shares equal ones, or not, as it likes
        elif id(value) in self._seen:
            self._tell("seen", str(self._seen[id(value)][0]))
        else:
            self._seen[id(value)] = (len(self._seen), value)
            self._add_new(value)

    def _add_new(self, value: Any) -> None:
        if isinstance(value, FunctionType):
            self._add_function(value)
        elif isinstance(value, type):
            self._add_class(value)
        elif isinstance(value, ModuleType):
            self._add_module(value)
        elif isinstance(value, CodeType):
            self._add_code(value)
        elif isinstance(value, WEAK):
            self._tell("weak", type(value).__name__)
        else:
            self._add_items(value)
            if type(value) not in PLAIN_CONTAINERS:
                self._add_object(value)

    def _add_items(self, value: Any) -> None:
        """Takes in what a container of Python, or of a class made from one, holds."""
        if isinstance(value, tuple | list):
            self._tell("sequence", type(value).__name__, str(len(value)))
            for item in value:
                self._add(item)
        elif isinstance(value, dict | MappingProxyType):
            self._tell("mapping", str(len(value)))
            for pair in value.items():
                for item in pair:
                    self._add(item)
        elif isinstance(value, set | frozenset):
            self._tell("set", *sorted(self._apart(item) for item in value))

    def _add_module(self, module: ModuleType) -> None:
        self._tell("module", module.__name__)
        # Of a package any module that is loaded may be reached through it.
        loaded = [name for name in sorted(sys.modules) if f"{name}.".startswith(f"{module.__name__}.")]
        for name in loaded if self._place_of(module) is not False else ():
            self._note(self._place_of(sys.modules[name]), name)

    def _add_function(self, function: FunctionType) -> None:
        code, scope = function.__code__, function.__globals__
        # Not `__module__`, which `functools.wraps` copies from another function.
        module = sys.modules.get(str(scope.get("__name__")))
        place: Place = True if module is None or vars(module) is not scope else self._place_of(module)
        if isinstance(place, Path) and place != Path(code.co_filename):
            place = True  # put there by `exec`, or from a notebook
        self._tell("function", function.__qualname__)
        if place is False and self._is_in_package(function):
            return  # the version of its package covers it
        if scope is singledispatch.__globals__ and hasattr(function, "registry"):
            self._add(dict(function.registry))  # the rest of what it encloses is a cache
            return
        for given in (function.__defaults__, function.__kwdefaults__):
            self._add(given)
        # A wrapper of another package, as `torch.no_grad()` makes it, encloses the own function that it calls.
        for cell in function.__closure__ or ():
            try:
                self._add(cell.cell_contents)
            except ValueError:
                self._tell("empty cell")
        self._add(vars(function) if place is True else getattr(function, "__wrapped__", None))
        self._note(place, str(scope.get("__name__")))
        if place is True:
            self.has_more = True
            self._add(code)
            for name in sorted(_global_names(code) & {*scope}):
                self._add_global(scope, name)

    def _add_global(self, scope: dict[str, Any], name: str) -> None:
        """Takes in what a global holds: code at once or later, another value by itself, to be told by its name."""
        self._tell("global", name)
        value, key = scope[name], (id(scope), name)
        if isinstance(value, FunctionType | type | ModuleType):
            self._waiting.append(value)
        elif key not in self._values:
            named = f"{scope.get('__name__')}.{name}"
            self._values[key] = (named, "")  # a value may reach itself
            self._values[key] = (named, self._apart(value))

    def _add_class(self, kind: type) -> None:
        place = self._class_place(kind)
        self._tell("class", kind.__qualname__)
        if place is False:
            return
        # A class that a function makes holds what the function was given, even if the code stands in a file.
        is_whole = place is True or LOCAL in kind.__qualname__
        self.has_more |= is_whole
        self._note(place, kind.__module__)
        for base in (type(kind), *kind.__bases__):
            self._add(base)
        for name, value in [*vars(kind).items()]:
            # The file holds the values of other classes, but not the functions that were put into them elsewhere.
            if name not in CLASS_KEYS and (is_whole or [*functions_of(value)]):
                self._tell("attribute", name)
                self._add(value)

    def _add_object(self, value: Any) -> None:
        """Takes in an object by its class and what it holds; an array by its numbers."""
        self._tell("object", type(value).__qualname__)
        is_own = self._is_own(type(value))
        if is_own:
            self._add(type(value))
        numbers = _numbers(value)
        if numbers is not None:
            self._tell(str(numbers.dtype), str(numbers.shape))
            self._add(numbers.tolist() if numbers.dtype.hasobject else numbers.tobytes())
            return
        held = _held(value)
        if is_own or not held:
            held = [*held, *_kept(value, is_own)]
        for item in held:
            self._add(item)

    def _add_code(self, code: CodeType) -> None:
        names = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
        counts = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)
        self._tell("code", code.co_code.hex(), code.co_exceptiontable.hex(), repr(names), repr(counts))
        for constant in code.co_consts:
            self._add(constant)
        self.imports |= _imported_names(code)

    def _is_own(self, kind: type) -> bool:
        return self._class_place(kind) is not False

    def _class_place(self, kind: type) -> Place:
        if not kind.__flags__ & MADE_IN_PYTHON:
            return False
        module = sys.modules.get(kind.__module__)
        # A class that a notebook or `exec` made may bear the name of any module.
        is_there = module is not None and hasattr(module, kind.__qualname__.partition(".")[0])
        return self._place_of(module) if is_there and module is not None else True

    def _is_in_package(self, function: FunctionType) -> bool:
        """Says whether a function is found under its name in a module that is not own."""
        module = sys.modules.get(function.__module__ or "")
        found: Any = module
        for name in function.__qualname__.split("."):
            found = getattr(found, name, None)
        return found is function and module is not None and self._place_of(module) is False

    def _note(self, place: Place, module_name: str) -> None:
        if isinstance(place, Path):
            self.modules.add(module_name)

    def _apart(self, value: Any) -> str:
        """Returns the digest of a value by itself: the items of a set have no order, a global has a name."""
        digest = CodeDigest(self._place_of)
        digest._values = self._values
        try:
            digest.add(value)
        except RecursionError:  # where it happens depends on who calls
            return f"deep {type(value).__qualname__}"
        self.modules |= digest.modules
        self.imports |= digest.imports
        self.has_more |= digest.has_more
        return digest.hexdigest()

    def _tell(self, *words: str) -> None:
        self._digest.update("\0".join([*words, "\n"]).encode("utf-8", "surrogatepass"))


def functions_of(value: Any) -> Iterator[FunctionType]:
    """Yields the functions that a value of a class or module is made of."""
    if isinstance(value, FunctionType):
        yield value
    elif isinstance(value, property):
        yield from (f for f in (value.fget, value.fset, value.fdel) if isinstance(f, FunctionType))
    elif isinstance(value, cached_property | partial | partialmethod | singledispatchmethod):
        yield from functions_of(value.func)
    elif isinstance(value, staticmethod | classmethod | MethodType):
        yield from functions_of(value.__func__)
    elif not isinstance(value, type) and isinstance(getattr(value, "__wrapped__", None), FunctionType):
        yield value.__wrapped__


def _held(value: Any) -> list[Any]:
    """Returns what an object of Python itself is made of, where pickling does not tell it."""
    if isinstance(value, property):
        return [value.fget, value.fset, value.fdel]
    if isinstance(value, staticmethod | classmethod):
        return [value.__func__]
    if isinstance(value, MethodType):
        return [value.__func__, value.__self__]
    if isinstance(value, GeneratorType):
        return [value.gi_code]
    return [value.__wrapped__] if isinstance(getattr(value, "__wrapped__", None), FunctionType) else []


def _kept(value: Any, is_own: bool) -> list[Any]:
    """Returns what pickling keeps of an object; of an own one its attributes, too, whatever its class says of that."""
    reduce = copyreg.dispatch_table.get(type(value))
    try:
        found = value.__reduce_ex__(4) if reduce is None else reduce(value)
        kept = [found] if isinstance(found, str) else [*found[:3], *([*items] for items in found[3:5] if items)]
    except Exception:  # whatever a class may raise: it is not made for that
        kept, is_own = [_text(value)], True
    return [*kept, *([object.__getstate__(value)] if is_own else [])]


def _text(value: Any) -> str:
    try:
        return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))
    except Exception:  # a class may show its objects badly; its type counts all the same
        return ""


def _numbers(value: Any) -> Any:
    """Returns an array, or a tensor as an array; None of anything else."""
    numpy, torch = sys.modules.get("numpy"), sys.modules.get("torch")
    if numpy is not None and isinstance(value, numpy.ndarray | numpy.generic):
        return value
    if torch is None or not isinstance(value, torch.Tensor):
        return None
    try:
        dense = value.detach().cpu().to_dense()
        return (dense.float() if "float8" in str(dense.dtype) or dense.dtype is torch.bfloat16 else dense).numpy()
    except Exception:  # it has no numbers, as on the device "meta", or none that NumPy knows
        return None


def code_within(code: CodeType) -> Iterator[CodeType]:
    """Yields all code that compiled code holds, at any depth."""
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from code_within(constant)


def _global_names(code: CodeType) -> set[str]:
    """Returns the names that code looks up in its module; attributes of the same names do not count."""
    return {
        str(step.argval)
        for part in (code, *code_within(code))
        for step in dis.get_instructions(part)
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME")
    }


def _imported_names(code: CodeType) -> set[str]:
    """Returns the absolute names that the import statements of code may mean; `from a import b` means two."""
    names, base = set(), ""
    for step in dis.get_instructions(code):
        if step.opname == "IMPORT_NAME":
            base = str(step.argval)
            names.add(base)
        elif step.opname == "IMPORT_FROM":
            names.add(f"{base}.{step.argval}")
    return names
