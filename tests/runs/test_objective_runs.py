"""Whole runs of two stages for questions, numbers and sets of labels: any family, any strategy, also when killed."""

import json
import signal

import pytest
from killing import die_at

import cl_mlm

TOPICS = {"sky": ["sun", "moon", "star", "cloud"], "sea": ["fish", "wave", "salt", "boat"]}
SIZES = {"train": 8, "validation": 3, "test": 4}


def question(topic, word, i, split):
    context = " ".join(f"{w} is number {n} of {split} {i} in the {topic}." for n, w in enumerate(TOPICS[topic] * 2))
    answer = f"number {TOPICS[topic].index(word)}"
    start = context.index(answer)
    return {"context": context, "question": f"what is {word}?", "answers": {"text": [answer], "answer_start": [start]}}


def number(topic, word, i, split):
    return {"text": f"{word} {split} {i} {topic}", "value": TOPICS[topic].index(word) / 4 + (topic == "sea")}


def labels(topic, word, i, split):
    return {"text": f"{word} {split} {i} {topic}", "labels": [word, topic][: i % 3]}


MAKERS = {"question_answering": question, "regression": number, "multilabel": labels}
OPTIONS = {"question_answering": {"stride": 16}}
BOTH = {"replay": {"capacity": 6}, "ewc": {"weight": 10.0, "fisher": "empirical"}}
STRATEGIES = {"naive": ["naive"], "replay+ewc": BOTH, "lwf": {"lwf": {"weight": 1.0}}}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder for each objective with a sub-folder for each topic."""
    root = tmp_path_factory.mktemp("objectives")
    for objective, make in MAKERS.items():
        for topic, words in TOPICS.items():
            folder = root / objective / topic
            folder.mkdir(parents=True)
            for split, size in SIZES.items():
                rows = [make(topic, words[i % 4], i, split) for i in range(size)]
                (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


@pytest.fixture
def settings(fast, data, model_folder, tmp_path):
    def make(objective, model, strategies, output="runs"):
        stream = {
            "name": "files",
            "path": str(data / objective),
            "stages_by": "files",
            "order": list(TOPICS),
            "objective": objective,
            "options": OPTIONS.get(objective, {}),
        }
        stream |= {"scenario": "class_incremental"} if objective == "multilabel" else {}
        training = {**fast["training"], "epochs": 2, "max_length": 64}
        return fast | {
            "stream": stream,
            "model": {"name": model if model.startswith("tiny") else model_folder(model), "dropout": 0.1},
            "training": training,
            "strategies": STRATEGIES[strategies],
            "checkpoint": {"every_steps": 3, "every_minutes": None, "reuse_stages": 0},
            "output": str(tmp_path / output),
        }

    return make


RUNS = [(o, m, "replay+ewc") for o in MAKERS for m in ("bert", "gpt2", "llama", "t5")]
RUNS += [(o, "bert", "naive") for o in MAKERS]
RUNS += [(o, m, "lwf") for o in ("question_answering", "multilabel") for m in ("bert", "gpt2")]
REST = [(o, m, "naive") for o in MAKERS for m in ("gpt2", "llama", "t5")]
REST += [(o, m, "lwf") for o in ("question_answering", "multilabel") for m in ("llama", "t5")]


@pytest.mark.parametrize(
    ("objective", "model", "strategies"), [*RUNS, *(pytest.param(*run, marks=pytest.mark.slow) for run in REST)]
)
def test_two_stages_are_trained_and_scored(objective, model, strategies, settings):
    result = cl_mlm.run(settings(objective, model, strategies), progress=False)
    scores = result.matrix[[0, 1, 1], [0, 0, 1]]
    assert ((scores >= 0) & (scores <= 1)).all()
    points = [json.loads(line) for line in (result.folder / "journal.jsonl").read_text().splitlines()]
    logged = {name for point in points if point["kind"] == "metrics" for name in point["values"]}
    terms = {"naive": set(), "replay+ewc": {"train/loss/memory", "train/term/ewc"}, "lwf": {"train/term/lwf"}}
    assert terms[strategies] <= logged
    extra = {"question_answering": "exact_match", "regression": "spearman", "multilabel": "macro_f1"}
    assert f"test/{extra[objective]}" in logged


def test_distillation_starts_at_zero_and_grows(settings):
    for objective in ("question_answering", "multilabel"):
        layer = settings(objective, "bert", "lwf")
        layer["model"]["dropout"] = 0.0
        result = cl_mlm.run(layer, progress=False)
        points = [json.loads(line) for line in (result.folder / "journal.jsonl").read_text().splitlines()]
        terms = [p["values"]["train/term/lwf"] for p in points if "train/term/lwf" in p.get("values", {})]
        assert terms[0] == pytest.approx(0, abs=1e-6)
        assert 0 < max(terms) < float("inf")


def test_predictions_are_kept_as_texts_numbers_and_sets(settings):
    import pyarrow.parquet as pq

    kept = {}
    for objective in MAKERS:
        result = cl_mlm.run(settings(objective, "bert", "naive"), progress=False)
        kept[objective] = pq.read_table(result.folder / "predictions" / "1.parquet").to_pydict()
        assert (result.folder / "per_class.csv").is_file() == (objective == "multilabel")
    contexts = [question(topic, words[i % 4], i, "test") for topic, words in TOPICS.items() for i in range(4)]
    answers = kept["question_answering"]
    assert all(answer and answer in row["context"] for answer, row in zip(answers["prediction"], contexts, strict=True))
    assert answers["reference"] == [row["answers"]["text"] for row in contexts]
    assert kept["regression"]["reference"] == [0, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 1.75]
    assert kept["multilabel"]["reference"][:3] == [[], ["moon"], ["sky", "star"]]


@pytest.mark.parametrize("objective", MAKERS)
def test_tiny_learns_its_rows(objective, settings):
    layer = settings(objective, "tiny", "naive")
    layer["stream"]["order"] = ["sky"]
    layer["training"] |= {"steps": 60, "batch_size": 8, "learning_rate": 2e-3, "patience": None}
    layer["checkpoint"] |= {"every_steps": None}
    layer["evaluation"] = {"splits": ["test"]}
    layer["model"]["dropout"] = 0.0
    score = cl_mlm.run(layer, progress=False).matrix[0, 0]
    assert score > {"question_answering": 0.9, "regression": 0.9, "multilabel": 0.5}[objective]


@pytest.mark.parametrize(("strategies", "fault"), [("lwf", "strategies.lwf.weight"), ("ewc", "strategies.ewc.fisher")])
def test_strategies_that_need_classes_are_refused_for_numbers(strategies, fault, settings):
    layer = settings("regression", "bert", "naive") | {"strategies": {strategies: {}}}
    with pytest.raises(cl_mlm.ConfigError, match=fault.replace(".", r"\.")):
        cl_mlm.run(layer, progress=False)


@pytest.mark.parametrize(
    ("objective", "strategies", "step"),
    [("question_answering", "lwf", 7), ("regression", "replay+ewc", 8), ("multilabel", "replay+ewc", 6)],
)
def test_a_run_that_is_killed_ends_as_if_it_had_not_been(objective, strategies, step, settings):
    import torch
    from safetensors.torch import load_file

    whole = cl_mlm.run(settings(objective, "bert", strategies, "whole"), progress=False)
    layer = settings(objective, "bert", strategies, "cut")
    assert die_at(step, lambda: cl_mlm.run(layer, progress=False)) == -signal.SIGKILL
    cut = cl_mlm.run(layer, progress=False)
    assert repr(cut.summary["accuracy_matrix"]) == repr(whole.summary["accuracy_matrix"])
    first, second = (load_file(r.folder / "stages" / "001" / "model" / "model.safetensors") for r in (whole, cut))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
