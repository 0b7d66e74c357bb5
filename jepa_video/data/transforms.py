"""Augmentation of whole batches on the device: one draw for all frames of a clip.

Shapes: video `B T C H W` uint8 in, clip `B C T S S` float out, normalised by `MEAN` and `STD`.
"""

from __future__ import annotations

import math
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

MEAN: Final = (0.485, 0.456, 0.406)  # ImageNet's, which every pretrained image backbone expects
STD: Final = (0.229, 0.224, 0.225)


def normalise(video: Tensor) -> Tensor:
    """`B T C H W` uint8 (or float in 0..255) to `B C T H W` float with zero mean and unit scale."""
    mean = torch.tensor(MEAN, device=video.device)[:, None, None] * 255.0
    std = torch.tensor(STD, device=video.device)[:, None, None] * 255.0
    # Frames keep the order in which they lie. As large as one, and in that order, mean and scale
    # take a fifth of the time where the colours of a pixel lie side by side.
    whole = video.to(torch.promote_types(video.dtype, torch.float32), copy=True)
    each = torch.empty_like(whole[:1, :1]) if len(video) else whole
    return whole.sub_(each.copy_(mean)).div_(each.copy_(std)).transpose(1, 2)


def crop(video: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Cut `boxes` (`B 4`: top, left, height, width as shares of the frame) and resize to `size`.

    Sampling is bilinear with area-averaging left to the decode size: keep the stored clip within
    about twice `size`, or fine detail aliases.
    """
    b, t, c, h, w = video.shape
    top, left, height, width = boxes.unbind(1)
    theta = torch.zeros(b, 2, 3, device=video.device)
    theta[:, 0, 0], theta[:, 1, 1] = width, height
    theta[:, 0, 2], theta[:, 1, 2] = 2 * left + width - 1, 2 * top + height - 1
    grid = F.affine_grid(theta, [b, 1, size, size], align_corners=False)
    flat = video.reshape(b, t * c, h, w).float()
    out = F.grid_sample(flat, grid, padding_mode="border", align_corners=False)
    return out.view(b, t, c, size, size)


def centre(video: Tensor, size: int) -> Tensor:
    """The evaluation view: the largest centred square, resized to `size` if it is not that size."""
    h, w = video.shape[-2:]
    side = min(h, w)
    top, left = (h - side) // 2, (w - side) // 2
    video = video[..., top : top + side, left : left + side]
    if side == size:
        return normalise(video)
    b, t = video.shape[:2]
    small = F.interpolate(
        video.flatten(0, 1).float(), (size, size), mode="bilinear", antialias=True
    )
    return normalise(small.view(b, t, -1, size, size))


class Augment:
    """Random crop, flip and light, batched; every draw comes from the generator it is given.

    Args:
        scale: range of the share of the frame's area that is kept.
        aspect: range of width over height of the crop.
        flip: probability of mirroring left and right. Off by default: it turns direction around.
        brightness: largest change of the mean, as a share of the full range.
        contrast: largest relative change of the contrast.
        colour: largest relative change of each channel's gain.
    """

    def __init__(
        self,
        scale: tuple[float, float] = (0.5, 1.0),
        aspect: tuple[float, float] = (0.75, 1.3333),
        flip: float = 0.0,
        brightness: float = 0.1,
        contrast: float = 0.2,
        colour: float = 0.1,
    ) -> None:
        self.scale, self.aspect, self.flip = scale, aspect, flip
        self.brightness, self.contrast, self.colour = brightness, contrast, colour

    def __call__(self, video: Tensor, size: int, generator: torch.Generator) -> Tensor:
        """`B T C H W` uint8 to a normalised `B C T size size`; `generator` lives on the CPU."""
        b, _, c, _, _ = video.shape
        boxes = self.boxes(b, generator).to(video.device)
        clip = crop(video, boxes, size)
        mirrored = torch.rand(b, generator=generator).to(video.device) < self.flip
        if self.flip:
            clip = torch.where(mirrored[:, None, None, None, None], clip.flip(-1), clip)
        jitter = 2 * torch.rand(b, 2 + c, generator=generator).to(video.device) - 1
        gain = (1 + self.contrast * jitter[:, :1]) * (1 + self.colour * jitter[:, 2:])  # B C
        offset = 255.0 * self.brightness * jitter[:, 1:2]
        mean = clip.mean(dim=(1, 3, 4), keepdim=True)  # the clip's own colour stays the pivot
        clip = (clip - mean) * gain[:, None, :, None, None] + mean + offset[:, None, :, None, None]
        return normalise(clip.clamp(0, 255))

    def boxes(self, batch: int, generator: torch.Generator) -> Tensor:
        """Crop boxes `B 4` as shares of the frame: top, left, height, width."""
        area, ratio, top, left = torch.rand(batch, 4, generator=generator).unbind(1)
        area = self.scale[0] + (self.scale[1] - self.scale[0]) * area
        low, high = math.log(self.aspect[0]), math.log(self.aspect[1])
        root = torch.exp(0.5 * (low + (high - low) * ratio))
        height = (area.sqrt() / root).clamp(max=1.0)
        width = (area.sqrt() * root).clamp(max=1.0)
        return torch.stack(((1 - height) * top, (1 - width) * left, height, width), dim=1)
