"""Features made by hand: what a learned representation has to beat before it is worth anything.

Both take video uint8 `B T C H W` and give float32 `B D`; a linear probe goes on top of it.
"""

from __future__ import annotations

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

THUMBNAIL: Final = 8
BINS: Final = 16
MOTION_GRID: Final = (16, 6, 8)  # parts of the time, rows, columns
NOISE: Final = 1e-3  # of the range of grey; changes below it are the decoder's


def pixel_statistics(video: Tensor) -> Tensor:
    """Appearance alone: the mean frame at 8 x 8 and a histogram of 16 levels of each channel.

    The order of the frames does not enter. `D` is `C * (64 + 16)`.
    """
    b, _, c = video.shape[:3]
    thumbnail = F.adaptive_avg_pool2d(video.float().mean(1), THUMBNAIL).flatten(1) / 255
    level = video.long() * BINS // 256
    flat = level.transpose(1, 2).reshape(b * c, -1)  # one row for each channel of each clip
    row = torch.arange(b * c, device=video.device).unsqueeze(1)
    counts = torch.bincount((flat + row * BINS).flatten(), minlength=b * c * BINS)
    histogram = counts.view(b, c * BINS).float() / flat.shape[1]
    return torch.cat([thumbnail, histogram], 1)


def motion_grid(video: Tensor) -> Tensor:
    """Motion alone: how much each of 6 x 8 cells changes, in 16 parts of the time.

    The mean absolute frame difference of each cell, on a logarithmic scale that starts at a
    quarter of a grey level: on real video that is worth 4 to 8 points over the plain difference.
    A clip of fewer than 17 frames has as many parts as it has changes. `D` is parts * 48.
    """
    grey = video.float().mean(2) / 255  # B T H W
    change = (grey[:, 1:] - grey[:, :-1]).abs()
    parts, rows, columns = MOTION_GRID
    size = (min(parts, change.shape[1]), rows, columns)
    grid = F.adaptive_avg_pool3d(change.unsqueeze(1), size).flatten(1)
    return torch.log1p(grid / NOISE)
