"""Two ranks give the loss and the gradient of one process that has the whole batch."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from jepa_video.energies.contrastive import Hinge, InfoNCE
from jepa_video.energies.regularizers import Regularizer, SIGReg, VCReg, VICReg, around_places
from tests.ranks import run_ranks


class AroundPlaces(nn.Module):
    """VICReg of tokens less their places' means, as pretraining's level `places` has it."""

    def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        tokens, places = torch.stack((x, y), 1), torch.tensor([0, 3]).expand(len(x), -1)
        return VCReg(25.0, 1.0)(around_places(tokens, places, 4))


TERMS = {
    "around places": lambda: AroundPlaces(),
    "vcreg": lambda: VCReg(25.0, 1.0),
    "variance alone": lambda: VCReg(covariance=0.0),
    "vicreg": lambda: VICReg(),
    "sigreg": lambda: SIGReg(projections=16),
    "infonce": lambda: InfoNCE(),
    "infonce, symmetric": lambda: InfoNCE(symmetric=True),
    "hinge": lambda: Hinge(),
}
SPLITS = ((6, 6), (3, 9))
Results = dict[str, list[Tensor]]


def batch() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(12, 5, generator=generator) for _ in range(2))
    return x, x + 0.3 * y, torch.randn(5, 4, generator=generator) / 3


def loss_and_gradient(term: nn.Module, x: Tensor, y: Tensor, weight: Tensor) -> list[Tensor]:
    """Of the shared weight that maps both branches, as under DDP before it averages."""
    weight = weight.clone().requires_grad_()
    values = term(x @ weight + 2, y @ weight + 2)
    loss = torch.stack(list(values.values())).sum()
    loss.backward()
    return [loss.detach(), weight.grad]


def on_each_rank() -> Results:
    x, y, weight = batch()
    results: Results = {}
    for split in SPLITS:
        begin = sum(split[: dist.get_rank()])
        rows = slice(begin, begin + split[dist.get_rank()])
        for name, term in TERMS.items():
            loss, grad = loss_and_gradient(term(), x[rows], y[rows], weight)
            dist.all_reduce(grad)  # what DDP does with gradients: their mean
            results[f"{name} {split}"] = [loss, grad / dist.get_world_size()]
    results["empty"] = [torch.tensor(float(says_empty()))]
    return results


def says_empty() -> bool:
    try:
        VCReg()(torch.zeros(0, 4))
    except ValueError as error:
        return "batch" in str(error)
    return False


@pytest.fixture(scope="module")
def ranks() -> list[Results]:
    return run_ranks(on_each_rank)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("name", TERMS)
def test_two_ranks_are_one(ranks: list[Results], name: str, split: tuple[int, int]) -> None:
    x, y, weight = batch()
    loss, grad = loss_and_gradient(TERMS[name](), x, y, weight)
    assert grad.abs().max() > 1e-3  # a term without a gradient would pass everything below
    for results in ranks:
        two_loss, two_grad = results[f"{name} {split}"]
        torch.testing.assert_close(two_loss, loss, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(two_grad, grad, rtol=1e-4, atol=1e-6)


def test_a_rank_without_samples_says_so(ranks: list[Results]) -> None:
    assert all(results["empty"][0] for results in ranks)


def test_local_statistics_would_fail() -> None:
    """The claim has teeth: the mean of two local losses is not the global one."""
    x, y, weight = batch()
    whole = loss_and_gradient(VCReg(25.0, 1.0), x, y, weight)[1]
    parts = [slice(0, 6), slice(6, 12)]
    halves = [loss_and_gradient(VCReg(25.0, 1.0), x[i], y[i], weight)[1] for i in parts]
    assert (whole - sum(halves) / 2).abs().max() > 0.1


def test_every_regularizer_is_checked() -> None:
    checked = {type(term()) for term in TERMS.values()}
    known = set(Regularizer.__subclasses__()) | set(VCReg.__subclasses__())
    assert {k.__name__ for k in known} - {k.__name__ for k in checked} == {"NoRegularizer"}
