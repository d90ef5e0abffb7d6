"""The limit that is found in a model's modules is where a real forward pass ends."""

import pytest
import torch
import transformers
from transformers import AutoConfig

from cl_mlm.models.positions import own_length, position_limits, stated_length
from cl_mlm.models.tiny import letter_tokenizer

POSITIONS = 40
SIZED = {"vocab_size": 50, "max_position_embeddings": POSITIONS}
BERT = SIZED | {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
PADDED = BERT | {"pad_token_id": 1}
FACTORED = BERT | {"embedding_size": 16}
XLM = SIZED | {"emb_dim": 16, "n_layers": 1, "n_heads": 2, "n_words": 50}
GPT = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": POSITIONS, "vocab_size": 50}
GROUPS = {f"{part}_groups": 1 for part in ("q", "k", "v", "post_attention", "intermediate", "output")}
ESM = PADDED | {"mask_token_id": 3}
ENCODERS = {
    "bert": (BERT, 40),
    "electra": (FACTORED, 40),
    "distilbert": (SIZED | {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 24}, 40),
    "albert": (FACTORED, 40),
    "roberta": (PADDED, 38),
    "roberta with padding 5": (BERT | {"pad_token_id": 5}, 34),
    "xlm-roberta": (PADDED, 38),
    "camembert": (PADDED, 38),
    "mpnet": (PADDED, 38),
    "longformer": (PADDED | {"attention_window": 4}, 38),
    "luke": (PADDED | {"entity_vocab_size": 10, "entity_emb_size": 16}, 38),
    "ibert": (PADDED, 38),
    "esm": (ESM | {"position_embedding_type": "absolute"}, 38),
    "esm with rotary positions": (ESM | {"position_embedding_type": "rotary"}, None),
    "modernbert": (BERT | {"pad_token_id": 0}, None),
    "deberta-v2": (BERT, 40),
    "deberta-v2 with relative positions": (BERT | {"position_biased_input": False, "relative_attention": True}, None),
    "roformer": (FACTORED, 40),
    "big_bird": (BERT | {"attention_type": "original_full"}, 40),
    "nystromformer": (BERT, 40),
    "yoso": (BERT, 40),
    "xlm": (XLM, 40),
    "flaubert": (XLM, 40),
    "squeezebert": (FACTORED | GROUPS, 40),
    "canine": (BERT, 40),
}
DECODERS = {
    "gpt2": (GPT, 40),
    "gpt_bigcode": (GPT, 40),
    "openai-gpt": (GPT, 40),
    "gptj": (GPT | {"rotary_dim": 4}, 40),
    "codegen": (GPT | {"rotary_dim": 4, "n_head": 4}, 40),
    "ctrl": (GPT | {"dff": 24}, 40),
    "opt": (SIZED | {"hidden_size": 16, "ffn_dim": 24, "num_attention_heads": 2, "word_embed_proj_dim": 16}, 40),
    "biogpt": (BERT, 40),
    "mpt": ({"d_model": 16, "n_heads": 2, "n_layers": 1, "max_seq_len": 40, "vocab_size": 50}, 40),
    "xglm": (SIZED | {"d_model": 16, "ffn_dim": 24, "num_layers": 1, "attention_heads": 2}, None),
    "llama": (BERT, None),
    "gpt_neox": (BERT, None),
    "bloom": ({"hidden_size": 16, "n_layer": 1, "n_head": 2, "vocab_size": 50}, None),
}
HALVES = {f"{half}_{part}": size for half in ("encoder", "decoder") for part, size in
          {"layers": 1, "attention_heads": 2, "ffn_dim": 24}.items()}  # fmt: skip
BART = SIZED | HALVES | {"d_model": 16, "decoder_start_token_id": 2, "pad_token_id": 1, "eos_token_id": 2}
LED = {"max_encoder_position_embeddings": 40, "max_decoder_position_embeddings": 24, "attention_window": 4}
T5 = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2, "vocab_size": 50}
FSMT = {"langs": ["en", "de"], "src_vocab_size": 50, "tgt_vocab_size": 50}
PROPHET = {"num_encoder_layers": 1, "num_decoder_layers": 1, "hidden_size": 16, "pad_token_id": 0}
PROPHET |= {"num_encoder_attention_heads": 2, "num_decoder_attention_heads": 2}
ENCODER_DECODERS = {
    "bart": (BART, (40, 40)),
    "mbart": (BART, (40, 40)),
    "pegasus": (BART, (40, 40)),
    "marian": (BART, (40, 40)),
    "blenderbot": (BART, (40, 40)),
    "led": (BART | LED, (40, 24)),
    "prophetnet": (SIZED | PROPHET, (38, 38)),  # beyond, all tokens of its encoder would have one position
    "m2m_100": (BART, (None, None)),
    "fsmt": (SIZED | HALVES | FSMT | {"d_model": 16}, (None, None)),
    "t5": (T5, (None, None)),
}


def built(name, settings, auto="AutoModel", **more):
    config = AutoConfig.for_model(name.split()[0], **settings, **more)
    torch.manual_seed(0)
    return getattr(transformers, auto).from_config(config).eval()


def reads(model, **lengths):
    """Says whether a forward pass with these numbers of tokens ends well."""
    inputs = {name: torch.randint(6, 50, (2, length)) for name, length in lengths.items()}
    try:
        with torch.no_grad():
            model(**inputs, attention_mask=torch.ones_like(inputs["input_ids"]))
    except (IndexError, RuntimeError):
        return False
    return True


@pytest.mark.parametrize("name", [*ENCODERS, *DECODERS])
def test_a_model_reads_as_many_tokens_as_its_limit_and_no_more(name):
    settings, limit = (ENCODERS | DECODERS)[name]
    model = built(name, settings, "AutoModel" if name in ENCODERS else "AutoModelForCausalLM")
    assert position_limits(model).input == limit
    assert reads(model, input_ids=limit or 3 * POSITIONS)
    assert limit is None or not reads(model, input_ids=limit + 1)


@pytest.mark.parametrize("name", ENCODER_DECODERS)
def test_both_halves_of_an_encoder_decoder_have_a_limit(name):
    settings, (source, target) = ENCODER_DECODERS[name]
    model = built(name, settings, "AutoModelForSeq2SeqLM")
    assert (position_limits(model).input, position_limits(model).target) == (source, target)
    assert reads(model, input_ids=source or 100, decoder_input_ids=target or 100)
    assert target is None or not reads(model, input_ids=8, decoder_input_ids=target + 1)
    assert source is None or name == "prophetnet" or not reads(model, input_ids=source + 1, decoder_input_ids=8)


def test_the_decoder_of_a_span_finder_reads_the_input_too():
    model = built("led", BART | LED, "AutoModelForQuestionAnswering")
    assert position_limits(model).input == 24


def test_the_limit_needs_no_weights():
    with torch.device("meta"):
        model = built("roberta", PADDED)
    assert position_limits(model).input == 38


def test_a_models_own_length_is_the_least_that_weights_config_and_tokenizer_name():
    rotary, tokenizer = AutoConfig.for_model("llama", **BERT), letter_tokenizer()
    assert stated_length(rotary) == 40
    assert own_length(None, rotary, tokenizer, "sequence") == 40
    assert own_length(38, rotary, tokenizer, "sequence") == 38
    tokenizer.model_max_length = 30
    assert own_length(38, rotary, tokenizer, "sequence") == 30
    assert own_length(38, rotary, tokenizer, "causal") == 38
    tokenizer.model_max_length = 10**30
    assert own_length(None, AutoConfig.for_model("t5", **T5), tokenizer, "seq2seq") is None
