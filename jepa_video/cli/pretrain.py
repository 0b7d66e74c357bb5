"""`jepa-video pretrain`: from options to a finished run."""

from __future__ import annotations

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
  --model.regularize '[tokens, clips]'
                            what is kept apart: all tokens, clips as a whole, tokens less the mean
                            of their place (places), or less their mean over the clip (times)
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
    from .launch import launch

    return launch(words, "pretrain")
