"""Claims of the agent: alone or in a batch it acts the same, it explains itself, files hold it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium import spaces
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from jepa_video.agent import agent as agents
from jepa_video.agent.actor import Actor, Search, planner_of
from jepa_video.agent.agent import FAR, Agent
from jepa_video.agent.cost import IntrinsicCost, WorldCost
from jepa_video.agent.mind import Mind, Trained, critic_of, fresh, policy_of, save_agent, word_of
from jepa_video.agent.planners import (
    CEM,
    MPPI,
    CategoricalCEM,
    GradientPlanner,
    Plan,
    PolishedPlanner,
)
from jepa_video.agent.task import Situation, Task, Zone
from jepa_video.agent.world_files import load_world, save_world
from jepa_video.agent.worth import Worth
from jepa_video.data.frames import shrink
from jepa_video.envs import make_batch
from jepa_video.errors import UserError
from jepa_video.models.conv import ConvEncoder
from jepa_video.models.dynamics import VectorDynamics
from jepa_video.models.latent import DiscreteLatent
from jepa_video.randomness import generator
from jepa_video.training.world_model import WorldModel
from tests.agent.tiny_agent import ENCODER, facts, moving_world, save_tiny_agent, world

SEARCH = Search(horizon=3, samples=16, iterations=2, elites=4)
SEEDS = [11, 22, 33]


def scattered(module: nn.Module) -> nn.Module:
    """Weights away from the zeros that some begin with, so that actions and states matter."""
    torch.manual_seed(3)
    for weight in module.parameters():
        if weight.ndim > 1:
            nn.init.normal_(weight, std=weight.shape[1] ** -0.5)
    return module.requires_grad_(False)


def agent(mode: str, model: WorldModel | None = None, critic: bool = True, **changes) -> Agent:
    model = scattered(model or world())
    mind = Mind(2.0, {"goal": 1.0, "effort": 0.1}, search=SEARCH, hidden=16, members=2, norm=1.0)
    mind = replace(mind, **changes)
    if not critic:
        return Agent(model, mind, mode=mode)
    parts = critic_of(mind, model), policy_of(16, True, model)
    return Agent(model, mind, Trained(*map(scattered, parts)), mode=mode)


def pictures(count: int, steps: int = 5, seed: int = 0) -> list[dict[str, np.ndarray]]:
    """What `count` environments show."""
    draw = np.random.default_rng(seed)
    goal = draw.integers(0, 256, (count, 64, 64, 3), np.uint8)
    frames = draw.integers(0, 256, (steps, count, 64, 64, 3), np.uint8)
    return [{"pixels": frame, "goal": goal} for frame in frames]


def played(one: Agent, seen: list[dict[str, np.ndarray]], seeds: list[int]) -> np.ndarray:
    one.reset(seeds)
    return np.stack([one.act(observation) for observation in seen])


def of(seen: list[dict[str, np.ndarray]], i: int) -> list[dict[str, np.ndarray]]:
    return [{name: rows[i : i + 1] for name, rows in step.items()} for step in seen]


KINDS = {
    "one state": {},
    "three states": {"dynamics": partial(VectorDynamics, hidden=16, history=3)},
    "a latent": {"latent": partial(DiscreteLatent, count=4, dim=3)},
    "two frames": {"frames": 2},
}


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["mode1", "mode2", "auto"])
def test_actions_do_not_depend_on_the_batch_they_are_in(mode, kind, every):
    one = agent(mode, world(**KINDS[kind]), search=replace(SEARCH, every=every))
    seen = pictures(3)
    if mode == "auto":
        half_in_doubt(one, seen)
    together = played(one, seen, SEEDS)
    assert np.abs(together[0]).max() > 0.01
    for i, seed in enumerate(SEEDS):
        alone = played(one, of(seen, i), [seed])
        np.testing.assert_allclose(alone[:, 0], together[:, i], atol=1e-4)


def half_in_doubt(one: Agent, seen: list[dict[str, np.ndarray]]) -> np.ndarray:
    """Set the threshold to the median of the doubts on the way; the doubts `steps B`."""
    one.configurator.threshold = 1e9
    one.reset(SEEDS[: len(seen[0]["pixels"])])
    doubts = []
    for observation in seen:
        one.act(observation)
        doubts.append(one.explain().doubt)
    lowest = np.sort(np.stack(doubts).flatten())
    middle = len(lowest) // 2
    one.configurator.threshold = float(lowest[middle - 1 : middle + 1].mean())  # of nobody
    return np.stack(doubts)


def test_the_same_seeds_give_the_same_actions_and_others_do_not():
    one, seen = agent("mode2"), pictures(3)
    first = played(one, seen, SEEDS)
    assert np.array_equal(played(one, seen, SEEDS), first)
    assert not np.allclose(played(one, seen, [1, 2, 3]), first)


def test_auto_plans_exactly_where_the_doubt_is_above_the_threshold():
    one, seen = agent("auto"), pictures(3, steps=6)
    doubts = half_in_doubt(one, seen)  # of pictures, which no action changes here
    one.reset(SEEDS)
    calls = 0
    for time, observation in enumerate(seen):
        before = one.calls
        one.act(observation)
        told = one.explain()
        assert np.array_equal(told.doubt, doubts[time])
        plans = told.doubt > one.configurator.threshold
        assert told.mode == ["mode2" if there else "mode1" for there in plans]
        assert one.calls - before == plans.sum()
        calls += int(plans.sum())
    assert 0 < calls < 18


def test_where_auto_reacts_it_does_what_mode_1_does():
    auto, seen = agent("auto"), pictures(3)
    half_in_doubt(auto, seen)
    auto.reset(SEEDS)
    reacts, plans = agent("mode1"), agent("mode2")
    reacts.reset(SEEDS)
    for observation in seen:
        done, reaction = auto.act(observation), reacts.act(observation)
        there = np.array([mode == "mode1" for mode in auto.explain().mode])
        np.testing.assert_allclose(done[there], reaction[there], atol=1e-6)
    plans.reset(SEEDS)
    auto.reset(SEEDS)
    planned, done = plans.act(seen[0]), auto.act(seen[0])
    there = np.array([mode == "mode2" for mode in auto.explain().mode])
    np.testing.assert_allclose(done[there], planned[there], atol=1e-5)


def test_learned_plans_exactly_where_a_plan_is_told_to_be_worth_it():
    model = world()
    mind = Mind(2.0, {"goal": 1.0}, search=SEARCH, hidden=16, members=2, norm=1.0, worth=1e9)
    parts = fresh(mind, model)
    trained = Trained(*map(scattered, parts[:2]), worth=scattered(parts.worth))
    one = Agent(scattered(model), mind, trained, "learned")
    seen = pictures(3, steps=4)
    one.reset(SEEDS)
    told = []
    for observation in seen:
        one.act(observation)
        told.append(one.explain().doubt)
        assert one.explain().mode == ["mode1"] * 3
    assert one.calls == 0 and np.ptp(np.stack(told)) > 0.01
    one.configurator.threshold = float(np.median(np.stack(told)))
    one.reset(SEEDS)
    for observation, worth in zip(seen, told, strict=True):
        one.act(observation)
        plans = worth > one.configurator.threshold
        assert one.explain().mode == ["mode2" if there else "mode1" for there in plans]
    assert 0 < one.calls < 12


def test_worth_is_learned_from_what_was_tried_and_from_nothing_else():
    torch.manual_seed(0)
    worth, state = Worth(2, 2, 16), 4 * torch.rand(256, 1, 2)
    goal = 4 * torch.rand(256, 1, 2)
    saved = (state[:, 0, 0] > 2).float() * 3.0  # a plan saves 3 in one half
    costs = torch.stack((5 + saved, torch.full((256,), 9.0), torch.full((256,), 5.0)), 1)
    costs.requires_grad_(True)
    optimizer = torch.optim.Adam(worth.parameters(), 1e-2)
    for _ in range(200):
        loss = worth.loss(state, goal, costs)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert costs.grad is None
    with torch.no_grad():
        told = worth(state, goal)
    assert (told[saved > 0].exp() - 1).mean().item() == pytest.approx(3.0, abs=0.4)
    assert told[saved == 0].mean().item() < 0.15 and (told >= 0).all()


def test_learned_is_refused_where_nothing_was_learned():
    made = agent("mode2")
    with pytest.raises(UserError, match="has not learned what plans are worth"):
        Agent(made.world, made.mind, made.trained, "learned")


def test_one_plan_serves_for_as_many_decisions_as_was_asked_for():
    one, seen = agent("mode2", search=replace(SEARCH, every=3)), pictures(3, steps=7)
    one.reset(SEEDS)
    calls, wholes = [], []
    for observation in seen:
        one.act(observation)
        calls.append(one.calls)
        wholes.append(one.plan_now.actions)
    assert calls == [3, 3, 3, 6, 6, 6, 9]
    assert torch.equal(wholes[1][:, 0], wholes[0][:, 1])
    assert torch.equal(wholes[2][:, 0], wholes[0][:, 2])


@pytest.mark.parametrize("critic", [True, False])
def test_no_plan_is_made_for_an_episode_that_is_over_and_the_others_get_theirs(critic):
    one, seen = agent("mode2", critic=critic), pictures(3)
    whole = played(one, seen, SEEDS)
    one.reset(SEEDS)
    found = [one.act(observation) for observation in seen[:2]]
    one.rest(np.array([False, True, False]))
    before = one.calls
    found += [one.act(observation) for observation in seen[2:]]
    assert one.calls - before == 2 * len(seen[2:])
    np.testing.assert_allclose(np.stack(found)[:, [0, 2]], whole[:, [0, 2]], atol=1e-4)
    one.reset(SEEDS)
    one.act(seen[0])
    assert one.calls == 3


@pytest.mark.parametrize("mode", ["mode1", "mode2"])
def test_no_action_is_longer_than_the_norm(mode):
    one, seen = agent(mode, norm=0.3), pictures(8, steps=2)
    lengths = np.linalg.norm(played(one, seen, list(range(8))), axis=-1)
    assert lengths.max() < 0.3 + 1e-5 and lengths.max() > 0.25


def test_a_share_of_the_decisions_is_told_and_kept_to():
    one = agent("auto", search=replace(SEARCH, share=0.5), doubt=-1.0)  # it always doubts
    played(one, pictures(3, steps=6), SEEDS)
    assert one.calls == 9 and one.facts["share"] == 0.5


def test_a_plan_that_was_not_followed_is_forgotten():
    one, seen = agent("auto", search=replace(SEARCH, every=3)), pictures(1, steps=4)
    one.reset([1])
    calls = []
    for observation, plans in zip(seen, (True, False, True, True), strict=True):
        one.configurator.threshold = -1.0 if plans else 1e9
        assert np.abs(one.act(observation)).max() > 0
        calls.append(one.calls)
    assert calls == [1, 1, 2, 2]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["mode1", "mode2"])
def test_what_is_explained_begins_now_and_adds_up_to_what_the_planner_was_told(mode, kind):
    one, seen = agent(mode, world(**KINDS[kind])), pictures(3)
    one.reset(SEEDS)
    for observation in seen:
        one.act(observation)
        told = one.explain()
        now = one.world.read(one.known[-1], "state").numpy()
        np.testing.assert_allclose(told.imagined[:, 0], now, atol=1e-5)
        assert told.imagined.shape == (3, SEARCH.horizon + 1, 2)
        assert set(told.terms) == {"goal", "effort", "critic"}
        aimed = one.world.read(one.itinerary.goals[:, -1], "state").numpy()
        np.testing.assert_allclose(told.sub_goal, aimed, atol=1e-5)
        assert told.mode == [mode] * 3
        if mode == "mode2" and not one.world.latent.dim:
            cost = one.plan_now.cost.numpy()
            np.testing.assert_allclose(sum(told.terms.values()), cost, rtol=1e-4)


def test_the_past_is_what_was_done_between_the_states_that_are_known():
    """A history of three states: the world is told these and the two actions between them."""
    one = agent("mode1", world(**KINDS["three states"]))
    seen, done = pictures(2, steps=6), []
    one.reset([1, 2])
    for observation in seen:
        done.append(torch.from_numpy(one.act(observation)))
        _, situation, _ = one._last
        count = min(len(done), 3)
        assert situation.known.shape[1] == count
        between = done[-count:-1]
        expected = torch.stack(between, 1) if between else torch.zeros(2, 0, 2)
        torch.testing.assert_close(situation.past, expected)


@pytest.mark.parametrize("futures", [0, 3])
def test_the_future_that_is_explained_is_one_that_the_plan_was_judged_over(futures, monkeypatch):
    one = agent("mode2", world(**KINDS["a latent"]), search=replace(SEARCH, futures=futures))
    drawn, seen = [], pictures(3)
    real = one.actor.drawn
    monkeypatch.setattr(one.actor, "drawn", lambda *told: drawn.append(real(*told)) or drawn[-1])
    told = []
    explained = agents.explained
    monkeypatch.setattr(agents, "explained", lambda *a: told.append(a[3]) or explained(*a))
    one.reset(SEEDS)
    one.act(seen[0])
    one.explain()
    first = drawn[0][:, :1] if futures else drawn[0].mean(1, keepdim=True)
    torch.testing.assert_close(told[0], first)


def test_before_it_acts_there_is_nothing_to_explain():
    with pytest.raises(UserError, match="has not acted yet"):
        agent("mode1").explain()


def test_a_state_of_two_frames_begins_with_the_first_twice():
    one, seen = agent("mode1", world(frames=2)), pictures(2)
    one.reset([1, 2])
    one.act(seen[0])
    torch.testing.assert_close(one.known[0], one.perception.picture(seen[0]["pixels"]))
    one.act(seen[1])
    video = torch.from_numpy(np.stack([s["pixels"] for s in seen[:2]], 1)).permute(0, 1, 4, 2, 3)
    torch.testing.assert_close(one.known[-1], one.world.encode(video)[:, -1])


@pytest.mark.parametrize("frames", [1, 2])
def test_what_it_feels_is_part_of_its_states_as_it_was_when_they_were_learned(
    frames: int, tmp_path: Path
) -> None:
    model = scattered(world(frames, felt=("y",))).eval()
    model.standardise([30.0, 30.0], [9.0, 7.0])
    save_world(model, {"encoder": of_frames(frames), "felt": ["y"]}, tmp_path / "world")
    (tmp_path / "summary.json").write_text('{"reach": 1.0}')
    env = make_batch("TwoRooms", 2)
    one = Agent.load(tmp_path, env, "mode2", search=SEARCH)
    (observation, told), shown, truth = env.reset(seed=[1, 2]), [], []
    one.reset([1, 2])
    for _ in range(4):
        shown.append(observation["pixels"])
        truth.append(told["state"])
        observation, _, _, _, told = env.step(one.act(observation))
    video = torch.from_numpy(np.stack(shown, 1)).permute(0, 1, 4, 2, 3)
    learned = model.encode(video, torch.from_numpy(np.stack(truth, 1)))
    torch.testing.assert_close(one.known[-1], learned[:, -1])
    assert not torch.allclose(one.known[-1], model.encode(video)[:, -1])
    # Its goal is felt too: it stands still there.
    still = torch.from_numpy(np.stack([observation["goal"]] * frames, 1)).permute(0, 1, 4, 2, 3)
    felt = torch.from_numpy(np.stack([told["goal_state"]] * frames, 1))
    torch.testing.assert_close(one.itinerary.goals[:, -1], model.encode(still, felt)[:, -1])


def of_frames(count: int) -> dict:
    settings = {**ENCODER["init_args"], "frames": count, "tubelet": count}
    return {**ENCODER, "init_args": settings}


def test_a_goal_whose_feeling_nobody_tells_feels_as_memory_does_on_average():
    one, seen = agent("mode1", world(felt=("x",))), pictures(2)[0]
    one.world.standardise([5.0, 0.0], [2.0, 1.0])
    one.reset([1, 2])
    one.act(seen | {"felt": np.zeros((2, 2), np.float32)})
    goal = torch.from_numpy(seen["goal"]).permute(0, 3, 1, 2)[:, None]
    usual = one.world.encode(goal, torch.tensor([[[5.0, 9.0]]] * 2))[:, 0]
    torch.testing.assert_close(one.itinerary.goals[:, -1], usual)


def test_pictures_of_another_size_are_squashed_as_those_of_episodes_are():
    one, seen = agent("mode1"), pictures(2)
    large = [{name: rows.repeat(2, 1)[:, :, :48] for name, rows in step.items()} for step in seen]
    small = [{name: squashed(rows) for name, rows in step.items()} for step in large]
    assert np.array_equal(played(one, large, [1, 2]), played(one, small, [1, 2]))


def squashed(pictures: np.ndarray) -> np.ndarray:
    return shrink(pictures, 64, "squash").permute(0, 2, 3, 1).numpy()


def test_what_it_cannot_feel_is_said():
    one = agent("mode1", world(felt=("x",)))
    with pytest.raises(UserError, match="feels its own state"):
        one.act(pictures(2)[0])
    with pytest.raises(UserError, match="feels its own state"):  # told is another number
        one.act(pictures(2)[0] | {"felt": np.array([[np.nan, 1.0]] * 2, np.float32)})


def test_without_a_picture_of_the_goal_it_says_so():
    with pytest.raises(UserError, match="made for goals, and the environment shows none"):
        agent("mode1").act({"pixels": pictures(1)[0]["pixels"]})


def test_kinds_of_action_are_whole_numbers_from_a_categorical_search():
    told = facts(action_size=3, discrete=True, action_low=(0.0,) * 3, action_high=(1.0,) * 3)
    for mode in ("mode1", "mode2", "auto"):
        one = agent(mode, world(told=told))
        assert isinstance(one.actor.planner, CategoricalCEM)
        done = played(one, pictures(3), SEEDS)
        assert done.dtype == np.int64 and done.shape == (5, 3)
        assert set(done.flatten()) <= {0, 1, 2} and len(set(done.flatten())) > 1
    assert isinstance(agent("mode2").actor.planner, CEM)


def through_a_perfect_world(search: Search, norm: float | None = 1.0) -> tuple[Plan, Tensor]:
    """The plan of an actor in a world that is exact, and how far from the goals it ends."""
    model = moving_world(0.25)
    intrinsic = IntrinsicCost(0.1, model.state.aim, model.read)
    actor = Actor(WorldCost(model, intrinsic, discount=0.97, final=1.0), search, norm=norm)
    start, goal = torch.zeros(2, 1, 1, 2), torch.tensor([[[1.0, 0.0]], [[-0.5, 0.5]]])
    now = Situation(start, torch.zeros(2, 0, 2))
    plan = actor.plan(now, Task(goal, {"distance": 1.0}), None, [generator(i) for i in range(2)])
    arrived = start[:, 0] + 0.25 * plan.actions.sum(1)[:, None]
    return plan, (arrived - goal).norm(dim=-1).flatten()


@pytest.mark.parametrize(
    ("options", "kind", "near"),
    [
        ({}, CEM, 0.1),
        ({"decay": 0.5}, CEM, 0.1),
        ({"planner": "mppi", "temperature": 0.05}, MPPI, 0.2),
        ({"planner": "gradient", "steps": 80, "step_size": 0.05}, GradientPlanner, 0.1),
        ({"planner": "polish", "samples": 32, "iterations": 2, "steps": 40}, PolishedPlanner, 0.05),
    ],
)
def test_a_plan_through_a_perfect_world_goes_to_the_goal_by_every_planner(options, kind, near):
    """States are places and the world is exact: what is planned arrives, and keeps to the norm."""
    search = Search(6, 200, 8, 12, colour=0.0).but(options)
    plan, off = through_a_perfect_world(search)
    assert type(planner_of(search, 2, False, 1.0)) is kind
    assert float(off.max()) < near
    assert (plan.actions.norm(dim=-1) <= 1 + 1e-5).all()


def test_fewer_are_drawn_from_one_iteration_to_the_next():
    plans = [through_a_perfect_world(Search(6, 200, 8, 12, decay=d))[0] for d in (1.0, 0.5)]
    # The draws, six elites and the middle from the second iteration on, the beginning, the end.
    rest = 7 * (6 + 1) + 1 + 1
    drawn = 200 + 100 + 50 + 25 + 4 * 24
    assert [plan.evaluations for plan in plans] == [8 * 200 + rest, drawn + rest]


def test_a_longer_step_takes_a_descent_somewhere_else():
    plans = [
        through_a_perfect_world(Search(6, planner="gradient", steps=3, step_size=size))[0].actions
        for size in (0.02, 0.2)
    ]
    assert (plans[0] - plans[1]).abs().max() > 0.05


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"horizon": 0}, "search.horizon must be 1 or more, not 0"),
        ({"starts": 0}, "search.starts must be 1 or more, not 0"),
        ({"steps": 0}, "search.steps must be 1 or more, not 0"),
        ({"elites": 65}, "65 elites need as many samples or more, got 64"),
        ({"step_size": 0.0}, "search.step_size must be a finite number above 0, not 0.0"),
        ({"step_size": float("nan")}, "search.step_size must be a finite number above 0, not nan"),
        ({"temperature": float("inf")}, "search.temperature must be a finite number above 0"),
        ({"decay": 2.0}, "search.decay must be from 0 to 1, not 2.0"),
        ({"std": -1.0}, "search.std must be from 0.02 to 10, not -1.0"),
        ({"colour": float("nan")}, "search.colour must be finite, not nan"),
        ({"planner": "mpi"}, "search.planner is cem or mppi or gradient or polish, not 'mpi'"),
        ({"stopped": -1.0}, "search.stopped must be from 0 to 1000, not -1.0"),
        ({"risk": "none"}, "search.risk is expected or worst, not 'none'"),
    ],
)
def test_numbers_that_make_no_search_are_refused_at_once(options, said):
    for make in (lambda: Search(**options), lambda: Search().but(options)):
        with pytest.raises(UserError, match=re.escape(said)):
            make()


def test_kinds_of_actions_are_planned_by_cem_alone():
    with pytest.raises(UserError, match="search.planner mppi is of vectors; kinds take cem"):
        planner_of(Search(planner="mppi"), 3, True, None)


@pytest.mark.parametrize("planner", ["cem", "mppi", "gradient", "polish"])
def test_what_is_executed_is_the_clipped_plan_itself(planner):
    """Draws far beyond the limits: who clips only when acting executes what nobody costed."""
    search = SEARCH.but({"planner": planner, "std": 4.0})
    one = agent("mode2", search=search, norm=0.5, weights={"goal": 1.0, "effort": -1.0})
    one.reset(SEEDS)
    for observation in pictures(3):
        done = one.act(observation)
        assert one.plan_now is not None
        assert np.array_equal(done, one.plan_now.actions[:, 0].numpy())
        long = np.linalg.norm(done, axis=1)
        assert (long <= 0.5 + 1e-5).all() and (long > 0.45).all()


def test_the_worst_future_can_be_planned_for_and_is_another_plan_than_the_expected_one():
    plans = {}
    for risk in ("expected", "worst"):
        one = agent("mode2", world(**KINDS["a latent"]), search=SEARCH.but({"risk": risk}))
        plans[risk] = played(one, pictures(3), SEEDS)
        assert one.facts["risk"] == risk and one.facts["futures"] == SEARCH.futures
    assert not np.allclose(plans["expected"], plans["worst"])


@pytest.mark.parametrize("samples", [16, 64])
def test_a_decision_looks_once_however_many_plans_it_judges(samples):
    """One encoding for each observation, one more for the goal, and none for a candidate."""
    one, looks = agent("mode2", search=SEARCH.but({"samples": samples})), []
    one.world.encoder.register_forward_hook(lambda module, given, told: looks.append(len(given[0])))
    played(one, pictures(3, steps=4), SEEDS)
    assert looks == [3] * (4 + 1)


def test_the_budget_of_a_planner_is_told_with_what_it_costed():
    seen = pictures(3)
    for options, names in (
        ({}, {"samples": 16, "iterations": 2, "elites": 4}),
        ({"planner": "gradient", "steps": 5}, {"starts": 4, "steps": 5}),
    ):
        one, counted = agent("mode2", search=SEARCH.but(options)), 0
        asked = one.actor.cost

        def count(state, actions, task, z=None, asked=asked):
            nonlocal counted
            counted += actions.shape[1]
            return asked(state, actions, task, z)

        count.world = asked.world
        one.actor.cost = count
        played(one, seen[:1], SEEDS)
        told = {name: one.facts.get(name) for name in ("samples", "iterations", "elites")}
        assert {**dict.fromkeys(told), **names}.items() <= {**told, **one.facts}.items()
        assert one.facts["sequences"] == counted > 0 and one.facts["horizon"] == 3


# -- files -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    save_tiny_agent(folder)
    return folder


def test_what_is_saved_is_what_is_loaded(tmp_path):
    model = scattered(world())
    mind = Mind(
        1.25, {"goal": 1.0, "zone": 3.0}, True, 0.9, replace(SEARCH, every=2), 16, 3, 0.75,
        (Zone((1.0, 2.0), (3.0, 4.0), 0.5),), 0.8,
    )  # fmt: skip
    critic, policy = critic_of(mind, model), policy_of(16, True, model)
    for part in (critic, policy):
        scattered(part)
        part.mean.normal_()
    save_world(model, {"encoder": ENCODER}, tmp_path / "world")
    save_agent(mind, Trained(critic, policy), tmp_path / "agent")
    loaded = Agent.load(tmp_path, mode="mode2")
    assert loaded.mind == mind and loaded.world.facts == model.facts
    pairs = (loaded.world, model), (loaded.critic, critic), (loaded.policy, policy)
    for found, made in pairs:
        saved = made.state_dict()
        assert found.state_dict().keys() == saved.keys()
        assert all(torch.equal(value, saved[name]) for name, value in found.state_dict().items())
        assert not any(p.requires_grad for p in found.parameters()) and not found.training
    seen = pictures(3)
    expected = Agent(model, mind, Trained(critic, policy), "mode2")
    assert np.array_equal(played(loaded, seen, SEEDS), played(expected, seen, SEEDS))


def test_a_search_of_ones_own_takes_the_place_of_the_runs(run):
    mine = Search(7, 20, 1, 5)
    assert Agent.load(run, search=mine).mind.search == mine
    assert Agent.load(run).mind.search == Search(3, 8, 2, 4)
    assert Agent.load(run, search={"horizon": 6}).mind.search == Search(6, 8, 2, 4)
    assert Agent.load(run, search={"std": 1}).mind.search == Search(3, 8, 2, 4, std=1)


EVERYWHERE = (Zone((-1e9, -1e9), (1e9, 1e9)),)


def test_another_cost_is_followed_without_training(run):
    usual = Agent.load(run, mode="auto")
    told = {"weights": {"goal": 2.0, "zone": 3.0}, "zones": EVERYWHERE}
    other = Agent.load(run, mode="auto", **told)
    for one in (usual, other):
        one.reset([1, 2])
        one.act(pictures(2)[0])
    terms = other.explain().terms
    assert set(terms) == {"goal", "zone", "critic"} == {*usual.explain().terms, "zone"}
    steps = sum(usual.mind.discount**k for k in range(3))
    np.testing.assert_allclose(terms["zone"], 3 * steps, rtol=1e-5)
    # The policy learned to follow the other one, and what its doubts mean is of that too.
    assert other.explain().mode == ["mode2"] * 2
    assert usual.mind.weights == {"goal": 1.0} and usual.configurator.threshold == 0
    with pytest.raises(UserError, match="mode1 acts as it learned to: another cost needs mode2"):
        Agent.load(run, mode="mode1", **told)
    assert Agent.load(run, mode="mode1", weights={"goal": 1.0}).mode == "mode1"  # the same cost


@pytest.mark.parametrize(
    ("weights", "zones", "word"),
    [
        ({"goal": 2.0, "zone": 6.0}, EVERYWHERE, 2.0),  # all that it foretells, twice
        ({"goal": 1.0, "zone": 3.0, "effort": 1.0}, EVERYWHERE, 1.0),
        ({"goal": 1.0}, (), 0.0),  # it foretells zones that cost nothing now
        ({"goal": 1.0, "zone": 3.0}, (Zone((0.0,), (1.0,)),), 0.0),  # and others do
        ({"effort": 1.0}, (), 0.0),
    ],
)
def test_a_critic_of_values_counts_as_far_as_it_foretells_the_cost(weights, zones, word):
    learned = Mind(1.0, {"goal": 1.0, "zone": 3.0, "effort": 0.0}, zones=EVERYWHERE)
    asked = replace(learned, weights=weights, zones=zones)
    assert word_of(learned, asked) == word
    assert word_of(learned, learned) == 1.0


def test_another_cost_leaves_out_a_critic_that_foretells_something_else(run):
    usual = Agent.load(run, mode="mode2", weights={"goal": 3.0})
    other = Agent.load(run, mode="mode2", weights={"effort": 1.0})
    for one in (usual, other):
        one.reset([1, 2])
        one.act(pictures(2)[0])
    assert set(other.explain().terms) == {"effort"} and other.cost.final == 1.0
    first = Agent.load(run, mode="mode2")
    situation, actions = usual._last[1], usual._last[2][:, None]
    future = usual.cost.imagined(situation, actions)
    told, plain = (
        one.cost.parts(situation, future, actions, Task(usual._last[0].task.goal, one.mind.weights))
        for one in (usual, first)
    )
    torch.testing.assert_close(told["critic"], 3 * plain["critic"])


def test_effort_that_costs_makes_plans_shorter(run):
    shows = pictures(3, steps=4)
    lengths = []
    for effort in (0.0, 100.0):
        one = Agent.load(run, mode="mode2", weights={"goal": 1.0, "effort": effort})
        lengths.append(np.abs(played(one, shows, SEEDS)).mean())
    assert lengths[1] < 0.6 * lengths[0]


def test_zones_of_a_run_are_kept_unless_the_cost_has_none(run):
    first = Agent.load(run, weights={"goal": 1.0, "zone": 1.0}, zones=EVERYWHERE).mind
    model = load_world(run)
    assert first.asked({"zone": 2.0}, None, model).zones == EVERYWHERE
    assert first.asked({"goal": 2.0}, None, model).zones == ()
    assert first.asked(None, None, model) is first
    with pytest.raises(UserError, match="zones count by the cost zone"):
        first.asked({"goal": 2.0}, EVERYWHERE, model)


def test_a_world_alone_plans_without_a_critic(tmp_path):
    save_world(scattered(world()), {"encoder": ENCODER}, tmp_path / "world")
    (tmp_path / "summary.json").write_text(json.dumps({"reach": 1.5}))
    env = make_batch("TwoRooms", 1)
    found = Agent.load(tmp_path, env)
    assert (found.critic, found.policy, found.mind.reach) == (None, None, 1.5)
    assert found.mind.search == FAR and found.mind.norm == env.action_norm
    assert found.cost.final == 1.0
    small = Agent.load(tmp_path, search=SEARCH)
    played(small, pictures(2), [1, 2])
    assert set(small.explain().terms) == {"goal"} and small.explain().mode == ["mode2"] * 2
    with pytest.raises(UserError, match="has no policy: mode1 needs a run of agent fit"):
        Agent.load(tmp_path, mode="mode1")


def test_a_world_alone_is_driven_by_rewards_where_no_goal_is_shown(tmp_path):
    save_world(world(), {"encoder": ENCODER}, tmp_path / "world")
    (tmp_path / "summary.json").write_text(json.dumps({"reach": 1.5}))
    env = make_batch("TwoRooms", 2)
    assert Agent.load(tmp_path, env).mind.weights == {"goal": 1.0}
    shown = env.single_observation_space.spaces
    env.single_observation_space = spaces.Dict({"pixels": shown["pixels"]})
    found = Agent.load(tmp_path, env, search=SEARCH)
    assert found.mind.weights == {"reward": 1.0} and not found.mind.goal
    seen = [{"pixels": step["pixels"]} for step in pictures(2)]
    assert played(found, seen, [1, 2]).shape == (5, 2, 2)
    assert set(found.explain().terms) == {"reward"}


def test_a_world_that_was_not_finished_cannot_be_planned_with(tmp_path):
    save_world(world(), {"encoder": ENCODER}, tmp_path / "world")
    with pytest.raises(UserError, match=r"summary.json tells no reach: its run did not finish"):
        Agent.load(tmp_path)


@pytest.mark.parametrize(
    ("id", "changes", "said"),
    [
        ("Rooms", {}, "was trained on TwoRooms and cannot act in Rooms"),
        ("TwoRooms", {"action_size": 3}, "gives actions of 3 numbers; TwoRooms takes 2 numbers"),
        ("TwoRooms", {"discrete": True}, "gives actions of 2 kinds; TwoRooms takes 2 numbers"),
        ("Pendulum", {"env": None}, "gives actions of 2 numbers; Pendulum takes 1 numbers"),
    ],
)
def test_an_environment_that_does_not_fit_is_refused(id, changes, said, tmp_path):
    save_world(world(told=facts(**changes)), {"encoder": ENCODER}, tmp_path / "world")
    with pytest.raises(UserError, match=said):
        Agent.load(tmp_path, make_batch(id, 1))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"env": "TwoRooms"}, "env is a batch of environments, as of make_batch, not 'TwoRooms'"),
        ({"device": "nonsense"}, "there is no device 'nonsense' here"),
        ({"weights": {"goal": "1"}}, "the cost goal takes a finite weight, not '1'"),
        ({"weights": ["goal"]}, "weights are a dict of numbers by the terms' names, not "),
        (
            {"weights": {"zone": 1.0}, "zones": [{"low": [1], "high": [2]}]},
            r"zones are a list of Zone\(low, high, margin\), not \[\{'low'",
        ),
        ({"weights": {"zone": 1.0}, "zones": EVERYWHERE[0]}, "zones are a list of Zone"),
    ],
)
def test_what_an_agent_cannot_be_loaded_with_is_told_in_a_sentence(options, said, run):
    with pytest.raises(UserError, match=said) as error:
        Agent.load(run, mode="mode2", **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("observation", "said"),
    [
        (np.zeros((2, 64, 64, 3), np.uint8), "an observation is a dict with pixels"),
        ({"goal": np.zeros((2, 64, 64, 3), np.uint8)}, "an observation is a dict with pixels"),
        ({"pixels": np.zeros((64, 64, 3), np.uint8)}, r"not uint8 \(64, 64, 3\)"),
        ({"pixels": np.zeros((2, 64, 64, 3))}, r"not float64 \(2, 64, 64, 3\)"),
        ({"pixels": [np.zeros((64, 64, 3), np.uint8)]}, "not list"),
        (
            {"pixels": np.zeros((1, 64, 64, 3), np.uint8), "goal": np.zeros((64, 64, 3), np.uint8)},
            r"goal are a batch of pictures, .*, not uint8 \(64, 64, 3\)",
        ),
        (pictures(0)[0], r"pixels are a batch of pictures, .*, not uint8 \(0, 64, 64, 3\)"),
        (
            {"pixels": pictures(2)[0]["pixels"], "goal": np.zeros((2, 0, 64, 64, 3), np.uint8)},
            r"goal are a batch of pictures, .*, not uint8 \(2, 0, 64, 64, 3\)",
        ),
        (
            {"pixels": pictures(2)[0]["pixels"], "goal": pictures(1)[0]["goal"]},
            "goal is of 1 environments, and pixels are of 2",
        ),
        (
            {"pixels": pictures(2)[0]["pixels"], "goal": pictures(3)[0]["goal"]},
            "goal is of 3 environments, and pixels are of 2",
        ),
        (
            pictures(2)[0] | {"felt": np.zeros((3, 2), np.float32)},
            "felt is of 3 environments, and pixels are of 2",
        ),
    ],
)
def test_what_is_no_observation_is_refused(observation, said):
    with pytest.raises(UserError, match=said):
        agent("mode2").act(observation)


@pytest.mark.parametrize("mode", ["mode1", "mode2", "auto"])
def test_another_number_of_environments_needs_a_reset(mode):
    one, seen = agent(mode), pictures(2)
    one.reset([7])
    with pytest.raises(UserError, match="each of 1 environments, and pixels are of 2: reset"):
        one.act(seen[0])
    for seeds in ([7, 8], []):  # without seeds the first batch says how many there are
        one.reset(seeds)
        one.act(seen[0])
        with pytest.raises(UserError, match="each of 2 environments, and pixels are of 1: reset"):
            one.act(of(seen, 0)[1])
        assert one.act(seen[1]).shape == (2, 2)  # it goes on where it was


def test_a_folder_that_is_no_agent_is_named(tmp_path, run):
    with pytest.raises(UserError, match="^nowhere is not there: expected a run of jepa-video"):
        Agent.load("nowhere")
    for path in (tmp_path, run / "agent"):
        with pytest.raises(UserError, match=f"^{path} is no world model: expected a finished run"):
            Agent.load(path)
    with pytest.raises(UserError, match="mode must be one of mode1, .*, not 'mode3'"):
        Agent.load(run, mode="mode3")


def config(edit):
    """Damage to a JSON file: `edit` changes its entries."""

    def damage(path: Path) -> None:
        entries = json.loads(path.read_text())
        edit(entries)
        path.write_text(json.dumps(entries))

    return damage


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def spoilt(path: Path) -> None:
    """One number of the last tensor is none."""
    weights = load_file(path)
    name = max(name for name, value in weights.items() if value.is_floating_point())
    weights[name].view(-1)[0] = torch.nan
    save_file(weights, path)


DAMAGE = {
    "weights cut off": ("agent/agent.safetensors", cut),
    "weights empty": ("agent/agent.safetensors", lambda path: path.write_bytes(b"")),
    "world's weights cut off": ("world/world.safetensors", cut),
    "config cut off": ("agent/config.json", cut),
    "config a list": ("agent/config.json", lambda path: path.write_text("[1]")),
    "config gone": ("agent/config.json", lambda path: path.unlink()),
    "weights that are none": ("agent/agent.safetensors", spoilt),
    "world's weights that are none": ("world/world.safetensors", spoilt),
    "no search": ("agent/config.json", config(lambda e: e.pop("search"))),
    "a norm of words": ("agent/config.json", config(lambda e: e.update(norm="long"))),
    "a search of words": ("agent/config.json", config(lambda e: e.update(search="far"))),
    "another search": ("agent/config.json", config(lambda e: e["search"].update(depth=3))),
    "a search of halves": ("agent/config.json", config(lambda e: e["search"].update(samples=1.5))),
    "a horizon of words": ("agent/config.json", config(lambda e: e["search"].update(horizon="a"))),
    "no reach": ("agent/config.json", config(lambda e: e.pop("reach"))),
    "another width": ("agent/config.json", config(lambda e: e.update(hidden=8))),
    "negative width": ("agent/config.json", config(lambda e: e.update(hidden=-8))),
    "zones that are none": ("agent/config.json", config(lambda e: e.update(zones=[3]))),
    "world's config cut off": ("world/config.json", cut),
    "no model": ("world/config.json", config(lambda e: e.pop("model"))),
    "an unknown option": ("world/config.json", config(lambda e: e["model"].update(speed=1))),
    "an unknown encoder": (
        "world/config.json",
        config(lambda e: e["model"]["encoder"].update(class_path="os.system")),
    ),
    "another encoder": (
        "world/config.json",
        config(lambda e: e["model"]["encoder"]["init_args"].update(width=16)),
    ),
    "facts with less": ("world/config.json", config(lambda e: e["facts"].pop("action_size"))),
    "facts of words": ("world/config.json", config(lambda e: e["facts"].update(action_size="a"))),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_file_is_told_in_a_sentence(name, tmp_path):
    save_tiny_agent(tmp_path)
    file, damage = DAMAGE[name]
    damage(tmp_path / file)
    with pytest.raises(UserError) as error:
        Agent.load(tmp_path)
    told = str(error.value)
    assert str(tmp_path) in told and "\n" not in told


@pytest.mark.parametrize("key", ["encoder", "state", "dynamics", "latent", "regularizer"])
@pytest.mark.parametrize(
    "named",
    [
        lambda told: {"class_path": "os.mkdir", "init_args": {"path": told}},
        lambda told: {
            "class_path": "jepa_video.agent.agent.json.os.mkdir", "init_args": {"path": told}
        },
        lambda told: {"class_path": "a_module_that_runs.Part"},
        lambda told: "a_module_that_runs.part",
        lambda told: {
            "class_path": "jepa_video.models.conv.ConvEncoder",
            "init_args": {"width": {"class_path": "os.mkdir", "init_args": {"path": told}}},
        },
    ],
)  # fmt: skip
def test_a_file_runs_no_code(key, named, tmp_path, monkeypatch):
    save_tiny_agent(tmp_path)
    made = tmp_path / "made"
    (tmp_path / "a_module_that_runs.py").write_text(f"import os; os.mkdir({str(made)!r})")
    monkeypatch.syspath_prepend(tmp_path)
    config(lambda e: e["model"].update({key: named(str(made))}))(tmp_path / "world/config.json")
    with pytest.raises(
        UserError, match=r"(?i)config.json is refused: it names '[\w.]*(mkdir|part)'"
    ):
        load_world(tmp_path)
    assert not made.exists()


class Mine(ConvEncoder):
    """An encoder of somebody else."""


def test_a_class_of_ones_own_may_be_named_once_it_is_imported(tmp_path):
    save_world(world(), {"encoder": ENCODER | {"class_path": f"{__name__}.Mine"}}, tmp_path)
    assert type(load_world(tmp_path).encoder) is Mine


def test_a_world_model_comes_back_as_it_was(tmp_path):
    model = scattered(world(settle=0.0, piece=None))
    model.standardise([1.0, 2.0], [3.0, 4.0])
    save_world(model, {"encoder": ENCODER, "settle": 0.0}, tmp_path)
    found = load_world(tmp_path)
    assert found.facts == model.facts and found.settle == 0.0
    saved = model.state_dict()
    assert all(torch.equal(value, saved[name]) for name, value in found.state_dict().items())
    assert torch.equal(found.state_mean, torch.tensor([1.0, 2.0]))


def test_loading_draws_nothing_from_the_global_generator(run):
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    Agent.load(run)
    assert torch.equal(torch.random.get_rng_state(), before)
