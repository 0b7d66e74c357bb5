"""What all planners share: the contract, the limits of actions, and the plan itself.

A planner needs only `cost(state, actions[B, S, H, A], task) -> [B, S]`: B environments, S candidate
sequences of H actions of width A. State and task are the caller's; a planner hands them on. A
candidate is brought within the limits before it is costed, so that what is returned and executed is
what was costed. A cost that is NaN counts as infinite: its candidate is never chosen and never
shapes the search.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from ...errors import UserError

Generators = torch.Generator | Sequence[torch.Generator]


class Cost(Protocol):
    """What a plan costs: world model, intrinsic cost and critic behind one call."""

    def __call__(self, state: Any, actions: Tensor, task: Any) -> Tensor:
        """Candidates `B S H A` to costs `B S`, lower is better."""


class Planner(Protocol):
    """Anything that finds actions of low cost."""

    def plan(
        self, cost: Cost, state: Any, task: Any, previous: Plan | None, generator: Generators
    ) -> Plan:
        """Actions for each environment of `state`.

        Args:
            cost: the contract.
            state: the caller's, with a tensor `B ...` in it, by which B and the device are known.
            task: the caller's.
            previous: where to begin: the last plan, `shifted` by what was executed since, or
                proposals of a policy; None begins anew.
            generator: of the draws; with one for each environment, the plan of an environment does
                not depend on which others are planned beside it.
        """


@dataclass(frozen=True)
class Plan:
    """What a planner returns, and what the next call may begin with."""

    actions: Tensor  # B H A, within the limits
    cost: Tensor  # B, of exactly these actions; NaN where it is not known
    elites: Tensor  # B K H A, the best that are known, best first: the actions come first
    evaluations: int = 0  # sequences that were costed for each environment

    @classmethod
    def proposal(cls, actions: Tensor) -> Plan:
        """A beginning from elsewhere, as a policy's guesses `B K H A`, the likeliest first."""
        return cls(actions[:, 0], actions.new_full(actions.shape[:1], math.nan), actions)

    def shifted(self, steps: int = 1) -> Plan:
        """The rest of the plan after `steps` actions were executed; its last action is repeated."""
        last = self.actions.shape[1] - 1
        index = (torch.arange(last + 1, device=self.actions.device) + steps).clamp_max(last)
        unknown = torch.full_like(self.cost, math.nan)
        return replace(
            self, actions=self.actions[:, index], elites=self.elites[:, :, index], cost=unknown
        )

    def lasting(self, horizon: int) -> Plan:
        """The first `horizon` actions; where there are fewer the last one is repeated."""
        last = self.actions.shape[1] - 1
        if horizon == last + 1:
            return self
        index = torch.arange(horizon, device=self.actions.device).clamp_max(last)
        return replace(self, actions=self.actions[:, index], elites=self.elites[:, :, index])

    def rows(self, which: Tensor) -> Plan:
        """Of some environments alone, by their numbers `[N]`."""
        return replace(
            self, actions=self.actions[which], elites=self.elites[which], cost=self.cost[which]
        )

    def forgotten(self, which: Tensor) -> Plan:
        """Without the environments `which` `[B]` (bool), as after a reset: they begin anew."""
        rows = which.view(-1, 1, 1)
        return replace(
            self,
            actions=self.actions.masked_fill(rows, math.nan),
            elites=self.elites.masked_fill(rows[..., None], math.nan),
            cost=self.cost.masked_fill(which, math.nan),
        )


def merged(plan: Plan, which: Tensor, before: Plan | None, batch: int) -> Plan:
    """A plan for all environments: the new one for `which`, for others `before`, or none (NaN)."""

    def whole(new: Tensor, old: Tensor | None) -> Tensor:
        shape = (batch, *new.shape[1:])
        full = new.new_full(shape, math.nan) if old is None else old.clone()
        full[which] = new
        return full

    actions, cost, elites = (before.actions, before.cost, before.elites) if before else [None] * 3
    return Plan(
        whole(plan.actions, actions), whole(plan.cost, cost), whole(plan.elites, elites),
        plan.evaluations,
    )  # fmt: skip


