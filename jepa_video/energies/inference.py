"""Inference over the latent: the z that explains a pair, and how well the best ones explain it.

An energy here is a closure over a pair (x, y): it takes candidates z `[B, S, ...]` (S of them for
each of B pairs) and returns `[B, S]`. Candidates do not influence one another, so one backward pass
gives all their gradients. `z* = argmin_z E(x, y, z)`, `F(x, y) = E(x, y, z*)`, and the soft version
`F_b = -1/b log mean_z exp(-b E)` (LeCun 2022, section 4.2).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Energy = Callable[[Tensor], Tensor]


class Minimum(NamedTuple):
    """The best latent found for each pair."""

    z: Tensor  # [B, ...]
    energy: Tensor  # [B]
    source: Tensor  # [B] index of the start or of the code that it came from


def argmin_z(
    energy: Energy,
    starts: Tensor,
    steps: int = 50,
    lr: float = 0.1,
    method: Literal["adam", "lbfgs"] = "lbfgs",
    allowed: Callable[[Tensor], Tensor] | None = None,
) -> Minimum:
    """Minimises `energy` over z from each of the S starts `[B, S, ...]` and keeps the best z seen.

    The starts count as seen, so the result is never above the best of them. Only z gets a gradient:
    the parameters behind the closure are not touched, also while they train. What the closure
    captures must not be inference tensors, because autograd cannot save those.

    Args:
        energy: `[B, S, ...] -> [B, S]`.
        starts: where to begin, e.g. the posterior's mean beside samples of the prior.
        steps: evaluations of the energy after the first.
        lr: step of Adam; L-BFGS takes it for the length of its first step only.
        method: `lbfgs` for smooth energies (few steps, no scale to tune), `adam` for rough ones.
        allowed: the nearest z that may be, of the shape of the starts; every step is brought there.
            The energy's gradient should vanish where it points out of what is allowed.
    """
    descend = {"adam": _adam, "lbfgs": _lbfgs}[method]
    with torch.inference_mode(False), torch.enable_grad():
        start = starts.detach().clone().flatten(2)  # [B, S, Z]

        def slope(z: Tensor) -> tuple[Tensor, Tensor]:
            z = z.detach().requires_grad_()
            value = energy(z.view(starts.shape))
            (grad,) = torch.autograd.grad(value.sum(), z)
            return value.detach(), grad

        def inside(z: Tensor) -> Tensor:
            return z if allowed is None else allowed(z.view(starts.shape)).flatten(2)

        z, value = descend(slope, inside, start, steps, lr)
    # NaN is never the best: a start that diverged must not hide one that did not.
    best = value.nan_to_num(nan=math.inf, posinf=math.inf, neginf=-math.inf).argmin(1)
    rows = torch.arange(len(best), device=best.device)
    return Minimum(z[rows, best].view(starts.shape[:1] + starts.shape[2:]), value[rows, best], best)


Slope = Callable[[Tensor], tuple[Tensor, Tensor]]
Inside = Callable[[Tensor], Tensor]


def _adam(slope: Slope, inside: Inside, z: Tensor, steps: int, lr: float) -> tuple[Tensor, Tensor]:
    """Adam (Kingma and Ba 2015) with a step that falls to zero; the best z of each start."""
    first, second = torch.zeros_like(z), torch.zeros_like(z)
    best_z, (best, grad) = z, slope(z)
    for step in range(1, steps + 1):
        first = 0.9 * first + 0.1 * grad
        second = 0.99 * second + 0.01 * grad.square()
        scale = (second / (1 - 0.99**step)).sqrt() + 1e-12
        rate = lr * 0.5 * (1 + math.cos(math.pi * (step - 1) / steps))
        z = inside(z - rate * first / (1 - 0.9**step) / scale)
        value, grad = slope(z)
        better = value < best
        best, best_z = torch.where(better, value, best), torch.where(better[..., None], z, best_z)
    return best_z, best


def _lbfgs(
    slope: Slope, inside: Inside, z: Tensor, steps: int, lr: float, memory: int = 8
) -> tuple[Tensor, Tensor]:
    """L-BFGS on all candidates at once; each takes a step only where its energy falls enough.

    A candidate whose trial fails the Armijo condition stays and halves its step; one whose trial
    holds goes on with a full step. So each candidate has a line search of its own, and each
    iteration costs one evaluation whatever the others do.
    """
    value, grad = slope(z)
    pairs: list[tuple[Tensor, Tensor]] = []
    direction = -grad * lr / grad.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    length = torch.ones_like(value)
    for _ in range(steps):
        trial = inside(z + length[..., None] * direction)
        trial_value, trial_grad = slope(trial)
        fall = (grad * (trial - z)).sum(-1)
        # False for NaN, and for a step that went up because its fall is not allowed.
        taken = (trial_value <= value + 1e-4 * fall) & (fall <= 0)
        moved = taken[..., None]
        # A candidate that stays adds a pair of zeros, which the recursion below passes over.
        pairs = pairs[1 - memory :] if len(pairs) == memory else pairs
        pairs.append(
            (torch.where(moved, trial - z, 0 * z), torch.where(moved, trial_grad - grad, 0 * z))
        )
        z, grad = torch.where(moved, trial, z), torch.where(moved, trial_grad, grad)
        value = torch.where(taken, trial_value, value)
        direction = torch.where(moved, _two_loops(grad, pairs), direction)
        direction = torch.where((fall > 0)[..., None], -grad, direction)
        length = torch.where(taken, torch.ones_like(length), length / 2)
    return z, value


def _two_loops(grad: Tensor, pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Direction -H grad from pairs of steps and gradient changes (Nocedal and Wright, alg. 7.4).

    All `[B, S, Z]`. A pair without positive curvature (or of zeros) is left out for its candidate.
    """
    curved = [(step * change).sum(-1, keepdim=True) for step, change in pairs]
    rates = [torch.where(c > 1e-20, 1 / c.clamp_min(1e-20), 0 * c) for c in curved]
    q, kept = grad, []
    scale = torch.ones_like(curved[0])
    for (_, change), rate, curve in zip(pairs, rates, curved, strict=True):
        newest = curve / change.square().sum(-1, keepdim=True).clamp_min(1e-30)
        scale = torch.where(rate > 0, newest, scale)
    for (step, change), rate in zip(reversed(pairs), reversed(rates), strict=True):
        share = rate * (step * q).sum(-1, keepdim=True)
        q = q - share * change
        kept.append(share)
    r = scale * q
    for (step, change), rate, share in zip(pairs, rates, reversed(kept), strict=True):
        r = r + (share - rate * (change * r).sum(-1, keepdim=True)) * step
    return -r


