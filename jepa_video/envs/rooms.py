"""Rooms: nine rooms and doors at random, in which who is blind to walls does not arrive."""

from __future__ import annotations

from typing import Final

import numpy as np

from jepa_video.envs.base import Array
from jepa_video.envs.point import HIGH, LOW, SIDE, WALL, PointWorld, pieces, routes

_CELLS: Final = 3
_INNER: Final = 2 * _CELLS * (_CELLS - 1)  # pieces of wall between two cells
# Pairs of neighbours: first those along x, then those along y.
_PAIRS: Final = [
    *((c, c + 1) for c in range(_CELLS**2) if c % _CELLS < _CELLS - 1),
    *((c, c + _CELLS) for c in range(_CELLS * (_CELLS - 1))),
]


class Rooms(PointWorld):
    """Three by three rooms; every room can be reached; at least two doors lie between the ends.

    The doors are those of a random spanning tree and one more. The task's numbers: start, goal, two
    walls across x, two across y, and for each of the 12 pieces of wall the middle of its door, or
    -1 where it has none.
    """

    id = "Rooms"
    task_names = (
        *PointWorld.task_names,
        *("wall_x1", "wall_x2", "wall_y1", "wall_y2"),
        *(f"door_{a}_{b}" for a, b in _PAIRS),
    )
    default_budget = 100
    walls, openings, grid = 2 * _INNER, _INNER, (_CELLS, _CELLS)
    half_door = 3.0

    def draw(self, source: np.random.Generator) -> tuple[float, ...]:
        """Walls, doors, and two rooms that are no neighbours by a door."""
        layout = self.layout_source(source)
        lines = layout.integers((20, 40, 20, 40), (25, 45, 25, 45))
        open_ = tree(layout)
        doors = np.full(_INNER, -1.0)
        for k in map(int, np.flatnonzero(open_)):
            low, high = self._span(lines, k)
            doors[k] = layout.uniform(low + 0.5 + self.half_door, high - 0.5 - self.half_door)
        joins = np.where(open_[:, None], _PAIRS, -1)
        while True:
            first, last = source.choice(_CELLS**2, 2, replace=False)
            if hops(joins, int(first), int(last)) > 1:
                break
        start, goal = self._inside(source, lines, first), self._inside(source, lines, last)
        return (*start, *goal, *lines, *doors)

    def lay(self, episode: int) -> None:
        """Two pieces of wall where there is a door, one where there is none."""
        lines, doors = self.task[episode, 4:8], self.task[episode, 8:]
        self.lines[0][episode], self.lines[1][episode] = lines[:2], lines[2:]
        for k, (a, b) in enumerate(_PAIRS):
            across, line = b - a == 1, self._line(lines, k)
            low, high = self._span(lines, k, WALL)
            there = doors[k] >= 0
            half = self.half_door if there else -1.0  # they overlap: no gap is drawn
            parts = np.array(pieces(line, low, high, doors[k] if there else (low + high) / 2, half))
            self.boxes[episode, 2 * k : 2 * k + 2] = parts if across else parts[:, [1, 0, 3, 2]]
            self.doors[episode, k] = (line, doors[k]) if across else (doors[k], line)
            self.joins[episode, k] = (a, b) if there else (-1, -1)

    def _line(self, lines: Array, k: int) -> float:
        a, b = _PAIRS[k]
        return float(lines[a % _CELLS] if b - a == 1 else lines[2 + a // _CELLS])

    def _span(self, lines: Array, k: int, over: float = -WALL) -> tuple[float, float]:
        """From where to where a piece of wall goes; `over`: how far into the walls it ends at."""
        a, b = _PAIRS[k]
        place, ends = (a // _CELLS, lines[2:]) if b - a == 1 else (a % _CELLS, lines[:2])
        marks = (LOW, *ends, HIGH)
        return max(float(marks[place]) - over, LOW), min(float(marks[place + 1]) + over, HIGH)

    def _inside(self, source: np.random.Generator, lines: Array, cell: int) -> tuple[float, ...]:
        point = []
        for place, ends in ((cell % _CELLS, lines[:2]), (cell // _CELLS, lines[2:])):
            low, high = ((LOW, *ends, HIGH)[place + i] for i in (0, 1))
            point.append(float(source.uniform(low + WALL + SIDE, high - WALL - SIDE)))
        return tuple(point)


def tree(source: np.random.Generator) -> Array:
    """Which of the pieces have a door: a random spanning tree (Kruskal) and one more, bool `12`."""
    group, open_, spare = list(range(_CELLS**2)), np.zeros(_INNER, bool), []
    for k in source.permutation(_INNER):
        a, b = (group[cell] for cell in _PAIRS[k])
        open_[k] = a != b
        group = [a if g == b else g for g in group]
        if a == b:
            spare.append(int(k))
    open_[spare[0]] = True
    return open_


def hops(joins: Array, first: int, last: int) -> int:
    """Doors on the way from one cell to another."""
    taken, cell, count = routes(joins, _CELLS**2), first, 0
    while cell != last:
        a, b = joins[taken[cell, last]]
        cell, count = int(b if cell == a else a), count + 1
    return count
