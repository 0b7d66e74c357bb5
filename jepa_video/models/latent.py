"""The latent z: what the target holds that the context cannot tell.

The kinds differ in where z may lie and what it costs:

    none       a deterministic predictor
    gaussian   learned mean and variance, paid by the KL divergence to the prior
    sparse     a Laplace prior, whose price is the L1 norm of z
    noisy      few bounded numbers with fixed noise: a channel too narrow for much of y
    discrete   one of K codes

Shapes and the interface are those of `latent_base.py`: tokens `B N D`, latent `B L Z`.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..distributed import all_sum
from ..errors import UserError
from .latent_base import BIT, Inferred, Latent, LatentDraw, Per, Places

Generator = torch.Generator | None

__all__ = [
    "DiscreteLatent",
    "GaussianLatent",
    "Latent",
    "LatentDraw",
    "NoLatent",
    "NoisyLatent",
    "Places",
    "SparseLatent",
    "gaussian_kl",
]


class NoLatent(Latent):
    """A deterministic predictor."""

    def __init__(self, width: int) -> None:
        super().__init__()

    def posterior(
        self,
        s_x: Tensor,
        s_y: Tensor,
        generator: torch.Generator | None = None,
        places: Places | None = None,
    ) -> LatentDraw:
        """No z, no cost, no information."""
        return LatentDraw(None, {}, {})

    def sample(
        self,
        s_x: Tensor,
        n: int,
        generator: torch.Generator | None = None,
        places: Places | None = None,
    ) -> None:
        """There is nothing to draw."""
        return None


class Continuous(Inferred):
    """A z on a line, plane or more: gaussian posterior around a mean, any prior.

    The price is the information `E_q[log q(z | x, y) - log p(z | x)]` in nats that z carries about
    y beyond what x tells (for the aggregate prior an upper bound on it; Alemi et al. 2017,
    equation 14), here estimated from the draw itself.

    Args:
        weight: price of one nat.
        free_bits: information that costs nothing, in bits for each clip.
    """

    weight: float
    free_bits: float = 0.0

    def moments(self, answer: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation of q(z | x, y), `B L Z` each."""
        raise NotImplementedError

    def nats(
        self, mean: Tensor, log_std: Tensor, z: Tensor, s_x: Tensor, places: Places | None
    ) -> Tensor:
        """Information in z, `B`."""
        q = -0.5 * ((z - mean) / log_std.exp()).square() - log_std - 0.5 * math.log(2 * math.pi)
        return q.sum(dim=(1, 2)) - self.log_prior(z, s_x, places)

    def posterior(
        self,
        s_x: Tensor,
        s_y: Tensor,
        generator: torch.Generator | None = None,
        places: Places | None = None,
    ) -> LatentDraw:
        """Reparametrised draw from q(z | x, y)."""
        mean, log_std = self.moments(self.read(s_x, s_y, places))
        z = mean + log_std.exp() * torch.randn(mean.shape, generator=generator).to(mean)
        nats = self.nats(mean, log_std, z, s_x, places)
        return LatentDraw(z, self.price(nats), {"latent/bits": nats.detach().mean() / BIT})

    def sample(
        self,
        s_x: Tensor,
        n: int,
        generator: torch.Generator | None = None,
        places: Places | None = None,
    ) -> Tensor:
        """`n` draws from the prior: `n B L Z`."""
        return self.drawn(n, s_x, generator, places)

    def drawn(self, n: int, s_x: Tensor, generator: Generator, places: Places | None) -> Tensor:
        """`n` draws from the prior of this kind: `n B L Z`."""
        raise NotImplementedError

    def price(self, nats: Tensor) -> dict[str, Tensor]:
        """What `B` amounts of information cost; nothing where nothing is asked for."""
        paid = (nats - self.free_bits * BIT).clamp(min=0).mean()
        return {"latent/cost": self.weight * paid} if self.weight else {}

    def explained(
        self, s_x: Tensor, s_y: Tensor, z: Tensor, places: Places | None = None
    ) -> LatentDraw:
        """The posterior learns to find `z`: its negative log likelihood, with the price of q."""
        mean, log_std = self.moments(self.read(s_x, s_y, places))
        miss = 0.5 * ((z.detach() - mean) / log_std.exp()).square() + log_std
        nats = self.nats(mean, log_std, mean, s_x, places)
        terms = {"latent/amortised": 0.1 * miss.sum(dim=(1, 2)).mean(), **self.price(nats)}
        return LatentDraw(z.detach(), terms, {"latent/bits": nats.detach().mean() / BIT})