def argmin_codes(energy: Energy, codes: Tensor, batch: int, chunk: int | None = None) -> Minimum:
    """Tries every one of K codes `[K, ...]` for each of `batch` pairs; exact.

    Args:
        energy: `[B, S, ...] -> [B, S]`.
        codes: all values that z can take.
        batch: B, the number of pairs.
        chunk: codes tried at once, where K predictions do not fit in memory.
    """
    energies = code_energies(energy, codes, batch, chunk)
    best = energies.min(1)
    return Minimum(codes[best.indices], best.values, best.indices)


def strayed(z: Tensor, codes: Tensor, share: float, generator: torch.Generator | None) -> Tensor:
    """Rows of z `B ...`, of which a share is any of the codes `[K, ...]` instead."""
    stray = torch.rand(len(z), generator=generator) < share
    other = torch.randint(len(codes), (len(z),), generator=generator)
    chosen = stray.to(z.device).view(-1, *(1,) * (z.ndim - 1))
    return torch.where(chosen, codes[other.to(codes.device)], z)


def code_energies(energy: Energy, codes: Tensor, batch: int, chunk: int | None = None) -> Tensor:
    """Energy of each code `[K, ...]` for each of `batch` pairs, `[B, K]`; see `argmin_codes`."""
    parts = torch.split(codes, chunk or len(codes))
    return torch.cat([energy(part.expand(batch, *part.shape)) for part in parts], dim=1)


def free_energy(energies: Tensor, beta: float = math.inf) -> Tensor:
    """`-1/beta log mean_s exp(-beta E_s)` over S samples of z from its prior: `[..., S] -> [...]`.

    Falls from the mean (`beta` 0) to the minimum (`beta` infinite); stable for any energies.

    Raises:
        ValueError: for a negative `beta`.
    """
    if beta < 0:
        raise ValueError(f"beta is an inverse temperature and cannot be negative, got {beta}")
    if math.isinf(beta):
        return energies.amin(-1)
    if beta == 0:
        return energies.mean(-1)
    return (math.log(energies.shape[-1]) - torch.logsumexp(-beta * energies, -1)) / beta


def gibbs_weights(energies: Tensor, beta: float) -> Tensor:
    """How much each of S samples of z counts, `exp(-beta E)` over its sum: `[..., S] -> [..., S]`.

    Drawing among prior samples with these weights samples the posterior of z given the pair.
    """
    return torch.softmax(-beta * energies, dim=-1)
