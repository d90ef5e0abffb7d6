"""Rows of texts and pairs of texts: their faults, keys, encoding and padding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cl_mlm.batch import Batch
from cl_mlm.objective import Encoded, Rows

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase


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


def encode_texts(rows: Rows, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Encoded:
    """Returns the tokenizer's columns for `text`, or for `text` and `text_pair`."""
    pair = list(rows["text_pair"]) if "text_pair" in rows else None
    encoded = tokenizer(
        list(rows["text"]), pair, truncation=True, max_length=max_length, return_attention_mask=False, verbose=False
    )
    columns: Encoded = dict(encoded.items())
    if pair is None:
        columns.pop("token_type_ids", None)
    return columns


def collate_texts(
    encoded: Mapping[str, Sequence[Any]], targets: torch.Tensor, ids: torch.Tensor, tokenizer: PreTrainedTokenizerBase
) -> Batch:
    """Returns texts padded to the longest, one loss item a row."""
    import torch

    assert isinstance(tokenizer.pad_token_id, int)
    inputs, mask = padded(encoded, {"input_ids": tokenizer.pad_token_id, "token_type_ids": 0})
    count = torch.ones(len(ids))
    return Batch({**inputs, "attention_mask": mask}, targets, ids, count=count, num_tokens=int(mask.sum()))
