import math

import pytest
import torch
from torch import nn

from cl_mlm.config.schema import TrainingConfig
from cl_mlm.strategy import ParameterSettings
from cl_mlm.training.optimizer import learning_rate_factor, make_optimizer, make_scheduler


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(3, 4)
        self.norm = nn.LayerNorm(4)
        self.body = nn.Linear(4, 4)
        self.head = nn.Linear(4, 2)


def optimizer_of(own=None, **settings):
    model = Small()
    config = TrainingConfig(**{"learning_rate": 0.1, "weight_decay": 0.5, **settings})
    return model, make_optimizer(dict(model.named_parameters()), ["head.weight", "head.bias"], config, own)


def group_of(optimizer, parameter):
    (group,) = (g for g in optimizer.param_groups if any(p is parameter for p in g["params"]))
    return group


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_matrices_decay_and_biases_and_norms_do_not(optimizer):
    model, made = optimizer_of(optimizer=optimizer)
    decay = {name: group_of(made, parameter)["weight_decay"] for name, parameter in model.named_parameters()}
    assert {name for name, value in decay.items() if value == 0.5} == {"embedding.weight", "body.weight", "head.weight"}
    assert {value for name, value in decay.items() if name.endswith("bias") or name.startswith("norm")} == {0.0}


def test_the_head_moves_head_factor_times_faster():
    model, made = optimizer_of(head_factor=7.0)
    rates = {name: group_of(made, parameter)["lr"] for name, parameter in model.named_parameters()}
    assert {name for name, rate in rates.items() if rate == pytest.approx(0.7)} == {"head.weight", "head.bias"}
    assert {rate for name, rate in rates.items() if not name.startswith("head")} == {0.1}


def test_single_parameters_have_settings_of_their_own():
    own = {
        "head.weight": ParameterSettings(lr_factor=0.5),
        "body.weight": ParameterSettings(weight_decay=0.25),
        "body.bias": ParameterSettings(lr_factor=3.0, weight_decay=0.125),
        "embedding.weight": ParameterSettings(weight_decay=0.0),
    }
    model, made = optimizer_of(own, head_factor=4.0)
    found = {}
    for name, parameter in model.named_parameters():
        group = group_of(made, parameter)
        found[name] = (group["lr"], group["weight_decay"])
    assert found == {
        "embedding.weight": (0.1, 0.0),
        "norm.weight": (0.1, 0.0),
        "norm.bias": (0.1, 0.0),
        "body.weight": (0.1, 0.25),
        "body.bias": (pytest.approx(0.3), 0.125),
        "head.weight": (0.2, 0.5),
        "head.bias": (0.4, 0.0),
    }


def test_settings_that_say_nothing_leave_the_groups_as_they_are():
    model, plain = optimizer_of(head_factor=2.0)
    made = optimizer_of({name: ParameterSettings() for name, _ in model.named_parameters()}, head_factor=2.0)[1]
    shapes = [[[p.shape for p in g["params"]], g["lr"], g["weight_decay"]] for g in plain.param_groups]
    assert shapes == [[[p.shape for p in g["params"]], g["lr"], g["weight_decay"]] for g in made.param_groups]


def test_every_parameter_is_in_one_group():
    model, made = optimizer_of(head_factor=2.0)
    found = [id(parameter) for group in made.param_groups for parameter in group["params"]]
    assert sorted(found) == sorted(map(id, model.parameters()))


def test_decay_of_adamw_is_decoupled_from_the_gradient():
    """With a gradient of zero AdamW only shrinks: θ <- θ (1 - lr * decay)."""
    model, made = optimizer_of()
    before = model.body.weight.detach().clone()
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    made.step()
    torch.testing.assert_close(model.body.weight.detach(), before * (1 - 0.1 * 0.5))


def test_sgd_has_the_momentum_asked_for():
    _, made = optimizer_of(optimizer="sgd", momentum=0.3)
    assert isinstance(made, torch.optim.SGD)
    assert {group["momentum"] for group in made.param_groups} == {0.3}


def factors(num_steps, **settings):
    return [learning_rate_factor(step, num_steps, TrainingConfig(**settings)) for step in range(num_steps)]


def test_constant_schedule_stays_at_the_peak():
    assert factors(4, schedule="constant", warmup=0.0) == [1.0] * 4


def test_linear_schedule_falls_to_zero_after_the_last_step():
    assert factors(4, schedule="linear", warmup=0.0) == pytest.approx([1.0, 0.75, 0.5, 0.25])
    assert learning_rate_factor(4, 4, TrainingConfig(schedule="linear", warmup=0.0)) == 0.0


def test_cosine_schedule_follows_half_a_cosine():
    root = math.sqrt(0.5)
    assert factors(4, schedule="cosine", warmup=0.0) == pytest.approx([1.0, (1 + root) / 2, 0.5, (1 - root) / 2])


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_warm_up_rises_in_equal_parts_to_the_peak(schedule):
    """10 steps, 30 % of them warm-up: a quarter, a half, three quarters, then the peak."""
    assert factors(10, schedule=schedule, warmup=0.3)[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])


def test_linear_schedule_after_a_warm_up_falls_over_the_rest():
    assert factors(10, schedule="linear", warmup=0.2)[2:] == pytest.approx([1 - i / 8 for i in range(8)])


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_a_stage_of_one_step_trains(schedule):
    assert factors(1, schedule=schedule, warmup=0.1) == [1.0]


def test_a_stage_that_is_all_warm_up_never_passes_the_peak():
    assert factors(3, schedule="linear", warmup=1.0) == pytest.approx([0.25, 0.5, 0.75])


def test_the_scheduler_scales_the_rate_of_every_group():
    _, made = optimizer_of(head_factor=2.0, schedule="linear", warmup=0.0)
    scheduler = make_scheduler(made, 4, TrainingConfig(schedule="linear", warmup=0.0))
    rates = []
    for _ in range(3):
        rates.append(sorted({group["lr"] for group in made.param_groups}))
        made.step()
        scheduler.step()
    assert rates == [pytest.approx([0.1 * f, 0.2 * f]) for f in (1.0, 0.75, 0.5)]
