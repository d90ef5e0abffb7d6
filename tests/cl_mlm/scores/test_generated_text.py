"""Scores of written texts, against hand-made cases and the libraries themselves."""

import json
import math
import os
from pathlib import Path

import pytest
import sacrebleu
from rouge_score.rouge_scorer import RougeScorer

from cl_mlm.scores.generated_text import bleu, chrf, exact_match, folded, format_failures, rouge_l

WRITTEN = ["the cat sat on the mat", "a dog", "", "für Elise ist ein Stück"]
RIGHT = ["the cat lay on the mat", "a dog", "nothing here", "ein Stück für Elise"]


def test_exact_match_folds_white_space_but_not_case():
    assert exact_match(["a  b\n", "A b", "ab"], ["a b", "a b", "a b"]) == pytest.approx(1 / 3)


def test_folded_leaves_single_spaces():
    assert folded(" a \t b\n") == "a b"


def test_rouge_l_of_a_hand_made_case():
    # Five of six words are a common subsequence: precision and recall are 5/6 each.
    assert rouge_l(WRITTEN[:1], RIGHT[:1]) == pytest.approx(5 / 6)
    # Two of two and two of four words: F1 is 2 * 1 * 1/2 / (3/2).
    assert rouge_l(["b d"], ["a b c d"]) == pytest.approx(2 / 3)


def packages_rouge_l(written, right):
    """ROUGE-L as rouge-score gives it, with its own tokenizer."""
    scorer = RougeScorer(["rougeL"], use_stemmer=False)
    scores = [scorer.score(b, a)["rougeL"].fmeasure for a, b in zip(written, right, strict=True)]
    return sum(scores) / len(scores)


def test_rouge_l_of_plain_letters_is_the_mean_of_the_packages_f1():
    assert rouge_l(WRITTEN[:3], RIGHT[:3]) == packages_rouge_l(WRITTEN[:3], RIGHT[:3])


def test_rouge_l_takes_letters_with_accents_as_letters():
    # The package reads "f", "r", "st" and "ck"; four of the five words are in common order: "ein Stück".
    assert rouge_l(["für Elise ist ein Stück"], ["ein Stück für Elise"]) == pytest.approx(4 / 9)
    assert rouge_l(["für"], ["fär"]) == 0


DIALOGSUM = Path(os.environ.get("CL_MLM_DATA", Path(__file__).parents[4] / "shared" / "data")) / "dialogsum"


@pytest.mark.real_data
@pytest.mark.skipif(not DIALOGSUM.is_dir(), reason="no dialogsum in CL_MLM_DATA or ../shared/data")
def test_rouge_l_of_english_summaries_is_the_packages():
    lines = (DIALOGSUM / "test.jsonl").read_text(encoding="utf-8").splitlines()[::2]
    texts = [json.loads(line)["target"] for line in lines]
    others = texts[1:] + texts[:1]
    assert rouge_l(texts, others) == packages_rouge_l(texts, others)


@pytest.mark.parametrize(
    ("written", "right", "expected"),
    [
        ("我爱北京", "我爱上海", 1 / 2),
        ("Я люблю Москву", "Я люблю Берлин", 2 / 3),
        ("ฉันรักเธอ", "ฉันรักเขา", 5 / 7),
        ("मुझे चाय पसंद है", "मुझे दूध पसंद है", 3 / 4),
    ],
)
def test_rouge_l_reads_every_script(written, right, expected):
    assert rouge_l([written], [right]) == pytest.approx(expected)


def test_rouge_l_does_not_stem():
    assert rouge_l(["cats"], ["cat"]) == 0


def test_chrf_and_bleu_are_the_librarys_over_a_hundred():
    assert chrf(WRITTEN, RIGHT) == pytest.approx(sacrebleu.corpus_chrf(WRITTEN, [RIGHT]).score / 100)
    assert bleu(WRITTEN, RIGHT) == pytest.approx(sacrebleu.corpus_bleu(WRITTEN, [RIGHT]).score / 100)
    assert 0 < bleu(WRITTEN, RIGHT) < chrf(WRITTEN, RIGHT) < 1


