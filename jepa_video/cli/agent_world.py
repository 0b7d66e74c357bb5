"""The world model of an agent that has none yet: trained first, as a run of `world` of its own."""

from __future__ import annotations

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
SAME: Final = ("seed", "data.root", "data.share", "data.val_share", "data.image")
WORLD: Final = "-world"  # what its run has behind the name of the agent's
SIGNALS: Final = ("SIGINT", "SIGTERM", "SIGHUP")
WITHOUT: Final = ("--checkpoint", "--resume", "--help-all", "--print_config")


def with_world(words: Sequence[str]) -> tuple[list[str], int]:
    """The options of `agent fit`, with a world model where they name none.

    Trains one by the settings of `--world` as the run NAME-world, in a process of its own. One of
    that name that is finished is taken, and one that was stopped goes on.

    Returns:
        The options, and the exit code of that run: not 0 where it was stopped or has failed.

    Raises:
        UserError: the settings of the world model are not there, or the name is taken.
    """
    if {word.partition("=")[0] for word in words} & set(WITHOUT):
        return list(words), 0
    from .agent_job import build_parser
    from .options import parse

    parser = build_parser(words)
    config = parse(parser, words)
    if config.checkpoint is not None or config.world is None:
        return list(words), 0
    _refuse(parser, config)
    name = _name(config)
    world = Path(config.runs) / f"{name}{WORLD}"
    given = ["--config", str(_settings(config)), *_shared(config, parser)]
    return [*words, "--name", name, "--checkpoint", str(world)], _trained(world, given)


def _refuse(parser: Any, config: Any) -> None:
    """Say it before minutes of training where options of the agent cannot be.

    Raises:
        UserError: which.
    """
    from ..agent.refused import refuse_numbers
    from .training_job import instantiated

    learn = instantiated(parser, config).learn
    numbers = ("correct", "planned", "candidates", "members", "holds", "discount")
    refuse_numbers(*(getattr(learn, name) for name in numbers))


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
        print(f"first the world model, by {given[1]}: {world}", flush=True)
    code = _called(["world", *words])
    if code:
        if main_process():
            print(f"then the same agent fit again, with --name {world.name[: -len(WORLD)]}")
        return code
    wait_for(world / "summary.json", parent)  # rank 0 has more to do
    return 0


def _same(run: Any, given: list[str]) -> None:
    """Say it where the world model that is there was trained on something else.

    Raises:
        UserError: on which option it differs.
    """
    from .options import parse
    from .world_job import build_parser

    if not run.config.is_file():
        return
    parser = build_parser()
    there, asked = (parse(parser, words) for words in (["--config", str(run.config)], given))
    for name in SAME:
        if there[name] != asked[name]:
            raise UserError(
                f"{run.path} is a world model of --{name} {_word(there[name])}, not "
                f"{_word(asked[name])}: choose another --name, or give --checkpoint {run.path}"
            )


def _called(words: Sequence[str]) -> int:
    """A command of this package in a process of its own, which hears what this one is told.

    Returns:
        Its exit code; of a rank that ends well after a signal, since rank 0 tells the code, that of
        the signal.
    """
    heard: list[int] = []
    child: subprocess.Popen[bytes] | None = None

    def hand_on(number: int, frame: FrameType | None) -> None:
        heard.append(number)
        if child is not None:
            child.send_signal(number)

    numbers = [getattr(signal, name) for name in SIGNALS if hasattr(signal, name)]
    before = {number: signal.signal(number, hand_on) for number in numbers}
    try:
        child = subprocess.Popen([sys.executable, "-m", "jepa_video", *words], process_group=0)
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
