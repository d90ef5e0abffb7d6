"""Exact match and token F1 of extractive answers, as the official script of SQuAD v1.1 counts them.

Rajpurkar et al. (2016), SQuAD: 100,000+ Questions for Machine Comprehension of Text, arXiv:1606.05250, section 6.1;
the normalisation is that of `evaluate-v1.1.py`.

Differs from the script: answers are compared in NFKC, and in scripts without spaces every letter counts as a word, as
in the evaluation of MLQA (`cl_mlm.scores.segmentation`).
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from typing import TYPE_CHECKING

from cl_mlm.scores.segmentation import is_word_itself, spaced

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PUNCTUATION = frozenset(string.punctuation)
ARTICLES = re.compile(r"\b(a|an|the)\b")


def normalised(answer: str) -> str:
    """Returns an answer in lower case, without ASCII punctuation and articles, with one space between words.

    An answer that holds a letter of a script without spaces loses all punctuation and invisible characters.
    """
    text = unicodedata.normalize("NFKC", answer).lower()
    if not text.isascii() and any(map(is_word_itself, text)):
        text = "".join(c for c in text if unicodedata.category(c)[0] != "P" and unicodedata.category(c) != "Cf")
    text = "".join(character for character in text if character not in PUNCTUATION)
    return " ".join(spaced(ARTICLES.sub(" ", text)).split())


def exact_match(prediction: str, answer: str) -> float:
    """Returns 1 where both are equal once normalised, else 0."""
    return float(normalised(prediction) == normalised(answer))


def token_f1(prediction: str, answer: str) -> float:
    """Returns the F1 of the words of `prediction`, in 0-1; 0 where the two share no word, also where both are empty."""
    predicted, expected = normalised(prediction).split(), normalised(answer).split()
    shared = sum((Counter(predicted) & Counter(expected)).values())
    return 2 * shared / (len(predicted) + len(expected)) if shared else 0.0


def squad_scores(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """Returns the means of `exact_match` and `f1` over questions, in 0-1 (the script prints per cent).

    Args:
        predictions: the answer to every question, (N,).
        references: the right answers to every question, (N,); the one with the highest score counts.
    """

    def mean(measure: Callable[[str, str], float]) -> float:
        pairs = zip(predictions, references, strict=True)
        return sum(max(measure(text, answer) for answer in answers) for text, answers in pairs) / len(references)

    return {"exact_match": mean(exact_match), "f1": mean(token_f1)}
