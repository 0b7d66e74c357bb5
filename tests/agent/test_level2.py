"""Claims of level 2: it learns where k steps may lead, and its sub-goals lead to the goal."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from jepa_video.agent.agent import Agent
from jepa_video.agent.bank import Bank
from jepa_video.agent.level2 import Ahead, FarCost, Level2
from jepa_video.agent.mind import Trained, critic_of, level2_of, policy_of, read_agent, save_agent
from jepa_video.agent.reach import Reach
from jepa_video.agent.tried import Tried
from jepa_video.errors import UserError
from jepa_video.randomness import generator
from tests.agent.test_agent import SEEDS, agent, pictures, played, scattered
from tests.agent.tiny_agent import world

STRIDE = 8
CPU = torch.device("cpu")


def memory(step: int, count: int = 256) -> tuple[Tensor, Tensor]:
    """Places, and where they went in eight steps of length 1 in some direction."""
    draw = torch.Generator().manual_seed(step)
    place = 40 * torch.rand(count, 1, 2, generator=draw) - 20
    angle = 2 * math.pi * torch.rand(count, generator=draw)
    return place, place + STRIDE * torch.stack((angle.cos(), angle.sin()), 1)[:, None]


@pytest.fixture(scope="module")
def trained() -> Level2:
    """On an open plane."""
    torch.manual_seed(0)
    made = Level2(2, 2, STRIDE, hidden=32, dim=2)
    place, later = memory(0)
    made.scale_to((later - place).flatten(1))
    optimizer = torch.optim.Adam(made.parameters(), 3e-3)
    for step in range(400):
        place, later = memory(step)
        loss, _ = made.loss(place / 10, place / 10 + (later - place), place, generator(step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return made.requires_grad_(False).eval()


def test_the_spread_is_how_far_a_stride_goes(trained):
    assert float(trained.spread) == pytest.approx(STRIDE, rel=1e-4)


def test_its_latent_tells_where_memory_went(trained):
    place, later = memory(1000)
    here = (place / 10).flatten(1)
    there = here + (later - place).flatten(1)
    nothing = here[:, :0]
    mean, _ = trained.posterior(here, nothing, there)
    off = (trained.later(here, nothing, mean) - there).norm(dim=1)
    assert float(off.mean()) < 0.15 * STRIDE
    without = (trained.later(here, nothing, torch.zeros_like(mean)) - there).norm(dim=1)
    assert float(without.mean()) > 0.7 * STRIDE


def test_draws_of_the_prior_lead_as_far_as_memory_did_and_everywhere(trained):
    z = torch.randn(500, 2, generator=generator(1))
    gone = trained.later(torch.zeros(500, 2), torch.zeros(500, 0), z)
    far = gone.norm(dim=1)
    assert float(far.quantile(0.1)) > 0.6 * STRIDE and float(far.quantile(0.9)) < 1.3 * STRIDE
    angle = torch.atan2(gone[:, 1], gone[:, 0])
    assert int(torch.histc(angle, 8, -math.pi, math.pi).min()) > 15


class Plane(Reach):
    """Straight ways, but no step may come across y < 3 at x = 10: a wall."""

    def __init__(self) -> None:
        super().__init__(2, 2, hidden=8)

    def way(self, a: Tensor, b: Tensor) -> Tensor:
        across = (a[..., 0] - 10) * (b[..., 0] - 10) < 0
        share = (10 - a[..., 0]) / (b[..., 0] - a[..., 0] + 1e-9)
        y = a[..., 1] + share * (b[..., 1] - a[..., 1])
        corner = a.new_tensor([10.0, 3.0])
        around = (a - corner).norm(dim=-1) + (b - corner).norm(dim=-1)
        return torch.where(across & (y < 3), around, (a - b).norm(dim=-1))

    def steps(self, states: Tensor, others: Tensor) -> Tensor:
        return self.way(states.flatten(1), others.flatten(1))[None]

    def foretold(self, now, goal, future, stride=1, tried=None, felt=True):
        future = future.flatten(-2)
        first = now.flatten(1)[:, None, None].expand_as(future[:, :, :1])
        steps = self.way(torch.cat((first, future[:, :, :-1]), 2), future)
        left = self.cost(self.way(future, goal.flatten(1)[:, None, None].expand_as(future)))
        return left, (steps - stride - 0.5).relu()


def test_sub_goals_lead_around_a_wall_to_the_goal(trained):
    critic = Plane()
    ahead = Ahead(trained, critic, far=4, samples=128)
    state, goal = torch.tensor([[[0.0, -6.0]]]), torch.tensor([[[20.0, -6.0]]])
    way = [state]
    for time in range(60):
        aim = ahead.aim(state, goal, lambda which, t=time: [generator(t)] * len(which))
        straight = float((aim - state).norm())
        if float(critic.way(state.flatten(), aim.flatten())) > straight + 1e-3:
            aim = torch.tensor([[[10.0, 3.0]]])  # level 1 knows its way round a corner
        gap = (aim - state).flatten()
        state = state + (gap / gap.norm().clamp_min(1.0)).view_as(state)
        assert float(critic.way(way[-1].flatten(), state.flatten())) < 1.01, "through the wall"
        way.append(state)
        if float((state - goal).norm()) < 1:
            break
    assert float((state - goal).norm()) < 1
    shortest = float(critic.way(way[0].flatten(), goal.flatten()))
    assert len(way) < 1.5 * shortest
    assert ahead.calls < len(way)  # a sub-goal stands for a while


class Open(Plane):
    """Knows of no wall but those that were met, which no way may come within 6 of."""

    def way(self, a: Tensor, b: Tensor) -> Tensor:
        return (a - b).norm(dim=-1)

    def foretold(self, now, goal, future, stride=1, tried=None, felt=True):
        left, over = super().foretold(now, goal, future, stride)
        if tried is None:
            return left, over
        assert len(tried.place) == len(now), "of the episodes that are planned for"
        met = tried.place[:, None, None] * (tried.felt > 0)[:, None, None, :, None]
        near = (future.flatten(-2)[..., None, :] - met).norm(dim=-1).amin(-1) < 6
        return left, over + 100.0 * near


def test_sub_goals_keep_away_from_what_stopped_the_agent_in_this_episode_alone(trained):
    state, goal = torch.zeros(2, 1, 2), torch.tensor([[[24.0, 0.0]]]).repeat(2, 1, 1)
    place = torch.tensor([[[8.0, 0.0]], [[-50.0, 0.0]]])  # the second met one far from its way
    act, felt = torch.zeros(2, 1, 2), torch.ones(2, 1)
    tried = Tried(torch.cat((place, act), 2), felt, 1.0, place, act, place)
    ahead = Ahead(trained, Open(), far=3, samples=128)
    aim = ahead.aim(state, goal, lambda which: [generator(0)] * len(which), tried=tried)[:, 0]
    assert float((aim[0] - place[0, 0]).norm()) > 5.5
    assert float(aim[1, 1].abs()) < 3, "straight on"


def test_a_near_goal_is_gone_for_itself(trained):
    ahead = Ahead(trained, Plane(), far=3, samples=16)
    state, goal = torch.zeros(2, 1, 2), torch.tensor([[[5.0, 0.0]], [[9.0, 0.0]]])
    aim = ahead.aim(state, goal, lambda which: [generator(0)] * len(which))
    assert torch.equal(aim[0], goal[0]) and not torch.equal(aim[1], goal[1])
    assert ahead.calls == 1


def test_the_cost_counts_the_steps_until_the_best_place_and_the_way_from_there(trained):
    critic, z = Plane(), torch.zeros(1, 1, 3, 2)
    cost = FarCost(trained, critic)
    cost.places = lambda state, z: torch.tensor([[[[8.0, 5.0], [16.0, 5.0], [90.0, 5.0]]]])
    state, goal = torch.tensor([[[0.0, 5.0]]]), torch.tensor([[[18.0, 5.0]]])
    total = float(cost(state, z, goal))
    # 16 steps to the second place and 2 from there; the leap to the third is behind them.
    assert total == pytest.approx(float(critic.cost(torch.tensor(18.0))), rel=1e-4)


# -- memory, files, the agent ----------------------------------------------------------------------


def test_later_is_the_state_a_stride_on_or_the_last_of_the_episode():
    bank = Bank(stride=4)
    for e in range(3):
        states = (100.0 * e + torch.arange(10.0)).view(-1, 1, 1)
        bank.add(states, torch.zeros(9, 1), torch.zeros(9))
    given = bank.__getitems__([(i, 0) for i in range(27)])
    state, later = given["state"].flatten(), given["later"].flatten()
    assert torch.equal(later, (state + 4).minimum(state - state % 100 + 9))
    bank.stride = 0
    assert "later" not in bank.__getitems__([(0, 0)])
    bank.stride = 4
    gone = bank.gone(1).flatten()
    assert torch.equal(gone, later - state)


def test_an_agent_with_two_levels_is_alone_as_in_a_batch_and_files_hold_it(tmp_path):
    made = agent("mode2", ways=True, members=0, weights={"goal": 1.0})
    mind = replace(made.mind, stride=2, search=replace(made.mind.search, levels=2, far=2))
    model = scattered(world())
    torch.manual_seed(1)
    critic, policy = scattered(critic_of(mind, model)), scattered(policy_of(16, True, model))
    level2 = scattered(level2_of(mind, model))
    for weight in critic.leave.parameters():
        weight.mul_(20)  # goals lie far away
    two = Agent(model, mind, Trained(critic, policy, level2), "mode2")
    seen = pictures(3)
    together = played(two, seen, SEEDS)
    assert two.ahead.calls > 0
    one = played(two, [{n: v[1:2] for n, v in step.items()} for step in seen], SEEDS[1:2])
    assert abs(one[:, 0] - together[:, 1]).max() < 1e-4
    flat = replace(mind, search=replace(mind.search, levels=1))
    other = played(Agent(model, flat, Trained(critic, policy), "mode2"), seen, SEEDS)
    assert abs(other - together).max() > 1e-3
    alone = replace(mind, search=replace(mind.search, critic=False))
    above = Agent(model, alone, Trained(critic, policy, level2), "mode2")
    played(above, seen, SEEDS)
    assert above.ahead.calls > 0 and "critic" not in above.explain().terms  # level 2 asks it
    assert "critic" in two.explain().terms
    save_agent(mind, Trained(critic, policy, level2), tmp_path / "agent")
    told, kept = read_agent(tmp_path / "agent", model)
    assert told == mind
    for name, value in level2.state_dict().items():
        assert torch.equal(value, kept.level2.state_dict()[name])


def test_a_search_of_few_samples_plans_on_level_2_too(trained):
    assert Ahead(trained, Reach(2, 2, 16), 3, 4).planner.carried == 4


def test_two_levels_are_refused_where_there_is_one():
    made = agent("mode2", ways=True, members=0, weights={"goal": 1.0})
    mind = replace(made.mind, search=replace(made.mind.search, levels=2))
    with pytest.raises(UserError, match="search.levels 2 needs an agent that was fitted with"):
        Agent(made.world, mind, made.trained, "mode2")