def gaussian_kl(mean_q: Tensor, log_q: Tensor, mean_p: Tensor, log_p: Tensor) -> Tensor:
    """KL(q || p) in nats of diagonal gaussians given by means and log variances, elementwise."""
    ratio = (log_q - log_p).exp() + (mean_q - mean_p).square() * (-log_p).exp()
    return 0.5 * (ratio - 1 - log_q + log_p)


class GaussianLatent(Continuous):
    """Gaussian z with a learned posterior, paid for by its KL divergence to the prior.

    Args:
        width: `D` of the tokens.
        dim: `Z`.
        hidden: width of the networks that map tokens to means and variances.
        weight: price of one nat.
        free_bits: information that costs nothing, in bits for each clip.
        learned_prior: p(z | x) from the context instead of the standard normal.
        per: how far one z reaches: `clip`, mask `group` or target `token`.
    """

    def __init__(
        self,
        width: int,
        dim: int = 8,
        hidden: int = 64,
        weight: float = 0.01,
        free_bits: float = 0.0,
        learned_prior: bool = False,
        per: Per = "group",
    ) -> None:
        super().__init__(width, dim, 2 * dim, hidden, per, learned_prior)
        if learned_prior and not weight:
            raise UserError(
                "model.latent.learned_prior learns from the price: give a weight above 0"
            )
        self.weight, self.free_bits = weight, free_bits

    def moments(self, answer: Tensor) -> tuple[Tensor, Tensor]:
        """The network gives mean and log variance."""
        mean, log_variance = answer.chunk(2, dim=-1)
        return mean, 0.5 * log_variance.clamp(-8, 8)

    def prior_moments(self, s_x: Tensor, places: Places | None = None) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation of p(z | x): `B L Z` each."""
        answer = self.read_prior(s_x, places)
        if answer is None:
            zero = s_x.new_zeros(len(s_x), self.count(places), self.dim, dtype=torch.float32)
            return zero, zero
        return self.moments(answer)

    def nats(
        self, mean: Tensor, log_std: Tensor, z: Tensor, s_x: Tensor, places: Places | None
    ) -> Tensor:
        """The divergence in closed form."""
        mean_p, log_p = self.prior_moments(s_x, places)
        return gaussian_kl(mean, 2 * log_std, mean_p, 2 * log_p).sum(dim=(1, 2))

    def log_prior(self, z: Tensor, s_x: Tensor, places: Places | None = None) -> Tensor:
        """Of a gaussian."""
        mean, log_std = self.prior_moments(s_x, places)
        return -(
            0.5 * ((z - mean) / log_std.exp()).square() + log_std + 0.5 * math.log(2 * math.pi)
        ).sum(dim=(1, 2))

    def drawn(self, n: int, s_x: Tensor, generator: Generator, places: Places | None) -> Tensor:
        """Gaussian around the prior's mean."""
        mean, log_std = self.prior_moments(s_x, places)
        return mean + log_std.exp() * torch.randn((n, *mean.shape), generator=generator).to(mean)


