from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset

from cl_mlm.data.tasks import tasks_of
from cl_mlm.models.tiny import letter_tokenizer
from cl_mlm.objectives.classification import Classification
from cl_mlm.stream import Stage, Stream, pack_row_ids
from cl_mlm.tokens.split_rows import SplitRows

TOKENIZER = letter_tokenizer()
TEXTS = [["a b c", "d", "e f"], ["g h i j", "k l"]]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CL_MLM_CACHE", str(tmp_path))


def stream_of(groups=(("x", "y"), ("z", "w")), scenario="class_incremental"):
    stages = []
    for index, labels in enumerate(groups):
        texts = TEXTS[index]
        rows = Dataset.from_dict({"text": texts, "label": [labels[i % 2] for i in range(len(texts))]})
        stages.append(Stage(str(index), rows, rows.select([0]), rows.select([1, 0]), tuple(labels)))
    return Stream("s", tuple(stages), scenario)


def rows_of(stream, split="train", seen=2, objective=None):
    tasks = tasks_of(stream, {"classification": objective or Classification()})
    tasks.count_labels(seen - 1, -1)
    return SplitRows(stream, split, tasks, TOKENIZER, 32)


def texts_of(batch):
    lengths = batch.inputs["attention_mask"].sum(1).tolist()
    return [TOKENIZER.decode(ids[1 : n - 1]) for ids, n in zip(batch.inputs["input_ids"], lengths, strict=True)]


def joined(text):
    return TOKENIZER.decode(TOKENIZER(text)["input_ids"][1:-1])


def test_ids_name_every_row_of_a_stage():
    assert rows_of(stream_of()).ids(1).tolist() == pack_row_ids(1, [0, 1]).tolist()
    assert len(rows_of(stream_of(), "validation").ids(0)) == 1


def test_lengths_are_tokens_in_the_order_of_the_ids():
    ids = np.concatenate([pack_row_ids(1, [1, 0]), pack_row_ids(0, [2, 0])])
    expected = [len(TOKENIZER(text)["input_ids"]) for text in ("k l", "g h i j", "e f", "a b c")]
    assert rows_of(stream_of()).lengths(ids).tolist() == expected


def test_a_batch_may_mix_stages_and_keeps_the_order_of_the_ids():
    ids = np.array([pack_row_ids(1, 0), pack_row_ids(0, 2), pack_row_ids(1, 1), pack_row_ids(0, 0)])
    batch = rows_of(stream_of()).collate(ids)
    assert texts_of(batch) == [joined(text) for text in ("g h i j", "e f", "k l", "a b c")]
    assert batch.targets.tolist() == [2, 0, 3, 0]
    assert batch.ids.tolist() == ids.tolist()


def test_splits_have_rows_of_their_own():
    rows = rows_of(stream_of(), "test")
    assert texts_of(rows.collate(rows.ids(0))) == [joined("d"), joined("a b c")]


@pytest.mark.parametrize("most_rows", [4, 2000])
def test_a_stage_is_encoded_when_it_is_first_asked_for_with_its_short_neighbours(most_rows, monkeypatch):
    monkeypatch.setattr("cl_mlm.tokens.row_groups.MOST_ROWS", most_rows)
    seen = []

    class Noting(Classification):
        def encode(self, rows, tokenizer, labels, max_length):
            seen.extend(rows["text"])
            return super().encode(rows, tokenizer, labels, max_length)

    rows = rows_of(stream_of(), objective=Noting())
    assert seen == []
    rows.lengths(rows.ids(1))
    assert seen == (TEXTS[1] if most_rows == 4 else [*TEXTS[0], *TEXTS[1]])


def test_stages_with_other_columns_are_encoded_apart():
    """Pairs have token types, single texts none: within one entry of the cache a column has a value for every row."""
    first, second = stream_of().stages
    pairs = second.train.add_column("text_pair", ["p", "q"])
    rows = rows_of(Stream("s", (first, replace(second, train=pairs))))
    batch = rows.collate(np.concatenate([rows.ids(0), rows.ids(1)]))
    assert batch.inputs["token_type_ids"].sum(1).tolist() == [0, 0, 0, 2, 2]


