"""PointPush: push a square block to a pose with a round finger, quasi-statically.

The block moves only while it is pushed, by as much as the finger would enter it. With friction
below it that bounds force and torque by an ellipsoid (Goyal, Ruina, Papadopoulos, 1991; Lynch,
Maekawa, Tanie, 1992), and a frictionless contact with normal n at r from its centre,

    shift = a n,   turn = a tau / c^2,   tau = r x n,   a = depth / (1 + tau^2 / c^2),

where c is the greatest torque over the greatest force: for a square of even pressure, the mean
distance of its points from its centre.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from jepa_video.envs import paint
from jepa_video.envs.base import Array
from jepa_video.envs.point import HIGH, LOW, REACH, WALLS
from jepa_video.envs.world import World, clip_norm

HALF: Final = 6.0  # pixels, half a side of the block
FINGER: Final = 2.5  # pixels, radius
ARM: Final = 0.3826 * 2 * HALF  # c, pixels
_PARTS: Final = 4  # of a step: the finger never enters by more than a fraction of a pixel at once
_BLOCK, _FINGER = (230, 110, 50), (240, 240, 240)
_NEAR, _TURNED = 3.0, np.deg2rad(15)
_SPOTS: Final = np.array((-0.7, -0.35, 0.0, 0.35, 0.7)) * HALF  # where the expert pushes on a side
_ROUND: Final = HALF * np.sqrt(2) + FINGER + 1.0  # pixels, on which the expert walks round it


class PointPush(World):
    """A block at a pose, a finger; solved within 3 pixels and 15 degrees of the goal's pose.

    The state: finger x, y, block x, y, and cosine and sine of four times the block's angle: a
    square looks the same after a quarter turn, so that a picture tells no more. Angles of a task
    are in radians, and compared modulo 90 degrees.
    """

    id = "PointPush"
    state_names = ("finger_x", "finger_y", "x", "y", "turn_cos", "turn_sin")
    task_names = ("finger_x", "finger_y", "x", "y", "angle", "goal_x", "goal_y", "goal_angle")
    default_budget = 100

    def draw(self, source: np.random.Generator) -> tuple[float, ...]:
        """A block, a goal 10 to 20 pixels off and up to 30 degrees turned, a finger apart."""
        room = LOW + 2 * HALF + 2 * FINGER, HIGH - 2 * HALF - 2 * FINGER
        angle, turn = source.uniform(0, np.pi / 2), source.uniform(-1, 1) * np.deg2rad(30)
        while True:
            block, goal = source.uniform(*room, 2), source.uniform(*room, 2)
            finger = source.uniform(LOW + FINGER, HIGH - FINGER, 2)
            apart = np.linalg.norm(finger - block) > _ROUND
            if apart and 10 <= np.linalg.norm(goal - block) <= 20:
                return (*finger, *block, angle, *goal, angle + turn)

    def begin(self, which: Array) -> None:
        """In the goal's picture the finger stands where the last push would end."""
        task = self.task[which]
        self.state[which, :2], self.state[which, 2:] = task[:, :2], told_of(task[:, 2:5])
        way = task[:, 5:7] - task[:, 2:4]
        behind = task[:, 5:7] - way / np.linalg.norm(way, axis=1, keepdims=True) * _ROUND
        self.goal_state[which] = np.concatenate([behind, told_of(task[:, 5:])], axis=1)

    def move(self, actions: Array, chance: Array) -> Array:
        """Walk in four parts, pushing what is in the way."""
        step = REACH * clip_norm(actions) / _PARTS
        for _ in range(_PARTS):
            aimed = self.state[:, :2] + step
            self.state[:, :2] = np.clip(aimed, LOW + FINGER, HIGH - FINGER)
            self._push()
        return self.success().astype(np.float64)

    def distance(self) -> Array:
        """Pixels to the goal's place, and the turn that is left as pixels at the block's arm."""
        place, turn = self._left(pose_of(self.state), pose_of(self.goal_state))
        return np.hypot(place, ARM * turn)

    def success(self) -> Array:
        """Near the goal's place and turned as it is."""
        place, turn = self._left(pose_of(self.state), pose_of(self.goal_state))
        return np.asarray((place < _NEAR) & (turn < _TURNED))

    def paint(self, state: Array, which: Array) -> Array:
        """The border, the block, the finger."""
        picture = paint.canvas(len(state))
        low, high = int(LOW), int(HIGH)
        picture[:, [low, high], low : high + 1] = WALLS
        picture[:, low : high + 1, [low, high]] = WALLS
        paint.squares(picture, state[:, 2:4], pose_of(state)[:, 2], HALF, _BLOCK)
        paint.discs(picture, state[:, :2], FINGER, _FINGER)
        return picture

    # -- policies ----------------------------------------------------------------------------------

    def straight(self) -> Array:
        """The finger walks to the goal's place, whatever happens to the block."""
        return clip_norm((self.goal_state[:, 2:4] - self.state[:, :2]) / REACH)

    def expert(self) -> Array:
        """Find the push that brings the block nearest to its pose; go round to it; push."""
        finger, pose, goal = self.state[:, :2], pose_of(self.state), pose_of(self.goal_state)
        points, normals = spots(pose)
        depths = np.array((0.6, 1.2, 2.4))
        after = np.stack([pushed(pose[:, None], points, normals, depth) for depth in depths])
        place, turn = self._left(after, goal[:, None])
        # A longer way round costs: without it two pushes that are as good make it run to and fro.
        stand = pose[:, None, :2] + points - normals * (FINGER + 0.3)
        detour = np.linalg.norm(stand - finger[:, None], axis=2)
        cost = np.hypot(place, 1.5 * ARM * turn).min(axis=0) + 0.02 * detour
        best, rows = cost.argmin(axis=1), np.arange(self.batch)
        target, normal = stand[rows, best], normals[rows, best]
        ready = np.linalg.norm(target - finger, axis=1) < 1.0
        done = self.success() & (self.distance() < 2)
        way = np.where(ready[:, None], 0.5 * normal * REACH, self._round(finger, pose, target))
        return np.where(done[:, None], 0.0, clip_norm(way / REACH))

    def _round(self, finger: Array, pose: Array, target: Array) -> Array:
        """The way to a spot at the block along a circle round it."""
        here, there = finger - pose[:, :2], target - pose[:, :2]
        angles = [np.arctan2(v[:, 1], v[:, 0]) for v in (here, there)]
        turn = (angles[1] - angles[0] + np.pi) % (2 * np.pi) - np.pi
        ahead = angles[0] + np.clip(turn, -0.3, 0.3)
        circle = _ROUND * np.stack([np.cos(ahead), np.sin(ahead)], axis=1)
        return np.asarray(np.where((np.abs(turn) < 0.3)[:, None], there, circle) - here)

    def _left(self, pose: Array, goal: Array) -> tuple[Array, Array]:
        """Pixels and radians between two poses."""
        quarter = np.pi / 2
        turn = (pose[..., 2] - goal[..., 2] + quarter / 2) % quarter - quarter / 2
        return np.linalg.norm(pose[..., :2] - goal[..., :2], axis=-1), np.abs(turn)

    # -- the physics -------------------------------------------------------------------------------

    def _push(self) -> None:
        finger, pose = self.state[:, :2], pose_of(self.state)
        point, normal, depth = contact(finger, pose)
        moved = pushed(pose, point, normal, np.maximum(depth, 0))
        cos, sin = np.abs(np.cos(moved[:, 2])), np.abs(np.sin(moved[:, 2]))
        width = (HALF * (cos + sin))[:, None]
        moved[:, :2] = np.clip(moved[:, :2], LOW + width, HIGH - width)
        touched = depth > 0  # a block alone is not even rounded
        self.state[touched, 2:] = told_of(moved[touched])
        _, normal, depth = contact(finger, moved)  # a block at the border pushes back
        back = np.maximum(depth, 0)[:, None] * normal
        self.state[:, :2] = np.clip(finger - back, LOW + FINGER, HIGH - FINGER)


