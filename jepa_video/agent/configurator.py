"""The configurator: looks at the task and the state, and sets how the rest of the agent works.

LeCun (2022), section 3.1: "the configurator module takes input from all other modules and
configures them for the task at hand". It returns a `Setting` for each decision, as data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UserError
from ..randomness import EPISODE, generator
from .cost import Critic
from .policy import ReactivePolicy
from .reach import Ways
from .task import Task

Mode = Literal["mode1", "mode2"]
PATIENCE: Final = 4
PERSISTENCE: Final = 8
_ROLL: Final = 12  # stream of where planning takes over, beside those of an episode


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

    def begin(self, seeds: Sequence[int]) -> None:
        """Episodes of these seeds begin."""

    def configure(self, state: Tensor, task: Task) -> Setting:
        """The setting for states `B P D`."""


class Fixed:
    """One mode for every decision."""

    def __init__(self, mode: Mode) -> None:
        if mode not in ("mode1", "mode2"):
            raise UserError(f"mode must be mode1 or mode2, not {mode!r}")
        self.mode = mode

    def begin(self, seeds: Sequence[int]) -> None:
        """Nothing is kept."""

    def configure(self, state: Tensor, task: Task) -> Setting:
        """See `Configurator`."""
        plans = torch.full(state.shape[:1], self.mode == "mode2", device=state.device)
        return Setting(plans, task, torch.zeros(len(state), device=state.device))


class Doubtful:
    """Plans where the critic's networks disagree, or where the agent does not get on; else reacts.

    A doubt that is no number is one.

    It does not get on where the last `PATIENCE` decisions brought it nearer by less than half as
    many steps, by a critic of ways. It then plans for `PERSISTENCE` decisions: a reaction that led
    nowhere leads nowhere again.

    Args:
        critic: of several networks.
        threshold: standard deviation of their answers above which it plans, in units of cost.
        patient: not getting on is no reason to plan: reactions that led nowhere are not tried
            again, see `tried.py`.
    """

    def __init__(self, critic: Critic | Ways, threshold: float, patient: bool = False) -> None:
        if not doubts(critic):
            raise UserError("a configurator that doubts needs a critic of several networks")
        self.critic, self.threshold, self.patient = critic, threshold, patient
        self.begin(())

    def begin(self, seeds: Sequence[int]) -> None:
        """See `Configurator`."""
        self.left: list[Tensor] = []  # steps to the goal at the last decisions, B each
        self.aim: Tensor | None = None  # that goal, or sub-goal
        self.owed = torch.zeros(0)  # decisions that are still to be planned

    @torch.no_grad()
    def configure(self, state: Tensor, task: Task) -> Setting:
        """See `Configurator`."""
        if not isinstance(self.critic, Ways):
            doubt = self.critic.each(state, task.goal if self.critic.goal else None).std(0)
            return Setting(~(doubt <= self.threshold), task, doubt)
        assert task.goal is not None
        steps = self.critic.steps(state, task.goal)
        doubt = self.critic.cost(steps).std(0)
        plans = ~(doubt <= self.threshold)
        if not self.patient:
            self._look_at(task.goal)
            plans = plans | self._stuck(steps.mean(0))
        return Setting(plans, task, doubt)

    def _look_at(self, goal: Tensor) -> None:
        """Where the goal is another one, what was left of the way to the last one says nothing."""
        if self.aim is not None:
            other = (goal != self.aim).flatten(1).any(1)
            self.left = [torch.where(other, torch.inf, left) for left in self.left]
        self.aim = goal

    def _stuck(self, left: Tensor) -> Tensor:
        """Whether the agent does not get on, or did not a moment ago: bool `B`."""
        self.left = [*self.left, left][-PATIENCE - 1 :]
        if len(self.left) == 1:
            self.owed = torch.zeros_like(left)
        self.owed = (self.owed - 1).clamp_min(0)
        if len(self.left) > PATIENCE:
            still = self.left[0] - left < PATIENCE / 2
            self.owed = torch.where(still & (self.owed == 0), PERSISTENCE, self.owed)
        return self.owed > 0


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


class Learned:
    """Plans where that is worth it, by what was learned of states like this one.

    Args:
        worth: tells.
        threshold: above which it plans.
    """

    def __init__(self, worth: Worth, threshold: float) -> None:
        self.worth, self.threshold = worth, threshold

    def begin(self, seeds: Sequence[int]) -> None:
        """Nothing is kept."""

    @torch.no_grad()
    def configure(self, state: Tensor, task: Task) -> Setting:
        """See `Configurator`."""
        saved = self.worth(state, task.goal if self.worth.look.goal else None)
        return Setting(~(saved <= self.threshold), task, saved)  # what is no number is no word


class Thrifty:
    """Plans where another configurator would, and at most a share of an episode's decisions.

    What was not spent is kept, so that at any time no more than that share of what was decided so
    far was planned.

    Args:
        inner: says where a plan is wanted.
        share: of the decisions, 0 to 1.
    """

    def __init__(self, inner: Configurator, share: float) -> None:
        self.inner, self.share = inner, share
        self.begin(())

    def begin(self, seeds: Sequence[int]) -> None:
        """See `Configurator`."""
        self.inner.begin(seeds)
        self.time, self.spent = 0, torch.zeros(0, dtype=torch.long)

    def configure(self, state: Tensor, task: Task) -> Setting:
        """See `Configurator`."""
        setting = self.inner.configure(state, task)
        self.time += 1
        if self.time == 1:
            self.spent = torch.zeros(len(state), dtype=torch.long, device=state.device)
        plans = setting.plans & (self.spent + 1 <= self.share * self.time)
        self.spent = self.spent + plans
        return replace(setting, plans=plans)


class RollIn:
    """Mode 1 first, mode 2 from some decision on: plans from where the policy leads by itself.

    A policy that only sees states that plans led to does not know what to do where its own
    mistakes lead (Ross, Gordon and Bagnell 2011, DAgger). Here the plans begin there.

    Args:
        longest: decisions of mode 1, at most; see `rolled_in`.
    """

    def __init__(self, longest: int) -> None:
        self.longest, self.time, self.until = longest, 0, torch.zeros(0, dtype=torch.long)

    def begin(self, seeds: Sequence[int]) -> None:
        """See `Configurator`."""
        self.time = 0
        self.until = torch.tensor([rolled_in(seed, self.longest) for seed in seeds])

    def configure(self, state: Tensor, task: Task) -> Setting:
        """See `Configurator`."""
        plans = (self.until <= self.time).to(state.device)
        self.time += 1
        return Setting(plans, task, torch.zeros(len(state), device=state.device))


def rolled_in(seed: int, longest: int) -> int:
    """Decisions that mode 1 takes first in an episode: none in half of them, else 1 to `longest`.

    It follows from the seed of the episode, so that nobody has to write it down.
    """
    draw = generator(seed, EPISODE, _ROLL)
    first, count = torch.rand(2, generator=draw).tolist()
    return 1 + int(count * longest) if first < 0.5 and longest else 0


def doubts(critic: Critic | Ways) -> bool:
    """Whether it has several answers, which can disagree."""
    return critic.groups > 1 if isinstance(critic, Ways) else len(critic.members) > 1
