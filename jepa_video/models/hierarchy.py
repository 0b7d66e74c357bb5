"""The second level of a hierarchy: what it sees of the first, and a causal transformer over it.

Level 1 sees windows of a few frames as many local tokens; level 2 sees one state for each window,
so it takes one step where level 1 takes as many as a window has time slots (LeCun 2022, section
4.6, figure 15). Shapes: clips `B C T S S` of `K` windows, tokens of windows `K*B N D`, window by
window, states `B K D`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .blocks import Block, Mlp, init_weights, rescale_residuals, run_blocks
from .encoder import VideoEncoder
from .rope import Grid, grid_positions, rotary_tables


def windows(clip: Tensor, frames: int) -> Tensor:
    """Cut `B C K*frames S S` into windows of `frames`: `K*B C frames S S`, all first windows first.

    Neighbours in the batch are then other clips, as they are without windows. A clip of `frames`
    comes back as it is.

    Raises:
        ValueError: the clip is no whole number of windows.
    """
    if clip.shape[2] % frames:
        raise ValueError(f"{clip.shape[2]} frames are no whole number of windows of {frames}")
    b, c, _, h, w = clip.shape
    parts = clip.reshape(b, c, -1, frames, h, w)
    return parts.permute(2, 0, 1, 3, 4, 5).flatten(0, 1)


def by_clip(tokens: Tensor, clips: int) -> Tensor:
    """Tokens of windows `K*B ...` sorted by clip: `B K ...`."""
    return tokens.reshape(-1, clips, *tokens.shape[1:]).transpose(0, 1)


def whole_clip(encoder: VideoEncoder, clip: Tensor) -> Tensor:
    """Tokens of a clip of one window or several, each seen by itself: `B C T S S` to `B K*N D`."""
    tokens: Tensor = encoder(windows(clip, encoder.frames))
    return by_clip(tokens, len(clip)).flatten(1, 2)


def pooled_cells(tokens: Tensor, grid: Grid, cells: int) -> Tensor:
    """What sets `cells x cells` parts of the frame apart: `... N D` to `... cells*cells*D`.

    The mean of each part over time and space, less the mean of all parts. One mean over the frame
    would forget where things are; and what all parts share, such as the colour of the background,
    stays as it is, so that a second level could tell it without error and learn nothing else.

    Raises:
        ValueError: the frame does not split into that many parts.
    """
    _, height, width = grid
    if height % cells or width % cells:
        raise ValueError(f"{height} x {width} tokens do not split into {cells} x {cells} cells")
    split = (grid[0], cells, height // cells, cells, width // cells)
    parts = tokens.reshape(*tokens.shape[:-2], *split, tokens.shape[-1])
    means = parts.mean(dim=(-6, -4, -2))  # ... cells cells D
    apart: Tensor = means - means.mean(dim=(-3, -2), keepdim=True)
    return apart.flatten(-3)


class StateEncoder(nn.Module):
    """The pooled tokens of a window to one state of unit scale: `... in` to `... D`."""

    def __init__(self, width: int, dim: int, hidden: int) -> None:
        super().__init__()
        self.enter, self.map = nn.LayerNorm(width), Mlp(width, hidden, dim)
        self.leave = nn.LayerNorm(dim, elementwise_affine=False)

    def forward(self, pooled: Tensor) -> Tensor:
        """`... in` to `... D`."""
        state: Tensor = self.leave(self.map(self.enter(pooled)))
        return state


class CausalPredictor(nn.Module):
    """A transformer in which each step sees itself and the steps before it, and tells the next.

    It tells the change: what it does not know stays as it was. z shifts and scales through adaptive
    layer-norm.

    Args:
        width: `D` of the states.
        steps: states of a clip.
        latent_width: `Z`; 0 means a deterministic predictor.
        hidden: width inside.
        depth: blocks.
        heads: attention heads.
    """

    def __init__(
        self,
        width: int,
        steps: int,
        latent_width: int = 0,
        hidden: int = 96,
        depth: int = 2,
        heads: int = 3,
    ) -> None:
        super().__init__()
        self.grid: Grid = (steps, 1, 1)
        self.head = hidden // heads
        self.enter = nn.Linear(width, hidden)
        self.latent_enter = nn.Linear(latent_width, hidden) if latent_width else None
        condition = hidden if latent_width else 0
        self.blocks = nn.ModuleList(Block(hidden, heads, condition=condition) for _ in range(depth))
        self.norm, self.leave = nn.LayerNorm(hidden), nn.Linear(hidden, width)
        self.apply(init_weights)
        rescale_residuals(self.blocks)

    def following(self, states: Tensor, z: Tensor | None = None) -> Tensor:
        """The state after each of `B K D`, from the states up to it; z is `B 1 Z` or `B K Z`."""
        k = states.shape[1]
        if (self.latent_enter is None) != (z is None):
            raise ValueError("z goes with a predictor that has a latent width, and only with one")
        positions = grid_positions((k, 1, 1), states.device)
        tables = rotary_tables(positions, self.head)
        causal = torch.ones(k, k, dtype=torch.bool, device=states.device).tril()
        condition = None if self.latent_enter is None or z is None else self.latent_enter(z)
        x = run_blocks(self.blocks, self.enter(states), tables, causal, condition)
        change: Tensor = self.leave(self.norm(x))
        return states + change

    def forward(
        self, s_x: Tensor, context: Tensor, target: Tensor, z: Tensor | None = None
    ) -> Tensor:
        """As `MaskedPredictor`, for the one step after the context: `B K D` to `B 1 D`.

        Raises:
            ValueError: the target is another step.
        """
        if target.shape[1] != 1 or context.shape[1] != s_x.shape[1]:
            raise ValueError("a causal predictor tells the one step after its context; roll it out")
        return self.following(s_x, z)[:, -1:]
