"""How a verb that trains starts: a new run, one that goes on, or one that SLURM requeued."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import UserError


def launch(words: list[str], verb: str) -> int:
    """Read the options of a verb that trains, train, evaluate, show.

    Returns:
        The exit code: 0, or that of the signal that stopped the run.
    """
    from ..training.stops import PARENT, RunStopped, StopRequests, stop_with
    from .training_job import main_process

    started = time.monotonic()
    with StopRequests().heard() as stops:
        parent = os.environ.pop(PARENT, None)
        if parent is not None and main_process():  # who tells the other ranks
            stop_with(int(parent))
        build, job = _verb(verb)
        parser = build(words)
        if "--help-all" in words:
            print(parser.format_help())
            return 0
        try:
            _train(parser, job, words, stops, started)
        except RunStopped as stop:
            # Lightning kills rank 0, which has more to do, where a process that it started fails.
            return stop.code if main_process() else 0
    return 0


def _verb(verb: str) -> tuple[Any, Any]:
    """What makes the parser of a verb from the words of the command line, and its job."""
    if verb == "finetune":
        from .finetune_job import FineTuneJob, parser_for

        return parser_for, FineTuneJob
    if verb == "world":
        from .world_job import WorldJob
        from .world_job import parser_for as world_parser

        return world_parser, WorldJob
    if verb == "agent fit":
        from .agent_job import AgentJob
        from .agent_job import build_parser as fit_parser

        return fit_parser, AgentJob
    from .job import Job
    from .options import parser_for as pretrain_parser

    return pretrain_parser, Job


def _train(parser: Any, job: Any, words: list[str], stops: Any, started: float) -> None:
    """A new run, or an old one that goes on."""
    from .options import parse
    from .training_job import main_process

    config = parse(parser, words)
    if config.resume is not None:
        found, config, newest = _resumed(parser, words, config.resume)
        job(parser, config).run(found, newest, stops, started)
        return
    made = job(parser, config)  # before the folder: settings that do not fit leave none behind
    found = created(config, made.settings) if main_process() else same_run(config)
    made.run(found, requeued(found), stops, started)


def job_name(asked: str | None) -> str | None:
    """The name of the run: as asked for, else of the SLURM job step, else None for date and time.

    All ranks of a step know its number, and it is the same again when the job is requeued. In an
    interactive allocation people start many runs by hand, which need names of their own.
    """
    job, step = (os.environ.get(f"SLURM_{name}_ID") for name in ("JOB", "STEP"))
    by_hand = os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive")
    if asked is not None or job is None or by_hand:
        return asked
    return f"slurm-{job}-{step}" if step else f"slurm-{job}"


def created(config: Any, settings: Callable[[str], str] | None = None) -> Any:
    """A new folder, or the one of the same SLURM job before it was put back into the queue."""
    from ..training.run import create_run, open_run

    name, path = job_name(config.name), Path(config.runs)
    again = os.environ.get("SLURM_RESTART_COUNT", "0") != "0"
    found = open_run(path / name) if again and name and (path / name).is_dir() else None
    found = found or create_run(path, name, settings)
    os.environ["JEPA_VIDEO_RUN"] = str(found.path)  # for the processes that Lightning starts
    return found


def same_run(config: Any) -> Any:
    """The folder that rank 0 has made, as another rank knows it."""
    from ..training.run import Run

    if "JEPA_VIDEO_RUN" in os.environ:
        return Run(Path(os.environ["JEPA_VIDEO_RUN"]))
    name = job_name(config.name)
    if name is None:
        raise UserError("give the run a --name: processes started one by one must agree on it")
    return Run(Path(config.runs) / name)


def requeued(run: Any) -> Path | None:
    """The checkpoint of a SLURM job that was put back into the queue; None for a new run."""
    from ..training.checkpoints import newest_checkpoint
    from ..training.run import checkpoints_of

    if os.environ.get("SLURM_RESTART_COUNT", "0") == "0" or not checkpoints_of(run):
        return None
    return newest_checkpoint(run)


def _resumed(parser: Any, words: list[str], path: str) -> tuple[Any, Any, Path | None]:
    """The run in `path`, its options, and its newest checkpoint that loads.

    One that was killed before it had a checkpoint begins as the first time, with None.
    """
    from ..training.checkpoints import checkpoint_step, newest_checkpoint
    from ..training.run import can_begin
    from .options import parse_resumed
    from .training_job import main_process

    found, config = parse_resumed(parser, words, path)
    if can_begin(found):
        if main_process():
            print(f"{path} has no checkpoint yet: it begins at step 0", flush=True)
        config.resume = None
        return found, config, None
    checkpoint = newest_checkpoint(found)
    step = checkpoint_step(checkpoint)
    if found.finished and config.trainer.max_steps <= step:
        raise UserError(
            f"{path} is finished (step {step}); to train it further give a larger number, as in "
            f"--resume {path} --trainer.max_steps {2 * step}"
        )
    return found, config, checkpoint
