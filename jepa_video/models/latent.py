"""The latent z: what the target holds that the context cannot tell.

A latent has a posterior (it may look at the target), a prior (it may not), and a price: the less z
can say about y, the less of y it can smuggle past the prediction (LeCun 2022, section 4.3.3,
"minimise the information content of z"). Shapes: tokens `B N D`, latent `B L Z`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .blocks import Mlp


class LatentDraw(NamedTuple):
    """One z for each clip, with what it costs.

    Attributes:
        z: `B L Z`, or None where there is no latent.
        terms: weighted regularisers of z by name, scalars; they are part of the loss.
        facts: what is worth logging beside, e.g. `latent/bits`: the information that z carries
            beyond its prior, mean over clips, in bits.
    """

    z: Tensor | None
    terms: dict[str, Tensor]
    facts: dict[str, Tensor]


class Latent(nn.Module):
    """What every kind of z offers; `dim` is `Z`, 0 where there is no latent."""

    dim: int = 0

    def posterior(
        self, s_x: Tensor, s_y: Tensor, generator: torch.Generator | None = None
    ) -> LatentDraw:
        """Infer z from context tokens `B K D` and target tokens `B M D` (amortised)."""
        raise NotImplementedError

    def sample(
        self, s_x: Tensor, n: int, generator: torch.Generator | None = None
    ) -> Tensor | None:
        """`n` draws from the prior: `n B L Z`, or None where there is no latent."""
        raise NotImplementedError


class NoLatent(Latent):
    """A deterministic predictor."""

    def __init__(self, width: int) -> None:
        super().__init__()

    def posterior(
        self, s_x: Tensor, s_y: Tensor, generator: torch.Generator | None = None
    ) -> LatentDraw:
        """No z, no cost, no information."""
        return LatentDraw(None, {}, {})

    def sample(self, s_x: Tensor, n: int, generator: torch.Generator | None = None) -> None:
        """There is nothing to draw."""
        return None


def gaussian_kl(mean_q: Tensor, log_q: Tensor, mean_p: Tensor, log_p: Tensor) -> Tensor:
    """KL(q || p) in nats of diagonal gaussians given by means and log variances, elementwise."""
    ratio = (log_q - log_p).exp() + (mean_q - mean_p).square() * (-log_p).exp()
    return 0.5 * (ratio - 1 - log_q + log_p)


class GaussianLatent(Latent):
    """Gaussian z with a learned posterior, paid for by its KL to the prior.

    The KL is the information in nats that z carries about y beyond what x tells (for the aggregate
    prior an upper bound on it; Alemi et al. 2017, equation 14).

    Args:
        width: `D` of the tokens.
        dim: `Z`.
        hidden: width of the networks that map tokens to means and variances.
        weight: price of one nat.
        free_bits: information that costs nothing, in bits for each clip.
        learned_prior: p(z | x) from the context instead of the standard normal.
    """

    def __init__(
        self,
        width: int,
        dim: int = 8,
        hidden: int = 64,
        weight: float = 0.01,
        free_bits: float = 0.0,
        learned_prior: bool = False,
    ) -> None:
        super().__init__()
        self.dim, self.weight, self.free_bits = dim, weight, free_bits
        self.infer = Mlp(2 * width, hidden, 2 * dim)
        self.prior = Mlp(width, hidden, 2 * dim) if learned_prior else None

    def prior_moments(self, s_x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of p(z | x): `B 1 Z` each."""
        if self.prior is None:
            zero = s_x.new_zeros(s_x.shape[0], 1, self.dim)
            return zero, zero
        mean, log_variance = self.prior(s_x.mean(dim=1, keepdim=True)).float().chunk(2, dim=-1)
        return mean, log_variance.clamp(-8, 8)

    def posterior(
        self, s_x: Tensor, s_y: Tensor, generator: torch.Generator | None = None
    ) -> LatentDraw:
        """Reparametrised draw from q(z | x, y)."""
        pair = torch.cat((s_x.mean(dim=1, keepdim=True), s_y.mean(dim=1, keepdim=True)), dim=-1)
        mean, log_variance = self.infer(pair).float().chunk(2, dim=-1)
        log_variance = log_variance.clamp(-8, 8)
        noise = torch.randn(mean.shape, generator=generator).to(mean)
        nats = gaussian_kl(mean, log_variance, *self.prior_moments(s_x)).sum(dim=(1, 2))  # B
        paid = (nats - self.free_bits * math.log(2)).clamp(min=0).mean()
        z = mean + (0.5 * log_variance).exp() * noise
        bits = nats.mean() / math.log(2)
        return LatentDraw(z, {"latent/cost": self.weight * paid}, {"latent/bits": bits})

    def sample(self, s_x: Tensor, n: int, generator: torch.Generator | None = None) -> Tensor:
        """`n` draws from p(z | x): `n B 1 Z`."""
        mean, log_variance = self.prior_moments(s_x)
        noise = torch.randn((n, *mean.shape), generator=generator).to(mean)
        return mean + (0.5 * log_variance).exp() * noise
