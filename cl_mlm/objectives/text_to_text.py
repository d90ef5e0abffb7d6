"""Text to text: translation, summaries, replies, or labels written out, with an encoder-decoder or a decoder.

Axes: R rows, T tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from typing_extensions import override

from cl_mlm.batch import Outputs, Predictions, Sites
from cl_mlm.errors import ConfigError
from cl_mlm.models.generation import decoder_start_token, end_token, generate_texts, texts_of
from cl_mlm.objective import (
    Attainable,
    Encoded,
    Head,
    Lengths,
    Objective,
    Obstacle,
    Predictor,
    RawRows,
    input_lengths,
)
from cl_mlm.scores.generated_text import METRICS, Metric, format_failures, parting
from cl_mlm.scores.labels import per_class
from cl_mlm.scores.segmentation import folded
from cl_mlm.tokens.chat import Chat, exchange, with_system
from cl_mlm.tokens.chat_rows import encode_conversations
from cl_mlm.tokens.closed_answers import choose, token_faults
from cl_mlm.tokens.frames import has_tokens
from cl_mlm.tokens.logits import token_losses, token_sites
from cl_mlm.tokens.target_batches import decoder_batch, encoder_decoder_batch, left_padded_prompts
from cl_mlm.tokens.text_rows import padding, text_faults

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from cl_mlm.batch import Batch
    from cl_mlm.objective import Numbers


class TextToText(Objective):
    """A text for each text: columns `source` and `target`; every token of the target is a loss item.

    An encoder-decoder reads prefix and source and writes the target. A decoder reads prefix, source and separator and
    continues with the target; only the target's tokens are in the loss. A source is cut to `training.max_length`
    tokens; the input of a decoder is longer by separator and target.

    With `chat` a decoder reads the source as a user's turn, in the words of the tokenizer's chat template, and writes
    the assistant's turn up to the token that ends it; there is no separator. A prompt that is too long loses the end of
    the source.

    Args:
        prefix: put before every source.
        separator: put between source and target in a decoder; tokenized by itself.
        max_new_tokens: tokens that are generated at most, the end token included; with `answers` no more than the
            longest answer has.
        max_target_length: tokens of a target in training at most, the end token included; null: `max_new_tokens`. A
            target that is cut keeps its end token.
        metric: the metric that is `score`.
        answers: the texts that are answers; any other output is a format failure. Null: any text may be an answer.
        decode: `constrained`: the model chooses one of `answers`, token by token, and what it writes freely is scored
            beside; `free`: it may write any text.
        chat: whether source and target go through the chat template of the model's tokenizer; for decoders.
        system: with `chat`: the text of the system's turn; null: none, or what the template itself puts there.
        chat_template: with `chat`: a chat template (jinja2) in place of the tokenizer's own.
    """

    heads: ClassVar[tuple[Head, ...]] = ("seq2seq", "causal")
    columns: ClassVar[tuple[str, ...]] = ("source", "target")
    reference_columns: ClassVar[tuple[str, ...]] = ("target",)
    text_columns: ClassVar[tuple[str, ...]] = ("source", "target")
    sites_per_row: ClassVar[Literal["none", "one", "many"]] = "many"
    packable: ClassVar[bool] = True
    answers_inputs: ClassVar[bool] = True

    def __init__(
        self,
        prefix: str = "",
        separator: str = "\nOutput:\n",
        max_new_tokens: int = 64,
        max_target_length: int | None = None,
        metric: Metric = "exact_match",
        answers: list[str] | None = None,
        decode: Literal["free", "constrained"] = "free",
        chat: bool = False,
        system: str | None = None,
        chat_template: str | None = None,
    ) -> None:
        self.prefix = prefix
        self.separator = separator
        self.max_new_tokens = max_new_tokens
        self.max_target_length = max_target_length
        self.metric = metric
        self.answers = answers
        self.decode = decode
        self.chat = chat
        self.system = system
        self.chat_template = chat_template
        self._decoder_start: int | None = None

    @override
    def faults(self, max_length: int) -> list[str]:
        faults = []
        if self.max_new_tokens < 2:
            faults.append(f"max_new_tokens: must be at least 2, got {self.max_new_tokens}")
        if self.max_target_length is not None and self.max_target_length < 2:
            faults.append(f"max_target_length: must be at least 2 or null, got {self.max_target_length}")
        of_chat = {"system": self.system, "chat_template": self.chat_template}
        faults += [
            f"{name}: must be null without chat, and else a text, got {text!r}"
            for name, text in of_chat.items()
            if text is not None and not (self.chat and text.strip())
        ]
        if self.answers is None:
            if self.decode == "constrained":
                faults.append("decode: must be free where there are no answers to choose from, got constrained")
            return faults
        answers = [folded(answer) for answer in self.answers]
        if not answers or not all(answers) or len(set(answers)) < len(answers):
            faults.append(f"answers: must be different texts that are not empty, or null, got {self.answers}")
        return faults

    @override
    def bind(self, model: PreTrainedModel, head: Head) -> None:
        self._decoder_start = decoder_start_token(model) if head == "seq2seq" else None

    @property
    @override
    def chats(self) -> bool:
        return self.chat

    @property
    @override
    def contradicts(self) -> bool:
        """Where the answers are given; a free text may have several that are right."""
        return self.answers is not None

    @override
    def validate(self, rows: RawRows, where: str) -> list[str]:
        faults = text_faults(rows, self.columns, where)
        if faults or self.answers is None:
            return faults
        answers = {folded(answer) for answer in self.answers}
        bad = [i for i, target in enumerate(rows["target"]) if folded(target) not in answers]
        if not bad:
            return []
        target, listed = rows["target"][bad[0]], ", ".join(map(repr, self.answers[:10]))
        rest = f" and {len(self.answers) - 10} more" if len(self.answers) > 10 else ""
        return [
            f"{where}: target must be one of stream.options.answers, got {target!r} in row {bad[0]} "
            f"({len(bad)} such rows); allowed: {listed}{rest}"
        ]

    @override
    def key(self, rows: RawRows) -> list[str]:
        """Returns the sources."""
        return list(rows["source"])

    @override
    def encode(
        self, rows: RawRows, tokenizer: PreTrainedTokenizerBase, labels: Mapping[str, int], max_length: int
    ) -> Encoded:
        """Returns `input_ids` (prefix and source, with special tokens) and `target_ids` (with an end token).

        They are the same for encoder-decoders and decoders; `collate` puts them together as the model reads them.
        """
        if self.chat:
            return encode_conversations(
                self._chat(tokenizer), self._conversations(rows), max_length, self._target_limit
            )
        sources = tokenizer(
            [self.prefix + source for source in rows["source"]], truncation=True, max_length=max_length, verbose=False
        )
        targets, end, limit = self._targets(rows, tokenizer), self._end(tokenizer), self._target_limit - 1
        return {
            "input_ids": list(sources["input_ids"]),
            "target_ids": [[*tokens[:limit], end] for tokens in targets],
        }

    def _chat(self, tokenizer: PreTrainedTokenizerBase) -> Chat:
        return Chat(tokenizer, self.chat_template)

    def _conversations(self, rows: RawRows) -> list[list[Mapping[str, Any]]]:
        """Returns rows as a question and its answer, behind the text of the system where there is one."""
        pairs = zip(rows["source"], rows["target"], strict=True)
        return [with_system(self.system, exchange(self.prefix + source, target)) for source, target in pairs]

    def _end(self, tokenizer: PreTrainedTokenizerBase) -> int:
        """Returns the token that ends a target."""
        return self._chat(tokenizer).end if self.chat else end_token(tokenizer)

    def _targets(self, rows: RawRows, tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
        """Returns the tokens of every target, not cut and without an end token."""
        if self.chat:
            turns = self._chat(tokenizer).turns(self._conversations(rows))
            return [found.ids[slice(*found.spans[-1])][:-1] for found in turns]
        return list(tokenizer(list(rows["target"]), add_special_tokens=False, verbose=False)["input_ids"])

    def _answer_tokens(self, tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
        """Returns the tokens of every one of `answers` as a target, with the end token."""
        answers, end = list(self.answers or ()), self._end(tokenizer)
        return [
            [*tokens, end] for tokens in self._targets({"source": ["a"] * len(answers), "target": answers}, tokenizer)
        ]

    @property
    def _target_limit(self) -> int:
        """Tokens of a target in training at most, the end token included."""
        return self.max_target_length or self.max_new_tokens

    @override
    def lengths(
        self, rows: RawRows, tokenizer: PreTrainedTokenizerBase, labels: Mapping[str, int], max_length: int
    ) -> dict[str, Lengths]:
        """Returns the tokens of sources (with the prefix) and of targets (with the end token)."""
        targets = self._targets(rows, tokenizer)
        return {
            "source": input_lengths(self, rows, tokenizer, labels, max_length),
            "target": Lengths.of(self._target_limit, [len(tokens) + 1 for tokens in targets]),
        }

    @override
    def tokenizer_faults(self, tokenizer: PreTrainedTokenizerBase, head: Head) -> list[str]:
        if self.chat:
            if head == "seq2seq":
                return ["stream.options.chat: needs a decoder, as an encoder-decoder has no turns; got true"]
            if faults := self._chat(tokenizer).faults("stream.options.chat", "stream.options", self.system):
                return faults
        try:
            end_token(tokenizer)
        except ConfigError as error:
            return error.problems
        faults = []
        if head == "causal" and self.separator and not self.chat and not has_tokens(tokenizer, self.separator):
            faults.append(f"stream.options.separator: the tokenizer has no tokens for it, got {self.separator!r}")
        unknown = [repr(answer) for answer in self.answers or () if not has_tokens(tokenizer, answer)]
        if unknown:
            faults.append(f"stream.options.answers: the tokenizer has no tokens for {', '.join(unknown[:10])}")
        elif self.answers and self.decode == "constrained":
            faults += token_faults(self.answers, self._answer_tokens(tokenizer), self.max_new_tokens)
        return faults

    @override
    def written_length(self, tokenizer: PreTrainedTokenizerBase) -> int:
        """Returns `max_new_tokens`; with `answers` no more than the longest answer has."""
        if self.answers is None:
            return self.max_new_tokens
        tokens = tokenizer(self.answers, add_special_tokens=False, verbose=False)["input_ids"]
        return min(self.max_new_tokens, 1 + max(map(len, tokens)))

    @override
    def extra_length(self, tokenizer: PreTrainedTokenizerBase, head: Head) -> int:
        """Returns for a decoder the tokens of separator and target."""
        if head != "causal":
            return 0
        # The last token that a decoder writes it does not read.
        longest_target = max(self._target_limit, self.written_length(tokenizer) - 1)
        return longest_target if self.chat else len(self._separator_tokens(tokenizer)) + longest_target

    @override
    def input_length(
        self,
        lengths: Mapping[str, Numbers],
        tokenizer: PreTrainedTokenizerBase,
        head: Head,
        written: int | None = None,
    ) -> Numbers:
        """Returns the tokens of sources, for a decoder those of source, separator and target."""
        if head != "causal":
            return lengths["input_ids"]
        answered = lengths["target_ids"] if written is None else written - 1
        if self.chat:
            return lengths["input_ids"] + answered
        framed = tokenizer(self.separator, verbose=False)["input_ids"]
        num_ends = sum(1 for _ in takewhile(lambda token: token == end_token(tokenizer), reversed(framed)))
        prompts = lengths["input_ids"] - num_ends + len(self._separator_tokens(tokenizer))
        return prompts + answered

    def _separator_tokens(self, tokenizer: PreTrainedTokenizerBase) -> list[int]:
        return list(tokenizer(self.separator, add_special_tokens=False, verbose=False)["input_ids"])

    @override
    def collate(
        self, encoded: Mapping[str, Sequence[Any]], ids: torch.Tensor, tokenizer: PreTrainedTokenizerBase
    ) -> Batch:
        """Returns for an encoder-decoder sources and shifted targets; for a decoder prompt and target in one row."""
        targets = [tokens.tolist() for tokens in encoded["target_ids"]]
        pad = padding(tokenizer)
        if self._decoder_start is None:
            return decoder_batch(self._prompts(encoded["input_ids"], tokenizer), targets, ids, pad)
        return encoder_decoder_batch(encoded, targets, ids, pad, self._decoder_start)

    def _prompts(self, sources: Sequence[Any], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
        """Returns sources with the separator, and without end tokens, which would end the text before the target.

        In a chat they are as they should be.
        """
        if self.chat:
            return [tokens.tolist() for tokens in sources]
        end = end_token(tokenizer)
        separator = self._separator_tokens(tokenizer)
        prompts = []
        for tokens in sources:
            prompt = tokens.tolist()
            num_ends = sum(1 for _ in takewhile(lambda token: token == end, reversed(prompt)))
            prompts.append([*prompt[: len(prompt) - num_ends], *separator] or [end])
        return prompts

    @override
    def loss(self, outputs: Outputs, batch: Batch) -> torch.Tensor:
        """Returns the summed cross-entropy of every row's target tokens, in nats."""
        return token_losses(outputs, batch)

    @override
    def sites(self, outputs: Outputs, batch: Batch) -> Sites:
        """Returns a site for every target token."""
        return token_sites(outputs, batch)

    @override
    def predict(self, run: Predictor, batch: Batch) -> Predictions:
        """Returns the texts that the model writes, greedily; with `decode: constrained` the answers that it chooses."""
        inputs = {name: batch.inputs[name] for name in ("input_ids", "attention_mask")}
        if self._decoder_start is None:
            inputs = left_padded_prompts(batch, padding(run.tokenizer))
        if self.answers is not None and self.decode == "constrained":
            return choose(run, inputs, self.answers, self._decoder_start, self._answer_tokens(run.tokenizer))
        most, end = self.written_length(run.tokenizer), self._end(run.tokenizer)
        return Predictions(generate_texts(run, inputs, most, self._decoder_start, end=end))

    @override
    def attainable(
        self,
        rows: RawRows,
        tokenizer: PreTrainedTokenizerBase,
        labels: Mapping[str, int],
        max_length: int,
        own_labels: Sequence[str],
    ) -> Attainable:
        """Returns what is left of every target that is tokenized, cut to the limits, and decoded.

        A model that chooses among answers can choose the right one of every row.
        """
        if self.decode == "constrained":
            return Attainable.whole(self.references(rows), self.metric)
        tokens, end = self._targets(rows, tokenizer), self._end(tokenizer)
        most = self.written_length(tokenizer)
        limit = self._target_limit - 1
        values = texts_of(tokenizer, [[*target[:limit], end][:most] for target in tokens], end)
        references, obstacles = self.references(rows), []
        for target, value, reference in zip(tokens, values, references, strict=True):
            is_right = value == reference or METRICS[self.metric]([value], [reference]) > 1 - 1e-9
            obstacles.append(None if is_right else self._obstacle(target, reference, value, tokenizer))
        return Attainable(values, obstacles, self.metric)

    def _obstacle(
        self, tokens: Sequence[int], target: str, written: str, tokenizer: PreTrainedTokenizerBase
    ) -> Obstacle:
        """Returns why a target is written otherwise."""
        example = parting(target, written)
        if self._end(tokenizer) in tokens:
            return Obstacle("the target holds the token that ends a text", example)
        if tokenizer.unk_token_id in tokens:
            return Obstacle("the target holds characters that the vocabulary lacks", example)
        if len(tokens) + 1 > min(self._target_limit, self.max_new_tokens):
            name = "max_new_tokens" if self.max_new_tokens <= self._target_limit else "max_target_length"
            limit, size = min(self._target_limit, self.max_new_tokens), len(tokens) + 1
            return Obstacle(f"the target is longer than {name} {limit}", f"{size} tokens with the end token")
        return Obstacle("the tokenizer gives another text back", example)

    @override
    def unanswered(self, rows: RawRows, labels: Sequence[str]) -> dict[str, Sequence[Any]]:
        """Returns new rows with the first of `answers` as target, or a dash."""
        return {**rows, "target": [(self.answers or ["-"])[0]] * len(rows["source"])}

    @override
    def score(self, predictions: Sequence[Any], references: Sequence[Any], labels: Sequence[str]) -> dict[str, float]:
        """Returns `exact_match`, `rouge_l`, `chrf` and `bleu`, with `answers` also `format_failures`, each in 0-1."""
        scores = {name: metric(predictions, references) for name, metric in METRICS.items()}
        if self.answers is not None:
            scores["format_failures"] = format_failures(predictions, self.answers)
        return {"score": scores[self.metric], **scores}

    @override
    def per_label(
        self, predictions: Sequence[Any], references: Sequence[Any], labels: Sequence[str]
    ) -> list[dict[str, Any]]:
        """Returns a line for each of `answers`; none where any text may be an answer."""
        if self.answers is None:
            return []
        written = [folded(text) for text in predictions]
        right = [folded(text) for text in references]
        return per_class(written, right, [folded(answer) for answer in self.answers])
