"""Scores of written texts, against hand-made cases and the libraries themselves."""

import math

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


def test_rouge_l_is_the_mean_of_the_packages_f1():
    scorer = RougeScorer(["rougeL"], use_stemmer=False)
    expected = [scorer.score(right, written)["rougeL"].fmeasure for written, right in zip(WRITTEN, RIGHT, strict=True)]
    assert rouge_l(WRITTEN, RIGHT) == pytest.approx(sum(expected) / 4)


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
