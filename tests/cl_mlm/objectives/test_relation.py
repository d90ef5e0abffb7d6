import pytest
import torch

from cl_mlm.models.tiny import letter_tokenizer
from cl_mlm.objectives.relation import Relation

OBJECTIVE = Relation()
WORDS = ["a", "b", "c", "d"]


def marked(head, tail, words=WORDS):
    return OBJECTIVE.key({"tokens": [words], "head": [head], "tail": [tail]})[0]


def text_of(row, max_length):
    tokenizer = letter_tokenizer()
    rows = {name: [value] for name, value in row.items()} | {"label": ["x"]}
    ids = OBJECTIVE.encode(rows, tokenizer, {"x": 0}, max_length)["input_ids"][0]
    return len(ids), tokenizer.decode(ids).removeprefix("[CLS]").removesuffix("[SEP]")


@pytest.mark.parametrize(
    ("head", "tail", "text"),
    [
        ([0, 2], [2, 4], "[E1] a b [/E1] [E2] c d [/E2]"),
        ([3, 4], [0, 1], "[E2] a [/E2] b c [E1] d [/E1]"),
        ([0, 4], [1, 2], "[E1] a [E2] b [/E2] c d [/E1]"),
        ([1, 2], [1, 4], "a [E2] [E1] b [/E1] c d [/E2]"),
        ([1, 4], [2, 4], "a [E1] b [E2] c d [/E2] [/E1]"),
        ([0, 2], [1, 3], "[E1] a [E2] b [/E1] c [/E2] d"),
        ([1, 3], [1, 3], "a [E1] [E2] b c [/E2] [/E1] d"),
    ],
)
def test_both_spans_are_marked(head, tail, text):
    assert marked(head, tail) == text


def test_rows_that_differ_in_their_spans_only_ask_different_things():
    pairs = [([0, 1], [2, 3]), ([2, 3], [0, 1]), ([0, 2], [2, 3])]
    assert len({marked(*pair) for pair in pairs}) == 3


def test_a_row_that_fits_is_the_marked_text_as_the_tokenizer_reads_it():
    tokenizer = letter_tokenizer()
    rows = {"tokens": [["Hello", "brave", "world"]], "head": [[0, 1]], "tail": [[2, 3]], "label": ["y"]}
    found = OBJECTIVE.encode(rows, tokenizer, {"x": 0, "y": 1}, 64)
    assert found["input_ids"] == [tokenizer("[E1] Hello [/E1] brave [E2] world [/E2]")["input_ids"]]
    assert found["target"] == [1]


LONG = {"tokens": [f"w{i:02d}" for i in range(60)], "head": [20, 22], "tail": [45, 46]}


def kept(text):
    return [int(part[:2]) for part in text.split("w")[1:]]


@pytest.mark.parametrize("max_length", [40, 60, 100, 150])
def test_a_long_row_keeps_both_spans_and_the_words_nearest_to_them(max_length):
    length, text = text_of(LONG, max_length)
    assert max_length - 4 < length <= max_length  # a word has three tokens or four
    assert "[e1]w20w21[/e1]" in text
    assert "[e2]w45[/e2]" in text
    words = kept(text)
    distance = {i: 0 if i in (20, 21, 45) else min(abs(i - near) for near in (20, 21, 45)) for i in range(60)}
    assert words == sorted(words)
    assert max(distance[i] for i in words) <= min(distance[i] for i in range(60) if i not in words)


def test_a_row_is_cut_only_where_it_must():
    length, text = text_of(LONG, 500)
    assert kept(text) == list(range(60))
    assert text_of(LONG, length) == (length, text)
    assert kept(text_of(LONG, length - 1)[1]) != list(range(60))


def test_spans_that_are_too_long_are_cut_at_their_end():
    length, text = text_of({"tokens": [f"w{i:02d}" for i in range(60)], "head": [0, 30], "tail": [30, 60]}, 40)
    assert length == 40
    assert text.startswith("[e1]w00w01w02")


def test_collation_gives_what_classification_needs():
    tokenizer = letter_tokenizer()
    rows = {"tokens": [WORDS, ["x", "y"]], "head": [[0, 1], [0, 1]], "tail": [[2, 4], [1, 2]], "label": ["r", "s"]}
    batch = OBJECTIVE.collate(OBJECTIVE.encode(rows, tokenizer, {"r": 0, "s": 1}, 64), torch.arange(2), tokenizer)
    assert batch.targets.tolist() == [0, 1]
    assert batch.count.tolist() == [1.0, 1.0]
    assert batch.inputs["attention_mask"].sum(-1).tolist() == [24, 22]  # a pair of markers has nine tokens


def test_score_is_accuracy_and_macro_f1():
    found = OBJECTIVE.score(["r", "r", "s"], ["r", "s", "s"], ["r", "s"])
    assert found == pytest.approx({"score": 2 / 3, "accuracy": 2 / 3, "macro_f1": 2 / 3})


def fault(**wrong):
    good = {"tokens": ["a", "b", "c"], "head": [0, 1], "tail": [2, 3], "label": "r"}
    rows = {name: [value, (good | wrong)[name]] for name, value in good.items()}
    (line,) = OBJECTIVE.validate(rows, "here")
    return line


def test_sound_rows_have_no_faults():
    rows = {"tokens": [WORDS], "head": [[0, 4]], "tail": [[1, 2]], "label": ["r"]}
    assert OBJECTIVE.validate(rows, "here") == []


@pytest.mark.parametrize("column", ["head", "tail"])
@pytest.mark.parametrize(
    "span", [[0, 4], [-1, 2], [1, 1], [2, 1], [3, 4], [0], [0, 1, 2], ["0", "1"], [0.0, 1.0], None, 1, [False, True]]
)
def test_a_span_outside_the_text_is_refused(column, span):
    assert fault(**{column: span}) == (
        f"here: {column} must be [start, end) with 0 <= start < end <= number of words, got {span!r} for 3 words in "
        "row 1 (1 such rows)"
    )


def test_the_row_with_the_fraction_is_named_where_it_made_fractions_of_all():
    rows = {"tokens": [["a", "b", "c"]] * 3, "head": [[0, 1]] * 3, "label": ["r"] * 3}
    (line,) = OBJECTIVE.validate({**rows, "tail": [[2.0, 3.0], [1.5, 3.0], [2.0, 3.0]]}, "here")
    assert line.endswith("got [1.5, 3.0] for 3 words in row 1 (1 such rows)")


def test_empty_labels_and_missing_columns_are_refused():
    assert fault(label="") == "here: label must be a non-empty string, got '' in row 1 (1 such rows)"
    assert OBJECTIVE.validate({"tokens": [["a"]], "label": ["r"]}, "here") == [
        "here: needs the columns tokens and head and tail and label, has no head and no tail"
    ]


def test_words_that_are_none_are_refused():
    lines = OBJECTIVE.validate({"tokens": [["a", ""]], "head": [[0, 1]], "tail": [[1, 2]], "label": ["r"]}, "here")
    assert lines == [
        "here: tokens must be a list of at least one word, each a non-empty string, got ['a', ''] in row 0 "
        "(1 such rows)"
    ]
