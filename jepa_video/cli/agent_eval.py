"""`jepa-video agent eval`: policies on the same held-out episodes, in figures and in pictures."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from ..errors import UserError

HELP = """\
usage: jepa-video agent eval --env ID [--policy NAME[,NAME]] [--OPTION VALUE ...]

Plays policies on the same held-out episodes of an environment and says how many they solve (with
Wilson's 95 % interval), in how many steps, their return, how long a decision takes, and how far
they lie apart on the same episodes. Every episode counts, whichever ends first.

  --env ID                  TwoRooms, Rooms, PointPush, Pendulum, CartPole, Stochastic, or
                            FAMILY/NAME as gym/Pendulum-v1
  --budget N --stack N --repeat N ...
                            settings of the environment: steps, frames, actions; its own too, as
                            --layouts unseen of TwoRooms, or of Rooms --view 12, pixels that are
                            seen around the dot, and --longest 1.2, of a step
  --policy NAME[,NAME]      random, explore, straight, scripted (expert is the same), and of a
                            checkpoint mode1, mode2, auto (plans where the critic doubts) or learned
                            (where a plan is worth it); auto if a checkpoint alone is given
  --checkpoint RUN[,RUN]    agents: several are several training seeds, a row each and one for all
  --cost '{goal: 1, zone: 5}' --zones '[{low: [8, 30], high: [20, 45]}]'
                            another cost than the agent's own (terms as in agent fit, and
                            curiosity: what an episode has not taught so far), and boxes of the
                            environment's state to keep out of; mode2 follows it, and auto then
                            plans every decision; zones alone an agent with a chart follows in each
                            mode
  --memory N                patches of the scene that agents remember, in place of as many as they
                            learned with; 0 for none
  --search '{horizon: 8, samples: 96}'
                            how mode2 looks, in place of the agent's own: horizon, planner (cem,
                            mppi, gradient or polish), samples, iterations, elites, decay, colour,
                            std, temperature, starts, steps, step_size, every, futures, risk,
                            critic, via, deadline, lessons, tried (which mode1 minds too), stopped
                            (steps that a wall costs for each time it was met), forget (decisions
                            after which all of it is forgotten), levels, far, and what is set for
                            each decision: share (what part of an episode auto and learned may
                            plan), wrong (auto plans too where lessons say that the world model is
                            so many reaches off), few (samples where little speaks for a plan),
                            arrive (plans no longer than the way that is left)
  --beside NAME[,NAME]      what stands beside; random, straight and scripted, as far as the
                            environment has them, if not given; none for nothing
  --episodes N --seed N     how many held-out episodes, and which
  --least N                 far tasks alone: the scripted way to the goal takes N actions or more
  --batch N                 episodes that are played together; no figure depends on it
  --workers N               processes that step them, for environments of other packages; likewise
  --tell effort,places,zone what else is measured of each episode: mean square of the actions, cells
                            of 4 pixels it was in, share of its time in the boxes of --zones, or of
                            --watched '[{low: [8, 30], high: [20, 45]}]', which cost nothing
  --via N                   pictures of places on the scripted way that are shown beside the goal's
                            as sub-goals, in their order; 0 if not given
  --goals picture|state     how agents are told a goal: by its picture, or by the numbers of its
                            state alone, which the costs state.NAME go by
  --to_the_end BOOL         play on after a success, to the budget
  --tasks eb                of TwoRooms: EB-JEPA's own 20 tasks under its rule
  --out DIR --name NAME     folder of the result; runs/eval-NAME if not given
  --device D                auto, cpu, cuda, cuda:1, mps ...

  --help-all                every option of the environment that is named too
