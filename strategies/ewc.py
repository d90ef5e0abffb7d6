"""Elastic weight consolidation: weights that mattered to earlier stages are held near the values they had.

Kirkpatrick et al. (2017), Overcoming catastrophic forgetting in neural networks, arXiv:1612.00796, equation 3; one
quadratic for all stages as in Huszár (2018), Note on the quadratic penalties in EWC, arXiv:1712.03847; `decay` is
online EWC, Schwarz et al. (2018), Progress & Compress, arXiv:1805.06370, equation 9.
"""

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from typing_extensions import override

from cl_mlm.batch import Batch, Sites
from cl_mlm.errors import ConfigError
from cl_mlm.mechanisms import SquaredGradients, leading
from cl_mlm.objective import Objective
from cl_mlm.randomness import numpy_generator
from cl_mlm.strategy import Need, RunView, Strategy
from cl_mlm.stream import Stage

if TYPE_CHECKING:
    import torch

    Tensors = dict[str, torch.Tensor]

SLOW_BATCH_ROWS = 4


class Ewc(Strategy):
    """Adds the gradient of `weight / 2 * Σ_k Σ_i F_k,i (θ_i − θ*_k,i)²` over the earlier stages k.

    With A = Σ F_k and μ = Σ F_k θ*_k / A the sum is one quadratic `weight / 2 * (Σ A (θ − μ)² + c)`: memory and the
    cost of a step do not grow with the number of stages.

    Args:
        weight: λ of the paper.
        fisher: labels of the Fisher information: `sampled` from the model, `exact` expectation over all classes, or
            `empirical` (the rows' own labels).
        decay: γ of online EWC, the factor on A at the end of every stage; 1 keeps all stages alike.
        rows: rows of a stage that its Fisher is taken over; null: all.
    """

    needs: ClassVar[frozenset[Need]] = frozenset()
    state_copies: ClassVar[int | None] = 2

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
        self.precision: Tensors = {}
        self.anchor: Tensors = {}
        self.constant = 0.0
        self._rows: dict[str, torch.Tensor | None] = {}

    @override
    def validate(self) -> list[str]:
        faults = [f"weight: must be at least 0, got {self.weight}"] * (not self.weight >= 0)
        faults += [f"decay: must be in 0-1, got {self.decay}"] * (not 0 <= self.decay <= 1)
        return faults + [f"rows: must be at least 1 or null, got {self.rows}"] * (
            self.rows is not None and self.rows < 1
        )

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
    def adjust_gradients(self, run: RunView) -> Mapping[str, "torch.Tensor"]:
        import torch

        held = {n: p for n, p in run.trainable().items() if n in self.precision and p.grad is not None}
        if not held:
            return {}
        dense, distances, precisions = [], [], []
        with torch.no_grad():
            for name, parameter in held.items():
                gradient = leading(self.anchor[name], parameter.grad)  # type: ignore[arg-type]
                values, rows = leading(self.anchor[name], parameter), self._important_rows(name)
                if rows is None:
                    dense.append((gradient, values, self.anchor[name], self.precision[name]))
                    continue
                distances.append(values[rows] - self.anchor[name][rows])
                precisions.append(self.precision[name][rows])
                gradient.index_add_(0, rows, distances[-1] * precisions[-1], alpha=self.weight)
            if dense:
                gradients, values_, anchors, own = (list(column) for column in zip(*dense, strict=True))
                apart = torch._foreach_sub(values_, anchors)
                torch._foreach_addcmul_(gradients, apart, own, value=self.weight)
                distances, precisions = [*distances, *apart], [*precisions, *own]
            if not run.logging:
                return {}
            energy = torch.stack([(d.square() * p).sum() for d, p in zip(distances, precisions, strict=True)]).sum()
            return {"ewc": 0.5 * self.weight * (energy + self.constant)}

    def _important_rows(self, name: str) -> "torch.Tensor | None":
        """Returns the rows of a matrix that any stage gave weight, (rows,), where these are less than half; else None.

        Of an embedding only the tokens that were seen have any: the penalty need not touch the others.
        """
        if name not in self._rows:
            precision = self.precision[name]
            rows = precision.any(-1).nonzero()[:, 0] if precision.dim() == 2 else None
            self._rows[name] = rows if rows is not None and 2 * len(rows) < len(precision) else None
        return self._rows[name]

    @override
    def after_stage(self, run: RunView, stage: Stage) -> None:
        fisher = fisher_information(run, self.fisher, self.rows)
        self.consolidate(fisher, {n: p.detach().clone() for n, p in run.trainable().items()})

    def consolidate(self, fisher: "Tensors", values: "Tensors") -> None:
        """Adds the quadratic `Σ F (θ − values)²` to the one that is kept; what has grown starts from zero.

        Args:
            fisher: importance of every element, by parameter name.
            values: the parameters at the end of the stage, by name.
        """
        import torch

        self.constant *= self.decay
        self._rows = {}
        for name, new in fisher.items():
            old = torch.zeros_like(new)
            anchor = values[name].clone()
            if name in self.precision:
                leading(self.precision[name], old).copy_(self.precision[name] * self.decay)
                leading(self.anchor[name], anchor).copy_(self.anchor[name])
            total = old + new
            share = torch.where(total > 0, new / total.clamp_min(torch.finfo(total.dtype).tiny), 1.0)
            gap = values[name] - anchor
            self.constant += float((old * share * gap.square()).sum())
            self.precision[name] = total
            self.anchor[name] = anchor + share * gap

    @override
    def training_signature(self, stage_index: int) -> Mapping[str, Any] | None:
        return self.arguments() if stage_index else None

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"precision": self.precision, "anchor": self.anchor, "constant": self.constant}

    @override
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.precision, self.anchor = dict(state["precision"]), dict(state["anchor"])
        self.constant = float(state["constant"])
        self._rows = {}


def fisher_information(run: RunView, labels: str, rows: int | None) -> "Tensors":
    """Returns the mean over rows of squared gradients of log p(y|x), by parameter name; dropout off, fp32.

    Each row's gradient is squared by itself (the square of a batch's mean gradient would shrink with the batch).
    """
    ids = run.training_ids
    random = numpy_generator(run.seed, "fisher", run.stage_index)
    if rows is not None and rows < len(ids):
        ids = random.choice(ids, size=rows, replace=False)
    squares = SquaredGradients(run.model, run.trainable())
    was_training = run.model.training
    run.model.eval()
    # Without hooks a batch costs one backward pass for each of its rows, over all of them.
    batch_size = run.batch_size if squares.exact_hooks else SLOW_BATCH_ROWS
    for _, batch in run.batches(ids, batch_size):
        squares.add(partial(_losses, run, batch, labels, random), batch.input_row)
    run.model.train(was_training)
    return {name: total / len(ids) for name, total in squares.sums.items()}


def _losses(run: RunView, batch: Batch, labels: str, random: Any) -> Any:
    outputs = run.forward_fp32(batch)
    if run.objective.sites_per_row == "none":  # squared error: a normal distribution of variance one half
        return run.task_loss(outputs, batch)
    return _negative_log_likelihood(run.sites(outputs, batch), len(batch), labels, random)


def _negative_log_likelihood(sites: Sites, rows: int, labels: str, random: Any) -> Any:
    """Returns −log p(y|x) of every row, (R,); for `exact` (−log p(c|x), p(c|x)) of every class, each (C, R)."""
    import torch

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
