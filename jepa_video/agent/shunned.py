"""Zones on the chart: ways around what a task asks to keep out of, with nothing trained.

    k'(c, n) = k(c, n) + l(c, n) max(u(c), u(n))        u(c) = u_zone IC_zone(c) / u_goal

A plan feels the cost `zone` as far as its horizon, and a critic that knows the goal alone calls it
nearer on the other side: such a plan stands before a box for ever. The chart tells what lies
beyond, so each step over its cells costs as much more as the intrinsic cost asks for being there,
counted in steps of the cost `goal`: `u` of the cells' middles, read off a state whose agent is
there, `l` the steps that a way takes where nothing is on it. Of the two ends the dearer counts: a
plan for which crossing is dearer than the chart foretold would leave it for later, for ever.
Critic, policy and level 2 ask the same chart.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from .chart import Chart
from .cost import IntrinsicCost
from .detours import moved_to
from .mind import Mind, Trained
from .policy import ReactivePolicy
from .task import Task

ZONE = "zone"


def shunning(trained: Trained, intrinsic: IntrinsicCost, mind: Mind) -> Trained:
    """The same with the zones of a mind on its chart; as it is where either is not there."""
    chart, goal, zone = trained.critic, mind.weights.get("goal"), mind.weights.get(ZONE)
    if not (isinstance(chart, Chart) and goal and zone and zone > 0 and mind.zones):
        return trained
    task = Task(None, {ZONE: zone / goal}, mind.zones)
    own = copy.copy(chart)  # the same weights: only what is asked for differs
    own.shun = prices(chart, trained.policy, intrinsic, task)
    policy = copy.copy(trained.policy)
    policy.follow(own)
    level2 = copy.copy(trained.level2)
    return trained._replace(
        critic=own, policy=policy, level2=None if level2 is None else level2.follow(own)
    )


def told_by_zones(trained: Trained, mind: Mind, asked: Mind) -> bool:
    """Whether all that is asked for beside what was learned is to keep out of zones of a chart."""
    own, other = dict(mind.weights), dict(asked.weights)
    zones = own.pop(ZONE, 0.0), other.pop(ZONE, 0.0)
    return isinstance(trained.critic, Chart) and own == other and min(zones) >= 0


@torch.no_grad()
def prices(chart: Chart, policy: ReactivePolicy, intrinsic: IntrinsicCost, task: Task) -> Tensor:
    """What the task's zones cost in the middle of each cell, `C`, read off the mean of states."""
    states = moved_to(chart, policy.mean[None, None], chart.centres)  # 1 C 1 D: a map has one token
    return intrinsic(states, states.new_zeros(1), task)[0]
