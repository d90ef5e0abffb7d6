"""Packing: several rows in one sequence for a forward pass, without attention across them, instead of padding.

A model sees the rows apart by their positions alone, which begin anew in every row: transformers (5.23,
`masking_utils.find_packed_sequence_indices`) hides from each other what lies on two sides of a place where the
positions do not rise by one, if it is given neither an attention mask nor a cache. That mask is made together with a
family's own, so sliding windows stay. Flash attention reads the rows of one sequence only, so it gets one.

Axes: R rows, T tokens of the longest row, P packed sequences, W tokens of each, S tokens that targets predict,
H hidden, V vocabulary.
"""

from __future__ import annotations

import heapq
from itertools import accumulate
from typing import TYPE_CHECKING, Final

import torch

from cl_mlm.batch import Outputs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cl_mlm.batch import Batch
    from cl_mlm.models.backbone import PlainBackbone

# Decoders (`model_type`) whose packed rows were found to give the loss and the gradient of padded ones.
FAMILIES: Final = (
    "codegen",
    "cohere",
    "gemma",
    "gemma2",
    "gemma3_text",
    "gpt2",
    "gpt_neox",
    "gptj",
    "granite",
    "llama",
    "mistral",
    "olmo",
    "olmo2",
    "phi",
    "phi3",
    "qwen2",
    "qwen3",
    "stablelm",
    "starcoder2",
)


class PackedRows:
    """Where the tokens of padded rows lie in packed sequences.

    Args:
        mask: 1 for a token, 0 for padding on the right, (R, T).
        hidden: width of the model, which decides between many short sequences and few long ones; None: one sequence.

    Attributes:
        shape: P and W.
        place: of every token of (R, T) in the flat sequences, int64; of padding, any.
    """

    def __init__(self, mask: torch.Tensor, hidden: int | None) -> None:
        lengths: list[int] = mask.sum(1).tolist()
        sequences = [[*range(len(lengths))]] if hidden is None else layout(lengths, hidden)
        width = max(sum(lengths[row] for row in rows) for rows in sequences)
        self.shape = (len(sequences), width)
        starts = [0] * len(lengths)
        for number, rows in enumerate(sequences):
            before = accumulate([lengths[row] for row in rows], initial=number * width)
            for row, start in zip(rows, before, strict=False):
                starts[row] = start
        first = torch.tensor(starts, device=mask.device)
        columns = torch.arange(mask.shape[1], device=mask.device)
        self._mask, self._columns = mask.bool(), columns
        self.place = (first[:, None] + columns).masked_fill(~self._mask, 0)

    def inputs(self, token_ids: torch.Tensor) -> dict[str, torch.Tensor]:
        """Returns `input_ids` and `position_ids` of the packed sequences, int64 (P, W), for rows (R, T).

        What fills up a sequence are tokens of position 0 each, which no other token sees. They are no padding tokens:
        of those transformers would warn, as there is no mask.
        """
        packed = token_ids[0, 0].repeat(self.shape[0] * self.shape[1])
        positions = torch.zeros_like(packed)
        places = self.place[self._mask]
        packed[places] = token_ids[self._mask]
        positions[places] = self._columns.expand_as(self.place)[self._mask]
        return {"input_ids": packed.view(self.shape), "position_ids": positions.view(self.shape)}

    def unpacked(self, values: torch.Tensor) -> torch.Tensor:
        """Returns (P, W, H) as padded rows, (R, T, H), 0 where there is no token."""
        return values.flatten(0, 1)[self.place].masked_fill(~self._mask[..., None], 0)


def layout(lengths: Sequence[int], hidden: int) -> list[list[int]]:
    """Returns the rows of every packed sequence, in order: as many sequences as cost least.

    A token costs 24 H^2 operations a layer in its matrices and 4 W H in attention, so P sequences cost in proportion to
    P W (1 + W / 6 H). A sequence for each row, which is padding, is among the choices.

    Args:
        lengths: tokens of every row.
        hidden: H, the width of the model.
    """
    numbers = dict.fromkeys(-(-len(lengths) // rows) for rows in range(1, len(lengths) + 1))

    def cost(sequences: list[list[int]]) -> float:
        width = max(sum(lengths[row] for row in rows) for rows in sequences)
        return len(sequences) * width * (1 + width / (6 * hidden))

    return min((balanced(lengths, number) for number in numbers), key=cost)


def balanced(lengths: Sequence[int], number: int) -> list[list[int]]:
    """Returns `number` sequences of rows of about as many tokens: each row, the longest first, joins the shortest.

    Graham (1969), Bounds on Multiprocessing Timing Anomalies: the longest is at most 4/3 of what it could be.
    """
    sequences: list[list[int]] = [[] for _ in range(number)]
    filled = [(0, place) for place in range(number)]
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        tokens, place = heapq.heappop(filled)
        sequences[place].append(row)
        heapq.heappush(filled, (tokens + lengths[row], place))
    return sequences


def forward_packed(backbone: PlainBackbone, batch: Batch, is_predicted: torch.Tensor) -> Outputs:
    """Returns the logits of the tokens that a batch's targets predict, (S, V), row by row; the rows run packed.

    The batch keeps its padded form, and so its rows their names, weights and losses. The head computes no logits that
    nothing is compared with.

    Args:
        backbone: of a decoder of one of FAMILIES.
        batch: of rows.
        is_predicted: the positions whose logits are compared with a target, bool (R, T).
    """
    attention = str(backbone.model.config._attn_implementation or "")
    is_flash = attention.startswith("flash")
    rows = PackedRows(batch.inputs["attention_mask"], None if is_flash else backbone.head.in_features)
    predicted = rows.place[is_predicted]
    kept: list[torch.Tensor] = []

    def choose(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        kept.append(inputs[0])
        return (inputs[0].flatten(0, 1)[predicted],)

    handle = backbone.head.register_forward_pre_hook(choose)
    try:
        output = backbone.model(**rows.inputs(batch.inputs["input_ids"]), use_cache=False)
    finally:
        handle.remove()
    backbone.forget_head_input()
    return Outputs(output.logits, lambda: rows.unpacked(kept[0]))
