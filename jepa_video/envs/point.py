"""PointWorld: a dot that walks among walls with doors; the base of TwoRooms, Rooms and Stochastic.

The field is 65 x 65 pixels with border lines at 4 and 60, as in EB-JEPA's Two Rooms; the picture
shows the pixels 0 to 63, all that there is to see. Walls are closed boxes 3 pixels thick, the dot
is a point that is drawn wide.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Final, Literal

import numpy as np

from jepa_video.envs import paint
from jepa_video.envs.base import Array
from jepa_video.envs.geometry import first_hit, free
from jepa_video.envs.unseen import near
from jepa_video.envs.world import World, clip_norm
from jepa_video.errors import UserError

LOW, HIGH = 4.0, 60.0  # the border lines
REACH: Final = 2.45  # pixels, the longest step
NEAR: Final = 4.5  # pixels from the goal that count as there
DOT: Final = 1.3  # pixels, standard deviation of the drawn dot
DRAWN: Final = 5.0  # pixels from its middle within which all of the dot is
SIDE: Final = 2.6  # pixels, clearance of starts and goals from walls: twice that
WALL: Final = 1.0  # pixels on both sides of a wall's middle line
WALLS, DOTS = (40, 90, 200), (255, 220, 60)
_BORDER: Final = ((-9, -9, LOW, 99), (HIGH, -9, 99, 99), (-9, -9, 99, LOW), (-9, HIGH, 99, 99))
_LAYOUT: Final = 11  # stream of a scene's layout
_EDGE: Final = 1e-9  # a door's own edge belongs to the door

Collision = Literal["stay", "bounce"]


class PointWorld(World):
    """A dot, its goal, boxes in its way, and doors between cells.

    Args:
        batch, budget, stack, repeat: see `World`.
        collision: `stay`, as EB-JEPA's training data: a step that would hit is not taken.
            `bounce`, as its environment: the dot is put where it hits, plus normal noise of 0.5
            pixels whose part across the face points away from it, at least 0.3 pixels off.
        view: pixels along x and along y from the dot to the end of what is seen; the rest has the
            colour of `unseen.py`. The picture of the goal shows as much around the goal: what would
            be seen from there. None: all is seen.
        scenes: how many layouts there are, so that several episodes share one, and a goal can be
            what another episode saw there; None: every episode has its own.
        longest: pixels, the longest step: a shorter one makes of the same ways far ones.

    Raises:
        UserError: another collision, no scene, no step, or a view in which the dot's last place may
            be missing: what is remembered of it would stay.

    Subclasses set for the episodes that begin: `boxes` `B K 4`; `doors` `B M 2`, their middles;
    `joins` `B M 2`, the cells on both sides of each (-1: no door); and `lines`, the middle lines of
    the walls across x and across y, `B n` each. Cells are counted along x first.
    """

    state_names: tuple[str, ...] = ("x", "y")
    action_norm = 1.0
    task_names: tuple[str, ...] = ("start_x", "start_y", "goal_x", "goal_y")
    walls: int  # K without the border
    openings: int  # M
    grid: tuple[int, int] = (2, 1)  # cells along x and y
    half_door: float = 4.0

    def __init__(
        self,
        batch: int = 1,
        budget: int | None = None,
        stack: int = 1,
        repeat: int = 1,
        collision: Collision = "stay",
        view: float | None = None,
        scenes: int | None = None,
        longest: float = REACH,
    ) -> None:
        if not 0 < longest <= REACH:
            raise UserError(f"longest must be above 0 and at most {REACH:g} pixels, not {longest}")
        if scenes is not None and scenes < 1:
            raise UserError(f"scenes must be 1 or more, not {scenes}")
        if collision not in ("stay", "bounce"):
            raise UserError(f"collision must be stay or bounce, not {collision!r}")
        least = DRAWN + longest * repeat
        if view is not None and not view >= least:
            raise UserError(f"view must be {least:g} or more (the dot and its way), not {view}")
        self.noise = 2 if collision == "bounce" else 0
        super().__init__(batch, budget, stack, repeat)
        self.collision, self.view, self.scenes = collision, view, scenes
        self.longest = longest
        self.boxes = np.zeros((batch, self.walls + len(_BORDER), 4))
        self.boxes[:, self.walls :] = _BORDER
        self.doors = np.zeros((batch, self.openings, 2))
        self.joins = np.full((batch, self.openings, 2), -1)
        self.lines = (np.zeros((batch, self.grid[0] - 1)), np.zeros((batch, self.grid[1] - 1)))
        self.next_door = np.zeros((batch, *(self.grid[0] * self.grid[1],) * 2), np.int64)
        self._ground = paint.canvas(batch)

    def layout_source(self, source: np.random.Generator) -> np.random.Generator:
        """What a layout is drawn from: the episode's own source, or that of its scene."""
        if self.scenes is None:
            return source
        return np.random.default_rng([_scene(source, self.scenes), _LAYOUT])

    @abstractmethod
    def lay(self, episode: int) -> None:
        """Set boxes, doors, joins and lines of one episode from its task."""

    def begin(self, which: Array) -> None:
        """Put the dot at its start, the walls where they are."""
        for episode in which:
            self.lay(int(episode))
            self.next_door[episode] = routes(self.joins[episode], self.grid[0] * self.grid[1])
            self._ground[episode] = 0
            paint.boxes(self._ground[episode], self.boxes[episode, : self.walls], WALLS)
            _paint_border(self._ground[episode])
        self.state[which, :2] = self.task[which, :2]
        self.goal_state[which, :2] = self.task[which, 2:4]

    def move(self, actions: Array, chance: Array) -> Array:
        """Go `longest` times the action, as far as nothing is met."""
        start = self.state[:, :2]
        end = start + self.longest * clip_norm(actions)
        share, axis = first_hit(start, end, self.boxes)
        hit = np.isfinite(share)
        if self.collision == "bounce" and hit.any():
            end = np.where(hit[:, None], self._bounced(start, end, share, axis, chance), end)
            hit = ~free(start, end, self.boxes)
        self.state[:, :2] = np.where(hit[:, None], start, end)
        return self.success().astype(np.float64)

    def distance(self) -> Array:
        """Pixels to the goal."""
        return np.asarray(np.linalg.norm(self.state[:, :2] - self.goal_state[:, :2], axis=1))

    def success(self) -> Array:
        """Within `NEAR` pixels of the goal."""
        return self.distance() < NEAR

    def paint(self, state: Array, which: Array) -> Array:
        """The dot over the walls, as far as they are seen."""
        picture = self._ground[which]
        if self.view is not None:
            picture = near(picture, state[:, :2], self.view)
        paint.dots(picture, state[:, :2], DOT, DOTS)
        return picture

    # -- those who know the walls, and those who do not --------------------------------------------

    def straight(self) -> Array:
        """A straight line to the goal."""
        return self._towards(self.goal_state[:, :2])

    def expert(self) -> Array:
        """Through the doors on the way with the fewest of them: to what can be reached freely."""
        start, rows = self.state[:, :2], np.arange(self.batch)
        cell, last = self.cell(start), self.cell(self.goal_state[:, :2])
        door = self.next_door[rows, cell, last]
        middle = self.doors[rows, door]
        ways = [self.goal_state[:, :2]]
        ways += [self._beside(middle, door, cell, side) for side in (1, -1)]
        target = self._out(start, cell)
        for way in reversed(ways):  # the first that is free counts
            open_way = free(start, way, self.boxes) & ((cell != last) | (way is ways[0]))
            target = np.where(open_way[:, None], way, target)
        return self._towards(target)

    def cell(self, points: Array) -> Array:
        """The number of the cell of each of `points` `B 2`."""
        x, y = ((points[:, axis, None] > self.lines[axis]).sum(axis=1) for axis in (0, 1))
        return np.asarray(x + self.grid[0] * y)

    def _towards(self, target: Array) -> Array:
        return clip_norm((target - self.state[:, :2]) / self.longest)

    def _beside(self, middle: Array, door: Array, cell: Array, side: int) -> Array:
        """The point before (-1) or behind (1) a door, seen from `cell`."""
        rows = np.arange(self.batch)
        pair = self.joins[rows, door]
        step = np.abs(pair[:, 1] - pair[:, 0])  # 1 for neighbours along x
        along = np.where((step == 1)[:, None], (1.0, 0.0), (0.0, 1.0))
        sign = np.where(cell == pair[:, 0], 1.0, -1.0) * side
        return middle + (sign * (WALL + 1.6))[:, None] * along

    def _out(self, start: Array, cell: Array) -> Array:
        """Out of a doorway, on the side of `cell`: the way that is always free."""
        target = start.copy()
        for axis in (0, 1):
            for line in self.lines[axis].T:
                inside = np.abs(start[:, axis] - line) < WALL + 0.5
                outer = line + np.where(start[:, axis] > line, 1, -1) * (WALL + 1.6)
                target[:, axis] = np.where(inside, outer, target[:, axis])
        return target

    def _bounced(self, start: Array, end: Array, share: Array, axis: Array, chance: Array) -> Array:
        rows = np.arange(self.batch)
        way = end - start
        place = start + np.where(np.isfinite(share), share, 0)[:, None] * way
        face = place[rows, axis]
        back = -np.sign(way[rows, axis])
        shift = 0.5 * chance
        shift[rows, axis] = back * np.maximum(np.abs(shift[rows, axis]), 0.3)
        place = place + shift
        place[rows, axis] = face + shift[rows, axis]
        return np.asarray(np.clip(place, LOW + 0.3, HIGH - 0.3))


