"""Streams of several objectives: intents, then slots, then questions, each a head on one shared body."""

import json
import signal

import pytest
from killing import die_at

import cl_mlm
from cl_mlm.data.tasks import tasks_of
from cl_mlm.strategy import Strategy

KEYS = ["classification", "tagging", "question_answering"]
ARMS = {
    "naive": ["naive"],
    "replay+ewc": {"replay": {"capacity": 9}, "ewc": {"weight": 10.0}},
    "lwf": {"lwf": {"weight": 1.0}},
    "cumulative": ["cumulative"],
    "joint": ["joint"],
}


@pytest.fixture(scope="module")
def ran(layer, tmp_path_factory):
    """Finished runs, one for each arm, made when they are first asked for."""
    import torch

    folder, made = tmp_path_factory.mktemp("ran"), {}

    def get(arm):
        if arm not in made:
            torch.set_num_threads(1)
            made[arm] = cl_mlm.run(layer(folder / arm.replace("+", "-"), ARMS[arm]), progress=False)
        return made[arm]

    return get


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def weights(result, stage, task=None):
    return {name: value.clone() for name, value in result.model(stage, task).state_dict().items()}


def equal(one, two):
    import torch

    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def head(state):
    """Returns the part of a model's state that is not the body's."""
    return {name: value for name, value in state.items() if not name.startswith("bert.")}


def body(state):
    return {name: value for name, value in state.items() if name.startswith("bert.") and "pooler" not in name}


@pytest.mark.parametrize("arm", ARMS)
def test_three_objectives_are_trained_and_scored_on_one_body(arm, ran):
    import numpy as np

    result = ran(arm)
    assert list(result.summary["tasks"]) == KEYS
    last, known = result.matrix[-1], np.tril(np.ones((3, 3), dtype=bool))
    assert ((last >= 0) & (last <= 1)).all()
    if arm != "joint":  # questions have no labels: their head can be scored from the start
        assert (np.isfinite(result.matrix) == (known | np.array([False, False, True]))).all()
    points = [json.loads(line) for line in (result.folder / "journal.jsonl").read_text().splitlines()]
    logged = {name for point in points if point["kind"] == "metrics" for name in point["values"]}
    terms = {"replay+ewc": {"train/loss/memory", "train/term/ewc"}, "lwf": {"train/term/lwf"}}
    assert terms.get(arm, set()) <= logged
    if arm != "joint":
        assert {"test/macro_f1", "test/recall", "test/exact_match"} <= logged  # each stage's own objective
    assert [result.summary["baseline"][j] is None for j in range(3)] == [False, True, False]


def test_a_stage_leaves_the_other_heads_alone_and_moves_the_body(ran):
    """Naive: weight decay included."""
    result = ran("naive")
    first, second = weights(result, 0), weights(result, 1, "classification")
    assert equal(head(first), head(second))
    assert not equal(body(first), body(second))
    untrained = weights(result, 0, "question_answering")
    assert equal(head(untrained), head(weights(result, 1, "question_answering")))
    assert not equal(head(untrained), head(weights(result, 2)))


def test_replay_trains_the_heads_of_earlier_stages(ran):
    result = ran("replay+ewc")
    assert not equal(head(weights(result, 0)), head(weights(result, 1, "classification")))
    assert not equal(head(weights(result, 1)), head(weights(result, 2, "tagging")))


def test_every_folder_of_a_stage_holds_the_same_body_and_reloads(ran):
    import torch
    from transformers import AutoTokenizer, pipeline

    result = ran("replay+ewc")
    folder = result.folder / "stages" / "002"
    assert sorted(path.name for path in (folder / "models").iterdir()) == ["classification", "tagging"]
    states = [weights(result, 2, key) for key in KEYS]
    assert equal(body(states[0]), body(states[1]))
    assert equal(body(states[0]), body(states[2]))
    assert [any("pooler" in name for name in state) for state in states] == [True, False, False]
    tagger = pipeline("token-classification", str(folder / "models" / "tagging"))
    assert set(tagger.model.config.id2label.values()) == {"O", "B-sea", "I-sea", "B-sky", "I-sky"}
    classify = pipeline("text-classification", str(folder / "models" / "classification"))
    assert {classify(text)[0]["label"] for text in ("sun moon", "fish wave")} <= {"sky", "sea"}
    tokens = AutoTokenizer.from_pretrained(folder / "model")("what is sun?", "sun is 1 of the sky", return_tensors="pt")
    with torch.inference_mode():
        assert result.model(2)(**tokens).start_logits.shape == tokens["input_ids"].shape


