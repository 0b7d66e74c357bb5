"""The picture pack of a run, drawn with the trained model on clips that it did not learn from.

What is masked, what the features see, which clips lie close, and where the energy is: the things a
person wants to look at before believing a number. Shapes: video `B T C H W` uint8, tokens `B N D`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.datamodule import VideoDataModule
from ..data.masks import MaskGroup
from ..data.transforms import centre
from ..energies.distances import distance
from ..errors import UserError
from ..models.encoder import VideoEncoder
from ..randomness import LATENT, MASK, generator
from ..training.video_jepa import VideoJEPA
from .album import Picture, Plate, save_album
from .drawing import (
    beside,
    chosen_slots,
    enlarge,
    heat,
    pixels,
    principal_colours,
    save_moving,
    save_still,
    slot_frames,
    spread,
    stacked,
    tile_side,
    tint,
)
from .probing import first_weights
from .samples import Sample, sample_clips

CHUNK: Final = 16  # clips that are encoded together
COLOURED: Final = 16  # clips whose tokens share one set of principal components
SHOWN: Final = 4
QUERIES: Final = 5
NEIGHBOURS: Final = 4
MASK_DRAWS: Final = 4
ENERGY_DRAWS: Final = 24
FEW: Final = 20
MILLISECONDS: Final = 160


@contextmanager
def looking(module: VideoJEPA) -> Iterator[None]:
    """No gradient and evaluation mode inside; every part's mode as it was after."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, mode in modes:
            part.training = mode


def draw_pictures(module: VideoJEPA, data: VideoDataModule, folder: Path) -> list[Plate]:
    """Draws a model on its held-out videos, or on training videos where none are held out.

    Args and result as in `draw_album`.
    """
    try:
        videos = data.labelled("val")
    except UserError:
        videos = data.labelled("train")
    return draw_album(module, sample_clips(videos), folder)


