"""Randomness as a function of counters, so that resuming a run needs no saved generator state.

Every random draw of the training path (clip start, augmentation, masks, z) asks for a generator by
name: who draws, and which draw it is. Two processes that ask for the same draw get the same
numbers, whatever happened before; a killed run that restarts at step 412 therefore draws what it
would have drawn.
"""

from __future__ import annotations

import hashlib
from typing import Final

import torch

# Streams keep draws of different purposes apart even where their counters coincide.
CLIP: Final = 1
AUGMENT: Final = 2
MASK: Final = 3
LATENT: Final = 4
SHUFFLE: Final = 5
PROBE: Final = 6
STEP: Final = 7
EPISODE: Final = 8


def seed_of(*keys: int) -> int:
    """A 63-bit seed that depends on every key and on their order."""
    text = ",".join(str(int(key)) for key in keys).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1


def generator(*keys: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh generator for the draw that `keys` name, e.g. `generator(seed, MASK, rank, step)`."""
    return torch.Generator(device=device).manual_seed(seed_of(*keys))
