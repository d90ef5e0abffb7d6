"""Batches of rows with a text to write: a decoder's prompt and target in one sequence, or source and shifted target.

Axes: R rows, T tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cl_mlm.batch import Batch
from cl_mlm.tokens.logits import NO_TARGET
from cl_mlm.tokens.text_rows import padded

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch


def decoder_batch(
    prompts: Sequence[list[int]],
    targets: Sequence[list[int]],
    ids: torch.Tensor,
    pad: int,
    counted: Sequence[Sequence[int]] | None = None,
) -> Batch:
    """Returns prompts followed by targets; the token before each target token is the one that predicts it.

    Args:
        prompts: tokens of every row before its target.
        targets: tokens of every row's target.
        ids: of the rows.
        pad: the padding token.
        counted: of every row and token of its prompt 1 where that token is a loss item, too; None: none is.
    """
    texts = [prompt + target for prompt, target in zip(prompts, targets, strict=True)]
    marks = counted if counted is not None else [[0] * len(prompt) for prompt in prompts]
    predicted = []
    for prompt, target, mark in zip(prompts, targets, marks, strict=True):
        counts = [token if is_counted else NO_TARGET for token, is_counted in zip(prompt, mark, strict=True)]
        predicted.append([*counts[1:], *target, NO_TARGET])
    inputs, mask = padded({"input_ids": texts, "targets": predicted}, {"input_ids": pad, "targets": NO_TARGET})
    padded_targets = inputs.pop("targets")
    count = (padded_targets != NO_TARGET).sum(1).float()
    return Batch({**inputs, "attention_mask": mask}, padded_targets, ids, count, num_tokens=int(mask.sum()))


def encoder_decoder_batch(
    encoded: Mapping[str, Sequence[Any]],
    targets: Sequence[list[int]],
    ids: torch.Tensor,
    pad: int,
    decoder_start: int,
) -> Batch:
    """Returns sources for the encoder, and targets shifted right by one token for the decoder."""
    inputs, mask = padded(encoded, {"input_ids": pad})
    shifted = [[decoder_start, *target[:-1]] for target in targets]
    decoder, _ = padded({"input_ids": shifted, "targets": targets}, {"input_ids": pad, "targets": NO_TARGET})
    inputs |= {"attention_mask": mask, "decoder_input_ids": decoder["input_ids"]}
    count = (decoder["targets"] != NO_TARGET).sum(1).float()
    return Batch(inputs, decoder["targets"], ids, count, num_tokens=int(mask.sum() + count.sum()))


def left_padded_prompts(batch: Batch, pad: int) -> dict[str, torch.Tensor]:
    """Returns `input_ids` and `attention_mask` of a decoder's prompts, padded on the left.

    A prompt is what stands before the last stretch of targets.
    """
    import torch

    # The last token of a prompt is the one that predicts the first token of the target.
    is_target = batch.targets != NO_TARGET
    begins = is_target.clone()
    begins[:, 1:] &= ~is_target[:, :-1]
    lengths = begins.shape[1] - begins.flip(1).int().argmax(1)
    width = int(lengths.max())
    places = torch.arange(width, device=batch.device)[None] - (width - lengths)[:, None]
    mask = places >= 0
    ids = batch.inputs["input_ids"].gather(1, places.clamp_min(0)).masked_fill(~mask, pad)
    return {"input_ids": ids, "attention_mask": mask.long()}
