"""Settings of a search that are said to change nothing change nothing; all others are looked at."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest

from jepa_video.agent.actor import Search
from jepa_video.agent.agent import Agent
from jepa_video.agent.mind import Mind, fresh
from jepa_video.agent.unread import unread, unread_by_all
from jepa_video.cli import main
from tests.agent.test_agent import SEARCH, SEEDS, agent, pictures, played
from tests.agent.tiny_agent import save_tiny_agent, world

OTHER = dict(
    horizon=4, samples=20, iterations=3, elites=5, decay=0.5, temperature=0.1, starts=2, steps=3,
    step_size=0.3, colour=2.0, std=0.9, every=2, futures=3, risk="worst", stopped=1.0, forget=1,
    share=0.2, far=5,
)  # fmt: skip


@pytest.mark.parametrize("mode", ["mode1", "mode2"])
def test_what_is_not_looked_at_changes_no_action(mode):
    seen = pictures(3, steps=3)
    one = agent(mode)
    before, left = played(one, seen, SEEDS), unread(one)
    assert left & OTHER.keys() >= {"temperature", "starts", "futures", "risk", "far", "stopped"}
    changes = {name: value for name, value in OTHER.items() if name in unread_of(mode)}
    other = agent(mode, search=replace(SEARCH, **changes))
    np.testing.assert_array_equal(played(other, seen, SEEDS), before)


def unread_of(mode):
    """Of an agent that is asked for a share as well."""
    return unread(agent(mode, search=replace(SEARCH, share=0.2)))


@pytest.mark.parametrize("name", ["horizon", "samples", "iterations", "elites", "std", "every"])
def test_what_a_plan_is_made_with_changes_what_mode_2_does_and_is_not_named(name):
    seen = pictures(3, steps=3)
    one, other = agent("mode2"), agent("mode2", search=replace(SEARCH, **{name: OTHER[name]}))
    assert np.abs(played(one, seen, SEEDS) - played(other, seen, SEEDS)).max() > 1e-4
    assert name not in unread(one) and name in unread(agent("mode1"))


@pytest.mark.parametrize(
    ("policies", "told"), [("mode1", "horizon, temperature"), ("mode1,mode2", "temperature")]
)
def test_the_command_says_what_nobody_looks_at(tmp_path, capsys, policies, told):
    save_tiny_agent(tmp_path / "run")
    words = ["--env", "TwoRooms", "--policy", policies, "--checkpoint", str(tmp_path / "run")]
    words += ["--episodes", "1", "--budget", "2", "--beside", "none"]
    words += ["--out", str(tmp_path / "out")]
    search = ["--search", "{horizon: 4, temperature: 0.1, tried: 8}"]
    assert main(["agent", "eval", *words, *search]) == 0
    assert f"--search: none of these policies looks at {told}\n" in capsys.readouterr().out


SET: dict = dict(lessons=9, share=0.2, few=6, wrong=0.02)  # for each decision


@pytest.mark.parametrize(
    ("mode", "more", "idle"),
    [
        ("mode2", {}, {"share", "few", "wrong"}),
        ("mode2", {"ways": True, "arrive": True}, {"share", "few", "wrong"}),
        ("auto", {"members": 1}, {"few", "wrong"}),  # one network has no doubt
        ("learned", {}, {"wrong"}),
        ("auto", {}, set()),
        ("auto", {"ways": True, "arrive": True}, set()),
    ],
)
def test_what_a_configurator_does_not_set_by_is_named_and_not_told_as_a_budget(mode, more, idle):
    model = world()
    mind = Mind(2.0, {"goal": 1.0}, hidden=16, members=2, worth=0.5)
    search = replace(SEARCH, **SET, arrive=more.pop("arrive", False))
    mind = replace(mind, search=search, **more)
    one = Agent(model, mind, fresh(mind, model), mode)
    assert unread(one) & SET.keys() == idle
    assert SET.keys() - one.facts.keys() - {"lessons"} == idle
    plain = replace(mind, search=replace(SEARCH, lessons=9))
    assert not unread(Agent(model, plain, fresh(mind, model), mode)) & SET.keys(), "none is asked"


def test_what_is_told_of_goals_and_critics_is_named_where_there_are_none():
    search = replace(SEARCH, tried=8)
    told = {"tried", "stopped", "forget"}
    found = unread(agent("mode2", search=search))
    assert not found & {"tried", "forget", "critic"} and "stopped" in found, "of a chart alone"
    other = agent("mode2", critic=False, search=search, weights={"effort": 1.0})
    assert unread(other) >= told | {"critic"}
    model = world()
    for weights, idle in (({"goal": 1.0}, False), ({"goal": 0.0, "effort": 1.0}, True)):
        mind = Mind(1.0, {"goal": 1.0}, hidden=16, members=2, ways=True, search=Search(arrive=True))
        one = Agent(model, replace(mind, weights=weights), fresh(mind, model), "mode2")
        assert ("arrive" in unread(one)) == idle
    seen, others = pictures(3, steps=3), replace(SEARCH, tried=0, critic=False)
    plain = agent("mode2", critic=False, search=others, weights={"effort": 1.0})
    np.testing.assert_array_equal(played(plain, seen, SEEDS), played(other, seen, SEEDS))


def test_what_one_agent_looks_at_is_not_named():
    react, plan = agent("mode1"), agent("mode2")
    assert unread_by_all([react], ["horizon", "tried", "risk"]) == ["horizon", "risk"]
    assert unread_by_all([react, plan], ["horizon", "tried", "risk"]) == ["risk"]
    assert unread_by_all([], ["horizon"]) == []
    assert {"levels", "tried", "share"} <= {one.name for one in fields(Search)} - unread(plan)