def scene_of(seed: int, scenes: int) -> int:
    """Which of the `scenes` layouts the episode of this seed has."""
    return _scene(np.random.default_rng(seed), scenes)


def _scene(source: np.random.Generator, scenes: int) -> int:
    return int(source.integers(scenes))


def routes(joins: Array, cells: int) -> Array:
    """The door to take from each cell to each other, by the number of doors, `cells cells`."""
    far = np.full((cells, cells), 99)
    np.fill_diagonal(far, 0)
    pairs = [(door, int(a), int(b)) for door, (a, b) in enumerate(joins) if a >= 0]
    for _ in range(cells):
        for _, a, b in pairs:
            far[a], far[b] = np.minimum(far[a], far[b] + 1), np.minimum(far[b], far[a] + 1)
    taken = np.zeros((cells, cells), np.int64)
    for door, a, b in pairs:
        taken[a][far[b] < far[a]] = door
        taken[b][far[a] < far[b]] = door
    return taken


def pieces(line: float, low: float, high: float, door: float, half: float) -> list[Array]:
    """A wall across x at `line` from `low` to `high` with a door at `door`: x0, y0, x1, y1."""
    ends = ((low, door - half - _EDGE), (door + half + _EDGE, high))
    return [np.array((line - WALL, y0, line + WALL, y1)) for y0, y1 in ends]


def _paint_border(picture: Array) -> None:
    low, high = int(LOW), int(HIGH)
    for line in (low, high):
        picture[line, low : high + 1] = picture[low : high + 1, line] = WALLS