def pose_of(state: Array) -> Array:
    """x, y and angle of the block, `... 3`, the angle from -45 to 45 degrees, of states `... 6`."""
    angle = np.arctan2(state[..., 5:], state[..., 4:5]) / 4
    return np.concatenate([state[..., 2:4], angle], axis=-1)


def told_of(pose: Array) -> Array:
    """What a state holds of poses `... 3`, `... 4`."""
    turn = 4 * pose[..., 2:]
    return np.concatenate([pose[..., :2], np.cos(turn), np.sin(turn)], axis=-1)


def contact(finger: Array, pose: Array) -> tuple[Array, Array, Array]:
    """Where a finger touches a block: the point from the block's centre, the normal into it, depth.

    The depth `B` is negative where they are apart.
    """
    cos, sin = np.cos(pose[:, 2]), np.sin(pose[:, 2])
    gap = finger - pose[:, :2]
    local = np.stack([cos * gap[:, 0] + sin * gap[:, 1], cos * gap[:, 1] - sin * gap[:, 0]], axis=1)
    inside = np.abs(local).max(axis=1) < HALF
    axis, rows = np.abs(local).argmax(axis=1), np.arange(len(local))
    point = np.clip(local, -HALF, HALF)
    point[rows, axis] = np.where(inside, np.sign(local[rows, axis]) * HALF, point[rows, axis])
    way = np.where(inside[:, None], local - point, point - local)
    length = np.linalg.norm(way, axis=1)
    depth = np.where(inside, FINGER + length, FINGER - length)
    way = way / np.maximum(length, 1e-9)[:, None]
    return _turned(point, cos, sin), _turned(way, cos, sin), depth


def pushed(pose: Array, point: Array, normal: Array, depth: Array | float) -> Array:
    """The pose `... 3` after a push at `point` (from the centre) along `normal`, each `... 2`."""
    torque = point[..., 0] * normal[..., 1] - point[..., 1] * normal[..., 0]
    size = depth / (1 + (torque / ARM) ** 2)
    turn = size * torque / ARM**2
    return np.concatenate(
        [pose[..., :2] + size[..., None] * normal, (pose[..., 2] + turn)[..., None]], -1
    )


def spots(pose: Array) -> tuple[Array, Array]:
    """The points at which an expert may push and the normals there, `B 20 2` from the centre."""
    side = np.arange(4)[:, None] * np.pi / 2
    out = np.stack([np.cos(side), np.sin(side)], axis=2)  # 4 1 2
    along = np.stack([-np.sin(side), np.cos(side)], axis=2)
    local = (HALF * out + _SPOTS[None, :, None] * along).reshape(-1, 2)
    inward = np.broadcast_to(-out, (4, len(_SPOTS), 2)).reshape(-1, 2)
    cos, sin = np.cos(pose[:, 2])[:, None], np.sin(pose[:, 2])[:, None]
    return _turned(local[None], cos, sin), _turned(inward[None], cos, sin)


def _turned(vector: Array, cos: Array, sin: Array) -> Array:
    x, y = vector[..., 0], vector[..., 1]
    return np.stack([cos * x - sin * y, sin * x + cos * y], axis=-1)
