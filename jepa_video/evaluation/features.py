"""Frozen features of a set of clips: one row for each video, the mean over its clips.

Shapes: `B` clips of a batch, `N` tokens (of a clip) or videos (in `Features`), `D` width, `L`
labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from jepa_video.errors import UserError

Encode = Callable[[Tensor], Tensor]
Pool = Literal["mean", "max", "flat"]


class Clips(Protocol):
    """What is asked of a set of clips: items as of `VideoClips`, or None for an unreadable one."""

    def __len__(self) -> int: ...

    def __getitem__(self, key: int, /) -> Any: ...


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
    dataset: Clips,
    *,
    device: torch.device | str = "cpu",
    batch_size: int = 32,
    pool: Pool = "mean",
) -> Features:
    """Run `encode` over `dataset` without gradient.

    Args:
        encode: video uint8 `B T C H W` to tokens `B N D`, or to `B D` that are not pooled.
        dataset: items `{"video", "labels", "index"}`; items with the same index are clips of one
            video, and their features are averaged. Its `groups`, if any, go by video index.
        device: where the clips are put.
        batch_size: clips at a time.
        pool: over tokens: their mean, their maximum, or all of them side by side.

    Raises:
        UserError: not one clip could be read.
    """
    sums: dict[int, Tensor] = {}
    labels: dict[int, Tensor] = {}
    clips: dict[int, int] = {}
    for batch in _batches(dataset, batch_size):
        video = torch.stack([item["video"] for item in batch]).to(device)
        with torch.inference_mode():
            rows = _pooled(encode(video), pool).to("cpu", torch.float32)
        for item, row in zip(batch, rows, strict=True):
            i = int(item["index"])
            sums[i] = sums[i] + row if i in sums else row
            clips[i] = clips.get(i, 0) + 1
            labels[i] = torch.as_tensor(item["labels"], dtype=torch.int64).reshape(-1)
    if not sums:
        raise UserError("there are no features: not one clip of the set could be read")
    order = sorted(sums)
    groups = getattr(dataset, "groups", None)
    return Features(
        # Cloned, for a tensor made in inference mode cannot take part in the training of a probe.
        x=torch.stack([sums[i] / clips[i] for i in order]).clone(),
        labels=torch.stack([labels[i] for i in order]),
        groups=None if groups is None else [str(groups[i]) for i in order],
        index=torch.tensor(order),
    )


def _batches(dataset: Clips, size: int) -> Iterator[list[Any]]:
    batch: list[Any] = []
    for i in range(len(dataset)):
        item = dataset[i]
        if item is not None:
            batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _pooled(tokens: Tensor, pool: Pool) -> Tensor:
    """`B N D` to `B D` (or `B N*D`); `B D` stays."""
    if tokens.ndim == 2 or pool == "flat":
        return tokens.flatten(1)
    return tokens.mean(1) if pool == "mean" else tokens.amax(1)