def draw_album(module: VideoJEPA, sample: Sample | None, folder: Path) -> list[Plate]:
    """Draws the pictures of a model on held-out clips into `folder`, with their `album.json`.

    Args:
        module: the trained model, on any device; modes and generators stay as they are.
        sample: clips; None or a single clip leave out what cannot be drawn.
        folder: `pictures/` of the run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.webp"):  # of an earlier drawing, which nothing would name any more
        old.unlink()
    plates: list[Plate] = []
    if sample is not None:
        # Of a clip of several windows the first one is drawn.
        sample = replace(sample, video=sample.video[:, : module.encoder.frames])
        with looking(module):
            untrained = first_weights(module.encoder, module.seed)
            plates.append(mask_plate(module, sample, folder))
            plates.append(feature_plate(module, untrained, sample, folder))
            if len(sample.video) > 1:
                plates.append(energy_plate(module, sample, folder))
            if len(set(sample.source.tolist())) > 1:
                plates.append(neighbour_plate(module, untrained, sample, folder))
    save_album(folder, plates)
    return plates


def encoded(encoder: VideoEncoder, video: Tensor, device: torch.device) -> Tensor:
    """Tokens of the evaluation view, a few clips at a time: `B T C H W` to `B N D` on the CPU."""
    chunks = (video[at : at + CHUNK].to(device) for at in range(0, len(video), CHUNK))
    return torch.cat([encoder(centre(chunk, encoder.image)).float().cpu() for chunk in chunks])


def view(module: VideoJEPA, video: Tensor) -> Tensor:
    """The frames that the encoder sees: `B T S S 3` uint8."""
    return pixels(centre(video, module.encoder.image))


# Masks


def mask_plate(module: VideoJEPA, sample: Sample, folder: Path) -> Plate:
    """One clip under the mask groups of a few draws: context tinted blue, target orange."""
    slots, height, width = module.encoder.grid
    frames = slot_frames(view(module, sample.video[:1])[0], slots)
    chosen = chosen_slots(slots)
    side = tile_side(frames.shape[1])
    shown = enlarge(frames[chosen], side)
    rows = []
    for number, (draw, group, mask) in enumerate(distinct_masks(module)):
        masked = torch.zeros(slots * height * width)
        masked[mask.target[0]] = 1.0
        over = spread(masked.view(slots, height, width, 1), side, smooth=False)[chosen, ..., 0]
        name = f"masks_{number}.webp"
        save_still(beside(list(tint(shown, over > 0.5))), folder / name)
        share = len(mask.target[0]) / len(masked)
        label = f"draw {draw + 1}, group {group + 1}: {share:.0%} of the tokens are target"
        alt = f"{len(chosen)} frames of a clip from first to last; {label}, shown in orange"
        rows.append((Picture(name, alt, label),))
    caption = (
        "Time runs from left to right, one frame for each time slot of tokens. The encoder sees "
        "what is tinted blue; the predictor has to tell the features of what is covered in orange."
    )
    return Plate("What is hidden and what is predicted", caption, tuple(rows))


def distinct_masks(module: VideoJEPA) -> list[tuple[int, int, MaskGroup]]:
    """Draw, group and masks of a few steps; masks that repeat are left out."""
    found: list[tuple[int, int, MaskGroup]] = []
    for draw in range(MASK_DRAWS):
        groups = module.masks(module.encoder.grid, 1, generator(module.seed, MASK, draw))
        for group, mask in enumerate(groups):
            if not any(torch.equal(mask.target, other.target) for _, _, other in found):
                found.append((draw, group, mask))
    return found[:MASK_DRAWS]


# Features


def feature_plate(
    module: VideoJEPA, untrained: VideoEncoder, sample: Sample, folder: Path
) -> Plate:
    """Clips beside the principal components of their tokens, trained and untrained, moving."""
    video = sample.video[:COLOURED]
    slots, height, width = module.encoder.grid
    maps, held = [], []
    for encoder in (module.encoder, untrained):
        colours, share = principal_colours(encoded(encoder, video, module.device))
        maps.append(colours.view(len(video), slots, height, width, 3))
        held.append(share)
    frames = view(module, video)
    pictures = [
        _feature_picture(frames[clip], [one[clip] for one in maps], folder, clip)
        for clip in range(min(SHOWN, len(video)))
    ]
    caption = (
        "Beside the frames, the first three principal components of the tokens as red, green and "
        f"blue, fitted on {len(video)} clips together: like colours are like features. They hold "
        f"{held[0]:.0%} of the variance of this run's tokens, {held[1]:.0%} of the untrained ones."
    )
    rows = tuple(tuple(pictures[at : at + 2]) for at in range(0, len(pictures), 2))
    return Plate("What the features see", caption, rows)


def _feature_picture(frames: Tensor, maps: Sequence[Tensor], folder: Path, number: int) -> Picture:
    """Frames `T S S 3` and maps `T' H' W' 3` in 0..1 as one moving picture, and a strip of it."""
    slots, side = len(maps[0]), tile_side(frames.shape[1])
    shown = enlarge(frames, side)
    panels = [(spread(one, side, smooth=True) * 255).clamp(0, 255).to(torch.uint8) for one in maps]
    per_slot = len(frames) // slots
    moving = [
        beside([frame, *(panel[min(t // per_slot, slots - 1)] for panel in panels)])
        for t, frame in enumerate(shown)
    ]
    name, still = f"features_{number}.webp", f"features_{number}_still.webp"
    save_moving(moving, folder / name, MILLISECONDS)
    chosen = chosen_slots(slots, 5)
    middle = enlarge(slot_frames(frames, slots)[chosen], side // 2)
    small = [enlarge(panel[chosen], side // 2) for panel in panels]
    save_still(stacked([beside(list(row)) for row in (middle, *small)]), folder / still)
    label = f"clip {number + 1}: frames, this run, untrained encoder"
    alt = f"Three panels, {label}; the features are colours that change in time"
    return Picture(name, alt, label, still)


# Neighbours


def nearest(features: Tensor, source: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` nearest clips by cosine of centred features `N D`: places and cosines `N count`.

    Clips cut from one and the same `source` (`N`) are no neighbours: they would be found by any
    encoder. Fewer come back where there are fewer of others.
    """
    unit = F.normalize(features - features.mean(dim=0), dim=1)
    closeness = unit @ unit.T
    closeness[source[:, None] == source[None, :]] = -2.0
    count = min(count, int((closeness > -2).sum(dim=1).min()))
    values, places = closeness.topk(count, dim=1)
    return places, values


def neighbour_plate(
    module: VideoJEPA, untrained: VideoEncoder, sample: Sample, folder: Path
) -> Plate:
    """A few clips, each with the clips whose mean features are closest."""
    found = []
    for encoder in (module.encoder, untrained):
        features = encoded(encoder, sample.video, module.device).mean(dim=1)
        found.append(nearest(features, sample.source, NEIGHBOURS))
    (places, values), (before, _) = found
    frames = view(module, sample.video)
    rows = []
    for query in torch.linspace(0, len(frames) - 1, min(QUERIES, len(frames))).long().tolist():
        row = [_thumbnail(sample, frames, query, query, 1.0, folder)]
        near = zip(places[query].tolist(), values[query].tolist(), strict=True)
        row += [_thumbnail(sample, frames, query, at, cosine, folder) for at, cosine in near]
        rows.append(tuple(row))
    caption = (
        f"Of {len(frames)} clips, those whose mean features have the highest cosine with "
        "the clip on the left; clips cut from the same film do not count."
        + _agreement(sample, places[:, 0], before[:, 0])
    )
    heads = ("clip", *(f"neighbour {rank + 1}" for rank in range(places.shape[1])))
    return Plate("Which clips lie close", caption, tuple(rows), heads)


