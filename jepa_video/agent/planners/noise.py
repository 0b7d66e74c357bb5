"""Noise whose neighbours in time resemble each other, for searching through smooth actions."""

from __future__ import annotations

import torch
from torch import Tensor

from .base import Generators, normal


def coloured(
    batch: int,
    samples: int,
    horizon: int,
    width: int,
    colour: float,
    generator: Generators,
    device: torch.device,
) -> Tensor:
    """Normal noise `B S H A` of variance 1 with the power spectrum `1 / f^colour` along H.

    White for colour 0; pink for 1, brown for 2. Spectral method of Timmer and Koenig (1995), as in
    iCEM (Pinneri et al. 2020, section 3.1); the lowest frequency counts as one period in H, so that
    the power is finite.
    """
    if colour == 0 or horizon == 1:
        return normal((batch, samples, horizon, width), generator, device)
    frequencies = torch.arange(horizon // 2 + 1, device=device).clamp_min(1)
    scale = frequencies.float().pow(-colour / 2)
    parts = normal((batch, samples, width, len(scale), 2), generator, device)
    # The mean, and the last frequency of an even length, are real: all their power is in one part.
    real = torch.zeros(len(scale), dtype=torch.bool, device=device)
    real[0], real[-1] = True, real[-1] | (horizon % 2 == 0)
    parts[..., 0] *= torch.where(real, 2**0.5, 1.0)
    parts[..., 1].masked_fill_(real, 0.0)
    wave = torch.fft.irfft(torch.view_as_complex(parts) * scale, n=horizon)
    power = (torch.where(real, 2.0, 4.0) * scale.square()).sum() / horizon**2
    noise: Tensor = (wave / power.sqrt()).transpose(-1, -2)
    return noise
