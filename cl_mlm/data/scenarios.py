"""Deals out the training rows of an ordinary stream anew: new instances, online chunks, blurry stages.

Each scenario is a function from a stream to a stream, so that every stream has it. Stages and columns no longer pair
up. Rows are dealt out as index mappings over the same tables, drawn with a seed of the stream, not of the run;
validation and test rows stay as they are.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from cl_mlm.arrow import pick
from cl_mlm.config.components import make_objective
from cl_mlm.data.label_columns import label_codes, label_counts
from cl_mlm.data.staging import column_codes
from cl_mlm.errors import ConfigError, DataError
from cl_mlm.randomness import numpy_generator
from cl_mlm.stream import SPLITS, Column, Restaged, Stage, Stream, column_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    import numpy as np
    import numpy.typing as npt
    from datasets import Dataset

    from cl_mlm.objective import Objective

    Indices = npt.NDArray[np.int64]


def instance_incremental(stream: Stream, num_stages: int, seed: int = 0) -> Stream:
    """Returns `num_stages` stages with new rows of the same labels, all scored on one column.

    Training rows are dealt out label by label: stages differ by at most one row in all, and by at most one row of each
    label. The column holds the validation and test rows of all stages of `stream`. It counts as learned after the first
    stage by which training has shown every label: from then on a score can fall only by forgetting.

    Lomonaco & Maltoni 2017, CORe50, arXiv 1705.03550, section 3.1 (new instances). Differs from the paper: there the
    instances are sessions under other conditions; here they are rows drawn at random, all of one distribution.

    Raises:
        ConfigError: the number is out of range, or the stream cannot be dealt out like this.
        DataError: the rows of its stages have different columns.
    """
    import numpy as np

    _check_base(stream, "instance_incremental")
    whole = {split: _union([stage.split(split) for stage in stream.stages]) for split in SPLITS}
    train = whole["train"]
    if not 1 <= num_stages <= len(train):
        raise ConfigError(f"stream.num_stages: must be 1 to {len(train)}, the training rows, got {num_stages}")
    objective = _objective(stream)
    codes = label_codes(train, objective)
    shuffled = numpy_generator(seed, "instances").permutation(len(train))
    by_label = shuffled[np.argsort(codes[shuffled], kind="stable")]
    stage_of = np.empty(len(train), dtype=np.int64)
    stage_of[by_label] = np.arange(len(train)) % num_stages
    first = stream.stages[0]
    rows_of_stage = [pick(train, np.flatnonzero(stage_of == i)) for i in range(num_stages)]
    width = max(2, len(str(num_stages)))
    bare = _training_only(first)
    stages = tuple(
        replace(bare, name=f"instances-{i:0{width}d}", train=rows, labels=stream.labels)
        for i, rows in enumerate(rows_of_stage, 1)
    )
    scored_labels = {*label_counts(whole["test"], objective)} & {*stream.labels}
    home = _first_stage_with_all(scored_labels, rows_of_stage, objective)
    column = replace(
        column_of(first, home, tuple(range(num_stages))),
        name=first.name if len(stream) == 1 else stream.name,
        validation=whole["validation"],
        test=whole["test"],
        labels=stream.labels,
        domain=_shared([stage.domain for stage in stream.stages]),
        language=_shared([stage.language for stage in stream.stages]),
    )
    note = f"{num_stages} stages of instances, seed {seed}"
    return _restaged(stream, "instance_incremental", stages, (column,), note)


def online(stream: Stream, chunk_rows: int, evaluate_every: int = 1, seed: int = 0) -> Stream:
    """Returns every stage of `stream`, shuffled, in chunks of `chunk_rows` rows: a single pass over small batches.

    Each chunk is a stage with all labels of the stage that it is cut from. The columns are those of `stream`; each
    counts as learned after the last chunk of its stage. Columns are scored after every `evaluate_every`-th chunk, and
    always after the last chunk of a stage.

    Aljundi et al. 2019, Online Continual Learning with Maximally Interfered Retrieval, arXiv 1908.04742, section 4
    (each stage's rows are seen once, in small batches). Differs from the paper: strategies know where a chunk begins,
    as every chunk is a stage to them.

    Raises:
        ConfigError: a number is out of range, or the stream cannot be cut like this.
        DataError: a stage has no training rows.
    """
    import numpy as np

    _check_base(stream, "online")
    numbers = {"chunk_rows": chunk_rows, "evaluate_every": evaluate_every}
    wrong = [f"stream.{key}: must be at least 1, got {number}" for key, number in numbers.items() if number < 1]
    if wrong:
        raise ConfigError(wrong)
    stages: list[Stage] = []
    columns: list[Column] = []
    for i, stage in enumerate(stream.stages):
        if not len(stage.train):
            raise DataError(f"stage {stage.name!r} train: must have rows, got none")
        shuffled = numpy_generator(seed, "online", i).permutation(len(stage.train))
        chunks = [np.sort(shuffled[start : start + chunk_rows]) for start in range(0, len(shuffled), chunk_rows)]
        first, width = len(stages), max(2, len(str(len(chunks))))
        bare = _training_only(stage)
        stages += [
            replace(bare, name=f"{stage.name}-{k:0{width}d}", train=pick(stage.train, chunk))
            for k, chunk in enumerate(chunks, 1)
        ]
        columns.append(column_of(stage, len(stages) - 1, tuple(range(first, len(stages)))))
    homes = {column.home for column in columns}
    measured = tuple(i for i in range(len(stages)) if (i + 1) % evaluate_every == 0 or i in homes)
    note = f"online: {len(stages)} chunks of at most {chunk_rows} rows, one pass, seed {seed}"
    restaged = _restaged(stream, "online", tuple(stages), tuple(columns), note)
    is_always_measured = len(measured) == len(stages)
    return replace(restaged, measured=() if is_always_measured else measured)


def blurry(stream: Stream, blur: float, seed: int = 0) -> Stream:
    """Returns the stages of `stream` with a fraction `blur` of each label's rows dealt out evenly to the other stages.

    Of the n training rows of a label in a stage, round(blur * n) leave it (halves are rounded up). A stage's labels are
    its own, and behind them those of the rows that came in. The columns are those of `stream`.

    Bang et al. 2021, Rainbow Memory, arXiv 2103.17230, section 3 (blurry-CIL; `blur` is their M / 100). Differs from
    the paper: every stage is seen in full and as often as training says; the paper's is online.

    Raises:
        ConfigError: `blur` is not in 0-1, or the stream has no rows that can be dealt out.
    """
    import numpy as np

    _check_base(stream, "blurry")
    if not 0 <= blur <= 1:
        raise ConfigError(f"stream.blur: must be 0 to 1, got {blur}")
    if len(stream) < 2:
        raise ConfigError(f"stream.scenario: blurry needs at least two stages, got {len(stream)}")
    train = _union([stage.train for stage in stream.stages])
    if "label" not in train.column_names or str(train.features["label"].dtype) not in ("string", "large_string"):
        raise ConfigError(
            f"stream.scenario: blurry needs rows with one label each, got objective {stream.stages[0].objective}"
        )
    codes, names = column_codes(train, "label", stream.name)
    home = np.repeat(np.arange(len(stream)), [len(stage.train) for stage in stream.stages])
    stage_of = _blurred(home, codes, blur, len(stream), seed)
    stages = []
    for i, stage in enumerate(stream.stages):
        rows = np.flatnonzero(stage_of == i)
        present = {names[code] for code in np.unique(codes[rows])}
        labels = (*stage.labels, *(label for label in stream.labels if label in present - {*stage.labels}))
        own = labels if stage.labels else ()
        stages.append(replace(_training_only(stage), train=pick(train, rows), labels=own))
    columns = tuple(column_of(stage, i) for i, stage in enumerate(stream.stages))
    note = f"blurry: {100 * blur:g} % of each label's training rows dealt out to the other stages, seed {seed}"
    return _restaged(stream, "blurry", tuple(stages), columns, note)


RESTAGING: Final[Mapping[str, Callable[..., Stream]]] = {
    "instance_incremental": instance_incremental,
    "online": online,
    "blurry": blurry,
}


def _blurred(home: Indices, codes: Indices, blur: float, num_stages: int, seed: int) -> Indices:
    """Returns the stage of every row, (N,); of the rows of a label in a stage, a fraction goes to the others in turn.

    Args:
        home: the stage of every row before, (N,).
        codes: the label of every row as a number, (N,).
        blur: the fraction that leaves, 0-1.
        num_stages: of the stream.
        seed: draws the rows that leave.
    """
    import numpy as np

    stage_of = home.copy()
    turn = 0
    for stage, code in sorted({*zip(home.tolist(), codes.tolist(), strict=True)}):
        rows = np.flatnonzero((home == stage) & (codes == code))
        leaving = numpy_generator(seed, "blurry", stage, code).permutation(rows)[: int(blur * len(rows) + 0.5)]
        others = np.delete(np.arange(num_stages), stage)
        # `turn` goes on from label to label: if each began with the same stage, that one would get every odd row.
        stage_of[leaving] = others[(turn + np.arange(len(leaving))) % len(others)]
        turn += len(leaving)
    return stage_of


def _check_base(stream: Stream, scenario: Restaged) -> None:
    """Refuses streams whose rows this scenario cannot deal out.

    Raises:
        ConfigError: see above.
    """
    if stream.given_columns:
        raise ConfigError(f"stream.scenario: {scenario} needs an ordinary stream, got {stream.scenario}")
    if stream.masks and scenario != "online":
        raise ConfigError(
            f"stream.base_scenario: must not be task_incremental where stream.scenario is {scenario}: a row's stage "
            "says nothing of its label then"
        )
    if stream.partial and scenario != "online":
        raise ConfigError(
            f"stream.scenario: {scenario} cannot mix stages that give one row different targets; use a stream of one "
            "stage with all types"
        )


def _training_only(stage: Stage) -> Stage:
    """Returns the stage without rows to score; all stages that are made of it share the data set that has none."""
    import numpy as np

    no_rows = pick(stage.test, np.zeros(0, dtype=np.int64))
    return replace(stage, validation=no_rows, test=no_rows)


def _restaged(
    stream: Stream, scenario: Restaged, stages: tuple[Stage, ...], columns: tuple[Column, ...], note: str
) -> Stream:
    base: Any = stream.scenario  # an ordinary one: `_check_base` refuses others
    return replace(
        stream,
        stages=stages,
        scenario=scenario,
        base_scenario=base,
        given_columns=columns,
        notes=(*stream.notes, note),
    )


def _first_stage_with_all(labels: Collection[str], rows_of_stage: Sequence[Dataset], objective: Objective) -> int:
    """Returns the first stage by which each of `labels` has been in a training row; the last where one never is."""
    missing = set(labels)
    for i, rows in enumerate(rows_of_stage):
        missing -= label_counts(rows, objective).keys()
        if not missing:
            return i
    return len(rows_of_stage) - 1


def _union(datasets: Sequence[Dataset]) -> Dataset:
    """Returns the rows of all data sets, in order; no text is copied.

    Raises:
        DataError: their columns differ.
    """
    from datasets import concatenate_datasets

    first, last = datasets[0], datasets[-1]
    if len(datasets) == 1:
        return first
    try:
        # `datasets` itself would fill columns that are missing with nulls.
        if len({tuple(sorted(rows.column_names)) for rows in datasets}) > 1:
            raise ValueError(f"columns {', '.join(sorted({*first.column_names} ^ {*last.column_names}))}")
        return concatenate_datasets(list(datasets))
    except ValueError as error:
        raise DataError(f"stream.scenario: rows of stages that differ in columns cannot be mixed: {error}") from error


def _objective(stream: Stream) -> Objective:
    first = stream.stages[0]
    return make_objective(first.objective, first.options)


def _shared(values: Sequence[str | None]) -> str | None:
    """Returns the one value that all have; None where they differ."""
    return values[0] if len({*values}) == 1 else None
