"""`Case`: one bad or odd input, what the command line says to it, and its exit code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

Files = dict[str, "str | bytes | Callable[[Path], None]"]

# A config that each case may build on: four labels, a model without download.
CONFIG = """\
experiment: odd
stream: {name: files, path: data, labels_per_stage: 2, order_seed: null}
model: {name: tiny}
training: {steps: 2, batch_size: 4, learning_rate: 1e-3, max_length: 32}
"""
ROWS = "text,label\n" + "".join(
    f"a {word} {i},{word}\n" for word in ("red", "blue", "green", "grey") for i in range(20)
)


@dataclass(frozen=True)
class Case:
    """One line of the table in docs/odd_inputs.md.

    Attributes:
        given: the input, in words, as the table shows it.
        says: what the output must hold, as the table shows it; white space is folded.
        code: the exit code.
        command: arguments of `cl-mlm`, run in an empty folder that holds `files`.
        files: path -> content, or a function that writes to that path.
        before: command lines that run first, each of which must end with 0.
        edits: as `files`, written after `before`.
    """

    given: str
    says: str
    code: int = 2
    command: tuple[str, ...] = ("check", "config.yaml")
    files: Files = field(default_factory=dict)
    before: tuple[tuple[str, ...], ...] = ()
    edits: Files = field(default_factory=dict)


def data(train: str = ROWS, test: str | None = None, config: str = CONFIG) -> Files:
    """Returns the files of a case whose data are CSV; without `test`, other rows of the same four labels."""
    own = ROWS.replace("\na ", "\nb ") if test is None else test
    return {"config.yaml": config, "data/train.csv": train, "data/test.csv": own}
