from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from jepa_video.energies.metrics import (
    alignment,
    constant_energy,
    energy_gap,
    feature_std,
    lidar,
    rankme,
    spectrum_alpha,
    straightness,
    uniformity,
)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def basis(rows: int, columns: int, seed: int = 0) -> Tensor:
    return torch.linalg.qr(draw(rows, columns, seed=seed))[0]


@pytest.mark.parametrize("rank", (1, 2, 7, 40))
@pytest.mark.parametrize("scale", (1e-4, 1.0, 1e4))
def test_rankme_of_k_equal_directions_is_k(rank: int, scale: float) -> None:
    x = scale * basis(200, rank) @ basis(64, rank, seed=1).T
    assert rankme(x).item() == pytest.approx(rank, rel=0.01)


def test_rankme_equals_its_formula() -> None:
    x = draw(30, 8) @ draw(8, 8, seed=1)
    values = torch.linalg.svd(x.double()).S.tolist()
    share = [v / sum(values) for v in values]
    assert rankme(x).item() == pytest.approx(math.exp(-sum(p * math.log(p) for p in share)), 1e-4)


def test_rankme_sees_a_constant_and_does_not_choke() -> None:
    assert rankme(torch.ones(100, 16) + 1e-6 * draw(100, 16)) < 1.1
    assert rankme(torch.zeros(100, 16)) == 0
    assert rankme(torch.tensor([[1.0, math.nan], [0.0, 1.0]])).isnan()
    assert rankme(draw(64, 16).bfloat16()) > 14


def test_lidar_counts_what_tells_clips_apart_and_not_what_views_change() -> None:
    """16 directions vary: 4 between clips, 12 between views of one clip."""
    clips, views = draw(200, 1, 16), draw(200, 8, 16, seed=1)
    between = torch.arange(16) < 4
    x = torch.where(between, clips + 0.01 * views, views)
    assert lidar(x).item() == pytest.approx(4, rel=0.05)
    assert rankme(x.flatten(0, 1)) > 14  # which the rank alone cannot see
    with pytest.raises(ValueError, match="two views"):
        lidar(x[:, :1])
    assert lidar(x * math.nan).isnan()


def test_lidar_equals_its_formula() -> None:
    x = (draw(20, 1, 5) + 0.7 * draw(20, 6, 5, seed=1)).double()
    mean, within = x.mean((0, 1)), torch.zeros(5, 5).double()
    between = torch.zeros(5, 5).double()
    for clip in x:
        away = clip.mean(0) - mean
        between += torch.outer(away, away) / 20
        for view in clip:
            within += torch.outer(view - clip.mean(0), view - clip.mean(0)) / 120
    inverse = torch.linalg.inv(within + 1e-4 * torch.eye(5))
    values = torch.linalg.eigvals(inverse @ between).real
    share = values / values.sum()
    expected = math.exp(-(share * share.log()).sum())
    assert lidar(x).item() == pytest.approx(expected, rel=1e-4)


def test_feature_std_is_over_samples_and_not_within_one() -> None:
    same = draw(16).expand(50, 4, 16)  # varied inside, the same for all
    assert feature_std(same).item() == pytest.approx(0, abs=1e-6)
    assert feature_std(3 * draw(4000, 16)).item() == pytest.approx(3, rel=0.03)


def test_energy_gap_is_paired_where_it_can_be() -> None:
    true = draw(100) * 5
    gap = energy_gap(true, true + 1 + 0.01 * draw(100, seed=1))
    assert gap.gap.item() == pytest.approx(1, abs=0.01)
    assert gap.stderr < 0.002  # the spread between clips cancels
    apart = energy_gap(true, torch.cat([true, true]) + 1)
    assert apart.stderr.item() == pytest.approx(float((true.var() / 100 * 1.5).sqrt()), rel=0.01)


def test_auc_equals_its_count_and_ties_are_half() -> None:
    true, shuffled = (draw(40, seed=s).round(decimals=1) for s in (0, 1))
    wins = [float(t < s) + 0.5 * float(t == s) for t in true for s in shuffled]
    assert energy_gap(true, shuffled).auc.item() == pytest.approx(sum(wins) / len(wins))
    flat = torch.ones(30)
    assert energy_gap(flat, flat).auc == 0.5 and energy_gap(flat, flat).gap == 0
    assert energy_gap(flat, flat + 1).auc == 1
    assert energy_gap(flat * math.nan, flat).auc.isnan()
    with pytest.raises(ValueError, match="at least two"):
        energy_gap(flat[:1], flat[:1])


@pytest.mark.parametrize("decay", (0.5, 1.0, 2.0))
def test_alpha_reads_the_decay_that_was_put_in(decay: float) -> None:
    spectrum = torch.arange(1, 33).float() ** (-decay / 2)
    x = basis(500, 33)
    x = torch.linalg.qr(x - x.mean(0))[0][:, :32] * spectrum @ basis(32, 32, seed=1).T
    assert spectrum_alpha(x).item() == pytest.approx(decay, abs=0.02)
    assert spectrum_alpha(x, first=5, last=20).item() == pytest.approx(decay, abs=0.02)


def test_uniformity_and_alignment() -> None:
    around, bunched = draw(400, 8), 10 + draw(400, 8)
    assert uniformity(around) < -2.5 < -0.2 < uniformity(bunched) < 0
    assert uniformity(torch.ones(10, 3)) == 0
    assert alignment(around, 3 * around).item() == pytest.approx(0, abs=1e-6)
    assert alignment(around, -around).item() == pytest.approx(4)


def test_straightness_of_a_line_a_corner_and_a_return() -> None:
    line = torch.arange(5.0)[None, :, None] * torch.tensor([1.0, 2.0])
    assert straightness(line).item() == pytest.approx(1)
    corner = torch.tensor([[[0.0, 0], [1, 0], [1, 1]]])
    assert straightness(corner).item() == pytest.approx(0, abs=1e-6)
    assert straightness(torch.tensor([[[0.0], [1], [0]]])).item() == pytest.approx(-1)
    with pytest.raises(ValueError, match="3 states"):
        straightness(line[:, :2])


def test_constant_energy_is_what_the_mean_costs() -> None:
    target = draw(5, 20, 6)
    rows = target.reshape(-1, 6)
    assert constant_energy(target, "l2").item() == pytest.approx(
        float(rows.var(0, correction=0).mean()), rel=1e-5
    )
    assert constant_energy(torch.ones(4, 6)) == 0
