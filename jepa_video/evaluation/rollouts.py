"""How far a model sees: prediction against horizon, teacher-forced and rolled out.

A state is the token slot that the target encoder gives, as the energy compares it. Teacher-forced
means that each slot is told from the true slots before it; rolled out, that each is told from what
was told before. What they have to beat: that nothing changes any more, and the mean state.

Shapes: clips `B C T S S` of `L` time slots of `P` tokens, states `B L P D`, curves `B L'`, one
value for each of the `L'` slots after the context.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from ..data.clips import VideoClips
from ..data.datamodule import VideoDataModule
from ..data.masks import PastToFuture
from ..data.transforms import centre
from ..energies.distances import distance
from ..errors import UserError
from ..randomness import LATENT, generator
from ..training.rollout import foresee, rollout
from ..training.run import write_whole
from ..training.video_jepa import VideoJEPA
from .intervals import paired_difference
from .samples import Sample, sample_clips

FOLDER: Final = "rollouts"
FIGURES: Final = "figures.json"
CLIPS: Final = 64
CHUNK: Final = 16
WINDOWS: Final = 3  # the most clip lengths that are looked ahead
KINDS: Final = ("rolled out", "teacher-forced", "in parallel", "last frame", "mean")


@dataclass(frozen=True)
class Foresight:
    """States of held-out clips after their context, true and as they were told.

    Attributes:
        context: true states of the slots that were seen, `B W P D`.
        truth: true states after them, `B L' P D`.
        told: by kind of prediction, `B L' P D`; in parallel only as far as the grid goes.
        frames: frames of one slot.
    """

    context: Tensor
    truth: Tensor
    told: dict[str, Tensor]
    frames: int


@dataclass(frozen=True)
class Horizon:
    """Curves against the horizon, means over the clips.

    Attributes:
        frames: how many frames ahead each point is.
        error: squared error of the states by kind, as a share of that of the mean state.
        energy: `D` of the module by kind.
        compounds: energy rolled out minus teacher-forced at the last horizon, with its 95 %
            interval over clips.
        clips: how many.
    """

    frames: list[int]
    error: dict[str, list[float]]
    energy: dict[str, list[float]]
    compounds: tuple[float, float, float]
    clips: int


def past_slots(module: VideoJEPA) -> int | None:
    """Slots of the context where the module predicts the future from the whole past, else None."""
    masks = module.masks
    if not isinstance(masks, PastToFuture) or masks.hide or module.latent.per == "token":
        return None
    slots, height, width = module.encoder.grid
    (group,) = masks(module.encoder.grid, 1, torch.Generator())
    return group.context.shape[1] // (height * width)


def long_clips(data: VideoDataModule, module: VideoJEPA, clips: int = CLIPS) -> Sample | None:
    """Held-out clips longer than the encoder's, as long as the videos are, up to a few times."""
    try:
        videos = data.labelled("val")
    except UserError:
        videos = data.labelled("train")
    return sample_clips(lengthened(videos, module), clips)


def lengthened(videos: VideoClips, module: VideoJEPA) -> VideoClips:
    """The videos as clips of whole slots, up to `WINDOWS` times the frames of the encoder."""
    slot = module.encoder.frames // module.encoder.grid[0]
    longer = videos.lengthened(WINDOWS * module.encoder.frames)
    frames = longer.settings.frames // slot * slot
    return videos.lengthened(max(frames, module.encoder.frames))


@torch.no_grad()
def foresight(module: VideoJEPA, video: Tensor) -> Foresight:
    """True and foretold states of `B T C H W` uint8, a few clips at a time, on the CPU.

    Raises:
        UserError: the module does not predict the future, or the clips hold none.
    """
    past, slots = past_slots(module), module.encoder.grid[0]
    slot = module.encoder.frames // slots
    if past is None:
        raise UserError("rollouts need a module whose masks are PastToFuture with hide 0")
    if video.shape[1] < module.encoder.frames:
        raise UserError(f"rollouts need clips of {module.encoder.frames} frames or more")
    video = video[:, : video.shape[1] // slot * slot]
    parts = []
    for at in range(0, len(video), CHUNK):
        chunk = video[at : at + CHUNK].to(module.device)
        parts.append(_foresight(module, centre(chunk, module.encoder.image), past))
    context, truth = torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])
    told = {kind: torch.cat([part[2][kind] for part in parts]) for kind in parts[0][2]}
    told["mean"] = truth.mean(dim=0, keepdim=True).expand_as(truth)
    return Foresight(context, truth, told, slot)


