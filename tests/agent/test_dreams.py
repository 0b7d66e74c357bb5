"""Claims of dreams: what they come to, whose slope they have, and what a policy learns of them."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor
from torch.distributions import Independent, Normal, TanhTransform, TransformedDistribution

from jepa_video.agent.cost import IntrinsicCost
from jepa_video.agent.dreams import dreamt, returns
from jepa_video.agent.learner import AgentLearner
from jepa_video.agent.policy import Reaction
from jepa_video.models.dynamics import TokenDynamics
from jepa_video.models.latent import GaussianLatent
from jepa_video.models.state import PatchState
from tests.agent.tiny_agent import moving_world, on_trainer, world

DISCOUNT = 0.9


def moved(known: Tensor, past: Tensor, action: Tensor) -> Tensor:
    """The state moves by the action."""
    return known[:, -1] + action.mT


def never_sure(state: Tensor) -> Reaction:
    """Two numbers of an action, whose mean is the state's."""
    return Reaction(torch.cat((state.flatten(1), torch.full((len(state), 2), -1.0)), 1), 2, False)


def dream_of(state: Tensor, steps: int, seed: int = 0):
    draw = torch.Generator().manual_seed(seed)
    return dreamt(state, steps, never_sure, moved, lambda action: action, draw)


# -- returns ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("trace", [0.0, 0.3, 0.95, 1.0])
def test_what_a_dream_comes_to_is_the_mixture_of_all_of_its_parts(trace):
    """Eq. 6 of Dreamer, written out: of n steps and the critic's word, weighted by l^(n-1)."""
    draw = torch.Generator().manual_seed(0)
    costs, later = torch.randn(2, 3, 5, generator=draw).unbind(0)
    told, steps = returns(costs, later, DISCOUNT, trace), costs.shape[1]
    for t in range(steps):
        left, parts = steps - t, []
        for n in range(1, left + 1):
            spent = sum(DISCOUNT**k * costs[:, t + k] for k in range(n))
            parts.append(spent + DISCOUNT**n * later[:, t + n - 1])
        mixed = sum((1 - trace) * trace ** (n - 1) * parts[n - 1] for n in range(1, left))
        mixed = mixed + trace ** (left - 1) * parts[-1]
        torch.testing.assert_close(told[:, t], mixed)


# -- dreams ----------------------------------------------------------------------------------------


def test_a_dream_is_what_the_policy_does_in_the_world():
    state = torch.randn(4, 2, 1)
    dream = dream_of(state, 6)
    assert torch.equal(dream.before[:, 0], state)
    assert torch.equal(dream.before[:, 1:], dream.after[:, :-1])
    torch.testing.assert_close(dream.after - dream.before, dream.actions[..., None])
    assert not torch.equal(dream.actions, dream_of(state, 6, seed=1).actions)
    assert torch.equal(dream.actions, dream_of(state, 6).actions)


def test_how_likely_an_action_was_is_that_of_a_squashed_normal():
    dream = dream_of(torch.randn(30, 2, 1), 3)
    mean = dream.before.flatten(2)
    oracle = TransformedDistribution(
        Independent(Normal(mean, torch.full_like(mean, -1.0).exp()), 1), [TanhTransform()]
    )
    likely = oracle.log_prob(dream.actions)
    torch.testing.assert_close(dream.odds, likely, rtol=1e-3, atol=1e-3)


def test_the_slope_of_the_last_state_goes_back_to_the_first_action():
    """d s_H / d s_0 of a policy whose mean is the state: the product of 1 + (1 - a^2) per step."""
    state = torch.randn(5, 2, 1).requires_grad_()
    dream = dream_of(state, 4)
    (slope,) = torch.autograd.grad(dream.after[:, -1].sum(), state)
    told = (2 - dream.actions.square()).prod(1)
    torch.testing.assert_close(slope[..., 0], told)


def test_dynamics_that_look_back_are_shown_all_that_was_dreamt():
    shown = []

    def foretells(known: Tensor, past: Tensor, action: Tensor) -> Tensor:
        shown.append((known.shape[1], past.shape[1], action.shape))
        return known[:, -1]

    draw = torch.Generator().manual_seed(0)
    dreamt(torch.zeros(3, 2, 1), 3, never_sure, foretells, lambda action: action, draw)
    assert shown == [(1, 0, (3, 1, 2)), (2, 1, (3, 1, 2)), (3, 2, (3, 1, 2))]


