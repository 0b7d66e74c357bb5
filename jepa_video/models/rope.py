"""Three-axis rotary positions (Su et al. 2021, RoFormer, equation 34; a third of a head each).

A head of width `d` holds `d / 2` planes. A third of them turns with time, a third with the row and
a third with the column of a token; planes that are left over do not turn. The two halves of a plane
lie at `i` and `i + d / 2`, so that rotating is two slices and no strided access.
"""

from __future__ import annotations

import torch
from torch import Tensor

Grid = tuple[int, int, int]


def grid_positions(grid: Grid, device: torch.device | None = None) -> Tensor:
    """Coordinates of every token of a `(T, H, W)` grid in time-major order: `N 3`."""
    axes = [torch.arange(n, device=device) for n in grid]
    return torch.cartesian_prod(*axes).reshape(-1, 3)


def rotary_tables(positions: Tensor, head_width: int, base: float = 10_000.0) -> Tensor:
    """Cosines and sines of the angles by which each plane of a head turns.

    Args:
        positions: token coordinates `... N 3` in units of tokens.
        head_width: width `d` of one head; an even number.
        base: the slowest plane turns by `1 / base` radian a token.

    Returns:
        `2 ... N d/2`: cosines, then sines.
    """
    planes = head_width // 2
    each = planes // 3
    speeds = base ** -(torch.arange(each, device=positions.device, dtype=torch.float32) / each)
    angles = positions.to(torch.float32)[..., None] * speeds  # ... N 3 each
    angles = angles.flatten(-2)
    angles = torch.nn.functional.pad(angles, (0, planes - 3 * each))
    return torch.stack((angles.cos(), angles.sin()))


def rotate(x: Tensor, tables: Tensor) -> Tensor:
    """Turn queries or keys `B heads N d` by tables `2 N d/2` or `2 B N d/2`; dtype is kept."""
    cos, sin = tables.to(x.dtype)
    if cos.ndim == 3:  # one set of positions for each clip: make room for the heads
        cos, sin = cos[:, None], sin[:, None]
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
