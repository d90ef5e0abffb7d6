"""What a row means to a model: the contract that every file of `objectives/` fulfils.

Axes: R rows, I inputs (sequences that go through the model: R, or more where a row is cut into windows), T tokens,
C classes, S sites (places where the model chooses among classes).
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from cl_mlm.check.token_lengths import Lengths, input_lengths
from cl_mlm.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# The form of model that an objective needs: one choice a sequence, one a token, start and end of a span, or the next,
# the masked, or the answer's tokens.
Head = Literal["sequence", "token", "span", "causal", "masked", "seq2seq"]
ProblemType = Literal["single_label_classification", "multi_label_classification", "regression"]
Rows = Mapping[str, Sequence[Any]]
Encoded = dict[str, list[list[int]] | list[int] | list[float]]


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
    extra: Mapping[str, torch.Tensor] = field(default_factory=dict)
    input_row: torch.Tensor | None = None
    task: str = ""

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.targets.device

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

        return [self._part(slice(start, min(start + size, len(self)))) for start in range(0, len(self), size)]

    def _part(self, rows: slice) -> Batch:
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
        logits: (I, C), or (I, T, C).
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
    """

    values: list[Any]
    probability: torch.Tensor | None = None
    reference_probability: torch.Tensor | None = None


class Predictor(Protocol):
    """What an objective needs of a run to predict."""

    @property
    def model(self) -> torch.nn.Module: ...
    @property
    def tokenizer(self) -> PreTrainedTokenizerBase: ...
    @property
    def classes(self) -> Sequence[str]:
        """The classes that the model knows, in the order of its outputs."""
        ...

    def forward(self, batch: Batch) -> Outputs:
        """Runs the model in its present mode and in the run's precision."""
        ...

    def raw(self, batch: Batch, column: str) -> list[Any]:
        """Returns what a column of the stream holds for every row of the batch, (R,), never encoded."""
        ...

    def autocast(self) -> AbstractContextManager[None]:
        """Returns a context in which the model itself runs in the run's precision; generation needs it."""
        ...


