"""Does the second level see further? Known factors read off both levels at one horizon, and time.

The measure, written down before any setting was tried. On the embedded set with one shape in each
video, the factors of a window are the place of the shape at its middle (sine and cosine of its turn
along x and y, in a world whose sides are joined) and its velocity, six numbers. For each level a
ridge probe is fitted from the true states of the windows of the training videos to these factors:

    level 1   target tokens of the window as its energy compares them, averaged as level 2 pools
    level 2   the state of the window

The level then foretells the window whose middle is 16 frames after that of the last one given:
level 1 rolled out slot by slot over all slots between, level 2 rolled out window by window. The
probe is applied to what was foretold. The error is the squared error of each factor as a share of
its variance, averaged over the six: the mean factor scores 1. Beside it stand the same probe on the
last state that was given (as if nothing changed) and on the true state of that window (what the
probe itself cannot read). Intervals are bootstraps over held-out videos, paired between levels.

The time is that of the prediction itself, from encoded states, for the same seconds of video; with
the encoding of what each level looks at, it is a figure of its own.

Shapes: clips `B C T S S`, tokens of windows `K*B N D`, states `B K D`, factors `B 6`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

import numpy as np
import torch
from torch import Tensor

from ..data.clips import VideoClips
from ..data.datamodule import Split, VideoDataModule
from ..data.scenes import Track, draw_labels, tracks
from ..data.transforms import centre
from ..errors import UserError
from ..models.decoder import Decoder
from ..models.hierarchy import by_clip, pooled_cells, windows
from ..training.rollout import rollout
from ..training.second_level import SecondLevel
from ..training.video_jepa import VideoJEPA
from .intervals import paired_difference
from .measure import Column, Figures, Measure
from .rollouts import past_slots, seen

AHEAD: Final = 16  # frames from the middle of the last window given to that of the one foretold
CHUNK: Final = 64
REPEATS: Final = 7
FACTORS: Final = 6


@dataclass(frozen=True)
class Seen:
    """What is known of the videos of a split.

    Attributes:
        level1: pooled target tokens of each window, `B K C`.
        level2: states of each window, `B K D`.
        told1: pooled tokens that level 1 foretold of the last window, `B C`.
        told2: the state that level 2 foretold of it, `B D`.
        factors: of each window, `B K 6`.
    """

    level1: Tensor
    level2: Tensor
    told1: Tensor
    told2: Tensor
    factors: Tensor


def second_level(module: VideoJEPA) -> tuple[SecondLevel, int, int]:
    """Level 2, the windows ahead that it foretells here, and the slots of level 1's context.

    Raises:
        UserError: the module cannot be asked.
    """
    level, past = module.level2, past_slots(module)
    if not isinstance(level, SecondLevel) or past is None:
        raise UserError(
            "the measure hierarchy needs model.level2 SecondLevel and model.masks PastToFuture"
        )
    frames = module.encoder.frames
    ahead = AHEAD // frames
    if AHEAD % frames or level.given + ahead > level.windows:
        raise UserError(
            f"the measure hierarchy foretells {AHEAD} frames after {level.given} windows of "
            f"{frames}: that fits no clip of {level.windows} windows"
        )
    return level, ahead, past


def window_factors(track: Track, starts: range, frames: int, stride: int) -> Tensor:
    """Place and velocity in the middle of each window that starts at a source frame: `K 6`."""
    rows = []
    for start in starts:
        middle = [start + stride * at for at in (frames // 2 - 1, frames // 2)]
        turns = 2 * math.pi * track.turns[middle]
        spot = np.concatenate((np.sin(turns).mean(0), np.cos(turns).mean(0)))
        rows.append(np.concatenate((spot, track.velocity[middle].mean(0))))
    return torch.from_numpy(np.stack(rows))


@torch.no_grad()
def look(module: VideoJEPA, data: VideoDataModule, split: Split) -> Seen:
    """States of both levels, true and foretold, and the factors, of every video of a split.

    Raises:
        UserError: the data is not the embedded set with one shape.
    """
    level, ahead, past = second_level(module)
    settings = data.synthetic
    if not data.embedded or settings.numbers != ("one",):
        raise UserError("the measure hierarchy needs data.root synthetic with numbers [one]")
    labels = draw_labels(settings, split)
    videos = data.clips(split).evaluation()
    stride, frames = videos.settings.stride, module.encoder.frames
    parts: list[tuple[Tensor, ...]] = []
    for batch in data.loader(videos):
        clip = centre(batch["video"].to(module.device), module.encoder.image)
        parts.append((*_states(module, level, clip, ahead, past), _factors(batch, videos)))
    known = [torch.cat([part[i] for part in parts]).double().cpu() for i in range(4)]
    source = torch.cat([part[4] for part in parts]).tolist()
    start = (settings.frames - 1 - stride * (module.frames - 1)) // 2
    starts = range(start, start + stride * module.frames, stride * frames)
    facts = []
    for number in source:
        (track,) = tracks(settings, labels[number], split, number)
        facts.append(window_factors(track, starts, frames, stride))
    return Seen(known[0], known[1], known[2], known[3], torch.stack(facts))


def _factors(batch: dict[str, Tensor], videos: VideoClips) -> Tensor:
    """The numbers by which the embedded set knows the videos of a batch."""
    return torch.tensor([int(Path(videos.paths[i]).stem) for i in batch["index"].tolist()])


def _states(
    module: VideoJEPA, level: SecondLevel, clip: Tensor, ahead: int, past: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Both levels' states of all windows of `B C T S S`, and of the last one as foretold."""
    tokens = cast(Tensor, module.target(windows(clip, module.encoder.frames)))
    pooled = pooled_cells(module.normalised(tokens), level.token_grid, level.cells)
    states = level.abstract(tokens)
    told2 = level.foretold(states[:, : level.given], None, ahead)[:, -1]
    told1 = foretold_tokens(module, level_one_context(module, level, clip, past), ahead)
    return by_clip(pooled, len(clip)), states, told1, told2


