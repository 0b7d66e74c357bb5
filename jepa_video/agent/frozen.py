"""What learns in a round and what stands still: the configurator's word before each.

Dynamics that foretell what the agent met as well as what they learned from need no correction.
Corrected all the same they cost steps that critic and policy could have, and move what these rest
on.
"""

from __future__ import annotations

from typing import Final

import torch

from ..training.world_model import WorldModel
from .bank import Bank
from .recall import ROWS, surprises

DYNAMICS: Final = "dynamics"
_KNOWN: Final = 4096  # steps of memory that are foretold for comparison


@torch.no_grad()
def strangeness(
    world: WorldModel, bank: Bank, first: int, device: torch.device, draw: torch.Generator
) -> float:
    """How badly the world model foretells what came, against what was there: 1 is as well.

    It is the mean energy of a step ahead, over that of steps of memory, evenly of all.

    Args:
        world: foretells.
        bank: memory, and after it what came.
        first: number of the first step that came.
        device: where it computes.
        draw: of the search for z.
    """
    count = min(first, _KNOWN)
    chosen = torch.arange(count) * first // count, torch.arange(first, len(bank))
    known, came = (
        surprises(world, bank.transitions(ROWS, which), device, draw).double().mean()
        for which in chosen
    )
    return float(came / known.clamp_min(1e-12))


def frozen_parts(strange: float, still: float | None) -> frozenset[str]:
    """The parts that stand still in a round.

    Args:
        strange: see `strangeness`; what is no number is strange.
        still: up to which strangeness the dynamics stand still; None for never.
    """
    return frozenset({DYNAMICS} if still is not None and strange <= still else ())
