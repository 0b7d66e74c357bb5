"""What a person sees while a run trains: a bar in a terminal, a line now and then in a log file."""

from __future__ import annotations

import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from .callbacks import DataHealth


def console() -> Console:
    """The screen; a log file gets plain lines that are not broken at 80 columns."""
    screen = Console(highlight=False)
    if not screen.is_terminal:
        screen = Console(highlight=False, width=200)
    return screen


def duration(seconds: float) -> str:
    """Seconds as `1h 05m`, `7m 20s` or `12s`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes_left = divmod(minutes, 60)
    if hours:
        return f"{hours}h {minutes_left:02d}m"
    return f"{minutes}m {rest:02d}s" if minutes else f"{rest}s"


class ProgressLine(Callback):
    """Step, loss, clips a second, share of the time spent waiting for data, time left.

    Args:
        health: measures the speed.
        screen: where to write.
        every_seconds: pause between two plain lines where the screen is not a terminal.
    """

    def __init__(self, health: DataHealth, screen: Console, every_seconds: float = 20.0) -> None:
        self.health, self.screen, self.every_seconds = health, screen, every_seconds
        self._bar: Progress | None = None
        self._shown_at = self._started_at = 0.0
        self._first_step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the bar."""
        self._shown_at = self._started_at = time.monotonic()
        self._first_step = trainer.global_step
        if trainer.is_global_zero and self.screen.is_terminal:
            self._bar = Progress(
                BarColumn(),
                TextColumn("{task.description}"),
                console=self.screen,
                refresh_per_second=4,
            )
            self._bar.add_task("starting", total=self._total(trainer))
            self._bar.start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Show the state, twice a second in a terminal: reading the loss waits for the device."""
        now = time.monotonic()
        pause = 0.5 if self._bar else self.every_seconds
        if not trainer.is_global_zero or now - self._shown_at < pause:
            return
        self._shown_at = now
        text = self._text(trainer, float(outputs["loss"]), now)
        if self._bar is None:
            self.screen.print(text)
        else:
            task = self._bar.task_ids[0]
            self._bar.update(task, completed=trainer.global_step, description=text)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the bar."""
        self._close()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Close the bar, so that the message that follows stands on a line of its own."""
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _total(self, trainer: Trainer) -> int | None:
        steps = trainer.estimated_stepping_batches
        return int(steps) if steps != float("inf") else None

    def _text(self, trainer: Trainer, loss: float, now: float) -> str:
        step, total = trainer.global_step, self._total(trainer)
        parts = [f"step {step}/{total}" if total else f"step {step}", f"loss {loss:.3f}"]
        clips, wait = self.health.recent()
        parts += [f"{clips:.0f} clips/s", f"data wait {wait:.0%}"]
        done = step - self._first_step
        if total and done:
            parts.append(f"{duration((now - self._started_at) / done * (total - step))} left")
        return "  ".join(parts)
