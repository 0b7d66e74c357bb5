"""The reference problem of planning: random latent dynamics, and goals that can be reached.

Shapes: states `B D`, actions `B S H A`. Everything follows from a seed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from ..randomness import generator

CHOICES: Final = 8  # of a discrete action
DISTURBANCE: Final = 0.02  # noise on each component of a state, which has variance 1, after a step


@dataclass(frozen=True)
class PlanSize:
    """What is planned, and the budget of plain CEM."""

    name: str
    width: int  # D, of a state
    horizon: int  # H, actions of a plan
    samples: int
    iterations: int
    action: int = 4  # A


SIZES: Final = {
    "small": PlanSize("small", 256, 5, 300, 10),
    "large": PlanSize("large", 512, 10, 512, 10),
}


class LatentDynamics:
    """`s' = norm(s + MLP(s, a))` with two hidden layers of the width of the state; random weights.

    Args:
        size: of states and actions.
        action: A, where it is not that of the size.
        rng: of the weights.
        device: where they lie.
    """

    def __init__(
        self, size: PlanSize, action: int, rng: torch.Generator, device: torch.device
    ) -> None:
        width = size.width
        shapes = ((width + action, width), (width, width), (width, width))
        first, *rest = (torch.randn(shape, generator=rng) for shape in shapes)
        # The action moves the hidden units as much as the state does, however few numbers it has.
        first[:width] /= width**0.5
        first[width:] /= action**0.5
        self.weights = [first.to(device), *((2 / width) ** 0.5 * part.to(device) for part in rest)]

    def step(self, states: Tensor, actions: Tensor) -> Tensor:
        """`... D` and `... A` to the next `... D`, of mean 0 and variance 1."""
        first, second, third = self.weights
        hidden = functional.gelu(torch.cat([states, actions], -1) @ first)
        moved = states + functional.gelu(hidden @ second) @ third
        return functional.layer_norm(moved, moved.shape[-1:])

    def rollout(self, states: Tensor, actions: Tensor) -> Tensor:
        """The states `B S D` after H actions `B S H A` from `B D`."""
        batch, samples, horizon, width = actions.shape
        steps = actions.reshape(batch * samples, horizon, width)
        now = states.repeat_interleave(samples, 0)
        for step in range(horizon):
            now = self.step(now, steps[:, step])
        return now.view(batch, samples, -1)

    def cost(self, state: Tensor, actions: Tensor, task: Tensor) -> Tensor:
        """Mean squared distance at the end from the goal `task` `B D`: `B S`."""
        return (self.rollout(state, actions) - task[:, None]).square().mean(-1)


@dataclass(frozen=True)
class Problem:
    """A start and a goal for each decision: the goal moves on along a path that can be followed."""

    dynamics: LatentDynamics
    start: Tensor  # 1 D
    goals: Tensor  # T D
    disturbances: Tensor  # T D

    def after(self, state: Tensor, action: Tensor, decision: int) -> Tensor:
        """The state `1 D` that the action `1 A` leads to, a little disturbed."""
        moved = self.dynamics.step(state, action) + self.disturbances[decision]
        return functional.layer_norm(moved, moved.shape[-1:])


@torch.no_grad()
def make_problem(
    size: PlanSize, seed: int, decisions: int, device: torch.device, discrete: bool = False
) -> Problem:
    """Hidden actions lead through the states; the goal of a decision is the state H steps on.

    So the first goal is reached exactly by actions within the limits, and each later one from the
    path. Hidden actions are even in the box, or even choices: no planner's noise resembles them.
    """
    rng = generator(seed, int(discrete))
    width = CHOICES if discrete else size.action
    dynamics = LatentDynamics(size, width, rng, device)
    steps = size.horizon + decisions - 1
    if discrete:
        choices = torch.randint(width, (steps,), generator=rng)
        hidden = functional.one_hot(choices, width).float()
    else:
        hidden = 2 * torch.rand(steps, width, generator=rng) - 1
    first = functional.layer_norm(torch.randn(1, size.width, generator=rng), (size.width,))
    disturbances = DISTURBANCE * torch.randn(decisions, size.width, generator=rng)
    path = [first.to(device)]
    for action in hidden.to(device):
        path.append(dynamics.step(path[-1], action[None]))
    goals = torch.cat(path[size.horizon :])
    return Problem(dynamics, path[0], goals, disturbances.to(device))
