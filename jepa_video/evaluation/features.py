"""Frozen features of a set of clips: one row for each video, the mean over its clips.

Shapes: `B` clips of a batch, `N` tokens (of a clip) or videos (in `Features`), `D` width, `L`
labels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from jepa_video.data.clips import VideoClips
from jepa_video.data.loader import ClipLoader
from jepa_video.errors import UserError

Encode = Callable[[Tensor], Tensor]
Batch = Mapping[str, Tensor]
Pool = Literal["mean", "max", "flat"]


@dataclass(frozen=True)
class Features:
    """One row for each video that could be read, in the order of its number.

    Attributes:
        x: features `N D`, float32, on the CPU.
        labels: `N L`, int64, -1 where there is none.
        groups: `N` names, or None where the set has none.
        index: `N`, the number of the video in its set.
    """

    x: Tensor
    labels: Tensor
    groups: list[str] | None
    index: Tensor


def extract(
    encode: Encode,
    clips: VideoClips | Iterable[Batch],
    *,
    device: torch.device | str = "cpu",
    batch_size: int = 32,
    workers: int = 0,
    pool: Pool = "mean",
) -> Features:
    """Run `encode` over all clips without gradient.

    Args:
        encode: video uint8 `B T C H W` to tokens `B N D`, or to `B D` that are not pooled.
        clips: videos in evaluation, or batches `{"video", "labels", "index"}` from a loader; clips
            with the same index are of one video. Its `groups`, if any, go by index.
        device: where the clips are put.
        batch_size: clips at a time; a loader has its own.
        workers: loader processes; a loader has its own.
        pool: over tokens: their mean, their maximum, or all of them side by side.

    Raises:
        UserError: not one clip could be read.
    """
    batches: Iterable[Batch] = clips  # type: ignore[assignment]
    if isinstance(clips, VideoClips):
        batches = ClipLoader(clips, batch_size=batch_size, workers=workers)
    sums: dict[int, Tensor] = {}
    labels: dict[int, Tensor] = {}
    counts: Counter[int] = Counter()
    for batch in batches:
        rows = _encoded(encode, batch["video"].to(device), pool)
        for i, row, label in zip(batch["index"].tolist(), rows, batch["labels"], strict=True):
            sums[i] = sums[i] + row if i in sums else row
            labels[i] = label
            counts[i] += 1
    if not sums:
        raise UserError("there are no features: not one clip of the set could be read")
    order = sorted(sums)
    groups = getattr(clips, "groups", None)
    return Features(
        x=torch.stack([sums[i] / counts[i] for i in order]),
        labels=torch.stack([labels[i] for i in order]),
        groups=None if groups is None else [str(groups[i]) for i in order],
        index=torch.tensor(order),
    )


@torch.no_grad()  # not inference mode, whose tensors cannot take part in the training of a probe
def _encoded(encode: Encode, video: Tensor, pool: Pool) -> Tensor:
    return _pooled(encode(video), pool).to("cpu", torch.float32)


def _pooled(tokens: Tensor, pool: Pool) -> Tensor:
    """`B N D` to `B D` (or `B N*D`); `B D` stays."""
    if tokens.ndim == 2 or pool == "flat":
        return tokens.flatten(1)
    return tokens.mean(1) if pool == "mean" else tokens.amax(1)
