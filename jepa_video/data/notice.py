"""A line on the error channel about work on files that takes seconds."""

from __future__ import annotations

import sys
import time


class Notice:
    """Says on the error channel what is done to files, where that takes seconds.

    Args:
        where: the files in a word.
        doing: what is done.
        what: what is counted.
    """

    def __init__(self, where: str, doing: str = "examining", what: str = "files") -> None:
        self.where, self.doing, self.what = where, doing, what
        self._start, self._said = time.monotonic(), 0.0

    def __enter__(self) -> Notice:
        return self

    def __exit__(self, *_: object) -> None:
        if self._said and sys.stderr.isatty():
            print("", file=sys.stderr)

    def __call__(self, done: int, total: int) -> None:
        """Say, now and then, that `done` of `total` are done."""
        now = time.monotonic() - self._start
        screen = sys.stderr.isatty()
        if now - self._said > (2.0 if screen else 10.0) or (self._said and done == total):
            self._said = now
            start, end = ("\r", "") if screen else ("", "\n")
            print(
                f"{start}{self.doing} {self.where}: {done} of {total} {self.what}",
                end=end,
                file=sys.stderr,
                flush=True,
            )
