"""Claims of the cost: immutable, its terms are their formulas, a plan costs what a loop adds up."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from jepa_video.agent.cost import Critic, IntrinsicCost, WorldCost, inside, refuse_cost
from jepa_video.agent.reach import LEAP, Ways
from jepa_video.agent.task import Situation, Task, Zone
from jepa_video.errors import UserError
from tests.agent.tiny_agent import moving_world

REACH = 0.5


def read(states: Tensor, name: str) -> Tensor:
    """The state is where it is, and its sum is the reward."""
    flat = states.flatten(-2)
    return flat if name == "state" else flat.sum(-1, keepdim=True)


@pytest.fixture
def cost() -> IntrinsicCost:
    return IntrinsicCost(REACH, 2, read, ("x", "y"))


def some(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", ["reach", "read", "_goal", "anything"])
def test_no_attribute_can_be_set_or_deleted(cost, name):
    with pytest.raises(AttributeError, match=f"immutable: {name} cannot be set"):
        setattr(cost, name, 2.0)
    with pytest.raises(AttributeError, match=f"immutable: {name} cannot be deleted"):
        delattr(cost, name)
    assert (cost.reach, cost.read) == (REACH, read)
    assert not isinstance(cost, nn.Module) and not hasattr(cost, "__dict__")


def test_each_term_is_its_formula(cost):
    states, actions, goal = some(3, 4, 5, 1, 2), some(3, 4, 5, 2, seed=1), some(3, 1, 2, seed=2)
    zone = Zone((0.0, 0.0), (1.0, 1.0), margin=2.0)
    weights = {"goal": 2.0, "distance": 0.5, "reward": 3.0, "effort": 0.1, "zone": 4.0}
    weights |= {"state.y": 0.7, "gap.y.x": 0.3}
    told = cost.terms(states, actions, Task(goal, weights, (zone,)))
    gap = (states - goal[:, None, None]).square().sum((-2, -1)) / REACH**2
    expected = {
        "goal": 2 * (1 - (-gap / 2).exp()),
        "distance": 0.5 * gap,
        "reward": -3 * states.sum((-2, -1)),
        "effort": 0.1 * actions.square().mean(-1),
        "zone": 4 * inside(states[..., 0, :], zone),
        "state.y": 0.7 * (states - goal[:, None, None])[..., 0, 1].abs(),
        "gap.y.x": 0.3 * (states[..., 0, 1] - states[..., 0, 0]).abs(),
    }
    assert told.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(told[name], value)
    whole = cost(states, actions, Task(goal, weights, (zone,)))
    torch.testing.assert_close(whole, torch.stack(list(expected.values())).sum(0))


def test_at_the_goal_there_is_no_cost_and_far_away_it_is_the_weight(cost):
    goal = some(2, 1, 2)
    states = torch.stack((goal, goal + 100 * REACH), 1)  # B 2 P D
    told = cost(states, torch.zeros(2, 2, 2), Task(goal, {"goal": 3.0}))
    assert told.tolist() == [[0.0, 3.0]] * 2
    near = cost(goal[:, None] + torch.tensor([REACH, 0.0]), torch.zeros(2, 1, 2), Task(goal))
    torch.testing.assert_close(near, torch.full((2, 1), 1 - math.exp(-0.5)))


def test_a_term_that_is_not_named_or_has_no_weight_is_not_computed(cost):
    states, actions = some(3, 1, 2), some(3, 2)
    assert cost.terms(states, actions, Task(None, {"goal": 0.0, "effort": 1.0})).keys() == {
        "effort"
    }
    assert torch.equal(cost(states, actions, Task(None, {})), torch.zeros(3))


def test_what_cannot_be_judged_is_said_in_a_sentence(cost):
    states, actions = some(3, 1, 2), some(3, 2)
    with pytest.raises(UserError, match=r"^there is no cost 'speed'; there are goal, distance"):
        cost(states, actions, Task(None, {"speed": 1.0}))
    with pytest.raises(UserError, match="need a goal; this task has none"):
        cost(states, actions, Task(None, {"distance": 1.0}))
    with pytest.raises(UserError, match="trained for goals; the task has none"):
        Critic(2, 2)(states, None)


def test_a_zone_costs_1_inside_and_nothing_from_the_margin_on():
    zone = Zone((0.0, 0.0), (2.0, 4.0), margin=2.0)
    places = {
        (0.0, 0.0): 1.0, (1.0, 2.0): 1.0, (2.0, 4.0): 1.0, (3.0, 2.0): 0.5, (-1.0, 5.5): 0.25,
        (4.0, 2.0): 0.0, (1.0, -2.0): 0.0, (9.0, 9.0): 0.0,
    }  # fmt: skip
    where = torch.tensor([[*place, 77.0] for place in places])  # what it does not name is free
    assert inside(where, zone).tolist() == list(places.values())
    sharp = inside(torch.tensor([[2.0, 1.0], [2.1, 1.0]]), Zone((0.0, 0.0), (2.0, 4.0), 0.0))
    assert sharp.tolist() == [1.0, 0.0]


@pytest.mark.parametrize(
    ("low", "high", "margin"),
    [((), (), 1), ((1,), (1, 2), 1), ((0, 3), (1, 2), 1), ((0,), (1,), -1), ((0,), (math.nan,), 1)],
)
def test_what_is_no_box_is_refused(low, high, margin):
    with pytest.raises(UserError, match="a zone has as many numbers in low as in high"):
        Zone(low, high, margin)


BOX = (Zone((0.0, 0.0), (1.0, 1.0)),)


@pytest.mark.parametrize(
    ("weights", "zones", "goal", "size", "told"),
    [
        ({"sped": 1.0}, (), True, 2, "there is no cost 'sped'; there are goal, distance"),
        ({"goal": 0.0}, (), True, 2, "no term a weight other than 0"),
        ({"goal": math.nan}, (), True, 2, "the cost goal takes a finite weight, not nan"),
        ({"goal": "1"}, (), True, 2, "the cost goal takes a finite weight, not '1'"),
        ({"goal": None}, (), True, 2, "the cost goal takes a finite weight, not None"),
        ({"goal": -1.0}, (), True, 2, "the cost goal takes a weight of 0 or more, not -1.0"),
        ({"effort": -math.inf}, (), True, 2, "the cost effort takes a finite weight, not -inf"),
        ({"goal": 1.0}, (), False, 2, "the cost goal needs a goal"),
        ({"state.x": 1.0}, (), False, 2, "the cost state.x needs a goal"),
        (
            {"state.z": 1.0},
            (),
            True,
            2,
            "no cost 'state.z'; there are .* curiosity, state.x, state.y, and gap.A.B of two of",
        ),
        ({"gap.x": 1.0}, (), False, 2, "there is no cost 'gap.x'"),
        ({"gap.x.z": 1.0}, (), False, 2, "there is no cost 'gap.x.z'"),
        ({"effort": 1.0, "distance": 1.0}, (), False, 2, "the cost distance needs a goal"),
        ({"zone": 1.0}, (), True, 2, "the cost zone needs boxes"),
        ({"goal": 1.0}, BOX, True, 2, "zones count by the cost zone"),
        ({"goal": 1.0, "zone": 0.0}, BOX, True, 2, "zones count by the cost zone"),
        ({"zone": 1.0}, BOX, True, 1, "a zone of 2 numbers lies in no state of 1 numbers"),
    ],
)
def test_a_cost_that_cannot_be_told_is_refused(weights, zones, goal, size, told):
    with pytest.raises(UserError, match=told):
        refuse_cost(weights, zones, goal, size, ("x", "y"))


def test_a_cost_that_can_be_told_is_taken():
    refuse_cost({"goal": 1.0, "distance": 0.0, "zone": 2.0}, BOX, True, 2)
    refuse_cost({"reward": 1.0, "goal": 0.0}, (), False, 0)
    refuse_cost({"gap.x.y": 1.0}, (), False, 2, ("x", "y"))


def test_zones_add_up(cost):
    zones = (Zone((0.0,), (1.0,), 1.0), Zone((0.5,), (2.0,), 1.0))
    states = torch.tensor([[[0.75, 0.0]], [[2.5, 0.0]]])
    told = cost(states, torch.zeros(2, 1), Task(None, {"zone": 1.0}, zones))
    assert told.tolist() == [2.0, 0.5]


@pytest.mark.parametrize(("final", "with_critic"), [(0.0, True), (1.0, False), (0.0, False)])
def test_a_plan_costs_what_a_loop_over_its_steps_adds_up(final, with_critic):
    world, discount, horizon = moving_world(), 0.9, 4
    torch.manual_seed(1)
    critic = Critic(2, 2, 8) if with_critic else None
    intrinsic = IntrinsicCost(REACH, 2, read)
    known, goal = some(2, 1, 1, 2), some(2, 1, 2, seed=1)
    actions = 0.3 * some(2, 3, horizon, 2, seed=2)
    task = Task(goal, {"goal": 1.0, "effort": 0.2})
    cost = WorldCost(world, intrinsic, critic, discount, final)
    told = cost(Situation(known, known.new_zeros(2, 0, 2)), actions, task)
    for b in range(2):
        for s in range(3):
            state, total, felt = known[b, 0], 0.0, 0.0
            for k in range(horizon):
                state = state + actions[b, s, k]
                here = Task(goal[b : b + 1], task.weights)
                felt = float(intrinsic(state[None], actions[b, s, k][None], here))
                total += discount**k * felt
            # What the last action costs is paid once, whatever the last state weighs.
            total += final * float(intrinsic(state[None], actions[b, s, -1][None] * 0, here))
            if critic is not None:
                total += discount**horizon * float(critic(state[None], goal[b : b + 1]))
            assert float(told[b, s]) == pytest.approx(total, rel=1e-5)


def test_its_parts_are_all_of_a_plans_cost():
    world = moving_world()
    cost = WorldCost(world, IntrinsicCost(REACH, 2, read), Critic(2, 2, 8), 0.9)
    now = Situation(some(2, 1, 1, 2), torch.zeros(2, 0, 2))
    actions, task = some(2, 5, 3, 2, seed=2), Task(some(2, 1, 2), {"goal": 1.0, "effort": 0.5})
    parts = cost.parts(now, cost.imagined(now, actions), actions, task)
    assert list(parts) == ["goal", "effort", "critic"]
    torch.testing.assert_close(torch.stack(list(parts.values())).sum(0), cost(now, actions, task))
    nothing = WorldCost(world, IntrinsicCost(REACH, 2, read))(now, actions, Task(None, {}))
    assert torch.equal(nothing, torch.zeros(2, 5))


class Steady(Ways):
    """Two steps are left of every way, and each step is a leap of one."""

    discount, groups = 0.9, 1

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = weight

    def foretold(self, now, goal, future, stride=1, tried=None):
        over = torch.ones(future.shape[:3])
        return self.cost(2 * over), over


@pytest.mark.parametrize("learned", [1.0, 100.0])
def test_a_leap_costs_as_much_as_the_goal_weighs_whatever_the_critic_learned_with(learned):
    world = moving_world()
    cost = WorldCost(world, IntrinsicCost(REACH, 2, read), Steady(learned), 0.9)
    now, actions = Situation(some(2, 1, 1, 2), torch.zeros(2, 0, 2)), some(2, 5, 3, 2, seed=2)
    future = cost.imagined(now, actions)
    one, many = (
        cost.parts(now, future, actions, Task(some(2, 1, 2), {"goal": weight}))
        for weight in (1.0, 100.0)
    )
    assert torch.equal(one["leap"], torch.full((2, 5), 3 * LEAP))
    for name in ("goal", "critic", "leap"):
        torch.testing.assert_close(100 * one[name], many[name])


def test_the_critic_is_the_mean_of_networks_that_differ():
    torch.manual_seed(0)
    critic = Critic(2, 2, 8, members=3)
    states, goal = some(4, 1, 2), some(4, 1, 2, seed=1)
    each = critic.each(states, goal)
    assert each.shape == (3, 4) and (each.std(0) > 1e-4).all()
    torch.testing.assert_close(critic(states, goal), each.mean(0))


def test_the_critic_sees_states_in_their_own_scale():
    torch.manual_seed(0)
    critic, states, goal = Critic(2, 2, 8), some(4, 1, 2), some(4, 1, 2, seed=1)
    before = critic(states, goal)
    critic.mean.fill_(5.0)
    critic.std.fill_(10.0)
    torch.testing.assert_close(critic(10 * states + 5, 10 * goal + 5), before)
