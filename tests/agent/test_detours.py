"""Claims of ways by way of other places: where they begin, where they lead, what they cost."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from jepa_video.agent.actor import Actor, Search
from jepa_video.agent.chart import Chart
from jepa_video.agent.detours import passed, places_over
from jepa_video.agent.planners.base import Plan
from jepa_video.agent.task import Situation, Task
from jepa_video.errors import UserError
from tests.agent.test_agent import agent

AIM, SIDE = 4, 8
WIDTH = AIM + SIDE * SIDE


@pytest.fixture
def chart() -> Chart:
    """Places are two mixtures of four points, in cells."""
    torch.manual_seed(0)
    made = Chart(WIDTH, AIM, (SIDE, SIDE), 2).requires_grad_(False)
    made.where.weight.copy_(torch.tensor([[1.0, 0.5, 0.0, 0.0], [0.0, 0.0, -1.0, 1.0]]))
    made.where.bias.copy_(torch.tensor([0.3, 4.0]))
    made.pace.zero_()
    return made


def at(x: float, y: float, count: int = 1) -> Tensor:
    """States whose agent is there: points 0 and 3 tell it."""
    states = torch.zeros(count, 1, WIDTH)
    states[..., 0], states[..., 3] = x - 0.3, y - 4.0
    return states


def test_places_lie_in_the_middles_of_the_parts_of_the_picture_and_the_scene_is_the_same(chart):
    states = torch.randn(3, 1, WIDTH, generator=torch.Generator().manual_seed(1))
    found = places_over(chart, states, 2)
    assert found.shape == (3, 4, 1, WIDTH)
    told = chart.spots(found[..., 0, :AIM])
    middles = torch.tensor([[2.0, 2.0], [6.0, 2.0], [2.0, 6.0], [6.0, 6.0]])
    assert torch.allclose(told, middles.expand(3, -1, -1), atol=1e-4)
    scene = states[:, None, 0, AIM:].expand(-1, 4, -1)
    assert torch.equal(found[..., 0, AIM:], scene)


def test_a_place_counts_as_passed_from_one_and_a_half_steps_on(chart):
    there = at(4.0, 4.0, 3)
    here = torch.cat((at(4.0, 5.4), at(4.0, 5.6), at(2.9, 4.9)))
    assert passed(chart, here, there).tolist() == [True, False, True]


class Straight:
    """A policy that goes one cell a step to where it is told to, in a world that lets it."""

    goal, guides = True, 8

    def __init__(self, chart: Chart) -> None:
        self.chart = chart

    def on(self, states: Tensor, goal: Tensor, *_: Any) -> Any:
        here, there = (self.chart.spots(s.flatten(1)[:, :AIM]) for s in (states, goal))
        return SimpleNamespace(best=lambda: (there - here).clamp(-1, 1))


def walked(known: Tensor, actions: Tensor, z: Tensor | None, past: Tensor) -> Tensor:
    way, state = [], known[:, -1]
    for action in actions.unbind(1):
        state = state.clone()
        state[:, 0, 0] += action[:, 0]
        state[:, 0, 3] += action[:, 1]
        way.append(state)
    return torch.stack(way, 1)


@pytest.fixture
def actor(chart) -> Actor:
    facts = SimpleNamespace(action_size=2, discrete=False)
    world: Any = SimpleNamespace(facts=facts, imagine=walked, latent=SimpleNamespace(dim=0))
    cost: Any = SimpleNamespace(world=world, critic=chart)
    policy: Any = Straight(chart)
    return Actor(cost, Search(horizon=14, via=2), policy=policy)


def test_the_policy_proposes_the_way_straight_on_first_and_then_by_each_place(actor, chart):
    situation = Situation(at(1.0, 4.0, 2)[:, None], torch.zeros(2, 0, 2))
    guesses = actor._guesses(situation, Task(at(7.0, 4.0, 2)), None)
    assert guesses.shape == (2, 5, 14, 2)
    way = torch.tensor([1.0, 4.0]) + guesses.cumsum(2)
    assert torch.allclose(way[:, :, -1], torch.tensor([7.0, 4.0]).expand(2, 5, 2))
    assert torch.allclose(way[:, 0, :, 1], torch.full((2, 14), 4.0))  # straight on
    corners = torch.tensor([[2.0, 2.0], [6.0, 2.0], [2.0, 6.0], [6.0, 6.0]])
    apart = (way[:, 1:] - corners[:, None]).norm(dim=-1).amin(2)
    assert (apart < 1.5).all()  # each leads by its place
    assert ((way[:, :1] - corners[:, None]).norm(dim=-1).amin(2) > 1.9).all()  # this one by none


def test_later_the_proposals_stand_beside_what_was_planned(actor):
    situation = Situation(at(1.0, 4.0, 2)[:, None], torch.zeros(2, 0, 2))
    task = Task(at(7.0, 4.0, 2))
    before = Plan.proposal(torch.full((2, 3, 14, 2), 0.25)).forgotten(torch.tensor([True, False]))
    begun = actor._proposed(situation, task, before, None)
    guesses = actor._guesses(situation, task, None)
    assert torch.equal(begun.actions[0], guesses[0, 0])  # nothing was planned here
    assert torch.equal(begun.actions[1], before.actions[1])
    for row in range(2):
        for guess in guesses[row]:
            assert (begun.elites[row] == guess).flatten(1).all(1).sum() == 1


class Guided(Straight):
    """One that goes down the chart's slope, and notes how much of it there was."""

    def on(self, states: Tensor, goal: Tensor, tried: Any, kept: Any) -> Any:
        ahead = self.chart.ahead
        slope = self.chart.slope(states, goal, tried, kept)
        return SimpleNamespace(best=lambda: ahead[slope.argmin(1)])


def test_a_way_is_imagined_in_a_scene_that_is_looked_at_once(actor, chart, monkeypatch):
    situation = Situation(at(1.0, 4.0, 2)[:, None], torch.zeros(2, 0, 2))
    task, looks, ground = Task(at(7.0, 4.0, 2)), [0], chart.ground

    def looked(states: Tensor) -> Any:
        looks[0] += len(states)
        return ground(states)

    actor.policy = Guided(chart)
    monkeypatch.setattr(chart, "ground", looked)
    guesses = actor._guesses(situation, task, None)
    once, looks[0] = looks[0], 0
    monkeypatch.setattr("jepa_video.agent.actor.Kept", lambda: None)
    assert torch.equal(guesses, actor._guesses(situation, task, None))
    assert looks[0] == 2 * 5 * 14, "in each of the steps of each of the ways"
    assert once == 2 * 5, "the ground is the same for the place and for the goal after it"


def test_who_has_no_chart_cannot_be_asked():
    with pytest.raises(UserError, match="learn.judge chart"):
        agent("mode2", search=Search(via=3))
    with pytest.raises(UserError, match="leave search.critic true"):
        agent("mode2", search=Search(via=3, critic=False))


def test_with_a_deadline_what_is_at_the_end_of_a_plan_costs_for_ever():
    one = agent("mode2", search=Search(horizon=4, deadline=True), discount=0.9)
    shares = 0.9 ** torch.arange(4.0)
    whole = float(shares.sum()) + one.cost.final
    assert whole == pytest.approx(1 / (1 - 0.9))
    assert agent("mode2", search=Search(horizon=4), discount=0.9).cost.final == 0
