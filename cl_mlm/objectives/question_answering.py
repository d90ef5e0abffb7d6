"""Extractive question answering: the answer is a piece of the context; a long context is read in several windows.

Devlin et al. (2019), BERT, arXiv:1810.04805, section 4.2: the model chooses a start and an end among the tokens.
Differs from the paper: tokens outside the context take no part in the choice; spans of different windows are compared
by log-probability and not by raw logits, which have no common zero.

Axes: R rows, I inputs (windows), T tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from typing_extensions import override

from cl_mlm.batch import Batch, Outputs, Predictions, Sites
from cl_mlm.errors import ConfigError
from cl_mlm.objective import UNCUT, Attainable, Encoded, Head, Lengths, Objective, Obstacle, Predictor, RawRows
from cl_mlm.scores.squad import exact_match, normalised, squad_scores, token_f1
from cl_mlm.tokens.spans import (
    OUTSIDE,
    answer_fault,
    best_spans,
    context_places,
    first_answer,
    nearest_spans,
    token_span,
    touches,
)
from cl_mlm.tokens.text_rows import padded, padding, text_faults
from cl_mlm.tokens.windows import cut
from cl_mlm.tokens.word_tokens import slow_faults

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    Span = tuple[int, int]  # place of a piece of a context in characters

# Room for the special tokens of a pair, and for a few more tokens of a question: cut, its last word may take more.
SPARE_TOKENS = 8


class QuestionAnswering(Objective):
    """A piece of a context for each row: columns `context`, `question` and `answers`.

    `answers` is `{"text": [...], "answer_start": [...]}` as in SQuAD, with starts in characters of the context.
    Training reads the first answer; the score takes the one that fits best. In a window that does not hold the whole
    answer, start and end are the tokenizer's CLS token, or without one the first token, which is never one of the
    context. The first token of a decoder has read nothing; its logits are learned constants, with which the tokens of
    the context are compared. A question longer than a quarter of `training.max_length` is cut.

    Args:
        stride: tokens that neighbouring windows share.
        max_answer_tokens: tokens of a predicted answer at most.
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
    def validate(self, rows: RawRows, where: str) -> list[str]:
        missing = [column for column in self.columns if column not in rows]
        if missing:
            return [f"{where}: needs the columns context, question and answers, has no {' and no '.join(missing)}"]
        problems = text_faults(rows, ["context", "question"], where)
        by_rule: dict[str, list[tuple[int, str]]] = {}
        for i, (context, answers) in enumerate(zip(rows["context"], rows["answers"], strict=True)):
            rule, got = answer_fault(context, answers)
            if rule:
                by_rule.setdefault(rule, []).append((i, got))
        problems += [
            f"{where}: answers must {rule}, got {faults[0][1]} in row {faults[0][0]} ({len(faults)} such rows)"
            for rule, faults in by_rule.items()
        ]
        return problems

    @override
    def key(self, rows: RawRows) -> list[str]:
        """Returns the contexts, so that no two splits ask about the same one."""
        return list(rows["context"])

    @override
    def written(self, rows: RawRows) -> tuple[list[str], list[str]]:
        """Returns the questions, each above its context, and the first answers, or `none`."""
        sources = [f"{question}\n{text}" for question, text in zip(rows["question"], rows["context"], strict=True)]
        return sources, [next(iter(answers["text"]), "none") for answers in rows["answers"]]

    @override
    def encode(
        self, rows: RawRows, tokenizer: PreTrainedTokenizerBase, labels: Mapping[str, int], max_length: int
    ) -> Encoded:
        """Returns for every row the columns of its windows, end to end.

        One number a token: `input_ids`, `token_type_ids` (if the tokenizer gives them), and the token's place in the
        context, `char_start` and `char_end`. One number a window: `window_lengths`, and the positions of tokens
        `answer_start`, `answer_end` and `no_answer` (the token that stands for no answer).

        Raises:
            ConfigError: the tokenizer is a slow one, and does not give the places of tokens.
        """
        if faults := slow_faults(tokenizer):
            raise ConfigError(faults)
        encoding = tokenizer(
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
        per_token = [name for name in ("input_ids", "token_type_ids") if name in encoding]
        names = [*per_token, "char_start", "char_end", "window_lengths", "answer_start", "answer_end", "no_answer"]
        columns: dict[str, list[list[int]]] = {name: [[] for _ in spans] for name in names}
        for window, row in enumerate(encoding["overflow_to_sample_mapping"]):
            ids = encoding["input_ids"][window]
            places = context_places(encoding["offset_mapping"][window], encoding.sequence_ids(window))
            none = ids.index(tokenizer.cls_token_id) if tokenizer.cls_token_id in ids else 0
            start, end = token_span(places, spans[row], none)
            of_window = {name: encoding[name][window] for name in per_token}
            of_window |= {"char_start": [s for s, _ in places], "char_end": [e for _, e in places]}
            of_window |= {"window_lengths": [len(ids)], "no_answer": [none]}
            of_window |= {"answer_start": [start], "answer_end": [end]}
            for name, values in of_window.items():
                columns[name][row] += values
        return {**columns}

    @override
    def tokenizer_faults(self, tokenizer: PreTrainedTokenizerBase, head: Head) -> list[str]:
        return slow_faults(tokenizer)

    @override
    def lengths(
        self, rows: RawRows, tokenizer: PreTrainedTokenizerBase, labels: Mapping[str, int], max_length: int
    ) -> dict[str, Lengths]:
        """Returns the tokens of question and context together. Only questions are cut; a context is read in windows."""
        whole: Any = self.encode(rows, tokenizer, labels, UNCUT)["input_ids"]
        windows: Any = self.encode(rows, tokenizer, labels, max_length)["window_lengths"]
        questions = tokenizer(
            list(rows["question"]), add_special_tokens=False, return_attention_mask=False, verbose=False
        )["input_ids"]
        num_cut = [max(0, len(tokens) - max_length // 4) for tokens in questions]
        return {"text": Lengths.of(max_length, [*map(len, whole)], num_cut, [*map(len, windows)])}

    @override
    def collate(
        self, encoded: Mapping[str, Sequence[Any]], ids: torch.Tensor, tokenizer: PreTrainedTokenizerBase
    ) -> Batch:
        """Returns a batch with one input a window; targets are start and end, int64 (I, 2).

        `extra` has `char_start` and `char_end`, int64 (I, T), -1 outside the context, and `no_answer`, int64 (I,).
        """
        import torch

        num_windows = [len(lengths) for lengths in encoded["window_lengths"]]
        fills = {"input_ids": padding(tokenizer), "token_type_ids": 0, "char_start": OUTSIDE}
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
            count=torch.tensor(num_windows, dtype=torch.float),
            num_tokens=int(mask.sum()),
            extra=extra,
            input_row=torch.arange(len(ids)).repeat_interleave(torch.tensor(num_windows)),
        )

    @override
    def loss(self, outputs: Outputs, batch: Batch) -> torch.Tensor:
        """Returns for every row the sum over its windows of the mean cross-entropy of start and end, in nats, (R,)."""
        from torch.nn.functional import cross_entropy

        # The logits are (I, T, 2): `cross_entropy` takes the second axis, the positions, as classes.
        losses = cross_entropy(_open_logits(outputs, batch), batch.targets, reduction="none").mean(-1)
        return losses.new_zeros(len(batch)).index_add(0, _input_row(batch), losses)

    @override
    def sites(self, outputs: Outputs, batch: Batch) -> Sites:
        """Returns two sites a window, start and end, whose classes are the positions: S = 2 I, C = T."""
        logits = _open_logits(outputs, batch).transpose(1, 2).flatten(0, 1)
        return Sites(logits, _input_row(batch).repeat_interleave(2), batch.targets.flatten())

    @override
    def predict(self, run: Predictor, batch: Batch) -> Predictions:
        """Returns for every row the text of the most probable span of all its windows; empty where there is none."""
        log_p = _open_logits(run.forward(batch), batch).log_softmax(1)
        is_context = batch.extra["char_start"] >= 0
        log_p = log_p.masked_fill(~is_context[..., None], float("-inf"))
        spans_log_p, start, end = best_spans(log_p, self.max_answer_tokens)
        char_start = batch.extra["char_start"].gather(1, start[:, None])[:, 0].tolist()
        char_end = batch.extra["char_end"].gather(1, end[:, None])[:, 0].tolist()
        best: list[tuple[float, int, int]] = [(float("-inf"), 0, 0)] * len(batch)
        for row, *span in zip(_input_row(batch).tolist(), spans_log_p.tolist(), char_start, char_end, strict=True):
            if span[0] > best[row][0]:
                best[row] = (span[0], span[1], span[2])
        contexts = run.raw(batch, "context")
        return Predictions([text[first:stop].strip() for text, (_, first, stop) in zip(contexts, best, strict=True)])

    @override
    def references(self, rows: RawRows) -> list[Any]:
        """Returns the texts of every row's answers."""
        return [list(answers["text"]) for answers in rows["answers"]]

    @override
    def unanswered(self, rows: RawRows, labels: Sequence[str]) -> dict[str, Sequence[Any]]:
        """Returns new rows whose answer is the first character of their context."""
        starts = [len(str(text)) - len(str(text).lstrip()) for text in rows["context"]]
        answers = [
            {"text": [str(text)[start : start + 1]], "answer_start": [start]}
            for text, start in zip(rows["context"], starts, strict=True)
        ]
        return {**rows, "answers": answers}

    @override
    def attainable(
        self,
        rows: RawRows,
        tokenizer: PreTrainedTokenizerBase,
        labels: Mapping[str, int],
        max_length: int,
        own_labels: Sequence[str],
    ) -> Attainable:
        """Returns for every row the text of the span of tokens of a window that comes nearest to an answer."""
        encoded: Any = self.encode(rows, tokenizer, labels, max_length)
        values: list[str] = []
        obstacles: list[Obstacle | None] = []
        columns = (rows["context"], rows["answers"], encoded["char_start"], encoded["char_end"])
        for context, answers, first, last, sizes in zip(*columns, encoded["window_lengths"], strict=True):
            places = list(zip(first, last, strict=True))
            ends = np.cumsum(sizes).tolist()
            windows = [places[end - size : end] for end, size in zip(ends, sizes, strict=True)]
            (score, _), value, span = self._nearest(context, answers, windows)
            values.append(value)
            obstacles.append(None if score == 1 else self._obstacle(context[slice(*span)], span, windows, max_length))
        return Attainable(values, obstacles, "F1")

    def _nearest(
        self, context: str, answers: Mapping[str, Any], windows: Sequence[Sequence[Span]]
    ) -> tuple[tuple[float, float], str, Span]:
        """Returns the best F1 and exact match of a row, the text that has it, and the place of its answer."""
        best: tuple[tuple[float, float], str, Span] = ((-1.0, -1.0), "", (0, 0))
        for text, start in zip(answers["text"], answers["answer_start"], strict=True):
            span = (start, start + len(text))
            near = [place for window in windows for place in nearest_spans(window, span, self.max_answer_tokens)]
            for value in [context[slice(*place)].strip() for place in near] or [""]:
                score = (
                    max(token_f1(value, answer) for answer in answers["text"]),
                    max(exact_match(value, answer) for answer in answers["text"]),
                )
                if score > best[0]:
                    best = (score, value, span)
        return best

    def _obstacle(self, answer: str, span: Span, windows: Sequence[Sequence[Span]], max_length: int) -> Obstacle:
        """Returns why no span of tokens is the answer."""
        example = repr(answer if len(answer) <= 60 else f"{answer[:57]}...")
        pieces = [[place for place in window if touches(place, span)] for window in windows]
        whole = {place for piece in pieces for place in piece}
        in_one_window = [piece for piece in pieces if {*piece} == whole]
        if not normalised(answer):
            return Obstacle("the answer has no word beside articles and punctuation", example)
        if not whole:
            return Obstacle("the answer has no token", example)
        if not in_one_window:
            reason = f"no window of training.max_length {max_length} holds the whole answer"
            return Obstacle(f"{reason} (windows share stride {self.stride})", example)
        if len(in_one_window[0]) > self.max_answer_tokens:
            return Obstacle(f"the answer is longer than max_answer_tokens {self.max_answer_tokens}", example)
        return Obstacle("the answer begins or ends inside a token", example)

    @override
    def score(self, predictions: Sequence[Any], references: Sequence[Any], labels: Sequence[str]) -> dict[str, float]:
        """Returns `score` and `f1`, the mean token F1, and `exact_match`, all in 0-1."""
        scores = squad_scores(predictions, references)
        return {"score": scores["f1"], **scores}


def _open_logits(outputs: Outputs, batch: Batch) -> torch.Tensor:
    """Returns logits in fp32, (I, T, 2), minus infinity except at tokens of the context and at that for no answer."""
    is_open = (batch.extra["char_start"] >= 0).scatter(1, batch.extra["no_answer"][:, None], True)
    return outputs.logits.float().masked_fill(~is_open[..., None], float("-inf"))


def _input_row(batch: Batch) -> torch.Tensor:
    assert batch.input_row is not None
    return batch.input_row


def _shortened(questions: list[str], tokenizer: PreTrainedTokenizerBase, most: int) -> list[str]:
    """Returns questions cut after `most` tokens."""
    encoding = tokenizer(
        questions, add_special_tokens=False, return_offsets_mapping=True, return_attention_mask=False, verbose=False
    )
    return [
        text[: places[most - 1][1]] if len(places) > most else text
        for text, places in zip(questions, encoding["offset_mapping"], strict=True)
    ]
