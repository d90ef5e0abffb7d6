"""Two stages of entity types (or relations) on small models of four families, and a run that is killed."""

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from killing import die_at

import cl_mlm
from cl_mlm.config.schema import Config, ModelConfig, TrackingConfig, TrainingConfig
from cl_mlm.data.entity_staging import by_types
from cl_mlm.data.staging import by_labels
from cl_mlm.models.loading import load_backbone
from cl_mlm.objectives.relation import Relation
from cl_mlm.objectives.tagging import Tagging
from cl_mlm.training.evaluation import evaluate, scorable_columns
from cl_mlm.training.loop import train_stage
from strategies.ewc import Ewc
from strategies.lwf import Lwf
from strategies.replay import Replay

FAMILIES = ("bert", "gpt2", "llama", "t5")
GUARDS = {"naive": list, "replay+ewc": lambda: [Replay(capacity=8), Ewc(weight=1.0)], "lwf": lambda: [Lwf()]}
DATA = Path(os.environ.get("CL_MLM_DATA") or Path(__file__).parents[2].parent / "shared" / "data")
NAMES = {"per": ["anna", "otto"], "loc": ["rome", "new york"], "org": ["acme"], "day": ["monday"]}


def tagged(split, rows):
    """Returns rows that hold an entity of two types each; no two have the same words."""
    kinds, found = list(NAMES), []
    for i in range(rows):
        words, tags = [f"{split}{i}"], ["O"]
        for kind in (kinds[i % 4], kinds[(i + 1 + i // 4 % 2) % 4]):
            name = NAMES[kind][i // 4 % len(NAMES[kind])].split()
            words += [*name, "and"]
            tags += [f"B-{kind}", *[f"I-{kind}"] * (len(name) - 1), "O"]
        found.append({"tokens": words, "tags": tags})
    return found


def tagging_stream(rows=16, **given):
    splits = {
        name: Dataset.from_list(tagged(name, size)) for name, size in (("train", rows), ("validation", 4), ("test", 8))
    }
    return by_types(splits, name="names", groups=[["per", "loc"], ["org", "day"]], **given)


def relation_stream():
    def split(name, rows):
        words = {"above": "up", "below": "down", "before": "early", "after": "late"}
        labels = list(words)
        return Dataset.from_list(
            [
                {
                    "tokens": [f"{name}{i}", words[labels[i % 4]], "x", "y"],
                    "head": [0, 1],
                    "tail": [2, 4],
                    "label": labels[i % 4],
                }
                for i in range(rows)
            ]
        )

    splits = {name: split(name, 16) for name in ("train", "validation", "test")}
    return by_labels(splits, name="r", groups=[["above", "below"], ["before", "after"]], objective="relation")


class Heard:
    """Keeps what is logged at every step."""

    def __init__(self):
        self.logged = []

    def epoch_done(self, epoch, values):
        pass

    def step_done(self, step, num_steps, epoch, rows, values):
        self.logged.append((num_steps, dict(values)))

    def may_checkpoint(self, step, state):
        pass


pytestmark = pytest.mark.usefixtures("fresh_process", "one_thread")


@pytest.fixture
def make_run(run_of):
    def make(stream, objective, folder, strategies, **training):
        settings = {
            "device": "cpu",
            "threads": 1,
            "epochs": 1,
            "batch_size": 4,
            "learning_rate": 3e-3,
            "schedule": "constant",
            "warmup": 0.0,
        }
        config = Config(training=TrainingConfig(**(settings | training)), tracking=TrackingConfig(log_every=1))

        def make_backbone(labels):
            return load_backbone(ModelConfig(folder, dropout=0.0), labels, 0, 64, objective)

        return run_of(config, stream, make_backbone, strategies, objective)

    return make


def train(run):
    heard, matrix = Heard(), []
    for stage_index in range(len(run.stream)):
        run.place.stage_index = stage_index
        train_stage(run, heard)
        matrix.append(evaluate(run, "test", scorable_columns(run.stream, run.tasks)).row(len(run.stream)))
    return heard, matrix


@pytest.mark.parametrize("guard", GUARDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_two_stages_of_entity_types_train_in_every_family(family, guard, model_folder, make_run):
    run = make_run(tagging_stream(), Tagging(), model_folder(family), GUARDS[guard]())
    heard, matrix = train(run)
    assert run.network.backbone.head.out_features == 9
    tags = [f"{place}-{kind}" for kind in ("per", "loc", "org", "day") for place in "BI"]
    assert run.tasks.at(1).labels.classes == ("O", *tags)
    assert matrix[0][1] != matrix[0][1]  # its types are not known yet
    assert all(0 <= score <= 1 for score in (matrix[0][0], *matrix[1]))
    second = [values for _, values in heard.logged[len(heard.logged) // 2 :]]
    terms = {"naive": set(), "replay+ewc": {"train/term/ewc", "train/loss/memory"}, "lwf": {"train/term/lwf"}}
    for name in terms[guard]:
        assert max(values[name] for values in second) > 0
    assert all(values["train/loss/stage"] > 0 for values in second)


@pytest.mark.parametrize("guard", ["naive", "lwf"])
@pytest.mark.parametrize("family", FAMILIES)
def test_two_stages_of_relations_train_in_every_family(family, guard, model_folder, make_run):
    run = make_run(relation_stream(), Relation(), model_folder(family), GUARDS[guard]())
    _, matrix = train(run)
    assert run.network.backbone.head.out_features == 4
    assert all(0 <= score <= 1 for score in (matrix[0][0], *matrix[1]))


def test_naive_training_learns_a_stage_and_forgets_the_one_before_and_replay_keeps_it(model_folder, make_run):
    scores = {}
    for guard in ("naive", "replay"):
        strategies = [Replay(capacity=16)] if guard == "replay" else []
        run = make_run(
            tagging_stream(rows=32), Tagging(), model_folder("bert"), strategies, epochs=16, learning_rate=1e-2
        )
        scores[guard] = train(run)[1]
    assert scores["naive"][0][0] > 0.9
    assert scores["naive"][1][1] > 0.9
    assert scores["naive"][1][0] < scores["replay"][1][0] - 0.3


def test_earlier_types_that_keep_their_tags_are_trained_on_again(model_folder, make_run):
    run = make_run(tagging_stream(mask_others=False), Tagging(), model_folder("bert"), [Lwf()])
    _, matrix = train(run)
    batch = run.data.rows(run.place.training_ids)
    named = run.task_of(batch).objective.target_classes(batch, 9)
    assert named[:, 1:5].any()
    assert all(0 <= score <= 1 for score in matrix[1])


def test_a_row_that_knows_its_stage_is_given_its_types_only(model_folder, make_run):
    run = make_run(tagging_stream(scenario="task_incremental"), Tagging(), model_folder("bert"), [])
    train(run)
    found = evaluate(run, "test", [0, 1])
    kinds = [
        {tag[2:] for tags, i in zip(found.predictions, found.ids, strict=True) if i >> 40 == j for tag in tags}
        for j in (0, 1)
    ]
    assert kinds[0] <= {"", "per", "loc"}
    assert kinds[1] <= {"", "org", "day"}
    assert kinds[0] | kinds[1] != {""}


@pytest.fixture
def config(write_rows, tmp_path, shared_store, settled_imports):
    splits = {name: tagged(name, size) for name, size in (("train", 24), ("validation", 4), ("test", 8))}
    folder = write_rows(tmp_path / "names", **splits)
    return {
        "experiment": "names",
        "stream": {
            "name": "files",
            "path": str(folder),
            "objective": "tagging",
            "stages_by": "types",
            "groups": [["per", "loc"], ["org", "day"]],
        },
        "model": {"name": "tiny", "dropout": 0.1},
        "training": {"epochs": 2, "batch_size": 4, "learning_rate": 2e-3, "threads": 1, "device": "cpu"},
        "tracking": {"uri": shared_store, "log_every": 1},
        "checkpoint": {"every_steps": 3, "every_minutes": None, "reuse_stages": 0},
        "strategies": {"replay": {"capacity": 8}, "ewc": {"weight": 10.0}},
    }


def test_a_killed_run_goes_on_as_if_it_had_not_been(config, tmp_path):
    from safetensors.torch import load_file

    whole = cl_mlm.run({**config, "output": str(tmp_path / "whole")}, progress=False)
    cut = {**config, "output": str(tmp_path / "cut")}
    steps = 2 * -(-sum(any(kind in str(row["tags"]) for kind in ("per", "loc")) for row in tagged("train", 24)) // 4)
    assert die_at(steps + 4, lambda: cl_mlm.run(cut, progress=False)) == -signal.SIGKILL
    assert [path.name for path in (tmp_path / "cut").glob("names/*/steps/001-*")] == ["001-000000003"]
    resumed = cl_mlm.run(cut, progress=False)
    weights = [load_file(run.folder / "stages" / "001" / "model" / "model.safetensors") for run in (whole, resumed)]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert whole.summary["metrics"] == resumed.summary["metrics"]
    config_of_model = json.loads((whole.folder / "stages" / "001" / "model" / "config.json").read_text())
    assert list(config_of_model["id2label"].values())[:3] == ["O", "B-per", "I-per"]


def test_the_table_of_types_counts_an_entity_in_its_own_column_only(config, tmp_path):
    config["stream"]["mask_others"] = False  # rows of the second stage hold entities of the first, too
    run = cl_mlm.run({**config, "output": str(tmp_path / "runs"), "strategies": {}}, progress=False)
    lines = [line.split(",") for line in (run.folder / "per_class.csv").read_text().splitlines()]
    assert lines[0] == ["label", "precision", "recall", "f1", "entities"]
    expected = {kind: sum(f"B-{kind}" in row["tags"] for row in tagged("test", 8)) for kind in NAMES}
    assert {line[0]: int(line[4]) for line in lines[1:]} == expected
    assert "a row is in every stage of whose entity types it holds one" in str(run.summary)


@pytest.mark.real_data
@pytest.mark.skipif(not (DATA / "snips_slots").is_dir(), reason="the public data sets are not here")
def test_slots_of_real_data_are_cut_into_stages():
    from cl_mlm.data.hygiene import clean
    from streams.files import files

    stream = files(path=str(DATA / "snips_slots"), stages_by="types", types_per_stage=13, objective="tagging")
    assert (len(stream), len(stream.labels)) == (3, 39)
    cleaned, counts = clean(stream, "drop")
    assert counts["dropped_train"] > 0
    assert all(
        set(stage.labels) >= {t for row in Tagging().labels_of(stage.test[:]) for t in row} for stage in cleaned.stages
    )


@pytest.mark.real_data
@pytest.mark.skipif(not (DATA / "fewrel80").is_dir(), reason="the public data sets are not here")
def test_relations_of_real_data_are_sound_and_keep_their_spans():
    from cl_mlm.data.hygiene import clean
    from cl_mlm.models.tiny import letter_tokenizer
    from streams.files import files

    stream = files(path=str(DATA / "fewrel80"), labels_per_stage=40, objective="relation")
    clean(stream, "error")
    tokenizer = letter_tokenizer()
    rows = stream.stages[0].test[:50]
    found = Relation().encode(rows, tokenizer, {name: i for i, name in enumerate(stream.labels)}, 96)
    texts = [tokenizer.decode(ids) for ids in found["input_ids"]]
    assert max(map(len, found["input_ids"])) <= 96
    assert all(marker in text for text in texts for marker in ("[e1]", "[/e1]", "[e2]", "[/e2]"))
