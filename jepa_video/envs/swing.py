"""Pendulum and CartPole, both to be swung up, with the equations of gymnasium's classic control.

An angle of 0 is upright and grows clockwise in the picture. One picture does not tell a speed:
stack frames, or give a model a history.
"""

from __future__ import annotations

from functools import cache
from typing import Final

import numpy as np

from jepa_video.envs import paint
from jepa_video.envs.base import Array
from jepa_video.envs.world import World

_ROD, _HUB, _CART, _RAIL = (230, 110, 50), (240, 240, 240), (60, 120, 230), (90, 90, 90)


class _Swing(World):
    """What the two share: start hanging, be upright and slow."""

    size = 1
    default_budget = 200
    stays = True
    angle: int  # places of angle and its speed in the state
    speed: int

    def begin(self, which: Array) -> None:
        """From the task; the goal is upright and at rest."""
        self.state[which] = self.task[which]
        self.goal_state[which] = 0

    def distance(self) -> Array:
        """Radians from upright."""
        return np.abs(wrap(self.state[:, self.angle]))

    def success(self) -> Array:
        """Within 0.2 radians of upright and slower than one a second."""
        return (self.distance() < 0.2) & (np.abs(self.state[:, self.speed]) < 1.0)


class Pendulum(_Swing):
    """gymnasium's Pendulum-v1 (rod of 1 m and 1 kg, torque up to 2, 0.05 s), hanging at first.

    The torque does not lift the rod at once: it has to be swung. Rewards are Pendulum-v1's.
    """

    id = "Pendulum"
    state_names = task_names = ("angle", "speed")
    angle, speed = 0, 1
    torque: Final = 2.0
    dt: Final = 0.05

    def draw(self, source: np.random.Generator) -> tuple[float, ...]:
        """Hanging, up to 0.5 radians aside, slow."""
        return (np.pi + source.uniform(-0.5, 0.5), source.uniform(-0.5, 0.5))

    def move(self, actions: Array, chance: Array) -> Array:
        """One step of 0.05 s."""
        angle, speed = self.state.T
        torque = self.torque * actions[:, 0]
        cost = wrap(angle) ** 2 + 0.1 * speed**2 + 0.001 * torque**2
        speed = np.clip(speed + (15.0 * np.sin(angle) + 3.0 * torque) * self.dt, -8, 8)
        self.state = np.stack([angle + speed * self.dt, speed], axis=1)
        return -cost

    def paint(self, state: Array, which: Array) -> Array:
        """The rod and its hub."""
        picture = paint.canvas(len(state))
        hub = np.full((len(state), 2), 31.5)
        tip = hub + 24 * np.stack([np.sin(state[:, 0]), -np.cos(state[:, 0])], axis=1)
        paint.bars(picture, hub, tip, 3.0, _ROD)
        paint.discs(picture, hub, 2.0, _HUB)
        return picture

    def straight(self) -> Array:
        """Turn the short way up, as if the torque were enough."""
        angle, speed = self.state.T
        return np.clip(-(8 * wrap(angle) + 2 * speed) / self.torque, -1, 1)[:, None]

    def expert(self) -> Array:
        """Pump energy until the rod comes by the top, then hold it there."""
        angle, speed = self.state.T
        energy = speed**2 / 6 + 5.0 * (np.cos(angle) - 1)  # 0 at rest, upright
        pump = np.where(speed >= 0, 1.0, -1.0) * np.clip(-4 * energy, -1, 1)
        near = np.abs(wrap(angle)) < 0.35
        return np.where(near[:, None], self.straight(), pump[:, None])


