"""Wrapped: any gymnasium environments as a BatchEnv: pixels, stack, repeat, scaled actions, goals.

    envs = [gymnasium.make("Pendulum-v1", render_mode="rgb_array") for _ in range(4)]
    batch = Wrapped(envs, repeat=2)

They are stepped one after the other; what they cost is what they cost alone.
"""

from __future__ import annotations

import atexit
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from PIL import Image

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
from jepa_video.envs.families import SOLVED, STAYS, Solved, load
from jepa_video.errors import UserError

Env = gymnasium.Env[Any, Any]
Goal = Callable[[Env], tuple[Array, Array]]

_LONGEST = 1000  # steps of an episode where nothing limits it
_NUMBERS = 1024  # of a vector that is taken for a state


class Wrapped(BatchEnv):
    """Environments of one kind, brought to the contract of `BatchEnv`.

    Actions in [-1, 1] are scaled to the environment's own limits; discrete ones stay. Pictures come
    from `render` and are squashed to a square. `state` is the observation where that is a vector
    (or a dictionary with vectors), else what the environment keeps as its state. An environment
    that ended stays as it is, with reward 0, until it is reset.

    Args:
        envs: made with `render_mode="rgb_array"`.
        id: their name in messages; None takes gymnasium's.
        budget: steps of the agent; None: as many as the environment's own limit.
        stack, repeat: see `Pace`.
        size: height and width of the pictures.
        goal: called after a reset: the picture of the goal and its state. Without it `goal` of the
            info, where that is a picture; else there is no goal.
        solved: whether (ended, reward) of a step is a success, where the info does not say.
        stays: whether an episode goes on after a success, since its return is what counts.

    Raises:
        UserError: no pictures, or actions without limits or of another kind.
    """

    def __init__(
        self,
        envs: Sequence[Env],
        id: str | None = None,
        budget: int | None = None,
        stack: int = 1,
        repeat: int = 1,
        size: int = SIZE,
        goal: Goal | None = None,
        solved: Solved | None = None,
        stays: bool = False,
    ) -> None:
        first = envs[0]
        self.stays = stays
        self.envs, self.size, self.goal_of, self.solved = list(envs), size, goal, solved
        self.id = id or (first.spec.id if first.spec is not None else type(first).__name__)
        if first.render_mode != "rgb_array":
            raise UserError(f"{self.id} must be made with render_mode='rgb_array'")
        pace = Pace(stack, repeat)
        if budget is None:
            limit = (first.spec.max_episode_steps if first.spec else None) or _LONGEST
            budget = -(-limit // repeat)
        super().__init__(self._scaled_space(first.action_space), len(self.envs), budget, pace)
        seen, told = first.reset(seed=0)
        self._pixels = np.zeros((self.batch, size, size, 3), np.uint8)
        self._state = np.zeros((self.batch, len(state_of(first, seen, told))), np.float32)
        known = self._goal_of(first, told)
        self._goal = None if known is None else np.zeros_like(self._pixels)
        self.tells_success = known is not None or solved is not None
        width = 0 if known is None else len(known[1])
        self._goal_state = np.zeros((self.batch, width), np.float32)
        self._success, self._over = np.zeros((2, self.batch), bool)
        self._ended, self._time = np.zeros(self.batch, bool), np.zeros(self.batch, np.int64)
        self._see((size, size), known is not None, self._state.shape[1])
        # At the end of the process while what draws is still there; MuJoCo says so otherwise.
        atexit.register(_close, weakref.ref(self))

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Observation, Told]:
        """Begin episodes; see `BatchEnv`."""
        fresh = reset_mask(options, self.batch, self.id)
        self._seeded(seed, fresh)
        for i in map(int, np.flatnonzero(fresh)):
            seen, told = self.envs[i].reset(seed=self.seeds[i])
            goal = self._goal_of(self.envs[i], told)
            if goal is not None and self._goal is not None:
                self._goal[i], self._goal_state[i] = goal
            self._look(i, seen, told)
            self._success[i] = self._over[i] = self._ended[i] = False
            self._time[i] = 0
        return self._observe(fresh), self._told()

    def step(self, actions: Any) -> tuple[Observation, Array, Array, Array, Told]:
        """Take actions in all environments that have not ended."""
        wanted, rewards = self._actions(actions), np.zeros(self.batch)
        cut = np.zeros(self.batch, bool)
        for i in np.flatnonzero(~self._over):
            rewards[i], cut[i] = self._one(int(i), wanted[i])
        self._time += 1
        cut |= (self._time >= self.budget) | self._over  # it has ended of its own, or was cut
        return self._observe(), rewards, self._ended.copy(), cut & ~self._ended, self._told()

    def render(self) -> tuple[Array, ...]:
        """The pictures of now."""
        return tuple(self._pixels.copy())

    def close(self, **kwargs: Any) -> None:
        """Close all of them; a second time nothing happens."""
        if not self.closed:
            self.closed = True
            for env in self.envs:
                env.close()

    def _one(self, i: int, action: Array) -> tuple[float, bool]:
        total, cut = 0.0, False
        for _ in range(self.pace.repeat):
            seen, reward, ended, cut, told = self.envs[i].step(self._own(action))
            total += float(reward)
            said = told.get("is_success", told.get("success"))
            if said is None and self.solved is not None:
                said = self.solved(bool(ended), float(reward))
            self._success[i] = bool(said)
            if ended or cut:
                self._ended[i], self._over[i] = ended, True
                break
        self._look(i, seen, told)
        return total, bool(cut)

    def _look(self, i: int, seen: Any, told: dict[str, Any]) -> None:
        self._pixels[i] = square(self.envs[i].render(), self.size)
        self._state[i] = state_of(self.envs[i], seen, told)

    def _observe(self, fresh: Array | None = None) -> Observation:
        seen = {"pixels": self._stacked(self._pixels.copy(), fresh)}
        if self._goal is None:
            return seen | self._feeling(self._state, None)
        same = self._goal_state.shape == self._state.shape
        goal = self._goal_state if same else None
        return {**seen, "goal": self._goal.copy(), **self._feeling(self._state, goal)}

    def _told(self) -> Told:
        told: Told = {"state": self._state.copy(), "success": self._success.copy()}
        if self._goal is None:
            return told
        goal = self._goal_state.copy()
        same = goal.shape == self._state.shape
        gap = np.linalg.norm(goal - self._state, axis=1) if same else np.full(self.batch, np.nan)
        return {**told, "goal_state": goal, "distance": gap}

    def _goal_of(self, env: Env, told: dict[str, Any]) -> tuple[Array, Array] | None:
        picture: Any
        state: Any
        if self.goal_of is not None:
            picture, state = self.goal_of(env)
        else:
            own: Any = env.unwrapped  # where stable-worldmodel's rooms keep theirs
            picture = told.get("goal", getattr(own, "_target_img", None))
            state = told.get("goal_state", np.zeros(0))
            if picture is None or np.ndim(picture) != 3:
                return None
            picture = _channels_last(np.asarray(picture))
        return square(picture, self.size), np.asarray(state, np.float32).reshape(-1)

    def _scaled_space(self, space: spaces.Space[Any]) -> spaces.Space[Any]:
        if isinstance(space, spaces.Discrete):
            self._start = int(space.start)
            return spaces.Discrete(int(space.n))
        if not isinstance(space, spaces.Box) or not space.is_bounded():
            raise UserError(
                f"{self.id} has actions {space}: expected numbers between limits, or kinds"
            )
        self._low, self._high = space.low.astype(np.float64), space.high.astype(np.float64)
        self._kind = space.dtype
        return box_actions(int(np.prod(space.shape)))

    def _own(self, action: Array) -> Any:
        """An action as the environment wants it."""
        if self.discrete:
            return int(action) + self._start
        share = (action.reshape(self._low.shape) + 1) / 2
        return (self._low + share * (self._high - self._low)).astype(self._kind)


