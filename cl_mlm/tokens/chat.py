"""Chat templates: conversations as the model's tokenizer writes them, and where the assistant's tokens are in them.

A conversation is rendered and tokenized as one text. What of it the assistant has said is never found by tokenizing
parts and adding their lengths. It is what a template marks with `{% generation %}`; else every history, rendered by
itself as a model is asked for the next turn, must be a prefix of the whole, as text and as tokens.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cl_mlm.errors import ConfigError, DataError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from transformers import PreTrainedTokenizerBase

    Messages = Sequence[Mapping[str, Any]]

MARKED = re.compile(r"\{%-?\s*generation\s*-?%\}")
# A template that asks for today's date is told this one, which Llama's itself falls back on: a run must not depend on
# the day. A macro stands before what transformers offers under that name.
DATE = {"d": "26", "m": "07", "b": "Jul", "B": "July", "Y": "2024", "y": "24", "a": "Fri", "A": "Friday", "H": "00"}
DATE |= {"M": "00", "S": "00"}
DATED = "{%- macro strftime_now(form) -%}{{ form"
DATED += "".join(f" | replace('%{sign}', '{value}')" for sign, value in DATE.items()) + " }}{%- endmacro -%}"
SHOWN = 60


@dataclass(frozen=True)
class Turns:
    """One conversation as tokens, up to the end of its last turn.

    Attributes:
        ids: the tokens.
        spans: `[start, end)` of every turn of the assistant; its last token is the one that ends a turn.
    """

    ids: list[int]
    spans: list[tuple[int, int]]


@dataclass(frozen=True)
class Chat:
    """How a tokenizer writes conversations.

    Attributes:
        tokenizer: the model's.
        template: a chat template in place of the tokenizer's own; None: its own.
    """

    tokenizer: PreTrainedTokenizerBase
    template: str | None = None

    @property
    def used(self) -> str | None:
        """The chat template; None: there is none."""
        own: Any = self.template or self.tokenizer.chat_template
        return own if isinstance(own, str) else None

    @property
    def _dated(self) -> str | None:
        """The chat template that is rendered; None: there is none."""
        return f"{DATED}{self.used}" if self.used is not None and "strftime_now" in self.used else self.used

    def text(self, messages: Messages, *, asks: bool) -> str:
        """Returns a conversation as the template writes it.

        Args:
            messages: each with `role` and `content`.
            asks: whether the assistant's next turn is to follow.

        Raises:
            DataError: the template fails on the conversation.
        """
        plain = [{"role": message["role"], "content": message["content"]} for message in messages]
        try:
            text: Any = self.tokenizer.apply_chat_template(
                plain,
                chat_template=self._dated,
                tokenize=False,
                add_generation_prompt=asks,
            )
        except Exception as error:  # a template is a program, which may fail in any way
            raise DataError(f"chat: the chat template fails on {_shown(messages)}: {error}") from error
        return str(text)

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns the tokens of rendered texts; a template writes all special tokens itself."""
        if not texts:
            return []
        found = self.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        return [list(tokens) for tokens in found]

    def turns(self, conversations: Sequence[Messages]) -> list[Turns]:
        """Returns conversations, each of which ends with the assistant, as tokens.

        Raises:
            DataError: the assistant's tokens cannot be told from the others.
        """
        if self.used is not None and MARKED.search(self.used):
            return [self._marked_turns(messages) for messages in conversations]
        histories = [
            [self.text(messages[: i + told], asks=not told) for i in _assistant(messages) for told in (0, 1)]
            for messages in conversations
        ]
        tokens = iter(self.ids([text for texts in histories for text in texts]))
        return [
            self._turns(messages, texts, [next(tokens) for _ in texts])
            for messages, texts in zip(conversations, histories, strict=True)
        ]

    def _turns(self, messages: Messages, texts: Sequence[str], tokens: Sequence[list[int]]) -> Turns:
        """Returns the turns; `texts` and `tokens` are of the history before and after each of the assistant's turns."""
        whole_text, whole = texts[-1], tokens[-1]
        ends = [self._turn_end(tokens[i], tokens[i + 1], messages) for i in range(0, len(tokens), 2)]
        for k, text in enumerate(texts):
            cut = len(tokens[k]) if k % 2 == 0 else ends[k // 2]
            if not whole_text.startswith(text) and (k % 2 == 0 or tokens[k][:cut] != whole[:cut]):
                rule = "writes a history otherwise once the conversation goes on"
                raise DataError(
                    f"chat: the chat template {rule}, so that the assistant's tokens cannot be told: "
                    f"{_parting(text, whole_text)}"
                )
            if tokens[k][:cut] != whole[:cut]:
                raise DataError(
                    "chat: the tokenizer joins the end of a question and the begin of its answer in one token, so that "
                    f"the assistant's tokens cannot be told: {_shown(messages)}"
                )
        return Turns(whole[: ends[-1]], [(len(tokens[2 * k]), end) for k, end in enumerate(ends)])

    def _turn_end(self, before: list[int], after: list[int], messages: Messages) -> int:
        """Returns the place behind the special token that ends a turn.

        Raises:
            DataError: there is none.
        """
        special = self._special
        place = next((i + 1 for i in reversed(range(len(before), len(after))) if after[i] in special), None)
        if place is None:
            raise DataError(
                "chat: the chat template must end a turn of the assistant with a special token, at which a model stops "
                f"writing (for instance {{{{ eos_token }}}}); it ends none in {_shown(messages)}"
            )
        return place

    def _marked_turns(self, messages: Messages) -> Turns:
        """Returns the turns as `{% generation %}` marks them."""
        plain = [{"role": message["role"], "content": message["content"]} for message in messages]
        found: Any = self.tokenizer.apply_chat_template(
            plain,
            chat_template=self._dated,
            tokenize=True,
            return_dict=True,
            return_assistant_tokens_mask=True,
        )
        ids, mask = list(found["input_ids"]), [*found["assistant_masks"], 0]
        starts = [i for i in range(len(ids)) if mask[i] and (i == 0 or not mask[i - 1])]
        ends = [i + 1 for i in range(len(ids)) if mask[i] and not mask[i + 1]]
        if len(starts) != len(_assistant(messages)):
            raise DataError(
                f"chat: the chat template marks {len(starts)} turns of the assistant ({{% generation %}}) of "
                f"{len(_assistant(messages))} in {_shown(messages)}"
            )
        special = self._special
        spans = []
        for start, end in zip(starts, ends, strict=True):
            place = next((i + 1 for i in reversed(range(start, end)) if ids[i] in special), None)
            if place is None:
                raise DataError(
                    "chat: the chat template leaves the special token that ends a turn out of {% generation %}, so "
                    "that a model would not learn to stop"
                )
            spans.append((start, place))
        return Turns(ids[: spans[-1][1]], spans)

    @property
    def _special(self) -> set[int]:
        added = {number for number, token in self.tokenizer.added_tokens_decoder.items() if token.special}
        return {*added, *(int(number) for number in self.tokenizer.all_special_ids)}

    @property
    def end(self) -> int:
        """The token that ends a turn of the assistant.

        Raises:
            DataError: there is none.
        """
        return self.turns([PROBE[:2]])[0].ids[-1]

    def faults(self, key: str, within: str, system: str | None, num_turns: int = 1) -> list[str]:
        """Returns why conversations cannot be written: no template, no system text, no way to tell who says what.

        Args:
            key: of the option that asks for them.
            within: key of the section that has `system` and `chat_template`.
            system: the text of the system; None: there is none.
            num_turns: exchanges of a question and an answer in the conversation that is tried: 1 or 2.
        """
        if self.used is None:
            return [
                f"{key}: needs a tokenizer with a chat template (chat_template), which this model's has not; "
                f"{within}.chat_template gives one"
            ]
        messages: list[Mapping[str, Any]] = [*PROBE[: 2 * num_turns]]
        try:
            self.turns([messages])
            if system is None:
                return []
            with_system = [{"role": "system", "content": system}, *messages]
            if system.strip() not in self.text(with_system, asks=False):
                return [f"{within}.system: the model's chat template leaves a system text out, got {system!r}"]
            self.turns([with_system])
        except DataError as error:
            (fault,) = error.problems
            if system is not None and "fails on" in fault:
                return [f"{within}.system: the model's chat template refuses it: {fault.rpartition(': ')[2]}"]
            return [fault.replace("chat:", f"{key}:", 1)]
        return []


# What faults are tried with: letters that stay what they are in any template.
PROBE: list[Mapping[str, Any]] = [
    {"role": "user", "content": "a"},
    {"role": "assistant", "content": "b"},
    {"role": "user", "content": "c"},
    {"role": "assistant", "content": "d"},
]


def with_system(system: str | None, messages: Messages) -> list[Mapping[str, Any]]:
    """Returns messages with the text of the system before them, where there is one and they have none."""
    if system is None or (messages and messages[0]["role"] == "system"):
        return list(messages)
    return [{"role": "system", "content": system}, *messages]


def exchange(source: str, target: str) -> list[Mapping[str, Any]]:
    """Returns a question and its answer; white space around the answer is left out, as where answers are scored."""
    return [{"role": "user", "content": source}, {"role": "assistant", "content": target.strip()}]


def fitted(chat: Chat, messages: Messages, max_length: int) -> list[Mapping[str, Any]]:
    """Returns a conversation whose prompt for the last turn has at most `max_length` tokens.

    The oldest exchanges go first, the text of the system stays. Where the last question by itself is too long, its text
    loses its end.

    Raises:
        ConfigError: the template and the text of the system alone are longer.
    """
    num_system = int(messages[0]["role"] == "system")
    head, rest = list(messages[:num_system]), list(messages[num_system:])

    def size(these: Messages) -> int:
        return len(chat.ids([chat.text([*head, *these[:-1]], asks=True)])[0])

    while len(rest) > 2 and size(rest) > max_length:
        rest = rest[2:]
    question, answer = rest[0] if len(rest) == 2 else None, rest[-1]
    if question is None:
        return [*head, *rest]
    text = str(question["content"])
    while (excess := size([{**question, "content": text}, answer]) - max_length) > 0:
        if not text:
            raise ConfigError(
                f"training.max_length: must leave room for the chat template and the text of the system, which take "
                f"{max_length + excess} tokens, got {max_length}"
            )
        text = _without_end(chat.tokenizer, text, excess)
    return [*head, {**question, "content": text}, answer]


def _without_end(tokenizer: PreTrainedTokenizerBase, text: str, num_tokens: int) -> str:
    """Returns the text without so many of its last tokens, and shorter than it was."""
    if not tokenizer.is_fast:
        ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return str(tokenizer.decode(ids[: max(0, len(ids) - num_tokens)]))[: len(text) - 1]
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    kept = found["offset_mapping"][: max(0, len(found["input_ids"]) - num_tokens)]
    return text[: min(kept[-1][1], len(text) - 1)] if kept else ""


def _assistant(messages: Messages) -> list[int]:
    return [i for i, message in enumerate(messages) if message["role"] == "assistant"]


def _shown(messages: Messages) -> str:
    text = " | ".join(f"{message['role']}: {message['content']}" for message in messages)
    return repr(text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}...")


def _parting(text: str, whole: str) -> str:
    """Returns both texts from shortly before the place where they part."""
    place = next((i for i, (a, b) in enumerate(zip(text, whole, strict=False)) if a != b), min(len(text), len(whole)))
    start = max(0, place - SHOWN // 2)
    return f"{text[start : place + SHOWN // 2]!r} becomes {whole[start : place + SHOWN // 2]!r}"
