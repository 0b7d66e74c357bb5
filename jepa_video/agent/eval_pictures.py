"""Pictures of an evaluation: a sheet of a few episodes; `eval_film.py` draws them in time.

Nothing is played again: the actions that were taken are, which gives the same frames. Where states
have places in the picture (`x`, `y`), ways and imagined plans are lines; elsewhere time is a grid
of frames, and what is imagined for the end of a plan shines through.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from textwrap import wrap
from typing import Final

import numpy as np
from PIL import Image, ImageDraw

from jepa_video.agent.drawn import (
    GAP,
    GOAL,
    INK,
    PAPER,
    PLAN,
    SOFT,
    VIA,
    WAYS,
    ZONE,
    Box,
    Pen,
    Replayed,
    beside,
    enlarged,
    font,
    inset,
    planned,
    result,
    width_of,
    with_goal,
    words,
)
from jepa_video.agent.figures import Row
from jepa_video.agent.trials import Tasks, replay
from jepa_video.envs.base import Array, BatchEnv

SHOWN: Final = 6
LEFT: Final = 120
LETTERS: Final = 16  # that stand beside each other there
GRID: Final = 3  # frames across and down where ways cannot be drawn

Make = Callable[[int], BatchEnv]


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


def draw_sheet(rows: Sequence[tuple[str, Replayed]], path: Path) -> None:
    """A line of episodes for each row; a column is the same episode."""
    lines = [_sheet_line(name, scene) for name, scene in rows]
    head, foot = _heads(rows[0][1]), _legend([scene for _, scene in rows], lines[0].shape[1])
    sheet = np.concatenate([head, *lines, foot])
    Image.fromarray(sheet).save(path, optimize=True)


def _heads(scene: Replayed) -> Array:
    parts = [words("", LEFT)]
    parts += [words(f"seed {trial.seed}", width_of(scene), SOFT) for trial in scene.trials]
    return beside(parts)


def _legend(scenes: Sequence[Replayed], width: int) -> Array:
    """What the colours are, of those that were drawn."""
    first = scenes[0]
    told = [("from left to right and down: frames", INK)]
    if first.places:
        two = len(first.places) > 1
        told = [("the way, to the dot", WAYS[0])] + [("of the second thing", WAYS[1])] * two
        plan = any(planned(trial, 0) for scene in scenes for trial in scene.trials)
        told += [("the first plan", PLAN)] * plan
    told += [("the goal", GOAL)] * (first.goals is not None)
    told += [("shown on the way", VIA)] * (first.via is not None and bool(first.places))
    told += [("zones", ZONE)] * bool(first.drawn)
    lines = [words("", width)]
    left = float(LEFT + GAP)
    for text, colour in told:
        long = font().getlength(text) + 3 * GAP
        if left + long > width and left > LEFT + GAP:
            lines, left = [*lines, words("", width)], float(LEFT + GAP)
        image = Image.fromarray(lines[-1])
        ImageDraw.Draw(image).text((left, 3), text, fill=colour, font=font())
        lines[-1], left = np.asarray(image), left + long
    return np.concatenate(lines)


def plans(row: Row) -> bool:
    """Whether a decision of a row was planned, and can be drawn."""
    trials = [trial for played in row.played for trial in played.trials]
    return any(planned(trial, time) for trial in trials for time in range(len(trial.imagined)))


def _sheet_line(name: str, scene: Replayed) -> Array:
    parts = []
    for i, trial in enumerate(scene.trials):
        picture = _ways(scene, i) if scene.places else _times(scene, i)
        parts.append(np.concatenate([picture, result(scene, trial)]))
    return beside([_name(name, len(parts[0])), *parts])


def _ways(scene: Replayed, i: int) -> Array:
    """The way of an episode, its goal and its first plan, over the first picture and the last."""
    trial = scene.trials[i]
    ground = np.maximum(scene.frames[i][0], scene.frames[i][-1] // 2)
    image = Image.fromarray(enlarged(scene, with_goal(scene, i, ground)))
    pen = Pen(image, scene)
    pen.boxes()
    if planned(trial, 0):
        pen.line(trial.imagined[0], [PLAN] * len(scene.places))
    pen.line(trial.states, WAYS)
    pen.goal(trial)
    return np.asarray(image)


def _times(scene: Replayed, i: int) -> Array:
    """Frames from first to last, by lines, and the goal where there is one."""
    frames, side = scene.frames[i], width_of(scene)
    count = GRID * GRID - (scene.goals is not None)
    shown = list(frames[np.linspace(0, len(frames) - 1, count).round().astype(int)])
    tile = Image.new("RGB", (side, side), PAPER)
    small = (side - 2 * (GRID - 1)) // GRID
    for place, frame in enumerate(shown):
        part = Image.fromarray(frame).resize((small, small), Image.Resampling.BICUBIC)
        tile.paste(part, ((small + 2) * (place % GRID), (small + 2) * (place // GRID)))
    if scene.goals is not None:
        inset(tile, scene.goals[i], small, (side - small, side - small))
    return np.asarray(tile)


def _name(text: str, height: int) -> Array:
    """The name of a line of the sheet, at its left."""
    image = Image.new("RGB", (LEFT, height), PAPER)
    draw = ImageDraw.Draw(image)
    for number, word in enumerate(wrap(text, LETTERS)):
        draw.text((6, 6 + 17 * number), word, fill=INK, font=font())
    return np.asarray(image)
