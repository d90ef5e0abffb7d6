import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from cl_mlm.randomness import address_seed, numpy_generator, seed_everything, torch_generator


@given(st.integers(0, 2**40), st.lists(st.one_of(st.text(max_size=5), st.integers(-5, 10**6)), max_size=5))
def test_seeds_fit_in_63_bits_and_repeat(seed, address):
    assert 0 <= address_seed(seed, *address) < 2**63
    assert address_seed(seed, *address) == address_seed(seed, *address)


def test_seeds_are_the_same_in_every_process():
    """A value once given out must stay: a run resumed under a later version draws what it would have drawn."""
    assert address_seed(0, "order", 1, 2) == 6492929615091620735


def test_every_part_of_the_address_matters():
    addresses = [(0, "order", 1, 2), (1, "order", 1, 2), (0, "init", 1, 2), (0, "order", 2, 1)]
    addresses += [(0, "order", 12), (0, "order", "1", 2)]
    assert len({address_seed(*address) for address in addresses}) == len(addresses)


def test_parts_do_not_run_together():
    assert address_seed(0, "a", "bc") != address_seed(0, "ab", "c")


def test_numpy_generators_of_one_address_draw_alike_and_of_another_differ():
    draws = [numpy_generator(3, "buffer", stage).random(4).tolist() for stage in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]


def test_torch_generators_of_one_address_draw_alike_and_of_another_differ():
    draws = [torch.rand(4, generator=torch_generator(3, "term", stage)).tolist() for stage in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]


def test_drawing_from_an_address_leaves_the_global_generators_alone():
    before = (torch.get_rng_state(), np.random.get_state()[1].copy())
    torch.rand(3, generator=torch_generator(0, "x"))
    numpy_generator(0, "x").random(3)
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])


def test_seed_everything_addresses_the_global_generator():
    draws = []
    for step in (1, 1, 2):
        seed_everything(3, "dropout", step)
        draws.append(torch.rand(4).tolist())
        torch.rand(17)
    assert draws[0] == draws[1] != draws[2]
