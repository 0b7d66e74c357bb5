"""A critic of ways is a quasimetric, finds the shortest ways of memory, and knows a leap."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from jepa_video.agent.agent import Agent
from jepa_video.agent.bank import Bank
from jepa_video.agent.configurator import PATIENCE, PERSISTENCE, Doubtful, doubts
from jepa_video.agent.cost import IntrinsicCost, WorldCost
from jepa_video.agent.learner import AgentLearner
from jepa_video.agent.mind import Mind, Trained, critic_of, fresh, policy_of, save_agent
from jepa_video.agent.reach import LEAP, SLACK, Reach, between
from jepa_video.agent.task import Situation, Task
from jepa_video.agent.world_files import save_world
from jepa_video.errors import UserError
from jepa_video.models.state import MapState
from tests.agent.test_agent import scattered
from tests.agent.tiny_agent import ENCODER, moving_world, on_trainer, world

PLACES = 12  # around a ring that is cut: from 0 to the last it is the whole way round


def ring(steps: Tensor) -> Tensor:
    """Places `N` on a circle, as states `N 1 2`: the first and the last lie close together."""
    angle = steps * 2 * torch.pi / PLACES
    return torch.stack((angle.cos(), angle.sin()), -1)[:, None]


@pytest.fixture(scope="module")
def learned() -> Reach:
    """Steps go one place on or back, and none from the last place to the first."""
    torch.manual_seed(0)
    reach = Reach(2, 2, hidden=64, groups=2, landmarks=16)
    optimizer = torch.optim.AdamW(reach.parameters(), 2e-3)
    draw = torch.Generator().manual_seed(0)
    for step in range(500):
        at = torch.randint(PLACES, (128,), generator=draw)
        way = torch.randint(-1, 2, (128,), generator=draw)
        goal = torch.randint(PLACES, (128,), generator=draw)
        then = (at + way).clamp(0, PLACES - 1)
        optimizer.zero_grad()
        reach.loss(ring(at), ring(then), ring(goal), step / 500).backward()
        optimizer.step()
    return reach.requires_grad_(False)


def test_the_way_between_close_places_is_as_long_as_the_way_around(learned):
    pairs = torch.cartesian_prod(torch.arange(PLACES), torch.arange(PLACES))
    told = learned.steps(ring(pairs[:, 0]), ring(pairs[:, 1])).mean(0)
    true = (pairs[:, 0] - pairs[:, 1]).abs().float()
    assert (told - true).abs().max() < 0.15 * PLACES
    ends = learned.steps(ring(torch.tensor([0])), ring(torch.tensor([PLACES - 1]))).mean()
    assert ends > 0.9 * (PLACES - 1)


def test_a_step_over_the_cut_is_a_leap_and_one_of_memory_is_none(learned):
    walk = ring(torch.arange(PLACES))
    goal = ring(torch.tensor([4]))
    left, over = learned.foretold(walk[:1], goal, walk[None, None, 1:])
    assert over.max() == 0
    torch.testing.assert_close(left[0, 0], learned(walk[1:], goal.expand(PLACES - 1, -1, -1)))
    jump = ring(torch.tensor([0, PLACES - 1]))[None, None]
    over = learned.foretold(walk[1:2], goal, jump)[1][0, 0]
    assert over[0] == 0 and over[1] > 0.9 * (PLACES - 1) - 1 - SLACK - 0.5


def test_it_is_a_quasimetric_whatever_its_weights_are():
    torch.manual_seed(1)
    reach = Reach(5, 3)
    a, b, c = torch.randn(3, 40, 1, 5)
    b[..., 3:] = c[..., 3:] = a[..., 3:]  # of one scene
    assert reach.steps(a, a).abs().max() == 0
    there, on, whole = reach.steps(a, b), reach.steps(b, c), reach.steps(a, c)
    assert (whole <= there + on + 1e-6).all() and (there >= 0).all()
    assert not torch.allclose(there, reach.steps(b, a))


def test_a_goal_is_where_it_is_in_the_scene_of_the_state():
    reach = Reach(5, 3, discount=0.9, weight=2.0)
    states, goal = torch.randn(2, 6, 1, 5)
    aimed = torch.cat((goal[..., :3], states[..., 3:]), -1)
    assert torch.equal(reach.scene(aimed), reach.scene(states))
    steps = between(*(reach.place(one, reach.scene(states)) for one in (states, aimed)))
    expected = 2.0 * sum(0.9**k for k in range(400))  # so far that it never comes there
    torch.testing.assert_close(reach.each(states, goal), 20.0 * (1 - 0.9**steps))
    assert expected == pytest.approx(20.0)


def test_traces_of_the_agent_in_what_is_told_of_a_scene_change_nothing_that_is_learned():
    reach, (s, after, goal, other) = Reach(5, 3), torch.randn(4, 6, 1, 5)
    traced = (torch.cat((one[..., :3], other[..., 3:]), -1) for one in (s, after))
    assert torch.equal(reach.loss(*traced, goal, 0.5), reach.loss(s, after, goal, 0.5))
    assert not torch.equal(reach.loss(s, after, other, 0.5), reach.loss(s, after, goal, 0.5))


def test_the_loss_is_its_formula():
    torch.manual_seed(2)
    reach, (s, after, goal) = Reach(4, 4, discount=0.9), torch.randn(3, 30, 1, 4)
    apart = reach.steps(s, goal).mean(0)  # all is where the agent is: there is no scene
    long = (reach.steps(s, after).mean(0) - 1).clamp_min(0).square().mean()
    pushed = torch.log1p(torch.exp(0.1 * (12 - apart))).mean() / 0.1
    for share, weight in ((0.0, 5.0), (0.45, 5 * 60**0.5), (0.95, 300.0)):
        told = reach.loss(s, after, goal, share)
        torch.testing.assert_close(told, pushed / weight + long)


def test_a_plan_that_leaps_costs_what_it_is_too_long_by():
    torch.manual_seed(3)
    model = moving_world()
    reach = Reach(2, 2)
    reach.leave.down.weight.data.mul_(50)  # ways that are long
    cost = WorldCost(model, IntrinsicCost(1.0, 2, model.read), reach, 0.9)
    now, task = torch.randn(3, 1, 2), Task(torch.randn(3, 1, 2), {"goal": 1.0})
    actions = torch.randn(3, 4, 5, 2)
    situation = Situation(now[:, None], actions[:, 0, :0])
    parts = cost.parts(situation, cost.imagined(situation, actions), actions, task)
    paths = now[:, None] + torch.cat((torch.zeros(3, 4, 1, 2), actions.cumsum(2)), 2)
    length = reach.steps(
        paths[:, :, :-1].reshape(-1, 1, 2), paths[:, :, 1:].reshape(-1, 1, 2)
    ).mean(0)
    over = (length - 1 - SLACK).clamp_min(0).view(3, 4, 5).sum(-1)
    torch.testing.assert_close(parts["leap"], LEAP * over)
    assert parts["leap"].max() > 0
    torch.testing.assert_close(cost(situation, actions, task), sum(parts.values()))
    # What it foretells is the cost of the goal, which counts as much as the goal does.
    future = cost.imagined(situation, actions)
    for weight in (0.0, 2.0):
        other = Task(task.goal, {"goal": weight, "effort": 1.0})
        told = cost.parts(situation, future, actions, other)
        assert set(told) == {"effort", *(["goal", "critic", "leap"] if weight else [])}
        for name in set(told) - {"effort"}:
            torch.testing.assert_close(told[name], weight * parts[name])


@pytest.mark.parametrize("source", ["plans", "critic", "data"])
def test_first_the_critic_learns_alone_then_the_policy_too(source):
    model = moving_world(action_size=3)
    learner = AgentLearner(
        model, IntrinsicCost(0.5, 3, model.read), {"goal": 1.0}, True, source=source, hidden=16,
        correct=0.2,
    )  # fmt: skip
    state, goal = torch.randn(2, 20, 1, 3).unbind(0)
    actions = torch.rand(20, 3) * 2 - 1
    given = {"state": state, "goal": goal, "next": state + actions[:, None], "action": actions}
    given["ahead"] = torch.full((20,), 4)
    for step, acts in ((2, False), (5, False), (6, True), (9, True)):  # of 10
        on_trainer(learner, step).zero_grad()
        learner.training_step(given, 0)["loss"].backward()
        assert all(p.grad is not None for p in learner.critic.parameters())
        moved = any(p.grad is not None and p.grad.any() for p in learner.policy.parameters())
        assert moved == acts


def test_other_costs_than_the_goal_have_a_critic_of_values():
    model = moving_world(action_size=2)
    intrinsic = IntrinsicCost(0.5, 2, model.read)
    for weights, goal in (({"goal": 1.0, "effort": 0.1}, True), ({"effort": 1.0}, False)):
        learner = AgentLearner(model, intrinsic, weights, goal, hidden=16)
        assert not learner.ways and not isinstance(learner.critic, Reach)
        with pytest.raises(UserError, match="takes the cost goal alone"):
            AgentLearner(model, intrinsic, weights, goal, judge="ways")


def test_an_agent_with_ways_is_loaded_as_it_was_saved(tmp_path):
    model = scattered(world())
    width = model.state.width
    mind = Mind(1.25, {"goal": 2.0}, True, 0.9, hidden=16, members=2, ways=True)
    reach, policy = scattered(critic_of(mind, model)), policy_of(16, True, model)
    assert isinstance(reach, Reach) and reach.scene(torch.zeros(1, 1, width)).shape == (1, 24)
    save_world(model, {"encoder": ENCODER}, tmp_path / "world")
    save_agent(mind, Trained(reach, policy), tmp_path / "agent")
    found = Agent.load(tmp_path).critic
    states, goal = torch.randn(2, 4, 1, width)
    assert isinstance(found, Reach)
    assert torch.equal(found.each(states, goal), reach.each(states, goal))


def test_members_are_the_charts_that_can_disagree():
    """They were read and not used: a chart had two of its own, whatever was asked for."""
    model = world(state=MapState)
    for members in (1, 3):
        mind = Mind(1.25, {"goal": 1.0}, True, members=members, ways=True, chart=2)
        made = scattered(critic_of(mind, model))
        assert made.groups == members and doubts(made) == (members > 1)
        states = torch.randn(2, 1, model.state.width)
        assert made.steps(states, states.flip(0)).shape == (members, 2)


def test_neighbours_of_a_memory_are_a_fifth_of_a_token_apart_whatever_the_cells_are():
    model = world(state=MapState)
    intrinsic = IntrinsicCost(1.0, model.state.aim, model.read)
    for finer in (1, 2):
        bank = Bank()
        for number in range(3):
            states = torch.randn(12, 1, model.state.width)
            bank.add(states, torch.rand(11, 2) * 2 - 1, torch.zeros(11), scene=number)
        learner = AgentLearner(model, intrinsic, {"goal": 1.0}, True, judge="chart", finer=finer)
        learner.measure(bank)
        assert bank.beside == pytest.approx(0.2 * finer)  # in cells


def test_a_chart_that_was_saved_with_two_groups_loads_whatever_members_said(tmp_path):
    model = scattered(world(state=MapState))
    mind = Mind(1.25, {"goal": 1.0}, True, hidden=16, members=2, ways=True, chart=1)
    made = fresh(mind, model)
    save_world(model, {"encoder": ENCODER}, tmp_path / "world")
    save_agent(replace(mind, members=4), made, tmp_path / "agent")
    assert Agent.load(tmp_path).critic.groups == 2 and Agent.load(tmp_path).mind == mind


def test_auto_plans_for_a_while_where_the_agent_does_not_get_on():
    critic = Reach(2, 2, 8)
    critic.steps = lambda states, goal: states[:, 0, :1].T.expand(4, -1)  # its first number
    one = Doubtful(critic, 1e9)  # no doubt is as large
    task = Task(torch.zeros(3, 1, 2))
    for _ in range(2):  # the second time everything begins anew
        one.begin([1, 2, 3])
        seen = []
        for time in range(16):
            # One gets on by a step at each decision, one by a quarter, one stands still at first.
            left = torch.tensor([30.0 - time, 30.0 - time / 4, 30.0 - max(time - 6, 0)])
            seen.append(one.configure(left.view(3, 1, 1).expand(3, 1, 2), task).plans)
        on, slow, later = torch.stack(seen).T.tolist()
        assert not any(on)
        assert slow == [time >= PATIENCE for time in range(16)]
        assert later == [PATIENCE <= time < PATIENCE + PERSISTENCE for time in range(16)]
    # Where the goal becomes another one, what was left of the way to the last tells nothing.
    one.begin([1, 2, 3])
    seen = []
    for time in range(12):
        goal = torch.full((3, 1, 2), float(time // 3))
        left = torch.tensor([10.0 - time % 3, 10.0 + time, 10.0]).view(3, 1, 1).expand(3, 1, 2)
        seen.append(one.configure(left, Task(goal)).plans)
    assert not torch.stack(seen).any()
    patient, state = Doubtful(critic, 1e9, patient=True), torch.full((3, 1, 2), 30.0)
    patient.begin([1, 2, 3])
    for _ in range(16):
        assert not patient.configure(state, task).plans.any()
