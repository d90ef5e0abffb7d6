"""What tests of killed runs share: a process that dies at a step, and a strategy that has much to lose."""

import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from typing_extensions import override

from cl_mlm.strategy import RunView, Strategy


class Restless(Strategy):
    """Changes parameters and gathers state at every step."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    @override
    def after_step(self, run: RunView) -> None:
        import torch

        with torch.no_grad():
            for parameter in run.trainable().values():
                parameter.mul_(1 - 1e-4 * (len(self.seen) % 7))
        self.seen.append(run.stage_index * 1000 + run.step)

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen}

    @override
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.seen = list(state["seen"])


@contextmanager
def signalled_at(step: int, number: int = signal.SIGKILL) -> Iterator[None]:
    """Sends this process a signal at the end of its `step`-th optimiser step."""
    from cl_mlm.training.loop import StageTraining

    taken, take_step = [0], StageTraining.take_step

    def count(self: StageTraining, micro_batches: Any) -> None:
        take_step(self, micro_batches)
        taken[0] += 1
        if taken[0] == step:
            os.kill(os.getpid(), number)

    with patch.object(StageTraining, "take_step", count), heard(number):
        yield


@contextmanager
def heard(*numbers: int) -> Iterator[None]:
    """Signals have their usual effect within the block, also where this process was started with them ignored."""
    usual = {signal.SIGINT: signal.default_int_handler}
    before = {number: signal.getsignal(number) for number in numbers}
    ignored = [number for number, handler in before.items() if handler is signal.SIG_IGN]
    for number in ignored:
        signal.signal(number, usual.get(signal.Signals(number), signal.SIG_DFL))
    try:
        yield
    finally:
        for number in ignored:
            signal.signal(number, before[number])


def die_at(step: int, work: Callable[[], object]) -> int:
    """Runs `work` in a forked child, which has everything imported already and is killed after its `step`-th step.

    Returns:
        How the child ended: the negative number of the signal, 1 for an error, 0 where it came to the end.
    """
    child = os.fork()
    if child == 0:
        code = 1
        try:
            with signalled_at(step):
                work()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
