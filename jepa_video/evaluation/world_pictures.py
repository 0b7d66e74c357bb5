"""What a world model foretells, drawn: true frames beside the scenes that it imagines.

A state of the model is read off as a state of the environment, and the environment paints it in the
layout of the episode. Where no environment of ours can, the numbers that are read off are what
there is to see; they are kept for the page in any case.

    foresight/
      paths.json       environment states of a few held-out windows: true, read off, foretold
      album.json       what the pictures show
      window_0.webp    ...

Shapes: states `B T P D`, environment states `T S`, frames uint8 `T H W 3`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..data.episodes import EpisodeSet, Facts
from ..envs.registry import WORLDS, make_batch
from ..errors import UserError
from ..training.foresight import look_ahead, read_errors
from ..training.run import write_whole
from ..training.world_model import WorldModel
from .album import Plate, save_album
from .charts import number
from .films import film

FOLDER: Final = "foresight"
PATHS: Final = "paths.json"
SHOWN: Final = 4
ALIKE: Final = 2.0  # grey levels, mean: a painted frame that differs more is of another scene
TITLE: Final = "True and foretold"
UNDRAWN: Final = "No environment here paints these scenes from numbers; below are the numbers."
PANELS: Final = ("true frames", "read off the true states", "foretold")

Array = npt.NDArray[Any]
Batch = Mapping[str, Tensor]
Paint = Callable[[Array], Array]


@dataclass(frozen=True)
class Window:
    """Environment states of one held-out window, from the first state of the model on.

    Attributes:
        episode, start: where it is in the dataset.
        rank: how its error compares with the others'.
        error: distance of what is read off the last foretold state from the truth.
        known: states that the model is given.
        true: `T S`.
        read: read off the states of the true frames, `T S`.
        foretold: read off the states that are foretold after the known ones, `T-known S`.
    """

    episode: int
    start: int
    rank: str
    error: float
    known: int
    true: list[list[float]]
    read: list[list[float]]
    foretold: list[list[float]]


@torch.no_grad()
def draw_foresight(
    module: WorldModel, batches: Iterable[Batch], episodes: EpisodeSet, folder: Path
) -> None:
    """Draw a few held-out windows, from that of the least error to that of the largest.

    Args:
        module: in evaluation mode.
        batches: held-out windows; nothing is drawn without any, or where they tell no states.
        episodes: where they are from.
        folder: `foresight/` of the run.
    """
    kept = list(batches)
    if not kept or not module.facts.state_size:
        return
    chosen = choose_windows(module, kept)
    windows = [
        window_of(module, _row(kept, at), rank)
        for at, rank in zip(chosen, _ranks(len(chosen)), strict=True)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.webp"):
        old.unlink()
    told = {"names": module.facts.state_names, "windows": [asdict(one) for one in windows]}
    write_whole(folder / PATHS, json.dumps(told) + "\n")
    frames = [frames_of(_row(kept, at), module.encoder.frames) for at in chosen]
    save_album(folder, [_plate(module.facts, episodes, windows, frames, folder)])


def choose_windows(module: WorldModel, batches: Iterable[Batch], count: int = SHOWN) -> list[int]:
    """Places of windows whose error at the last step is spread from the least to the largest."""
    parts = []
    for batch in batches:
        there = _moved(batch, module)
        errors = read_errors(module, look_ahead(module, there), there["state"])
        parts.append(errors[0, :, -1].cpu())
    order = torch.cat(parts).argsort()
    places = torch.linspace(0, len(order) - 1, min(count, len(order))).round().long()
    return [int(at) for at in order[places]]


def window_of(module: WorldModel, batch: Batch, rank: str) -> Window:
    """What is read off the states of a batch of one window, and off what is foretold of it."""
    ahead = look_ahead(module, _moved(batch, module))
    true = batch["state"][0, module.encoder.frames - 1 :]
    read, told = (module.read(part)[0].cpu() for part in (ahead.seen, ahead.told))
    return Window(
        episode=int(batch["episode"][0]),
        start=int(batch["start"][0]),
        rank=rank,
        error=float((told[-1] - true[-1]).norm()),
        known=len(read) - len(told),
        true=true.tolist(),
        read=read.tolist(),
        foretold=told.tolist(),
    )


def frames_of(batch: Batch, first: int) -> Array:
    """The frames `T H W 3` of a batch of one window in which its states end."""
    return np.asarray(batch["video"][0, first - 1 :].permute(0, 2, 3, 1).numpy())


def painter(facts: Facts, seed: int | None) -> Paint | None:
    """What paints states `T S` in the layout of an episode; None where no world of ours can."""
    if facts.env not in WORLDS or seed is None:
        return None
    try:
        env: Any = make_batch(facts.env, 1, **facts.settings)
    except UserError:  # of another version
        return None
    env.reset(seed=seed)
    return lambda states: np.asarray(env.paint(states, np.zeros(len(states), np.int64)))


def _plate(
    facts: Facts, episodes: EpisodeSet, windows: list[Window], frames: list[Array], folder: Path
) -> Plate:
    rows = []
    for at, (window, seen) in enumerate(zip(windows, frames, strict=True)):
        paint = painter(facts, episodes.episode_seed(window.episode))
        true, read, told = (np.array(part) for part in (window.true, window.read, window.foretold))
        if paint is None or not _alike(paint(true), seen):
            return Plate(TITLE, UNDRAWN, ())
        drawn = [seen, paint(read), paint(np.concatenate((read[: window.known], told)))]
        panels = [torch.from_numpy(np.ascontiguousarray(panel)) for panel in drawn]
        label = f"{window.rank}: off by {number(window.error)} at the last step"
        alt = f"Three moving panels of a held-out window: {', '.join(PANELS)}; {label}"
        rows.append((film(panels, window.known, 2, folder, f"window_{at}", label, alt),))
    known, steps = windows[0].known, len(windows[0].foretold)
    given = "state" if known == 1 else f"{known} states"
    caption = (
        f"From left to right (on paper from above): {', '.join(PANELS)}. The model is given the "
        f"first {given} and {steps} actions; what it foretells is framed in orange. What a linear "
        "map reads off a state is painted by the environment, in the layout of the episode; the "
        "middle panel shows what is lost by reading alone. The windows are spread evenly from the "
        "least error to the largest of all that were looked at."
    )
    return Plate(TITLE, caption, tuple(rows))


def _alike(painted: Array, frames: Array) -> bool:
    """Whether the environment paints what was recorded."""
    if painted.shape != frames.shape:
        return False
    return float(np.abs(painted.astype(np.float32) - frames).mean()) < ALIKE


def _ranks(count: int) -> list[str]:
    """Words for windows in the order of their error."""
    inner = [f"error above {at / (count - 1):.0%} of all" for at in range(1, count - 1)]
    return ["least error", *inner, "largest error"][:count]


def _row(batches: list[Batch], place: int) -> Batch:
    """The window at a place over all batches, as a batch of one."""
    for batch in batches:
        if place < len(batch["video"]):
            return {name: part[place : place + 1] for name, part in batch.items()}
        place -= len(batch["video"])
    raise IndexError(place)


def _moved(batch: Batch, module: WorldModel) -> Batch:
    return {name: part.to(module.device) for name, part in batch.items()}
