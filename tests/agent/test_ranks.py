"""World model and learner on two ranks: the gradient of one process that has the whole batch."""

from __future__ import annotations

import math
from contextlib import ExitStack
from functools import partial
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from lightning import LightningModule
from torch import Tensor, nn

from jepa_video.agent.cost import IntrinsicCost
from jepa_video.agent.learner import AgentLearner
from jepa_video.energies.regularizers import NoRegularizer, SIGReg, VCReg, VICReg
from jepa_video.models.dynamics import TokenDynamics, VectorDynamics
from jepa_video.models.latent import DiscreteLatent, GaussianLatent, SparseLatent
from jepa_video.models.state import PatchState, VectorState
from jepa_video.training.inference import InferZ
from jepa_video.training.world_model import WorldModel
from tests.agent.tiny_agent import batch, facts, on_trainer, world
from tests.ranks import run_ranks

STAGES = {"first": 0, "second": 8}  # of 10 steps
ROWS = 8
CODES = partial(DiscreteLatent, count=4, hidden=16, balance=0.5, weight=0.1, learned_prior=True)
GAUSSIAN = partial(GaussianLatent, dim=2, hidden=16, weight=0.1, learned_prior=True)
SPARSE = partial(SparseLatent, dim=2, hidden=16, weight=0.1)
MINIMISE = InferZ("minimise", restarts=1, steps=2)
SMALL = partial(VectorDynamics, hidden=16, history=2)
PATCHES = {"state": partial(PatchState, dim=4), "dynamics": partial(TokenDynamics, hidden=12)}

WORLDS: dict[str, dict[str, Any]] = {
    **{term.__name__: {"regularizer": term} for term in (NoRegularizer, VCReg, VICReg, SIGReg)},
    "vector": {"state": VectorState},
    "patches": PATCHES,
    "two frames, two known": {"frames": 2, "context": 2},
    "a piece": {"piece": 4},
    "one long passage": {"horizon": 40},
    "frozen": {"train": "frozen"},
    "felt": {"felt": ("y",)},
    "no inverse": {"inverse": 0.0},
    "no temporal": {"temporal": 0.0},
    "no energy": {"prediction": 0.0},
    "no term but the energy": {"regularize": 0.0, "inverse": 0.0, "temporal": 0.0},
    "codes": {"latent": CODES},
    "codes, minimised": {"latent": CODES, "infer_z": MINIMISE},
    "gaussian": {"latent": GAUSSIAN},
    "gaussian, minimised": {"latent": GAUSSIAN, "infer_z": MINIMISE},
    "sparse, minimised": {"latent": SPARSE, "infer_z": MINIMISE},
    "no states told": {"told": facts(state_size=0, state_names=())},
}
LEARNERS: dict[str, dict[str, Any]] = {
    **{source: {"source": source} for source in ("plans", "critic", "data")},
    "six foretold": {"foretold": 6},
    "dreams": {"source": "dreams", "judge": "value", "ahead": 3},
    "dreams of rewards": {
        "source": "dreams",
        "ahead": 3,
        "goal": False,
        "weights": {"reward": 1.0, "effort": 0.1},
    },
    "deeds": {"source": "deeds", "judge": "value"},
    "deeds of rewards": {
        "source": "deeds",
        "goal": False,
        "weights": {"reward": 1.0, "effort": 0.1},
    },
    "rewards": {"goal": False, "weights": {"reward": 1.0, "effort": 0.1}},
    "kinds": {"told": facts(discrete=True)},
    "one network": {"members": 1},
    "codes": {"latent": CODES},
    "gaussian": {"latent": GAUSSIAN},
    "patches": PATCHES,
}
CASES = [
    (kind, name, stage)
    for kind, all_of in (("world", WORLDS), ("learner", LEARNERS))
    for name in all_of
    for stage in STAGES
]


def scattered(module: nn.Module) -> nn.Module:
    """No weight is 0, as some begin: every gradient has something to say."""
    draw = torch.Generator().manual_seed(5)
    for weight in module.parameters():
        noise = torch.randn(weight.shape, generator=draw)
        weight.data.add_(noise / (3 * max(weight.shape, default=1) ** 0.5))
    return module


def same_chance() -> Any:
    """Draws that are the same for each row of a batch: ranks have draws of their own else."""

    def pattern(low: float, high: float, *shape: Any, generator: Any = None, **_: Any) -> Tensor:
        size = shape[0] if isinstance(shape[0], tuple | torch.Size) else shape
        rows = 2 if len(size) == 4 else 1  # draws, environments, ...; or environments, ...
        inner = tuple(size[rows:])
        wave = torch.sin(1 + 2.3 * torch.arange(math.prod(inner))) * 0.9
        return (low + (high - low) * (wave + 1) / 2).view(inner).expand(*size).clone()

    def choices(chances: Tensor, count: int, **_: Any) -> Tensor:
        return (torch.arange(count) % chances.shape[1]).expand(len(chances), count)

    normal, even = partial(pattern, -1.5, 1.5), partial(pattern, 0.0, 1.0)
    return mock.patch.multiple(torch, randn=normal, rand=even, multinomial=choices)


