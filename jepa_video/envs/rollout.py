"""play: a policy through whole episodes of a batch, with all that was seen and done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from jepa_video.envs.base import Array, BatchEnv
from jepa_video.envs.policies import Policy
from jepa_video.errors import UserError
from jepa_video.randomness import EPISODE, seed_of

TRAIN, HELD_OUT = 0, 1  # whose seeds: two lists that share none


class Crashed(Exception):
    """An environment failed by itself; what it raised is told."""


@dataclass(frozen=True)
class Episode:
    """One episode of T actions and the T + 1 frames between which they were taken.

    Args:
        seed: of the episode.
        frames: uint8 `T+1 H W 3`; without frames `0 H W 3`.
        states: float32 `T+1 S`; S is 0 where the environment tells none.
        actions: float32 `T A`, or int64 `T`.
        rewards: float32 `T`.
        success: bool `T+1`, in each state.
        goal_state: float32 `S`, or None.
        terminated: whether it came to an end of its own; else it was truncated, and more would have
            followed.
    """

    seed: int
    frames: Array
    states: Array
    actions: Array
    rewards: Array
    success: Array
    goal_state: Array | None
    terminated: bool = False


def seeds_of(base: int, count: int, part: int = TRAIN, first: int = 0) -> list[int]:
    """Seeds of the episodes `first`, `first + 1`, ... of a base seed; 31 bits, as gymnasium's.

    Episode i has the same seed however many are asked for; `HELD_OUT` gives others than `TRAIN`.
    """
    numbers = (seed_of(base, EPISODE, part, i) for i in range(first, first + count))
    # The last bit is the part: no seed is in both.
    return [number % 2**30 * 2 + part for number in numbers]


def play(
    env: BatchEnv,
    policy: Policy,
    seeds: Sequence[int],
    tasks: Array | None = None,
    frames: bool = True,
) -> list[Episode]:
    """Run one episode for each seed, all at once, until the last one ends.

    Args:
        env: a batch of as many environments as there are seeds.
        policy: who acts.
        seeds: of the episodes.
        tasks: rows to play in place of the seeds' own; `World` alone takes them.
        frames: keep the pictures.

    Raises:
        Crashed: the environment failed.
    """
    options = None if tasks is None else {"tasks": tasks}
    observation, told = of_env(env.reset, seed=list(seeds), options=options)
    policy.reset(seeds)
    log = _Log(frames)
    log.see(observation, told)
    goals = told.get("goal_state")
    alive, ends = np.ones(env.batch, bool), np.zeros(env.batch, np.int64)
    over = np.zeros(env.batch, bool)
    while alive.any():
        actions = policy.act(observation)
        observation, rewards, ended, cut, told = of_env(env.step, actions)
        log.see(observation, told)
        log.do(actions, rewards)
        ends += alive
        over |= alive & ended
        alive &= ~(ended | cut)
    played = [log.episode(i, seed, int(ends[i]), goals) for i, seed in enumerate(seeds)]
    return [replace(one, terminated=bool(end)) for one, end in zip(played, over, strict=True)]


def of_env(call: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """What an environment answers.

    Raises:
        Crashed: it failed by itself.
    """
    try:
        return call(*args, **options)
    except (UserError, Crashed):
        raise
    except Exception as error:  # whatever another package raises
        raise Crashed(f"{type(error).__name__}: {error}") from error


class _Log:
    def __init__(self, frames: bool) -> None:
        self.keep = frames
        self.frames: list[Array] = []
        self.states: list[Array] = []
        self.success: list[Array] = []
        self.actions: list[Array] = []
        self.rewards: list[Array] = []

    def see(self, observation: dict[str, Array], told: dict[str, Any]) -> None:
        pixels = observation["pixels"]
        pixels = pixels[:, -1] if pixels.ndim == 5 else pixels  # the last of a stack
        self.frames.append(pixels if self.keep else pixels[:, :0])
        self.states.append(told["state"])
        self.success.append(told["success"])

    def do(self, actions: Array, rewards: Array) -> None:
        whole = np.issubdtype(np.asarray(actions).dtype, np.integer)
        self.actions.append(np.asarray(actions, np.int64 if whole else np.float32))
        self.rewards.append(rewards.astype(np.float32))

    def episode(self, i: int, seed: int, steps: int, goals: Array | None) -> Episode:
        seen, done = slice(0, steps + 1), slice(0, steps)
        return Episode(
            seed=int(seed),
            frames=np.stack([frame[i] for frame in self.frames[seen]]),
            states=np.stack([state[i] for state in self.states[seen]]),
            actions=np.stack([action[i] for action in self.actions[done]]),
            rewards=np.array([reward[i] for reward in self.rewards[done]], np.float32),
            success=np.array([good[i] for good in self.success[seen]], bool),
            goal_state=None if goals is None else goals[i],
        )
