"""Planning by sampling: draw sequences, cost them, draw nearer to those of low cost.

One loop for CEM, iCEM, MPPI and categorical CEM: they differ in what they draw from and in how a
cost becomes a weight.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from ...errors import UserError
from .base import Cost, Generators, Limits, Plan, beginnings, costed, extent, take
from .noise import coloured

Spread = tuple[Tensor, ...]
MIN_STD = 0.02  # that draws never fall below, in the reach of the limits


class SamplingPlanner(ABC):
    """The loop. A start that is given is costed too, so that a plan is never worse than its start.

    Args:
        horizon: H, actions of a plan.
        samples: sequences drawn in the first iteration.
        iterations: rounds of drawing.
        elites: sequences that count as the best.
        carried: elites that are kept as candidates of the next iteration.
        decay: factor on the samples from one iteration to the next, down to twice the elites.

    Raises:
        UserError: a number that makes no search.
    """

    def __init__(
        self,
        horizon: int,
        samples: int,
        iterations: int,
        elites: int,
        carried: int,
        decay: float,
    ) -> None:
        for name, value in {"horizon": horizon, "iterations": iterations, "elites": elites}.items():
            if value < 1:
                raise UserError(f"{name} must be 1 or more, not {value}")
        if samples < elites:
            raise UserError(f"{elites} elites need as many samples or more, got {samples}")
        if not 0 <= carried <= elites:
            raise UserError(f"carried must be from 0 to the {elites} elites, not {carried}")
        if not 0 < decay <= 1:
            raise UserError(f"decay must be above 0 and at most 1, not {decay}")
        self.horizon, self.samples, self.iterations = horizon, samples, iterations
        self.elites, self.carried, self.decay = elites, carried, decay

    @torch.no_grad()
    def plan(
        self, cost: Cost, state: Any, task: Any, previous: Plan | None, generator: Generators
    ) -> Plan:
        """See `Planner.plan`."""
        batch, device = extent(state)
        kept, known = beginnings(previous, batch, self.horizon, self.middle(device))
        kept = self.allowed(kept)
        spread, evaluations = self.begin(kept[:, 0], known[:, 0]), 0
        best = _Best(kept[:, 0])
        barred = ~known
        barred[:, 0] = False  # the middle counts once, however much was forgotten
        for iteration in range(self.iterations):
            drawn = self.draw(spread, self._count(iteration), generator)
            candidates = torch.cat([kept, drawn], 1)
            costs = costed(cost, state, candidates, task)
            evaluations += candidates.shape[1]
            costs[:, : barred.shape[1]].masked_fill_(barred, math.inf)
            best.add(candidates, costs)
            spread = self.refit(spread, candidates, self.weights(costs))
            elites = lowest(candidates, costs, self.elites)
            kept = torch.cat([self.centre(spread)[:, None], elites[0][:, : self.carried]], 1)
            barred = barred[:, :0]
        centre = kept[:, :1]
        best.add(centre, costed(cost, state, centre, task))
        return Plan(best.actions, best.cost, best.first_of(*elites), evaluations + 1)

    def _count(self, iteration: int) -> int:
        least = min(2 * self.elites, self.samples)
        return max(round(self.samples * self.decay**iteration), least)

    @abstractmethod
    def middle(self, device: torch.device) -> Tensor:
        """The action to begin with where nothing is known, `A`."""

    @abstractmethod
    def allowed(self, actions: Tensor) -> Tensor:
        """The nearest sequences that may be executed, `B K H A`: a start may come from anywhere."""

    @abstractmethod
    def begin(self, start: Tensor, known: Tensor) -> Spread:
        """The first distribution around `B H A`; `known` `B` says where that is more than none."""

    @abstractmethod
    def draw(self, spread: Spread, count: int, generator: Generators) -> Tensor:
        """Sequences within the limits, `B count H A`."""

    @abstractmethod
    def centre(self, spread: Spread) -> Tensor:
        """The sequence in the middle of the distribution, `B H A`."""

    @abstractmethod
    def weights(self, costs: Tensor) -> Tensor:
        """How much each candidate counts, `B S`, with the sum 1; all 0 where all are infinite."""

    @abstractmethod
    def refit(self, spread: Spread, candidates: Tensor, weights: Tensor) -> Spread:
        """The distribution nearer to the weighted candidates; as it was where all weights are 0."""


class _Best:
    """The best sequence seen so far, for each environment; what came first among equals."""

    def __init__(self, actions: Tensor) -> None:
        self.actions = actions
        self.cost = torch.full(actions.shape[:1], math.inf, device=actions.device)

    def add(self, candidates: Tensor, costs: Tensor) -> None:
        found, cost = lowest(candidates, costs, 1)
        better = cost[:, 0] < self.cost
        self.cost = torch.where(better, cost[:, 0], self.cost)
        self.actions = torch.where(better[:, None, None], found[:, 0], self.actions)

    def first_of(self, elites: Tensor, costs: Tensor) -> Tensor:
        """Elites `B K H A` led by the best, which is not there twice where it is one of them."""
        other = (self.actions != elites[:, 0]).flatten(1).any(1)  # of two that cost the same
        beaten = other & (self.cost <= costs[:, 0])
        joined = torch.cat([self.actions[:, None], elites[:, :-1]], 1)
        return torch.where(beaten[:, None, None, None], joined, elites)


def lowest(candidates: Tensor, costs: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` of `B S H A` that cost least, and their costs, best first."""
    found = costs.topk(min(count, costs.shape[1]), largest=False)
    return take(candidates, found.indices), found.values