"""

SCRIPTED: Final = {"expert": "scripted"}
AGENT: Final = ("mode1", "mode2", "auto", "learned")
BESIDE: Final = ("random", "straight", "scripted")
EB_RULE: Final = {"budget": 200, "collision": "bounce", "to_the_end": True, "episodes": 20}


@dataclass(frozen=True)
class _Asked:
    """The options, checked."""

    config: Any
    settings: dict[str, Any]
    policies: list[str]
    beside: list[str]
    checkpoints: list[str]
    tell: list[str]
    watched: list[Any]  # zones that time is measured in
    own: dict[str, Any]  # what is given in place of the agents' own: weights, zones, memory, search


def run(words: list[str]) -> int:
    """Read the options, play, write, show."""
    from .environments import named
    from .options import parse

    env = named(words)
    if env is None and "--help-all" in words:  # what else there is hangs on the environment
        print(HELP, end="")
        return 0
    if env is None:
        raise UserError("agent eval needs an environment, as in: agent eval --env TwoRooms")
    parser, names = _parser(env)
    if "--help-all" in words:
        print(parser.format_help())
        return 0
    config = parse(parser, words)
    if config.tasks is not None:
        _take_rule(parser, env)
        config = parse(parser, words)
    asked = _checked(config, names)
    _evaluate(asked, words)
    return 0


def _parser(env: str) -> tuple[Any, list[str]]:
    from typing import Literal

    from jsonargparse import ArgumentParser

    from ..agent.task import Zone
    from .environments import add_settings

    parser = ArgumentParser(prog="jepa-video agent eval", exit_on_error=False, add_help=False)
    parser.allow_abbrev = False
    parser.add_argument("--env", type=str, help="an environment by its id")
    parser.add_argument("--policy", type=str | None, help="who plays")
    parser.add_argument("--checkpoint", type=str | None, help="agents, one for each training seed")
    parser.add_argument("--cost", type=dict[str, float] | None, help="terms and their weights")
    parser.add_argument("--zones", type=list[Zone] | None, help="boxes to keep out of")
    parser.add_argument("--memory", type=int | None, help="patches that are remembered")
    parser.add_argument("--search", type=dict[str, Any] | None, help="how mode2 looks")
    parser.add_argument("--beside", type=str | None, help="who stands beside")
    parser.add_argument("--episodes", type=int, default=200, help="held-out episodes")
    parser.add_argument("--seed", type=int, default=0, help="of the list of episodes")
    parser.add_argument("--least", type=int, default=1, help="actions of the scripted way")
    parser.add_argument("--batch", type=int, default=50, help="episodes played together")
    parser.add_argument("--workers", type=int, default=0, help="processes that step them")
    parser.add_argument("--tell", type=str | None, help="what else is measured")
    parser.add_argument("--watched", type=list[Zone] | None, help="boxes time is measured in")
    parser.add_argument("--via", type=int, default=0, help="sub-goals that are shown")
    parser.add_argument("--goals", type=Literal["picture", "state"], default="picture", help="told")
    parser.add_argument("--to_the_end", type=bool | None, help="play on after a success")
    parser.add_argument("--tasks", type=Literal["eb"] | None, help="tasks of somebody else")
    parser.add_argument("--out", type=str | None, help="folder of the result")
    parser.add_argument("--name", type=str | None, help="of the result; date and time if None")
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda, mps ...")
    return parser, add_settings(parser, env)


def _take_rule(parser: Any, env: str) -> None:
    """Make EB-JEPA's rule the defaults."""
    if env != "TwoRooms":
        raise UserError(f"--tasks eb are tasks of TwoRooms, not of {env}")
    parser.set_defaults(EB_RULE)


def _checked(config: Any, names: Sequence[str]) -> _Asked:
    """The options.

    Raises:
        UserError: what does not go together.
    """
    from ..envs.policies import POLICIES

    for name in ("episodes", "batch"):
        if getattr(config, name) < 1:
            raise UserError(f"{name} must be 1 or more, not {getattr(config, name)}")
    if config.seed < 0:
        raise UserError(f"seed must be 0 or more, not {config.seed}")
    if config.tasks is not None:
        if config.least != 1:
            raise UserError("--tasks eb are all of EB-JEPA's tasks: leave --least out")
        for name, value in EB_RULE.items():
            if getattr(config, name) != value:
                raise UserError(f"--tasks eb has {name} {value}, not {getattr(config, name)}")
    checkpoints = _listed(config.checkpoint)
    policies = _policies(config.policy) or (["auto"] if checkpoints else [])
    beside = _policies(config.beside) if config.beside != "none" else []
    known = [*POLICIES, *SCRIPTED, *AGENT]
    for name in [*policies, *beside]:
        if name not in known:
            raise UserError(f"there is no policy {name!r} (expected one of {', '.join(known)})")
    for name in beside:
        if name in AGENT:
            raise UserError(f"--beside takes policies without a checkpoint, not {name}")
    trained = [name for name in policies if name in AGENT]
    if trained and not checkpoints:
        raise UserError(f"--policy {trained[0]} needs --checkpoint RUN")
    if checkpoints and not trained:
        raise UserError(f"--checkpoint needs a --policy of {', '.join(AGENT)}")
    settings = {name: getattr(config, name) for name in names}
    own = _own(config, checkpoints)
    watched = _boxes(config.watched) or own.get("zones", [])
    tell = _listed(config.tell)
    if config.watched and "zone" not in tell:
        raise UserError("--watched are boxes that time is measured in: give --tell zone with them")
    return _Asked(config, settings, policies, beside, checkpoints, tell, watched, own)


