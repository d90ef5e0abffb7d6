"""Token lengths, on rows of which every word is one token and every text gets two special ones."""

import numpy as np
import pytest
from datasets import Dataset

from cl_mlm import DataError, Stage, Stream
from cl_mlm.check import token_lengths as module
from cl_mlm.check.token_lengths import digest, joined, split_lengths, stream_lengths
from cl_mlm.config.components import make_objective
from cl_mlm.data.tasks import tasks_of
from cl_mlm.objective import Lengths
from cl_mlm.stream import Column
from cl_mlm.tokens.encoding import encode_rows


@pytest.fixture(scope="module")
def tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(special)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=words, mask_token="[MASK]", **names)


def text(num_words):
    return " ".join(f"w{i}" for i in range(num_words))


def measured(tokenizer, name, rows, max_length, labels=(), **options):
    objective = make_objective(name, options)
    return objective.lengths(rows, tokenizer, {label: i for i, label in enumerate(labels)}, max_length)


def test_a_rows_tokens_are_counted_before_and_after_cutting(tokenizer):
    rows = {"text": [text(3), text(8), text(20)], "label": ["a", "b", "a"]}
    found = measured(tokenizer, "classification", rows, 10, "ab")["text"]
    assert found.whole.tolist() == [5, 10, 22]
    assert found.cut.tolist() == [0, 0, 12]
    assert (found.limit, found.windows.tolist()) == (10, [1, 1, 1])


def test_both_texts_of_a_pair_count(tokenizer):
    rows = {"text": [text(3)], "text_pair": [text(4)], "label": ["a"]}
    assert measured(tokenizer, "classification", rows, 8, "ab")["text"].whole.tolist() == [10]


@pytest.mark.parametrize("kind", ["causal", "masked"])
def test_a_language_models_text_is_counted_with_its_special_tokens(tokenizer, kind):
    found = measured(tokenizer, "language_modelling", {"text": [text(30)]}, 12, kind=kind)["text"]
    assert (found.whole.tolist(), found.cut.tolist()) == ([32], [20])


def test_words_with_tags_are_counted(tokenizer):
    rows = {"tokens": [["x"] * 9], "tags": [["O"] * 9]}
    found = measured(tokenizer, "tagging", rows, 6)["text"]
    assert (found.whole.tolist(), found.cut.tolist()) == ([11], [5])


def test_the_markers_of_a_relation_count(tokenizer):
    rows = {"tokens": [["x"] * 6], "head": [[0, 1]], "tail": [[3, 4]], "label": ["a"]}
    found = measured(tokenizer, "relation", rows, 64, "ab")["text"]
    assert found.whole.tolist() == [6 + 4 + 2]


def test_a_source_and_a_target_have_limits_of_their_own(tokenizer):
    rows = {"source": [text(10), text(2)], "target": [text(7), text(3)]}
    found = measured(tokenizer, "text_to_text", rows, 9, prefix="read ", max_new_tokens=4)
    assert list(found) == ["source", "target"]
    assert (found["source"].whole.tolist(), found["source"].cut.tolist()) == ([13, 5], [4, 0])
    assert (found["target"].limit, found["target"].whole.tolist(), found["target"].cut.tolist()) == (4, [8, 4], [4, 0])
    longer = measured(tokenizer, "text_to_text", rows, 9, max_target_length=8)["target"]
    assert (longer.limit, longer.cut.tolist()) == (8, [0, 0])


def test_a_context_is_read_in_windows_and_a_long_question_is_cut(tokenizer):
    answers = [{"text": ["w0"], "answer_start": [0]}] * 3
    rows = {"context": [text(20), text(9), text(2)], "question": [text(4), text(4), text(6)], "answers": answers}
    found = measured(tokenizer, "question_answering", rows, 16, stride=3)["text"]
    assert found.whole.tolist() == [27, 16, 11]
    # Of 16 tokens 4 are the question and 3 special: windows of 9 that share 3 hold 9, 15, 21 words.
    assert found.windows.tolist() == [3, 1, 1]
    assert found.cut.tolist() == [0, 0, 2]


def test_figures_are_by_nearest_rank():
    found = digest(Lengths.of(90, range(1, 101)))
    assert found["percentiles"] == {"50": 50, "90": 90, "99": 99, "100": 100}
    assert (found["longer_rows"], found["longer_share"], found["cut_rows"]) == (10, 0.1, 10)
    assert (found["tokens"], found["cut_tokens"], found["windows"]) == (5050, 55, 100)


