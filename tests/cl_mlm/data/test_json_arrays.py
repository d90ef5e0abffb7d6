"""JSON arrays, read item by item."""

import io
import json
import tracemalloc

import pytest

from cl_mlm.data.file_format import Reading
from cl_mlm.data.files import read_file
from cl_mlm.data.json_arrays import BLOCK, ArrayFault, array_items
from cl_mlm.errors import DataError

ROWS = [{"text": "ä [1, {2}]", "label": "a"}, {"text": 'quo"ted\n\\', "label": "b", "more": {"x": [1, 2.5, None]}}]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CL_MLM_CACHE", str(tmp_path / "cache"))


def items(text):
    return [(line, value) for line, value, _ in array_items(io.StringIO(text))]


def faults(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError) as caught:
        read_file(path, Reading(), ("text", "label"))
    return [problem.replace(str(path), "F") for problem in caught.value.problems]


@pytest.mark.parametrize("indent", [None, 0, 4])
@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_an_array_gives_its_objects_however_it_is_printed(tmp_path, indent, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_text("\n \ufeff"[2:] + json.dumps(ROWS, indent=indent))
    rows = read_file(path, Reading(), ("text", "label"))[0].to_list()
    assert [(row["text"], row["label"]) for row in rows] == [(row["text"], row["label"]) for row in ROWS]
    assert rows[1]["more"] == ROWS[1]["more"]


def test_items_are_those_of_json_with_their_lines():
    text = ' \n[1, -2.5e3,\n "x",\n\n{"a": [true]}, null]\n\n'
    assert items(text) == [(2, 1), (2, -2500.0), (3, "x"), (5, {"a": [True]}), (5, None)]
    assert items("[]") == items(" [ \n ] ") == []


@pytest.mark.parametrize("shift", range(12))
def test_an_item_may_lie_across_blocks(shift):
    values = [{"t": "\\u00e9 " + "x" * (BLOCK // 3)}, 12345678, {"u": "é\u2028", "n": [None, False]}] * 5
    text = " " * shift + json.dumps(values)
    assert [value for _, value in items(text)] == values


def test_an_item_longer_than_a_block_is_read():
    values = ["y" * (5 * BLOCK), 1]
    assert [value for _, value in items(json.dumps(values))] == values


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('[{"text": "x", "label": "a"}\n{"text": "y", "label": "a"}]', "F:2: not valid JSON: expecting ',', got '{'"),
        ('[{"text": "x", "label": "a"},\n{"text": "y"', "F:2: not valid JSON: Expecting ',' delimiter"),
        ('[\n{"text": "x", "label": "a"}', "F:2: not valid JSON: the array has no end"),
        ('[{"text": "x", "label": "a"},\n]', "F:2: not valid JSON: Expecting value"),
        ('[{"text": "x", "label": "a"}]\n{}', "F:2: not valid JSON: text after the end of the array"),
        ('[\n{"text":\n "x" "label": "a"}]', "F:3: not valid JSON: Expecting ',' delimiter"),
        ('[{"text": "x", "label": "a"},\n3]', "F:2: must be a JSON object, got int"),
        (
            '[{"text": "x", "label": "a"},\n{"text": "\\ud800", "label": "a"}]',
            "F:2: not valid text: half a surrogate pair",
        ),
        ('[\n{"text": "x", "label": "a"},\n\n{"text": "x"}]', "F:4: no label; missing: drop leaves such rows out"),
        ("[]", "F: no rows"),
        ('{\n "data": [\n', "F:1: must hold one JSON object a line, or an array of objects; got one over many lines"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(tmp_path, content, said):
    assert faults(tmp_path / "a.json", content) == [said]


def test_a_fault_in_the_middle_of_a_long_array_is_told_at_once():
    text = "[" + '{"text": "x"},' * 10 + '{"text" "x"},' + '{"text": "x"},' * (BLOCK // 4) + "{}]"
    with pytest.raises(ArrayFault, match="Expecting ':' delimiter"):
        items(text)


def test_memory_does_not_grow_with_the_array():
    class Endless(io.TextIOBase):
        """An array of many rows that is never whole in memory."""

        left = 40

        def read(self, size=-1):
            self.left -= 1
            if self.left == 39:
                return "[0"
            return (
                ", " + ", ".join(['{"text": "some words"}'] * (BLOCK // 25))
                if self.left > 0
                else "]" * (self.left == 0)
            )

    tracemalloc.start()
    number = sum(1 for _ in array_items(Endless()))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert number > 300_000
    assert peak < 8 * BLOCK