def elite_weights(costs: Tensor, elites: int) -> Tensor:
    """The same weight for each of the `elites` lowest costs of `B S`; none for an infinite one."""
    found = costs.topk(min(elites, costs.shape[1]), largest=False)
    chosen = torch.zeros_like(costs).scatter(1, found.indices, (found.values < math.inf).float())
    return chosen / chosen.sum(1, keepdim=True).clamp_min(1)


def soft_weights(costs: Tensor, temperature: float) -> Tensor:
    """`softmax(-cost / temperature)` over S of `B S`: a low temperature trusts the best alone.

    Williams et al. (2017), Information theoretic MPC, eq. 26. The temperature has the unit of the
    cost.
    """
    return torch.softmax(-costs / temperature, 1).nan_to_num(nan=0.0)


class GaussianPlanner(SamplingPlanner):
    """Draws from a normal distribution for each action of each step; see `CEM` and `MPPI`."""

    def __init__(
        self,
        horizon: int,
        limits: Limits,
        samples: int,
        iterations: int,
        elites: int,
        carried: int,
        decay: float,
        colour: float,
        std: float,
        min_std: float,
        momentum: float,
    ) -> None:
        super().__init__(horizon, samples, iterations, elites, carried, decay)
        if not 0 < min_std <= std:
            raise UserError(f"min_std must be above 0 and at most std {std}, not {min_std}")
        if not 0 <= momentum < 1:
            raise UserError(f"momentum must be from 0 to below 1, not {momentum}")
        self.limits, self.colour = limits, colour
        self.std, self.min_std, self.momentum = std, min_std, momentum

    def middle(self, device: torch.device) -> Tensor:
        """The middle of the box."""
        return self.limits.clip(self.limits.middle(torch.empty(0, device=device)))

    def allowed(self, actions: Tensor) -> Tensor:
        """Clipped to the limits."""
        return self.limits.clip(actions)

    def begin(self, start: Tensor, known: Tensor) -> Spread:
        """Mean and standard deviation, both `B H A`."""
        return start, (self.std * self.limits.reach(start)).expand_as(start)

    def draw(self, spread: Spread, count: int, generator: Generators) -> Tensor:
        """Clipped, so that what is costed is what would be executed."""
        mean, std = spread
        batch, horizon, width = mean.shape
        noise = coloured(batch, count, horizon, width, self.colour, generator, mean.device)
        return self.limits.clip(mean[:, None] + std[:, None] * noise)

    def centre(self, spread: Spread) -> Tensor:
        """The mean."""
        return self.limits.clip(spread[0])

    def refit(self, spread: Spread, candidates: Tensor, weights: Tensor) -> Spread:
        """Weighted mean and standard deviation."""
        mean, std = spread
        share = weights[:, :, None, None]
        new_mean = (share * candidates).sum(1)
        new_std = (share * (candidates - new_mean[:, None]).square()).sum(1).sqrt()
        new_std = torch.maximum(new_std, self.min_std * self.limits.reach(mean))
        known = weights.sum(1)[:, None, None] > 0
        return (
            torch.where(known, mean.lerp(new_mean, 1 - self.momentum), mean),
            torch.where(known, std.lerp(new_std, 1 - self.momentum), std),
        )


