"""What an agent is asked for, and what it knows when it plans.

Shapes: B environments, S candidates, H steps, states `P D`, actions `A`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from torch import Tensor

from ..errors import UserError
from .lessons import Lessons
from .tried import Tried


@dataclass(frozen=True)
class Zone:
    """A box in the environment's own state that is to be kept out of.

    Args:
        low: least value of each of the first numbers of a state.
        high: largest value of each.
        margin: how far outside of the box the cost begins to rise, in the unit of the state.

    Raises:
        UserError: this is no box.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    margin: float = 2.0

    def __post_init__(self) -> None:
        low, high = list(self.low), list(self.high)
        pairs = list(zip(low, high, strict=False))
        even = len(low) == len(high) > 0 and all(least <= most for least, most in pairs)
        if not even or not self.margin >= 0:
            raise UserError(
                "a zone has as many numbers in low as in high, none above its pair, and a margin "
                f"of 0 or more, not low {low}, high {high}, margin {self.margin}"
            )


@dataclass(frozen=True)
class Task:
    """What is asked for, as data: nothing is trained where it changes.

    Args:
        goal: the state to reach, `B P D`; None where rewards drive.
        weights: of the terms of the intrinsic cost, by name; a term that is not named has none.
        zones: boxes to keep out of, for the term `zone`.
        goal_state: numbers of the environment's state to reach, `B S`, for the terms `state.NAME`;
            NaN for those that do not matter. Without it they are read off `goal`.
    """

    goal: Tensor | None
    weights: Mapping[str, float] = field(default_factory=lambda: {"goal": 1.0})
    zones: tuple[Zone, ...] = ()
    goal_state: Tensor | None = None

    def rows(self, which: Tensor) -> Task:
        """That of some environments."""
        goal = None if self.goal is None else self.goal[which]
        numbers = None if self.goal_state is None else self.goal_state[which]
        return replace(self, goal=goal, goal_state=numbers)


class Situation(NamedTuple):
    """What a plan begins with.

    Attributes:
        known: states up to now, `B T P D`.
        past: actions between them, `B T-1 A`.
        lessons: what the world model got wrong in this episode; None for nothing.
        tried: what was done in this episode; None where that speaks against nothing.
    """

    known: Tensor
    past: Tensor
    lessons: Lessons | None = None
    tried: Tried | None = None

    def rows(self, which: Tensor) -> Situation:
        """That of some environments."""
        lessons = None if self.lessons is None else self.lessons.rows(which)
        tried = None if self.tried is None else self.tried.rows(which)
        return Situation(self.known[which], self.past[which], lessons, tried)
