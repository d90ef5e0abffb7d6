"""The MLflow store, arms, and comparing runs."""

import json
import math

from tests.odd_inputs.case import CONFIG, Case, data

ARMS = CONFIG + "arms: {small: {training: {steps: 1}}, //: {}}\n"


def summary(label="naive", limit=None, rows="a", seed=0, **more):
    """Returns the `summary.json` of a finished run, as far as a comparison reads it."""
    values = {
        "label": label,
        "seed": seed,
        "settings": {"strategies": {label: {}}, "limit": limit},
        "stream": {"name": "toy", "fingerprint": rows * 64, "stages": ["one"]},
        "columns": ["one"],
        "home": [0],
        "accuracy_matrix": [[0.5]],
        "metrics": {"average_accuracy": 0.5, "forgetting": None},
        "cost": {"train_seconds": 1.0, "eval_seconds": 1.0},
    }
    return json.dumps({**values, **more})


CASES = [
    Case(
        given="`cl-mlm ui` in a folder without a store",
        says="mlflow.db: no such file, so there are no runs to show",
        command=("ui", "--uri", "sqlite:///mlflow.db", "--no-browser"),
    ),
    Case(
        given="`cl-mlm ui` on a store without runs",
        says="holds no runs; `cl-mlm run` tracks runs in mlflow.db",
        command=("ui", "--no-browser"),
    ),
    Case(
        given="`cl-mlm ui` on an empty file",
        says="a.db: must be an MLflow store, got a file without its tables",
        command=("ui", "--uri", "sqlite:///a.db"),
        files={"a.db": b""},
    ),
    Case(
        given="`cl-mlm ui` on a file that is no database",
        says="a.db: must be an MLflow store, got a file that SQLite cannot read",
        command=("ui", "--uri", "sqlite:///a.db"),
        files={"a.db": "text " * 999},
    ),
    Case(
        given="`cl-mlm ui` on a folder",
        says="tracking.uri: must be a server (http://host:5000) or a database",
        command=("ui", "--uri", "./mlruns"),
    ),
    Case(
        given="`cl-mlm ui` on a server that is away, with a password in its address",
        says="tracking server http://127.0.0.1:9 not reachable: ",
        command=("ui", "--uri", "http://me:secret@127.0.0.1:9"),
    ),
    Case(
        given="`cl-mlm ui` on a port that there is not",
        says="Input should be less than or equal to 65535",
        command=("ui", "--port", "70000"),
    ),
    Case(
        given="`cl-mlm sync` of a folder that is no run",
        says="data: must be a run folder, got one without journal.jsonl",
        command=("sync", "data"),
        files=data(),
    ),
    Case(
        given="`cl-mlm sync` of a damaged journal",
        says="must be a JSON line",
        command=("sync", "run"),
        files={"run/journal.jsonl": "{\n"},
    ),
    Case(
        given="an arm whose name has no letter and no digit",
        says="arm: must hold a letter or a digit, for folders are named after it, got '//'",
        command=("check", "config.yaml", "--arm", "//"),
        files=data(config=ARMS),
    ),
    Case(
        given="the key `arm` beside `arms`",
        says="arm: must not be set where a config has `arms`; --arm chooses one of them, got 'small'",
        command=("check", "config.yaml", "arm=small"),
        files=data(config=ARMS),
    ),
    Case(
        given="`compare` of a folder that is not there",
        says="runs: no such folder",
        command=("compare", "runs"),
    ),
    Case(
        given="`compare` of a folder without a finished run",
        says="data: no finished run (summary.json)",
        command=("compare", "data"),
        files=data(),
    ),
    Case(
        given="`compare` of full runs and smoke runs",
        says="left out, for smoke runs (limit) are no results: 1: smoke",
        code=0,
        command=("compare", "runs"),
        files={"runs/full/summary.json": summary(), "runs/smoke/summary.json": summary("joint", limit=20)},
    ),
    Case(
        given="`compare` of runs on two streams",
        says="2 tables: the runs differ in stream rows or columns",
        code=0,
        command=("compare", "runs"),
        files={"runs/1/summary.json": summary(), "runs/2/summary.json": summary(rows="b")},
    ),
    Case(
        given="`compare` of a summary that contradicts itself",
        says="summary.json: is damaged",
        command=("compare", "runs"),
        files={"runs/1/summary.json": summary(home=[0, 1])},
    ),
    Case(
        given="`compare` of a summary with NaN among its scores",
        says="summary.json: cannot be read as a summary: must hold no NaN",
        command=("compare", "runs"),
        files={"runs/1/summary.json": summary(accuracy_matrix=[[math.nan]]), "runs/2/summary.json": summary()},
    ),
    Case(
        given="`compare` of a summary whose scores are texts",
        says="accuracy_matrix: row 0, column 0 must be a score of 0-1 or null, got '0.5'",
        command=("compare", "runs"),
        files={"runs/1/summary.json": summary(accuracy_matrix=[["0.5"]]), "runs/2/summary.json": summary()},
    ),
    Case(
        given="`predict` with a run whose summary is a list",
        says="summary.json: is damaged: must be an object, got [1, 2]",
        command=("predict", "runs/1", "a text"),
        files={"runs/1/summary.json": "[1, 2]", "runs/1/config.yaml": CONFIG},
    ),
]
