"""A chart finds shortest ways, its gradients flow down them, and trails teach it walls."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from jepa_video.agent.bank import Bank
from jepa_video.agent.chart import Chart
from jepa_video.agent.reach import SLACK
from jepa_video.agent.spread import Spread, neighbours
from jepa_video.agent.trails import Trails, lengths, paces

SIDE = 6  # tokens of the map along x and y


def walled(row: int = 3, door: int = 4) -> Tensor:
    """Costs `1 8 C` of one a step, and of 50 into the cells of a row but for its door."""
    closed = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    closed[row] = True
    closed[row, door] = False
    closed = torch.cat((closed.flatten(), torch.ones(1, dtype=torch.bool)))
    return torch.where(closed[neighbours(SIDE, SIDE)] | closed[:-1], 50.0, 1.0)[None]


def test_costs_spread_by_the_shortest_way_around_a_wall():
    first = torch.full((1, 1, SIDE * SIDE), 99.0)
    first[..., 0] = 0  # the goal: above the wall, on the left
    least = Spread.apply(first, walled(), neighbours(SIDE, SIDE), SIDE, 20).view(SIDE, SIDE)
    assert least[2, 0] == 2 and least[2, 4] == 4
    assert least[3, 4] == 4 and least[4, 4] == 5  # by the door
    assert least[4, 0] == 4 + 4 and least[3, 0] == 50 + 2  # and back on the other side


def test_gradients_are_those_of_the_way_that_is_taken():
    torch.manual_seed(0)
    first = torch.rand(2, 3, SIDE * SIDE, dtype=torch.double) * 9
    costs = torch.rand(2, 8, SIDE * SIDE, dtype=torch.double) + 0.5
    around = neighbours(SIDE, SIDE)
    torch.autograd.gradcheck(
        lambda *parts: Spread.apply(*parts, around, SIDE, 12),
        (first.requires_grad_(), costs.requires_grad_()),
    )


def test_trails_of_several_episodes_join_and_none_leads_where_memory_was_not():
    one = torch.stack((torch.arange(10.0), torch.zeros(10)), 1)  # along x
    other = torch.stack((torch.full((10,), 5.4), torch.arange(10.0)), 1)  # crosses it
    far = torch.stack((torch.arange(10.0), torch.full((10,), 20.0)), 1)
    spots, first = torch.cat((one, other, far)), torch.tensor([*range(9), *range(10, 19)])
    told = lengths(spots, first, torch.tensor([0, 19, 25]), longest=1.0, usual=0.9)
    assert told[0, 0] == 0 and told[9, 0] == pytest.approx(9)
    assert told[0, 1] == pytest.approx(5 + 0.4 + 0.05 + 9, abs=0.2)  # and back, too
    assert told[:20, 2].isinf().all() and told[0, 2].isinf()


def test_paces_are_the_longest_step_and_the_mean_of_those_that_move():
    steps = torch.cat((torch.zeros(50), torch.full((30,), 1.0), torch.full((20,), 2.0)))
    longest, usual = paces(steps)
    assert longest == 2 and usual == pytest.approx((30 + 40) / 50)


def test_short_steps_join_episodes_that_pass_within_a_fifth_of_a_token():
    """Two episodes of steps of 0.1, half a step of another recipe apart, that never cross."""
    one = torch.stack((torch.arange(20) * 0.1, torch.zeros(20)), 1)
    spots, follows = torch.cat((one, one + torch.tensor([0.0, 0.3]))), torch.arange(40) % 20 < 19
    apart, joined = (Trails([torch.arange(40)], follows, spots, least=x) for x in (0.0, 0.4))
    assert apart.steps[0].isinf().any() and not joined.steps[0].isinf().any()


def test_all_places_of_five_long_episodes_are_looked_at():
    """Five of 181 frames: of 512 places two episodes would be left out."""
    spots = torch.stack((torch.arange(905.0) % 181, torch.arange(905.0) // 181), 1)
    made = Trails([torch.arange(905)], torch.arange(905) % 181 < 180, spots)
    assert made.rows[0].tolist() == list(range(905))


def test_a_bank_lays_its_trails_as_closely_as_it_is_told():
    bank = Bank()
    for offset in (0.0, 0.3):
        places = torch.stack((torch.arange(20) * 0.1, torch.full((20,), offset)), 1)
        bank.add(places[:, None], torch.zeros(19, 2), torch.zeros(19), scene=0)
    where = torch.nn.Linear(2, 2)
    torch.nn.init.eye_(where.weight)
    torch.nn.init.zeros_(where.bias)
    bank.spots = where
    known = []
    for beside in (0.0, 0.4):
        bank.beside, bank.trails = beside, None
        known.append(bool(bank.__getitems__([(0, 0)])["trail_steps"].isfinite().all()))
    assert known == [False, True]


# -- a chart of small scenes: a wall across y with a door, which the map shows -------------------


def scene(door: int, row: int = 3) -> Tensor:
    """A map `C 2`: what is a wall, and noise that says nothing."""
    wall = torch.zeros(SIDE, SIDE)
    wall[row] = 1
    wall[row, door] = 0
    return torch.stack((wall.flatten(), torch.full((SIDE * SIDE,), 0.3)), 1)


def walk(door: int, steps: int, source: torch.Generator) -> Tensor:
    """Places `T 2` from 0 to SIDE of one who does not go through the wall of row 3."""
    at, places = torch.rand(2, generator=source) * SIDE, []
    heading = torch.rand(1, generator=source) * 6.3
    while len(places) < steps:
        cell = at.floor()
        if (cell[1] != 3) | (cell[0] == door) | (not places):
            places.append(at)
        else:
            at, heading = places[-1], torch.rand(1, generator=source) * 6.3
        heading = heading + 0.3 * torch.randn(1, generator=source)
        at = (at + 0.5 * torch.cat((heading.cos(), heading.sin()))).clamp(0.01, SIDE - 0.01)
    return torch.stack(places)


def as_states(places: Tensor, door: int) -> Tensor:
    """States `T 1 D`: two points that both are the place, from -1 to 1, beside the map."""
    points = (2 * places / SIDE - 1).repeat(1, 2)
    return torch.cat((points, scene(door).flatten().expand(len(places), -1)), 1)[:, None]


@pytest.fixture(scope="module")
def learned() -> Chart:
    torch.manual_seed(0)
    source, bank = torch.Generator().manual_seed(0), Bank()
    for number in range(40):
        door = number % 5 if number % 5 < 2 else number % 5 + 1  # door 2 is held out
        for _ in range(4):
            places = walk(door, 60, source)
            bank.add(as_states(places, door), torch.zeros(59, 2), torch.zeros(59), scene=number)
    chart = Chart(4 + 2 * SIDE * SIDE, 4, (SIDE, SIDE), 2, groups=1, hidden=32)
    chart.survey(bank.spread(), bank.strayed(4))
    bank.spots = chart.where
    optimizer = torch.optim.AdamW(chart.parameters(), 4e-3)
    for step in range(250):
        batch = bank.__getitems__([(step, step)])
        optimizer.zero_grad()
        chart.learn(batch, step / 250).backward()
        optimizer.step()
    return chart.requires_grad_(False)


def test_the_first_guess_of_where_places_lie_is_the_picture_itself():
    chart = Chart(4 + 72, 4, (SIDE, SIDE), 2)
    places = torch.rand(4000, 2, generator=torch.Generator().manual_seed(0)) * SIDE
    states = as_states(places, 2)
    still = {"state": states, "action": torch.zeros(len(states), 2), "next": states}
    chart.survey(still, states[:, 0, :4] - states[:, 0, :4].mean(0))
    told = chart.spots(states[:, 0, :4])
    assert (told - places).abs().max() < 0.05 * SIDE + 0.1


def test_where_actions_are_ways_a_point_that_sees_the_scene_too_leads_no_place_astray():
    """The first point moves most, by more in some episodes than in others; the second does not."""
    source = torch.Generator().manual_seed(0)
    places = (0.05 + 0.9 * torch.rand(60, 50, 2, generator=source)) * SIDE
    gain = 1 + 2 * torch.rand(60, 1, 1, generator=source)
    points = torch.cat((gain * places, places), 2)
    points = points + 0.01 * torch.randn(points.shape, generator=source)
    states = torch.cat((points, torch.zeros(60, 50, 2 * SIDE * SIDE)), 2)
    steps = {
        "state": states[:, :-1].flatten(0, 1)[:, None],
        "action": (places[:, 1:] - places[:, :-1]).flatten(0, 1),
        "next": states[:, 1:].flatten(0, 1)[:, None],
    }
    still = {**steps, "action": torch.zeros_like(steps["action"])}
    strayed = (points - points.mean(1, keepdim=True)).flatten(0, 1)
    off = []
    for batch in (still, steps):
        chart = Chart(4 + 2 * SIDE * SIDE, 4, (SIDE, SIDE), 2).requires_grad_(False)
        chart.survey(batch, strayed)
        told = chart.spots(points.flatten(0, 1)).detach()
        off.append(float((told - places.flatten(0, 1)).norm(dim=1).mean()))
        learns = chart.where.weight.requires_grad
        assert learns == (batch is still)  # what was measured is left as it is
    assert off[0] > 0.8 and off[1] < 0.6 * off[0]


def test_it_knows_the_wall_of_a_scene_that_it_never_saw(learned):
    """From one side of the wall to the other it is far where there is no door, and not at it."""
    door = 2
    above = torch.stack((torch.arange(SIDE) + 0.5, torch.full((SIDE,), 2.5)), 1)
    below = above + torch.tensor([0.0, 2.0])
    told = learned.steps(as_states(above, door), as_states(below, door))[0]
    assert told[5] > 1.7 * told[2] and told[0] > 1.3 * told[2]
    along = learned.steps(as_states(above[:1], door), as_states(above[5:], door))[0]
    assert along < told[5] + 3


def test_to_where_one_is_there_are_no_steps_and_a_step_through_the_wall_is_a_leap(learned):
    here = as_states(torch.tensor([[5.5, 2.5]]), 2)
    goal = as_states(torch.tensor([[5.5, 5.5]]), 2)
    assert learned.steps(here, here).abs().max() < 1e-5
    ways = [[[5.5, 2.1], [5.5, 1.7]], [[5.5, 2.5], [5.5, 4.5]]]
    future = torch.stack([as_states(torch.tensor(way), 2) for way in ways])[None]
    left, over = learned.foretold(here, goal, future)
    assert over[0, 0].max() == 0 and over[0, 1, 0] == 0
    whole = learned.steps(here, goal) - learned.steps(
        as_states(torch.tensor([[5.5, 4.5]]), 2), goal
    )
    assert over[0, 1, 1] == pytest.approx(float(whole[0, 0]) - 1 - SLACK, abs=1e-4)
    assert over[0, 1, 1] > 1
    assert left[0, 1, 1] < left[0, 0, 1]


def test_trails_are_drawn_with_the_steps_between_their_rows():
    source, bank = torch.Generator().manual_seed(0), Bank()
    for number in range(3):
        places = walk(1, 40, source)
        bank.add(as_states(places, 1), torch.zeros(39, 2), torch.zeros(39), scene=number // 2)
    made = Trails([torch.arange(80), torch.arange(80, 120)], torch.arange(120) % 40 < 39,
                  torch.cat([part[:, 0, :2] for part in bank.states]))  # fmt: skip
    state, goal, steps = made.draw(4, 5, 6, source)
    assert state.shape == (4, 5) and goal.shape == (4, 6) and steps.shape == (4, 5, 6)
    assert ((state % 40) < 39).all()
    same = state[:, :, None] == goal[:, None]
    assert (steps[same] == 0).all()
    for rows, aims in zip(state, goal, strict=True):
        assert len({int(row) // 80 for row in (*rows, *aims)}) == 1
