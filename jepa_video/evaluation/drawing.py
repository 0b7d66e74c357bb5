"""From tensors to picture files: tiles of frames, tints, heat, and colours for features.

Shapes: frames are uint8 `... H W 3`; maps over tokens are `T' H' W'` with or without channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..data.transforms import MEAN, STD

TILE: Final = 128  # pixels of a frame as shown
GAP: Final = 6
CONTEXT: Final = (70.0, 150.0, 235.0)
TARGET: Final = (240.0, 125.0, 20.0)
# Dark to bright with even steps of lightness, so that it reads in grey and with any colour vision.
HEAT: Final = (
    (0, 0, 4),
    (61, 15, 114),
    (146, 37, 123),
    (222, 73, 104),
    (254, 159, 109),
    (252, 253, 191),
)


def pixels(clip: Tensor) -> Tensor:
    """The frames of a normalised clip `B C T H W` as they look: uint8 `B T H W C` on the CPU."""
    video = clip.float().cpu().movedim(1, -1)  # B T H W C
    video = (video * torch.tensor(STD) + torch.tensor(MEAN)) * 255.0
    return video.round().clamp(0, 255).to(torch.uint8)


def tile_side(side: int, tile: int = TILE) -> int:
    """Shown height and width of a frame of `side` pixels: whole multiples, so it stays sharp."""
    return side * max(1, tile // side) if side <= tile * 5 // 4 else tile


def enlarge(frames: Tensor, side: int) -> Tensor:
    """Frames `N H W 3` at `side` x `side`: pixels repeated where they grow, averaged where not."""
    grows = side % frames.shape[1] == 0
    flat = frames.movedim(-1, 1).float()
    if grows:
        out = F.interpolate(flat, (side, side), mode="nearest")
    else:
        out = F.interpolate(flat, (side, side), mode="bilinear", antialias=True)
    return out.movedim(1, -1).round().clamp(0, 255).to(torch.uint8)


def spread(values: Tensor, side: int, smooth: bool) -> Tensor:
    """A map over tokens `T' H' W' C` as float pictures `T' side side C`."""
    flat = values.movedim(-1, 1).float()
    out = F.interpolate(flat, (side, side), mode="bicubic" if smooth else "nearest")
    return out.movedim(1, -1)


def slot_frames(frames: Tensor, slots: int) -> Tensor:
    """The frame in the middle of each of `slots` equal parts: `T H W 3` to `slots H W 3`."""
    length = len(frames) // slots
    return frames[length // 2 :: length][:slots]


def chosen_slots(slots: int, most: int = 8) -> Tensor:
    """At most `most` time slots, evenly spaced, the first and the last among them."""
    return torch.linspace(0, slots - 1, min(slots, most)).round().long()


def tint(frames: Tensor, masked: Tensor) -> Tensor:
    """Frames `N S S 3` with context tinted blue and target (`N S S`, boolean) covered in orange."""
    target = masked.unsqueeze(-1)
    colour = torch.where(target, torch.tensor(TARGET), torch.tensor(CONTEXT))
    share = torch.where(target, 0.62, 0.3)
    return (frames * (1 - share) + colour * share).round().to(torch.uint8)


def heat(values: Tensor) -> Tensor:
    """Colours of values in 0..1: `...` to float `... 3` in 0..255."""
    stops = torch.tensor(HEAT, dtype=torch.float32)
    place = values.clamp(0, 1) * (len(stops) - 1)
    low = place.floor().long().clamp(max=len(stops) - 2)
    return torch.lerp(stops[low], stops[low + 1], (place - low).unsqueeze(-1))


def principal_colours(tokens: Tensor) -> tuple[Tensor, float]:
    """Colours of tokens by their first three principal components, and what those hold.

    Args:
        tokens: `B N D`; the components are those of all `B N` tokens together.

    Returns:
        colours `B N 3` in 0..1 (between the 1st and 99th percentile of each component), and the
        share of the variance in the three components. Tokens that are all alike are grey.
    """
    x = tokens.detach().float().cpu().flatten(0, 1)
    x = x - x.mean(dim=0)
    values, vectors = torch.linalg.eigh(x.T @ x / len(x))
    first = vectors[:, -3:].flip(1)
    largest = first.gather(0, first.abs().argmax(dim=0, keepdim=True))
    scores = x @ (first * largest.sign())  # the sign of a component is arbitrary: fix it
    low, high = scores.quantile(0.01, dim=0), scores.quantile(0.99, dim=0)
    flat = high - low < 1e-6
    colours = ((scores - low) / (high - low).clamp_min(1e-6)).clamp(0, 1)
    colours = torch.where(flat, 0.5, colours)
    held = float(values[-3:].sum() / values.sum().clamp_min(1e-12))
    return colours.view(*tokens.shape[:2], 3), held


def beside(panels: Sequence[Tensor], gap: int = GAP) -> Tensor:
    """Panels `H W 3` next to each other with clear gaps between them: `H W' 4`."""
    height = panels[0].shape[0]
    parts = []
    for panel in panels:
        solid = torch.full((*panel.shape[:2], 1), 255, dtype=torch.uint8)
        parts += [torch.zeros(height, gap, 4, dtype=torch.uint8), torch.cat((panel, solid), -1)]
    return torch.cat(parts[1:], dim=1)


def stacked(rows: Sequence[Tensor], gap: int = GAP) -> Tensor:
    """Rows `H W 4` below each other with clear gaps between them: `H' W 4`."""
    parts = []
    for row in rows:
        parts += [torch.zeros(gap, row.shape[1], 4, dtype=torch.uint8), row]
    return torch.cat(parts[1:], dim=0)


def save_still(picture: Tensor, path: Path) -> None:
    """Writes `H W 3` or `H W 4` uint8; the ending of `path` names the format."""
    Image.fromarray(picture.contiguous().numpy()).save(path, quality=88, method=4)


def save_moving(pictures: Sequence[Tensor], path: Path, milliseconds: int) -> None:
    """Writes pictures `H W 3` or `H W 4` uint8 as an endless animated WebP."""
    images = [Image.fromarray(picture.contiguous().numpy()) for picture in pictures]
    images[0].save(
        path,
        save_all=True,
        append_images=images[1:],
        duration=milliseconds,
        loop=0,
        quality=80,
        method=4,
    )
