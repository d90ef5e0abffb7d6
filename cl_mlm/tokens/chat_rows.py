"""Rows that are conversations, as tokens: the prompt for the last turn, that turn, and which other tokens count."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cl_mlm.tokens.chat import fitted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cl_mlm.objective import Encoded
    from cl_mlm.tokens.chat import Chat, Messages


def encode_conversations(
    chat: Chat, conversations: Sequence[Messages], max_length: int, target_limit: int, *, all_turns: bool = False
) -> Encoded:
    """Returns `input_ids` (up to the last turn), `target_ids` (that turn), and with `all_turns` `counted`.

    Args:
        chat: how conversations are written.
        conversations: each ends with the assistant.
        max_length: tokens of a prompt at most; longer ones lose their oldest exchanges, then the question its end.
        target_limit: tokens of the last turn at most; one that is cut keeps its end token.
        all_turns: whether `counted` tells the tokens of the assistant's earlier turns, but those of `weight` 0.

    Raises:
        ConfigError, DataError: see `fitted` and `Chat.turns`.
    """
    kept = list(conversations)
    turns = chat.turns(kept)
    long = [i for i, found in enumerate(turns) if found.spans[-1][0] > max_length]
    for i in long:
        kept[i] = fitted(chat, kept[i], max_length)
    for i, found in zip(long, chat.turns([kept[i] for i in long]), strict=True):
        turns[i] = found
    prompts, targets, counted = [], [], []
    for messages, found in zip(kept, turns, strict=True):
        start, end = found.spans[-1]
        prompts.append(found.ids[:start])
        targets.append([*found.ids[start : end - 1][: target_limit - 1], found.ids[end - 1]])
        weights = [message.get("weight") for message in messages if message["role"] == "assistant"]
        mark = [0] * start
        for (first, last), weight in zip(found.spans[:-1], weights, strict=False):
            if weight != 0:
                mark[first:last] = [1] * (last - first)
        counted.append(mark)
    encoded: Encoded = {"input_ids": prompts, "target_ids": targets}
    return {**encoded, "counted": counted} if all_turns else encoded
