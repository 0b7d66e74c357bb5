"""Planners against minima known in closed form, and against the errors planners are known for."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from jepa_video.agent.planners import (
    CEM,
    MPPI,
    CategoricalCEM,
    GradientPlanner,
    Limits,
    OverFutures,
    Plan,
    PolishedPlanner,
)
from jepa_video.agent.planners.noise import coloured
from jepa_video.agent.planners.sampling import elite_weights, soft_weights
from jepa_video.errors import UserError
from jepa_video.randomness import generator

HORIZON, WIDTH = 4, 2
BOX = Limits(WIDTH)
SEARCHES = {
    "cem": lambda limits: CEM(HORIZON, limits, 100, 12, momentum=0.1),
    "plain cem": lambda limits: CEM(HORIZON, limits, 150, 12, 15, carried=0, decay=1.0),
    "icem": lambda limits: CEM(HORIZON, limits, 100, 12, colour=1.0),
    "mppi": lambda limits: MPPI(HORIZON, limits, 200, 12, temperature=0.2),
}
GRADIENTS = {
    "adam": lambda limits: GradientPlanner(HORIZON, limits, 3, 150, 0.1, "adam"),
    "lbfgs": lambda limits: GradientPlanner(HORIZON, limits, 3, 30),
    "polished": lambda limits: PolishedPlanner(CEM(HORIZON, limits, 40, 3), 3, 30),
}
PLANNERS = SEARCHES | GRADIENTS


def quadratic(state: Tensor, actions: Tensor, task: Tensor) -> Tensor:
    """(a - state)' M (a - state) over all steps, whose minimum is at `state` `B H A`; M `task`."""
    away = (actions - state[:, None]).flatten(2)
    return (away @ task * away).sum(-1)


def problem(batch: int = 3, seed: int = 0, scale: float = 0.6) -> tuple[Tensor, Tensor]:
    """Minima inside the box, and a well-conditioned positive definite matrix."""
    rng = generator(seed)
    goals = (2 * torch.rand(batch, HORIZON, WIDTH, generator=rng) - 1) * scale
    root = torch.randn(HORIZON * WIDTH, HORIZON * WIDTH, generator=rng) * 0.2
    return goals, torch.eye(HORIZON * WIDTH) + root @ root.T


@pytest.mark.parametrize("name", PLANNERS)
def test_the_minimum_of_a_quadratic_cost_is_found(name):
    goals, task = problem()
    plan = PLANNERS[name](BOX).plan(quadratic, goals, task, None, generator(1))
    assert plan.actions.shape == goals.shape
    assert (plan.actions - goals).abs().max() < (0.1 if name in SEARCHES else 1e-3)


@pytest.mark.parametrize("name", PLANNERS)
@pytest.mark.parametrize(
    "limits", [BOX, Limits(WIDTH, (-0.3, -1.0), (0.2, 0.5)), Limits(WIDTH, norm=0.4)]
)
def test_what_is_returned_is_within_the_limits_and_is_what_was_costed(name, limits):
    """The minimum lies outside: a planner that clips afterwards would report another cost."""
    goals, task = problem(scale=3.0)
    seen = []

    def watched(state, actions, task):
        seen.append(actions.detach())
        return quadratic(state, actions, task)

    plan = PLANNERS[name](limits).plan(watched, goals, task, None, generator(1))
    for actions in [*seen, plan.actions, plan.elites]:
        assert torch.equal(actions, actions.clamp(*limits._box(actions)))
        assert limits.norm is None or actions.norm(dim=-1).max() <= limits.norm * (1 + 1e-6)
    again = quadratic(goals, plan.actions[:, None], task)[:, 0]
    assert torch.allclose(again, plan.cost, rtol=1e-5)
    assert plan.evaluations == sum(actions.shape[1] for actions in seen)


