"""Arms in processes of their own: what needs its own precision, its own threads beside it, or its own peak of memory.

A child reads numbers of steps from standard input, one a line, and answers each with one line of JSON.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.speed import arm_hand
from benchmarks.speed.intervals import Block
from benchmarks.speed.stepper import Stepper, Tick, cpu_clock, device_clock
from benchmarks.speed.workload import ROOT, Workload


class Child:
    """An arm in a process of its own; it sleeps while another works.

    Attributes:
        peak: the most bytes that it has held, as of its last answer.
        logging: processor seconds of the last block that MLflow's thread took.
    """

    def __init__(self, work: Workload, name: str, precision: str | None = None, uri: str | None = None) -> None:
        command = [sys.executable, "-m", "benchmarks.speed", "--one-arm", name, "--setting", work.kind]
        command += ["--model", work.model, "--threads", str(work.threads), "--device", work.device]
        command += ["--precision", precision or work.precision]
        if work.rows is not None:
            command += ["--rows", str(work.rows)]
        if uri:
            command += ["--tracking", uri]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True)
        self.peak, self.logging = 0, 0.0

    def block(self, steps: int) -> Block:
        """Lets the child take `steps` steps.

        Raises:
            RuntimeError: it ended instead.
        """
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{steps}\n")
        process.stdin.flush()
        answer = process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{' '.join(map(str, process.args))} ended with status {process.wait()}")
        values = json.loads(answer)
        self.peak, self.logging = values.pop("peak"), values.pop("logging")
        return Block(**values)

    def close(self) -> None:
        """Ends the child."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


def serve(work: Workload, name: str, uri: str | None) -> None:
    """Is the child: works as it is told until standard input ends."""
    answers, sys.stdout = sys.stdout, sys.stderr  # libraries print
    clock = cpu_clock if work.device == "cpu" else device_clock
    senders: list[Any] = []
    arm = Stepper(lambda tick: _train(work, name, uri, tick, senders), clock)
    for line in sys.stdin:
        spent = senders[0].cpu() if senders else 0.0
        block, logging = arm.block(int(line)), 0.0
        if senders:
            beside = senders[0].cpu() - spent
            senders[0].drain()  # waiting for it costs something too, which no training bears
            logging = senders[0].cpu() - spent
            block = replace(block, cpu=block.cpu - beside + logging)
        answer = {**vars(block), "peak": peak_bytes(work.device), "logging": logging}
        print(json.dumps(answer), file=answers, flush=True)
    arm.close()


def peak_bytes(device: str) -> int:
    """Returns the most bytes that this process has held, on the accelerator where it works on one."""
    import torch

    if device != "cpu":
        return int(torch.cuda.max_memory_allocated())
    status = Path("/proc/self/status")
    if status.exists():
        # `ru_maxrss` would do, but Linux hands the parent's on to the process that it starts.
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _train(work: Workload, name: str, uri: str | None, tick: Tick, senders: list[Any]) -> None:
    if name == "hand":
        arm_hand.train(work, tick)
        return
    from benchmarks.speed.arm_ours import Ours, Sender

    ours = Ours(work)
    if uri is not None:
        senders.append(Sender(ours, uri))
    ours.train(tick)
