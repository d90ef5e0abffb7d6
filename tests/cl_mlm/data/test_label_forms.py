import pytest
from hypothesis import given
from hypothesis import strategies as st

from cl_mlm.data.label_forms import case_note, cut_spellings, form_faults, label_form, one_spelling
from cl_mlm.data.ordering import check_once
from cl_mlm.errors import ConfigError


@pytest.mark.parametrize(
    "label",
    [
        "refund ",
        "\trefund\n",
        "refund\u00a0",
        "ｒｅｆｕｎｄ",
        "re\u200bfund",
        "\ufeffrefund",
        "refund\u2060",
        "re\u00adfund",
        "refund\u200d",
    ],
)
def test_labels_that_look_the_same_have_one_form(label):
    assert label_form(label) == "refund"


def test_inner_white_space_is_folded_and_accents_are_composed():
    assert label_form("lost \u00a0 luggage") == label_form("lost luggage") == "lost luggage"
    assert label_form("cafe\u0301") == label_form("café") == "café"


@pytest.mark.parametrize("label", ["Refund", "re fund", "refunds", "退款"])
def test_labels_that_look_different_keep_forms_of_their_own(label):
    assert label_form(label) == label != "refund"


def test_a_joiner_that_is_seen_stays():
    persian, family = "می\u200cخواهم", "👩\u200d👧"
    assert (label_form(persian), label_form(family)) == (persian, family)


@given(st.text(alphabet=st.characters(categories=("L", "M", "Z", "Cf", "N"))))
def test_a_form_is_the_form_of_itself(label):
    assert label_form(label_form(label)) == label_form(label)


def test_of_labels_that_look_the_same_one_counts():
    assert one_spelling(["b", "a ", "a", "c"]) == ["a", "b", "c"]


def test_labels_that_look_the_same_come_in_one_stage():
    assert cut_spellings(["a", "a ", "b", "c", "d"], 2, None, None) == [["a", "a ", "b"], ["c", "d"]]


def test_labels_that_look_different_are_cut_as_ever():
    assert cut_spellings(["d", "b ", "a", "c"], 2, None, None) == [["a", "b "], ["c", "d"]]


@pytest.mark.parametrize("first", [["a"], ["a "], ["a", "a "]])
def test_groups_may_name_any_spelling(first):
    assert cut_spellings(["a", "a ", "b"], None, [first, ["b"]], None) == [["a", "a "], ["b"]]


def test_two_groups_cannot_name_two_spellings():
    with pytest.raises(ConfigError, match="must name every label once, got twice: a"):
        cut_spellings(["a", "a ", "b"], None, [["a"], ["a ", "b"]], None)


def test_a_number_that_does_not_divide_is_told_with_the_labels_that_count_once():
    with pytest.raises(
        ConfigError, match=r"must divide 3, got 2;.*\n.*labels that look the same count once: 'a' and 'a '"
    ):
        cut_spellings(["a", "a ", "b", "c"], 2, None, None)


def test_a_fault_shows_the_labels_and_their_rows():
    assert list(form_faults({"refund": 40, "refund ": 1, "book": 2})) == [
        "labels must not look the same, got 'refund' (40 rows) and 'refund ' (1 row); stream.labels=fold makes them one"
    ]


def test_accents_that_are_written_in_two_ways_are_told_apart():
    (fault,) = form_faults({"caf\u00e9": 1, "cafe\u0301": 1})
    assert r"'cafe\u0301' (1 row) and 'caf\xe9' (1 row)" in fault


def test_a_label_that_shows_nothing_is_a_fault():
    assert list(form_faults({"\u200b": 3, "a": 1})) == [r"labels must have a visible character, got '\u200b' (3 rows)"]


def test_an_empty_label_is_left_to_the_rows_to_tell():
    assert form_faults({"": 3, " ": 1, "a": 1}) == {}


def test_labels_that_differ_in_case_only_are_noted():
    assert case_note({"Refund": 3, "refund": 40, "REFUND": 1, "book": 2}) == [
        "labels that differ in upper and lower case only: 'REFUND' (1 row) and 'Refund' (3 rows) and 'refund' (40 rows)"
    ]
    assert case_note({"refund": 40, "book": 2}) == []


def test_numbers_that_yaml_reads_as_others_are_to_be_quoted():
    with pytest.raises(ConfigError, match=r"no label is called '8'.*; quote names that begin with 0"):
        check_once("stream.groups", "label", ["8", "12"], ["010", "12"])
