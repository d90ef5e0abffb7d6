"""What a row means to a model: the contract that every file of `cl_mlm/objectives/` fulfils.

Axes: R rows, I inputs (sequences that go through the model: R, or more where a row is cut into windows), T tokens,
C classes, S sites (places where the model chooses among classes).
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from cl_mlm.batch import Attainable, Batch, Lengths, Obstacle, Outputs, Predictions, Sites
from cl_mlm.errors import ConfigError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    import numpy as np
    import numpy.typing as npt
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    Numbers = npt.NDArray[np.int64]

# What those who write an objective import, the classes of `cl_mlm.batch` among it.
__all__ = [
    "Attainable",
    "Batch",
    "Encoded",
    "Head",
    "Lengths",
    "Objective",
    "Obstacle",
    "Outputs",
    "Predictions",
    "Predictor",
    "ProblemType",
    "RawRows",
    "Sites",
    "input_lengths",
]

# The form of model that an objective needs: one choice a sequence, one a token, start and end of a span, or the next,
# the masked, or the answer's tokens.
Head = Literal["sequence", "token", "span", "causal", "masked", "seq2seq"]
ProblemType = Literal["single_label_classification", "multi_label_classification", "regression"]
RawRows = Mapping[str, Sequence[Any]]
Encoded = dict[str, list[list[int]] | list[int] | list[float]]
UNCUT = 1_000_000_000  # tokens; no row has as many


def input_lengths(
    objective: Objective,
    rows: RawRows,
    tokenizer: PreTrainedTokenizerBase,
    labels: Mapping[str, int],
    max_length: int,
) -> Lengths:
    """Returns the lengths of `input_ids` as the objective itself encodes rows, with and without cutting."""
    whole = [len(ids) for ids in _input_ids(objective.encode(rows, tokenizer, labels, UNCUT))]
    long = [i for i, length in enumerate(whole) if length > max_length]
    cut = [0] * len(whole)
    if long:
        picked = {name: [values[i] for i in long] for name, values in rows.items()}
        seen = _input_ids(objective.encode(picked, tokenizer, labels, max_length))
        for i, ids in zip(long, seen, strict=True):
            cut[i] = whole[i] - len(ids)
    return Lengths.of(max_length, whole, cut)


def _input_ids(encoded: Mapping[str, Any]) -> list[list[int]]:
    ids: list[list[int]] = encoded["input_ids"]
    return ids


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
        answers_inputs: a prediction follows from a row's `input_ids` alone, so that equal ones are asked once.
        packable: loss and sites read logits by `token_sites` alone, so that its rows may run packed (`training.pack`).
        packs: what is trained on and scored are blocks of tokens of several rows (`encode_split`).
        choice_metric: metric that is `score` where each answer can be chosen, however a row is cut; None: `attainable`.
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
    answers_inputs: ClassVar[bool] = False
    packable: ClassVar[bool] = False
    packs: ClassVar[bool] = False
    choice_metric: ClassVar[str | None] = None

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

    def labels_of(self, rows: RawRows) -> list[Sequence[str]]:
        """Returns the labels that every row carries."""
        return [[label] for label in rows["label"]] if self.min_labels else [[]] * len(next(iter(rows.values()), []))

    def renamed(self, rows: RawRows, names: Mapping[str, str]) -> dict[str, list[Any]]:
        """Returns the columns that hold labels, with `names[label]` for each label in `names`; rows may have faults."""
        return {"label": [names.get(label, label) for label in rows["label"]]} if "label" in rows else {}

    @property
    def chats(self) -> bool:
        """Whether rows go through the chat template of the model's tokenizer."""
        return False

    @property
    def contradicts(self) -> bool:
        """Whether rows with one key must have one reference: where they have several, training contradicts itself."""
        return self.min_labels > 0

    @abstractmethod
    def validate(self, rows: RawRows, where: str) -> list[str]:
        """Returns the faults of raw rows (columns of equal length), each beginning with `where`; empty is good."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """Columns of a row that has no answer yet."""
        named = dict.fromkeys((*self.columns, *self.text_columns))
        return tuple(name for name in named if name not in self.reference_columns)

    def scored(self, rows: RawRows) -> RawRows:
        """Returns rows as they are scored; a row that holds several answers becomes one for each of them."""
        return rows

    def mended(self, rows: RawRows) -> int:
        """Returns how many sound rows are read otherwise than they are written; the stream's notes tell it."""
        return 0

    @property
    def can_be_written(self) -> bool:
        """Whether its rows have a form as texts."""
        return type(self).written is not Objective.written

    def written(self, rows: RawRows) -> tuple[list[str], list[str]]:
        """Returns sound rows as texts to read and texts to write, for models that write (`stream.as_text`).

        Raises:
            ConfigError: there is no such form.
        """
        raise ConfigError(f"stream.as_text: must be false for objective {self.name}, got true")

    @abstractmethod
    def key(self, rows: RawRows) -> list[str]:
        """Returns the input of every row as one string, without its label: two rows with one key ask the same thing."""

    @abstractmethod
    def encode(
        self, rows: RawRows, tokenizer: PreTrainedTokenizerBase, labels: Mapping[str, int], max_length: int
    ) -> Encoded:
        """Returns model inputs for raw rows: columns of token lists, of single ints, or of single floats.

        Args:
            rows: columns of equal length.
            tokenizer: the model's.
            labels: every label of the stream to its place in the order in which they arrive.
            max_length: tokens of a sequence at most.
        """

    def lengths(
        self, rows: RawRows, tokenizer: PreTrainedTokenizerBase, labels: Mapping[str, int], max_length: int
    ) -> dict[str, Lengths]:
        """Returns the tokens of raw rows before and after cutting, by part of a row; arguments as for `encode`."""
        return {"text": input_lengths(self, rows, tokenizer, labels, max_length)}

    def tokenizer_faults(self, tokenizer: PreTrainedTokenizerBase, head: Head) -> list[str]:
        """Returns what the objective misses in a tokenizer, `key: rule, got value`; empty is good.

        Args:
            tokenizer: the model's.
            head: of the model.
        """
        return []

    def extra_length(self, tokenizer: PreTrainedTokenizerBase, head: Head) -> int:
        """Returns the tokens at most that a model with this head reads of a row beside those up to `max_length`."""
        return 0

    def written_length(self, tokenizer: PreTrainedTokenizerBase) -> int:
        """Returns the tokens at most that the model writes for a row; 0: it writes none."""
        return 0

    def input_length(
        self,
        lengths: Mapping[str, Numbers],
        tokenizer: PreTrainedTokenizerBase,
        head: Head,
        written: int | None = None,
    ) -> Numbers:
        """Returns the tokens that a model with this head reads of encoded rows in one sequence, (R,).

        Args:
            lengths: of every row by column of tokens, (R,) each.
            tokenizer: the model's.
            head: of the model; an encoder-decoder's decoder does not count.
            written: the model writes so many tokens in place of the rows' own targets; None: it reads the targets.
        """
        return lengths["input_ids"]

    def encode_split(
        self,
        chunks: Iterable[RawRows],
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

    def references(self, rows: RawRows) -> list[Any]:
        """Returns what `predict` should have said of raw rows."""
        return list(rows[self.reference_columns[0]])

    def unanswered(self, rows: RawRows, labels: Sequence[str]) -> dict[str, Sequence[Any]]:
        """Returns new rows with something in the columns of the answer: they can be encoded; no prediction reads it.

        Args:
            rows: columns of equal length, without those of the answer.
            labels: that the model knows.

        Raises:
            ConfigError: nothing can be predicted for a new row.
        """
        if not rows or self.reference_columns != ("label",) or not labels:
            raise ConfigError(f"objective {self.name}: gives no answer for a new row, so that nothing can be predicted")
        return {**rows, "label": [labels[0]] * len(next(iter(rows.values()), []))}

    def attainable(
        self,
        rows: RawRows,
        tokenizer: PreTrainedTokenizerBase,
        labels: Mapping[str, int],
        max_length: int,
        own_labels: Sequence[str],
    ) -> Attainable | None:
        """Returns what a perfect model would predict of raw rows; None: not known, or there is no such model.

        Args:
            rows: columns of equal length.
            tokenizer: the model's.
            labels: every label of the stream to its place, as for `encode`.
            max_length: tokens of a sequence at most.
            own_labels: those of the rows' column.
        """
        metric = self.choice_metric
        return None if metric is None else Attainable.whole(self.references(rows), metric, is_general=True)

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
