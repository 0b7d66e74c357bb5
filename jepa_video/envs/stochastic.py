"""Stochastic: a near gate that opens by chance, or holds who came, and a far door that is sure.

Whoever comes to the gate sees it open, or is held there for good. Nothing in the picture says which
beforehand, so a predictor without z can only show one of the two, or a blur. The detour takes twice
as many steps as the gate: what the gate costs on average, being held among it, is what decides.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from jepa_video.envs import paint
from jepa_video.envs.base import Array
from jepa_video.envs.geometry import NOWHERE
from jepa_video.envs.point import HIGH, LOW, WALL, PointWorld, pieces
from jepa_video.envs.world import clip_norm
from jepa_video.errors import UserError

_GATE, _DOOR = 14.0, 50.0  # their places on the wall; mirrored in half of the episodes
_TRY: Final = 3.5  # pixels before the wall, at the gate, where chance decides
_CLOSED, _SHUT = (140, 140, 150), (220, 40, 40)


class Stochastic(PointWorld):
    """Two rooms, a sure door, and a gate that opens with probability `chance`.

    The state's third number: 0 while the gate waits, 1 open, -1 shut for good, and the dot with it.
    A gate that waits is grey, a shut one red, an open one a gap.

    Args:
        batch, budget, stack, repeat: see `World`.
        chance: probability that the gate opens.
    """

    id = "Stochastic"
    state_names = ("x", "y", "gate")
    task_names = (*PointWorld.task_names, "wall_x", "gate_y", "door_y", "luck")
    default_budget = 34
    guides = ("expert", "straight")
    walls, openings = 4, 2

    def __init__(
        self,
        batch: int = 1,
        budget: int | None = None,
        stack: int = 1,
        repeat: int = 1,
        chance: float = 0.6,
    ) -> None:
        if not 0 <= chance <= 1:
            raise UserError(f"chance must be from 0 to 1, not {chance}")
        super().__init__(batch, budget, stack, repeat)
        self.chance = chance

    def draw(self, source: np.random.Generator) -> tuple[float, ...]:
        """Start and goal near the gate's height, on both sides, 20 to 22 pixels from the wall."""
        wall = float(source.integers(29, 36))
        x = wall + np.array((-1, 1)) * source.uniform(20, 22, 2)
        y = _GATE + source.uniform(-1, 1, 2)
        gate, door = _GATE, _DOOR
        if source.random() < 0.5:
            x = x[::-1]
        if source.random() < 0.5:
            y, gate, door = LOW + HIGH - y, LOW + HIGH - gate, LOW + HIGH - door
        return (x[0], y[0], x[1], y[1], wall, gate, door, source.random())

    def lay(self, episode: int) -> None:
        """Three pieces of wall and the gate; a route goes through the sure door only."""
        wall, gate, door = self.task[episode, 4:7]
        low, high = min(gate, door), max(gate, door)
        half, middle = self.half_door, (low + high) / 2
        upper, centre = pieces(wall, LOW, middle, low, half)
        rest, lower = pieces(wall, middle, HIGH, high, half)
        centre[3] = rest[3]
        self.boxes[episode, :4] = upper, centre, lower, self._gate(episode)
        self.doors[episode] = (wall, door), (wall, gate)
        self.joins[episode] = (0, 1), (-1, -1)
        self.lines[0][episode] = wall

    def begin(self, which: Array) -> None:
        """The gate waits; in the goal's picture it does so too."""
        super().begin(which)
        self.state[which, 2] = self.goal_state[which, 2] = 0

    def move(self, actions: Array, chance: Array) -> Array:
        """Walk; at the gate chance decides before the step is taken, whether it is one."""
        aimed = self.state[:, :2] + self.longest * clip_norm(actions)
        away = np.abs(aimed - self.doors[:, 1])
        near = (away < (_TRY, self.half_door + 1.0)).all(axis=1)
        decided = near & (self.state[:, 2] == 0)
        opens = self.task[:, 7] < self.chance
        self.state[:, 2] = np.where(decided, np.where(opens, 1.0, -1.0), self.state[:, 2])
        self.boxes[decided & opens, 3] = NOWHERE
        held = self.state[:, 2] == -1
        return super().move(np.where(held[:, None], 0.0, actions), chance)

    def paint(self, state: Array, which: Array) -> Array:
        """The dot, the walls, and the gate as it is, or as it nearly is where a model says so."""
        ground = self._ground[which]
        gates = np.rint(state[:, 2])
        for row, episode in enumerate(which):
            if gates[row] <= 0:
                colour = _CLOSED if gates[row] == 0 else _SHUT
                paint.boxes(ground[row], self._gate(int(episode))[None], colour)
            else:
                paint.boxes(ground[row], self._gate(int(episode))[None], (0, 0, 0))
        paint.dots(ground, state[:, :2], 1.3, (255, 220, 60))
        return ground

    def _gate(self, episode: int) -> Array:
        wall, gate = self.task[episode, 4:6]
        half = self.half_door
        return np.array((wall - WALL, gate - half, wall + WALL, gate + half))
