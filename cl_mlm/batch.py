"""What goes through a model and what comes out: Batch, Outputs, Sites, Predictions, and what is Attainable.

Axes: R rows, I inputs (sequences that go through the model: R, or more where a row is cut into windows), T tokens,
C classes, S sites (places where the model chooses among classes).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy as np
    import numpy.typing as npt
    import torch

    Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Batch:
    """Collated rows on one device.

    Attributes:
        inputs: arguments of the model, each (I, T).
        targets: what the loss compares with, first axis I.
        ids: names of the rows, int64 (R,), on the CPU.
        count: number of loss items of every row, float (R,), on the CPU; known before the forward pass, so that
            accumulation weighs every item alike without waiting for the device.
        num_tokens: tokens of all rows, padding left out.
        allowed: classes that a row may be given, bool (R, C); None: all that the model has.
        row_weight: factor on every row's loss, (R,); None: 1.
        split: where the rows are from.
        origin: `stage` for the step's own rows, `memory` for rows that a strategy brings back.
        owner: the name of that strategy; empty: the rows are the step's own.
        extra: further tensors of the objective's own, first axis I.
        input_row: position in the batch of every input's row, int64 (I,), ascending; None: every row is one input.
        task: key of the rows' task, whose objective and head they are for; a batch holds rows of one.
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
    owner: str = ""
    extra: Mapping[str, torch.Tensor] = field(default_factory=dict)
    input_row: torch.Tensor | None = None
    task: str = ""

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.targets.device

    def __len__(self) -> int:
        return len(self.ids)

    def as_memory(self, owner: str) -> Batch:
        """Returns the same batch as rows that the strategy called `owner` brings back."""
        return replace(self, origin="memory", owner=owner)

    def with_allowed(self, allowed: torch.Tensor) -> Batch:
        """Returns the same batch with a mask of allowed classes, bool (R, C)."""
        return replace(self, allowed=allowed)

    def pieces(self, number: int) -> list[Batch]:
        """Returns the batch cut into at most `number` batches of as equal a number of rows as can be.

        Padding stays that of the whole; `num_tokens` is the whole batch's share by rows, rounded.
        """
        size = -(-len(self) // number)
        if size >= len(self):
            return [self]

        return [self._piece(slice(start, min(start + size, len(self)))) for start in range(0, len(self), size)]

    def _piece(self, rows: slice) -> Batch:
        inputs: Any = rows
        if self.input_row is not None:
            inputs = (self.input_row >= rows.start) & (self.input_row < rows.stop)

        def cut(tensor: torch.Tensor | None) -> Any:
            return None if tensor is None else tensor[rows]

        return replace(
            self,
            inputs={name: tensor[inputs] for name, tensor in self.inputs.items()},
            targets=self.targets[inputs],
            ids=self.ids[rows],
            count=self.count[rows],
            num_tokens=round(self.num_tokens * len(self.ids[rows]) / len(self)),
            allowed=cut(self.allowed),
            row_weight=cut(self.row_weight),
            extra={name: tensor[inputs] for name, tensor in self.extra.items()},
            input_row=None if self.input_row is None else self.input_row[inputs] - rows.start,
        )

    def to(self, device: torch.device) -> Batch:
        """Returns the batch with its tensors on `device`; `ids` and `count` stay on the CPU."""
        if device.type == "cpu":
            return self

        def move(tensor: torch.Tensor | None) -> Any:
            return None if tensor is None else tensor.to(device, non_blocking=True)

        return replace(
            self,
            inputs={name: move(tensor) for name, tensor in self.inputs.items()},
            targets=move(self.targets),
            allowed=move(self.allowed),
            row_weight=move(self.row_weight),
            extra={name: move(tensor) for name, tensor in self.extra.items()},
            input_row=move(self.input_row),
        )


@dataclass(frozen=True)
class Outputs:
    """What a forward pass gives.

    Attributes:
        logits: (I, C), or (I, T, C); where rows ran packed (`training.pack`) only those of the tokens that
            `Batch.targets` predicts, row by row, (S, C). `Sites` are alike in both.
        lazy_features: gives the input of the last linear layer, (I, H) or (I, T, H); computed only when asked for.
        lazy_logits: gives the logits of another task's head, by its key, on the same pass of a shared body; None: there
            is no other head.
    """

    logits: torch.Tensor
    lazy_features: Callable[[], torch.Tensor]
    lazy_logits: Callable[[str], torch.Tensor] | None = None

    @property
    def features(self) -> torch.Tensor:
        """The input of the last linear layer, (I, H) or (I, T, H)."""
        return self.lazy_features()


@dataclass(frozen=True)
class Sites:
    """Places where the model chooses among classes; distillation, Fisher labels and calibration read only these.

    Attributes:
        logits: (S, C); a class that a row may not be given is minus infinity.
        row: position in the batch of every site's row, int64 (S,).
        target: the right class, int64 (S,).
        about: where every site asks yes or no of one class of the model's, that class, int64 (S,); else None, and the
            classes of a site are the model's.
    """

    logits: torch.Tensor
    row: torch.Tensor
    target: torch.Tensor
    about: torch.Tensor | None = None


@dataclass(frozen=True)
class Predictions:
    """One evaluated batch.

    Attributes:
        values: what is predicted for every row, (R,): a label, a list of tags, a text, a number.
        probability: of the prediction, (R,); None where it is no choice among classes.
        reference_probability: of the reference, (R,); None likewise.
        free: what the model says of every row where nothing confines it, (R,); None: `values` are that.
    """

    values: list[Any]
    probability: torch.Tensor | None = None
    reference_probability: torch.Tensor | None = None
    free: list[Any] | None = None


class Obstacle(NamedTuple):
    """What keeps a perfect model from a row's reference.

    Attributes:
        reason: in words that hold of many rows, such as `a word has no token`.
        example: what it is in this row; empty: nothing more to tell.
    """

    reason: str
    example: str = ""


@dataclass(frozen=True)
class Attainable:
    """What a perfect model would say of rows, given what encoding and decoding leave of them.

    Attributes:
        values: the prediction of every row that comes nearest to its reference, (R,).
        obstacles: of every row, why that is not right, (R,); None where it is.
        metric: the name of the metric that is `score`.
        is_general: every answer can be right in any rows of the column, also in those that are not given.
    """

    values: list[Any]
    obstacles: list[Obstacle | None]
    metric: str
    is_general: bool = False

    @classmethod
    def whole(cls, references: Sequence[Any], metric: str, *, is_general: bool = False) -> Attainable:
        """Returns rows of which every reference can be predicted."""
        return cls(list(references), [None] * len(references), metric, is_general)


@dataclass(frozen=True)
class Lengths:
    """Tokens of one part of every row, special ones included.

    Attributes:
        limit: tokens at most that a model reads of it at once.
        whole: of every row, nothing cut, (R,).
        cut: of every row, that no model will read, (R,).
        windows: inputs that every row becomes, (R,).
    """

    limit: int
    whole: Numbers
    cut: Numbers
    windows: Numbers

    @classmethod
    def of(
        cls, limit: int, whole: Sequence[int], cut: Sequence[int] | None = None, windows: Sequence[int] | None = None
    ) -> Lengths:
        """Returns the lengths; `cut` None: what is beyond the limit; `windows` None: one a row."""
        import numpy as np

        own = np.asarray(whole, dtype=np.int64)
        beyond = np.maximum(own - limit, 0) if cut is None else np.asarray(cut, dtype=np.int64)
        return cls(limit, own, beyond, np.ones_like(own) if windows is None else np.asarray(windows, dtype=np.int64))


def mean_loss(row_losses: torch.Tensor, batch: Batch, items: float | None = None) -> torch.Tensor:
    """Returns the weighted sum of row losses over the number of loss items (of the batch, or `items`); 0 of none."""
    weighted = row_losses if batch.row_weight is None else row_losses * batch.row_weight
    return weighted.sum() / ((float(batch.count.sum()) if items is None else items) or 1.0)


def row_features(features: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Returns one vector for every row, (R, H): the mean over its tokens, and over the inputs that it was cut into.

    Args:
        features: (I, H), or (I, T, H); T counts the tokens of the input, or of the target that a decoder reads.
        batch: whose rows.
    """
    if features.dim() == 3:
        mask = batch.inputs["attention_mask"]
        mask = (mask if mask.shape == features.shape[:2] else batch.targets >= 0).to(features)
        features = (features * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
    if batch.input_row is None:
        return features
    total = features.new_zeros(len(batch), features.shape[-1]).index_add_(0, batch.input_row, features)
    return total / batch.input_row.bincount(minlength=len(batch)).to(features)[:, None]
