"""What objectives share: faults and keys of texts, padding, logits of the classes that a row may be given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cl_mlm.objective import Rows

if TYPE_CHECKING:
    import torch


def masked_logits(logits: torch.Tensor, allowed: torch.Tensor | None) -> torch.Tensor:
    """Returns logits in fp32, (R, C) or (R, T, C), minus infinity where a row, (R, C), may not have the class."""
    logits = logits.float()
    if allowed is None:
        return logits
    return logits.masked_fill(~(allowed if logits.dim() == 2 else allowed[:, None]), float("-inf"))


def padded(
    encoded: Mapping[str, Sequence[Any]], fills: Mapping[str, int]
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Returns the token columns named in `fills`, padded on the right with their fill, and the mask of tokens.

    Returns:
        Tensors by name and the mask, int64 (I, T) each; columns that `encoded` lacks are left out.
    """
    import numpy as np
    import torch

    lengths = np.fromiter(map(len, encoded["input_ids"]), dtype=np.int64)
    tensors = {}
    for name, fill in fills.items():
        if name in encoded:
            table = np.full((len(lengths), lengths.max()), fill, dtype=np.int64)
            for row, tokens in zip(table, encoded[name], strict=True):
                row[: len(tokens)] = tokens
            tensors[name] = torch.from_numpy(table)
    return tensors, torch.from_numpy((np.arange(lengths.max())[None] < lengths[:, None]).astype(np.int64))


def text_keys(rows: Rows) -> list[str]:
    """Returns every row's text, or both texts of a pair with a separator that no text contains."""
    if "text_pair" not in rows:
        return list(rows["text"])
    return [f"{text}\x1f{pair}" for text, pair in zip(rows["text"], rows["text_pair"], strict=True)]


def text_faults(rows: Rows, columns: Sequence[str], where: str, *, may_be_empty: Sequence[str] = ()) -> list[str]:
    """Returns one line for each kind of fault: a missing column, a value that is empty or no string."""
    missing = [column for column in columns if column not in rows]
    if missing:
        return [f"{where}: needs the columns {' and '.join(columns)}, has no {' and no '.join(missing)}"]
    problems = []
    for column in columns:
        bad = [
            i
            for i, value in enumerate(rows[column])
            if not isinstance(value, str) or (not value.strip() and column not in may_be_empty)
        ]
        if bad:
            found = rows[column][bad[0]]
            kind = "a string" if column in may_be_empty else "a non-empty string"
            problems.append(f"{where}: {column} must be {kind}, got {found!r} in row {bad[0]} ({len(bad)} such rows)")
    return problems
