"""Every strategy on every objective, twice with two threads: weights, states and predictions are equal to the bit.

The whole matrix runs with `make conformance`; by default a part of it.
"""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from typing_extensions import override

from cl_mlm.config.components import find, make_objective, names

from .conftest import OBJECTIVES

TOGETHER = {"ewc": {"rows": 6}, "replay": {"capacity": 9}, "lwf": {}}
ARGUMENTS = {"ewc": {"fisher": "empirical"}}  # instead of the defaults, where an objective has no classes
BY_DEFAULT = [
    ("classification", "ewc"),
    ("tagging", "lwf"),
    ("question_answering", "ewc"),
    ("masked", "replay"),
    ("multilabel", "ewc+replay+lwf"),
    ("text_to_text, decoder", "lwf"),
]


def fitting(name, strategy):
    """Returns the section of a strategy on an objective; None where it does not fit."""
    objective = make_objective(*OBJECTIVES[name][:2])
    section = TOGETHER if strategy == "ewc+replay+lwf" else {strategy: {}}
    found = {}
    for key, arguments in section.items():
        kind = find("strategy", key)
        tries = (arguments, {**arguments, **ARGUMENTS.get(key, {})})
        good = [one for one in tries if not kind(**one).unfit(objective)]
        if not good:
            return None
        found[key] = good[0]
    return found


MATRIX = [
    (name, strategy, section)
    for name in OBJECTIVES
    for strategy in [*names("strategy"), "ewc+replay+lwf"]
    if (section := fitting(name, strategy)) is not None
]
MATRIX += [("mixed", strategy, {strategy: {}}) for strategy in names("strategy")]
CASES = [
    pytest.param(
        *case,
        id=f"{case[0]}-{case[1]}",
        marks=() if case[:2] in BY_DEFAULT or case[:2] == ("mixed", "lwf") else pytest.mark.conformance,
    )
    for case in MATRIX
]


class WithoutOrder(TorchDispatchMode):
    """Notes the operations whose additions, or writes, have no order on several threads of a CPU.

    These are the ones that torch's documentation of `use_deterministic_algorithms` lists for CPU tensors. They are
    harmless where no place is met twice, or where the same value is written again.
    """

    def __init__(self):
        super().__init__()
        self.found = set()

    @override
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name in ("index_put", "index_put_", "_index_put_impl_"):
            if args[2].numel() == 1 and not (len(args) > 3 and args[3]):
                return func(*args, **(kwargs or {}))
            places = torch.broadcast_tensors(*_places(args[1]))
            if _meets_twice(torch.stack([place.flatten() for place in places], 1)):
                self.found.add(name)
        elif name in ("put_", "put", "index_copy", "index_copy_"):
            index = args[1] if name.startswith("put") else args[2]
            if _meets_twice(index.reshape(-1, 1)):
                self.found.add(name)
        return func(*args, **(kwargs or {}))


def _places(indices):
    """Returns one tensor of places for each indexed axis; a mask indexes as many axes as it has."""
    given = [index for index in indices if index is not None]
    return [axis for i in given for axis in (i.nonzero(as_tuple=True) if i.dtype == torch.bool else (i,))]


def _meets_twice(places):
    return len(places.unique(dim=0)) < len(places)


def test_what_has_no_order_is_noticed():
    table, mask = torch.zeros(4, 3), torch.tensor([[True, False, True]] * 4)
    with WithoutOrder() as watch:
        table[mask] = torch.rand(8)
        table[torch.tensor([0, 2]), torch.tensor([0, 2])] = torch.rand(2)
        table[torch.tensor([1, 1])] = 3.0
    assert not watch.found
    with WithoutOrder() as watch:
        table.index_put_((torch.tensor([1, 1]),), torch.rand(2, 3), accumulate=True)
    assert watch.found == {"index_put_"}


def test_two_threads_are_two(fresh_process):
    """The sum of many numbers is rounded by the parts in which the threads add them."""
    numbers = torch.rand(1_000_001, generator=torch.Generator().manual_seed(0)) - 0.5
    sums = []
    for threads in (1, 2, 2):
        torch.set_num_threads(threads)
        assert torch.get_num_threads() == threads
        sums.append(float(numbers.sum()))
    assert sums[0] != sums[1] == sums[2]


@pytest.mark.parametrize(("name", "strategy", "section"), CASES)
def test_two_runs_with_two_threads_are_equal_to_the_bit(name, strategy, section, bits_of, assert_equal_bits):
    with WithoutOrder() as watch:
        first = bits_of(name, section, threads=2)
    assert not watch.found
    assert_equal_bits(first, bits_of(name, section, threads=2))


def test_every_strategy_and_every_objective_is_in_the_matrix():
    assert {strategy for _, strategy, _ in MATRIX} == {*names("strategy"), "ewc+replay+lwf"}
    assert {OBJECTIVES[name][0] for name, *_ in MATRIX if name != "mixed"} == {*names("objective")}
