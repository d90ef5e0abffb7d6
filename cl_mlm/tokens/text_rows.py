"""Rows of texts and of pairs of texts: their faults, keys, encoding and padding."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cl_mlm.batch import Batch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt
    import torch
    from transformers import PreTrainedTokenizerBase

    from cl_mlm.objective import Encoded, RawRows


def padded(
    encoded: Mapping[str, Sequence[Any]], fills: Mapping[str, int]
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Returns token columns padded on the right to the longest input, and the mask of tokens.

    Args:
        encoded: columns of I inputs; `input_ids` gives the lengths.
        fills: names of the columns to pad, each with the value to pad with; columns that `encoded` lacks are left out.

    Returns:
        Tensors by name, and the mask (1 for a token, 0 for padding); int64 (I, T) each.
    """
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


def padding(tokenizer: PreTrainedTokenizerBase) -> int:
    """Returns the token that fills up a batch; 0 where the tokenizer has none, as the mask hides it anyway."""
    token = tokenizer.pad_token_id
    return token if isinstance(token, int) else 0


def text_columns(rows: RawRows) -> list[str]:
    """Returns the columns that hold the texts of rows: `text`, and for pairs `text_pair`."""
    return ["text", "text_pair"] if "text_pair" in rows else ["text"]


def text_keys(rows: RawRows) -> list[str]:
    """Returns every row's text, or both texts of a pair around a separator that texts do not contain."""
    if "text_pair" not in rows:
        return list(rows["text"])
    return [f"{text}\x1f{pair}" for text, pair in zip(rows["text"], rows["text_pair"], strict=True)]


def text_faults(rows: RawRows, columns: Sequence[str], where: str, *, may_be_empty: Sequence[str] = ()) -> list[str]:
    """Returns one line for each kind of fault: a missing column, or values of a column that are empty or no strings."""
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
            value = rows[column][bad[0]]
            kind = "a string" if column in may_be_empty else "a non-empty string"
            problems.append(f"{where}: {column} must be {kind}, got {value!r} in row {bad[0]} ({len(bad)} such rows)")
    return problems


def encode_texts(rows: RawRows, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Encoded:
    """Returns the tokenizer's columns for `text`, or for `text` and `text_pair`."""
    pair = list(rows["text_pair"]) if "text_pair" in rows else None
    encoded = tokenizer(
        list(rows["text"]), pair, truncation=True, max_length=max_length, return_attention_mask=False, verbose=False
    )
    columns: Encoded = dict(encoded.items())
    if pair is None:
        columns.pop("token_type_ids", None)  # all zeros, as a model assumes where it is given none
    return columns


def number_targets(encoded: Mapping[str, Sequence[Any]], dtype: npt.DTypeLike) -> torch.Tensor:
    """Returns the column `target`, one number a row, as a tensor, (R,)."""
    import torch

    return torch.from_numpy(np.asarray(encoded["target"], dtype=dtype))


def collate_texts(
    encoded: Mapping[str, Sequence[Any]], targets: torch.Tensor, ids: torch.Tensor, tokenizer: PreTrainedTokenizerBase
) -> Batch:
    """Returns a batch of texts padded to the longest; every row is one loss item."""
    import torch

    inputs, mask = padded(encoded, {"input_ids": padding(tokenizer), "token_type_ids": 0})
    count = torch.ones(len(ids))
    return Batch({**inputs, "attention_mask": mask}, targets, ids, count=count, num_tokens=int(mask.sum()))
