"""Policies that exist before anything is learned: random, explore, sway, straight, scripted.

A policy has `reset(seeds)` at the start of episodes and `act(observation) -> actions`, batched. An
agent is one too. Those here that see the true state do so through the environment that they hold.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

import numpy as np

from jepa_video.envs.base import Array, BatchEnv, Observation
from jepa_video.errors import UserError

STICK: Final = 5.0  # concentration of the turns of a walk (EB-JEPA's generator)
STRAIGHT: Final = 60.0  # of walks that mean to go on: they push against what is in the way
PATIENCE: Final = 2  # steps at one place after which a wandering walk turns
TEMPI: Final = (4.0, 100.0)  # steps to and fro of who sways: the quickest, the slowest
GUIDED: Final = 0.35  # share of the episodes that are led to their goal at some time (its too)


class Policy(Protocol):
    """Whoever acts in a batch of environments."""

    def reset(self, seeds: Sequence[int]) -> None:
        """Begin one episode for each seed; what is drawn follows from these alone."""

    def act(self, observation: Observation) -> Array:
        """Actions for a batch of observations: float `B A`, or whole numbers `B`."""


class Random:
    """Uniform actions, independent of each other."""

    def __init__(self, env: BatchEnv) -> None:
        self.env, self.time = env, 0
        self._plan = np.zeros(0)

    def reset(self, seeds: Sequence[int]) -> None:
        """Draw all actions of the episodes."""
        env, self.time = self.env, 0
        plans = []
        for seed in seeds:
            source = np.random.default_rng([seed, 2])
            shape: Any = (env.budget, env.action_size)
            if env.discrete:
                plans.append(source.integers(0, env.action_size, env.budget))
            else:
                plans.append(source.uniform(-1, 1, shape).astype(np.float32))
        self._plan = np.stack(plans, axis=1)

    def act(self, observation: Observation) -> Array:
        """The actions drawn for this step."""
        self.time += 1
        actions: Array = self._plan[(self.time - 1) % self.env.budget]
        return actions


class Explore:
    """Walks that keep their direction for a while, some led to the goal: data to learn from.

    Two numbers of an action are a heading, which turns by von Mises(0, 5) at each step, and a step
    length: in a quarter of the episodes normal with mean 0.41 and deviation 0.16 of the longest
    (EB-JEPA's generator), in a quarter even up to the longest, so that no step that a planner may
    take is unheard of, and in half nearly the longest with turns of von Mises(0, 60): such a walk
    runs into walls at full speed and pushes on, which shows what holds. Any other
    number of them is smooth noise. From a random step on, 35 % of the episodes follow the expert
    with noise of 0.2, or, where the environment says so (`guides`), the straight line; at the goal
    they walk on. Where nobody has written an expert none are led.
    """

    def __init__(self, env: BatchEnv) -> None:
        if env.discrete:
            raise UserError(f"explore needs actions that are numbers; {env.id} has kinds: random")
        self.env, self.time = env, 0
        guides: Sequence[str] = getattr(env, "guides", ("expert",))
        known = [name for name in guides if env.has(name)]  # of another package nobody may have one
        self._guides: list[Callable[[], Array]] = [getattr(env, name) for name in known]

    def reset(self, seeds: Sequence[int]) -> None:
        """Draw the walks, and who is led from when on."""
        env, self.time = self.env, 0
        sources = [np.random.default_rng([seed, 3]) for seed in seeds]
        make = _heading if env.action_size == 2 else _smooth
        self._walk = np.stack([make(s, env.budget, env.action_size) for s in sources], axis=1)
        self._noise = np.stack([s.normal(0, 0.2, self._walk.shape[::2]) for s in sources], axis=1)
        led = [s.random() < GUIDED and bool(self._guides) for s in sources]
        begin = [s.integers(env.budget) for s in sources]
        self._from = np.where(led, begin, env.budget)
        self._guide = np.array([s.integers(max(len(self._guides), 1)) for s in sources])
        self._there = np.zeros(len(seeds), bool)

    def act(self, observation: Observation) -> Array:
        """The walk, or the way of the guide with noise."""
        time, self.time = self.time, self.time + 1
        actions = self._walk[time % self.env.budget]
        led = (time >= self._from) & ~self._there
        if led.any():
            asked = [guide() for guide in self._guides]
            ways = np.stack(asked)[self._guide, np.arange(len(led))]
            actions = np.where(led[:, None], ways + self._noise[time % self.env.budget], actions)
            success = getattr(self.env, "success", None)
            self._there |= success() if success is not None else False
        return np.asarray(np.clip(actions, -1, 1), np.float32)


class Wander(Explore):
    """`Explore` whose walks turn where they get nowhere: for who has many doors to go through.

    Among nine rooms a walk that pushes on stands still in 63 % of its steps, and is 12 pixels from
    where it was 40 steps before. After `PATIENCE` steps in which the first two numbers of the state
    stayed as they were, the rest of the walk is turned by an even angle. Where an action is no
    heading, it is `Explore`.
    """

    def reset(self, seeds: Sequence[int]) -> None:
        """Draw the walks, and by how much they turn at each step if they have to."""
        super().reset(seeds)
        turns = [np.random.default_rng([seed, 4]) for seed in seeds]
        self._turns = np.stack([s.uniform(-np.pi, np.pi, self.env.budget) for s in turns], axis=1)
        self._still = np.zeros(len(seeds), int)
        self._last = np.full((len(seeds), 2), np.nan)

    def act(self, observation: Observation) -> Array:
        """The walk, turned by now, or the way of the guide."""
        state: Array | None = getattr(self.env, "state", None)
        if self.env.action_size == 2 and state is not None:
            here = state[:, :2]
            stayed = (np.abs(here - self._last) < 1e-3).all(axis=1)
            self._still, self._last = np.where(stayed, self._still + 1, 0), here.copy()
            stuck = self._still >= PATIENCE
            time = self.time % self.env.budget
            angle = np.where(stuck, self._turns[time], 0.0)
            self._still[stuck] = 0
            cos, sin = np.cos(angle), np.sin(angle)
            x, y = np.moveaxis(self._walk[time:], 2, 0)
            self._walk[time:] = np.stack((cos * x - sin * y, sin * x + cos * y), axis=2)
        return super().act(observation)


class Sway(Random):
    """Pushes to and fro, in each episode at a tempo of its own: for what has mass, as a cart.

    Forces of `Explore` last, and what they push is soon at the end of its rail, out of sight, and
    stays there: of cartpole-swingup of DeepMind's suite so is most of an episode. Here each number
    of an action is the second difference of a path that stays near its beginning: noise in an
    octave of frequencies, which is drawn evenly in its logarithm from one of `TEMPI` to the other,
    as strong as is drawn too. So a free mass that obeys it stays where it is on the whole, and a
    pole is met by its own tempo in some of the episodes, and swings up.
    """

    def __init__(self, env: BatchEnv) -> None:
        if env.discrete:
            raise UserError(f"sway needs actions that are numbers; {env.id} has kinds: random")
        super().__init__(env)

    def reset(self, seeds: Sequence[int]) -> None:
        """Draw all actions of the episodes."""
        env, self.time = self.env, 0
        sources = [np.random.default_rng([seed, 5]) for seed in seeds]
        plans = [swaying(s, env.budget, env.action_size) for s in sources]
        self._plan = np.stack(plans, axis=1).astype(np.float32)


class Follow:
    """What the environment itself proposes: its `expert` or its `straight`."""

    def __init__(self, env: BatchEnv, name: str) -> None:
        self.propose: Callable[[], Array] = getattr(env, name)

    def reset(self, seeds: Sequence[int]) -> None:
        """Nothing is drawn."""

    def act(self, observation: Observation) -> Array:
        """From the true state."""
        return self.propose().astype(np.float32)


POLICIES: Final[dict[str, Callable[[BatchEnv], Policy]]] = {
    "random": Random,
    "explore": Explore,
    "wander": Wander,
    "sway": Sway,
    "straight": lambda env: Follow(env, "straight"),
    "scripted": lambda env: Follow(env, "expert"),
}


def make_policy(name: str, env: BatchEnv) -> Policy:
    """A policy of this module by its name.

    Raises:
        UserError: there is none of this name, or none of it for this environment.
    """
    if name not in POLICIES:
        raise UserError(f"there is no policy {name!r} (expected one of {', '.join(POLICIES)})")
    return POLICIES[name](env)


def _heading(source: np.random.Generator, steps: int, size: int) -> Array:
    """Headings and lengths `steps 2`, the lengths as shares of the longest step."""
    kind = source.random()
    turns = source.vonmises(0, STRAIGHT if kind < 0.5 else STICK, steps)
    turns[0] = source.uniform(-np.pi, np.pi)
    angle = np.cumsum(turns)
    length = np.clip(source.normal(1.0, 0.4, steps), 0.2, 1.8) / 2.45
    if kind < 0.75:
        length = source.uniform(0.8, 1.2, steps) if kind < 0.5 else source.uniform(0.05, 1.0, steps)
    return np.asarray(length[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1))


def swaying(source: np.random.Generator, steps: int, size: int) -> Array:
    """Actions `steps size` in [-1, 1] whose second sum stays bounded, of one tempo and strength."""
    quick, slow = TEMPI
    tempo = slow * (quick / slow) ** source.random()
    whole = 1 << (steps + int(slow)).bit_length()  # longer than needed: noise from FFT is a ring
    frequency = np.fft.rfftfreq(whole)
    band = (frequency >= 1 / tempo / np.sqrt(2)) & (frequency <= np.sqrt(2) / tempo)
    phases = source.normal(size=(2, size, len(frequency)))
    path = np.fft.irfft((phases[0] + 1j * phases[1]) * band, whole).T[: steps + 2]
    grown = np.minimum(np.arange(steps + 2) / tempo, 1.0) ** 2  # it begins at rest
    push = np.diff(path * grown[:, None], 2, axis=0)
    strong = source.uniform(0.3, 1.2)
    return np.asarray(np.clip(push * strong / push.std(axis=0).clip(1e-12), -1, 1))


def _smooth(source: np.random.Generator, steps: int, size: int) -> Array:
    """Noise of deviation 0.7 that forgets a tenth at each step, `steps size`."""
    fresh = source.normal(0, 0.7, (steps, size))
    for step in range(1, steps):
        fresh[step] = 0.9 * fresh[step - 1] + np.sqrt(1 - 0.81) * fresh[step]
    return fresh
