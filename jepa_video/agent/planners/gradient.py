"""Planning along the gradient of the cost, alone or after a search by sampling."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from ...energies.inference import argmin_z
from ...errors import UserError
from .base import Cost, Generators, Limits, Plan, beginnings, costed, extent, normal
from .sampling import GaussianPlanner

Method = Literal["adam", "lbfgs"]


class GradientPlanner:
    """Descends from several starts at once and keeps the best sequence that it saw.

    The cost must be differentiable with respect to the actions. A planner is inference over an
    energy whose latent is the action sequence, so the minimiser is that of `argmin_z`.

    Args:
        horizon: H, actions of a plan.
        limits: of actions; a descent slides along their edge.
        starts: sequences to descend from: those of a previous plan first, then random ones.
        steps: of each descent; each costs one evaluation with its gradient.
        step_size: of Adam; the length of the first step only of L-BFGS, which finds its own.
        method: `lbfgs` for smooth costs, `adam` for rough ones.
        std: of random starts, in the reach of the limits (half the box).

    Raises:
        UserError: a number that makes no search.
    """

    def __init__(
        self,
        horizon: int,
        limits: Limits,
        starts: int = 4,
        steps: int = 12,
        step_size: float = 0.1,
        method: Method = "lbfgs",
        std: float = 0.5,
    ) -> None:
        for name, value in {"horizon": horizon, "starts": starts}.items():
            if value < 1:
                raise UserError(f"{name} must be 1 or more, not {value}")
        _check_descent(steps, step_size)
        self.horizon, self.limits, self.starts, self.steps = horizon, limits, starts, steps
        self.step_size, self.method, self.std = step_size, method, std

    def plan(
        self, cost: Cost, state: Any, task: Any, previous: Plan | None, generator: Generators
    ) -> Plan:
        """See `Planner.plan`."""
        batch, device = extent(state)
        middle = self.limits.middle(torch.empty(0, device=device))
        begun, known = (
            part[:, : self.starts] for part in beginnings(previous, batch, self.horizon, middle)
        )
        noise = normal((batch, self.starts, self.horizon, len(middle)), generator, device)
        starts = middle + self.std * self.limits.reach(middle) * noise
        known[:, 0] = True  # the middle, where nothing is known
        begun = torch.where(known[..., None, None], begun, starts[:, : begun.shape[1]])
        begun = torch.cat([begun, starts[:, begun.shape[1] :]], 1)
        return descend(
            cost, state, task, begun, self.limits, self.steps, self.step_size, self.method
        )


class PolishedPlanner:
    """A short search by sampling, whose best sequences then descend along the gradient.

    Sampling finds the valley and the gradient its bottom, for which sampling needs most of its
    candidates. What is returned is never worse than what the search found.

    Args:
        search: the search.
        starts: elites of the search that descend, the best first.
        steps: of each descent; each costs one evaluation with its gradient.
        step_size: of Adam; the length of the first step only of L-BFGS, which finds its own.
        method: `lbfgs` for smooth costs, `adam` for rough ones.

    Raises:
        UserError: a number that makes no descent.
    """

    def __init__(
        self,
        search: GaussianPlanner,
        starts: int = 4,
        steps: int = 8,
        step_size: float = 0.1,
        method: Method = "lbfgs",
    ) -> None:
        if starts < 1:
            raise UserError(f"starts must be 1 or more, not {starts}")
        _check_descent(steps, step_size)
        self.search, self.starts, self.steps = search, starts, steps
        self.step_size, self.method = step_size, method

    def plan(
        self, cost: Cost, state: Any, task: Any, previous: Plan | None, generator: Generators
    ) -> Plan:
        """See `Planner.plan`."""
        found = self.search.plan(cost, state, task, previous, generator)
        begun = found.elites[:, : self.starts]
        polished = descend(
            cost, state, task, begun, self.search.limits, self.steps, self.step_size, self.method
        )
        elites = torch.cat([polished.elites, found.elites[:, :-1]], 1)
        evaluations = found.evaluations + polished.evaluations
        return Plan(polished.actions, polished.cost, elites, evaluations)


def descend(
    cost: Cost,
    state: Any,
    task: Any,
    starts: Tensor,
    limits: Limits,
    steps: int,
    step_size: float,
    method: Method = "lbfgs",
) -> Plan:
    """The best sequence on the way down from the starts `B S H A`, which count as seen.

    An evaluation with its gradient costs about three of those without.

    Raises:
        ValueError: the cost gives no gradient.
    """

    def energy(actions: Tensor) -> Tensor:
        found = costed(cost, state, limits.clip_inwards(actions), task)
        if not found.requires_grad:
            raise ValueError("a descent needs a cost that is differentiable in the actions")
        return found

    best = argmin_z(energy, limits.clip(starts), steps, step_size, method, limits.clip)
    actions = limits.clip(best.z)
    return Plan(actions, best.energy, actions[:, None], starts.shape[1] * (steps + 1))


def _check_descent(steps: int, step_size: float) -> None:
    if steps < 1:
        raise UserError(f"steps must be 1 or more, not {steps}")
    if step_size <= 0:
        raise UserError(f"step_size must be above 0, not {step_size}")
