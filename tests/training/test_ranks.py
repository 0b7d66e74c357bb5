"""The module on two ranks: the gradient of one process that has the whole batch."""

from contextlib import nullcontext
from functools import partial
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from jepa_video.data.transforms import Augment
from jepa_video.energies.contrastive import Hinge, InfoNCE, NoContrast
from jepa_video.energies.regularizers import NoRegularizer, SIGReg, VCReg, VICReg
from jepa_video.models.encoder import VideoViT
from jepa_video.models.expander import Expander
from jepa_video.models.latent import DiscreteLatent, GaussianLatent, NoisyLatent, SparseLatent
from jepa_video.models.predictor import MaskedPredictor
from jepa_video.training.inference import InferZ
from jepa_video.training.video_jepa import VideoJEPA
from tests.ranks import run_ranks

TARGETS = ("ema", "shared", "separate")
CODES = partial(DiscreteLatent, count=4, hidden=16, balance=0.5, weight=0.1, learned_prior=True)
KINDS = {
    "codes": CODES,
    "gaussian": partial(GaussianLatent, dim=2, hidden=16, weight=0.1, learned_prior=True),
    "sparse": partial(SparseLatent, dim=2, hidden=16, weight=0.1),
    "noisy": partial(NoisyLatent, dim=2, hidden=16),
}
MINIMISE = InferZ("minimise", restarts=1, steps=2)
CASES: dict[str, dict[str, Any]] = (
    {
        f"{term.__name__}, {target}": {"regularizer": term, "target": target}
        for term in (NoRegularizer, VCReg, VICReg, SIGReg)
        for target in TARGETS
    }
    | {
        f"{term.__name__}, {target}": {"contrast": term, "target": target}
        for term in (Hinge, InfoNCE)
        for target in TARGETS
    }
    | {f"{name}, posterior": {"latent": kind} for name, kind in KINDS.items()}
    | {f"{name}, minimised": {"latent": kind, "infer_z": MINIMISE} for name, kind in KINDS.items()}
    | {"rolled out": {"prediction": "rollout"}}
)


def gradients(case: str, rows: slice) -> dict[str, Tensor]:
    torch.manual_seed(0)
    options = {"regularizer": NoRegularizer, "contrast": NoContrast, **CASES[case]}
    module = VideoJEPA(
        partial(VideoViT, width=24, depth=1, heads=2, frames=4, image=16, patch=4),
        partial(MaskedPredictor, hidden=16, depth=1),
        expander=partial(Expander, hidden=12),
        augment=partial(Augment, (1.0, 1.0), (1.0, 1.0), 0.0, 0.0, 0.0, 0.0),
        **options,
    )
    for block in module.predictor.blocks:  # they begin deaf to z
        if module.latent.dim:
            torch.nn.init.normal_(block.modulation.weight, std=0.3)
    module.log_dict = lambda *_, **__: None
    generator = torch.Generator().manual_seed(1)
    video = torch.randint(256, (8, 4, 3, 16, 16), generator=generator, dtype=torch.uint8)
    with no_chance() if module.latent.dim else nullcontext():
        module.training_step({"video": video[rows]}, 0)["loss"].backward()
    return {n: p.grad for n, p in module.named_parameters() if p.grad is not None}


def no_chance() -> Any:
    """Every draw of a z is the middle of its distribution: each rank draws noise of its own."""

    def middle(value: float, *shape: Any, generator: Any = None) -> Tensor:
        return torch.empty(*shape).fill_(value)

    return mock.patch.multiple(torch, randn=partial(middle, 0.0), rand=partial(middle, 0.5))


def on_each_rank() -> dict[str, dict[str, Tensor]]:
    half = slice(4 * dist.get_rank(), 4 * dist.get_rank() + 4)
    results = {}
    for case in CASES:
        results[case] = gradients(case, half)
        for grad in results[case].values():
            dist.all_reduce(grad)  # what DDP does with gradients: their mean
            grad /= dist.get_world_size()
    return results


@pytest.fixture(scope="module")
def two_ranks() -> list[dict[str, dict[str, Tensor]]]:
    return run_ranks(on_each_rank)


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_give_the_gradient_of_one(case, two_ranks):
    expected = gradients(case, slice(None))
    # Some gradients are zero by construction (a bias in front of a covariance): what is left of
    # them is rounding, to be judged by the size of the others.
    largest = max(float(grad.abs().max()) for grad in expected.values())
    for rank in two_ranks:
        assert rank[case].keys() == expected.keys()
        for name, grad in expected.items():
            torch.testing.assert_close(rank[case][name], grad, rtol=1e-3, atol=1e-5 * largest)
