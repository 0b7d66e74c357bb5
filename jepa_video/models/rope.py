"""Three-axis rotary positions (Su et al. 2021, RoFormer, equation 34; a third of a head each).

A head of width `d` holds `d / 2` planes. A third of them turns with time, a third with the row and
a third with the column of a token; planes that are left over do not turn. The two halves of a plane
lie at `i` and `i + d / 2`, so that rotating is two slices and no strided access.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Grid = tuple[int, int, int]
Rotary = Literal["paired", "vjepa2"]


def grid_positions(grid: Grid, device: torch.device | None = None) -> Tensor:
    """Coordinates of every token of a `(T, H, W)` grid in time-major order: `N 3`."""
    axes = [torch.arange(n, device=device) for n in grid]
    return torch.cartesian_prod(*axes).reshape(-1, 3)


def rotary_tables(
    positions: Tensor, head_width: int, rotary: Rotary = "paired", base: float = 10_000.0
) -> Tensor:
    """Cosines and sines of the angles by which each plane of a head turns.

    Args:
        positions: token coordinates `... N 3` in units of tokens.
        head_width: width `d` of one head; an even number.
        rotary: `paired` gives both halves of a plane the same angle, which is a rotation. `vjepa2`
            is what V-JEPA 2's weights were trained with: its speeds are repeated one list after
            the other where the halves of a plane lie side by side, so that the two of a plane
            differ and scores depend on more than the distance.
        base: the slowest plane turns by `1 / base` radian a token.

    Returns:
        Cosines, then sines: `2 ... N d/2`, or `2 ... N d` with both halves for `vjepa2`.
    """
    planes = head_width // 2
    each = planes // 3
    speeds = base ** -(torch.arange(each, device=positions.device, dtype=torch.float32) / each)
    halves = [speeds]
    if rotary == "vjepa2":
        halves = [speeds.repeat(2)[start::2] for start in (0, 1)]
    turns = [(positions.to(torch.float32)[..., None] * half).flatten(-2) for half in halves]
    still = planes - 3 * each
    angles = torch.cat([torch.nn.functional.pad(turn, (0, still)) for turn in turns], dim=-1)
    return torch.stack((angles.cos(), angles.sin()))


def rotate(x: Tensor, tables: Tensor) -> Tensor:
    """Turn queries or keys `B heads N d` by `rotary_tables` of `N` or `B N`; dtype is kept."""
    cos, sin = tables.to(x.dtype)
    if cos.ndim == 3:  # one set of positions for each clip: make room for the heads
        cos, sin = cos[:, None], sin[:, None]
    first, second = x.chunk(2, dim=-1)
    if cos.shape[-1] == first.shape[-1]:
        return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
    (cos, other_cos), (sin, other_sin) = cos.chunk(2, dim=-1), sin.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * other_cos + first * other_sin), dim=-1)
