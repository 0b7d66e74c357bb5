"""The configurator: looks at the task and the state, and sets how the rest of the agent works.

LeCun (2022), section 3.1: "the configurator module takes input from all other modules and
configures them for the task at hand". It returns a `Setting` for each decision, as data.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from ..errors import UserError
from .cost import Critic
from .reach import Reach
from .task import Task

Mode = Literal["mode1", "mode2"]


@dataclass(frozen=True)
class Setting:
    """How a decision is made.

    Args:
        plans: which environments are planned for (mode 2), bool `B`; the others react (mode 1).
        task: cost terms, weights and (sub-)goal.
        doubt: what was looked at, `B`, to be told.
    """

    plans: Tensor
    task: Task
    doubt: Tensor


class Configurator(Protocol):
    """Anything that sets the agent for a decision."""

    def configure(self, state: Tensor, task: Task, fresh: Tensor) -> Setting:
        """The setting for states `B P D`; `fresh` tells the environments without a plan so far."""


class Fixed:
    """One mode for every decision."""

    def __init__(self, mode: Mode) -> None:
        if mode not in ("mode1", "mode2"):
            raise UserError(f"mode must be mode1 or mode2, not {mode!r}")
        self.mode = mode

    def configure(self, state: Tensor, task: Task, fresh: Tensor) -> Setting:
        """See `Configurator`."""
        plans = torch.full(state.shape[:1], self.mode == "mode2", device=state.device)
        return Setting(plans, task, torch.zeros(len(state), device=state.device))


class Doubtful:
    """Plans where the critic's networks disagree by more than a threshold, reacts elsewhere.

    Args:
        critic: of several networks.
        threshold: standard deviation of their answers above which it plans, in units of cost.
    """

    def __init__(self, critic: Critic | Reach, threshold: float) -> None:
        if not doubts(critic):
            raise UserError("a configurator that doubts needs a critic of several networks")
        self.critic, self.threshold = critic, threshold

    @torch.no_grad()
    def configure(self, state: Tensor, task: Task, fresh: Tensor) -> Setting:
        """See `Configurator`."""
        doubt = self.critic.each(state, task.goal if self.critic.goal else None).std(0)
        return Setting(doubt > self.threshold, task, doubt)


def doubts(critic: Critic | Reach) -> bool:
    """Whether it has several answers, which can disagree."""
    return critic.groups > 1 if isinstance(critic, Reach) else len(critic.members) > 1
