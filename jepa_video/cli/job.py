"""One pretraining job: objects from options, the run's folder, the fit, and what comes after."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentParser, Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.loggers import Logger
from rich.console import Console

from ..data.datamodule import VideoDataModule
from ..energies.contrastive import NoContrast
from ..energies.regularizers import NoRegularizer
from ..errors import UserError
from ..evaluation.after_pretrain import conclude, last_screen
from ..evaluation.probing import primary_label
from ..interop.start import start_from
from ..training.logs import tensorboard_logger, wandb_logger, wandb_mode
from ..training.pretrain import Parts, fit, make_trainer, prepare, quiet, start_lines
from ..training.progress import console
from ..training.run import Run, only_writer, write_whole
from ..training.stops import EXIT_INTERRUPT, RunStopped, StopRequests
from ..training.video_jepa import VideoJEPA


def main_process() -> bool:
    """Whether this process is rank 0, as far as its surroundings say."""
    names = ("RANK", "SLURM_PROCID", "LOCAL_RANK")
    return next((os.environ[name] for name in names if name in os.environ), "0") == "0"


class Job:
    """A pretraining run from its settings to its report.

    Args:
        parser: made `config`, and writes it down.
        config: every option.
        screen: where lines for a person go; the terminal if None.

    Raises:
        UserError: settings that do not fit together, or data that cannot be used.
    """

    def __init__(
        self, parser: ArgumentParser, config: Namespace, screen: Console | None = None
    ) -> None:
        quiet()
        self.parser, self.config, self.screen = parser, config, screen or console()
        if not 0 <= config.seed < 2**63:
            raise UserError(f"seed must be from 0 to below 2^63, not {config.seed}")
        torch.manual_seed(config.seed)
        try:
            made = parser.instantiate(config)
        except (ValueError, TypeError, ImportError, MisconfigurationException) as error:
            raise UserError(" ".join(str(error).split())) from error
        self.module: VideoJEPA = made.model
        if config.init is not None and config.resume is None:
            self.screen.print(start_from(self.module, config.init), markup=False)
        self.data: VideoDataModule = made.data
        self.made = made
        self.trainer_options: dict[str, Any] = dict(vars(made.trainer))
        # Says what this machine cannot do, before the data is read.
        trainer = make_trainer(self.trainer_options)
        self.alone, self.device = trainer.world_size == 1, trainer.strategy.root_device
        self._same_length()
        self.data.setup()
        self._enough()
        primary_label(
            self.data, made.probe
        )  # a label that is not there is told now, not at the end

    def _same_length(self) -> None:
        self.data.suit(self.module.frames, self.module.encoder.image)
        frames, wanted = self.data.settings.frames, self.module.frames
        if frames != wanted and self.module.level2.windows > 1:
            raise UserError(
                f"data.frames is {frames} where model.encoder.frames times model.level2.windows is "
                f"{wanted}: give data.frames as many"
            )
        if frames != wanted:
            raise UserError(
                f"data.frames is {frames} and model.encoder.frames is {wanted}: leave data.frames "
                "out, which then is the encoder's"
            )

    def _enough(self) -> None:
        """A variance needs two: one clip a batch has none of clips' means."""
        clips = min(self.data.batch_size, len(self.data.clips("train")))
        if clips < 2 and self._compares_clips():
            raise UserError(
                f"{self.data.root} gives batches of one clip, and terms that compare clips need "
                "two: give more training videos, a larger data.batch_size, or "
                "--model.regularize '[tokens]' without a contrast"
            )

    def _compares_clips(self) -> bool:
        """Whether a batch of this process must hold two clips for all terms of the loss."""
        idle = isinstance(self.module.regularizer, NoRegularizer)
        pushes = not isinstance(self.module.contrast, NoContrast)
        return self.alone and (pushes or "clips" in self.module.regularize and not idle)

    def run(self, run: Run, resume_from: Path | None, stops: StopRequests, started: float) -> None:
        """Train, evaluate and show.

        Args:
            run: the folder.
            resume_from: checkpoint to go on from.
            stops: requests to stop.
            started: reading of the monotonic clock when the command began.

        Raises:
            RunStopped: after Ctrl-C or SIGTERM, with a checkpoint written.
        """
        if not main_process():
            fit(self._parts(run, stops), resume_from)
            return
        with only_writer(run):
            self._write_config(run)
            (run.path / "summary.json").unlink(missing_ok=True)  # a run that has one is finished
            parts = self._parts(run, stops)
            for line in start_lines(parts):
                self.screen.print(line, markup=False)
            try:
                fit(parts, resume_from)
                if stops.code is not None:
                    raise RunStopped(stops.code)
            except RunStopped as stop:
                self._say_stopped(parts, stop.code)
                raise
            self._conclude(parts, started)

    def _parts(self, run: Run, stops: StopRequests) -> Parts:
        return prepare(
            run,
            self.module,
            self.data,
            self.trainer_options,
            stops=stops,
            loggers=self._loggers(run) if main_process() else [],
            checkpoint=self.made.checkpoint,
            watch=self.made.watch,
            screen=self.screen,
            seed=self.config.seed,
        )

    def _loggers(self, run: Run) -> list[Logger]:
        """The logs of wandb and TensorBoard, as far as asked for and able to start."""
        from .options import flat

        settings = flat(self.parser, self.config)
        found: list[Logger | None] = [wandb_logger(run, wandb_mode(self.config.wandb), settings)]
        if self.config.tensorboard:
            found.append(tensorboard_logger(run))
        return [logger for logger in found if logger is not None]

    def _write_config(self, run: Run) -> None:
        """Every setting, as it is run; what belongs to one call alone is left out."""
        kept = self.config.clone()
        kept.config = kept.resume = None
        kept.name = run.name
        write_whole(run.config, self.parser.dump(kept))

    def _say_stopped(self, parts: Parts, code: int) -> None:
        why = "Ctrl-C" if code == EXIT_INTERRUPT else "SIGTERM"
        step = parts.trainer.global_step
        self.screen.print(f"stopped by {why} at step {step}; a checkpoint is written. To go on:")
        self.screen.print(f"  jepa-video pretrain --resume {parts.run.path}", markup=False)

    def _conclude(self, parts: Parts, started: float) -> None:
        self.screen.print("evaluating on held-out videos ...")
        clips, wait = parts.health.total()
        facts: dict[str, Any] = {
            "steps": parts.trainer.global_step,
            "seed": self.config.seed,
            "clips_per_second": clips,
            "data_wait": wait,
            "videos": len(self.data.clips("train").paths),
            "unreadable": len(self.data.unreadable),
            "lone_batches": parts.health.lone if self._compares_clips() else 0,
        }
        if facts["lone_batches"]:
            self.screen.print(
                f"{facts['lone_batches']} batches had one readable clip: they were trained on "
                "without the terms that compare clips"
            )
        device = parts.trainer.strategy.root_device
        probe, held_out = self.made.probe, parts.held_out
        summary = conclude(parts.run, self.module, self.data, held_out, facts, probe, device)
        last_screen(parts.run, summary, self.screen, started)
