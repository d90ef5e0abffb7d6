"""Scores of generated texts, each in 0-1; only installed packages are used, nothing is fetched."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def exact_match(predictions: Sequence[str], references: Sequence[str]) -> float:
    """Returns the fraction of texts that equal their reference, white space folded."""
    pairs = zip(predictions, references, strict=True)
    return sum(folded(prediction) == folded(reference) for prediction, reference in pairs) / len(references)


def rouge_l(predictions: Sequence[str], references: Sequence[str]) -> float:
    """Returns the mean ROUGE-L F1 as the package rouge-score counts it, without stemming.

    Lin (2004), ROUGE: A Package for Automatic Evaluation of Summaries, section 3. The package compares the letters a-z
    and digits only: text in other scripts scores 0.
    """
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], use_stemmer=False)
    pairs = zip(predictions, references, strict=True)
    scores = [scorer.score(reference, prediction)["rougeL"].fmeasure for prediction, reference in pairs]
    return float(sum(scores) / len(scores))


def chrf(predictions: Sequence[str], references: Sequence[str]) -> float:
    """Returns sacrebleu's chrF2 over all texts, divided by 100: Popović (2015), chrF: character n-gram F-score."""
    from sacrebleu import corpus_chrf

    return min(1.0, float(corpus_chrf(list(predictions), [list(references)]).score) / 100)


def bleu(predictions: Sequence[str], references: Sequence[str]) -> float:
    """Returns sacrebleu's BLEU (tokenizer 13a) over all texts, divided by 100: Post (2018), arXiv:1804.08771."""
    from sacrebleu import corpus_bleu

    # `force` keeps it from warning of text that looks tokenized.
    return min(1.0, float(corpus_bleu(list(predictions), [list(references)], force=True).score) / 100)


def format_failures(predictions: Sequence[str], answers: Sequence[str]) -> float:
    """Returns the fraction of texts that equal none of `answers`, white space folded."""
    known = {folded(answer) for answer in answers}
    return sum(folded(prediction) not in known for prediction in predictions) / len(predictions)


def folded(text: str) -> str:
    """Returns the text with one space in place of every run of white space, and none around it."""
    return " ".join(text.split())
