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
_CLOSE: Final = 1e-3  # of the picture, within which it never is
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

    x and y in shares of the picture; its middle, where nothing does.
    """
    few = torch.linspace(0, len(frames) - 1, min(_MANY, len(frames)), device=frames.device)
    ground = frames[few.long()].float().median(0).values
    parts = [(part.float() - ground).abs().sum(-1) for part in torch.split(frames, _AT_ONCE)]
    differs = torch.cat(parts)  # T H W
    weight = (differs - _FAINT * differs.flatten(1).amax(1)[:, None, None]).relu()
    total = weight.sum((1, 2))
    spots = []
    for axis in (1, 2):  # over the rows for x, over the columns for y
        along = weight.sum(axis)
        middles = (torch.arange(along.shape[1], device=frames.device) + 0.5) / along.shape[1]
        mean = along @ middles / total.clamp_min(1e-6)
        spots.append(torch.where(total > 0, mean, 0.5))
    return torch.stack(spots, 1)


def told_by_changes(seen: Changes) -> tuple[Tensor, Tensor, Tensor]:
    """The mixtures of a place's numbers that lie where the picture changes.

    Least squares, again and again without what lies far off.

    Returns:
        `n+1 2`, the last row for the number 1; by how much kept spots are off, root mean square
        along each axis, `2`; and the share that was kept.
    """
    given = F.pad(seen.places, (0, 1), value=1.0).double().cpu()
    spots = seen.spots.double().cpu()
    keep = torch.ones(len(given), dtype=torch.bool)
    for _ in range(_TURNS):
        mix = torch.linalg.lstsq(given[keep], spots[keep], driver="gelsd").solution
        off = given @ mix - spots
        far = off.norm(dim=1)
        keep = far <= (_FAR * far.median()).clamp_min(_CLOSE)
    error = off[keep].square().mean(0).sqrt()
    return mix.to(seen.places), error.to(seen.places), keep.float().mean()
