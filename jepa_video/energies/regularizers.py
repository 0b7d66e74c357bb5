"""Terms that keep a representation informative: variance-covariance, VICReg, SIGReg, none.

A regulariser sees expanded states `v` `[..., D]`, takes each leading index as one sample, and
returns its terms by name, already weighted. Its statistics are those of the global batch: each rank
adds its share of the sums (counts may differ), and autograd through the sums gives every rank the
gradient of one process on the whole batch once DDP has averaged. Means are subtracted before
squares are summed, because `E[v^2] - E[v]^2` in float32 loses the small variances that tell a
collapse. Everything is float32 (or float64) whatever autocast says.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..distributed import all_sum, world_size
from ..randomness import generator as stateless
from .distances import widen
from .gaussianity import epps_pulley

SIGREG_STREAM = 101  # keeps the projections apart from every other stateless draw


class Moments(NamedTuple):
    """Second-order statistics of the samples of all ranks."""

    samples: Tensor  # [] how many
    mean: Tensor  # [D]
    scatter: Tensor  # [D, D] sum of outer products around the mean


def flatten(v: Tensor) -> Tensor:
    """`[..., D] -> [N, D]` in at least float32.

    Raises:
        ValueError: where the global batch would have fewer than two samples.
    """
    rows = widen(v).reshape(-1, v.shape[-1])
    # With a sample on each rank there are two in all, and nobody has to wait for a sum to know it.
    if len(rows) < (2 if world_size() == 1 else 1):
        raise ValueError(
            f"a regulariser needs at least 2 samples for a variance, got {len(rows)} on this rank: "
            "use a larger batch"
        )
    return rows


def _centred(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`[N, D]` -> global count `[]`, global mean `[D]`, and the rows around that mean `[N, D]`."""
    packed = all_sum(
        torch.cat([rows.sum(0), rows.new_full((1,), len(rows))])
    )  # one message, not two
    count = packed[-1].detach()
    mean = packed[:-1] / count
    return count, mean, rows - mean


def around_places(v: Tensor, places: Tensor, count: int) -> Tensor:
    """Tokens less the mean of those at the same place of the grid, over the clips of all ranks.

    What remains is what tells clips apart. Where the pictures share much, such as a border, tokens
    differ by their place alone, and that would satisfy a variance over all of them.

    Args:
        v: tokens `B K D`.
        places: of each, `B K`, from 0 to below `count`.
        count: places of the grid.
    """
    return _around(v, places, count, shared=True)


def around_times(v: Tensor, places: Tensor, cells: int) -> Tensor:
    """Tokens less the mean of those at the same cell of the picture at other times of the clip.

    What remains is what moves. Whatever stands still in a clip is foretold for nothing, so that a
    prediction alone is content with an encoder that does not see what moves by chance.

    Args:
        v: tokens `B K D`.
        places: of each in a grid of time, height and width, in this order: `B K`.
        cells: of the grid's height and width.
    """
    clips = torch.arange(len(v), device=v.device)[:, None]
    return _around(v, cells * clips + places % cells, len(v) * cells, shared=False)


def _around(v: Tensor, groups: Tensor, count: int, shared: bool) -> Tensor:
    """Rows `B K D` less the mean of their group `B K`, one of `count` that all ranks may share."""
    with torch.autocast(v.device.type, enabled=False):
        rows, index = widen(v).flatten(0, 1), groups.flatten()
        whole = F.pad(rows, (0, 1), value=1.0)  # the last column counts
        packed = whole.new_zeros(count, whole.shape[1]).index_add(0, index, whole)
        packed = all_sum(packed) if shared else packed
        mean = packed[:, :-1] / packed[:, -1:].detach().clamp_min(1)
        return (rows - mean[index]).view(v.shape)


def moments(v: Tensor) -> Moments:
    """Count, mean and scatter of `v` `[..., D]` over all ranks, differentiable."""
    with torch.autocast(v.device.type, enabled=False):
        count, mean, centred = _centred(flatten(v))
        return Moments(count, mean, all_sum(centred.T @ centred))


