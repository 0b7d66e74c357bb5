"""Pictures in numpy: boxes, soft dots, discs, bars and turned squares, for a whole batch at once.

A pixel `[y, x]` has its centre at the point (x, y). Pictures are uint8 `N H W 3`, painted in place.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from jepa_video.envs.base import SIZE, Array

Colour = tuple[int, int, int]

_LINE: Final = np.arange(SIZE, dtype=np.float32)


def canvas(count: int, colour: Colour = (0, 0, 0)) -> Array:
    """Pictures of one colour."""
    picture = np.empty((count, SIZE, SIZE, 3), np.uint8)
    picture[:] = colour
    return picture


def boxes(picture: Array, corners: Array, colour: Colour) -> None:
    """Fill boxes (x0, y0, x1, y1), `K 4`, of one picture `H W 3`, borders included."""
    for x0, y0, x1, y1 in corners:
        rows = slice(max(int(np.ceil(y0)), 0), max(int(np.floor(y1)) + 1, 0))
        picture[rows, max(int(np.ceil(x0)), 0) : max(int(np.floor(x1)) + 1, 0)] = colour


def dots(picture: Array, centres: Array, sigma: float, colour: Colour) -> None:
    """A Gaussian dot at each of `centres` `N 2`, blended over what is there."""
    _patches(picture, centres, int(np.ceil(3.5 * sigma)), colour, _gaussian, sigma)


def discs(picture: Array, centres: Array, radius: float, colour: Colour) -> None:
    """A disc with a soft edge of one pixel at each of `centres` `N 2`."""
    _patches(picture, centres, int(np.ceil(radius + 1)), colour, _disc, radius)


def squares(picture: Array, centres: Array, angles: Array, half: float, colour: Colour) -> None:
    """A square of side `2 half`, turned by `angles` `N`, at each of `centres` `N 2`."""
    reach = int(np.ceil(half * np.sqrt(2) + 1))
    rows, columns, dx, dy = _around(centres, reach)
    cos, sin = (f(angles).astype(np.float32)[:, None, None] for f in (np.cos, np.sin))
    across = np.maximum(np.abs(cos * dx + sin * dy), np.abs(cos * dy - sin * dx))
    _blend(picture, rows, columns, np.clip(half + 0.5 - across, 0, 1), colour)


def bars(picture: Array, start: Array, end: Array, radius: float, colour: Colour) -> None:
    """A bar with round ends between `start` and `end`, each `N 2`."""
    middle, reach = (start + end) / 2, np.linalg.norm(end - start, axis=1).max() / 2 + radius + 1
    rows, columns, dx, dy = _around(middle, int(np.ceil(reach)))
    half = ((end - start) / 2).astype(np.float32)
    ux, uy = half[:, 0, None, None], half[:, 1, None, None]
    share = np.clip((dx * ux + dy * uy) / np.maximum(ux * ux + uy * uy, 1e-12), -1, 1)
    gap = np.sqrt((dx - share * ux) ** 2 + (dy - share * uy) ** 2)
    _blend(picture, rows, columns, np.clip(radius + 0.5 - gap, 0, 1), colour)


def _gaussian(squared: Array, sigma: float) -> Array:
    return np.exp(squared / (-2 * sigma**2))


def _disc(squared: Array, radius: float) -> Array:
    return np.clip(radius + 0.5 - np.sqrt(squared), 0, 1)


def _patches(
    picture: Array, centres: Array, reach: int, colour: Colour, cover: object, width: float
) -> None:
    rows, columns, dx, dy = _around(centres, reach)
    assert callable(cover)
    _blend(picture, rows, columns, cover(dx * dx + dy * dy, width), colour)


def _around(centres: Array, reach: int) -> tuple[Array, Array, Array, Array]:
    """Rows `N n`, columns `N n` and offsets `N n n` of the pixels around each centre.

    Pixels over the edge are counted as the ones at the edge, whose own distance they then have: a
    pixel may be there several times, always with the same value.
    """
    side = np.arange(-reach, reach + 1)
    whole = np.rint(centres).astype(np.int64)
    columns = np.clip(whole[:, :1] + side, 0, SIZE - 1)
    rows = np.clip(whole[:, 1:] + side, 0, SIZE - 1)
    dx = (columns - centres[:, :1]).astype(np.float32)[:, None, :]
    dy = (rows - centres[:, 1:]).astype(np.float32)[:, :, None]
    return rows, columns, dx, dy


def _blend(picture: Array, rows: Array, columns: Array, cover: Array, colour: Colour) -> None:
    count, high, wide = cover.shape
    hit = np.flatnonzero(cover > 0.002)  # less is no grey level
    pixel, which = hit % (high * wide), hit // (high * wide)
    place = (which * SIZE + rows[which, pixel // wide]) * SIZE + columns[which, pixel % wide]
    share = cover.reshape(-1)[hit][:, None]
    flat = picture.reshape(-1, 3)
    old = flat[place].astype(np.float32)
    flat[place] = old + share * (np.array(colour, np.float32) - old) + np.float32(0.5)
