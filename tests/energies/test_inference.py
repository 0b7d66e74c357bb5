from __future__ import annotations

import math
from functools import partial
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from jepa_video.energies.inference import (
    argmin_codes,
    argmin_z,
    code_energies,
    free_energy,
    gibbs_weights,
    strayed,
)
from jepa_video.models.latent import DiscreteLatent
from jepa_video.training.inference import InferZ
from jepa_video.training.passages import Passage
from tests.agent.tiny_agent import world

METHODS: tuple[Literal["adam", "lbfgs"], ...] = ("adam", "lbfgs")


def quadratic(pairs: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Curvatures `[B, Z, Z]` of condition about 30, minima `[B, Z]`, lowest energies `[B]`."""
    generator = torch.Generator().manual_seed(1)
    turn = torch.linalg.qr(torch.randn(pairs, width, width, generator=generator).double())[0]
    curvature = turn @ torch.diag(torch.logspace(-0.5, 1, width).double()) @ turn.mT
    return curvature, torch.randn(pairs, width, generator=generator).double(), torch.rand(pairs)


def two_wells(z: Tensor) -> Tensor:
    """A shallow well at -1 (energy 0.5) and a deep one at +1 (energy 0): `[B, S, 1] -> [B, S]`."""
    z = z.squeeze(-1)
    return (z.square() - 1).square() + 0.25 * (1 - z)


@pytest.mark.parametrize("method", METHODS)
def test_a_quadratic_reaches_its_closed_form_minimum(method: str) -> None:
    curvature, centre, floor = quadratic(pairs=5, width=8)

    def energy(z: Tensor) -> Tensor:
        away = z - centre[:, None]
        return 0.5 * torch.einsum("bsi,bij,bsj->bs", away, curvature, away) + floor[:, None]

    starts = 3 * torch.randn(5, 2, 8, generator=torch.Generator().manual_seed(2)).double()
    steps, lr = (60, 0.1) if method == "lbfgs" else (400, 0.5)
    found = argmin_z(energy, starts, steps, lr, method)
    torch.testing.assert_close(found.energy, floor.double(), rtol=0, atol=1e-6)
    torch.testing.assert_close(found.z, centre, rtol=0, atol=2e-3)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("lr", (1e-3, 0.1, 100.0))
def test_never_worse_than_the_best_start(method: str, lr: float) -> None:
    def energy(z: Tensor) -> Tensor:  # rough, and steps of 100 leave every basin
        return (5 * z).sin().sum(-1) + z.abs().sum(-1)

    starts = torch.randn(50, 3, 4, generator=torch.Generator().manual_seed(3))
    found = argmin_z(energy, starts, steps=15, lr=lr, method=method)
    assert (found.energy <= energy(starts).amin(1)).all()
    torch.testing.assert_close(energy(found.z[:, None])[:, 0], found.energy)


@pytest.mark.parametrize("method", METHODS)
def test_pairs_do_not_influence_one_another(method: str) -> None:
    starts = torch.tensor([[[-0.9], [-1.2]], [[0.7], [-1.2]], [[2.0], [3.0]]])
    together = argmin_z(two_wells, starts, steps=20, method=method)
    for i in range(3):
        alone = argmin_z(two_wells, starts[i : i + 1], steps=20, method=method)
        torch.testing.assert_close(alone.energy[0], together.energy[i])
        torch.testing.assert_close(alone.z[0], together.z[i])


@pytest.mark.parametrize("method", METHODS)
def test_restarts_find_the_deeper_well(method: str) -> None:
    one = argmin_z(two_wells, torch.full((1, 1, 1), -0.8), steps=60, lr=0.05, method=method)
    both = torch.tensor([[[-0.8], [0.8]]])
    two = argmin_z(two_wells, both, steps=60, lr=0.05, method=method)
    assert one.z < -0.9 and two.z > 0.9
    assert two.energy < one.energy - 0.4
    assert two.source == 1


@pytest.mark.parametrize("method", METHODS)
def test_a_start_that_is_not_a_number_hides_no_other(method: str) -> None:
    starts = torch.tensor([[[float("nan")], [0.5]]])
    found = argmin_z(two_wells, starts, steps=60, lr=0.05, method=method)
    assert found.source == 1 and found.energy < 1e-4


def test_lbfgs_outruns_adam_on_a_smooth_energy() -> None:
    torch.manual_seed(4)
    net = nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 16))
    y = net(torch.randn(20, 1, 6)).detach()

    def energy(z: Tensor) -> Tensor:
        return (net(z) - y).square().mean(-1)

    starts = torch.zeros(20, 1, 6)
    first, second = (argmin_z(energy, starts, steps=40, method=m).energy for m in METHODS)
    assert second.mean() < 0.3 * first.mean()


@pytest.mark.parametrize("method", METHODS)
def test_parameters_keep_their_gradients_and_no_grad_is_no_obstacle(method: str) -> None:
    net = nn.Linear(3, 1)
    net(torch.ones(3)).backward()
    before = [p.grad.clone() for p in net.parameters()]
    starts = torch.ones(2, 2, 3)
    with torch.inference_mode():
        found = argmin_z(lambda z: net(z).squeeze(-1).square(), starts, steps=5, method=method)
    assert (found.energy < net(torch.ones(3)).square() + 1e-9).all()
    assert all(torch.equal(p.grad, b) for p, b in zip(net.parameters(), before, strict=True))
    assert not found.z.requires_grad


def test_latents_of_any_shape() -> None:
    target = torch.randn(2, 4, 3)
    found = argmin_z(lambda z: (z - target[:, None]).square().mean((2, 3)), torch.zeros(2, 1, 4, 3))
    torch.testing.assert_close(found.z, target, rtol=0, atol=1e-4)


@pytest.mark.parametrize("chunk", (None, 3))
def test_codes_are_tried_exhaustively(chunk: int | None) -> None:
    generator = torch.Generator().manual_seed(5)
    codes, truth = torch.randn(8, 5, generator=generator), torch.tensor([3, 0, 7])
    y = codes[truth] + 0.01 * torch.randn(3, 5, generator=generator)

    def energy(z: Tensor) -> Tensor:
        return (z - y[:, None]).square().mean(-1)

    found = argmin_codes(energy, codes, batch=3, chunk=chunk)
    assert torch.equal(found.source, truth) and torch.equal(found.z, codes[truth])
    table = torch.stack([energy(code.expand(3, 1, 5))[:, 0] for code in codes], dim=1)
    torch.testing.assert_close(code_energies(energy, codes, 3, chunk), table)
    torch.testing.assert_close(found.energy, table.amin(1))


def test_free_energy_falls_from_mean_to_minimum() -> None:
    energies = torch.rand(10, 64, generator=torch.Generator().manual_seed(6)).double() * 5
    betas = (0.0, 0.01, 0.1, 1.0, 10.0, 1e4, math.inf)
    path = torch.stack([free_energy(energies, beta) for beta in betas])
    assert (path.diff(dim=0) <= 1e-9).all() and (path[0] - path[-1] > 1).all()
    torch.testing.assert_close(path[0], energies.mean(-1))
    torch.testing.assert_close(path[-1], energies.amin(-1))
    # Never more than log(S) / beta above the minimum.
    assert (path[4] - path[-1] <= math.log(64) / 10).all()


def test_free_energy_equals_its_definition_and_does_not_overflow() -> None:
    energies = torch.tensor([[0.3, 1.2, 0.9]]).double()
    naive = -torch.exp(-2 * energies).mean(-1).log() / 2
    torch.testing.assert_close(free_energy(energies, 2.0), naive, rtol=0, atol=1e-12)
    torch.testing.assert_close(free_energy(energies + 1e6, 2.0), naive + 1e6, rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="beta"):
        free_energy(energies, -1.0)


def test_free_energy_of_a_gaussian_is_known() -> None:
    """E = z^2 / 2 with z ~ N(0, 1) has mean exp(-b E) = 1 / sqrt(1 + b)."""
    z = torch.randn(200_000, generator=torch.Generator().manual_seed(7)).double()
    expected = math.log(1 + 3.0) / (2 * 3.0)
    assert abs(free_energy(z.square() / 2, 3.0).item() - expected) < 2e-3


def test_gibbs_weights_are_the_slope_of_the_free_energy() -> None:
    energies = torch.rand(4, 9).double().requires_grad_()
    (slope,) = torch.autograd.grad(free_energy(energies, 3.0).sum(), energies)
    torch.testing.assert_close(slope, gibbs_weights(energies.detach(), 3.0))


def test_a_share_of_z_strays_to_any_of_the_codes_and_the_others_stay():
    codes = torch.arange(8.0).view(4, 1, 2)
    z = torch.full((20_000, 1, 2), -1.0)
    found = strayed(z, codes, 0.3, torch.Generator().manual_seed(0))
    counts = [(found == code).all(-1).float().mean().item() for code in codes]
    assert counts == pytest.approx([0.3 / 4] * 4, abs=0.01)
    assert (found == -1).all(-1).float().mean() == pytest.approx(0.7, abs=0.01)
    assert torch.equal(strayed(z, codes, 0.0, None), z)


def test_a_code_that_is_never_the_best_foretells_what_happens_only_where_some_z_stray():
    """What happens is 0 or 1; three codes begin far from both, and the nearest alone would move."""
    y = torch.tensor([0.0, 1.0]).repeat(100)
    off = {}
    for share in (0.0, 0.2):
        draw, told = torch.Generator().manual_seed(0), torch.tensor([0.2, 0.8, 9.0, -9.0])
        for _ in range(600):
            codes = torch.arange(4)[:, None]
            found = argmin_codes(
                lambda k, told=told: (told[k[..., 0]] - y[:, None]) ** 2, codes, 200
            )
            taken = strayed(found.z, codes, share, draw)[:, 0]
            slope = torch.zeros(4).index_add(0, taken, told[taken] - y)
            told = told - 0.02 * slope
        off[share] = torch.minimum(told.abs(), (told - 1).abs()).amax()
    assert off[0.0] > 5 and off[0.2] < 0.6


def test_a_world_model_learns_with_stray_codes_teaches_its_posterior_the_best_and_judges_by_it():
    latent = partial(DiscreteLatent, count=4, dim=3)
    ways = InferZ(by="minimise", stray=1.0)
    model = world(latent=latent, infer_z=ways)
    known, later = (
        torch.randn(64, 1, 1, model.state.width),
        torch.randn(64, 1, 1, model.state.width),
    )
    passage = Passage(known, torch.zeros(64, 0, 2), torch.zeros(64, 1, 2), later)
    best = model.explain(passage)
    for training in (True, False):
        draw = model.train(training).inferred(passage, torch.Generator().manual_seed(0))
        same = (draw.z - best).abs().amax((1, 2)) < 1e-6
        assert bool(same.all()) is not training
        taught = model.latent.explained(
            known.flatten(1, 2), later.flatten(1, 2), best, model.places(passage)
        )
        assert torch.equal(draw.terms["latent/amortised"], taught.terms["latent/amortised"])
