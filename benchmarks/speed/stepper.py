"""Arms in one process: each runs its real loop in its own thread, paused between blocks; only one is ever active."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress

from benchmarks.speed.intervals import Block

Tick = Callable[..., None]
Clock = Callable[[], tuple[float, float]]


class Closed(BaseException):
    """Unwinds a paused loop; no loop catches it."""


def cpu_clock() -> tuple[float, float]:
    """Returns processor seconds of the process and wall-clock seconds."""
    return time.process_time(), time.perf_counter()


def device_clock() -> tuple[float, float]:
    """Returns wall-clock seconds, twice, once the accelerator has nothing more to do."""
    import torch

    torch.cuda.synchronize()
    now = time.perf_counter()
    return now, now


class Stepper:
    """A training loop that can be paused.

    Args:
        work: the whole loop; calls `tick(rows, processed)` after every optimiser step.
        clock: read at the start and at the end of every block.
    """

    def __init__(self, work: Callable[[Tick], None], clock: Clock = cpu_clock) -> None:
        self._work, self._clock = work, clock
        self._go, self._done = threading.Semaphore(0), threading.Semaphore(0)
        self._remaining, self._closing = 0, False
        self._started = (0.0, 0.0)
        self._sums = [0, 0]
        self._block = Block(0, 0.0, 0.0)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def block(self, steps: int) -> Block:
        """Lets the loop take `steps` steps.

        Raises:
            RuntimeError: the loop failed or ended within the block.
        """
        if not self._thread.is_alive():
            raise RuntimeError("the loop has ended") from self._error
        self._remaining, self._sums = steps, [0, 0]
        self._go.release()
        self._done.acquire()
        if self._error is not None:
            raise RuntimeError("the loop failed") from self._error
        return self._block

    def close(self) -> None:
        """Unwinds the loop and waits for its thread."""
        self._closing = True
        self._go.release()
        self._thread.join()

    def _run(self) -> None:
        with suppress(Closed):
            try:
                self._wait()
                self._work(self._tick)
                raise RuntimeError("the loop came to its end within a block")
            except Exception as error:  # handed to `block`
                self._error = error
                self._done.release()

    def _tick(self, rows: int, processed: int | None = None) -> None:
        self._sums[0] += rows
        self._sums[1] += rows if processed is None else processed
        self._remaining -= 1
        if self._remaining == 0:
            cpu, wall = self._clock()
            self._block = Block(self._sums[0], cpu - self._started[0], wall - self._started[1], self._sums[1])
            self._done.release()
            self._wait()

    def _wait(self) -> None:
        self._go.acquire()
        if self._closing:
            raise Closed
        self._started = self._clock()


class Jobs:
    """An arm of whole jobs: a block is one job, whatever the number of steps.

    Args:
        prepare: brings everything to where the job starts; not timed.
        job: does the work; returns its rows.
    """

    def __init__(self, job: Callable[[], int], prepare: Callable[[], None] = lambda: None) -> None:
        self._job, self._prepare = job, prepare

    def block(self, steps: int) -> Block:
        """Does the job once."""
        self._prepare()
        cpu, wall = cpu_clock()
        rows = self._job()
        cpu_end, wall_end = cpu_clock()
        return Block(rows, cpu_end - cpu, wall_end - wall, rows)

    def close(self) -> None:
        """Forgets the job and what it holds."""
        self._job = self._prepare = lambda: 0  # type: ignore[assignment]
