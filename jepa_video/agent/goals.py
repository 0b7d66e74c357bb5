"""How a goal is given, by pictures or by numbers, and what of an agent needs one.

A picture says where to be, for the costs `goal` and `distance`, critic and policy. Numbers of the
environment's state are enough for the costs `state.NAME`; other costs ask for no goal at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
import torch
from torch import Tensor

from ..envs.base import Observation
from ..errors import UserError
from .configurator import Arriving, Configurator, Fixed
from .cost import NUMBER, Critic
from .policy import ReactivePolicy
from .reach import Ways

_MOST: Final = float(np.finfo(np.float32).max)  # beyond it a number is infinite to an agent


def told_goal(observation: Observation, size: int) -> Tensor | None:
    """The numbers `goal_state` of an observation, `B S`; None where it tells none.

    Args:
        observation: with `pixels`.
        size: S.

    Raises:
        UserError: they are no such numbers.
    """
    told = observation.get("goal_state")
    if told is None:
        return None
    wanted = len(observation["pixels"]), size
    real = isinstance(told, np.ndarray) and told.dtype.kind in "fiu"
    if not real or told.shape != wanted or bool((np.abs(told) > _MOST).any()):
        kind = f"{told.dtype} {told.shape}" if isinstance(told, np.ndarray) else type(told).__name__
        raise UserError(
            f"goal_state is an array {wanted} of numbers of the environment's state, NaN for those "
            f"that do not matter, not {kind}"
        )
    return torch.from_numpy(told).float()


def needs_goal(
    weights: Mapping[str, float],
    judge: Critic | Ways | None,
    policy: ReactivePolicy | None,
    configurator: Configurator,
) -> bool:
    """Whether nothing can be decided without the picture of a goal.

    Args:
        weights: of the cost's terms; a critic of ways is asked where `goal` counts alone.
        judge: of the ends of plans.
        policy: asked wherever not every decision is planned; plans go without its proposals.
        configurator: says which are.
    """
    if weights.get("goal") or weights.get("distance"):
        return True
    if isinstance(judge, Critic) and judge.goal:
        return True
    who = configurator.inner if isinstance(configurator, Arriving) else configurator
    plans = isinstance(who, Fixed) and who.mode == "mode2"
    return not plans and policy is not None and policy.goal


def refuse_untold(weights: Mapping[str, float]) -> None:
    """Say it where a term needs a goal, and neither a picture nor numbers tell one.

    Raises:
        UserError: the first that does.
    """
    for name, weight in weights.items():
        if weight and name.startswith(NUMBER):
            raise UserError(
                f"the cost {name} needs a goal: its picture as goal, or numbers of its state as "
                "goal_state"
            )