def _thumbnail(
    sample: Sample, frames: Tensor, query: int, clip: int, cosine: float, folder: Path
) -> Picture:
    """A small moving clip; its label says what it shares with the query."""
    name, still = f"clip_{clip}.webp", f"clip_{clip}_still.webp"
    side = tile_side(frames.shape[2], 96)
    if not (folder / name).exists():  # a clip can be near to several
        shown = enlarge(frames[clip], side)
        save_moving(list(shown), folder / name, MILLISECONDS)
        save_still(shown[len(shown) // 2], folder / still)
    if clip == query:
        label = sample.described(clip)
        return Picture(name, f"The clip: {label or 'without a label'}", label, still)
    label = "; ".join(filter(None, (sample.compared(clip, query), f"{cosine:.2f}")))
    return Picture(name, f"A neighbour: {label} cosine", label, still)


def _agreement(sample: Sample, trained: Tensor, untrained: Tensor) -> str:
    """How often the nearest clip has the same label, for both encoders."""
    parts = []
    for at, name in enumerate(sample.names):
        truth = sample.labels[:, at]
        known = (truth >= 0) & (truth[trained] >= 0) & (truth[untrained] >= 0)
        if known.sum() >= FEW:  # a share of three clips says nothing
            now, before = ((truth[p] == truth)[known].float().mean() for p in (trained, untrained))
            parts.append(f"{name} {now:.0%} ({before:.0%})")
    if not parts:
        return ""
    return (
        " How often the nearest one has the same label, in brackets for the untrained encoder: "
        f"{', '.join(parts)}."
    )


# Energy


def token_energies(module: VideoJEPA, clip: Tensor, shift: int) -> Tensor:
    """Energy of each token, averaged over mask draws: `B C T H W` to `B N`.

    The target is the clip `shift` places before in the batch, 0 for the true pair, as in
    `VideoJEPA.energies`. NaN where no draw made the token a target.
    """
    s_y = module.target(clip).roll(shift, dims=0)
    total, count = (torch.zeros(s_y.shape[:2], device=clip.device) for _ in range(2))
    for draw in range(ENERGY_DRAWS):
        masks = module.masks(module.encoder.grid, len(clip), generator(module.seed, MASK, draw))
        for mask in (one.to(clip.device) for one in masks):
            s_x = module.encoder(clip, mask.context)
            pair = module.paired(s_x, s_y, mask)
            z = module.inferred(pair, generator(module.seed, LATENT, draw))
            y_hat = module.predict(s_x, mask, z.z)
            energy = distance(module.distance)(y_hat, pair.y).float()  # B M
            total.scatter_add_(1, mask.target, energy)
            count.scatter_add_(1, mask.target, torch.ones_like(energy))
        if count.min() > 0 and draw >= 3:
            break
    return (total / count).cpu()  # 0 / 0 is NaN


def energy_plate(module: VideoJEPA, sample: Sample, folder: Path) -> Plate:
    """Where the energy is: for the true y, and for that of another clip under the same x."""
    video = sample.video[:SHOWN]
    clip = centre(video.to(module.device), module.encoder.image)
    true, shuffled = (token_energies(module, clip, shift) for shift in (0, 1))
    known = torch.cat((true, shuffled)).flatten()
    known = known[~known.isnan()]
    low, high = known.quantile(0.02).item(), known.quantile(0.98).item()
    frames = pixels(clip)
    rows: list[tuple[Picture, ...]] = []
    for number in range(min(2, len(video))):
        pair = []
        for name, energy, shown in (
            ("true pair", true[number], frames[number]),
            ("shuffled pair", shuffled[number], frames[number - 1]),
        ):
            file = f"energy_{number}_{name.split()[0]}.webp"
            save_still(_heated(module, shown, energy, low, high), folder / file)
            label = f"clip {number + 1}, {name}: mean energy {energy.nanmean().item():.3f}"
            pair.append(Picture(file, f"Energy over the frames of y: {label}", label))
        rows += [tuple(pair)] if module.encoder.grid[0] <= 4 else [(one,) for one in pair]
    caption = (
        f"The energy of each token of y given the context x, from dark ({low:.3f} or less) to "
        f"bright ({high:.3f} or more), over the frames of y; time runs from left to right. In a "
        "shuffled pair y is another clip. Tokens that were never a target are not coloured. A "
        "model that has learned is dark where y follows from x and bright where it does not."
    )
    return Plate("Where the energy is", caption, tuple(rows))


def _heated(module: VideoJEPA, frames: Tensor, energy: Tensor, low: float, high: float) -> Tensor:
    """Frames `T S S 3` in grey with the energies `N` of their tokens over them, side by side."""
    slots, height, width = module.encoder.grid
    chosen = chosen_slots(slots)
    side = tile_side(frames.shape[1])
    grey = enlarge(slot_frames(frames, slots)[chosen], side).float().mean(-1, keepdim=True)
    shares = (energy - low) / max(high - low, 1e-9)
    map_ = spread(shares.view(slots, height, width, 1), side, smooth=False)[chosen]
    over = 0.35 * grey + 0.65 * heat(map_[..., 0].nan_to_num())
    shown = torch.where(map_.isnan(), (0.6 * grey + 60).expand_as(over), over)
    return beside(list(shown.round().clamp(0, 255).to(torch.uint8)))
