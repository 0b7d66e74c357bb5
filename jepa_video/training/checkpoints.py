"""Checkpoints that a SIGKILL at any moment cannot break, and that resume a run bit for bit.

Symptom: after a kill a run starts over, or goes on from a file that does not load, or repeats the
batches of its last minutes under another draw.
Why: a checkpoint that is written in place is torn for as long as the write takes; a `last` that is
copied or pointed at is torn with it; a checkpoint that is written in the middle of a step holds
weights and a sampler position that do not belong together.
Fix: write to another name, sync, rename; keep two; read the step off the file's name, so that there
is no pointer; save between two optimiser steps and at no other moment.
"""

from __future__ import annotations

import os
import pickle
import shutil
import sys
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer

from ..distributed import rank, world_size
from ..errors import UserError
from ..randomness import STEP, seed_of
from .callbacks import log_interval, step_is_done
from .logs import CsvTable, log_everywhere
from .run import Run, checkpoint_step, checkpoints_of
from .stops import RunStopped, StopRequests

UNREADABLE = (
    OSError, RuntimeError, EOFError, ValueError, KeyError,
    pickle.UnpicklingError, zipfile.BadZipFile,
)  # fmt: skip


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a checkpoint, on the CPU; never runs code that the file brings."""
    content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    return content


def newest_checkpoint(run: Run) -> Path:
    """The newest checkpoint of a run that loads; says so where it had to pass over a newer one.

    Raises:
        UserError: where there is none.
    """
    for path in checkpoints_of(run):
        if path.is_dir():  # sharded by the strategy, which does its own checking
            return path
        try:
            load_checkpoint(path)
            return path
        except UNREADABLE as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            print(f"{path} does not load ({reason}); trying the one before", file=sys.stderr)
    raise UserError(f"{run.path} has no checkpoint to resume from; start the run anew")


def _sync(path: Path) -> None:
    """Bring a file, or the entries of a folder, to the disk."""
    if path.is_dir() and os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class Checkpointer(Callback):
    """Writes `checkpoints/step-*.ckpt` by steps, by time, at the end and when asked to stop.

    Comes after every callback that changes or logs something, so that what it saves is what a
    resumed run needs. Lightning's own `ModelCheckpoint` is not used: it writes in place, and its
    rows of the log come after its file.

    Args:
        run: the folder.
        tables: tables that are cut back to the checkpoint when a run resumes.
        stops: requests to stop.
        every_n_steps: optimiser steps between checkpoints; 0 for none by steps.
        every_minutes: minutes between checkpoints; 0 for none by time.
        keep: how many of the newest to keep.
        seed: of what draws from the global generators in a step.
    """

    def __init__(
        self,
        run: Run,
        tables: tuple[CsvTable, ...] = (),
        stops: StopRequests | None = None,
        every_n_steps: int = 500,
        every_minutes: float = 10.0,
        keep: int = 2,
        seed: int = 0,
    ) -> None:
        self.run, self.tables, self.stops = run, tables, stops or StopRequests()
        self.every_n_steps, self.every_minutes, self.keep = every_n_steps, every_minutes, keep
        self.seed = seed
        self._saved_step = -1
        self._saved_at = time.monotonic()
        self._between_steps = self._owed = False
        self._epoch = 0  # of the last batch; at the end Lightning has moved on

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Cut the tables back to where this run starts from, and start to hear requests."""
        self._saved_step = trainer.global_step
        self._saved_at = time.monotonic()
        self.stops.start()
        if trainer.is_global_zero:
            for table in self.tables:
                table.truncate(trainer.global_step)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """A step begins: from here on nothing may be saved.

        Dropout and stochastic depth draw from the global generators. They are seeded for each
        batch, so that a resumed run draws what it would have drawn, whatever loaders and epochs
        have taken from the generators on the way.
        """
        self._between_steps = False
        self._epoch = trainer.current_epoch
        torch.manual_seed(seed_of(self.seed, STEP, rank(), trainer.global_step, batch_idx))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save where it is due, and stop where that was asked for.

        Not after the last batch of an epoch: what Lightning saves there resumes with an epoch that
        has no batch, or with one that is counted twice. What is due comes one step later (where an
        epoch is longer than a step).
        """
        if not step_is_done(trainer, batch_idx):
            return  # gradients are still being gathered
        code, late = self._asked(trainer)
        self._owed |= self._due(trainer) or late or bool(code)
        longer = trainer.num_training_batches > trainer.accumulate_grad_batches
        self._between_steps = not (trainer.is_last_batch and longer)
        if self._owed and (self._between_steps or trainer.global_step == trainer.max_steps):
            self.save(trainer)
            if code and trainer.global_step != trainer.max_steps:
                raise RunStopped(code)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The end has a row and a checkpoint too, whatever ended the training."""
        if trainer.global_step % log_interval(trainer):
            self._log_row(trainer, trainer.callback_metrics)
        if trainer.global_step != self._saved_step:
            self.save(trainer)
        self.stops.training = False

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Save where the fault came between two steps: a torn step is worth less than none."""
        self.stops.training = False
        if self._between_steps and trainer.global_step > self._saved_step and world_size() == 1:
            self.save(trainer)

    def _asked(self, trainer: Trainer) -> tuple[int, bool]:
        """Exit code that was asked for (0 for none) and whether time is up; alike on all ranks."""
        pause = time.monotonic() - self._saved_at
        late = bool(self.every_minutes) and pause > 60 * self.every_minutes
        code = self.stops.code or 0
        if trainer.world_size == 1:
            return code, late
        if trainer.global_step % log_interval(trainer):
            return 0, False  # asking all ranks costs a wait: not at every step
        heard = torch.tensor([code, int(late)], device=trainer.strategy.root_device)
        dist.all_reduce(heard, dist.ReduceOp.MAX)
        code, late = heard.tolist()
        return code, bool(late)

    def _due(self, trainer: Trainer) -> bool:
        step = trainer.global_step
        by_steps = bool(self.every_n_steps) and step % self.every_n_steps == 0
        return step != self._saved_step and (by_steps or step == trainer.max_steps)

    def save(self, trainer: Trainer) -> Path:
        """Write the checkpoint of this moment and drop the oldest ones. All ranks come here."""
        self._close_rows(trainer)
        path = self.run.checkpoints / f"step-{trainer.global_step:08d}.ckpt"
        partial = path.with_name(f".{path.name}.partial")
        trainer.save_checkpoint(partial)
        if trainer.is_global_zero:
            _sync(partial)
            if path.is_dir():
                shutil.rmtree(path)
            os.replace(partial, path)
            _sync(path.parent)
            self._prune()
        trainer.strategy.barrier("checkpoint")
        self._saved_step, self._saved_at, self._owed = trainer.global_step, time.monotonic(), False
        return path

    def _close_rows(self, trainer: Trainer) -> None:
        """Log the row of this step now: Lightning would do it after the checkpoint is written."""
        if trainer.global_step % log_interval(trainer) == 0:
            self._log_row(trainer, trainer._logger_connector.metrics["log"])
        for table in self.tables:
            table.flush()

    def _log_row(self, trainer: Trainer, metrics: Mapping[str, Any]) -> None:
        if trainer.is_global_zero:
            values = {name: float(value) for name, value in metrics.items()}
            log_everywhere(trainer, values | {"epoch": float(self._epoch)})

    def _prune(self) -> None:
        for path in checkpoints_of(self.run)[self.keep :]:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        for path in self.run.checkpoints.glob(".*.partial"):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


__all__ = ["Checkpointer", "checkpoint_step", "load_checkpoint", "newest_checkpoint"]
