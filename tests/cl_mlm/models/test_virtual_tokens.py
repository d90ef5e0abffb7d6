"""Soft prompts and prefixes over families of models: what they compute, and what a folder gives back."""

import copy

import pytest
import torch
import transformers
from peft import PeftModel, PrefixTuningConfig, get_peft_model

from cl_mlm.config.schema import ModelConfig
from cl_mlm.errors import ConfigError
from cl_mlm.mechanisms import SquaredGradients
from cl_mlm.models.adapter_files import read_adapter, write_adapter
from cl_mlm.models.finetuning import mode_settings, set_trainable, without_adapters
from cl_mlm.models.loading import AUTO_CLASSES, pretrained
from cl_mlm.models.positions import position_limits
from cl_mlm.models.soft_prompts import start_from_text
from cl_mlm.models.virtual_tokens import virtual_tokens_of
from cl_mlm.models.writing import begin, write

from .test_finetuning import ENCODERS, FORMS, inputs, made, moved, options

MODES = {
    "prompt": {"mode": "prompt"},
    "p_tuning": {"mode": "p_tuning", "hidden_size": 8},
    "prefix": {"mode": "prefix"},
    "projected prefix": {"mode": "prefix", "prefix_projection": True},
}
NUM = 3
LABELS = {kind: {"num_labels": 3} for kind in ("sequence", "token")}
WIDE = ("token", "span", "causal", "masked")  # forms whose heads are over tokens


def chosen(name, **given):
    return options(**{"virtual_tokens": NUM} | MODES[name] | given)


def fits(name, family, kind):
    if "prefix" in name:
        return family not in ENCODERS and (kind == "seq2seq" or family in ("gpt2", "llama"))
    return kind == "seq2seq" or family not in ("t5", "bart")


CASES = [(name, *form) for name in MODES for form in FORMS if fits(name, *form)]
NOT_FITTING = [(name, *form) for name in MODES for form in FORMS if not fits(name, *form)]


BY_DEFAULT = {
    ("prompt", "bert", "sequence"), ("prompt", "gpt2", "sequence"), ("prompt", "roberta", "token"),
    ("prompt", "bert", "masked"), ("prompt", "bart", "seq2seq"), ("prompt", "gpt2", "causal"),
    ("p_tuning", "distilbert", "span"), ("p_tuning", "llama", "causal"), ("p_tuning", "t5", "seq2seq"),
    ("prefix", "gpt2", "causal"), ("prefix", "llama", "sequence"), ("prefix", "t5", "seq2seq"),
    ("projected prefix", "bart", "seq2seq"),
}  # fmt: skip


def marked(cases):
    """Returns cases of which a part runs by default."""
    return [pytest.param(*case, marks=() if case in BY_DEFAULT else pytest.mark.conformance) for case in cases]


def adapted(name, family, kind, **given):
    """Returns a model with virtual tokens that have been trained a little."""
    model, head = made(family, kind)
    set_trainable(model, head, kind, chosen(name, **given), 0)
    return moved(model)


def scores(model, kind, given):
    output = model(**given)
    return torch.stack([output.start_logits, output.end_logits], -1) if kind == "span" else output.logits


def logits(model, kind, given):
    with torch.no_grad():
        return scores(model, kind, given)


def row(given, i, length=None):
    """Returns one row of inputs, of the first `length` tokens of its text."""
    return {
        name: tensor[i : i + 1] if name.startswith("decoder") else tensor[i : i + 1, :length]
        for name, tensor in given.items()
    }


def prefixed_by_peft(base, prefix):
    """Returns peft's model with a prefix whose layers lie where peft reads them: that of layer j at 2 j modulo L."""
    layers, heads, size = prefix.shape
    config = PrefixTuningConfig(
        task_type="SEQ_2_SEQ_LM", num_virtual_tokens=NUM, num_layers=layers, num_attention_heads=heads,
        token_dim=heads * size, num_transformer_submodules=2,
    )  # fmt: skip
    model = get_peft_model(base, config)
    read = torch.empty(NUM, layers, 2, heads * size)
    for layer in range(layers):
        read[:, 2 * layer % layers] = prefix.values().detach().view(NUM, layers, 2, -1)[:, layer]
    model.prompt_encoder["default"].load_prompt_embeddings(read.flatten(1))
    return model


