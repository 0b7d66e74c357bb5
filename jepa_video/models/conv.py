"""A convolutional encoder: what a transformer is on a cluster, this is on two cores.

Shapes: clips `B C T H W`, tokens `B N D` with `N = T' H' W'` of `grid` in time-major order.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UserError, within
from .backdrop import Backdrop
from .blocks import gather_tokens
from .encoder import VideoEncoder, token_grid


class ConvEncoder(VideoEncoder):
    """Strided convolutions on tubelets: 5 x 5, then 3 x 3, each halving the picture.

    Where only some tokens are kept, the pixels of the others are zero before the first
    convolution, so that what is masked is not seen (as Tian et al. 2023, SparK, has it).

    Args:
        frames: frames of a clip.
        image: height and width of a frame in pixels.
        tubelet: frames of one token; they are stacked as channels.
        patch: pixels of one token along height and width, a power of 2.
        channels: feature maps after the first convolution; they double with each one.
        width: `D` of the tokens.
        colours: colour channels `C`.
        backdrop: pictures are taken less their mean, see `Backdrop`, whose `fit` a world model's
            training calls before the first step.

    Raises:
        UserError: patch or tubelet do not divide the clip, or patch is no power of 2.
    """

    def __init__(
        self,
        frames: int = 1,
        image: int = 64,
        tubelet: int = 1,
        patch: int = 8,
        channels: int = 16,
        width: int = 64,
        colours: int = 3,
        backdrop: bool = False,
    ) -> None:
        super().__init__()
        halvings = patch.bit_length() - 1
        if patch < 2 or patch != 1 << halvings:
            raise UserError(f"model.encoder.patch of ConvEncoder must be 2, 4, 8 ..., not {patch}")
        within("model.encoder", 1, channels=channels, width=width, colours=colours)
        self.config = {"class": "ConvEncoder", "frames": frames, "image": image}
        self.config |= {"tubelet": tubelet, "patch": patch, "channels": channels}
        self.config |= {"width": width, "colours": colours, "backdrop": backdrop}
        self.grid = token_grid(frames, image, tubelet, patch)
        self.frames, self.image, self.tubelet, self.patch = frames, image, tubelet, patch
        self.width = width
        self.backdrop = Backdrop(colours, image) if backdrop else None
        widths = [colours * tubelet, *(channels << i for i in range(halvings))]
        sizes = [5, *[3] * (halvings - 1)]
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, size, 2, size // 2)
            for a, b, size in zip(widths[:-1], widths[1:], sizes, strict=True)
        )
        self.last = nn.Conv2d(widths[-1], width, 3, 1, 1)
        self.norm = nn.LayerNorm(width)

    def forward(self, clip: Tensor, keep: Tensor | None = None) -> Tensor:
        """Encode `B C T H W` to `B N D`, or to `B K D` where `keep` (`B K`) says what is seen."""
        b, c, t, h, w = clip.shape
        if (t, h, w) != (self.frames, self.image, self.image):
            raise ValueError(
                f"clip of {t} frames of {h} x {w}; the encoder takes {self.frames} frames of "
                f"{self.image} x {self.image}"
            )
        clip = clip if self.backdrop is None else self.backdrop(clip)
        tubes = clip.transpose(1, 2).reshape(b * self.grid[0], self.tubelet * c, h, w)
        if keep is not None:
            tubes = tubes * self._seen(keep, clip)
        x = tubes.contiguous(memory_format=torch.channels_last)
        for conv in self.convs:
            x = F.gelu(conv(x))
        tokens = self.last(x).flatten(2).transpose(1, 2)  # BT' P D
        out: Tensor = self.norm(tokens.reshape(b, math.prod(self.grid), self.width))
        return out if keep is None else gather_tokens(out, keep)

    def _seen(self, keep: Tensor, like: Tensor) -> Tensor:
        """1 at the pixels of the tokens `B K` that are kept, else 0: `BT' 1 H W`."""
        seen = like.new_zeros(len(keep), math.prod(self.grid)).scatter(1, keep, 1.0)
        cells = seen.view(-1, 1, *self.grid[1:])
        return F.interpolate(cells, scale_factor=float(self.patch), mode="nearest")
