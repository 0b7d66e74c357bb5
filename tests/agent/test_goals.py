"""Claims of goals: what needs none goes on without, and one may be told by numbers alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from jepa_video.agent.actor import Search
from jepa_video.agent.agent import Agent
from jepa_video.agent.cost import IntrinsicCost
from jepa_video.agent.mind import Mind, fresh, save_agent
from jepa_video.agent.reach import Ways
from jepa_video.agent.task import Task, Zone
from jepa_video.agent.world_files import save_world
from jepa_video.envs.base import Array
from jepa_video.errors import UserError
from jepa_video.training.world_model import WorldModel
from tests.agent.test_agent import SEARCH, SEEDS, agent, pictures, played
from tests.agent.tiny_agent import ENCODER, moving_world, world

BOX = (Zone((0.0, 0.0), (1.0, 1.0)),)
BLIND = [{"pixels": step["pixels"]} for step in pictures(3)]
SEEKING = Search(horizon=6, samples=64, iterations=3, elites=8)
GOAL = np.array([[3.0, -2.0], [-4.0, 1.0]])


@pytest.mark.parametrize(
    ("weights", "more"),
    [
        ({"effort": 1.0}, {}),
        ({"zone": 1.0}, {"zones": BOX}),
        ({"reward": 1.0, "gap.x.y": 1.0}, {}),
    ],
)
@pytest.mark.parametrize("mode", ["mode2", "auto"])
@pytest.mark.parametrize("ways", [False, True])
def test_a_cost_that_needs_no_goal_is_followed_without_one(ways, mode, weights, more, tmp_path):
    """By an agent whose critic and policy were made for goals, and know nothing of this cost."""
    model = world()
    save_world(model, {"encoder": ENCODER}, tmp_path / "world")
    mind = Mind(1.0, {"goal": 1.0}, search=SEARCH, hidden=16, members=2, ways=ways)
    save_agent(mind, fresh(mind, model), tmp_path / "agent")
    one = Agent.load(tmp_path, None, mode, weights=weights, search={"arrive": ways}, **more)
    assert isinstance(one.critic, Ways) == ways and one.policy is not None and one.policy.goal
    done = played(one, BLIND, SEEDS)
    assert done.shape == (5, 3, 2) and np.isfinite(done).all()
    told = one.explain()
    assert set(told.terms) == set(weights) and told.sub_goal is None
    # What is shown, and asked for by nothing, is still read, as the policy proposes by it.
    assert np.isfinite(played(one, pictures(3), SEEDS)).all() and one.explain().sub_goal is not None


@pytest.mark.parametrize(
    ("mode", "weights"),
    [
        ("mode1", {"effort": 1.0}),  # the policy reacts by the goal
        ("auto", {"effort": 1.0}),
        ("mode2", {"effort": 1.0}),  # and the critic says what is left by it
        ("mode2", {"effort": 1.0, "goal": 1.0}),
        ("mode2", {"distance": 1.0}),
    ],
)
def test_what_needs_the_picture_of_a_goal_says_so(mode, weights):
    one = agent(mode, weights=weights)
    said = "made for goals, and the environment shows none"
    with pytest.raises(UserError, match=f"{said}$"):
        one.act(BLIND[0])
    with pytest.raises(UserError, match=rf"{said}: by numbers go plans for the costs state\.NAME"):
        one.act(BLIND[0] | {"goal_state": np.zeros((3, 2))})  # as agent eval --goals state
    alone = agent("mode2", critic=False, weights={"effort": 1.0})
    assert alone.act(BLIND[0]).shape == (3, 2)


def test_what_needs_numbers_of_a_goal_says_so():
    for goal in (True, False):  # whatever the agent was made for
        one = agent("mode2", critic=False, goal=goal, weights={"effort": 1.0, "state.y": 1.0})
        with pytest.raises(UserError, match=r"the cost state.y needs a goal: .* as goal_state"):
            one.act(BLIND[0])


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ([[0.0, 0.0]] * 3, "not list"),
        (np.zeros(2), r"not float64 \(2,\)"),
        (np.zeros((3, 3)), r"not float64 \(3, 3\)"),
        (np.zeros((1, 2)), r"not float64 \(1, 2\)"),
        (np.full((3, 2), np.inf), "not float64"),
        (np.full((3, 2), 1e39), "not float64"),  # which is infinite in float32
        (np.full((3, 2), "a"), "not <U1"),
    ],
)
def test_numbers_that_are_none_of_a_goal_are_refused(told, said):
    one = agent("mode2", critic=False, weights={"state.x": 1.0})
    with pytest.raises(UserError, match=rf"goal_state is an array \(3, 2\) of .*{said}"):
        one.act(BLIND[0] | {"goal_state": told})


class Placed:
    """An agent in a world whose states are places, all of which it knows exactly."""

    def __init__(self, weights: dict[str, float], search: Search = SEEKING, **more) -> None:
        model = exact()
        mind = Mind(0.5, weights, search=search, norm=1.0, **more)
        self.agent = Agent(model, mind, mode="mode2")
        self.agent.perception.see = lambda pixels, own=None: self.place.clone()
        self.place = torch.zeros(2, 1, 2)

    def ends(self, told: Array, steps: int = 12) -> Array:
        """Where it is after so many steps, `B 2`."""
        self.agent.reset([1, 2])
        for _ in range(steps):
            show = {"pixels": np.zeros((2, 64, 64, 3), np.uint8), "goal_state": told}
            self.place = self.place + torch.from_numpy(self.agent.act(show))[:, None]
        return self.place[:, 0].numpy()


def exact() -> WorldModel:
    """A moving world whose numbers of the environment's state are its own."""
    model = moving_world()
    model.readout.maps["state"].weight.copy_(torch.eye(2))
    model.readout.maps["state"].bias.zero_()
    return model


