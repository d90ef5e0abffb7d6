"""Modes of fine-tuning over families of models: what is trained, what a folder gives back, and what is refused."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
import transformers
from peft import PeftModel

from cl_mlm.config.schema import FinetuningConfig, ModelConfig, mode_options
from cl_mlm.errors import ConfigError
from cl_mlm.models.adapter_files import read_adapter, write_adapter
from cl_mlm.models.backbone import find_head
from cl_mlm.models.finetuning import ADAPTED, adapters, merged_state, mode_settings, set_trainable
from cl_mlm.models.loading import AUTO_CLASSES
from cl_mlm.models.targets import body_parameters
from cl_mlm.models.virtual_tokens import LEARNED

WIDTH = {"vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 24}
FAMILIES = {
    "bert": transformers.BertConfig(**WIDTH),
    "roberta": transformers.RobertaConfig(**WIDTH, max_position_embeddings=40),
    "distilbert": transformers.DistilBertConfig(vocab_size=60, dim=16, n_layers=3, n_heads=2, hidden_dim=24),
    "gpt2": transformers.GPT2Config(vocab_size=60, n_embd=16, n_layer=3, n_head=2, n_positions=40),
    "llama": transformers.LlamaConfig(**WIDTH, num_key_value_heads=1),
    "t5": transformers.T5Config(vocab_size=60, d_model=16, d_kv=8, d_ff=24, num_layers=3, num_heads=2),
    "bart": transformers.BartConfig(
        vocab_size=60, d_model=16, encoder_layers=3, decoder_layers=3, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=24, decoder_ffn_dim=24, max_position_embeddings=40,
    ),
}  # fmt: skip
ENCODERS = ("bert", "roberta", "distilbert")
DECODERS = ("gpt2", "llama")
KINDS = {
    **dict.fromkeys(ENCODERS, ("sequence", "token", "span", "masked")),
    **dict.fromkeys(DECODERS, ("sequence", "causal")),
    **dict.fromkeys(("t5", "bart"), ("sequence", "seq2seq")),
}
MODES = ("bitfit", "norm", "last_k", "lora", "ia3", "bottleneck")
WITHIN_LAYERS = [mode for mode in ADAPTED if mode not in LEARNED]  # test_virtual_tokens.py has the others
VARIANTS = {"rs": {"scaling": "root", "targets": "all-linear"}, "dora": {"dora": True}}
FORMS = [(family, kind) for family, kinds in KINDS.items() for kind in kinds]


def options(mode, **given):
    """Returns a mode with its defaults, as a config has them."""
    defaults = {name: modes[mode] for name, modes in mode_options().items() if mode in modes}
    return FinetuningConfig(mode=mode, **{**defaults, **given})


def made(family, kind):
    torch.manual_seed(3)
    settings = type(FAMILIES[family]).from_dict(FAMILIES[family].to_dict())
    settings.pad_token_id = 0
    settings.eos_token_id = 1
    settings.decoder_start_token_id = 0
    if kind in ("sequence", "token"):
        settings.num_labels = 3
    model = getattr(transformers, AUTO_CLASSES[kind]).from_config(settings).eval()
    return model, model.get_submodule(find_head(model, kind))


def inputs(kind, family):
    ids = torch.tensor([[5, 6, 7, 8, 9, 1], [10, 11, 12, 1, 0, 0]])
    if family in ("t5", "bart") and kind == "sequence":
        ids = torch.tensor([[5, 6, 7, 8, 9, 1], [10, 11, 12, 13, 14, 1]])
    found = {"input_ids": ids, "attention_mask": (ids != 0).long()}
    if kind == "seq2seq":
        found["decoder_input_ids"] = torch.tensor([[0, 20, 21], [0, 22, 23]])
    return found


def logits(model, kind, family):
    with torch.no_grad():
        output = model(**inputs(kind, family))
    return torch.stack([output.start_logits, output.end_logits], -1) if kind == "span" else output.logits


def moved(model):
    """Changes every trained parameter a little, as training would."""
    torch.manual_seed(4)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def wanted(mode, family):
    return not (mode == "bitfit" and family in ("llama", "t5"))


@pytest.mark.parametrize(("family", "kind"), FORMS)
@pytest.mark.parametrize("mode", MODES)
def test_a_mode_trains_its_part_of_the_body_and_heads_over_classes(mode, family, kind):
    model, head = made(family, kind)
    if not wanted(mode, family):
        with pytest.raises(ConfigError, match=f"finetuning.mode: {mode} trains the body's biases, of which"):
            set_trainable(model, head, kind, options(mode), 0)
        return
    plain = set(model.state_dict())
    set_trainable(model, head, kind, options(mode), 0)
    body = body_parameters(model, head)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    of_head = {name for name, p in model.named_parameters() if id(p) not in body}
    assert trained - of_head, "something of the body, or in it"
    assert of_head <= trained if kind in ("sequence", "token", "span") else not of_head & trained
    if mode in ("last_k", *ADAPTED):
        assert not any("embed" in name or "shared" in name or "wte" in name for name in trained - of_head)
    with merged_state(model) as state:
        assert set(state) == plain, "the plain model's names"


def names_trained(mode, family, kind="sequence", **given):
    model, head = made(family, kind)
    set_trainable(model, head, kind, options(mode, **given), 0)
    return sorted(name for name, p in model.named_parameters() if p.requires_grad)


@pytest.mark.parametrize(
    ("family", "layers"),
    [
        ("bert", ["attention.self.query", "attention.self.value"]),
        ("roberta", ["attention.self.query", "attention.self.value"]),
        ("distilbert", ["attention.q_lin", "attention.v_lin"]),
        ("gpt2", ["attn.c_attn"]),
        ("llama", ["self_attn.q_proj", "self_attn.v_proj"]),
    ],
)
def test_lora_adapts_queries_and_values(family, layers):
    names = [name for name in names_trained("lora", family) if ".0." in name and "lora_A" in name]
    assert [name.split(".0.")[1].removesuffix(".lora_A.s000.weight") for name in names] == layers


def test_lora_adapts_both_stacks_and_cross_attention_of_an_encoder_decoder():
    found = {name.split(".block.")[0] for name in names_trained("lora", "t5", "seq2seq")}
    cross = [name for name in names_trained("lora", "t5", "seq2seq") if "EncDecAttention" in name]
    assert found == {"encoder", "decoder"}
    assert len(cross) == 3 * 2 * 2, "three blocks, q and v, A and B"


@pytest.mark.parametrize(
    ("family", "input_scaled"),
    [("bert", "output.dense"), ("distilbert", "ffn.lin2"), ("t5", "DenseReluDense.wo"), ("bart", "fc2")],
)
def test_ia3_scales_keys_values_and_hidden_units_alone(family, input_scaled):
    model, head = made(family, "sequence")
    set_trainable(model, head, "sequence", options("ia3"), 0)
    scaled = [name for name, layer in adapters(model).items() if layer.is_feedforward]
    assert scaled
    assert all(name.endswith(input_scaled) and "attention" not in name for name in scaled)
    parameters = {name: p for name, p in model.named_parameters() if "ia3_l" in name}
    assert {given.weight_decay for given in mode_settings(parameters).values()} == {0}, "a scale of 1 does nothing"
    assert mode_settings(parameters).keys() == parameters.keys()


def test_layers_and_names_choose_where_adapters_go():
    assert {name.split("layer.")[1][0] for name in names_trained("lora", "bert", layers=[0, 2]) if "lora" in name} == {
        "0",
        "2",
    }
    names = names_trained("lora", "bert", targets=["intermediate.dense"])
    assert all("intermediate.dense" in name for name in names if "lora" in name)
    with pytest.raises(
        ConfigError, match=r"finetuning.targets: must be attention, all-linear, or linear layers .*qury.*quer"
    ):
        names_trained("lora", "bert", targets=["qury"])
    with pytest.raises(ConfigError, match=r"finetuning.layers: must name blocks of the model from 0 to 2"):
        names_trained("lora", "bert", layers=[3])
    with pytest.raises(ConfigError, match=r"finetuning.last_blocks: must be at most 3 for this model, got 4"):
        names_trained("last_k", "bert", last_blocks=4)


def test_last_k_trains_the_end_of_each_stack_and_what_follows_it():
    names = names_trained("last_k", "gpt2", last_blocks=1)
    assert {name.split(".")[1] for name in names if name.startswith("transformer")} == {"h", "ln_f"}
    assert {name.split(".")[2] for name in names if ".h." in name} == {"2"}
    names = names_trained("last_k", "bart", "seq2seq", last_blocks=2)
    assert {name.split(".layers.")[0] for name in names if ".layers." in name} == {"model.encoder", "model.decoder"}
    assert not any("embed" in name for name in names)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft asks for it
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("mode", "given"), [("lora", {}), ("lora", VARIANTS["rs"]), ("lora", VARIANTS["dora"]), ("ia3", {})]
)
def test_an_adapter_folder_gives_the_same_logits_in_peft_and_in_a_merged_model(mode, given, family, tmp_path):
    kind = KINDS[family][0]
    model, head = made(family, kind)
    base = logits(model, kind, family)
    model.save_pretrained(tmp_path / "base")
    finetuning = options(mode, **given)
    set_trainable(model, head, kind, finetuning, 0)
    model.eval()
    torch.testing.assert_close(logits(model, kind, family), base, rtol=0, atol=1e-6)
    moved(model)
    adapted = logits(model, kind, family)
    assert (adapted - base).abs().max() > 1e-3
    write_adapter(tmp_path / "adapter", model, finetuning, ModelConfig(name=str(tmp_path / "base")))
    auto = getattr(transformers, AUTO_CLASSES[kind])
    plain = auto.from_pretrained(tmp_path / "base", num_labels=3)
    loaded = PeftModel.from_pretrained(plain, tmp_path / "adapter").eval()
    assert torch.equal(logits(loaded, kind, family), adapted)
    with merged_state(model) as state:
        model.save_pretrained(tmp_path / "merged", state_dict=state)
    merged = auto.from_pretrained(tmp_path / "merged").eval()
    torch.testing.assert_close(logits(merged, kind, family), adapted, rtol=1e-5, atol=1e-5)
    assert torch.equal(logits(model, kind, family), adapted), "the model is as it was, to the bit"
    other, head = made(family, kind)
    set_trainable(other, head, kind, finetuning, 1)
    read_adapter(tmp_path / "adapter", other)
    assert torch.equal(logits(other.eval(), kind, family), adapted), "what a run goes on from"


@pytest.mark.parametrize("family", ["bert", "gpt2"])
@pytest.mark.parametrize("scaling", ["rank", "root"])
def test_lora_adds_the_product_of_its_matrices(family, scaling):
    """h = W x + alpha / r * B A x (arXiv:2106.09685, section 4.1); alpha / sqrt(r) (arXiv:2312.03732)."""
    model, head = made(family, "sequence")
    set_trainable(model, head, "sequence", options("lora", scaling=scaling, rank=4, dropout=0.0), 0)
    layer = next(iter(adapters(moved(model)).values()))
    x = torch.randn(5, 16)
    weight, bias = layer.base_layer.weight, layer.base_layer.bias
    matrix = weight if family == "gpt2" else weight.T
    a, b = layer.lora_A["s000"].weight, layer.lora_B["s000"].weight
    factor = 16 / 4 if scaling == "rank" else 16 / 2
    torch.testing.assert_close(layer(x), x @ matrix + bias + factor * x @ a.T @ b.T)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("mode", WITHIN_LAYERS)
def test_what_is_trained_in_a_body_of_bfloat16_is_fp32_and_has_gradients(mode, family):
    kind = KINDS[family][0]
    model, head = made(family, kind)
    model.to(torch.bfloat16)
    set_trainable(model, head, kind, options(mode), 0)
    moved(model)
    with torch.autocast("cpu", torch.bfloat16):
        model(**inputs(kind, family)).logits.float().square().sum().backward()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert {p.dtype for p in trained.values()} == {torch.float32}
    assert {p.dtype for p in model.parameters() if not p.requires_grad} == {torch.bfloat16}
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trained.values())


def test_adapters_are_drawn_from_the_seed_alone():
    def drawn(seed):
        torch.manual_seed(seed * 7)
        model, head = made("bert", "sequence")
        set_trainable(model, head, "sequence", options("lora"), seed)
        return next(p for name, p in model.named_parameters() if "lora_A" in name)

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))


def test_a_family_that_is_not_known_is_refused_with_its_layers_and_taken_by_their_names():
    torch.manual_seed(0)
    settings = transformers.BertConfig(**WIDTH, num_labels=3)
    model = transformers.BertForSequenceClassification(settings)
    model.config.model_type = "unheard-of"
    with pytest.raises(
        ConfigError, match=r"models of type unheard-of are not known here; .*query, key, value, dense.*targets"
    ):
        set_trainable(model, model.classifier, "sequence", options("lora"), 0)
    set_trainable(model, model.classifier, "sequence", options("lora", targets=["key"]), 0)
    assert adapters(model)


def test_peft_is_imported_by_its_own_modes_alone():
    script = "import sys, cl_mlm.training.loop, cl_mlm.models.shared_body; print('peft' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_modes_with_adapters_say_so():
    assert {mode for mode in MODES if "export" in {n for n, modes in mode_options().items() if mode in modes}} == {
        *WITHIN_LAYERS
    }
    assert replace(options("lora"), rank=2).rank == 2
