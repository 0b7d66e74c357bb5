"""World: the base of our own environments; a subclass draws tasks, moves states, paints."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np

from jepa_video.envs.base import (
    SIZE,
    Array,
    BatchEnv,
    Observation,
    Pace,
    Told,
    box_actions,
    reset_mask,
)
from jepa_video.errors import UserError

Step = tuple[Observation, Array, Array, Array, Told]


class World(BatchEnv):
    """B copies of one world; all its state is in `state` `B S` and `task` `B K`, float64.

    A task is a row of numbers (start, goal, layout: see `task_names`), drawn from the seed of its
    episode, or handed over: `reset(options={"tasks": rows})`.

    Args:
        batch: B.
        budget: steps of an episode; None takes the world's own.
        stack: frames of an observation.
        repeat: how often each action is taken.
    """

    task_names: tuple[str, ...] = ()
    default_budget: int = 100
    size: int = 2  # A
    noise: int = 0  # normal numbers that chance needs at each step

    def __init__(
        self, batch: int = 1, budget: int | None = None, stack: int = 1, repeat: int = 1
    ) -> None:
        budget = self.default_budget if budget is None else budget
        super().__init__(box_actions(self.size), batch, budget, Pace(stack, repeat))
        self._see((SIZE, SIZE), True, len(self.state_names))
        self.task = np.zeros((batch, len(self.task_names)))
        self.state = np.zeros((batch, len(self.state_names)))
        self.goal_state = np.zeros_like(self.state)
        self.time = np.zeros(batch, np.int64)
        self._goal = np.zeros((batch, SIZE, SIZE, 3), np.uint8)
        self._chance = np.zeros((batch, budget * repeat, self.noise))

    # -- what a world is ---------------------------------------------------------------------------

    @abstractmethod
    def draw(self, source: np.random.Generator) -> Sequence[float]:
        """One task."""

    @abstractmethod
    def begin(self, which: Array) -> None:
        """Set `state` and `goal_state` of the episodes `which` (numbers) from their tasks."""

    @abstractmethod
    def move(self, actions: Array, chance: Array) -> Array:
        """Take `actions` `B A` in [-1, 1]: change `state`, return rewards `B`.

        `chance` is `B noise`: the normal numbers of this step.
        """

    @abstractmethod
    def paint(self, state: Array, which: Array) -> Array:
        """Pictures uint8 `N H W 3` of `state` `N S` in the layouts of the episodes `which`."""

    @abstractmethod
    def distance(self) -> Array:
        """How far each state is from its goal, `B`."""

    @abstractmethod
    def success(self) -> Array:
        """Whether each state is a solved one, bool `B`."""

    # -- gymnasium's side --------------------------------------------------------------------------

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Observation, Told]:
        """Begin episodes; see `BatchEnv`. `options["tasks"]`: rows `B K` in place of drawn ones."""
        fresh = reset_mask(options, self.batch, self.id)
        self._seeded(seed, fresh)
        if fresh.any():
            self._begin(np.flatnonzero(fresh), (options or {}).get("tasks"))
        return self._observe(fresh), self.told()

    def step(self, actions: Any) -> Step:
        """Take actions `B A`: observation, rewards, terminated (never), truncated, info."""
        wanted, rewards = self._actions(actions), np.zeros(self.batch)
        for _ in range(self.pace.repeat):
            rewards += self.move(wanted, self._lot())
            self.time += 1
        truncated = self.time >= self.budget * self.pace.repeat
        never = np.zeros(self.batch, bool)
        return self._observe(), rewards, never, truncated, self.told()

    def render(self) -> tuple[Array, ...]:
        """The pictures of now."""
        return tuple(self.paint(self.state, np.arange(self.batch)))

    def told(self) -> Told:
        """The info: what an agent must not see and an evaluation needs."""
        return {
            "state": self.state.astype(np.float32),
            "goal_state": self.goal_state.astype(np.float32),
            "distance": self.distance(),
            "success": self.success(),
        }

    def _begin(self, which: Array, tasks: Any) -> None:
        sources = [np.random.default_rng(self.seeds[i]) for i in which]
        if tasks is None:
            self.task[which] = [self.draw(source) for source in sources]
        else:
            self.task[which] = self._tasks(tasks)[which]
        if self.noise:
            shape = self._chance.shape[1:]
            for i in which:  # a stream of its own: the same whether the task was drawn or given
                source = np.random.default_rng([self.seeds[i], 1])
                self._chance[i] = source.standard_normal(shape)
        self.time[which] = 0
        self.begin(which)
        self._goal[which] = self.paint(self.goal_state[which], which)

    def _observe(self, fresh: Array | None = None) -> Observation:
        pixels = self.paint(self.state, np.arange(self.batch))
        seen = {"pixels": self._stacked(pixels, fresh), "goal": self._goal.copy()}
        return seen | self._feeling(self.state, self.goal_state)

    def _lot(self) -> Array:
        row = self.time % self._chance.shape[1]
        return self._chance[np.arange(self.batch), row] if self.noise else self._chance[:, 0]

    def _tasks(self, tasks: Any) -> Array:
        rows = np.asarray(tasks, np.float64)
        if rows.shape != self.task.shape:
            names = ", ".join(self.task_names)
            raise UserError(
                f"tasks of {self.id} have the shape {self.task.shape} ({names}), not {rows.shape}"
            )
        return rows


def clip_norm(actions: Array) -> Array:
    """Actions `B A` with a length of at most 1."""
    shorter: Array = actions / np.maximum(np.linalg.norm(actions, axis=1, keepdims=True), 1.0)
    return shorter
