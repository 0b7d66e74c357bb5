"""Trials: a policy through a list of held-out episodes, every one of which counts.

The list is fixed before anybody plays and is the same for all policies. It is cut into batches, and
each batch is played to the end of its last episode: no policy gains by being quick, as it would
where the first episodes to finish were counted. An episode follows from its seed and the actions
alone, so that no figure depends on the size of the batches.

An episode ends at its first success, or when its budget is over; `to_the_end` plays on after a
success. With it "at some time" and "at the end" can differ, without it they are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from time import perf_counter, process_time
from typing import Any, Final, Protocol, runtime_checkable

import numpy as np

from jepa_video.agent.crashes import again
from jepa_video.envs.base import Array, BatchEnv, Observation, Told
from jepa_video.envs.policies import Policy, make_policy
from jepa_video.envs.rollout import HELD_OUT, seeds_of
from jepa_video.errors import UserError

TRIES: Final = 20  # seeds looked at for each episode that is wanted
FAR_TRIES: Final = 120  # and where its goal is to be far
CALLS: Final = 30  # decisions whose time is taken with one environment alone
SEEN: Final = ("pixels", "felt")  # of an observation, what tells nothing of the goal
PATIENCE: Final = 30.0  # seconds after which fewer will do

Progress = Callable[[int, int], None]


class Account(Protocol):
    """What a policy says of its last decisions; of it an evaluation reads this much.

    `mode` names the mode of each of B decisions. `imagined` is the plan as states of the
    environment, `B H+1 S` from the present one on, or None. `sub_goal` `B S` is the state that
    is aimed at, and `on_way` `B` whether that is a place on the way and not the goal; None
    likewise. `terms` are the parts of the cost of each decision, `B` each, by name.
    """

    mode: Sequence[str]
    imagined: Array | None
    sub_goal: Array | None
    on_way: Array | None
    terms: Mapping[str, Array]


@runtime_checkable
class Explains(Protocol):
    """A policy that can say what its last decisions were made of."""

    def explain(self) -> Account:
        """Of the last call of `act`."""


@runtime_checkable
class Rests(Protocol):
    """A policy that spares itself the thought for episodes that are over."""

    def rest(self, over: Array) -> None:
        """Bool, one for each episode of the batch; what it does in these is of no account."""


@dataclass(frozen=True)
class Tasks:
    """The episodes that are played.

    Args:
        seeds: one for each episode.
        rows: tasks `N K` to play in place of the seeds' own; `World` alone takes them.
        replaced: how many were solved at the start, or nearer than was asked for, and gave way to
            the next seeds.
        via: pictures of places on the way, uint8 `N G H W 3`, shown before that of the goal.
        numbers: tell the goal by its state, float32 `B S`, in place of a picture.
    """

    seeds: list[int]
    rows: Array | None = None
    replaced: int = 0
    via: Array | None = None
    numbers: bool = False

    def chosen(self, which: Sequence[int]) -> Tasks:
        """Some of them, in that order."""
        rows, via = (None if part is None else part[list(which)] for part in (self.rows, self.via))
        return Tasks([self.seeds[i] for i in which], rows, via=via, numbers=self.numbers)

    def begin(self, env: BatchEnv) -> tuple[Observation, Told]:
        """Begin them in an environment of as many."""
        options = None if self.rows is None else {"tasks": self.rows}
        observation, told = env.reset(seed=list(self.seeds), options=options)
        if self.via is not None:
            way = np.concatenate((self.via, observation["goal"][:, None]), axis=1)
            observation = {**observation, "goal": way}
        if self.numbers:
            blind = {name: seen for name, seen in observation.items() if name in SEEN}
            observation = {**blind, "goal_state": told["goal_state"]}
        return observation, told


@dataclass(frozen=True)
class Trial:
    """One episode of T actions.

    Args:
        seed: of the episode.
        success: at some time.
        at_end: in its last state.
        steps: T.
        reached: actions up to the first success; None without one.
        total: its return, the sum of its rewards.
        states: float32 `T+1 S`.
        actions: `T A`, or `T` where they are kinds.
        goal: float32 `S`, or None.
        modes: of each decision; empty where the policy does not explain itself.
        imagined: the plan behind each decision, each `H+1 S`; empty likewise.
        told: what else was measured of it, see `behaviour.py`.
        sub_goals: what each decision aimed at on the way to the goal, `S`, or None; empty likewise.
        terms: of the cost of each decision, by name; empty likewise.
    """

    seed: int
    success: bool
    at_end: bool
    steps: int
    reached: int | None
    total: float
    states: Array
    actions: Array
    goal: Array | None
    modes: list[str]
    imagined: list[Array]
    told: Mapping[str, float] = field(default_factory=dict)
    sub_goals: list[Array | None] = field(default_factory=list)
    terms: list[dict[str, float]] = field(default_factory=list)


@dataclass
class Clock:
    """Takes the time of decisions.

    Attributes:
        seconds: of each call of `act`.
        busy: seconds of all processor cores in each call; on a machine with other work they say
            more than those of the clock on the wall.
    """

    seconds: list[float] = field(default_factory=list)
    busy: list[float] = field(default_factory=list)

    def act(self, policy: Policy, observation: Observation) -> Array:
        """Let the policy decide."""
        start, busy = perf_counter(), process_time()
        actions = policy.act(observation)
        self.busy.append(process_time() - busy)
        self.seconds.append(perf_counter() - start)
        return actions


@dataclass(frozen=True)
class Played:
    """What a policy made of all tasks.

    Args:
        trials: one for each task, in its order.
        clock: of the decisions, each for a whole batch.
        batch: environments of a decision.
        facts: what the policy says of itself, such as the budget of its planner.
        alone: the clock of some decisions for one environment; None where nobody looked.
    """

    trials: list[Trial]
    clock: Clock
    batch: int
    facts: dict[str, Any] = field(default_factory=dict)
    alone: Clock | None = None


def choose_tasks(env: BatchEnv, count: int, base: int, least: int = 1) -> Tasks:
    """The first `count` held-out episodes of a base seed that are not solved at their start.

    Args:
        env: any number of environments that step together.
        count: how many.
        base: of their seeds.
        least: with more than 1, those alone to whose goal the scripted way is as many actions.

    Raises:
        UserError: nearly all are solved, nearer, or beyond the budget, or nobody knows the way.
    """
    if least < 1 or (least > 1 and not (env.shows_goal and env.has("expert"))):
        why = "is 1 or more" if least < 1 else f"counts a scripted way; {env.id} has none to a goal"
        raise UserError(f"--least {why}")
    if least > env.budget:
        raise UserError(f"--least {least} is more than the budget of {env.budget} actions")
    kept: list[int] = []
    seen = 0
    while True:
        tried = seeds_of(base, env.batch, HELD_OUT, seen)
        if least == 1:
            near = _solved(env, tried)
        else:
            way = play_trials(env, make_policy("scripted", env), Tasks(tried)).trials
            near = [(trial.reached or 0) < least for trial in way]
        for seed, solved in zip(tried, near, strict=True):
            seen += 1
            kept += [] if solved else [seed]
            if len(kept) == count:
                return Tasks(kept, replaced=seen - count)
        if seen >= (TRIES if least == 1 else FAR_TRIES) * count:
            why = "are solved at their start"
            why = why if least == 1 else f"have no way of {least} steps to {env.budget}"
            raise UserError(
                f"{seen - len(kept)} of {seen} episodes of {env.id} {why}: {count} others were not "
                "found"
            )


@again
def _solved(env: BatchEnv, seeds: list[int]) -> list[bool]:
    """Whether each episode is solved at its start."""
    return [bool(solved) for solved in env.reset(seed=seeds)[1]["success"]]


def play_trials(
    env: BatchEnv,
    policy: Policy,
    tasks: Tasks,
    to_the_end: bool = False,
    progress: Progress | None = None,
) -> Played:
    """Play all tasks in batches; the last batch is filled up with episodes that do not count.

    A batch in which a `lasting` environment crashes is played again from its start.

    Args:
        env: any number of environments that step together.
        policy: who acts in them.
        tasks: what is played.
        to_the_end: go on after a success.
        progress: called with the episodes that are done and those there are.
    """
    count = len(tasks.seeds)
    trials: list[Trial] = []
    clock = Clock()
    for at in range(0, count, env.batch):
        part = tasks.chosen([min(at + i, count - 1) for i in range(env.batch)])

        def tick(share: float, at: int = at) -> None:
            if progress is not None:
                progress(min(at + int(share * env.batch), count), count)

        made, own = _play_batch(env, policy, part, to_the_end, tick)
        trials += made[: count - at]
        clock.seconds += own.seconds
        clock.busy += own.busy
    return Played(trials, clock, env.batch, dict(getattr(policy, "facts", {})))


@again
def time_alone(env: BatchEnv, policy: Policy, tasks: Tasks) -> Clock:
    """The time of the first decisions in a batch of one, as whoever acts in one world waits for.

    Args:
        env: one environment.
        policy: who acts in it.
        tasks: played one after the other until there are enough decisions.
    """
    clock = Clock()
    for at in range(len(tasks.seeds)):
        part = tasks.chosen([at])
        observation, told = part.begin(env)
        policy.reset(part.seeds)
        over = np.zeros(1, bool)
        while not (over | told["success"]).any():
            if len(clock.seconds) > CALLS or sum(clock.seconds) > PATIENCE:
                return clock
            observation, _, ended, cut, told = env.step(clock.act(policy, observation))
            over = ended | cut
    return clock


@again
def _play_batch(
    env: BatchEnv, policy: Policy, tasks: Tasks, to_the_end: bool, tick: Callable[[float], None]
) -> tuple[list[Trial], Clock]:
    observation, told = tasks.begin(env)
    policy.reset(tasks.seeds)
    log, alive, steps = _Log(tasks.seeds, told), np.ones(env.batch, bool), 0
    clock = Clock()
    while alive.any():
        watch = clock if alive.all() else Clock()  # a whole batch, whose time is divided by it
        actions = watch.act(policy, observation)
        log.explained(policy.explain() if isinstance(policy, Explains) else None, alive)
        observation, rewards, ended, cut, told = env.step(actions)
        log.step(actions, rewards, told, alive)
        alive = alive & ~(ended | cut)
        if not to_the_end:
            alive &= ~told["success"]
        if isinstance(policy, Rests):
            policy.rest(~alive)
        steps += 1
        tick(steps / env.budget)
    tick(1.0)
    return [log.trial(i) for i in range(env.batch)], clock


class _Log:
    """What happened in a batch; of an episode, as long as it was alive."""

    def __init__(self, seeds: Sequence[int], told: Told) -> None:
        count = len(seeds)
        self.seeds, self.goals = seeds, told.get("goal_state")
        self.states = [[row] for row in told["state"]]
        self.actions: list[list[Array]] = [[] for _ in range(count)]
        self.success: list[list[bool]] = [[] for _ in range(count)]
        self.modes: list[list[str]] = [[] for _ in range(count)]
        self.imagined: list[list[Array]] = [[] for _ in range(count)]
        self.sub_goals: list[list[Array | None]] = [[] for _ in range(count)]
        self.terms: list[list[dict[str, float]]] = [[] for _ in range(count)]
        self.total = np.zeros(count)

    def explained(self, told: Account | None, alive: Array) -> None:
        if told is None:
            return
        aimed = told.sub_goal
        for i in map(int, np.flatnonzero(alive)):
            self.modes[i].append(told.mode[i])
            on_way = aimed is not None and told.on_way is not None and told.on_way[i]
            here = None if aimed is None or not on_way else np.asarray(aimed[i], np.float32)
            self.sub_goals[i].append(here)
            self.terms[i].append({name: float(part[i]) for name, part in told.terms.items()})
            if told.imagined is not None:
                self.imagined[i].append(np.asarray(told.imagined[i], np.float32))

    def step(self, actions: Array, rewards: Array, told: Told, alive: Array) -> None:
        self.total += np.where(alive, rewards, 0.0)
        for i in map(int, np.flatnonzero(alive)):
            self.states[i].append(told["state"][i])
            self.actions[i].append(np.array(actions[i]))
            self.success[i].append(bool(told["success"][i]))

    def trial(self, i: int) -> Trial:
        success = self.success[i]
        return Trial(
            seed=int(self.seeds[i]),
            success=any(success),
            at_end=success[-1],
            steps=len(success),
            reached=success.index(True) + 1 if any(success) else None,
            total=float(self.total[i]),
            states=np.stack(self.states[i]),
            actions=np.stack(self.actions[i]),
            goal=None if self.goals is None else self.goals[i].copy(),
            modes=self.modes[i],
            imagined=self.imagined[i],
            sub_goals=self.sub_goals[i],
            terms=self.terms[i],
        )


@again
def replay(env: BatchEnv, tasks: Tasks, trials: Sequence[Trial]) -> tuple[list[Array], Observation]:
    """The frames of episodes that were played, uint8 `T+1 H W 3` each, by taking their actions.

    Args:
        env: as many environments as there are trials; it is left in the layouts of the tasks.
        tasks: of the trials.
        trials: what was done.

    Returns:
        the frames, and the first observation.
    """
    first, _ = replace(tasks, numbers=False).begin(env)  # whoever looks on is shown the goal
    seen = [_last_frames(first)]
    longest = max(trial.steps for trial in trials)
    for time in range(longest):
        rows = [trial.actions[min(time, trial.steps - 1)] for trial in trials]
        seen.append(_last_frames(env.step(np.stack(rows))[0]))
    frames = [
        np.stack([picture[i] for picture in seen[: trial.steps + 1]])
        for i, trial in enumerate(trials)
    ]
    return frames, first


def _last_frames(observation: Observation) -> Array:
    pixels = observation["pixels"]
    return pixels[:, -1] if pixels.ndim == 5 else pixels