def test_the_number_of_mapped_groups_is_bounded(monkeypatch):
    monkeypatch.setattr("cl_mlm.tokens.row_groups.MOST_ROWS", 1)
    monkeypatch.setattr("cl_mlm.tokens.split_rows.MOST_OPEN", 2)
    texts = [f"row {i} of a b c"[: i + 5] for i in range(8)]
    parts = [Dataset.from_dict({"text": [text], "label": ["x"]}) for text in texts]
    stages = tuple(Stage(text, part, part, part, ("x",)) for text, part in zip(texts, parts, strict=True))
    rows = rows_of(Stream("s", stages), seen=8)
    ids = np.concatenate([rows.ids(i) for i in (7, 0, 3, 5, 1, 7)])
    before = Path("/proc/self/maps").read_text().count("input_ids.values")
    assert texts_of(rows.collate(ids)) == [joined(texts[i]) for i in (7, 0, 3, 5, 1, 7)]
    assert rows.lengths(ids).tolist() == [len(TOKENIZER(texts[i])["input_ids"]) for i in (7, 0, 3, 5, 1, 7)]
    assert Path("/proc/self/maps").read_text().count("input_ids.values") - before == 2


@pytest.mark.parametrize("scenario", ["class_incremental", "domain_incremental"])
def test_only_task_incremental_rows_have_a_mask(scenario):
    rows = rows_of(stream_of(scenario=scenario))
    assert rows.collate(rows.ids(0)).allowed is None


def test_task_incremental_rows_may_have_their_own_stages_labels_only():
    rows = rows_of(stream_of(scenario="task_incremental"))
    batch = rows.collate(np.concatenate([rows.ids(0)[:1], rows.ids(1)[:1]]))
    assert batch.allowed is not None
    assert batch.allowed.tolist() == [[True, True, False, False], [False, False, True, True]]


def test_the_mask_is_as_wide_as_the_labels_seen():
    rows = rows_of(stream_of(scenario="task_incremental"), seen=1)
    batch = rows.collate(rows.ids(0))
    assert batch.allowed is not None
    assert batch.allowed.shape == (3, 2)


def test_the_mask_of_a_stage_that_shares_a_label_holds_the_ones_seen():
    """Its column is scored as soon as one of its labels is known."""
    rows = rows_of(stream_of((("x", "y"), ("y", "z")), "task_incremental"), seen=1)
    batch = rows.collate(rows.ids(1))
    assert batch.allowed is not None
    assert batch.allowed.tolist() == [[False, True], [False, True]]


def test_ids_of_a_batch_do_not_change_with_the_array_given():
    rows = rows_of(stream_of())
    ids = rows.ids(0)
    batch = rows.collate(ids)
    ids[:] = 0
    assert batch.ids.tolist() == pack_row_ids(0, [0, 1, 2]).tolist()
    assert isinstance(batch.ids, torch.Tensor)


def test_pairs_and_single_texts_of_different_stages_make_one_batch():
    """Segments of a single text are zero, as the model takes them where they are not given."""
    single = Dataset.from_dict({"text": ["one", "two more words"], "label": ["a", "b"]})
    pair = Dataset.from_dict({"text": ["one", "two"], "text_pair": ["un", "deux"], "label": ["a", "b"]})
    stages = (Stage("single", single, single, single, ("a", "b")), Stage("pair", pair, pair, pair, ("a", "b")))
    stream = Stream("both", stages, "domain_incremental")
    rows = rows_of(stream)
    ids = np.concatenate([rows.ids(0), rows.ids(1), rows.ids(0)])
    batch = rows.collate(ids)
    alone = rows.collate(rows.ids(1))
    segments, width = batch.inputs["token_type_ids"], alone.inputs["token_type_ids"].shape[1]
    assert segments[[0, 1, 4, 5]].eq(0).all()
    assert (segments[2:4, :width] == alone.inputs["token_type_ids"]).all()
    assert segments[2:4].any()
