"""What a decision costs with each planner, beside plain CEM on the same problems in the same run.

Plain CEM acts, and every planner is asked at the states that its actions lead to. So all solve the
same problems, and a warm start has to bear with the actions of another. The first decision of each
problem is cold for all. Planners take turns within each decision, so that a load on the machine
falls on all of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import torch
from torch import Tensor

from ..agent.planners import (
    CEM,
    MPPI,
    CategoricalCEM,
    GradientPlanner,
    Limits,
    Plan,
    Planner,
    PolishedPlanner,
)
from ..errors import UserError
from ..evaluation.intervals import Interval, bootstrap_accuracy, paired_difference
from ..randomness import generator
from .reference import CHOICES, PlanSize, Problem, make_problem

PLAIN: Final = "plain CEM"
ALONE: Final = "dynamics alone"


@dataclass(frozen=True)
class Contestant:
    """A planner, and whether it goes on from its last plan."""

    name: str
    planner: Planner
    warm: bool = True


class DynamicsAlone:
    """No planner: the calls of the dynamics that plain CEM makes, on one fixed set of actions."""

    def __init__(self, size: PlanSize, width: int) -> None:
        rng = generator(0)
        self.rounds = size.iterations
        self.actions = torch.rand(1, size.samples, size.horizon, width, generator=rng)

    @torch.no_grad()
    def plan(self, cost: Any, state: Any, task: Any, previous: Plan | None, generator: Any) -> Plan:
        """The best of the set; see `Planner.plan`."""
        self.actions = self.actions.to(state.device)
        for _ in range(self.rounds):
            costs = cost(state, self.actions, task)
        best = int(costs[0].argmin())
        chosen = self.actions[:, best : best + 1]
        return Plan(chosen[:, 0], costs[:, best], chosen, self.rounds * costs.shape[1])


def contestants(size: PlanSize) -> list[Contestant]:
    """Planners of continuous actions; the plain one with the whole budget first."""
    horizon, limits = size.horizon, Limits(size.action)
    many, rounds = size.samples, size.iterations
    third, tenth = many // 3, max(many // 30, 2)
    plain = CEM(horizon, limits, many, rounds, max(many // 10, 2), carried=0, momentum=0.0)
    fewer = CEM(horizon, limits, third, rounds, tenth, tenth // 2)
    icem = CEM(
        horizon, limits, third, rounds, tenth, tenth // 2, decay=0.9, colour=0.5, momentum=0.1
    )
    mppi = MPPI(horizon, limits, third, rounds, 0.03, tenth, tenth // 2)
    polished = PolishedPlanner(CEM(horizon, limits, 48, 3, 8, 4))
    return [
        Contestant(PLAIN, plain, warm=False),
        Contestant(ALONE, DynamicsAlone(size, size.action), warm=False),
        Contestant("CEM", fewer),
        Contestant("iCEM", icem),
        Contestant("MPPI", mppi),
        Contestant("gradient", GradientPlanner(horizon, limits)),
        Contestant("CEM + polish", polished),
    ]


def discrete_contestants(size: PlanSize) -> list[Contestant]:
    """The same for discrete actions."""
    many, rounds, tenth = size.samples, size.iterations, max(size.samples // 30, 2)
    plain = CategoricalCEM(
        size.horizon, CHOICES, many, rounds, max(many // 10, 2), carried=0, momentum=0.0
    )
    ours = CategoricalCEM(size.horizon, CHOICES, many // 3, rounds, tenth, tenth // 2)
    return [
        Contestant(PLAIN, plain, warm=False),
        Contestant(ALONE, DynamicsAlone(size, CHOICES), warm=False),
        Contestant("categorical CEM", ours),
    ]


@dataclass
class Measured:
    """Decisions of one planner: `P T` nested lists, P problems of T decisions each."""

    name: str
    warm: bool
    seconds: list[list[float]] = field(default_factory=list)  # on the clock
    work: list[list[float]] = field(default_factory=list)  # of the processor, or on the clock
    cost: list[list[float]] = field(default_factory=list)
    evaluations: int = 0


@dataclass(frozen=True)
class Row:
    """One planner beside plain CEM; the intervals are of 95 % over problems."""

    name: str
    milliseconds: float  # of a decision, on the clock
    busy_milliseconds: float  # the same of the processor, which other load does not lengthen
    evaluations: int  # sequences costed in the last decision
    time: Interval  # share of the time of plain CEM
    cold: Interval  # cost of the first decision, less that of plain CEM
    later: Interval  # the same, of the other decisions
    cold_cost: float
    later_cost: float

    def holds(self, at_most: float) -> bool:
        """Whether it needs at most this share of plain CEM's time, at no worse a final cost."""
        no_worse = self.cold.value <= 0 and self.later.value <= 0
        return self.time.value <= at_most and no_worse


