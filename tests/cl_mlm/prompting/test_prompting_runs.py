"""Whole runs with prompts beside fine-tuning: recorded, journalled, gone on with, shared, asked again later."""

import json
import math
import signal

import pytest
from datasets import Dataset
from killing import die_at

import cl_mlm
from cl_mlm.results.comparison import compare
from cl_mlm.results.run_report import prompting_tables
from cl_mlm.stream import Stage, Stream

TEMPLATE = "{{ source }}\nOutput:"
PROMPTING = {"template": TEMPLATE, "delimiter": "\n", "shots": [0, 2]}


pytestmark = pytest.mark.usefixtures("fresh_process")


@pytest.fixture
def go(fast, tmp_path):
    def go(name="tiny-decoder", prompting=PROMPTING, folder="runs", stream=None, steps=4, **settings):
        config = {key: value for key, value in fast.items() if key != "stream" or stream is None} | {
            "output": str(tmp_path / folder),
            "model": {"name": name, "dropout": 0.0},
            "prompting": prompting,
            "checkpoint": {"every_steps": 2, "every_minutes": None, "reuse_stages": 0, "keep_stages": "all"},
            "training": {**fast["training"], "steps": steps, "learning_rate": 3e-3},
            **settings,
        }
        if stream is None:
            config["stream"] = {**fast["stream"], "as_text": True}
        return cl_mlm.run(config, stream=stream, progress=False)

    return go


def reading(kind="causal"):
    def rows(split, count):
        return Dataset.from_dict({"text": [f"{split} snow {i} is cold" for i in range(count)]})

    stage = Stage("texts", rows("a", 8), rows("b", 2), rows("c", 2), (), "lm", "language_modelling", {"kind": kind})
    return Stream("texts", (stage,), "domain_incremental")


def test_a_run_scores_prompts_before_training_and_after_every_stage(go, tmp_path):
    found = go(steps=40)
    section = found.summary["prompting"]
    assert section["columns"] == ["labels-01", "labels-02"]
    assert list(section["shots"]) == ["0", "2"]
    for rows in section["shots"].values():
        assert len(rows) == 3
        assert all(0 <= score <= 1 for row in rows for score in row)
    assert section["shots"]["0"][1][0] > section["shots"]["0"][0][0], "a trained stage is not prompted better"
    lines = [json.loads(line) for line in (found.folder / "journal.jsonl").read_text().splitlines()]
    points = [(key, line["step"]) for line in lines if line["kind"] == "metrics" for key in line["values"]]
    for shots in (0, 2):
        for name in ("labels-01", "labels-02"):
            assert (f"baseline_prompt/{shots}-shot/{name}", 0) in points
            assert [step for key, step in points if key == f"prompt/{shots}-shot/{name}"] == [0, 1]
    table = (found.folder / "prompting_0-shot.csv").read_text().splitlines()
    assert [line.partition(",")[0] for line in table] == ["stage", "(before training)", "labels-01", "labels-02"]
    (table,) = prompting_tables(found.summary)
    assert table.row_count == 3
    # What was measured within the run comes again from what it kept.
    for stage, row in (("untrained", 0), (0, 1), ("last", 2)):
        later = found.prompt(stage=stage)
        assert dict(later.values["shots"].items()) == {k: v[row] for k, v in section["shots"].items()}
        assert json.loads(later.path.read_text()) == later.values
    other = cl_mlm.prompt(found.folder, "normalise=bytes", "per_class=true", shots=[1])
    assert list(other.values["shots"]) == ["1"]
    assert other.values["num_labels"] == [4, 4]
    assert len(list((found.folder / "prompting").glob("*.json"))) == 4
    lines = compare(tmp_path / "runs").lines
    assert next(line for line in lines if "0-shot prompts" in line).startswith("naive: 0-shot prompts ")


def test_prompts_change_nothing_that_is_trained(go):
    assert go().summary["accuracy_matrix"] == go(prompting=None).summary["accuracy_matrix"]
    assert go(prompting=None).summary["prompting"] is None


