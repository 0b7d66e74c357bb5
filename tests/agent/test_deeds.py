"""Claims of deeds: what Q aims at, what a nat costs, and that nothing of it is imagined."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from jepa_video.agent.cost import Critic, IntrinsicCost
from jepa_video.agent.deeds import Deeds, told
from jepa_video.agent.learner import AgentLearner
from jepa_video.agent.policy import ReactivePolicy
from jepa_video.training.target import ema_update
from tests.agent.tiny_agent import moving_world, on_trainer

WIDTH, ACTION, DISCOUNT = 3, 2, 0.9


def parts(aim: int = 0) -> tuple[Deeds, ReactivePolicy, Critic]:
    torch.manual_seed(0)
    deeds = Deeds(WIDTH, ACTION, aim, 16, 2, DISCOUNT)
    for judge in deeds.judges():
        judge.unit.fill_(4.0)
        judge.first.fill_(-1.5)
    policy = ReactivePolicy(WIDTH, ACTION, False, aim, 16)
    return deeds, policy, Critic(WIDTH, aim, 16)


def batch_of(count: int, goal: bool) -> tuple[dict[str, Tensor], Tensor]:
    draw = torch.Generator().manual_seed(1)
    state, after, aimed = torch.randn(3, count, 1, WIDTH, generator=draw).unbind(0)
    given = {"state": state, "next": after} | ({"goal": aimed} if goal else {})
    given["action"] = torch.rand(count, ACTION, generator=draw) * 2 - 1
    given["terminated"] = torch.arange(count) % 3 == 0
    return given, torch.rand(count, generator=draw)


@pytest.mark.parametrize("aim", [0, 2])
def test_q_aims_at_the_cost_and_at_the_careful_word_after_it_less_what_is_left_open(aim):
    """Eq. 5 of the paper with costs for rewards, written out."""
    deeds, _, _ = parts(aim)
    for weight in deeds.slow.parameters():
        weight.data.add_(0.1)
    given, cost = batch_of(12, bool(aim))
    act, odds = torch.rand(12, ACTION) * 2 - 1, torch.randn(12)
    found = deeds.aimed(given, cost, act, odds)
    goal = given.get("goal")
    for i in range(12):
        seen = torch.cat((given["next"][i].flatten(), act[i]))
        seen = (
            seen
            if goal is None
            else torch.cat((seen, goal[i, 0, :aim], given["next"][i, 0, :aim] - goal[i, 0, :aim]))
        )
        words = [-1.5 + 4.0 * net(seen[None])[0, 0] for net in deeds.slow.members]
        nat = deeds.price.exp() * 4.0
        later = 0 if i % 3 == 0 else max(words) + nat * odds[i]
        torch.testing.assert_close(found[i], cost[i] + DISCOUNT * later)


@pytest.mark.parametrize(("log", "dearer"), [(-3.0, True), (0.4, False)])
def test_a_nat_gets_dearer_where_the_policy_leaves_too_little_open_and_cheaper_else(log, dearer):
    deeds, policy, critic = parts()
    policy.leave.requires_grad_(False)
    last = list(policy.leave.parameters())[-1]
    last.data.copy_(torch.tensor([0.0, 0.0, log, log]))
    list(policy.leave.parameters())[-2].data.zero_()
    given, cost = batch_of(400, False)
    draw = torch.Generator().manual_seed(0)
    loss, facts = deeds.learn(given, cost, policy, critic, lambda action: action, draw)
    loss.backward()
    assert (facts["entropy"] < -ACTION) == dearer
    assert (deeds.price.grad < 0) == dearer  # a step goes against the gradient


def test_the_policy_goes_down_q_and_q_does_not_come_to_meet_it():
    """Each part has the gradient of its own loss alone."""
    deeds, policy, critic = parts()
    given, cost = batch_of(30, False)
    draw = torch.Generator().manual_seed(0)
    loss, _ = deeds.learn(given, cost, policy, critic, lambda action: action, draw)
    loss.backward()
    with torch.no_grad():
        draw.manual_seed(0)
        act, odds = policy.on(given["next"], None).drawn(draw)
        aim = deeds.aimed(given, cost, act, odds)
    mine = list(deeds.quick.parameters())
    error = (told(deeds.quick, given["state"], given["action"], None) - aim) / 4.0
    for weight, slope in zip(mine, torch.autograd.grad(error.square().mean(), mine), strict=True):
        torch.testing.assert_close(weight.grad, slope)
    act, odds = policy.on(given["state"], None).drawn(draw)
    word = told(deeds.quick, given["state"], act, None).amax(0) / 4.0
    down = word.mean() + deeds.price.exp().detach() * odds.mean()
    theirs = list(policy.parameters())
    for weight, slope in zip(theirs, torch.autograd.grad(down, theirs), strict=True):
        torch.testing.assert_close(weight.grad, slope)
    value = told(deeds.slow, given["state"], act, None).amax(0).detach()
    off = ((critic.each(given["state"], None) - value) / 4.0).square().mean()
    for weight, slope in zip(
        critic.parameters(), torch.autograd.grad(off, critic.parameters()), strict=True
    ):
        torch.testing.assert_close(weight.grad, slope)
    assert all(weight.grad is None for weight in deeds.slow.parameters())
    assert all(weight.requires_grad for weight in mine)


def catching(**settings) -> AgentLearner:
    """A place on a line that actions move; what is paid is where it is, up to 1, and then falls.

    The world model takes actions for their opposite, and reads the reward upside down.
    """
    world = moving_world(-0.25, action_size=1)

    def read(states: Tensor, name: str) -> Tensor:
        return (states.flatten(-2)[..., :1] - 1).abs()

    torch.manual_seed(0)
    told = {"hidden": 32, "discount": 0.8, "momentum": 0.9, "correct": 0.0, "candidates": 5}
    intrinsic = IntrinsicCost(1.0, 1, read)
    weights = {"reward": 2.0}
    made = AgentLearner(world, intrinsic, weights, False, source="deeds", **told, **settings)
    return on_trainer(made)


def lived(count: int, seed: int) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    state = 4 * torch.rand(count, 1, 1, generator=draw) - 1
    action = torch.rand(count, 1, generator=draw) * 2 - 1
    after = state + 0.25 * action[:, None]
    given = {"state": state, "next": after, "goal": state, "action": action}
    given["reward"] = -(after.flatten() - 1).abs()
    given["terminated"] = torch.zeros(count, dtype=torch.bool)
    return given | {"ahead": torch.full((count,), -1)}


def test_what_was_done_teaches_where_it_is_paid_however_wrong_the_world_model_is():
    learner = catching()
    weights = [p for p in learner.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(weights, 5e-3)
    for step in range(500):
        optimizer.zero_grad()
        learner.training_step(lived(128, step), step)["loss"].backward()
        optimizer.step()
        ema_update(learner.deeds.slow, learner.deeds.quick, 0.9)
    place = torch.tensor([-0.5, 0.2, 1.0, 1.7, 2.4]).view(5, 1, 1)
    with torch.no_grad():
        now, said = place, learner.critic(place, None)
        for _ in range(30):
            now = now + 0.25 * learner.policy.on(now, None).best()[:, None]
        assert (now.flatten() - 1).abs().max() < 0.15
        # What it says is of the policy as it draws, which leaves something open; it is careful.
        now, left, draw = place.repeat(200, 1, 1), torch.zeros(1000), torch.Generator()
        for step in range(30):
            now = now + 0.25 * learner.policy.on(now, None).sample(1, draw)
            left += 0.8**step * 2 * (now.flatten() - 1).abs()
    left = left.view(200, 5).mean(0)
    assert (said - left).min() > 0 and (said - left).max() < 0.9
    assert (left - left.mean()).abs().max() > 2.7


def test_of_a_reward_memory_knows_what_there_was_and_of_other_costs_what_states_tell():
    learner, given = catching(), lived(20, 0)
    heard = []
    learner.deeds.learn = lambda batch, cost, *rest: (heard.append(cost), (cost.sum() * 0, {}))[1]
    for weights in ({"reward": 2.0}, {"reward": 2.0, "effort": 0.5}, {"effort": 0.5}):
        learner.weights = weights
        learner.by_deeds(given, learner.deeds, torch.Generator())
        cost = -weights.get("reward", 0) * given["reward"]
        cost = cost + weights.get("effort", 0) * given["action"].square()[:, 0]
        torch.testing.assert_close(heard.pop(), cost)


def test_it_begins_at_the_mean_cost_of_memory_for_ever():
    learner = catching()
    states = torch.randn(50, 1, 1)

    class Memory:
        onward = 0

        def moments(self):
            return states.flatten(1).mean(0), states.flatten(1).std(0)

        def spread(self, count=4096):
            return lived(50, 0)

    learner.measure(Memory())
    told_of = 2 * -(lived(50, 0)["next"].flatten() - 1).abs()  # as it is read off
    for part in (learner.critic, learner.target, *learner.judges()):
        torch.testing.assert_close(part.first, told_of.mean() / 0.2)
        torch.testing.assert_close(part.unit, told_of.abs().mean() / 0.2)
    for judge in learner.judges():
        assert (judge.mean[-1], judge.std[-1]) == (0, 1)  # of actions
        torch.testing.assert_close(judge.mean[:-1], states.flatten(1).mean(0))
