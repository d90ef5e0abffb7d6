"""Your own files as a stream: one folder cut into stages by label, entity type or a column, or a folder a stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cl_mlm.config import check, make_objective, unknown_keys
from cl_mlm.data import (
    Missing,
    Reading,
    StageFields,
    by_field,
    by_labels,
    by_source,
    by_types,
    carve_validation,
    find_data,
    find_folder,
    pick_rows,
    picked_notes,
    reordered,
    rows_faults,
    same_in_many,
    stage_order,
)
from cl_mlm.errors import ConfigError, DataError, nearest
from cl_mlm.stream import Scenario, Stage, Stream
from streams._own_files import (
    CARVE_SEED,
    OwnFiles,
    cut_with_validation,
    fraction_faults,
    read_own,
    validation_note,
    with_validation,
)

if TYPE_CHECKING:
    from datasets import Dataset

    from cl_mlm.objective import Objective

__all__ = ["files"]

StagesBy = Literal["labels", "types", "field", "files", "whole"]
# The keys of one of `stages`, and their types.
ENTRY: dict[str, Any] = {
    "path": str,
    "objective": str,
    "options": dict[str, Any],
    "columns": dict[str, str],
    "delimiter": str | None,
    "encoding": str | None,
    "missing": Missing,
    "test_fraction": float | None,
}
# Arguments that `stages_by` does not read, and that must then be null.
UNUSED = {
    "labels": ("types_per_stage", "field", "stages"),
    "types": ("labels_per_stage", "field", "stages"),
    "field": ("labels_per_stage", "types_per_stage", "groups", "uneven", "stages"),
    "files": ("labels_per_stage", "types_per_stage", "groups", "uneven", "field"),
    "whole": ("labels_per_stage", "types_per_stage", "groups", "uneven", "field", "order", "stages"),
}


def files(
    *,
    path: str,
    stages_by: StagesBy = "labels",
    labels_per_stage: int | None = None,
    types_per_stage: int | None = None,
    groups: list[list[str | int]] | None = None,
    uneven: bool = False,
    mask_others: bool = True,
    field: str | None = None,
    order: list[str] | None = None,
    order_seed: int | None = 0,
    scenario: Scenario | None = None,
    validation_fraction: float = 0.1,
    test_fraction: float | None = None,
    rows: dict[str, int] | None = None,
    columns: dict[str, str] | None = None,
    delimiter: str | None = None,
    encoding: str | None = None,
    missing: Missing = "error",
    objective: str = "classification",
    options: dict[str, Any] | None = None,
    stages: list[dict[str, Any]] | None = None,
) -> Stream:
    """Returns a stream over the train, validation (valid, dev, eval) and test files of a folder, or over one file.

    Files are JSON lines, a JSON array, CSV, TSV or Parquet, or folders that `save_to_disk` of `datasets` has written,
    with the columns that the objective asks for: `text`, optionally `text_pair`, and `label` for classification; where
    it asks for `text` alone also .txt, one text a line. For relations `text` with character spans `head` and `tail` is
    read, too, for tagging `text` with `entities`. A missing validation split is carved from train, by label or rarest
    entity type, and the stream's notes say so.

    Args:
        path: the folder or file, as given or inside `CL_MLM_DATA`. Test and validation rows of one file are carved.
        stages_by: `labels`: every stage brings new labels; `types`: new entity types, for objective `tagging`;
            `field`: one stage for each value of a column; `files`: one stage for each sub-folder, which holds the
            files; `whole`: one stage.
        labels_per_stage: for `labels`: how many a stage brings.
        types_per_stage: for `types`: how many a stage brings.
        groups: for `labels` and `types`: those of every stage, in order, instead of a number.
        uneven: for `labels` and `types`: whether the last stage may bring fewer than the number.
        mask_others: for `types`: whether tags of earlier stages' types are `O`, as those of later stages' types are.
        field: for `field`: the column.
        order: for `field`: its values in the wanted order; for `files`: the sub-folders to use, in order; for `labels`
            and `types`: the names of the stages (`labels-01` ...), in the wanted order.
        order_seed: shuffles what `groups` and `order` leave open; null: sorted by name.
        scenario: null: class_incremental for `labels` and `types`, else domain_incremental.
        validation_fraction: fraction of the training rows (0-1) to carve where there is no validation file.
        test_fraction: fraction of the rows (0-1) to carve where there is no test file, evenly over labels, before
            validation rows are carved; null: 0.2 of one file, and a folder must have a test file.
        rows: how many rows of a split to use, such as `{train: 1000, test: 500}`, the same ones in every run. They are
            picked before rows are cut into stages; for `files` in each folder, where a smaller split is used whole.
        columns: our names of columns to those in the files: `{text: sentence, label: intent}`.
        delimiter: what separates the columns of CSV and its kin, such as `;`; null: it is told from the first lines.
        encoding: of text files, such as `cp1252` or `utf-16`; null: UTF-8.
        missing: whether rows without a value of a needed column are an `error`, or are left out (`drop`) and counted.
        objective: what a row means: a name of `cl-mlm list objectives`.
        options: arguments of the objective.
        stages: for `files`: the stages in order, each with its `path` (a folder or file inside `path`), and its
            `objective`, `options`, `columns`, `delimiter`, `encoding`, `missing` and `test_fraction` where they differ
            from those given for all. Each objective has a head of its own.

    Raises:
        ConfigError: arguments that do not fit each other or the files.
        DataError: faults of the files.
    """
    given: dict[str, Any] = {"labels_per_stage": labels_per_stage, "types_per_stage": types_per_stage, "groups": groups}
    rows_objective = make_objective(objective, options or {})
    reading = Reading(columns or {}, delimiter, encoding, missing)
    problems = fraction_faults("stream", validation_fraction=validation_fraction, test_fraction=test_fraction)
    problems += reading.faults()
    if problems:
        raise ConfigError(problems)
    given |= {"field": field, "order": order, "stages": stages, "uneven": uneven or None}
    _check(stages_by, given, mask_others, rows_objective, rows)
    if stages is not None:
        shared: dict[str, Any] = {"objective": objective, "options": options or {}, "columns": columns, "rows": rows}
        shared |= {"delimiter": delimiter, "encoding": encoding, "missing": missing, "test_fraction": test_fraction}
        return _of_entries(path, stages, shared, scenario, validation_fraction)
    fields: StageFields = {"task": objective, "objective": objective, "options": options or {}}
    if stages_by == "files":
        folder = find_folder(path)
        parts, notes = _splits_of_folders(
            folder, order, order_seed, (validation_fraction, test_fraction), reading, rows_objective, rows
        )
        name = folder.resolve().name
        return by_source(parts, scenario=scenario or "domain_incremental", notes=notes, name=name, **fields)
    cutting = {**given, "mask_others": mask_others, "order_seed": order_seed, "scenario": scenario}
    own = read_own(path, reading, rows_objective, test_fraction, field)
    place = find_data(path).resolve()
    common: dict[str, Any] = {"name": place.stem if place.is_file() else place.name, **fields}
    return _of_rows(own, stages_by, cutting, validation_fraction, rows_objective, rows, common)


def _of_rows(
    own: OwnFiles,
    stages_by: str,
    cutting: Mapping[str, Any],
    fraction: float,
    objective: Objective,
    rows: Mapping[str, int] | None,
    common: dict[str, Any],
) -> Stream:
    """Returns a stream whose stages are cut from the rows of one folder or file.

    Args:
        own: what was read.
        stages_by: labels, types, field or whole.
        cutting: the arguments of `files` that say how.
        fraction: of the training rows to carve where there are no validation rows.
        objective: of the rows.
        rows: see `files`.
        common: arguments of every function that makes a stream.
    """
    splits, is_carved = own.splits, "validation" not in own.splits
    common["notes"] = [*own.notes, *([validation_note(fraction)] if is_carved else []), *picked_notes(rows)]
    if stages_by == "field":
        arguments = {**common, "scenario": cutting["scenario"] or "domain_incremental"}
        arguments |= {name: cutting[name] for name in ("order", "order_seed")}
        return _of_field(pick_rows(splits, rows), cutting["field"], fraction, arguments)
    common["scenario"] = cutting["scenario"] or "class_incremental"

    def cut(spread: bool) -> Stream:
        whole = with_validation(splits, fraction, objective, spread=spread) if is_carved else splits
        picked = pick_rows(whole, rows)
        if stages_by == "whole":
            return by_source({common["name"]: picked}, **common)
        names = ["groups", "order_seed"]
        names += ["types_per_stage", "mask_others"] if stages_by == "types" else ["labels_per_stage"]
        arguments = {**common, "uneven": bool(cutting["uneven"]), **{name: cutting[name] for name in names}}
        return by_types(picked, **arguments) if stages_by == "types" else by_labels(picked, **arguments)

    stream = cut_with_validation(cut, is_carved, own.has_carved_test)
    return stream if cutting["order"] is None else reordered(stream, cutting["order"])


def _of_field(splits: Mapping[str, Dataset], field: str, fraction: float, arguments: Mapping[str, Any]) -> Stream:
    """Returns a stream with a stage for each value of a column.

    A missing validation split is carved stage by stage, so that even a small stage has validation rows.
    """
    if "validation" in splits:
        return by_field(splits, field, **arguments)
    stream = by_field({**splits, "validation": splits["train"].select([])}, field, **arguments)
    stages = []
    for stage in stream.stages:
        train, validation = carve_validation(stage.train, fraction, CARVE_SEED)
        stages.append(replace(stage, train=train, validation=validation))
    return replace(stream, stages=tuple(stages))


def _check(
    stages_by: str, given: Mapping[str, object], mask_others: bool, objective: Objective, rows: Mapping[str, int] | None
) -> None:
    """Refuses arguments that do not fit `stages_by` or each other.

    Raises:
        ConfigError: all of them.
    """
    if stages_by not in UNUSED:
        raise ConfigError(f"stream.stages_by: must be one of {', '.join(UNUSED)}, got {stages_by!r}")
    problems = [
        f"stream.{key}: must be null where stream.stages_by is {stages_by}, got {given[key]!r}"
        for key in UNUSED[stages_by]
        if given[key] is not None
    ]
    if given["uneven"] and given["groups"] is not None:
        problems.append("stream.uneven: must be false where stream.groups says what each stage brings, got True")
    if stages_by != "types" and not mask_others:
        problems.append(f"stream.mask_others: must be true where stream.stages_by is {stages_by}, got {mask_others}")
    column = {"labels": "label", "types": "tags"}.get(stages_by)
    if column is not None and column not in objective.columns:
        problems.append(
            f"stream.stages_by: {stages_by} needs an objective with the column {column}, got {objective.name}, whose "
            f"columns are {', '.join(objective.columns)}"
        )
    if given["stages"] is not None and given["order"] is not None:
        problems.append(f"stream.order: must be null where stream.stages gives the order, got {given['order']!r}")
    if stages_by == "field" and given["field"] is None:
        problems.append("stream.field: must name a column where stream.stages_by is field, got None")
    problems += rows_faults(rows)
    if problems:
        raise ConfigError(problems)


def _of_entries(
    path: str,
    stages: Sequence[Mapping[str, Any]],
    shared: Mapping[str, Any],
    scenario: Scenario | None,
    fraction: float,
) -> Stream:
    """Returns a stream of the folders that `stages` names, each with an objective of its own where it says so."""
    if not stages:
        raise ConfigError("stream.stages: must name at least one stage, got []")
    faults: list[ConfigError | DataError] = []
    built: list[Stage] = []
    carved: list[str] = []
    read_notes: list[str] = []
    for i, given in enumerate(stages):
        try:
            entry, rows_objective = _entry(f"stream.stages[{i}]", given, shared)
            where = f"stream.stages[{i}]"
            reading = Reading(entry["columns"] or {}, entry["delimiter"], entry["encoding"], entry["missing"])
            problems = [*reading.faults(where), *fraction_faults(where, test_fraction=entry["test_fraction"])]
            if problems:
                raise ConfigError(problems)
            inside = str(Path(path) / entry["path"])
            own = read_own(inside, reading, rows_objective, entry["test_fraction"], key=f"{where}.path")
        except (ConfigError, DataError) as error:
            faults.append(error)
            continue
        splits = own.splits
        file_name = f"{Path(entry['path']).name}: "  # what notes on one file begin with
        read_notes += [f"{entry['path']}: {note.removeprefix(file_name)}" for note in own.notes]
        if "validation" not in splits:
            carved.append(entry["path"])
            splits = with_validation(splits, fraction, rows_objective, spread=own.has_carved_test)
        splits = pick_rows(splits, shared["rows"], fewer=True)
        fields: StageFields = {"objective": entry["objective"], "options": entry["options"], "task": entry["objective"]}
        built += by_source({entry["path"]: splits}, name=entry["path"], **fields).stages
    if faults:
        are_all_of_data = all(isinstance(fault, DataError) for fault in faults)
        raise (DataError if are_all_of_data else ConfigError)([line for fault in faults for line in fault.problems])
    name = Path(path).name or "-".join(Path(stage.name).name for stage in built)
    notes = (*read_notes, *_notes_on_carved(fraction, carved), *picked_notes(shared["rows"]))
    return Stream(name, tuple(built), scenario or "domain_incremental", notes)


def _entry(where: str, given: Mapping[str, Any], shared: Mapping[str, Any]) -> tuple[dict[str, Any], Objective]:
    """Returns one of `stages` with the arguments for all filled in, and its objective.

    Raises:
        ConfigError: all unknown keys and wrong values.
    """
    problems: list[str] = []
    unknown_keys(where, given, ENTRY, problems)
    if "path" not in given:
        problems.append(f"{where}.path: must name a folder or file inside stream.path, got none")
    elif isinstance(given["path"], str) and (Path(given["path"]).is_absolute() or ".." in Path(given["path"]).parts):
        problems.append(f"{where}.path: must name a folder or file inside stream.path, got {given['path']!r}")
    for key, annotation in ENTRY.items():
        if key in given:
            check(f"{where}.{key}", given[key], annotation, {}, problems)
    if problems:
        raise ConfigError(problems)
    entry = {**shared, **given}
    if "objective" in given and "options" not in given and given["objective"] != shared["objective"]:
        entry["options"] = {}  # the options for all belong to another objective
    try:
        return entry, make_objective(entry["objective"], entry["options"])
    except ConfigError as error:
        raise ConfigError([line.replace("stream.options", f"{where}.options") for line in error.problems]) from error


def _splits_of_folders(
    folder: Path,
    order: list[str] | None,
    order_seed: int | None,
    fractions: tuple[float, float | None],
    reading: Reading,
    objective: Objective,
    rows: Mapping[str, int] | None,
) -> tuple[dict[str, Mapping[str, Dataset]], list[str]]:
    """Returns the splits of every sub-folder in the order of stages, and notes on what was read, carved and picked.

    Args:
        folder: holds the folders.
        order: see `files`.
        order_seed: see `files`.
        fractions: of rows to carve for validation, and for test.
        reading: how files are read.
        objective: of the rows.
        rows: see `files`.
    """
    parts: dict[str, Mapping[str, Dataset]] = {}
    carved: list[str] = []
    notes: list[str] = []
    problems: dict[str, list[str]] = {}
    fraction, test_fraction = fractions
    for stage in _sub_folders(folder, order, order_seed):
        try:
            own = read_own(folder / stage, reading, objective, test_fraction)
            splits, is_carved = own.splits, "validation" not in own.splits
            if is_carved:
                splits = with_validation(splits, fraction, spread=own.has_carved_test)
            parts[stage] = pick_rows(splits, rows, fewer=True)
        except DataError as error:
            problems[str(folder / stage)] = error.problems
            continue
        notes += [f"{stage}: {note}" for note in own.notes]
        if is_carved:
            carved.append(stage)
    if problems:
        raise DataError(same_in_many(problems))
    notes += _notes_on_carved(fraction, carved)
    return parts, notes + [f"{split}: at most {number} rows a stage" for split, number in (rows or {}).items()]


def _sub_folders(folder: Path, order: list[str] | None, order_seed: int | None) -> list[str]:
    """Returns the names of the folders that become stages, in order.

    Raises:
        ConfigError: there are none, or `order` names one that is not there or one twice.
    """
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not names:
        raise ConfigError(f"stream.path: must hold a folder for each stage, got {str(folder)!r} without any")
    if order is None:
        return stage_order(names, order_seed)
    problems = [
        f"stream.order: {str(folder)!r} has no folder {stage!r}{nearest(stage, names)}"
        for stage in order
        if stage not in names
    ]
    problems += [f"stream.order: must name every folder once, got {x!r} twice" for x in names if order.count(x) > 1]
    if problems or not order:
        raise ConfigError(problems or "stream.order: must name at least one folder, got []")
    return order


def _notes_on_carved(fraction: float, stages: Sequence[str]) -> list[str]:
    return [f"{validation_note(fraction)}, in {', '.join(stages)}"] if stages else []
