"""An itinerary: sub-goals that are given, gone through in their order; the last is the goal.

Whoever knows the way tells it as a list of pictures. The agent aims at the first until it is there,
then at the next: what level 2 (`level2.py`) finds for itself is told here.
"""

from __future__ import annotations

import torch
from torch import Tensor


class Itinerary:
    """Where a batch of episodes has got to on its way.

    Args:
        goals: states `B G P D`, of which the first `aim` numbers say where the agent is.
        aim: how many.
        reach: distance of states that count as the same place.

    Attributes:
        at: number of the goal that is aimed at, `B`.
    """

    def __init__(self, goals: Tensor, aim: int, reach: float) -> None:
        self.goals, self.width, self.reach = goals, aim, reach
        self.at = torch.zeros(len(goals), dtype=torch.long, device=goals.device)

    def aim(self, state: Tensor) -> Tensor:
        """The goal `B P D` of states `B P D`: the first one that was not reached so far."""
        rows, last = torch.arange(len(state), device=state.device), self.goals.shape[1] - 1
        here = state.flatten(1)[:, : self.width]
        there = self.goals[rows, self.at].flatten(1)[:, : self.width]
        self.at = (self.at + ((here - there).norm(dim=1) < self.reach)).clamp_max(last)
        return self.goals[rows, self.at]
