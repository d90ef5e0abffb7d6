"""Caches the output of a frozen body for every row, so that training and evaluation run the head alone.

Axes: R rows, T tokens, H hidden, N rows of a table.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from cl_mlm.errors import ConfigError
from cl_mlm.models.modes import evaluation_mode
from cl_mlm.stream import unpack_row_ids

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from cl_mlm.batch import Batch
    from cl_mlm.models.backbone import Backbone
    from cl_mlm.training.run_data import RunData

    Precision = Callable[[], AbstractContextManager[None]]

PROBED_ROWS = 8
log = logging.getLogger(__name__)


class FrozenFeatures:
    """Stands in for the frozen body of a model.

    What the head reads of the body's output is found, not named: the gradient of the logits tells which fields it
    reads and, of a field over tokens, which position. One vector a row of each such field is kept; where the head reads
    several positions of a row there is nothing to gain, and `find` gives None.

    Tables lie on the model's device: rows * hidden size * bytes of a number, for every split that is used.
    """

    def __init__(
        self,
        backbone: Backbone,
        precision: Precision,
        data: RunData,
        batch_size: int,
        kind: type[Any],
        fields: dict[str, bool],
        reads_first: bool,
    ) -> None:
        self._backbone, self._precision, self._data, self._batch_size = backbone, precision, data, batch_size
        self._kind, self._fields, self._reads_first = kind, fields, reads_first
        self._tables: dict[tuple[str, int], dict[str, torch.Tensor]] = {}
        self._served: dict[str, torch.Tensor] | None = None
        self._num_tokens = 0

    @classmethod
    def find(
        cls, backbone: Backbone, precision: Precision, data: RunData, batch_size: int, batch: Batch
    ) -> FrozenFeatures | None:
        """Returns the stand-in for the body of a model, in place; None where its head reads whole sequences.

        Args:
            backbone: with a frozen body.
            precision: returns a context in which the model runs in the run's precision.
            data: where rows are read when a table is made.
            batch_size: of the passes that make a table.
            batch: rows on which the head is watched.
        """
        with _probing(backbone.model):
            # Made anew: tensors made in inference mode could take no part in a backward pass.
            rows = data.rows(batch.ids.numpy()[:PROBED_ROWS], batch.split)
            output, gradients = _read_fields(backbone, precision, rows)
        if output is None or not gradients:
            log.warning("finetuning.cache_features: the output of this model's body cannot be kept; it runs every time")
            return None
        single = {name: gradient.dim() == 2 for name, gradient in gradients.items()}
        if any(int(_positions(gradients[name]).sum(-1).max()) > 1 for name, is_row in single.items() if not is_row):
            log.warning(
                "finetuning.cache_features: the head of this model reads whole sequences; the body runs every time"
            )
            return None
        over_tokens = [_positions(gradients[name]) for name, is_row in single.items() if not is_row]
        reads_first = all(not bool(reads[:, 1:].any()) for reads in over_tokens)
        made = cls(backbone, precision, data, batch_size, type(output), single, reads_first)
        made._stand_in()
        return made

    @contextmanager
    def serving(self, batch: Batch) -> Iterator[None]:
        """Within the block the model's body gives what was kept for the rows of `batch`."""
        self._served, self._num_tokens = self._gather(batch), batch.inputs["input_ids"].shape[-1]
        try:
            yield
        finally:
            self._served = None

    def _gather(self, batch: Batch) -> dict[str, torch.Tensor]:
        stages, positions = unpack_row_ids(batch.ids.numpy())
        present = np.unique(stages).tolist()
        if len(present) == 1:
            where = torch.from_numpy(positions)
            return {name: table[where] for name, table in self._table(batch.split, present[0]).items()}
        parts = [self._table(batch.split, stage) for stage in stages.tolist()]
        return {
            name: torch.stack([part[name][i] for part, i in zip(parts, positions.tolist(), strict=True)])
            for name in self._fields
        }

    def _table(self, split: str, stage_index: int) -> dict[str, torch.Tensor]:
        """Returns one vector for every row of a stage's split, (N, H) of each field; computed when first asked for."""
        if (split, stage_index) not in self._tables:
            self._tables[split, stage_index] = self._compute(split, stage_index)
        return self._tables[split, stage_index]

    def _compute(self, split: str, stage_index: int) -> dict[str, torch.Tensor]:
        ids = self._data.ids(stage_index, split)
        table: dict[str, torch.Tensor] = {}
        served, self._served = self._served, None
        with _probing(self._backbone.model):
            # On a processor larger batches than those of training gain nothing; measured.
            for positions, batch in self._data.batches(ids, self._batch_size, split):
                output, gradients = _read_fields(self._backbone, self._precision, batch)
                for name, is_row in self._fields.items():
                    values = output[name]
                    if not is_row:
                        read = self._read_positions(gradients.get(name), values)
                        values = values[torch.arange(len(values), device=values.device), read]
                    if name not in table:
                        table[name] = values.new_empty(len(ids), values.shape[-1])
                    table[name][torch.from_numpy(positions)] = values.detach()
        self._served = served
        return table

    def _read_positions(self, gradient: torch.Tensor | None, values: torch.Tensor) -> torch.Tensor:
        """Returns the position that the head reads in every row of (R, T, H), int64 (R,); `gradient` None: all zero.

        Where no unit of a head such as DistilBERT's is active for a row, the gradient does not tell the position. It is
        then the first one, if the head has been seen to read that.

        Raises:
            ConfigError: it has been seen to read another.
        """
        reads = values.new_zeros(values.shape[:2], dtype=torch.bool) if gradient is None else _positions(gradient)
        if not self._reads_first and not reads.any(-1).all():
            raise ConfigError(
                "finetuning.cache_features: must be false for this model, whose head passes nothing on for some rows, "
                "got true"
            )
        return reads.int().argmax(-1)

    def _stand_in(self) -> None:
        """Lets the body's `forward` give kept vectors while some are served."""
        body: Any = self._backbone.model.base_model
        original, features = body.forward, self

        def forward(*arguments: Any, **named: Any) -> Any:
            served = features._served
            if served is None:
                return original(*arguments, **named)
            return _output(features._kind, served, features._num_tokens)

        body.forward = forward