def test_a_reloaded_head_gives_the_predictions_of_the_run(ran, three_objectives):
    import pyarrow.parquet as pq
    from transformers import pipeline

    result = ran("replay+ewc")
    table = pq.read_table(result.folder / "predictions" / "2.parquet").to_pylist()
    kept = [row for row in table if row["column"] == "classification"]
    classify = pipeline("text-classification", str(result.folder / "stages" / "002" / "models" / "classification"))
    texts = [row["text"] for row in rows_of(three_objectives / "classification" / "test.jsonl")]
    for found, row in zip(classify(texts), kept, strict=True):
        assert found["label"] == json.loads(row["prediction"])
        assert found["score"] == pytest.approx(row["probability"], abs=1e-5)


def test_predictions_of_several_types_are_kept_as_json_and_counted_by_task(ran):
    import csv

    import pyarrow.parquet as pq

    result = ran("naive")
    table = pq.read_table(result.folder / "predictions" / "2.parquet").to_pylist()
    kinds = {row["column"]: type(json.loads(row["prediction"])) for row in table}
    assert kinds == {"classification": str, "tagging": list, "question_answering": str}
    with (result.folder / "per_class.csv").open() as file:
        found = {(row["task"], row["label"]) for row in csv.DictReader(file)}
    assert found == {(task, label) for task in KEYS[:2] for label in ("sea", "sky")}


class Watch(Strategy):
    """Keeps the tasks of the micro-batches of every step, and whether the heads share the storage of their body."""

    def __init__(self):
        self.steps, self.shared = [], []

    def loss_terms(self, run, batch, outputs):
        self.steps.append((run.stage_index, run.epoch, batch.task, len(batch), batch.origin))
        models = [run.model.heads[key] for key in KEYS]
        places = {model.base_model.embeddings.word_embeddings.weight.data_ptr() for model in models}
        self.shared.append(len(places) == 1 and len({id(model.base_model) for model in models}) == 1)
        return {}


@pytest.fixture
def watched(layer, tmp_path, monkeypatch):
    """Runs an arm and returns what a watching strategy has seen beside it."""

    from cl_mlm.experiment import preparation

    made = preparation.make_strategies

    def work(strategies, **training):
        watch = Watch()
        monkeypatch.setattr(preparation, "make_strategies", lambda config: [*made(config), watch])
        monkeypatch.setattr(preparation, "check_composition", lambda strategies: None)
        cl_mlm.run(layer(tmp_path, strategies, training=training), progress=False)
        return watch

    return work


def test_joint_batches_hold_one_objective_and_an_epoch_every_row_once(watched):
    watch = watched(["joint"])
    assert all(watch.shared)
    sizes = {}
    for _, epoch, task, rows, _ in watch.steps:
        sizes.setdefault((epoch, task), []).append(rows)
    assert sizes.keys() == {(epoch, key) for epoch in range(2) for key in KEYS}
    assert all(sum(rows) == 10 and max(rows) == 4 for rows in sizes.values())
    order = [task for _, epoch, task, _, _ in watch.steps if epoch == 0]
    assert order != sorted(order, key=KEYS.index)  # the objectives alternate


def test_memory_batches_are_split_by_objective(watched):
    watch = watched({"replay": {"capacity": 20, "rows": 8}})
    by_task = [task for stage, _, task, _, origin in watch.steps if origin == "memory" and stage == 2]
    assert set(by_task) == set(KEYS[:2])
    assert all(task == KEYS[stage] for stage, _, task, _, origin in watch.steps if origin == "stage")


@pytest.mark.parametrize(("arm", "step"), [("replay+ewc", 9), ("lwf", 15), ("joint", 5)])
def test_a_run_that_is_killed_ends_as_if_it_had_not_been(arm, step, ran, layer, tmp_path):
    whole, settings = ran(arm), layer(tmp_path, ARMS[arm])
    assert die_at(step, lambda: cl_mlm.run(settings, progress=False)) == -signal.SIGKILL
    cut = cl_mlm.run(settings, progress=False)
    assert repr(cut.summary["accuracy_matrix"]) == repr(whole.summary["accuracy_matrix"])
    assert all(equal(weights(cut, 2, key), weights(whole, 2, key)) for key in KEYS)


@pytest.mark.parametrize("guard", ["replay", "lwf", "ewc"])
def test_with_weight_zero_the_run_is_naive_to_the_bit(guard, ran, layer, tmp_path):
    """Old heads are reached by gradients of zero; weight decay moves them no more than in naive fine-tuning."""
    first, second = cl_mlm.run(layer(tmp_path, {guard: {"weight": 0.0}}), progress=False), ran("naive")
    assert repr(first.summary["accuracy_matrix"]) == repr(second.summary["accuracy_matrix"])
    assert all(equal(weights(first, 2, key), weights(second, 2, key)) for key in KEYS)


