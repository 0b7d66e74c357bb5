"""Claims of the configurator: plans are as many, as long and as thorough as was set for each."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from jepa_video.agent.actor import Search
from jepa_video.agent.agent import Agent
from jepa_video.agent.configurator import (
    LITTLE,
    Arriving,
    Doubtful,
    Fixed,
    Learned,
    Setting,
    Thrifty,
    Wrong,
)
from jepa_video.agent.cost import Critic
from jepa_video.agent.lessons import TEMPERATURE, Notebook
from jepa_video.agent.reach import Reach
from jepa_video.agent.task import Situation, Task
from jepa_video.agent.worth import Worth
from jepa_video.errors import UserError
from tests.agent.test_agent import KINDS, SEARCH, SEEDS, agent, of, pictures, played
from tests.agent.tiny_agent import save_tiny_agent, world


class Wants:
    """Wants a plan where the state is above 0."""

    def begin(self, seeds):
        pass

    def configure(self, state, task, memory=None):
        return Setting(state[:, 0, 0] > 0, task, state[:, 0, 0])


def planned(share: float, wanted: torch.Tensor) -> torch.Tensor:
    """Which of the decisions `T B` were planned, of those in which that was wanted."""
    one = Thrifty(Wants(), share)
    found = []
    for _ in range(2):  # the second time everything begins anew
        one.begin([1, 2])
        rows = [one.configure(row.float()[:, None, None], Task(None)) for row in wanted]
        found.append(torch.stack([row.plans for row in rows]))
    assert torch.equal(*found)
    return found[1]


def test_no_more_than_the_share_of_what_was_decided_so_far_is_planned():
    torch.manual_seed(0)
    wanted = torch.rand(60, 2) < torch.tensor([0.9, 0.05])
    for share in (0.0, 0.2, 1 / 3, 1.0):
        plans = planned(share, wanted)
        assert not (plans & ~wanted).any()
        so_far = torch.arange(1, 61)[:, None]
        assert (plans.cumsum(0) <= share * so_far + 1e-6).all()
        # It plans where it is allowed to: who wants it all the time gets all that there is.
        allowed = (plans.cumsum(0) - plans.long() + 1) <= share * so_far
        assert torch.equal(plans, wanted & allowed)
    assert torch.equal(planned(1.0, wanted), wanted)
    assert planned(0.2, wanted)[:, 1].sum() == wanted[:, 1].sum()  # seldom, so that none is lost


def test_a_doubt_that_is_no_number_is_a_reason_to_plan():
    critic, worth = Critic(2, 0, 8), Worth(2, 0, 8)
    task, states = Task(None), torch.tensor([[[0.0, 0.0]], [[torch.nan, 0.0]]])
    for one in (Doubtful(critic, 1e9), Learned(worth, 1e9)):
        assert one.configure(states, task).plans.tolist() == [False, True]


# -- what memory says ------------------------------------------------------------------------------


def test_it_plans_where_mode_1_would_do_what_the_world_model_was_wrong_about():
    """Of four, the second did something else, the third is elsewhere, the fourth has no lesson."""
    notebook, push = Notebook(4, 4, 2, 2, 0.5), torch.tensor([[1.0, 0.0]]).expand(4, -1)
    state = torch.zeros(4, 1, 2)
    told = state + torch.tensor([1.0, 0.0])  # and it did not move
    notebook.write(state, push, told, torch.cat((state[:3], told[3:])))
    reacts = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    now = torch.tensor([0.0, 0.0, 9.0, 0.0])[:, None, None].expand(4, 1, 2)
    memory = Situation(now[:, None], push[:, None, :][:, :0], notebook.now())
    asked = []

    def react(task: Task, situation: Situation) -> torch.Tensor:
        asked.append(situation)
        return reacts

    critic, task = Critic(2, 2, 8, 2), Task(torch.zeros(4, 1, 2))
    one = Doubtful(critic, 1e9, wrong=Wrong(1.0, react))  # no doubt is as large
    setting = one.configure(now, task, memory)
    assert setting.plans.tolist() == [True, False, False, False] and asked == [memory]
    share = 1 / (1 + math.exp(-1 / TEMPERATURE))
    assert setting.wrong.tolist() == pytest.approx([share * 1.0 / 0.5, 0, 0, 0], abs=1e-4)
    assert not one.configure(now, task).plans.any()  # nothing is remembered
    assert not one.configure(now, task, memory._replace(lessons=None)).plans.any()
    blind = Doubtful(critic, 1e9).configure(now, task, memory)
    assert blind.wrong is None and not blind.plans.any()


def test_an_agent_plans_where_its_lessons_say_that_the_world_model_is_wrong():
    search = replace(SEARCH, lessons=9, wrong=0.02)
    one, seen = agent("auto", search=search, doubt=1e9, reach=40.0), pictures(3, steps=6)
    one.reset(SEEDS)
    before, modes = 0, []
    for observation in seen:
        one.act(observation)
        told = one.explain()
        assert told.mode == ["mode2" if off > 0.02 else "mode1" for off in told.wrong]
        assert one.calls - before == told.mode.count("mode2")
        before, modes = one.calls, [*modes, told.mode]
    assert modes[0] == ["mode1"] * 3  # nothing came yet
    assert 0 < one.calls < 18 and one.facts["wrong"] == 0.02
    usual = agent("auto", search=replace(search, wrong=0.0), doubt=1e9, reach=40.0)
    played(usual, seen, SEEDS)
    assert usual.calls == 0 and usual.explain().wrong is None and "wrong" not in usual.facts


# -- what a plan may cost --------------------------------------------------------------------------


def test_where_there_is_little_doubt_a_plan_looks_at_few():
    """Each plan is that of an agent which always looks at as many."""
    seen = pictures(6, steps=1)
    looks = {few: agent("mode2", search=replace(SEARCH, samples=few)) for few in (6, 16)}
    whole = {few: played(one, seen, range(6))[0] for few, one in looks.items()}
    one = agent("auto", search=replace(SEARCH, few=6))
    played(one, seen, range(6))
    doubt = one.explain().doubt
    least, most = doubt.min(), doubt.max()
    one.configurator.threshold = float(max(least * 0.99, most / LITTLE * 0.9))
    done = played(one, seen, range(6))[0]
    told = one.explain()
    there = doubt > one.configurator.threshold
    much = doubt > LITTLE * one.configurator.threshold
    assert (there & much).any() and (there & ~much).any()
    expected = np.where(there, np.where(much, 16, 6), 0)
    assert np.array_equal(told.samples, expected)
    for few in (6, 16):
        np.testing.assert_allclose(done[expected == few], whole[few][expected == few], atol=1e-5)
    assert np.abs(whole[6] - whole[16]).max() > 1e-3
    assert one.facts["few"] == 6


def test_a_plan_is_no_longer_than_the_way_that_is_left():
    critic = Reach(2, 2, 8)
    critic.steps = lambda states, goal: states[:, 0, :1].T.expand(4, -1)  # its first number
    one = Arriving(Fixed("mode2"), critic, 2, 20)
    left = torch.tensor([0.0, 2.0, 2.1, 4.0, 7.9, 8.1, 17.0, 1e9, torch.inf, torch.nan])
    state, goal = left[:, None, None].expand(10, 1, 2), torch.zeros(10, 1, 2)
    setting = one.configure(state, Task(goal))
    assert setting.horizon.tolist() == [2, 2, 4, 4, 8, 16, 20, 20, 20, 20]
    for task in (Task(goal, {"effort": 1.0}), Task(None, {"effort": 1.0})):  # no way is asked for
        assert one.configure(state, task).horizon is None


@pytest.mark.parametrize("kind", ["one state", "three states", "a latent"])
def test_short_plans_are_what_an_agent_of_that_horizon_does_and_are_told_at_their_end(kind):
    search, seen = replace(SEARCH, horizon=4), pictures(4, steps=3)
    settings = {"ways": True, "weights": {"goal": 1.0}}
    one = agent("mode2", world(**KINDS[kind]), search=replace(search, arrive=True), **settings)
    ways = torch.tensor([0.5, 2.0, 9.0, 1.5])
    one.configurator.ways.steps = lambda states, goal: ways[: len(states)].expand(4, -1)
    first = played(one, seen[:1], range(4))[0]
    told = one.explain()
    assert told.horizon.tolist() == [1, 2, 4, 2]
    for i, horizon in enumerate(told.horizon):
        usual = agent(
            "mode2", world(**KINDS[kind]), search=replace(search, horizon=horizon), **settings
        )
        alone = played(usual, of(seen[:1], i), [i])[0]
        np.testing.assert_allclose(first[i], alone[0], atol=1e-4)
        whole = usual.explain()
        np.testing.assert_allclose(told.imagined[i, : horizon + 1], whole.imagined[0], atol=1e-3)
        assert (told.imagined[i, horizon + 1 :] == told.imagined[i, horizon]).all()
        for name, part in whole.terms.items():
            np.testing.assert_allclose(told.terms[name][i], part[0], atol=1e-3)
    assert one.facts["arrive"] and np.isfinite(played(one, seen, range(4))).all()


@pytest.mark.parametrize("every", [1, 2])
def test_plans_of_several_sizes_do_not_depend_on_the_batch_they_are_in(every):
    search = replace(SEARCH, horizon=4, lessons=4, wrong=0.02, few=6, arrive=True, every=every)
    settings = {"ways": True, "weights": {"goal": 1.0}, "reach": 40.0, "doubt": 1e-4}
    one, seen = agent("auto", search=search, **settings), pictures(3)
    one.configurator.ways.steps = lambda states, goal: states[:, 0, :1].abs().T.expand(4, -1) * 3
    together = played(one, seen, SEEDS)
    assert one.calls > 3
    for i, seed in enumerate(SEEDS):
        alone = played(one, of(seen, i), [seed])
        np.testing.assert_allclose(alone[:, 0], together[:, i], atol=1e-4)


def test_settings_that_do_not_go_together_are_refused_in_a_sentence():
    refused = {
        "lessons must be above 0": {"wrong": 1.0},
        "search.wrong must be from 0": {"wrong": -1.0, "lessons": 4},
        "few must be from search.elites 8 to search.samples 64, or 0, not 4": {"few": 4},
        "or 0, not 65": {"few": 65},
        "few is of planners that draw": {"few": 9, "planner": "gradient"},
        "arrive shortens plans": {"arrive": True, "deadline": True},
    }
    for match, settings in refused.items():
        with pytest.raises(UserError, match=match):
            Search(**settings)
    with pytest.raises(UserError, match="search.arrive needs an agent with a critic of ways"):
        agent("mode2", search=replace(SEARCH, arrive=True))


def test_an_agent_that_was_saved_before_there_were_these_settings_plans_as_it_did(tmp_path):
    save_tiny_agent(tmp_path)
    path = tmp_path / "agent" / "config.json"
    entries = json.loads(path.read_text())
    for name in ("wrong", "few", "arrive"):
        del entries["search"][name]
    path.write_text(json.dumps(entries))
    one = Agent.load(tmp_path)
    assert (one.mind.search.wrong, one.mind.search.few, one.mind.search.arrive) == (0, 0, False)
    played(one, pictures(2, steps=1), [1, 2])
    told = one.explain()
    search = one.mind.search
    assert told.wrong is None and told.horizon.tolist() == [search.horizon] * 2
    planned = [search.samples if mode == "mode2" else 0 for mode in told.mode]
    assert told.samples.tolist() == planned
