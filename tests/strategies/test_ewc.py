"""EWC against autograd: Fisher row by row, and the sum of separate quadratic penalties."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

import strategies.ewc as module
from cl_mlm.batch import Sites
from cl_mlm.config.schema import FinetuningConfig
from cl_mlm.mechanisms import SquaredGradients, leading
from cl_mlm.randomness import numpy_generator
from strategies.ewc import Ewc, fisher_information

if TYPE_CHECKING:
    from collections.abc import Callable

    from cl_mlm.strategy import RunView
    from cl_mlm.training.run import Run

    from .conftest import MakeRun, Train, Trained, Weights

    Stages = list[tuple[Weights, Weights]]  # of each the importances and the values

KINDS = ["sampled", "exact", "empirical"]


@pytest.fixture
def run_in_float64(make_run: MakeRun) -> Callable[..., Run]:
    """A run of six rows on a model in double precision, so that only the method can differ from autograd."""

    def make(**settings: Any) -> Run:
        run = make_run(**{"batch_size": 4, "rows": 6, **settings})
        run.network.model.double()
        run.place.training_ids = run.data.ids(0)
        return run

    return make


def view_of(run: Run) -> RunView:
    """What EWC sees of a run after a stage, which is when it asks for the Fisher."""
    return run.view(Ewc(), "after_stage")


def draw_targets(run: RunView, ids: npt.NDArray[np.int64]) -> dict[int, int]:
    """One class for each row, by inverting the cumulative distribution at draws of the Fisher's own address."""
    random, found = numpy_generator(run.seed, "fisher", run.stage_index), dict[int, int]()
    for positions, batch in run.batches(ids, run.batch_size):
        draws = random.random(len(positions))
        with torch.no_grad():
            cumulative = run.sites(run.forward(batch), batch).logits.softmax(-1).cumsum(-1).numpy()
        for row, draw in enumerate(draws):
            found[int(batch.ids[row])] = int(np.searchsorted(cumulative[row], draw))
    return found


def squares_by_autograd(run: RunView, kind: str, ids: npt.NDArray[np.int64]) -> Weights:
    """The mean over rows of squared gradients of log p(y|x), one row and one class at a time."""
    run.model.eval()
    parameters = run.trainable()
    total = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    drawn = draw_targets(run, ids) if kind == "sampled" else {}
    for row in ids.tolist():
        batch = run.rows(np.array([row]))
        log_p = run.sites(run.forward(batch), batch).logits.log_softmax(-1)[0]
        classes = {"exact": [*range(len(log_p))], "empirical": [int(batch.targets[0])]}
        for c in classes[kind] if kind in classes else [drawn[row]]:
            weight = float(log_p[c].detach().exp()) if kind == "exact" else 1.0
            if weight == 0:
                continue
            gradients = torch.autograd.grad(log_p[c], list(parameters.values()), retain_graph=True, allow_unused=True)
            for name, gradient in zip(parameters, gradients, strict=True):
                if gradient is not None:
                    total[name] += weight * gradient.square() / len(ids)
    run.model.train()
    return total


def assert_same_squares(found: Weights, expected: Weights) -> None:
    assert found.keys() == expected.keys()
    largest = max(float(value.max()) for value in expected.values())
    assert largest > 1e-3
    for name, value in expected.items():
        torch.testing.assert_close(found[name].double(), value, rtol=1e-5, atol=1e-10 * largest)


@pytest.mark.parametrize("kind", KINDS)
def test_fisher_is_the_mean_of_squared_gradients_row_by_row(run_in_float64: Callable[..., Run], kind: Any) -> None:
    run = view_of(run_in_float64())
    found = fisher_information(run, kind, None)
    assert_same_squares(found, squares_by_autograd(run, kind, run.training_ids))


