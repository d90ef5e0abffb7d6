"""Reads a data set of the catalogue, from a local copy or the hub: our columns, three splits, at most so many rows."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cl_mlm.data import (
    StageFields,
    arrow_batches,
    carve_validation,
    find_folder,
    label_form,
    pick,
    places,
    rarest_labels,
    read_splits,
    row_types,
)
from cl_mlm.errors import ConfigError, DataError, nearest
from cl_mlm.objective import Objective
from cl_mlm.randomness import numpy_generator
from cl_mlm.stream import SPLITS
from streams._hub import open_hub, with_names

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from datasets import Dataset

    Indices = npt.NDArray[np.int64]

Columns = Mapping[str, list[Any]]
RowMaker = Callable[[Columns], dict[str, list[Any]]]

CARVE_SEED = 0  # carved and picked rows are part of the data: the same for every run seed
SAME_SPLITS = {split: split for split in SPLITS}
REMEDY = "give stream.path, or put a folder {name} into CL_MLM_DATA"


@dataclass(frozen=True)
class Source:
    """Where a data set lies and how its rows become ours.

    Attributes:
        rows: turns a batch of the hub's columns, with names in place of class numbers, into ours.
        published: rows of train, validation and test as published, 0 for no such split; None: there is no one number.
        hub: the id on the hub; None: no copy is known there that can be read without running its code.
        revision: a commit; None: not confirmed, so that the newest is read and the notes say so.
        subset: one of the data set's configurations.
        splits: our splits to the hub's; `a+b` joins two of them.
        carve: fraction (0-1) of the rows left in train that make up a missing split, in this order.
        strata: the hub's column by which rows are carved and picked evenly.
        local: our columns to those of a local copy's files, where they differ.
        folders: names that a local copy's folder may have, beside the name of the source.
        only_known: whether validation and test rows are left out that have a label which no training row has.
        objective: what a row means.
        domain, language, origin, licence: see `Stage`; `origin` is its `source`.
    """

    rows: RowMaker
    published: tuple[int, int, int] | None
    licence: str
    origin: str
    hub: str | None = None
    revision: str | None = None
    subset: str | None = None
    splits: Mapping[str, str] = field(default_factory=lambda: SAME_SPLITS)
    carve: Mapping[str, float] = field(default_factory=lambda: {"validation": 0.1})
    strata: str = "label"
    local: Mapping[str, str] = field(default_factory=dict)
    folders: tuple[str, ...] = ()
    only_known: bool = False
    objective: str = "classification"
    domain: str | None = None
    language: str | None = "en"

    def fields(self, objective: str, options: Mapping[str, Any]) -> StageFields:
        """Returns the fields that all stages of this data set share."""
        return StageFields(
            task=objective,
            objective=objective,
            options=options,
            domain=self.domain,
            language=self.language,
            source=self.origin,
            licence=self.licence,
        )


@dataclass(frozen=True)
class Limits:
    """How many rows are used at most, the same ones in every run.

    Attributes:
        rows: by split.
        per_label: of each label, by split.
    """

    rows: Mapping[str, int]
    per_label: Mapping[str, int]

    def __post_init__(self) -> None:
        problems = []
        for key, given in (("max_rows", self.rows), ("max_rows_per_label", self.per_label)):
            problems += [
                f"stream.{key}: must name train, validation or test, got {split!r}{nearest(split, SPLITS)}"
                for split in given
                if split not in SPLITS
            ]
            problems += [
                f"stream.{key}.{split}: must be at least 1, got {number}"
                for split, number in given.items()
                if number < 1
            ]
        if problems:
            raise ConfigError(problems)


def load_splits(
    name: str, source: Source, folder: Path | None, objective: Objective, limits: Limits
) -> tuple[dict[str, Dataset], list[str]]:
    """Returns train, validation and test rows, and notes on what was found and done.

    Args:
        name: of the source, for messages.
        source: what is read.
        folder: of a local copy whose files have our columns; None: the hub is read.
        objective: which columns the rows must have.
        limits: how many rows are used.

    Raises:
        DataError: faults of the rows, or a hub out of reach.
    """
    if folder is None:
        raw, strata_column = _from_hub(name, source), source.strata
    else:
        raw, strata_column = read_splits(folder, columns=source.local, required=objective.columns), "label"
    notes = _notes_on_found(name, source, folder, raw)
    for split, fraction in source.carve.items():
        if split not in raw:
            strata = _strata(raw["train"], strata_column, objective, name)
            raw["train"], raw[split] = carve_validation(raw["train"], fraction, CARVE_SEED, strata)
            notes.append(f"{name}: {split} carved from train: {100 * fraction:g} % of rows")
    missing = [split for split in SPLITS if split not in raw]
    if missing:
        raise DataError(f"{name}: must have a {missing[0]} split, got {', '.join(raw)}")
    splits = {split: _cut(raw[split], split, strata_column, objective, limits, name) for split in SPLITS}
    if folder is None:  # after cutting, so that only rows that are used are copied
        splits = {split: _ours(rows, source, f"{name} {split}") for split, rows in splits.items()}
    if any(len(splits[split]) != len(raw[split]) for split in SPLITS):
        notes.append(f"{name}: {_counted(splits)} rows used")
    if source.only_known:
        splits = _only_known(name, splits, objective, notes)
    return splits, notes


def find_local(name: str, source: Source, parent: str | None) -> Path | None:
    """Returns the folder of a local copy: inside `parent`, or inside `CL_MLM_DATA` where that is None; None: no copy.

    Raises:
        ConfigError: there is no such `parent`.
    """
    root = os.environ.get("CL_MLM_DATA")
    if parent is not None:
        inside = find_folder(parent)
    elif root:
        inside = Path(root).expanduser()
    else:
        return None
    return next((inside / folder for folder in (name, *source.folders) if (inside / folder).is_dir()), None)


def _from_hub(name: str, source: Source) -> dict[str, Dataset]:
    from datasets import concatenate_datasets

    remedy = REMEDY.format(name=name)
    if source.hub is None:
        raise DataError(
            f"{name}: no copy on the hub is known that can be read without running its code; {remedy} "
            f"(origin: {source.origin})"
        )
    whole = open_hub(source.hub, source.subset, source.revision, "stream.dataset", remedy)
    known = [str(split) for split in whole]
    # `train_wiki+val_wiki` is two splits of the hub.
    names = {ours: theirs.split("+") for ours, theirs in source.splits.items()}
    lacking = [split for theirs in names.values() for split in theirs if split not in known]
    if lacking:
        raise DataError(f"{name}: {source.hub} must have the splits {', '.join(lacking)}, got {', '.join(known)}")
    return {ours: concatenate_datasets([whole[split] for split in theirs]) for ours, theirs in names.items()}


def _notes_on_found(name: str, source: Source, folder: Path | None, raw: Mapping[str, Dataset]) -> list[str]:
    """Returns notes where the rows are not as many as published, or may change with the hub."""
    notes = []
    counts = tuple(len(raw[split]) if split in raw else 0 for split in SPLITS)
    if source.published is not None and counts != source.published:
        where = "local copy" if folder is not None else str(source.hub)
        published = " / ".join(f"{number:,}" for number in source.published)
        notes.append(f"{name}: {where}, {_counted(raw)} rows (train / validation / test); published {published}")
    if folder is None and not re.fullmatch(r"[0-9a-f]{40}", source.revision or ""):
        notes.append(f"{name}: {source.hub} at {source.revision or 'its newest revision'}, which may change")
    return notes


def _counted(splits: Mapping[str, Dataset]) -> str:
    return " / ".join(f"{len(splits[split]) if split in splits else 0:,}" for split in SPLITS)


def _strata(dataset: Dataset, column: str, objective: Objective, name: str) -> Indices | None:
    """Returns a number for every row's label, int64 (rows,); None where rows have no label."""
    import numpy as np
    import pyarrow as pa

    if column in dataset.column_names:
        table = pa.concat_tables(arrow_batches(dataset.select_columns([column])))
        values = table.column(column).combine_chunks()
        encoded = values.dictionary_encode(null_encoding="encode")
        # Labels that look the same are one stratum, by the code of the first of them.
        forms = [label_form(label) if isinstance(label, str) else label for label in encoded.dictionary.to_pylist()]
        first: dict[Any, int] = {}
        code_of = [first.setdefault(form, code) for code, form in enumerate(forms)]
        codes: Indices = np.array(code_of, dtype=np.int64)[encoded.indices.to_numpy()]
        return codes
    if "tags" in objective.columns and "tags" in dataset.column_names:
        return rarest_labels(row_types({"train": dataset}, objective, name)["train"])
    return None


