"""LwF against sums over softmaxes written out, and against the old model's own logits."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

import strategies.lwf as module
from cl_mlm.batch import Batch, Outputs
from cl_mlm.mechanisms import distillation, evaluation_mode, old_groups
from strategies.lwf import Lwf

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy.typing as npt

    from cl_mlm.strategy import RunView
    from cl_mlm.training.run import Run

    from .conftest import MakeRun, Train, Trained

    SecondStage = Callable[..., tuple[Run, torch.Tensor]]
    CountForwards = Callable[[Run], dict[bool, int]]


def softmax(logits: Sequence[float], temperature: float = 1.0) -> list[float]:
    weights = [math.exp(x / temperature) for x in logits]
    return [weight / sum(weights) for weight in weights]


def divergence(teacher: list[list[float]], student: list[list[float]], temperature: float) -> float:
    """`T² / R * Σ_rows Σ_classes p (log p - log q)`."""
    total = 0.0
    for of_teacher, of_student in zip(teacher, student, strict=True):
        p, q = softmax(of_teacher, temperature), softmax(of_student, temperature)
        total += sum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True))
    return temperature**2 * total / len(teacher)


TEACHER = [[1.0, 2.0, -1.0], [0.0, 0.5, 3.0], [-2.0, 0.0, 0.0]]
STUDENT = [[0.5, -1.0, 0.0], [0.0, 0.5, 3.0], [4.0, 1.0, -1.0]]


@pytest.mark.parametrize("temperature", [1.0, 2.0, 0.5])
def test_distillation_is_the_divergence_written_out(temperature: float) -> None:
    found = distillation(torch.tensor(TEACHER), torch.tensor(STUDENT), temperature)
    assert float(found) == pytest.approx(divergence(TEACHER, STUDENT, temperature), rel=1e-5)


def test_distillation_of_equal_logits_is_zero() -> None:
    assert float(distillation(torch.tensor(TEACHER), torch.tensor(TEACHER), 2.0)) == pytest.approx(0, abs=1e-7)


def test_distillation_does_not_feel_a_shift_of_all_logits() -> None:
    shifted = distillation(torch.tensor(TEACHER), torch.tensor(STUDENT) + 5.0, 2.0)
    assert float(shifted) == pytest.approx(divergence(TEACHER, STUDENT, 2.0), rel=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0])
def test_the_gradient_is_t_times_the_difference_of_the_distributions(temperature: float) -> None:
    """d/ds of T² KL is T (q - p) / rows: it does not shrink with T, up to the softer distributions."""
    student = torch.tensor(STUDENT, dtype=torch.float64, requires_grad=True)
    torch.autograd.backward(distillation(torch.tensor(TEACHER, dtype=torch.float64), student, temperature))
    expected = [
        [
            temperature * (b - a) / len(TEACHER)
            for a, b in zip(softmax(t, temperature), softmax(s, temperature), strict=True)
        ]
        for t, s in zip(TEACHER, STUDENT, strict=True)
    ]
    torch.testing.assert_close(student.grad, torch.tensor(expected, dtype=torch.float64))


def eval_logits(run: Run, ids: npt.NDArray[np.int64]) -> torch.Tensor:
    """The present model's logits on training rows, one row at a time, dropout off."""
    with torch.no_grad(), evaluation_mode(run.network.model):
        return torch.stack([run.network.forward(run.data.rows(np.array([i]))).logits[0] for i in ids.tolist()])


@pytest.fixture
def second_stage(make_run: MakeRun, train: Train) -> SecondStage:
    """A run at the start of its second stage (or a later one), and the old model's logits on that stage's rows."""

    def make(lwf: Lwf, stage_index: int = 1, **settings: Any) -> tuple[Run, torch.Tensor]:
        run = make_run(lwf, **{"dropout": 0.3, "num_stages": stage_index + 1, **settings})
        train(run, range(stage_index))
        run.place.stage_index = stage_index
        run.place.training_ids = run.data.ids(stage_index)
        old = eval_logits(run, run.place.training_ids)
        run.tasks.count_labels(stage_index, stage_index - 1)
        run.network.backbone.grow(run.tasks.at(stage_index).labels.seen, run.place.seed, stage_index)
        run.network.model.train()
        lwf.before_stage(run.view(lwf, "before_stage"), run.stage)
        return run, old

    return make


