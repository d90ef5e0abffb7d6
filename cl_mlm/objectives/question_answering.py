"""Extractive question answering: the answer is a piece of the context; a long context is read in several windows.

Devlin et al. (2019), BERT, arXiv:1810.04805, section 4.2: the model chooses a start and an end among the tokens.
Differs from the paper: tokens outside the context take no part in the choice, and windows of a context are compared by
the probability of a span, not by raw logits, whose level is another one in every window.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from typing_extensions import override

from cl_mlm.batch import Batch, Outputs, Predictions, Sites
from cl_mlm.errors import ConfigError
from cl_mlm.objective import UNCUT, Encoded, Head, Lengths, Objective, Predictor, Rows
from cl_mlm.scores.squad import squad_scores
from cl_mlm.tokens.spans import OUTSIDE, answer_fault, best_spans, context_places, first_answer, token_span
from cl_mlm.tokens.text_rows import padded, text_faults
from cl_mlm.tokens.windows import cut

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

# What a tokenizer adds to a pair, and a few tokens for a question whose cut end is read in other pieces.
SPARE_TOKENS = 8


class QuestionAnswering(Objective):
    """A piece of a context for each row: columns `context`, `question` and `answers`.

    `answers` is `{"text": [...], "answer_start": [...]}` as in SQuAD, starts in characters of the context; training
    reads the first, a score takes the one that fits best. A window that does not hold the whole answer points, start
    and end, to the tokenizer's CLS token, or where it has none to the first token: that of the beginning, or of the
    question, never one of the context. For a decoder, whose first token has read nothing, this is a learned constant
    that the tokens of the context are compared with. A question longer than a quarter of `training.max_length` is cut.

    Args:
        stride: tokens that neighbouring windows share.
        max_answer_tokens: longest predicted answer.
    """

    heads: ClassVar[tuple[Head, ...]] = ("span",)
    columns: ClassVar[tuple[str, ...]] = ("context", "question", "answers")
    reference_columns: ClassVar[tuple[str, ...]] = ("answers",)
    text_columns: ClassVar[tuple[str, ...]] = ("context", "question", "answers")
    sites_per_row: ClassVar[Literal["none", "one", "many"]] = "many"

    def __init__(self, stride: int = 64, max_answer_tokens: int = 30) -> None:
        self.stride = stride
        self.max_answer_tokens = max_answer_tokens

    @override
    def faults(self, max_length: int) -> list[str]:
        room = max_length - max_length // 4 - SPARE_TOKENS
        problems = []
        if room < 1:
            problems.append(f"stride: needs a training.max_length of 11 at least, got {max_length}")
        elif not 0 <= self.stride < room:
            problems.append(f"stride: must be in 0-{room - 1} at training.max_length {max_length}, got {self.stride}")
        if self.max_answer_tokens < 1:
            problems.append(f"max_answer_tokens: must be at least 1, got {self.max_answer_tokens}")
        return problems

    @override
    def classes(self, labels: Sequence[str]) -> list[str]:
        return []

    @override
    def validate(self, rows: Rows, where: str) -> list[str]:
        missing = [column for column in self.columns if column not in rows]
        if missing:
            return [f"{where}: needs the columns context, question and answers, has no {' and no '.join(missing)}"]
        problems = text_faults(rows, ["context", "question"], where)
        faults: dict[str, list[tuple[int, str]]] = {}
        for i, (context, answers) in enumerate(zip(rows["context"], rows["answers"], strict=True)):
            rule, got = answer_fault(context, answers)
            if rule:
                faults.setdefault(rule, []).append((i, got))
        problems += [
            f"{where}: answers must {rule}, got {found[0][1]} in row {found[0][0]} ({len(found)} such rows)"
            for rule, found in faults.items()
        ]
        return problems

    @override
    def key(self, rows: Rows) -> list[str]:
        """Returns the context: no two splits may ask about the same one."""
        return list(rows["context"])

    @override
    def written(self, rows: Rows) -> tuple[list[str], list[str]]:
        """Returns the questions, each above its context, and the first answers, or `none`."""
        sources = [f"{question}\n{text}" for question, text in zip(rows["question"], rows["context"], strict=True)]
        return sources, [next(iter(answers["text"]), "none") for answers in rows["answers"]]

    @override
    def encode(
        self, rows: Rows, tokenizer: PreTrainedTokenizerBase, labels: Mapping[str, int], max_length: int
    ) -> Encoded:
        """Returns every row's windows end to end.

        `input_ids`, where there are such `token_type_ids`, and `char_start` and `char_end` (a token's place in the
        context) have a number a token; `window_lengths`, `answer_start`, `answer_end` and `no_answer` (positions of
        tokens) have one a window.

        Raises:
            ConfigError: the tokenizer does not tell where its tokens are.
        """
        if not tokenizer.is_fast:
            raise ConfigError(f"model.name: {type(tokenizer).__name__} gives no offsets; a fast tokenizer is needed")
        found = tokenizer(
            _shortened(list(rows["question"]), tokenizer, max_length // 4),
            list(rows["context"]),
            truncation="only_second",
            max_length=max_length,
            stride=self.stride,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
            return_attention_mask=False,
            verbose=False,
        )
        spans = [
            first_answer(context, answers) for context, answers in zip(rows["context"], rows["answers"], strict=True)
        ]
        per_token = [name for name in ("input_ids", "token_type_ids") if name in found]
        names = [*per_token, "char_start", "char_end", "window_lengths", "answer_start", "answer_end", "no_answer"]
        columns: dict[str, list[list[int]]] = {name: [[] for _ in spans] for name in names}
        for window, row in enumerate(found["overflow_to_sample_mapping"]):
            ids = found["input_ids"][window]
            places = context_places(found["offset_mapping"][window], found.sequence_ids(window))
            none = ids.index(tokenizer.cls_token_id) if tokenizer.cls_token_id in ids else 0
            start, end = token_span(places, spans[row], none)
            values = {name: found[name][window] for name in per_token}
            values |= {"char_start": [s for s, _ in places], "char_end": [e for _, e in places]}
            values |= {"window_lengths": [len(ids)], "answer_start": [start], "answer_end": [end], "no_answer": [none]}
            for name, own in values.items():
                columns[name][row] += own
        return {**columns}

    @override
    def lengths(
        self, rows: Rows, tokenizer: PreTrainedTokenizerBase, labels: Mapping[str, int], max_length: int
    ) -> dict[str, Lengths]:
        """Returns the tokens of question and context together; of a context nothing is cut, it is read in windows."""
        whole: Any = self.encode(rows, tokenizer, labels, UNCUT)["input_ids"]
        windows: Any = self.encode(rows, tokenizer, labels, max_length)["window_lengths"]
        questions = tokenizer(
            list(rows["question"]), add_special_tokens=False, return_attention_mask=False, verbose=False
        )["input_ids"]
        cut = [max(0, len(tokens) - max_length // 4) for tokens in questions]
        return {"text": Lengths.of(max_length, [*map(len, whole)], cut, [*map(len, windows)])}

    @override
    def collate(
        self, encoded: Mapping[str, Sequence[Any]], ids: torch.Tensor, tokenizer: PreTrainedTokenizerBase
    ) -> Batch:
        """Returns one input a window; targets are start and end, int64 (I, 2).

        `extra` has `char_start` and `char_end`, int64 (I, T), -1 outside the context, and `no_answer`, int64 (I,).
        """
        import numpy as np
        import torch

        counts = [len(own) for own in encoded["window_lengths"]]
        fills = {"input_ids": tokenizer.pad_token_id or 0, "token_type_ids": 0, "char_start": OUTSIDE}
        fills["char_end"] = OUTSIDE
        per_token = {name: encoded[name] for name in fills if name in encoded}
        inputs, mask = padded(cut(per_token, encoded["window_lengths"]), fills)
        start, end, none = (
            torch.from_numpy(np.concatenate(list(encoded[name])).astype(np.int64))
            for name in ("answer_start", "answer_end", "no_answer")
        )
        extra = {"char_start": inputs.pop("char_start"), "char_end": inputs.pop("char_end"), "no_answer": none}
        return Batch(
            {**inputs, "attention_mask": mask},
            torch.stack([start, end], -1),
            ids,
            count=torch.tensor(counts, dtype=torch.float),
            num_tokens=int(mask.sum()),
            extra=extra,
            input_row=torch.arange(len(ids)).repeat_interleave(torch.tensor(counts)),
        )

    @override
    def loss(self, outputs: Outputs, batch: Batch) -> torch.Tensor:
        """Returns for every row the sum over its windows of the mean of both cross-entropies, in nats."""
        from torch.nn.functional import cross_entropy

        # Positions are the classes, (I, T, 2).
        losses = cross_entropy(_open_logits(outputs, batch), batch.targets, reduction="none").mean(-1)
        return losses.new_zeros(len(batch)).index_add(0, _input_row(batch), losses)

    @override
    def sites(self, outputs: Outputs, batch: Batch) -> Sites:
        """Returns two sites a window, its start and its end; a class is a position (S = 2 I, C = T)."""
        logits = _open_logits(outputs, batch).transpose(1, 2).flatten(0, 1)
        return Sites(logits, _input_row(batch).repeat_interleave(2), batch.targets.flatten())

    @override
    def predict(self, run: Predictor, batch: Batch) -> Predictions:
        """Returns for every row the text of the most probable span of all its windows; empty where there is none."""
        log_p = _open_logits(run.forward(batch), batch).log_softmax(1)
        inside = batch.extra["char_start"] >= 0
        values, start, end = best_spans(log_p.masked_fill(~inside[..., None], float("-inf")), self.max_answer_tokens)
        best: list[tuple[float, int, int]] = [(float("-inf"), 0, 0)] * len(batch)
        first = batch.extra["char_start"].gather(1, start[:, None])[:, 0].tolist()
        last = batch.extra["char_end"].gather(1, end[:, None])[:, 0].tolist()
        for row, *found in zip(_input_row(batch).tolist(), values.tolist(), first, last, strict=True):
            if found[0] > best[row][0]:
                best[row] = (found[0], found[1], found[2])
        contexts = run.raw(batch, "context")
        return Predictions([text[begin:stop].strip() for text, (_, begin, stop) in zip(contexts, best, strict=True)])

    @override
    def references(self, rows: Rows) -> list[Any]:
        """Returns the texts of every row's answers."""
        return [list(answers["text"]) for answers in rows["answers"]]

    @override
    def score(self, predictions: Sequence[Any], references: Sequence[Any], labels: Sequence[str]) -> dict[str, float]:
        """Returns `score` and `f1`, the mean token F1, and `exact_match`, all in 0-1."""
        found = squad_scores(predictions, references)
        return {"score": found["f1"], **found}


def _open_logits(outputs: Outputs, batch: Batch) -> torch.Tensor:
    """Returns logits in fp32, (I, T, 2), minus infinity but for the context and the place of no answer."""
    is_open = (batch.extra["char_start"] >= 0).scatter(1, batch.extra["no_answer"][:, None], True)
    return outputs.logits.float().masked_fill(~is_open[..., None], float("-inf"))


def _input_row(batch: Batch) -> torch.Tensor:
    assert batch.input_row is not None
    return batch.input_row


def _shortened(questions: list[str], tokenizer: PreTrainedTokenizerBase, most: int) -> list[str]:
    """Returns questions cut after `most` tokens."""
    found = tokenizer(
        questions, add_special_tokens=False, return_offsets_mapping=True, return_attention_mask=False, verbose=False
    )
    return [
        text[: places[most - 1][1]] if len(places) > most else text
        for text, places in zip(questions, found["offset_mapping"], strict=True)
    ]