# -- what is learned of them -----------------------------------------------------------------------


def catching() -> AgentLearner:
    """A place on a line that actions move; the reward is where it is, up to 1, and then falls."""
    world = moving_world(0.25, action_size=1)

    def read(states: Tensor, name: str) -> Tensor:
        return -(states.flatten(-2)[..., :1] - 1).abs()

    torch.manual_seed(0)
    settings = {"hidden": 32, "discount": 0.8, "momentum": 0.7, "correct": 0.0}
    settings |= {"source": "dreams", "ahead": 6, "candidates": 5}
    intrinsic = IntrinsicCost(1.0, 1, read)
    return on_trainer(AgentLearner(world, intrinsic, {"reward": 1.0}, False, **settings))


def batch_of(count: int, seed: int) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    state = 4 * torch.rand(count, 1, 1, generator=draw) - 1
    action = torch.rand(count, 1, generator=draw) * 2 - 1
    given = {"state": state, "next": state, "goal": state, "action": action}
    return given | {"reward": torch.zeros(count), "ahead": torch.full((count,), -1)}


def test_the_policy_goes_to_where_it_is_paid_and_stays_and_the_critic_knows_what_that_costs():
    learner = catching()
    weights = [p for p in learner.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(weights, 5e-3)
    for step in range(250):
        optimizer.zero_grad()
        learner.training_step(batch_of(64, step), step)["loss"].backward()
        optimizer.step()
        for slow, fast in zip(
            learner.target.parameters(), learner.critic.parameters(), strict=True
        ):
            slow.data.lerp_(fast.data, 0.3)
    place = torch.tensor([-0.5, 0.2, 1.0, 1.7, 2.4]).view(5, 1, 1)
    told = learner.critic(place, None)
    left, now = torch.zeros(5), place
    for step in range(30):
        now = now + 0.25 * learner.policy.on(now, None).best()[:, None]
        left += 0.8**step * (now.flatten() - 1).abs()
    assert (now.flatten() - 1).abs().max() < 0.1
    assert (told - left).abs().max() < 0.35
    # By far the most of the cost is told: of all of these places one word would be 0.9 off.
    assert float((left - left.mean()).abs().max().detach()) > 0.9


def test_a_dream_moves_nothing_of_the_world_and_of_what_says_where_to():
    learner = catching()
    dream, left = learner.dream(
        torch.randn(6, 1, 1), None, learner.policy, torch.Generator().manual_seed(0)
    )
    (left.mean() + dream.odds.mean()).backward()
    still = (learner.critic, learner.target, learner.dynamics)
    assert all(weight.grad is None for part in still for weight in part.parameters())
    assert any(weight.grad.any() for weight in learner.policy.parameters())
    assert all(weight.requires_grad for weight in learner.dynamics.parameters())


@pytest.mark.parametrize("latent", [None, GaussianLatent])
def test_a_dream_is_what_the_world_model_foretells_of_its_actions_at_once(latent):
    """Of dynamics that look two states back, and under the z that was drawn for it."""
    made = world(
        state=partial(PatchState, dim=4),
        dynamics=partial(TokenDynamics, hidden=12, depth=1, heads=2, history=2),
        **({} if latent is None else {"latent": partial(latent, dim=2, hidden=8)}),
    ).requires_grad_(False)
    for weight in made.dynamics.parameters():
        weight.data.normal_(0, 0.2, generator=torch.Generator().manual_seed(1))
    settings = {"source": "dreams", "judge": "value", "ahead": 4, "hidden": 8}
    intrinsic = IntrinsicCost(1.0, made.state.aim, made.read)
    learner = AgentLearner(made, intrinsic, {"goal": 1.0}, True, **settings)
    state, goal = torch.randn(2, 3, made.state.tokens, made.state.width).unbind(0)
    with torch.no_grad():
        dream, left = learner.dream(state, goal, learner.policy, torch.Generator().manual_seed(0))
        z = made.futures(state[:, None], 1, torch.Generator().manual_seed(0))
        told = made.imagine(state[:, None], dream.actions, None if z is None else z[:, 0])
    torch.testing.assert_close(dream.after, told)
    assert not torch.allclose(dream.after, dream.before, atol=1e-3)
    assert left.shape == (3, 4)
