"""Opens a data set of the hub at a revision, without running any code that comes with it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cl_mlm.data import from_hub
from cl_mlm.errors import ConfigError, DataError

if TYPE_CHECKING:
    from datasets import DatasetDict


def open_hub(dataset: str, subset: str | None, revision: str | None, key: str, remedy: str) -> DatasetDict:
    """Returns all splits of a data set of the hub.

    Args:
        dataset: its id.
        subset: one of its configurations; None: its only one.
        revision: a commit or branch; None: the newest.
        key: the key of the stream section that messages name where there is no such configuration.
        remedy: ends the message where the hub is out of reach: what the user can do instead.

    Raises:
        ConfigError: there is no such configuration.
        DataError: the hub is out of reach, or the data set cannot be read without running its code.
    """
    from datasets import load_dataset

    def read() -> DatasetDict:
        whole: DatasetDict = load_dataset(dataset, subset, revision=revision)
        return whole

    try:
        return read() if Path(dataset).exists() else from_hub(read)
    except (OSError, RuntimeError) as error:  # the hub's own errors are kinds of OSError; RuntimeError: a script
        at = "its newest revision" if revision is None else revision
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(f"{dataset} at {at}: cannot be read from the hub: {reason}; {remedy}") from error
    except ValueError as error:  # no such configuration
        raise ConfigError(f"{key}: {dataset!r} cannot be read: {str(error).splitlines()[0]}") from error


def with_names(column: Sequence[Any], feature: object) -> list[Any]:
    """Returns the values of a column of the hub with class numbers, also those in lists, as names; -1 becomes None."""
    from datasets import ClassLabel

    if isinstance(feature, ClassLabel):
        names: list[str] = feature.names
        return [None if code is None or code < 0 else names[code] for code in column]
    inner = getattr(feature, "feature", None)
    if isinstance(inner, ClassLabel):
        return [None if codes is None else with_names(codes, inner) for codes in column]
    return list(column)
