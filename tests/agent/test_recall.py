"""Claims of what memory teaches: values of its own steps, and what surprised comes more often."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from jepa_video.agent.bank import Bank
from jepa_video.agent.cost import Critic
from jepa_video.agent.frozen import frozen_parts, strangeness
from jepa_video.agent.recall import (
    expectile,
    lived,
    reached,
    recalled,
    returns,
    surprises,
    surprising,
)
from jepa_video.errors import UserError
from jepa_video.training.target import ema_update, frozen_copy
from tests.agent.test_learner import STEP, line_learner
from tests.agent.tiny_agent import on_trainer, world

DISCOUNT = 0.9


def memory(onward: int = 4, episodes: int = 3) -> Bank:
    """Places that count up, so that a state tells its episode and time: 100 e + t."""
    made = Bank(0, onward=onward)
    for e in range(episodes):
        states = (100.0 * e + torch.arange(8.0)).view(-1, 1, 1)
        ends = torch.zeros(7, dtype=torch.bool)
        ends[-1] = e == 1
        made.add(states, states[:-1, :, 0] + 0.5, torch.zeros(7), ends)
    return made


def test_what_followed_is_of_the_same_episode_and_as_long_as_it_is():
    bank = memory()
    for draw in range(10):
        given = bank.__getitems__([(i, 100 * draw) for i in range(len(bank))])
        state, way, steps = given["state"].flatten(), given["way"].flatten(1), given["steps"]
        left = 7 - state % 100
        assert (steps >= 1).all() and (steps <= torch.minimum(left, torch.tensor(4.0))).all()
        counts = torch.arange(4) < steps[:, None]
        wanted = state[:, None] + 1 + torch.arange(4)
        assert torch.equal(way[counts], wanted[counts])
        assert torch.equal(given["did"][..., 0][counts], (wanted - 0.5)[counts])
        ended = (state[:, None] + torch.arange(4) == 106) & counts
        assert torch.equal(given["ended"] & counts, ended)


class Says(Critic):
    """Says the state's number."""

    def forward(self, states: Tensor, goal: Tensor | None) -> Tensor:
        return states.flatten(1)[:, 0]


def test_returns_are_the_discounted_sum_and_what_comes_after_unless_it_ended():
    batch = {
        "state": torch.zeros(3, 1, 1),
        "way": torch.tensor([[1.0, 2.0, 3.0]] * 3)[..., None, None],
        "did": torch.zeros(3, 3, 1),
        "ended": torch.tensor([[False] * 3, [False] * 3, [False, True, False]]),
        "steps": torch.tensor([1, 3, 2]),
    }
    told = returns(Says(1, 0), batch, lambda s, a, g: 10 * s.flatten(2)[..., 0], None, DISCOUNT)
    wanted = [10 + 0.9 * 1, 10 + 0.9 * 20 + 0.81 * 30 + 0.729 * 3, 10 + 0.9 * 20]
    assert told.tolist() == pytest.approx(wanted)


@pytest.mark.parametrize("share", [0.5, 0.15])
def test_an_expectile_is_where_its_loss_is_least(share):
    torch.manual_seed(0)
    drawn = torch.randn(500)
    guesses = torch.linspace(-2, 2, 801)
    losses = torch.stack([expectile(drawn - guess, share) for guess in guesses])
    best = guesses[losses.argmin()]
    above, below = (drawn - best).relu().mean(), (best - drawn).relu().mean()
    assert float(share * above) == pytest.approx(float((1 - share) * below), rel=0.02)


def test_a_critic_learns_the_way_that_no_episode_went_as_a_whole():
    """Five places in a row, the last ends it; episodes of two steps, half of them the wrong way."""
    torch.manual_seed(0)
    bank = Bank(0, onward=1)
    for _ in range(40):
        for start in range(3):
            for way in (1, -1):
                line = torch.arange(start, start + 3)
                line = line if way > 0 else line.flip(0)
                states = torch.nn.functional.one_hot(line, 5).float()[:, None]
                bank.add(states, torch.zeros(2, 1), torch.zeros(2), line[1:] == 4)
    critic = Critic(5, 0, 32, members=1)
    later = frozen_copy(critic)
    optimizer = torch.optim.Adam(critic.parameters(), 3e-3)

    def felt(states: Tensor, actions: Tensor, goal: Tensor | None) -> Tensor:
        return 1 - states[..., 0, 4]

    for step in range(800):
        batch = bank.__getitems__(
            [(i, i + 1000 * step) for i in torch.randint(len(bank), (64,)).tolist()]
        )
        no_bound = torch.full((64,), torch.inf)
        loss = recalled(critic, later, batch, felt, DISCOUNT, 0.98, no_bound)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        ema_update(later, critic, 0.95)
    told = critic(torch.eye(5)[:, None], None)[:4].tolist()
    ways = [sum(DISCOUNT**k for k in range(3 - place)) for place in range(4)]
    assert told == pytest.approx(ways, abs=0.35)


def test_memory_bounds_what_a_way_costs_and_says_nothing_of_what_is_behind():
    told = lived(torch.tensor([0, 1, 3, -1, -9]), DISCOUNT, 2.0)
    assert told[:3].tolist() == pytest.approx([0, 2, 2 * (1 + 0.9 + 0.81)])
    assert told[3:].isinf().all()


