import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from cl_mlm.config.schema import ModelConfig
from cl_mlm.models.loading import load_backbone
from cl_mlm.models.tiny import POSITIONS, TINY, letter_tokenizer, tiny_config
from cl_mlm.objectives.classification import Classification

TOKENIZER = letter_tokenizer()
HARD = ["😀👍🏽", "中文 字符", "HELLO World", "a", " \t", "", "é Ünï ﬁ", "\x00", "\u200b", "naïve-1234567!", "ǆ ﷺ"]
HARD += ["x" * 20_000, "中é" * 500]


@pytest.mark.parametrize("text", HARD)
def test_hard_texts_encode_without_unknown_token(text):
    assert TOKENIZER.unk_token_id not in TOKENIZER(text)["input_ids"]


@given(st.text(st.characters(exclude_categories=["Cs"])))
@settings(max_examples=200, deadline=None)
def test_any_text_encodes_without_unknown_token(text):
    ids = TOKENIZER(text, split_special_tokens=True)["input_ids"]
    assert TOKENIZER.unk_token_id not in ids
    assert (ids[0], ids[-1]) == (TOKENIZER.cls_token_id, TOKENIZER.sep_token_id)


@given(st.text("abcxyz", min_size=1, max_size=20))
@settings(deadline=None)
def test_words_come_back_from_their_pieces(word):
    assert TOKENIZER.decode(TOKENIZER(word)["input_ids"], skip_special_tokens=True) == word


def test_upper_case_is_lower_case():
    assert TOKENIZER("Hello WORLD")["input_ids"] == TOKENIZER("hello world")["input_ids"]


def test_words_are_cut_into_letter_triples_from_the_left():
    assert TOKENIZER.tokenize("balance") == ["bal", "anc", "e"]


def test_different_emoji_have_different_tokens():
    assert TOKENIZER("😀")["input_ids"] != TOKENIZER("😁")["input_ids"]


def test_pairs_get_token_types():
    encoded = TOKENIZER("ab", "cde")
    first, second = TOKENIZER("ab")["input_ids"], TOKENIZER("cde")["input_ids"]
    assert encoded["input_ids"] == first + second[1:]
    assert encoded["token_type_ids"] == [0] * len(first) + [1] * (len(second) - 1)


def test_a_reloaded_tokenizer_is_equal(tmp_path):
    TOKENIZER.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again.backend_tokenizer.to_str() == TOKENIZER.backend_tokenizer.to_str()
    assert again(HARD, HARD[::-1])["input_ids"] == TOKENIZER(HARD, HARD[::-1])["input_ids"]
    assert again("ab", "cd")["token_type_ids"] == TOKENIZER("ab", "cd")["token_type_ids"]
    assert (again.pad_token, again.model_max_length) == ("[PAD]", POSITIONS)


def test_weights_follow_from_the_seed():
    def weights(seed):
        backbone = load_backbone(ModelConfig("tiny"), ["a", "b"], seed, 128, Classification())
        return backbone.model.bert.embeddings.word_embeddings.weight

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


@pytest.mark.parametrize("name", TINY)
def test_longer_rows_get_more_positions(name):
    settings = tiny_config(name, None, POSITIONS + 8)
    assert getattr(settings, "max_position_embeddings", None) in (None, POSITIONS + 8, 2 * (POSITIONS + 8))


@pytest.mark.parametrize("name", TINY)
def test_vocabulary_of_the_model_is_that_of_the_tokenizer(name):
    settings, tokenizer = tiny_config(name, 0.0, 64), letter_tokenizer(name)
    assert settings.vocab_size == len(tokenizer)
    assert settings.pad_token_id == tokenizer.pad_token_id
    if name != "tiny":
        assert settings.eos_token_id == tokenizer.eos_token_id == tokenizer.sep_token_id
