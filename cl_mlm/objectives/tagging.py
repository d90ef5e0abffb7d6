"""Tagging of words in the BIO scheme, for named entities and slots; scored by whole entities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from typing_extensions import override

from cl_mlm.batch import Batch, Outputs, Predictions, Sites
from cl_mlm.objective import UNCUT, Attainable, Encoded, Head, Objective, Obstacle, Predictor, RawRows
from cl_mlm.scores.bio import OUTSIDE, entities, is_tag, only, repaired, stray, type_of, types_of
from cl_mlm.scores.entities import micro_scores, type_scores
from cl_mlm.tokens.logits import masked_logits
from cl_mlm.tokens.text_rows import padded, padding
from cl_mlm.tokens.word_tokens import encode_words, slow_faults, word_faults

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

IGNORED = -100
READINGS = ("refuse", "repair")


class Tagging(Objective):
    """One tag for each word: columns `tokens`, a list of words, and `tags`, a list of `O`, `B-x` and `I-x`.

    A label is an entity type x; it brings the classes `B-x` and `I-x`. `O` is a class of no label. The first token of a
    word carries its tag, the others are ignored. A word beyond `max_length` is not trained on; it is predicted `O`, and
    counts in the score.

    Args:
        ill_formed: what to do with an `I-x` that follows neither `B-x` nor `I-x`: `refuse` the row, or `repair` it by
            reading the tag as `B-x`; the stream's notes tell how many rows were repaired.
    """

    heads: ClassVar[tuple[Head, ...]] = ("token",)
    columns: ClassVar[tuple[str, ...]] = ("tokens", "tags")
    reference_columns: ClassVar[tuple[str, ...]] = ("tags",)
    text_columns: ClassVar[tuple[str, ...]] = ("tokens",)
    sites_per_row: ClassVar[Literal["none", "one", "many"]] = "many"
    min_labels: ClassVar[int] = 1

    def __init__(self, ill_formed: Literal["refuse", "repair"] = "refuse") -> None:
        self.ill_formed = ill_formed

    @override
    def faults(self, max_length: int) -> list[str]:
        if self.ill_formed in READINGS:
            return []
        return [f"ill_formed: must be {' or '.join(READINGS)}, got {self.ill_formed!r}"]

    @override
    def classes(self, labels: Sequence[str]) -> list[str]:
        """Returns `O`, then `B-x` and `I-x` of every type."""
        return [OUTSIDE, *(f"{prefix}-{label}" for label in labels for prefix in "BI")]

    @override
    def labels_of(self, rows: RawRows) -> list[Sequence[str]]:
        """Returns the entity types of every row."""
        return [types_of(tags) for tags in rows["tags"]]

    @override
    def renamed(self, rows: RawRows, names: Mapping[str, str]) -> dict[str, list[Any]]:
        """Returns `tags` with other types."""

        def rename(tag: Any) -> Any:
            kind = type_of(tag) if isinstance(tag, str) else ""
            return f"{tag[:2]}{names[kind]}" if kind in names else tag

        return {"tags": [[rename(tag) for tag in tags] if isinstance(tags, list) else tags for tags in rows["tags"]]}

    @override
    def validate(self, rows: RawRows, where: str) -> list[str]:
        missing = [column for column in self.columns if column not in rows]
        if missing:
            return [f"{where}: needs the columns tokens and tags, has no {' and no '.join(missing)}"]
        return [*word_faults(rows, "tokens", where), *self._tag_faults(rows, where)]

    def _tag_faults(self, rows: RawRows, where: str) -> list[str]:
        """Returns one line for each kind of fault, with the first row that has it."""
        by_rule: dict[str, list[str]] = {}
        for i, (words, tags) in enumerate(zip(rows["tokens"], rows["tags"], strict=True)):
            if fault := self._tag_fault(words, tags):
                by_rule.setdefault(fault[0], []).append(f"{fault[1]} of row {i}")
        return [f"{where}: {rule}, got {bad[0]} ({len(bad)} such rows)" for rule, bad in by_rule.items()]

    def _tag_fault(self, words: Any, tags: Any) -> tuple[str, str] | None:
        """Returns the rule that a row breaks and what it has instead; None where all is well."""
        if not isinstance(tags, list):
            return "tags must be a list of O, B-x and I-x", f"{tags!r} as tags"
        if isinstance(words, list) and len(words) != len(tags):
            return "tags must be as many as tokens", f"{len(tags)} for the {len(words)} words"
        odd = [i for i, tag in enumerate(tags) if not is_tag(tag)]
        if odd:
            return "a tag must be O, B-x or I-x with an entity type x", f"{tags[odd[0]]!r} at word {odd[0]}"
        lost = stray(tags) if self.ill_formed != "repair" else []
        if lost:
            rule = "I-x must follow B-x or I-x (stream.options.ill_formed=repair reads it as B-x)"
            return rule, f"{tags[lost[0]]!r} at word {lost[0]}"
        return None

    @override
    def mended(self, rows: RawRows) -> int:
        """Returns how many rows hold an `I-x` that is read as `B-x`."""
        return sum(bool(stray(tags)) for tags in rows["tags"]) if self.ill_formed == "repair" else 0

    @override
    def key(self, rows: RawRows) -> list[str]:
        """Returns the words, joined by spaces."""
        return [" ".join(words) for words in rows["tokens"]]

    @override
    def references(self, rows: RawRows) -> list[Any]:
        """Returns the tags of every row."""
        return [repaired(tags) if self.ill_formed == "repair" else list(tags) for tags in rows["tags"]]

    @override
    def written(self, rows: RawRows) -> tuple[list[str], list[str]]:
        """Returns the words, joined by spaces, and the entities in their order, `type: words; ...`, or `none`."""
        targets = []
        for words, tags in zip(rows["tokens"], self.references(rows), strict=True):
            lines = [f"{kind}: {' '.join(words[start:end])}" for kind, start, end in entities(tags)]
            targets.append("; ".join(lines) or "none")
        return self.key(rows), targets

    @override
    def encode(
        self, rows: RawRows, tokenizer: PreTrainedTokenizerBase, labels: Mapping[str, int], max_length: int
    ) -> Encoded:
        """Returns a row's tokens, `targets` (the class of each), `words` (the word of each) and `num_words`.

        A token that carries no tag has target -100 and word -1.
        """
        encoding = encode_words(rows["tokens"], tokenizer, max_length)
        index = {tag: i for i, tag in enumerate(self.classes(list(labels)))}
        targets, places = [], []
        for i, tags in enumerate(self.references(rows)):
            words = _first_tokens(encoding.word_ids(i))
            places.append(words)
            targets.append([IGNORED if word < 0 else index[tags[word]] for word in words])
        num_words = [len(words) for words in rows["tokens"]]
        return {"input_ids": encoding["input_ids"], "targets": targets, "words": places, "num_words": num_words}

    @override
    def tokenizer_faults(self, tokenizer: PreTrainedTokenizerBase, head: Head) -> list[str]:
        return slow_faults(tokenizer)

    @override
    def collate(
        self, encoded: Mapping[str, Sequence[Any]], ids: torch.Tensor, tokenizer: PreTrainedTokenizerBase
    ) -> Batch:
        """Returns rows padded to the longest; a loss item is a word that has a token."""
        import torch

        tokens, mask = padded(encoded, {"input_ids": padding(tokenizer), "targets": IGNORED, "words": -1})
        num_words = torch.from_numpy(np.asarray(encoded["num_words"], dtype=np.int64))
        # A row whose words have no tokens counts as one item of loss zero: nothing is then divided by zero.
        count = (tokens["targets"] != IGNORED).sum(-1).clamp_min(1).float()
        return Batch(
            {"input_ids": tokens["input_ids"], "attention_mask": mask},
            tokens["targets"],
            ids,
            count=count,
            num_tokens=int(mask.sum()),
            extra={"words": tokens["words"], "num_words": num_words},
        )

    @override
    def loss(self, outputs: Outputs, batch: Batch) -> torch.Tensor:
        """Returns the cross-entropy among the row's allowed classes, summed over its words, in nats, (R,)."""
        from torch.nn.functional import cross_entropy

        logits = masked_logits(outputs.logits, batch.allowed).transpose(1, 2)
        return cross_entropy(logits, batch.targets, ignore_index=IGNORED, reduction="none").sum(-1)

    @override
    def target_classes(self, batch: Batch, num_classes: int) -> torch.Tensor:
        """Returns the classes of the rows' tags, bool (R, C)."""
        import torch

        row, token = (batch.targets != IGNORED).nonzero(as_tuple=True)
        named = torch.zeros(len(batch), num_classes, dtype=torch.bool, device=batch.device)
        named[row, batch.targets[row, token]] = True
        return named

    @override
    def sites(self, outputs: Outputs, batch: Batch) -> Sites:
        """Returns one site for each word that has a token, row by row, in the order of the words."""
        is_tagged = batch.targets != IGNORED
        logits = masked_logits(outputs.logits, batch.allowed)
        return Sites(logits[is_tagged], is_tagged.nonzero()[:, 0], batch.targets[is_tagged])

    @override
    def predict(self, run: Predictor, batch: Batch) -> Predictions:
        """Returns the most probable allowed tag of every word; a word without a token is tagged `O`.

        The probability of a row is the product over its words that have a token, since each is tagged by itself. A
        reference tag that the model does not have has probability 0.
        """
        import torch

        sites = self.sites(run.forward(batch), batch)
        log_p = sites.logits.log_softmax(-1)
        best = log_p.max(-1)
        is_known = sites.target < log_p.shape[-1]
        of_target = log_p.gather(-1, (sites.target * is_known)[:, None])[:, 0].masked_fill(~is_known, float("-inf"))
        words = batch.extra["words"][batch.targets != IGNORED]
        values = [[OUTSIDE] * num_words for num_words in batch.extra["num_words"].tolist()]
        for row, word, index in zip(sites.row.tolist(), words.tolist(), best.indices.tolist(), strict=True):
            values[row][word] = run.classes[index]
        zeros = torch.zeros(len(batch), device=log_p.device)
        probability = zeros.index_add(0, sites.row, best.values).exp()
        reference_probability = zeros.index_add(0, sites.row, of_target).exp()
        return Predictions(values, probability, reference_probability)

    @override
    def attainable(
        self,
        rows: RawRows,
        tokenizer: PreTrainedTokenizerBase,
        labels: Mapping[str, int],
        max_length: int,
        own_labels: Sequence[str],
    ) -> Attainable:
        """Returns the tags with `O` where `predict` says so whatever the model knows: at words without a token."""
        references, values = self.references(rows), []
        for tags, places in zip(references, self._words(rows, tokenizer, labels, max_length), strict=True):
            values.append([tag if word in places else OUTSIDE for word, tag in enumerate(tags)])
        pairs = list(zip(self.within(values, own_labels), self.within(references, own_labels), strict=True))
        lost = {i: [w for w, tag in enumerate(r) if v[w] != tag] for i, (v, r) in enumerate(pairs) if v != r}
        obstacles: list[Obstacle | None] = [None] * len(values)
        if all(set(reference) == {OUTSIDE} for _, reference in pairs):
            obstacles = [Obstacle("there is no entity of the column's types")] * len(values)
        uncut: list[set[int]] = []
        if lost:
            of_lost = {name: [column[i] for i in lost] for name, column in rows.items()}
            uncut = self._words(of_lost, tokenizer, labels, UNCUT)
        for (i, places_lost), places in zip(lost.items(), uncut, strict=True):
            words = rows["tokens"][i]
            without = [word for word in places_lost if word not in places]
            if without:
                obstacles[i] = Obstacle("an entity holds a word without a token", ascii(words[without[0]]))
            else:
                which = f"word {places_lost[0] + 1} of {len(words)}"
                obstacles[i] = Obstacle(f"an entity reaches beyond training.max_length {max_length}", which)
        return Attainable(values, obstacles, "entity F1")

    def _words(
        self, rows: RawRows, tokenizer: PreTrainedTokenizerBase, labels: Mapping[str, int], max_length: int
    ) -> list[set[int]]:
        """Returns the words of every row that have a token, (R,)."""
        places: Any = self.encode(rows, tokenizer, labels, max_length)["words"]
        return [set(words) for words in places]

    @override
    def within(self, values: Sequence[Any], labels: Sequence[str]) -> list[Any]:
        """Returns tags with those of other entity types read as `O`: an entity counts in its own column only."""
        types = set(labels)
        return [only(tags, types) for tags in values]

    @override
    def unanswered(self, rows: RawRows, labels: Sequence[str]) -> dict[str, Sequence[Any]]:
        """Returns new rows whose words are all tagged `O`."""
        return {**rows, "tags": [[OUTSIDE] * len(words) if isinstance(words, list) else [] for words in rows["tokens"]]}

    @override
    def score(self, predictions: Sequence[Any], references: Sequence[Any], labels: Sequence[str]) -> dict[str, float]:
        """Returns `precision`, `recall` and `f1` over the entities of the types `labels`, and `score`, which is `f1`.

        They are micro averages as seqeval computes them in strict mode; 0 where there is no entity.
        """
        scores = micro_scores(predictions, references, labels)
        return {"score": scores["f1"], **scores}

    @override
    def per_label(
        self, predictions: Sequence[Any], references: Sequence[Any], labels: Sequence[str]
    ) -> list[dict[str, Any]]:
        """Returns precision, recall, F1 and number of entities of every type."""
        return type_scores(predictions, references, labels)


def _first_tokens(word_ids: Sequence[int | None]) -> list[int]:
    """Returns for every token its word where it is the word's first token, else -1."""
    words_before = [None, *word_ids[:-1]]
    return [-1 if word is None or word == before else word for word, before in zip(word_ids, words_before, strict=True)]
