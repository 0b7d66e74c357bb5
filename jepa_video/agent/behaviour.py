"""What an episode was like beside its success: a cost that asks for something shows here.

Each measure is a number of one episode of T actions, from its states `T+1 S` and actions `T A`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import torch

from jepa_video.agent.cost import inside
from jepa_video.agent.task import Zone
from jepa_video.envs.base import Array, BatchEnv
from jepa_video.errors import UserError

CELL: Final = 4.0  # pixels along a side of what counts as one place


def effort(states: Array, actions: Array, zones: Sequence[Zone]) -> float:
    """The mean square of the actions, as the cost `effort` has it."""
    return float(np.square(actions, dtype=np.float64).mean())


def places(states: Array, actions: Array, zones: Sequence[Zone]) -> float:
    """How many cells of `CELL` by `CELL` pixels it was in, by the first two numbers of states."""
    return float(len(np.unique(np.floor(states[:, :2] / CELL), axis=0)))


def zone(states: Array, actions: Array, zones: Sequence[Zone]) -> float:
    """The share of the states after the first that lie in a box, its margin not counted."""
    where = torch.from_numpy(np.asarray(states[1:], np.float32))
    within = [inside(where, Zone(box.low, box.high, 0.0)) == 1 for box in zones]
    return float(torch.stack(within).any(0).float().mean())


BEHAVIOUR: Final[dict[str, Callable[[Array, Array, Sequence[Zone]], float]]] = {
    "effort": effort,
    "places": places,
    "zone": zone,
}


def refuse_behaviour(names: Sequence[str], env: BatchEnv, zones: Sequence[Zone]) -> None:
    """Say what cannot be told of episodes of an environment.

    Raises:
        UserError: an unknown measure, kinds of actions for `effort`, states whose first numbers are
            no place for `places`, no boxes for `zone`.
    """
    for name in names:
        if name not in BEHAVIOUR:
            raise UserError(f"--tell has no {name!r}; it has {', '.join(BEHAVIOUR)}")
    if "effort" in names and env.discrete:
        raise UserError(f"--tell effort needs actions of numbers; those of {env.id} are kinds")
    if "places" in names and [name[-1:] for name in env.state_names[:2]] != ["x", "y"]:
        raise UserError(
            f"--tell places needs states that begin with x and y, not those of {env.id}"
        )
    if "zone" in names and not zones:
        raise UserError("--tell zone needs boxes: give --zones or --watched")
    for box in zones:
        if len(box.low) > env.state_size:
            raise UserError(
                f"a zone of {len(box.low)} numbers lies in no state of {env.state_size} numbers"
            )
