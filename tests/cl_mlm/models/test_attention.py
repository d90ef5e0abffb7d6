"""The implementation of attention, and bits of the base: what a config may ask, and what is refused before loading."""

import pytest
import torch
import transformers

import cl_mlm
from cl_mlm.config.loading import load_config
from cl_mlm.config.schema import Config, ModelConfig
from cl_mlm.experiment.assembly import assemble
from cl_mlm.experiment.preparation import prepare
from cl_mlm.models.loading import load_backbone
from cl_mlm.models.quantization import check_machine, quantization_config
from cl_mlm.models.tiny import letter_tokenizer
from cl_mlm.objectives.classification import Classification


@pytest.mark.parametrize("asked", ["eager", "sdpa"])
@pytest.mark.parametrize("kind", ["tiny", "tiny-decoder", "llama"])
def test_a_model_runs_with_the_attention_that_is_asked_for(asked, kind, model_folder, one_thread):
    name = model_folder(kind) if kind == "llama" else kind
    backbone = load_backbone(ModelConfig(name, attention=asked), ["a", "b"], 0, 32, Classification())
    assert backbone.model.config._attn_implementation == asked
    parts = [part.config._attn_implementation for part in backbone.model.modules() if hasattr(part, "config")]
    assert set(parts) == {asked}
    assert backbone.settings()["attention"] == asked
    assert "attention" not in load_backbone(ModelConfig(name), ["a", "b"], 0, 32, Classification()).settings()


def test_what_is_not_set_changes_no_name_of_a_run(fast):
    plain = load_config(fast)
    assert set(plain.to_dict()["model"]) == {"name", "revision", "dropout", "dtype"}
    asked = load_config(fast, ["model.attention=eager"])
    assert asked.to_dict()["model"]["attention"] == "eager"
    assert asked.run_name != plain.run_name
    assert Config().run_name == Config(model=ModelConfig(attention=None, quantization=None)).run_name


def test_it_reaches_the_model_of_a_run_and_what_a_checkpoint_gives_back(fast, tmp_path):
    run = assemble(prepare(load_config(fast, ["model.attention=eager"])))
    assert run.network.model.config._attn_implementation == "eager"
    run.network.backbone.save(tmp_path / "model")
    backbone = load_backbone(ModelConfig(str(tmp_path / "model"), attention="eager"), ["a"], 0, 32, Classification())
    assert backbone.model.config._attn_implementation == "eager"


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what a machine without CUDA says")
def test_flash_attention_is_refused_where_machine_or_precision_cannot(fast):
    with pytest.raises(cl_mlm.ConfigError) as told:
        prepare(load_config(fast, ["model.attention=flash_attention_2"]))
    said = str(told.value)
    assert "model.attention: must be sdpa or eager on cpu, got flash_attention_2, which needs cuda" in said
    assert "flash_attention_2 needs the package flash-attn, which is not installed" in said
    assert "training.precision: must be bf16 or fp16 where model.attention is flash_attention_2, got fp32" in said
    with pytest.raises(cl_mlm.ConfigError, match=r"model.attention: must be .*sdpa.*, got 'flash'"):
        load_config(fast, ["model.attention=flash"])


def test_a_family_without_an_implementation_is_refused_by_name(fast, tmp_path):
    settings = transformers.GPTNeoConfig(
        hidden_size=16, num_layers=2, num_heads=2, vocab_size=18000, attention_types=[[["global"], 2]]
    )
    settings.save_pretrained(tmp_path / "neo")
    letter_tokenizer().save_pretrained(tmp_path / "neo")
    given = fast | {"model": {"name": str(tmp_path / "neo"), "attention": "sdpa"}}
    with pytest.raises(cl_mlm.ConfigError, match=r"model.attention: must be one that .*gpt_neo have, got sdpa: GPTNeo"):
        prepare(load_config(given))


def quantised(fast, *given, name="some-model"):
    return load_config(fast | {"model": {"name": name, "quantization": "nf4"}}, list(given))


@pytest.mark.parametrize("mode", ["full", "head", "last_k", "bitfit", "norm"])
def test_a_mode_that_trains_the_base_is_refused_on_quantised_weights(fast, mode):
    with pytest.raises(cl_mlm.ConfigError) as told:
        prepare(quantised(fast, f"finetuning.mode={mode}"))
    assert "finetuning.mode: must be one with adapters (lora, ia3, " in str(told.value)
    assert f"where model.quantization is nf4, whose weights cannot be trained, got {mode}" in str(told.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what a machine without CUDA says")
def test_a_machine_without_cuda_or_bitsandbytes_is_told_before_anything_is_loaded(fast):
    with pytest.raises(cl_mlm.ConfigError) as told:
        prepare(quantised(fast, "finetuning.mode=lora", name="no-such-folder/at-all"))
    assert "model.quantization: must be null where training.device is cpu, not cuda; got nf4" in str(told.value)
    assert "model.quantization: nf4 needs bitsandbytes, which is not installed: pip install" in str(told.value)
    with pytest.raises(cl_mlm.ConfigError, match=r"int8 needs a CUDA device and bitsandbytes \(pip install"):
        check_machine("int8")


def test_an_adapter_on_quantised_weights_stays_one(fast):
    assert quantised(fast, "finetuning.mode=lora").finetuning.export == "adapter"
    with pytest.raises(cl_mlm.ConfigError) as told:
        prepare(quantised(fast, "finetuning.mode=lora", "finetuning.export=merged", name="tiny"))
    assert "finetuning.export: must be adapter where model.quantization is nf4" in str(told.value)
    assert "model.quantization: must be null for a model that is built here, got nf4" in str(told.value)
    with pytest.raises(cl_mlm.ConfigError, match=r"finetuning.dora: must be false where model.quantization is nf4"):
        prepare(quantised(fast, "finetuning.mode=lora", "finetuning.dora=true"))


def test_heads_are_not_quantised():
    for kind, family, kept in [
        (transformers.BertForSequenceClassification, transformers.BertConfig(), ["dropout", "classifier"]),
        (transformers.LlamaForCausalLM, transformers.LlamaConfig(), ["lm_head"]),
        (transformers.T5ForConditionalGeneration, transformers.T5Config(), ["lm_head"]),
    ]:
        with torch.device("meta"):
            model = kind(family)
        found = quantization_config("nf4", model, torch.bfloat16)
        assert (found.llm_int8_skip_modules, found.bnb_4bit_quant_type) == (kept, "nf4")
        assert found.bnb_4bit_compute_dtype == torch.bfloat16
        assert quantization_config("int8", model, torch.float32).load_in_8bit
