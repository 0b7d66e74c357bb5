"""Claims of level 2: it learns what k steps lead to, and its sub-goals lead around walls."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor

from jepa_video.agent.agent import Agent
from jepa_video.agent.bank import Bank
from jepa_video.agent.chart import Chart
from jepa_video.agent.cost import IntrinsicCost
from jepa_video.agent.learner import AgentLearner
from jepa_video.agent.level2 import COUNT, HELD, LONG, Ahead, Level2
from jepa_video.agent.mind import Trained, critic_of, level2_of, policy_of, read_agent, save_agent
from jepa_video.agent.tried import Tried
from jepa_video.errors import UserError
from jepa_video.models.state import MapState
from tests.agent.test_agent import SEEDS, agent, pictures, played, scattered
from tests.agent.tiny_agent import world

SIDE, STRIDE, PACE = 10, 4, 0.4
WALL = 5  # the row; a door is two columns wide


def scene(door: int) -> Tensor:
    """A map `C 2`: what is a wall, and noise that says nothing."""
    wall = torch.zeros(SIDE, SIDE)
    wall[WALL] = 1
    wall[WALL, door : door + 2] = 0
    return torch.stack((wall.flatten(), torch.full((SIDE * SIDE,), 0.3)), 1)


def as_states(places: Tensor, door: int) -> Tensor:
    """States `T 1 D`: two points that both are the place, from -1 to 1, beside the map."""
    points = (2 * places / SIDE - 1).repeat(1, 2)
    return torch.cat((points, scene(door).flatten().expand(len(places), -1)), 1)[:, None]


def goes(at: Tensor, way: Tensor, door: int) -> Tensor:
    """Where a step leads, `2`: nowhere where it would end in the wall or outside."""
    there = at + way
    free = ((there > 0) & (there < SIDE)).all()
    if int(there[1]) == WALL:
        free &= int(there[0]) in (door, door + 1)
    return there if free else at


def walked(door: int, steps: int, source: torch.Generator) -> tuple[Tensor, Tensor]:
    """Places `T 2` and actions `T-1 2` of one who turns where he was stopped twice."""
    at, still = torch.rand(2, generator=source) * SIDE, 0
    if int(at[1]) == WALL:
        at[1] = 1.0
    heading, places, did = torch.rand(1, generator=source) * 6.3, [at], []
    while len(places) < steps:
        heading = heading + 0.15 * torch.randn(1, generator=source) + 2.0 * (still > 1)
        act = torch.cat((heading.cos(), heading.sin()))
        there = goes(at, PACE * act, door)
        still = still + 1 if torch.equal(there, at) else 0
        at = there
        places.append(at)
        did.append(act)
    return torch.stack(places), torch.stack(did)


@pytest.fixture(scope="module")
def memory() -> Bank:
    source, bank = torch.Generator().manual_seed(0), Bank(stride=STRIDE)
    for number in range(48):
        door = (0, 1, 2, 5, 6, 7, 8)[number % 7]  # 3 and 4 are held out
        for _ in range(4):
            places, did = walked(door, 80, source)
            bank.add(as_states(places, door), did, torch.zeros(79), scene=number)
    return bank


@pytest.fixture(scope="module")
def trained(memory: Bank) -> Level2:
    torch.manual_seed(0)
    chart = Chart(4 + 2 * SIDE * SIDE, 4, (SIDE, SIDE), 2, groups=1, hidden=8)
    batch = memory.spread()
    chart.survey(batch, memory.strayed(4))
    chart.steer(batch["state"], batch["action"], batch["next"])
    memory.spots = chart.where
    made = Level2(4 + 2 * SIDE * SIDE, 4, (SIDE, SIDE), 2, STRIDE, hidden=64).follow(chart)
    made.measure(*memory.gone(4))
    optimizer = torch.optim.AdamW(made.parameters(), 4e-3)
    for step in range(1000):
        loss, _ = made.loss(memory.__getitems__([(step, step)]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return made.requires_grad_(False)


def foretold(model: Level2, places: list[list[float]], did: list[list[float]], door: int):
    """Where that leads, in places of `walked`, and how likely nothing stops it."""
    states = as_states(torch.tensor(places), door)
    here = states.flatten(1)[:, :4]
    seen = model.around(states)[torch.arange(len(here)), model.cell(model.chart.spots(here))]
    later, free = model.later(here, seen, torch.tensor(did))
    return (later[:, :2] + 1) * SIDE / 2, free.sigmoid()


def test_what_memory_did_most_points_everywhere(trained, memory):
    _, did = memory.gone(4)
    long, ways = did.norm(dim=1), trained.ways
    low, high = (long.quantile(share) for share in LONG)
    assert ((ways.norm(dim=1) >= low) & (ways.norm(dim=1) <= high)).all()
    angle = torch.atan2(ways[:, 1], ways[:, 0]).sort().values
    gaps = torch.cat((angle.diff(), angle[:1] + 2 * math.pi - angle[-1:]))
    assert len(ways) == COUNT and float(gaps.max()) < 1.2


def test_a_free_way_leads_where_it_points_and_a_wall_of_an_unseen_layout_stops_it(trained):
    """Doors of columns 3 and 4 were never seen: what a wall looks like is learned, not where."""
    down, right, far = [0.0, 1.0], [1.0, 0.0], STRIDE * PACE
    free = [[8.0, 2.0], [1.5, 8.0], [4.0, 4.4]], [down, right, down]
    found, sure = foretold(trained, *free, door=3)
    for place, (begin, way) in zip(found, zip(*free, strict=True), strict=True):
        assert float((place - torch.tensor(begin) - far * torch.tensor(way)).norm()) < 0.5
    stopped, off = foretold(trained, [[8.0, 4.4], [1.0, 4.4]], [down, down], door=3)
    assert float(stopped[:, 1].max()) < 4.4 + 0.6 * far
    assert float(off.max()) < 0.3 and float(sure.min()) > 0.7


def test_its_energy_does_not_move_where_places_lie(trained, memory):
    """A chart whose places all lie together would foretell them best."""
    where = trained.chart.where.requires_grad_(True)
    weight = trained.leave.down.weight.requires_grad_(True)
    try:
        loss, _ = trained.loss(memory.__getitems__([(7, 7)]))
        loss.backward()
        assert where.weight.grad is None and float(weight.grad.abs().sum()) > 0
    finally:
        trained.requires_grad_(False)
        where.requires_grad_(False)


def test_two_strides_of_different_lengths_are_enough_to_choose_from():
    model = Level2(4 + 2 * SIDE * SIDE, 4, (SIDE, SIDE), 2, STRIDE)
    did = torch.tensor([[1.0, 0.0], [0.0, 0.5]])
    model.measure(torch.ones(2, 4), did)
    assert {tuple(way) for way in model.ways.tolist()} == {(1.0, 0.0), (0.0, 0.5)}


def test_the_energy_is_less_where_what_was_done_is_told(trained, memory):
    batch = memory.__getitems__([(7, 7)])
    _, told = trained.loss(batch)
    batch["trail_did"] = batch["trail_did"].flip(1)
    _, other = trained.loss(batch)
    assert float(told) < 0.3 * float(other)


def followed(ahead: Ahead, door: int, start: list[float], goal: list[float], steps: int = 120):
    """The places of who goes straight to each sub-goal, and is stopped by the wall."""
    at, way = torch.tensor(start), []
    end = as_states(torch.tensor([goal]), door)
    for _ in range(steps):
        aim = ahead.aim(as_states(at[None], door), end)
        gap = (aim.flatten(1)[0, :2] + 1) * SIDE / 2 - at
        at = goes(at, gap * min(1.0, PACE / float(gap.norm().clamp_min(1e-6))), door)
        way.append(at)
        if float((at - torch.tensor(goal)).norm()) < PACE:
            break
    return torch.stack(way)


@pytest.mark.parametrize("door", [0, 3, 8])
def test_sub_goals_lead_through_the_door_and_stand_for_a_while(trained, door):
    ahead = Ahead(trained, far=60)
    x = 9.0 if door < 5 else 1.0
    start, goal = [x, 2.0], [x, 8.0]
    way = followed(ahead, door, start, goal)
    assert float((way[-1] - torch.tensor(goal)).norm()) < PACE
    shortest = 2 * math.hypot(x - door - 1, 3.0)
    assert len(way) < 2.5 * shortest / PACE
    assert ahead.calls < len(way)


def test_a_near_goal_is_gone_for_itself_and_over_is_not_planned_for(trained):
    ahead = Ahead(trained, far=60)
    state = as_states(torch.tensor([[1.0, 2.0]]), 3).repeat(3, 1, 1)
    goal = torch.cat(
        [as_states(torch.tensor([g]), 3) for g in ([3.0, 2.0], [9.0, 2.0], [9.0, 2.0])]
    )
    aim = ahead.aim(state, goal, over=torch.tensor([False, False, True]))
    assert torch.equal(aim[0], goal[0])
    assert not torch.equal(aim[1], goal[1]) and torch.equal(aim[2], state[2])
    assert ahead.calls == 2


def test_what_stopped_the_agent_is_gone_around_in_this_episode_alone(trained):
    """Three times it was stopped on the straight way, in the first of two episodes."""
    state = as_states(torch.tensor([[1.0, 2.0]]), 3).repeat(2, 1, 1)
    goal = as_states(torch.tensor([[9.0, 2.0]]), 3).repeat(2, 1, 1)
    rows = torch.tensor([1.6, 2.0, 2.4])
    at = as_states(torch.stack((torch.full((3,), 4.4), rows), 1), 3).flatten(1)[None, :, :4]
    place = torch.cat((at, at))
    act = torch.tensor([1.0, 0.0]).expand(2, 3, 2)
    felt = torch.tensor([[1.0] * 3, [0.0] * 3])
    tried = Tried(torch.cat((place, act), 2), felt, 1.0, place, act, place, 9.0)
    told = Ahead(trained, far=200).route(state, goal, tried)
    rows = (told.place[..., 1] + 1) * SIDE / 2

    def height(i: int) -> float:
        cell, seen = int(told.end[i]), []
        while int(told.hops[i, cell]):
            seen.append(float((rows[i, cell] - 2.0).abs()))
            cell = int(told.came[i, cell])
        return max(seen)

    assert height(0) > height(1) + 0.3


def test_a_zone_on_the_chart_is_dear(trained):
    state, goal = (as_states(torch.tensor([[x, 2.0]]), 3) for x in (1.0, 9.0))
    free = int(Ahead(trained, far=200).route(state, goal).cost[0, -1])
    trained.chart.shun = torch.full((SIDE * SIDE,), 5.0)
    try:
        assert int(Ahead(trained, far=200).route(state, goal).cost[0, -1]) >= free + 5 * 2
    finally:
        trained.chart.shun = None


# -- memory, files, the agent ----------------------------------------------------------------------


def test_a_stride_ends_with_the_episode_and_tells_what_was_done():
    bank = Bank(stride=4)
    for e in range(3):
        states = (100.0 * e + torch.arange(10.0)).view(-1, 1, 1)
        bank.add(states, 10.0 * e + torch.arange(9.0)[:, None], torch.zeros(9))
    later, did = bank.strides(torch.arange(27))
    state = bank.__getitems__([(i, 0) for i in range(27)])["state"].flatten()
    last = (state + 4).minimum(state - state % 100 + 9)
    assert torch.equal(later.flatten(), last)
    time, own = state % 100, 10 * (state // 100)
    for i in range(27):
        done = sum(float(own[i]) + t for t in range(int(time[i]), int(last[i] % 100)))
        assert float(did[i, 0]) == pytest.approx(done / 4)
    gone, done = bank.gone(1)
    assert torch.equal(gone.flatten(), last - state) and torch.equal(done, did)


def two_levels() -> tuple[Agent, list]:
    """Of a world whose states have a map."""
    model = scattered(world(state=partial(MapState, points=2, each=2)))
    made = agent("mode2", model, ways=True, chart=1, members=1, weights={"goal": 1.0})
    mind = replace(made.mind, stride=2, search=replace(made.mind.search, levels=2))
    torch.manual_seed(1)
    critic = scattered(critic_of(mind, model))
    level2 = scattered(level2_of(mind, model, critic))
    level2.ways.copy_(torch.randn(COUNT, 2))
    return model, mind, Trained(critic, scattered(policy_of(16, True, model, critic)), level2)


def test_an_agent_with_two_levels_is_alone_as_in_a_batch_and_files_hold_it(tmp_path):
    model, mind, trained = two_levels()
    two, seen = Agent(model, mind, trained, "mode2"), pictures(3)
    together = played(two, seen, SEEDS)
    assert two.ahead.calls > 0
    last = two.ahead.arrives & torch.tensor([len(way) == 1 for way in two.ahead.ways])
    assert two.explain().on_way.tolist() == (~last).tolist()
    one = played(two, [{n: v[1:2] for n, v in step.items()} for step in seen], SEEDS[1:2])
    assert abs(one[:, 0] - together[:, 1]).max() < 1e-4
    flat = replace(mind, search=replace(mind.search, levels=1))
    other = played(Agent(model, flat, trained, "mode2"), seen, SEEDS)
    assert abs(other - together).max() > 1e-3
    alone = replace(mind, search=replace(mind.search, levels=2, critic=False))
    above = Agent(model, alone, trained, "mode2")
    played(above, seen, SEEDS)
    assert above.ahead.calls > 0 and "critic" not in above.explain().terms
    assert "critic" in two.explain().terms
    save_agent(mind, trained, tmp_path / "agent")
    told, kept = read_agent(tmp_path / "agent", model)
    assert told == mind and kept.level2.chart is kept.critic
    for name, value in trained.level2.state_dict().items():
        assert torch.equal(value, kept.level2.state_dict()[name])


def test_no_word_of_the_critic_reaches_its_routes():
    """The chart's costs may be anything: where places lie on it is all that is asked."""
    model, mind, trained = two_levels()
    ahead = Ahead(trained.level2, 60)
    state, goal = torch.randn(2, 3, 1, model.state.width)
    before = ahead.route(state, goal)
    for part in (trained.critic.look, trained.critic.onward, trained.critic.entry):
        for weight in part.parameters():
            weight.normal_()
    after = ahead.route(state, goal)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_two_levels_are_refused_where_there_is_one():
    made = agent("mode2", ways=True, members=0, weights={"goal": 1.0})
    mind = replace(made.mind, search=replace(made.mind.search, levels=2))
    with pytest.raises(UserError, match="search.levels 2 needs an agent that was fitted with"):
        Agent(made.world, mind, made.trained, "mode2")


