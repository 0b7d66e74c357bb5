"""BatchEnv: B environments that are stepped by one call, and what every one of them promises.

Legend: B environments, A numbers of an action, S numbers of a state, K frames of a stack.
Pixels are uint8 `B H W 3`, or `B K H W 3` where frames are stacked, the oldest first.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, cast

import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from jepa_video.errors import UserError

Array: TypeAlias = npt.NDArray[Any]
Observation: TypeAlias = dict[str, Array]
Told: TypeAlias = dict[str, Any]

SIZE: Final = 64  # height and width of our own pictures


@dataclass(frozen=True)
class Pace:
    """How fast time goes by for an agent.

    Args:
        stack: frames of an observation; with 1 there is no axis for them.
        repeat: how often each action is taken; rewards add up.
    """

    stack: int = 1
    repeat: int = 1

    def __post_init__(self) -> None:
        for name in ("stack", "repeat"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be 1 or more, not {getattr(self, name)}")


class BatchEnv(VectorEnv):
    """B environments behind one `reset` and one `step`, with gymnasium's signatures.

    Actions are float `B A` in [-1, 1], and what lies outside is clipped; or, where `discrete`,
    whole numbers `B`. An observation has `pixels` and, where the task is to reach something,
    `goal`: the picture of it; after `feel` also `felt`: numbers of the state. Nothing begins anew
    by itself (`AutoresetMode.DISABLED`): call `reset`, for some with
    `options={"reset_mask": bool B}`. The info tells, each as an array over B: `state` `B S`,
    `success` (in this very state), and where there is a goal `goal_state` and `distance`.

    An episode is a function of its seed and its actions, whatever B is and wherever it stands in
    the batch. `reset(seed=7)` begins episodes 7, 8, ...; a list names each.

    Attributes:
        id: the name in the registry.
        budget: steps after which an episode is truncated.
        batch: B.
        seeds: of the running episodes.
        stays: the task is to be there and stay, so that success does not end an episode.
        tells_success: whether success means anything; where not, there is the return.
        state_size: S.
        felt: the numbers of the state, by their place, that observations tell.
    """

    metadata: dict[str, Any] = {"autoreset_mode": AutoresetMode.DISABLED}
    id: str
    state_names: tuple[str, ...] = ()
    action_norm: float | None = None  # the longest action, where the whole vector is limited
    stays: bool = False
    tells_success: bool = True
    state_size: int = 0
    felt: tuple[int, ...] = ()

    def __init__(self, action: spaces.Space[Any], batch: int, budget: int, pace: Pace) -> None:
        if batch < 1 or budget < 1:
            raise UserError(f"batch and budget must be 1 or more, not {batch} and {budget}")
        self.num_envs = self.batch = batch
        self.budget, self.pace = budget, pace
        self.seeds = [0] * batch
        self.single_action_space = action
        self.action_space = batch_space(action, batch)
        self._frames: Array | None = None

    @property
    def discrete(self) -> bool:
        """Whether an action is one of some kinds."""
        return isinstance(self.single_action_space, spaces.Discrete)

    @property
    def action_size(self) -> int:
        """A, or the number of kinds where actions are discrete."""
        space = self.single_action_space
        return (
            int(space.n) if isinstance(space, spaces.Discrete) else int(np.prod(space.shape or ()))
        )

    @property
    def shows_goal(self) -> bool:
        """Whether an observation has the picture of a goal."""
        space = self.single_observation_space
        return isinstance(space, spaces.Dict) and "goal" in space.spaces

    @abstractmethod
    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Observation, Told]:
        """Begin episodes: all, or those of `options["reset_mask"]`."""

    def has(self, name: str) -> bool:
        """Whether somebody has written its `expert` or its `straight`."""
        return getattr(type(self), name) is not getattr(BatchEnv, name)

    def expert(self) -> Array:
        """Actions `B A` of somebody who sees the true states.

        Raises:
            UserError: nobody has written one for this environment.
        """
        raise UserError(f"{self.id} has no scripted policy; there is random")

    def straight(self) -> Array:
        """Actions `B A` towards the goal as if nothing stood between: what has to be beaten."""
        raise UserError(f"{self.id} has no straight-line policy; there is random")

    def feel(self, places: Sequence[int]) -> None:
        """Let observations tell these numbers of the state too: what an agent feels of itself.

        `felt` is then float32 `B S`, NaN in all places but those that were asked for by this and
        earlier calls; `goal_felt` is the same of the goal, where its state is known.

        Raises:
            UserError: there is no such number.
        """
        if wrong := [place for place in places if not 0 <= place < self.state_size]:
            raise UserError(
                f"{self.id} tells {self.state_size} numbers of its state: none to feel at "
                f"{wrong[0]}"
            )
        self.felt = tuple(sorted({*self.felt, *places}))
        told = dict(cast(spaces.Dict, self.single_observation_space).spaces)
        for name in ("felt", *(("goal_felt",) if self.shows_goal else ())):
            told[name] = spaces.Box(-np.inf, np.inf, (self.state_size,), np.float32)
        self.single_observation_space = spaces.Dict(told)
        self.observation_space = batch_space(self.single_observation_space, self.batch)

    def _feeling(self, state: Array, goal: Array | None) -> Observation:
        """`felt`, and `goal_felt` where the goal's state is known; nothing if nobody asked."""
        known = {"felt": state, "goal_felt": goal} if self.felt else {}
        seen = {}
        for name, numbers in known.items():
            if numbers is not None:
                seen[name] = np.full(numbers.shape, np.nan, np.float32)
                seen[name][:, self.felt] = numbers[:, self.felt]
        return seen

    def _see(self, size: tuple[int, int], goal: bool, state: int) -> None:
        """Declare what is observed: pictures of `size`, of `state` numbers."""
        self.state_size = state
        stack = () if self.pace.stack == 1 else (self.pace.stack,)
        told: dict[str, spaces.Space[Any]] = {"pixels": _picture((*stack, *size, 3))}
        if goal:
            told["goal"] = _picture((*size, 3))
        self.single_observation_space = spaces.Dict(told)
        self.observation_space = batch_space(self.single_observation_space, self.batch)

    def _actions(self, actions: Any) -> Array:
        """The actions as an array of the right shape, clipped.

        Raises:
            UserError: another shape, another kind of number, or numbers that are none.
        """
        given = np.asarray(actions)
        shape = (self.batch,) if self.discrete else (self.batch, self.action_size)
        if given.shape != shape:
            raise UserError(f"{self.id} takes actions of shape {shape}, not {given.shape}")
        if not self.discrete:
            if not np.isfinite(given).all():
                raise UserError(f"{self.id} was given an action that is not a number")
            return np.clip(given.astype(np.float64), -1.0, 1.0)
        known = (given >= 0) & (given < self.action_size)
        if not np.issubdtype(given.dtype, np.integer) or not known.all():
            kinds = self.action_size
            raise UserError(f"{self.id} takes whole numbers from 0 to {kinds - 1} as actions")
        return given

    def _seeded(self, seed: int | Sequence[int | None] | None, which: Array) -> None:
        """Name the episodes that begin: by the seeds given, else by drawn ones."""
        if isinstance(seed, (int, np.integer)):
            seed = [int(seed) + i for i in range(self.batch)]
        elif seed is None:
            seed = [None] * self.batch
        if len(seed) != self.batch:
            raise UserError(f"{self.id} runs {self.batch} episodes and was given {len(seed)} seeds")
        for i in map(int, np.flatnonzero(which)):
            given = seed[i]
            self.seeds[i] = int(self.np_random.integers(2**31)) if given is None else int(given)

    def _stacked(self, pixels: Array, fresh: Array | None = None) -> Array:
        """The last frames; a fresh episode begins with its first one repeated."""
        if self.pace.stack == 1:
            return pixels
        if self._frames is None:
            self._frames = np.repeat(pixels[:, None], self.pace.stack, axis=1)
        elif fresh is None:
            self._frames = np.concatenate([self._frames[:, 1:], pixels[:, None]], axis=1)
        else:
            self._frames = self._frames.copy()
            self._frames[fresh] = pixels[fresh, None]
        return self._frames


def reset_mask(options: Mapping[str, Any] | None, batch: int, id: str) -> Array:
    """Which episodes begin: gymnasium's option `reset_mask`, all without it."""
    mask = np.ones(batch, bool) if options is None else options.get("reset_mask")
    mask = np.ones(batch, bool) if mask is None else np.asarray(mask)
    if mask.shape != (batch,) or mask.dtype != bool:
        raise UserError(f"reset_mask of {id} must be {batch} truth values")
    return mask


def _picture(shape: tuple[int, ...]) -> spaces.Box:
    return spaces.Box(0, 255, shape, np.uint8)


def box_actions(size: int) -> spaces.Box:
    """Numbers in [-1, 1]."""
    return spaces.Box(-1.0, 1.0, (size,), np.float32)