class CartPole(_Swing):
    """gymnasium's CartPole-v1 with a force of any size up to 10, the pole hanging at first.

    An action lasts 0.04 s, two of CartPole-v1's steps. The rail ends at 2.4 m on both sides: the
    cart stops there and the episode goes on. The reward is 1 where the pole is upright and the
    cart in the middle, 0 where it hangs.
    """

    id = "CartPole"
    state_names = task_names = ("x", "x_speed", "angle", "speed")
    angle, speed = 2, 3
    force: Final = 10.0
    dt: Final = 0.02
    rail: Final = 2.4

    def draw(self, source: np.random.Generator) -> tuple[float, ...]:
        """Hanging, up to 0.3 radians aside, the cart near the middle."""
        x, x_speed, angle, speed = source.uniform(-1, 1, 4) * (0.5, 0.1, 0.3, 0.1)
        return (x, x_speed, np.pi + angle, speed)

    def move(self, actions: Array, chance: Array) -> Array:
        """Two Euler steps of 0.02 s."""
        for _ in range(2):
            rate = slope(self.state, self.force * actions[:, 0])
            self.state = self.state + self.dt * rate
            out = np.abs(self.state[:, 0]) > self.rail
            self.state[:, 0] = np.clip(self.state[:, 0], -self.rail, self.rail)
            self.state[:, 1] = np.where(out, 0.0, self.state[:, 1])
        upright = (1 + np.cos(self.state[:, 2])) / 2
        return upright * (1 - 0.5 * np.abs(self.state[:, 0]) / self.rail)

    def paint(self, state: Array, which: Array) -> Array:
        """The rail, the cart, the pole."""
        picture = paint.canvas(len(state))
        picture[:, 35:37, 3:61] = _RAIL
        cart = np.stack([31.5 + 11 * state[:, 0], np.full(len(state), 35.5)], axis=1)
        tip = cart + 22 * np.stack([np.sin(state[:, 2]), -np.cos(state[:, 2])], axis=1)
        paint.bars(picture, cart - (3.0, 0.0), cart + (3.0, 0.0), 3.0, _CART)
        paint.bars(picture, cart, tip, 1.5, _ROD)
        return picture

    def straight(self) -> Array:
        """The balance of somebody who takes the pole for nearly upright at any time."""
        state = self.state.copy()
        state[:, 2] = wrap(state[:, 2])
        return np.clip(-(state @ gains()) / self.force, -1, 1)[:, None]

    def expert(self) -> Array:
        """Pump energy near the middle of the rail, then balance by a linear-quadratic rule."""
        x, x_speed, angle, speed = self.state.T
        energy = speed**2 / 3 + 9.8 * (np.cos(angle) - 1)  # of a pole of half-length 0.5 m
        pump = 0.3 * energy * speed * np.cos(angle)
        wanted = np.clip(pump, -6, 6) - 1.0 * x - 0.7 * x_speed
        near = (np.abs(wrap(angle)) < 0.5) & (np.abs(speed) < 4)
        action = np.clip(wanted * 1.1 / self.force, -1, 1)[:, None]
        return np.where(near[:, None], self.straight(), action)


def slope(state: Array, force: Array) -> Array:
    """Rate of change of (x, x speed, angle, speed), `B 4` (Barto, Sutton, Anderson, 1983)."""
    cart, pole, half, gravity = 1.0, 0.1, 0.5, 9.8
    _, x_speed, angle, speed = state.T
    cos, sin = np.cos(angle), np.sin(angle)
    push = (force + pole * half * speed**2 * sin) / (cart + pole)
    turn = (gravity * sin - cos * push) / (half * (4 / 3 - pole * cos**2 / (cart + pole)))
    rush = push - pole * half * turn * cos / (cart + pole)
    return np.stack([x_speed, rush, speed, turn], axis=1)


@cache
def gains() -> Array:
    """The linear-quadratic gains of the balance at rest, by iterating Riccati's equation."""
    step, small = CartPole.dt, 1e-5
    rest = np.zeros((1, 4))
    columns = [(slope(small * row[None], np.zeros(1)) / small)[0] for row in np.eye(4)]
    a = np.eye(4) + step * np.stack(columns, axis=1)
    b = step * (slope(rest, np.full(1, small)) / small).T
    cost = weights = np.diag([1.0, 0.1, 10.0, 0.1])
    for _ in range(2000):
        gain = np.linalg.solve(0.01 + b.T @ cost @ b, b.T @ cost @ a)
        cost = weights + a.T @ cost @ (a - b @ gain)
    return np.asarray(gain[0])


def wrap(angle: Array) -> Array:
    """The same angle in [-pi, pi)."""
    return np.asarray((angle + np.pi) % (2 * np.pi) - np.pi)
