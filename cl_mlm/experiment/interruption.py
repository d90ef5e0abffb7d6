"""Ctrl-C and SIGTERM: a run in training ends after the step it is in, with a checkpoint written."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType


class Interruption:
    """Listens for SIGINT and SIGTERM.

    While a stage is trained the first signal is only noted, and the loop ends the run at the next step; a second
    signal, and any signal outside training, ends the run at once.

    Attributes:
        asked: the signal that asked the run to end; None: none has.
    """

    def __init__(self) -> None:
        self.asked: signal.Signals | None = None
        self._training = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handles both signals within the block; only the main thread can, elsewhere nothing is changed."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._hear) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def at_steps(self) -> Iterator[None]:
        """Within the block the loop itself looks at `asked` after every step."""
        self._training = True
        try:
            yield
        finally:
            self._training = False
        if self.asked is not None:
            self.end()

    def end(self) -> None:
        """Ends the run for the signal that was noted.

        Raises:
            KeyboardInterrupt: for SIGINT.
            SystemExit: for SIGTERM, with 128 plus its number, as a shell counts.
        """
        if self.asked == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + signal.SIGTERM)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        again = self.asked is not None
        self.asked = signal.Signals(number)
        if again or not self._training:
            self.end()
