"""Disks that are full, folders that cannot be written or are not there."""

from pathlib import Path

from tests.odd_inputs.case import Case, data
from tests.odd_inputs.stale import unfinish

RUN = ("run", "config.yaml")


def full(path: Path) -> None:
    """Makes a file of which every write fails as on a full disk."""
    path.symlink_to("/dev/full")


def full_in_run(name: str):
    """Returns what makes a file of the one run there is such a file, and the run unfinished."""

    def make(path: Path) -> None:
        unfinish(path)
        (run,) = Path("runs/odd").glob("*-seed*")
        full(run / name)

    return make


def nowhere(path: Path) -> None:
    """Makes a link to a folder that is not there, as of a disk that is not mounted."""
    path.symlink_to(path.parent / "not mounted")


CASES = [
    Case(
        "`output` is a link to a disk that is not mounted",
        "runs is a link to a folder that is not there; make the folder writable, and the same command goes on",
        files=data() | {"runs": nowhere},
    ),
    Case(
        "the same, run",
        "error: output: cannot write 'runs/odd/naive-seed0-",
        2,
        RUN,
        data() | {"runs": nowhere},
    ),
    Case(
        "`output` is a file",
        "output: must be a folder, got 'runs' (",
        files=data() | {"runs": "no folder"},
    ),
    Case(
        "the disk fills up before training",
        "config.yaml': the disk is full (",
        2,
        RUN,
        data(),
        (RUN,),
        {"runs/odd": full_in_run(".config.yaml.tmp")},
    ),
    Case(
        "the disk fills up after training",
        "summary.json': the disk is full (",
        1,
        RUN,
        data(),
        (RUN,),
        {"runs/odd": full_in_run(".summary.json.tmp")},
    ),
    Case(
        "an MLflow store in a folder that may not be written, checked",
        "; the run does without, and cl-mlm sync sends its journal later",
        0,
        ("check", "config.yaml", "tracking.uri=sqlite:////sys/nowhere/mlflow.db"),
        data(),
    ),
    Case(
        "an MLflow store below a file",
        "rows.txt is a file, not a folder; the run does without, and cl-mlm sync sends its journal later",
        0,
        ("check", "config.yaml", "tracking.uri=sqlite:///rows.txt/mlflow.db"),
        data() | {"rows.txt": "a file"},
    ),
    Case(
        "answers of `predict` on a full disk",
        "--output: cannot write 'answers.csv': [Errno 28] No space left on device",
        2,
        ("predict", "runs/odd/run", "a red 3", "--output", "answers.csv"),
        data() | {"answers.csv": full},
        (RUN,),
        {"runs/odd/run": lambda path: path.symlink_to(next(Path("runs/odd").glob("*-seed*")).absolute())},
    ),
]
