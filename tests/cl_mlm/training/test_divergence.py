"""KL divergence from the base model, against sums over one token at a time."""

import math

import pytest
import torch
from datasets import Dataset
from torch.distributions import Categorical, kl_divergence

from cl_mlm.config.schema import Config, EvaluationConfig, FinetuningConfig, ModelConfig, TrainingConfig
from cl_mlm.data.tasks import tasks_of
from cl_mlm.models.loading import load_backbone
from cl_mlm.stream import Stage, Stream
from cl_mlm.training import divergence
from cl_mlm.training.divergence import base_of, column_divergence, summed_kl, text_divergence

FULL = FinetuningConfig()
LORA = FinetuningConfig(mode="lora", rank=2, alpha=4.0, dropout=0.0, scaling="rank", dora=False, targets="attention")
TEXT = "the long way round the hill and back again, one and two and three"


@pytest.fixture
def moved_run(run_of, model_folder, tmp_path, monkeypatch, one_thread):
    """A run whose trained parameters are moved, and how its base is loaded."""
    monkeypatch.setenv("CL_MLM_CACHE", str(tmp_path))

    def make(kind, finetuning=FULL, objective="text_to_text", size=4):
        sources = ["how cold is it", "one", "a way round", "x y"]
        columns = {"source": sources, "target": ["ice", "a longer answer", "c", "d e"], "text": sources}
        rows = Dataset.from_dict(columns)
        stream = Stream("texts", (Stage("a", rows, rows, rows, (), "t", objective, {}),), "domain_incremental")
        (task,) = tasks_of(stream)

        def load():
            backbone = load_backbone(ModelConfig(model_folder(kind)), (), 0, 64, task.objective)
            task.objective.bind(backbone.model, backbone.kind)
            return backbone

        backbone = load()
        backbone.set_trainable(finetuning, 0)
        torch.manual_seed(1)
        with torch.no_grad():
            for parameter in backbone.model.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.5 * torch.randn_like(parameter))
        training = TrainingConfig(device="cpu", threads=1, max_length=16)
        config = Config(finetuning=finetuning, training=training, evaluation=EvaluationConfig(size))
        return run_of(config, stream, lambda labels: backbone, (), task.objective, last_stage=0), load

    return make


def by_hand(run, base):
    """Mean over the target tokens of every row by itself."""
    values = []
    with torch.no_grad():
        for row in run.data.ids(0, "test"):
            batch = run.data.rows(row[None], "test")
            p, q = base.forward(batch).logits, run.network.forward(batch).logits
            each = kl_divergence(Categorical(logits=p), Categorical(logits=q))
            values += each[batch.targets != -100].tolist()
    return sum(values) / len(values)


@pytest.mark.parametrize(
    ("kind", "finetuning", "objective"),
    [
        ("gpt2", FULL, "text_to_text"),
        ("t5", FULL, "text_to_text"),
        ("gpt2", FULL, "language_modelling"),
        ("gpt2", LORA, "text_to_text"),
        ("llama", FinetuningConfig(mode="ia3"), "text_to_text"),
        ("gpt2", FinetuningConfig(mode="prompt", virtual_tokens=3), "text_to_text"),
        ("t5", FinetuningConfig(mode="prefix", virtual_tokens=3), "text_to_text"),
    ],
)
def test_divergence_is_the_mean_over_target_tokens(moved_run, monkeypatch, kind, finetuning, objective):
    run, load = moved_run(kind, finetuning, objective)
    before = {name: tensor.clone() for name, tensor in run.network.model.state_dict().items()}
    trained = {*run.network.trainable()}
    with base_of(run, load) as base:
        found = column_divergence(run, base, [0], "test", None)
        monkeypatch.setattr(divergence, "MOST_LOGITS", 1 << 10)  # a row at a time, and few tokens of it
        assert column_divergence(run, base, [0], "test", None) == pytest.approx(found, rel=1e-4)
    assert found > 1e-3
    assert found == pytest.approx(by_hand(run, load()), rel=1e-3)
    after = run.network.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert {*run.network.trainable()} == trained


def test_adapters_are_left_out_without_loading_the_base(moved_run):
    run, _ = moved_run("gpt2", LORA)

    def refuse():
        raise AssertionError("the base was loaded")

    with base_of(run, refuse) as base:
        assert column_divergence(run, base, [0], "test", None) > 0


def test_a_model_that_has_not_moved_diverges_by_nothing(moved_run):
    run, _ = moved_run("gpt2")
    with base_of(run, lambda: run.network.backbone) as base:
        assert column_divergence(run, base, [0], "test", None) == 0
        assert text_divergence(run, base, TEXT, None) == 0


def test_text_is_read_in_blocks_as_long_as_rows(moved_run):
    run, load = moved_run("gpt2", size=2)
    base_model = load()
    with base_of(run, load) as base:
        found = text_divergence(run, base, TEXT, None)
        assert text_divergence(run, base, TEXT, 1) != found
        assert math.isnan(text_divergence(run, base, "a", None))  # no token is predicted
    ids = run.network.tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    values = []
    with torch.no_grad():
        for start in range(0, len(ids), 16):
            block = torch.tensor([ids[start : start + 16]])
            p, q = (model(input_ids=block).logits[0, :-1] for model in (base_model.model, run.network.model))
            values += kl_divergence(Categorical(logits=p), Categorical(logits=q)).tolist()
    assert found == pytest.approx(sum(values) / len(values), rel=1e-4)


def test_rows_are_taken_at_even_spacing(moved_run):
    run, load = moved_run("gpt2")
    whole = run.data.ids
    with base_of(run, load) as base:
        found = column_divergence(run, base, [0], "test", 2)
        run.data.ids = lambda owner, split="train": whole(owner, split)[[0, 2]]
        assert column_divergence(run, base, [0], "test", None) == found


def test_the_direction_is_from_the_base():
    base, present = torch.randn(5, 7), torch.randn(5, 7)
    expected = kl_divergence(Categorical(logits=base), Categorical(logits=present)).sum()
    assert summed_kl(base, present) == pytest.approx(float(expected), rel=1e-5)
