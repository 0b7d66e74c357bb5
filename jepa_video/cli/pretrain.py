"""`jepa-video pretrain`: from options to a finished run."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from ..errors import UserError

HELP = """\
usage: jepa-video pretrain [--config FILE.yaml] [--OPTION VALUE ...]

Trains a video JEPA and says how good it is. Without options: a small one, in some minutes, on an
embedded set of moving shapes that is made on the first run.

  --config FILE             YAML with any of the options; what follows on the line overrides it
  --data.root PATH          your videos: a folder of class folders, of train/ and val/, a manifest,
                            or `synthetic`; labels are optional
  --data.stride N           source frames between two of a clip
  --data.size N             stored pixels             --data.workers N    loader processes
  --data.batch_size N       clips on each device
  --model.encoder.size S    nano, tiny, small, base, large, huge, giant
  --model.encoder.frames N  frames of a clip          --model.encoder.image N   pixels it sees
  --trainer.max_steps N     optimiser steps           --trainer.devices N       how many devices
  --trainer.precision P     32-true, bf16-mixed ...   --trainer.accelerator A   auto, cpu, gpu
  --seed N                  of everything             --name NAME, --runs DIR   runs/NAME
  --wandb MODE              offline, online or off    --tensorboard true
  --init PATH               start from weights: a run, an export, a checkpoint of V-JEPA 2
  --resume RUN              go on with a run that was stopped or killed; a finished one needs a
                            larger --trainer.max_steps

  --help-all                every option              --print_config      all settings as YAML
"""


def run(words: list[str]) -> int:
    """Read the options, train, evaluate, show."""
    from ..training.stops import RunStopped, StopRequests

    started = time.monotonic()
    with StopRequests().heard() as stops:
        from . import options

        parser = options.build_parser()
        if "--help-all" in words:
            print(parser.format_help())
            return 0
        try:
            _train(parser, options.parse(parser, words), words, stops, started)
        except RunStopped as stop:
            return stop.code
    return 0


def _train(parser: Any, config: Any, words: list[str], stops: Any, started: float) -> None:
    """A new run, or an old one that goes on."""
    from .job import Job, main_process

    if config.resume is not None:
        found, config, newest = _resumed(parser, words, config.resume)
        Job(parser, config).run(found, newest, stops, started)
        return
    job = Job(parser, config)  # before the folder: settings that do not fit leave none behind
    found = _created(config) if main_process() else _same_run(config)
    job.run(found, _requeued(found), stops, started)


def _job_name(asked: str | None) -> str | None:
    """The name of the run: as asked for, else of the SLURM job step, else None for date and time.

    All ranks of a step know its number, and it is the same again when the job is requeued. In an
    interactive allocation people start many runs by hand, which need names of their own.
    """
    job, step = (os.environ.get(f"SLURM_{name}_ID") for name in ("JOB", "STEP"))
    by_hand = os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive")
    if asked is not None or job is None or by_hand:
        return asked
    return f"slurm-{job}-{step}" if step else f"slurm-{job}"


def _created(config: Any) -> Any:
    """A new folder, or the one of the same SLURM job before it was put back into the queue."""
    from ..training.run import create_run, open_run

    name, path = _job_name(config.name), Path(config.runs)
    again = os.environ.get("SLURM_RESTART_COUNT", "0") != "0"
    found = open_run(path / name) if again and name and (path / name).is_dir() else None
    found = found or create_run(path, name)
    os.environ["JEPA_VIDEO_RUN"] = str(found.path)  # for the processes that Lightning starts
    return found


def _same_run(config: Any) -> Any:
    """The folder that rank 0 has made, as another rank knows it."""
    from ..training.run import Run

    if "JEPA_VIDEO_RUN" in os.environ:
        return Run(Path(os.environ["JEPA_VIDEO_RUN"]))
    name = _job_name(config.name)
    if name is None:
        raise UserError("give the run a --name: processes started one by one must agree on it")
    return Run(Path(config.runs) / name)


def _requeued(run: Any) -> Path | None:
    """The checkpoint of a SLURM job that was put back into the queue; None for a new run."""
    from ..training.checkpoints import newest_checkpoint
    from ..training.run import checkpoints_of

    if os.environ.get("SLURM_RESTART_COUNT", "0") == "0" or not checkpoints_of(run):
        return None
    return newest_checkpoint(run)


def _resumed(parser: Any, words: list[str], path: str) -> tuple[Any, Any, Path]:
    """The run in `path`, its options, and its newest checkpoint that loads."""
    from ..training.checkpoints import checkpoint_step, newest_checkpoint
    from .options import parse_resumed

    found, config = parse_resumed(parser, words, path)
    checkpoint = newest_checkpoint(found)
    step = checkpoint_step(checkpoint)
    if found.finished and config.trainer.max_steps <= step:
        raise UserError(
            f"{path} is finished (step {step}); to train it further give a larger number, as in "
            f"--resume {path} --trainer.max_steps {2 * step}"
        )
    return found, config, checkpoint
