"""Which tokens of a clip are context and which are target. Pure functions of a generator.

Shapes: grid `(T, H, W)` in tokens, `N = T H W` positions in time-major order, context `B K`,
target `B M`. In every group context and target partition the grid (`K + M = N`), and the batch
shares one `K`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import UserError

Grid = tuple[int, int, int]


class MaskGroup(NamedTuple):
    """Sorted positions of context (`B K`) and target (`B M`)."""

    context: Tensor
    target: Tensor

    def to(self, device: torch.device) -> MaskGroup:
        """The same masks on `device`."""
        return MaskGroup(self.context.to(device), self.target.to(device))


class MaskSampler:
    """Draws the mask groups of one step."""

    def __call__(self, grid: Grid, batch: int, generator: torch.Generator) -> list[MaskGroup]:
        """One entry for each group; all on the CPU."""
        raise NotImplementedError


def block_coverage(
    height: int, width: int, block: tuple[int, int], corners: Tensor, wrap: bool = True
) -> Tensor:
    """Union of equal blocks: corners `B n 2` (row, column) to a boolean `B height width`.

    With `wrap` a block that passes an edge goes on at the opposite one, so that every position is
    covered equally often; blocks kept inside cover the centre more often than the border.
    """
    rows = torch.arange(height) - corners[..., :1]  # B n height
    columns = torch.arange(width) - corners[..., 1:]
    if wrap:
        rows, columns = rows % height, columns % width
    in_rows = (rows >= 0) & (rows < block[0])
    in_columns = (columns >= 0) & (columns < block[1])
    return (in_rows[..., :, None] & in_columns[..., None, :]).any(dim=1)


def split_at_common_length(masked: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Sorted kept and masked positions of `masked` (`B P`, boolean), the same number in each row.

    The common number is the batch's median. Rows that differ give up, or take back, positions drawn
    at random: nothing is cut off at the end, nothing is in neither set.
    """
    p = masked.shape[1]
    keep = (~masked).sum(dim=1).median().clamp(1, p - 1)
    order = torch.rand(masked.shape, generator=generator) + masked
    ranks = order.argsort(dim=1)
    kept, gone = ranks[:, :keep], ranks[:, keep:]
    return kept.sort(dim=1).values, gone.sort(dim=1).values


def over_time(columns: Tensor, slots: int, per_slot: int) -> Tensor:
    """Repeat spatial positions `B K` in every time slot: `B slots*K`, time-major."""
    offsets = torch.arange(slots)[:, None] * per_slot
    return (columns[:, None, :] + offsets).flatten(1)


class MultiBlock(MaskSampler):
    """Blocks that last the whole clip; the context is what they leave (V-JEPA, section 3.2).

    Args:
        counts: number of blocks of each mask group.
        scales: share of the frame that one block of the group covers.
        aspect: range of height over width of a block.
        wrap: blocks continue at the opposite edge, see `block_coverage`.
    """

    def __init__(
        self,
        counts: Sequence[int] = (8, 2),
        scales: Sequence[float] = (0.15, 0.7),
        aspect: tuple[float, float] = (0.75, 1.5),
        wrap: bool = True,
    ) -> None:
        if len(counts) != len(scales):
            raise UserError(f"masks: {len(counts)} counts but {len(scales)} scales; give one each")
        self.counts, self.scales, self.aspect, self.wrap = counts, scales, aspect, wrap

    def __call__(self, grid: Grid, batch: int, generator: torch.Generator) -> list[MaskGroup]:
        """A group for each count; block size is drawn once for the batch, places for each clip."""
        t, h, w = grid
        groups = []
        for count, scale in zip(self.counts, self.scales, strict=True):
            block = self.block_size(h, w, scale, generator)
            room = (h, w) if self.wrap else (h - block[0] + 1, w - block[1] + 1)
            corners = torch.rand(batch, count, 2, generator=generator) * torch.tensor(room)
            masked = block_coverage(h, w, block, corners.long(), self.wrap).flatten(1)
            kept, gone = split_at_common_length(masked, generator)
            groups.append(MaskGroup(over_time(kept, t, h * w), over_time(gone, t, h * w)))
        return groups

    def block_size(
        self, h: int, w: int, scale: float, generator: torch.Generator
    ) -> tuple[int, int]:
        """Height and width of a block that covers `scale` of the frame at a random aspect."""
        low, high = (math.log(a) for a in self.aspect)
        aspect = math.exp(low + (high - low) * torch.rand((), generator=generator).item())
        area = scale * h * w
        rows, columns = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        return min(max(rows, 1), h), min(max(columns, 1), w)


class PastToFuture(MaskSampler):
    """The first time slots are context, the rest is target: prediction instead of filling in.

    Args:
        past: share of the time slots that is context.
        hide: share of the past's spatial positions that is hidden as well; those join the target.
    """

    def __init__(self, past: float = 0.5, hide: float = 0.0) -> None:
        if not 0 < past < 1 or not 0 <= hide < 1:
            raise UserError(f"masks: past {past} must lie in (0, 1) and hide {hide} in [0, 1)")
        self.past, self.hide = past, hide

    def __call__(self, grid: Grid, batch: int, generator: torch.Generator) -> list[MaskGroup]:
        """One group."""
        t, h, w = grid
        slots = min(max(round(self.past * t), 1), t - 1)
        hidden = round(self.hide * h * w)
        masked = torch.ones(batch, t, h * w, dtype=torch.bool)
        order = torch.rand(batch, h * w, generator=generator).argsort(dim=1)
        masked[:, :slots] = (order < hidden)[:, None]
        positions = masked.flatten(1).to(torch.int8).argsort(dim=1, stable=True)
        keep = slots * (h * w - hidden)
        return [MaskGroup(positions[:, :keep], positions[:, keep:])]


class Mixture(MaskSampler):
    """Each step uses one of several samplers, chosen by weight.

    Args:
        samplers: factories of the samplers.
        weights: relative frequency of each; equal where not given.
    """

    def __init__(
        self,
        samplers: Sequence[Callable[[], MaskSampler]] = (PastToFuture, MultiBlock),
        weights: Sequence[float] | None = None,
    ) -> None:
        self.samplers = [make() for make in samplers]
        self.weights = torch.tensor(weights or [1.0] * len(self.samplers))
        if len(self.weights) != len(self.samplers):
            raise UserError("masks: give one weight for each sampler of the mixture")

    def __call__(self, grid: Grid, batch: int, generator: torch.Generator) -> list[MaskGroup]:
        """The groups of the sampler that the generator picks."""
        pick = int(torch.multinomial(self.weights, 1, generator=generator))
        return self.samplers[pick](grid, batch, generator)
