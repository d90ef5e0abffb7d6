"""LwF against sums over softmaxes written out, and against the old model's own logits."""

import math

import numpy as np
import pytest
import torch

import strategies.lwf as module
from cl_mlm.batch import Outputs
from strategies.lwf import Lwf, distillation, old_groups


def softmax(logits, temperature=1.0):
    weights = [math.exp(x / temperature) for x in logits]
    return [weight / sum(weights) for weight in weights]


def divergence(teacher, student, temperature):
    """`T² / R * Σ_rows Σ_classes p (log p - log q)`."""
    total = 0.0
    for of_teacher, of_student in zip(teacher, student, strict=True):
        p, q = softmax(of_teacher, temperature), softmax(of_student, temperature)
        total += sum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True))
    return temperature**2 * total / len(teacher)


TEACHER = [[1.0, 2.0, -1.0], [0.0, 0.5, 3.0], [-2.0, 0.0, 0.0]]
STUDENT = [[0.5, -1.0, 0.0], [0.0, 0.5, 3.0], [4.0, 1.0, -1.0]]


@pytest.mark.parametrize("temperature", [1.0, 2.0, 0.5])
def test_distillation_is_the_divergence_written_out(temperature):
    found = distillation(torch.tensor(TEACHER), torch.tensor(STUDENT), temperature)
    assert float(found) == pytest.approx(divergence(TEACHER, STUDENT, temperature), rel=1e-5)


def test_distillation_of_equal_logits_is_zero():
    assert float(distillation(torch.tensor(TEACHER), torch.tensor(TEACHER), 2.0)) == pytest.approx(0, abs=1e-7)


def test_distillation_does_not_feel_a_shift_of_all_logits():
    shifted = distillation(torch.tensor(TEACHER), torch.tensor(STUDENT) + 5.0, 2.0)
    assert float(shifted) == pytest.approx(divergence(TEACHER, STUDENT, 2.0), rel=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0])
def test_the_gradient_is_t_times_the_difference_of_the_distributions(temperature):
    """d/ds of T² KL is T (q - p) / rows: it does not shrink with T, up to the softer distributions."""
    student = torch.tensor(STUDENT, dtype=torch.float64, requires_grad=True)
    distillation(torch.tensor(TEACHER, dtype=torch.float64), student, temperature).backward()
    expected = [
        [
            temperature * (b - a) / len(TEACHER)
            for a, b in zip(softmax(t, temperature), softmax(s, temperature), strict=True)
        ]
        for t, s in zip(TEACHER, STUDENT, strict=True)
    ]
    torch.testing.assert_close(student.grad, torch.tensor(expected, dtype=torch.float64))


def eval_logits(run, ids):
    """The present model's logits on training rows, one row at a time, dropout off."""
    was_training = run.model.training
    run.model.eval()
    with torch.no_grad():
        logits = [run.backbone.forward(run.rows(np.array([i]))).logits[0] for i in ids.tolist()]
    run.model.train(was_training)
    return torch.stack(logits)


@pytest.fixture
def second_stage(make_run, train):
    """A run at the start of its second stage (or a later one), and the old model's logits on that stage's rows."""

    def make(lwf, stage_index=1, **settings):
        run = make_run(lwf, **{"dropout": 0.3, "num_stages": stage_index + 1, **settings})
        train(run, range(stage_index))
        run.stage_index = stage_index
        run.training_ids = run.split_rows["train"].ids(stage_index)
        old = eval_logits(run, run.training_ids)
        run.labels.begin(stage_index, stage_index - 1)
        run.backbone.grow(run.labels.seen, run.seed, stage_index)
        run.model.train()
        lwf.before_stage(run, run.stream.stages[stage_index])
        return run, old

    return make


def term_of(lwf, run, rows, student):
    batch = run.rows(run.training_ids[rows])
    return lwf.loss_terms(run, batch, Outputs(student, lambda: student))


def random_logits(rows, classes):
    return torch.randn(rows, classes, generator=torch.Generator().manual_seed(0)).requires_grad_()


def test_the_teacher_is_the_old_model_in_eval_mode_on_the_stages_own_rows(second_stage):
    lwf = Lwf(weight=0.5, temperature=3.0)
    run, old = second_stage(lwf)
    rows, student = [7, 0, 11, 3, 4], random_logits(5, 4)
    term = term_of(lwf, run, rows, student)["lwf"]
    expected = 0.5 * divergence(old[rows].tolist(), student[:, :2].tolist(), 3.0)
    assert float(term.detach()) == pytest.approx(expected, rel=1e-4)


def test_the_teacher_leaves_the_models_mode_alone(second_stage):
    run, _ = second_stage(Lwf())
    assert run.model.training


def test_only_classes_seen_before_are_held(second_stage):
    lwf = Lwf()
    run, _ = second_stage(lwf)
    student = random_logits(4, 4)
    term_of(lwf, run, [0, 1, 2, 3], student)["lwf"].backward()
    assert (student.grad[:, :2] != 0).all()
    assert (student.grad[:, 2:] == 0).all()


def test_old_classes_are_one_distribution_in_a_class_incremental_stream(second_stage):
    lwf = Lwf()
    run, old = second_stage(lwf, stage_index=2)
    student = random_logits(3, 6)
    expected = divergence(old[:3].tolist(), student[:, :4].tolist(), 2.0)
    assert old.shape[1] == 4
    assert float(term_of(lwf, run, [0, 1, 2], student)["lwf"].detach()) == pytest.approx(expected, rel=1e-4)


