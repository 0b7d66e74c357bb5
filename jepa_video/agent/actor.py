"""The actor: mode 1 reacts, mode 2 plans, and what a planner begins with may come from mode 1."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Literal, cast, get_args

import torch
from torch import Tensor

from ..errors import UserError, within
from .chart import Chart
from .cost import WorldCost, foreseen
from .detours import passed, places_over
from .kept import Kept
from .met import PRICE
from .planners.base import Cost, Limits, Plan, Planner
from .planners.categorical import CategoricalCEM
from .planners.futures import OverFutures
from .planners.gradient import GradientPlanner, PolishedPlanner
from .planners.sampling import CEM, MIN_STD, MPPI
from .policy import ReactivePolicy
from .task import Situation, Task
from .tried import AGAINST, Tried

Risk = Literal["expected", "worst"]
Kind = Literal["cem", "mppi", "gradient", "polish"]
_CHOICES: Final = {"risk": get_args(Risk), "planner": get_args(Kind)}

MEAN = 8  # draws of z whose mean stands for all, where none is to be looked at by itself
PROPOSALS = 6  # sequences that the policy proposes to a planner
OTHERS = 48  # actions that a reaction may turn to where its own was tried in vain


@dataclass(frozen=True)
class Search:
    """How mode 2 looks for actions.

    Args:
        horizon: actions of a plan.
        samples: sequences drawn in an iteration.
        iterations: rounds of drawing.
        elites: sequences that the next distribution is fitted to.
        planner: `cem` (categorical where actions are kinds; with `decay` and `colour` iCEM),
            `mppi`, `gradient` from several starts, or `polish`: cem, then the gradient.
        decay: of cem: factor on the samples from one iteration to the next.
        temperature: of mppi, in steps of cost.
        starts: sequences that descend along the gradient.
        steps: of each descent, by Adam.
        step_size: of a descent.
        colour: exponent of the noise's spectrum along time; 0 is white.
        std: of the first draws, in the reach of the limits.
        every: decisions for which one plan serves.
        futures: draws of z that a plan is judged over, where the world has a latent: 1 plans for
            one that is sampled, 0 takes the mean of the prior's draws for one.
        risk: `expected` cost over the draws of z, or of the `worst`.
        lessons: moments of the episode, with what the world model got wrong in them, that plans
            take into account; 0 for none.
        tried: moments of the episode that speak against doing the same in the same place again,
            in plans and in mode 1, and that a chart knows walls by; 0 for none.
        stopped: steps that a way of the chart costs more for each time that it was stopped.
        forget: decisions after which such a moment, or what was wrong in it, is forgotten, for
            scenes that change; 0 for never.
        share: of the decisions of an episode that `auto` and `learned` may plan, at most.
        wrong: how far off the lessons say that the world model is where mode 1 would go, in units
            of the reach, above which `auto` plans too; 0: nobody looks.
        few: samples where little speaks for a plan of `auto` or `learned`, see `LITTLE` of
            `configurator.py`; 0 for as many as elsewhere.
        arrive: whether plans are no longer than the way that is left, as a critic of ways tells,
            rounded up to a power of 2.
        levels: 2 sets sub-goals by a plan of level 2, where the agent has one.
        far: what such a plan costs at most, in steps of level 2, see `level2.py`.
        critic: whether the critic says what is left when a plan ends; without it the cost of the
            last state counts twice. Mode 1 and the configurator ask it still.
        via: rows and columns of places by way of which the policy proposes plans too, see
            `detours.py`; 0 for none.
        deadline: whether who is not at the goal when a plan ends counts as never getting there;
            else the critic says what is left.
    """

    horizon: int = 5
    samples: int = 64
    iterations: int = 3
    elites: int = 8
    planner: Kind = "cem"
    decay: float = 1.0
    temperature: float = 0.5
    starts: int = 4
    steps: int = 8
    step_size: float = 0.1
    colour: float = 1.0
    std: float = 0.6
    every: int = 1
    futures: int = 8
    risk: Risk = "expected"
    lessons: int = 0
    tried: int = 0
    stopped: float = PRICE
    forget: int = 0
    share: float = 1.0
    wrong: float = 0.0
    few: int = 0
    arrive: bool = False
    levels: int = 1
    far: int = 600
    critic: bool = True
    via: int = 0
    deadline: bool = False

    def __post_init__(self) -> None:
        counts = "horizon", "samples", "iterations", "elites", "starts", "steps", "every", "far"
        within("search", 1, **{name: getattr(self, name) for name in counts})
        if self.samples < self.elites:
            raise UserError(
                f"search: {self.elites} elites need as many samples or more, got {self.samples}"
            )
        for name in ("temperature", "step_size", "decay"):
            if not 0 < getattr(self, name) < math.inf:
                told = getattr(self, name)
                raise UserError(f"search.{name} must be a finite number above 0, not {told}")
        if not math.isfinite(self.colour):
            raise UserError(f"search.colour must be finite, not {self.colour}")
        within("search", MIN_STD, 10, std=self.std)
        within("search", 0, 1, decay=self.decay)
        refuse_choice({name: getattr(self, name) for name in _CHOICES})
        within("search", 1, 2, levels=self.levels)
        within("search", 0, 1, share=self.share)
        within("search", 0, futures=self.futures, via=self.via)
        within("search", 0, lessons=self.lessons, tried=self.tried, forget=self.forget)
        within("search", 0, 1000, stopped=self.stopped, wrong=self.wrong)
        self._refuse_settings()

    def _refuse_settings(self) -> None:
        """Say it where what a configurator is to set does not go with the rest."""
        if self.wrong and not self.lessons:
            raise UserError("search.wrong is told by lessons: search.lessons must be above 0")
        if self.few and self.planner == "gradient":
            raise UserError("search.few is of planners that draw; gradient has starts and steps")
        if self.few and not self.elites <= self.few <= self.samples:
            raise UserError(
                f"search.few must be from search.elites {self.elites} to search.samples "
                f"{self.samples}, or 0, not {self.few}"
            )
        if self.arrive and self.deadline:
            raise UserError("search.arrive shortens plans, and search.deadline is at their end")

    def budget(self) -> dict[str, int]:
        """What says how long a planner looks, by name."""
        names = ["horizon", "every"]
        names += [] if self.planner == "gradient" else ["samples", "iterations", "elites"]
        names += ["starts", "steps"] if self.planner in ("gradient", "polish") else []
        names += [name for name in ("few", "arrive") if getattr(self, name)]
        return {name: getattr(self, name) for name in names}

    def but(self, given: Mapping[str, Any]) -> Search:
        """The same with other values.

        Raises:
            UserError: an unknown name, or a value of another kind.
        """
        refuse_search(given)
        return replace(self, **given)


def refuse_search(given: Mapping[str, Any]) -> None:
    """Say it where settings are none of a search, whatever its others are.

    Raises:
        UserError: an unknown name, or a value of another kind.
    """
    own = asdict(Search())
    for name, value in given.items():
        if name not in own:
            raise UserError(f"search has no {name!r}; it has {', '.join(own)}")
        kinds = (int, float) if isinstance(own[name], float) else (type(own[name]),)
        if type(value) not in kinds:
            raise UserError(f"search.{name} is as {own[name]!r}, not {value!r}")
    refuse_choice({name: value for name, value in given.items() if name in _CHOICES})


def refuse_choice(given: Mapping[str, str]) -> None:
    """Say it where a setting is none of those that there are.

    Raises:
        UserError: which there are.
    """
    for name, value in given.items():
        if value not in _CHOICES[name]:
            raise UserError(f"search.{name} is {' or '.join(_CHOICES[name])}, not {value!r}")


def planner_of(search: Search, action: int, discrete: bool, norm: float | None) -> Planner:
    """The planner of a search.

    Raises:
        UserError: numbers that make no search, or one by other than cem where actions are kinds.
    """
    horizon, limits, carried = search.horizon, Limits(action, norm=norm), search.elites // 2
    budget, colour, std = (search.samples, search.iterations), search.colour, search.std
    steps, step_size = search.steps, search.step_size
    if discrete:
        if search.planner != "cem":
            raise UserError(f"search.planner {search.planner} is of vectors; kinds take cem")
        return CategoricalCEM(horizon, action, *budget, search.elites, carried, search.decay)
    if search.planner == "mppi":
        heat = search.temperature
        return MPPI(horizon, limits, *budget, heat, search.elites, carried, colour, std)
    if search.planner == "gradient":  # by Adam: charts have edges
        return GradientPlanner(horizon, limits, search.starts, steps, step_size, "adam", std)
    cem = CEM(horizon, limits, *budget, search.elites, carried, search.decay, colour, std)
    if search.planner == "polish":
        return PolishedPlanner(cem, search.starts, steps, step_size, "adam")
    return cem


def ways_out(action: int, discrete: bool, norm: float | None) -> Tensor:
    """Actions `S A` beside a policy's own: all kinds, or some on the edge of the limits."""
    if discrete:
        return torch.eye(action)
    noise = torch.randn(OTHERS, action, generator=torch.Generator().manual_seed(0))
    return Limits(action, norm=norm).clip(noise / noise.abs().amax(1, keepdim=True))


