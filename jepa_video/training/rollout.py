"""Prediction of the future: all steps at once, or step by step with predictions fed back.

Shapes: states `B T P D` are `T` time slots of `P` tokens each; positions count tokens of the grid
in time-major order, so slot `t` holds the positions `t P` to `(t + 1) P - 1`.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from ..models.rope import Grid


class TokenPredictor(Protocol):
    """What is rolled out: tokens at positions of its grid to tokens at other positions of it."""

    grid: Grid

    def __call__(self, s_x: Tensor, context: Tensor, target: Tensor, z: Tensor | None) -> Tensor:
        """`B K D` seen at `B K` to `B M D` at `B M`."""


def slot_positions(batch: int, first: int, slots: int, tokens: int, like: Tensor) -> Tensor:
    """Positions of `slots` time slots from slot `first` on: `B slots*tokens`, where `like` lies."""
    places = torch.arange(first * tokens, (first + slots) * tokens, device=like.device)
    return places.expand(batch, -1)


def foresee(
    predictor: TokenPredictor, states: Tensor, z: Tensor | None = None, steps: int = 1
) -> Tensor:
    """The next `steps` slots in one call, none of them knowing another's prediction.

    Args:
        predictor: its grid has room for the slots of the context and `steps` more.
        states: context `B T P D`.
        z: latent `B L Z`, or None.
        steps: slots to predict.

    Returns:
        `B steps P D`.

    Raises:
        ValueError: the grid is too short.
    """
    b, t, p, d = states.shape
    if t + steps > predictor.grid[0]:
        raise ValueError(f"a grid of {predictor.grid[0]} slots cannot hold {t} and {steps} more")
    context = slot_positions(b, 0, t, p, states)
    target = slot_positions(b, t, steps, p, states)
    return predictor(states.flatten(1, 2), context, target, z).reshape(b, steps, p, d)


def rollout(
    predictor: TokenPredictor,
    states: Tensor,
    z: Tensor | None = None,
    steps: int = 1,
    window: int | None = None,
) -> Tensor:
    """The next `steps` slots one by one: what was predicted becomes context of what follows.

    The context is a window that slides along, so that a rollout may be longer than the grid.
    Positions are counted from the start of the window; a predictor with relative (rotary) positions
    cannot tell it from the start of the clip. With gradient this is the multi-step loss of latent
    world models (Assran et al. 2025, V-JEPA 2, section 3.1), through all steps.

    Args:
        predictor: predicts the tokens at some positions of its grid from those at others.
        states: context `B T P D`.
        z: latent `B L Z` of all steps, or None.
        steps: slots to predict.
        window: slots of context in each step; those given, as far as the grid has room.

    Returns:
        `B steps P D`.

    Raises:
        ValueError: the window is empty, or the grid has no room for it and one slot more.
    """
    room = predictor.grid[0] - 1
    window = min(states.shape[1], room) if window is None else window
    if not 1 <= window <= room:
        raise ValueError(f"a grid of {room + 1} slots has windows of 1 to {room}, not {window}")
    known, predicted = states, []
    for _ in range(steps):
        following = foresee(predictor, known[:, -window:], z)
        predicted.append(following)
        known = torch.cat((known[:, -window:], following.to(known.dtype)), dim=1)
    return torch.cat(predicted, dim=1)
