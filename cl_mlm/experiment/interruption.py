"""Ctrl-C, SIGTERM and SIGHUP: a run in training ends after the step it is in, with a checkpoint written."""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import threading
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Final

from cl_mlm.errors import SignalExit

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
QUIET_SECONDS: Final = 0.5  # what has ended by then needs no answer


class Interruption:
    """Listens for signals that ask a command to end, and answers them on standard error.

    Between the steps of a stage the first signal is only noted, and the loop ends the run after the next step; a second
    signal, and any signal elsewhere, ends the run at once: encoding, evaluation and hooks of strategies can take long.

    Python hears a signal between two of its own instructions, so a long backward pass delays that. The answer comes
    from a thread that the C level wakes, within a second.

    Attributes:
        asked: the signal that asked the run to end; None: none has.
        cuts: what a second signal in training cuts short.
    """

    def __init__(self, *, is_told: bool = True) -> None:
        self.asked: signal.Signals | None = None
        self.cuts = "this step"
        self._is_told = is_told
        self._training = self._held = False
        self._is_noted = False  # a signal came in training
        self._cut = ""  # what a second one has cut short
        self._num_answered = 0
        self._process = os.getpid()

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handles the signals within the block; only the main thread can, elsewhere nothing is changed."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in SIGNALS}
        # What is ignored stays so, as under nohup; a handler that is not Python's (None) could not be put back.
        before = {number: handler for number, handler in before.items() if handler not in (signal.SIG_IGN, None)}
        with self._answering():
            for number in before:
                signal.signal(number, self._hear)
            try:
                yield
            finally:
                for number, handler in before.items():
                    signal.signal(number, handler)

    @contextmanager
    def at_steps(self) -> Iterator[None]:
        """Within the block, from its first step to its last, the loop itself looks at `asked` after every step."""
        try:
            yield
        finally:
            self._training = False
        if self.asked is not None:
            self.end()

    def step_done(self, *, is_last: bool) -> None:
        """A step is done, and the checkpoint after it; a signal after the last step waits for none."""
        self._training = not is_last

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Within the block a checkpoint may be written."""
        before, self.cuts = self.cuts, "the writing of a checkpoint"
        try:
            yield
        finally:
            self.cuts = before

    @contextmanager
    def held(self) -> Iterator[None]:
        """Within the block, a short one, a signal changes nothing: it is only noted."""
        self._held = True
        try:
            yield
        finally:
            self._held = False

    def end(self) -> None:
        """Ends the run for the signal that was noted.

        Raises:
            KeyboardInterrupt: for SIGINT.
            SignalExit: for SIGTERM and SIGHUP, with 128 plus its number, as a shell counts.
        """
        if self.asked is None or self.asked == signal.SIGINT:
            raise KeyboardInterrupt
        raise SignalExit(128 + self.asked)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        # Of two signals during one long operation Python tells once.
        again = self.asked is not None or self._num_answered > 1
        self.asked = signal.Signals(number)
        if again and self._training:
            self._cut = self.cuts
        self._is_noted = self._is_noted or self._training
        # A process that a strategy has forked is none that trains: it ends as other processes do.
        if os.getpid() != self._process or (not self._held and (again or not self._training)):
            self.end()

    @contextmanager
    def _answering(self) -> Iterator[None]:
        if not self._is_told:
            yield
            return
        _end_at_fork()
        receiver, sender = socket.socketpair()
        with receiver, sender:
            sender.setblocking(False)
            before = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
            thread = threading.Thread(target=self._answer, args=(receiver,), name="signals", daemon=True)
            thread.start()
            try:
                yield
            finally:
                signal.set_wakeup_fd(before)
                sender.close()  # the thread tells what came before, and ends
                thread.join(1.0)

    def _answer(self, receiver: socket.socket) -> None:
        """Runs in the thread: tells for every signal what happens now."""
        while numbers := receiver.recv(64):
            for number in numbers:
                if number in SIGNALS:
                    self._num_answered += 1
                    self._tell(signal.Signals(number), receiver)

    def _tell(self, number: signal.Signals, receiver: socket.socket) -> None:
        name = "Ctrl-C" if number == signal.SIGINT else number.name
        cut = self._cut or (self.cuts if self._training and self._num_answered > 1 else "")
        if cut:
            text = f"ends at once; cut short: {cut}; the checkpoint before it is kept"
        elif self._is_noted or self._training:
            text = "writing a checkpoint after this step, then the run ends; once more ends it at once, without one"
        # Outside training a command ends at once, and says so itself, unless a long operation holds it.
        elif select.select([receiver], [], [], QUIET_SECONDS)[0]:
            return
        else:
            text = "ends as soon as the present operation does; what was measured is kept"
        print(f"{name}: {text}", file=sys.stderr, flush=True)


@cache
def _end_at_fork() -> None:
    """Lets no forked process tell its signals to the thread of its parent."""
    os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))
