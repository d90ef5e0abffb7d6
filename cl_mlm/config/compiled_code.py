"""A digest of compiled code: what it does, without its place in a file, and what it reaches by name."""

from __future__ import annotations

import dis
import hashlib
import sys
from collections.abc import Mapping, Set
from functools import cached_property, partial
from pathlib import Path, PurePath
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# Where code stands: the file of an own module; True: it is own and stands in no file; False: it is not own.
Place = Path | bool
PLAIN = (bool, int, float, complex, str, bytes, type(None), type(...), PurePath)
# What Python sets in a class itself, and what says nothing of what the class does.
CLASS_KEYS = {
    *("__module__", "__qualname__", "__doc__", "__dict__", "__weakref__", "__annotations__", "__abstractmethods__"),
    *("_abc_impl", "__firstlineno__", "__static_attributes__", "__parameters__", "__orig_bases__"),
}
LOCAL = "<locals>"
MADE_IN_PYTHON = 1 << 9  # Py_TPFLAGS_HEAPTYPE


class CodeDigest:
    """Takes in code, and the own code and values that it reaches.

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
        self.modules: set[str] = set()
        self.imports: set[str] = set()
        self.has_more = False

    def hexdigest(self) -> str:
        """Returns 12 hexadecimal digits."""
        return self._digest.hexdigest()[:12]

    def add(self, value: Any) -> None:
        """Takes in a class, function, module, code or value."""
        if isinstance(value, PLAIN):
            self._tell(type(value).__name__, repr(value))
        elif isinstance(value, tuple | frozenset | CodeType):
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
        elif isinstance(value, tuple | list):
            self._tell(type(value).__name__, str(len(value)))
            for item in value:
                self.add(item)
        elif isinstance(value, Mapping):
            self._tell("mapping", str(len(value)))
            for pair in value.items():
                for item in pair:
                    self.add(item)
        elif isinstance(value, Set):
            self._tell("set", *sorted(self._apart(item) for item in value))
        else:
            self._add_object(value)

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
        if place is False:
            return
        for given in (function.__defaults__, function.__kwdefaults__):
            self.add(given)
        for cell in function.__closure__ or ():
            try:
                self.add(cell.cell_contents)
            except ValueError:
                self._tell("empty cell")
        self._note(place, str(scope.get("__name__")))
        if place is True:
            self.has_more = True
            self.add(code)
            for name in sorted(_global_names(code)):
                if name in scope:
                    self._tell("global", name)
                    self.add(scope[name])

    def _add_class(self, kind: type) -> None:
        module = sys.modules.get(kind.__module__)
        # A class that a notebook or `exec` made may bear the name of any module.
        is_there = module is not None and hasattr(module, kind.__qualname__.partition(".")[0])
        place: Place = self._place_of(module) if is_there and module is not None else True
        self._tell("class", kind.__qualname__)
        if place is False or not kind.__flags__ & MADE_IN_PYTHON:
            return
        # A class that a function makes holds what the function was given, even if the code stands in a file.
        is_whole = place is True or LOCAL in kind.__qualname__
        self.has_more |= is_whole
        self._note(place, kind.__module__)
        for base in kind.__bases__:
            self.add(base)
        for name, value in vars(kind).items():
            # The file holds the values of other classes, but not the functions that were put into them elsewhere.
            if name not in CLASS_KEYS and (is_whole or [*functions_of(value)]):
                self._tell("attribute", name)
                self.add(value)

    def _add_object(self, value: Any) -> None:
        """Takes in an object by its class and, where that is own, what it holds; an array by its numbers."""
        self._tell("object", type(value).__qualname__)
        if isinstance(value, partial | MethodType):
            held: Any = (value.func, value.args, value.keywords) if isinstance(value, partial) else value.__self__
            self.add(held)
        for function in functions_of(value):
            self.add(function)
        if hasattr(value, "detach") and hasattr(value, "cpu"):  # a tensor; NumPy has no bfloat16
            value = value.detach().cpu()
            value = (value.float() if "bfloat16" in str(value.dtype) else value).numpy()
        if hasattr(value, "__array_interface__"):
            self._tell(str(value.dtype), str(value.shape), hashlib.sha256(value.tobytes()).hexdigest())
        elif self._is_own(type(value)):
            self.add(type(value))
            self.add(getattr(value, "__dict__", None))
        elif " at 0x" not in (text := repr(value)):
            self._tell(text)

    def _add_code(self, code: CodeType) -> None:
        names = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
        counts = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)
        self._tell("code", code.co_code.hex(), code.co_exceptiontable.hex(), repr(names), repr(counts))
        for constant in code.co_consts:
            self.add(constant)
        self.imports |= _imported_names(code)

    def _is_own(self, kind: type) -> bool:
        module = sys.modules.get(kind.__module__)
        return bool(kind.__flags__ & MADE_IN_PYTHON) and (module is None or self._place_of(module) is not False)

    def _note(self, place: Place, module_name: str) -> None:
        if isinstance(place, Path):
            self.modules.add(module_name)

    def _apart(self, value: Any) -> str:
        """Returns the digest of a value by itself: the items of a set have no order."""
        digest = CodeDigest(self._place_of)
        digest.add(value)
        self.modules |= digest.modules
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
    elif isinstance(value, cached_property | partial):
        yield from functions_of(value.func)
    elif isinstance(value, staticmethod | classmethod | MethodType):
        yield from functions_of(value.__func__)
    elif not isinstance(value, type) and isinstance(getattr(value, "__wrapped__", None), FunctionType):
        yield value.__wrapped__


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
