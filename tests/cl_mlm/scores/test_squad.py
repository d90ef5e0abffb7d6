"""Cases worked out by hand from the official evaluate-v1.1.py."""

import re
import string
import unicodedata

import pytest

from cl_mlm.scores.squad import exact_match, normalised, squad_scores, token_f1


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("The Panthers", "panthers"),
        ("a  an\tthe\n cat", "cat"),
        ("Theatre another", "theatre another"),  # articles are whole words
        ("U.S.-based", "usbased"),  # punctuation is removed before words are told apart
        ("the-end", "theend"),
        ("“quoted”", "“quoted”"),  # only ASCII punctuation
        ("!?.", ""),
    ],
)
def test_answers_are_normalised_as_the_official_script_does(answer, expected):
    assert normalised(answer) == expected


def test_exact_match_is_of_normalised_answers():
    assert exact_match("the Broncos!", "Broncos") == 1
    assert exact_match("Denver Broncos", "Broncos") == 0


@pytest.mark.parametrize(
    ("prediction", "answer", "expected"),
    [
        ("Denver Broncos", "the Broncos", 2 / 3),  # precision 1/2, recall 1
        ("very very big", "very big", 4 / 5),  # each word counts as often as both have it
        ("big very", "very big", 1),  # their order does not count
        ("cat", "dog", 0),
        ("", "dog", 0),
        ("the", "a", 0),  # no word is left of either: the script gives 0, though they match exactly
    ],
)
def test_f1_is_that_of_the_words(prediction, answer, expected):
    assert token_f1(prediction, answer) == pytest.approx(expected)


def test_no_words_match_no_words_exactly():
    assert exact_match("the", "a") == 1


def test_scores_take_the_answer_that_fits_best_and_the_mean_over_questions():
    found = squad_scores(["Denver Broncos", "cat"], [["Panthers", "Broncos", "the Denver Broncos"], ["dog cat", "cow"]])
    assert found == {"exact_match": 0.5, "f1": pytest.approx((1 + 2 / 3) / 2)}


def test_best_answer_is_taken_for_each_metric_alone():
    assert squad_scores(["a b c d"], [["b c", "x"]]) == {"exact_match": 0.0, "f1": pytest.approx(2 * 2 / (3 + 2))}


@pytest.mark.parametrize(
    ("prediction", "answer", "expected"),
    [
        ("北京大学", "北京", 2 * 2 / (4 + 2)),
        ("《红楼梦》", "红楼梦", 1),
        ("1949年10月", "1949年", 2 * 2 / (4 + 2)),
        ("東京タワー", "東京", 2 * 2 / (5 + 2)),
        ("กรุงเทพ", "กรุง", 2 * 3 / (6 + 3)),
        ("новый Берлин", "Берлин", 2 / 3),
    ],
)
def test_letters_count_as_words_where_a_script_has_no_spaces(prediction, answer, expected):
    assert token_f1(prediction, answer) == pytest.approx(expected)


def mlqa_words(text):
    """The words of a Chinese answer in MLQA's evaluation: punctuation goes, Chinese characters stand alone."""
    text = "".join(c for c in text.lower() if unicodedata.category(c)[0] != "P" and c not in string.punctuation)
    return re.sub(r"([\u4e00-\u9fa5])", r" \1 ", text).split()


@pytest.mark.parametrize("answer", ["《红楼梦》", "iPhone 手机", "1949年10月1日。", "U.S. 与中国", "北 京"])
def test_chinese_answers_are_normalised_as_in_the_evaluation_of_mlqa(answer):
    assert normalised(answer).split() == mlqa_words(answer)


def test_a_letter_and_its_accent_are_one_character_or_two():
    assert exact_match("caf\u00e9", "cafe\u0301") == 1
    assert token_f1("the caf\u00e9 bar", "cafe\u0301 bar") == 1
    assert exact_match("ＡＢ", "AB") == 1


def test_curly_quotes_stay_as_in_the_official_script():
    assert exact_match("'rome'", "rome") == 1
    assert exact_match("\u2018rome\u2019", "rome") == 0
