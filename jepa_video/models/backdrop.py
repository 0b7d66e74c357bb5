"""What all pictures of some episodes share, and how much they differ from it.

Where little moves before a large background, it is little of what an encoder is moved by: states
that tell no action are near, and those that do are far. Less the mean picture, and over what is
left's deviation, an inverse model of reacher-easy errs half as much after 110 steps (LOG.md). The
mean is of many episodes: that of a clip, `background` of `VideoViT`, takes off what stands still,
and where a thing stands is what a state has to tell.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


class Backdrop(nn.Module):
    """Takes the mean picture away and scales what is left; nothing before it is fitted.

    Args:
        colours: colour channels `C`.
        size: height and width of a picture.
    """

    def __init__(self, colours: int, size: int) -> None:
        super().__init__()
        self.mean: Tensor
        self.scale: Tensor
        self.register_buffer("mean", torch.zeros(colours, size, size))
        self.register_buffer("scale", torch.ones(()))

    @property
    def fitted(self) -> bool:
        """Whether the mean of some pictures is known."""
        return bool(self.mean.any())

    def forward(self, clips: Tensor) -> Tensor:
        """Normalised clips `B C T H W` to as many."""
        return (clips - self.mean[:, None]) / self.scale

    @torch.no_grad()
    def fit(self, videos: Iterable[Tensor]) -> None:
        """Mean over all pictures of normalised clips `B C T H W`, and deviation from it, a number.

        Where nothing differs, the scale is 0.001.
        """
        total, squares = torch.zeros(2, *self.mean.shape, dtype=torch.float64)
        count = 0
        for video in videos:
            pictures = video.transpose(1, 2).flatten(0, 1).double()
            total += pictures.sum(0)
            squares += pictures.square().sum(0)
            count += len(pictures)
        mean = total / max(count, 1)
        variance = (squares / max(count, 1) - mean.square()).mean()
        self.mean.copy_(mean)
        self.scale.copy_(variance.clamp_min(1e-6).sqrt())