@pytest.mark.parametrize(("name", "family", "kind"), marked(CASES))
def test_a_row_gets_the_same_alone_and_beside_a_longer_one_and_a_logit_for_each_of_its_tokens(name, family, kind):
    model = adapted(name, family, kind)
    given = inputs(kind, family)
    together, alone = logits(model, kind, given), logits(model, kind, row(given, 1, 4))
    width = 4 if kind in WIDE else together.shape[1]
    torch.testing.assert_close(together[1:, :width], alone, rtol=1e-5, atol=1e-5)
    assert together.shape[1] == (6 if kind in WIDE else 3 if kind in ("sequence", "seq2seq") else None)
    base = made(family, kind)[0]
    if kind in ("causal", "masked", "seq2seq"):  # whose head is not trained
        with without_adapters(model):
            assert torch.equal(logits(model, kind, given), logits(base, kind, given))
    assert (logits(base, kind, given)[0] - together[0]).abs().max() > 1e-4
    assert torch.equal(logits(model, kind, given), together)
    scores(model, kind, given).square().sum().backward()
    own = [p for n, p in model.named_parameters() if "virtual_tokens" in n]
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in own)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft asks for it
@pytest.mark.filterwarnings("ignore:Position ids are not supported")
@pytest.mark.parametrize(("name", "family", "kind"), marked(CASES))
def test_an_adapter_folder_gives_the_same_logits_in_peft_and_here(name, family, kind, tmp_path):
    made(family, kind)[0].save_pretrained(tmp_path / "base")
    model, finetuning = adapted(name, family, kind), chosen(name)
    given = inputs(kind, family)
    found = logits(model, kind, given)
    origin = ModelConfig(name=str(tmp_path / "base"))
    write_adapter(tmp_path / "whole" / "adapter", model, finetuning, origin)
    auto = getattr(transformers, AUTO_CLASSES[kind])
    base = auto.from_pretrained(tmp_path / "base", **LABELS.get(kind, {}))
    if "prefix" in name and kind == "seq2seq":
        assert not (tmp_path / "whole" / "adapter" / "adapter_config.json").exists(), "peft would misread it"
        peft = prefixed_by_peft(base, virtual_tokens_of(model))
    else:
        peft = PeftModel.from_pretrained(base, tmp_path / "whole" / "adapter")
    from_peft = logits(peft.eval(), kind, given)
    if kind in WIDE:
        from_peft = from_peft[:, -6:]
    if kind == "sequence" and family in ("gpt2", "llama") and "prefix" not in name:
        # peft hands embeddings to the classifier, which then takes the last position: padding, in a shorter row.
        assert (from_peft[1] - found[1]).abs().max() > 1e-4
        found, from_peft = found[:1], from_peft[:1]
    torch.testing.assert_close(from_peft, found, rtol=1e-5, atol=1e-5)
    settings = transformers.AutoConfig.from_pretrained(tmp_path / "whole" / "adapter")
    here = pretrained(auto, str(tmp_path / "whole"), settings).eval()
    assert torch.equal(logits(here, kind, given), logits(model, kind, given))
    other, head = made(family, kind)
    set_trainable(other, head, kind, finetuning, 1)
    read_adapter(tmp_path / "whole" / "adapter", other)
    assert torch.equal(logits(other.eval(), kind, given), logits(model, kind, given)), "what a run goes on from"


REASONS = {
    "encoder": "prefix puts keys and values before the text's, which an encoder's attention mask leaves out",
    "embeddings": r"puts embeddings in the place of tokens, which \w+ refuses \(inputs_embeds\)",
    "classes": "prefix serves an encoder-decoder that writes",
}


@pytest.mark.parametrize(("name", "family", "kind"), NOT_FITTING)
def test_what_cannot_read_virtual_tokens_says_why(name, family, kind):
    model, head = made(family, kind)
    reason = "encoder" if family in ENCODERS else "classes" if "prefix" in name else "embeddings"
    with pytest.raises(ConfigError, match=f"finetuning.mode: .*{REASONS[reason]}.*; got {MODES[name]['mode']}"):
        set_trainable(model, head, kind, chosen(name), 0)


def greedy(model, given, steps):
    """Returns the likeliest tokens one by one, each by a pass over all before it."""
    given = {name: tensor for name, tensor in given.items() if not name.startswith("decoder")}
    written = torch.zeros(1, 1, dtype=torch.long)
    for _ in range(steps):
        if model.config.is_encoder_decoder:
            ids = logits(model, "seq2seq", {**given, "decoder_input_ids": written})
        else:
            whole = torch.cat([given["input_ids"], written[:, 1:]], 1)
            ids = logits(model, "causal", {"input_ids": whole, "attention_mask": torch.ones_like(whole)})
        written = torch.cat([written, ids[:, -1:].argmax(-1)], 1)
    return written[0, 1:].tolist()


WRITERS = [(name, family, kind) for name, family, kind in CASES if kind in ("causal", "seq2seq")]


