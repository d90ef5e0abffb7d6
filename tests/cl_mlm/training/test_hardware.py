import resource
import socket
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from cl_mlm.config.schema import Config, TrainingConfig
from cl_mlm.errors import ConfigError
from cl_mlm.training.hardware import describe_hardware, make_accelerator, peak_memory_bytes, resolve_hardware

pytestmark = pytest.mark.usefixtures("fresh_process")


def config_of(**training):
    return Config(training=TrainingConfig(**{"device": "cpu", "threads": 1, **training}))


def test_threads_and_device_are_filled_in():
    resolved = resolve_hardware(config_of(device=None, threads=None)).training
    assert resolved.threads == torch.get_num_threads()
    assert torch.device(resolved.device).type in ("cpu", "cuda", "mps")


def test_what_is_given_stays():
    config = config_of(threads=3)
    assert resolve_hardware(config) == config


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "meta"])
def test_a_device_that_does_not_exist_is_refused(device):
    with pytest.raises(ConfigError, match=r"^training.device: must be "):
        resolve_hardware(config_of(device=device))


def test_a_device_that_this_machine_lacks_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"^training.device: must be one that this machine has \(cpu.*got 'cuda:1'$"):
        resolve_hardware(config_of(device="cuda:1"))


def test_fp16_on_a_cpu_is_refused():
    with pytest.raises(
        ConfigError, match=r"^training.precision: fp16 needs an accelerator; .* must be fp32 or bf16, got fp16"
    ):
        resolve_hardware(config_of(precision="fp16"))


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_the_accelerator_runs_in_the_precision_asked_for(precision, dtype):
    accelerator = make_accelerator(config_of(precision=precision))
    with accelerator.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype
    assert accelerator.device.type == "cpu"


def test_the_accelerator_takes_the_number_of_threads():
    make_accelerator(config_of(threads=2))
    assert torch.get_num_threads() == 2


def test_a_second_precision_in_one_process_is_refused():
    make_accelerator(config_of())
    make_accelerator(config_of())
    with pytest.raises(ConfigError, match=r"one process runs one precision; this one runs fp32, got bf16$"):
        make_accelerator(config_of(precision="bf16"))


def test_precision_is_part_of_a_runs_identity():
    config = config_of()
    others = [
        replace(config, training=replace(config.training, **change))
        for change in ({"precision": "bf16"}, {"threads": 2})
    ]
    assert len({config.run_name, *(other.run_name for other in others)}) == 3


def test_hardware_is_described_without_a_host_name():
    found = describe_hardware()
    assert set(found) == {"processor", "cpu_capability", "cores", "accelerator"}
    assert all(found.values())
    assert socket.gethostname() not in found.values()


@pytest.mark.parametrize(("platform", "expected"), [("linux", 3_000 * 1024), ("darwin", 3_000)])
def test_peak_memory_is_in_bytes_on_every_platform(monkeypatch, platform, expected):
    """Where the kernel does not tell the process's own peak: Linux reports kilobytes, macOS bytes."""
    monkeypatch.setattr("cl_mlm.training.hardware._own_peak", lambda: 0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(resource, "getrusage", lambda who: SimpleNamespace(ru_maxrss=3_000))
    monkeypatch.setattr(sys, "platform", platform)
    assert peak_memory_bytes() == expected


def test_peak_memory_of_this_process_is_that_of_one_with_torch_loaded():
    assert 50_000_000 < peak_memory_bytes() < 50_000_000_000


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells a process's own peak")
def test_a_childs_peak_memory_does_not_begin_at_its_parents():
    """A parent with 1 GB beside what it needs, and a child that imports torch and holds nothing."""
    ballast = bytearray(1_000_000_000)
    own = "from cl_mlm.training.hardware import _own_peak; print(_own_peak())"
    found = subprocess.run([sys.executable, "-c", own], capture_output=True, text=True, check=True)
    assert len(ballast) > int(found.stdout) > 1_000_000