def level_one_context(module: VideoJEPA, level: SecondLevel, clip: Tensor, past: int) -> Tensor:
    """The last slots of the windows given, as level 1 encodes a context: `B W P D`."""
    return seen(module, clip, level.given * module.encoder.grid[0] - past, past)


def foretold_tokens(module: VideoJEPA, context: Tensor, ahead: int) -> Tensor:
    """The last of `ahead` windows that level 1 foretells from `B W P D`, pooled: `B C`."""
    level = cast(SecondLevel, module.level2)
    slots = module.encoder.grid[0]
    rolled = rollout(module.predictor, context, None, ahead * slots)[:, -slots:]
    return pooled_cells(rolled.flatten(1, 2), level.token_grid, level.cells)


def share_of_variance(told: Tensor, truth: Tensor, mean: Tensor) -> Tensor:
    """Squared error of each video, averaged over the factors, the mean factor being 1: `B`."""
    spread = (truth - mean).square().mean(dim=0)
    return (told - truth).square() / spread


def errors(train: Seen, test: Seen, at: int, given: int) -> dict[str, Tensor]:
    """Error of each video and factor, `B 6`, by level and by what the probe was shown."""
    mean = train.factors.flatten(0, 1).mean(dim=0)
    truth, found = test.factors[:, at], {}
    for name, told in (("level1", test.told1), ("level2", test.told2)):
        known, states = getattr(train, name), getattr(test, name)
        probe = Decoder(known.shape[-1], FACTORS).double()
        probe.fit(known.flatten(0, 1), train.factors.flatten(0, 1))
        shown = {"": told, "_still": states[:, given - 1], "_true": states[:, at]}
        for word, what in shown.items():
            found[name + word] = share_of_variance(probe(what), truth, mean)
    return found


def timed(action: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call: the shortest of a few, after one that is not counted."""
    best = math.inf
    for repeat in range(REPEATS + 1):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        started = time.perf_counter()
        action()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - started) if repeat else best
    return best


@torch.no_grad()
def times(module: VideoJEPA, clip: Tensor) -> dict[str, float]:
    """Level 2's time as a share of level 1's for the same seconds of `B C T S S`."""
    level, ahead, past = second_level(module)
    frames = module.encoder.frames
    given = windows(clip[:, :, : level.given * frames], frames)
    context = level_one_context(module, level, clip, past)
    tokens = module.target(given)

    def abstract(tokens: Tensor) -> Tensor:
        pooled = pooled_cells(tokens, level.token_grid, level.cells)
        states: Tensor = level.states(by_clip(pooled, len(clip)))
        return states

    states = abstract(tokens)
    device = clip.device
    one = timed(lambda: foretold_tokens(module, context, ahead), device)
    two = timed(lambda: level.foretold(states, None, ahead), device)
    see_one = timed(lambda: level_one_context(module, level, clip, past), device)
    see_two = timed(lambda: abstract(module.target(given)), device)
    return {"time_share": two / one, "time_share_seeing": (two + see_two) / (one + see_one)}


def figures(module: VideoJEPA, data: VideoDataModule, device: torch.device) -> Figures:
    """Errors of both levels at the horizon with the interval of their difference, and the time."""
    level, ahead, _ = second_level(module)
    train, test = (look(module, data, split) for split in ("train", "val"))
    at = level.given + ahead - 1
    found = errors(train, test, at, level.given)
    row: Figures = {}
    for name, error in found.items():
        row[f"{name}_error"] = float(error.mean())
        row[f"{name}_place"] = float(error[:, :4].mean())
        row[f"{name}_velocity"] = float(error[:, 4:].mean())
    per_video = [found[name].mean(dim=1).tolist() for name in ("level1", "level2")]
    gain = paired_difference(*per_video)
    row |= {"gain": gain.value, "gain_low": gain.low, "gain_high": gain.high}
    clips = next(iter(data.loader(data.clips("val").evaluation())))["video"][:CHUNK]
    return row | times(module, centre(clips.to(device), module.encoder.image))


HIERARCHY = Measure(
    columns=(
        Column(
            "level2_error",
            "error of level 2",
            note=f"Error of the known factors {AHEAD} frames ahead, as a share of their variance.",
            beside=(("level2_still_error", "last state"), ("level2_true_error", "true state")),
        ),
        Column(
            "level1_error",
            "error of level 1, rolled out",
            note="The same probe on level 1, rolled out to the same horizon.",
            beside=(("level1_still_error", "last state"), ("level1_true_error", "true state")),
        ),
        Column("gain", "level 1 minus level 2", digits=3, note="Above 0: level 2 is better."),
        Column("gain_low", "from", digits=3, charted=False),
        Column("gain_high", "to", digits=3, charted=False),
        Column("level2_place", "place, level 2", charted=False),
        Column("level1_place", "place, level 1", charted=False),
        Column("level2_velocity", "velocity, level 2", charted=False),
        Column("level1_velocity", "velocity, level 1", charted=False),
        Column("time_share", "time of level 2 / level 1", digits=3, charted=False),
        Column("time_share_seeing", "with encoding", digits=3, charted=False),
    ),
    figures=figures,
)