def _boxes(given: Any) -> list[Any]:
    """Zones as they are, of what the parser made."""
    from ..agent.task import Zone

    return [Zone(**vars(zone)) for zone in given or ()]


def _own(config: Any, checkpoints: Sequence[str]) -> dict[str, Any]:
    """What is given in place of the agents' own, as `Agent.load` takes it."""
    from ..agent.actor import refuse_search

    told: dict[str, Any] = {} if config.cost is None else {"weights": dict(config.cost)}
    if config.zones is not None:
        told["zones"] = _boxes(config.zones)
    told |= {} if config.memory is None else {"memory": config.memory}
    if config.search is not None:
        refuse_search(config.search)  # before anything is loaded
        told["search"] = dict(config.search)
    if told and not checkpoints:
        raise UserError(
            "--cost, --zones, --memory and --search are for agents: give --checkpoint RUN"
        )
    return told


def _listed(names: str | None) -> list[str]:
    """Names between commas, each once."""
    given = [name.strip() for name in (names or "").split(",")]
    return list(dict.fromkeys(name for name in given if name))


def _policies(names: str | None) -> list[str]:
    """Policies between commas, each once, an alias under its own name."""
    return list(dict.fromkeys(SCRIPTED.get(name, name) for name in _listed(names)))


def _evaluate(asked: _Asked, words: Sequence[str]) -> None:
    from .. import heap
    from ..agent.behaviour import refuse_behaviour
    from ..agent.crashes import Crashes, crash_words, lasting
    from ..agent.eval_files import write_evaluation
    from ..agent.evaluate import evaluate
    from ..agent.guide import guided, numbered
    from ..agent.trials import Tasks, choose_tasks
    from ..envs.registry import make_batch
    from ..envs.rollout import HELD_OUT, seeds_of
    from ..envs.two_rooms import eb_tasks
    from ..training.progress import console
    from .bar import Bar

    config, screen, crashes = asked.config, console(), Crashes()

    def made(count: int, workers: int = 0) -> Any:
        make = partial(make_batch, config.env, count, workers=workers, **asked.settings)
        return lasting(config.env, make, crashes)

    heap.keep()
    lots = -(-config.episodes // config.batch)
    env = made(-(-config.episodes // lots), config.workers)
    contestants = _contestants(env, asked)
    if config.tasks is None:
        tasks = choose_tasks(env, config.episodes, config.seed, config.least)
    else:
        tasks = Tasks(seeds_of(config.seed, config.episodes, HELD_OUT), eb_tasks())
    refuse_behaviour(asked.tell, env, asked.watched)
    tasks = guided(env, tasks, config.via)
    tasks = numbered(env, tasks) if config.goals == "state" else tasks
    to_the_end = env.stays if config.to_the_end is None else config.to_the_end
    one, out = made(1), _folder(config.out, config.name)
    found = evaluate(
        env, contestants, tasks, to_the_end, lambda name: Bar(screen, name, "episodes"), one,
        asked.tell, asked.watched, lambda players: _say_unread(screen, players, asked.own),
    )  # fmt: skip
    env.close()
    told = {
        "env": config.env,
        "settings": asked.settings | {"budget": env.budget},
        "seed": config.seed,
        "tasks": config.tasks or "held-out seeds",
        "via": config.via,
        "goals": config.goals,
        "least": config.least,
        "to_the_end": to_the_end,
        "cost": config.cost,
        "zones": [asdict(zone) for zone in asked.own.get("zones", [])],
        "watched": [asdict(zone) for zone in asked.watched],
        "memory": config.memory,
        "search": config.search,
        "command": shlex.join(["jepa-video", "agent", "eval", *words]),
    }
    summary, paths = write_evaluation(out, told, found, made, crashes)
    _show(screen, summary)
    for line in crash_words(config.env, crashes.told):
        screen.print(line, markup=False)
    for name, path in paths.items():
        screen.print(f"{name:<9} {path}", markup=False)


def _contestants(env: Any, asked: _Asked) -> list[Any]:
    """Who plays: what is asked for, then what stands beside."""
    beside = asked.beside
    if asked.config.beside is None:
        has = {"straight": env.has("straight"), "scripted": env.has("expert")}
        beside = [name for name in BESIDE if has.get(name, True)]
    for name in [*asked.policies, *beside]:
        wanted = {"straight": "straight", "scripted": "expert"}.get(name)
        if wanted is not None and not env.has(wanted):
            raise UserError(f"{env.id} has no policy {name}; there is random")
    named = [(name, False) for name in asked.policies]
    named += [(name, True) for name in beside if name not in asked.policies]
    made = [one for name, aside in named for one in _of_policy(name, asked, aside)]
    if not made:
        raise UserError("nobody plays: name a --policy, or leave --beside out")
    return made


def _of_policy(name: str, asked: _Asked, beside: bool) -> list[Any]:
    from ..agent.evaluate import Contestant
    from ..envs.policies import make_policy

    if name not in AGENT:
        return [Contestant(name, name, lambda env: make_policy(name, env), beside=beside)]
    several = len(asked.checkpoints) > 1
    return [
        Contestant(f"{name} {Path(path).name}" if several else name, name, maker, path)
        for path in asked.checkpoints
        for maker in [_loader(path, name, asked)]
    ]


def _loader(path: str, mode: str, asked: _Asked) -> Any:
    """What loads an agent for an environment."""
    from ..agent.agent import Agent
    from .encoders import named_device

    def load(env: Any) -> Any:
        return Agent.load(Path(path), env, mode, named_device(asked.config.device), **asked.own)

    return load


def _say_unread(screen: Any, players: Sequence[Any], own: Mapping[str, Any]) -> None:
    """Which settings of --search do nothing here, if some do."""
    from ..agent.agent import Agent
    from ..agent.unread import unread_by_all

    agents = [player for player in players if isinstance(player, Agent)]
    if left := unread_by_all(agents, list(own.get("search", ()))):
        screen.print(f"--search: none of these policies looks at {', '.join(left)}", markup=False)


def _folder(out: str | None, name: str | None) -> Path:
    """The folder of the result, which can be made when there is one.

    Raises:
        UserError: it holds something, or nothing can be written there.
    """
    from ..training.run import fresh_name, refuse_name

    refuse_name(name)
    folder = Path(out) if out else Path("runs") / f"eval-{name or fresh_name()}"
    try:
        if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
            raise UserError(f"{folder} is there already; choose another --out or --name")
        there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    except OSError as error:  # a folder that may not be looked into
        raise UserError(f"--out {folder} cannot be written to: {error.strerror}") from error
    if not there.is_dir() or not os.access(there, os.W_OK):
        why = "may not be written to" if there.is_dir() else "is no folder"
        raise UserError(f"--out {folder} cannot be written to: {there} {why}")
    return folder


def _show(screen: Any, told: dict[str, Any]) -> None:
    """The table of the rows, and how far the rows lie apart."""
    from rich.table import Table

    from ..agent.words import cells, headings, told_gap

    table = Table(title=told["rule"], title_justify="left")
    for number, heading in enumerate(headings(told)):
        table.add_column(heading, justify="right" if number else "left")
    for row in told["rows"]:
        table.add_row(*cells(told, row))
    screen.print(table)
    for gap in told["differences"]:
        if gap["measure"] == told["measures"][0]:
            screen.print(told_gap(gap), markup=False)
