"""Plants faults in source: each is one small change that a typing hand could make."""

import ast
import copy
from dataclasses import dataclass

COMPARED = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
COMPUTED = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
}
SWAPPED = {"min": "max", "max": "min", "any": "all", "all": "any"}


@dataclass(frozen=True)
class Fault:
    """One change of a file: the bytes from `start` to `end` become `new`.

    Attributes:
        path: of the file, relative to the repository.
        line: where it begins, from 1.
        kind: in words.
        start: first byte that changes.
        end: byte after the last that changes.
        old: what stands there.
        new: what is put there.
    """

    path: str
    line: int
    kind: str
    start: int
    end: int
    old: str
    new: str

    def planted(self, source):
        """Returns the source with the fault in it; bytes."""
        return source[: self.start] + self.new.encode() + source[self.end :]


def faults(path, source):
    """Returns every fault that can be planted in the functions of a file; `source` is bytes."""
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    found = []
    for node, kind, new in _changes(ast.parse(source)):
        start = starts[node.lineno - 1] + node.col_offset
        end = starts[node.end_lineno - 1] + node.end_col_offset
        text = ast.unparse(new)
        replacement = text if isinstance(new, ast.stmt) else f"({text})"
        found.append(Fault(path, node.lineno, kind, start, end, source[start:end].decode(), replacement))
    return [fault for fault in found if compiles(fault.planted(source))]


def compiles(source):
    """Says whether the changed file is still Python."""
    try:
        ast.parse(source)
    except SyntaxError:
        return False
    return True


def _changes(tree):
    """Yields `(node, kind, new node)` for what stands in functions; messages and annotations are left alone."""
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef):
            for statement in function.body:
                yield from _in(statement)


def _in(node):
    # The parts of an f-string have no places of their own in Python 3.11; functions within functions are walked alone.
    if isinstance(node, ast.Raise | ast.JoinedStr | ast.FunctionDef | ast.ClassDef | ast.Import | ast.ImportFrom):
        return
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return
    yield from ((node, kind, new) for kind, new in _of(node))
    for field, value in ast.iter_fields(node):
        if field == "annotation":
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from _in(child)


def _of(node):
    """Yields `(kind, new node)` for one node."""
    match node:
        case ast.Compare(ops=[operator]) if type(operator) in COMPARED:
            yield "comparison", _with(node, ops=[COMPARED[type(operator)]()])
        case ast.BinOp(op=operator) if type(operator) in COMPUTED:
            yield "operator", _with(node, op=COMPUTED[type(operator)]())
            yield "operand left out", node.left
        case ast.AugAssign(op=operator) if type(operator) in COMPUTED:
            yield "operator", _with(node, op=COMPUTED[type(operator)]())
            yield "statement left out", ast.Pass()
        case ast.BoolOp(op=operator):
            yield "and/or", _with(node, op=ast.Or() if isinstance(operator, ast.And) else ast.And())
            yield "operand left out", node.values[0]
        case ast.UnaryOp(op=ast.Not() | ast.USub()):
            yield "sign", node.operand
        case ast.Constant(value=bool()):
            yield "constant", ast.Constant(not node.value)
        case ast.Constant(value=int() | float()):
            yield "constant", ast.Constant(node.value + 1)
        case ast.If() | ast.While() | ast.IfExp():
            pass  # its test is changed where it stands
        case ast.Call(func=ast.Name(id=name)) if name in SWAPPED:
            yield "function", _with(node, func=ast.Name(SWAPPED[name]))
        case ast.Call(args=[_, _, *_]):
            yield "arguments swapped", _with(node, args=[node.args[1], node.args[0], *node.args[2:]])
        case ast.Call(keywords=[_, *_]):
            yield "argument left out", _with(node, keywords=node.keywords[:-1])
        case ast.Expr(value=ast.Call()):
            yield "statement left out", ast.Pass()
        case ast.Subscript(slice=ast.Slice(lower=lower, upper=upper)) if lower is not None or upper is not None:
            yield "slice", _with(node, slice=ast.Slice())
        case ast.Break():
            yield "break", ast.Continue()
        case ast.Continue():
            yield "continue", ast.Break()
        case ast.Return(value=value) if value is not None and not isinstance(value, ast.Constant):
            yield "nothing returned", ast.Return(ast.Constant(None))
    if isinstance(node, ast.If | ast.IfExp):
        yield "condition turned", _with(node, test=ast.UnaryOp(ast.Not(), node.test))


def _with(node, **changed):
    new = copy.copy(node)
    for field, value in changed.items():
        setattr(new, field, value)
    return new
