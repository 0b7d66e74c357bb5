"""Pictures of an evaluation: a sheet of episodes, and a few of them side by side as a film.

Nothing is played again: the actions that were taken are, which gives the same frames. Where states
have places in the picture (`x`, `y`), ways and imagined plans are lines; elsewhere time is a grid
of frames, and what is imagined for the end of a plan shines through.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from textwrap import wrap
from typing import Any, Final

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from jepa_video.agent.figures import Row
from jepa_video.agent.trials import Tasks, Trial, replay
from jepa_video.data.encode import write_video
from jepa_video.envs.base import Array, BatchEnv
from jepa_video.envs.point import NEAR

SIDE: Final = 256  # pixels of an episode, about
SHOWN: Final = 6
FPS: Final = 10
HOLD: Final = 10  # pictures at the end of the film
LINE: Final = 20  # pixels of a line of words
LEFT: Final = 120
LETTERS: Final = 16  # that stand beside each other there
GAP: Final = 6
GRID: Final = 3  # frames across and down where ways cannot be drawn
INK, SOFT, PAPER = (233, 234, 236), (163, 169, 177), (21, 23, 26)
WAYS: Final = ((255, 255, 255), (250, 210, 70))
GOAL, PLAN, FAILED = (76, 199, 154), (255, 90, 220), (255, 138, 128)
VIA, ZONE = (80, 200, 250), (240, 90, 70)

Make = Callable[[int], BatchEnv]
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


def choose_shown(row: Row, tells_success: bool, count: int = SHOWN) -> list[int]:
    """Episodes to look at: failures first, up to a half of them where there are successes.

    Where nothing is a success, from the lowest return to the highest.
    """
    trials = row.played[0].trials
    count = min(count, len(trials))
    if not tells_success:
        order = np.argsort([trial.total for trial in trials], kind="stable")
        return [int(order[i]) for i in np.linspace(0, len(order) - 1, count).round().astype(int)]
    failed = [i for i, trial in enumerate(trials) if not trial.at_end]
    solved = [i for i, trial in enumerate(trials) if trial.at_end]
    first = max(count // 2, count - len(solved))
    chosen = failed[:first]
    return chosen + solved[: count - len(chosen)]


def replayed(
    make: Make,
    tasks: Tasks,
    row: Row,
    which: Sequence[int],
    tells: bool,
    boxes: Sequence[Box] = (),
) -> Replayed:
    """Take the actions of some episodes of a row again."""
    env = make(len(which))
    trials = [row.played[0].trials[i] for i in which]
    chosen = tasks.chosen(which)
    frames, first = replay(env, replace(chosen, via=None), trials)
    return Replayed(env, trials, frames, first.get("goal"), tells, chosen.via, boxes)


# The sheet


def draw_sheet(rows: Sequence[tuple[str, Replayed]], path: Path) -> None:
    """A line of episodes for each row; a column is the same episode."""
    lines = [_sheet_line(name, scene) for name, scene in rows]
    head, foot = _heads(rows[0][1]), _legend([scene for _, scene in rows], lines[0].shape[1])
    sheet = np.concatenate([head, *lines, foot])
    Image.fromarray(sheet).save(path, optimize=True)


def _heads(scene: Replayed) -> Array:
    parts = [_words("", LEFT)]
    parts += [_words(f"seed {trial.seed}", _width(scene), SOFT) for trial in scene.trials]
    return _beside(parts)


def _legend(scenes: Sequence[Replayed], width: int) -> Array:
    """What the colours are, of those that were drawn."""
    first = scenes[0]
    told = [("from left to right and down: frames", INK)]
    if first.places:
        two = len(first.places) > 1
        told = [("the way, to the dot", WAYS[0])] + [("of the second thing", WAYS[1])] * two
        planned = any(_planned(trial, 0) for scene in scenes for trial in scene.trials)
        told += [("the first plan", PLAN)] * planned
    told += [("the goal", GOAL)] * (first.goals is not None)
    told += [("shown on the way", VIA)] * (first.via is not None and bool(first.places))
    told += [("zones", ZONE)] * bool(first.drawn)
    lines = [_words("", width)]
    left = float(LEFT + GAP)
    for text, colour in told:
        long = _font().getlength(text) + 3 * GAP
        if left + long > width and left > LEFT + GAP:
            lines, left = [*lines, _words("", width)], float(LEFT + GAP)
        image = Image.fromarray(lines[-1])
        ImageDraw.Draw(image).text((left, 3), text, fill=colour, font=_font())
        lines[-1], left = np.asarray(image), left + long
    return np.concatenate(lines)


def plans(row: Row) -> bool:
    """Whether a decision of a row was planned, and can be drawn."""
    trials = [trial for played in row.played for trial in played.trials]
    return any(_planned(trial, time) for trial in trials for time in range(len(trial.imagined)))


def _planned(trial: Trial, time: int) -> bool:
    """Whether a decision was planned: a reaction that is held is no plan."""
    return bool(trial.imagined) and trial.modes[time] == "mode2"


def _sheet_line(name: str, scene: Replayed) -> Array:
    parts = []
    for i, trial in enumerate(scene.trials):
        picture = _ways(scene, i) if scene.places else _times(scene, i)
        parts.append(np.concatenate([picture, _result(scene, trial)]))
    return _beside([_name(name, len(parts[0])), *parts])


def _ways(scene: Replayed, i: int) -> Array:
    """The way of an episode, its goal and its first plan, over the first picture and the last."""
    trial = scene.trials[i]
    ground = np.maximum(scene.frames[i][0], scene.frames[i][-1] // 2)
    image = Image.fromarray(_enlarged(scene, _with_goal(scene, i, ground)))
    pen = _Pen(image, scene)
    pen.boxes()
    if _planned(trial, 0):
        pen.line(trial.imagined[0], [PLAN] * len(scene.places))
    pen.line(trial.states, WAYS)
    pen.goal(trial)
    return np.asarray(image)


def _times(scene: Replayed, i: int) -> Array:
    """Frames from first to last, by lines, and the goal where there is one."""
    frames, side = scene.frames[i], _width(scene)
    count = GRID * GRID - (scene.goals is not None)
    shown = list(frames[np.linspace(0, len(frames) - 1, count).round().astype(int)])
    tile = Image.new("RGB", (side, side), PAPER)
    small = (side - 2 * (GRID - 1)) // GRID
    for place, frame in enumerate(shown):
        part = Image.fromarray(frame).resize((small, small), Image.Resampling.BICUBIC)
        tile.paste(part, ((small + 2) * (place % GRID), (small + 2) * (place // GRID)))
    if scene.goals is not None:
        _inset(tile, scene.goals[i], small, (side - small, side - small))
    return np.asarray(tile)


def _result(scene: Replayed, trial: Trial) -> Array:
    told = f"return {trial.total:.4g}"
    if not scene.tells_success:
        return _words(told, _width(scene))
    if trial.at_end:
        return _words(f"solved in {trial.reached} steps", _width(scene), GOAL)
    if trial.success:
        return _words(f"solved in {trial.reached}, not at the end", _width(scene), FAILED)
    return _words(f"not solved in {trial.steps} steps", _width(scene), FAILED)


# The film


def film(scene: Replayed) -> Array:
    """Episodes side by side, uint8 `T H W 3`; one that has ended stands still."""
    longest = max(trial.steps for trial in scene.trials)
    pictures = [_moment(scene, time) for time in range(longest + 1)]
    return np.stack(pictures + pictures[-1:] * HOLD)


def write_film(scene: Replayed, path: Path) -> int:
    """Write the film and return how many pictures it has."""
    pictures = film(scene)
    write_video(path, pictures, FPS)
    return len(pictures)


def _moment(scene: Replayed, time: int) -> Array:
    tiles = [_tile(scene, i, time) for i in range(len(scene.trials))]
    across = -(-len(tiles) // 2) if len(tiles) > 3 else len(tiles)
    blank = np.full_like(tiles[0], PAPER)
    tiles += [blank] * (-len(tiles) % across)
    lines = [_beside(tiles[at : at + across]) for at in range(0, len(tiles), across)]
    whole = np.concatenate(lines)
    high, wide = (side // 2 * 2 for side in whole.shape[:2])  # what the codec takes
    even: Array = whole[:high, :wide]
    return even


def _tile(scene: Replayed, i: int, time: int) -> Array:
    trial = scene.trials[i]
    now = min(time, trial.steps)
    picture = scene.frames[i][now]
    last = min(now, trial.steps - 1)
    plan = trial.imagined[last] if _planned(trial, last) else None
    picture = _with_goal(scene, i, _shining(scene, i, picture, plan))
    image = Image.fromarray(_enlarged(scene, picture))
    if scene.places:
        pen = _Pen(image, scene)
        pen.boxes()
        pen.line(trial.states[: now + 1], WAYS)
        if plan is not None and now < trial.steps:
            pen.line(plan, [PLAN] * len(scene.places))
        pen.goal(trial)
    elif scene.goals is not None:
        _inset(image, scene.goals[i], image.width // 4, (3 * image.width // 4, 0))
    return np.concatenate([np.asarray(image), _caption(scene, trial, time)])


def _shining(scene: Replayed, i: int, picture: Array, plan: Array | None) -> Array:
    """Where ways cannot be drawn: the end of the plan, faint and in its colour."""
    paint: Any = getattr(scene.env, "paint", None)
    if plan is None or scene.places or paint is None:
        return picture
    return _through(picture, paint(plan[-1:].astype(np.float64), np.array([i]))[0], PLAN)


def _with_goal(scene: Replayed, i: int, picture: Array) -> Array:
    """What of sub-goals' pictures is not in the goal's; and the goal's, where a ring cannot say it.

    That is where several things have places; all of them are faint.
    """
    if scene.goals is None:
        return picture
    if scene.via is not None:
        new = (scene.via[i].astype(int) - scene.goals[i]).max(axis=-1, keepdims=True) > 0
        picture = _through(picture, (scene.via[i] * new).max(axis=0), VIA)
    return picture if len(scene.places) < 2 else _through(picture, scene.goals[i], GOAL)


def _through(picture: Array, other: Array, colour: tuple[int, int, int]) -> Array:
    """A picture with another one shining through in a colour."""
    faint: Array = other.max(axis=-1, keepdims=True) / 255.0 * np.array(colour) * 0.55
    return np.asarray(np.maximum(picture, faint.astype(np.uint8)))


def _caption(scene: Replayed, trial: Trial, time: int) -> Array:
    if time >= trial.steps:
        return _result(scene, trial)
    mode = f"  {trial.modes[time]}" if trial.modes else ""
    return _words(f"step {time}{mode}", _width(scene), SOFT)


def _inset(image: Image.Image, goal: Array, side: int, place: tuple[int, int]) -> None:
    """The goal's picture in a frame of its colour."""
    small = Image.fromarray(goal).resize((side - 4, side - 4), Image.Resampling.BICUBIC)
    frame = Image.new("RGB", (side, side), GOAL)
    frame.paste(small, (2, 2))
    image.paste(frame, place)


