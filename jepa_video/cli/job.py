"""One pretraining job: a video JEPA from its settings to its report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..energies.contrastive import NoContrast
from ..energies.regularizers import NoRegularizer
from ..errors import UserError
from ..evaluation.after_pretrain import conclude, last_screen
from ..evaluation.probing import primary_label
from ..interop.start import start_from
from ..training.pretrain import (
    Parts,
    collapse_watchers,
    encoder_words,
    millions,
    prepare,
    start_lines,
)
from ..training.run import Run
from ..training.stops import StopRequests
from ..training.video_jepa import VideoJEPA
from .training_job import TrainingJob


class Job(TrainingJob):
    """A pretraining run; arguments and errors are those of every training."""

    verb = "pretrain"
    module: VideoJEPA

    def build(self) -> None:
        """The module, and data that suit it."""
        self.module = self.made.model
        if self.config.init is not None and self.config.resume is None:
            self.screen.print(start_from(self.module, self.config.init), markup=False)
        self._same_length()
        self.data.setup()
        self._enough()
        # A label that is not there is told now, not at the end.
        primary_label(self.data, self.made.probe)

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
                f"{self.data.where} gives batches of one clip, and terms that compare clips need "
                "two: give more training videos, a larger data.batch_size, or "
                "--model.regularize '[tokens]' without a contrast"
            )

    def _compares_clips(self) -> bool:
        """Whether a batch of this process must hold two clips for all terms of the loss."""
        idle = isinstance(self.module.regularizer, NoRegularizer)
        pushes = not isinstance(self.module.contrast, NoContrast)
        compares = {"clips", "places"} & set(self.module.regularize)
        return self.alone and (pushes or bool(compares) and not idle)

    def stages(
        self, run: Run, resume_from: Path | None, stops: StopRequests
    ) -> Iterator[tuple[Parts, Path | None]]:
        """One training."""
        watch = self.made.watch
        parts = prepare(
            run,
            self.module,
            self.data,
            self.trainer_options,
            lambda held_out: collapse_watchers(self.data, held_out, watch, self.screen),
            stops=stops,
            loggers=self.loggers(run),
            checkpoint=self.made.checkpoint,
            watch=watch,
            screen=self.screen,
            seed=self.config.seed,
        )
        yield parts, resume_from

    def start_lines(self, parts: Parts) -> list[str]:
        """With the sizes of encoder and predictor."""
        predictor = millions(self.module.predictor.parameters())
        words = f"{encoder_words(self.module.encoder)}; predictor {predictor}"
        return start_lines(parts, f"encoder   {words}")

    def conclude(self, run: Run, stages: Sequence[Parts], started: float) -> None:
        """Probes, energy gap, export, report."""
        self.screen.print("evaluating on held-out videos ...")
        (parts,) = stages
        facts: dict[str, Any] = self.facts(parts)
        facts["lone_batches"] = parts.health.lone if self._compares_clips() else 0
        if facts["lone_batches"]:
            self.screen.print(
                f"{facts['lone_batches']} batches had one readable clip: they were trained on "
                "without the terms that compare clips"
            )
        device = parts.trainer.strategy.root_device
        probe, held_out = self.made.probe, parts.held_out
        summary = conclude(run, self.module, self.data, held_out, facts, probe, device)
        last_screen(run, summary, self.screen, started)
