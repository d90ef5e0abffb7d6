"""Weights in bfloat16: half the memory, the same bits after a kill, and what they are refused with."""

import signal

import pytest
import torch
from datasets import Dataset
from killing import die_at
from safetensors.torch import load_file

import cl_mlm
from cl_mlm.config.loading import load_config
from cl_mlm.config.schema import ModelConfig
from cl_mlm.experiment.composition import setting_of
from cl_mlm.experiment.preparation import prepare
from cl_mlm.models.loading import load_backbone
from cl_mlm.objectives.classification import Classification
from cl_mlm.stream import Stage, Stream

BF16 = {"training.precision=bf16", "model.dtype=bfloat16"}


pytestmark = pytest.mark.usefixtures("fresh_process")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["tiny", "llama"])
def test_weights_and_those_of_a_grown_head_have_the_dtype(kind, dtype, model_folder, one_thread):
    name = kind if kind == "tiny" else model_folder(kind)
    backbone = load_backbone(ModelConfig(name, dtype=dtype), ["a", "b"], 0, 32, Classification())
    backbone.grow(["a", "b", "c"], 0, 1)
    assert {parameter.dtype for parameter in backbone.model.parameters()} == {getattr(torch, dtype)}
    assert backbone.head.out_features == 3


def test_a_folder_is_read_as_it_is_and_a_new_head_is_drawn(model_folder, one_thread):
    """What is read is the rounded value; float32 comes out as it was before there was a choice."""
    folder = model_folder("llama")
    kept = load_file(f"{folder}/model.safetensors")
    for dtype in ("float32", "bfloat16"):
        model = load_backbone(ModelConfig(folder, dtype=dtype), ["a", "b"], 0, 32, Classification()).model
        read = dict(model.base_model.named_parameters())
        assert kept
        assert all(torch.equal(read[name], tensor.to(getattr(torch, dtype))) for name, tensor in kept.items())


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_another_precision_than_that_of_the_weights_is_refused(fast, precision):
    with pytest.raises(cl_mlm.ConfigError, match=r"training.precision: must be bf16 where model.dtype is bfloat16"):
        cl_mlm.run(fast, "model.dtype=bfloat16", f"training.precision={precision}", progress=False)


def test_an_unknown_dtype_is_refused_with_those_that_are_known(fast):
    with pytest.raises(cl_mlm.ConfigError, match=r"model.dtype: must be .*float32.*bfloat16"):
        cl_mlm.run(fast, "model.dtype=float16", progress=False)


def test_strategies_that_square_gradients_are_refused(fast):
    with pytest.raises(cl_mlm.ConfigError, match=r"strategies.ewc: works on weights in fp32.*got bfloat16"):
        prepare(load_config(fast, [*BF16, "strategies=[replay,ewc]"]))
    for mode in ("head", "bitfit", "norm", "last_k"):  # what these train is of the body's dtype
        with pytest.raises(cl_mlm.ConfigError, match=f"mode one with adapters .*lora.*got bfloat16 with mode {mode}"):
            prepare(load_config(fast, [*BF16, "strategies=[ewc]", f"finetuning.mode={mode}"]))
    for mode in ("lora", "ia3", "bottleneck"):
        prepared = prepare(load_config(fast, [*BF16, "strategies=[ewc]", f"finetuning.mode={mode}"]))
        assert setting_of(prepared.strategies, prepared.config, prepared.stream).dtype == "float32"
    for name in ("joint", "cumulative", "replay", "lwf"):
        prepare(load_config(fast, [*BF16, f"strategies=[{name}]"]))


def test_a_strategy_of_ones_own_that_wants_fp32_is_told_that_there_is_none(fast):
    class Own(cl_mlm.Strategy):
        bf16_weights = True

        def after_stage(self, run, stage):
            run.forward_fp32(run.rows(run.training_ids[:2]))

    with pytest.raises(cl_mlm.ConfigError, match=r"model.dtype: must be float32 where the model is to run in it"):
        cl_mlm.run(fast, *BF16, "training.steps=1", strategies=[Own()], progress=False)


