"""A tokenizer that lacks a token is given one where that is right, and refused by name before weights are loaded."""

from functools import cache

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

import cl_mlm
from cl_mlm.errors import ConfigError

LETTERS = [chr(ord("a") + i) for i in range(26)]
WORDS = [*LETTERS, *map(str, range(14)), "red", "blue", "[E1]", "[/E1]", "[E2]", "[/E2]", "=", "words"]
SPECIAL = ("pad_token", "eos_token", "unk_token", "sep_token", "bos_token", "cls_token", "mask_token")
SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
BART = {"d_model": 16, "max_position_embeddings": 80}
BART |= {f"{half}_{part}": 2 for half in ("encoder", "decoder") for part in ("layers", "attention_heads", "ffn_dim")}
T5 = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2}
FAMILIES = {
    "bert": SIZES | {"max_position_embeddings": 80},
    "roberta": SIZES | {"max_position_embeddings": 80, "type_vocab_size": 1},
    "distilbert": {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 24, "max_position_embeddings": 80},
    "gpt2": {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 80},
    "llama": SIZES | {"num_key_value_heads": 1},
    "t5": T5 | {"decoder_start_token_id": 0},
    "bart": BART | {"decoder_start_token_id": 2},
}
KINDS = ("classification", "pairs", "multilabel", "regression", "relation", "tagging", "question_answering")
KINDS += ("causal", "packed", "masked", "text_to_text")
CLASSIFYING = ("classification", "pairs", "multilabel", "regression", "relation")
SECTIONS = {
    "causal": ("language_modelling", {"kind": "causal"}),
    "packed": ("language_modelling", {"kind": "causal", "pack": True}),
    "masked": ("language_modelling", {"kind": "masked"}),
    "text_to_text": ("text_to_text", {"separator": " = ", "max_new_tokens": 8}),
    "question_answering": ("question_answering", {"stride": 4}),
}
NO_END = "model.name: a model that writes needs a tokenizer with an eos_token or a sep_token, got neither"
NO_PAD = "model.name: a decoder that classifies needs a tokenizer with a pad_token, or another special token to stand"
NO_UNKNOWN = "model.name: its tokenizer has no token for unknown words"
NO_EOS = "model.name: an encoder-decoder that classifies needs a tokenizer with an eos_token that it puts behind every"
NO_FRAME = "model.name: an encoder-decoder that classifies needs a tokenizer that puts the model's end token (eos_tok"


def tokenizer_of(tokens, words, model, frame):
    """Returns a tokenizer of whole words with these special tokens, by their names in SPECIAL."""
    own = {name: f"<{name}>" for name in tokens}
    index = {word: i for i, word in enumerate([*own.values(), *words])}
    unknown = {"unk_token": own["unk_token"]} if "unk_token" in own else {}
    backend = Tokenizer(model(index, **unknown) if model is not models.BPE else model(index, [], **unknown))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if frame:
        backend.post_processor = processors.TemplateProcessing(
            single=frame, special_tokens=[(token, index[token]) for token in frame.split() if token in index]
        )
    return PreTrainedTokenizerFast(tokenizer_object=backend, **own)


