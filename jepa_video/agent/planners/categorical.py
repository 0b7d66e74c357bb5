"""Planning with discrete actions, which a cost sees as one-hot vectors."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from ...errors import UserError
from .base import Generators, normal
from .sampling import SamplingPlanner, Spread, elite_weights


class CategoricalCEM(SamplingPlanner):
    """The cross-entropy method over sequences of choices; actions are one-hot, `B S H A`.

    Args:
        horizon: H, actions of a plan.
        choices: A, among which each step chooses.
        samples: sequences drawn in the first iteration.
        iterations: rounds of drawing.
        elites: sequences that the next distribution is fitted to.
        carried: elites that are kept as candidates of the next iteration.
        decay: factor on the samples from one iteration to the next, down to twice the elites.
        trust: probability of the choice to begin with, where a previous plan is given; the rest is
            spread over all.
        floor: share of the uniform distribution in every distribution, so that no choice is lost.
        momentum: share of the old distribution in the new.

    Raises:
        UserError: fewer than two choices, or a share that is none.
    """

    def __init__(
        self,
        horizon: int,
        choices: int,
        samples: int = 100,
        iterations: int = 10,
        elites: int = 10,
        carried: int = 5,
        decay: float = 1.0,
        trust: float = 0.5,
        floor: float = 0.1,
        momentum: float = 0.5,
    ) -> None:
        super().__init__(horizon, samples, iterations, elites, carried, decay)
        if choices < 2:
            raise UserError(f"choices must be 2 or more, not {choices}")
        for name, value in {"trust": trust, "floor": floor, "momentum": momentum}.items():
            if not 0 <= value < 1:
                raise UserError(f"{name} must be from 0 to below 1, not {value}")
        self.choices, self.trust, self.floor = choices, trust, floor
        self.momentum = momentum

    def middle(self, device: torch.device) -> Tensor:
        """The first choice: something that can be executed and costed."""
        return one_hot(torch.zeros((), dtype=torch.long, device=device), self.choices).float()

    def allowed(self, actions: Tensor) -> Tensor:
        """One-hot: the likeliest choice of each step."""
        return one_hot(actions.argmax(-1), self.choices).float()

    def begin(self, start: Tensor, known: Tensor) -> Spread:
        """Probabilities `B H A`."""
        trust = torch.where(known, self.trust, 0.0)[:, None, None]
        return (trust * start + (1 - trust) / self.choices,)

    def draw(self, spread: Spread, count: int, generator: Generators) -> Tensor:
        """Independent choices at each step."""
        (chances,) = spread
        batch, horizon, _ = chances.shape
        # The normal distribution function makes uniform draws of the normal ones.
        even = torch.special.ndtr(normal((batch, count, horizon, 1), generator, chances.device))
        choice = (chances.cumsum(-1)[:, None] < even).sum(-1).clamp_max(self.choices - 1)
        return one_hot(choice, self.choices).float()

    def centre(self, spread: Spread) -> Tensor:
        """The likeliest choices."""
        return self.allowed(spread[0])

    def weights(self, costs: Tensor) -> Tensor:
        """The elites count alike, the others not."""
        return elite_weights(costs, self.elites)

    def refit(self, spread: Spread, candidates: Tensor, weights: Tensor) -> Spread:
        """How often the elites choose what, and a little of everything."""
        (chances,) = spread
        found = (weights[:, :, None, None] * candidates).sum(1)
        found = (1 - self.floor) * found + self.floor / self.choices
        found = found.lerp(chances, self.momentum)
        return (torch.where(weights.sum(1)[:, None, None] > 0, found, chances),)