def term_of(lwf: Lwf, run: Run, rows: list[int], student: torch.Tensor) -> Mapping[str, torch.Tensor]:
    view = run.view(lwf, "loss_terms")
    return lwf.loss_terms(view, view.rows(view.training_ids[rows]), Outputs(student, lambda: student))


def random_logits(rows: int, classes: int) -> torch.Tensor:
    return torch.randn(rows, classes, generator=torch.Generator().manual_seed(0)).requires_grad_()


def test_the_teacher_is_the_old_model_in_eval_mode_on_the_stages_own_rows(second_stage: SecondStage) -> None:
    lwf = Lwf(weight=0.5, temperature=3.0)
    run, old = second_stage(lwf)
    rows, student = [7, 0, 11, 3, 4], random_logits(5, 4)
    term = term_of(lwf, run, rows, student)["lwf"]
    expected = 0.5 * divergence(old[rows].tolist(), student[:, :2].tolist(), 3.0)
    assert float(term.detach()) == pytest.approx(expected, rel=1e-4)


def test_the_teacher_leaves_the_models_mode_alone(second_stage: SecondStage) -> None:
    run, _ = second_stage(Lwf())
    assert run.network.model.training


def test_only_classes_seen_before_are_held(second_stage: SecondStage) -> None:
    lwf = Lwf()
    run, _ = second_stage(lwf)
    student = random_logits(4, 4)
    torch.autograd.backward(term_of(lwf, run, [0, 1, 2, 3], student)["lwf"])
    assert student.grad is not None
    assert (student.grad[:, :2] != 0).all()
    assert (student.grad[:, 2:] == 0).all()


def test_old_classes_are_one_distribution_in_a_class_incremental_stream(second_stage: SecondStage) -> None:
    lwf = Lwf()
    run, old = second_stage(lwf, stage_index=2)
    student = random_logits(3, 6)
    expected = divergence(old[:3].tolist(), student[:, :4].tolist(), 2.0)
    assert old.shape[1] == 4
    assert float(term_of(lwf, run, [0, 1, 2], student)["lwf"].detach()) == pytest.approx(expected, rel=1e-4)


def test_each_old_stage_is_one_distribution_in_a_task_incremental_stream(second_stage: SecondStage) -> None:
    lwf = Lwf()
    run, old = second_stage(lwf, stage_index=2, scenario="task_incremental")
    student = random_logits(3, 6)
    parts = [divergence(old[:3, s].tolist(), student[:, s].tolist(), 2.0) for s in (slice(0, 2), slice(2, 4))]
    assert old_groups(run.view(lwf, "before_stage")) == [[0, 1], [2, 3]]
    assert float(term_of(lwf, run, [0, 1, 2], student)["lwf"].detach()) == pytest.approx(sum(parts), rel=1e-4)


@pytest.mark.parametrize("scenario", ["class_incremental", "task_incremental"])
def test_a_model_that_has_learned_nothing_teaches_nothing(make_run: MakeRun, scenario: str) -> None:
    run = make_run(scenario=scenario)
    run.place.stage_index = 1
    run.tasks.count_labels(1, -1)
    assert old_groups(run.view(Lwf(), "before_stage")) == []


def test_memory_rows_have_no_term(second_stage: SecondStage) -> None:
    lwf = Lwf()
    run, _ = second_stage(lwf)
    view, student = run.view(lwf, "loss_terms"), random_logits(2, 4)
    batch = view.rows(view.training_ids[:2]).as_memory("other")
    assert lwf.loss_terms(view, batch, Outputs(student, lambda: student)) == {}


@pytest.fixture
def count_forwards(monkeypatch: pytest.MonkeyPatch) -> CountForwards:
    """Counts the forward passes of a run by whether the model was in training mode."""

    def count(run: Run) -> dict[bool, int]:
        backbone = run.network.backbone
        calls, forward = {True: 0, False: 0}, backbone.forward

        def counting(batch: Batch) -> Outputs:
            calls[backbone.model.training] += 1
            return forward(batch)

        monkeypatch.setattr(backbone, "forward", counting)
        return calls

    return count