@pytest.fixture(scope="module")
def model_with(tmp_path_factory):
    """A random model with a tokenizer that has these special tokens: `model_with("gpt2", ("eos_token",))`."""

    @cache
    def make(family, tokens, frame="", vocabulary=0, model=models.WordLevel, words=tuple(WORDS)):
        folder = tmp_path_factory.mktemp(family)
        tokenizer = tokenizer_of(tokens, words, model, frame)
        named = {f"{name}_id": getattr(tokenizer, f"{name}_id") for name in ("pad_token", "eos_token")}
        ids = {name: token for name, token in named.items() if token is not None}
        torch.manual_seed(0)
        size = vocabulary or len(tokenizer)
        config = AutoConfig.for_model(family, vocab_size=size, **ids, **FAMILIES[family])
        AutoModel.from_config(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return str(folder)

    return make


@pytest.fixture
def outcome(fast, stream_of):
    """What a run of two steps on these rows and this model is refused with; empty: it ends well."""

    def find(kind, model, num_words=6, **more):
        objective, options = SECTIONS.get(kind, (kind, {}))
        training = fast["training"] | {"epochs": 1, "steps": 2, "max_length": 40}
        config = {"stream": stream_of(objective, num_words, **options), "model": {"name": model}, "training": training}
        try:
            cl_mlm.run(fast | config | {"evaluation": {"splits": ["test"]}} | more, progress=False)
        except ConfigError as error:
            return str(error)
        return ""

    return find


def refusal(kind, family, tokens):
    """Returns what a run without further special tokens is refused with; empty: it runs."""
    is_writer, is_decoder = family in ("t5", "bart"), family in ("gpt2", "llama")
    heads = {"causal": is_decoder, "packed": is_decoder, "masked": not is_writer and not is_decoder}
    heads |= {"text_to_text": is_writer or is_decoder, "tagging": family != "bart"}
    if not heads.get(kind, True):
        return "model.name: the stream's objective needs"
    if kind == "masked" and "mask_token" not in tokens:
        return "stream.options.kind: masked needs a tokenizer with a mask token, got masked"
    if kind == "packed" and not {"eos_token", "sep_token"} & {*tokens}:
        return "stream.options.pack: needs a tokenizer with an end (eos or sep) token, got true"
    if kind == "text_to_text" and not {"eos_token", "sep_token"} & {*tokens}:
        return NO_END
    if kind in CLASSIFYING and is_decoder and not tokens:
        return NO_PAD
    return NO_EOS if kind in CLASSIFYING and is_writer else ""


RUNS = [
    pytest.param(kind, family, tokens, marks=[pytest.mark.slow] * (family in ("llama", "distilbert") or bool(tokens)))
    for tokens in ((), ("sep_token", "mask_token"))
    for family in FAMILIES
    for kind in KINDS
]
RUNS += [
    ("masked", "bert", ("mask_token",)),
    ("text_to_text", "gpt2", ("sep_token",)),
    ("packed", "gpt2", ("eos_token",)),
]
RUNS += [("classification", "gpt2", (name,)) for name in SPECIAL] + [("text_to_text", "bart", ("eos_token",))]


@pytest.mark.parametrize(("kind", "family", "tokens"), RUNS)
def test_every_objective_runs_on_every_family_or_is_refused_by_name(kind, family, tokens, model_with, outcome):
    refused = refusal(kind, family, tokens)
    found = outcome(kind, model_with(family, tokens))
    assert found.startswith(refused)
    assert bool(found) == bool(refused), found
    assert "None" not in found


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_an_encoder_decoder_that_classifies_keeps_its_end_token_to_itself(family, model_with, outcome):
    frame = "$A <eos_token>"
    assert outcome("classification", model_with(family, ("unk_token", "eos_token"), frame)) == ""
    assert outcome("classification", model_with(family, ("pad_token", "eos_token"), frame)) == ""
    bare = outcome("classification", model_with(family, ("unk_token", "eos_token")))
    assert bare.startswith(NO_FRAME)
    assert bare.endswith("which this one does not: its eos_token '<eos_token>' is token 1")
    alone = outcome("classification", model_with(family, ("eos_token",), frame))
    assert alone.startswith("model.name: an encoder-decoder that classifies needs a pad_token, or another special to")


@pytest.mark.parametrize(
    ("kind", "model", "words", "said"),
    [
        ("classification", models.WordLevel, LETTERS, f"{NO_UNKNOWN}, which split 'train' of "),
        ("tagging", models.WordPiece, LETTERS, f"{NO_UNKNOWN}, which split 'train' of "),
        ("classification", models.BPE, ["é"], f"{NO_UNKNOWN}, which leaves 12 rows empty"),
        ("classification", models.WordLevel, [], "model.name: its tokenizer gives no tokens for any text"),
    ],
)
def test_rows_of_unknown_words_are_refused_where_no_token_stands_for_them(
    kind, model, words, said, model_with, outcome
):
    assert outcome(kind, model_with("bert", ("pad_token",), model=model, words=tuple(words))).startswith(said)
    if model is not models.BPE:
        assert outcome(kind, model_with("bert", ("pad_token", "unk_token"), model=model, words=tuple(words))) == ""


def test_separator_and_answers_need_tokens(model_with, outcome, stream_of):
    model = model_with("gpt2", ("eos_token",))
    section = stream_of("text_to_text", 6, separator="\nOutput:\n", answers=["red", "blue", "green"])
    told = outcome("text_to_text", model, stream=section)
    assert "stream.options.separator: the tokenizer has no tokens for it, got '\\nOutput:\\n'" in told
    section = stream_of("text_to_text", 6, separator=" = ", answers=["red", "blue", "green"])
    assert "stream.options.answers: the tokenizer has no tokens for 'green'" in outcome(
        "text_to_text", model, stream=section
    )


def test_words_of_prompts_need_tokens(model_with, outcome, stream_of):
    prompting = {"template": "{{ text }} =", "data": stream_of("classification"), "verbaliser": {"red": "a"}}
    prompting["verbaliser"]["blue"] = "green"
    told = outcome("causal", model_with("gpt2", ("eos_token",)), prompting=prompting)
    assert told == "prompting.verbaliser: the tokenizer has no tokens for 'green'"
    prompting["verbaliser"]["blue"] = "b"
    assert outcome("causal", model_with("gpt2", ()), prompting=prompting) == ""


def test_tokens_that_the_weights_lack_are_refused(model_with, outcome):
    small = model_with("bert", ("pad_token", "mask_token"), vocabulary=20)
    said = "but its vocab_size is 20"
    assert said in outcome("classification", small)
    assert said in outcome("masked", small)
