"""What a plan is worth: a network that the configurator asks in mode `learned`."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from .policy import ReactivePolicy


class Worth(nn.Module):
    """What a plan saves over the reaction, `log(1 + cost)`: learned while plans are distilled.

    The value of a computation (Russell and Wefald 1991), from state and goal alone: of each state
    of memory the costs of the policy's own action and of the best that was tried are known.

    Args:
        width: `D` times `P` of a state.
        aim: how many of a goal's numbers, from the first on, are looked at; 0 for no goal.
        hidden: width inside.
        grid: see `ReactivePolicy`.
    """

    def __init__(
        self, width: int, aim: int, hidden: int = 256, grid: tuple[int, int] | None = None
    ) -> None:
        super().__init__()
        self.look = ReactivePolicy(width, 1, True, aim, hidden, grid)

    @property
    def mean(self) -> Tensor:
        """Of the states, by which they are scaled; `std` is their deviation."""
        return self.look.mean

    @property
    def std(self) -> Tensor:
        """See `mean`."""
        return self.look.std

    def forward(self, states: Tensor, goal: Tensor | None) -> Tensor:
        """States `N P D` and goals to `N`, 0 or more."""
        told: Tensor = F.softplus(self.look(states, goal)[:, 0])
        return told

    def loss(self, states: Tensor, goal: Tensor | None, costs: Tensor) -> Tensor:
        """Squared error on what was tried, `N S`, of which the first is the reaction."""
        saved = (costs[:, 0] - costs.amin(1)).detach().log1p()
        error: Tensor = (self(states, goal) - saved).square().mean()
        return error
