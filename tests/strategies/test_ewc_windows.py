"""Fisher information of rows that are several inputs, against autograd row by row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from datasets import Dataset

from cl_mlm.config.schema import Config, ModelConfig, TrainingConfig
from cl_mlm.mechanisms import SquaredGradients
from cl_mlm.models.loading import load_backbone
from cl_mlm.objectives.question_answering import QuestionAnswering
from cl_mlm.randomness import numpy_generator
from cl_mlm.stream import Stage, Stream
from cl_mlm.tokens.windows import by_row
from strategies.ewc import Ewc, fisher_information

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cl_mlm.models.backbone import Backbone
    from cl_mlm.strategy import RunView
    from cl_mlm.training.run import Run

    from .conftest import Weights

WORDS = (5, 60, 9, 33, 4)  # of each row's context: one window, or several


@pytest.fixture
def view_of_run(model_folder: Callable[[str], str], run_of: Callable[..., Run]) -> Callable[[str], RunView]:
    """What EWC sees after a stage of a run whose rows are cut into windows, by the kind of its model."""

    def make(kind: str) -> RunView:
        contexts = [" ".join(f"w{i} sun" for i in range(words)) for words in WORDS]
        answers = [{"text": ["w3 sun"], "answer_start": [context.index("w3 sun")]} for context in contexts]
        rows = Dataset.from_dict({"context": contexts, "question": ["who?"] * len(WORDS), "answers": answers})
        stream = Stream("windows", (Stage("one", rows, rows, rows, (), objective="question_answering"),))
        training = TrainingConfig(batch_size=3, max_length=32, device="cpu", threads=1)
        objective = QuestionAnswering(stride=8)

        def make_backbone(labels: Sequence[str]) -> Backbone:
            backbone = load_backbone(ModelConfig(model_folder(kind), dropout=0.0), labels, 0, 32, objective)
            backbone.model.double()
            return backbone

        run = run_of(Config(training=training), stream, make_backbone, objective=objective)
        run.place.training_ids = run.data.ids(0)
        return run.view(Ewc(), "after_stage")

    return make


def squares_by_autograd(run: RunView, sampled: bool) -> Weights:
    """The mean over rows of squared gradients of log p(y|x), y the start and end of every window of the row."""
    run.model.eval()
    parameters = run.trainable()
    total = {name: torch.zeros_like(value) for name, value in parameters.items()}
    drawn: dict[int, list[int]] = {}
    random = numpy_generator(run.seed, "fisher", run.stage_index)
    for _, batch in run.batches(run.training_ids, run.batch_size):
        with torch.no_grad():
            sites = run.sites(run.forward(batch), batch)
        draws = random.random(len(sites.row))
        cumulative = sites.logits.double().softmax(-1).cumsum(-1).numpy()
        for row, name in enumerate(batch.ids.tolist()):
            where = (sites.row == row).nonzero()[:, 0].tolist()
            drawn[name] = [int(np.searchsorted(cumulative[i], draws[i] * cumulative[i, -1])) for i in where]
    for name in run.training_ids.tolist():
        batch = run.rows(np.array([name]))
        sites = run.sites(run.forward(batch), batch)
        target = torch.tensor(drawn[name]) if sampled else sites.target
        log_p = sites.logits.log_softmax(-1).gather(-1, target[:, None]).sum()
        gradients = torch.autograd.grad(log_p, list(parameters.values()), allow_unused=True)
        for key, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                total[key] += gradient.square() / len(run.training_ids)
    return total


def assert_same_squares(found: Weights, expected: Weights) -> None:
    largest = max(float(value.max()) for value in expected.values())
    assert largest > 1e-3
    for name, value in expected.items():
        torch.testing.assert_close(found[name].double(), value, rtol=1e-4, atol=1e-7 * largest)


@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama", "t5"])
@pytest.mark.parametrize("labels", ["sampled", "empirical"])
def test_fisher_adds_up_the_windows_of_a_row_before_it_squares(
    view_of_run: Callable[[str], RunView], kind: str, labels: Any
) -> None:
    run = view_of_run(kind)
    input_row = run.rows(run.training_ids).input_row
    assert input_row is not None
    assert len(input_row) > len(WORDS) + 3
    assert_same_squares(fisher_information(run, labels, None), squares_by_autograd(run, labels == "sampled"))


@pytest.mark.parametrize("kind", ["bert", "t5"])
def test_rows_of_several_windows_need_no_slow_way(view_of_run: Callable[[str], RunView], kind: str) -> None:
    run = view_of_run(kind)
    run.model.eval()
    squares = SquaredGradients(run.model, run.trainable())
    batch = run.rows(run.training_ids)
    assert squares.add(lambda: run.task_loss(run.forward(batch), batch), batch.input_row)
    assert squares.slow_modules == []
    assert squares.rows == len(WORDS)


def test_the_windows_of_a_row_come_together_and_what_is_missing_is_zero() -> None:
    tensor = torch.arange(1, 9).reshape(4, 2)
    found = by_row(tensor, torch.tensor([0, 1, 1, 2]))
    assert found.tolist() == [[[1, 2], [0, 0]], [[3, 4], [5, 6]], [[7, 8], [0, 0]]]
    assert by_row(tensor[:1], torch.tensor([0, 0])).tolist() == [[[1, 2], [1, 2]]]
    assert by_row(tensor, None) is tensor