def test_adapters_in_fp32_on_a_body_in_bfloat16_are_what_a_strategy_sees(fast, tmp_path):
    """Killed within its second stage, the run ends with the same bits; Fisher information says what its body was."""

    def go(folder, mode, **given):
        config = fast | {
            "output": str(tmp_path / folder),
            "finetuning": {"mode": mode, **given},
            "strategies": {"ewc": {"weight": 10.0}, "replay": {"capacity": 8}},
            "checkpoint": {"every_steps": 4, "every_minutes": None, "keep_stages": "all", "reuse_stages": 0},
        }
        return cl_mlm.run(config, *BF16, "training.epochs=2", progress=False)

    whole = go("whole", "lora")
    assert die_at(13, lambda: go("cut", "lora")) == -signal.SIGKILL
    cut = go("cut", "lora")
    assert repr(whole.summary["accuracy_matrix"]) == repr(cut.summary["accuracy_matrix"])
    name = "stages/001/model/adapter/adapter_model.safetensors"
    first, second = (load_file(run.folder / name) for run in (whole, cut))
    assert {tensor.dtype for tensor in first.values()} == {torch.float32}, "adapters and the head beside them"
    assert all(torch.equal(first[key], second[key]) for key in first)
    merged = load_file(whole.folder / "stages/001/model/model.safetensors")
    assert merged["bert.embeddings.word_embeddings.weight"].dtype == torch.bfloat16
    assert [flag for flag in whole.summary["flags"] if "body in bfloat16, also in the passes of ewc" in flag]
    precision = load_file(whole.folder / "stages/001/strategies.safetensors")
    of_adapters = [value for key, value in precision.items() if "/precision/" in key and "lora_B" in key]
    assert of_adapters
    assert all(value.dtype == torch.float32 and value.any() for value in of_adapters)


@pytest.fixture
def go(fast, model_folder, tmp_path):
    texts = {"train": 8, "validation": 2, "test": 4}

    def stage(name):
        parts = {split: [f"{split} {name} {i} " * 3 for i in range(size)] for split, size in texts.items()}
        rows = {split: Dataset.from_dict({"text": part}) for split, part in parts.items()}
        return Stage(name, **rows, labels=(), objective="language_modelling", options={"pack": True})

    stream = Stream("words", (stage("north"), stage("south")), "domain_incremental")

    def go(mode, folder="runs"):
        config = {key: value for key, value in fast.items() if key != "stream"} | {
            "output": str(tmp_path / folder),
            "model": {"name": model_folder("llama"), "dropout": 0.0, "dtype": "bfloat16"},
            "finetuning": {"mode": mode},
            "strategies": {"replay": {"capacity": 4}},
            "checkpoint": {"every_steps": 2, "every_minutes": None, "keep_stages": "all"},
        }
        config["training"] = {
            **fast["training"],
            **{"steps": 6, "max_length": 16, "precision": "bf16", "gradient_checkpointing": True},
        }
        return cl_mlm.run(config, stream=stream, progress=False)

    return go


@pytest.mark.parametrize("mode", ["full", "head"])
def test_a_killed_run_with_gradient_checkpointing_ends_as_if_it_had_not_been(go, mode):
    whole = go(mode, "whole")
    assert die_at(9, lambda: go(mode, "cut")) == -signal.SIGKILL  # the third step of the second stage
    steps = [load_file(path) for path in (whole.folder.parents[1].parent / "cut").rglob("state.safetensors")]
    if mode == "head":  # of a frozen body nothing is written within a stage
        weights = {name for step in steps for name in step if name.startswith("/weights/")}
        assert weights
        assert not [name for name in weights if "self_attn" in name]
    cut = go(mode, "cut")
    first, second = (load_file(run.folder / "stages" / "001" / "model" / "model.safetensors") for run in (whole, cut))
    assert {tensor.dtype for tensor in first.values()} == {torch.bfloat16}
    assert all(torch.equal(first[name], second[name]) for name in first)
    before = load_file(whole.folder / "stages" / "000" / "model" / "model.safetensors")
    changed = {name for name, tensor in before.items() if not torch.equal(tensor, first[name])}
    assert changed == {"lm_head.weight"} if mode == "head" else len(changed) > 2
    assert repr(whole.summary["accuracy_matrix"]) == repr(cut.summary["accuracy_matrix"])
    assert next(whole.model().parameters()).dtype == torch.bfloat16


def test_half_of_the_disk_is_told(fast):
    from cl_mlm.check.disk import disk_lines

    (wide, *_), (half, *_) = (disk_lines(prepare(load_config(fast, [*extra]))) for extra in ((), BF16))
    told = [float(line.partition("stage checkpoints of ")[2].partition(" MB")[0]) for line in (wide, half)]
    assert told[1] == pytest.approx(told[0] / 2, abs=0.6)
