"""Mode 1: a policy that acts from the state alone, without planning.

Shapes: states `N P D`, goals `N P D`, actions `N A` in [-1, 1], one-hot where they are kinds.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models.blocks import Mlp, Sought
from .cost import beside
from .kept import Kept
from .tried import Tried

_LEAST, _MOST = -3.0, 0.5  # log of the standard deviation before squashing


class Guide(Protocol):
    """A critic that tells how much nearer the goal is on each side of where the agent is."""

    def slope(
        self, states: Tensor, goal: Tensor, tried: Tried | None = None, kept: Kept | None = None
    ) -> Tensor:
        """From states and goals `N P D`, `N guide`; without gradients."""


class ReactivePolicy(nn.Module):
    """State and goal to a distribution over actions: squashed normal, or categorical.

    Args:
        width: `D` times `P` of a state.
        action: `A`, or the number of kinds.
        discrete: whether actions are kinds.
        aim: how many of a goal's numbers, from the first on, are looked at; 0 for no goal.
        hidden: width inside.
        grid: rows and columns of the cells that a state's numbers after the first `aim` are of, if
            they are.
        guide: numbers that a `Guide` tells beside; 0 where nobody guides.
    """

    def __init__(
        self,
        width: int,
        action: int,
        discrete: bool,
        aim: int,
        hidden: int = 256,
        grid: tuple[int, int] | None = None,
        guide: int = 0,
    ) -> None:
        super().__init__()
        self.guides, self._guide = guide, list[Guide]()  # not a submodule: it is not trained here
        self.discrete, self.action, self.aim, self.goal = discrete, action, aim, aim > 0
        self.look = Sought(width - aim, grid) if grid and aim else None
        wide = 2 * aim + (width if self.look is None else aim + self.look.out)
        self.enter, self.norm = nn.Linear(wide + guide, hidden), nn.LayerNorm(hidden)
        self.leave = Mlp(hidden, hidden, action if discrete else 2 * action)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("std", torch.ones(width))

    def follow(self, guide: Guide) -> None:
        """Ask this one from now on."""
        self._guide = [guide]

    def forward(
        self,
        states: Tensor,
        goal: Tensor | None,
        tried: Tried | None = None,
        kept: Kept | None = None,
    ) -> Tensor:
        """What the distribution is made of: logits `N A`, or means and log deviations `N 2A`."""
        s, aimed = beside((states, self.mean, self.std), goal, self.aim), goal
        if self.look is not None:
            place, scene, goal = s.tensor_split((self.aim, len(self.mean)), 1)
            s = torch.cat((place, self.look(scene), goal), 1)
        if self.guides:
            assert aimed is not None
            s = torch.cat((s, self._guide[0].slope(states, aimed, tried, kept)), 1)
        told: Tensor = self.leave(F.gelu(self.norm(self.enter(s))))
        return told

    def on(
        self,
        states: Tensor,
        goal: Tensor | None,
        tried: Tried | None = None,
        kept: Kept | None = None,
    ) -> Reaction:
        """What it makes of states and goals `N P D`: a distribution over actions.

        What was tried in an episode, and what is kept of it, are for its guide to know.
        """
        return Reaction(self(states, goal, tried, kept), self.action, self.discrete)


class Reaction(NamedTuple):
    """A policy's distributions over actions, one for each of N states.

    Attributes:
        told: what they are made of, see `ReactivePolicy.forward`.
        action: `A`, or the number of kinds.
        discrete: whether actions are kinds.
    """

    told: Tensor
    action: int
    discrete: bool

    def best(self) -> Tensor:
        """The likeliest actions, `N A`: `tanh` of the mean, or one-hot."""
        if self.discrete:
            return F.one_hot(self.told.argmax(-1), self.action).float()
        return torch.tanh(self.told[:, : self.action])

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """`count` draws of each, `N count A`."""
        shape = (len(self.told), count, self.action)
        if self.discrete:
            even = torch.rand(shape, generator=generator).to(self.told).clamp(1e-6, 1 - 1e-6)
            picks = (self.told[:, None] - (-even.log()).log()).argmax(-1)  # Gumbel
            return F.one_hot(picks, self.action).float()
        mean, log = self.told[:, None].chunk(2, -1)
        noise = torch.randn(shape, generator=generator).to(self.told)
        return torch.tanh(mean + log.clamp(_LEAST, _MOST).exp() * noise)

    def drawn(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """One draw of each, `N A`, that gradients go through, and its log likelihood, `N`.

        Of vectors alone. Told from before the squashing, so that it is exact at the edge too.
        """
        mean, log = self.told.chunk(2, -1)
        log = log.clamp(_LEAST, _MOST)
        noise = torch.randn(mean.shape, generator=generator).to(mean)
        before = mean + log.exp() * noise
        return torch.tanh(before), squashed(noise, log, before)

    def near(self, actions: Tensor) -> Tensor:
        """How near each of `N S A` is to the likeliest, 0 at most: `N S`.

        The negative squared distance; of kinds, what their logarithmic chance is less.
        """
        if self.discrete:
            chances = self.told.log_softmax(-1)
            told = (actions * chances[:, None]).sum(-1)
            return told - chances.amax(-1, keepdim=True)
        return -(actions - self.best()[:, None]).square().sum(-1)

    def log_likelihood(self, actions: Tensor) -> Tensor:
        """`log p(a | s, g)` in nats, `N`; of actions `N A`."""
        if self.discrete:
            kinds = actions.argmax(-1, keepdim=True)
            chances: Tensor = self.told.log_softmax(-1).gather(1, kinds)
            return chances[:, 0]
        mean, log = self.told.chunk(2, -1)
        inner = actions.clamp(-1 + 1e-4, 1 - 1e-4)
        before = torch.atanh(inner)
        log = log.clamp(_LEAST, _MOST)
        return squashed((before - mean) * (-log).exp(), log, before)


def squashed(off: Tensor, log: Tensor, before: Tensor) -> Tensor:
    """The log density of `tanh(before)`, in nats: `N A` to `N`.

    Args:
        off: how far `before` lies from the normal's mean, in deviations.
        log: of the deviation.
        before: the squashing.
    """
    normal = -0.5 * off.square() - log - 0.5 * math.log(2 * math.pi)
    correction = 2 * (math.log(2) - before - F.softplus(-2 * before))
    likely: Tensor = (normal - correction).sum(-1)
    return likely


def anything(shape: tuple[int, int, int], discrete: bool, draw: torch.Generator) -> Tensor:
    """Actions `B S A` that know nothing, with the rest and the edge of the box among them."""
    noise = torch.randn(shape, generator=draw)
    if discrete:
        return F.one_hot(noise.argmax(-1), shape[-1]).float()
    long = noise / noise.abs().amax(-1, keepdim=True).clamp_min(1e-6)  # on the edge
    share = torch.rand(shape[:2], generator=draw)[..., None]
    return long * torch.where(share < 0.7, 1.0, share - 0.7)