def compare(
    size: PlanSize,
    problems: int,
    decisions: int,
    seed: int,
    device: torch.device,
    discrete: bool = False,
    threads: int = 1,
    told: Callable[[int, int], None] = lambda done, total: None,
) -> list[Row]:
    """Rows of all planners, plain CEM first.

    Args:
        size: of the problem and of the budget.
        problems: P, each with weights, start and goals of its own.
        decisions: T of each problem, of which the first is cold.
        seed: of the problems and of the planners' draws.
        device: where dynamics and plans lie.
        discrete: choices in the place of continuous actions.
        threads: of torch; with one on a CPU, shares of time are of processor time, which other
            load on the machine does not lengthen.
        told: called with how many problems are done, and of how many.

    Raises:
        UserError: fewer than two problems or decisions.
    """
    if problems < 2 or decisions < 2:
        raise UserError("problems and decisions must be 2 or more: there is no interval otherwise")
    entered = discrete_contestants(size) if discrete else contestants(size)
    found = [Measured(one.name, one.warm) for one in entered]
    clock = time.process_time if device.type == "cpu" and threads == 1 else time.perf_counter
    with _threads(threads):
        warm_up = make_problem(size, seed - 1, 2, device, discrete)
        _solve(warm_up, entered, [Measured(one.name, one.warm) for one in entered], 0, clock)
        for number in range(problems):
            problem = make_problem(size, seed + number, decisions, device, discrete)
            _solve(problem, entered, found, seed + number, clock)
            told(number + 1, problems)
    return [_row(one, found[0]) for one in found]


def _solve(
    problem: Problem,
    entered: list[Contestant],
    found: list[Measured],
    seed: int,
    clock: Callable[[], float],
) -> None:
    """All decisions of one problem; each planner's go at the end of its measured ones."""
    for one in found:
        for series in (one.seconds, one.work, one.cost):
            series.append([])
    state = problem.start
    plans: list[Plan | None] = [None for _ in entered]
    for decision in range(len(problem.goals)):
        goal = problem.goals[decision : decision + 1]
        for index, (contestant, measured) in enumerate(zip(entered, found, strict=True)):
            before = plans[index]
            start = before.shifted() if contestant.warm and before is not None else None
            plan = _timed(problem, contestant, state, goal, start, measured, clock, seed, decision)
            plans[index] = plan
        assert plans[0] is not None
        with torch.no_grad():
            state = problem.after(state, plans[0].actions[:, 0], decision)


def _timed(
    problem: Problem,
    contestant: Contestant,
    state: Tensor,
    goal: Tensor,
    start: Plan | None,
    measured: Measured,
    clock: Callable[[], float],
    seed: int,
    decision: int,
) -> Plan:
    rng = generator(seed, decision, device=state.device)
    _wait(state.device)
    began, worked = time.perf_counter(), clock()
    plan = contestant.planner.plan(problem.dynamics.cost, state, goal, start, rng)
    _wait(state.device)
    measured.work[-1].append(clock() - worked)
    measured.seconds[-1].append(time.perf_counter() - began)
    measured.cost[-1].append(float(plan.cost))
    measured.evaluations = plan.evaluations
    return plan


def _row(one: Measured, plain: Measured) -> Row:
    work, reference = torch.tensor(one.work), torch.tensor(plain.work)
    cost, least = torch.tensor(one.cost), torch.tensor(plain.cost)
    later = cost[:, 1:].mean(1), least[:, 1:].mean(1)
    return Row(
        name=one.name,
        milliseconds=1000 * torch.tensor(one.seconds).mean().item(),
        busy_milliseconds=1000 * work.mean().item(),
        evaluations=one.evaluations,
        time=bootstrap_accuracy((work.sum(1) / reference.sum(1)).numpy()),
        cold=paired_difference(cost[:, 0].numpy(), least[:, 0].numpy()),
        later=paired_difference(later[0].numpy(), later[1].numpy()),
        cold_cost=cost[:, 0].mean().item(),
        later_cost=later[0].mean().item(),
    )


def figures(rows: list[Row]) -> list[dict[str, Any]]:
    """The rows as plain values."""
    return [asdict(row) for row in rows]


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize()


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
