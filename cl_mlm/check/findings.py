"""What a look at a run folder has found: what is whole, what is not and how it is mended, and what must be known."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cl_mlm.tracking.shell import shell_line

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

MOST_ALIKE = 5  # faults of one part that are told one by one


@dataclass(frozen=True)
class Fault:
    """One thing that is not as the run wrote it.

    Attributes:
        what: file or part, and what is wrong with it.
        way_out: what mends it.
    """

    what: str
    way_out: str


@dataclass
class Findings:
    """What a look at the folder of one run has found.

    Attributes:
        folder: of the run.
        state: `finished`, or how far the run has come.
        lines: a line for each part that was looked at.
        faults: what is missing, damaged, or contradicts another part.
        notes: what could not be compared, and why.
    """

    folder: Path
    state: str = ""
    lines: list[str] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def is_whole(self) -> bool:
        """Whether no fault was found."""
        return not self.faults

    def add(self, part: str, seen: str, faults: Sequence[str] = (), way_out: str = "") -> None:
        """Adds the line of a part, and its faults: of many the first ones, and how many more there are.

        Args:
            part: its name.
            seen: how much of it there is.
            faults: what is wrong with it.
            way_out: what mends it.
        """
        number = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        self.lines.append(f"{part}: {', '.join(filter(None, [seen, number if faults else 'whole']))}")
        more = [f"{part}: {len(faults) - MOST_ALIKE} more of this kind"] if len(faults) > MOST_ALIKE else []
        self.faults += [Fault(what, way_out) for what in [*faults[:MOST_ALIKE], *more]]

    def resume(self) -> str:
        """Returns what makes again what follows from the rest."""
        return f"`{shell_line('cl-mlm', 'resume', self.folder)}` makes it again from what is kept"

    def again(self) -> str:
        """Returns what makes the whole run anew."""
        again = shell_line("cl-mlm", "run", self.folder / "config.yaml", "--again")
        return f"bring it back as it was; or `{again}` makes the run anew beside it"

    def told(self) -> list[str]:
        """Returns everything in lines: the folder, its parts, then every fault with what mends it, then the notes."""
        number = "1 fault" if len(self.faults) == 1 else f"{len(self.faults)} faults"
        told = [f"{self.folder}: {self.state}, {number if self.faults else 'nothing is damaged'}"]
        told += [f"  {line}" for line in self.lines]
        for fault in self.faults:
            told += [f"  fault: {fault.what}", f"    {fault.way_out}"]
        return told + [f"  note: {note}" for note in self.notes]
