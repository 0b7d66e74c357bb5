"""`jepa-video world`: from episodes to a world model that can be planned with."""

from __future__ import annotations

HELP = """\
usage: jepa-video world --data.root EPISODES [--init RUN] [--OPTION VALUE ...]

Learns what actions do, from episodes of `jepa-video collect` or of LeRobot: an encoder, a state,
and dynamics that foretell the state after each action. Says how far the foretold future is right.

  --data.root EPISODES      a folder of `jepa-video collect`, or a LeRobot dataset
  --data.frames N           frames of a window        --data.batch_size N    windows on each device
  --data.share S            part of the episodes that is used
  --memory N                patches of 8 x 8 pixels that are remembered of what is not seen any
                            more, where the environment shows a part (64: all of 64 x 64 pixels)
  --init RUN                start from a pretrained encoder: what load_encoder takes
  --model.train T           full (the encoder learns too) or frozen
  --model.encoder.frames N  frames that one state sees: 2 or more where speed matters
  --model.state S           VectorState, or PatchState with --model.dynamics TokenDynamics
  --model.state.centred true
                            of the map, what differs from picture to picture is kept apart: where
                            pictures share much, or the encoder is pretrained
  --model.latent L          NoLatent, DiscreteLatent ...: what actions do not decide
  --model.felt '[NAME,...]' numbers of the state that the agent feels itself, beside the picture
  --model.inverse W, --model.temporal W, --model.regularize W, --model.prediction W
                            weights of the terms; 0 leaves one out
  --trainer.max_steps N     optimiser steps           --trainer.devices N    how many devices
  --trainer.precision P     32-true, bf16-mixed ...   --seed N               of everything
  --name NAME, --runs DIR   runs/NAME                 --wandb MODE           offline, online or off
  --config FILE             YAML with any of the options
  --resume RUN              go on with a run that was stopped or killed

  --help-all                every option              --print_config         all settings as YAML
"""


def run(words: list[str]) -> int:
    """Read the options, train, evaluate, show."""
    from .launch import launch

    return launch(words, "world")