def _close(alive: weakref.ref[Wrapped]) -> None:
    batch = alive()
    if batch is not None:
        batch.close()


def wrap_family(
    family: str,
    name: str,
    batch: int = 1,
    budget: int | None = None,
    stack: int = 1,
    repeat: int = 1,
    size: int = SIZE,
) -> Wrapped:
    """Environments of another package; see `Wrapped` and `families.load`."""
    if batch < 1 or size < 8:
        raise UserError(f"batch must be 1 or more and size 8 or more, not {batch} and {size}")
    envs = [load(family, name, size) for _ in range(batch)]
    paced, solved = (budget, stack, repeat, size), SOLVED.get(family)
    return Wrapped(envs, f"{family}/{name}", *paced, solved=solved, stays=family in STAYS)


def square(picture: Any, size: int) -> Array:
    """A picture `H W 3` as uint8 `size size 3`, antialiased.

    Raises:
        UserError: what was drawn is no picture.
    """
    drawn = np.asarray(picture)
    if drawn.ndim != 3 or drawn.shape[-1] != 3 or drawn.dtype != np.uint8:
        raise UserError(f"expected a picture H x W x 3 of bytes, not {drawn.shape} {drawn.dtype}")
    if drawn.shape[:2] == (size, size):
        return drawn
    return np.asarray(Image.fromarray(drawn).resize((size, size), Image.Resampling.BOX))


def state_of(env: Env, seen: Any, told: dict[str, Any]) -> Array:
    """The numbers that say where an environment is, float32 `S`; none where it does not tell.

    `state` of the info; else vectors that are observed, `state` alone where a dictionary has one;
    else the environment's own `state`; a grid's place and direction.
    """
    own: Any = env.unwrapped
    if _is_vector(told.get("state")):
        parts = [told["state"]]
    elif isinstance(seen, dict):
        kept = {"state": seen["state"]} if "state" in seen else seen
        parts = [np.ravel(x) for _, x in sorted(kept.items()) if _is_vector(x)]
    else:
        parts = [np.ravel(seen)] if _is_vector(seen) else []
    if hasattr(own, "agent_pos") and hasattr(own, "agent_dir"):  # MiniGrid
        parts = [np.array((*own.agent_pos, own.agent_dir))]
    elif not parts and getattr(own, "state", None) is not None:
        parts = [np.ravel(own.state)]
    return np.concatenate(parts).astype(np.float32) if parts else np.zeros(0, np.float32)


def _is_vector(x: Any) -> bool:
    return isinstance(x, np.ndarray) and x.ndim == 1 and x.size <= _NUMBERS


def _channels_last(picture: Array) -> Array:
    """A picture `H W 3`, also from `3 H W`."""
    return picture.transpose(1, 2, 0) if picture.shape[0] == 3 != picture.shape[2] else picture
