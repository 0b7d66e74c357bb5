"""One fine-tuning job: a pretrained encoder and labels, from settings to report."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from ..errors import UserError
from ..evaluation.after_finetune import (
    Frozen,
    HeldOutLabels,
    conclude,
    frozen_probes,
    last_screen,
)
from ..evaluation.probing import first_weights
from ..interop.weights import load_encoder
from ..models.encoder import VideoEncoder
from ..training.checkpoints import newest_checkpoint
from ..training.finetune import FineTune, HeldOutAccuracy, MeanHead, Train
from ..training.pretrain import Parts, encoder_words, millions, prepare, start_lines
from ..training.run import Run, checkpoints_of
from ..training.stops import StopRequests
from .encoders import data_defaults
from .options import add_room_options, parse, run_parser
from .training_job import TrainingJob, main_process

STEPS = 600
BASELINE = "untrained"  # the folder in the run's own, and the name of its row


def build_parser() -> ArgumentParser:
    """Every option of `finetune`."""
    parser = run_parser("finetune")
    parser.add_argument("--encoder", type=str | None, help="what load_encoder takes")
    parser.add_argument("--label", type=str | None, help="label column; the only one if None")
    parser.add_argument("--per_class", type=int | None, help="most training videos of a class")
    parser.add_argument("--clips", type=int, default=1, help="clips of each held-out video")
    parser.add_argument("--baseline", type=bool, default=False, help="also from random weights")
    parser.add_argument("--train", type=Train, default="full", help="full, last or lora")
    skip = {"encoder", "classes"}
    parser.add_class_arguments(FineTune, "model", skip=skip, instantiate=False)
    parser.link_arguments("train", "model.train")
    add_room_options(parser)
    parser.set_defaults({"trainer.max_steps": STEPS})
    return parser


def parser_for(words: Sequence[str]) -> ArgumentParser:
    """The options of `finetune`, with defaults of the data that follow from the encoder."""
    parser = build_parser()
    if "--help-all" in words:
        return parser
    config = parse(parser, words)
    if config.resume is None and config.encoder is not None:
        parser.set_defaults(data_defaults(config.encoder, load_encoder(config.encoder), words))
    return parser


class FineTuneJob(TrainingJob):
    """A fine-tuning run; arguments and errors are those of every training."""

    verb = "finetune"

    def build(self) -> None:
        """Encoder, labelled videos, and the module of each stage."""
        config = self.config
        if config.encoder is None:
            raise UserError("finetune needs --encoder RUN: what load_encoder takes")
        for name in ("per_class", "clips"):
            if getattr(config, name) is not None and getattr(config, name) < 1:
                raise UserError(f"{name} must be 1 or more, not {getattr(config, name)}")
        encoder = load_encoder(config.encoder)
        self._labelled(encoder)
        self.encoders: dict[str, VideoEncoder] = {
            "pretrained": encoder,
            BASELINE: first_weights(encoder, config.seed),
        }
        stages = ["pretrained", *([BASELINE] if config.baseline else [])]
        self.modules = {name: self._module(self.encoders[name]) for name in stages}

    def _labelled(self, encoder: VideoEncoder) -> None:
        """The videos that have the label."""
        data = self.data
        data.suit(encoder.frames, encoder.image)
        if data.settings.frames != encoder.frames:
            raise UserError(
                f"data.frames is {data.settings.frames} and the encoder takes {encoder.frames}: "
                "leave data.frames out"
            )
        names = data.label_names
        label = self.config.label or (names[0] if len(names) == 1 else None)
        if label is None:
            listed = ", ".join(names) or "none"
            raise UserError(f"give --label, one of the labels of {data.where}: {listed}")
        data.keep_labelled(label, self.config.per_class)
        data.clips("val")  # that there is none is told now, not at the end
        self.label: str = label

    def _module(self, encoder: VideoEncoder) -> FineTune:
        classes = len(self.data.classes[self.label])
        return FineTune(copy.deepcopy(encoder), classes, **vars(self.made.model))

    @cached_property
    def frozen(self) -> tuple[dict[str, Frozen], HeldOutLabels]:
        """Probes on the encoders before they are tuned, and the labels that judge all."""
        clips = self.config.clips
        found = frozen_probes(self.encoders, self.data, self.label, clips, self.device)
        for encoder in self.encoders.values():
            encoder.cpu()
        return found

    def stages(
        self, run: Run, resume_from: Path | None, stops: StopRequests
    ) -> Iterator[tuple[Parts, Path | None]]:
        """From the pretrained encoder, and where asked for from random weights on equal terms."""
        for name, module in self.modules.items():
            place, newest = run, resume_from
            if name == BASELINE:
                place = Run(run.path / BASELINE)
                place.checkpoints.mkdir(parents=True, exist_ok=True)
                newest = newest_checkpoint(place) if checkpoints_of(place) else None
            if newest is None and main_process():  # DDP gives rank 0's weights to all
                self._start(name, module)
            yield self._parts(place, module, stops), newest

    def _start(self, name: str, module: FineTune) -> None:
        """Put the head where the linear probe of the frozen features is."""
        if module.start == "probe" and isinstance(module.head, MeanHead):
            self.screen.print("a linear probe on frozen features, where the head starts ...")
            classes = len(self.data.classes[self.label])
            module.head.start_at(*self.frozen[0][name].start(classes))

    def _parts(self, run: Run, module: FineTune, stops: StopRequests) -> Parts:
        watch = self.made.watch
        return prepare(
            run,
            module,
            self.data,
            self.trainer_options,
            lambda held_out: [HeldOutAccuracy(held_out, watch.every_n_steps)],
            stops=stops,
            loggers=self.loggers(run),
            checkpoint=self.made.checkpoint,
            watch=watch,
            screen=self.screen,
            seed=self.config.seed,
        )

    def start_lines(self, parts: Parts) -> list[str]:
        """With what is trained of the encoder."""
        module = self.modules[BASELINE if parts.run.path.name == BASELINE else "pretrained"]
        trained = millions(p for p in module.parameters() if p.requires_grad)
        how = {"full": "all weights", "last": "the last blocks", "lora": "adapters"}
        words = f"{encoder_words(module.encoder)}; {how[self.made.model.train]} and the head"
        return start_lines(parts, f"encoder   {words} are trained ({trained})")

    def conclude(self, run: Run, stages: Sequence[Parts], started: float) -> None:
        """Judge, export, show."""
        self.screen.print("evaluating on held-out videos ...")
        frozen, known = self.frozen
        facts: dict[str, Any] = self.facts(stages[0])
        facts |= {"label": self.label, "train": self.made.model.train}
        facts |= {"labelled": facts["videos"], "encoder": self.config.encoder}
        device = stages[0].trainer.strategy.root_device
        clips = self.config.clips
        summary = conclude(run, self.modules, frozen, known, self.data, facts, clips, device)
        last_screen(run, summary, self.screen, started)
