"""Claims of zones on the chart: the way leads around them, for plans and for reactions."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from jepa_video.agent.chart import Chart
from jepa_video.agent.cost import IntrinsicCost, WorldCost, inside
from jepa_video.agent.mind import Mind, Trained
from jepa_video.agent.policy import ReactivePolicy
from jepa_video.agent.shunned import shunning, told_by_zones
from jepa_video.agent.task import Situation, Task, Zone
from tests.agent.test_met import SIDE, plain, state

assert plain  # a fixture: six by six open cells, one step apart

WEST, EAST = 0.5, 5.5
BOX = Zone((18.0, 10.0), (40.0, 50.0), 5.0)  # in a state that counts ten to a cell
MIND = Mind(1.0, {"goal": 2.0, "zone": 6.0}, zones=(BOX,), discount=0.95)


def read(states: Tensor, name: str) -> Tensor:
    """The state: ten times where it is on the chart."""
    return 10 * states.flatten(-2)[..., :2]


@pytest.fixture
def intrinsic() -> IntrinsicCost:
    return IntrinsicCost(1.0, 2, read)  # type: ignore[arg-type]


@pytest.fixture
def trained(plain: Chart) -> Trained:
    policy = ReactivePolicy(2 + SIDE * SIDE, 2, False, 2, 8, guide=8)
    policy.mean.normal_()  # memory's states were anywhere
    policy.follow(plain)
    return Trained(plain, policy)


def barred(plain: Chart, price: float, rows: slice) -> Chart:
    """A zone over columns 2 and 3 of some rows."""
    shun = torch.zeros(SIDE, SIDE)
    shun[rows, 2:4] = price
    plain.shun = shun.flatten()
    return plain


def test_a_cell_costs_what_the_zone_costs_in_its_middle(trained, intrinsic):
    chart = shunning(trained, intrinsic, MIND).critic
    assert isinstance(chart, Chart) and chart.shun is not None
    expected = 6 / 2 * inside(10 * chart.centres, BOX)
    assert 0 < float(expected.count_nonzero()) < SIDE * SIDE and 0 < expected[7] < 3
    torch.testing.assert_close(chart.shun, expected)


def test_only_what_is_asked_for_differs(trained, intrinsic):
    found = shunning(trained, intrinsic, MIND)
    assert trained.critic.shun is None and trained.policy._guide == [trained.critic]
    assert found.policy._guide == [found.critic]
    for own, other in zip(found.named().values(), trained.named().values(), strict=True):
        pairs = zip(own.parameters(), other.parameters(), strict=True)
        assert all(a is b for a, b in pairs)
    for mind in (
        replace(MIND, weights={"goal": 2.0}),
        replace(MIND, weights={"zone": 6.0}),  # nothing to count steps by
        replace(MIND, weights={"goal": 2.0, "zone": -1.0}),  # ways that pay would have no end
        replace(MIND, zones=()),
    ):
        assert shunning(trained, intrinsic, mind) is trained


@pytest.mark.parametrize(("price", "steps"), [(0.0, 5.0), (0.5, 6.5), (2.0, 11.0)])
def test_the_way_through_costs_its_formula_where_there_is_none_around(plain, price, steps):
    chart = barred(plain, price, slice(None))
    told = chart.steps(state(WEST, 2.5), state(EAST, 2.5)).mean()
    assert float(told) == pytest.approx(steps, abs=0.15)  # three of the five steps touch it


def test_where_there_is_a_way_around_it_is_taken_and_a_reaction_turns_to_it(plain):
    open_way = float(plain.steps(state(WEST, 3.5), state(EAST, 3.5)).mean())
    chart = barred(plain, 100.0, slice(1, SIDE))  # but for the first row
    around = float(chart.steps(state(WEST, 3.5), state(EAST, 3.5)).mean())
    barred(plain, 1e4, slice(1, SIDE))
    assert float(chart.steps(state(WEST, 3.5), state(EAST, 3.5)).mean()) == pytest.approx(around)
    assert open_way == pytest.approx(5, abs=0.1) and 8 < around < 12

    def turned_to() -> list[float]:
        """Where the slope is steepest."""
        slope = chart.slope(state(1.5, 3.5), state(EAST, 3.5))[0]
        told: list[float] = chart.ahead[slope.argmin()].tolist()
        return told

    assert turned_to() == [0, -1]
    chart.shun = None
    assert turned_to() == [1, 0]


def test_a_step_in_a_zone_is_no_leap_for_who_feels_it_and_too_long_for_who_does_not(plain):
    step = torch.tensor([[[2.5, 2.5], [3.5, 2.5]]])[:, :, None, :]  # one plan each, one step
    here, goal = state(1.5, 2.5), state(EAST, 2.5)
    chart = barred(plain, 3.0, slice(None))
    inside_it = state(2.5, 2.5)
    felt = chart.foretold(inside_it, goal, step[:, 1:])[1]
    unfelt = chart.foretold(inside_it, goal, step[:, 1:], felt=False)[1]
    assert float(felt.amax()) == 0 and float(unfelt.amax()) == pytest.approx(3 - 0.5, abs=0.15)
    jump = torch.tensor([[[[EAST, 2.5]]]])  # over all of it, in one step
    assert float(chart.foretold(here, goal, jump)[1]) > 5


def test_a_step_in_a_zone_counts_as_so_many_on_the_way(plain):
    """What is spent, what is left and what the zone adds is the cost of a way of their sum."""
    plain.discount, plain.weight, goal = 0.9, 1.0, 2.0
    left, zone = torch.tensor([[4.0, 11.0]]), torch.tensor([[[6.0, 6.0, 0.0], [0.0, 3.0, 0.0]]])

    def cost(steps: Tensor | float) -> Tensor:
        return goal * (1 - 0.9 ** torch.as_tensor(steps)) / (1 - 0.9)

    world: Any = SimpleNamespace()
    whole = WorldCost(world, world, plain, 0.9)
    critic = 0.9**3 * cost(left)
    (told,) = whole._longer(critic, zone, Task(None, {"goal": goal, "zone": 6.0})).values()
    torch.testing.assert_close(cost(3.0) + critic + told, cost(3 + left + zone.sum(-1) / goal))


def test_reactions_follow_another_cost_where_it_differs_by_zones_alone(trained):
    other = replace(MIND, weights={"goal": 2.0, "effort": 1.0})
    assert told_by_zones(trained, MIND, replace(MIND, weights={"goal": 2.0}, zones=()))
    assert told_by_zones(trained, replace(MIND, weights={"goal": 2.0}, zones=()), MIND)
    assert not told_by_zones(trained, MIND, replace(MIND, weights={"goal": 1.0, "zone": 6.0}))
    assert not told_by_zones(trained, MIND, other)
    assert not told_by_zones(trained, MIND, replace(MIND, weights={"goal": 2.0, "zone": -1.0}))
    assert not told_by_zones(trained._replace(critic=torch.nn.Identity()), MIND, MIND)


def test_zones_add_to_a_plan_that_leads_through_and_to_none_of_a_task_without(plain, intrinsic):
    world: Any = SimpleNamespace()
    whole = WorldCost(world, intrinsic, barred(plain, 3.0, slice(None)), 0.95)
    here, goal = state(1.5, 2.5), state(EAST, 2.5)
    steps = [state(x, 2.5) for x in (1.5, 2.5, 2.8)]  # one stays, two go in
    future, actions = torch.stack(steps, 1)[:, :, None], torch.zeros(1, 3, 1, 2)
    asked = Task(goal, {"goal": 2.0, "zone": 6.0}, (replace(BOX, margin=0.0),))
    told = whole.parts(Situation(here[None], torch.zeros(1, 0, 2)), future, actions, asked)
    out, *within = told["zone"][0].tolist()
    assert out == 0 and min(within) > 0
    plain_task = Task(goal, {"goal": 2.0})
    none = whole.parts(Situation(here[None], torch.zeros(1, 0, 2)), future, actions, plain_task)
    assert none.keys() == {"goal", "critic", "leap"}
