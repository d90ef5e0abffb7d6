"""Whole runs of models that write: two stages, several strategies, killed and gone on with, reloaded."""

import signal
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset
from killing import die_at
from safetensors.torch import load_file
from transformers import AutoTokenizer

import cl_mlm
from cl_mlm.stream import SPLITS, Stage, Stream

WORDS = {"north": {"ice": "cold", "snow": "white"}, "south": {"sun": "hot", "sand": "dry"}}
STRATEGIES = {
    "naive": {},
    "replay+ewc": {"replay": {"capacity": 4}, "ewc": {"weight": 10.0}},
    "lwf": {"lwf": {"weight": 1.0, "top_k": 8}},
}
CLOCK = ("train_seconds", "eval_seconds", "peak_memory_bytes")


def stream_of(objective, options):
    def rows(words, split, count):
        pairs = list(words.items())
        chosen = [(i, *pairs[i % len(pairs)]) for i in range(count)]
        table = {"source": [f"{split} {word} {i}" for i, word, _ in chosen], "target": [right for *_, right in chosen]}
        if objective == "text_to_text":
            return Dataset.from_dict(table)
        return Dataset.from_dict({"text": [" is ".join(pair) for pair in zip(*table.values(), strict=True)]})

    stages = tuple(
        Stage(name, rows(words, "a", 8), rows(words, "b", 2), rows(words, "c", 4), (), objective, objective, options)
        for name, words in WORDS.items()
    )
    return Stream("words", stages, "domain_incremental")


WRITING = stream_of("text_to_text", {"max_new_tokens": 4, "metric": "chrf"})
READING = stream_of("language_modelling", {})
MASKED = stream_of("language_modelling", {"kind": "masked"})
PACKED = stream_of("language_modelling", {"pack": True})
PACKED_MASKED = stream_of("language_modelling", {"kind": "masked", "pack": True})


pytestmark = pytest.mark.usefixtures("fresh_process")


@pytest.fixture
def go(fast, model_folder, tmp_path):
    def go(kind, stream, strategies, folder="runs", **training):
        name = kind if kind.startswith("tiny") else model_folder(kind)
        config = {key: value for key, value in fast.items() if key != "stream"} | {
            "output": str(tmp_path / folder),
            "model": {"name": name, "dropout": 0.0},
            "strategies": STRATEGIES[strategies],
            "checkpoint": {"every_steps": 2, "every_minutes": None, "reuse_stages": 0},
            "training": {**fast["training"], "epochs": 2, **training},
        }
        return cl_mlm.run(config, stream=stream, progress=False)

    return go


@pytest.mark.parametrize("strategies", ["naive", "replay+ewc"])
@pytest.mark.parametrize("kind", ["gpt2", "llama", "t5"])
def test_two_stages_of_text_to_text_are_trained_and_scored(go, kind, strategies):
    found = go(kind, WRITING, strategies).summary
    assert found["columns"] == ["north", "south"]
    matrix = found["accuracy_matrix"]
    assert all(0 <= score <= 1 for row in matrix for score in row)


@pytest.mark.parametrize("stream", [WRITING, READING], ids=["text_to_text", "language_modelling"])
def test_a_teachers_likeliest_tokens_hold_a_student_back(go, stream):
    weights = {}
    for strategies in ("naive", "lwf"):
        folder = go("gpt2", stream, strategies).folder
        weights[strategies] = load_file(folder / "stages" / "001" / "model" / "model.safetensors")
    first, second = weights.values()
    assert any(not torch.equal(first[name], second[name]) for name in first)
    assert all(tensor.isfinite().all() for tensor in second.values())


@pytest.mark.parametrize(("kind", "stream"), [("llama", READING), ("bert", MASKED)])
@pytest.mark.parametrize("strategies", ["naive", "replay+ewc"])
def test_two_stages_of_language_modelling_make_their_texts_likelier(go, kind, stream, strategies):
    found = go(kind, stream, strategies, learning_rate=3e-3, epochs=6).summary
    assert found["accuracy_matrix"][0][0] > found["baseline"][0] > 0
    assert found["accuracy_matrix"][1][1] > found["baseline"][1]


