"""Whole runs with the section `probes`: KL divergence from the base model after every stage, resumed to the bit."""

import json
import signal

import pytest
from killing import die_at

import cl_mlm

TEXT = "the long way round the hill and back again, one and two and three\n" * 3

pytestmark = pytest.mark.usefixtures("fresh_process")


@pytest.fixture
def go(fast, tmp_path):
    (tmp_path / "held_out.txt").write_text(TEXT)

    def go(folder="runs", probes=None, **settings):
        config = fast | {
            "output": str(tmp_path / folder),
            "model": {"name": "tiny-decoder", "dropout": 0.0},
            "stream": {**fast["stream"], "as_text": True},
            "probes": {"kl": {"text": str(tmp_path / "held_out.txt"), "max_rows": 4}} if probes is None else probes,
            "checkpoint": {"every_steps": 2, "every_minutes": None, "reuse_stages": 0},
            "training": {**fast["training"], "steps": 3, "learning_rate": 3e-3},
            "evaluation": {"splits": ["validation"]},
            **settings,
        }
        return cl_mlm.run(config, progress=False)

    return go


def test_divergence_is_told_after_every_stage_and_comes_again_after_a_kill(go):
    whole = go("whole")
    readings = whole.summary["readings"]
    assert [*readings] == ["kl/task", "kl/text"]
    for values in readings.values():
        assert values[0] is None
        assert min(values[1:]) > 0
    lines = [json.loads(line) for line in (whole.folder / "journal.jsonl").read_text().splitlines()]
    told = [line["step"] for line in lines if line["kind"] == "metrics" and "kl/text" in line["values"]]
    assert told == [0, 1]
    assert (whole.folder / "readings.csv").read_text().startswith("stage,kl/task,kl/text\n(before training),,\n")
    assert die_at(5, lambda: go("cut")) == -signal.SIGKILL
    assert go("cut").summary["readings"] == readings


def test_every_second_stage_is_measured_and_the_last(go):
    found = go(probes={"kl": {}, "every": 3}, finetuning={"mode": "lora", "rank": 2})
    assert [value is None for value in found.summary["readings"]["kl/task"]] == [True, True, False]
