"""`jepa-video finetune`: a pretrained encoder and labels to a classifier."""

from __future__ import annotations

HELP = """\
usage: jepa-video finetune --encoder RUN --data.root PATH [--label NAME] [--OPTION VALUE ...]

Trains a pretrained encoder on labels and says what that is worth: beside the linear probe on the
frozen encoder, random weights, and chance, each with a 95 % interval.

  --encoder RUN             a run, an export, a checkpoint: what load_encoder takes
  --data.root PATH          labelled videos: class folders, train/ and val/, or a manifest
  --label NAME              the label column; the only one if not given
  --train T                 full (all weights), last (the last blocks), lora (adapters)
  --model.blocks N          how many blocks `last` trains     --model.lora_rank N   of an adapter
  --model.head H            mean or attentive                 --model.start S       probe or zero
  --model.learning_rate R   of the last layer                 --model.layer_decay R for each below
  --baseline true           the same training from random weights, beside it
  --per_class N             at most so many training videos of each class
  --clips N                 clips of each held-out video, whose answers are averaged
  --data.stride N, --data.size N
                            as the encoder was trained, if not given
  --data.batch_size N       clips on each device      --data.workers N    loader processes
  --trainer.max_steps N     optimiser steps           --trainer.devices N how many devices
  --trainer.precision P     32-true, bf16-mixed ...   --seed N            of everything
  --name NAME, --runs DIR   runs/NAME                 --wandb MODE        offline, online or off
  --config FILE             YAML with any of the options
  --resume RUN              go on with a run that was stopped or killed

  --help-all                every option
"""


def run(words: list[str]) -> int:
    """Read the options, train, judge, show."""
    from .launch import launch

    return launch(words, "finetune")
