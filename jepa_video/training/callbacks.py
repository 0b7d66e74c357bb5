"""What watches a run without touching it: speed and data health, held-out clips, frozen use."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import StringIO
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from .logs import CsvLog, CsvTable, log_everywhere
from .run import Run, write_whole

Batch = Mapping[str, Tensor]


@contextmanager
def undisturbed(trainer: Trainer, module: LightningModule) -> Iterator[None]:
    """Measure inside: no gradient, evaluation mode; modes and generators come back after it."""
    modes = [(part, part.training) for part in module.modules()]
    device = trainer.strategy.root_device
    devices = [device] if device.type == "cuda" else []
    module.eval()
    try:
        with (
            torch.random.fork_rng(devices),
            torch.no_grad(),
            trainer.precision_plugin.forward_context(),
        ):
            yield
    finally:
        for part, mode in modes:
            part.training = mode


def step_is_done(trainer: Trainer, batch_idx: int) -> bool:
    """Whether this batch ended an optimiser step, rather than adding to one."""
    return (batch_idx + 1) % trainer.accumulate_grad_batches == 0 or trainer.is_last_batch


def log_interval(trainer: Any) -> int:
    """Optimiser steps between two rows of the log; the Trainer sets it where types do not see."""
    return max(int(trainer.log_every_n_steps), 1)


class Schedules(Callback):
    """Logs the learning rate and the weight decay that a step was taken with.

    Where groups of weights have rates of their own it is the highest.
    """

    def __init__(self) -> None:
        self._rate = 0.0

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """What a step does not log has no number in its row: Lightning would repeat the last one.

        A training in stages stops logging some terms, and a resumed one does not know the last.
        """
        for told in (trainer._results or {}).values():
            if not told.meta.on_epoch:
                told.has_reset = True

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """The rate of this step; by the end of the batch the scheduler has moved on."""
        self._rate = max(group["lr"] for group in optimizer.param_groups)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log into the row of this step."""
        if step_is_done(trainer, batch_idx) and trainer.global_step % log_interval(trainer) == 0:
            self._log(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The last step has a row whatever the interval."""
        if trainer.global_step % log_interval(trainer):
            self._log(trainer)

    def _log(self, trainer: Trainer) -> None:
        decay = trainer.optimizers[0].param_groups[0]["weight_decay"]
        log_everywhere(trainer, {"lr": self._rate, "weight_decay": decay})


def count_of(batch: Batch) -> int:
    """Clips, windows or pairs of a batch."""
    return len(next(iter(batch.values())))


class HeldOut:
    """A fixed sample of held-out clips, read once and kept in memory.

    Args:
        read: gives batches of held-out clips, in a fixed order.
        clips: how many clips to keep.
        megabytes: bound on their size.
    """

    def __init__(
        self, read: Callable[[], Iterator[Batch]], clips: int = 256, megabytes: float = 512
    ) -> None:
        self._read, self.clips, self.megabytes = read, clips, megabytes
        self._batches: list[Batch] | None = None

    def batches(self) -> list[Batch]:
        """`video` uint8 `B T C H W` and `labels` int64 `B L`; empty without held-out data."""
        if self._batches is None:
            self._batches = []
            count, size = 0, 0.0
            for batch in self._read():
                if len(batch["video"]) == 0:
                    continue
                self._batches.append(batch)
                count += len(batch["video"])
                size += batch["video"].nbytes / 1e6
                if count >= self.clips or size >= self.megabytes:
                    break
        return self._batches


class DataHealth(Callback):
    """Clips a second, the share of time spent waiting for data, and the files that do not read.

    Comes last: the time from its `on_train_batch_end` to its `on_train_batch_start` is the wait.
    Speed goes to `timings.csv` and not to `metrics.csv`, which is the same for the same seed.

    Args:
        run: the folder.
        unreadable: gives the rows of `unreadable.csv` found so far.
        every_n_steps: optimiser steps between two rows of `timings.csv`.
    """

    def __init__(
        self,
        run: Run,
        unreadable: Callable[[], Sequence[tuple[str, str]]] = list,
        every_n_steps: int = 50,
    ) -> None:
        self.run, self.unreadable, self.every_n_steps = run, unreadable, every_n_steps
        self.table = CsvTable(run.timings)
        self.clips = self.seconds = self.waited = 0.0  # over the whole run
        self.lone = 0  # batches of which one clip could be read
        self._row = self._window = (0.0, 0.0, 0.0)  # where the row, and the last seconds, began
        self._windows: list[tuple[float, float, float]] = []
        self._mark = 0.0
        self._listed = -1

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._mark = time.monotonic()
        self._row = (self.clips, self.seconds, self.waited)
        self._windows = [self._row]

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """The wait is over."""
        now = time.monotonic()
        self.lone += count_of(batch) == 1  # here: a checkpoint of this step has counted it
        self.waited += now - self._mark
        self.seconds += now - self._mark
        self._mark = now

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the clips; now and then write a row."""
        now = time.monotonic()
        self.seconds += now - self._mark
        self._mark = now
        self.clips += count_of(batch) * trainer.world_size
        self._windows = [*self._windows[-20:], (self.clips, self.seconds, self.waited)]
        due = trainer.global_step % self.every_n_steps == 0 and step_is_done(trainer, batch_idx)
        if due and trainer.is_global_zero:
            self._write(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Bring all to the files."""
        if trainer.is_global_zero:
            if self.clips > self._row[0]:  # else the last row has it all
                self._write(trainer)
            self.write_unreadable()
            self.table.flush()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """What is known about the data is worth most when a run fails."""
        if trainer.is_global_zero:
            self.table.flush()
            self.write_unreadable()

    def recent(self) -> tuple[float, float]:
        """Clips a second and the share of waiting over the last batches."""
        return _rates(self._windows[0], self._windows[-1])

    def total(self) -> tuple[float, float]:
        """Clips a second and the share of waiting over the whole run, all processes together."""
        return _rates((0.0, 0.0, 0.0), (self.clips, self.seconds, self.waited))

    def write_unreadable(self) -> None:
        """Write `unreadable.csv` where the list has grown."""
        rows = self.unreadable()
        if len(rows) == self._listed:
            return
        self._listed = len(rows)
        out = StringIO(newline="")
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["path", "reason"])
        writer.writerows(rows)
        write_whole(self.run.unreadable, out.getvalue())

    def _write(self, trainer: Trainer) -> None:
        now = (self.clips, self.seconds, self.waited)
        clips, wait = _rates(self._row, now)
        self._row = now
        self.write_unreadable()
        values = {"clips_per_second": clips, "data_wait": wait, "unreadable": float(self._listed)}
        self.table.add(values | {"seconds": self.seconds}, trainer.global_step)
        for logger in trainer.loggers:
            if not isinstance(logger, CsvLog):
                logger.log_metrics(values, step=trainer.global_step - 1)

    def state_dict(self) -> dict[str, Any]:
        """Totals, so that a resumed run reports on the whole of it."""
        totals = {"clips": self.clips, "seconds": self.seconds, "waited": self.waited}
        return {**totals, "lone": self.lone}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self.clips, self.seconds = state_dict["clips"], state_dict["seconds"]
        self.waited, self.lone = state_dict["waited"], state_dict.get("lone", 0)


def _rates(
    before: tuple[float, float, float], after: tuple[float, float, float]
) -> tuple[float, float]:
    clips, seconds, waited = (b - a for a, b in zip(before, after, strict=True))
    return (clips / seconds, waited / seconds) if seconds > 0 else (0.0, 0.0)