class SparseLatent(Continuous):
    """Sparse z: a Laplace prior of scale 1, so that information costs the L1 norm of z.

    The posterior has a fixed width (an exact number would hold unlimited information); its mean is
    the amortised answer to the sparse coding problem `argmin_z E(x, y, z) + weight |z|_1`, and
    `model.infer_z minimise` solves the problem itself (Olshausen and Field 1996; LeCun 2022,
    section 4.3.3).

    Args:
        width: `D` of the tokens.
        dim: `Z`.
        hidden: width of the network.
        weight: price of one nat, and so of one unit of |z|.
        noise: standard deviation of the posterior.
        per: how far one z reaches: `clip`, mask `group` or target `token`.
    """

    def __init__(
        self,
        width: int,
        dim: int = 16,
        hidden: int = 64,
        weight: float = 0.01,
        noise: float = 0.3,
        per: Per = "group",
    ) -> None:
        super().__init__(width, dim, dim, hidden, per, learned_prior=False)
        self.weight, self.noise = weight, noise

    def moments(self, answer: Tensor) -> tuple[Tensor, Tensor]:
        """The network gives the mean; the width is fixed."""
        return answer, torch.full_like(answer, math.log(self.noise))

    def log_prior(self, z: Tensor, s_x: Tensor, places: Places | None = None) -> Tensor:
        """Of a Laplace distribution: `-|z| - log 2`."""
        return -(z.abs() + BIT).sum(dim=(1, 2))

    def drawn(self, n: int, s_x: Tensor, generator: Generator, places: Places | None) -> Tensor:
        """By the inverse of the Laplace distribution."""
        u = torch.rand((n, len(s_x), self.count(places), self.dim), generator=generator) - 0.5
        return (-u.sign() * torch.log1p(-2 * u.abs().clamp(max=0.4999999))).to(s_x.device)


class NoisyLatent(Continuous):
    """Few bounded numbers with fixed noise: information is limited by the channel, not by a price.

    `z = tanh(f(x, y)) + noise`; the prior is what all of z can be, uniform in [-1, 1] with the
    noise on top (LeCun 2022, section 4.3.3: low-dimensional z, and noise added to z).

    Args:
        width: `D` of the tokens.
        dim: `Z`; few.
        hidden: width of the network.
        noise: standard deviation; with 0.25 one number holds about 1.6 bits.
        per: how far one z reaches: `clip`, mask `group` or target `token`.
    """

    weight = 0.0

    def __init__(
        self,
        width: int,
        dim: int = 2,
        hidden: int = 64,
        noise: float = 0.25,
        per: Per = "group",
    ) -> None:
        super().__init__(width, dim, dim, hidden, per, learned_prior=False)
        self.noise = noise

    def moments(self, answer: Tensor) -> tuple[Tensor, Tensor]:
        """A bounded mean; the width is fixed."""
        return answer.tanh(), torch.full_like(answer, math.log(self.noise))

    def log_prior(self, z: Tensor, s_x: Tensor, places: Places | None = None) -> Tensor:
        """Of the uniform distribution folded with the noise: two normal integrals."""
        inner = torch.special.ndtr((1 - z.abs()) / self.noise)
        outer = torch.special.ndtr((-1 - z.abs()) / self.noise)
        share: Tensor = inner - outer
        return (share.clamp_min(1e-30) / 2).log().sum(dim=(1, 2))

    def drawn(self, n: int, s_x: Tensor, generator: Generator, places: Places | None) -> Tensor:
        """Uniform, with the noise on top."""
        shape = (n, len(s_x), self.count(places), self.dim)
        flat = 2 * torch.rand(shape, generator=generator) - 1
        return (flat + self.noise * torch.randn(shape, generator=generator)).to(s_x.device)