def test_lengths_are_joined_in_order():
    assert joined([Lengths.of(4, [1, 9]), Lengths.of(4, [5])]).cut.tolist() == [0, 5, 1]


def test_of_a_large_split_evenly_spread_rows_are_counted(tokenizer, monkeypatch):
    monkeypatch.setattr(module, "MOST_ROWS", 5)
    rows = Dataset.from_dict({"text": [text(i + 1) for i in range(17)], "label": ["a"] * 17})
    found = split_lengths(rows, make_objective("classification", {}), tokenizer, {"a": 0}, 64)["text"]
    assert found.whole.tolist() == [3, 7, 11, 15, 19]


def one_stage(words):
    rows = Dataset.from_dict({"text": [text(n) for n in words], "label": ["a", "b"] * (len(words) // 2)})
    return Stream("lengths", (Stage("s", rows, rows, rows, ("a", "b")),))


def test_lengths_are_kept_in_the_cache(tokenizer, monkeypatch):
    stream = one_stage([1, 5, 2, 8])
    tasks = tasks_of(stream)
    found = stream_lengths(stream, tasks, tokenizer, 6)
    monkeypatch.setattr(tasks.at(0).objective, "lengths", None)
    again = stream_lengths(stream, tasks, tokenizer, 6)
    assert list(again) == list(found) == [(0, "train"), (0, "validation"), (0, "test")]
    for place, parts in found.items():
        assert again[place]["text"].limit == 6
        assert np.array_equal(again[place]["text"].whole, parts["text"].whole)
        assert np.array_equal(again[place]["text"].cut, parts["text"].cut)


def test_another_limit_is_counted_anew(tokenizer):
    stream = one_stage([1, 5])
    tasks = tasks_of(stream)
    cut = [stream_lengths(stream, tasks, tokenizer, most)[0, "train"]["text"].cut.tolist() for most in (6, 7)]
    assert cut == [[0, 1], [0, 0]]


def test_a_damaged_cache_entry_is_told(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setenv("CL_MLM_CACHE", str(tmp_path))
    stream = one_stage([1, 5])
    tasks = tasks_of(stream)
    stream_lengths(stream, tasks, tokenizer, 6)
    (path,) = tmp_path.rglob("lengths.npz")
    path.write_bytes(b"x")
    with pytest.raises(DataError, match=r"lengths.npz: cannot be read: .*; remove .*, it is made anew"):
        stream_lengths(stream, tasks, tokenizer, 6)


def test_every_stage_and_column_is_counted_by_its_own_objective(tokenizer):
    """`x y z` is three words and two special tokens; with the markers of two entities seven tokens and two."""
    plain = Dataset.from_dict({"text": ["x y z"], "label": ["a"]})
    marked = Dataset.from_dict({"tokens": [["x", "y", "z"]], "head": [[0, 1]], "tail": [[2, 3]], "label": ["r"]})
    stages = (
        Stage("plain", plain, plain, plain, ("a",)),
        Stage("marked", marked, marked, marked, ("r",), objective="relation"),
    )
    probe = Column("probe", marked.select([]), marked, ("r",), home=None, objective="relation")
    stream = Stream("mixed", stages, probes=(probe,))
    found = stream_lengths(stream, tasks_of(stream), tokenizer, 64)
    assert {place: parts["text"].whole.tolist() for place, parts in found.items()} == {
        **{(0, split): [5] for split in ("train", "validation", "test")},
        **{(1, split): [9] for split in ("train", "validation", "test")},
        (2, "test"): [9],
    }


def test_packed_rows_are_counted_in_the_blocks_that_a_run_reads(tokenizer):
    """Two texts of 5 and 2 words, an end token after each: 9 tokens are blocks of 4, 4 and 1."""
    rows = Dataset.from_dict({"text": [text(5), text(2)]})
    options = {"kind": "causal", "pack": True}
    stage = Stage("s", rows, rows, rows, (), objective="language_modelling", options=options)
    stream = Stream("packed", (stage,))
    tasks = tasks_of(stream)
    block = stream_lengths(stream, tasks, tokenizer, 4)[0, "train"]["block"]
    assert (block.limit, block.whole.tolist(), block.cut.tolist()) == (4, [4, 4, 1], [0, 0, 0])
    read = encode_rows(rows, tasks.at(0).objective, tokenizer, {}, 4, f"{stream.fingerprint}/0/train")
    assert read.lengths.tolist() == block.whole.tolist()