# Parts


class _Pen:
    """Draws states into an enlarged picture."""

    def __init__(self, image: Image.Image, scene: Replayed) -> None:
        self.draw, self.scene = ImageDraw.Draw(image), scene

    def line(self, states: Array, colours: Sequence[tuple[int, int, int]]) -> None:
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

    def boxes(self) -> None:
        """Zones, where they are of the place of the first thing."""
        for low, high in self.scene.drawn:
            (x0, y0), (x1, y1) = self._at(np.array((low[:2], high[:2])))
            self.draw.rectangle((x0, y0, x1, y1), outline=ZONE, width=2)

    def _at(self, points: Array) -> Array:
        """Pixels of the enlarged picture; a pixel's middle is its own place."""
        return np.asarray((points + 0.5) * self.scene.scale)


def _enlarged(scene: Replayed, picture: Array) -> Array:
    large: Array = picture.repeat(scene.scale, axis=0).repeat(scene.scale, axis=1)
    return large


def _width(scene: Replayed) -> int:
    return int(scene.frames[0].shape[1]) * scene.scale


@cache
def _font() -> Any:
    return ImageFont.load_default(12)


def _words(text: str, width: int, colour: tuple[int, int, int] = INK) -> Array:
    image = Image.new("RGB", (width, LINE), PAPER)
    ImageDraw.Draw(image).text((4, 3), text, fill=colour, font=_font())
    return np.asarray(image)


def _name(text: str, height: int) -> Array:
    """The name of a line of the sheet, at its left."""
    image = Image.new("RGB", (LEFT, height), PAPER)
    draw = ImageDraw.Draw(image)
    for number, word in enumerate(wrap(text, LETTERS)):
        draw.text((6, 6 + 17 * number), word, fill=INK, font=_font())
    return np.asarray(image)


def _beside(parts: Sequence[Array]) -> Array:
    """Pictures of one height side by side, with a gap below and between."""
    padded = [np.pad(part, ((0, GAP), (0, GAP), (0, 0))) for part in parts]
    for part, whole in zip(parts, padded, strict=True):
        whole[part.shape[0] :] = whole[:, part.shape[1] :] = PAPER
    return np.concatenate(padded, axis=1)
