"""Relation extraction: which relation holds between two marked spans of a sentence.

Baldini Soares et al. (2019), Matching the Blanks, arXiv:1906.03158, entity markers (figure 3d) with the [CLS] output.
Differs from the paper: the markers are plain text in the model's own tokens, so that no vocabulary grows. They are
spelled as there, with square brackets: T5's vocabulary has no `<` and no `{`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from typing_extensions import override

from cl_mlm.objective import Encoded, Rows
from cl_mlm.objectives.classification import Classification
from cl_mlm.tokens.text_rows import text_faults
from cl_mlm.tokens.word_tokens import encode_words, word_faults

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    Span = tuple[int, int]

SPANS = {"head": ("[E1]", "[/E1]"), "tail": ("[E2]", "[/E2]")}


class Relation(Classification):
    """One label for each pair of spans: columns `tokens` (a list of words), `head`, `tail` ([start, end)) and `label`.

    The spans are marked in the text: `the [E1] sire [/E1] of [E2] Dancer [/E2]`. They may overlap, lie within each
    other or be the same. A row of more than `max_length` tokens keeps both spans with their markers and, of the other
    words, those nearest to a span; where the spans alone are too long, their end is cut off.
    """

    columns: ClassVar[tuple[str, ...]] = ("tokens", "head", "tail", "label")
    text_columns: ClassVar[tuple[str, ...]] = ("tokens",)

    @override
    def validate(self, rows: Rows, where: str) -> list[str]:
        missing = [column for column in self.columns if column not in rows]
        if missing:
            return [f"{where}: needs the columns {' and '.join(self.columns)}, has no {' and no '.join(missing)}"]
        faults = [*word_faults(rows, "tokens", where), *text_faults(rows, ["label"], where)]
        for column in SPANS:
            bad = [i for i, span in enumerate(rows[column]) if not _fits(span, rows["tokens"][i])]
            # One fraction makes every number of a column a fraction: the row that has it is the one to name.
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
    def key(self, rows: Rows) -> list[str]:
        """Returns the marked text."""
        return [" ".join(words) for words, _ in _all_marked(rows)]

    @override
    def written(self, rows: Rows) -> tuple[list[str], list[str]]:
        """Returns the marked texts, and the labels."""
        return self.key(rows), list(rows["label"])

    @override
    def encode(
        self, rows: Rows, tokenizer: PreTrainedTokenizerBase, labels: Mapping[str, int], max_length: int
    ) -> Encoded:
        """Returns the tokens of the marked text and `target`, the class index."""
        marked = _all_marked(rows)
        found = encode_words([words for words, _ in marked], tokenizer, None)
        tokens: list[list[int]] = list(found["input_ids"])
        long = [i for i, ids in enumerate(tokens) if len(ids) > max_length]
        if long:
            budget = max_length - tokenizer.num_special_tokens_to_add()
            cut = [_nearest_words(*marked[i], found.word_ids(i), budget) for i in long]
            for i, ids in zip(long, encode_words(cut, tokenizer, max_length)["input_ids"], strict=True):
                tokens[i] = ids
        return {"input_ids": tokens, "target": [labels[label] for label in rows["label"]]}


def _fits(span: Any, words: Any) -> bool:
    if not isinstance(span, list) or len(span) != 2 or not all(type(place) is int for place in span):
        return False
    return isinstance(words, list) and 0 <= span[0] < span[1] <= len(words)


def _as_whole(span: Any) -> Any:
    """Returns a span whose fractions are whole numbers, such as 2.0, with integers; any other as it is."""
    if isinstance(span, list) and all(isinstance(place, float) and place.is_integer() for place in span):
        return [int(place) for place in span]
    return span


def _all_marked(rows: Rows) -> list[tuple[list[str], list[Span]]]:
    return [_marked(*row) for row in zip(rows["tokens"], rows["head"], rows["tail"], strict=True)]


def _marked(words: Sequence[str], head: Sequence[int], tail: Sequence[int]) -> tuple[list[str], list[Span]]:
    """Returns the words with markers before and after both spans, and where the marked spans lie among them.

    Where several markers meet, what began last ends first, and what ends last begins first.
    """
    spans = [(head[0], head[1], SPANS["head"]), (tail[0], tail[1], SPANS["tail"])]
    inward = spans[::-1]
    found: list[str] = []
    begins: dict[str, int] = {}
    ends: dict[str, int] = {}
    for place in range(len(words) + 1):
        for _, end, (opening, closing) in sorted(inward, key=lambda span: -span[0]):
            if end == place:
                found.append(closing)
                ends[opening] = len(found)
        for start, _, (opening, _) in sorted(spans, key=lambda span: -span[1]):
            if start == place:
                begins[opening] = len(found)
                found.append(opening)
        found += words[place : place + 1]
    return found, [(begins[opening], ends[opening]) for opening, _ in SPANS.values()]


def _nearest_words(
    words: Sequence[str], spans: Sequence[Span], word_ids: Sequence[int | None], budget: int
) -> list[str]:
    """Returns the words of all spans and, as long as the budget of tokens lasts, the others nearest to a span."""

    def distance(place: int) -> int:
        return min(max(start - place, place - end + 1, 0) for start, end in spans)

    sizes = Counter(word_ids)
    kept, left = set(), budget
    for place in sorted(range(len(words)), key=distance):
        left -= sizes[place]
        if left < 0 and distance(place):
            break
        kept.add(place)
    return [word for place, word in enumerate(words) if place in kept]
