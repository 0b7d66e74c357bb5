"""Where pictures change: what moves in a scene that stands still, and where places lie by that.

    w(x) = max(0, |picture(x) - background(x)| - s max_x |..|)
    spot = sum_x w(x) x / sum_x w(x)

The background is what mostly stands there in an episode. How places move says nothing of a part of
them that the scene alone decides: laid by their moves, places in Rooms lie a sixth of a pixel of 64
off within a scene, and each scene as a whole 0.6 pixels off, half as much as a step, so that walls
lie elsewhere in each. The picture says where that is, in its own measure, to the sixth; to the
twentieth where tokens are 4 pixels wide.

Shapes: an episode's frames `T H W 3`; N places of n numbers, spots `N 2`.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

NOTED: Final = 256  # episodes that are looked at
_MANY: Final = 32  # frames that the background is the median of
_FAINT: Final = 0.3  # s: share of the greatest change below which one does not count
_TURNS: Final = 5
_FAR: Final = 3.0  # medians, beyond which a spot is of something else: a ghost in the background
_CLOSE: Final = 0.01  # of the picture, within which it never is
_ROWS: Final = 4  # times as many as there are numbers, or more, have to be told
_SURE: Final = 0.25  # cells that spots may be off
_KEPT: Final = 0.9  # of them, at least
_ALIKE: Final = 0.9  # of how they move that what goes as actions say tells, at least
_AT_ONCE: Final = 64  # frames


class Changes(NamedTuple):
    """Places and where the picture changed meanwhile.

    Attributes:
        places: `N n`.
        spots: x and y in shares of the picture's width and height, `N 2`.
    """

    places: Tensor
    spots: Tensor


def changes(frames: Tensor) -> Tensor:
    """Where each of an episode's frames `T H W 3` differs from the background, `T 2`.

    x and y in shares of the picture; NaN where nothing does. Frames that are as the one before do
    not count for the background: else who stands still is taken for a part of it.
    """
    new = torch.ones(len(frames), dtype=torch.bool, device=frames.device)
    new[1:] = (frames[1:] != frames[:-1]).flatten(1).any(1)
    others = torch.nonzero(new)[:, 0]
    few = torch.linspace(0, len(others) - 1, min(_MANY, len(others)), device=frames.device)
    ground = frames[others[few.long()]].float().median(0).values
    parts = [(part.float() - ground).abs().sum(-1) for part in torch.split(frames, _AT_ONCE)]
    differs = torch.cat(parts)  # T H W
    weight = (differs - _FAINT * differs.flatten(1).amax(1)[:, None, None]).relu()
    spots = []
    for axis in (1, 2):  # over the rows for x, over the columns for y
        along = weight.sum(axis)
        middles = (torch.arange(along.shape[1], device=frames.device) + 0.5) / along.shape[1]
        spots.append(along @ middles / along.sum(1))
    return torch.stack(spots, 1)


class Told(NamedTuple):
    """The mixtures of a place's numbers that lie where the picture changes.

    Attributes:
        mix: `n+1 2`, the last row for the number 1.
        off: by how much spots that were kept are off, root mean square along each axis, `2`.
        kept: their share.
    """

    mix: Tensor
    off: Tensor
    kept: float


def told_by_changes(seen: Changes) -> Told | None:
    """Least squares, again and again without what lies far off; None where there is too little."""
    if len(seen.places) < _ROWS * (seen.places.shape[1] + 1):
        return None
    given = F.pad(seen.places, (0, 1), value=1.0).double().cpu()
    spots = seen.spots.double().cpu()
    keep = torch.ones(len(given), dtype=torch.bool)
    for _ in range(_TURNS):
        mix = torch.linalg.lstsq(given[keep], spots[keep], driver="gelsd").solution
        off = given @ mix - spots
        far = off.norm(dim=1)
        keep = far <= (_FAR * far.median()).clamp_min(_CLOSE)
    error = off[keep].square().mean(0).sqrt()
    return Told(mix.to(seen.places), error.to(seen.places), float(keep.float().mean()))


def laid(seen: Changes, size: Tensor, moved: Tensor, mix: Tensor | None) -> Told | None:
    """The mixtures of a place's numbers that lie in the cells where the picture changes.

    Args:
        seen: places and spots.
        size: columns and rows of the picture's cells, `2`.
        moved: how the numbers of places change in steps of memory, `N n`.
        mix: the mixture of them that goes as actions say, `n A`; None where there is none.

    Returns:
        `mix` and `off` in cells. None where that tells too little, or where it moves otherwise than
        `mix`: then something else moves too.
    """
    told = told_by_changes(seen)
    if told is None or float((told.off * size).norm()) > _SURE or told.kept < _KEPT:
        return None
    found = told._replace(mix=told.mix * size, off=told.off * size)
    if mix is not None and explained(moved @ found.mix[:-1], moved @ mix) < _ALIKE:
        return None
    return found


def explained(moves: Tensor, by: Tensor) -> float:
    """The share of how `N 2` moves that a linear map of `N A` tells."""
    found = torch.linalg.lstsq(by.double().cpu(), moves.double().cpu(), driver="gelsd").solution
    rest = moves.double().cpu() - by.double().cpu() @ found
    return 1 - float(rest.square().sum() / moves.double().square().sum().clamp_min(1e-12))
