"""Scores of generated texts, each in 0-1; only installed packages are used, nothing is fetched.

All compare texts in NFKC, as the hygiene gate does, so that a letter and its accent may be one character or two. Texts
that equal their references by `exact_match` score 1 in all, empty ones too, for which the packages say 0.
"""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING, Literal

from cl_mlm.scores.segmentation import folded, spaced, words

if TYPE_CHECKING:
    from collections.abc import Sequence

Metric = Literal["exact_match", "rouge_l", "chrf", "bleu"]


def exact_match(predictions: Sequence[str], references: Sequence[str]) -> float:
    """Returns the fraction of texts that equal their reference, in NFKC and with white space folded."""
    pairs = zip(predictions, references, strict=True)
    return sum(folded(prediction) == folded(reference) for prediction, reference in pairs) / len(references)


def rouge_l(predictions: Sequence[str], references: Sequence[str]) -> float:
    """Returns the mean ROUGE-L F1 of words as the package rouge-score counts it, without stemming.

    Lin (2004), ROUGE: A Package for Automatic Evaluation of Summaries, section 3. The package's own words are runs of
    the letters a-z and digits; here letters of every script count (`cl_mlm.scores.segmentation.words`).
    """
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], tokenizer=_Words())
    pairs = zip(predictions, references, strict=True)
    scores = [
        1.0 if folded(prediction) == folded(reference) else scorer.score(reference, prediction)["rougeL"].fmeasure
        for prediction, reference in pairs
    ]
    return float(sum(scores) / len(scores))


class _Words:
    """What rouge-score takes in the place of its own tokenizer."""

    def tokenize(self, text: str) -> list[str]:
        return words(text)


def chrf(predictions: Sequence[str], references: Sequence[str]) -> float:
    """Returns sacrebleu's chrF2 over all texts, divided by 100: Popović (2015), chrF: character n-gram F-score.

    Signature: nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no.
    """
    if _all_equal(predictions, references):
        return 1.0
    from sacrebleu import corpus_chrf

    return min(1.0, float(corpus_chrf(_composed(predictions), [_composed(references)]).score) / 100)


def bleu(predictions: Sequence[str], references: Sequence[str]) -> float:
    """Returns sacrebleu's BLEU over all texts, divided by 100: Post (2018), arXiv:1804.08771.

    Signature: nrefs:1|case:mixed|eff:yes|tok:13a|smooth:exp. Where no prediction has four words, only the n-grams that
    there are count (effective order); BLEU would be 0 otherwise. Letters of scripts without spaces are words.
    """
    if _all_equal(predictions, references):
        return 1.0
    from sacrebleu import corpus_bleu

    sides = [list(map(spaced, _composed(side))) for side in (predictions, references)]
    # `force` keeps it from warning of text that looks tokenized.
    found = corpus_bleu(sides[0], [sides[1]], force=True, use_effective_order=True)
    return min(1.0, float(found.score) / 100)


def format_failures(predictions: Sequence[str], answers: Sequence[str]) -> float:
    """Returns the fraction of texts that equal none of `answers`, in NFKC and with white space folded."""
    known = {folded(answer) for answer in answers}
    return sum(folded(prediction) not in known for prediction in predictions) / len(predictions)


def _all_equal(predictions: Sequence[str], references: Sequence[str]) -> bool:
    """Says whether every text equals its reference, in NFKC and with white space folded."""
    return all(
        folded(prediction) == folded(reference) for prediction, reference in zip(predictions, references, strict=True)
    )


def _composed(texts: Sequence[str]) -> list[str]:
    """Returns the texts in NFKC."""
    return [unicodedata.normalize("NFKC", text) for text in texts]


METRICS = {"exact_match": exact_match, "rouge_l": rouge_l, "chrf": chrf, "bleu": bleu}


def parting(target: str, written: str, most: int = 40) -> str:
    """Returns both texts from shortly before the place where they part, each cut to `most` characters."""
    pairs = zip(target, written, strict=False)
    place = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(target), len(written)))
    start = max(0, place - most // 2) if max(len(target), len(written)) > most else 0

    def shown(text: str) -> str:
        return ("..." if start else "") + repr(text[start : start + most]) + ("..." if text[start + most :] else "")

    return f"{shown(target)} becomes {shown(written)}"
