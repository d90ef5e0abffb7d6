"""Reads the splits of own files: a folder of them, or one file, of which test and validation rows are carved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from cl_mlm.data import (
    Reading,
    carve_rows,
    column_codes,
    find_data,
    is_saved_dataset,
    rarest_labels,
    read_file,
    read_splits,
    row_types,
)
from cl_mlm.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt
    from datasets import Dataset

    from cl_mlm.objective import Objective
    from cl_mlm.stream import Stream

CARVE_SEED = 0  # the carved rows are part of the data: the same for every order of stages and every run seed
SPREAD_NOTE = "every label of two training rows or more has given a validation row, as a stage had none"
TEST_FRACTION = 0.2  # of one file, where no other is given


@dataclass(frozen=True)
class OwnFiles:
    """What was read of a folder or file.

    Attributes:
        splits: train and test rows, and validation rows where there is a file of them.
        notes: on how files were read, and on test rows that were carved.
        has_carved_test: whether test rows were carved: then every label with three rows or more has one.
    """

    splits: dict[str, Dataset]
    notes: list[str]
    has_carved_test: bool


def fraction_faults(where: str, **fractions: float | None) -> list[str]:
    """Returns a fault for every fraction that is not between 0 and 1; None: it is not given."""
    return [
        f"{where}.{name}: must be above 0 and below 1, got {value}"
        for name, value in fractions.items()
        if value is not None and not 0 < value < 1
    ]


def read_own(
    path: str | Path,
    reading: Reading,
    objective: Objective,
    test_fraction: float | None,
    field: str | None = None,
    key: str = "stream.path",
) -> OwnFiles:
    """Returns the rows of a folder, or of one file; missing test rows are carved from train where that is asked for.

    Args:
        path: of a folder or file, as given or inside `CL_MLM_DATA`.
        reading: how files are read.
        objective: says which columns rows need.
        test_fraction: of the rows that go to test; None: TEST_FRACTION of one file, and none of a folder, which must
            have test rows.
        field: a column each value of which becomes a stage, and so needs test rows; None: stages are made otherwise.
        key: that messages about the path begin with.

    Raises:
        ConfigError: there is nothing at `path`, or a fraction is given and there are test rows.
        DataError: faults of the files.
    """
    source = find_data(str(path), key)
    optional = optional_columns(objective, field)
    notes: list[str] = []
    if source.is_file() or is_saved_dataset(source):
        rows, noted = read_file(source, reading, objective.columns, optional)
        notes += [f"{source.name}: {note}" for note in noted]
        splits = {"train": rows}
        test_fraction = test_fraction or TEST_FRACTION
    else:
        needed = ("train", "test") if test_fraction is None else ("train",)
        splits = read_splits(
            source, reading=reading, required=objective.columns, needed=needed, notes=notes, optional=optional
        )
    if "test" in splits:
        if test_fraction is not None:
            where = key.rpartition(".")[0]
            raise ConfigError(f"{where}.test_fraction: must be null where there is a test file, got {test_fraction}")
        return OwnFiles(splits, notes, has_carved_test=False)
    assert test_fraction is not None  # else `read_splits` has refused the folder
    strata = _strata(splits["train"], objective, field)
    splits["train"], splits["test"] = carve_rows(splits["train"], "test", test_fraction, CARVE_SEED, strata, spread=3)
    origin = source.name if source.is_file() else "train"
    notes.append(f"test carved from {origin}: {100 * test_fraction:g} % of rows")
    return OwnFiles(splits, notes, has_carved_test=True)


def optional_columns(objective: Objective, field: str | None) -> list[str]:
    """Returns the columns that rows must fill where there are such: a second text, and the column that makes stages."""
    names = [*objective.text_columns, *([] if field is None else [field])]
    return [name for name in dict.fromkeys(names) if name not in objective.columns]


def with_validation(
    splits: Mapping[str, Dataset], fraction: float, objective: Objective | None = None, *, spread: bool = False
) -> dict[str, Dataset]:
    """Returns the splits with a validation split carved from train: by rarest entity type for tags, else by label.

    Args:
        splits: train and test.
        fraction: of the rows that go to validation.
        objective: of the rows; None: by label.
        spread: whether every label with two rows or more gives one, even where that is more than the fraction.
    """
    strata = None if objective is None else _strata(splits["train"], objective)
    least = 2 if spread else None
    train, validation = carve_rows(splits["train"], "validation", fraction, CARVE_SEED, strata, spread=least)
    return {"train": train, "validation": validation, "test": splits["test"]}


def cut_with_validation(cut: Callable[[bool], Stream], is_carved: bool, has_carved_test: bool) -> Stream:
    """Returns the stream that `cut` makes; where a stage has no validation rows that were carved, they are spread.

    Rows are spread only where they must be, so that the carved rows of all other streams stay as they are.

    Args:
        cut: carves validation rows, spread or not, and cuts rows into stages.
        is_carved: whether it carves.
        has_carved_test: whether test rows were carved and spread, as validation rows then are.
    """
    if not is_carved:
        return cut(False)
    stream = cut(has_carved_test)
    if has_carved_test or all(len(stage.validation) for stage in stream.stages):
        return stream
    spread = cut(True)
    return replace(spread, notes=(*spread.notes, SPREAD_NOTE))


def validation_note(fraction: float) -> str:
    """Returns the note of a stream whose validation rows are carved."""
    return f"validation carved from train: {100 * fraction:g} % of rows"


def _strata(rows: Dataset, objective: Objective, field: str | None = None) -> npt.NDArray[np.int64] | None:
    """Returns the stratum of every row, (N,): its rarest entity type or label, together with its value of `field`."""
    import numpy as np

    strata = None
    if "tags" in objective.columns:
        strata = rarest_labels(row_types({"train": rows}, objective, "stream")["train"])
    if field is None or field not in rows.column_names:
        return strata
    values = column_codes(rows, field, "train")[0]
    if strata is None and "label" in rows.column_names and "label" in objective.columns:
        strata = column_codes(rows, "label", "train")[0]
    if strata is None:
        return values
    codes: Any = np.unique(np.stack([values, strata]), axis=1, return_inverse=True)[1]
    return np.asarray(codes, dtype=np.int64).reshape(-1)
