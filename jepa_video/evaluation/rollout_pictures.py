"""Rollouts as moving pictures: states decoded back into frames, beside what really followed.

Shapes: states `B L P D`, pixels of a token `c t p p`, frames `L t H W 3`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from ..data.datamodule import VideoDataModule
from ..data.transforms import centre
from ..models.decoder import Decoder
from ..models.rope import Grid
from ..training.video_jepa import VideoJEPA
from .album import Plate, save_album
from .drawing import pixels
from .films import film
from .pictures import looking
from .rollouts import Foresight, foresight, horizon, long_clips, past_slots, save_horizon

SHOWN: Final = 4
FEWEST: Final = 8  # clips below which no decoder is fitted
PANELS: Final = ("teacher-forced", "rolled out", "last frame")


def draw_rollouts(module: VideoJEPA, data: VideoDataModule, folder: Path) -> None:
    """Measure how far a module sees and draw it; a module that does not tell the future is left."""
    if past_slots(module) is None:
        return
    sample = long_clips(data, module)
    if sample is None or len(sample.video) < 2 or sample.video.shape[1] < module.encoder.frames:
        return
    with looking(module):
        found = foresight(module, sample.video)
        save_horizon(horizon(module, found), folder)
        for old in folder.glob("*.webp"):
            old.unlink()
        clip = centre(sample.video, module.encoder.image)
        save_album(folder, [decoded_plate(found, clip, module.encoder.grid, folder)])


def patches(clip: Tensor, slots: int, grid: Grid) -> Tensor:
    """Pixels of each token of `B C T S S` with `slots` time slots: `B slots P (C t p p)`."""
    _, height, width = grid
    b, c, t, h, w = clip.shape
    parts = clip.reshape(b, c, slots, t // slots, height, h // height, width, w // width)
    return parts.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4).flatten(2, 3)


def unpatched(values: Tensor, channels: int, size: int, grid: Grid) -> Tensor:
    """The inverse: `B slots P (C t p p)` to `B C T S S`, `S` being `size`."""
    _, height, width = grid
    p, q = size // height, size // width
    b, slots = values.shape[:2]
    parts = values.reshape(b, slots, height, width, channels, -1, p, q)
    return parts.permute(0, 4, 1, 5, 2, 6, 3, 7).flatten(6).flatten(4, 5).flatten(2, 3)


def decoded_plate(found: Foresight, clip: Tensor, grid: Grid, folder: Path) -> Plate:
    """A few clips beside their decoded states; the decoder has not seen them.

    Args:
        found: states of the clips.
        clip: the same clips, normalised, `B C T S S`.
        grid: of the encoder.
        folder: where the pictures go.
    """
    slots = found.context.shape[1] + found.truth.shape[1]
    values = patches(clip[:, :, : slots * found.frames].float(), slots, grid)
    true = torch.cat((found.context, found.truth), dim=1)
    shown = min(SHOWN, len(clip) // 3)
    if len(clip) < FEWEST:
        return Plate("Decoded rollouts", "Too few held-out clips to fit a decoder on.", ())
    decoder = Decoder(true.shape[-1], values.shape[-1])
    decoder.fit(true[shown:].flatten(0, 2), values[shown:].flatten(0, 2))
    told = {kind: torch.cat((found.context, found.told[kind]), 1)[:shown] for kind in PANELS}
    told = {"true states": true[:shown], **told}
    films = [pixels(clip[:shown, :, : slots * found.frames])]
    for states in told.values():
        films.append(pixels(unpatched(decoder(states), clip.shape[1], clip.shape[-1], grid)))
    heads = ("frames", *told)
    known = found.context.shape[1] * found.frames
    rows = []
    for at in range(shown):
        label = f"clip {at + 1}: {', '.join(heads)}"
        alt = f"Five moving panels of a clip, {label}"
        panels = [one[at] for one in films]
        rows.append((film(panels, known, 2, folder, f"rollout_{at}", label, alt),))
    caption = (
        f"From left to right: {', '.join(heads)}. A linear decoder, fitted on other clips, turns "
        "states into pixels; it shows what the states know and has no part in training. After the "
        f"first {known} frames, which the model sees, every panel "
        "but the first two is prediction, framed in orange."
    )
    return Plate("Decoded rollouts", caption, tuple(rows))
