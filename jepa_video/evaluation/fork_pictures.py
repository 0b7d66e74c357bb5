"""Futures of a fork as moving pictures: every way that is possible, beside what z makes of it.

Shapes: ways `B K T C S S`, futures `S B M D`, pixels of a token `c t p p`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from ..data.datamodule import VideoDataModule
from ..data.transforms import centre
from ..models.blocks import gather_tokens
from ..models.decoder import Decoder
from ..randomness import LATENT, generator
from ..training.video_jepa import VideoJEPA
from .album import Picture, Plate
from .drawing import beside, enlarge, pixels, save_moving, save_still, stacked, tile_side
from .forks import SAMPLES, Asked, Forked, asked, decided_energy, forked_clips
from .rollout_pictures import patches, unpatched

SHOWN: Final = 3
DRAWN: Final = 50  # clips: some to fit the decoder on, the first few to show
MILLISECONDS: Final = 220


def draw_futures(
    module: VideoJEPA, data: VideoDataModule, device: torch.device, folder: Path
) -> list[Plate]:
    """A plate with a few held-out clips at their fork."""
    every = forked_clips(data, DRAWN)
    clips = Forked(every.video, every.way)
    chunk = next(iter(asked(module, clips)))
    views = torch.stack([centre(way, module.encoder.image) for way in clips.video.unbind(1)], 1)
    decoder = fitted(module, views, chunk)
    futures = sampled(module, chunk)
    count = clips.video.shape[1]
    rows = []
    for at in range(min(SHOWN, len(views))):
        chosen = [nearest(module, futures, chunk, way)[at] for way in range(count)]
        told = torch.stack(
            [
                shown(module, decoder, views[at, way], futures[i, at], chunk, at)
                for way, i in enumerate(chosen)
            ]
        )
        rows.append((_film(pixels(views[at]), told, folder, at),))
    caption = (
        f"Above: the {count} ways that the clip can go; all frames up to the fork are the same. "
        "Below: of the futures that the model tells "
        + (f"from {SAMPLES} draws of z, " if module.latent.dim else "(one, since it has no z), ")
        + "the one nearest to each way, read off the predicted states by a linear decoder that was "
        "fitted on other clips and has no part in training. Where one blurred answer stands below "
        "all ways, the model averages over them."
    )
    if module.encoder.config.get("background"):
        caption += (
            " What is told has no background of its own: the encoder takes the mean picture off "
            "every frame, so no state holds it."
        )
    return [Plate("Futures at the fork", caption, tuple(rows))]


def fitted(module: VideoJEPA, views: Tensor, chunk: Asked) -> Decoder:
    """A decoder from target tokens to their pixels, on all clips but those that are shown."""
    values = _targets(module, views[SHOWN:].flatten(0, 1), chunk, views.shape[1])
    states = chunk.futures[:, SHOWN:].transpose(0, 1).flatten(0, 1)  # B*K M D
    return Decoder(states.shape[-1], values.shape[-1]).fit(
        states.flatten(0, 1), values.flatten(0, 1)
    )


def _targets(module: VideoJEPA, clip: Tensor, chunk: Asked, ways: int) -> Tensor:
    """Pixels of the target tokens of `B*K C T S S`, `B*K M (c t p p)`."""
    grid = module.encoder.grid
    values = patches(clip, grid[0], grid).flatten(1, 2)
    target = chunk.pair.mask.target[SHOWN:].repeat_interleave(ways, 0)
    return gather_tokens(values, target)


def sampled(module: VideoJEPA, chunk: Asked) -> Tensor:
    """Futures from the prior, or the only one where there is no z: `S B M D`."""
    pair = chunk.pair
    if not module.latent.dim:
        return module.predict(pair.s_x, pair.mask, None)[None]
    return module.sample_futures(pair, SAMPLES, generator(module.seed, LATENT, 0))


def nearest(module: VideoJEPA, futures: Tensor, chunk: Asked, way: int) -> list[int]:
    """For each clip the sampled future of lowest energy against a way."""
    energy = decided_energy(module, futures, chunk.futures[way][None], chunk.decided)  # S B
    return energy.argmin(0).tolist()


def shown(
    module: VideoJEPA, decoder: Decoder, view: Tensor, future: Tensor, chunk: Asked, at: int
) -> Tensor:
    """Frames `T S S 3`: what was seen, then what the future's tokens `M D` decode to."""
    grid, (channels, _, size, _) = module.encoder.grid, view.shape
    values = patches(view[None], grid[0], grid).flatten(1, 2)[0]
    values[chunk.pair.mask.target[at]] = decoder(future).to(values)
    clip = unpatched(values.view(1, grid[0], grid[1] * grid[2], -1), channels, size, grid)
    return pixels(clip)[0]


def _film(true: Tensor, told: Tensor, folder: Path, number: int) -> Picture:
    """One clip: true ways `K T S S 3` above what is told of them."""
    side = tile_side(true.shape[2], 128)
    films = [[enlarge(film, side) for film in row] for row in (true, told)]
    name, still = f"futures_{number}.webp", f"futures_{number}_still.webp"
    frames = [stacked([beside([f[t] for f in row]) for row in films]) for t in range(true.shape[1])]
    save_moving(frames, folder / name, MILLISECONDS)
    save_still(frames[-1], folder / still)
    label = f"clip {number + 1}: true ways above, told below"
    return Picture(name, f"Moving panels of a fork, {label}", label, still)