def made_world(options: dict[str, Any]) -> WorldModel:
    model = world(**{"piece": None, "dynamics": SMALL, **options})
    model.standardise(torch.full((model.facts.state_size,), 0.1), torch.tensor(2.0))
    return scattered(model)


def made_learner(options: dict[str, Any]) -> AgentLearner:
    options = {"goal": True, "weights": {"goal": 1.0}, **options}
    of_world = {k: options.pop(k) for k in ("told", "latent", "state", "dynamics") if k in options}
    model = made_world(of_world).eval().requires_grad_(False)
    intrinsic = IntrinsicCost(0.5, model.state.aim, model.read)
    goal, weights = options.pop("goal"), options.pop("weights")
    return scattered(AgentLearner(model, intrinsic, weights, goal, hidden=16, **options))


def given_to(module: LightningModule) -> dict[str, Tensor]:
    """The global batch."""
    if isinstance(module, WorldModel):
        made = batch(count=ROWS)
        return made | {"state": made["state"][..., : module.facts.state_size]}
    draw = torch.Generator().manual_seed(2)
    state = module.world.state
    state, goal, after = torch.randn(3, ROWS, state.tokens, state.width, generator=draw)
    action = torch.rand(ROWS, 2, generator=draw) * 2 - 1
    if module.world.facts.discrete:
        action = torch.eye(2)[action.argmax(1)]
    way = torch.randn(ROWS, 6, *state.shape[1:], generator=draw)
    did = action[:, None].roll(1, 0).expand(-1, 6, -1)
    return {"state": state, "goal": goal, "next": after, "action": action} | {
        "way": way,
        "did": did,
        "there": torch.arange(ROWS).clamp(1, 6),
        "reward": torch.randn(ROWS, generator=draw),
        "ahead": torch.arange(ROWS) - 3,
        "terminated": torch.arange(ROWS) % 4 == 1,
    }


def gradients(kind: str, name: str, stage: str, rows: slice) -> dict[str, Tensor]:
    """Of every weight that trains; where a step leaves one out, one process has 0 for it."""
    make, options = (made_world, WORLDS) if kind == "world" else (made_learner, LEARNERS)
    module = on_trainer(make(dict(options[name])), STAGES[stage])
    with ExitStack() as patched:
        # One rank's piece of the window for both: it is a draw of the rank's own else.
        patched.enter_context(mock.patch(f"{WorldModel.__module__}.rank", lambda: 0))
        if kind == "learner" or module.latent.dim:
            patched.enter_context(same_chance())
        given = {key: part[rows] for key, part in given_to(module).items()}
        module.training_step(given, 0)["loss"].backward()
    return {n: p.grad for n, p in module.named_parameters() if p.grad is not None}


def trained(kind: str, name: str) -> dict[str, Tensor]:
    make, options = (made_world, WORLDS) if kind == "world" else (made_learner, LEARNERS)
    module = make(dict(options[name]))
    return {n: p for n, p in module.named_parameters() if p.requires_grad}


def on_each_rank() -> dict[str, dict[str, Tensor]]:
    half = slice(ROWS // 2 * dist.get_rank(), ROWS // 2 * (dist.get_rank() + 1))
    results = {}
    for case in CASES:
        found = results[" ".join(case)] = gradients(*case, half)
        for grad in found.values():
            dist.all_reduce(grad)  # what DDP does with gradients: their mean
            grad /= dist.get_world_size()
    return results


@pytest.fixture(scope="module")
def two_ranks() -> list[dict[str, dict[str, Tensor]]]:
    return run_ranks(on_each_rank)


@pytest.mark.parametrize("case", CASES, ids=" ".join)
def test_two_ranks_give_the_gradient_of_one(case, two_ranks):
    expected = gradients(*case, slice(None))
    largest = max(float(grad.abs().max()) for grad in expected.values())
    assert 0 < largest < math.inf
    for rank in two_ranks:
        for name, grad in rank[" ".join(case)].items():
            wanted = expected.get(name, torch.zeros_like(grad))
            torch.testing.assert_close(grad, wanted, rtol=2e-3, atol=2e-5 * largest, msg=name)


@pytest.mark.parametrize("case", CASES, ids=" ".join)
def test_on_ranks_every_weight_that_trains_has_a_gradient(case, two_ranks):
    """What DDP demands without `find_unused_parameters`: it waits for those that have none."""
    for rank in two_ranks:
        assert rank[" ".join(case)].keys() == trained(*case[:2]).keys()
