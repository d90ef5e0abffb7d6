"""Texts joined and cut into blocks of equal length, the usual form of pre-training: no padding, no text cut off.

Every text is followed by an end token. A block begins wherever the one before it ended, also within a text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

from cl_mlm.objective import Encoded

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from transformers import PreTrainedTokenizerBase


def packed(
    chunks: Iterable[Sequence[str]], tokenizer: PreTrainedTokenizerBase, end: int, size: int
) -> Iterator[Encoded]:
    """Yields the blocks of all texts, some with each chunk; only the last block of all may be shorter than `size`.

    Columns: `input_ids`, the block's tokens; `before`, the token before the block, for the first the end token;
    `num_bytes`, the UTF-8 bytes that its tokens stand for: a token's own and those between it and the token before.
    Over all blocks they are the bytes of all texts.

    Args:
        chunks: texts, in order; memory holds one chunk and less than a block more.
        tokenizer: the model's; its special tokens are left out.
        end: the token after every text.
        size: tokens of a block.
    """
    import numpy as np

    rest, rest_bytes, before = np.zeros(0, dtype=np.int64), 0, end
    for texts in chunks:
        joined = _join(texts, tokenizer, end)
        tokens = np.concatenate([rest, joined.tokens])
        num_blocks = len(tokens) // size
        cuts = size * np.arange(1, num_blocks + 1)
        # Counted from where this chunk begins, before which lie the bytes of the rest.
        until = np.array([-rest_bytes, *(joined.bytes_before(cut) for cut in (cuts - len(rest)).tolist())])
        if num_blocks:
            firsts = [before, *tokens[cuts[:-1] - 1].tolist()]
            blocks = tokens[: cuts[-1]].reshape(num_blocks, size)
            yield {"input_ids": blocks.tolist(), "before": firsts, "num_bytes": np.diff(until).tolist()}
            before = int(tokens[cuts[-1] - 1])
        rest = tokens[num_blocks * size :].copy()
        rest_bytes = int(joined.bytes[-1] - until[-1])
    if len(rest):
        yield {"input_ids": [rest.tolist()], "before": [before], "num_bytes": [rest_bytes]}


@dataclass(frozen=True)
class _Joined:
    """Texts one after the other, D of them.

    Attributes:
        tokens: of all, each text's end token with it, int64.
        starts: where every text begins in `tokens`, and where the last ends, (D + 1,).
        bytes: UTF-8 bytes before every text, and of all, (D + 1,).
        encodings: where the tokens lie in their text; None: the tokenizer does not tell.
    """

    texts: Sequence[str]
    tokens: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]
    bytes: npt.NDArray[np.int64]
    encodings: Sequence[Any]

    def bytes_before(self, cut: int) -> int:
        """Returns the bytes that the tokens before the `cut`-th stand for; of a slow tokenizer's, even shares."""
        import numpy as np

        index = int(np.searchsorted(self.starts, cut, side="right")) - 1
        number, base = cut - int(self.starts[index]), int(self.bytes[index])
        if number == 0:
            return base
        text, encoding = self.texts[index], self.encodings[index]
        if encoding is None:
            size = int(self.bytes[index + 1]) - base
            return base + size * number // int(self.starts[index + 1] - self.starts[index])
        # A special token that stands in the text as such has no place there.
        places = (encoding.token_to_chars(i) for i in range(number - 1, -1, -1))
        stop = next((place[1] for place in places if place is not None), 0)
        return base + len(text[:stop].encode())


def _join(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, end: int) -> _Joined:
    import numpy as np

    found = tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False, verbose=False)
    ids: list[list[int]] = found["input_ids"]
    lengths = np.fromiter(map(len, ids), dtype=np.int64, count=len(ids)) + 1
    tokens = np.fromiter(chain.from_iterable((*own, end) for own in ids), dtype=np.int64, count=int(lengths.sum()))
    sizes = [len(text.encode()) for text in texts]
    starts, total = (np.concatenate([[0], np.cumsum(values)]) for values in (lengths, sizes))
    return _Joined(texts, tokens, starts, total, found.encodings or [None] * len(ids))