class Objective(ABC):
    """Encoding, loss and score of one kind of task; its file's name is its name in a config.

    Constructor arguments (a stage's `options`) are kept under their own names, as strategies keep theirs.

    Attributes:
        heads: forms of model that it can use; the first that the model's family has is taken.
        columns: columns that every row must fill.
        reference_columns: columns that `references` reads.
        text_columns: columns, where there are such, whose text a kept row keeps alive.
        problem_type: what transformers calls the task of a sequence classifier.
        sites_per_row: how often the model chooses in a row; `none`: its answer is a number.
        is_binary: the model says yes or no to every class, any number of which a row may have (`Sites.about`).
        varies: a row is another one in every epoch (`varied`).
        min_labels: labels that the first stage must bring at least; 0: rows have no labels.
        packs: what is trained on and scored are blocks of tokens of several rows (`encode_split`).
    """

    heads: ClassVar[tuple[Head, ...]] = ("sequence",)
    columns: ClassVar[tuple[str, ...]] = ("text", "label")
    reference_columns: ClassVar[tuple[str, ...]] = ("label",)
    text_columns: ClassVar[tuple[str, ...]] = ("text", "text_pair")
    problem_type: ClassVar[ProblemType] = "single_label_classification"
    sites_per_row: ClassVar[Literal["none", "one", "many"]] = "one"
    is_binary: ClassVar[bool] = False
    varies: ClassVar[bool] = False
    min_labels: ClassVar[int] = 0
    packs: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """The name in a config: that of the module."""
        return type(self).__module__.rpartition(".")[2]

    @property
    def unlearned(self) -> tuple[str, ...]:
        """Labels that validation and test rows may have, though no stage brings them and no training row has them."""
        return ()

    def options(self) -> dict[str, Any]:
        """Returns the constructor's arguments, read back from the attributes of the same names."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def faults(self, max_length: int) -> list[str]:
        """Returns faults of the options, `option: rule, got value`; empty is good."""
        return []

    def bind(self, model: PreTrainedModel, head: Head) -> None:  # noqa: B027 - most need nothing of it
        """Called once the model is there, before anything is encoded."""

    def classes(self, labels: Sequence[str]) -> list[str]:
        """Returns the classes that the model chooses among once it knows `labels`; more labels only append."""
        return list(labels)

    def num_outputs(self, labels: Sequence[str]) -> int:
        """Returns the outputs of the model's head once it knows `labels`."""
        return len(self.classes(labels))

    def labels_of(self, rows: Rows) -> list[Sequence[str]]:
        """Returns the labels that every row carries."""
        return [[label] for label in rows["label"]] if self.min_labels else [[]] * len(next(iter(rows.values()), []))

    @abstractmethod
    def validate(self, rows: Rows, where: str) -> list[str]:
        """Returns the faults of raw rows (columns of equal length), each beginning with `where`; empty is good."""

    def mended(self, rows: Rows) -> int:
        """Returns how many sound rows are read otherwise than they are written; the stream's notes tell it."""
        return 0

    @property
    def can_be_written(self) -> bool:
        """Whether its rows have a form as texts."""
        return type(self).written is not Objective.written

    def written(self, rows: Rows) -> tuple[list[str], list[str]]:
        """Returns sound rows as texts to read and texts to write, for models that write (`stream.as_text`).

        Raises:
            ConfigError: there is no such form.
        """
        raise ConfigError(f"stream.as_text: must be false for objective {self.name}, got true")

    @abstractmethod
    def key(self, rows: Rows) -> list[str]:
        """Returns the input of every row as one string, without its label: two rows with one key ask the same thing."""

    @abstractmethod
    def encode(
        self, rows: Rows, tokenizer: PreTrainedTokenizerBase, labels: Mapping[str, int], max_length: int
    ) -> Encoded:
        """Returns model inputs for raw rows: columns of token lists, of single ints, or of single floats.

        Args:
            rows: columns of equal length.
            tokenizer: the model's.
            labels: every label of the stream to its place in the order in which they arrive.
            max_length: tokens of a sequence at most.
        """

    def lengths(
        self, rows: Rows, tokenizer: PreTrainedTokenizerBase, labels: Mapping[str, int], max_length: int
    ) -> dict[str, Lengths]:
        """Returns the tokens of raw rows before and after cutting, by part of a row; arguments as for `encode`."""
        return {"text": input_lengths(self, rows, tokenizer, labels, max_length)}

    def encode_split(
        self,
        chunks: Iterable[Rows],
        tokenizer: PreTrainedTokenizerBase,
        labels: Mapping[str, int],
        max_length: int,
    ) -> Iterator[Encoded]:
        """Yields what is trained on of a split whose rows come in chunks: row by row `encode`, unless it `packs`."""
        for rows in chunks:
            yield self.encode(rows, tokenizer, labels, max_length)

    @abstractmethod
    def collate(
        self, encoded: Mapping[str, Sequence[Any]], ids: torch.Tensor, tokenizer: PreTrainedTokenizerBase
    ) -> Batch:
        """Pads encoded rows on the right into a batch on the CPU."""

    def varied(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Returns a training batch as this step is to see it; an objective that masks tokens draws them here."""
        return batch

    @abstractmethod
    def loss(self, outputs: Outputs, batch: Batch) -> torch.Tensor:
        """Returns the summed loss of every row in nats, (R,); `batch.count` items each."""

    def target_classes(self, batch: Batch, num_classes: int) -> torch.Tensor:
        """Returns the classes that the rows' targets name, bool (R, C)."""
        import torch

        named = torch.zeros(len(batch), num_classes, dtype=torch.bool, device=batch.device)
        return named.scatter(1, batch.targets[:, None], True)

    @abstractmethod
    def sites(self, outputs: Outputs, batch: Batch) -> Sites:
        """Returns every place where the model chooses.

        Raises:
            ConfigError: it chooses nowhere (regression).
        """

    @abstractmethod
    def predict(self, run: Predictor, batch: Batch) -> Predictions:
        """Returns what the model in its present mode says of every row."""

    def references(self, rows: Rows) -> list[Any]:
        """Returns what `predict` should have said of raw rows."""
        return list(rows[self.reference_columns[0]])

    @abstractmethod
    def score(self, predictions: Sequence[Any], references: Sequence[Any], labels: Sequence[str]) -> dict[str, float]:
        """Returns metrics over a whole column; `score` is in 0-1 and fills the accuracy matrix.

        Args:
            predictions: of every row.
            references: of every row.
            labels: the column's own.
        """

    def within(self, values: Sequence[Any], labels: Sequence[str]) -> list[Any]:
        """Returns what of a column's predictions or references counts there, where its own labels are `labels`."""
        return list(values)

    def chance(self, references: Sequence[Any]) -> float | None:
        """Returns the share of right answers that needs no reading; None where that says nothing."""
        if not self.min_labels or not isinstance(references[0], str):
            return None
        counts = Counter(references)
        return max(counts.values()) / len(references) if len(counts) > 1 else None

    def per_label(
        self, predictions: Sequence[Any], references: Sequence[Any], labels: Sequence[str]
    ) -> list[dict[str, Any]]:
        """Returns a line for each label, `label` first; none where there is nothing to tell."""
        return []
