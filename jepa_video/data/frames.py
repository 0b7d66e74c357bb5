"""Decoded frames in the shape in which they are kept: shrunk, square, uint8, channels first."""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from jepa_video.data.decode import Frames, VideoInfo

# A longer or larger video is not kept whole: its first reading would take long and much memory.
_WHOLE_FRAMES: Final = 1024
_WHOLE_BYTES: Final = 256_000_000


class FrameCache:
    """Decoded and shrunk frames of whole videos, up to a size; what is in stays in.

    Nothing is evicted: with every video asked once an epoch, any eviction rule would throw out
    what is needed next.
    """

    def __init__(self, megabytes: float) -> None:
        self._left = int(megabytes * 1e6)
        self._frames: dict[str, Tensor] = {}

    def get(self, path: str) -> Tensor | None:
        """The frames of a video, uint8 `N C H W`, or None."""
        return self._frames.get(path)

    def admits(self, info: VideoInfo, size: int) -> bool:
        """Whether a video that is not in yet has a place."""
        return (
            info.frames <= _WHOLE_FRAMES
            and info.frames * info.width * info.height * 3 <= _WHOLE_BYTES
            and info.frames * size * size * 3 <= self._left
        )

    def put(self, path: str, frames: Tensor) -> None:
        """Keep a video."""
        self._left -= frames.nbytes
        self._frames[path] = frames


def shrink(frames: Frames, size: int, fit: str = "crop") -> Tensor:
    """Frames `T H W 3` -> uint8 `T 3 size size`, antialiased; `crop` takes the middle square.

    Colours lie side by side still, and nothing is copied where the size is right already.
    """
    video = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)
    if fit == "crop":
        height, width = video.shape[-2:]
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        video = video[..., top : top + side, left : left + side]
    if video.shape[-2:] != (size, size):
        video = F.interpolate(video, (size, size), mode="bilinear", antialias=True)
    return video
