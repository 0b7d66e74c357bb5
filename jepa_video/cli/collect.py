"""`jepa-video collect`: episodes of an environment into a folder that everything else reads."""

from __future__ import annotations

import shlex
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import UserError

HELP = """\
usage: jepa-video collect --env ID --policy P --episodes N --out DIR [--OPTION VALUE ...]

Plays episodes and writes them as a LeRobot dataset: lossless mp4 for the frames, parquet for
actions, rewards and states. Killed at any time and started again with the same line, it goes on;
with a larger --episodes, or another --policy or --seed, it adds to the folder.

  --env ID                  TwoRooms, Rooms, PointPush, Pendulum, CartPole, Stochastic, or of
                            another package: gym/Pendulum-v1, dmc/cartpole-swingup, swm/PushT-v1 ...
  --policy P                random, explore (random walks, some led to the goal), wander (the same,
                            but they turn where they get nowhere), sway (pushes to and fro, for what
                            has mass), straight, scripted, or the run folder of an agent
  --episodes N              how many of this policy and seed the folder shall hold
  --out DIR                 the folder
  --seed N                  of the episodes
  --batch N                 played at once; 64, and 8 of other packages' environments
  --workers N               processes that step them at the same time, for environments of other
                            packages; no episode depends on it

Settings of the environment, as far as it has them:

  --budget N                steps of an episode         --stack N   frames of an observation
  --repeat N                how often each action is taken
  --scenes N                layouts of TwoRooms and Rooms that the episodes share, so that a goal
                            can be what another episode saw there
  --longest PIXELS          the longest step in Rooms, 2.45 if not given

  --help-all                every option; with --env ID, that environment's too
"""


def run(words: list[str]) -> int:
    """Read the options, play, say what there is and what can be done with it."""
    from .environments import named
    from .options import parse

    parser, settings = _parser(named(words))
    if "--help-all" in words:
        print(parser.format_help())
        return 0
    config = parse(parser, words)
    for name in ("env", "policy", "episodes", "out"):
        if getattr(config, name) is None:
            raise UserError(f"collect needs --{name}; see jepa-video collect --help")
    _collect(config, {name: getattr(config, name) for name in settings})
    return 0


def _parser(env: str | None) -> tuple[Any, list[str]]:
    """The parser, and the names of the environment's own settings."""
    from jsonargparse import ArgumentParser

    from .environments import add_settings

    parser = ArgumentParser(prog="jepa-video collect", exit_on_error=False, add_help=False)
    parser.allow_abbrev = False
    parser.add_argument("--env", type=str | None, help="an environment by its id")
    parser.add_argument("--policy", type=str | None, help="a policy's name, or an agent's run")
    parser.add_argument("--episodes", type=int | None, help="of this policy and seed, in all")
    parser.add_argument("--out", type=str | None, help="the folder")
    parser.add_argument("--seed", type=int, default=0, help="of the episodes")
    parser.add_argument("--batch", type=int | None, help="how many are played at once")
    parser.add_argument("--workers", type=int, default=0, help="processes that step them")
    return parser, add_settings(parser, env) if env else []


def _collect(config: Any, settings: dict[str, Any]) -> None:
    from ..agent.collect import collect
    from ..agent.crashes import crash_words
    from ..training.progress import console
    from .bar import Bar

    screen, out = console(), Path(config.out)
    say = partial(screen.print, markup=False)
    say(f"{config.env} played by {config.policy} -> {out}")
    with Bar(screen, "collecting", "episodes") as bar:
        found = collect(
            config.env,
            config.policy,
            config.episodes,
            out,
            config.seed,
            config.batch,
            settings,
            lambda done, total, frames: bar(done, total, {"frames": frames}),
            config.workers,
        )
        rate = f", {bar.rates()}" if found.new else ""
    say(f"{out}: {found.episodes} episodes of {found.frames} frames, {found.new} new{rate}")
    for policy, share in found.success.items():
        say(f"  {policy}: {share:.1%} solved")
    for line in crash_words(config.env, found.crashes):
        say(f"  {line}")
    for line in _next(config.env, shlex.quote(config.out), settings):
        say(f"  {line}")


def _next(env: str, out: str, settings: dict[str, Any]) -> list[str]:
    """What to do with the folder: an encoder, a world model, what policies reach."""
    from ..envs.registry import env_words
    from . import VERBS

    size = settings.get("size", 64)
    lines = [
        f"jepa-video pretrain --data.root {out} --data.size {size} --model.encoder.image {size}",
        f"jepa-video world --data.root {out}",
        f"jepa-video agent eval {env_words(env, settings)}",
    ]
    return [line for line in lines if line.split()[1] in VERBS]