@pytest.mark.parametrize("name", PLANNERS)
@pytest.mark.parametrize("limits", [Limits(WIDTH, -0.5, 0.25), Limits(WIDTH, norm=0.4)])
def test_the_minimum_within_the_limits_is_found(name, limits):
    """For the identity the nearest allowed point is the minimum: each action clipped."""
    goals, _ = problem(scale=2.0)
    plan = PLANNERS[name](limits).plan(
        quadratic, goals, torch.eye(HORIZON * WIDTH), None, generator(1)
    )
    least = quadratic(goals, limits.clip(goals)[:, None], torch.eye(HORIZON * WIDTH))[:, 0]
    if limits.norm is not None:  # box, then ball: the nearest point of the ball alone is nearer
        length = goals.norm(dim=-1, keepdim=True)
        nearest = goals * (limits.norm / length).clamp_max(1)
        least = quadratic(goals, nearest[:, None], torch.eye(HORIZON * WIDTH))[:, 0]
    assert (plan.cost >= least - 1e-4).all()
    slack = 0.1 * least if name in SEARCHES else 0.001 * least
    assert (plan.cost - least <= slack).all()


@pytest.mark.parametrize("name", PLANNERS)
def test_a_warm_start_never_ends_worse_than_it_began(name):
    """On a problem that stands still, over ten decisions, also with hardly any samples."""
    goals, task = problem()
    planner = CEM(HORIZON, BOX, 4, 1, 2, 1) if name == "cem" else PLANNERS[name](BOX)
    rng, plan = generator(1), None
    costs = []
    for _ in range(10 if name == "cem" else 3):
        plan = planner.plan(quadratic, goals, task, plan, rng)
        costs.append(plan.cost)
    assert (torch.stack(costs).diff(dim=0) <= 1e-6).all()


def test_a_warm_start_is_worth_samples():
    goals, task = problem(20)
    planner, rng = CEM(HORIZON, BOX, 40, 3), generator(1)
    cold = planner.plan(quadratic, goals, task, None, rng)
    warm = planner.plan(quadratic, goals, task, cold, rng)
    assert (warm.cost < 0.7 * cold.cost).float().mean() > 0.8


@pytest.mark.parametrize("name", PLANNERS)
def test_a_proposal_outside_the_limits_is_brought_inside(name):
    goals, task = problem()
    guess = Plan.proposal(torch.full((3, 2, HORIZON, WIDTH), 9.0))
    plan = PLANNERS[name](Limits(WIDTH, -0.5, 0.5)).plan(
        quadratic, goals, task, guess, generator(1)
    )
    assert plan.actions.abs().max() <= 0.5 and plan.elites.abs().max() <= 0.5


def test_a_good_proposal_is_kept():
    goals, task = problem()
    bad = torch.ones_like(goals)
    plan = CEM(HORIZON, BOX, 10, 1, 5).plan(
        quadratic, goals, task, Plan.proposal(torch.stack([bad, goals], 1)), generator(1)
    )
    assert torch.equal(plan.actions, goals)


@pytest.mark.parametrize("name", PLANNERS)
def test_batched_is_one_by_one(name):
    """With a generator for each environment its plan does not depend on its neighbours."""
    goals, task = problem(4)
    planner = PLANNERS[name](BOX)
    together = planner.plan(quadratic, goals, task, None, [generator(7, i) for i in range(4)])
    order = [2, 0, 3, 1]
    mixed = planner.plan(quadratic, goals[order], task, None, [generator(7, i) for i in order])
    assert torch.allclose(mixed.actions, together.actions[order], atol=1e-4)
    for i in range(4):
        alone = planner.plan(quadratic, goals[i : i + 1], task, None, [generator(7, i)])
        assert torch.allclose(alone.actions[0], together.actions[i], atol=1e-4)


def test_neighbours_share_no_draws():
    draws = coloured(2, 5, HORIZON, WIDTH, 0.0, generator(1), torch.device("cpu"))
    assert not torch.equal(draws[0], draws[1])


@pytest.mark.parametrize("name", PLANNERS)
def test_a_cost_that_is_not_a_number_is_never_chosen(name):
    """Half of the space costs NaN, one environment costs NaN everywhere; the others find theirs."""
    goals, task = problem(3)
    goals[..., 0] = goals[..., 0].abs() + 0.2

    def broken(state, actions, task):
        costs = quadratic(state, actions, task)
        bad = actions[..., 0].mean(-1) < 0
        bad[2] = True
        return costs.masked_fill(bad, math.nan)

    plan = PLANNERS[name](BOX).plan(broken, goals, task, None, generator(1))
    assert plan.actions.isfinite().all() and plan.elites.isfinite().all()
    assert plan.cost[2] == math.inf
    assert (plan.actions[:2] - goals[:2]).abs().max() < 0.15


