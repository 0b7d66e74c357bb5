"""Lessons: what came otherwise than the world model told, remembered within an episode.

    s' = told(s, a) + sum_i c_i (s'_i - told_i),   c = softmax(-[|(s, a) - (s_i, a_i)|^2, 1] / T)

A world model that imagines a way through a wall sends the agent there again and again. What it got
wrong a moment ago lies in short-term memory: an agent that does the same in the same place knows
now what comes of it, and its plans leave it. The 1 stands for nothing: far from all that is
remembered the world model alone is believed. Nothing is trained.

Lengths are in units of `reach` for states and of `ACTION` for actions. Legend: B environments, M
lessons, N rows of them all, K numbers of a key, D those that say where the agent is.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import torch
from torch import Tensor

from ..models.dynamics import Dynamics
from .memory import ShortTermMemory

ACTION: Final = 0.5  # difference of actions that counts as much as a reach of states
TEMPERATURE: Final = 0.25  # of the attention, in these units squared


class Lessons(NamedTuple):
    """What is remembered now.

    Attributes:
        keys: states and actions, `B M K`.
        values: what came, less what had been told, `B M D`.
        filled: which of them there are, bool `B M`.
        reach: distance of states that count as the same place.
    """

    keys: Tensor
    values: Tensor
    filled: Tensor
    reach: float

    def rows(self, which: Tensor) -> Lessons:
        """Those of some environments."""
        return Lessons(self.keys[which], self.values[which], self.filled[which], self.reach)

    def of(self, state: Tensor, action: Tensor) -> Tensor:
        """What has to be added to what is told of states `N D` and actions `N A`: `N D`.

        The N rows are those of B environments, one after the other.
        """
        count = self.keys.shape[1]
        gap = gaps(self.keys, state, action, self.reach)
        gap = gap.masked_fill(~self.filled[:, None], torch.inf)
        gap = torch.cat((gap, torch.ones_like(gap[..., :1])), -1)
        share = (-gap / TEMPERATURE).softmax(-1)[..., :count]
        added: Tensor = share @ self.values
        return added.flatten(0, 1)

    def off(self, state: Tensor, action: Tensor) -> Tensor:
        """How far off what the world model tells is there, in units of `reach`, `N` of 0 or more.

        By what was learned of it in this episode, rows as in `of`: 0 far from all of that.
        """
        told: Tensor = self.of(state, action).norm(dim=1) / self.reach
        return told

    def surprise(self, state: Tensor, action: Tensor) -> Tensor:
        """How far off the world model is expected to be there, `N` of 0 to 1; rows as in `of`.

        The mean of what was felt at such moments, `1 - exp(-|came - told|^2 / 2 reach^2)`, each
        as near as it is, and of one moment of which nothing is known, which counts as 1.
        """
        near = (-gaps(self.keys, state, action, self.reach) / TEMPERATURE).exp()
        near = near * self.filled[:, None]
        felt = 1 - (-self.values.square().sum(-1) / (2 * self.reach**2)).exp()
        told: Tensor = (1 + (near * felt[:, None]).sum(-1)) / (1 + near.sum(-1))
        return told.flatten()


def keys(state: Tensor, action: Tensor, reach: float) -> Tensor:
    """States `... D` and actions `... A` as keys `... K`."""
    return torch.cat((state / reach, action / ACTION), -1)


def gaps(held: Tensor, state: Tensor, action: Tensor, reach: float) -> Tensor:
    """Squared distances of states `N D` and actions `N A` from keys `B M K`: `B N/B M`."""
    asked = keys(state, action, reach).view(len(held), -1, held.shape[2])
    return torch.cdist(asked, held).square()


class Taught(Dynamics):
    """Dynamics with the lessons of an episode.

    Args:
        dynamics: that are corrected.
        lessons: what they got wrong.
    """

    def __init__(self, dynamics: Dynamics, lessons: Lessons) -> None:
        super().__init__()
        self.history, self.latent_width = dynamics.history, dynamics.latent_width
        self.dynamics, self.lessons = dynamics, lessons

    def forward(self, states: Tensor, actions: Tensor, z: Tensor | None = None) -> Tensor:
        """See `Dynamics`."""
        told: Tensor = self.dynamics(states, actions, z)
        aim = self.lessons.values.shape[2]
        added = self.lessons.of(states[:, -1].flatten(1)[:, :aim], actions[:, -1])
        flat = told.flatten(1)
        return torch.cat((flat[:, :aim] + added, flat[:, aim:]), 1).view_as(told)


class Notebook:
    """Writes the lessons of a batch of episodes; the oldest give way.

    Args:
        batch: B.
        capacity: M.
        aim: D.
        action: A.
        reach: distance of states that count as the same place.
        device: where it lies.
    """

    def __init__(
        self,
        batch: int,
        capacity: int,
        aim: int,
        action: int,
        reach: float,
        device: torch.device | str = "cpu",
    ) -> None:
        self.aim, self.reach = aim, reach
        self.store = ShortTermMemory(batch, capacity, aim + action, aim, device=device)

    def write(self, state: Tensor, action: Tensor, told: Tensor, came: Tensor) -> None:
        """What came of an action `B A`, and what had been told: states `B P D` each."""
        before, told, came = (part.flatten(1)[:, : self.aim] for part in (state, told, came))
        self.store.write(keys(before, action, self.reach)[:, None], (came - told)[:, None])

    def now(self) -> Lessons:
        """What it holds."""
        keys, filled = self.store.keys.clone(), self.store.filled.clone()  # they are written on
        # What was forgotten may be no number, which is none with no share either.
        values = self.store.values.masked_fill(~filled[..., None], 0.0)
        return Lessons(keys, values, filled, self.reach)
