"""Planning over what cannot be known: one cost from the costs under several latents z."""

from __future__ import annotations

from typing import Any, Literal, Protocol

from torch import Tensor


class CostGivenZ(Protocol):
    """What a plan costs in the future that z names."""

    def __call__(self, state: Any, actions: Tensor, task: Any, z: Tensor) -> Tensor:
        """Candidates `B S H A`, each with a latent of its own `B S ...`, to costs `B S`."""


class OverFutures:
    """`cost(state, actions, task)` over Z samples of z: expected, or of the worst future.

    All candidates meet the same samples, so that they differ by their actions and not by their
    luck. All futures of all candidates are costed in one call, S Z of them.

    Args:
        cost: given z.
        z: samples `B Z ...`, of the prior or of a posterior.
        risk: `expected` is the mean over z, `worst` the highest.
    """

    def __init__(
        self, cost: CostGivenZ, z: Tensor, risk: Literal["expected", "worst"] = "expected"
    ) -> None:
        self.cost, self.z, self.risk = cost, z, risk

    def __call__(self, state: Any, actions: Tensor, task: Any) -> Tensor:
        """Candidates `B S H A` to costs `B S`."""
        batch, samples = actions.shape[:2]
        futures = self.z.shape[1]
        each = actions.repeat_interleave(futures, 1)
        z = self.z[:, None].expand(-1, samples, *self.z.shape[1:]).flatten(1, 2)
        costs = self.cost(state, each, task, z).view(batch, samples, futures)
        return costs.mean(-1) if self.risk == "expected" else costs.amax(-1)
