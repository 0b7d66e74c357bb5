"""Claims of what an agent learns: the cost that is to come, the way to the goal, from what."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal, TanhTransform, TransformedDistribution

from jepa_video.agent.bank import Bank
from jepa_video.agent.cost import IntrinsicCost
from jepa_video.agent.learner import AgentLearner, reached
from jepa_video.agent.policy import ReactivePolicy
from jepa_video.agent.task import Zone
from jepa_video.errors import UserError
from jepa_video.models.latent import GaussianLatent
from jepa_video.models.state import VectorState
from jepa_video.training.target import ema_update
from tests.agent.tiny_agent import Moving, moving_world, on_trainer, world

DISCOUNT, STEP = 0.8, 0.25


def bank(episodes: int = 8, length: int = 12, width: int = 1, near: int = 3) -> Bank:
    """Places that count up, so that a state tells its episode and time: 100 e + t."""
    made = Bank(0, near)
    for e in range(episodes):
        states = (100.0 * e + torch.arange(length + e)).view(-1, 1, 1).expand(-1, 1, width)
        made.add(states, torch.zeros(len(states) - 1, width), torch.arange(len(states) - 1.0))
    return made


# -- the bank --------------------------------------------------------------------------------------


def test_every_step_that_was_taken_is_there_once():
    memory = bank()
    assert len(memory) == sum(11 + e for e in range(8))
    given = memory.__getitems__([(i, 0) for i in range(len(memory))])
    assert torch.equal(given["next"], given["state"] + 1)
    assert len(given["state"].unique()) == len(memory)
    assert torch.equal(given["reward"], given["state"].flatten() % 100)


def test_goals_are_states_of_the_same_episode_and_ahead_tells_how_far():
    memory = bank()
    given = [memory.__getitems__([(i, 7 * draw) for i in range(len(memory))]) for draw in range(60)]
    state, goal = (torch.cat([g[name].flatten() for g in given]) for name in ("state", "goal"))
    ahead = torch.cat([g["ahead"] for g in given])
    episode = (state / 100).floor()
    assert torch.equal((goal / 100).floor(), episode)
    assert (goal % 100 < 12 + episode).all()
    assert torch.equal(ahead, (goal - state).long())
    # Three quarters may be anywhere, the rest is near; some of the first are near by chance.
    assert 0 in ahead and (ahead < 0).any() and ahead.max() == 18
    apart = ahead[(state % 100 == 5) & (episode == 7)]
    share = (apart.abs() <= 3).float().mean()
    assert share == pytest.approx(0.25 + 0.75 * 7 / 19, abs=0.12)


def test_episodes_of_one_scene_lend_each_other_goals():
    bank = Bank(seed=0, near=2)
    for number, scene in enumerate((7, None, 7, None)):
        states = torch.arange(5.0).add(10 * number).view(5, 1, 1)
        bank.add(states, torch.zeros(4, 1), torch.zeros(4), scene=scene)
    of = {0: {0, 2}, 1: {1}, 2: {0, 2}, 3: {3}}
    met: dict[int, set[int]] = {number: set() for number in of}
    for draw in range(40):
        drawn = bank.__getitems__([(index, draw) for index in range(len(bank))])
        own, aim = (drawn[n].flatten().long() // 10 for n in ("state", "goal"))
        for first, last in zip(own.tolist(), aim.tolist(), strict=True):
            met[first].add(last)
        gap = (drawn["goal"] - drawn["state"]).flatten().long()
        assert torch.equal(drawn["ahead"], torch.where(own == aim, gap, -1))
    assert met == of


def test_a_draw_is_a_function_of_its_key():
    memory = bank()
    keys = [(5, 40), (9, 41), (3, 42)]
    first, again = memory.__getitems__(keys), memory.__getitems__(keys)
    assert all(torch.equal(first[name], again[name]) for name in first)
    other = [memory.__getitems__([(5, d)])["goal"] for d in range(20)]
    assert len(torch.cat(other).unique()) > 5


def test_a_bank_without_episodes_says_so():
    with pytest.raises(UserError, match="no episodes to learn from"):
        len(Bank())


# -- the policy ------------------------------------------------------------------------------------


def test_the_log_likelihood_is_that_of_a_squashed_normal():
    torch.manual_seed(0)
    policy, states = ReactivePolicy(3, 2, False, 0, 16), torch.randn(50, 1, 3)
    mean, log = policy(states, None).chunk(2, -1)
    actions = torch.rand(50, 2) * 1.9 - 0.95
    oracle = TransformedDistribution(
        Independent(Normal(mean, log.clamp(-3, 0.5).exp()), 1), [TanhTransform()]
    )
    found = policy.on(states, None).log_likelihood(actions)
    torch.testing.assert_close(found, oracle.log_prob(actions), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bias", [(0.0, -0.5), (1.0, -1.0), (-0.7, 0.4)])
def test_its_density_is_one_over_all_actions(bias):
    policy = fixed_policy(bias)
    grid = (torch.arange(20_000) + 0.5) / 10_000 - 1
    states = torch.zeros(len(grid), 1, 1)
    density = policy.on(states, None).log_likelihood(grid[:, None]).exp()
    assert float(density.mean() * 2) == pytest.approx(1, abs=2e-3)


def test_draws_have_the_density_that_it_tells():
    policy = fixed_policy((0.5, -0.5))
    drawn = policy.on(torch.zeros(1, 1, 1), None).sample(40_000, torch.Generator().manual_seed(0))
    below = (drawn < math.tanh(0.5)).float().mean()
    assert float(below) == pytest.approx(0.5, abs=0.01)
    spread = torch.atanh(drawn.clamp(-1 + 1e-6, 1 - 1e-6)).std()
    assert float(spread) == pytest.approx(math.exp(-0.5), rel=0.02)


def test_kinds_are_drawn_by_their_chances_and_the_likeliest_is_best():
    policy = ReactivePolicy(1, 3, True, 0, 8)
    for weight in policy.leave.parameters():
        nn.init.zeros_(weight)
    chances = torch.tensor([0.2, 0.7, 0.1])
    last = [m for m in policy.leave.modules() if isinstance(m, nn.Linear)][-1]
    last.bias.data.copy_(chances.log())
    state = torch.zeros(1, 1, 1)
    drawn = policy.on(state, None).sample(20_000, torch.Generator().manual_seed(0))
    torch.testing.assert_close(drawn.mean(1)[0], chances, atol=0.01, rtol=0)
    assert policy.on(state, None).best().tolist() == [[0.0, 1.0, 0.0]]
    told = policy.on(state.expand(3, 1, 1), None).log_likelihood(torch.eye(3))
    torch.testing.assert_close(told, chances.log())


def fixed_policy(bias: tuple[float, float]) -> ReactivePolicy:
    """A policy of one number whose mean and log deviation are these in every state."""
    policy = ReactivePolicy(1, 1, False, 0, 8)
    for weight in policy.leave.parameters():
        nn.init.zeros_(weight)
    last = [m for m in policy.leave.modules() if isinstance(m, nn.Linear)][-1]
    last.bias.data.copy_(torch.tensor(bias))
    return policy


# -- the learner, in a world that is a line --------------------------------------------------------


def line_learner(**options) -> AgentLearner:
    """A place on a line, moved by a quarter of the action; at the goal there is no cost."""
    world = moving_world(STEP, action_size=1)
    torch.manual_seed(0)
    intrinsic = IntrinsicCost(0.05, 1, lambda states, name: states.flatten(-2))
    settings = {"hidden": 48, "discount": DISCOUNT, "momentum": 0.7, "correct": 0.0}
    settings |= {"judge": "value", **options}
    return on_trainer(AgentLearner(world, intrinsic, {"goal": 1.0}, True, 1.0, **settings))


def line_batch(step: int, count: int = 96) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(step)
    state, goal = (4 * STEP * torch.rand(2, count, 1, 1, generator=draw)).unbind(0)
    action = torch.rand(count, 1, generator=draw) * 2 - 1
    unknown = torch.full((count,), -1)
    return {"state": state, "goal": goal, "action": action, "ahead": unknown} | {
        "next": state + STEP * action[:, None],
        "reward": torch.zeros(count),
    }


def trained(
    learner: AgentLearner, steps: int, pairs: Callable[[int], dict[str, Tensor]] = line_batch
) -> AgentLearner:
    weights = [p for p in learner.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, weight_decay=1e-4)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-2, steps)
    learner.scale_to(torch.tensor([0.5]), torch.tensor([0.3]))
    for step in range(steps):
        optimizer.zero_grad()
        learner.training_step(pairs(step), step)["loss"].backward()
        nn.utils.clip_grad_norm_(weights, 5.0)
        optimizer.step()
        rate.step()
        ema_update(learner.target, learner.critic, learner.momentum)
    return learner


def starts() -> tuple[Tensor, Tensor]:
    """All pairs of places on a grid."""
    places = torch.linspace(0, 4 * STEP, 17)
    pairs = torch.cartesian_prod(places, places)
    return pairs[:, :1, None], pairs[:, 1:, None]


class Stairs(Moving):
    """Nine places in a row; three kinds of action: back, stay, on."""

    def forward(self, states: Tensor, actions: Tensor, z: Tensor | None = None) -> Tensor:
        way = actions[:, -1, 2] - actions[:, -1, 0]
        return (states[:, -1] + STEP * way[:, None, None]).clamp(0, 8 * STEP)


@pytest.fixture(scope="module")
def stairs() -> AgentLearner:
    """Kinds of action, and a cost of exactly 0 at the goal and 1 elsewhere."""
    world = moving_world(action_size=3, discrete=True)
    world.dynamics = Stairs()
    world.state.width = 1
    torch.manual_seed(0)
    intrinsic = IntrinsicCost(0.01, 1, world.read)
    settings = {"hidden": 64, "discount": DISCOUNT, "momentum": 0.7, "holds": (1,)}
    settings |= {"candidates": 6, "correct": 0.0, "judge": "value"}
    learner = on_trainer(AgentLearner(world, intrinsic, {"goal": 1.0}, True, **settings))

    def pairs(step: int) -> dict[str, Tensor]:
        draw = torch.Generator().manual_seed(step)
        state, goal = STEP * torch.randint(0, 9, (2, 96, 1, 1), generator=draw).float()
        kinds = torch.eye(3)[torch.randint(0, 3, (96,), generator=draw)]
        return {"state": state, "goal": goal, "action": kinds, "ahead": torch.full((96,), -1)}

    return trained(learner, 500, pairs)


def stair_pairs() -> tuple[Tensor, Tensor]:
    places = STEP * torch.arange(9.0)
    pairs = torch.cartesian_prod(places, places)
    return pairs[:, :1, None], pairs[:, 1:, None]


def test_the_critic_learns_the_cost_of_the_shortest_way(stairs):
    """Over n steps, of which the last costs nothing, it is `(1 - d^(n-1)) / (1 - d)`."""
    state, goal = stair_pairs()
    steps = ((goal - state).abs() / STEP).round().flatten()
    cost = (1 - DISCOUNT ** (steps - 1).clamp_min(0)) / (1 - DISCOUNT)
    off = (stairs.critic(state, goal).detach() - cost).abs()
    assert float(off.mean()) < 0.03 * float(cost.max())
    assert float(off.max()) < 0.1 * float(cost.max())


def test_the_policy_distilled_from_plans_goes_the_shortest_way(stairs):
    state, goal = stair_pairs()
    kinds = stairs.policy.on(state, goal).best()
    way = (kinds[:, 2] - kinds[:, 0]).round()
    assert torch.equal(way, (goal - state).sign().flatten())


def test_a_policy_of_numbers_distilled_from_plans_comes_to_the_goal():
    learner = trained(line_learner(holds=(1,)), 250)
    state, goal = starts()
    for _ in range(5):
        state = state + STEP * learner.policy.on(state, goal).best()[:, None]
    assert float(((state - goal).abs() < STEP / 2).float().mean()) > 0.95


def test_first_the_dynamics_are_corrected_on_what_memory_saw():
    """Then they stand still, and critic and policy learn."""
    model = world(state=partial(VectorState, dim=3, hidden=8)).requires_grad_(False).eval()
    torch.manual_seed(0)
    nn.init.normal_(model.dynamics.leave.weight)
    intrinsic = IntrinsicCost(0.5, 3, model.read)
    learner = AgentLearner(
        model, intrinsic, {"goal": 1.0}, True, hidden=16, correct=0.3, judge="value"
    )
    state, goal, after = torch.randn(3, 20, 1, 3).unbind(0)
    given = {"state": state, "goal": goal, "next": after, "action": torch.rand(20, 2) * 2 - 1}
    given["ahead"] = torch.full((20,), 4)
    others = (*learner.critic.parameters(), *learner.policy.parameters())
    for step, corrects in ((0, True), (2, True), (3, False), (9, False)):
        on_trainer(learner, step).zero_grad()
        loss = learner.training_step(given, 0)["loss"]
        loss.backward()
        assert all((p.grad is not None) == corrects for p in learner.dynamics.parameters())
        assert all((p.grad is None) == corrects for p in others)
        assert all(p.grad is None for p in model.perception())
        if corrects:
            told = model.dynamics(state[:, None], given["action"][:, None])
            energy = model.prediction * (told - after).square().mean()
            assert float(loss.detach()) == pytest.approx(float(energy.detach()), rel=1e-5)


def test_dynamics_that_are_to_foretell_several_steps_are_corrected_on_as_many_as_memory_has():
    """The mean energy of rollouts; what lies behind the end of an episode counts nothing."""
    model = world(state=partial(VectorState, dim=3, hidden=8)).requires_grad_(False).eval()
    torch.manual_seed(0)
    nn.init.normal_(model.dynamics.leave.weight, std=0.1)
    intrinsic = IntrinsicCost(0.5, 3, model.read)
    learner = on_trainer(AgentLearner(model, intrinsic, {"goal": 1.0}, True, foretold=4))
    memory = Bank(0)
    for length in (3, 9):
        memory.add(torch.randn(length, 1, 3), torch.rand(length - 1, 2), torch.zeros(length - 1))
    memory.onward = learner.foretold
    given = memory.__getitems__([(index, 0) for index in range(len(memory))])
    loss = learner.training_step(given, 0)["loss"]
    energies = []
    for states, actions in zip(memory.states, memory.actions, strict=True):
        for begin in range(len(actions)):
            known = states[begin : begin + 1, None]
            for step in range(begin, min(begin + 4, len(actions))):
                told = model.dynamics(known, actions[step : step + 1, None])
                energies.append((told - states[step + 1]).square().mean())
                known = told[:, None]
    wanted = model.prediction * torch.stack(energies).sum() / (4 * len(memory))
    assert float(loss.detach()) == pytest.approx(float(wanted.detach()), rel=1e-5)


def test_as_many_steps_as_are_foretold_have_to_be_told():
    with pytest.raises(UserError, match="foretold 4 needs as many steps of learn.recall, .* is 3"):
        line_learner(foretold=4, recall=3)
    with pytest.raises(UserError, match="draws single steps: leave learn.foretold at 1"):
        line_learner(foretold=2, surprise=0.5)
    assert line_learner(foretold=3, recall=3).foretold == 3


def test_training_leaves_world_and_intrinsic_cost_as_they_are():
    learner = line_learner()
    before = {name: value.clone() for name, value in learner.world.state_dict().items()}
    reach, read, weights = learner.intrinsic.reach, learner.intrinsic.read, dict(learner.weights)
    state, goal = starts()
    told = learner.intrinsic(state, state[:, 0], task(learner, goal))
    critic = [p.clone() for p in learner.critic.parameters()]
    trained(learner, 5)
    assert any(
        not torch.equal(a, b) for a, b in zip(critic, learner.critic.parameters(), strict=True)
    )
    assert all(torch.equal(before[n], v) for n, v in learner.world.state_dict().items())
    assert (learner.intrinsic.reach, learner.intrinsic.read) == (reach, read)
    assert learner.weights == weights
    assert torch.equal(learner.intrinsic(state, state[:, 0], task(learner, goal)), told)
    parts = ("critic", "target", "policy", "worth")
    assert {name.split(".")[0] for name in learner.state_dict()} == {*parts}


def task(learner: AgentLearner, goal: Tensor):
    from jepa_video.agent.task import Task

    return Task(goal, learner.weights)


def test_what_memory_lived_bounds_the_cost_by_the_geometric_sum():
    learner = line_learner()
    learner.weights["goal"] = 2.0
    ahead = torch.tensor([0, 1, 5, 30, -1, -9])
    told = learner.lived(ahead).tolist()
    for steps, bound in zip((0, 1, 5, 30), told, strict=False):
        assert bound == pytest.approx(2 * sum(DISCOUNT**k for k in range(steps)), rel=1e-5)
    assert told[4:] == [math.inf, math.inf]
    learner.weights["effort"] = 0.1
    assert learner.lived(ahead).isinf().all()


def test_no_target_is_above_what_memory_lived():
    learner = line_learner()
    seen: dict[str, float] = {}
    learner.log_dict = lambda values: seen.update({k: float(v) for k, v in values.items()})
    given = line_batch(0)
    learner.training_step(given, 0)
    free = seen["cost"]
    learner.training_step({**given, "ahead": torch.zeros(len(given["ahead"]), dtype=int)}, 0)
    assert free > 0.5 and seen["cost"] <= 1e-6


def test_what_it_learns_keeps_out_of_zones():
    """The outcome of a step into a box costs the box more than one that stays out of it."""
    world = moving_world(STEP, action_size=1)
    intrinsic = IntrinsicCost(0.05, 1, lambda states, name: states.flatten(-2))
    made = [
        on_trainer(AgentLearner(world, intrinsic, {"zone": 5.0}, False, 1.0, zones, holds=(1,)))
        for zones in ((), (Zone((0.9 * STEP,), (2 * STEP,), 0.0),))
    ]
    made[1].target.load_state_dict(made[0].target.state_dict())
    actions, draw = torch.tensor([[[1.0], [-1.0]]]), torch.Generator()
    free, kept = (one.outcome(torch.zeros(1, 1, 1), None, actions, draw)[0] for one in made)
    torch.testing.assert_close(kept - free, torch.tensor([5.0, 0.0]))


def test_the_outcome_of_a_plan_is_the_least_over_how_long_it_is_held():
    learner = line_learner(holds=(1, 3))
    state, goal = torch.zeros(1, 1, 1), torch.full((1, 1, 1), 3 * STEP)
    actions = torch.tensor([[[1.0], [-1.0]]])
    draw = torch.Generator().manual_seed(0)
    told = learner.outcome(state, goal, actions, draw)
    for number, action in enumerate((1.0, -1.0)):
        place, total, found = state.clone(), 0.0, []
        for k in range(3):
            place = place + STEP * action
            total += DISCOUNT**k * float(
                learner.intrinsic(place, actions[:, 0], task(learner, goal))
            )
            later = float(learner.target.each(place, goal).amax(0))
            found.append(total + DISCOUNT ** (k + 1) * later)
        assert float(told[0, number]) == pytest.approx(min(found[0], found[2]), rel=1e-5)


class Gated(Moving):
    """Half of the futures, those whose z is below 0, hold who moves."""

    latent_width = 1

    def forward(self, states: Tensor, actions: Tensor, z: Tensor | None = None) -> Tensor:
        assert z is not None
        return torch.where(z > 0, super().forward(states, actions), states[:, -1])


def test_the_outcome_of_a_plan_is_its_mean_over_chance_and_what_was_lucky_bounds_nothing():
    learner = line_learner(holds=(2,))
    state, goal = torch.zeros(2, 1, 1), torch.full((2, 1, 1), 3 * STEP)
    actions, draw = torch.tensor([[[1.0], [-1.0]]]).expand(2, -1, -1), torch.Generator()
    moved = learner.outcome(state, goal, actions, draw)
    stood = learner.outcome(state, goal, 0 * actions, draw)

    world = learner.world
    step, world.dynamics = world.dynamics.step, Gated(1, 1, 1)
    world.dynamics.step, learner.futures = step, 2
    world.latent = GaussianLatent(1, dim=1)
    chances = torch.tensor([1.0, -1.0]).expand(2, 2)[..., None, None]  # B count L Z
    world.futures = lambda known, count, draw: chances
    told = learner.outcome(state, goal, actions, draw)
    held = [(first + second) / 2 for first, second in zip(moved, stood, strict=True)]
    torch.testing.assert_close(told, torch.stack(held))
    assert learner.lived(torch.tensor([1])).isinf().all()


@pytest.mark.parametrize("discrete", [False, True])
def test_proposals_are_the_policys_what_was_done_and_draws_over_all_actions(discrete):
    learner = line_learner(candidates=40)
    if discrete:
        world = moving_world(action_size=3, discrete=True)
        intrinsic = IntrinsicCost(0.05, 3, world.read)
        learner = AgentLearner(world, intrinsic, {"goal": 1.0}, True, candidates=40, hidden=16)
    width = learner.world.facts.action_size
    state, goal = torch.randn(2, 30, 1, width).unbind(0)
    done = torch.eye(3)[torch.arange(30) % 3] if discrete else torch.rand(30, 1) * 2 - 1
    tried = learner.proposals(
        state, learner.policy.on(state, goal), done, torch.Generator().manual_seed(0)
    )
    assert tried.shape == (30, 40, width)
    torch.testing.assert_close(tried[:, 0], learner.policy.on(state, goal).best())
    assert torch.equal(tried[:, 1], done)
    if discrete:
        assert ((tried == 0) | (tried == 1)).all() and (tried.sum(-1) == 1).all()
        assert (tried.mean((0, 1)) > 0.2).all()
    else:
        assert (tried.norm(dim=-1) <= 1 + 1e-6).all()
        assert (tried.abs().amax(-1) > 0.999).float().mean() > 0.4  # the edge is among them
        assert (tried.abs() < 0.3).any()


KINDS_TOO = [(source, kinds) for source in ("plans", "data") for kinds in (False, True)]
NOT_KINDS = [(source, False) for source in ("critic", "dreams", "deeds")]


@pytest.mark.parametrize(("source", "discrete"), [*KINDS_TOO, *NOT_KINDS])
def test_every_source_of_the_policy_trains_it(source, discrete):
    world = moving_world(action_size=3, discrete=discrete)
    intrinsic = IntrinsicCost(0.5, 3, world.read)
    torch.manual_seed(0)
    settings = {"source": source, "hidden": 16, "correct": 0.0, "judge": "value"}
    learner = on_trainer(AgentLearner(world, intrinsic, {"goal": 1.0}, True, **settings))
    kinds = torch.eye(3)[torch.arange(20) % 3]
    actions = kinds if discrete else torch.rand(20, 3) * 2 - 1
    state, goal = torch.randn(2, 20, 1, 3).unbind(0)
    given = {"state": state, "goal": goal, "next": state + actions[:, None], "action": actions}
    given |= {"reward": torch.zeros(20), "ahead": torch.full((20,), 4)}
    given["terminated"] = torch.zeros(20, dtype=torch.bool)
    learner.training_step(given, 0)["loss"].backward()
    for part in (learner.critic, learner.policy):
        assert all(p.grad is not None and p.grad.isfinite().all() for p in part.parameters())
        assert any(p.grad.any() for p in part.parameters())
    assert all(p.grad is None for p in learner.target.parameters())
    assert all(p.grad is None for p in learner.world.parameters())


@pytest.mark.parametrize("source", ["critic", "dreams", "deeds"])
def test_kinds_have_no_slope_to_follow(source):
    world = moving_world(action_size=3, discrete=True)
    with pytest.raises(UserError, match=f"source {source} .* kinds have none: take plans"):
        AgentLearner(world, IntrinsicCost(0.5, 3, world.read), {"goal": 1.0}, True, source=source)


@pytest.mark.parametrize("source", ["dreams", "deeds"])
@pytest.mark.parametrize("settings", [{"judge": "ways"}, {"judge": "value", "recall": 3}, {}])
def test_both_teach_a_critic_of_values_that_learns_from_nothing_else(source, settings):
    settings = {"source": source, **settings}
    with pytest.raises(UserError, match=f"{source} takes --learn.judge value, and no learn.recall"):
        line_learner(**({"judge": "auto"} | settings))


@pytest.mark.parametrize("judge", ["ways", "value"])
def test_a_policy_that_follows_the_critic_does_not_move_what_it_follows(judge):
    world = moving_world(action_size=3)
    torch.manual_seed(0)
    learner = AgentLearner(
        world, IntrinsicCost(0.5, 3, world.read), {"goal": 1.0}, True, source="critic", hidden=16,
        judge=judge,
    )  # fmt: skip
    state, goal = torch.randn(2, 20, 1, 3).unbind(0)
    actions = torch.rand(20, 3) * 2 - 1
    batch = {"state": state, "goal": goal, "next": state, "action": actions}
    acted, _, _ = on_trainer(learner, 9).distilled(batch, torch.Generator().manual_seed(0))
    acted.backward()
    still = (learner.critic, learner.dynamics)
    assert all(weight.grad is None for part in still for weight in part.parameters())
    assert all(weight.requires_grad for part in still for weight in part.parameters())
    assert any(weight.grad.any() for weight in learner.policy.parameters())


def test_actions_of_memory_are_those_of_where_its_episode_was_later_or_of_the_next_state():
    goal, after = torch.zeros(3, 1, 2), torch.ones(3, 1, 2)
    told = reached({"goal": goal, "next": after, "ahead": torch.tensor([4, 0, -1])})
    assert told.flatten(1).mean(1).tolist() == [0, 1, 1]


@pytest.mark.parametrize("source", ["critic", "dreams"])
def test_the_slope_of_the_critic_leads_the_policy_to_the_goal(source):
    learner = trained(line_learner(source=source, holds=(1,), ahead=4), 150)
    state, goal = starts()
    away = (goal - state).flatten()
    action = learner.policy.on(state, goal).best()[:, 0]
    far = away.abs() > 0.3
    assert float((action.sign() == away.sign())[far].float().mean()) > 0.9


def test_without_goals_rewards_drive():
    world = moving_world(action_size=1)
    intrinsic = IntrinsicCost(1.0, 1, lambda states, name: states.flatten(-2)[..., :1])
    torch.manual_seed(0)
    settings = {"hidden": 16, "discount": 0.5, "correct": 0.0}
    learner = on_trainer(AgentLearner(world, intrinsic, {"reward": 1.0}, False, **settings))
    given = line_batch(0)
    learner.training_step(given, 0)
    costs = learner.outcome(
        torch.zeros(1, 1, 1), None, torch.tensor([[[1.0], [-1.0]]]), torch.Generator()
    )
    assert costs[0, 0] < costs[0, 1]  # up the line is what is rewarded


def test_the_doubt_is_a_quantile_over_all_of_memory():
    """The disagreement of these networks is the state itself: its quantile is known."""
    learner, memory = line_learner(), bank(1, 201)
    learner.critic.each = lambda states, goal: (
        torch.stack((states.flatten(), -states.flatten())) / math.sqrt(2)
    )
    told = learner.doubt_of(memory, 0.7)
    assert told == pytest.approx(0.7 * 199, abs=0.5)
    assert learner.doubt_of(memory, 0.7, count=50) == pytest.approx(0.7 * 196, abs=0.5)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"candidates": 1}, "candidates must be 5 or more"),
        ({"holds": ()}, "members and holds 1 or more"),
        ({"holds": (0, 2)}, "members and holds 1 or more"),
        ({"discount": 1.0}, "discount must be between 0 and 1, not 1.0"),
        ({"correct": 1.0}, "learn.correct must be from 0 to below 1"),
        ({"planned": 1}, "learn.planned 2 or more, not 0.0 and 1"),
    ],
)
def test_settings_that_teach_nothing_are_refused(options, said):
    with pytest.raises(UserError, match=said):
        line_learner(**options)


def test_a_critic_of_one_network_learns_and_has_no_doubt():
    learner = line_learner(members=1)
    seen: dict[str, Tensor] = {}
    learner.log_dict = seen.update
    assert torch.isfinite(learner.training_step(line_batch(0), 0)["loss"])
    assert "doubt" not in seen and learner.doubt_of(bank(), 0.7) == 0.0


def test_the_counter_of_the_draws_is_stored_and_names_them():
    learner, other = line_learner(), line_learner()
    learner.training_step(line_batch(0), 0)
    saved: dict = {}
    learner.on_save_checkpoint(saved)
    other.on_load_checkpoint(saved)
    given = line_batch(1)
    losses = [float(one.training_step(given, 0)["loss"].detach()) for one in (learner, other)]
    assert losses[0] == losses[1]
    assert losses[0] != float(learner.training_step(given, 0)["loss"].detach())


def test_the_target_network_follows_inside_the_optimizers_step():
    learner = line_learner(momentum=0.5)
    before = [p.clone() for p in learner.target.parameters()]
    for p in learner.critic.parameters():
        p.data += 1.0
    ema_update(learner.target, learner.critic, learner.momentum)
    for old, new in zip(before, learner.target.parameters(), strict=True):
        torch.testing.assert_close(new, old + 0.5)
