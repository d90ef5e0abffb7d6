"""Text classification of single sentences and of pairs; the model's class head grows as labels arrive."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cl_mlm.objective import Batch, Encoded, Outputs, Predictions, Sites

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase


class Classification:
    """One label for each row: columns `text`, optionally `text_pair`, and `label`."""

    name = "classification"

    def validate(self, rows: Mapping[str, Sequence[Any]], where: str) -> list[str]:
        """Returns one line for each kind of fault: a missing column, a text that is empty or no string, no label."""
        missing = [column for column in ("text", "label") if column not in rows]
        if missing:
            return [f"{where}: needs the columns text and label, has no {' and no '.join(missing)}"]
        texts = [column for column in ("text", "text_pair") if column in rows]
        problems = []
        for column in [*texts, "label"]:
            bad = [i for i, value in enumerate(rows[column]) if not isinstance(value, str) or not value.strip()]
            if bad:
                found = rows[column][bad[0]]
                place = f"in row {bad[0]} ({len(bad)} such rows)"
                problems.append(f"{where}: {column} must be a non-empty string, got {found!r} {place}")
        return problems

    def key(self, rows: Mapping[str, Sequence[Any]]) -> list[str]:
        """Returns the text, or both texts of a pair with a separator that no text contains."""
        if "text_pair" not in rows:
            return list(rows["text"])
        return [f"{text}\x1f{pair}" for text, pair in zip(rows["text"], rows["text_pair"], strict=True)]

    def encode(
        self,
        rows: Mapping[str, Sequence[Any]],
        tokenizer: PreTrainedTokenizerBase,
        labels: Mapping[str, int],
        max_length: int,
    ) -> Encoded:
        """Returns the tokenizer's columns and `target`, the class index."""
        pair = list(rows["text_pair"]) if "text_pair" in rows else None
        encoded = tokenizer(
            list(rows["text"]), pair, truncation=True, max_length=max_length, return_attention_mask=False, verbose=False
        )
        columns: Encoded = dict(encoded.items())
        if pair is None:
            columns.pop("token_type_ids", None)
        columns["target"] = [labels[label] for label in rows["label"]]
        return columns

    def collate(
        self, encoded: Mapping[str, Sequence[Any]], ids: torch.Tensor, tokenizer: PreTrainedTokenizerBase
    ) -> Batch:
        """Pads on the right to the longest row."""
        import numpy as np
        import torch

        lengths = np.fromiter(map(len, encoded["input_ids"]), dtype=np.int64)
        inputs = {
            "attention_mask": torch.from_numpy((np.arange(lengths.max())[None] < lengths[:, None]).astype(np.int64))
        }
        for name, fill in {"input_ids": tokenizer.pad_token_id, "token_type_ids": 0}.items():
            if name in encoded:
                padded = np.full((len(lengths), lengths.max()), fill, dtype=np.int64)
                for row, tokens in zip(padded, encoded[name], strict=True):
                    row[: len(tokens)] = tokens
                inputs[name] = torch.from_numpy(padded)
        targets = torch.from_numpy(np.asarray(encoded["target"], dtype=np.int64))
        return Batch(inputs, targets, ids, count=torch.ones(len(lengths)), num_tokens=int(lengths.sum()))

    def loss(self, outputs: Outputs, batch: Batch) -> torch.Tensor:
        """Returns the cross-entropy of every row among its allowed classes, in nats."""
        from torch.nn.functional import cross_entropy

        return cross_entropy(_masked(outputs, batch), batch.targets, reduction="none")

    def sites(self, outputs: Outputs, batch: Batch) -> Sites:
        """Returns one site a row."""
        import torch

        logits = _masked(outputs, batch)
        return Sites(logits, torch.arange(len(logits), device=logits.device), batch.targets)

    def predict(self, outputs: Outputs, batch: Batch) -> Predictions:
        """Returns the most probable allowed class of every row; a reference that the model lacks has probability 0."""
        probabilities = _masked(outputs, batch).softmax(-1)
        best = probabilities.max(-1)
        known = batch.targets < probabilities.shape[-1]
        of_target = probabilities.gather(-1, (batch.targets * known)[:, None])[:, 0] * known
        return Predictions(best.indices, best.values, of_target)

    def score(self, predictions: Sequence[int], references: Sequence[int], labels: Sequence[str]) -> dict[str, float]:
        """Returns `score` and `accuracy`: the fraction of rows whose label is predicted."""
        import numpy as np

        accuracy = float(np.mean(np.asarray(predictions) == np.asarray(references)))
        return {"score": accuracy, "accuracy": accuracy}


def _masked(outputs: Outputs, batch: Batch) -> torch.Tensor:
    """Returns logits in fp32, (R, C), minus infinity where a row may not have the class."""
    logits = outputs.logits.float()
    if batch.allowed is None:
        return logits
    return logits.masked_fill(~batch.allowed, float("-inf"))