@dataclass(frozen=True)
class Limits:
    """What actions are allowed: a box, and within it a ball where `norm` is given.

    Args:
        width: A, of one action.
        low: of each component, or of all.
        high: of each component, or of all.
        norm: longest Euclidean length of one action, in the unit of the action.

    Raises:
        UserError: an empty box, or a norm whose ball does not lie around a point of the box.
    """

    width: int
    low: float | tuple[float, ...] = -1.0
    high: float | tuple[float, ...] = 1.0
    norm: float | None = None

    def __post_init__(self) -> None:
        low, high = self._each(self.low, "low"), self._each(self.high, "high")
        if not all(a < b for a, b in zip(low, high, strict=True)):
            raise UserError(f"low must be below high, got {self.low} and {self.high}")
        if self.norm is not None and self.norm <= 0:
            raise UserError(f"norm must be above 0, not {self.norm}")
        if self.norm is not None and not all(a <= 0 <= b for a, b in zip(low, high, strict=True)):
            raise UserError(
                f"a norm shortens actions towards 0, which the box from {self.low} to {self.high} "
                "does not hold"
            )

    def clip(self, actions: Tensor) -> Tensor:
        """The nearest actions in the box `[..., A]`, shortened to the norm."""
        low, high = self._box(actions)
        actions = actions.clamp(low, high)
        if self.norm is not None:  # a factor of exactly 1 where the action is short enough
            length = torch.linalg.vector_norm(actions, dim=-1, keepdim=True)
            actions = actions * (self.norm / length.clamp_min(self.norm))
        return actions

    def clip_inwards(self, actions: Tensor) -> Tensor:
        """`clip`, with a gradient at the edge that points back inside.

        The gradient of a clamp is zero beyond the edge, so that descent never returns from there.
        """
        clipped: Tensor = _ClipInwards.apply(actions, self)
        return clipped

    def middle(self, like: Tensor) -> Tensor:
        """The middle of the box `[A]`."""
        low, high = self._box(like)
        return (low + high) / 2

    def reach(self, like: Tensor) -> Tensor:
        """How far an action can lie from the middle `[A]`."""
        low, high = self._box(like)
        half = (high - low) / 2
        return half if self.norm is None else half.clamp_max(self.norm)

    def _box(self, like: Tensor) -> tuple[Tensor, Tensor]:
        edges = [self._each(self.low, "low"), self._each(self.high, "high")]
        low, high = torch.tensor(edges, dtype=like.dtype, device=like.device)
        return low, high

    def _each(self, edge: float | tuple[float, ...], name: str) -> tuple[float, ...]:
        edges = (float(edge),) * self.width if isinstance(edge, int | float) else tuple(edge)
        if len(edges) != self.width:
            raise UserError(f"{name} must have {self.width} components, got {len(edges)}")
        return edges


class _ClipInwards(torch.autograd.Function):
    """Clips; backwards it drops what would push an action further over the edge it is at."""

    @staticmethod
    def forward(ctx: Any, actions: Tensor, limits: Limits) -> Tensor:
        clipped = limits.clip(actions)
        ctx.save_for_backward(actions, clipped)
        ctx.limits = limits
        return clipped

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        actions, clipped = ctx.saved_tensors
        low, high = ctx.limits._box(actions)
        outwards = ((actions <= low) & (grad > 0)) | ((actions >= high) & (grad < 0))
        grad = grad.masked_fill(outwards, 0)
        if ctx.limits.norm is None:
            return grad, None
        length = torch.linalg.vector_norm(clipped, dim=-1, keepdim=True)
        along = (grad * clipped).sum(-1, keepdim=True) / length.square().clamp_min(1e-12)
        over = (length >= ctx.limits.norm * (1 - 1e-6)) & (along < 0)
        return torch.where(over, grad - along * clipped, grad), None


def extent(state: Any) -> tuple[int, torch.device]:
    """How many environments a state is of, and where it lies; by the first tensor in it.

    Raises:
        ValueError: there is no tensor in it.
    """
    tensor = _first_tensor(state)
    if tensor is None or not tensor.ndim:
        raise ValueError("a state needs a tensor of shape B ... in it, which says how many to plan")
    return tensor.shape[0], tensor.device


def _first_tensor(state: Any) -> Tensor | None:
    if isinstance(state, Tensor):
        return state
    parts = state.values() if isinstance(state, Mapping) else state
    if isinstance(state, str) or not hasattr(parts, "__iter__"):
        return None
    return next((found for part in parts if (found := _first_tensor(part)) is not None), None)


def costed(cost: Cost, state: Any, actions: Tensor, task: Any) -> Tensor:
    """Costs `B S`, with infinity in the place of NaN.

    Raises:
        ValueError: the cost is not one number for each candidate.
    """
    found = cost(state, actions, task)
    if found.shape != actions.shape[:2]:
        raise ValueError(
            f"a cost must give B S = {tuple(actions.shape[:2])} numbers, got {tuple(found.shape)}"
        )
    return found.masked_fill(found.isnan(), math.inf)


def take(candidates: Tensor, index: Tensor) -> Tensor:
    """Candidates `B S ...` at `B K`: `B K ...`."""
    rows = torch.arange(len(index), device=index.device)[:, None]
    return candidates[rows, index]


def beginnings(
    previous: Plan | None, batch: int, horizon: int, middle: Tensor
) -> tuple[Tensor, Tensor]:
    """What there is to begin with, `B K H A`, likeliest first, and where it is known, `B K`.

    Where nothing is known it is `middle`, `A`.

    Raises:
        ValueError: the previous plan is of other environments, of another horizon or width.
    """
    shape = (batch, horizon, len(middle))
    if previous is None:
        nothing = torch.zeros(batch, 1, dtype=torch.bool, device=middle.device)
        return middle.expand(batch, 1, horizon, -1), nothing
    if previous.actions.shape != shape:
        raise ValueError(
            f"the previous plan has the shape {tuple(previous.actions.shape)}, expected {shape}"
        )
    missing = previous.elites.isnan()
    return torch.where(missing, middle, previous.elites), ~missing.flatten(2).any(2)


def normal(shape: Sequence[int], generator: Generators, device: torch.device) -> Tensor:
    """Standard normal draws `B ...`, from one generator or from one for each environment.

    Raises:
        ValueError: there are not as many generators as environments.
    """
    if isinstance(generator, torch.Generator):
        return torch.randn(*shape, generator=generator, device=generator.device).to(device)
    if len(generator) != shape[0]:
        raise ValueError(f"{shape[0]} environments need as many generators, got {len(generator)}")
    draws = [torch.randn(*shape[1:], generator=one, device=one.device) for one in generator]
    return torch.stack(draws).to(device)