def _cut(dataset: Dataset, split: str, column: str, objective: Objective, limits: Limits, name: str) -> Dataset:
    """Returns as many rows as the limits allow, drawn at random and kept in their order.

    The limit of each label comes first, then that of the split.
    """
    import numpy as np

    chosen: Indices = numpy_generator(CARVE_SEED, "rows", split).permutation(len(dataset))
    if (most := limits.per_label.get(split)) is not None:
        strata = _strata(dataset, column, objective, name)
        if strata is None:
            raise ConfigError(f"stream.max_rows_per_label: the rows of {name} have no label")
        chosen = chosen[places(strata, chosen)[chosen] < most]
    chosen = chosen[: limits.rows.get(split)]
    return dataset if len(chosen) == len(dataset) else pick(dataset, np.sort(chosen))


def _ours(dataset: Dataset, source: Source, where: str) -> Dataset:
    """Returns the hub's rows in our columns; copied in memory, batch by batch."""
    import pyarrow as pa
    from datasets import Dataset as Table

    tables = []
    for batch in arrow_batches(dataset):
        given = {n: with_names(batch.column(n).to_pylist(), feature) for n, feature in dataset.features.items()}
        try:
            tables.append(pa.table(source.rows(given)))
        except KeyError as error:
            raise DataError(f"{where}: the hub's rows must have a column {error}, got {', '.join(given)}") from error
    if not tables:
        raise DataError(f"{where}: no rows")
    return Table(pa.concat_tables(tables, promote_options="default"))


def _only_known(name: str, splits: Mapping[str, Dataset], objective: Objective, notes: list[str]) -> dict[str, Dataset]:
    """Returns the splits without validation and test rows that have a label which no training row has; adds notes."""
    import numpy as np

    labels = {
        split: [
            {*map(label_form, row_labels)}
            for batch in arrow_batches(rows)
            for row_labels in _labels(batch.to_pydict(), objective)
        ]
        for split, rows in splits.items()
    }
    known = set().union(*labels["train"])
    cut = dict(splits)
    for split in ("validation", "test"):
        good = np.flatnonzero([row_labels <= known for row_labels in labels[split]])
        if len(good) < len(splits[split]):
            cut[split] = pick(splits[split], good)
            notes.append(f"{name}: {len(splits[split]) - len(good)} {split} rows with labels that train lacks left out")
    return cut


def _labels(rows: Columns, objective: Objective) -> list[Sequence[str]]:
    # Faulty rows are left out here: the hygiene gate names them.
    return [] if objective.validate(rows, "") else objective.labels_of(rows)
