"""Collects the faults of a file, and sums up those that many lines have in common."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cl_mlm.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

MAX_FAULTS = 20  # kinds of fault that are told of one file
STOP_AFTER = 10_000  # faults: a hopeless file is not read to its end
SHOWN = 3  # so many lines of one kind are told one by one, or as the first ones of many
ROW_FORMATS = (".parquet", "")  # what has rows in place of lines: Parquet, and a folder


@dataclass
class Tally:
    """How often something was found, and where first.

    Attributes:
        count: how often.
        first: the first lines, at most SHOWN, each with what is special about it.
    """

    count: int = 0
    first: list[tuple[int, str]] = field(default_factory=list)

    def add(self, line: int, detail: str = "") -> None:
        """Counts one more."""
        self.count += 1
        if len(self.first) < SHOWN:
            self.first.append((line, detail))

    def places(self, unit: str) -> str:
        """Returns `first at lines 3, 9, 14`, or `at line 3` where that is all."""
        lines = ", ".join(str(line) for line, _ in self.first)
        start = "first at" if self.count > len(self.first) else "at"
        return f"{start} {unit}{'s' if len(self.first) > 1 else ''} {lines}"


class FileFaults:
    """Faults of one file; raises them as soon as there are too many to read on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.num = 0
        self.unit = "row" if path.suffix.lower() in ROW_FORMATS else "line"
        self.counts_items = False
        self._of_file: list[str] = []
        self._of_lines: dict[str, Tally] = {}
        self._together: set[str] = set()
        self._remedies: dict[str, str] = {}

    def add(self, line: int | None, what: str, detail: str = "", *, remedy: str = "", together: bool = False) -> None:
        """Adds a fault.

        Args:
            line: where it is; None: of the whole file.
            what: the kind of fault, the same words for every line that has it.
            detail: what is special about this line, with the punctuation that goes before it (`, got 3`).
            remedy: of this kind of fault, told once.
            together: whether two lines are enough to be summed up, as they are where they have the same detail.

        Raises:
            DataError: this is one fault too many.
        """
        self.num += 1
        if together:
            self._together.add(what)
        if line is None:
            self._of_file.append(f"{self.path}: {what}{detail}")
        else:
            self._of_lines.setdefault(what, Tally()).add(line, detail)
            self._remedies[what] = f"; {remedy}" if remedy else self._remedies.get(what, "")
        if self.num == STOP_AFTER:
            raise DataError([*self.problems(), f"{self.path}: stopped after {STOP_AFTER:,} faults"])
        if len(self._of_lines) > MAX_FAULTS:
            raise DataError([*self.problems(), f"{self.path}: stopped after {MAX_FAULTS} kinds of fault"])

    def problems(self) -> list[str]:
        """Returns a line for each fault; a fault of more than SHOWN lines is one line with their number."""
        told: list[tuple[int, str]] = []
        for what, tally in self._of_lines.items():
            line, detail = tally.first[0]
            is_same = bool(detail) and all(text == detail for _, text in tally.first)
            if tally.count <= (1 if is_same or what in self._together else SHOWN):
                place = f"{self.path}: row " if self.counts_items else f"{self.path}:"
                lines = [(number, f"{place}{number}: {what}{text}") for number, text in tally.first]
                told += [(lines[0][0], f"{lines[0][1]}{self._remedies[what]}"), *lines[1:]]
            else:
                example = f"; {self.unit} {line}: {detail.lstrip(':, ')}" if detail else ""
                places = f"{tally.places(self.unit)}{example}{self._remedies[what]}"
                told.append((line, f"{self.path}: {what} in {tally.count:,} rows, {places}"))
        return [text for _, text in sorted(told, key=lambda item: item[0])] + self._of_file

    def count_items(self) -> None:
        """Says that places are the rows of a file that has many of them in one line."""
        self.unit, self.counts_items = "row", True

    def raise_any(self) -> None:
        """Raises DataError where there are faults."""
        if self.num:
            raise DataError(self.problems())


def same_in_many(problems_of: Mapping[str, Sequence[str]], most: int = SHOWN) -> list[str]:
    """Returns the problems of all places; one that more than `most` places have is told once, with the others' names.

    Args:
        problems_of: by place (a path), its problems, each of which begins with the place.
        most: how often the same is told.
    """
    places: dict[str, list[str]] = {}
    for place, problems in problems_of.items():
        for problem in problems:
            places.setdefault(problem.removeprefix(place), []).append(place)
    told = []
    for text, having in places.items():
        if len(having) <= most:
            told += [f"{place}{text}" for place in having]
            continue
        others = ", ".join(place.rpartition("/")[2] for place in having[1 : SHOWN + 1])
        more = ", ..." if len(having) > SHOWN + 1 else ""
        told.append(f"{having[0]}{text} (the same in {len(having) - 1} more: {others}{more})")
    return told
