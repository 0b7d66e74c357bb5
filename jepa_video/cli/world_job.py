"""One world model job: episodes, and perhaps a pretrained encoder, from settings to result."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser
from lightning.pytorch import Callback

from ..agent.scene import completion, scene_words
from ..agent.world_files import save_world
from ..data.episode_module import EpisodeDataModule
from ..data.episodes import Windows
from ..data.transforms import normalise
from ..errors import UserError
from ..evaluation.after_world import conclude, last_screen
from ..interop.weights import load_encoder
from ..models import timm_encoder  # noqa: F401  an encoder that can be named by its class
from ..models.encoder import VideoEncoder
from ..training.callbacks import HeldOut
from ..training.foresight import refit
from ..training.pretrain import Parts, encoder_words, millions, prepare
from ..training.run import Run
from ..training.stops import StopRequests
from ..training.world_model import WorldModel
from ..training.world_watch import WorldWatch
from .options import add_room_options, own_defaults, parse, run_parser
from .training_job import TrainingJob

STEPS = 2000
SOLVED = 512  # training windows that the readouts are solved on


def build_parser() -> ArgumentParser:
    """Every option of `world`."""
    parser = run_parser("world")
    parser.add_argument("--init", type=str | None, help="encoder to start from, as load_encoder")
    parser.add_argument("--memory", type=int, default=0, help="patches that are remembered")
    parser.add_class_arguments(WorldModel, "model", skip={"facts"}, instantiate=False)
    add_room_options(parser, EpisodeDataModule)
    parser.set_defaults(
        {"trainer.max_steps": STEPS, "data.frames": 24, "data.batch_size": 24, "watch.clips": 192}
    )
    return parser


def parser_for(words: Sequence[str]) -> ArgumentParser:
    """The options of `world`; with --init the encoder is that of the run."""
    parser = build_parser()
    if "--help-all" in words:
        return parser
    own_defaults(parser, words)
    config = parse(parser, words)
    if config.resume is None and config.init is not None:
        parser.set_defaults({"model.encoder": named(load_encoder(config.init))})
    return parser


def named(encoder: VideoEncoder) -> dict[str, Any]:
    """An encoder as a file of settings tells it."""
    kind, config = type(encoder), encoder.config
    settings = {name: value for name, value in config.items() if name != "class"}
    return {"class_path": f"{kind.__module__}.{kind.__qualname__}", "init_args": settings}


class WorldJob(TrainingJob):
    """A world model run; arguments and errors are those of every training."""

    verb = "world"
    data: EpisodeDataModule

    def build(self) -> None:
        """Episodes, and the module that suits them."""
        self.data.completion = completion(self.config.memory)
        self.data.setup()
        facts, settings = self.data.facts, dict(vars(self.made.model))
        Windows(self.data.train, self.data.frames)  # says where no episode is long enough
        if self.config.init is not None:
            settings["encoder"] = partial(self._loaded, facts.size)
        try:
            self.module = WorldModel(facts, **settings)
        except (ValueError, TypeError, RuntimeError) as error:  # sizes that do not fit together
            raise UserError(f"model: {' '.join(str(error).split())}") from error
        states = self.data.train.states
        self.module.standardise(states.mean(0), states.std(0))
        if self.module.encoder.image != facts.size:
            raise UserError(
                f"model.encoder.image is {self.module.encoder.image} and the episodes have "
                f"{facts.size} pixels: give --data.size {self.module.encoder.image}"
            )
        shortest = self.module.encoder.frames + self.module.context
        if min(self.module.piece or self.data.frames, self.data.frames) < shortest:
            raise UserError(
                f"windows need {shortest} frames or more (model.encoder.frames and model.context): "
                f"data.frames is {self.data.frames} and model.piece {self.module.piece}"
            )
        backdrop = getattr(self.module.encoder, "backdrop", None)
        if backdrop is not None and not backdrop.fitted:
            backdrop.fit(normalise(b["video"]) for b in self.data.trained_on(SOLVED))

    def _loaded(self, size: int) -> VideoEncoder:
        """The encoder of --init, for clips and pictures as they are asked for.

        Raises:
            UserError: anything else of it is asked for otherwise.
        """
        asked = self.config.model.encoder.init_args
        encoder = load_encoder(self.config.init, frames=asked.get("frames"), image=size)
        for name, value in encoder.config.items():
            if name not in ("class", "image") and asked.get(name, value) != value:
                raise UserError(
                    f"model.encoder.{name} is {value} in {self.config.init}, not {asked[name]}"
                )
        return encoder

    def stages(
        self, run: Run, resume_from: Path | None, stops: StopRequests
    ) -> Iterator[tuple[Parts, Path | None]]:
        """One training."""
        parts = prepare(
            run,
            self.module,
            self.data,
            self.trainer_options,
            self._watchers,
            stops=stops,
            loggers=self.loggers(run),
            checkpoint=self.made.checkpoint,
            watch=self.made.watch,
            screen=self.screen,
            seed=self.config.seed,
        )
        yield parts, resume_from

    def _watchers(self, held_out: HeldOut) -> list[Callback]:
        def say(text: str) -> None:
            self.screen.print(text, markup=False)

        return [WorldWatch(held_out, say, self.made.watch.every_n_steps)]

    def start_lines(self, parts: Parts) -> list[str]:
        """What is learned from what."""
        data, module, trainer = self.data, self.module, parts.trainer
        facts, state = data.facts, module.state
        kind = "kinds of action" if facts.discrete else "numbers an action"
        shape = f"{state.width} numbers" if state.tokens == 1 else f"{state.tokens} tokens"
        dynamics = millions(module.dynamics.parameters())
        return [
            f"run       {parts.run.path}",
            f"episodes  {len(data.train)} for training, {len(data.val)} held out, "
            f"{data.train.total_frames} frames, {facts.action_size} {kind} ({data.root})",
            *data.unreadable.words(),
            *scene_words(facts.memory),
            f"encoder   {encoder_words(module.encoder)}",
            f"state     {shape}; dynamics {dynamics}",
            f"training  {trainer.max_steps} steps of {data.batch_size * trainer.world_size} "
            f"windows of {data.frames} frames on {trainer.strategy.root_device.type}",
        ]

    def facts(self, parts: Parts) -> dict[str, Any]:
        """What the training knows about itself."""
        clips, wait = parts.health.total()
        return {
            "steps": parts.trainer.global_step,
            "seed": self.config.seed,
            "env": self.data.facts.env,
            "settings": self.data.facts.settings,
            "windows_per_second": clips,
            "data_wait": wait,
            "episodes": len(self.data.train),
            "unreadable": len(self.data.unreadable),
        }

    def conclude(self, run: Run, stages: Sequence[Parts], started: float) -> None:
        """Measure, export, show."""
        self.screen.print("evaluating on held-out episodes ...")
        (parts,) = stages
        settings = json.loads(self.parser.dump(self.config, format="json"))["model"]
        if self.config.init is not None:
            settings["encoder"] = named(self.module.encoder)
        device = parts.trainer.strategy.root_device
        refit(self.module.to(device).eval(), self.data.trained_on(SOLVED), device)
        save_world(self.module, settings, run.path / "world")
        summary = conclude(run, self.module, self.data, self.facts(parts), device)
        last_screen(run, summary, self.screen, started)