@contextmanager
def _probing(model: torch.nn.Module) -> Iterator[None]:
    """Leaves the model in evaluation mode and gradients on, whatever surrounds it; modes are restored."""
    # Tensors made in inference mode could take no part in training later.
    with evaluation_mode(model), torch.inference_mode(False), torch.enable_grad():
        yield


def _read_fields(backbone: Backbone, precision: Precision, batch: Batch) -> tuple[Any, dict[str, torch.Tensor]]:
    """Returns the body's output and, by field, the gradient of the logits for it where the head reads it at all."""
    body: Any = backbone.model.base_model
    kept: dict[str, Any] = {}

    def cut(module: Any, inputs: Any, output: Any) -> Any:
        kept["output"] = output
        kept["leaves"] = leaves = {
            name: output[name].detach().requires_grad_()
            for name in ("last_hidden_state", "pooler_output")
            if isinstance(output, dict) and output.get(name) is not None
        }
        for name, leaf in leaves.items():
            output[name] = leaf
        return output

    handle = body.register_forward_hook(cut)
    try:
        with precision():
            logits = backbone.forward(batch).logits
    finally:
        handle.remove()
    leaves = kept.get("leaves", {})
    if not leaves or not logits.requires_grad:
        return None, {}
    weights = torch.linspace(1, 2, logits.shape[-1], device=logits.device)  # no sum in which classes cancel out
    found = torch.autograd.grad((logits.float() * weights).sum(), list(leaves.values()), allow_unused=True)
    gradients = {name: g for name, g in zip(leaves, found, strict=True) if g is not None and bool(g.any())}
    return kept["output"], gradients


def _output(kind: type[Any], served: dict[str, torch.Tensor], num_tokens: int) -> Any:
    """Returns an output of the body's own class, (R, T, H) and where the head reads it (R, H)."""
    first = next(iter(served.values()))
    # The head picks one position, wherever it is: every position holds the vector kept for it.
    hidden = served.get("last_hidden_state", first.new_zeros(()).expand(len(first), 1))
    hidden = hidden[:, None].expand(-1, num_tokens, -1)
    pooled = {"pooler_output": served["pooler_output"]} if "pooler_output" in served else {}
    return kind(last_hidden_state=hidden, **pooled)


def _positions(gradient: torch.Tensor) -> torch.Tensor:
    """Returns which positions of (R, T, H) are read, bool (R, T)."""
    return gradient.ne(0).any(-1)
