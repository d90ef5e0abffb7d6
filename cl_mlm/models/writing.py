"""Writing token by token with a cache of keys and values that rows leave when they have ended.

Axes: R rows that are still written, T tokens that the cache holds, V vocabulary.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers import DynamicCache, EncoderDecoderCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer
from transformers.generation.utils import GenerationMixin
from transformers.modeling_outputs import BaseModelOutput

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cl_mlm.models.answer_trie import AnswerTrie


@dataclass
class Writing:
    """Rows that are being written.

    Attributes:
        model: that writes.
        logits: of the next token of every row, (R, V).
        cache: keys and values of every row.
        mask: which tokens are no padding: of the cache, (R, T), or of an encoder's input.
        encoded: what the encoder gave, (R, tokens, hidden); None: the model is a decoder.
        takes_positions: whether the model is told the positions of tokens.
    """

    model: Any
    logits: torch.Tensor
    cache: Any
    mask: torch.Tensor
    encoded: torch.Tensor | None
    takes_positions: bool

    def keep(self, rows: list[int]) -> None:
        """Lets all other rows leave; `rows` are places among the present ones."""
        kept = torch.tensor(rows, device=self.mask.device)
        self.cache.batch_select_indices(kept)
        self.mask = self.mask[kept]
        if self.encoded is not None:
            self.encoded = self.encoded[kept]

    def step(self, tokens: torch.Tensor) -> None:
        """Reads the tokens that have been written, int64 (R,), for the logits of the next ones."""
        if self.encoded is not None:
            output = self.model(
                encoder_outputs=BaseModelOutput(last_hidden_state=self.encoded),
                attention_mask=self.mask,
                decoder_input_ids=tokens[:, None],
                past_key_values=self.cache,
                use_cache=True,
            )
        else:
            more = {"position_ids": self.mask.sum(1, keepdim=True)} if self.takes_positions else {}
            self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.mask), 1)], 1)
            output = self.model(
                input_ids=tokens[:, None],
                attention_mask=self.mask,
                past_key_values=self.cache,
                use_cache=True,
                **more,
            )
        self.logits, self.cache = output.logits[:, -1], output.past_key_values


def begin(model: Any, inputs: Mapping[str, torch.Tensor], decoder_start: int | None) -> Writing | None:
    """Returns rows whose inputs have been read; None: the model's rows cannot leave a batch.

    A model may put virtual tokens of its own in front of what it reads (soft prompts, prefixes): its cache, or what its
    encoder gives, is then longer than the input, and the mask is made as long.

    Args:
        model: in evaluation mode.
        inputs: `input_ids` and `attention_mask`, (R, T); those of a decoder are padded on the left.
        decoder_start: first token of an encoder-decoder's decoder; None: the model is a decoder.
    """
    common: Any = GenerationMixin
    usual = type(model).prepare_inputs_for_generation is common.prepare_inputs_for_generation
    if not usual or getattr(model, "_is_stateful", False):
        return None
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    accepted = inspect.signature(model.forward).parameters
    takes_positions = "position_ids" in accepted
    if decoder_start is not None:
        first = ids.new_full((len(ids), 1), decoder_start)
        output = model(input_ids=ids, attention_mask=mask, decoder_input_ids=first, use_cache=True)
        encoded: torch.Tensor | None = output.encoder_last_hidden_state
    else:
        more: dict[str, Any] = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}
        if takes_positions:
            more["position_ids"] = (mask.cumsum(1) - 1).clamp_min(0)
        output, encoded = model(input_ids=ids, attention_mask=mask, use_cache=True, **more), None
    cache = output.past_key_values
    if not _rows_can_leave(cache):
        return None
    length = cache.get_seq_length() if encoded is None else encoded.shape[1]
    mask = torch.cat([mask.new_ones(len(mask), length - mask.shape[1]), mask], 1)
    return Writing(model, output.logits[:, -1], cache, mask, encoded, takes_positions)


def write(writing: Writing, max_new_tokens: int, end: int, answers: AnswerTrie | None = None) -> list[list[int]]:
    """Returns the tokens of every row up to the end token, which is included, or `max_new_tokens` of them.

    Args:
        writing: rows whose inputs have been read; mutated.
        max_new_tokens: at least 1.
        end: the end token.
        answers: as for `generate_tokens`.
    """
    written: list[list[int]] = [[] for _ in range(len(writing.mask))]
    rows, nodes = [*range(len(written))], [0] * len(written)
    while True:
        tokens = writing.logits.float().argmax(-1) if answers is None else _allowed(writing.logits, nodes, answers)
        going = []
        for i, token in enumerate(tokens.tolist()):
            row = written[rows[i]]
            row.append(token)
            ended = token == end
            if answers is not None:
                nodes[i] = answers.next[nodes[i]][token]
                only = answers.only[nodes[i]]
                if only is not None:
                    row[:], ended = answers.answers[only], True
            if not ended and len(row) < max_new_tokens:
                going.append(i)
        if not going:
            return written
        if len(going) < len(rows):
            rows, nodes = [rows[i] for i in going], [nodes[i] for i in going]
            writing.keep(going)
            tokens = tokens[torch.tensor(going, device=tokens.device)]
        writing.step(tokens)


def _allowed(logits: torch.Tensor, nodes: list[int], answers: AnswerTrie) -> torch.Tensor:
    """Returns of every row the likeliest token that continues an answer, int64 (R,)."""
    choices = [[*answers.next[node]] for node in nodes]
    width = max(map(len, choices))
    table = torch.tensor([row + [row[0]] * (width - len(row)) for row in choices], device=logits.device)
    best = logits.float().gather(1, table).argmax(1, keepdim=True)
    return table.gather(1, best)[:, 0]


def _rows_can_leave(cache: Any) -> bool:
    """Whether rows of a cache are independent tensors of keys and values, and nothing else."""
    if type(cache) is EncoderDecoderCache:
        return _rows_can_leave(cache.self_attention_cache) and _rows_can_leave(cache.cross_attention_cache)
    return type(cache) is DynamicCache and all(
        type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers
    )