def test_a_stage_that_another_run_trained_is_prompted_alike(go):
    alone = go(folder="alone")
    go(prompting=None, folder="shared", checkpoint={"reuse_stages": 1})
    shared = go(folder="shared", checkpoint={"reuse_stages": 1})
    assert [one["stage"] for one in shared.summary["reused"]] == ["labels-01"]
    assert shared.summary["prompting"]["shots"] == alone.summary["prompting"]["shots"]


@pytest.mark.parametrize("at", [3, 7])
def test_a_killed_run_has_the_same_prompts(go, at):
    whole = go(folder="whole")
    assert die_at(at, lambda: go(folder="cut")) == -signal.SIGKILL
    cut = go(folder="cut")
    assert cut.summary["prompting"] == whole.summary["prompting"]
    assert cut.summary["baseline"] == whole.summary["baseline"]


@pytest.mark.parametrize(
    ("name", "kind", "template"),
    [("tiny-decoder", "causal", "{{ text }} is"), ("tiny", "masked", "{{ text }} is {{ mask }}")],
)
def test_a_language_model_is_prompted_on_a_set_that_it_is_not_trained_on(go, fast, name, kind, template):
    data = {**fast["stream"]}
    asked = {"template": template, "shots": [0, 1], "per_class": True, "max_rows": 6, "data": data}
    found = go(name, asked, stream=reading(kind))
    section = found.summary["prompting"]
    assert section["columns"] == ["labels-01", "labels-02"]
    assert section["stream"]["name"] != "texts"
    assert [len(rows) for rows in section["shots"].values()] == [2, 2]
    assert found.summary["columns"] == ["texts"]


def test_an_encoder_decoder_is_prompted(go):
    section = go("tiny-encoder-decoder", {**PROMPTING, "normalise": "tokens", "split": "validation"}).summary[
        "prompting"
    ]
    assert all(0 <= score <= 1 for rows in section["shots"].values() for row in rows for score in row)


@pytest.mark.parametrize("name", ["tiny-decoder", "tiny-encoder-decoder"])
def test_texts_of_any_kind_are_written_and_scored_by_the_objectives_metric(go, name):
    def rows(split, count):
        return Dataset.from_dict({"source": [f"{split} {i}" for i in range(count)], "target": ["snow"] * count})

    options = {"max_new_tokens": 4, "metric": "chrf"}
    stage = Stage("words", rows("a", 8), rows("b", 2), rows("c", 4), (), "write", "text_to_text", options)
    stream = Stream("words", (stage,), "domain_incremental")
    found = go(name, {"templates": {"write": "{{ source }}\nOutput:\n"}, "shots": [0, 1]}, stream=stream, steps=60)
    assert found.summary["prompting"]["shots"]["0"][1][0] > found.summary["prompting"]["shots"]["0"][0][0]


def test_zero_shot_prompts_stand_in_for_a_missing_baseline(go):
    def stage(name, labels):
        def rows(split, count):
            texts = [f"{split} {label} {i}" for i in range(count) for label in labels]
            return Dataset.from_dict({"source": texts, "target": [*labels] * count})

        options = {"answers": ["red", "green", "blue"], "max_new_tokens": 3}
        return Stage(name, rows("a", 4), rows("b", 1), rows("c", 3), labels, "name", "text_to_text", options)

    stream = Stream("colours", (stage("one", ("red", "green")), stage("two", ("green", "blue"))), "class_incremental")
    without = go(prompting=None, stream=stream)
    assert without.summary["baseline"][1] is None
    assert without.summary["metrics"]["forward_transfer"] is None
    found = go(stream=stream)
    section = found.summary["prompting"]["shots"]["0"]
    assert found.summary["baseline"] == [without.summary["baseline"][0], section[0][1]]
    wanted = found.summary["accuracy_matrix"][0][1] - section[0][1]
    assert math.isclose(found.summary["metrics"]["forward_transfer"], wanted)
    assert any("two: its score before training is that of zero-shot prompts" in flag for flag in found.summary["flags"])
    # `two` is asked among the labels of both stages from the start, `one` among its own until `two` is trained.
    assert found.prompt(stage="untrained", stream=stream).values["num_labels"] == [2, 3]
    assert found.prompt(stage="last", stream=stream).values["num_labels"] == [3, 3]
