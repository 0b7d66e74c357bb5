"""The configurator: looks at the task and the state, and sets how the rest of the agent works.

LeCun (2022), section 3.1: "the configurator module takes input from all other modules and
configures them for the task at hand". It returns a `Setting` for each decision, as data: mode, task
with its sub-goal and weights, how far a plan looks ahead and how many it looks at.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from ..errors import UserError
from ..randomness import EPISODE, generator
from .cost import Critic
from .mind import Mind, Trained
from .reach import Ways
from .task import Situation, Task
from .worth import Worth

Mode = Literal["mode1", "mode2"]
PATIENCE: Final = 4
PERSISTENCE: Final = 8
LITTLE: Final = 2.0  # thresholds up to which little speaks for a plan
_ROLL: Final = 12  # stream of where planning takes over, beside those of an episode


@dataclass(frozen=True)
class Setting:
    """How a decision is made.

    Args:
        plans: which environments are planned for (mode 2), bool `B`; the others react (mode 1).
        task: cost terms, weights and (sub-)goal.
        doubt: what was looked at, `B`, to be told.
        wrong: how wrong the world model was found, `B`, likewise; None where nobody looked.
        horizon: actions of a plan, whole numbers `B`; None for those of the search.
        samples: sequences that a planner draws in an iteration, likewise.
    """

    plans: Tensor
    task: Task
    doubt: Tensor
    wrong: Tensor | None = None
    horizon: Tensor | None = None
    samples: Tensor | None = None

    def completed(self, horizon: int, samples: int) -> Setting:
        """The same with what a search says where nothing was set, or nothing is planned."""
        found = []
        for own, usual in ((self.horizon, horizon), (self.samples, samples)):
            full = torch.full_like(self.plans, usual, dtype=torch.long)
            found.append(full if own is None else torch.where(self.plans, own, full))
        return replace(self, horizon=found[0], samples=found[1])

    def sizes(self) -> tuple[Tensor, Tensor]:
        """Horizon and samples of one that is `completed`."""
        assert self.horizon is not None and self.samples is not None
        return self.horizon, self.samples

    def alike(self, which: Tensor) -> list[tuple[int, int, Tensor]]:
        """Horizon, samples and numbers of those environments of `which`, bool `B`, that share them.

        The smallest first.
        """
        sizes = torch.stack(self.sizes(), 1)
        found = []
        for horizon, samples in sorted(set(map(tuple, sizes[which].tolist()))):
            same = (sizes == sizes.new_tensor((horizon, samples))).all(1)
            found.append((horizon, samples, torch.nonzero(which & same)[:, 0]))
        return found


class Configurator(Protocol):
    """Anything that sets the agent for a decision."""

    def begin(self, seeds: Sequence[int]) -> None:
        """Episodes of these seeds begin."""

    def configure(self, state: Tensor, task: Task, memory: Situation | None = None) -> Setting:
        """The setting for a decision.

        Args:
            state: the present, `B P D`.
            task: what is asked for.
            memory: the situation, with what short-term memory holds of the episode: lessons, and
                what was tried; None where nothing is remembered.
        """


React = Callable[[Task, Situation], Tensor]  # what mode 1 would do, `B A`


class Wrong(NamedTuple):
    """Tells from memory how wrong the world model is where mode 1 would go.

    Attributes:
        most: in units of the reach, up to which it is right enough.
        react: what mode 1 would do.
    """

    most: float
    react: React

    def of(self, state: Tensor, task: Task, memory: Situation | None) -> Tensor:
        """How wrong, `B`; 0 where nothing was learned of it."""
        if memory is None or memory.lessons is None:
            return state.new_zeros(len(state))
        aim = memory.lessons.values.shape[2]
        return memory.lessons.off(state.flatten(1)[:, :aim], self.react(task, memory))


class Budget(NamedTuple):
    """Sequences that a planner draws in an iteration: where little speaks for a plan, and else."""

    few: int
    many: int

    def of(self, much: Tensor) -> Tensor:
        """By whether much speaks for one, bool `B`."""
        return torch.where(much, self.many, self.few)


class Fixed:
    """One mode for every decision."""

    def __init__(self, mode: Mode) -> None:
        if mode not in ("mode1", "mode2"):
            raise UserError(f"mode must be mode1 or mode2, not {mode!r}")
        self.mode = mode

    def begin(self, seeds: Sequence[int]) -> None:
        """Nothing is kept."""

    def configure(self, state: Tensor, task: Task, memory: Situation | None = None) -> Setting:
        """See `Configurator`."""
        plans = torch.full(state.shape[:1], self.mode == "mode2", device=state.device)
        return Setting(plans, task, torch.zeros(len(state), device=state.device))


class Doubtful:
    """Plans where the critic's networks disagree, the world model was wrong, or it does not get on.

    A doubt that is no number is one.

    It does not get on where the last `PATIENCE` decisions brought it nearer by less than half as
    many steps, by a critic of ways. It then plans for `PERSISTENCE` decisions: a reaction that led
    nowhere leads nowhere again.

    Args:
        critic: of several networks.
        threshold: standard deviation of their answers above which it plans, in units of cost.
        patient: not getting on is no reason to plan: reactions that led nowhere are not tried
            again, see `tried.py`.
        wrong: tells how wrong the world model is by what memory holds; None: nobody looks.
        budget: what a plan may cost; None for that of the search.
    """

    def __init__(
        self,
        critic: Critic | Ways,
        threshold: float,
        patient: bool = False,
        wrong: Wrong | None = None,
        budget: Budget | None = None,
    ) -> None:
        if not doubts(critic):
            raise UserError("a configurator that doubts needs a critic of several networks")
        self.critic, self.threshold, self.patient = critic, threshold, patient
        self.wrong, self.budget = wrong, budget
        self.begin(())

    def begin(self, seeds: Sequence[int]) -> None:
        """See `Configurator`."""
        self.left: list[Tensor] = []  # steps to the goal at the last decisions, B each
        self.aim: Tensor | None = None  # that goal, or sub-goal
        self.owed = torch.zeros(0)  # decisions that are still to be planned

    @torch.no_grad()
    def configure(self, state: Tensor, task: Task, memory: Situation | None = None) -> Setting:
        """See `Configurator`."""
        left, goal = None, task.goal
        if isinstance(self.critic, Ways):
            assert goal is not None
            left = self.critic.steps(state, goal)
            doubt = self.critic.cost(left).std(0)
        else:
            doubt = self.critic.each(state, goal if self.critic.goal else None).std(0)
        plans, much = ~(doubt <= self.threshold), ~(doubt <= LITTLE * self.threshold)
        wrong = None
        if self.wrong is not None:
            wrong = self.wrong.of(state, task, memory)
            plans, much = (
                plans | (wrong > self.wrong.most),
                much | (wrong > LITTLE * self.wrong.most),
            )
        if left is not None and goal is not None and not self.patient:
            self._look_at(goal)
            stuck = self._stuck(left.mean(0))
            plans, much = plans | stuck, much | stuck
        samples = None if self.budget is None else self.budget.of(much)
        return Setting(plans, task, doubt, wrong, samples=samples)

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


class Learned:
    """Plans where that is worth it, by what was learned of states like this one.

    Args:
        worth: tells.
        threshold: above which it plans.
        budget: what a plan may cost; None for that of the search.
    """

    def __init__(self, worth: Worth, threshold: float, budget: Budget | None = None) -> None:
        self.worth, self.threshold, self.budget = worth, threshold, budget

    def begin(self, seeds: Sequence[int]) -> None:
        """Nothing is kept."""

    @torch.no_grad()
    def configure(self, state: Tensor, task: Task, memory: Situation | None = None) -> Setting:
        """See `Configurator`."""
        saved = self.worth(state, task.goal if self.worth.look.goal else None)
        budget, much = self.budget, ~(saved <= LITTLE * self.threshold)
        samples = None if budget is None else budget.of(much)
        plans = ~(saved <= self.threshold)  # what is no number is no word
        return Setting(plans, task, saved, samples=samples)


class Arriving:
    """Sets the horizon: no plan of another configurator is longer than the way that is left.

    As critics of ways tell it, rounded up to a power of 2, so that a batch is of few lengths. Where
    the cost has no term `goal`, or nothing shows one, nobody knows a way.

    Args:
        inner: sets the rest.
        ways: tells what is left.
        least: actions of a plan.
        most: likewise.
    """

    def __init__(self, inner: Configurator, ways: Ways, least: int, most: int) -> None:
        self.inner, self.ways, self.least, self.most = inner, ways, least, most

    def begin(self, seeds: Sequence[int]) -> None:
        """See `Configurator`."""
        self.inner.begin(seeds)

    @torch.no_grad()
    def configure(self, state: Tensor, task: Task, memory: Situation | None = None) -> Setting:
        """See `Configurator`."""
        setting = self.inner.configure(state, task, memory)
        plans, goal = setting.plans, setting.task.goal
        if goal is None or not setting.task.weights.get("goal"):
            return setting
        horizon = torch.full_like(plans, self.most, dtype=torch.long)
        if plans.any():  # of the others nobody asks what a look at the way costs
            left = self.ways.steps(state[plans], goal[plans]).mean(0).clamp_min(1)
            left = left.nan_to_num(nan=torch.inf)  # what is no number is no word
            longest = left.log2().ceil().exp2().clamp(self.least, self.most)
            horizon[plans] = longest.long()
        return replace(setting, horizon=horizon)


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

    def configure(self, state: Tensor, task: Task, memory: Situation | None = None) -> Setting:
        """See `Configurator`."""
        setting = self.inner.configure(state, task, memory)
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

    def configure(self, state: Tensor, task: Task, memory: Situation | None = None) -> Setting:
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


def set_by(one: Configurator) -> set[str]:
    """Which of the settings `share`, `few` and `wrong` of a search a configurator goes by."""
    if isinstance(one, Thrifty):
        return set_by(one.inner) | {"share"}
    if isinstance(one, Arriving):
        return set_by(one.inner)
    found = {"few"} if isinstance(one, Doubtful | Learned) and one.budget is not None else set()
    return found | ({"wrong"} if isinstance(one, Doubtful) and one.wrong is not None else set())


def configurator_of(
    mode: str, mind: Mind, trained: Trained | None, critic: Critic | Ways | None, react: React
) -> Configurator:
    """That of an agent.

    Args:
        mode: of the agent.
        mind: plain values.
        trained: None where there is nothing but a world model.
        critic: whose word counts.
        react: what mode 1 would do.

    Raises:
        UserError: a mode, or `search.arrive`, that this agent was not fitted for.
    """
    search = mind.search
    if mode == "mode1":
        if trained is None:
            raise UserError("this checkpoint has no policy: mode1 needs a run of agent fit")
        return Fixed("mode1")
    budget = Budget(search.few, search.samples) if search.few else None
    found: Configurator = Fixed("mode2")
    if mode == "learned" and trained is not None:
        if trained.worth is None or mind.worth is None:
            raise UserError("this agent has not learned what plans are worth: fit it anew")
        found = Learned(trained.worth, mind.worth, budget)
    # One network has nobody to disagree with: without a doubt to go by, auto always plans.
    elif mode == "auto" and trained is not None and critic is not None and doubts(critic):
        wrong = Wrong(search.wrong, react) if search.wrong else None
        found = Doubtful(critic, mind.doubt, search.tried > 0, wrong, budget)
    if search.arrive:
        if not isinstance(critic, Ways):
            raise UserError("search.arrive needs an agent with a critic of ways or a chart")
        found = Arriving(found, critic, min(search.every, search.horizon), search.horizon)
    limited = mode != "mode2" and trained is not None and search.share < 1
    return Thrifty(found, search.share) if limited else found
