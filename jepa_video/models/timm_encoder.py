"""An image ViT of timm as the video encoder, per frame or inflated.

Shapes as in `encoder.py`: clips `B C T H W`, tokens `B N D` in time-major order.
"""

from __future__ import annotations

from pickle import UnpicklingError
from typing import Any, Literal

import timm
import torch
from torch import Tensor, nn

from ..errors import UserError
from .blocks import gather_tokens
from .encoder import VideoEncoder, token_grid
from .rope import grid_positions


class TimmEncoder(VideoEncoder):
    """ViT of timm over the frames of a clip.

    `frame`: attention stays within a frame, as in the image model. `inflated`: the patch filter is
    repeated over the tubelet and divided by its length (Carreira and Zisserman 2017), and attention
    runs over space and time. In both a learned embedding of the time slot, zero at the start, is
    added, so that the first features are those of the image model.

    Args:
        name: timm model, e.g. `vit_small_patch16_224`; a plain ViT with `patch_embed` and `blocks`.
        mode: see above.
        frames: frames of a clip.
        image: height and width of a frame in pixels.
        tubelet: frames of one token; 1 in `frame` mode.
        pretrained: load timm's weights (from its cache or the hub).
        weights: file with the model's weights (safetensors or a plain state dict) to load instead.

    Raises:
        UserError: the model is not a ViT, or patch or tubelet do not divide the clip.
    """

    def __init__(
        self,
        name: str = "vit_tiny_patch16_224",
        mode: Literal["frame", "inflated"] = "inflated",
        frames: int = 8,
        image: int = 64,
        tubelet: int = 2,
        pretrained: bool = False,
        weights: str | None = None,
    ) -> None:
        super().__init__()
        tubelet = 1 if mode == "frame" else tubelet
        self.config = {"class": "TimmEncoder", "name": name, "mode": mode, "frames": frames}
        self.config |= {"image": image, "tubelet": tubelet}
        try:
            # As pretrained weights: positions are resampled and the classifier is left out.
            overlay = {"file": weights, "custom_load": False} if weights else None
            vit: Any = timm.create_model(
                name,
                pretrained=pretrained or weights is not None,
                pretrained_cfg_overlay=overlay,
                img_size=image,
                num_classes=0,
            )
        except (OSError, RuntimeError, TypeError, ValueError, UnpicklingError) as error:
            raise UserError(f"timm model {name!r} does not load as a ViT: {error}") from error
        if not all(hasattr(vit, part) for part in ("patch_embed", "blocks", "pos_embed", "norm")):
            raise UserError(f"timm model {name!r} is not a plain ViT with patch_embed and blocks")
        self.mode, self.frames, self.image, self.tubelet = mode, frames, image, tubelet
        patch = int(vit.patch_embed.patch_size[0])
        self.grid = token_grid(frames, image, tubelet, patch)
        self.width = int(vit.embed_dim)
        self.project = inflate(vit.patch_embed.proj, tubelet)
        self.norm_pre: nn.Module = vit.norm_pre
        self.blocks = nn.ModuleList(vit.blocks)
        self.norm: nn.Module = vit.norm
        prefix = int(vit.num_prefix_tokens) if vit.pos_embed.shape[1] != self.area else 0
        self.place = nn.Parameter(vit.pos_embed[:, prefix:].detach().clone())  # 1 H'W' D
        self.time = nn.Parameter(torch.zeros(self.grid[0], self.width))

    @property
    def area(self) -> int:
        """Tokens of one time slot."""
        return self.grid[1] * self.grid[2]

    def forward(self, clip: Tensor, keep: Tensor | None = None) -> Tensor:
        """Encode `B C T H W` to `B N D`, or to `B K D` where `keep` (`B K`) says what is seen."""
        x = self.project(clip).flatten(2).transpose(1, 2)  # B N D
        x = x + self.place.repeat(1, self.grid[0], 1)
        x = x + self.time.repeat_interleave(self.area, dim=0)
        slots = grid_positions(self.grid, clip.device)[:, 0].expand(x.shape[0], -1)  # B N
        if keep is not None:
            x, slots = gather_tokens(x, keep), slots.gather(1, keep)
        mask = None
        if self.mode == "frame":
            mask = (slots[:, None, :, None] == slots[:, None, None, :]).to(clip.device)
        x = self.norm_pre(x)
        for block in self.blocks:
            x = block(x, attn_mask=mask)
        out: Tensor = self.norm(x)
        return out


def inflate(projection: nn.Conv2d, tubelet: int) -> nn.Conv3d:
    """2-D patch filter to 3-D: repeated over the tubelet, divided by its length."""
    kernel, stride = projection.kernel_size, projection.stride
    filters = nn.Conv3d(
        projection.in_channels,
        projection.out_channels,
        (tubelet, kernel[0], kernel[1]),
        (tubelet, stride[0], stride[1]),
        bias=projection.bias is not None,
    )
    with torch.no_grad():
        filters.weight.copy_(projection.weight[:, :, None].repeat(1, 1, tubelet, 1, 1) / tubelet)
        if filters.bias is not None and projection.bias is not None:
            filters.bias.copy_(projection.bias)
    return filters
