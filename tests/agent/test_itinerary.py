"""Claims of sub-goals that are given: one after the other, and of the way that was shown."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from jepa_video.agent.guide import guided, numbered
from jepa_video.agent.itinerary import Itinerary
from jepa_video.agent.trials import choose_tasks, play_trials, replay
from jepa_video.cli import main
from jepa_video.envs import make_batch
from jepa_video.envs.policies import make_policy
from jepa_video.errors import UserError
from tests.agent.test_agent import SEEDS, agent, pictures


def test_the_next_goal_is_aimed_at_once_the_last_one_is_reached_and_never_one_before():
    goals = torch.tensor([[0.0, 5.0, 9.0], [0.0, 5.0, 9.0]])[..., None, None].expand(2, 3, 1, 3)
    way = Itinerary(goals, 2, 1.0)  # the third number says nothing of where it is
    seen = []
    for here in ([3.0, 0.5], [0.5, 4.0], [0.5, 4.8], [9.0, 0.1], [5.2, 8.9], [4.0, 9.0]):
        state = torch.tensor(here)[:, None, None].expand(2, 1, 3).clone()
        state[..., 2] = 100.0
        seen.append(way.aim(state)[:, 0, 0].tolist())
    assert [row[0] for row in seen] == [0.0, 5.0, 5.0, 5.0, 9.0, 9.0]
    assert [row[1] for row in seen] == [5.0, 5.0, 9.0, 9.0, 9.0, 9.0]


def test_an_agent_that_is_shown_a_list_does_as_one_that_is_shown_its_first_picture():
    shows = pictures(3, steps=1)[0]
    other = np.roll(shows["goal"], 1, axis=0)
    alone, listed, last = (agent("mode2") for _ in range(3))
    for one in (alone, listed, last):
        one.reset(SEEDS)
    listing = {**shows, "goal": np.stack((shows["goal"], other), axis=1)}
    with_it = listed.act(listing)
    np.testing.assert_array_equal(with_it, alone.act(shows))
    assert np.abs(with_it - last.act({**shows, "goal": other})).max() > 1e-3
    np.testing.assert_array_equal(listed.explain().sub_goal, alone.explain().sub_goal)
    assert listed.explain().on_way.all() and not alone.explain().on_way.any()


def test_the_pictures_are_those_of_the_scripted_way_whatever_the_batch():
    env = make_batch("Rooms", 4, budget=60)
    tasks = choose_tasks(env, 6, 0)
    found = guided(env, tasks, 2)
    again = guided(make_batch("Rooms", 6, budget=60), tasks, 2)
    np.testing.assert_array_equal(found.via, again.via)
    six = make_batch("Rooms", 6, budget=60)
    trials = play_trials(six, make_policy("scripted", six), tasks).trials
    frames, _ = replay(six, tasks, trials)
    for shown, whole in zip(found.via, frames, strict=True):
        assert len(shown) == 2 and len(whole) > 4
        third = (len(whole) - 1) / 3
        np.testing.assert_array_equal(shown[0], whole[round(third)])
        np.testing.assert_array_equal(shown[1], whole[round(2 * third)])
    first, _ = found.chosen([5, 0]).begin(make_batch("Rooms", 2, budget=60))
    np.testing.assert_array_equal(first["goal"][:, :2], found.via[[5, 0]])
    plain, _ = tasks.chosen([5, 0]).begin(make_batch("Rooms", 2, budget=60))
    np.testing.assert_array_equal(first["goal"][:, 2], plain["goal"])


def test_without_a_way_to_show_it_says_so(monkeypatch):
    env = make_batch("TwoRooms", 2)
    tasks = choose_tasks(env, 2, 0)
    assert guided(env, tasks, 0) is tasks
    with pytest.raises(UserError, match="via must be 0 or more, not -1"):
        guided(env, tasks, -1)
    monkeypatch.setattr(env, "has", lambda name: False)
    with pytest.raises(UserError, match="the scripted way to a goal; TwoRooms has none"):
        guided(env, tasks, 1)


def test_the_command_says_what_was_shown(tmp_path):
    for env in ("TwoRooms", "PointPush"):  # one whose goal is a ring, and one whose is a picture
        words = f"agent eval --env {env} --policy scripted --episodes 4 --batch 2 --via 2"
        assert main([*words.split(), "--beside", "none", "--out", str(tmp_path / env)]) == 0
        told = json.loads((tmp_path / env / "summary.json").read_text())
        assert told["via"] == 2 and "2 pictures of the scripted way" in told["rule"]
        assert told["rows"][0]["success"]["hits"] == 4


def test_a_goal_is_told_by_the_numbers_of_its_state_alone(tmp_path):
    env = make_batch("TwoRooms", 2)
    tasks = choose_tasks(env, 6, 0)
    told = numbered(env, tasks)
    plain, facts = tasks.chosen([5, 0]).begin(env)
    seen, _ = told.chosen([5, 0]).begin(env)
    assert set(seen) == {"pixels", "goal_state"} and "goal" in plain
    np.testing.assert_array_equal(seen["goal_state"], facts["goal_state"])
    np.testing.assert_array_equal(seen["pixels"], plain["pixels"])
    words = "agent eval --env TwoRooms --policy scripted --goals state --episodes 4 --batch 2"
    assert main([*words.split(), "--beside", "none", "--out", str(tmp_path / "e")]) == 0
    summary = json.loads((tmp_path / "e" / "summary.json").read_text())
    assert summary["goals"] == "state" and "numbers of their state" in summary["rule"]
    assert summary["rows"][0]["success"]["hits"] == 4  # who asks the environment is told the same


def test_a_goal_without_a_state_cannot_be_told_by_numbers(monkeypatch):
    env = make_batch("TwoRooms", 2)
    with pytest.raises(UserError, match="--via shows pictures, and --goals state none"):
        numbered(env, guided(env, choose_tasks(env, 2, 0), 1))
    monkeypatch.setattr(env, "state_size", 0)
    with pytest.raises(UserError, match="the state of a goal; TwoRooms has none"):
        numbered(env, choose_tasks(env, 2, 0))