@pytest.mark.parametrize(("kind", "stream"), [("gpt2", PACKED), ("bert", PACKED_MASKED)])
def test_blocks_are_trained_on_kept_and_scored_instead_of_texts(go, kind, stream):
    result = go(kind, stream, "replay+ewc", learning_rate=3e-3, epochs=6, max_length=12)
    found = result.summary
    assert found["accuracy_matrix"][0][0] > found["baseline"][0] > 0
    assert found["accuracy_matrix"][1][1] > found["baseline"][1]
    assert found["cost"]["buffer_bytes"] <= 4 * (8 + 4 * 12)
    assert found["cost"]["buffer_bytes"] > 4 * 8
    written = pq.read_table(result.folder / "predictions" / "1.parquet").to_pydict()
    lengths = written["reference"]
    assert max(lengths) == 12
    assert sum(length < 12 for length in lengths) <= 2  # the last of each stage
    if kind == "gpt2":
        tokenizer = AutoTokenizer.from_pretrained(result.folder / "stages" / "001" / "model")
        texts = [text for stage in stream.stages for text in stage.test["text"]]
        assert sum(lengths) == sum(len(ids) + 1 for ids in tokenizer(texts, add_special_tokens=False)["input_ids"])
        assert sum(size for *_, size in written["prediction"]) == sum(len(text.encode()) for text in texts)


def test_a_teacher_reads_blocks(go):
    assert go("llama", PACKED, "lwf", max_length=12).summary["accuracy_matrix"][1][0] > 0


def test_blocks_of_a_long_text_may_be_more_than_the_rows(go):
    stages = tuple(
        replace(stage, **{split: Dataset.from_dict({"text": [f"{stage.name} {split} " * 20]}) for split in SPLITS})
        for stage in PACKED.stages
    )
    found = go("gpt2", replace(PACKED, stages=stages), "replay+ewc", max_length=12)
    assert 4 * (8 + 4 * 1) <= found.summary["cost"]["buffer_bytes"] <= 4 * (8 + 4 * 12)


def test_a_teacher_is_refused_where_rows_are_masked_anew(go):
    with pytest.raises(cl_mlm.ConfigError, match=r"strategies.lwf.weight: .* masks it anew"):
        go("bert", MASKED, "lwf")


@pytest.mark.parametrize("kind", ["tiny-decoder", "tiny-encoder-decoder"])
def test_a_tiny_model_learns_to_write_and_is_handed_back(go, kind):
    found = go(kind, WRITING, "naive", epochs=16, learning_rate=3e-3)
    assert found.summary["accuracy_matrix"][0][0] > 0.6
    assert found.summary["accuracy_matrix"][1][1] > 0.6
    model = found.model()
    assert model.can_generate()
    start = torch.tensor([[2, 9, 3]])
    assert model.generate(input_ids=start, max_new_tokens=3).shape[1] >= 2


def test_generation_is_in_the_precision_of_the_run(go, monkeypatch):
    from cl_mlm.objectives import text_to_text

    kinds, generate = set(), text_to_text.generate_texts

    def watched(run, *arguments, **named):
        seen = run.model.lm_head.register_forward_hook(lambda module, inputs, output: kinds.add(output.dtype))
        written = generate(run, *arguments, **named)
        seen.remove()
        return written

    monkeypatch.setattr(text_to_text, "generate_texts", watched)
    go("gpt2", WRITING, "naive", precision="bf16", epochs=1)
    assert kinds == {torch.bfloat16}


@pytest.mark.parametrize(
    ("kind", "stream", "at"), [("t5", WRITING, 3), ("gpt2", WRITING, 7), ("bert", MASKED, 6), ("gpt2", PACKED, 7)]
)
def test_a_killed_run_ends_as_if_it_had_not_been(go, kind, stream, at):
    short = {"max_length": 12} if stream is PACKED else {}  # blocks enough for the step at which it is killed
    whole = go(kind, stream, "replay+ewc", "whole", **short)
    assert die_at(at, lambda: go(kind, stream, "replay+ewc", "cut", **short)) == -signal.SIGKILL
    cut = go(kind, stream, "replay+ewc", "cut", **short)
    first, second = (load_file(run.folder / "stages" / "001" / "model" / "model.safetensors") for run in (whole, cut))
    assert all(torch.equal(first[name], second[name]) for name in first)
    for key in ("accuracy_matrix", "baseline", "metrics"):
        assert whole.summary[key] == cut.summary[key]
    costs = [{k: v for k, v in run.summary["cost"].items() if k not in CLOCK} for run in (whole, cut)]
    assert costs[0] == costs[1]