class DiscreteLatent(Inferred):
    """One of K codes: which of K things happens.

    The posterior is a choice by logits, drawn with Gumbel noise and passed straight through (Jang
    et al. 2017, section 2.2). The price is KL(q || p), at most log K; with a uniform prior it wants
    q flat, so a second term asks that over the batch all codes are used. `model.infer_z minimise`
    tries every code and takes the best, which needs no such tricks.

    Args:
        width: `D` of the tokens.
        count: `K`.
        dim: `Z`, numbers of a code.
        hidden: width of the networks.
        weight: price of one nat.
        balance: price of one nat of KL from the codes' mean use to even use.
        temperature: of the choice that gradients see.
        learned_prior: p(z | x) from the context instead of an even one.
        per: how far one z reaches: `clip`, mask `group` or target `token`.
    """

    def __init__(
        self,
        width: int,
        count: int = 8,
        dim: int = 16,
        hidden: int = 64,
        weight: float = 0.0,
        balance: float = 0.1,
        temperature: float = 1.0,
        learned_prior: bool = False,
        per: Per = "group",
    ) -> None:
        if count < 2:
            raise UserError(f"model.latent.count must be 2 or more, not {count}")
        super().__init__(width, dim, count, hidden, per, learned_prior)
        if learned_prior and not weight:
            raise UserError(
                "model.latent.learned_prior learns from the price: give a weight above 0"
            )
        self.weight, self.balance, self.temperature = weight, balance, temperature
        self.book = nn.Parameter(torch.empty(count, dim))
        nn.init.normal_(self.book)

    @property
    def codes(self) -> Tensor | None:
        """The code book, `K 1 Z`; a z for each token would have K to the power M values."""
        return None if self.per == "token" else self.book[:, None]

    def log_chances(self, s_x: Tensor, places: Places | None = None) -> Tensor:
        """`log p(k | x)`, `B L K`."""
        answer = self.read_prior(s_x, places)
        if answer is None:
            even = s_x.new_zeros(len(s_x), self.count(places), len(self.book), dtype=torch.float32)
            return even - math.log(len(self.book))
        return answer.log_softmax(-1)

    def posterior(
        self,
        s_x: Tensor,
        s_y: Tensor,
        generator: torch.Generator | None = None,
        places: Places | None = None,
    ) -> LatentDraw:
        """A hard choice whose gradient is that of the soft one."""
        logits = self.read(s_x, s_y, places)  # B L K
        uniform = torch.rand(logits.shape, generator=generator).clamp(1e-9, 1 - 1e-7)
        noise = -(-uniform.log()).log()
        soft = ((logits + noise.to(logits)) / self.temperature).softmax(-1)
        hard = F.one_hot(soft.argmax(-1), soft.shape[-1]).to(soft)
        return self._charged((hard + soft - soft.detach()) @ self.book, logits, s_x, places)

    def explained(
        self, s_x: Tensor, s_y: Tensor, z: Tensor, places: Places | None = None
    ) -> LatentDraw:
        """The posterior learns the chosen code, and the code book its place: cross-entropy."""
        logits = self.read(s_x, s_y, places)
        choice = torch.cdist(z.detach(), self.book.detach().expand(len(z), -1, -1)).argmin(-1)
        teach = F.cross_entropy(logits.flatten(0, 1), choice.flatten())
        taken = F.one_hot(choice, len(self.book)).to(logits)
        draw = self._charged(taken @ self.book, (taken + 1e-6).log(), s_x, places)
        return draw._replace(terms={"latent/amortised": 0.1 * teach, **draw.terms})

    def _charged(self, z: Tensor, logits: Tensor, s_x: Tensor, places: Places | None) -> LatentDraw:
        """Price and facts of choices by `logits` `B L K`."""
        log_q = logits.log_softmax(-1)
        nats = (log_q.exp() * (log_q - self.log_chances(s_x, places))).sum(dim=(1, 2))
        # Over all ranks: a rank's own few clips need not use every code.
        total = all_sum(log_q.exp().sum(dim=(0, 1)))  # K
        use = total / total.sum()
        entropy = -(use * (use + 1e-9).log()).sum()
        terms = {"latent/cost": self.weight * nats.mean()} if self.weight else {}
        if self.balance:
            terms["latent/balance"] = self.balance * (math.log(len(use)) - entropy)
        facts = {"latent/bits": nats.detach().mean() / BIT, "latent/codes": entropy.detach().exp()}
        return LatentDraw(z, terms, facts)

    def log_prior(self, z: Tensor, s_x: Tensor, places: Places | None = None) -> Tensor:
        """Of the code nearest to each z."""
        near = torch.cdist(z, self.book.expand(len(z), -1, -1)).argmin(-1, keepdim=True)
        return self.log_chances(s_x, places).gather(-1, near).sum(dim=(1, 2))

    def sample(
        self,
        s_x: Tensor,
        n: int,
        generator: torch.Generator | None = None,
        places: Places | None = None,
    ) -> Tensor:
        """`n` draws of p(k | x), as their codes: `n B L Z`."""
        chances = self.log_chances(s_x, places).exp()  # B L K
        flat = chances.flatten(0, 1).cpu()
        drawn = torch.multinomial(flat, n, replacement=True, generator=generator)  # B*L n
        return self.book[drawn.T.to(chances.device)].view(n, *chances.shape[:2], -1)
