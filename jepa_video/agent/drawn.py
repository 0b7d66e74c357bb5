"""What pictures of an evaluation are drawn with: colours, words, and a pen for states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from jepa_video.agent.trials import Trial
from jepa_video.envs.base import Array, BatchEnv
from jepa_video.envs.point import NEAR

SIDE: Final = 256  # pixels of an episode, about
LINE: Final = 20  # pixels of a line of words
GAP: Final = 6
INK, SOFT, PAPER = (233, 234, 236), (163, 169, 177), (21, 23, 26)
WAYS: Final = ((255, 255, 255), (250, 210, 70))
GOAL, PLAN, FAILED = (76, 199, 154), (255, 90, 220), (255, 138, 128)
VIA, ZONE = (80, 200, 250), (240, 90, 70)

Colour = tuple[int, int, int]
Box = tuple[Sequence[float], Sequence[float]]


@dataclass(frozen=True)
class Replayed:
    """Episodes of one row, ready to be drawn.

    Args:
        env: in the layouts of the episodes, one after the other.
        trials: what was done in them.
        frames: uint8 `T+1 H W 3` of each.
        goals: pictures of the goals `N H W 3`, or None.
        tells_success: whether success means anything.
        via: pictures of places that were shown on the way, `N G H W 3`, or None.
        boxes: of the environment's state, least and largest of its first numbers: zones.
    """

    env: BatchEnv
    trials: list[Trial]
    frames: list[Array]
    goals: Array | None
    tells_success: bool
    via: Array | None = None
    boxes: Sequence[Box] = ()

    @property
    def scale(self) -> int:
        """How often a pixel is repeated."""
        return max(1, SIDE // int(self.frames[0].shape[1]))

    @property
    def places(self) -> list[tuple[int, int]]:
        """Which numbers of a state are x and y of the same thing."""
        names = self.env.state_names
        return [
            (i, names.index(f"{name[:-1]}y"))
            for i, name in enumerate(names)
            if name.endswith("x") and f"{name[:-1]}y" in names
        ]

    @property
    def drawn(self) -> list[Box]:
        """The zones that have a place in the picture."""
        if not self.places or self.places[0] != (0, 1):
            return []
        return [box for box in self.boxes if len(box[0]) > 1]


def planned(trial: Trial, time: int) -> bool:
    """Whether a decision was planned: a reaction that is held is no plan."""
    return bool(trial.imagined) and trial.modes[time] == "mode2"


def with_goal(scene: Replayed, i: int, picture: Array) -> Array:
    """What of sub-goals' pictures is not in the goal's; and the goal's, where a ring cannot say it.

    That is where several things have places; all of them are faint.
    """
    if scene.goals is None:
        return picture
    if scene.via is not None:
        new = (scene.via[i].astype(int) - scene.goals[i]).max(axis=-1, keepdims=True) > 0
        picture = through(picture, (scene.via[i] * new).max(axis=0), VIA)
    return picture if len(scene.places) < 2 else through(picture, scene.goals[i], GOAL)


def through(picture: Array, other: Array, colour: Colour) -> Array:
    """A picture with another one shining through in a colour."""
    faint: Array = other.max(axis=-1, keepdims=True) / 255.0 * np.array(colour) * 0.55
    return np.asarray(np.maximum(picture, faint.astype(np.uint8)))


def inset(
    image: Image.Image, other: Array, side: int, place: tuple[int, int], colour: Colour = GOAL
) -> None:
    """Another picture, such as the goal's, in a frame of its colour."""
    small = Image.fromarray(other).resize((side - 4, side - 4), Image.Resampling.BICUBIC)
    frame = Image.new("RGB", (side, side), colour)
    frame.paste(small, (2, 2))
    image.paste(frame, place)


def result(scene: Replayed, trial: Trial) -> Array:
    """How an episode ended, as a line."""
    told = f"return {trial.total:.4g}"
    if not scene.tells_success:
        return words(told, width_of(scene))
    if trial.at_end:
        return words(f"solved in {trial.reached} steps", width_of(scene), GOAL)
    if trial.success:
        return words(f"solved in {trial.reached}, not at the end", width_of(scene), FAILED)
    return words(f"not solved in {trial.steps} steps", width_of(scene), FAILED)


class Pen:
    """Draws states into an enlarged picture."""

    def __init__(self, image: Image.Image, scene: Replayed) -> None:
        self.draw, self.scene = ImageDraw.Draw(image), scene

    def line(self, states: Array, colours: Sequence[Colour]) -> None:
        """The way of each thing through `T S`; a dot where it ends."""
        for place, colour in zip(self.scene.places, colours, strict=False):
            points = [tuple(point) for point in self._at(states[:, place])]
            if len(points) > 1:
                self.draw.line(points, fill=colour, width=2, joint="curve")
            x, y = points[-1]
            self.draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=colour)

    def goal(self, trial: Trial) -> None:
        """A ring round the goal, as near as counts."""
        if trial.goal is None or len(self.scene.places) > 1:
            return
        x, y = self._at(trial.goal[None, self.scene.places[0]])[0]
        reach = NEAR * self.scene.scale
        self.draw.ellipse((x - reach, y - reach, x + reach, y + reach), outline=GOAL, width=2)

    def sub_goal(self, state: Array) -> None:
        """A diamond where each thing is to be next."""
        for place in self.scene.places:
            x, y = self._at(state[None, place])[0]
            corners = [(x - 7, y), (x, y - 7), (x + 7, y), (x, y + 7)]
            self.draw.polygon(corners, outline=VIA, width=2)

    def boxes(self) -> None:
        """Zones, where they are of the place of the first thing."""
        for low, high in self.scene.drawn:
            (x0, y0), (x1, y1) = self._at(np.array((low[:2], high[:2])))
            self.draw.rectangle((x0, y0, x1, y1), outline=ZONE, width=2)

    def _at(self, points: Array) -> Array:
        """Pixels of the enlarged picture; a pixel's middle is its own place."""
        return np.asarray((points + 0.5) * self.scene.scale)


def enlarged(scene: Replayed, picture: Array) -> Array:
    """With each pixel repeated."""
    large: Array = picture.repeat(scene.scale, axis=0).repeat(scene.scale, axis=1)
    return large


def width_of(scene: Replayed) -> int:
    """Of an enlarged picture."""
    return int(scene.frames[0].shape[1]) * scene.scale


@cache
def font() -> Any:
    """Of all words."""
    return ImageFont.load_default(12)


def words(text: str, width: int, colour: Colour = INK) -> Array:
    """A line of words, `LINE` high."""
    image = Image.new("RGB", (width, LINE), PAPER)
    ImageDraw.Draw(image).text((4, 3), text, fill=colour, font=font())
    return np.asarray(image)


def beside(parts: Sequence[Array]) -> Array:
    """Pictures of one height side by side, with a gap below and between."""
    padded = [np.pad(part, ((0, GAP), (0, GAP), (0, 0))) for part in parts]
    for part, whole in zip(parts, padded, strict=True):
        whole[part.shape[0] :] = whole[:, part.shape[1] :] = PAPER
    return np.concatenate(padded, axis=1)
