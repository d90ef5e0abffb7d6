"""Finds the type of every column of a file, block by block, and the lines that do not fit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa

    from cl_mlm.data.file_faults import FileFaults

Block = list[tuple[int, dict[str, Any]]]  # line, row
TEXTS = ("text", "text_pair")


def merge_type(name: str, block: Block, types: dict[str, tuple[pa.DataType, int]], faults: FileFaults) -> None:
    """Widens the type of a column so that a block fits, or adds a fault for every line that does not fit.

    Args:
        name: of the column.
        block: the next lines.
        types: mutated: the type of every column so far, and the line that has set it.
        faults: of the file.
    """
    import pyarrow as pa

    known, first = types.get(name, (pa.null(), block[0][0]))
    if pa.types.is_null(known):  # the first line with a value decides
        first = next((line for line, row in block if row.get(name) is not None), first)
    values = [row.get(name) for _, row in block]
    try:
        _check_truth(known, values)
        types[name] = (_wider(known, pa.array(values).type), first)
        return
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
        reason, num_before = str(error), faults.num
    # Value by value, to find the lines.
    for (line, _), value in zip(block, values, strict=True):
        try:
            value_type = pa.array([value]).type
            _check_truth(known, [value])
            known = _wider(known, value_type)
        except (pa.ArrowInvalid, OverflowError) as error:
            faults.add(line, f"column {name!r}", f": {error}, got {value!r}"[:300])
        except pa.ArrowTypeError:
            faults.add(
                line, f"column {name!r} must be {known} as in line {first}", f", got {value_type} {value!r}"[:300]
            )
    if faults.num == num_before:
        faults.add(block[0][0], f"column {name!r}, this line or one of the {len(block)} from here", f": {reason}")
    types[name] = (known, first)


def schema_of(types: dict[str, tuple[pa.DataType, int]], faults: FileFaults) -> pa.Schema:
    """Returns the schema of a table, with labels as strings; adds columns of a wrong type to `faults`."""
    import pyarrow as pa

    for name, (type_, line) in types.items():
        allowed = {"string"} if name in TEXTS else {"string", "int64"}
        if name in (*TEXTS, "label") and str(type_) not in {*allowed, "null"}:
            wanted = " or ".join(sorted(allowed, reverse=True))
            faults.add(line, f"column {name!r} must hold {wanted}", f", got {type_}")
    return pa.schema([(name, pa.string() if name == "label" else type_) for name, (type_, _) in types.items()])


def _check_truth(known: pa.DataType, values: Sequence[Any]) -> None:
    """Refuses truth values among other values: Arrow would read them as 0 and 1 among numbers.

    Raises:
        ArrowTypeError: see above.
    """
    import pyarrow as pa

    are_truth = {isinstance(value, bool) for value in values if value is not None}
    if not pa.types.is_null(known):
        are_truth.add(pa.types.is_boolean(known))
    if len(are_truth) > 1:
        raise pa.ArrowTypeError("true and false among other values")


def _wider(a: pa.DataType, b: pa.DataType) -> pa.DataType:
    """Returns the type that holds values of both types, such as double for int64 and double."""
    import pyarrow as pa

    return pa.unify_schemas([pa.schema([("", a)]), pa.schema([("", b)])], promote_options="permissive").field(0).type
