"""Kernels that add up what several places share, called 50 times on two threads: one result, gradients too."""

import numpy as np
import pytest
import torch
from torch import nn

from cl_mlm.batch import Batch, Outputs
from cl_mlm.mechanisms import Quadratic, SquaredGradients, distillation
from cl_mlm.objectives.multilabel import Multilabel
from cl_mlm.objectives.question_answering import QuestionAnswering
from cl_mlm.objectives.tagging import Tagging
from cl_mlm.tokens.logits import token_losses
from cl_mlm.tokens.windows import by_row
from strategies.ewc import _negative_log_likelihood

ROWS, TOKENS, CLASSES = 32, 40, 40  # 51,200 logits: torch shares work among threads beyond 32,768


def randn(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def randint(high, *shape):
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(1))


def outputs_of(logits):
    return Outputs(logits, lambda: logits)


def batch_of(targets, **more):
    rows = more.pop("rows", len(targets))
    mask = torch.ones(len(targets), TOKENS, dtype=torch.long)
    ids = randint(50, len(targets), TOKENS)
    return Batch({"input_ids": ids, "attention_mask": mask}, targets, torch.arange(rows), torch.ones(rows), **more)


def with_gradient(loss_of, *shape):
    """Returns a kernel: the losses and the gradient of their weighted sum for logits of a shape."""

    def kernel():
        logits = randn(*shape).requires_grad_()
        losses = loss_of(logits)
        (losses * torch.linspace(0.1, 1, losses.numel()).view_as(losses)).sum().backward()
        return losses.detach(), logits.grad

    return kernel


def squares_of_a_table():
    torch.manual_seed(0)
    table, head, ids = nn.Embedding(50, 64), nn.Linear(64, 2), randint(50, ROWS, TOKENS)
    model = nn.Sequential(table, head)
    squares = SquaredGradients(model, dict(model.named_parameters()))
    squares.add(lambda: model(ids).log_softmax(-1)[..., 0].sum(1))
    assert squares.exact_hooks
    return (*squares.sums.values(),)


def squares_of_a_tied_table():
    torch.manual_seed(0)
    table, head, ids = nn.Embedding(600, 64), nn.Linear(64, 600, bias=False), randint(20, ROWS, TOKENS)
    head.weight = table.weight
    model = nn.Sequential(table, head)
    squares = SquaredGradients(model, {"table": table.weight})
    squares.add(lambda: model(ids).log_softmax(-1)[..., 0].sum(1))
    assert squares.exact_hooks
    return (squares.sums["table"],)


def gradient_of_a_tied_embedding():
    torch.manual_seed(0)
    table, ids = nn.Embedding(300, 32), randint(20, ROWS, TOKENS)
    (table(ids) @ table.weight.T).logsumexp(-1).sum().backward()
    return (table.weight.grad,)


def pull_of_a_few_rows():
    quadratic, table = Quadratic(), nn.Parameter(randn(1500, 64))
    precision = torch.zeros(1500, 64)
    precision[::3] = randn(500, 64).abs()
    quadratic.add({"table": precision}, {"table": torch.zeros(1500, 64)})
    table.grad = torch.zeros_like(table)
    pulls = quadratic.pull({"table": table}, 3.0)
    return table.grad, quadratic.energy(pulls)


def tagging():
    objective = Tagging()
    targets = torch.where(randn(ROWS, TOKENS) > 0, randint(CLASSES, ROWS, TOKENS), -100)
    batch = batch_of(targets, extra={"words": torch.arange(TOKENS).expand(ROWS, -1)})
    return lambda logits: objective.loss(outputs_of(logits), batch)


def question_answering():
    windows = torch.arange(ROWS).repeat_interleave(4)
    place = {"char_start": torch.arange(TOKENS).expand(len(windows), -1), "no_answer": torch.zeros(len(windows)).long()}
    batch = batch_of(randint(TOKENS, len(windows), 2), rows=ROWS, input_row=windows, extra=place)
    return lambda logits: QuestionAnswering().loss(outputs_of(logits), batch)


def multilabel():
    batch = batch_of(randint(CLASSES, 20 * ROWS, 3))
    return lambda logits: Multilabel().sites(outputs_of(logits), batch).logits


def fisher_of_many_sites():
    from cl_mlm.batch import Sites

    row = randint(ROWS, 1000).sort().values
    target = randint(CLASSES, 1000)
    random = np.random.default_rng
    return lambda logits: _negative_log_likelihood(Sites(logits, row, target), ROWS, "sampled", random(0))


KERNELS = {
    "squared gradients of a table": squares_of_a_table,
    "squared gradients of a table that is an output layer, too": squares_of_a_tied_table,
    "tied embedding": gradient_of_a_tied_embedding,
    "quadratic, a few rows": pull_of_a_few_rows,
    "token losses": with_gradient(
        lambda logits: token_losses(
            outputs_of(logits), batch_of(torch.where(randn(ROWS, TOKENS) > 0, randint(CLASSES, ROWS, TOKENS), -100))
        ),
        *(ROWS, TOKENS, CLASSES),
    ),
    "tagging": with_gradient(tagging(), ROWS, TOKENS, CLASSES),
    "question answering": with_gradient(question_answering(), 4 * ROWS, TOKENS, 2),
    "multilabel sites": with_gradient(multilabel(), 20 * ROWS, CLASSES),
    "distillation of the likeliest": with_gradient(
        lambda logits: distillation(randn(1000, 8), logits, 2.0, randint(CLASSES, 1000, 8)), 1000, CLASSES
    ),
    "Fisher, many sites a row": with_gradient(fisher_of_many_sites(), 1000, CLASSES),
    "windows to rows": lambda: (by_row(randn(4 * ROWS, TOKENS, 8), torch.arange(ROWS).repeat_interleave(4)),),
}


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
def test_a_kernel_gives_one_result_in_50_calls_on_two_threads(kernel, fresh_process):
    torch.set_num_threads(2)
    results = {b"".join(tensor.detach().numpy().tobytes() for tensor in kernel()) for _ in range(50)}
    assert len(results) == 1
    assert not np.isnan(np.frombuffer(next(iter(results)), dtype=np.float32)).any()
