"""Claims of what an agent ran into: it is a wall on the chart, and the way leads around it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from jepa_video.agent.chart import Chart
from jepa_video.agent.met import PRICE, Met, led_by, told_by
from jepa_video.agent.tried import Tried

EAST = torch.tensor([1.0, 0.0])


def met(
    here: list[float], there: list[float], meant: list[float] | None = None, counts: bool = True
) -> Met:
    """One step of one environment."""
    parts = (torch.tensor(part)[None, None] for part in (here, there, meant or [1.0, 0.0]))
    return Met.of(*parts, torch.full((1, 1), counts))


def paid(told: Met, begin: list[float], way: Tensor) -> float:
    """What it costs to go one way."""
    return float(told.against(torch.tensor(begin)[None, None], way[None, None, None]))


def test_what_is_paid_is_its_formula():
    told, begin, way = met([2.0, 3.0], [2.0, 3.0]), [1.6, 3.3], torch.tensor([2.0, 1.0])
    near = math.exp(-(0.3**2) / (2 * 0.4**2) - 0.4**2 / (2 * 0.8**2))
    assert paid(told, begin, way) == pytest.approx(PRICE * near * 4 / 5, rel=1e-5)


def test_only_a_step_that_was_stopped_counts_and_only_onwards():
    assert paid(met([2.0, 3.0], [2.0, 3.0]), [2.0, 3.0], EAST) == pytest.approx(PRICE)
    assert paid(met([2.0, 3.0], [2.0, 3.0]), [2.0, 3.0], -EAST) == 0
    assert paid(met([2.0, 3.0], [2.0, 3.0]), [2.0, 5.0], EAST) < 1e-3
    went = met([2.0, 3.0], [2.8, 3.1])
    short = met([2.0, 3.0], [2.0, 3.0], [0.1, 0.0])  # one that stands still says nothing
    for told in (went, short, met([2.0, 3.0], [2.0, 3.0], counts=False)):
        assert told.stopped.shape == (1, 0) and paid(told, [2.0, 3.0], EAST) == 0


def test_environments_keep_their_own_however_many_they_have():
    here = torch.tensor([[[0.0, 0.0], [5.0, 5.0], [9.0, 9.0]], [[1.0, 1.0]] * 3])
    there = here.clone()
    there[0, 0] += EAST  # this one went, and none of the second was stopped but the last
    there[1, :2] += EAST
    told = Met.of(here, there, EAST.expand(2, 3, 2), torch.ones(2, 3, dtype=torch.bool))
    assert told.stopped.tolist() == [[1, 1], [1, 0]]
    cost = told.against(here, EAST.expand(2, 3, 1, 2))[..., 0]
    torch.testing.assert_close(cost[0], torch.tensor([0.0, PRICE, PRICE]), atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(cost[1], torch.full((3,), PRICE))
    dear = told._replace(price=30.0).rows(torch.tensor([1]))
    torch.testing.assert_close(
        dear.against(here[1:], EAST.expand(1, 3, 1, 2)) / 30, cost[1:, :, None] / PRICE
    )
    ways = torch.tensor([[1.0, 0.0], [0.6, 0.8], [-1.0, 0.3]]).expand(2, 1, 3, 2)
    torch.testing.assert_close(
        told.against(here, ways), told.against(here, ways.expand(2, 3, 3, 2))
    )


def test_where_actions_lead_is_found_though_half_of_them_are_stopped():
    torch.manual_seed(0)
    actions, truth = torch.randn(600, 2), torch.tensor([[0.6, 0.1], [-0.2, 0.5]])
    moves = actions @ truth.T + 0.01 * torch.randn(600, 2)
    moves[::2] = 0
    torch.testing.assert_close(led_by(moves, actions), truth, atol=0.02, rtol=0)


def test_actions_that_do_not_move_places_lead_nowhere():
    torch.manual_seed(0)
    assert not led_by(torch.randn(600, 2), torch.randn(600, 3)).any()
    assert not led_by(torch.zeros(600, 2), torch.randn(600, 2)).any()


def test_the_mixture_of_points_that_moves_as_actions_say_is_found_where_half_of_them_are_stopped():
    torch.manual_seed(0)
    actions, mixed = torch.randn(600, 2), torch.randn(2, 6)
    moves = actions @ mixed + 0.01 * torch.randn(600, 6)
    moves[::2] = 0
    found = told_by(moves, actions)
    assert found is not None
    torch.testing.assert_close(mixed @ found, torch.eye(2), atol=0.1, rtol=0)


def test_no_mixture_is_found_of_what_actions_do_not_move_or_of_one_number():
    torch.manual_seed(0)
    assert told_by(torch.randn(600, 6), torch.randn(600, 2)) is None
    assert told_by(torch.randn(600, 6), torch.randn(600, 1)) is None
    assert told_by(torch.zeros(600, 6), torch.randn(600, 2)) is None


# -- on a chart that sees no wall ------------------------------------------------------------------

SIDE = 6


@pytest.fixture
def plain() -> Chart:
    """A chart of open cells: each is as far from its neighbours as they are apart."""
    torch.manual_seed(0)
    made = Chart(2 + SIDE * SIDE, 2, (SIDE, SIDE), 2, discount=0.95)
    with torch.no_grad():
        made.where.weight.copy_(torch.eye(2))
        made.where.bias.zero_()
        made.onward.weight.zero_()
        made.onward.bias.fill_(-20.0)
        made.entry[-1].weight.zero_()
        made.entry[-1].bias.fill_(-20.0)
        made.pace.zero_()
        made.drive.copy_(torch.eye(2))
    return made.requires_grad_(False)


def state(x: float, y: float) -> Tensor:
    """`1 1 D`, with a map that shows nothing."""
    return torch.cat((torch.tensor([x, y]), torch.zeros(SIDE * SIDE)))[None, None]


def stopped(*places: tuple[float, float]) -> Tried:
    """East was tried in each of these places, and it stayed there."""
    here = torch.tensor(places)[None]
    act = EAST.expand_as(here)
    return Tried(torch.zeros(1, len(places), 4), torch.ones(here.shape[:2]), 1.0, here, act, here)


def test_the_way_leads_around_what_was_met(plain):
    here, goal = state(2.5, 2.5), state(4.5, 2.5)
    places = torch.tensor([[3.5, 2.5], [2.5, 3.5]])[None, :, None]  # across, and along
    free = plain.foretold(here, goal, places)[0][0, :, 0]
    assert free[0] < free[1]
    ran_into = stopped((2.5, 2.5), (2.5, 2.5), (2.5, 1.5), (2.5, 3.4))
    own = plain.foretold(here, goal, here[None, :, :, :2], tried=ran_into)[0]
    before = plain.foretold(here, goal, here[None, :, :, :2])[0]
    assert float(own) > float(before) + 1, "from here the goal is further now"
    left, over = plain.foretold(here, goal, places, tried=ran_into)
    assert float(left[0, 1, 0]) < float(own), "and along what stopped it, it is nearer than here"
    assert float(left[0, 0, 0]) > float(left[0, 1, 0]) + 1, "nothing is gained by going across"
    cheap = ran_into._replace(price=0.5)
    less = plain.foretold(here, goal, here[None, :, :, :2], tried=cheap)[0]
    assert float(before) < float(less) < float(own) - 0.5, "as much as a met wall is priced at"
    assert not over.any(), "what a leap goes over is all that it costs"


def test_open_ground_asks_for_the_length_of_a_way_and_what_was_met_for_more(plain):
    here = torch.tensor([2.5, 2.5])
    ways = torch.tensor([[1.0, 0.0], [0.4, 0.4], [0.3, -0.5], [0.0, 0.0], [-0.7, 0.1]])
    costs = plain.ground(state(2.5, 2.5))[0]
    begin, end = here.expand(1, 1, 5, 2), (here + ways)[None, None]
    elsewhere, beside = (plain.met(stopped(place)) for place in ((0.5, 5.5), (2.5, 2.5)))
    asked = plain.toll(costs, begin, end, elsewhere)[0, 0]
    torch.testing.assert_close(asked, ways.norm(dim=1), atol=1e-4, rtol=1e-4)
    more = plain.toll(costs, begin, end, beside)[0, 0] - asked
    assert more[0] > 2 and more[1] > 0.5 and not more[3:].any()
    assert more[0] > more[1] > more[2] > 0


def test_a_long_way_does_not_step_over_a_wall_that_is_not_at_its_middle(plain):
    costs, nothing = plain.ground(state(2.5, 2.5))[0].clone(), plain.met(stopped((0.5, 5.5)))
    begin, end = (torch.tensor([[[[x, 2.5]]]]) for x in (0.5, 4.5))
    free = float(plain.toll(costs, begin, end, nothing, 4))
    assert free == pytest.approx(4, rel=1e-3) == float(plain.toll(costs, begin, end, nothing))
    costs[..., int(plain.number(torch.tensor([1.0, 2.0])))] += 50  # a cell that is hard to leave
    assert float(plain.toll(costs, begin, end, nothing)) == pytest.approx(4, rel=1e-3)
    assert float(plain.toll(costs, begin, end, nothing, 4)) > 30


def test_a_leap_costs_its_toll_where_memory_notes_and_is_shunned_where_not(plain):
    """Each way between cells is as hard: 5 softplus(3 - 2) steps more than it is long."""
    with torch.no_grad():
        plain.onward.bias.fill_(3.0)
    here, goal = state(0.5, 2.5), state(5.5, 2.5)
    step = torch.tensor([1.5, 2.5])[None, None, None]
    left, over = plain.foretold(here, goal, step)
    assert float(over) > 3
    noted, none = plain.foretold(here, goal, step, tried=stopped((0.5, 5.5)))
    field = plain.field(plain.ground(here), torch.tensor([[[5.5, 2.5]]]))
    rest = plain.left(field, step[0]).mean()
    toll = 1 + 5 * float(torch.nn.functional.softplus(torch.tensor(1.0))) - 1
    torch.testing.assert_close(noted[0, 0, 0], plain.cost(rest + toll), atol=1e-3, rtol=1e-3)
    assert float(noted) > float(left) and not none.any()


def test_the_slope_turns_away_from_what_was_met(plain):
    here, goal = state(2.5, 2.5), state(4.5, 2.5)
    east = [i for i, way in enumerate(plain.ahead.tolist()) if way == [1.0, 0.0]]
    free = plain.slope(here, goal)[0, east]
    assert float(free) < -0.5
    assert float(plain.slope(here, goal, stopped((2.5, 2.5)))[0, east]) > float(free) + 1
    torch.testing.assert_close(plain.slope(here, goal, stopped((0.5, 5.5)))[0, east], free)


def test_a_chart_whose_actions_lead_nowhere_meets_nothing(plain):
    plain.drive.zero_()
    assert plain.met(stopped((2.5, 2.5))) is None