def test_each_old_stage_is_one_distribution_in_a_task_incremental_stream(second_stage):
    lwf = Lwf()
    run, old = second_stage(lwf, stage_index=2, scenario="task_incremental")
    student = random_logits(3, 6)
    parts = [divergence(old[:3, s].tolist(), student[:, s].tolist(), 2.0) for s in (slice(0, 2), slice(2, 4))]
    assert old_groups(run) == [[0, 1], [2, 3]]
    assert float(term_of(lwf, run, [0, 1, 2], student)["lwf"].detach()) == pytest.approx(sum(parts), rel=1e-4)


@pytest.mark.parametrize("scenario", ["class_incremental", "task_incremental"])
def test_a_model_that_has_learned_nothing_teaches_nothing(make_run, scenario):
    run = make_run(scenario=scenario)
    run.stage_index = 1
    run.labels.begin(1, -1)
    assert old_groups(run) == []


def test_memory_rows_have_no_term(second_stage):
    lwf = Lwf()
    run, _ = second_stage(lwf)
    batch = run.rows(run.training_ids[:2]).with_origin("memory")
    student = random_logits(2, 4)
    assert lwf.loss_terms(run, batch, Outputs(student, lambda: student)) == {}


@pytest.fixture
def count_forwards():
    """Counts the forward passes of a run by whether the model was in training mode."""

    def count(run):
        calls, forward = {True: 0, False: 0}, run.backbone.forward

        def counting(batch):
            calls[run.model.training] += 1
            return forward(batch)

        run.backbone.forward = counting
        return calls

    return count


def test_teacher_logits_are_computed_once_a_stage_whatever_the_epochs(make_run, train, count_forwards):
    run = make_run(Lwf(), epochs=3, batch_size=2, rows=12)
    train(run, [0])
    calls = count_forwards(run)
    train(run, [1])
    evaluations = 1  # all columns in one batch
    assert calls == {True: 3 * 6, False: 12 // (4 * 2) + 1 + evaluations}


def test_nothing_happens_in_the_first_stage(make_run, train, count_forwards):
    run = make_run(Lwf(), epochs=1)
    calls = count_forwards(run)
    trained = train(run, [0])
    assert calls == {True: 3, False: 1}
    assert not any("train/term/lwf" in values for values in trained.logged)


def test_weight_zero_is_naive_to_the_bit_while_the_divergence_is_computed(assert_same_run, monkeypatch):
    terms = []

    def counting(*args):
        terms.append(distillation(*args))
        return terms[-1]

    monkeypatch.setattr(module, "distillation", counting)
    trained = assert_same_run(Lwf(weight=0.0, own_classes=False))
    assert len(terms) == 6
    assert max(float(term.detach()) for term in terms) > 0
    assert [values["train/term/lwf"] for values in trained.logged if "train/term/lwf" in values] == [0.0] * 6


def test_two_stages_of_tiny_run_and_log_a_term(make_run, train):
    trained = train(make_run(Lwf(), model="tiny", dropout=0.0))
    terms = [values["train/term/lwf"] for values in trained.logged if "train/term/lwf" in values]
    assert len(trained.matrix) == 2
    assert terms[0] == pytest.approx(0, abs=1e-5)  # nothing has moved yet
    assert 0 < terms[-1] < float("inf")


def test_lwf_keeps_old_logits_nearer_than_naive(make_run, train):
    moved = []
    for strategies in ([], [Lwf(weight=5.0)]):
        run = make_run(*strategies, epochs=6, learning_rate=5e-3)
        train(run, [0])
        ids = run.split_rows["train"].ids(1)
        before = eval_logits(run, ids).softmax(-1)
        train(run, [1])
        moved.append(float((eval_logits(run, ids)[:, :2].softmax(-1) - before).abs().mean()))
    assert moved[1] < 0.5 * moved[0]


def test_lwf_goes_on_from_its_state(assert_goes_on):
    assert_goes_on(Lwf)


def test_lwf_keeps_no_state_between_stages():
    assert Lwf().state_dict() == {}


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ({"weight": -0.5}, "weight: must be at least 0, got -0.5"),
        ({"temperature": 0.0}, "temperature: must be above 0, got 0.0"),
        ({"temperature": float("nan")}, "temperature: must be above 0, got nan"),
    ],
)
def test_wrong_arguments_are_named(arguments, fault):
    assert Lwf(**arguments).validate() == [fault]


def test_the_loss_of_new_rows_leaves_old_classes_alone_unless_asked(make_run, train, monkeypatch):
    seen = []

    def noting(self, run, batch):
        seen.append((run.stage_index, allowed(self, run, batch)))
        return seen[-1][1]

    allowed = Lwf.allowed_classes
    monkeypatch.setattr(Lwf, "allowed_classes", noting)
    train(make_run(Lwf()))
    masks = {stage_index: mask[0].tolist() for stage_index, mask in seen}
    assert masks == {0: [True, True], 1: [False, False, True, True]}


def test_all_classes_take_part_when_own_classes_is_off(make_run, train, monkeypatch):
    run = make_run(Lwf(own_classes=False))
    train(run, [0])
    assert run.strategies[0].allowed_classes(run, run.rows(run.training_ids[:2])) is None


def test_a_stage_with_a_single_label_is_compared_with_all_classes(make_run):
    run = make_run(Lwf())
    run.labels._by_stage = ((0, 1), (2,))
    run.labels.begin(1, 0)
    run.stage_index = 1
    assert run.strategies[0].allowed_classes(run, run.rows(run.split_rows["train"].ids(0)[:2])) is None
