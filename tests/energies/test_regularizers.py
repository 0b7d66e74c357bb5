"""Each term equals a plain statement of its published formula; what it is for, it does."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from jepa_video.energies.gaussianity import epps_pulley
from jepa_video.energies.regularizers import (
    NoRegularizer,
    Regularizer,
    SIGReg,
    VCReg,
    VICReg,
    covariance_term,
    variance_term,
    vicreg_loss,
)

Branch = tuple[list[list[float]], int, int]


def sample(n: int, d: int, seed: int = 0) -> Tensor:
    mix = torch.randn(d, d, generator=torch.Generator().manual_seed(seed + 100)).double()
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(seed)).double()
    return 0.3 * x @ mix + 5


def hinge_in_words(rows: list[list[float]], gamma: float = 1.0, eps: float = 1e-4) -> float:
    """v(Z) of VICReg, eq. 1-2, one number at a time."""
    n, d, total = len(rows), len(rows[0]), 0.0
    for j in range(d):
        column = [row[j] for row in rows]
        mean = sum(column) / n
        variance = sum((value - mean) ** 2 for value in column) / (n - 1)
        total += max(0.0, gamma - math.sqrt(variance + eps))
    return total / d


def covariance_in_words(rows: list[list[float]]) -> float:
    """c(Z) of VICReg, eq. 3-4, one number at a time."""
    n, d, total = len(rows), len(rows[0]), 0.0
    means = [sum(row[j] for row in rows) / n for j in range(d)]
    for i in range(d):
        for j in range(d):
            if i != j:
                c = sum((row[i] - means[i]) * (row[j] - means[j]) for row in rows) / (n - 1)
                total += c * c
    return total / d


def test_the_terms_equal_the_published_formula() -> None:
    x = sample(9, 6)
    assert abs(variance_term(x).item() - hinge_in_words(x.tolist())) < 1e-9
    assert abs(covariance_term(x).item() - covariance_in_words(x.tolist())) < 1e-9
    assert variance_term(x) > 0.01 and covariance_term(x) > 0.01


def test_vicreg_equals_the_published_formula() -> None:
    x, y = sample(9, 6), sample(9, 6, seed=1)
    similarity = sum(
        (a - b) ** 2
        for left, right in zip(x.tolist(), y.tolist(), strict=True)
        for a, b in zip(left, right, strict=True)
    ) / (9 * 6)
    hinge = (hinge_in_words(x.tolist()) + hinge_in_words(y.tolist())) / 2
    covariance = covariance_in_words(x.tolist()) + covariance_in_words(y.tolist())
    expected = 3 * similarity + 5 * hinge + 2 * covariance
    assert abs(vicreg_loss(x, y, sim=3, var=5, cov=2).item() - expected) < 1e-6


def test_vicreg_equals_lightly() -> None:
    loss = pytest.importorskip("lightly.loss")
    x, y = sample(16, 12), sample(16, 12, seed=1)
    theirs = loss.VICRegLoss(lambda_param=25.0, mu_param=25.0, nu_param=1.0)(x, y)
    torch.testing.assert_close(vicreg_loss(x, y), theirs, rtol=0, atol=1e-6)


def test_terms_add_up_to_the_loss_and_carry_their_weights() -> None:
    x, y = sample(9, 6), sample(9, 6, seed=1)
    terms = VICReg()(x, y)
    assert set(terms) == {"invariance", "variance", "covariance"}
    torch.testing.assert_close(sum(terms.values()), vicreg_loss(x, y))
    heavy = VCReg(variance=2.0, covariance=3.0)(x)
    torch.testing.assert_close(heavy["variance"], 2 * variance_term(x))
    torch.testing.assert_close(heavy["covariance"], 3 * covariance_term(x))
    assert set(VCReg(covariance=0.0)(x)) == {"variance"}
    assert set(VCReg(variance=0.0)(x)) == {"covariance"}
    assert VCReg(variance=0.0, covariance=0.0)(x) == {} == NoRegularizer()(x)


def test_the_second_branch_adds_its_terms() -> None:
    x, y = sample(9, 6), sample(9, 6, seed=1)
    both, one, other = VCReg()(x, y), VCReg()(x), VCReg()(y)
    for name in ("variance", "covariance"):
        torch.testing.assert_close(both[name], one[name] + other[name])


def epps_pulley_in_words(column: list[float], knots: int, t_max: float) -> float:
    """The trapezoid rule over all of [-t_max, t_max], with complex exponentials."""
    step, values = t_max / (knots - 1), []
    for k in range(-knots + 1, knots):
        t = k * step
        phi = sum(complex(math.cos(t * v), math.sin(t * v)) for v in column) / len(column)
        values.append(abs(phi - math.exp(-t * t / 2)) ** 2 * math.exp(-t * t / 2))
    return step * sum((a + b) / 2 for a, b in zip(values, values[1:], strict=False))


@pytest.mark.parametrize(("knots", "t_max"), ((17, 3.0), (9, 5.0)))
def test_sigreg_equals_the_published_formula(knots: int, t_max: float) -> None:
    x = sample(7, 5)
    term = SIGReg(weight=0.3, projections=4, knots=knots, t_max=t_max)
    columns = (x @ term.directions(x)).T.tolist()
    expected = 0.3 * 7 * sum(epps_pulley_in_words(c, knots, t_max) for c in columns) / 4
    assert abs(term(x)["sigreg"].item() - expected) < 1e-6


def test_epps_pulley_is_small_for_the_standard_normal_alone() -> None:
    normal = torch.randn(4000, 1, generator=torch.Generator().manual_seed(0))
    coin = torch.sign(normal)  # mean 0 and variance 1, which a second-order term cannot tell apart
    found = epps_pulley(torch.cat([normal, coin, normal + 0.5, 2 * normal, 0 * normal], dim=1))
    assert found[0] < 0.002 and (found[1:] > 0.03).all()


def test_directions_change_with_the_step_and_resume_with_it() -> None:
    x = sample(8, 5)
    term = SIGReg(projections=3)
    first = term.directions(x)
    torch.testing.assert_close(first.norm(dim=0), torch.ones(3).double())
    term(x)
    second = term.directions(x)
    assert (first - second).abs().max() > 0.1
    resumed = SIGReg(projections=3)
    resumed.load_state_dict(term.state_dict())
    assert torch.equal(resumed.directions(x), second)
    term.eval()(x)
    assert torch.equal(term.directions(x), second)  # looking does not advance the draw
    draw = torch.Generator().manual_seed(1)
    assert not torch.equal(term.directions(x, draw), second)


FORMS: dict[str, Callable[[], Regularizer]] = {
    "vcreg": lambda: VCReg(25.0, 1.0),
    "vicreg": lambda: VICReg(),
    "sigreg": lambda: SIGReg(projections=3).eval(),
}


@pytest.mark.parametrize("name", FORMS)
def test_gradients_are_right(name: str) -> None:
    term = FORMS[name]()

    def loss(x: Tensor, y: Tensor) -> Tensor:
        return torch.stack(list(term(x, y).values())).sum()

    x, y = (sample(5, 4, seed).requires_grad_() for seed in (0, 1))
    assert torch.autograd.gradcheck(loss, (x, y))


@pytest.mark.parametrize("name", FORMS)
def test_descent_undoes_a_collapse(name: str) -> None:
    """From 64 nearly equal states the gradient alone leads to spread and uncorrelated ones."""
    x = 1 + 0.01 * torch.randn(64, 1, generator=torch.Generator().manual_seed(0)) * torch.ones(8)
    x = (x + 1e-3 * torch.randn(64, 8, generator=torch.Generator().manual_seed(1))).requires_grad_()
    term, optimizer = FORMS[name]().train(), torch.optim.Adam([x], lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        torch.stack(list(term(x).values())).sum().backward()
        optimizer.step()
    spread = x.detach().std(0)
    correlation = torch.corrcoef(x.detach().T) - torch.eye(8)
    assert spread.min() > 0.6 and correlation.abs().max() < 0.35


@pytest.mark.parametrize("name", FORMS)
def test_leading_dimensions_are_samples(name: str) -> None:
    x = sample(12, 4)
    flat, folded = FORMS[name]()(x), FORMS[name]()(x.view(2, 3, 2, 4))
    assert all(torch.equal(flat[key], folded[key]) for key in flat)


def test_a_large_mean_does_not_hide_a_small_spread() -> None:
    x = torch.randn(256, 8, generator=torch.Generator().manual_seed(0))
    moved = variance_term(1e-2 * x + 1e3)  # E[v^2] - E[v]^2 is pure rounding here
    torch.testing.assert_close(moved, variance_term(1e-2 * x), rtol=1e-3, atol=0)


@pytest.mark.parametrize("name", FORMS)
def test_autocast_changes_nothing(name: str) -> None:
    x = sample(32, 8).bfloat16()
    plain = FORMS[name]()(x.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = FORMS[name]()(x)
    for key, value in plain.items():
        assert half[key].dtype == torch.float32
        torch.testing.assert_close(half[key], value)


@pytest.mark.parametrize("name", FORMS)
def test_one_sample_is_refused_in_words(name: str) -> None:
    with pytest.raises(ValueError, match="at least 2 samples.*larger batch"):
        FORMS[name]()(torch.zeros(1, 4))


@pytest.mark.parametrize("name", FORMS)
def test_compiled_terms_are_the_same_and_draw_anew(name: str) -> None:
    x = sample(16, 4).float()
    plain, term = FORMS[name]().train(), FORMS[name]().train()
    compiled = torch.compile(term, backend="aot_eager")
    for _ in range(3):
        left, right = plain(x), compiled(x)
        for key, value in left.items():
            torch.testing.assert_close(right[key], value)
