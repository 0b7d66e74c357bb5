"""Video encoders: a clip, or the visible part of it, to tokens.

Shapes: clips `B C T H W`, tokens `B N D` with `N = T' H' W'` of `grid` in time-major order.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from ..errors import UserError
from .blocks import Block, gather_tokens, init_weights, rescale_residuals, run_blocks
from .rope import Grid, Rotary, grid_positions, rotary_tables

Size = Literal["nano", "tiny", "small", "base", "large", "huge", "giant"]

# width, depth, heads, MLP ratio; from "tiny" on as in ViT, DeiT and V-JEPA 2.
SIZES: dict[str, tuple[int, int, int, float]] = {
    "nano": (96, 4, 3, 4.0),
    "tiny": (192, 12, 3, 4.0),
    "small": (384, 12, 6, 4.0),
    "base": (768, 12, 12, 4.0),
    "large": (1024, 24, 16, 4.0),
    "huge": (1280, 32, 16, 4.0),
    "giant": (1408, 40, 22, 48 / 11),
}


class VideoEncoder(nn.Module):
    """What every encoder promises.

    Attributes:
        width: `D`.
        grid: tokens along time, height and width, `(T', H', W')`.
        frames: frames of a clip; `image`: its height and width in pixels.
        config: plain values that rebuild the encoder, see `build_encoder`.
    """

    registry: ClassVar[dict[str, type[VideoEncoder]]] = {}

    width: int
    grid: Grid
    frames: int
    image: int
    config: dict[str, Any]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        VideoEncoder.registry[cls.__name__] = cls

    @property
    def num_tokens(self) -> int:
        """`N` of a whole clip."""
        t, h, w = self.grid
        return t * h * w

    def forward(self, clip: Tensor, keep: Tensor | None = None) -> Tensor:
        """Encode `B C T H W`; with `keep` (`B K` token positions) only those tokens are seen."""
        raise NotImplementedError


def build_encoder(config: dict[str, Any]) -> VideoEncoder:
    """The encoder that `encoder.config` describes, with fresh weights."""
    kind = config.get("class")
    if kind not in VideoEncoder.registry:
        known = ", ".join(sorted(VideoEncoder.registry))
        raise UserError(f"encoder config names the class {kind!r}; expected one of {known}")
    return VideoEncoder.registry[kind](**{k: v for k, v in config.items() if k != "class"})


def token_grid(frames: int, image: int, tubelet: int, patch: int) -> Grid:
    """Tokens along `(T', H', W')`, or a sentence about what does not divide."""
    _positive(frames=frames, image=image, tubelet=tubelet, patch=patch)
    if image % patch:
        raise UserError(f"image size {image} is not a multiple of the patch size {patch}")
    if frames % tubelet:
        raise UserError(f"{frames} frames are not a multiple of the tubelet length {tubelet}")
    return frames // tubelet, image // patch, image // patch


def _positive(**sizes: int | None) -> None:
    for name, value in sizes.items():
        if value is not None and value < 1:
            raise UserError(f"model.encoder.{name} must be 1 or more, not {value}")


class VideoViT(VideoEncoder):
    """Vision transformer on tubelets, with 3-D rotary positions.

    Args:
        size: width, depth and heads by name, nano (0.5 M parameters) to giant (1.0 G).
        frames: frames of a clip.
        image: height and width of a frame in pixels.
        tubelet: frames of one token.
        patch: pixels of one token along height and width.
        depth: overrides the depth of `size`.
        width: overrides the width of `size`.
        heads: overrides the heads of `size`.
        mlp_ratio: overrides the hidden width of `size`'s MLPs, as a multiple of the width.
        drop_path: rate of stochastic depth at the last block, rising linearly from zero.
        checkpointing: recompute activations in the backward pass to save memory.
        channels: colour channels `C`.
        norm_eps: added to the variance in each layer-norm; V-JEPA 2 has 1e-6.
        rotary: form of the positions; `vjepa2` for weights of V-JEPA 2, see `rotary_tables`.
        background: share of the clip, from its start, whose mean picture is taken off every frame,
            so that what stands still vanishes and motion is left; 0 leaves the pictures as they
            are. Where the future is predicted keep it at most the share that is context, or the
            context would know the future's mean.

    Raises:
        UserError: patch or tubelet do not divide the clip, or a size is below 1.
    """

    def __init__(
        self,
        size: Size = "nano",
        frames: int = 8,
        image: int = 32,
        tubelet: int = 2,
        patch: int = 8,
        depth: int | None = None,
        width: int | None = None,
        heads: int | None = None,
        drop_path: float = 0.0,
        checkpointing: bool = False,
        channels: int = 3,
        mlp_ratio: float | None = None,
        norm_eps: float = 1e-5,
        rotary: Rotary = "paired",
        background: float = 0.0,
    ) -> None:
        super().__init__()
        _positive(depth=depth, width=width, heads=heads)
        if not 0 <= background <= 1:
            raise UserError(f"model.encoder.background must be from 0 to 1, not {background}")
        self.config = {"class": "VideoViT", "size": size, "frames": frames, "image": image}
        self.config |= {"tubelet": tubelet, "patch": patch, "depth": depth, "width": width}
        self.config |= {"heads": heads, "drop_path": drop_path, "channels": channels}
        self.config |= {"mlp_ratio": mlp_ratio, "norm_eps": norm_eps, "rotary": rotary}
        self.config |= {"background": background}
        named_width, named_depth, named_heads, named_ratio = SIZES[size]
        self.width, depth = width or named_width, depth or named_depth
        self.frames, self.image, self.patch, self.tubelet = frames, image, patch, tubelet
        self.grid = token_grid(frames, image, tubelet, patch)
        self.heads, self.mlp_ratio = heads or named_heads, mlp_ratio or named_ratio
        self.norm_eps, self.rotary, self.checkpointing = norm_eps, rotary, checkpointing
        self.background = math.ceil(background * frames)  # in frames
        self.embed = nn.Linear(channels * tubelet * patch * patch, self.width)
        rates = [drop_path * i / max(depth - 1, 1) for i in range(depth)]
        self.blocks = nn.ModuleList(
            Block(self.width, self.heads, self.mlp_ratio, drop_path=rate, norm_eps=norm_eps)
            for rate in rates
        )
        self.norm = nn.LayerNorm(self.width, norm_eps)
        self.apply(init_weights)
        rescale_residuals(self.blocks)

    def patches(self, clip: Tensor) -> Tensor:
        """Pixels of each tubelet: `B C T H W` to `B N (C t p p)`."""
        b, c, t, h, w = clip.shape
        if (t, h, w) != (self.frames, self.image, self.image):
            raise ValueError(
                f"clip of {t} frames of {h} x {w}; the encoder takes {self.frames} frames of "
                f"{self.image} x {self.image}"
            )
        if self.background:  # doubled: what is left is smaller than a picture
            clip = 2 * (clip - clip[:, :, : self.background].mean(dim=2, keepdim=True))
        (gt, gh, gw), p = self.grid, self.patch
        tubes = clip.view(b, c, gt, self.tubelet, gh, p, gw, p).permute(0, 2, 4, 6, 1, 3, 5, 7)
        return tubes.reshape(b, gt * gh * gw, -1)

    def forward(self, clip: Tensor, keep: Tensor | None = None) -> Tensor:
        """Encode `B C T H W` to `B N D`, or to `B K D` where `keep` (`B K`) says what is seen."""
        pixels = self.patches(clip)
        positions = grid_positions(self.grid, clip.device)  # N 3
        if keep is not None:
            pixels, positions = gather_tokens(pixels, keep), positions[keep]
        tables = rotary_tables(positions, self.width // self.heads, self.rotary)
        x = run_blocks(self.blocks, self.embed(pixels), tables, checkpointing=self.checkpointing)
        out: Tensor = self.norm(x)
        return out
