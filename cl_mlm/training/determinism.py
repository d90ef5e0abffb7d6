"""What torch offers against kernels whose additions have no fixed order, for the time of a run.

On a CPU the kernels of a run have a fixed order for a given number of threads. On CUDA they have one only where torch
is told so, before cuBLAS makes its first product.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from cl_mlm.errors import ConfigError, TrainingError, text_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cl_mlm.config.schema import TrainingConfig

VARIABLE = "CUBLAS_WORKSPACE_CONFIG"
WORKSPACES = (":4096:8", ":16:8")  # with which cuBLAS has one order; NVIDIA, cuBLAS, "Results Reproducibility"


def check_determinism(training: TrainingConfig) -> None:
    """Refuses `training.deterministic` where it can have no effect any more.

    Raises:
        ConfigError: on CUDA, cuBLAS was told otherwise, or began in this process without being told.
    """
    if not training.deterministic or torch.device(training.device or "cpu").type != "cuda":
        return
    allowed = " or ".join(WORKSPACES)
    given = os.environ.get(VARIABLE)
    if given is not None and given not in WORKSPACES:
        raise ConfigError(
            f"training.deterministic: needs the environment variable {VARIABLE} to be {allowed} or not set, got {given}"
        )
    # torch and cuBLAS read the variable once, at the first product of matrices; before CUDA began, it can still be set.
    if torch.cuda.is_initialized() and not _takes_effect(training):  # type: ignore[no-untyped-call]
        raise ConfigError(
            f"training.deterministic: {VARIABLE} cannot take effect any more, because this process used CUDA before; "
            f"start Python anew with {VARIABLE}={WORKSPACES[0]} (or {WORKSPACES[1]}), got true"
        )


@contextmanager
def determinism(training: TrainingConfig) -> Iterator[None]:
    """Lets torch take deterministic kernels only, where `training.deterministic` is set; puts everything back.

    Raises:
        TrainingError: an operation has no deterministic kernel on this device.
    """
    if not training.deterministic:
        yield
        return
    try:
        with _switched():
            yield
    except RuntimeError as error:
        if "does not have a deterministic implementation" not in text_of(error):
            raise
        raise TrainingError(
            f"training.deterministic: {str(error).partition('.')[0]} on {training.device}. Worth changing: "
            "training.device=cpu, or training.deterministic=false (results then agree up to rounding)"
        ) from error


@contextmanager
def _switched() -> Iterator[None]:
    cudnn: Any = torch.backends.cudnn
    variable = os.environ.get(VARIABLE)
    before = (cudnn.deterministic, cudnn.benchmark)
    mode, warns = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    os.environ.setdefault(VARIABLE, WORKSPACES[0])
    cudnn.deterministic, cudnn.benchmark = True, False
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(mode, warn_only=warns)
        cudnn.deterministic, cudnn.benchmark = before
        if variable is None:
            os.environ.pop(VARIABLE, None)


def _takes_effect(training: TrainingConfig) -> bool:
    """Says whether torch multiplies matrices on the device while only deterministic kernels are allowed."""
    with _switched():
        try:
            torch.mm(torch.ones(1, 1, device=training.device), torch.ones(1, 1, device=training.device))
        except RuntimeError as error:
            if VARIABLE not in str(error):
                raise
            return False
    return True
