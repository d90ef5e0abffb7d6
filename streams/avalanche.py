"""Reads an Avalanche benchmark of texts as a stream, and gives a stream as an Avalanche benchmark (avalanche-lib 0.6).

A config names `avalanche`, Python code calls `from_avalanche`. `to_avalanche` goes the other way, so that Avalanche's
own strategies train on a stream:

    benchmark = to_avalanche(stream, tokenizer)
    strategy = Naive(model=Classifier(bert), optimizer=optimizer, criterion=CrossEntropyLoss(), train_mb_size=16)
    for experience in benchmark.train_stream:
        strategy.train(experience)
        strategy.eval(benchmark.test_stream)

Avalanche calls a model with the one object that a batch holds as input, so a Hugging Face classifier needs a wrapper:

    class Classifier(torch.nn.Module):
        def __init__(self, encoder):
            super().__init__()
            self.encoder = encoder

        def forward(self, inputs):
            return self.encoder(**inputs).logits

Three things let Avalanche train on unpadded text, without a subclass of a strategy:

- Every experience has `task_labels`, also where there is one task only (all 0). Without them the training loop takes a
  plain `DataLoader`, which ignores the data set's collate function; with them it takes `TaskBalancedDataLoader`, which
  uses it. With one task that loader is a shuffled `DataLoader`: every row comes once an epoch.
- The data set has the collate function, where evaluation, replay and EWC look for it, too.
- A batch is the list `[inputs, targets, task labels]`; `inputs` is a `BatchEncoding`, which moves itself to a device.

Naive, replay, EWC and LwF are tested. A plug-in that reads the input as one tensor cannot work: GEM stops at
`x.size(0)`, and the learning rate plug-in's `len(strategy.mb_x)` counts the columns of a batch, not its rows.

Class indices are those of `stream.labels` in every scenario. `task_incremental` gives stage i the task label i; only a
multi-head model of Avalanche uses it. The streams are `train_stream`, `valid_stream` and `test_stream`.

Avalanche is imported inside functions only: it loads torch, and a config that does not name it must not need it.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from cl_mlm.config import find, make_objective
from cl_mlm.errors import ConfigError, DataError
from cl_mlm.stream import Column, Scenario, Stage, Stream
from streams._from_avalanche import TEXT_COLUMNS, from_avalanche

if TYPE_CHECKING:
    from avalanche.benchmarks import CLScenario
    from avalanche.benchmarks.utils import AvalancheDataset
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    Row = Sequence[Any]  # [columns of token ids, class index, task label]

__all__ = ["avalanche", "from_avalanche", "text_collate", "to_avalanche"]

STREAM_NAMES = {"train": "train", "validation": "valid", "test": "test"}  # ours: Avalanche's


def avalanche(
    *,
    benchmark: str,
    arguments: dict[str, Any] | None = None,
    labels: list[str] | None = None,
    scenario: Scenario | None = None,
    validation_fraction: float = 0.1,
) -> Stream:
    """Returns the stream of a benchmark of texts that a function of yours builds; see `from_avalanche`.

    Args:
        benchmark: dotted path to the function, `my_module.make_benchmark`; its module is imported and the function
            called, so that a config must be trusted like a script.
        arguments: of the function.
        labels: names of the classes by index; null: the benchmark's `label_names`, else the index.
        scenario: null: found from task labels and classes.
        validation_fraction: fraction of the training rows (0-1) to carve where there is no validation stream.

    Raises:
        ConfigError: there is no such function, it does not take these arguments, or what it returns is no benchmark.
        DataError: rows are no texts, or streams do not fit each other.
    """
    if "." not in benchmark.strip("."):
        raise ConfigError(
            "stream.benchmark: must be a dotted path to a function, such as my_module.make_benchmark, "
            f"got {benchmark!r}"
        )
    try:
        make = find("stream", benchmark)
    except ConfigError as error:
        raise ConfigError([f"stream.benchmark: {line.partition(': ')[2]}" for line in error.problems]) from error
    except (Exception, SystemExit) as error:  # a module of the user's may raise anything; `exit` is no success either
        raise _failed(benchmark, error) from error
    given = arguments or {}
    try:
        inspect.signature(make).bind(**given)
    except TypeError as error:
        raise ConfigError(f"stream.arguments: {benchmark} does not take them: {error}, got {given}") from error
    try:
        built = make(**given)
    except (ConfigError, DataError):
        raise
    except (Exception, SystemExit) as error:
        raise _failed(benchmark, error) from error
    return from_avalanche(
        built,
        name=benchmark.rpartition(".")[2],
        labels=labels,
        scenario=scenario,
        validation_fraction=validation_fraction,
    )


def _failed(benchmark: str, error: BaseException) -> ConfigError:
    return ConfigError(f"stream.benchmark: {benchmark!r} failed: {type(error).__name__}: {error}")


def to_avalanche(stream: Stream, tokenizer: PreTrainedTokenizerBase | None, max_length: int = 128) -> CLScenario:
    """Returns an Avalanche benchmark with one experience a stage in its training stream, one a column in the others.

    Rows are read and tokenized when a loader asks for them, so that nothing is copied and splits stay memory-mapped.
    The benchmark has the stream's `label_names` and `stage_names`.

    Args:
        stream: classification stages that `cl_mlm.data.hygiene.clean` has accepted.
        tokenizer: turns text into token ids and pads them; None: rows stay texts (`{"text": ..., "text_pair": ...}`),
            so that `from_avalanche` can read the benchmark back, where the stream has one column a stage.
        max_length: rows are cut to this many tokens.

    Raises:
        DataError: a stage is no classification, or a row has a label that the stream lacks.
    """
    problems = [
        f"stage {stage.name!r}: Avalanche's supervised strategies take objective classification, got {stage.objective}"
        for stage in stream.stages
        if stage.objective != "classification"
    ]
    if problems:
        raise DataError(problems)
    with warnings.catch_warnings():
        # Avalanche imports GEM, which warns that it has no solver.
        warnings.filterwarnings("ignore", "no QP solver found", UserWarning)
        from avalanche.benchmarks import benchmark_from_datasets, with_classes_timeline, with_task_labels
    labels = {label: index for index, label in enumerate(stream.labels)}
    rows = partial(_EncodedRows, tokenizer=tokenizer, labels=labels, max_length=max_length)
    by_task = stream.masks
    stage_of = {"train": range(len(stream)), "validation": stream.home, "test": stream.home}
    collate = None if tokenizer is None else text_collate(tokenizer)
    experiences = {
        avalanche_name: [
            _experience(rows(owner, split), (stage or 0) if by_task else 0, collate)
            for owner, stage in zip(stream.owners(split), stage_of[split], strict=True)
        ]
        for split, avalanche_name in STREAM_NAMES.items()
    }
    # Avalanche annotates neither decorator.
    benchmark: Any = with_task_labels(with_classes_timeline(benchmark_from_datasets(**experiences)))
    benchmark.label_names = stream.labels
    benchmark.stage_names = tuple(stage.name for stage in stream.stages)
    return benchmark


def text_collate(tokenizer: PreTrainedTokenizerBase) -> Callable[[Sequence[Row]], list[Any]]:
    """Returns a collate function that pads rows of `to_avalanche` on the right to the longest of the batch.

    Its batches are `[inputs, targets, task labels]`: a `BatchEncoding` of (rows, tokens) tensors, int64 (rows,) and
    int64 (rows,). It can be pickled, for loaders with worker processes.
    """
    return partial(_collate, tokenizer)


def _collate(tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row]) -> list[Any]:
    import torch
    from transformers import BatchEncoding

    encoded: dict[str, list[Any]] = {"input_ids": [row[0]["input_ids"] for row in rows]}
    if any("token_type_ids" in row[0] for row in rows):
        # A replayed batch may hold pairs and single texts; a single text is all segment 0.
        encoded["token_type_ids"] = [row[0].get("token_type_ids", [0] * len(row[0]["input_ids"])) for row in rows]
    encoded["target"] = [row[1] for row in rows]
    batch = make_objective("classification", {}).collate(encoded, torch.arange(len(rows)), tokenizer)
    return [BatchEncoding(batch.inputs), batch.targets, torch.tensor([row[2] for row in rows])]


class _EncodedRows:
    """The rows of one split as Avalanche reads them: `(columns of token ids or texts, class index)`.

    Attributes:
        targets: class index of every row, in order.
    """

    def __init__(
        self,
        owner: Stage | Column,
        split: str,
        *,
        tokenizer: PreTrainedTokenizerBase | None,
        labels: Mapping[str, int],
        max_length: int,
    ) -> None:
        self._dataset: Dataset = owner.split(split).with_format(None)
        self._objective = make_objective(owner.objective, owner.options)
        self._tokenizer = tokenizer
        self._labels = labels
        self._max_length = max_length
        kind = "stage" if isinstance(owner, Stage) else "column"
        self.targets = _targets(self._dataset, labels, f"{kind} {owner.name!r} {split}")

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, position: int) -> tuple[dict[str, Any], int]:
        row = self._dataset[int(position) : int(position) + 1]
        if self._tokenizer is None:
            return {name: row[name][0] for name in TEXT_COLUMNS if name in row}, self.targets[position]
        columns = self._objective.encode(row, self._tokenizer, self._labels, self._max_length)
        return {name: column[0] for name, column in columns.items() if name != "target"}, self.targets[position]


def _targets(dataset: Dataset, labels: Mapping[str, int], where: str) -> list[int]:
    """Returns the class index of every row.

    Raises:
        DataError: a row has a label that is not among `labels`; begins with `where`.
    """
    column: list[str] = dataset.select_columns("label")[:]["label"]
    unknown = sorted({str(label) for label in column if label not in labels})
    if unknown:
        raise DataError(f"{where}: a label must be one of the stream's, got {', '.join(map(repr, unknown[:10]))}")
    return [labels[label] for label in column]


def _experience(
    rows: _EncodedRows, task_label: int, collate: Callable[[Sequence[Row]], list[Any]] | None
) -> AvalancheDataset:
    """Returns the rows with class and task labels, in the form that Avalanche's loaders, buffers and metrics expect."""
    from avalanche.benchmarks.utils import (
        ConstantSequence,
        DataAttribute,
        TaskAwareSupervisedClassificationDataset,
        TaskLabels,
    )

    targets: Any = rows.targets  # a list works, although Avalanche's annotation does not allow it
    attributes = [DataAttribute(targets, "targets"), TaskLabels(ConstantSequence(task_label, len(rows)))]
    return TaskAwareSupervisedClassificationDataset([rows], data_attributes=attributes, collate_fn=collate)