def test_teacher_logits_are_computed_once_a_stage_whatever_the_epochs(
    make_run: MakeRun, train: Train, count_forwards: CountForwards
) -> None:
    run = make_run(Lwf(), epochs=3, batch_size=2, rows=12)
    train(run, [0])
    calls = count_forwards(run)
    train(run, [1])
    evaluations = 1  # all columns in one batch
    assert calls == {True: 3 * 6, False: 12 // (4 * 2) + 1 + evaluations}


def test_nothing_happens_in_the_first_stage(make_run: MakeRun, train: Train, count_forwards: CountForwards) -> None:
    run = make_run(Lwf(), epochs=1)
    calls = count_forwards(run)
    trained = train(run, [0])
    assert calls == {True: 3, False: 1}
    assert not any("train/term/lwf" in values for values in trained.logged)


def test_weight_zero_is_naive_to_the_bit_while_the_divergence_is_computed(
    assert_same_run: Callable[..., Trained], monkeypatch: pytest.MonkeyPatch
) -> None:
    terms = []

    def counting(*args: Any) -> torch.Tensor:
        terms.append(distillation(*args))
        return terms[-1]

    monkeypatch.setattr(module, "distillation", counting)
    trained = assert_same_run(Lwf(weight=0.0, own_classes=False))
    assert len(terms) == 6
    assert max(float(term.detach()) for term in terms) > 0
    assert [values["train/term/lwf"] for values in trained.logged if "train/term/lwf" in values] == [0.0] * 6


def test_weight_zero_is_naive_to_the_bit_with_the_default_arguments(assert_same_run: Callable[..., Trained]) -> None:
    assert_same_run(Lwf(weight=0.0))


def test_two_stages_of_tiny_run_and_log_a_term(make_run: MakeRun, train: Train) -> None:
    trained = train(make_run(Lwf(), model="tiny", dropout=0.0))
    terms = [values["train/term/lwf"] for values in trained.logged if "train/term/lwf" in values]
    assert len(trained.matrix) == 2
    assert terms[0] == pytest.approx(0, abs=1e-5)  # nothing has moved yet
    assert 0 < terms[-1] < float("inf")


def test_lwf_keeps_old_logits_nearer_than_naive(make_run: MakeRun, train: Train) -> None:
    moved = []
    for strategies in ((), (Lwf(weight=5.0),)):
        run = make_run(*strategies, epochs=6, learning_rate=5e-3)
        train(run, [0])
        ids = run.data.ids(1)
        before = eval_logits(run, ids).softmax(-1)
        train(run, [1])
        moved.append(float((eval_logits(run, ids)[:, :2].softmax(-1) - before).abs().mean()))
    assert moved[1] < 0.5 * moved[0]


def test_lwf_goes_on_from_its_state(assert_goes_on: Callable[..., None]) -> None:
    assert_goes_on(Lwf)


def test_lwf_keeps_no_state_between_stages() -> None:
    assert Lwf().state_dict() == {}


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ({"weight": -0.5}, "weight: must be at least 0, got -0.5"),
        ({"temperature": 0.0}, "temperature: must be above 0, got 0.0"),
        ({"temperature": float("nan")}, "temperature: must be above 0, got nan"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], fault: str) -> None:
    assert Lwf(**arguments).validate() == [fault]


def test_the_loss_of_new_rows_leaves_old_classes_alone_unless_asked(
    make_run: MakeRun, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, torch.Tensor]] = []

    def noting(self: Lwf, run: RunView, batch: Batch) -> torch.Tensor | None:
        mask = allowed(self, run, batch)
        assert mask is not None
        seen.append((run.stage_index, mask))
        return mask

    allowed = Lwf.allowed_classes
    monkeypatch.setattr(Lwf, "allowed_classes", noting)
    train(make_run(Lwf()))
    masks = {stage_index: mask[0].tolist() for stage_index, mask in seen}
    assert masks == {0: [True, True], 1: [False, False, True, True]}


def test_all_classes_take_part_when_own_classes_is_off(make_run: MakeRun, train: Train) -> None:
    lwf = Lwf(own_classes=False)
    run = make_run(lwf)
    train(run, [0])
    view = run.view(lwf, "allowed_classes")
    assert lwf.allowed_classes(view, view.rows(view.training_ids[:2])) is None


def test_a_stage_with_a_single_label_is_compared_with_all_classes(make_run: MakeRun) -> None:
    lwf = Lwf()
    run = make_run(lwf)
    run.tasks.at(1).labels._by_stage = ((0, 1), (2,))
    run.tasks.count_labels(1, 0)
    run.place.stage_index = 1
    view = run.view(lwf, "allowed_classes")
    assert lwf.allowed_classes(view, view.rows(run.data.ids(0)[:2])) is None