@pytest.mark.parametrize("weigh", [lambda c: elite_weights(c, 3), lambda c: soft_weights(c, 1.0)])
def test_a_candidate_that_costs_infinitely_has_no_weight(weigh):
    costs = torch.tensor([[1.0, math.inf, 2.0, math.inf], [math.inf] * 4])
    weights = weigh(costs)
    assert (weights[costs.isinf()] == 0).all()
    assert torch.allclose(weights.sum(1), torch.tensor([1.0, 0.0]))


def test_mppi_weights_are_those_of_gibbs_and_concentrate_as_the_temperature_falls():
    costs = torch.rand(5, 30, generator=generator(3))
    before = torch.zeros(5)
    for temperature in (10.0, 1.0, 0.1, 0.01, 0.0001):
        weights = MPPI(HORIZON, BOX, temperature=temperature).weights(costs)
        stated = torch.exp(-costs.double() / temperature)
        stated = stated / stated.sum(1, keepdim=True)
        assert torch.allclose(weights.double(), stated, atol=1e-5)
        best = weights.gather(1, costs.argmin(1, keepdim=True))[:, 0]
        assert (best > before).all()
        before = best
    assert (before > 0.9).all()


def test_a_low_temperature_plans_better_than_a_high_one():
    goals, task = problem(20)
    costs = [
        MPPI(HORIZON, BOX, temperature=t).plan(quadratic, goals, task, None, generator(1)).cost
        for t in (0.2, 100.0)
    ]
    assert (costs[0] < costs[1]).all() and costs[0].mean() < 0.2 * costs[1].mean()


def test_a_descent_depends_on_its_step_and_goes_down():
    goals, task = problem()
    start = quadratic(goals, torch.zeros(3, 1, HORIZON, WIDTH), task)[:, 0]
    costs = [
        GradientPlanner(HORIZON, BOX, 1, 5, step, "adam")
        .plan(quadratic, goals, task, None, generator(1))
        .cost
        for step in (1e-4, 1e-2, 1e-1)
    ]
    assert (costs[0] < start).all() and (costs[1] < costs[0]).all() and (costs[2] < costs[1]).all()


def test_more_starts_find_the_deeper_of_two_valleys():
    def valleys(state, actions, task):
        """A shallow valley at -0.1 near the middle, and a deep one at 0.8."""
        level = actions.mean((-1, -2)) - state
        return torch.minimum((level + 0.1).square() + 0.05, 3 * (level - 0.8).square())

    state = torch.zeros(6, 1)
    one = GradientPlanner(1, Limits(1), 1).plan(valleys, state, None, None, generator(1))
    many = GradientPlanner(1, Limits(1), 30).plan(valleys, state, None, None, generator(1))
    assert torch.allclose(one.cost, torch.full((6,), 0.05), atol=1e-4)
    assert many.cost.max() < 1e-4


def test_a_descent_returns_from_beyond_the_edge():
    """A clamp has no gradient there; ours points back, and is the cost's own inside."""
    limits = Limits(2, norm=1.0)
    actions = torch.tensor([[3.0, 0.0], [0.2, 0.1], [0.0, -2.0]], requires_grad=True)
    limits.clip_inwards(actions)[:, 0].sum().backward()  # to descend is to go left
    assert torch.allclose(actions.grad, torch.tensor([[1.0, 0.0]] * 3))
    actions.grad = None
    (-limits.clip_inwards(actions)[:, 0].sum()).backward()  # to descend is to go right
    assert torch.allclose(actions.grad, torch.tensor([[0.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]]))


def test_a_cost_without_gradient_is_refused():
    goals, task = problem()
    with pytest.raises(ValueError, match="differentiable"):
        GradientPlanner(HORIZON, BOX).plan(
            lambda s, a, t: quadratic(s, a.detach(), t), goals, task, None, generator(1)
        )


@pytest.mark.parametrize("colour", [0.0, 1.0, 2.0])
def test_noise_has_the_spectrum_that_was_asked_for(colour):
    horizon = 128
    noise = coloured(4, 400, horizon, 2, colour, generator(5), torch.device("cpu"))
    assert noise.shape == (4, 400, horizon, 2)
    assert abs(noise.var(unbiased=False).item() - 1) < 0.06
    power = torch.fft.rfft(noise, dim=2).abs().square().mean((0, 1, 3))[1:]
    frequency = torch.arange(1, len(power) + 1).float().log()
    centred = frequency - frequency.mean()
    slope = (centred * power.log()).sum() / centred.square().sum()
    assert abs(slope.item() + colour) < 0.05


