"""Relation extraction: which relation holds between two marked spans of a sentence.

Baldini Soares et al. (2019), Matching the Blanks, arXiv:1906.03158, entity markers (figure 3d) with the [CLS] output.
Differs from the paper: the markers are plain text in the model's own tokens, so that no vocabulary grows. They are
spelled with square brackets, as in the paper: T5's vocabulary has no `<` and no `{`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from typing_extensions import override

from cl_mlm.batch import Batch, Outputs, Predictions, Sites
from cl_mlm.objective import Encoded, Head, Objective, Predictor, RawRows
from cl_mlm.scores.labels import accuracy, macro_f1, per_class
from cl_mlm.tokens.class_choice import choice_losses, choice_sites, most_probable
from cl_mlm.tokens.text_rows import collate_texts, number_targets, text_faults
from cl_mlm.tokens.word_tokens import encode_words, slow_faults, word_faults

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    Span = tuple[int, int]

SPANS = {"head": ("[E1]", "[/E1]"), "tail": ("[E2]", "[/E2]")}


class Relation(Objective):
    """One label for each pair of spans: columns `tokens` (a list of words), `head`, `tail` ([start, end)) and `label`.

    The spans are marked in the text: `the [E1] sire [/E1] of [E2] Dancer [/E2]`. They may overlap, lie within each
    other or be the same. A row of more than `max_length` tokens keeps both spans with their markers, and of the other
    words those nearest to a span. Where the spans alone are too long, their end is cut off.
    """

    columns: ClassVar[tuple[str, ...]] = ("tokens", "head", "tail", "label")
    text_columns: ClassVar[tuple[str, ...]] = ("tokens",)
    min_labels: ClassVar[int] = 2
    choice_metric: ClassVar[str | None] = "accuracy"

    @override
    def validate(self, rows: RawRows, where: str) -> list[str]:
        missing = [column for column in self.columns if column not in rows]
        if missing:
            return [f"{where}: needs the columns {' and '.join(self.columns)}, has no {' and no '.join(missing)}"]
        faults = [*word_faults(rows, "tokens", where), *text_faults(rows, ["label"], where)]
        for column in SPANS:
            bad = [i for i, span in enumerate(rows[column]) if not _fits(span, rows["tokens"][i])]
            # One fraction turns all numbers of a column into fractions, 2 into 2.0. So rows that are bad for another
            # reason are named before those.
            bad = [i for i in bad if not _fits(_as_whole(rows[column][i]), rows["tokens"][i])] or bad
            if bad:
                words, span = rows["tokens"][bad[0]], rows[column][bad[0]]
                size = len(words) if isinstance(words, list) else 0
                faults.append(
                    f"{where}: {column} must be [start, end) with 0 <= start < end <= number of words, got {span!r} "
                    f"for {size} words in row {bad[0]} ({len(bad)} such rows)"
                )
        return faults

    @override
    def key(self, rows: RawRows) -> list[str]:
        """Returns the marked text."""
        return [" ".join(words) for words, _ in _all_marked(rows)]

    @override
    def written(self, rows: RawRows) -> tuple[list[str], list[str]]:
        """Returns the marked texts, and the labels."""
        return self.key(rows), list(rows["label"])

    @override
    def encode(
        self, rows: RawRows, tokenizer: PreTrainedTokenizerBase, labels: Mapping[str, int], max_length: int
    ) -> Encoded:
        """Returns the tokens of the marked text and `target`, the class index."""
        marked = _all_marked(rows)
        encoding = encode_words([words for words, _ in marked], tokenizer, None)
        tokens: list[list[int]] = list(encoding["input_ids"])
        long = [i for i, ids in enumerate(tokens) if len(ids) > max_length]
        if long:
            budget = max_length - tokenizer.num_special_tokens_to_add()
            cut = [_nearest_words(*marked[i], encoding.word_ids(i), budget) for i in long]
            for i, ids in zip(long, encode_words(cut, tokenizer, max_length)["input_ids"], strict=True):
                tokens[i] = ids
        return {"input_ids": tokens, "target": [labels[label] for label in rows["label"]]}

    @override
    def tokenizer_faults(self, tokenizer: PreTrainedTokenizerBase, head: Head) -> list[str]:
        return slow_faults(tokenizer)

    @override
    def collate(
        self, encoded: Mapping[str, Sequence[Any]], ids: torch.Tensor, tokenizer: PreTrainedTokenizerBase
    ) -> Batch:
        return collate_texts(encoded, number_targets(encoded, np.int64), ids, tokenizer)

    @override
    def loss(self, outputs: Outputs, batch: Batch) -> torch.Tensor:
        """Returns the cross-entropy of every row among its allowed classes, in nats."""
        return choice_losses(outputs, batch)

    @override
    def sites(self, outputs: Outputs, batch: Batch) -> Sites:
        """Returns one site a row."""
        return choice_sites(outputs, batch)

    @override
    def predict(self, run: Predictor, batch: Batch) -> Predictions:
        """Returns the most probable allowed class of every row; a reference that the model lacks has probability 0."""
        indices, highest, of_target = most_probable(run.forward(batch), batch)
        return Predictions([run.classes[i] for i in indices.tolist()], highest, of_target)

    @override
    def score(self, predictions: Sequence[Any], references: Sequence[Any], labels: Sequence[str]) -> dict[str, float]:
        """Returns `score` and `accuracy`, the fraction of rows whose label is predicted, and `macro_f1`."""
        right = accuracy(predictions, references)
        return {"score": right, "accuracy": right, "macro_f1": macro_f1(predictions, references)}

    @override
    def per_label(
        self, predictions: Sequence[Any], references: Sequence[Any], labels: Sequence[str]
    ) -> list[dict[str, Any]]:
        return per_class(predictions, references, labels)


def _fits(span: Any, words: Any) -> bool:
    if not isinstance(span, list) or len(span) != 2 or not all(type(place) is int for place in span):
        return False
    return isinstance(words, list) and 0 <= span[0] < span[1] <= len(words)


def _as_whole(span: Any) -> Any:
    """Returns a span of whole numbers, such as 2.0, as integers; any other span as it is."""
    if isinstance(span, list) and all(isinstance(place, float) and place.is_integer() for place in span):
        return [int(place) for place in span]
    return span


def _all_marked(rows: RawRows) -> list[tuple[list[str], list[Span]]]:
    return [_marked(*row) for row in zip(rows["tokens"], rows["head"], rows["tail"], strict=True)]


def _marked(words: Sequence[str], head: Sequence[int], tail: Sequence[int]) -> tuple[list[str], list[Span]]:
    """Returns the words with markers before and after both spans, and the places of the marked spans among them.

    Where several markers meet, they nest: of two spans that end there, the one that starts last is closed first; of two
    that start there, the one that ends last is opened first. Two equal spans are opened head first, closed tail first.
    """
    spans = [(head[0], head[1], SPANS["head"]), (tail[0], tail[1], SPANS["tail"])]
    tail_first = spans[::-1]
    in_order_of_closing = sorted(tail_first, key=lambda span: -span[0])
    in_order_of_opening = sorted(spans, key=lambda span: -span[1])
    marked: list[str] = []
    starts: dict[str, int] = {}
    ends: dict[str, int] = {}
    for place in range(len(words) + 1):
        for _, end, (opening, closing) in in_order_of_closing:
            if end == place:
                marked.append(closing)
                ends[opening] = len(marked)
        for start, _, (opening, _) in in_order_of_opening:
            if start == place:
                starts[opening] = len(marked)
                marked.append(opening)
        marked += words[place : place + 1]
    return marked, [(starts[opening], ends[opening]) for opening, _ in SPANS.values()]


def _nearest_words(
    words: Sequence[str], spans: Sequence[Span], word_ids: Sequence[int | None], budget: int
) -> list[str]:
    """Returns the words of all spans, and the others nearest to a span as long as the budget lasts.

    Args:
        words: of the marked text.
        spans: places of the marked spans.
        word_ids: the word of every token; None for special tokens.
        budget: tokens that may be used.
    """

    def distance(place: int) -> int:
        return min(max(start - place, place - end + 1, 0) for start, end in spans)

    num_tokens = Counter(word_ids)
    kept_places, budget_left = set(), budget
    for place in sorted(range(len(words)), key=distance):
        budget_left -= num_tokens[place]
        if budget_left < 0 and distance(place) > 0:
            break
        kept_places.add(place)
    return [word for place, word in enumerate(words) if place in kept_places]
