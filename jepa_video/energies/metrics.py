"""How a representation is judged: effective rank, spread, and whether the energy tells pairs apart.

Pure functions of features; nothing here has a place in a loss. Features with a NaN give NaN, never
an exception, because these numbers are read exactly when a run is in trouble.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .distances import distance, widen


def _effective_rank(spectrum: Tensor, eps: float) -> Tensor:
    """Exp of the entropy of a spectrum `[K]` made to sum to 1; 0 for a zero spectrum."""
    total = spectrum.sum()
    share = spectrum / total.clamp_min(torch.finfo(spectrum.dtype).tiny) + eps
    rank = torch.exp(-(share * share.log()).sum())
    return torch.where(total > 0, rank, torch.zeros_like(rank))


def rankme(x: Tensor, eps: float = 1e-7) -> Tensor:
    """RankMe: how many directions the features `x` `[N, D]` fill, between 1 and min(N, D); `[]`.

    Exp of the entropy of the normalised singular values, not centred (Garrido et al. 2023, arXiv
    2210.02885, eq. 1). Uncentred on purpose: features that are one constant vector have rank 1,
    where the centred rounding noise would look full. Zero features have rank 0.
    """
    x = widen(x.detach())
    if not torch.isfinite(x).all():
        return x.new_tensor(float("nan"))
    return _effective_rank(torch.linalg.svdvals(x), eps)


def lidar(x: Tensor, delta: float = 1e-4, eps: float = 1e-7) -> Tensor:
    """LiDAR: effective rank of what tells clips apart and views do not change; `[C, V, D] -> []`.

    `x` holds V views of each of C clips. Exp of the entropy of the eigenvalues of
    `W^-1/2 B W^-1/2` with B the scatter of the clips' means and W that within the clips plus
    `delta` (Thilak et al. 2024, arXiv 2312.04000).

    Raises:
        ValueError: for fewer than two clips or two views.
    """
    clips, views, _ = x.shape
    if clips < 2 or views < 2:
        raise ValueError(f"LiDAR needs two clips and two views, got {clips} and {views}")
    x = widen(x.detach())
    if not torch.isfinite(x).all():
        return x.new_tensor(float("nan"))
    means = x.mean(1)
    between = (means - means.mean(0)) / clips**0.5  # [C, D]
    within = (x - means.unsqueeze(1)).flatten(0, 1)
    scatter = within.T @ within / (clips * views)
    values, vectors = torch.linalg.eigh(scatter)
    whitened = between @ (vectors * (values.clamp_min(0) + delta).rsqrt())
    return _effective_rank(torch.linalg.svdvals(whitened).square(), eps)


def feature_std(x: Tensor) -> Tensor:
    """Standard deviation of each component over all samples, averaged; `[..., D] -> []`.

    Near 0 is collapse; about 1 is what layer-normalised features have.
    """
    return widen(x.detach()).reshape(-1, x.shape[-1]).std(0).mean()


class EnergyGap(NamedTuple):
    """How far the energy of shuffled pairs lies above that of true ones."""

    gap: Tensor  # [] mean of shuffled minus true, in units of the energy
    stderr: Tensor  # [] standard error of that mean
    auc: Tensor  # [] chance that a true pair has less energy than a shuffled one


def energy_gap(true: Tensor, shuffled: Tensor) -> EnergyGap:
    """Compares energies `[N]` of true pairs with `[M]` of shuffled ones; paired where N = M.

    A flat energy (collapse) has a gap of 0 and an AUC of 0.5. Ties count one half.

    Raises:
        ValueError: for fewer than two energies of a kind.
    """
    if min(true.numel(), shuffled.numel()) < 2:
        raise ValueError("an energy gap needs at least two true and two shuffled energies")
    true, shuffled = widen(true.detach()).flatten(), widen(shuffled.detach()).flatten()
    gap = shuffled.mean() - true.mean()
    if len(true) == len(shuffled):
        variance = (shuffled - true).var() / len(true)
    else:
        variance = true.var() / len(true) + shuffled.var() / len(shuffled)
    return EnergyGap(gap, variance.sqrt(), _auc(true, shuffled))


def _auc(low: Tensor, high: Tensor) -> Tensor:
    """Chance that one of `low` `[N]` lies below one of `high` `[M]`, ties one half; NaN stays."""
    order = high.sort().values
    not_above = torch.searchsorted(order, low, right=True)
    below = torch.searchsorted(order, low, right=False)
    wins = len(high) - (not_above + below).to(low.dtype) / 2
    auc = wins.mean() / len(high)
    return torch.where(torch.isfinite(low).all() & torch.isfinite(high).all(), auc, auc * torch.nan)


def spectrum_alpha(x: Tensor, first: int = 1, last: int | None = None) -> Tensor:
    """Decay of the covariance spectrum of `x` `[N, D]`: a in `eigenvalue_i ~ i^-a`; `[]`.

    Least squares on logarithms over ranks `first` to `last` (alpha-ReQ, Agrawal et al. 2022). Near
    1 is balanced; large means that few directions carry all; 0 means white.
    """
    x = widen(x.detach())
    if not torch.isfinite(x).all():
        return x.new_tensor(float("nan"))
    values = torch.linalg.svdvals(x - x.mean(0)).square()
    values = values[first - 1 : min(last or len(values), len(values))]
    keep = values > values[0] * torch.finfo(x.dtype).eps
    height = values[keep].log()
    place = torch.arange(first, first + len(values), device=x.device)[keep].to(x.dtype).log()
    place = place - place.mean()
    slope: Tensor = (place * height).sum() / place.square().sum()
    return -slope


def uniformity(x: Tensor, t: float = 2.0) -> Tensor:
    """Log of the mean Gaussian potential between unit features `[N, D]`; low is uniform; `[]`.

    Wang and Isola 2020 (arXiv 2005.10242); 0 where all features point one way.
    """
    squared = F.pdist(F.normalize(widen(x.detach()), dim=-1)).square()
    return torch.logsumexp(-t * squared, 0) - torch.tensor(float(len(squared))).log()


def alignment(x: Tensor, y: Tensor) -> Tensor:
    """Mean squared distance of unit features of positive pairs `[N, D]`, in [0, 4]; `[]`.

    Wang and Isola 2020 (arXiv 2005.10242) with exponent 2.
    """
    x, y = (F.normalize(widen(side.detach()), dim=-1) for side in (x, y))
    return (x - y).square().sum(-1).mean()


def straightness(states: Tensor) -> Tensor:
    """Mean cosine between successive steps of state paths `[B, T, D]`; 1 is a straight line; `[]`.

    Henaff et al. 2019, perceptual straightening: a state space in which the world moves straight is
    one in which it can be extrapolated.

    Raises:
        ValueError: for paths of fewer than three states.
    """
    if states.shape[1] < 3:
        raise ValueError(f"straightness needs paths of 3 states or more, got {states.shape[1]}")
    steps = widen(states.detach()).diff(dim=1)
    return F.cosine_similarity(steps[:, 1:], steps[:, :-1], dim=-1).mean()


def constant_energy(target: Tensor, name: str = "l1") -> Tensor:
    """Energy of answering with the mean of the targets `[..., D]` whatever the context; `[]`.

    The price of knowing nothing: a prediction that costs as much ignores what it sees.
    """
    rows = widen(target.detach()).reshape(-1, target.shape[-1])
    return distance(name)(rows.mean(0).expand_as(rows), rows).mean()
