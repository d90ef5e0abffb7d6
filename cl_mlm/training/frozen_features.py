"""What a frozen body gives for a row, computed once a run: training and scoring then run the head alone.

Axes: R rows, T tokens, H hidden, N rows of a table.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from cl_mlm.stream import unpack_row_ids

if TYPE_CHECKING:
    import torch

    from cl_mlm.objective import Batch
    from cl_mlm.training.run import Run

log = logging.getLogger(__name__)


class FrozenFeatures:
    """Stands in for the frozen body of a model.

    What the head reads of the body's output is found, not named: the gradient of the logits tells which fields it
    reads and, of a field over tokens, which position. One vector a row of each such field is kept; where the head reads
    several positions of a row there is nothing to gain, and `find` gives None.

    Tables lie on the model's device: rows * hidden size * bytes of a number, for every split that is used.
    """

    def __init__(self, run: Run, kind: type[Any], fields: dict[str, bool]) -> None:
        self.model = run.model
        self._run, self._kind, self._fields = run, kind, fields
        self._tables: dict[tuple[str, int], dict[str, torch.Tensor]] = {}
        self._served: dict[str, torch.Tensor] | None = None
        self._num_tokens = 0

    @classmethod
    def find(cls, run: Run) -> FrozenFeatures | None:
        """Returns the stand-in for the body of `run`'s model, in place; None where its head reads whole sequences."""
        rows = run.split_rows["train"].ids(run.stage_index)[:8]
        with _probing(run):
            output, gradients = _read_fields(run, run.rows(rows))
        if output is None or not gradients:
            log.warning("finetuning.cache_features: the output of this model's body cannot be kept; it runs every time")
            return None
        single = {name: gradient.dim() == 2 for name, gradient in gradients.items()}
        if any(int(_positions(gradients[name]).sum(-1).max()) > 1 for name, is_row in single.items() if not is_row):
            log.warning(
                "finetuning.cache_features: the head of this model reads whole sequences; the body runs every time"
            )
            return None
        made = cls(run, type(output), single)
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
        import numpy as np
        import torch

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
        import torch

        run = self._run
        ids = run.split_rows[split].ids(stage_index)
        table: dict[str, torch.Tensor] = {}
        served, self._served = self._served, None
        with _probing(run):
            # On a processor larger batches than those of training gain nothing; measured.
            for positions, batch in run.batches(ids, run.batch_size, split):
                output, gradients = _read_fields(run, batch)
                for name, is_row in self._fields.items():
                    values = output[name]
                    if not is_row:
                        read = _positions(gradients[name]).int().argmax(-1)
                        values = values[torch.arange(len(values), device=values.device), read]
                    if name not in table:
                        table[name] = values.new_empty(len(ids), values.shape[-1])
                    table[name][torch.from_numpy(positions)] = values.detach()
        self._served = served
        return table

    def _stand_in(self) -> None:
        """Lets the body's `forward` give kept vectors while some are served."""
        body: Any = self.model.base_model
        original, features = body.forward, self

        def forward(*arguments: Any, **named: Any) -> Any:
            served = features._served
            if served is None:
                return original(*arguments, **named)
            return _output(features._kind, served, features._num_tokens)

        body.forward = forward


@contextmanager
def _probing(run: Run) -> Iterator[None]:
    """Leaves the model in evaluation mode and gradients on, whatever surrounds it; modes are restored."""
    import torch

    modes = [(module, module.training) for module in run.model.modules()]
    run.model.eval()
    try:
        # Tensors made in inference mode could take no part in training later.
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


def _read_fields(run: Run, batch: Batch) -> tuple[Any, dict[str, torch.Tensor]]:
    """Returns the body's output and, by field, the gradient of the logits for it where the head reads it at all."""
    import torch

    body: Any = run.model.base_model
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
        with run.accelerator.autocast():
            logits = run.backbone.forward(batch).logits
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
