"""Randomness addressed by (run seed, purpose, place) instead of consumed from one generator.

Nothing that a strategy draws can then move another's batches or dropout, and no generator state has to be saved.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import torch


def address_seed(seed: int, *address: str | int) -> int:
    """Returns a 63-bit seed for `address`, a path such as `("order", stage_index, epoch)`."""
    # A NumPy integer shows its type: the same place must give the same seed.
    parts = [part if isinstance(part, str) else int(part) for part in address]
    text = repr((int(seed), *parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1


def numpy_generator(seed: int, *address: str | int) -> np.random.Generator:
    """Returns a fresh NumPy generator for `address`."""
    import numpy as np

    return np.random.default_rng(address_seed(seed, *address))


def torch_generator(seed: int, *address: str | int) -> torch.Generator:
    """Returns a fresh CPU generator for `address`."""
    import torch

    return torch.Generator().manual_seed(address_seed(seed, *address))


def seed_everything(seed: int, *address: str | int) -> None:
    """Seeds torch's global generators (CPU and accelerators in use) for `address`."""
    import torch

    number = address_seed(seed, *address)
    # `torch.manual_seed` costs as much as a small step where an accelerator's library is there but not in use: it
    # formats a stack trace for each.
    torch.default_generator.manual_seed(number)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed_all(number)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(number)
