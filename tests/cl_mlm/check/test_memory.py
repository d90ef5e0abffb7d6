"""What is said of memory, held against the tensors of a run."""

import pytest
import torch
import transformers

from cl_mlm.check.memory import memory_need
from cl_mlm.config.loading import load_config
from cl_mlm.config.schema import Config, FinetuningConfig, ModelConfig
from cl_mlm.data.tasks import tasks_of
from cl_mlm.experiment.assembly import assemble
from cl_mlm.experiment.preparation import prepare
from cl_mlm.models.size import model_size, size_of_tasks
from cl_mlm.objectives.classification import Classification
from cl_mlm.strategy import Strategy
from cl_mlm.training.loop import StageTraining, begin_stage, training_ids

OBJECTIVE = Classification()


class Hoarder(Strategy):
    """Keeps something, and does not say how much."""

    def after_stage(self, run, stage):
        self.kept = 1


def need(config, *overrides, strategies=None):
    prepared = prepare(load_config(config, overrides), strategies=strategies)
    return memory_need(prepared, size_of_tasks(prepared.config, tasks_of(prepared.stream))), prepared


def test_adapters_are_fp32_in_a_body_in_bfloat16(fast, fresh_process):
    bf16 = ["model.dtype=bfloat16", "training.precision=bf16", "finetuning.mode=lora", "strategies=[ewc]"]
    told, prepared = need(fast, *bf16, "stream.labels_per_stage=4")
    run = assemble(prepared)
    run.place.training_ids = training_ids(run)
    begin_stage(run)
    trained = sum(p.nbytes for p in run.network.trainable().values())
    assert {p.dtype for p in run.network.trainable().values()} == {torch.float32}
    assert told.weights == sum(p.nbytes for p in run.network.model.parameters())
    assert (told.gradients, told.moments, told.strategies) == (trained, 2 * trained, 2 * trained)


def test_quantised_weights_are_counted_in_their_bits(fast, tmp_path):
    config = transformers.LlamaConfig(
        vocab_size=100, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128
    )
    config.save_pretrained(tmp_path)
    lora = FinetuningConfig("lora", rank=8, alpha=16.0, targets="attention", export="adapter")
    sizes = {
        bits: model_size(Config(model=ModelConfig(str(tmp_path), quantization=bits), finetuning=lora), ["a"], OBJECTIVE)
        for bits in (None, "int8", "nf4")
    }
    linears = 2 * (4 * 64 * 64 + 3 * 64 * 128)
    assert sizes[None].held - sizes["int8"].held == 3 * linears
    assert sizes["int8"].held - sizes["nf4"].held == linears // 2
    assert sizes["nf4"].whole == sizes["nf4"].trained, "an adapter alone"


@pytest.mark.parametrize("mode", ["full", "head"])
def test_a_body_that_several_heads_share_counts_once(mixed, mode):
    told, prepared = need(mixed, f"finetuning.mode={mode}")
    run = assemble(prepared)
    run.place.training_ids = training_ids(run)
    begin_stage(run)
    # The head of the second objective is as wide as its first stage from the start, as is that of the first.
    assert len(run.tasks) == 2
    assert told.weights == sum(p.nbytes for p in run.network.model.parameters())
    assert told.gradients == sum(p.nbytes for p in run.network.trainable().values())


def test_weights_in_bfloat16_take_half(fast):
    plain, half = need(fast)[0], need(fast, "model.dtype=bfloat16", "training.precision=bf16")[0]
    assert (2 * half.weights, 2 * half.moments) == (plain.weights, plain.moments)


@pytest.mark.parametrize("mode", ["full", "head", "lora", "bottleneck"])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_it_is_what_a_run_holds(fast, mode, optimizer):
    overrides = [f"finetuning.mode={mode}", f"training.optimizer={optimizer}", "stream.labels_per_stage=4"]
    told, prepared = need(fast, *overrides)
    run = assemble(prepared)
    run.place.training_ids = training_ids(run)
    begin_stage(run)
    work = StageTraining(run, 2)
    work.take_step([run.place.training_ids[:4]])
    moments = [t for state in work.bare.state.values() for t in state.values() if getattr(t, "dim", lambda: 0)()]
    trainable = sum(p.nbytes for p in run.network.trainable().values())
    assert told.weights == sum(p.nbytes for p in run.network.model.parameters())
    assert told.gradients == trainable
    assert told.moments == sum(t.nbytes for t in moments) == trainable * (2 if optimizer == "adamw" else 1)


def test_early_stopping_and_copies_of_strategies_count(fast):
    plain, _ = need(fast)
    told, _ = need(fast, "training.patience=1", "strategies=[ewc]")
    assert (plain.best_weights, plain.strategies, plain.unknown) == (0, 0, ())
    assert (told.best_weights, told.strategies) == (plain.weights, 2 * plain.weights)
    assert told.total == plain.total + 3 * plain.weights


def test_a_strategy_that_does_not_say_what_it_keeps_is_named(fast):
    assert need(fast, strategies=[Hoarder()])[0].unknown == ("hoarder",)
    assert need(fast, "strategies=[lwf]")[0].unknown == ("lwf",)
    assert need(fast, "strategies=[joint]")[0].unknown == ()