def test_actions_are_taught_for_where_they_led():
    batch = {
        "next": torch.zeros(3, 1, 1), "goal": torch.ones(3, 1, 1),
        "ahead": torch.tensor([2, 0, -1]),
    }  # fmt: skip
    assert reached(batch).flatten().tolist() == [1, 0, 0]


def test_steps_come_as_often_as_they_weigh():
    bank = memory()
    weights = torch.ones(len(bank))
    weights[3], weights[5] = 17.0, 0.0
    bank.weigh(weights)
    drawn = bank.__getitems__([(i % 21, i) for i in range(6000)])
    odd, total = drawn["odd_state"].flatten(), float(weights.sum())
    assert float((odd == 3).float().mean()) == pytest.approx(17 / total, abs=0.03)
    assert not (odd == 5).any() and (odd == 104).any()
    assert torch.equal(drawn["odd_next"], drawn["odd_state"] + 1)
    assert torch.equal(drawn["odd_action"], drawn["odd_state"][..., 0] + 0.5)


def test_what_is_new_in_memory_has_to_be_weighed_again():
    bank = memory()
    bank.weigh(torch.ones(len(bank)))
    assert "odd_state" in bank[0]
    bank.add(torch.zeros(3, 1, 1), torch.zeros(2, 1), torch.zeros(2))
    assert "odd_state" not in bank[0]


def test_a_share_of_what_is_corrected_is_what_surprised():
    names = ("state", "action", "next")
    batch = {name: torch.zeros(8, 1) for name in names}
    assert all(not part.any() for part in surprising(batch, 0.5))
    batch |= {f"odd_{name}": torch.ones(8, 1) for name in names}
    for part in surprising(batch, 0.25):
        assert part.flatten().tolist() == [1] * 2 + [0] * 6


def test_the_step_that_the_world_model_does_not_foresee_surprises_most():
    model = world()
    torch.manual_seed(0)
    state = torch.randn(6, model.state.tokens, model.state.width)
    action = torch.rand(6, model.facts.action_size)
    with torch.no_grad():
        after = model.imagine(state[:, None], action[:, None])[:, 0]
    after[4] += 1
    halves = zip(state.split(3), action.split(3), after.split(3), strict=True)
    told = surprises(model, halves, torch.device("cpu"), torch.Generator())
    assert told.argmax() == 4 and float(told[4]) > 10 * float(told[:4].max() + 1e-6)


def test_what_came_is_strange_by_how_much_worse_than_memory_it_is_foretold():
    model, bank = world(), Bank(0)
    torch.manual_seed(0)
    known = torch.randn(9, model.state.tokens, model.state.width)
    actions = torch.rand(8, model.facts.action_size)
    bank.add(known, actions, torch.zeros(8))
    here = torch.device("cpu"), torch.Generator()
    bank.add(known, actions, torch.zeros(8))
    assert strangeness(model, bank, 8, *here) == pytest.approx(1)
    with torch.no_grad():
        told = model.imagine(known[:-1, None], actions[:, None])[:, 0]
    bank = Bank(0)
    bank.add(known, actions, torch.zeros(8))
    for i in range(8):  # half of the way from what came to what was foretold: a quarter of it
        after = (known[1 + i] + told[i]) / 2
        bank.add(torch.stack((known[i], after)), actions[i : i + 1], torch.zeros(1))
    assert strangeness(model, bank, 8, *here) == pytest.approx(0.25, rel=1e-4)


def test_dynamics_stand_still_where_it_is_not_too_strange():
    cases = [(1.2, 1.2), (1.3, 1.2), (0.1, None), (float("nan"), 1.2)]
    assert [bool(frozen_parts(*case)) for case in cases] == [True, False, False, False]


def test_the_learner_asks_memory_for_what_it_needs_and_counts_in_the_usual_cost():
    learner, bank = line_learner(recall=3, surprise=0.5, correct=0.5), Bank(0)
    for number in range(4):
        states = STEP * torch.arange(9.0).view(-1, 1, 1)
        bank.add(states, torch.ones(8, 1), torch.zeros(8), scene=number)
    learner.measure(bank)
    batch = bank.__getitems__([(i, i) for i in range(32)])
    assert batch["way"].shape == (32, 3, 1, 1) and "odd_state" in batch
    spread = bank.spread()
    usual = learner.felt(spread["next"], spread["action"], spread["goal"]).mean()
    for part in (learner.critic, learner.target):
        for told in (part.unit, part.first):
            assert float(told) == pytest.approx(float(usual / (1 - learner.discount)))
    steps = [torch.cat(parts) for parts in zip(*bank.transitions(5), strict=True)]
    assert len(steps[0]) == len(bank)
    torch.testing.assert_close(steps[2] - steps[0], STEP * steps[1][:, None])
    parts = {"critic": learner.critic, "policy": learner.policy}
    for step, learns in ((6, "critic"), (8, "critic policy")):
        on_trainer(learner, step).zero_grad()
        learner.training_step(batch, 0)["loss"].backward()
        for name, part in parts.items():
            moved = any(p.grad is not None and p.grad.any() for p in part.parameters())
            assert moved == (name in learns), (step, name)


def test_a_critic_of_ways_has_no_use_for_it():
    with pytest.raises(UserError, match="recall is of a critic of values"):
        line_learner(recall=3, judge="ways")
