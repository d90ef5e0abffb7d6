"""One quadratic in place of many: its gradient and its value are those of the sum, whatever the layout."""

import pytest
import torch

from cl_mlm.mechanisms import Quadratic

WEIGHT = 3.0


def quadratics(shapes, number=3, seed=0):
    """Returns `number` pairs of precisions and anchors over tensors of these shapes."""
    torch.manual_seed(seed)
    return [
        (
            {name: torch.rand(shape, dtype=torch.float64) for name, shape in shapes.items()},
            {name: torch.randn(shape, dtype=torch.float64) for name, shape in shapes.items()},
        )
        for _ in range(number)
    ]


def parameters(shapes):
    torch.manual_seed(9)
    made = {name: torch.nn.Parameter(torch.randn(shape, dtype=torch.float64)) for name, shape in shapes.items()}
    for parameter in made.values():
        parameter.grad = torch.zeros_like(parameter)
    return made


def penalty(terms, values):
    """Returns the sum of the separate quadratics, as the papers write it."""
    return sum((f[n] * (values[n] - a[n]).square()).sum() for f, a in terms for n in f)


def assert_equals_the_sum(terms, shapes):
    one, values = Quadratic(), parameters(shapes)
    for precision, anchor in terms:
        one.add(precision, anchor)
    expected = penalty(terms, values)
    gradients = torch.autograd.grad(0.5 * WEIGHT * expected, list(values.values()))
    pulls = one.pull(values, WEIGHT)
    for parameter, gradient in zip(values.values(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)
    torch.testing.assert_close(one.energy(pulls), expected.detach())


def test_gradient_and_value_are_those_of_the_sum():
    shapes = {"matrix": (4, 3), "vector": (5,)}
    assert_equals_the_sum(quadratics(shapes), shapes)


def test_a_matrix_of_few_weighted_rows_gives_the_same():
    shapes = {"embedding": (8, 3)}
    terms = quadratics(shapes)
    for precision, _ in terms:
        precision["embedding"][3:] = 0
    assert_equals_the_sum(terms, shapes)


def test_rows_without_precision_are_not_touched():
    one, values = Quadratic(), parameters({"embedding": (8, 3)})
    ((precision, anchor),) = quadratics({"embedding": (8, 3)}, number=1)
    precision["embedding"][2:] = 0
    one.add(precision, anchor)
    one.pull(values, WEIGHT)
    assert not values["embedding"].grad[2:].any()
    assert values["embedding"].grad[:2].all()


def test_what_has_grown_is_held_in_its_leading_part():
    small, large = quadratics({"head": (2, 3)}, number=1)[0], quadratics({"head": (4, 3)}, number=1, seed=1)[0]
    one, values = Quadratic(), parameters({"head": (4, 3)})
    one.add(*small)
    one.pull(values, WEIGHT)
    assert not values["head"].grad[2:].any()
    one.add(*large)
    padded = {"head": torch.cat([small[0]["head"], torch.zeros(2, 3, dtype=torch.float64)])}
    anchor = {"head": torch.cat([small[1]["head"], torch.zeros(2, 3, dtype=torch.float64)])}
    pulls = one.pull(parameters({"head": (4, 3)}), WEIGHT)
    torch.testing.assert_close(one.energy(pulls), penalty([(padded, anchor), large], values).detach())


def test_decay_shrinks_what_was_there():
    first, second = quadratics({"vector": (5,)}, number=2)
    one, values = Quadratic(), parameters({"vector": (5,)})
    one.add(*first)
    one.add(*second, decay=0.25)
    expected = 0.25 * penalty([first], values) + penalty([second], values)
    torch.testing.assert_close(one.energy(one.pull(values, WEIGHT)), expected.detach())


def test_a_quadratic_that_was_replaced_pulls_as_the_one_it_came_from():
    terms = quadratics({"embedding": (8, 3)})
    for precision, _ in terms:
        precision["embedding"][3:] = 0
    one, copy = Quadratic(), Quadratic()
    for term in terms:
        one.add(*term)
    copy.replace(one.precision, one.anchor, one.constant)
    first, second = parameters({"embedding": (8, 3)}), parameters({"embedding": (8, 3)})
    assert torch.equal(one.energy(one.pull(first, WEIGHT)), copy.energy(copy.pull(second, WEIGHT)))
    assert torch.equal(first["embedding"].grad, second["embedding"].grad)


@pytest.mark.parametrize("has_gradient", [True, False])
def test_a_parameter_that_is_not_held_is_left_alone(has_gradient):
    one, values = Quadratic(), parameters({"vector": (5,), "other": (2,)})
    one.add(*quadratics({"vector": (5,)}, number=1)[0])
    if not has_gradient:
        values["vector"].grad = None
    assert len(one.pull(values, WEIGHT)) == has_gradient
    assert not values["other"].grad.any()
