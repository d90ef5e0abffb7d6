"""What a row means to a model: the contract that every file of `objectives/` fulfils.

Axes: R rows, T tokens, C classes, S sites (places where the model chooses among classes).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

Encoded = dict[str, list[list[int]] | list[int]]


@dataclass(frozen=True)
class Batch:
    """Collated rows on one device.

    Attributes:
        inputs: arguments of the model, each (R, T).
        targets: what the loss compares with, (R,) or (R, T).
        ids: names of the rows, int64 (R,), on the CPU.
        count: number of loss items of every row, float (R,), on the CPU; known before the forward pass, so that
            accumulation weighs every item alike without waiting for the device.
        num_tokens: tokens of all rows, padding left out.
        allowed: classes that a row may be given, bool (R, C); None: all that the model has.
        row_weight: factor on every row's loss, (R,); None: 1.
        split: where the rows are from.
        origin: `stage` for the step's own rows, `memory` for rows that a strategy brings back.
    """

    inputs: dict[str, torch.Tensor]
    targets: torch.Tensor
    ids: torch.Tensor
    count: torch.Tensor
    num_tokens: int = 0
    allowed: torch.Tensor | None = None
    row_weight: torch.Tensor | None = None
    split: str = "train"
    origin: Literal["stage", "memory"] = "stage"

    def __len__(self) -> int:
        return len(self.ids)

    def with_origin(self, origin: Literal["stage", "memory"]) -> Batch:
        """Returns the same batch under another origin."""
        return replace(self, origin=origin)

    def with_allowed(self, allowed: torch.Tensor) -> Batch:
        """Returns the same batch with a mask of allowed classes, bool (R, C)."""
        return replace(self, allowed=allowed)

    def parts(self, number: int) -> list[Batch]:
        """Returns the batch cut into at most `number` batches of as equal a number of rows as can be.

        Padding stays that of the whole; `num_tokens` is the whole batch's share by rows, rounded.
        """
        size = -(-len(self) // number)
        if size >= len(self):
            return [self]

        def cut(tensor: torch.Tensor | None, rows: slice) -> Any:
            return None if tensor is None else tensor[rows]

        return [
            replace(
                self,
                inputs={name: tensor[rows] for name, tensor in self.inputs.items()},
                targets=self.targets[rows],
                ids=self.ids[rows],
                count=self.count[rows],
                num_tokens=round(self.num_tokens * len(self.ids[rows]) / len(self)),
                allowed=cut(self.allowed, rows),
                row_weight=cut(self.row_weight, rows),
            )
            for rows in (slice(start, start + size) for start in range(0, len(self), size))
        ]

    def to(self, device: torch.device) -> Batch:
        """Returns the batch with its tensors on `device`; `ids` and `count` stay on the CPU."""
        if device.type == "cpu":
            return self
        moved = {name: tensor.to(device, non_blocking=True) for name, tensor in self.inputs.items()}
        return replace(
            self,
            inputs=moved,
            targets=self.targets.to(device),
            allowed=None if self.allowed is None else self.allowed.to(device),
            row_weight=None if self.row_weight is None else self.row_weight.to(device),
        )


@dataclass(frozen=True)
class Outputs:
    """What a forward pass gives.

    Attributes:
        logits: (R, C), or (R, T, C).
        lazy_features: gives the input of the last linear layer, (R, H); computed only when asked for.
    """

    logits: torch.Tensor
    lazy_features: Callable[[], torch.Tensor]

    @property
    def features(self) -> torch.Tensor:
        """The input of the last linear layer, (R, H)."""
        return self.lazy_features()


@dataclass(frozen=True)
class Sites:
    """Places where the model chooses among classes; distillation, Fisher labels and calibration read only these.

    Attributes:
        logits: (S, C); a class that a row may not be given is minus infinity.
        row: position in the batch of every site, int64 (S,).
        target: the right class, int64 (S,).
    """

    logits: torch.Tensor
    row: torch.Tensor
    target: torch.Tensor


@dataclass(frozen=True)
class Predictions:
    """One evaluated batch: label index chosen, its probability, and the probability of the reference; each (R,)."""

    choice: torch.Tensor
    probability: torch.Tensor
    reference_probability: torch.Tensor


class Objective(Protocol):
    """Encoding, loss and score of one kind of task."""

    name: str

    def validate(self, rows: Mapping[str, Sequence[Any]], where: str) -> list[str]:
        """Returns the faults of raw rows (columns of equal length), each beginning with `where`; empty is good."""
        ...

    def key(self, rows: Mapping[str, Sequence[Any]]) -> list[str]:
        """Returns the input of every row as one string, without its label: two rows with one key ask the same thing."""
        ...

    def encode(
        self,
        rows: Mapping[str, Sequence[Any]],
        tokenizer: PreTrainedTokenizerBase,
        labels: Mapping[str, int],
        max_length: int,
    ) -> Encoded:
        """Returns model inputs for raw rows: columns of token lists or of single ints (`target`)."""
        ...

    def collate(
        self, encoded: Mapping[str, Sequence[Any]], ids: torch.Tensor, tokenizer: PreTrainedTokenizerBase
    ) -> Batch:
        """Pads encoded rows on the right into a batch on the CPU."""
        ...

    def loss(self, outputs: Outputs, batch: Batch) -> torch.Tensor:
        """Returns the summed loss of every row in nats, (R,); `batch.count` items each."""
        ...

    def sites(self, outputs: Outputs, batch: Batch) -> Sites:
        """Returns every place where the model chooses."""
        ...

    def predict(self, outputs: Outputs, batch: Batch) -> Predictions:
        """Returns the choice for every row."""
        ...

    def score(self, predictions: Sequence[int], references: Sequence[int], labels: Sequence[str]) -> dict[str, float]:
        """Returns metrics over a whole column; `score` is in 0-1 and fills the accuracy matrix."""
        ...
