"""Predicting new rows with a finished run, and modules of one's own."""

import shutil
from pathlib import Path

from tests.odd_inputs.case import CONFIG, Case, Files, data

OWN = "from cl_mlm.strategy import Strategy\n\n\nclass Mine(Strategy):\n    pass\n"


def finished(path: Path) -> None:
    """Writes a finished run of the case's config to `path`."""
    import cl_mlm

    shutil.move(cl_mlm.run("config.yaml", progress=False).folder, path)


def run(**files: str) -> Files:
    """Returns data, config, a finished run `run`, and further files by their names with `_` for the dot."""
    more = {name.replace("_", "."): text for name, text in files.items()}
    return {**data(), "run": finished, **more}


CASES = [
    Case(
        given="predict: a text",
        says="a red text",
        code=0,
        command=("predict", "run", "a red text"),
        files=run(),
    ),
    Case(
        given="predict: an empty text",
        says="rows: text must be a non-empty string, got '' in row 1 (1 such rows)",
        command=("predict", "run", "a red text", ""),
        files=run(),
    ),
    Case(
        given="predict: two runs, as a shell makes of `runs/x/replay-*`",
        says="predict: asks one run, got run, run2",
        command=("predict", "run", "run2", "a text"),
        files=run() | {"run2/config.yaml": CONFIG},
    ),
    Case(
        given="predict: `--encoding` without a file",
        says="--encoding: is that of --file, which is not given; got 'latin-1'",
        command=("predict", "run", "a text", "--encoding", "latin-1"),
        files=run(),
    ),
    Case(
        given="predict: neither texts nor a file",
        says="predict: needs texts, or --file with rows: one of the two, got neither",
        command=("predict", "run"),
        files=run(),
    ),
    Case(
        given="predict: a folder that is no run",
        says="data: holds no run (no config.yaml)",
        command=("predict", "data", "a text"),
        files=data(),
    ),
    Case(
        given="predict: the folder of all runs",
        says="work: holds no run (no config.yaml); runs lie below (1), such as work/run",
        command=("predict", "work", "a text"),
        files={**data(), "work/run": finished},
    ),
    Case(
        given="predict: a run that is not finished",
        says="half: is not finished; `cl-mlm resume half` goes on with it",
        command=("predict", "half", "a text"),
        files={**data(), "half/config.yaml": CONFIG},
    ),
    Case(
        given="predict: a stage that the run has not",
        says="stage: must be -2 to 1, got 5",
        command=("predict", "run", "a text", "--stage", "5"),
        files=run(),
    ),
    Case(
        given="predict: a stage whose model is not kept",
        says="not kept; run with checkpoint.keep_stages=all (kept: stage 1)",
        command=("predict", "run", "a text", "--stage", "0"),
        files=run(),
    ),
    Case(
        given="predict: a file that lacks the column",
        says="no column 'text'; columns: sentence",
        command=("predict", "run", "--file", "new.csv"),
        files=run(new_csv="sentence\na red text\n"),
    ),
    Case(
        given="predict: a file that is not there",
        says="none.csv: no such file",
        command=("predict", "run", "--file", "none.csv"),
        files=run(),
    ),
    Case(
        given="predict: an output of another kind",
        says="--output: must end in .csv or .jsonl, got 'new.xlsx'",
        command=("predict", "run", "a text", "--output", "new.xlsx"),
        files=run(),
    ),
    Case(
        given="predict: an output over its own input",
        says="--output: must not be the file that is read, got 'new.csv'",
        command=("predict", "run", "--file", "new.csv", "--output", "new.csv"),
        files=run(new_csv="text\na red text\n"),
    ),
    Case(
        given="a strategy of one's own beside the config, used from elsewhere",
        says="good to run",
        code=0,
        command=("check", "sub/config.yaml", "strategies=[odd_beside.Mine]"),
        files={**data(), "sub/config.yaml": CONFIG, "sub/odd_beside.py": OWN},
    ),
    Case(
        given="a strategy of one's own that is nowhere",
        says="a module of your own is found beside the config, in the working folder, and in the folders that the key",
        command=("check", "config.yaml", "strategies=[odd_nowhere.Mine]"),
        files=data(),
    ),
    Case(
        given="a module of one's own named like an installed one",
        says="json.py cannot be meant by it; give that file another name",
        command=("check", "config.yaml", "strategies=[json.Mine]"),
        files={**data(), "json.py": OWN},
    ),
    Case(
        given="a strategy's file with a typing error",
        says="odd_typo.py:3: SyntaxError: invalid syntax",
        command=("check", "config.yaml", "strategies=[odd_typo.Mine]"),
        files={**data(), "odd_typo.py": "import math\n\nclass Mine(:\n"},
    ),
    Case(
        given="a strategy's file without that class",
        says="odd_named.py has no 'Min' (did you mean 'Mine'?)",
        command=("check", "config.yaml", "strategies=[odd_named.Min]"),
        files={**data(), "odd_named.py": OWN},
    ),
    Case(
        given="a strategy that is a function",
        says="must be a subclass of cl_mlm.Strategy, got <function Mine",
        command=("check", "config.yaml", "strategies=[odd_function.Mine]"),
        files={**data(), "odd_function.py": "def Mine():\n    pass\n"},
    ),
]
