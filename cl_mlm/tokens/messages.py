"""What is wrong with the messages of a conversation, told by kind with the first row that has it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

ROLES = ("system", "user", "assistant")


def message_faults(conversations: Sequence[Any], where: str) -> list[str]:
    """Returns one line for each kind of fault of conversations, with the first row and the number of such rows."""
    first: dict[str, tuple[int, str]] = {}
    count: dict[str, int] = {}
    for row, messages in enumerate(conversations):
        found = _fault(messages)
        if found is not None:
            rule, got = found
            first.setdefault(rule, (row, got))
            count[rule] = count.get(rule, 0) + 1
    return [
        f"{where}: messages {rule}, got {got} in row {row} ({count[rule]} such rows)"
        for rule, (row, got) in first.items()
    ]


def _fault(messages: Any) -> tuple[str, str] | None:  # noqa: PLR0911 - one return a rule
    """Returns the first rule that a conversation breaks, and what it has instead; None: it is sound."""
    if not isinstance(messages, list) or not messages or not all(_is_message(message) for message in messages):
        return "must be a list of {role, content}, both of them texts", _short(messages)
    roles = [message["role"] for message in messages]
    unknown = next((role for role in roles if role not in ROLES), None)
    if unknown is not None:
        return f"must have only the roles {', '.join(ROLES)}", repr(unknown)
    if "system" in roles[1:]:
        return "must have the role system once, first", _listed(roles)
    turns = roles[1:] if roles[0] == "system" else roles
    if turns != [ROLES[1 + i % 2] for i in range(len(turns))]:
        return "must have user and assistant in turns, the user first", _listed(roles)
    if not turns or turns[-1] != "assistant":
        return "must end with the assistant, whose turn is learned", _listed(roles)
    empty = next((i for i, message in enumerate(messages) if not message["content"].strip()), None)
    if empty is not None:
        return (
            f"must have no turn of the {roles[empty]} without text",
            f"{messages[empty]['content']!r} as turn {empty}",
        )
    weights = [message.get("weight") for message in messages]
    if any(weight not in (None, 0, 1) for weight in weights):
        return "must have no weight but 0 and 1", _listed(weights)
    if weights[-1] == 0:
        return "must end with a turn that is learned, not with weight 0", _listed(weights)
    return None


def _is_message(message: Any) -> bool:
    return isinstance(message, dict) and all(isinstance(message.get(name), str) for name in ("role", "content"))


def _listed(values: Sequence[Any]) -> str:
    return ", ".join(str(value) for value in values[:8]) + (" ..." if len(values) > 8 else "")


def _short(value: Any, most: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= most else f"{text[: most - 3]}..."
