"""How far a language model has moved from its base: KL(base || present), token by token.

KL(p || q) = sum_v p(v) (log p(v) - log q(v)), in nats, of the distributions p of the base model and q of the present
one over the next token, both given the true tokens before it; the mean over all tokens that are predicted. This
direction, on the new task, is the one that forgetting follows in Shenfeld, Pari & Agrawal (2025), RL's Razor: Why
Online Reinforcement Learning Forgets Less, arXiv:2509.04259. It is taken here on reference answers, which both models
read; nothing is sampled.

Axes: R rows, T tokens, S tokens to be predicted, V vocabulary.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from cl_mlm.batch import Batch
from cl_mlm.models.finetuning import LEAVES_BASE, without_adapters
from cl_mlm.models.modes import evaluation_mode
from cl_mlm.models.positions import position_limits
from cl_mlm.tokens.logits import NO_TARGET, token_sites
from cl_mlm.tokens.text_rows import padded, padding
from cl_mlm.training.evaluation import scoring

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    import numpy.typing as npt

    from cl_mlm.batch import Outputs
    from cl_mlm.models.backbone import Backbone
    from cl_mlm.training.run import Run

    Forward = Callable[[Batch], Outputs]

# Numbers of one model's logits that are held at once at most (a row at least): 128 MiB in fp32.
MOST_LOGITS = 1 << 25


@contextmanager
def base_of(run: Run, load_base: Callable[[], Backbone]) -> Iterator[Forward]:
    """Gives the forward pass of the model as it was before any training, in the run's precision.

    Where the mode of fine-tuning leaves the weights of the base alone, its adapters are left out of the run's own
    model; otherwise the base is loaded beside it for the time of the block. No strategy touches it.

    Args:
        run: whose base.
        load_base: loads it.
    """
    if run.config.finetuning.mode in LEAVES_BASE:

        def forward(batch: Batch) -> Outputs:
            with without_adapters(run.network.backbone.model):
                return run.network.forward(batch)

        yield forward
        return
    backbone = load_base()
    torch.nn.Module.to(backbone.model, run.network.device)
    backbone.model.eval()

    def of_base(batch: Batch) -> Outputs:
        with run.network.autocast():
            return backbone.forward(batch)

    yield of_base


def column_divergence(run: Run, base: Forward, columns: Sequence[int], split: str, max_rows: int | None) -> float:
    """Returns the divergence over the target tokens of rows of these columns; NaN where there are none.

    Args:
        run: the present model.
        base: forward pass of the base model.
        columns: their indices.
        split: of the rows.
        max_rows: rows of a column at most, at even spacing; None: all.
    """
    ids = [_spaced(run.data.ids(j, split), max_rows) for j in columns]
    if not ids or not sum(map(len, ids)):
        return float("nan")
    return _divergence(run, base, _row_batches(run, np.concatenate(ids), split), columns)


def text_divergence(run: Run, base: Forward, text: str, max_blocks: int | None) -> float:
    """Returns the divergence of a decoder over a text, cut into blocks as long as rows may be.

    The first token of a block is not predicted. NaN where the text has fewer than two tokens.

    Args:
        run: the present model.
        base: forward pass of the base model.
        text: held out.
        max_blocks: at most, at even spacing; None: all.
    """
    tokenizer = run.network.tokenizer
    limit = position_limits(run.network.backbone.task_model(run.tasks.keys[0]).model).input
    length = min(run.config.training.row_length, limit or run.config.training.row_length)
    tokens = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    blocks = [tokens[start : start + length] for start in range(0, len(tokens), length)]
    blocks = [block for block in blocks if len(block) > 1]
    if not blocks:
        return float("nan")
    chosen = [blocks[i] for i in _spaced(np.arange(len(blocks)), max_blocks).tolist()]
    return _divergence(run, base, _block_batches(run, chosen), ())


def _divergence(run: Run, base: Forward, batches: Iterable[Batch], columns: Sequence[int]) -> float:
    total, count = 0.0, 0
    with evaluation_mode(run.network.model), scoring(run, columns):
        for batch in batches:
            logits = token_sites(run.network.forward(batch), batch).logits
            total += summed_kl(token_sites(base(batch), batch).logits, logits)
            count += len(logits)
    return total / count


def summed_kl(base: torch.Tensor, present: torch.Tensor) -> float:
    """Returns the sum over tokens of KL(base || present) in nats, from logits, (S, V) each; a few tokens at a time."""
    total = torch.zeros((), dtype=torch.float64, device=present.device)
    size = max(1, MOST_LOGITS // 16 // present.shape[1])
    for start in range(0, len(present), size):
        log_p, log_q = (logits[start : start + size].log_softmax(-1) for logits in (base, present))
        total += (log_p.exp() * (log_p - log_q)).sum(-1).double().sum()
    return float(total)


def _spaced(values: npt.NDArray[Any], most: int | None) -> npt.NDArray[Any]:
    """Returns at most so many of the values, at even spacing."""
    if most is None or len(values) <= most:
        return values
    chosen: npt.NDArray[Any] = values[np.arange(most) * len(values) // most]
    return chosen


def _rows_at_once(run: Run, length: int) -> int:
    vocabulary = run.network.backbone.task_model(run.tasks.keys[0]).head.out_features
    return max(1, min(run.config.evaluation.batch_size, MOST_LOGITS // (length * vocabulary)))


def _row_batches(run: Run, ids: npt.NDArray[np.int64], split: str) -> Iterator[Batch]:
    longest = int(run.data.lengths(ids, split).max())
    for _, batch in run.data.batches(ids, _rows_at_once(run, longest), split):
        yield batch


def _block_batches(run: Run, blocks: Sequence[Sequence[int]]) -> Iterator[Batch]:
    size = _rows_at_once(run, max(map(len, blocks)))
    for start in range(0, len(blocks), size):
        rows = blocks[start : start + size]
        targets = [[*block[1:], NO_TARGET] for block in rows]
        fills = {"input_ids": padding(run.network.tokenizer), "targets": NO_TARGET}
        tensors, mask = padded({"input_ids": rows, "targets": targets}, fills)
        count = torch.tensor([len(block) - 1.0 for block in rows])
        of_targets = tensors.pop("targets")
        inputs = {**tensors, "attention_mask": mask}
        batch = Batch(inputs, of_targets, torch.arange(len(rows)), count, split="test", task=run.tasks.keys[0])
        yield batch.to(run.network.device)