@pytest.mark.parametrize("goal", [True, False])
def test_a_plan_goes_to_the_state_that_was_told(goal):
    one = Placed({"state.x": 1.0, "state.y": 1.0}, goal=goal)
    np.testing.assert_allclose(one.ends(GOAL), GOAL, atol=0.2)
    told = one.agent.explain()
    assert set(told.terms) == {"state.x", "state.y"}
    np.testing.assert_array_equal(told.sub_goal, GOAL)
    assert np.abs(told.imagined[:, -1] - GOAL).max() < 0.5


@pytest.mark.parametrize("planner", ["cem", "gradient"])
def test_a_number_that_does_not_matter_costs_nothing(planner):
    search = replace(SEEKING, planner=planner, step_size=0.3)
    one = Placed({"state.x": 1.0, "state.y": 1.0, "effort": 0.01}, search)
    told = GOAL.copy()
    told[0, 1] = told[1, 0] = np.nan
    ends = one.ends(told)
    assert abs(ends[0, 0] - 3) < 0.3 and abs(ends[1, 1] - 1) < 0.3
    assert abs(ends[0, 1]) < 1 and abs(ends[1, 0]) < 1
    terms = one.agent.explain().terms
    assert terms["state.y"][0] == terms["state.x"][1] == 0


def test_numbers_that_are_told_count_and_not_those_of_the_picture():
    cost = IntrinsicCost(1.0, 2, exact().read, ("x", "y"))
    goal, told = torch.tensor([[[5.0, 6.0]], [[7.0, 8.0]]]), torch.from_numpy(GOAL).float()
    states, weights = torch.zeros(2, 4, 3, 1, 2), {"state.x": 2.0}
    both = cost.terms(states, torch.zeros(2, 4, 3, 2), Task(goal, weights, (), told))["state.x"]
    assert torch.equal(both[:, 0, 0], torch.tensor([6.0, 8.0])) and both.shape == (2, 4, 3)
    seen = cost.terms(states, torch.zeros(2, 4, 3, 2), Task(goal, weights))["state.x"]
    assert torch.equal(seen[:, 0, 0], torch.tensor([10.0, 14.0]))


def test_a_task_of_some_environments_is_theirs():
    whole = Task(torch.randn(3, 1, 2), {"state.x": 1.0}, BOX, torch.randn(3, 2))
    some = whole.rows(torch.tensor([2, 0]))
    assert torch.equal(some.goal, whole.goal[[2, 0]])
    assert torch.equal(some.goal_state, whole.goal_state[[2, 0]])
    assert (some.weights, some.zones) == (whole.weights, whole.zones)
    assert Task(None).rows(torch.tensor([1])) == Task(None)
