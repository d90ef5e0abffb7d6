"""Data and code that were edited after a run."""

from pathlib import Path

from tests.odd_inputs.case import CONFIG, ROWS, Case, data

RUN = ("run", "config.yaml")
EDITED = ROWS.replace("a blue ", "a navy ")
MINE = "from cl_mlm.strategy import Strategy\nfrom rates import RATE\n\n\nclass Mine(Strategy):\n    rate = RATE\n"
OWN = data(config=f"{CONFIG}strategies: mine.Mine\n") | {"mine.py": MINE, "rates.py": "RATE = 1\n"}
FACTORY = """\
from cl_mlm.stream import Stream
from streams.files import files


def build(*, path: str) -> Stream:
    return files(path=path, labels_per_stage=2, order_seed=None)
"""
SECTION = "{name: files, path: data, labels_per_stage: 2, order_seed: null}"
BUILT = data(config=CONFIG.replace(SECTION, "{name: built.build, path: data}")) | {"built.py": FACTORY}


def unfinish(path: Path) -> None:
    """Takes the end of all runs away."""
    for summary in Path("runs").glob("*/*/summary.json"):
        summary.unlink()


CASES = [
    Case("nothing is edited after a run", "already finished (--again runs it once more)", 0, RUN, data(), (RUN,)),
    Case(
        "`train.csv` is edited after a run, its size stays",
        "is finished, but is not the result of what is there now, so a new run is made beside it: rows of labels-01",
        0,
        RUN,
        data(),
        (RUN,),
        {"data/train.csv": EDITED},
    ),
    Case(
        "rows are added to `test.csv` after a run",
        "a new run is made beside it: rows of labels-01 (test): fingerprint",
        0,
        RUN,
        data(),
        (RUN,),
        {"data/test.csv": data()["data/test.csv"] + "c blue one,blue\n"},
    ),
    Case(
        "a strategy's file is edited after a run",
        "a new run is made beside it: source of mine ",
        0,
        RUN,
        OWN,
        (RUN,),
        {"mine.py": MINE.replace("rate =", "speed =")},
    ),
    Case(
        "a module that a strategy's file imports is edited after a run",
        "a new run is made beside it: source of rates ",
        0,
        RUN,
        OWN,
        (RUN,),
        {"rates.py": "RATE = 2\n"},
    ),
    Case(
        "the function that builds the stream is edited after a run",
        "a new run is made beside it: source of built ",
        0,
        RUN,
        BUILT,
        (RUN,),
        {"built.py": FACTORY.replace("path=path", "path=str(path)")},
    ),
    Case(
        "`train.csv` is edited after an unfinished run",
        "cannot go on, for these are not what the run was started with: rows of the stream: fingerprint",
        2,
        RUN,
        data(),
        (RUN,),
        {"data/train.csv": EDITED, "runs/odd": unfinish},
    ),
    Case(
        "the same with `--again`",
        "-2/figures",
        0,
        (*RUN, "--again"),
        data(),
        (RUN,),
        {"data/train.csv": EDITED, "runs/odd": unfinish},
    ),
    Case(
        "a strategy's file is edited after an unfinished run",
        "`run --again` (in Python: again=True) makes a new run beside it; or delete the folder",
        2,
        RUN,
        OWN,
        (RUN,),
        {"mine.py": MINE + "\n", "runs/odd": unfinish},
    ),
    Case(
        "two runs of one config are compared",
        "same settings and seed as a later run, left out: runs/odd/naive-seed0-",
        0,
        ("compare", "runs/odd"),
        data(),
        (RUN, (*RUN, "--again")),
    ),
]
