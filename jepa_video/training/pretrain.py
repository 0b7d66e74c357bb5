"""From built objects to a trained module: the Trainer with what watches, logs and saves."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.exceptions import SIGTERMException
from rich.console import Console

from ..data.datamodule import VideoDataModule
from ..data.ledger import Ledger
from ..distributed import part_ways
from ..errors import UserError
from ..models.encoder import VideoEncoder
from .callbacks import Batch, DataHealth, HeldOut, Schedules
from .checkpoints import Checkpointer
from .dashboard import CollapseDashboard, OnlineProbe
from .logs import CsvLog
from .progress import ProgressLine
from .run import Run
from .stops import EXIT_TERMINATE, RunStopped, StopRequests


@dataclass
class CheckpointSettings:
    """When checkpoints are written.

    Args:
        every_n_steps: optimiser steps between two; 0 for none by steps.
        every_minutes: minutes between two; 0 for none by time.
        keep: how many of the newest stay.
    """

    every_n_steps: int = 500
    every_minutes: float = 10.0
    keep: int = 2

    def __post_init__(self) -> None:
        _at_least("checkpoint", self, every_n_steps=0, every_minutes=0, keep=1)


@dataclass
class WatchSettings:
    """How often a run looks at itself.

    Args:
        every_n_steps: optimiser steps between two looks at collapse and at the online probes; 0
            for none.
        clips: held-out clips that it looks at.
        say_every_seconds: pause between two lines where the screen is not a terminal.
    """

    every_n_steps: int = 200
    clips: int = 256
    say_every_seconds: float = 20.0

    def __post_init__(self) -> None:
        _at_least("watch", self, every_n_steps=0, clips=0, say_every_seconds=0)


def _at_least(group: str, settings: object, **lowest: int) -> None:
    for name, low in lowest.items():
        if not getattr(settings, name) >= low:
            raise UserError(f"{group}.{name} must be {low} or more, not {getattr(settings, name)}")


class RunData(Protocol):
    """What a run asks of its data, beside the loaders that Lightning asks for."""

    @property
    def unreadable(self) -> Ledger:
        """The files that could not be read."""

    def held_out(self, clips: int) -> Iterator[Batch]:
        """Batches with about so many held-out clips, in a fixed order."""


@dataclass
class Parts:
    """A run that is ready to train."""

    run: Run
    module: LightningModule
    data: Any  # a LightningDataModule that is RunData too
    trainer: Trainer
    health: DataHealth
    held_out: HeldOut


def prepare(
    run: Run,
    module: LightningModule,
    data: RunData,
    trainer_options: dict[str, Any],
    watchers: Callable[[HeldOut], list[Callback]],
    *,
    stops: StopRequests,
    loggers: list[Logger],
    checkpoint: CheckpointSettings,
    watch: WatchSettings,
    screen: Console,
    seed: int = 0,
) -> Parts:
    """Build the Trainer of a run.

    Args:
        run: its folder.
        module: what is trained.
        data: what on.
        trainer_options: of Lightning's Trainer.
        watchers: makes what measures and logs beside the learning rate, from held-out clips.
        stops: requests to stop.
        loggers: beside `metrics.csv`.
        checkpoint: when to save.
        watch: when to look for collapse and at the online probes.
        screen: where a person reads.
        seed: of what draws from the global generators.

    Raises:
        UserError: options that this machine cannot fulfil.
    """
    held_out = HeldOut(lambda: data.held_out(watch.clips), watch.clips)
    health = DataHealth(run, lambda: data.unreadable.rows())
    log = CsvLog(run.metrics)
    saver = Checkpointer(run, (log.table, health.table), stops, **vars(checkpoint), seed=seed)
    shown = ProgressLine(health, screen, watch.say_every_seconds)
    # What measures and logs comes before the checkpoint is written.
    callbacks: list[Callback] = [Schedules(), *watchers(held_out), saver, shown]
    callbacks.append(health)  # last: what comes after it is waiting for data
    trainer = make_trainer(
        trainer_options, logger=[log, *loggers], callbacks=callbacks, default_root_dir=run.path
    )
    return Parts(run, module, data, trainer, health, held_out)


def collapse_watchers(
    data: VideoDataModule, held_out: HeldOut, watch: WatchSettings, screen: Console
) -> list[Callback]:
    """What watches a pretraining: for collapse, and by probes where there are labels."""
    classes = {name: len(data.classes[name]) for name in data.label_names}

    def say(text: str) -> None:
        screen.print(text, markup=False)

    return [
        CollapseDashboard(held_out, say, watch.every_n_steps),
        OnlineProbe(held_out, classes, watch.every_n_steps),
    ]


def make_trainer(options: dict[str, Any], **rest: Any) -> Trainer:
    """A Trainer without Lightning's own bar, checkpoints and sampler, which ours replace.

    Raises:
        UserError: options that this machine cannot fulfil.
    """
    rest = {"logger": False, **rest}
    if (parts := options.get("accumulate_grad_batches", 1)) < 1:
        raise UserError(f"trainer.accumulate_grad_batches must be 1 or more, not {parts}")
    try:
        trainer = Trainer(
            **options,
            **rest,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
    except (MisconfigurationException, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"trainer: {_first_line(error)}") from error
    cores = os.cpu_count() or 1
    if trainer.strategy.root_device.type == "cpu" and trainer.num_devices > max(8, cores):
        raise UserError(
            f"trainer.devices is {trainer.num_devices}: so many processes are to share "
            f"{cores} CPU cores"
        )
    return trainer


def fit(parts: Parts, resume_from: Path | None = None) -> None:
    """Train; afterwards no process group is left, so that rank 0 can go on alone.

    Raises:
        RunStopped: after Ctrl-C or SIGTERM, with a checkpoint written.
        UserError: options that this machine cannot fulfil, or too many unreadable files.
    """
    try:
        parts.trainer.fit(
            parts.module, datamodule=parts.data, ckpt_path=resume_from, weights_only=True
        )
    except SIGTERMException as error:
        raise RunStopped(EXIT_TERMINATE) from error
    except MisconfigurationException as error:
        raise UserError(f"trainer: {_first_line(error)}") from error
    part_ways()


def start_lines(parts: Parts, *described: str) -> list[str]:
    """What is trained on what, where: a few lines for the screen, `described` among them."""
    data, trainer = parts.data, parts.trainer
    train = len(data.clips("train").paths)
    try:
        held_out = f"{len(data.clips('val').paths)} held out"
    except UserError:
        held_out = "none held out"
    unreadable = f"{len(data.unreadable)} unreadable"
    batch = data.batch_size * trainer.accumulate_grad_batches * trainer.world_size
    where = f"{trainer.num_devices * trainer.num_nodes} x {trainer.strategy.root_device.type}"
    return [
        f"run       {parts.run.path}",
        f"videos    {train} for training, {held_out}, {unreadable} ({data.where})",
        f"labels    {', '.join(data.label_names) or 'none'}",
        *described,
        f"training  {_length(trainer)} of {batch} clips on {where}, {trainer.precision}",
    ]


def _length(trainer: Trainer) -> str:
    return (
        f"{trainer.max_steps} steps" if trainer.max_steps >= 0 else f"{trainer.max_epochs} epochs"
    )


def encoder_words(encoder: VideoEncoder) -> str:
    """Size and shape of an encoder."""
    return (
        f"{millions(encoder.parameters())} parameters, {encoder.num_tokens} tokens from "
        f"{encoder.frames} frames of {encoder.image} x {encoder.image}"
    )


def millions(weights: Iterable[torch.nn.Parameter]) -> str:
    """How many numbers there are in `weights`."""
    return f"{sum(weight.numel() for weight in weights) / 1e6:.1f} M"


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def quiet() -> None:
    """Keep Lightning's tips and torch's warnings from the screen, unless Python was told not to."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if not sys.warnoptions:
        warnings.filterwarnings("ignore", module=r"(lightning|torch|torchdata|wandb|timm)(\.|$)")
