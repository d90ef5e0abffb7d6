"""One input with several answers within a split: counted, named, kept."""

import pytest
from datasets import Dataset

from cl_mlm.data.hygiene import clean
from cl_mlm.stream import Stage, Stream
from tests.cl_mlm.data.test_label_folding import MAKERS, tagging


def stream_of(objective, train, held, labels=("a", "b"), **options):
    stage = Stage(
        "one",
        Dataset.from_list(train),
        Dataset.from_list([{**row, "text": f"v {row['text']}"} for row in held]),
        Dataset.from_list([{**row, "text": f"t {row['text']}"} for row in held]),
        labels,
        objective=objective,
        options=options,
    )
    return Stream("s", (stage,))


def notes(stream, overlap="error"):
    return [note for note in clean(stream, overlap)[0].notes if note.startswith("conflicting")]


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
def test_one_input_with_two_labels_is_named_with_its_rows(make):
    texts = [("x y", "a"), ("other words", "b"), ("x  \uff59", "b"), ("x y", "a")]
    rows = [make(text, label) for text, label in texts]
    held = {split: Dataset.from_list([make(f"{split} {label}", label) for label in "ab"]) for split in ("v", "t")}
    stage = Stage("one", Dataset.from_list(rows), held["v"], held["t"], ("a", "b"), objective=make.__name__)
    (note,) = notes(Stream("s", (stage,)))
    assert note.startswith("conflicting train rows, kept: 1 input has several answers in 3 rows: ")
    assert "(stage 'one' row 0) and " in note
    assert note.endswith("(stage 'one' row 2)")
    assert len(clean(Stream("s", (stage,)), "error")[0].stages[0].train) == 4


def test_the_note_shows_text_and_answers(rows, make_stage, make_stream):
    stage = make_stage(train=rows(("book it", "a"), ("book it", "b"), ("other", "a")))
    assert notes(make_stream(stage)) == [
        "conflicting train rows, kept: 1 input has several answers in 2 rows: 'book it' is 'a' (stage 'one' row 0) and "
        "'b' (stage 'one' row 1)"
    ]


def test_of_long_tags_the_place_that_differs_is_shown():
    train = [tagging("w " * 60, "a"), tagging("w " * 60, "b")]
    held = [tagging("v", "a"), tagging("w", "b")]
    stage = Stage(
        "one", *(Dataset.from_list(part) for part in (train, held[:1], held[1:])), ("a", "b"), objective="tagging"
    )
    assert "'B-a' in place 60 (stage 'one' row 0) and 'B-b' in place 60" in notes(Stream("s", (stage,)))[0]


def test_rows_of_different_stages_are_compared(rows, make_stage, make_stream):
    one = make_stage("one", train=rows(("same", "a"), ("x", "b")))
    two = make_stage("two", ("c", "d"), train=rows(("y", "c"), ("same", "d")))
    (note,) = notes(make_stream(one, two))
    assert note.endswith("'same' is 'a' (stage 'one' row 0) and 'd' (stage 'two' row 1)")


def test_where_the_stage_is_known_its_rows_alone_are_compared(rows, make_stage, make_stream):
    one = make_stage("one", train=rows(("same", "a"), ("x", "b")))
    two = make_stage("two", ("c", "d"), train=rows(("y", "c"), ("same", "d")))
    assert notes(make_stream(one, two, scenario="task_incremental")) == []


def test_every_split_is_told_and_no_two_are_mixed(rows, make_stage, make_stream):
    stage = make_stage(validation=rows(("v", "a"), ("v", "b")), test=rows(("t", "a"), ("t", "b"), ("u", "a")))
    assert [note.split(",")[0] for note in notes(make_stream(stage))] == [
        "conflicting validation rows",
        "conflicting test rows",
    ]
    assert notes(make_stream(make_stage(train=rows(("x", "a"), ("x", "b")), test=rows(("t", "a"))))) != []
    assert notes(make_stream(make_stage(train=rows(("x", "a"), ("y", "b")), test=rows(("x", "b")))), "keep") == []


def test_rows_are_counted_after_overlap_is_dropped(rows, make_stage, make_stream):
    stage = make_stage(train=rows(("t", "a"), ("x", "a"), ("x", "b")), test=rows(("t", "a"), ("u", "b")))
    assert notes(make_stream(stage), "drop")[0].endswith("'x' is 'a' (stage 'one' row 0) and 'b' (stage 'one' row 1)")


@pytest.mark.parametrize(("first", "second", "found"), [(-1.0, -2.0, 1), (0.5, 0.5, 0), (0.0, 1.0, 1)])
def test_values_of_one_text_may_not_differ(first, second, found):
    train = [{"text": "x", "value": first}, {"text": "x", "value": second}]
    assert (
        len(notes(stream_of("regression", train, [{"text": "y", "value": 1.0}, {"text": "z", "value": 0.0}], ())))
        == found
    )


def test_one_source_may_have_several_targets_unless_the_answers_are_given():
    def stream(**options):
        train = [{"source": "x", "target": "a"}, {"source": "x", "target": "b"}]
        parts = [train, [{"source": "v", "target": "a"}], [{"source": "t", "target": "a"}]]
        return Stream(
            "s", (Stage("one", *map(Dataset.from_list, parts), (), objective="text_to_text", options=options),)
        )

    assert notes(stream()) == []
    assert len(notes(stream(answers=["a", "b"]))) == 1


def test_one_context_may_be_asked_several_questions():
    def rows(context):
        answers = {"text": [context[:3]], "answer_start": [0]}
        return Dataset.from_list([{"context": context, "question": q, "answers": answers} for q in ("who", "what")])

    stage = Stage("one", rows("one text"), rows("two text"), rows("ten text"), (), objective="question_answering")
    assert notes(Stream("s", (stage,))) == []


def test_the_first_of_many_thousands_is_found():
    train = [{"text": f"text {i % 20_000}", "label": "ab"[i // 20_000]} for i in range(40_000)]
    (note,) = notes(stream_of("classification", train, [{"text": "x", "label": "a"}, {"text": "y", "label": "b"}]))
    assert "20000 inputs have several answers in 40000 rows: 'text 0' is" in note
