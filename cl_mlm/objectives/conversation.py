"""Conversations of any number of turns, through the chat template of the model's tokenizer.

Axes: R rows, T tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from typing_extensions import override

from cl_mlm.batch import Outputs, Predictions, Sites
from cl_mlm.errors import ConfigError
from cl_mlm.models.generation import end_token, generate_texts, texts_of
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
from cl_mlm.scores.generated_text import METRICS, Metric, parting
from cl_mlm.tokens.chat import Chat, with_system
from cl_mlm.tokens.chat_rows import encode_conversations
from cl_mlm.tokens.logits import token_losses, token_sites
from cl_mlm.tokens.messages import message_faults
from cl_mlm.tokens.target_batches import decoder_batch, left_padded_prompts
from cl_mlm.tokens.text_rows import padding

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from cl_mlm.batch import Batch
    from cl_mlm.objective import Numbers

BETWEEN = "\x1f"  # of the turns in a key; no text holds it


class Conversation(Objective):
    """A conversation for each row: the column `messages`, a list of `{role, content}`; it ends with the assistant.

    Roles are `system` (once, first), `user` and `assistant`, which take turns. A decoder reads the conversation through
    the chat template of its tokenizer. The loss is on the assistant's tokens, the one that ends a turn among them. Each
    of the assistant's turns is scored: written anew from the true history before it. A turn of the assistant with
    `weight: 0` is history only.

    Args:
        turns: `all`: the loss is on every turn of the assistant, and each is scored; `last`: on the last one.
        system: text of the system for conversations that have none; null: none of ours.
        chat_template: a chat template (jinja2) in place of the tokenizer's own.
        max_new_tokens: tokens that are written at most, the one that ends a turn included.
        max_target_length: tokens of the last turn in training at most; null: `max_new_tokens`. One that is cut keeps
            the token that ends it.
        metric: the metric that is `score`.
    """

    heads: ClassVar[tuple[Head, ...]] = ("causal",)
    columns: ClassVar[tuple[str, ...]] = ("messages",)
    reference_columns: ClassVar[tuple[str, ...]] = ("messages",)
    text_columns: ClassVar[tuple[str, ...]] = ("messages",)
    sites_per_row: ClassVar[Literal["none", "one", "many"]] = "many"
    answers_inputs: ClassVar[bool] = True

    def __init__(
        self,
        turns: Literal["all", "last"] = "all",
        system: str | None = None,
        chat_template: str | None = None,
        max_new_tokens: int = 64,
        max_target_length: int | None = None,
        metric: Metric = "rouge_l",
    ) -> None:
        self.turns = turns
        self.system = system
        self.chat_template = chat_template
        self.max_new_tokens = max_new_tokens
        self.max_target_length = max_target_length
        self.metric = metric

    @override
    def faults(self, max_length: int) -> list[str]:
        faults = []
        if self.max_new_tokens < 2:
            faults.append(f"max_new_tokens: must be at least 2, got {self.max_new_tokens}")
        if self.max_target_length is not None and self.max_target_length < 2:
            faults.append(f"max_target_length: must be at least 2 or null, got {self.max_target_length}")
        of_chat = {"system": self.system, "chat_template": self.chat_template}
        faults += [
            f"{name}: must be a text that is not empty, or null, got {text!r}"
            for name, text in of_chat.items()
            if text is not None and not text.strip()
        ]
        return faults

    @property
    @override
    def chats(self) -> bool:
        return True

    @property
    @override
    def inputs(self) -> tuple[str, ...]:
        return ("messages",)

    @override
    def validate(self, rows: RawRows, where: str) -> list[str]:
        if "messages" not in rows:
            return [f"{where}: needs the column messages, or prompt and completion"]
        return message_faults(rows["messages"], where)

    @override
    def key(self, rows: RawRows) -> list[str]:
        """Returns all turns but the last."""
        return [BETWEEN.join(f"{m['role']}: {m['content']}" for m in messages[:-1]) for messages in rows["messages"]]

    @override
    def scored(self, rows: RawRows) -> RawRows:
        """Returns with `turns: all` a row for each turn of the assistant, which ends with it."""
        if self.turns == "last":
            return rows
        cut = [
            (row, messages[: i + 1])
            for row, messages in enumerate(rows["messages"])
            for i, message in enumerate(messages)
            if message["role"] == "assistant" and message.get("weight") != 0
        ]
        whole = {name: [values[row] for row, _ in cut] for name, values in rows.items()}
        return {**whole, "messages": [messages for _, messages in cut]}

    def _chat(self, tokenizer: PreTrainedTokenizerBase) -> Chat:
        return Chat(tokenizer, self.chat_template)

    def _conversations(self, rows: RawRows) -> list[list[Mapping[str, Any]]]:
        """Returns the messages of rows, with the text of the system where they have none."""
        return [with_system(self.system, [*map(_stripped, messages)]) for messages in rows["messages"]]

    @property
    def _target_limit(self) -> int:
        return self.max_target_length or self.max_new_tokens

    @override
    def encode(
        self, rows: RawRows, tokenizer: PreTrainedTokenizerBase, labels: Mapping[str, int], max_length: int
    ) -> Encoded:
        """Returns `input_ids` (up to the last turn), `target_ids` (that turn), and which of the others count."""
        chat, conversations = self._chat(tokenizer), self._conversations(rows)
        return encode_conversations(chat, conversations, max_length, self._target_limit, all_turns=self.turns == "all")

    @override
    def lengths(
        self, rows: RawRows, tokenizer: PreTrainedTokenizerBase, labels: Mapping[str, int], max_length: int
    ) -> dict[str, Lengths]:
        """Returns the tokens of histories (all up to the last turn) and of replies (the last turns)."""
        found = self._chat(tokenizer).turns(self._conversations(rows))
        return {
            "history": input_lengths(self, rows, tokenizer, labels, max_length),
            "reply": Lengths.of(self._target_limit, [end - start for start, end in (t.spans[-1] for t in found)]),
        }

    @override
    def tokenizer_faults(self, tokenizer: PreTrainedTokenizerBase, head: Head) -> list[str]:
        faults = self._chat(tokenizer).faults("stream.objective: conversation", "stream.options", self.system, 2)
        try:
            end_token(tokenizer)
        except ConfigError as error:
            faults += error.problems
        return faults

    @override
    def written_length(self, tokenizer: PreTrainedTokenizerBase) -> int:
        return self.max_new_tokens

    @override
    def extra_length(self, tokenizer: PreTrainedTokenizerBase, head: Head) -> int:
        # The last token that a decoder writes it does not read.
        return max(self._target_limit, self.max_new_tokens - 1)

    @override
    def input_length(
        self,
        lengths: Mapping[str, Numbers],
        tokenizer: PreTrainedTokenizerBase,
        head: Head,
        written: int | None = None,
    ) -> Numbers:
        return lengths["input_ids"] + (lengths["target_ids"] if written is None else written - 1)

    @override
    def collate(
        self, encoded: Mapping[str, Sequence[Any]], ids: torch.Tensor, tokenizer: PreTrainedTokenizerBase
    ) -> Batch:
        """Returns conversations; every token of the assistant that counts is a loss item."""
        prompts, targets = ([tokens.tolist() for tokens in encoded[name]] for name in ("input_ids", "target_ids"))
        counted = [marks.tolist() for marks in encoded["counted"]] if "counted" in encoded else None
        return decoder_batch(prompts, targets, ids, padding(tokenizer), counted)

    @override
    def loss(self, outputs: Outputs, batch: Batch) -> torch.Tensor:
        """Returns the summed cross-entropy of every row's tokens that count, in nats."""
        return token_losses(outputs, batch)

    @override
    def sites(self, outputs: Outputs, batch: Batch) -> Sites:
        """Returns a site for every token that counts."""
        return token_sites(outputs, batch)

    @override
    def predict(self, run: Predictor, batch: Batch) -> Predictions:
        """Returns what the model writes in place of the last turn, greedily."""
        prompts, end = left_padded_prompts(batch, padding(run.tokenizer)), self._chat(run.tokenizer).end
        return Predictions(generate_texts(run, prompts, self.max_new_tokens, end=end))

    @override
    def references(self, rows: RawRows) -> list[Any]:
        """Returns the last turns."""
        return [messages[-1]["content"].strip() for messages in rows["messages"]]

    @override
    def unanswered(self, rows: RawRows, labels: Sequence[str]) -> dict[str, Sequence[Any]]:
        """Returns new conversations, which end with the user, with a dash as the next turn; a text is a user's turn."""
        answer = {"role": "assistant", "content": "-"}
        asked = [[{"role": "user", "content": m}] if isinstance(m, str) else m for m in rows["messages"]]
        return {**rows, "messages": [[*m, answer] if isinstance(m, list) else m for m in asked]}

    @override
    def attainable(
        self,
        rows: RawRows,
        tokenizer: PreTrainedTokenizerBase,
        labels: Mapping[str, int],
        max_length: int,
        own_labels: Sequence[str],
    ) -> Attainable:
        """Returns what is left of every last turn that is tokenized, cut to the limits, and decoded."""
        chat, limit = self._chat(tokenizer), min(self._target_limit, self.max_new_tokens)
        found = [turns.ids[slice(*turns.spans[-1])] for turns in chat.turns(self._conversations(rows))]
        values = texts_of(tokenizer, [[*tokens[:-1][: limit - 1], tokens[-1]] for tokens in found], chat.end)
        references, obstacles = self.references(rows), []
        for tokens, value, reference in zip(found, values, references, strict=True):
            is_right = METRICS[self.metric]([value], [reference]) > 1 - 1e-9
            name = "max_new_tokens" if self.max_new_tokens <= self._target_limit else "max_target_length"
            too_long = Obstacle(f"a turn is longer than {name} {limit}", f"{len(tokens)} tokens with its end")
            other = Obstacle("the tokenizer gives another text back", parting(reference, value))
            obstacles.append(None if is_right else too_long if len(tokens) > limit else other)
        return Attainable(values, obstacles, self.metric)

    @override
    def score(self, predictions: Sequence[Any], references: Sequence[Any], labels: Sequence[str]) -> dict[str, float]:
        """Returns `exact_match`, `rouge_l`, `chrf` and `bleu`, each in 0-1."""
        scores = {name: metric(predictions, references) for name, metric in METRICS.items()}
        return {"score": scores[self.metric], **scores}


def _stripped(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns a message; one of the assistant without the white space around it, as where answers are scored."""
    return {**message, "content": message["content"].strip()} if message["role"] == "assistant" else message
