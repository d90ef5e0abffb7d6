"""Blocks of packed texts against what they are made of: tokens, bytes and losses."""

import math

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cl_mlm.config.schema import ModelConfig
from cl_mlm.errors import ConfigError
from cl_mlm.models.loading import load_backbone
from cl_mlm.models.tiny import letter_tokenizer
from cl_mlm.objectives.language_modelling import LanguageModelling
from cl_mlm.tokens import encoding
from cl_mlm.tokens.encoding import encode_rows
from cl_mlm.tokens.logits import NO_TARGET
from cl_mlm.tokens.packing import packed

PACKED = LanguageModelling(pack=True)
MASKED = LanguageModelling("masked", mask_share=0.5, pack=True)
TOKENIZERS = {name: letter_tokenizer(name) for name in ("tiny", "tiny-decoder")}
TEXTS = ["how cold is it", "naïve 中文 😀 ", "one", "the long way round the hill and back again, for é", "[SEP] x"]


def blocks_of(texts, size, tokenizer, chunk=2):
    """Returns the columns of all blocks, the texts handed over `chunk` at a time."""
    chunks = [texts[i : i + chunk] for i in range(0, len(texts), chunk)]
    columns = {"input_ids": [], "before": [], "num_bytes": []}
    for part in packed(chunks, tokenizer, tokenizer.sep_token_id, size):
        assert all(part.values())
        for name, values in part.items():
            columns[name] += values
    return columns


def joined(texts, tokenizer):
    """The tokens of all texts with an end token after each, without the code under test."""
    parts = [[*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.sep_token_id] for text in texts]
    return [token for part in parts for token in part]


@pytest.mark.parametrize("name", TOKENIZERS)
@given(
    texts=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=30), min_size=1, max_size=8),
    size=st.integers(1, 12),
    chunk=st.integers(1, 4),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_blocks_are_the_texts_cut_anew(name, texts, size, chunk):
    tokenizer = TOKENIZERS[name]
    found = blocks_of(texts, size, tokenizer, chunk)
    expected = joined(texts, tokenizer)
    assert [token for block in found["input_ids"] for token in block] == expected
    *others, last = map(len, found["input_ids"])
    assert set(others) <= {size}
    assert 1 <= last <= size
    assert found["before"] == [tokenizer.sep_token_id, *expected[size - 1 :: size]][: len(found["before"])]
    assert sum(found["num_bytes"]) == sum(len(text.encode()) for text in texts)
    assert min(found["num_bytes"]) >= 0


def test_a_blocks_bytes_reach_from_the_token_before_it_to_its_last():
    # Tokens: "how", " ", "col", "d", end; "é" is two bytes, each a token, end.
    found = blocks_of(["how cold", "é"], 2, TOKENIZERS["tiny-decoder"])
    assert len(found["input_ids"]) == 4
    assert found["num_bytes"] == [4, 4, 2, 0]


def test_bytes_of_a_tokenizer_that_tells_no_places_are_shared_evenly():
    class Slow:
        def __call__(self, texts, **_):
            from transformers import BatchEncoding

            return BatchEncoding({"input_ids": [[7] * len(text) for text in texts]})

    parts = list(packed([["abc", "é"]], Slow(), 1, 2))
    assert [part["input_ids"] for part in parts] == [[[7, 7], [7, 1], [7, 1]]]
    assert parts[0]["num_bytes"] == [1, 2, 2]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CL_MLM_CACHE", str(tmp_path / "cache"))


def encoded(objective, tokenizer, size, texts=TEXTS):
    return encode_rows(Dataset.from_dict({"text": texts}), objective, tokenizer, {}, size, "packing")


def batch_of(objective, rows, tokenizer, positions=None):
    chosen = [rows.row(i) for i in positions or range(len(rows))]
    columns = {name: [row[name] for row in chosen] for name in chosen[0]}
    return objective.collate(columns, torch.arange(len(chosen)), tokenizer)


def test_blocks_run_on_over_the_chunks_of_an_encoding(cache, monkeypatch):
    monkeypatch.setattr(encoding, "CHUNK_ROWS", 2)
    tokenizer = TOKENIZERS["tiny-decoder"]
    rows = encoded(PACKED, tokenizer, 7)
    expected = joined(TEXTS, tokenizer)
    assert len(rows) == math.ceil(len(expected) / 7)
    assert np.concatenate([rows.row(i)["input_ids"] for i in range(len(rows))]).tolist() == expected


