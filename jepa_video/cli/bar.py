"""How far a job over many files is: a bar in a terminal, a line now and then in a log file."""

from __future__ import annotations

import time
from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn


class Bar:
    """Called with what is done and what there is to do; a context that closes the bar.

    Args:
        screen: where to write.
        doing: what is done, as `embedding`.
        what: what is counted, as `videos`.
        every_seconds: pause between two plain lines where the screen is not a terminal.
    """

    def __init__(
        self, screen: Console, doing: str, what: str = "videos", every_seconds: float = 20.0
    ) -> None:
        self.screen, self.doing, self.what, self.every = screen, doing, what, every_seconds
        self._start = self._said = time.monotonic()
        self._begun: dict[str, int] = {}
        self._now: dict[str, int] = {}
        self._bar: Progress | None = None

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, done: int, total: int, also: Mapping[str, int] | None = None) -> None:
        """Show that `done` of `total` are done; `also` counts what came with them, by its name."""
        now = time.monotonic()
        self._now = {self.what: done, **(also or {})}
        for what, count in self._now.items():
            self._begun.setdefault(what, count)
        text = f"{self.doing}  {done} of {total} {self.what}  {self.rates()}"
        if not self.screen.is_terminal:
            if now - self._said >= self.every:
                self._said = now
                self.screen.print(text)
            return
        if self._bar is None:
            columns = (BarColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
            self._bar = Progress(*columns, console=self.screen, refresh_per_second=4)
            self._bar.add_task(text, total=total)
            self._bar.start()
        self._bar.update(self._bar.task_ids[0], completed=done, description=text)

    def rates(self) -> str:
        """How much a second since the first call, of all that is counted."""
        seconds = max(time.monotonic() - self._start, 1e-9)
        told = []
        for what, count in self._now.items():
            unit = "" if what == self.what else f"{what} "
            told.append(f"{(count - self._begun[what]) / seconds:.1f} {unit}a second")
        return ", ".join(told)