def variance_term(v: Tensor, gamma: float = 1.0, eps: float = 1e-4) -> Tensor:
    """Hinge on the standard deviation of each component, VICReg (arXiv 2105.04906) eq. 1.

    `mean_d max(0, gamma - sqrt(var_d + eps))` with the unbiased variance over the global batch;
    `v` `[..., D]` -> `[]`.
    """
    with torch.autocast(v.device.type, enabled=False):
        count, _, centred = _centred(flatten(v))
        return _hinge(all_sum(centred.square().sum(0)) / (count - 1), gamma, eps)


def covariance_term(v: Tensor) -> Tensor:
    """Squared off-diagonal covariances, summed, over D: VICReg eq. 3-4; `[..., D] -> []`."""
    return _off_diagonal(moments(v))


def _hinge(variance: Tensor, gamma: float, eps: float) -> Tensor:
    """The variance term from the variances `[D]`."""
    return torch.relu(gamma - (variance + eps).sqrt()).mean()


def _off_diagonal(stats: Moments) -> Tensor:
    """The covariance term from the moments."""
    covariance = stats.scatter / (stats.samples - 1)
    return (covariance - covariance.diagonal().diag()).square().sum() / len(covariance)


def invariance_term(x: Tensor, y: Tensor) -> Tensor:
    """Mean squared difference over all samples and components of the global batch; `[]`."""
    with torch.autocast(x.device.type, enabled=False):
        squares = (flatten(x) - flatten(y)).square()
        packed = all_sum(torch.stack([squares.sum(), squares.new_full((), squares.numel())]))
        mean: Tensor = packed[0] / packed[1].detach()
        return mean


def vicreg_loss(
    x: Tensor, y: Tensor, sim: float = 25.0, var: float = 25.0, cov: float = 1.0
) -> Tensor:
    """VICReg as its authors' code computes it: the variance is averaged over the branches; `[]`."""
    terms = VICReg(invariance=sim, variance=var, covariance=cov)(x, y)
    return torch.stack(list(terms.values())).sum()


