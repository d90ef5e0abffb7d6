"""Elastic weight consolidation: weights that mattered to earlier stages are pulled back to the values they had.

Kirkpatrick et al. (2017), Overcoming catastrophic forgetting in neural networks, arXiv:1612.00796, equation 3; one
quadratic for all stages as in Huszár (2018), Note on the quadratic penalties in EWC, arXiv:1712.03847; `decay` is
online EWC, Schwarz et al. (2018), Progress & Compress, arXiv:1805.06370, equation 9.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from typing_extensions import override

from cl_mlm.errors import ConfigError
from cl_mlm.mechanisms import Quadratic, SquaredGradients, evaluation_mode
from cl_mlm.randomness import numpy_generator
from cl_mlm.strategy import Need, RunView, Strategy

if TYPE_CHECKING:
    from cl_mlm.batch import Batch, Sites
    from cl_mlm.objective import Objective
    from cl_mlm.stream import Stage

    Tensors = dict[str, torch.Tensor]

SLOW_BATCH_ROWS = 4


class Ewc(Strategy):
    """Adds the gradient of `weight / 2 * Σ_k Σ_i F_k,i (θ_i − θ*_k,i)²` over the earlier stages k.

    With A = Σ F_k and μ = Σ F_k θ*_k / A the sum is one quadratic, `weight / 2 * (Σ A (θ − μ)² + c)`: memory and the
    cost of a step do not grow with the number of stages. Weights in bfloat16 are refused (`bf16_weights` is False):
    their rounding would lose the distances from the anchor and the squares.

    Args:
        weight: λ of the paper.
        fisher: labels of the Fisher information: `sampled` from the model, `exact` expectation over all classes, or
            `empirical` (the rows' own labels).
        decay: γ of online EWC, the factor on A at the end of every stage; 1 keeps all stages alike.
        rows: rows of a stage that its Fisher information is taken over; null: all.
    """

    needs: ClassVar[frozenset[Need]] = frozenset()

    def __init__(
        self,
        weight: float = 1000.0,
        fisher: Literal["sampled", "exact", "empirical"] = "sampled",
        decay: float = 1.0,
        rows: int | None = None,
    ) -> None:
        self.weight = weight
        self.fisher = fisher
        self.decay = decay
        self.rows = rows
        self._quadratic = Quadratic()
        self._told: set[str] = set()

    @property
    def precision(self) -> Tensors:
        """A, by parameter name."""
        return self._quadratic.precision

    @property
    def anchor(self) -> Tensors:
        """μ, by parameter name."""
        return self._quadratic.anchor

    @property
    def constant(self) -> float:
        """The constant c of the sum."""
        return self._quadratic.constant

    @override
    def validate(self) -> list[str]:
        faults = []
        if not self.weight >= 0:
            faults.append(f"weight: must be at least 0, got {self.weight}")
        if not 0 <= self.decay <= 1:
            faults.append(f"decay: must be in 0-1, got {self.decay}")
        if self.rows is not None and self.rows < 1:
            faults.append(f"rows: must be at least 1 or null, got {self.rows}")
        return faults

    @override
    def unfit(self, objective: Objective) -> list[str]:
        if objective.sites_per_row == "none" and self.fisher != "empirical":
            return [
                f"fisher: must be empirical for objective {objective.name}, which has no classes, got {self.fisher}"
            ]
        if objective.sites_per_row == "many" and self.fisher == "exact":
            return [f"fisher: exact needs one choice a row; objective {objective.name} has many, use sampled"]
        return []

    @override
    def adjust_gradients(self, run: RunView) -> Mapping[str, torch.Tensor]:
        pulls = self._quadratic.pull(run.trainable(), self.weight)
        if not pulls or not run.logging:
            return {}
        return {"ewc": 0.5 * self.weight * self._quadratic.energy(pulls)}

    @override
    def after_stage(self, run: RunView, stage: Stage) -> None:
        if not len(run.training_ids):
            return  # nothing was learned, and a mean over no rows is undefined: the quadratic stays as it is
        fisher = fisher_information(run, self.fisher, self.rows, self._told)
        self.consolidate(fisher, {n: p.detach().clone() for n, p in run.trainable().items()})

    def consolidate(self, fisher: Tensors, values: Tensors) -> None:
        """Adds the quadratic `Σ F (θ − values)²` of a stage to that of the earlier ones.

        Args:
            fisher: F, importance of every element, by parameter name.
            values: the parameters at the end of the stage, by name.
        """
        self._quadratic.add(fisher, values, self.decay)

    @override
    def training_signature(self, stage_index: int) -> Mapping[str, Any] | None:
        return self.arguments() if stage_index else None

    @override
    def state_numbers(self, num_trainable: int, num_stages: int) -> int | None:
        return 2 * num_trainable  # precision and anchor

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"precision": self.precision, "anchor": self.anchor, "constant": self.constant}

    @override
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._quadratic.replace(state["precision"], state["anchor"], float(state["constant"]))


def fisher_information(run: RunView, labels: str, rows: int | None, told: set[str] | None = None) -> Tensors:
    """Returns the mean over the stage's rows of squared gradients of log p(y|x), by parameter name; dropout off, fp32.

    Each row's gradient is squared by itself, since the square of a batch's mean gradient would shrink with the batch. A
    row that is cut into windows is one observation: the gradients of its windows are added before they are squared.

    Args:
        run: at the end of a stage that has training rows.
        labels: `sampled`, `exact` or `empirical`; see `Ewc`.
        rows: number of rows to draw; None: all.
        told: modules whose slow way the log has named before; mutated.
    """
    ids = run.training_ids
    random = numpy_generator(run.seed, "fisher", run.stage_index)
    if rows is not None and rows < len(ids):
        ids = random.choice(ids, size=rows, replace=False)
    squares = SquaredGradients(run.model, run.trainable(), told=told)
    left = ids
    with evaluation_mode(run.model):
        while len(left):
            # Without hooks every row of a batch costs a backward pass over the whole batch, so batches are small then.
            # The first batch may be what shows that hooks miss something.
            was_exact, done = squares.exact_hooks, []
            for places, batch in run.batches(left, run.batch_size if was_exact else SLOW_BATCH_ROWS):
                squares.add(partial(_losses, run, batch, labels, random), batch.input_row)
                done.append(places)
                if squares.exact_hooks is not was_exact:
                    break
            left = np.delete(left, np.concatenate(done))
    return {name: total / len(ids) for name, total in squares.sums.items()}


def _losses(run: RunView, batch: Batch, labels: str, random: np.random.Generator) -> Any:
    """Returns −log p(y|x) of every row, as `SquaredGradients.add` takes it."""
    outputs = run.forward_fp32(batch)
    if run.objective.sites_per_row == "none":  # squared error is −log p of a normal distribution of variance one half
        return run.task_loss(outputs, batch)
    return _negative_log_likelihood(run.sites(outputs, batch), len(batch), labels, random)


def _negative_log_likelihood(sites: Sites, rows: int, labels: str, random: np.random.Generator) -> Any:
    """Returns −log p(y|x) of every row, (R,); for `exact` (−log p(c|x), p(c|x)) of every class c, each (C, R)."""
    log_p = sites.logits.log_softmax(-1)
    if labels == "exact":
        if len(sites.row) != rows:
            raise ConfigError("strategies.ewc.fisher: exact needs one choice a row (classification); use sampled")
        finite = log_p.clamp_min(torch.finfo(log_p.dtype).min)
        return -finite.T, log_p.exp().detach().T
    target = sites.target
    if labels == "sampled":
        # In double precision and scaled by the last sum: rounding must not draw a class that a row may not have.
        sums = log_p.detach().double().exp().cumsum(-1)
        draws = torch.from_numpy(random.random(len(log_p))).to(sums)[:, None] * sums[:, -1:]
        target = (sums <= draws).sum(-1)
    chosen = log_p.gather(-1, target[:, None])[:, 0]
    return -chosen.new_zeros(rows).index_add(0, sites.row, chosen)
