"""A few episodes side by side as a film, with what `explain()` says of each decision.

In the picture the way so far, the plan and the sub-goal; below it the mode and the terms of the
cost as bars, which are pink where a plan was chosen for them and grey where a reaction would be
held. Where states have no places in the picture, the sub-goal is painted in its upper left corner.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image, ImageDraw

from jepa_video.agent.drawn import (
    INK,
    PAPER,
    PLAN,
    SOFT,
    VIA,
    WAYS,
    Pen,
    Replayed,
    beside,
    enlarged,
    font,
    inset,
    planned,
    result,
    through,
    width_of,
    with_goal,
    words,
)
from jepa_video.agent.trials import Trial
from jepa_video.data.encode import write_video
from jepa_video.envs.base import Array

FPS: Final = 10
HOLD: Final = 10  # pictures at the end of the film
ROW: Final = 16  # pixels of a term
EDGE: Final = 4  # pixels beside its words
FIGURES: Final = 50  # pixels of its number
AXIS: Final = (70, 75, 82)


@dataclass(frozen=True)
class Meter:
    """How terms are drawn: the same bar for the same cost, in each episode and at each time.

    Args:
        names: of all terms.
        low: the least of all their values, 0 or less.
        high: the largest, 0 or more.
    """

    names: list[str]
    low: float
    high: float

    @classmethod
    def of(cls, trials: Sequence[Trial]) -> Meter:
        """That of all decisions of some episodes."""
        every = [terms for trial in trials for terms in trial.terms]
        values = [value for terms in every for value in terms.values() if math.isfinite(value)]
        names = list(dict.fromkeys(name for terms in every for name in terms))
        return cls(names, min([0.0, *values]), max([0.0, *values]))

    def told(self, value: float) -> str:
        """A number, with three digits of the largest."""
        size = max(self.high, -self.low)
        digits = 2 - math.floor(math.log10(size)) if size else 0
        return f"{value:,.{min(max(digits, 0), 6)}f}"

    def drawn(self, terms: Mapping[str, float], width: int, plan: bool) -> Array:
        """A line for each name, with bar and number where there is such a term: `N*ROW W 3`."""
        image = Image.new("RGB", (width, ROW * len(self.names)), PAPER)
        pen = ImageDraw.Draw(image)
        longest = max((font().getlength(name) for name in self.names), default=0)
        left = EDGE + min(math.ceil(longest), width // 3) + 2 * EDGE
        long = max(width - FIGURES - 2 * EDGE - left, 0)
        share = long / (self.high - self.low) if self.high > self.low else 0.0
        zero = left + round(-self.low * share)
        for top, name in zip(range(0, image.height, ROW), self.names, strict=True):
            pen.text((EDGE, top), name, fill=SOFT, font=font())
            pen.rectangle((left - 2 * EDGE, top, width, top + ROW), fill=PAPER)  # a long name ends
            pen.line((zero - 1, top + 2, zero - 1, top + ROW - 3), fill=AXIS)
            if (value := terms.get(name)) is None:
                continue
            end = zero + round(value * share) if math.isfinite(value) else zero
            if end != zero:
                bar = min(zero, end), top + 4, max(zero, end) - 1, top + ROW - 5
                pen.rectangle(bar, fill=PLAN if plan else SOFT)
            told = self.told(value)
            place = width - EDGE - font().getlength(told), top
            pen.text(place, told, fill=INK if plan else SOFT, font=font())
        return np.asarray(image)


def film(scene: Replayed) -> Array:
    """Episodes side by side, uint8 `T H W 3`; one that has ended stands still."""
    longest, meter = max(trial.steps for trial in scene.trials), Meter.of(scene.trials)
    pictures = [_moment(scene, meter, time) for time in range(longest + 1)]
    return np.stack(pictures + pictures[-1:] * HOLD)


def write_film(scene: Replayed, path: Path) -> int:
    """Write the film and return how many pictures it has."""
    pictures = film(scene)
    write_video(path, pictures, FPS)
    return len(pictures)


def _moment(scene: Replayed, meter: Meter, time: int) -> Array:
    tiles = [_tile(scene, meter, i, time) for i in range(len(scene.trials))]
    across = -(-len(tiles) // 2) if len(tiles) > 3 else len(tiles)
    blank = np.full_like(tiles[0], PAPER)
    tiles += [blank] * (-len(tiles) % across)
    lines = [beside(tiles[at : at + across]) for at in range(0, len(tiles), across)]
    whole = np.concatenate(lines)
    high, wide = (side // 2 * 2 for side in whole.shape[:2])  # what the codec takes
    even: Array = whole[:high, :wide]
    return even


def _tile(scene: Replayed, meter: Meter, i: int, time: int) -> Array:
    trial = scene.trials[i]
    terms = trial.terms[time] if time < len(trial.terms) else {}
    bars = meter.drawn(terms, width_of(scene), time < trial.steps and planned(trial, time))
    return np.concatenate([_picture(scene, i, time), _caption(scene, meter, trial, time), bars])


def _picture(scene: Replayed, i: int, time: int) -> Array:
    trial = scene.trials[i]
    now = min(time, trial.steps)
    last = min(now, trial.steps - 1)
    plan = trial.imagined[last] if planned(trial, last) else None
    aimed = trial.sub_goals[time] if time < len(trial.sub_goals) else None
    picture = with_goal(scene, i, _shining(scene, i, scene.frames[i][now], plan))
    image = Image.fromarray(enlarged(scene, picture))
    if scene.places:
        pen = Pen(image, scene)
        pen.boxes()
        pen.line(trial.states[: now + 1], WAYS)
        if plan is not None and now < trial.steps:
            pen.line(plan, [PLAN] * len(scene.places))
        pen.goal(trial)
        if aimed is not None:
            pen.sub_goal(aimed)
        return np.asarray(image)
    small = image.width // 4
    if scene.goals is not None:
        inset(image, scene.goals[i], small, (3 * small, 0))
    painted = None if aimed is None else _painted(scene, i, aimed)
    if painted is not None:
        inset(image, painted, small, (0, 0), VIA)
    return np.asarray(image)


def _shining(scene: Replayed, i: int, picture: Array, plan: Array | None) -> Array:
    """Where ways cannot be drawn: the end of the plan, faint and in its colour."""
    end = None if plan is None or scene.places else _painted(scene, i, plan[-1])
    return picture if end is None else through(picture, end, PLAN)


def _painted(scene: Replayed, i: int, state: Array) -> Array | None:
    """The picture of a state in an episode's layout; None where nobody can paint it."""
    paint: Any = getattr(scene.env, "paint", None)
    return None if paint is None else paint(state[None].astype(np.float64), np.array([i]))[0]


def _caption(scene: Replayed, meter: Meter, trial: Trial, time: int) -> Array:
    if time >= trial.steps:
        return result(scene, trial)
    told = f"step {time}"
    told += f"  {trial.modes[time]}" if trial.modes else ""
    terms = trial.terms[time] if trial.terms else {}
    told += f"  cost {meter.told(sum(terms.values()))}" if terms else ""
    return words(told, width_of(scene), SOFT)