@pytest.mark.parametrize(("name", "family", "kind"), marked(WRITERS))
def test_a_model_writes_after_its_virtual_tokens_what_passes_over_the_whole_text_give(name, family, kind):
    model = adapted(name, family, kind)
    given = {key: tensor for key, tensor in inputs(kind, family).items() if not key.startswith("decoder")}
    texts = [row(given, 0, 6), row(given, 1, 4)]
    alone = [greedy(model, text, 4) for text in texts]
    if kind == "causal":  # padded on the left
        given["input_ids"][1] = torch.tensor([0, 0, 10, 11, 12, 1])
        given["attention_mask"][1] = torch.tensor([0, 0, 1, 1, 1, 1])
    settings = model.generation_config = transformers.GenerationConfig(  # it has habits of its own
        max_new_tokens=4, do_sample=False, eos_token_id=None, pad_token_id=0, decoder_start_token_id=0
    )
    with torch.no_grad():
        written = model.generate(**given, generation_config=settings)
    assert written[:, -4:].tolist() == alone
    start = 0 if kind == "seq2seq" else None
    with torch.no_grad():
        assert write(begin(model, given, start), 4, end=-1) == alone, "rows that can leave their batch"
        ended = write(begin(model, given, start), 4, end=alone[0][0])
    assert [*map(len, ended)] == [1, (*alone[1], alone[0][0]).index(alone[0][0]) + 1 if alone[0][0] in alone[1] else 4]
    copied = copy.deepcopy(model)
    with torch.no_grad():
        virtual_tokens_of(model).weight.add_(5.0)
        assert copied.generate(**given, generation_config=settings)[:, -4:].tolist() == alone, "a copy has its own"


TABLES = [case for case in CASES if case[1:] in (("gpt2", "causal"), ("bart", "seq2seq"))]


@pytest.mark.parametrize(("name", "family", "kind"), TABLES)
def test_virtual_tokens_take_positions_and_never_decay(name, family, kind):
    model, head = made(family, kind)
    before = position_limits(model)
    set_trainable(model, head, kind, chosen(name), 0)
    after = position_limits(model)
    taken = (before.input - after.input, (before.target or 0) - (after.target or 0))
    assert taken == ((0, NUM) if "prefix" in name and kind == "seq2seq" else (NUM, 0))
    own = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert own
    assert all("virtual_tokens.s000." in n and mode_settings(own)[n].weight_decay == 0 for n in own)
    with pytest.raises(ConfigError, match=r"finetuning.virtual_tokens: must be at most 36: this model.* got 37"):
        set_trainable(*made(family, kind), kind, chosen(name, virtual_tokens=37), 0)


@pytest.mark.parametrize(
    ("name", "family", "kind"),
    [
        ("prompt", "bert", "sequence"),
        ("prompt", "gpt2", "causal"),
        ("prompt", "t5", "seq2seq"),
        ("p_tuning", "bert", "token"),
        ("prefix", "llama", "sequence"),
    ],
)
@pytest.mark.parametrize("input_row", [None, torch.tensor([0, 1, 1])])
def test_squared_gradients_by_row_are_those_of_each_row_alone(name, family, kind, input_row):
    model = adapted(name, family, kind)
    given = {key: torch.cat([tensor, tensor[:1]]) for key, tensor in inputs(kind, family).items()}

    def losses():
        log_p = scores(model, kind, given).log_softmax(-1)[..., 1]
        rows = torch.arange(3) if input_row is None else input_row
        return torch.zeros(int(rows.max()) + 1).index_add(0, rows, log_p.reshape(3, -1).sum(1))

    own = {n: p for n, p in model.named_parameters() if p.requires_grad}
    squares = SquaredGradients(model, own)
    squares.add(losses, input_row)
    assert squares.exact_hooks
    wanted = {key: torch.zeros_like(p) for key, p in own.items()}
    for i in range(len(losses())):
        found = torch.autograd.grad(losses()[i], list(own.values()), allow_unused=True)
        for key, gradient in zip(own, found, strict=True):
            wanted[key] += 0 if gradient is None else gradient.square()
    torch.testing.assert_close(squares.sums, wanted, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize(("name", "family", "kind"), marked(CASES))
def test_virtual_tokens_before_a_body_of_bfloat16_are_fp32_and_have_gradients(name, family, kind):
    model, head = made(family, kind)
    model.to(torch.bfloat16)
    set_trainable(model, head, kind, chosen(name), 0)
    given = inputs(kind, family)
    with torch.autocast("cpu", torch.bfloat16):
        scores(model, kind, given).float().square().sum().backward()
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert {p.dtype for p in trained.values()} == {torch.float32}
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trained.values())


def test_a_prompt_begins_as_embeddings_drawn_by_the_seed_as_a_text_or_as_numbers_of_their_size():
    def drawn(seed, **given):
        model, head = made("bart", "seq2seq")
        set_trainable(model, head, "seq2seq", chosen("prompt", **given), seed)
        return model, virtual_tokens_of(model).values().detach()

    model, first = drawn(1)
    embeddings = model.get_encoder().get_input_embeddings()(torch.arange(60))
    assert all((embeddings == vector).all(-1).any() for vector in first)
    assert torch.equal(first, drawn(1)[1])
    assert not torch.equal(first, drawn(2)[1])
    numbers = drawn(1, init="random", virtual_tokens=30)[1]
    assert 0.5 < float(numbers.std() / embeddings.std()) < 2

    def tokenizer(text, **_):
        return {"input_ids": [7, 8] if text.strip() else []}

    start_from_text(model, tokenizer, "two words")
    assert torch.equal(virtual_tokens_of(model).values(), embeddings[[7, 8, 7]])
    with pytest.raises(ConfigError, match=r"finetuning.init_text: must have tokens in the model's tokenizer, got ' '"):
        start_from_text(model, tokenizer, " ")
