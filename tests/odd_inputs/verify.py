"""Verifying what runs have left."""

import json

from tests.odd_inputs.case import CONFIG, Case, data
from tests.odd_inputs.tracking import summary

HEAD = '{"time":1,"kind":"start","experiment":"odd","run_name":"1"}\n'


def lines(*more):
    """Returns a journal with these lines after the first one."""
    return HEAD + "".join(json.dumps({"time": 2, **line}) + "\n" for line in more)


CASES = [
    Case(
        given="`verify` of a folder that is not there",
        says="runs: no such folder",
        command=("verify", "runs"),
    ),
    Case(
        given="`verify` of a folder without a run",
        says="data: holds no run (no config.yaml, journal.jsonl or summary.json)",
        command=("verify", "data"),
        files=data(),
    ),
    Case(
        given="`verify` of a file",
        says="summary.json: no such folder",
        command=("verify", "runs/1/summary.json"),
        files={"runs/1/summary.json": summary()},
    ),
    Case(
        given="`verify` of a run of which only the summary is left",
        says="fault: journal.jsonl: is missing",
        code=1,
        command=("verify", "runs"),
        files={"runs/1/summary.json": summary()},
    ),
    Case(
        given="`verify` of a run whose config is a list",
        says="fault: config.yaml: must be a mapping of settings, got list",
        code=1,
        command=("verify", "runs/1"),
        files={"runs/1/config.yaml": "[1, 2]"},
    ),
    Case(
        given="`verify` of a summary that is a number",
        says="fault: summary.json: is damaged: must be an object, got 3",
        code=1,
        command=("verify", "runs/1"),
        files={"runs/1/config.yaml": CONFIG, "runs/1/summary.json": "3"},
    ),
    Case(
        given="`verify` of a journal with a line that is no JSON",
        says="fault: journal.jsonl: bytes 60-63 must be a JSON line",
        code=1,
        command=("verify", "runs/1"),
        files={"runs/1/config.yaml": CONFIG, "runs/1/journal.jsonl": HEAD + "no\n"},
    ),
    Case(
        given="`verify` of a journal with a status that there is not",
        says="has status 'DONE'",
        code=1,
        command=("verify", "runs/1"),
        files={"runs/1/journal.jsonl": lines({"kind": "status", "stage": None, "value": "DONE"})},
    ),
    Case(
        given="`verify` of a journal with a point of a stage that has not started",
        says="has stage 4, which has not started",
        code=1,
        command=("verify", "runs/1"),
        files={"runs/1/journal.jsonl": lines({"kind": "metrics", "stage": 4, "step": 1, "values": {"a": 1.0}})},
    ),
    Case(
        given="`verify` of a journal whose point is a text",
        says="has train/loss 'low'",
        code=1,
        command=("verify", "runs/1"),
        files={
            "runs/1/journal.jsonl": lines(
                {"kind": "metrics", "stage": None, "step": 1, "values": {"train/loss": "low"}}
            )
        },
    ),
]
