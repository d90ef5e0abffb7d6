"""Threads, device and precision of a run: resolved before it starts, because they belong to its identity."""

from __future__ import annotations

import os
import platform
import resource
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils.memory import should_reduce_batch_size

from cl_mlm.errors import ConfigError, TrainingError, text_of
from cl_mlm.models.attention import check_attention
from cl_mlm.models.quantization import check_quantization
from cl_mlm.training.determinism import check_determinism

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cl_mlm.config.schema import Config


def resolve_hardware(config: Config) -> Config:
    """Returns `config` with threads and device filled in.

    Raises:
        ConfigError: the device is not there, or cannot run the precision, the attention or the quantised weights, or
            the weights' precision is another, or `training.deterministic` cannot take effect any more.
    """
    training = config.training
    device = choose_device(training.device)
    kind = torch.device(device).type
    if config.model.dtype == "bfloat16" and training.precision != "bf16":
        raise ConfigError(
            "training.precision: must be bf16 where model.dtype is bfloat16, in which forward passes then run, "
            f"got {training.precision}"
        )
    if training.precision == "fp16" and kind == "cpu":
        raise ConfigError("training.precision: fp16 needs an accelerator; on a CPU it must be fp32 or bf16, got fp16")
    threads = training.threads or torch.get_num_threads()
    resolved = replace(config, training=replace(training, device=device, threads=threads))
    check_determinism(resolved.training)
    check_quantization(resolved)
    check_attention(resolved)
    return resolved


def choose_device(device: str | None, key: str = "training.device") -> str:
    """Returns the name of the device that `device` asks for; None: an accelerator where there is one.

    Raises:
        ConfigError: this machine has no such device; begins with `key`.
    """
    device = device or _best_device()
    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise ConfigError(f"{key}: must be cpu, cuda, cuda:<n> or mps, got {device!r}") from error
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not present.get(kind, False):
        there = ", ".join(name for name, is_there in present.items() if is_there)
        raise ConfigError(f"{key}: must be one that this machine has ({there}), got {device!r}")
    return device


def make_accelerator(config: Config) -> Accelerator:
    """Returns the process's accelerator, for `config`'s precision and device.

    Raises:
        ConfigError: this process already runs another precision.
    """
    training = config.training
    wanted = "no" if training.precision == "fp32" else training.precision
    state = AcceleratorState._shared_state
    present = state.get("_mixed_precision", wanted) if state else wanted
    if present != wanted:
        running = "fp32" if present == "no" else present
        raise ConfigError(
            f"training.precision: one process runs one precision; this one runs {running}, got {training.precision}"
        )
    torch.set_num_threads(training.threads or torch.get_num_threads())
    return Accelerator(mixed_precision=wanted, cpu=training.device == "cpu")


@contextmanager
def memory_advice(advice: str) -> Iterator[None]:
    """Turns an error of memory that does not suffice into one that says which settings to change.

    Raises:
        TrainingError: memory did not suffice.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        first = (text_of(error) or "no detail given").splitlines()[0]
        raise TrainingError(f"out of memory: {first}. Worth changing: {advice}") from error


def is_out_of_memory(error: Exception) -> bool:
    """Says whether an error means that memory, of the machine or of its accelerator, does not suffice."""
    return isinstance(error, MemoryError) or bool(should_reduce_batch_size(error))


def describe_hardware() -> dict[str, str]:
    """Returns what the run's tags say of the machine: processor, its capability, cores, accelerator; no host name."""
    return {
        "processor": _processor(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),  # which kernels torch takes; the bits depend on it
        "cores": str(os.cpu_count()),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
    }


def peak_memory_bytes() -> int:
    """Returns the most memory that the process has held: on the accelerator where there is one, else resident."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    own = _own_peak()
    if own:
        return own
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak) if sys.platform == "darwin" else int(peak) * 1024


def _own_peak() -> int:
    """Returns the peak that Linux keeps for this process, 0 elsewhere; a child's `ru_maxrss` begins at its parent's."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)


def _best_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:  # noqa: PTH123 - a kernel file, not a path of ours
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()