def test_the_second_time_blocks_are_read_and_other_blocks_are_not_taken_for_them(cache, monkeypatch):
    tokenizer = TOKENIZERS["tiny-decoder"]
    first = encoded(PACKED, tokenizer, 7)
    assert len(encoded(LanguageModelling(), tokenizer, 7)) == len(TEXTS)
    monkeypatch.setattr("cl_mlm.objectives.language_modelling.packed", None)
    assert len(encoded(PACKED, tokenizer, 7)) == len(first)


def test_every_token_is_predicted_once_and_the_sums_are_those_of_the_whole(cache, model_folder, one_thread):
    """A block's loss is that of a forward pass over the token before it and its own, one token at a time."""
    backbone = load_backbone(ModelConfig(model_folder("llama")), (), 0, 64, PACKED)
    backbone.model.eval()
    tokenizer = backbone.tokenizer
    rows = encoded(PACKED, tokenizer, 7)
    batch = batch_of(PACKED, rows, tokenizer)
    whole = [tokenizer.sep_token_id, *joined(TEXTS, tokenizer)]
    with torch.no_grad():
        losses = PACKED.loss(backbone.forward(batch), batch)
        expected = []
        for start in range(0, len(whole) - 1, 7):
            part = torch.tensor(whole[start : start + 8])
            log_p = backbone.model(input_ids=part[None, :-1]).logits[0].log_softmax(-1)
            expected.append(-float(sum(log_p[i, part[i + 1]] for i in range(len(part) - 1))))
    assert losses.tolist() == pytest.approx(expected, rel=1e-5)
    assert batch.count.sum() == len(whole) - 1
    assert batch.inputs["input_ids"].shape[1] == 7
    assert batch.extra["num_bytes"].sum() == sum(len(text.encode()) for text in TEXTS)
    values = [
        list(x) for x in zip(losses.tolist(), batch.count.tolist(), batch.extra["num_bytes"].tolist(), strict=True)
    ]
    scores = PACKED.score(values, batch.count.tolist(), ())
    assert scores["perplexity"] == pytest.approx(math.exp(sum(expected) / (len(whole) - 1)), rel=1e-5)
    bits = sum(expected) / math.log(2) / sum(len(text.encode()) for text in TEXTS)
    assert scores["bits_per_byte"] == pytest.approx(bits, rel=1e-5)


def test_end_tokens_between_texts_are_never_masked(cache):
    tokenizer = TOKENIZERS["tiny"]
    batch = batch_of(MASKED, encoded(MASKED, tokenizer, 9), tokenizer)
    targets = batch.targets[batch.targets != NO_TARGET]
    assert len(targets) == batch.count.sum() > 0
    assert not torch.isin(targets, torch.tensor(tokenizer.all_special_ids)).any()


def test_a_block_in_which_nothing_can_be_masked_has_no_loss(cache, model_folder, one_thread):
    from cl_mlm.batch import mean_loss

    backbone = load_backbone(ModelConfig(model_folder("bert")), (), 0, 64, MASKED)
    number = len(joined(TEXTS, backbone.tokenizer))
    rows = encoded(MASKED, backbone.tokenizer, number - 1)  # the last block is an end token alone
    batch = batch_of(MASKED, rows, backbone.tokenizer, [1])
    assert batch.count.tolist() == [0.0]
    assert mean_loss(MASKED.loss(backbone.forward(batch), batch), batch).item() == 0.0


def test_a_tokenizer_without_end_is_refused(cache):
    tokenizer = letter_tokenizer("tiny-decoder")
    tokenizer.eos_token = tokenizer.sep_token = None
    with pytest.raises(ConfigError, match=r"^stream.options.pack: needs a tokenizer with an end"):
        encoded(PACKED, tokenizer, 7)


def test_a_tokenizer_without_mask_token_is_refused(cache):
    tokenizer = letter_tokenizer()
    tokenizer.mask_token = None
    with pytest.raises(ConfigError, match=r"^stream.options.kind: masked needs"):
        encoded(MASKED, tokenizer, 7)