def _foresight(
    module: VideoJEPA, clip: Tensor, past: int
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Context, truth and predictions of one chunk `B C T S S`."""
    slots, height, width = module.encoder.grid
    slot, tokens = module.encoder.frames // slots, height * width
    last = clip.shape[2] // slot
    truth, forced = [], []
    whole = module.target(clip[:, :, : slots * slot])
    context = by_slot(module.normalised(whole), tokens)[:, :past]
    for at in range(past, last):
        start = min(at - past, last - slots)  # the slot stands where training predicts it first
        s_y = module.target(clip[:, :, start * slot : (start + slots) * slot])
        y = by_slot(module.normalised(s_y[:, past * tokens :]), tokens)
        truth.append(y[:, at - start - past])
        states = seen(module, clip, at - past, past)
        forced.append(foresee(module.predictor, states, _sampled_z(module, states))[:, 0])
    first = seen(module, clip, 0, past)
    z = _sampled_z(module, first)
    told = {
        "rolled out": rollout(module.predictor, first, z, last - past),
        "teacher-forced": torch.stack(forced, dim=1),
        "in parallel": foresee(module.predictor, first, z, slots - past),
        "last frame": context[:, -1:].expand(-1, last - past, -1, -1),
    }
    on_cpu = {kind: states.float().cpu() for kind, states in told.items()}
    return context.float().cpu(), torch.stack(truth, dim=1).float().cpu(), on_cpu


def seen(module: VideoJEPA, clip: Tensor, start: int, slots: int) -> Tensor:
    """States of `slots` slots from `start` on, encoded as a context: `B slots P D`.

    The encoder sees them at the start of an otherwise empty clip: nothing of what follows.
    """
    grid, frames = module.encoder.grid, module.encoder.frames
    slot, tokens = frames // grid[0], grid[1] * grid[2]
    part = clip[:, :, start * slot : (start + slots) * slot]
    padded = torch.nn.functional.pad(part, (0, 0, 0, 0, 0, frames - part.shape[2]))
    keep = torch.arange(slots * tokens, device=clip.device).expand(len(clip), -1)
    return by_slot(module.encoder(padded, keep), tokens)


def by_slot(states: Tensor, tokens: int) -> Tensor:
    """Tokens `B N D` sorted by time slot: `B T P D`."""
    return states.reshape(len(states), -1, tokens, states.shape[-1])


def _sampled_z(module: VideoJEPA, states: Tensor) -> Tensor | None:
    """One z from the prior, which knows nothing of the future: `B L Z`, or None."""
    drawn = module.latent.sample(states.flatten(1, 2), 1, generator(module.seed, LATENT, 0))
    return None if drawn is None else drawn[0]


def horizon(module: VideoJEPA, found: Foresight) -> Horizon:
    """Curves of the states that were foretold."""
    d: Callable[[Tensor, Tensor], Tensor] = distance(module.distance)
    spread = (found.told["mean"] - found.truth).square().mean(dim=(0, 2, 3))  # L'
    energy, error = {}, {}
    curves: dict[str, Tensor] = {}
    for kind in KINDS:
        told = found.told[kind]
        truth = found.truth[:, : told.shape[1]]
        curves[kind] = d(told, truth).mean(dim=2)  # B L'
        energy[kind] = curves[kind].mean(dim=0).tolist()
        squares = (told - truth).square().mean(dim=(0, 2, 3))
        error[kind] = (squares / spread[: len(squares)].clamp(min=1e-12)).tolist()
    difference = paired_difference(
        curves["rolled out"][:, -1].tolist(), curves["teacher-forced"][:, -1].tolist()
    )
    ahead = [(step + 1) * found.frames for step in range(found.truth.shape[1])]
    compounds = (difference.value, difference.low, difference.high)
    return Horizon(ahead, error, energy, compounds, len(found.truth))


def in_words(curves: Horizon) -> tuple[str, str, str]:
    """Kind, word and sentences: whether errors compound, and how far the model sees."""
    rolled, forced = (curves.error[kind] for kind in ("rolled out", "teacher-forced"))
    last, (_, low, _) = curves.frames[-1], curves.compounds
    told = (
        f"{last} frames ahead the rolled-out states are off by {rolled[-1]:.2f} of what the mean "
        f"state is off by, and {forced[-1]:.2f} where each step starts from the truth."
    )
    if len(curves.frames) == 1:
        return ("plain", "One step.", "The clips hold one step of the future: nothing can add up.")
    compounds = low > 0
    reached = _reach(curves)
    kind = "good" if not compounds else "warn"
    word = "Errors compound." if compounds else "No sign that errors compound."
    return (kind, word, f"{told} {reached}")


def _reach(curves: Horizon) -> str:
    """Up to which horizon rolling out beats the last frame and the mean."""
    parts = []
    for rival, name in (("last frame", "copying the last frame"), ("mean", "the mean state")):
        better = [
            a < b for a, b in zip(curves.error["rolled out"], curves.error[rival], strict=True)
        ]
        if all(better):
            parts.append(f"better than {name} at every horizon")
        elif better[0]:
            parts.append(
                f"better than {name} up to {curves.frames[better.index(False) - 1]} frames"
            )
        else:
            parts.append(f"no better than {name} from the first step on")
    return f"Rolled out it is {parts[0]}, and {parts[1]}."


def save_horizon(curves: Horizon, folder: Path) -> None:
    """Write the curves into `folder` of a run."""
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / FIGURES, json.dumps(asdict(curves), indent=1) + "\n")


def load_horizon(folder: Path) -> Horizon:
    """The curves of a run.

    Raises:
        OSError: there are none.
        ValueError: the file is damaged.
    """
    stored = json.loads((folder / FIGURES).read_text(encoding="utf-8"))
    try:
        low = tuple(float(value) for value in stored.pop("compounds"))
        return Horizon(compounds=(low[0], low[1], low[2]), **stored)
    except (TypeError, KeyError, AttributeError, IndexError) as error:
        raise ValueError(f"{folder / FIGURES} holds no curves: {error}") from None
