"""Turns an Avalanche benchmark of texts into a stream, without importing anything of Avalanche."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cl_mlm.data import carve_validation, label_form
from cl_mlm.errors import ConfigError, DataError
from cl_mlm.stream import SPLITS, Scenario, Stage, Stream

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["from_avalanche"]

# Our name of a split to the names that Avalanche's own helpers and its users give it.
STREAM_NAMES = {"train": ("train",), "validation": ("valid", "validation", "val"), "test": ("test",)}
TEXT_COLUMNS = ("text", "text_pair")
CARVE_SEED = 0  # the carved rows are part of the data: the same for every run seed
MAX_PROBLEMS = 20


def from_avalanche(
    benchmark: Any,
    *,
    name: str = "avalanche",
    labels: Sequence[str] | None = None,
    scenario: Scenario | None = None,
    validation_fraction: float = 0.1,
) -> Stream:
    """Returns a classification stream with one stage for each experience of `benchmark.train_stream`.

    An item is `(text, class)` or `(text, class, task label)`; the text is a string, or a mapping with the column `text`
    and optionally `text_pair`; the class is an index or a name. Rows are copied in memory as the experiences give them.
    The test stream, and the validation stream where there is one, have as many experiences as the training
    stream; without one, validation rows are carved from train, and the notes say so.

    Args:
        benchmark: an Avalanche benchmark.
        name: the stream's name.
        labels: names of the classes by index; None: the benchmark's `label_names` (set by `to_avalanche`), else the
            index itself. Without names, a class index that several tasks use means another class in each, as in
            Avalanche's multi-head models, and is called `<task label>/<index>`.
        scenario: None: `task_incremental` where experiences have different task labels, else `domain_incremental` where
            several all have the same classes, else `class_incremental`.
        validation_fraction: fraction of the training rows (0-1) to carve where there is no validation stream.

    Raises:
        ConfigError: this is no benchmark, or `labels` are too few or name two classes alike.
        DataError: rows are no texts, streams do not fit each other, or labels look the same.
    """
    streams = _streams(benchmark)
    names = labels if labels is not None else getattr(benchmark, "label_names", None)
    if names is not None and len(set(names)) < len(names):
        raise ConfigError(f"stream.labels: must be different, got {list(names)}")
    problems: list[str] = []
    read = {
        split: [_rows(item, f"{split} experience {i}", problems) for i, item in enumerate(experiences)]
        for split, experiences in streams.items()
    }
    if problems:
        raise DataError(problems[:MAX_PROBLEMS])
    tasks = _tasks(read)
    prefixes = _prefixes(read["train"], tasks) if names is None else [""] * len(tasks)
    stages, notes = [], []
    titles = getattr(benchmark, "stage_names", None) or _titles(len(tasks))
    for i, prefix in enumerate(prefixes):
        columns = {split: _named(rows[i], names, prefix) for split, rows in read.items()}
        stage_labels = _ordered([label for rows in columns.values() for label in rows["label"]], names)
        splits = {split: _dataset(rows) for split, rows in columns.items()}
        if "validation" not in splits:
            splits["train"], splits["validation"] = carve_validation(splits["train"], validation_fraction, CARVE_SEED)
            notes = [f"validation carved from train: {100 * validation_fraction:g} % of rows"]
        train, validation, test = (splits[split] for split in SPLITS)
        stages.append(Stage(titles[i], train, validation, test, stage_labels))
    _check_spellings({label for stage in stages for label in stage.labels})
    return Stream(name, tuple(stages), scenario or _scenario(read["train"], tasks), tuple(notes))


def _check_spellings(labels: set[str]) -> None:
    """Refuses labels that look the same: the platform's way out, `labels: fold`, is no key of this stream.

    Raises:
        DataError: see above.
    """
    by_form: dict[str, list[str]] = {}
    for label in sorted(labels):
        by_form.setdefault(label_form(label), []).append(label)
    problems = [
        f"benchmark: labels must not look the same, got {' and '.join(map(ascii, alike))}; mend the classes in the "
        "benchmark, or its names of the classes (label_names, stream.labels)"
        for alike in by_form.values()
        if len(alike) > 1
    ]
    if problems:
        raise DataError(problems[:MAX_PROBLEMS])


Columns = dict[str, list[Any]]  # text, text_pair, class and task; each (rows,)


def _streams(benchmark: Any) -> dict[str, list[Any]]:
    """Returns the experiences of every split.

    Raises:
        ConfigError: there is no training or test stream.
        DataError: the streams differ in their number of experiences.
    """
    given = getattr(benchmark, "streams", None)
    known = dict(given) if isinstance(given, Mapping) else {}
    streams = {
        ours: next((known[name] for name in names if name in known), None) for ours, names in STREAM_NAMES.items()
    }
    if streams["train"] is None or streams["test"] is None:
        listed = ", ".join(map(str, known)) or "none"
        raise ConfigError(
            f"stream.benchmark: must be an Avalanche benchmark with the streams train and test, got "
            f"{type(benchmark).__name__} with {listed}"
        )
    experiences = {split: list(stream) for split, stream in streams.items() if stream is not None}
    counts = {split: len(items) for split, items in experiences.items()}
    if len({*counts.values()}) > 1 or not counts["train"]:
        listed = ", ".join(f"{split} {count}" for split, count in counts.items())
        raise DataError(f"benchmark: every stream must have one experience for each stage, got {listed}")
    return experiences


def _rows(experience: Any, where: str, problems: list[str]) -> Columns:
    """Returns the items of an experience as columns; adds its first fault to `problems`."""
    columns: Columns = {"class": [], "task": []}
    shape: tuple[str, ...] | None = None
    for position in range(len(experience.dataset)):
        item = experience.dataset[position]
        texts = _texts(item)
        if isinstance(texts, str):
            problems.append(f"{where}: {texts} in item {position}")
            break
        if shape not in (None, tuple(texts)):
            problems.append(f"{where}: every item must have the columns {shape}, got {tuple(texts)} in item {position}")
            break
        shape = tuple(texts)
        for column, text in texts.items():
            columns.setdefault(column, []).append(text)
        columns["class"].append(_plain(item[1]))
        columns["task"].append(_plain(item[2]) if len(item) > 2 else 0)
    if shape is None and not problems:
        problems.append(f"{where}: must have rows, got none")
    return columns


def _texts(item: Any) -> dict[str, str] | str:
    """Returns the texts of an item by column, or the fault of an item that has none."""
    rule = (
        "an item must be (text, class) or (text, class, task label), its text a string or a mapping with the column "
        "text and optionally text_pair (token ids will not do: the model's own tokenizer reads the texts); got "
    )
    if not isinstance(item, Sequence) or isinstance(item, str) or len(item) not in (2, 3):
        return f"{rule}{type(item).__name__}"
    given = item[0]
    if isinstance(given, str):
        return {"text": given}
    if not isinstance(given, Mapping):
        return f"{rule}{type(given).__name__}"
    texts = {column: given[column] for column in TEXT_COLUMNS if column in given}
    if "text" not in texts or not all(isinstance(text, str) for text in texts.values()):
        listed = ", ".join(f"{column} {type(value).__name__}" for column, value in given.items())
        return f"{rule}a mapping with {listed or 'nothing'}"
    return texts


def _plain(value: Any) -> Any:
    """Returns the number in a tensor or an array of one; other values as they are."""
    return value.item() if hasattr(value, "item") else value


def _tasks(read: Mapping[str, Sequence[Columns]]) -> list[Any]:
    """Returns the task label of every stage.

    Raises:
        DataError: an experience has several, or others in another split.
    """
    tasks, problems = [], []
    for i in range(len(read["train"])):
        task_labels = {task for rows in read.values() for task in rows[i]["task"]}
        tasks.append(min(task_labels, key=str))
        if len(task_labels) > 1:
            listed = ", ".join(sorted(map(str, task_labels)))
            problems.append(f"experience {i}: must have one task label in all streams, got {listed}")
    if problems:
        raise DataError(problems)
    return tasks


def _scenario(train: Sequence[Columns], tasks: Sequence[Any]) -> Scenario:
    if len(set(tasks)) > 1:
        return "task_incremental"
    have_same_classes = len({frozenset(rows["class"]) for rows in train}) == 1
    return "domain_incremental" if have_same_classes and len(train) > 1 else "class_incremental"


def _prefixes(train: Sequence[Columns], tasks: Sequence[Any]) -> list[str]:
    """Returns for every stage what its labels begin with: the task, where two tasks use the same class index."""
    classes_of: dict[Any, set[Any]] = {}
    for rows, task in zip(train, tasks, strict=True):
        classes_of.setdefault(task, set()).update(rows["class"])
    indices = [index for classes in classes_of.values() for index in classes]
    is_shared = len(set(indices)) < len(indices)
    return [f"{task}/" if is_shared else "" for task in tasks]


def _named(rows: Columns, names: Sequence[str] | None, prefix: str) -> Columns:
    """Returns the rows with the column `label`, the name of the class, in place of class and task label.

    Raises:
        ConfigError: a class has no name.
    """
    texts = {column: values for column, values in rows.items() if column not in ("class", "task")}
    classes = rows["class"]
    if names is None:
        return {**texts, "label": [f"{prefix}{value}" for value in classes]}
    known = set(names)

    def has_name(value: Any) -> bool:
        return value in known if isinstance(value, str) else 0 <= value < len(names)

    nameless = [value for value in classes if not has_name(value)]
    if nameless:
        raise ConfigError(f"stream.labels: must name every class, got {len(names)} names and class {nameless[0]!r}")
    return {**texts, "label": [value if isinstance(value, str) else names[value] for value in classes]}


def _ordered(labels: Sequence[str], names: Sequence[str] | None) -> tuple[str, ...]:
    """Returns the labels of a stage, each once, in the order of the names, or of the indices."""
    present = set(labels)
    if names is not None:
        return tuple(name for name in names if name in present)

    def key(label: str) -> tuple[int, str]:
        number = label.rpartition("/")[2]
        return (int(number) if number.isdecimal() else -1, label)

    return tuple(sorted(present, key=key))


def _dataset(columns: Columns) -> Dataset:
    from datasets import Dataset

    return Dataset.from_dict(columns)


def _titles(number: int) -> list[str]:
    width = max(2, len(str(number)))
    return [f"experience-{i + 1:0{width}d}" for i in range(number)]
