"""Claims of a memory of the scene: exact, no trails, an agent sees what it learned from."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from jepa_video.agent.agent import Agent
from jepa_video.agent.collect import collect
from jepa_video.agent.encoding import states_of
from jepa_video.agent.mind import save_agent
from jepa_video.agent.perception import Perception
from jepa_video.agent.scene import SceneMemory, completion
from jepa_video.agent.task import Task
from jepa_video.agent.world_files import save_world
from jepa_video.data.episodes import EpisodeSet, Windows
from jepa_video.envs import make_batch
from jepa_video.envs.policies import make_policy
from jepa_video.envs.rollout import play
from jepa_video.envs.unseen import UNSEEN
from jepa_video.errors import UserError
from jepa_video.models.dynamics import TokenDynamics
from jepa_video.models.state import PatchState, VectorState
from tests.agent.test_agent import SEARCH, SEEDS, agent, scattered
from tests.agent.tiny_agent import ENCODER, facts, on_trainer, world

ALL = 64  # patches of a picture
CPU = torch.device("cpu")
ROOMS = {"view": 10.0, "budget": 40}
MIND = {"memory": ALL, "weights": {"goal": 1.0, "effort": 0.1}}
KINDS = {
    "a map": {},
    "two frames": {"frames": 2},
    "a vector": {"state": VectorState},
    "patches": {"state": partial(PatchState, dim=4), "dynamics": partial(TokenDynamics, hidden=12)},
}


def frames(policy: str = "scripted", seeds: tuple[int, ...] = (1, 2, 3), **settings) -> np.ndarray:
    """Frames `T B H W 3` of episodes of Rooms."""
    env = make_batch("Rooms", len(seeds), budget=40, **settings)
    episodes = play(env, make_policy(policy, env), list(seeds))
    return np.stack([one.frames for one in episodes], 1)


def completed(shown: np.ndarray, capacity: int = ALL) -> np.ndarray:
    scene = SceneMemory(capacity)
    return np.stack([scene.complete(torch.from_numpy(one)).numpy() for one in shown])


def unseen(pictures: np.ndarray) -> np.ndarray:
    return (pictures == UNSEEN).all(-1)


# -- pictures --------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"repeat": 2}, {"collision": "bounce"}])
@pytest.mark.parametrize("policy", ["scripted", "random"])
def test_what_was_ever_seen_is_as_if_all_were_seen_and_the_rest_is_unseen(policy, settings):
    """No trail of the dot: where it was, there is the ground again."""
    whole, part = frames(policy, **settings), frames(policy, view=12.0, **settings)
    ever = np.logical_or.accumulate(~unseen(part))
    told = completed(part)
    assert (told[ever] == whole[ever]).all() and (told[~ever] == UNSEEN).all()
    assert ever[-1].sum() > 1.3 * ever[0].sum()  # it did see more in time


def test_where_all_is_seen_nothing_changes_and_nothing_is_recalled():
    scene, whole = SceneMemory(ALL), frames()
    for one in whole:
        assert torch.equal(scene.complete(torch.from_numpy(one)), torch.from_numpy(one))
        assert not scene.recalled.any()


def test_a_small_memory_keeps_the_patches_that_were_seen_last():
    """Of what is not seen now; which they are is counted here frame by frame."""
    part, capacity = frames(seeds=(5,), view=8.0), 14
    scene, held = SceneMemory(capacity), []
    for one in part:
        told = scene.complete(torch.from_numpy(one))[0].numpy()
        there = ~unseen(one[0]).reshape(8, 8, 8, 8).all((1, 3))
        gone = unseen(one[0]) & ~unseen(told)
        recalled = {(int(r), int(c)) for r, c in np.argwhere(gone.reshape(8, 8, 8, 8).any((1, 3)))}
        assert recalled <= {*held, *map(tuple, np.argwhere(there))}
        old = [place for place in held if not there[place]]
        held = [*old, *[(int(r), int(c)) for r, c in np.argwhere(there)]][-capacity:]
        assert int(scene.store.count) == len(held) <= capacity
        assert {tuple(map(int, key)) for key in scene.store.keys[0, scene.store.filled[0]]} == {
            *held
        }
    assert len(held) == capacity


def test_a_batch_is_completed_as_each_alone():
    part = frames(view=9.0)
    together = completed(part, 20)
    for i in range(3):
        assert (completed(part[:, i : i + 1], 20)[:, 0] == together[:, i]).all()


def test_a_new_episode_remembers_nothing_of_the_last():
    scene, part = SceneMemory(ALL), frames(view=9.0)
    for one in part:
        scene.complete(torch.from_numpy(one))
    scene.reset()
    assert torch.equal(scene.complete(torch.from_numpy(part[0])), torch.from_numpy(part[0]))


def test_what_does_not_fit_is_said():
    with pytest.raises(UserError, match="memory must be 0 or more patches, not -1"):
        completion(-1)
    assert completion(0) is None
    with pytest.raises(UserError, match="do not fill a picture of 60 x 64"):
        SceneMemory(4).complete(torch.zeros(1, 60, 64, 3, dtype=torch.uint8))


# -- what is learned from --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("episodes") / "rooms"
    collect("Rooms", "explore", 5, folder, settings=ROOMS)
    return folder


def test_episodes_are_completed_from_their_beginning_and_kept_as_they_were(root):
    plain, told = EpisodeSet(root), EpisodeSet(root, completion=completion(20))
    assert plain.facts.memory == 0 and told.facts.memory == 20
    for i in range(5):
        one, other = plain.episode(i), told.episode(i)
        assert one.scene is None and (one.frames == other.frames).all()
        assert (other.scene == completed(one.frames[:, None].copy(), 20)[:, 0]).all()
        assert (other.scene != other.frames).any()
    full = EpisodeSet(root, completion=completion(ALL))  # on shelves of its own
    dark = [sum(unseen(s.episode(i).scene).sum() for i in range(5)) for s in (full, told)]
    assert dark[0] < dark[1]


def test_a_window_has_what_was_seen_before_it(root):
    told = EpisodeSet(root, completion=completion(ALL))
    windows = Windows(told, 6)
    batch = windows.__getitems__([0, 20, 90])
    assert batch["scene"].shape == batch["video"].shape and "scene" not in Windows(
        EpisodeSet(root), 6
    ).__getitems__([0])
    for i in range(3):
        one = told.episode(told.numbers.index(int(batch["episode"][i])))
        rows = slice(int(batch["start"][i]), int(batch["start"][i]) + 6)
        assert (batch["scene"][i].permute(0, 2, 3, 1).numpy() == one.scene[rows]).all()
        assert (batch["video"][i].permute(0, 2, 3, 1).numpy() == one.frames[rows]).all()


def test_completed_at_their_own_size_before_they_are_made_smaller(root):
    small = EpisodeSet(root, size=32, completion=completion(ALL)).episode(0).scene
    large = EpisodeSet(root, completion=completion(ALL)).episode(0).scene
    exact = torch.from_numpy(large.copy()).permute(0, 3, 1, 2)
    expected = torch.nn.functional.interpolate(exact, (32, 32), mode="bilinear", antialias=True)
    assert (small == expected.permute(0, 2, 3, 1).numpy()).all()


# -- states ----------------------------------------------------------------------------------------


def test_a_map_is_of_the_scene_and_the_vector_beside_it_of_what_is_seen():
    model = scattered(world()).eval()
    video, scene = torch.randint(0, 256, (2, 3, 4, 3, 64, 64), dtype=torch.uint8)
    both, dim = model.encode(video, scene=scene), model.state.dim
    assert both.shape[:3] == (3, 4, 1)
    torch.testing.assert_close(both[..., :dim], model.encode(video)[..., :dim])
    torch.testing.assert_close(both[..., dim:], model.encode(scene)[..., dim:])
    for kind in ("a vector", "patches"):
        model = scattered(world(**KINDS[kind])).eval()
        assert torch.equal(model.encode(video, scene=scene), model.encode(scene))


def test_the_pieces_of_windows_that_are_looked_at_are_those_of_the_scene_too():
    model = on_trainer(world(piece=3))
    video = torch.arange(6, dtype=torch.uint8).view(1, 6, 1, 1, 1).expand(2, 6, 3, 64, 64)
    given = {"video": video, "scene": video + 100, "state": torch.zeros(2, 6, 2)}
    given |= {"action": torch.zeros(2, 5, 2), "reward": torch.zeros(2, 5)}
    looked = model.looked_at(given)
    assert looked["scene"].shape == looked["video"].shape == (2, 3, 3, 64, 64)
    assert torch.equal(looked["scene"], looked["video"] + 100)


@pytest.mark.parametrize("kind", KINDS)
def test_an_agent_sees_what_it_learned_from(kind, root):
    """Its states on the way are those that episodes with the same memory have."""
    told = EpisodeSet(root, completion=completion(30)).episode(2)
    model = scattered(world(**KINDS[kind])).eval()
    k, given = model.encoder.frames, (model, told.frames, told.states, CPU)
    learned, plain = states_of(*given, told.scene), states_of(*given)
    perception = Perception(model, CPU, 30)
    for _ in range(2):  # two episodes
        perception.reset()
        for time, frame in enumerate(told.frames):
            state = perception.see(frame[None].copy())
            if time >= k - 1:
                torch.testing.assert_close(state[0], learned[time - k + 1])
    assert not torch.allclose(learned, plain)


def test_who_stands_at_the_goal_has_its_vector_whatever_is_remembered():
    one, env = agent("mode1", **MIND), make_batch("Rooms", 3, **ROOMS)
    seen, _ = env.reset(seed=SEEDS)
    one.reset(SEEDS)
    aim = one.world.state.aim
    for _ in range(40):
        one.act(seen)
        seen, *_, told = env.step(env.expert())
    env.state[:] = env.goal_state
    there = {"pixels": env.paint(env.state, np.arange(3)), "goal": seen["goal"]}
    one.act(there)
    assert one.explain().recalled.any((1, 2)).all()
    torch.testing.assert_close(one.known[-1][..., :aim], one.itinerary.goals[:, -1][..., :aim])
    assert not torch.allclose(one.known[-1], one.itinerary.goals[:, -1])


# -- the agent -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["a map", "two frames"])
@pytest.mark.parametrize("mode", ["mode1", "mode2"])
def test_with_a_memory_it_acts_alone_as_in_a_batch_and_otherwise_than_without(mode, kind):
    part = frames(view=9.0)[:8]
    goal = part[-1]

    def played(one: Agent, rows: slice, seeds: list[int]) -> np.ndarray:
        one.reset(seeds)
        return np.stack([one.act({"pixels": f[rows], "goal": goal[rows]}) for f in part])

    one = agent(mode, world(**KINDS[kind]), **MIND)
    together = played(one, slice(None), SEEDS)
    for i, seed in enumerate(SEEDS):
        alone = played(one, slice(i, i + 1), [seed])
        np.testing.assert_allclose(alone[:, 0], together[:, i], atol=1e-4)
    without = played(agent(mode, world(**KINDS[kind])), slice(None), SEEDS)
    np.testing.assert_allclose(without[0], together[0], atol=1e-4)  # there is nothing to recall
    assert np.abs(without - together).max() > 1e-3


def test_it_tells_how_much_it_holds_and_what_it_recalled():
    one, part = agent("mode1", **(MIND | {"memory": 20})), frames(view=9.0)
    told = completed(part, 20)
    one.reset(SEEDS)
    for time, frame in enumerate(part):
        one.act({"pixels": frame, "goal": part[-1]})
        found = one.explain()
        assert (found.scene == told[time]).all()
        assert (found.recalled == (told[time] != frame).any(-1)).all()
        assert (found.remembered <= 20).all() and (found.remembered > 0).all()
    assert found.recalled.any() and one.facts["memory"] == 20
    one = agent("mode1")
    one.reset(SEEDS)
    one.act({"pixels": part[0], "goal": part[-1]})
    found = one.explain()
    assert (found.remembered, found.scene, found.recalled) == (None, None, None)
    assert one.moments is None and "memory" not in one.facts


def test_its_moments_are_states_actions_and_what_they_cost():
    one, part = agent("mode1", **MIND, search=replace(SEARCH, tried=6)), frames(view=9.0)[:10]
    one.reset(SEEDS)
    done, costs = [], []
    for frame in part:
        action = torch.from_numpy(one.act({"pixels": frame, "goal": part[-1]}))
        done.append((one.known[-1], action))
        task = Task(one.itinerary.goals[:, -1], one.mind.weights)
        costs.append(one.cost.intrinsic(one.known[-1], action, task))
    assert one.moments.times.sort(1).values.tolist() == [list(range(4, 10))] * 3
    told = one.moments.read(torch.arange(4, 10).expand(3, -1))
    for q, time in enumerate(range(4, 10)):
        assert torch.equal(told.state[:, q], done[time][0])
        assert torch.equal(told.action[:, q], done[time][1])
        torch.testing.assert_close(told.cost[:, q], costs[time])
    one.reset(SEEDS)
    assert one.moments is None


# -- files -----------------------------------------------------------------------------------------


def test_how_much_it_remembers_is_saved_and_can_be_asked_for_otherwise(tmp_path):
    made = agent("mode1", **(MIND | {"memory": 12}))
    save_world(made.world, {"encoder": ENCODER}, tmp_path / "world")
    save_agent(made.mind, made.trained, tmp_path / "agent")
    assert Agent.load(tmp_path).mind.memory == 12
    assert Agent.load(tmp_path).perception.scene.capacity == 12
    assert Agent.load(tmp_path, memory=0).perception.scene is None
    with pytest.raises(UserError, match="memory must be 0 or more patches, not -3"):
        Agent.load(tmp_path, memory=-3)
    config = tmp_path / "agent" / "config.json"
    entries = json.loads(config.read_text())
    for wrong in (-2, "many"):
        config.write_text(json.dumps(entries | {"memory": wrong}))
        with pytest.raises(UserError, match="holds an agent that does not load"):
            Agent.load(tmp_path)
    del entries["memory"]  # of an agent that was made before there was a memory
    config.write_text(json.dumps(entries))
    assert Agent.load(tmp_path).mind.memory == 0


def test_a_world_alone_plans_with_the_memory_that_it_learned_with(tmp_path):
    model = scattered(world(told=facts(memory=9)))
    save_world(model, {"encoder": ENCODER}, tmp_path / "world")
    (tmp_path / "summary.json").write_text(json.dumps({"reach": 1.0}))
    assert Agent.load(tmp_path, search=SEARCH).mind.memory == 9
    assert Agent.load(tmp_path, search=SEARCH, memory=3).mind.memory == 3
