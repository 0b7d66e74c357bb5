"""Claims of what was tried: what was done in vain in a place is not done there again and again."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from jepa_video.agent.actor import OTHERS, Actor, ways_out
from jepa_video.agent.cost import IntrinsicCost, WorldCost
from jepa_video.agent.lessons import ACTION, TEMPERATURE
from jepa_video.agent.memory import Moments
from jepa_video.agent.policy import Reaction, ReactivePolicy
from jepa_video.agent.task import Situation, Task
from jepa_video.agent.tried import AGAIN, Tried
from jepa_video.models.dynamics import VectorDynamics
from tests.agent.test_agent import SEARCH, SEEDS, agent, of, pictures, played
from tests.agent.tiny_agent import moving_world, world

REACH = 0.5


def moments(places: Tensor, actions: Tensor, costs: Tensor, capacity: int = 8) -> Moments:
    """Of `B T D`, `B T A` and `B T`."""
    made = Moments(len(places), capacity, (1, places.shape[2]), actions.shape[2])
    for time in range(places.shape[1]):
        made.write(time, places[:, time, None], actions[:, time], costs[:, time])
    return made


def tried_of(held: Moments, aim: int, reach: float) -> Tried:
    """Of moments whose cost is that of the goal alone."""
    told = held.held()
    return Tried.of(told, told.state.flatten(2)[..., :aim], told.cost, aim, reach)


def test_how_often_is_its_formula():
    torch.manual_seed(0)
    places, actions, costs = torch.randn(2, 3, 2), torch.randn(2, 3, 2), torch.rand(2, 3)
    tried = tried_of(moments(places, actions, costs), 2, REACH)
    asked, does = torch.randn(8, 2), torch.randn(8, 2)
    told = tried.often(asked, does)
    for n in range(8):
        b, total = n // 4, 0.0
        for i in range(3):
            gap = ((asked[n] - places[b, i]) / REACH).square().sum()
            gap = gap + ((does[n] - actions[b, i]) / ACTION).square().sum()
            total += float(costs[b, i]) * math.exp(-float(gap) / TEMPERATURE)
        assert float(told[n]) == pytest.approx(total, rel=1e-4, abs=1e-6)


def test_where_the_agent_was_content_or_memory_is_empty_nothing_speaks_against_anything():
    place, action = torch.zeros(1, 1, 2), torch.ones(1, 1, 2)
    for cost, wanted in ((1.0, 1.0), (0.0, 0.0)):
        tried = tried_of(moments(place, action, torch.full((1, 1), cost)), 2, REACH)
        assert float(tried.often(place[0], action[0])) == pytest.approx(wanted)
    none = tried_of(Moments(1, 8, (1, 2), 2), 2, REACH)
    assert float(none.often(place[0], action[0])) == 0


def test_the_parts_of_a_batch_keep_their_own():
    places, actions = torch.zeros(3, 1, 2), torch.zeros(3, 1, 2)
    tried = tried_of(moments(places, actions, torch.tensor([[0.0], [0.5], [1.0]])), 2, REACH)
    for which in ([0, 1, 2], [2], [2, 0]):
        told = tried.rows(torch.tensor(which)).often(*torch.zeros(2, 2 * len(which), 2))
        wanted = torch.tensor(which).repeat_interleave(2) / 2
        torch.testing.assert_close(told, wanted)


class Rightward(ReactivePolicy):
    """Always wants to go along x, whatever it sees."""

    def __init__(self) -> None:
        super().__init__(2, 2, False, 2, 8)

    def forward(self, states: Tensor, *rest: object) -> Tensor:
        return torch.tensor([[20.0, 0.0, 0.0, 0.0]]).expand(len(states), -1)


def walked(tried: bool, steps: int = 60) -> Tensor:
    """Places of a walk along x to a wall at x = 4, which ends at y = 1.5 on either side."""
    model, goal = moving_world(), torch.tensor([[[60.0, 0.0]]])
    cost = WorldCost(model, IntrinsicCost(REACH, 2, model.read))
    actor, task = Actor(cost, SEARCH, 1.0, Rightward()), Task(goal)
    held, place, walk = Moments(1, 64, (1, 2), 2), torch.zeros(1, 1, 2), []
    for time in range(steps):
        known = tried_of(held, 2, REACH) if tried else None
        action = actor.react(place, task, known)
        held.write(time, place, action, cost.intrinsic(place, action, task))
        after = place + action[:, None]
        shut = place[0, 0, 0] < 4 <= after[0, 0, 0] and after[0, 0, 1].abs() < 1.5
        place = place if shut else after
        walk.append(place[0, 0])
    return torch.stack(walk)


def test_a_reaction_that_led_nowhere_gives_way_to_the_nearest_that_was_not_tried():
    stays, leaves = walked(False), walked(True)
    assert (stays[10:] == stays[10]).all() and stays[-1, 0] < 4  # for ever at the wall
    assert leaves[:, 0].max() > 4  # round it
    assert torch.equal(stays[:3], leaves[:3])  # and the same as long as it gets on


def test_near_is_less_by_the_squared_distance_or_by_the_chance_of_a_kind():
    told = torch.tensor([[0.3, -0.2, 0.0, 0.0]])
    tried = torch.tensor([[[0.3, 0.4], [-1.0, 0.0]]])
    best = torch.tanh(told[:, :2])
    near = Reaction(told, 2, False).near(tried)
    torch.testing.assert_close(near, -(tried - best).square().sum(-1))
    kinds = Reaction(torch.tensor([[0.1, 2.0, -1.0]]), 3, True)
    near = kinds.near(torch.eye(3)[None])
    torch.testing.assert_close(near, torch.tensor([[-1.9, 0.0, -3.0]]))


@pytest.mark.parametrize(("width", "norm"), [(1, None), (2, 1.0), (3, 0.5), (3, None)])
def test_ways_out_lie_on_the_edge_of_the_limits_on_all_sides(width, norm):
    ways = ways_out(width, False, norm)
    assert ways.shape == (OTHERS, width)
    if norm is None:
        assert torch.allclose(ways.abs().amax(1), torch.ones(OTHERS))
    else:
        assert torch.allclose(ways.norm(dim=1), torch.full((OTHERS,), norm))
    assert ways.amin() < 0 < ways.amax() and ways.mean(0).abs().max() < 0.35
    assert torch.equal(ways_out(4, True, None), torch.eye(4))


def test_what_memory_told_stands_when_more_is_written():
    """Who explains a decision asks after the moment was written over the oldest."""
    held = moments(torch.zeros(1, 2, 2), torch.zeros(1, 2, 2), torch.ones(1, 2))
    tried = tried_of(held, 2, REACH)
    before = [part.clone() for part in (tried.place, tried.action, tried.felt)]
    for time in range(7, 99):
        held.write(time, torch.ones(1, 1, 2), torch.ones(1, 2), torch.zeros(1))
    assert all(map(torch.equal, before, (tried.place, tried.action, tried.felt)))


def test_what_was_tried_costs_a_plan_wherever_it_does_it():
    model, discount = moving_world(), 0.9
    cost = WorldCost(model, IntrinsicCost(REACH, 2, model.read), None, discount)
    torch.manual_seed(1)
    actions, task = torch.randn(2, 3, 4, 2), Task(torch.randn(2, 1, 2))
    tried = tried_of(moments(torch.randn(2, 5, 2), torch.randn(2, 5, 2), torch.ones(2, 5)), 2, 6.0)
    begin = Situation(torch.zeros(2, 1, 1, 2), torch.zeros(2, 0, 2))
    more = cost(begin._replace(tried=tried), actions, task) - cost(begin, actions, task)
    wanted = torch.zeros(2, 3)
    for s in range(3):
        place = torch.zeros(2, 2)
        for k in range(4):
            wanted[:, s] += AGAIN * discount**k * tried.often(place, actions[:, s, k])
            place = place + actions[:, s, k]
    torch.testing.assert_close(more, wanted, atol=1e-4, rtol=1e-4)
    assert wanted.max() > 0.1


@pytest.mark.parametrize("kind", ["one state", "three states"])
@pytest.mark.parametrize("mode", ["mode1", "mode2"])
def test_an_agent_minds_it_in_any_batch(mode, kind):
    settings = (
        {} if kind == "one state" else {"dynamics": partial(VectorDynamics, hidden=16, history=3)}
    )
    one = agent(mode, world(**settings), search=replace(SEARCH, tried=3), reach=12.0)
    seen = pictures(3)
    together = played(one, seen, SEEDS)
    assert one.moments.store.count.tolist() == [3, 3, 3] and "tried" in one.explain().terms
    for i, seed in enumerate(SEEDS):
        alone = played(one, of(seen, i), [seed])
        np.testing.assert_allclose(alone[:, 0], together[:, i], atol=1e-4)
    without = agent(mode, world(**settings), reach=12.0)
    first = played(without, seen, SEEDS)
    np.testing.assert_allclose(first[0], together[0], atol=1e-4)  # nothing was tried by then
    assert np.abs(first[1:] - together[1:]).max() > 1e-2 and without.moments is None


@pytest.mark.parametrize("forget", [0, 2])
def test_what_is_longer_ago_than_told_is_forgotten(forget: int):
    """Of tried moments and of lessons alike: a scene may have changed since."""
    search = replace(SEARCH, tried=9, lessons=9, forget=forget)
    one = agent("mode2", moving_world(), search=search, reach=12.0)
    seen = pictures(3)
    steps = len(played(one, seen, SEEDS))
    kept = list(range(steps - 1 - forget if forget else 0, steps))
    assert [sorted(t for t in row if t >= 0) for row in one.moments.times.tolist()] == [kept] * 3
    lessons = one.notebook.store.count
    assert (lessons == forget + 1 if forget else lessons > 3).all()