def test_bleu_of_a_hand_made_case():
    # n-gram precisions 5/6, 3/5, 1/4 and 0/3, which is smoothed to 1/6; no brevity penalty.
    expected = math.exp(sum(map(math.log, (5 / 6, 3 / 5, 1 / 4, 1 / 6))) / 4)
    assert bleu(WRITTEN[:1], RIGHT[:1]) == pytest.approx(expected)


@pytest.mark.parametrize("score", [exact_match, rouge_l, chrf, bleu])
def test_equal_texts_score_exactly_one_and_no_text_zero(score):
    assert score(RIGHT, RIGHT) == 1
    assert score([""] * 4, RIGHT) == 0


def test_format_failures_are_outputs_that_are_no_answer():
    assert format_failures(["yes", " no ", "Yes", "maybe"], ["yes", "no"]) == 0.5


ANSWERS = {
    "one word": ["Paris"],
    "three words": ["to the sea", "yes"],
    "short beside long": ["yes", "no, not at all today"],
    "Chinese": ["我爱北京天安门", "是"],
    "Japanese": ["カタカナとひらがな"],
    "Thai": ["สวัสดีครับ"],
    "Cyrillic": ["Привет, мир!"],
    "punctuation": ["?!"],
    "an emoji": ["😀"],
    "digits": ["7"],
}


@pytest.mark.parametrize("texts", ANSWERS.values(), ids=ANSWERS)
@pytest.mark.parametrize("score", [exact_match, rouge_l, chrf, bleu])
def test_a_perfect_answer_scores_one_whatever_its_script_and_length(score, texts):
    assert score(texts, texts) == 1
    assert score([f" {text}\n" for text in texts], texts) == 1


@pytest.mark.parametrize("score", [exact_match, rouge_l, chrf, bleu])
def test_a_letter_and_its_accent_are_one_character_or_two(score):
    assert score(["un caf\u00e9 noir"], ["un cafe\u0301 noir"]) == 1


def test_an_answer_from_the_list_may_be_written_in_another_form():
    assert format_failures(["cafe\u0301", "ＡＢ"], ["caf\u00e9", "AB"]) == 0


def test_bleu_of_short_answers_counts_the_n_grams_that_there_are():
    # Two of three words, one of two pairs; there is no run of four words to count.
    assert bleu(["to the lake"], ["to the sea"]) == pytest.approx((2 / 3 * 1 / 2 * 1 / 2) ** (1 / 3))
    # One long prediction is enough for the usual order.
    usual = sacrebleu.corpus_bleu(["yes", *WRITTEN[:1]], [["no", *RIGHT[:1]]]).score / 100
    assert bleu(["yes", *WRITTEN[:1]], ["no", *RIGHT[:1]]) == pytest.approx(usual)


def test_bleu_of_chinese_is_that_of_sacrebleus_chinese_tokenizer():
    written, right = ["我喜欢北京,真的!", "他是老师"], ["我爱北京,真的!", "她是老师吗"]
    assert bleu(written, right) == pytest.approx(sacrebleu.corpus_bleu(written, [right], tokenize="zh").score / 100)


@pytest.mark.parametrize("metric", [exact_match, rouge_l, chrf, bleu])
@pytest.mark.parametrize("written", ["", " ", "\n\t", "\u00a0"])
@pytest.mark.parametrize("right", ["", " ", "\u3000"])
def test_an_empty_text_equals_an_empty_reference(metric, written, right):
    assert metric([written], [right]) == 1
    assert metric([written, ""], [right, "a b"]) < 1


@pytest.mark.parametrize(("written", "right"), [("İstanbul", "istanbul"), ("Straße", "STRASSE")])
def test_lower_case_is_that_of_rouge_score(written, right):
    assert rouge_l([written], [right]) < 1
    assert RougeScorer(["rougeL"]).score(right, written)["rougeL"].fmeasure < 1
