"""Ctrl-C and SIGTERM: finish the step, write a checkpoint, leave with the code that says why."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

EXIT_INTERRUPT: Final = 130  # 128 + SIGINT
EXIT_TERMINATE: Final = 143  # 128 + SIGTERM
PARENT: Final = "JEPA_VIDEO_PARENT"  # in the environment: the process that a run stops with


class RunStopped(Exception):
    """The run was asked to stop and has a checkpoint; `code` is what the process exits with."""

    def __init__(self, code: int) -> None:
        super().__init__(f"stopped with exit code {code}")
        self.code = code


class StopRequests:
    """What was asked for so far.

    Outside of training a signal ends the process at once. While the training loop runs, the first
    one only sets `code`, because a checkpoint is exact only between two steps; the second one ends
    the process, because a person who asks twice means it.
    """

    def __init__(self) -> None:
        self.training = self._listening = False
        self.code: int | None = None

    def receive(self, number: int, frame: FrameType | None = None) -> None:
        """The signal handler."""
        code = EXIT_INTERRUPT if number == signal.SIGINT else EXIT_TERMINATE
        if not self.training or self.code is not None:
            print("\nstopped", file=sys.stderr, flush=True)
            raise SystemExit(code)
        self.code = code
        print("\nstopping after this step (once more: at once)", file=sys.stderr, flush=True)

    def start(self) -> None:
        """Training begins: from here on a request waits for the end of its step.

        Lightning puts a handler of its own in front of ours, which calls a collective. A signal
        that comes while this rank is inside another one then stops all ranks for ever: the handler
        is ours again, and `Checkpointer` tells the ranks between two steps.
        """
        self.training = True
        if self._listening:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, self.receive)

    @contextmanager
    def heard(self) -> Iterator[StopRequests]:
        """Listen to SIGINT and SIGTERM inside the block, as far as this thread may."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self.receive) for number in numbers}
        self._listening = True
        try:
            yield self
        finally:
            self._listening = False
            for number, handler in before.items():
                signal.signal(number, handler)


def stop_with(parent: int, pause: float = 1.0) -> None:
    """From now on stop as at SIGTERM where the process that began this one is gone.

    A kill of that one tells nobody; without it a run goes on for hours, and keeps its folder.
    """

    def look() -> None:
        while os.getppid() == parent:
            time.sleep(pause)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=look, daemon=True).start()