class Actor:
    """Chooses actions for a batch of environments.

    Args:
        cost: what a plan costs.
        search: how mode 2 looks.
        norm: longest action, where the environment has one.
        policy: mode 1; None where only planning is possible.
    """

    def __init__(
        self,
        cost: WorldCost,
        search: Search,
        norm: float | None = None,
        policy: ReactivePolicy | None = None,
    ) -> None:
        facts = cost.world.facts
        self.cost, self.search, self.policy = cost, search, policy
        if search.via and not search.critic:
            raise UserError("search.via goes by the critic's chart: leave search.critic true")
        if search.via and not (isinstance(cost.critic, Chart) and policy):
            raise UserError("search.via needs an agent that was fitted with learn.judge chart")
        self.norm, self.planner = norm, planner_of(search, facts.action_size, facts.discrete, norm)
        self._sized = {(search.horizon, search.samples): self.planner}
        self.limits = None if facts.discrete else Limits(facts.action_size, norm=norm)
        self.others = ways_out(facts.action_size, facts.discrete, norm)

    @torch.no_grad()
    def react(
        self, state: Tensor, task: Task, tried: Tried | None = None, kept: Kept | None = None
    ) -> Tensor:
        """Mode 1: actions `B A` from states `B P D`.

        The likeliest, or the nearest to it that was not tried here in vain. `kept` is what of the
        episode need not be looked at again.
        """
        assert self.policy is not None
        reaction = self.policy.on(state, task.goal if self.policy.goal else None, tried, kept)
        best = reaction.best()
        if self.limits is not None:  # a corner of the box is longer than the norm
            best = self.limits.clip(best)
        if tried is None:
            return best
        others = self.others.to(best).expand(len(best), -1, -1)
        actions = torch.cat((best[:, None], others), 1)  # B S A
        place = state.flatten(1)[:, None, : self.cost.intrinsic.aim]
        places = place.expand(-1, actions.shape[1], -1).flatten(0, 1)
        against = AGAINST * tried.often(places, actions.flatten(0, 1))
        chosen = (reaction.near(actions) - against.view(actions.shape[:2])).argmax(1)
        return actions[torch.arange(len(best), device=best.device), chosen]

    def plan(
        self,
        situation: Situation,
        task: Task,
        previous: Plan | None,
        generators: Sequence[torch.Generator],
        horizon: int | None = None,
        samples: int | None = None,
    ) -> Plan:
        """Mode 2: a plan for each environment, begun with the last one and the policy's guesses.

        One of another `horizon` than that of the search is cut, or repeats its last action, when it
        begins and when it is given.
        """
        cost, search = cast(Cost, self.cost), self.search
        horizon, samples = horizon or search.horizon, samples or search.samples
        previous = previous and previous.lasting(horizon)
        z = self.drawn(situation, generators, self.search.futures or MEAN)
        if z is not None:
            judged = z if self.search.futures else z.mean(1, keepdim=True)
            cost = OverFutures(self.cost, judged, self.search.risk)
        if self.policy is not None and (task.goal is not None or not self.policy.goal):
            previous = self._proposed(situation, task, previous, z, horizon)
        planner = self._planner(horizon, samples)
        plan = planner.plan(cost, situation, task, previous, generators)
        return plan.lasting(search.horizon)

    def _planner(self, horizon: int, samples: int) -> Planner:
        """That of the search, or one of another horizon and of other samples."""
        size = horizon, samples
        if size not in self._sized:
            facts = self.cost.world.facts
            search = replace(self.search, horizon=horizon, samples=samples, few=0)
            made = planner_of(search, facts.action_size, facts.discrete, self.norm)
            self._sized[size] = made
        return self._sized[size]

    @torch.no_grad()
    def drawn(
        self, situation: Situation, generators: Sequence[torch.Generator], count: int
    ) -> Tensor | None:
        """Draws of z for what may come, `B count L Z`; None where the world has no latent."""
        world, known = self.cost.world, situation.known
        if not world.latent.dim:
            return None
        each = [world.futures(known[i : i + 1], count, one) for i, one in enumerate(generators)]
        return torch.cat([z for z in each if z is not None])

    @torch.no_grad()
    def _proposed(
        self,
        situation: Situation,
        task: Task,
        previous: Plan | None,
        z: Tensor | None,
        horizon: int | None = None,
    ) -> Plan:
        """The last plan, and where the policy would go in imagination."""
        guess = Plan.proposal(self._guesses(situation, task, z, horizon))
        if previous is None:
            return guess
        lost = previous.actions.isnan().flatten(1).any(1)
        actions = torch.where(lost[:, None, None], guess.actions, previous.actions)
        again = guess.forgotten(lost).elites[:, :1]  # comes first where there is nothing else
        others = guess.elites[:, 1:], previous.elites[:, : PROPOSALS - 1]
        elites = torch.cat((again, *others), 1)
        return Plan(actions, previous.cost, torch.cat((actions[:, None], elites), 1))

    def _guesses(
        self, situation: Situation, task: Task, z: Tensor | None, horizon: int | None = None
    ) -> Tensor:
        """Where the policy would go, `B K H A`: straight on, and by way of `via` places."""
        on = self.imagined_policy(situation, task, z, horizon=horizon)[:, None]
        if not self.search.via:
            return on
        places = places_over(cast(Chart, self.cost.critic), situation.known[:, -1], self.search.via)
        rows = torch.arange(len(on), device=on.device).repeat_interleave(places.shape[1])
        future = None if z is None else z[rows]
        many, aims = (situation.rows(rows), task.rows(rows)), places.flatten(0, 1)
        by = self.imagined_policy(*many, future, aims, horizon)
        return torch.cat((on, by.view(len(on), -1, *by.shape[1:])), 1)

    def imagined_policy(
        self,
        situation: Situation,
        task: Task,
        z: Tensor | None = None,
        by: Tensor | None = None,
        horizon: int | None = None,
    ) -> Tensor:
        """The actions `B H A` that the policy takes in the world that it imagines.

        Args:
            situation: the present.
            task: what is asked for.
            z: draws of the latent, `B Z' L Z`, the first of which is imagined.
            by: places `B P D` that it goes to first; None for straight on.
            horizon: H; that of the search if not given.
        """
        world, (known, past, lessons, tried) = self.cost.world, situation
        first, goal = None if z is None else z[:, 0], task.goal
        there = torch.zeros(len(known), 1, 1, dtype=torch.bool, device=known.device)
        kept = Kept()  # what is imagined stands still, as the scene does
        done: list[Tensor] = []
        for _ in range(horizon or self.search.horizon):
            if by is not None and goal is not None:
                there |= passed(cast(Chart, self.cost.critic), known[:, -1], by)[:, None, None]
                task = replace(task, goal=torch.where(there, goal, by))
            action = self.react(known[:, -1], task, tried, kept)
            told = foreseen(world, Situation(known, past, lessons), action[:, None], first)
            known = torch.cat((known, told), 1)
            past = torch.cat((past, action[:, None]), 1)
            done.append(action)
        return torch.stack(done, 1)