def test_batches_are_small_from_the_first_one_that_needs_the_slow_way(
    run_in_float64: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = view_of(run_in_float64(batch_size=7, rows=16))
    # A hook that reads the head's weight once more is seen in the forward pass alone.
    run.model.get_submodule("classifier").register_forward_hook(lambda head, _, out: out * head.weight.sum())
    sizes, add = [], SquaredGradients.add

    def counting(squares: SquaredGradients, *args: Any) -> bool:
        before, served = squares.rows, add(squares, *args)
        sizes.append((squares.rows - before, served))
        return served

    monkeypatch.setattr(SquaredGradients, "add", counting)
    found = fisher_information(run, "empirical", None)
    assert sizes == [(7, False), (4, False), (4, False), (1, False)]
    assert_same_squares(found, squares_by_autograd(run, "empirical", run.training_ids))


@pytest.mark.parametrize("kind", KINDS)
def test_fisher_of_a_task_incremental_stage_is_among_its_own_labels(
    run_in_float64: Callable[..., Run], kind: Any
) -> None:
    run = run_in_float64(scenario="task_incremental")
    run.tasks.count_labels(1, 0)
    run.network.backbone.grow(run.tasks.at(1).labels.seen, 0, 1)
    run.network.model.double()
    run.place.stage_index, run.place.training_ids = 1, run.data.ids(1)
    found = fisher_information(view_of(run), kind, None)
    assert_same_squares(found, squares_by_autograd(view_of(run), kind, run.place.training_ids))
    assert found["classifier.weight"][:2].abs().max() == 0


def test_fisher_of_some_rows_is_the_mean_over_those(run_in_float64: Callable[..., Run]) -> None:
    run = view_of(run_in_float64(batch_size=6))
    ids = numpy_generator(run.seed, "fisher", 0).choice(run.training_ids, size=3, replace=False)
    assert_same_squares(fisher_information(run, "empirical", 3), squares_by_autograd(run, "empirical", ids))


@pytest.mark.parametrize("kind", ["exact", "empirical"])
def test_fisher_does_not_depend_on_the_size_of_batches(run_in_float64: Callable[..., Run], kind: Any) -> None:
    one, all_at_once = (fisher_information(view_of(run_in_float64(batch_size=size)), kind, None) for size in (1, 6))
    assert_same_squares(one, {name: value.double() for name, value in all_at_once.items()})


def test_sampled_labels_follow_the_models_distribution() -> None:
    """1000 rows of one distribution: each class is drawn as often as it says, within 4 standard errors."""
    p = torch.tensor([0.5, 0.3, 0.2, 0.0])
    logits = p.log().expand(1000, -1)
    sites = Sites(logits, row=torch.arange(1000), target=torch.zeros(1000, dtype=torch.long))
    losses = module._negative_log_likelihood(sites, 1000, "sampled", np.random.default_rng(0))
    for probability in (0.5, 0.3, 0.2):
        share = float(torch.isclose(losses, -torch.tensor(probability).log()).float().mean())
        assert abs(share - probability) < 4 * (probability * (1 - probability) / 1000) ** 0.5
    assert losses.isfinite().all()


def test_fisher_leaves_gradients_and_mode_alone(make_run: MakeRun) -> None:
    run = make_run(dropout=0.5, rows=6)
    run.place.training_ids = run.data.ids(0)
    model = run.network.model.train()
    first, second = (fisher_information(view_of(run), "empirical", None) for _ in range(2))
    assert all(first[name].equal(second[name]) for name in first)  # dropout is off
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def random_stages(*, grown: bool = True) -> Stages:
    """Three stages' importances and values of a head that grows after the first, and of a body; float64."""
    random = torch.Generator().manual_seed(0)
    rows = (2, 4, 4) if grown else (4, 4, 4)
    stages = []
    for count in rows:
        shapes = {"head": (count, 3), "body": (5,)}
        fisher = {n: torch.rand(s, generator=random, dtype=torch.float64) for n, s in shapes.items()}
        values = {n: torch.randn(s, generator=random, dtype=torch.float64) for n, s in shapes.items()}
        fisher["body"][0] = 0.0  # never of any importance
        stages.append((fisher, values))
    stages[0][0]["body"][1] = 0.0  # of importance from the second stage on
    return stages


def separate_penalties(
    stages: Stages, parameters: dict[str, torch.nn.Parameter], weight: float, decay: float = 1.0
) -> torch.Tensor:
    """`weight / 2 * Σ_k decay^(K-1-k) Σ F_k (θ - θ_k)²`, as the paper writes it."""
    total = torch.zeros((), dtype=torch.float64)
    for k, (fisher, values) in enumerate(stages):
        for name, importance in fisher.items():
            moved = leading(importance, parameters[name]) - values[name]
            total = total + decay ** (len(stages) - 1 - k) * (importance * moved.square()).sum()
    return weight / 2 * total


def consolidated(stages: Stages, **arguments: Any) -> Ewc:
    ewc = Ewc(**arguments)
    for fisher, values in stages:
        ewc.consolidate(fisher, values)
    return ewc


def view_with(parameters: dict[str, torch.nn.Parameter], *, logging: bool = True) -> Any:
    return SimpleNamespace(trainable=lambda: parameters, logging=logging)


def parameters_with_gradient(seed: int = 1) -> dict[str, torch.nn.Parameter]:
    random = torch.Generator().manual_seed(seed)
    parameters = {}
    for name, shape in {"head": (4, 3), "body": (5,), "free": (2,)}.items():
        parameters[name] = torch.nn.Parameter(torch.randn(shape, generator=random, dtype=torch.float64))
        parameters[name].grad = torch.randn(shape, generator=random, dtype=torch.float64)
    return parameters


def gradient_of(parameter: torch.nn.Parameter) -> torch.Tensor:
    assert parameter.grad is not None
    return parameter.grad


@pytest.mark.parametrize("decay", [1.0, 0.7, 0.0])
def test_one_quadratic_has_the_gradient_of_the_separate_penalties(decay: float) -> None:
    stages, parameters = random_stages(), parameters_with_gradient()
    before = {name: gradient_of(parameter).clone() for name, parameter in parameters.items()}
    penalty = separate_penalties(stages, parameters, 50.0, decay)
    expected = torch.autograd.grad(penalty, list(parameters.values()), allow_unused=True)
    consolidated(stages, weight=50.0, decay=decay).adjust_gradients(view_with(parameters))
    for (name, parameter), gradient in zip(parameters.items(), expected, strict=True):
        wanted = torch.zeros_like(parameter) if gradient is None else gradient
        torch.testing.assert_close(gradient_of(parameter) - before[name], wanted, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("decay", [1.0, 0.7, 0.0])
def test_the_logged_penalty_is_the_sum_of_the_separate_ones(decay: float) -> None:
    stages, parameters = random_stages(), parameters_with_gradient()
    logged = consolidated(stages, weight=50.0, decay=decay).adjust_gradients(view_with(parameters))
    expected = separate_penalties(stages, parameters, 50.0, decay).item()
    assert expected > 1
    assert float(logged["ewc"]) == pytest.approx(expected, rel=1e-6)


def test_the_penalty_is_zero_at_the_anchor_of_a_single_stage() -> None:
    ((fisher, values), *_) = random_stages()
    parameters = {name: torch.nn.Parameter(value.clone()) for name, value in values.items()}
    for parameter in parameters.values():
        parameter.grad = torch.zeros_like(parameter)
    logged = consolidated([(fisher, values)], weight=9.0).adjust_gradients(view_with(parameters))
    assert float(logged["ewc"]) == 0
    assert all(float(gradient_of(parameter).abs().max()) == 0 for parameter in parameters.values())


def test_the_weight_multiplies_gradient_and_penalty() -> None:
    added, logged = [], []
    for weight in (1.0, 7.0):
        parameters = parameters_with_gradient()
        before = gradient_of(parameters["head"]).clone()
        values = consolidated(random_stages(), weight=weight).adjust_gradients(view_with(parameters))
        added.append(gradient_of(parameters["head"]) - before)
        logged.append(float(values["ewc"]))
    torch.testing.assert_close(added[1], 7 * added[0])
    assert logged[1] == pytest.approx(7 * logged[0])


def test_memory_does_not_grow_with_the_number_of_stages() -> None:
    stages = random_stages(grown=False)
    two, six = consolidated(stages[:2]), consolidated([*stages, *stages])
    sizes = [sum(t.numel() for part in (e.precision, e.anchor) for t in part.values()) for e in (two, six)]
    assert sizes[0] == sizes[1] == 2 * (12 + 5)


def test_nothing_is_logged_between_points_but_the_gradient_is_added() -> None:
    parameters = parameters_with_gradient()
    before = gradient_of(parameters["head"]).clone()
    assert consolidated(random_stages()).adjust_gradients(view_with(parameters, logging=False)) == {}
    assert not torch.equal(gradient_of(parameters["head"]), before)


def test_parameters_without_gradient_are_left() -> None:
    parameters = parameters_with_gradient()
    parameters["body"].grad = None
    consolidated(random_stages()).adjust_gradients(view_with(parameters))
    assert parameters["body"].grad is None


def test_consolidating_does_not_change_what_it_is_given() -> None:
    stages = random_stages()
    before = [{n: t.clone() for n, t in part.items()} for stage in stages for part in stage]
    consolidated(stages)
    after = [part for stage in stages for part in stage]
    assert all(one[n].equal(two[n]) for one, two in zip(before, after, strict=True) for n in one)


def test_state_comes_back() -> None:
    first, second = consolidated(random_stages()), Ewc()
    second.load_state_dict(first.state_dict())
    assert second.constant == first.constant
    for name, value in first.precision.items():
        assert value.equal(second.precision[name])
        assert first.anchor[name].equal(second.anchor[name])


def test_ewc_goes_on_from_its_state(assert_goes_on: Callable[..., None]) -> None:
    assert_goes_on(lambda: Ewc(weight=1000.0))


def test_weight_zero_is_naive_to_the_bit_while_fisher_and_penalty_run(
    assert_same_run: Callable[..., Trained], monkeypatch: pytest.MonkeyPatch
) -> None:
    fishers = []

    def counting(*args: Any) -> Weights:
        fishers.append(fisher_information(*args))
        return fishers[-1]

    monkeypatch.setattr(module, "fisher_information", counting)
    trained = assert_same_run(Ewc(weight=0.0, rows=4))
    assert len(fishers) == 2
    assert max(float(value.max()) for value in fishers[0].values()) > 0
    assert [values["train/term/ewc"] for values in trained.logged if "train/term/ewc" in values] == [0.0] * 6


def test_there_is_no_penalty_in_the_first_stage(make_run: MakeRun, train: Train) -> None:
    trained = train(make_run(Ewc()), [0])
    assert not any("train/term/ewc" in values for values in trained.logged)


@pytest.mark.parametrize("kind", KINDS)
def test_two_stages_of_tiny_run_and_log_a_penalty(make_run: MakeRun, train: Train, kind: Any) -> None:
    trained = train(make_run(Ewc(weight=100.0, fisher=kind), model="tiny", dropout=0.1))
    penalties = [values["train/term/ewc"] for values in trained.logged if "train/term/ewc" in values]
    assert len(trained.matrix) == 2
    assert penalties[0] == pytest.approx(0, abs=1e-6)
    assert 0 < penalties[-1] < float("inf")


def test_a_large_weight_holds_the_weights_that_matter(
    make_run: MakeRun, train: Train, weights_of: Callable[[Run], Weights]
) -> None:
    moved = []
    for weight in (0.0, 1e4):
        ewc = Ewc(weight=weight)
        run = make_run(ewc, epochs=6, clip=None)
        train(run, [0])
        before, precision = weights_of(run), {n: p.clone() for n, p in ewc.precision.items()}
        train(run, [1])
        after = weights_of(run)
        distances = [(precision[n] * (leading(precision[n], after[n]) - before[n]).square()).sum() for n in precision]
        moved.append(float(torch.stack(distances).sum()))
    assert moved[1] < 0.2 * moved[0]


def test_head_mode_penalises_the_head_alone(make_run: MakeRun, train: Train) -> None:
    ewc = Ewc()
    run = make_run(ewc)
    run.network.backbone.set_trainable(FinetuningConfig(mode="head"), 0)
    train(run)
    assert set(ewc.precision) == {"classifier.weight", "classifier.bias"}
    assert ewc.precision["classifier.weight"].shape[0] == 4


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ({"weight": -1.0}, "weight: must be at least 0, got -1.0"),
        ({"weight": float("nan")}, "weight: must be at least 0, got nan"),
        ({"decay": 1.5}, "decay: must be in 0-1, got 1.5"),
        ({"rows": 0}, "rows: must be at least 1 or null, got 0"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], fault: str) -> None:
    assert Ewc(**arguments).validate() == [fault]


def test_right_arguments_have_no_faults() -> None:
    assert Ewc().validate() == Ewc(weight=0.0, decay=0.0, rows=1).validate() == []


@pytest.mark.parametrize("important", [2, 9])
def test_the_pull_is_that_of_the_whole_matrix_however_few_rows_have_weight(important: int) -> None:
    """Rows of an embedding whose tokens were never seen are left out of the work, not of the penalty."""
    random = torch.Generator().manual_seed(0)
    parameter = torch.nn.Parameter(torch.randn(12, 3, generator=random))  # has grown by two rows
    anchor, precision = torch.randn(10, 3, generator=random), torch.zeros(10, 3)
    precision[torch.randperm(10, generator=random)[:important]] = torch.rand(important, 3, generator=random)
    parameter.grad = torch.ones_like(parameter)
    ewc = Ewc(weight=5.0)
    ewc.load_state_dict({"precision": {"w": precision}, "anchor": {"w": anchor}, "constant": 0.25})
    values = ewc.adjust_gradients(view_with({"w": parameter}))
    apart = parameter.detach()[:10] - anchor
    expected = torch.ones(12, 3)
    expected[:10] += 5.0 * precision * apart
    torch.testing.assert_close(parameter.grad, expected)
    torch.testing.assert_close(values["ewc"], 0.5 * 5.0 * ((precision * apart.square()).sum() + 0.25))
