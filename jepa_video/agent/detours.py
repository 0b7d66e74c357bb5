"""Ways by way of other places: plans that a policy which knows one way would not think of.

A policy proposes the way that it takes for the shortest. Where chance may bar it, the better plan
leads elsewhere, and drawing actions at random does not find that one either: a detour is many
actions long and few of them are right by accident. So the policy is asked, in imagination, for the
way to each of some places spread over the picture and from there to the goal; the planner, which
sees what each may come to, chooses among them. A sub-goal is an action of level 2 (LeCun 2022,
section 4.7), proposed without being learned.

Shapes: B environments, K places, states `P D`, spots x and y in cells of the chart.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .chart import Chart

NEAR = 1.5  # steps from a place at which it counts as passed


def places_over(chart: Chart, states: Tensor, side: int) -> Tensor:
    """States like `B P D` whose agent is in the middle of `side` x `side` parts: `B K P D`."""
    high, wide = chart.size
    share = (torch.arange(side, device=states.device) + 0.5) / side
    y, x = torch.meshgrid(share * high, share * wide, indexing="ij")
    return moved_to(chart, states, torch.stack((x, y), -1).flatten(0, 1).to(states))


def moved_to(chart: Chart, states: Tensor, to: Tensor) -> Tensor:
    """States like `B P D` whose agent is at each of the spots `K 2`: `B K P D`.

    Of the points that say where an agent is the least change is made that moves it there.
    """
    points = states.flatten(1)[:, None, : chart.aim]
    change = (to - chart.spots(points)) @ torch.linalg.pinv(chart.where.weight).T
    moved = states.flatten(1)[:, None].repeat(1, len(to), 1)
    moved[..., : chart.aim] += change
    return moved.view(*moved.shape[:2], *states.shape[1:])


def passed(chart: Chart, states: Tensor, places: Tensor) -> Tensor:
    """Whether agents `N P D` are as good as at places `N P D`, bool `N`."""
    here, there = (chart.spots(part.flatten(1)[:, : chart.aim]) for part in (states, places))
    near: Tensor = (here - there).norm(dim=1) * chart.pace.exp() < NEAR
    return near
