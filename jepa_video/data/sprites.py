"""Drawing of textured, anti-aliased moving things, at sub-pixel positions, a whole clip at a time.

Nothing is drawn once and shifted: outlines are signed distances and textures are sums of plane
waves, both evaluated at the pixel centres of every frame. A thing at x = 10.3 is therefore as sharp
as one at x = 10, and no interpolation pattern tells a network where within a pixel a thing stands.

Shapes: `T` frames, `S` side of the square picture, `W` side of the window around a sprite, `K`
waves. Positions are in pixels, x to the right, y downwards; pixel (0, 0) has its centre at (0, 0).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Distance = Callable[[Floats, Floats, float], Floats]


def _circle(x: Floats, y: Floats, r: float) -> Floats:
    distance: Floats = np.hypot(x, y) - np.float32(r)
    return distance


def _square(x: Floats, y: Floats, r: float) -> Floats:
    return np.maximum(np.abs(x), np.abs(y)) - np.float32(0.886 * r)


def _triangle(x: Floats, y: Floats, r: float) -> Floats:
    slanted = np.float32(0.866) * np.abs(x) - np.float32(0.5) * y
    distance: Floats = np.maximum(slanted, y) - np.float32(0.777 * r)
    return distance


def _cross(x: Floats, y: Floats, r: float) -> Floats:
    x, y, long, thin = np.abs(x), np.abs(y), np.float32(1.15 * r), np.float32(0.42 * r)
    distance: Floats = np.minimum(np.maximum(x - long, y - thin), np.maximum(x - thin, y - long))
    return distance


def _blob(x: Floats, y: Floats, r: float) -> Floats:
    lobes = np.cos(np.float32(3.0) * np.arctan2(y, x))
    distance: Floats = np.hypot(x, y) - np.float32(r) * (1 + np.float32(0.25) * lobes)
    return distance


def _bar(x: Floats, y: Floats, r: float) -> Floats:
    return np.maximum(np.abs(x) - np.float32(0.3 * r), np.abs(y) - np.float32(1.5 * r))


def _ring(x: Floats, y: Floats, r: float) -> Floats:
    return np.abs(np.hypot(x, y) - np.float32(0.75 * r)) - np.float32(0.15 * r)


# The four labelled shapes have the area of a circle of radius r, so that size does not tell shape.
OUTLINES: Final[dict[str, Distance]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "cross": _cross,
    "blob": _blob,
    "bar": _bar,
    "ring": _ring,
}
# How far an outline goes from its centre, in radii: pixels beyond need not be looked at.
_REACH: Final = {
    "circle": 1.0,
    "square": 1.26,
    "triangle": 1.56,
    "cross": 1.23,
    "blob": 1.25,
    "bar": 1.54,
    "ring": 0.9,
}


@dataclass(frozen=True)
class Waves:
    """A smooth random texture: a sum of `K` plane waves with random colours.

    Attributes:
        vectors: wave vectors `K 2`, in radians a pixel.
        phases: `K`, in radians.
        colours: `K C`, the amplitude in each channel.
    """

    vectors: Floats
    phases: Floats
    colours: Floats

    @classmethod
    def draw(
        cls,
        rng: np.random.Generator,
        count: int,
        wavelengths: tuple[float, float],
        amplitude: float,
        channels: int = 3,
    ) -> Waves:
        """Random waves of the given lengths in pixels; `amplitude` is the deviation of the sum."""
        low, high = wavelengths
        length = np.exp(rng.uniform(np.log(low), np.log(high), count))
        angle = rng.uniform(0, 2 * np.pi, count)
        vectors = 2 * np.pi / length[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
        # Mostly grey with a random cast: video compression keeps brightness better than colour.
        colours = rng.normal(size=(count, 1)) + 0.5 * rng.normal(size=(count, channels))
        colours *= amplitude / np.sqrt((colours**2).sum() / (2 * channels))
        phases = rng.uniform(0, 2 * np.pi, count)
        f32 = np.float32
        return cls(vectors.astype(f32), phases.astype(f32), colours.astype(f32))

    def panned(self, offset: Floats, size: int) -> Floats:
        """The texture seen by a camera at `offset` (`T 2`): `T S S C`.

        cos(a + b) = cos a cos b - sin a sin b turns the sum of waves over a picture into one matrix
        product of a column part and a row part.
        """
        pixels = np.arange(size, dtype=np.float32)
        kx, ky = self.vectors[:, 0], self.vectors[:, 1]
        rows = (pixels[None, :] + offset[:, 1:])[..., None] * ky  # T S K
        columns = (pixels[None, :] + offset[:, :1])[..., None] * kx + self.phases
        left = np.concatenate([np.cos(rows), -np.sin(rows)], -1)  # T S 2K
        right = np.concatenate([np.cos(columns), np.sin(columns)], -1)
        colours = np.concatenate([self.colours, self.colours])  # 2K C
        coloured = right.transpose(0, 2, 1)[..., None] * colours[:, None, :]  # T 2K S C
        flat: Floats = left @ coloured.reshape(len(offset), left.shape[-1], -1)
        return flat.reshape(len(offset), size, size, -1)

    def at(self, x: Floats, y: Floats) -> Floats:
        """The texture at points of any shape: `... C`."""
        phase = x[..., None] * self.vectors[:, 0] + y[..., None] * self.vectors[:, 1] + self.phases
        return np.cos(phase) @ self.colours


@dataclass(frozen=True)
class Sprite:
    """One textured thing with its path through a clip.

    Attributes:
        outline: a name in `OUTLINES`.
        centre: `T 2`, pixels.
        radius: pixels.
        colour: `3`, the mean colour, 0..1.
        texture: one-channel waves that ride on the thing.
        angle: `T`, radians.
        scale: `T`, relative size.
        opacity: `T`, 0..1.
    """

    outline: str
    centre: Floats
    radius: float
    colour: Floats
    texture: Waves
    angle: Floats
    scale: Floats | None = None
    opacity: Floats | None = field(default=None)


def paint(canvas: Floats, sprite: Sprite) -> None:
    """Lay `sprite` over `canvas` (`T S S 3`, 0..1), in place; what lies outside is cut off."""
    frames, size = canvas.shape[:2]
    corner, window = _window(sprite, size)
    span = np.arange(window, dtype=np.int64)
    column = corner[:, :1] + span  # T W
    row = corner[:, 1:] + span
    dx = (column - sprite.centre[:, :1]).astype(np.float32)[:, None, :]
    dy = (row - sprite.centre[:, 1:]).astype(np.float32)[:, :, None]
    cos = np.cos(sprite.angle).astype(np.float32)[:, None, None]
    sin = np.sin(sprite.angle).astype(np.float32)[:, None, None]
    x, y = cos * dx + sin * dy, cos * dy - sin * dx  # T W W, in the frame of the thing
    if sprite.scale is not None:
        x, y = x / sprite.scale[:, None, None], y / sprite.scale[:, None, None]
    # One pixel of ramp around the outline is the share of a pixel that the thing covers.
    cover = np.clip(0.5 - OUTLINES[sprite.outline](x, y, sprite.radius), 0, 1)
    if sprite.opacity is not None:
        cover = cover * sprite.opacity[:, None, None]
    frame = np.arange(frames)[:, None, None]
    place = (frame, row[:, :, None], column[:, None, :])
    under = canvas[place]
    over = sprite.colour + sprite.texture.at(x, y)
    canvas[place] = under + cover[..., None] * (over - under)


def _window(sprite: Sprite, size: int) -> tuple[npt.NDArray[np.int64], int]:
    """The upper left corners `T 2` and the side of windows that hold what is seen of the sprite.

    A window that would reach over the border is pushed back inside: pixels that the sprite does
    not reach get no cover, so a window may stand anywhere as long as it misses none that it does.
    """
    largest = 1.0 if sprite.scale is None else float(sprite.scale.max())
    reach = int(np.ceil(_REACH[sprite.outline] * sprite.radius * largest)) + 1
    window = min(2 * reach + 1, size)
    corner = np.round(sprite.centre).astype(np.int64) - reach
    return np.clip(corner, 0, size - window), window
