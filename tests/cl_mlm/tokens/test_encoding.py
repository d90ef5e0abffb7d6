import json
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset

from cl_mlm.errors import DataError
from cl_mlm.models.tiny import letter_tokenizer
from cl_mlm.objectives.classification import Classification
from cl_mlm.tokens.encoding import CHUNK_ROWS, EncodedRows, encode_rows

TOKENIZER = letter_tokenizer()
LABELS = {"x": 0, "y": 1, "z": 2}
TEXTS = ["a red house", "green", "the blue sky is far away", "naïve 中文 😀", "yes, no"]
ROWS = Dataset.from_dict({"text": TEXTS, "label": ["x", "z", "y", "x", "y"]})
PAIRS = ROWS.add_column("text_pair", TEXTS[::-1])


class Counting(Classification):
    def __init__(self, fail_at=None):
        self.calls, self.fail_at = 0, fail_at

    def encode(self, rows, tokenizer, labels, max_length):
        self.calls += 1
        if self.calls == self.fail_at:
            raise KeyboardInterrupt
        return super().encode(rows, tokenizer, labels, max_length)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("CL_MLM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def encode(rows=ROWS, objective=None, labels=LABELS, max_length=64, fingerprint="f"):
    return encode_rows(rows, objective or Classification(), TOKENIZER, labels, max_length, fingerprint)


def ids_of(encoded):
    return [encoded.row(i)["input_ids"].tolist() for i in range(len(encoded))]


def test_rows_equal_direct_tokenisation():
    encoded = encode()
    assert ids_of(encoded) == TOKENIZER(TEXTS)["input_ids"]
    assert encoded.lengths.tolist() == [len(ids) for ids in TOKENIZER(TEXTS)["input_ids"]]


def test_targets_are_class_indices():
    encoded = encode()
    assert [int(encoded.row(i)["target"]) for i in range(len(encoded))] == [0, 2, 1, 0, 1]


def test_single_texts_carry_no_token_types():
    assert set(encode().row(0)) == {"input_ids", "target"}


def test_pairs_equal_direct_tokenisation():
    encoded, direct = encode(PAIRS), TOKENIZER(TEXTS, TEXTS[::-1])
    assert ids_of(encoded) == direct["input_ids"]
    found = [encoded.row(i)["token_type_ids"].tolist() for i in range(len(encoded))]
    assert found == direct["token_type_ids"]


@pytest.mark.parametrize("rows", [ROWS, PAIRS], ids=["single", "pairs"])
def test_longer_rows_are_cut(rows):
    encoded = encode(rows, max_length=8)
    pair = TEXTS[::-1] if rows is PAIRS else None
    assert ids_of(encoded) == TOKENIZER(TEXTS, pair, truncation=True, max_length=8)["input_ids"]
    assert encoded.lengths.max() == 8


def test_chunks_are_joined_in_order():
    count = CHUNK_ROWS + 3
    texts = [f"row {i}" for i in range(count)]
    rows = Dataset.from_dict({"text": texts, "label": ["x"] * count})
    objective = Counting()
    encoded = encode(rows, objective)
    assert objective.calls == 2
    assert ids_of(encoded)[-5:] == TOKENIZER(texts[-5:])["input_ids"]
    assert len(encoded) == count


def test_the_second_time_nothing_is_encoded():
    first, second = Counting(), Counting()
    made, read = encode(objective=first), encode(objective=second)
    assert (first.calls, second.calls) == (1, 0)
    assert ids_of(read) == ids_of(made)


@pytest.mark.parametrize(
    "change",
    [{"fingerprint": "g"}, {"max_length": 63}, {"labels": {"y": 0, "x": 1, "z": 2}}],
    ids=["rows", "max_length", "labels"],
)
def test_another_input_is_encoded_anew(change):
    encode()
    objective = Counting()
    encode(objective=objective, **change)
    assert objective.calls == 1


def test_another_tokenizer_encodes_anew():
    encode()
    other, objective = letter_tokenizer(), Counting()
    other.add_tokens(["house"])
    encoded = encode_rows(ROWS, objective, other, LABELS, 64, "f")
    assert objective.calls == 1
    assert encoded.row(0)["input_ids"].tolist() == other(TEXTS[0])["input_ids"]


def test_an_interrupted_encoding_leaves_no_entry(cache):
    count = CHUNK_ROWS + 1
    rows = Dataset.from_dict({"text": ["a"] * count, "label": ["x"] * count})
    with pytest.raises(KeyboardInterrupt):
        encode(rows, Counting(fail_at=2))
    assert list((cache / "encoded").iterdir()) == []
    assert len(encode(rows)) == count


def test_a_half_written_entry_of_a_killed_process_is_not_seen(cache):
    """A process that is killed leaves its temporary folder behind; the entry under the final name is whole."""
    entry = _entry_after(encode, cache)
    for path in entry.iterdir():
        path.unlink()
    half = entry.with_name(f".{entry.name}.0badcafe")
    entry.rename(half)
    (half / "input_ids.raw").write_bytes(b"\x01")
    objective = Counting()
    assert ids_of(encode(objective=objective)) == TOKENIZER(TEXTS)["input_ids"]
    assert objective.calls == 1


def test_two_processes_may_build_one_entry(cache):
    """The one that finishes second finds the entry in place and uses it."""

    class Slow(Counting):
        waits = True

        def encode(self, rows, tokenizer, labels, max_length):
            if self.waits:
                other = type(self)()
                other.waits = False
                encode(objective=other)
            return super().encode(rows, tokenizer, labels, max_length)

    assert ids_of(encode(objective=Slow())) == TOKENIZER(TEXTS)["input_ids"]
    assert len(list((cache / "encoded").iterdir())) == 1


def test_rows_are_memory_mapped_and_no_file_stays_open(cache):
    encoded = encode()
    maps = Path("/proc/self/maps").read_text()
    (entry,) = (cache / "encoded").iterdir()
    assert f"{entry}/input_ids.values.npy" in maps
    files = [path.resolve() for path in Path("/proc/self/fd").iterdir()]
    assert not [path for path in files if path.is_relative_to(cache)]
    del encoded
    assert str(entry) not in Path("/proc/self/maps").read_text()


def test_rows_of_several_data_sets_lie_one_behind_the_other():
    parts = [ROWS.select([3, 0]), ROWS.select([]), ROWS.select([1, 2, 4])]
    objective = Counting()
    encoded = encode(parts, objective)
    assert ids_of(encoded) == TOKENIZER([TEXTS[i] for i in (3, 0, 1, 2, 4)])["input_ids"]
    assert objective.calls == 1


def _entry_after(work, cache):
    work()
    (entry,) = (cache / "encoded").iterdir()
    return entry


@pytest.mark.parametrize("name", ["../outside", "/outside", "a/b", "", "nul\0"])
def test_a_cache_entry_whose_columns_lead_elsewhere_is_refused(tmp_path, name):
    for folder in (tmp_path, tmp_path / "entry"):
        folder.mkdir(exist_ok=True)
        for file in ("outside", "input_ids"):
            np.save(folder / f"{file}.values.npy", np.zeros(1, dtype=np.int32))
            np.save(folder / f"{file}.offsets.npy", np.zeros(2, dtype=np.int64))
    layout = {"columns": {"input_ids": True, name: False}}
    (tmp_path / "entry" / "layout.json").write_text(json.dumps(layout))
    with pytest.raises(DataError, match=r"layout\.json: columns must have plain names, got \["):
        EncodedRows(tmp_path / "entry")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"columns": 3}', '{"columns": ["a"]}'])
def test_a_damaged_cache_entry_is_named(tmp_path, text):
    (tmp_path / "layout.json").write_text(text)
    with pytest.raises(DataError, match=r"layout\.json: cannot be read: .*; remove .*, it is made anew"):
        EncodedRows(tmp_path)


def test_a_cache_array_that_is_a_pickle_is_refused_and_not_read(tmp_path, trap):
    array = np.empty(1, dtype=object)
    array[0] = trap(tmp_path / "sprung")
    np.save(tmp_path / "input_ids.values.npy", array, allow_pickle=True)
    (tmp_path / "layout.json").write_text('{"columns": {"input_ids": true}}')
    with pytest.raises(ValueError, match="Python objects"):
        EncodedRows(tmp_path)
    assert not (tmp_path / "sprung").exists()
