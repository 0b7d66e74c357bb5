"""The world model of an agent that has none yet: trained first, as a run of `world` of its own."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Final

from ..errors import UserError

# What both verbs are asked for in the same words; where it is not the default it is handed on.
SHARED: Final = (
    "seed", "runs", "wandb", "tensorboard", "memory", "data.root", "data.share", "data.val_share",
    "data.image", "trainer.accelerator", "trainer.devices", "trainer.num_nodes", "trainer.strategy",
    "trainer.precision",
)  # fmt: skip
# What makes another world model of it, though a run that goes on may change it.
MATTERS: Final = ("data.root", "trainer.max_steps", "trainer.max_epochs")
WORLD: Final = "-world"  # what its run has behind the name of the agent's
SIGNALS: Final = ("SIGINT", "SIGTERM", "SIGHUP")
WITHOUT: Final = ("--resume", "--help-all", "--print_config")


def with_world(words: Sequence[str]) -> tuple[list[str], int]:
    """The options of `agent fit`, with a world model where they name none.

    Trains one by the settings of `--world` as the run NAME-world, in a process of its own; on the
    encoder that `--checkpoint` names, where that is no world model. One of that name that is
    finished is taken, and one that was stopped goes on.

    Returns:
        The options, and the exit code of that run: not 0 where it was stopped or has failed.

    Raises:
        UserError: the settings of the world model are not there, the name is taken, or
            `--checkpoint` is neither a world model nor an encoder.
    """
    if {word.partition("=")[0] for word in words} & set(WITHOUT):
        return list(words), 0
    from .agent_job import build_parser
    from .options import parse

    parser = build_parser(words)
    config = parse(parser, words)
    if _of_a_world(config.checkpoint) or config.checkpoint is config.world is None:
        return list(words), 0
    if config.world is None:
        raise UserError(
            f"{config.checkpoint} is no world model: expected a finished run of jepa-video world, "
            "or beside an encoder --world FILE, settings to train a world model on it by"
        )
    _refuse(parser, config)
    name = _name(config)
    world = Path(config.runs) / f"{name}{WORLD}"
    given = ["--config", str(_settings(config)), *_shared(config, parser)]
    given += _eyes(config.checkpoint, given)
    return [*words, "--name", name, "--checkpoint", str(world)], _trained(world, given)


def _of_a_world(checkpoint: str | None) -> bool:
    """Whether a checkpoint is of a world model, finished or not, or is not there at all."""
    from ..agent.world_files import FOLDER, WEIGHTS
    from .options import verb_of

    if checkpoint is None:
        return False
    path = Path(checkpoint).expanduser()
    run = path.parent.parent if path.suffix == ".ckpt" else path
    verb = verb_of(run / "config.yaml")
    made = any((path / name).exists() for name in (FOLDER, WEIGHTS))
    return made or verb in ("jepa-video world", "jepa-video agent fit") or not path.exists()


def _eyes(checkpoint: str | None, given: Sequence[str]) -> list[str]:
    """The options by which a world model starts from an encoder, beside those that are `given`.

    The encoder is as it was trained; of one that the settings name the frames alone count.

    Raises:
        UserError: there is none, or it does not take so many frames.
    """
    from ..interop.weights import load_encoder
    from .options import parse
    from .world_job import named, parser_for

    if checkpoint is None:
        return []
    words = ["--init", checkpoint]
    try:
        load_encoder(checkpoint)
    except UserError as error:
        raise UserError(
            f"--checkpoint is no world model, nor an encoder to train one on: {error}"
        ) from error
    asked = parse(parser_for([*given, *words]), [*given, *words]).model.encoder.init_args
    told = named(load_encoder(checkpoint, frames=asked.get("frames")))
    words += ["--model.encoder", told["class_path"]]
    for name, value in told["init_args"].items():
        words += [f"--model.encoder.{name}", value if isinstance(value, str) else json.dumps(value)]
    return words


def _refuse(parser: Any, config: Any) -> None:
    """Say it before minutes of training where options of the agent cannot be.

    Raises:
        UserError: which.
    """
    from ..agent.refused import goal_alone, refuse_kinds, refuse_numbers, refuse_steps
    from ..data.lerobot import Dataset
    from .agent_job import cost_of, of_environment
    from .training_job import instantiated

    made = instantiated(parser, config)
    learn, data = made.learn, Dataset(Path(made.data.root), made.data.image)
    numbers = ("correct", "planned", "candidates", "members", "holds", "discount")
    refuse_numbers(*(getattr(learn, name) for name in numbers))
    refuse_steps(config.trainer.max_steps, learn.correct)
    goal, _ = of_environment(data.own.get("env"), data.own.get("settings", {}))
    size = math.prod(data.features[data.state]["shape"]) if data.state else 0
    weights = cost_of(made, goal, size, data.names(data.state))
    kinds = ("recall", "stride", "foretold", "surprise")
    rest = (getattr(learn, name) for name in kinds)
    refuse_kinds(learn.judge, learn.source, goal_alone(weights, goal), data.discrete, *rest)


def _name(config: Any) -> str:
    """The name of the agent's run, by which that of its world model is found again."""
    from ..training.run import Run, fresh_name, refuse_name, taken
    from .launch import job_name
    from .training_job import main_process

    if not main_process() and "JEPA_VIDEO_RUN" in os.environ:  # rank 0 began this process
        return Path(os.environ["JEPA_VIDEO_RUN"]).name
    name = job_name(config.name) or fresh_name()
    refuse_name(name)
    requeued = os.environ.get("SLURM_RESTART_COUNT", "0") != "0"
    if main_process() and not requeued and (Path(config.runs) / name).exists():
        raise UserError(taken(Run(Path(config.runs) / name)))
    return name


