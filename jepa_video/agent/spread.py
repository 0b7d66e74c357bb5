"""Shortest ways over cells: Bellman and Ford's iterations, and the gradient down the ways taken.

Legend: B maps, J goals of each, cells C row by row, 8 neighbours of each in the order of `AROUND`
without the middle.
"""

from __future__ import annotations

import math
from typing import Any, Final

import torch
from torch import Tensor

AROUND: Final = [(dx, dy) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]


class Spread(torch.autograd.Function):
    """Bellman and Ford: costs `B J C` at first, and `B 8 C` to the neighbours, to the least."""

    @staticmethod
    def forward(
        ctx: Any, first: Tensor, costs: Tensor, neighbours: Tensor, wide: int, turns: int
    ) -> Tensor:
        """Every turn looks one cell further, and on; rows of the grid are `wide` cells.

        A cell takes over what another has found in the same turn, which only finds ways sooner.
        `neighbours` `8 C` name cell C where there is none.
        """
        batch, goals, cells = first.shape
        grid = (cells // wide, wide)
        value = first.new_full((batch, goals, grid[0] + 2, wide + 2), math.inf)
        inner = value[..., 1:-1, 1:-1]
        inner.copy_(first.view(batch, goals, *grid))
        beside = [
            value[..., 1 + dy : 1 + dy + grid[0], 1 + dx : 1 + dx + wide]
            for dx, dy in AROUND
            if dx or dy
        ]
        each = costs.view(batch, 1, 8, *grid).unbind(2)
        for _ in range(turns):
            for there, cost in zip(beside, each, strict=True):
                torch.minimum(inner, there + cost, out=inner)
        ways = [there + cost for there, cost in zip(beside, each, strict=True)]
        least = torch.stack(ways, 2).flatten(3).min(2)
        stays = first <= least.values + 1e-5
        ctx.save_for_backward(torch.where(stays, 8, least.indices), neighbours)
        ctx.turns = turns
        return inner.flatten(2)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Each cell's gradient flows down the way that was taken from it."""
        (grad,) = grads
        taken, neighbours = ctx.saved_tensors
        batch, goals, cells = taken.shape
        here = torch.arange(cells, device=taken.device)
        onward = torch.cat((neighbours, neighbours.new_full((1, cells), cells)))
        to = onward.T[here, taken]
        goes, total, flow = taken < 8, torch.zeros_like(grad), grad
        for _ in range(ctx.turns + 1):
            total = total + flow
            moved = grad.new_zeros(batch, goals, cells + 1)
            flow = moved.scatter_add_(2, to, torch.where(goes, flow, 0.0))[:, :, :cells]
        spent = grad.new_zeros(batch, 9 * cells)
        spent.scatter_add_(1, (taken * cells + here).flatten(1), total.flatten(1))
        return (
            torch.where(goes, 0.0, total),
            spent[:, : 8 * cells].view(batch, 8, cells),
            None,
            None,
            None,
        )


def neighbours(high: int, wide: int) -> Tensor:
    """The eight cells around each of `C = high wide`, row by row, and C where there is none."""
    y, x = torch.meshgrid(torch.arange(high), torch.arange(wide), indexing="ij")
    found = []
    for dx, dy in AROUND:
        if dx or dy:
            there = (x + dx >= 0) & (x + dx < wide) & (y + dy >= 0) & (y + dy < high)
            found.append(torch.where(there, (y + dy) * wide + x + dx, high * wide).flatten())
    return torch.stack(found)