@pytest.mark.parametrize("horizon", [1, 2, 5, 10])
def test_coloured_noise_has_variance_one_at_every_step(horizon):
    noise = coloured(1, 40_000, horizon, 1, 1.5, generator(5), torch.device("cpu"))
    assert torch.allclose(noise.var(1), torch.ones(1, horizon, 1), atol=0.04)


def table_cost(state: Tensor, actions: Tensor, task: Tensor) -> Tensor:
    """Costs of each choice at each step `B H K`, and of each pair of neighbours `K K`."""
    alone = (actions * state[:, None]).sum((-1, -2))
    pairs = torch.einsum("bshi,ij,bshj->bs", actions[:, :, :-1], task, actions[:, :, 1:])
    return alone + pairs


def tables(batch: int = 6, choices: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """Costs, and the lowest that any of all sequences has."""
    rng = generator(9)
    state = torch.rand(batch, HORIZON, choices, generator=rng)
    task = torch.rand(choices, choices, generator=rng)
    every = torch.tensor(list(itertools.product(range(choices), repeat=HORIZON)))
    hot = torch.nn.functional.one_hot(every, choices).float().expand(batch, -1, -1, -1)
    return state, task, table_cost(state, hot, task).amin(1)


def test_categorical_cem_finds_the_best_of_all_sequences():
    state, task, least = tables(100)
    planner = CategoricalCEM(HORIZON, 4, samples=60, iterations=10)
    plan = planner.plan(table_cost, state, task, None, generator(1))
    assert torch.isclose(plan.cost, least).sum() >= 95 and (plan.cost >= least - 1e-5).all()
    assert ((plan.actions == 0) | (plan.actions == 1)).all()
    assert (plan.actions.sum(-1) == 1).all()
    assert torch.allclose(table_cost(state, plan.actions[:, None], task)[:, 0], plan.cost)


def test_categorical_cem_begins_with_the_previous_plan_and_each_alone():
    state, task, _ = tables()
    planner, rng, before = CategoricalCEM(HORIZON, 4, 6, 1, 3, 1), generator(1), None
    for _ in range(6):
        plan = planner.plan(table_cost, state, task, before, rng)
        assert before is None or (plan.cost <= before.cost + 1e-6).all()
        before = plan
    together = planner.plan(table_cost, state, task, None, [generator(7, i) for i in range(6)])
    alone = planner.plan(table_cost, state[3:4], task, None, [generator(7, 3)])
    assert torch.equal(alone.actions[0], together.actions[3])


def test_categorical_draws_have_the_probabilities_of_the_distribution():
    chances = torch.tensor([[[0.5, 0.3, 0.15, 0.05]]])
    drawn = CategoricalCEM(1, 4).draw((chances,), 40_000, generator(1))
    assert torch.allclose(drawn.mean(1), chances, atol=0.01)


def by_z(state: Tensor, actions: Tensor, task: Tensor, z: Tensor) -> Tensor:
    """Each future has its own minimum, at `z` `B S H A`."""
    return (actions - z).square().sum((-1, -2)) + state[:, :1]


@pytest.mark.parametrize("risk", ["expected", "worst"])
def test_the_cost_over_z_is_the_mean_or_the_highest_of_the_costs_of_each(risk):
    rng = generator(2)
    state, z = torch.rand(3, 1, generator=rng), torch.rand(3, 5, HORIZON, WIDTH, generator=rng)
    actions = torch.rand(3, 7, HORIZON, WIDTH, generator=rng)
    each = [by_z(state, actions, None, z[:, i : i + 1].expand(-1, 7, -1, -1)) for i in range(5)]
    stacked = torch.stack(each)
    stated = stacked.mean(0) if risk == "expected" else stacked.amax(0)
    assert torch.allclose(OverFutures(by_z, z, risk)(state, actions, None), stated)


def test_the_expected_minimum_is_the_mean_of_the_futures_and_the_worst_their_middle():
    z = torch.tensor([-0.6, -0.6, 0.2]).view(1, 3, 1, 1)
    state, limits = torch.zeros(1, 1), Limits(1)
    for risk, least in (("expected", -1 / 3), ("worst", -0.2)):
        plan = CEM(1, limits).plan(OverFutures(by_z, z, risk), state, None, None, generator(1))
        assert abs(plan.actions.item() - least) < 0.02


def test_a_shifted_plan_goes_on_and_a_forgotten_one_begins_anew():
    actions = torch.arange(2 * HORIZON, dtype=torch.float).view(2, HORIZON, 1)
    plan = Plan(actions, torch.zeros(2), actions[:, None])
    assert plan.shifted(2).actions[0, :, 0].tolist() == [2, 3, 3, 3]
    assert torch.equal(plan.shifted(2).elites[:, 0], plan.shifted(2).actions)
    assert plan.shifted(9).actions[1, :, 0].tolist() == [7, 7, 7, 7]
    goals, task = problem(2)
    planner = CEM(HORIZON, BOX, 20, 2)
    cold, warm = (
        planner.plan(quadratic, goals, task, before, [generator(7, i) for i in range(2)])
        for before in (None, Plan.proposal(goals[:, None]).forgotten(torch.tensor([True, False])))
    )
    assert torch.allclose(warm.actions[0], cold.actions[0]) and torch.equal(
        warm.actions[1], goals[1]
    )


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: CEM(0, BOX), "horizon must be 1 or more, not 0"),
        (lambda: CEM(4, BOX, samples=3), "10 elites need as many samples or more, got 3"),
        (lambda: CEM(4, BOX, carried=11), "carried must be from 0 to the 10 elites, not 11"),
        (lambda: CEM(4, BOX, min_std=0.9), "min_std must be above 0"),
        (lambda: CEM(4, BOX, decay=0.0), "decay must be above 0"),
        (lambda: MPPI(4, BOX, temperature=0.0), "temperature must be above 0, not 0.0"),
        (lambda: GradientPlanner(4, BOX, step_size=-1), "step_size must be above 0, not -1"),
        (lambda: PolishedPlanner(CEM(4, BOX), starts=0), "starts must be 1 or more, not 0"),
        (lambda: CategoricalCEM(4, 1), "choices must be 2 or more, not 1"),
        (lambda: Limits(2, 1.0, -1.0), "low must be below high"),
        (lambda: Limits(2, (0.0, 0.0, 0.0)), "low must have 2 components, got 3"),
        (lambda: Limits(1, 0.5, 1.0, norm=0.4), "a norm shortens actions towards 0"),
    ],
)
def test_settings_that_make_no_search_are_told_in_a_sentence(make, said):
    with pytest.raises(UserError, match=said):
        make()