def _settings(config: Any) -> Path:
    """The file of `--world`: as it is named, or beside the settings that name it.

    Raises:
        UserError: there is none.
    """
    places = [Path(), *(Path(str(file)).absolute().parent for file in config.config or ())]
    for place in places:
        if (place / config.world).is_file():
            return Path(place / config.world)
    raise UserError(f"--world {config.world} is not there: it names settings of jepa-video world")


def _shared(config: Any, parser: Any) -> list[str]:
    """The options that the world model is trained with too, as words."""
    told = {name: (config[name], parser.get_default(name)) for name in SHARED}
    pairs = ((f"--{name}", value) for name, (value, default) in told.items() if value != default)
    return [word for name, value in pairs for word in (name, _word(value))]


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _trained(world: Path, given: list[str]) -> int:
    """Train the world model as far as it is not trained; the exit code of that."""
    from ..distributed import wait_for
    from ..training.run import Run, checkpoints_of, cleared
    from .training_job import main_process

    run, parent = Run(world), os.getppid()
    _same(run, given)
    if run.finished:
        return 0
    words = [*given, "--name", world.name]
    if checkpoints_of(run):  # no rank has one before all have looked
        words = ["--resume", str(world)]
    elif main_process():
        cleared(run)
    if main_process():
        eyes = f", on {given[given.index('--init') + 1]}" if "--init" in given else ""
        print(f"first the world model, by {given[1]}{eyes}: {world}", flush=True)
    code = _called(["world", *words])
    if code:
        if main_process():
            print(f"then the same agent fit again, with --name {world.name[: -len(WORLD)]}")
        return code
    wait_for(world / "summary.json", parent)  # rank 0 has more to do
    return 0


def _same(run: Any, given: list[str]) -> None:
    """Say it where the world model that is there was trained otherwise, or on something else.

    Raises:
        UserError: on which option it differs.
    """
    from .options import flat, may_change, parse
    from .world_job import build_parser, parser_for

    if not run.config.is_file():
        return
    words = (["--config", str(run.config)], given)
    parsers = (build_parser(), parser_for(given))  # a run's own settings name all that there is
    there, asked = (
        flat(parser, parse(parser, told)) for parser, told in zip(parsers, words, strict=True)
    )
    for name in sorted(there.keys() | asked.keys()):
        kept = name in MATTERS or not may_change(name)
        if kept and there.get(name) != asked.get(name):
            option = name.replace(".init_args", "").removesuffix(".class_path")
            raise UserError(
                f"{run.path} is a world model of --{option} {_word(there.get(name))}, not "
                f"{_word(asked.get(name))}: choose another --name, or give --checkpoint {run.path}"
            )


def _called(words: Sequence[str]) -> int:
    """A command of this package in a process of its own, which hears what this one is told.

    It stops when this one is killed.

    Returns:
        Its exit code; of a rank that ends well after a signal, since rank 0 tells the code, that of
        the signal.
    """
    from ..training.stops import PARENT

    heard: list[int] = []
    child: subprocess.Popen[bytes] | None = None

    def hand_on(number: int, frame: FrameType | None) -> None:
        heard.append(number)
        if child is not None:
            child.send_signal(number)

    numbers = [getattr(signal, name) for name in SIGNALS if hasattr(signal, name)]
    before = {number: signal.signal(number, hand_on) for number in numbers}
    try:
        command = [sys.executable, "-m", "jepa_video", *words]
        told = {**os.environ, PARENT: str(os.getpid())}
        child = subprocess.Popen(command, process_group=0, env=told)
        for number in list(heard):  # before there was somebody to hear it
            child.send_signal(number)
        while (code := child.poll()) is None:
            time.sleep(0.1)
    finally:
        if child is not None and child.poll() is None:
            child.terminate()
        for number, handler in before.items():
            signal.signal(number, handler)
    if code == 0 and heard:
        return 128 + heard[0]
    return code if code >= 0 else 128 - code