class CEM(GaussianPlanner):
    """The cross-entropy method, with what makes few samples enough.

    With `carried`, `colour` and `momentum` 0 it is the plain method (Rubinstein 1999); with elites
    carried over, a falling number of samples and coloured noise it is iCEM (Pinneri et al. 2020).

    Args:
        horizon: H, actions of a plan.
        limits: of actions.
        samples: sequences drawn in the first iteration.
        iterations: rounds of drawing.
        elites: sequences that the next distribution is fitted to.
        carried: elites that are kept as candidates of the next iteration.
        decay: factor on the samples from one iteration to the next, down to twice the elites.
        colour: exponent of the noise's spectrum along time; 0 is white.
        std: of the first draws, in the reach of the limits (half the box).
        min_std: that the distribution never falls below, in the same unit.
        momentum: share of the old mean and standard deviation in the new.
    """

    def __init__(
        self,
        horizon: int,
        limits: Limits,
        samples: int = 100,
        iterations: int = 10,
        elites: int = 10,
        carried: int = 5,
        decay: float = 1.0,
        colour: float = 0.0,
        std: float = 0.5,
        min_std: float = MIN_STD,
        momentum: float = 0.2,
    ) -> None:
        super().__init__(
            horizon, limits, samples, iterations, elites, carried, decay, colour, std,
            min_std, momentum,
        )  # fmt: skip

    def weights(self, costs: Tensor) -> Tensor:
        """The elites count alike, the others not."""
        return elite_weights(costs, self.elites)


class MPPI(GaussianPlanner):
    """Model predictive path integral control: every candidate counts by `exp(-cost / temperature)`.

    Williams et al. (2017); the standard deviation follows the weights too, as in TD-MPC2 (Hansen et
    al. 2024, section 3.2). The weighted mean is costed like any candidate, and what is returned is
    the best of all that was costed.

    Args:
        horizon: H, actions of a plan.
        limits: of actions.
        samples: sequences drawn in each iteration.
        iterations: rounds of drawing.
        temperature: in the unit of the cost; the lower, the more the best candidate counts alone.
        elites: sequences that are handed on to the next decision.
        carried: elites that are kept as candidates of the next iteration.
        colour: exponent of the noise's spectrum along time; 0 is white.
        std: of the first draws, in the reach of the limits (half the box).
        min_std: that the distribution never falls below, in the same unit.

    Raises:
        UserError: a temperature that is not above 0.
    """

    def __init__(
        self,
        horizon: int,
        limits: Limits,
        samples: int = 100,
        iterations: int = 10,
        temperature: float = 0.01,
        elites: int = 10,
        carried: int = 5,
        colour: float = 0.0,
        std: float = 0.5,
        min_std: float = MIN_STD,
    ) -> None:
        super().__init__(
            horizon, limits, samples, iterations, elites, carried, 1.0, colour, std,
            min_std, 0.0,
        )  # fmt: skip
        if temperature <= 0:
            raise UserError(f"temperature must be above 0, not {temperature}")
        self.temperature = temperature

    def weights(self, costs: Tensor) -> Tensor:
        """`softmax(-cost / temperature)`."""
        return soft_weights(costs, self.temperature)
