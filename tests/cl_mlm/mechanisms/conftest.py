"""A padded batch, sums of squared gradients from one row at a time, and their comparison."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

PAD, EOS, NUM_LABELS = 1, 2, 3

Sums = dict[str, torch.Tensor]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny tensors gain nothing from more, and lose much where other processes run."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def padded_batch() -> Callable[..., tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Ids, mask and labels of rows of these lengths."""

    def make(lengths: tuple[int, ...] = (5, 9, 3, 7)) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        torch.manual_seed(1)
        ids = torch.full((len(lengths), max(lengths)), PAD)
        for row, length in enumerate(lengths):
            ids[row, : length - 1] = torch.randint(3, 10, (length - 1,))  # few tokens, so that rows repeat some
            ids[row, length - 1] = EOS
        labels = torch.arange(len(lengths)) % NUM_LABELS
        return ids, (ids != PAD).long(), labels

    return make


@pytest.fixture(scope="session")
def squares_of() -> Callable[..., Sums]:
    """The squared gradients of a loss: `squares_of(loss, parameters)`."""

    def square(loss: torch.Tensor, parameters: dict[str, torch.nn.Parameter]) -> Sums:
        gradients: Any = torch.autograd.grad(loss, list(parameters.values()), retain_graph=True, allow_unused=True)
        return {
            name: torch.zeros_like(parameter) if gradient is None else gradient.square()
            for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True)
        }

    return square


@pytest.fixture(scope="session")
def row_by_row(squares_of: Callable[..., Sums]) -> Callable[..., Sums]:
    """Sums of squares from a forward and a backward pass for each row alone."""

    def add_up(
        loss_of_row: Callable[[int], torch.Tensor], num_rows: int, parameters: dict[str, torch.nn.Parameter]
    ) -> Sums:
        totals = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
        for row in range(num_rows):
            for name, squares in squares_of(loss_of_row(row), parameters).items():
                totals[name] += squares
        return totals

    return add_up


@pytest.fixture(scope="session")
def assert_same() -> Callable[..., None]:
    """Sums are equal within rounding; `atol` is relative to the largest."""

    def compare(sums: Sums, expected: Sums, rtol: float = 1e-5, atol: float = 1e-12) -> None:
        assert sums.keys() == expected.keys()
        scale = max(float(value.max()) for value in expected.values())
        assert scale > 1e-4
        for name, value in expected.items():
            got, limit = sums[name].double(), atol * scale
            torch.testing.assert_close(
                got, value.double(), rtol=rtol, atol=limit, msg=lambda text, n=name: f"{n}: {text}"
            )

    return compare