@pytest.mark.parametrize(
    ("state", "previous", "cost", "said"),
    [
        ("words", None, quadratic, "a state needs a tensor"),
        (torch.zeros(3, 1), Plan.proposal(torch.zeros(2, 1, 4, 2)), quadratic, "previous plan"),
        (torch.zeros(3, 1), None, lambda s, a, t: a.sum(), "a cost must give B S"),
    ],
)
def test_what_does_not_fit_the_contract_is_said(state, previous, cost, said):
    with pytest.raises(ValueError, match=said):
        CEM(HORIZON, BOX).plan(cost, state, None, previous, generator(1))


def test_a_state_may_be_nested():
    goals, task = problem()
    nested = {"name": "x", "memory": [goals]}
    plan = CEM(HORIZON, BOX).plan(
        lambda s, a, t: quadratic(s["memory"][0], a, t), nested, task, None, generator(1)
    )
    assert plan.actions.shape == goals.shape


@pytest.mark.parametrize("kind", ["numbers", "kinds"])
def test_where_all_cost_the_same_the_plan_that_is_followed_is_the_first_elite(kind):
    """Far from the goal all plans cost as much, and the next decision begins from the elites."""
    planner = CEM(HORIZON, BOX, 30, 2) if kind == "numbers" else CategoricalCEM(HORIZON, 3, 30, 2)
    goals, task = problem(5)

    def flat(state: Tensor, actions: Tensor, task: Tensor) -> Tensor:
        return actions.new_ones(actions.shape[:2])

    plan = planner.plan(flat, goals, task, None, generator(3))
    assert torch.equal(plan.elites[:, 0], plan.actions)