def test_distillation_teaches_earlier_heads_and_keeps_them_nearer(layer, three_objectives, tmp_path):
    """Without dropout the term is zero in a stage's first step; on its rows the old head's answers change less."""
    import torch
    from transformers import AutoTokenizer

    far, texts = {}, [" ".join(row["tokens"]) for row in rows_of(three_objectives / "tagging" / "train.jsonl")]
    training = {"steps": 24, "epochs": 24, "batch_size": 10, "learning_rate": 5e-4, "weight_decay": 0.0}
    for weight in (0.0, 5.0):
        model = {"name": "tiny", "dropout": 0.0}
        settings = layer(tmp_path / str(weight), {"lwf": {"weight": weight}}, model=model, training=training)
        settings["stream"]["stages"] = settings["stream"]["stages"][:2]
        result = cl_mlm.run(settings, progress=False)
        points = [json.loads(line) for line in (result.folder / "journal.jsonl").read_text().splitlines()]
        terms = [p["values"]["train/term/lwf"] for p in points if "train/term/lwf" in p.get("values", {})]
        assert terms[0] == pytest.approx(0, abs=1e-5)
        assert (max(terms) > 1e-4) == (weight > 0)
        tokenizer = AutoTokenizer.from_pretrained(result.folder / "stages" / "001" / "model")
        tokens = {"input_ids": tokenizer(texts, return_tensors="pt", padding=True)["input_ids"]}
        with torch.inference_mode():
            before, after = (result.model(i, "classification")(**tokens).logits.log_softmax(-1) for i in (0, 1))
        far[weight] = float((before - after).abs().mean())
    assert far[5.0] < far[0.0] / 2


def test_an_unknown_task_is_told(ran):
    with pytest.raises(
        cl_mlm.ConfigError, match=r"task: must be one of classification, .* got 'taging' \(did you mean 'tagging'"
    ):
        ran("naive").model(0, "taging")


@pytest.mark.parametrize("strategies", [["naive"], {"lwf": {}, "replay": {"capacity": 6}}], ids=["naive", "lwf+replay"])
def test_the_same_stream_as_text_shares_one_model_that_writes(strategies, layer, tmp_path):
    settings = layer(tmp_path, strategies, model={"name": "tiny-decoder", "dropout": 0.0})
    settings["stream"]["as_text"] = True
    settings["training"]["epochs"] = 1
    result = cl_mlm.run(settings, progress=False)
    assert list(result.summary["tasks"]) == ["text_to_text", "text_to_text-2", "text_to_text-3"]
    assert result.summary["tasks"]["text_to_text-2"]["options"]["prefix"] == "tagging: "
    assert sorted(p.name for p in (result.folder / "stages" / "002").iterdir() if p.is_dir()) == ["model"]
    assert equal(weights(result, 2), weights(result, 2, "text_to_text"))
    assert (result.matrix[-1] >= 0).all()


def test_a_shipped_config_names_two_objectives():
    from pathlib import Path

    from cl_mlm.config.loading import load_config

    stages = load_config(Path(__file__).parents[2] / "configs" / "snips.yaml").stream["stages"]
    assert [stage.get("objective") for stage in stages] == [None, "tagging"]


def test_disk_use_counts_a_folder_for_each_head(layer, tmp_path):
    from cl_mlm.config.loading import load_config
    from cl_mlm.experiment.preparation import prepare
    from cl_mlm.models.size import size_of_tasks

    prepared = prepare(load_config(layer(tmp_path, ["naive"])))
    tasks = tasks_of(prepared.stream)
    mixed = size_of_tasks(prepared.config, tasks)
    one = size_of_tasks(prepared.config, tasks_of(prepared.stream.first(1)))
    hidden, classes = 128, 5 + 2  # of the tagger and the span head, each with a bias
    assert mixed.trainable == mixed.changing // 4 == one.trainable + classes * (hidden + 1)
    pooler = hidden * (hidden + 1)
    assert mixed.whole == 3 * one.whole + 4 * (-2 * pooler + (classes - 2 * 2) * (hidden + 1))


def test_a_first_stage_with_heads_of_later_ones_is_shared_between_runs(layer, ran, tmp_path):
    runs = []
    for strategies in (["naive"], {"replay": {"capacity": 9}}):
        settings = layer(tmp_path, strategies)
        settings["checkpoint"]["reuse_stages"] = 1
        runs.append(cl_mlm.run(settings, progress=False))
    assert [len(run.summary["reused"]) for run in runs] == [0, 1]
    assert repr(runs[0].summary["accuracy_matrix"]) == repr(ran("naive").summary["accuracy_matrix"])
    assert all(equal(weights(runs[1], 0, key), weights(runs[0], 0, key)) for key in KEYS)
