"""The answers of a closed list as a trie of tokens: which token may come next, and which answer is left."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class AnswerTrie:
    """Answers by their tokens. Node 0 is the root; an answer may be the beginning of another, as all have an end.

    Args:
        answers: tokens of every answer, the end token included; no two are equal.

    Attributes:
        next: of every node, the tokens that may follow and the nodes that they lead to, in the order of the tokens.
        only: of every node, the place of the one answer that is left there; None: there are several.
    """

    def __init__(self, answers: Sequence[Sequence[int]]) -> None:
        self.answers = [tuple(tokens) for tokens in answers]
        self.next: list[dict[int, int]] = [{}]
        below: list[list[int]] = [[*range(len(self.answers))]]
        for place, tokens in enumerate(self.answers):
            node = 0
            for token in tokens:
                if token not in self.next[node]:
                    self.next[node][token] = len(self.next)
                    self.next.append({})
                    below.append([])
                node = self.next[node][token]
                below[node].append(place)
        # The first of equally likely tokens is the one with the lower number, as where any may be written.
        self.next = [dict(sorted(tokens.items())) for tokens in self.next]
        self.only = [places[0] if len(places) == 1 else None for places in below]

    def place_of(self, tokens: Sequence[int]) -> int | None:
        """Returns the place of the answer that these tokens are; None: they are none."""
        node: int | None = 0
        for token in tokens:
            node = None if node is None else self.next[node].get(token)
        return None if node is None or self.next[node] else self.only[node]

    def tokens_after(self, tokens: Sequence[int]) -> list[int]:
        """Returns the tokens that continue an answer after these; `[]`: they are a whole answer, or none."""
        node = 0
        for token in tokens:
            if token not in self.next[node]:
                return []
            node = self.next[node][token]
        return [*self.next[node]]
