"""Words of labels, and what is wrong with them."""

import pytest

from cl_mlm.prompting.verbaliser import label_words, word_faults

LABELS = ["card_lost", "pin"]


def faults(given):
    return word_faults(LABELS, given, label_words(LABELS, given, are_texts=False))


def test_a_labels_own_name_is_its_words():
    assert label_words(LABELS, {}, are_texts=False) == {"card_lost": ("card lost",), "pin": ("pin",)}
    assert label_words(LABELS, {}, are_texts=True)["card_lost"] == ("card_lost",)


def test_a_label_may_have_several_words():
    given = {"card_lost": ["lost", "gone"], "pin": "code"}
    assert faults(given) == []
    assert label_words(LABELS, given, are_texts=False)["card_lost"] == ("lost", "gone")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"pin": "code"}, "prompting.verbaliser: must have words for every label, none for 'card_lost'"),
        (
            {"card_lost": "a", "pin": "b", "pins": "c"},
            "prompting.verbaliser.pins: no such label (did you mean 'pin'?); allowed: 'card_lost', 'pin'",
        ),
        (
            {"card_lost": "same", "pin": ["x", "same "]},
            "prompting.verbaliser: two labels must not have the same words, got 'same' for 'card_lost', 'pin'",
        ),
        ({"card_lost": "a", "pin": " "}, "prompting.verbaliser.pin: must be words, or a list of words, got ' '"),
        ({"card_lost": "a", "pin": []}, "prompting.verbaliser.pin: must be words, or a list of words, got []"),
    ],
)
def test_faults_name_key_and_value(given, message):
    assert faults(given) == [message]


def test_names_that_read_alike_are_one():
    words = label_words(["a_b", "a b"], {}, are_texts=False)
    assert "got 'a b' for 'a_b', 'a b'" in word_faults(["a_b", "a b"], {}, words)[0]
