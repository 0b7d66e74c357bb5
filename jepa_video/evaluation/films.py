"""Panels of frames side by side as a moving picture, and as strips where nothing may move.

Shapes: frames of a panel are uint8 `T S S 3`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from .album import Picture
from .drawing import beside, chosen_slots, enlarge, save_moving, save_still, stacked, tile_side

MILLISECONDS: Final = 160
SIDE: Final = 128  # pixels of a panel, about


def film(
    panels: Sequence[Tensor],
    known: int,
    shown: int,
    folder: Path,
    name: str,
    label: str,
    alt: str,
) -> Picture:
    """Panels as one moving picture, with a strip of each for paper.

    Args:
        panels: of the same length.
        known: frames that the model sees.
        shown: panels at the front that are no prediction; in the others what comes after the known
            frames has an orange border.
        folder: where the files go.
        name: what they begin with.
        label: a few words beneath.
        alt: what it shows, for those who do not see it.
    """
    big = [enlarge(panel, tile_side(panel.shape[1], SIDE)) for panel in panels]
    for panel in big[shown:]:
        panel[known:] = framed(panel[known:])
    moving, still = f"{name}.webp", f"{name}_still.webp"
    frames = [beside([panel[t] for panel in big]) for t in range(len(big[0]))]
    save_moving(frames, folder / moving, MILLISECONDS)
    chosen = chosen_slots(len(big[0]))
    save_still(stacked([beside(list(panel[chosen])) for panel in big]), folder / still)
    return Picture(moving, alt, label, still)


def framed(frames: Tensor, width: int = 3) -> Tensor:
    """Frames `T S S 3` with an orange border."""
    out, colour = frames.clone(), torch.tensor((230, 120, 20), dtype=frames.dtype)
    for edge in (slice(None, width), slice(-width, None)):
        out[:, edge] = colour
        out[:, :, edge] = colour
    return out
