import torch

from cl_mlm.batch import mean_loss
from cl_mlm.strategy import Strategy


def test_run_gradients_are_those_of_the_mean_loss_and_leave_grad_alone(make_run):
    run = make_run(rows=4)
    batch = run.data.rows(run.data.ids(0))
    found = run.view(Strategy(), "after_stage").gradients(batch)
    assert all(parameter.grad is None for parameter in run.network.model.parameters())
    mean_loss(run.task_loss(run.network.forward(batch), batch), batch).backward()
    for gradient, parameter in zip(found, run.network.trainable().values(), strict=True):
        assert parameter.grad is not None
        assert torch.equal(gradient, parameter.grad)


def test_a_bf16_run_can_be_asked_for_fp32(make_run):
    run = make_run(rows=4, precision="bf16")
    view, batch = run.view(Strategy(), "after_stage"), run.data.rows(run.data.ids(0))
    with run.network.autocast():
        found = view.forward_fp32(batch).logits
    assert (view.forward(batch).logits.dtype, found.dtype) == (torch.bfloat16, torch.float32)