class Regularizer(nn.Module):
    """Keeps the states informative: `v` `[..., D]` -> weighted scalar terms by name.

    `other` is the second branch where that has a gradient too: its terms are added, name by name.
    """

    def forward(
        self, v: Tensor, other: Tensor | None = None, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Weighted scalar terms by name; `generator` serves the regularisers that draw."""
        raise NotImplementedError


class NoRegularizer(Regularizer):
    """Adds nothing: what keeps the states from collapse must be elsewhere (EMA, or luck)."""

    def forward(
        self, v: Tensor, other: Tensor | None = None, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """No terms."""
        return {}


class VCReg(Regularizer):
    """Variance and covariance terms of VICReg on each branch by itself.

    The default weights are those of the embedded recipe: weak beside an L1 energy of about 0.3, so
    that they keep the components alive without deciding what they say. Strong ones (25 and 1, as in
    VICReg with its factor 25 on the invariance) drown the prediction in a short run.

    Args:
        variance: weight of the hinge on the standard deviation.
        covariance: weight of the squared off-diagonal covariances.
        gamma: standard deviation below which a component is pushed up, in units of `v`.
        eps: added to the variance under the root, so that its slope stays finite at collapse.
    """

    def __init__(
        self,
        variance: float = 0.05,
        covariance: float = 0.005,
        gamma: float = 1.0,
        eps: float = 1e-4,
    ) -> None:
        super().__init__()
        self.variance, self.covariance, self.gamma, self.eps = variance, covariance, gamma, eps

    def forward(
        self, v: Tensor, other: Tensor | None = None, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Terms `variance` and `covariance`, each where its weight is not zero."""
        terms = self._branch(v)
        if other is not None:
            second = self._branch(other)
            terms = {name: terms[name] + second[name] for name in terms}
        return terms

    def _branch(self, v: Tensor) -> dict[str, Tensor]:
        """Both terms of one branch from one pass over its moments."""
        if not self.covariance:  # spares the [D, D] message between ranks
            if not self.variance:
                return {}
            return {"variance": self.variance * variance_term(v, self.gamma, self.eps)}
        stats = moments(v)
        terms = {"covariance": self.covariance * _off_diagonal(stats)}
        if self.variance:
            variance = stats.scatter.diagonal() / (stats.samples - 1)
            terms["variance"] = self.variance * _hinge(variance, self.gamma, self.eps)
        return terms


class VICReg(VCReg):
    """VICReg (Bardes, Ponce, LeCun 2022; arXiv 2105.04906, eq. 1-6, weights of the authors' code).

    The authors' code halves the variance terms of the two branches and sums the covariance terms;
    other libraries do not agree on either, so the weights of one do not carry over to another.
    Without `other` the single branch has its share alone and there is no invariance term.
    """

    def __init__(
        self,
        invariance: float = 25.0,
        variance: float = 25.0,
        covariance: float = 1.0,
        gamma: float = 1.0,
        eps: float = 1e-4,
    ) -> None:
        super().__init__(variance / 2, covariance, gamma, eps)
        self.invariance = invariance

    def forward(
        self, v: Tensor, other: Tensor | None = None, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Terms `variance`, `covariance` and, with `other`, `invariance`."""
        terms = super().forward(v, other)
        if other is not None and self.invariance:
            terms["invariance"] = self.invariance * invariance_term(v, other)
        return terms


class SIGReg(Regularizer):
    """Sketched isotropic Gaussian regularisation, LeJEPA (arXiv 2511.08544), section 4.

    Projects the samples on random unit directions and asks each projection to be standard normal.
    The directions change at every training step and are the same on all ranks: they are a function
    of `seed` and a step counter that is saved with the weights (or of the generator passed in).

    Args:
        weight: factor of the term.
        projections: random directions in each step.
        knots: points of the quadrature.
        t_max: the quadrature runs over [-t_max, t_max], at `knots` points of its upper half.
        scale_by_count: multiply by the global number of samples, as the paper's statistic does.
        seed: of the directions.
    """

    def __init__(
        self,
        weight: float = 0.05,
        projections: int = 256,
        knots: int = 17,
        t_max: float = 3.0,
        scale_by_count: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.weight, self.projections, self.knots, self.t_max = weight, projections, knots, t_max
        self.scale_by_count, self.seed, self.step = scale_by_count, seed, 0

    def get_extra_state(self) -> Tensor:
        """The step counter, so that a resumed run draws the directions it would have drawn."""
        return torch.tensor(self.step)

    def set_extra_state(self, state: Tensor) -> None:
        """Restores the step counter."""
        self.step = int(state)

    def directions(self, v: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Unit directions `[D, P]` of this step, in the type and on the device of `v`."""
        draw = generator or stateless(self.seed, SIGREG_STREAM, self.step, device=v.device)
        shape = (v.shape[-1], self.projections)
        raw = torch.randn(shape, generator=draw, device=draw.device).to(v)
        axes: Tensor = raw / raw.norm(dim=0, keepdim=True)
        return axes

    # A generator cannot be traced, and the counter would be compiled in as a constant.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _next_directions(self, v: Tensor, generator: torch.Generator | None) -> Tensor:
        axes = self.directions(v, generator)
        if self.training:
            self.step += 1
        return axes

    def forward(
        self, v: Tensor, other: Tensor | None = None, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """The term `sigreg`; both branches meet the same directions."""
        with torch.autocast(v.device.type, enabled=False):
            axes = self._next_directions(widen(v), generator)
            term = self._branch(v, axes)
            if other is not None:
                term = term + self._branch(other, axes)
        return {"sigreg": self.weight * term}

    def _branch(self, v: Tensor, axes: Tensor) -> Tensor:
        rows = flatten(v)
        statistic = epps_pulley(rows @ axes, self.knots, self.t_max).mean()
        if not self.scale_by_count:
            return statistic
        return statistic * all_sum(rows.new_full((), len(rows)))
