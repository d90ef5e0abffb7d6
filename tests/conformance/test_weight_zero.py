"""At weight 0 nothing of a strategy acts: with its other arguments at their defaults the run is naive to the bit.

Every shipped strategy with a weight is held to it, by itself and with the others. The whole matrix runs with `make
conformance`; by default a part of it.
"""

import inspect

import pytest

from cl_mlm.config.components import find, make_objective, names

from .conftest import OBJECTIVES

WEIGHTED = [name for name in names("strategy") if "weight" in inspect.signature(find("strategy", name)).parameters]
TOGETHER = "+".join(WEIGHTED)
# In place of a default, where that is refused for an objective without classes.
INSTEAD = {"ewc": {"fisher": "empirical"}}
BY_DEFAULT = [("classification", "lwf"), ("mixed", TOGETHER)]


def sections():
    for name in (*OBJECTIVES, "mixed"):
        objectives = ["classification", "tagging"] if name == "mixed" else [OBJECTIVES[name][0]]
        options = {} if name == "mixed" else OBJECTIVES[name][1]
        fits = {}
        for strategy in WEIGHTED:
            for more in ({}, INSTEAD.get(strategy, {})):
                made = find("strategy", strategy)(weight=0.0, **more)
                if not any(made.unfit(make_objective(objective, options)) for objective in objectives):
                    fits[strategy] = {"weight": 0.0, **more}
                    break
        yield from ((name, strategy, {strategy: section}) for strategy, section in fits.items())
        if len(fits) == len(WEIGHTED):
            yield name, TOGETHER, fits


CASES = [
    pytest.param(*case, id=f"{case[0]}-{case[1]}", marks=() if case[:2] in BY_DEFAULT else pytest.mark.conformance)
    for case in sections()
]


@pytest.mark.parametrize(("name", "strategy", "section"), CASES)
def test_weight_zero_is_naive_to_the_bit_with_default_arguments(name, strategy, section, bits_of):
    guarded, naive = bits_of(name, section), bits_of(name, {"naive": {}})
    weights = {key: value for key, value in guarded[0].items() if key in naive[0]}
    assert weights.keys() == naive[0].keys()
    assert [key for key, value in naive[0].items() if not value.equal(weights[key])] == []
    assert guarded[2] == naive[2]


def test_every_strategy_with_a_weight_is_held_to_it():
    assert {"ewc", "lwf", "replay"} <= {*WEIGHTED}
    assert {strategy for _, strategy, _ in sections()} == {*WEIGHTED, TOGETHER}
