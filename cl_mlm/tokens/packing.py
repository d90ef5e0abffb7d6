"""Packing: joins texts and cuts them into blocks of equal length, the usual form of pre-training; nothing is padded.

Every text is followed by an end token. A block begins where the one before it ended, also within a text. Only packing
trains on rows that do not exist in the stream; hygiene and fingerprints stay with the rows of the stream.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import numpy.typing as npt
    from transformers import PreTrainedTokenizerBase

    from cl_mlm.objective import Encoded


def packed(
    chunks: Iterable[Sequence[str]], tokenizer: PreTrainedTokenizerBase, end: int, size: int
) -> Iterator[Encoded]:
    """Yields the blocks of all texts, several at a time; only the very last block may be shorter than `size`.

    Columns: `input_ids`, the tokens of the block; `before`, the token before the block (the end token before the first
    block); `num_bytes`, the UTF-8 bytes from the end of the token before the block to the end of the block, so that the
    sum over all blocks is the size of all texts.

    Args:
        chunks: texts, in order; memory holds one chunk and less than one block more.
        tokenizer: the model's; it adds no special tokens here.
        end: token put after every text.
        size: tokens of a block.
    """
    rest, rest_bytes, before = np.zeros(0, dtype=np.int64), 0, end
    for texts in chunks:
        joined = _join(texts, tokenizer, end)
        tokens = np.concatenate([rest, joined.tokens])
        num_blocks = len(tokens) // size
        cuts = size * np.arange(1, num_blocks + 1)
        # Bytes are counted from the start of this chunk; those of the rest lie before it.
        until = np.array([-rest_bytes, *(joined.bytes_before(cut) for cut in (cuts - len(rest)).tolist())])
        if num_blocks:
            tokens_before = [before, *tokens[cuts[:-1] - 1].tolist()]
            blocks = tokens[: cuts[-1]].reshape(num_blocks, size)
            yield {"input_ids": blocks.tolist(), "before": tokens_before, "num_bytes": np.diff(until).tolist()}
            before = int(tokens[cuts[-1] - 1])
        rest = tokens[num_blocks * size :].copy()
        rest_bytes = int(joined.byte_starts[-1] - until[-1])
    if len(rest):
        yield {"input_ids": [rest.tolist()], "before": [before], "num_bytes": [rest_bytes]}


@dataclass(frozen=True)
class _Joined:
    """D texts one after the other.

    Attributes:
        texts: the texts.
        tokens: of all texts, an end token after each, int64.
        token_starts: place in `tokens` of every text's first token, and the number of all tokens, (D + 1,).
        byte_starts: UTF-8 bytes before every text, and of all texts, (D + 1,).
        encodings: of every text, which gives a token's place in the text; None: the tokenizer (a slow one) has none.
    """

    texts: Sequence[str]
    tokens: npt.NDArray[np.int64]
    token_starts: npt.NDArray[np.int64]
    byte_starts: npt.NDArray[np.int64]
    encodings: Sequence[Any]

    def bytes_before(self, cut: int) -> int:
        """Returns the bytes up to the end of the first `cut` tokens.

        With a slow tokenizer, which gives no places, all tokens of a text count as equally long.
        """
        index = int(np.searchsorted(self.token_starts, cut, side="right")) - 1
        num_tokens, base = cut - int(self.token_starts[index]), int(self.byte_starts[index])
        if num_tokens == 0:
            return base
        text, encoding = self.texts[index], self.encodings[index]
        if encoding is None:
            num_bytes = int(self.byte_starts[index + 1]) - base
            return base + num_bytes * num_tokens // int(self.token_starts[index + 1] - self.token_starts[index])
        # A special token that the text spells out has no place; the last token before it that has one counts.
        places = (encoding.token_to_chars(i) for i in range(num_tokens - 1, -1, -1))
        stop = next((place[1] for place in places if place is not None), 0)
        return base + len(text[:stop].encode())


def _join(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, end: int) -> _Joined:
    encoded = tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False, verbose=False)
    ids: list[list[int]] = encoded["input_ids"]
    lengths = np.fromiter(map(len, ids), dtype=np.int64, count=len(ids)) + 1
    tokens = np.fromiter(chain.from_iterable((*row, end) for row in ids), dtype=np.int64, count=int(lengths.sum()))
    sizes = [len(text.encode()) for text in texts]
    token_starts, byte_starts = (np.concatenate([[0], np.cumsum(values)]) for values in (lengths, sizes))
    return _Joined(texts, tokens, token_starts, byte_starts, encoded.encodings or [None] * len(ids))
