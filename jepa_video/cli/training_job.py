"""What every verb that trains shares: objects from options, the run's folder, and the fit."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from jsonargparse import ArgumentParser, Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.loggers import Logger
from rich.console import Console

from .. import heap
from ..errors import UserError
from ..training.logs import tensorboard_logger, wandb_logger, wandb_mode
from ..training.pretrain import Parts, fit, make_trainer, quiet
from ..training.progress import console
from ..training.run import Run, only_writer, write_whole
from ..training.stops import EXIT_INTERRUPT, RunStopped, StopRequests


def main_process() -> bool:
    """Whether this process is rank 0, as far as its surroundings say."""
    names = ("RANK", "SLURM_PROCID", "LOCAL_RANK")
    return next((os.environ[name] for name in names if name in os.environ), "0") == "0"


def instantiated(parser: ArgumentParser, config: Namespace) -> Any:
    """The objects that options tell of.

    Raises:
        UserError: which of them cannot be.
    """
    try:
        return parser.instantiate(config)
    except (ValueError, TypeError, ImportError, MisconfigurationException) as error:
        raise UserError(" ".join(str(error).split())) from error


class TrainingJob:
    """A run from its settings to its report; a verb says what is trained, and what comes after.

    Args:
        parser: made `config`, and writes it down.
        config: every option.
        screen: where lines for a person go; the terminal if None.

    Raises:
        UserError: settings that do not fit together, or data that cannot be used.
    """

    verb: ClassVar[str]
    data: Any  # the data module that the verb trains on

    def __init__(
        self, parser: ArgumentParser, config: Namespace, screen: Console | None = None
    ) -> None:
        quiet()
        self.parser, self.config, self.screen = parser, config, screen or console()
        if not 0 <= config.seed < 2**63:
            raise UserError(f"seed must be from 0 to below 2^63, not {config.seed}")
        torch.manual_seed(config.seed)
        self.made = instantiated(parser, config)
        self.data = self.made.data
        self.trainer_options: dict[str, Any] = dict(vars(self.made.trainer))
        # Says what this machine cannot do, before the data is read.
        trainer = make_trainer(self.trainer_options)
        self.parent = os.getppid()  # of a rank that Lightning began, rank 0
        self.alone, self.device = trainer.world_size == 1, trainer.strategy.root_device
        if self.device.type == "cpu":
            heap.keep()
        self.build()

    def build(self) -> None:
        """Make what is trained, list the videos, and refuse what does not fit."""
        raise NotImplementedError

    def refuse(self, run: Run) -> None:
        """Say it where the run that is there cannot go on so; before anything of it is changed.

        Raises:
            UserError: on what it depends.
        """

    def stages(
        self, run: Run, resume_from: Path | None, stops: StopRequests
    ) -> Iterator[tuple[Parts, Path | None]]:
        """What is trained one after the other, each with the checkpoint that it goes on from."""
        raise NotImplementedError

    def start_lines(self, parts: Parts) -> list[str]:
        """What is trained on what, for the screen."""
        raise NotImplementedError

    def conclude(self, run: Run, stages: Sequence[Parts], started: float) -> None:
        """Evaluate and show."""
        raise NotImplementedError

    def run(self, run: Run, resume_from: Path | None, stops: StopRequests, started: float) -> None:
        """Train, evaluate and show.

        Args:
            run: the folder.
            resume_from: checkpoint to go on from.
            stops: requests to stop.
            started: reading of the monotonic clock when the command began.

        Raises:
            RunStopped: after Ctrl-C or SIGTERM, with a checkpoint written.
            UserError: the run that is there cannot go on so.
        """
        self.refuse(run)
        if not main_process():
            for parts, newest in self.stages(run, resume_from, stops):
                fit(parts, newest)
            return
        with only_writer(run):
            write_whole(run.config, self.settings(run.name))
            (run.path / "summary.json").unlink(missing_ok=True)  # a run that has one is finished
            done = []
            for parts, newest in self.stages(run, resume_from, stops):
                for line in self.start_lines(parts):
                    self.screen.print(line, markup=False)
                self._fit(run, parts, newest, stops)
                done.append(parts)
            self.conclude(run, done, started)

    def _fit(self, run: Run, parts: Parts, newest: Path | None, stops: StopRequests) -> None:
        try:
            fit(parts, newest)
            if stops.code is not None:
                raise RunStopped(stops.code)
        except RunStopped as stop:
            self._say_stopped(run, parts, stop.code)
            raise

    def loggers(self, run: Run) -> list[Logger]:
        """The logs of wandb and TensorBoard, as far as asked for and able to start; on rank 0."""
        from .options import flat

        if not main_process():
            return []
        settings = flat(self.parser, self.config)
        found: list[Logger | None] = [wandb_logger(run, wandb_mode(self.config.wandb), settings)]
        if self.config.tensorboard:
            found.append(tensorboard_logger(run))
        return [logger for logger in found if logger is not None]

    def facts(self, parts: Parts) -> dict[str, Any]:
        """What a training knows about itself."""
        clips, wait = parts.health.total()
        return {
            "steps": parts.trainer.global_step,
            "seed": self.config.seed,
            "clips_per_second": clips,
            "data_wait": wait,
            "videos": len(self.data.clips("train").paths),
            "unreadable": len(self.data.unreadable),
        }

    def settings(self, name: str) -> str:
        """Every setting, as it is run under a name; what belongs to one call alone is left out."""
        from .options import head_of

        kept = self.config.clone()
        kept.config = kept.resume = None
        kept.name = name
        return head_of(self.parser.prog) + str(self.parser.dump(kept))

    def _say_stopped(self, run: Run, parts: Parts, code: int) -> None:
        why = "Ctrl-C" if code == EXIT_INTERRUPT else "SIGTERM"
        step = parts.trainer.global_step
        self.screen.print(f"stopped by {why} at step {step}; a checkpoint is written. To go on:")
        self.screen.print(f"  jepa-video {self.verb} --resume {run.path}", markup=False)
