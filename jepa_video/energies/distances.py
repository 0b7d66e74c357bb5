"""Distances D between a predicted and a true representation; the energy is one of them, summed up.

All take `pred` and `target` of shape `[..., D]`, average over the width D and return `[...]`, so
that a caller can still weight tokens. Half precision is widened before the subtraction: near the
end of training the difference of two bfloat16 numbers is mostly rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UserError

Distance = Literal["l1", "l2", "smooth_l1", "cosine"]


def widen(x: Tensor) -> Tensor:
    """`x` in at least float32: half types are widened, float32 and float64 stay as they are."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def l1(pred: Tensor, target: Tensor) -> Tensor:
    """Mean absolute difference over the width: `[..., D], [..., D] -> [...]`."""
    return (widen(pred) - widen(target)).abs().mean(-1)


def l2(pred: Tensor, target: Tensor) -> Tensor:
    """Mean squared difference over the width: `[..., D], [..., D] -> [...]`."""
    return (widen(pred) - widen(target)).square().mean(-1)


def smooth_l1(pred: Tensor, target: Tensor) -> Tensor:
    """Huber distance, quadratic below 1 and linear above: `[..., D], [..., D] -> [...]`."""
    return F.smooth_l1_loss(widen(pred), widen(target), reduction="none").mean(-1)


def cosine(pred: Tensor, target: Tensor) -> Tensor:
    """One minus the cosine of the angle, in [0, 2]: `[..., D], [..., D] -> [...]`."""
    return 1 - F.cosine_similarity(widen(pred), widen(target), dim=-1)


DISTANCES: Final[dict[str, Callable[[Tensor, Tensor], Tensor]]] = {
    "l1": l1,
    "l2": l2,
    "smooth_l1": smooth_l1,
    "cosine": cosine,
}


def distance(name: str) -> Callable[[Tensor, Tensor], Tensor]:
    """The distance function called `name`.

    Raises:
        UserError: where no distance has that name.
    """
    if name not in DISTANCES:
        raise UserError(f"unknown distance {name!r}: expected one of {', '.join(DISTANCES)}")
    return DISTANCES[name]
