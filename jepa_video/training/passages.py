"""Passages: what was, what was done, and what came of it; cut out of windows.

Shapes: states `B T P D`, actions `B T-1 A`.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Passage(NamedTuple):
    """What was, what was done, and what came of it.

    Attributes:
        known: states up to now, `B T P D`.
        past: actions between them, `B T-1 A`.
        actions: actions from now on, `B H A`.
        future: the states after them, `B H P D`.
    """

    known: Tensor
    past: Tensor
    actions: Tensor
    future: Tensor

    def repeated(self, times: int) -> Passage:
        """Each one `times` times in a row."""
        return Passage(*(part.repeat_interleave(times, 0) for part in self))


def passages(states: Tensor, actions: Tensor, known: int, horizon: int | None = None) -> Passage:
    """Passages of `horizon` steps, one after every `known` states, as far as the window reaches.

    Args:
        states: of windows.
        actions: between them.
        known: states of each before it begins.
        horizon: steps; None: one passage, to the end of the window.

    Returns:
        `B J` passages, where J begin in each window.
    """
    steps = states.shape[1] - known
    steps = steps if horizon is None else min(horizon, steps)

    def cut(part: Tensor, first: int, count: int) -> Tensor:
        starts = states.shape[1] - known - steps + 1
        if not count:
            return part[:, :0].repeat_interleave(starts, 0)
        windows = part[:, first:].unfold(1, count, 1)[:, :starts]  # B J ... count
        return windows.movedim(-1, 2).flatten(0, 1)

    return Passage(
        cut(states, 0, known),
        cut(actions, 0, known - 1),
        cut(actions, known - 1, steps),
        cut(states, known, steps),
    )
