"""TwoRooms: a wall with one door, the task of EB-JEPA (Meta, 2026), with its own 20 tasks.

Layouts, start and goal are drawn by its rules: start and goal in opposite rooms, sides swapped with
probability one half. `EB_TASKS` are the 20 that its evaluation always plays, since it seeds with 0
each time. Its rule: 200 steps, and the distance after the last under 4.5 pixels; a straight line
solves 9 of the 20. `wide` draws any number.
"""

from __future__ import annotations

from typing import Final, Literal

import numpy as np

from jepa_video.envs.base import Array
from jepa_video.envs.point import HIGH, LOW, SIDE, WALL, Collision, PointWorld, pieces
from jepa_video.errors import UserError

Layouts = Literal["random", "fixed", "seen", "unseen"]
FIXED: Final = (32, 18)  # wall_x, door_y of the fixed layout
EB_STEPS: Final = 200

# start_x, start_y, goal_x, goal_y, wall_x, door_y
EB_TASKS: Final = (
    (21.6446, 34.2161, 52.3145, 54.1017, 35, 51),
    (28.7210, 43.6665, 40.1978, 15.5233, 36, 44),
    (33.7303, 28.0725, 11.9063, 8.0386, 20, 13),
    (12.9425, 26.0908, 44.4000, 57.2583, 20, 19),
    (51.1782, 41.5731, 24.2870, 26.3572, 36, 44),
    (19.1034, 31.2804, 43.7428, 51.7860, 34, 31),
    (50.6302, 22.9510, 16.5467, 36.7904, 38, 11),
    (32.2399, 38.2579, 45.9619, 10.8680, 39, 10),
    (38.5364, 51.1254, 21.3974, 9.5753, 29, 45),
    (53.3672, 18.3166, 17.3181, 9.2427, 34, 25),
    (9.1410, 36.0809, 29.3952, 21.7738, 23, 44),
    (36.5592, 11.9592, 49.9083, 38.5587, 42, 21),
    (12.6772, 31.9947, 56.0468, 28.2016, 24, 54),
    (23.4912, 45.0926, 43.4692, 31.8691, 28, 43),
    (33.1596, 43.9118, 51.6636, 42.7261, 44, 49),
    (16.6604, 55.7706, 55.2372, 7.3471, 24, 37),
    (18.1781, 14.1572, 56.0393, 56.0095, 22, 49),
    (38.3628, 47.3355, 15.6238, 53.5153, 29, 36),
    (22.6602, 53.8957, 49.7100, 8.6579, 40, 35),
    (6.9914, 7.4124, 49.0327, 45.1039, 24, 36),
)


class TwoRooms(PointWorld):
    """Two rooms and a door 9 pixels wide.

    Args:
        batch, budget, stack, repeat, collision, scenes: see `PointWorld`.
        layouts: `random`: wall at 20 to 44, door at 10 to 54; `fixed`: 32 and 18; `seen` and
            `unseen` share the random ones four to one, so that a world model trained on `seen` can
            be asked about walls that it never saw.
    """

    id = "TwoRooms"
    task_names = (*PointWorld.task_names, "wall_x", "door_y")
    default_budget = 50
    walls, openings = 2, 1

    def __init__(
        self,
        batch: int = 1,
        budget: int | None = None,
        stack: int = 1,
        repeat: int = 1,
        collision: Collision = "stay",
        layouts: Layouts = "random",
        scenes: int | None = None,
    ) -> None:
        if layouts not in ("random", "fixed", "seen", "unseen"):
            raise UserError(f"layouts must be random, fixed, seen or unseen, not {layouts!r}")
        super().__init__(batch, budget, stack, repeat, collision, scenes=scenes)
        self.layouts = layouts

    def draw(self, source: np.random.Generator) -> tuple[float, ...]:
        """Start and goal in opposite rooms, and the layout."""
        wall, door = self._layout(self.layout_source(source))
        left = source.uniform(LOW + SIDE, wall - WALL - SIDE)
        right = source.uniform(wall + WALL + SIDE, HIGH - SIDE)
        y = source.uniform(LOW + SIDE, HIGH - SIDE, 2)
        ends = ((left, y[0]), (right, y[1]))
        start, goal = ends if source.random() < 0.5 else ends[::-1]
        return (*start, *goal, wall, door)

    def lay(self, episode: int) -> None:
        """The wall in two pieces."""
        wall, door = self.task[episode, 4:6]
        self.boxes[episode, :2] = pieces(wall, LOW, HIGH, door, self.half_door)
        self.doors[episode] = wall, door
        self.joins[episode] = 0, 1
        self.lines[0][episode] = wall

    def _layout(self, source: np.random.Generator) -> tuple[int, int]:
        if self.layouts == "fixed":
            return FIXED
        while True:
            wall, door = int(source.integers(20, 45)), int(source.integers(10, 55))
            if self.layouts == "random" or held_back(wall, door) == (self.layouts == "unseen"):
                return wall, door


def held_back(wall: int, door: int) -> bool:
    """Whether a layout is one of the fifth that `seen` never shows."""
    return (wall + 2 * door) % 5 == 0


def eb_tasks() -> Array:
    """The 20 tasks of EB-JEPA, `20 6`, for `reset(options={"tasks": ...})` of a batch of 20."""
    return np.array(EB_TASKS)