def test_a_learner_knows_where_actions_lead_before_level_2_learns_what_stops_them():
    """It was told after the training alone: every stride that went anywhere counted as stopped."""
    model = world(state=partial(MapState, points=2, each=2))
    source, bank = torch.Generator().manual_seed(0), Bank(stride=STRIDE)
    for number in range(12):
        did = 2 * torch.rand(30, 2, generator=source) - 1
        did = (did[:6].repeat_interleave(5, 0) + 0.1 * did).clamp(-1, 1)
        places = torch.cat((torch.zeros(1, 2), 0.1 * did.cumsum(0))).repeat(1, 2)
        rest = torch.randn(model.state.width - 4, generator=source).expand(31, -1)
        bank.add(torch.cat((places, rest), 1)[:, None], did, torch.zeros(30), scene=number)
    intrinsic = IntrinsicCost(1.0, model.state.aim, model.read)
    learner = AgentLearner(model, intrinsic, {"goal": 1.0}, True, judge="chart", stride=STRIDE)
    learner.measure(bank)
    gone, did = bank.gone(4)
    chart, nowhere = learner.critic, torch.zeros(1, 4)
    went = chart.spots(gone) - chart.spots(nowhere)
    assert float(went.norm(dim=1).median()) > HELD
    assert float((went - learner.level2.meant(did)).norm(dim=1).max()) < HELD / 4
