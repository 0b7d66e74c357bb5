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
    name = _name(config)
    given = _shared(config, parser)
    settings = _settings(config)
    world = Path(config.runs) / f"{name}{WORLD}"
    code = _trained(world, settings, given)
    return [*words, "--name", name, "--checkpoint", str(world)], code


def _name(config: Any) -> str:
    """The name of the agent's run, by which that of its world model is found again."""
    from ..training.run import NAME, Run, fresh_name, taken
    from .launch import job_name
    from .training_job import main_process

    if not main_process() and "JEPA_VIDEO_RUN" in os.environ:  # rank 0 began this process
        return Path(os.environ["JEPA_VIDEO_RUN"]).name
    name = job_name(config.name) or fresh_name()
    if not NAME.fullmatch(name):
        raise UserError(f"--name {name!r} is not a plain name of letters, digits and . _ + -")
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


def _shared(config: Any, parser: Any) -> dict[str, str]:
    """The options that the world model is trained with too."""
    told = {name: (config[name], parser.get_default(name)) for name in SHARED}
    return {name: _word(value) for name, (value, default) in told.items() if value != default}


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _trained(world: Path, settings: Path, given: dict[str, str]) -> int:
    """Train the world model as far as it is not trained; the exit code of that."""
    from ..distributed import wait_for
    from ..training.run import Run, checkpoints_of
    from .training_job import main_process

    run, parent = Run(world), os.getppid()
    _same(run, given)
    if run.finished:
        return 0
    words = ["--config", str(settings), "--name", world.name]
    words += [word for name, value in given.items() for word in (f"--{name}", value)]
    if checkpoints_of(run):  # no rank has one before all have looked
        words = ["--resume", str(world)]
    if main_process():
        print(f"first the world model, by {settings}: {world}", flush=True)
    code = _called(["world", *words])
    if code:
        if main_process():
            print("then the same agent fit again, with --name " + world.name[: -len(WORLD)])
        return code
    wait_for(world / "summary.json", parent)  # rank 0 has more to do
    return 0


def _same(run: Any, given: dict[str, str]) -> None:
    """Say it where the world model that is there was trained on something else.

    Raises:
        UserError: on which option it differs.
    """
    from .options import parse
    from .world_job import build_parser

    if not run.config.is_file():
        return
    parser = build_parser()
    there = parse(parser, ["--config", str(run.config)])
    for name in SAME:
        before = _word(there[name])
        if before != given.get(name, _word(parser.get_default(name))):
            raise UserError(
                f"{run.path} is a world model of --{name} {before}: choose another --name, or "
                f"give --checkpoint {run.path}"
            )


def _called(words: Sequence[str]) -> int:
    """A command of this package in a process of its own, which hears what this one is told."""
    child = subprocess.Popen([sys.executable, "-m", "jepa_video", *words], process_group=0)

    def hand_on(number: int, frame: FrameType | None) -> None:
        child.send_signal(number)

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, hand_on) for number in numbers}
    try:
        while (code := child.poll()) is None:
            time.sleep(0.1)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return code if code >= 0 else 128 - code
