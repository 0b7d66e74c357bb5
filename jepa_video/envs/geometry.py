"""Straight moves among axis-parallel boxes, for a batch. Boxes are `B K 4`: x0, y0, x1, y1."""

from __future__ import annotations

import numpy as np

from jepa_video.envs.base import Array

NOWHERE = (-9.0, -9.0, -8.0, -8.0)  # a box that nobody meets: fills up rows of different length


def first_hit(start: Array, end: Array, boxes: Array) -> tuple[Array, Array]:
    """Where the move from `start` to `end`, each `B 2`, first meets a closed box.

    Returns:
        the share of the way `B` (infinite where nothing is met), and the axis of the face met, `B`
        (0 for a face across x, 1 across y).
    """
    way = end - start
    way = np.where(way == 0, 1e-30, way)[:, None, :]
    low = (boxes[..., :2] - start[:, None, :]) / way
    high = (boxes[..., 2:] - start[:, None, :]) / way
    enters, leaves = np.minimum(low, high), np.maximum(low, high)
    near, far = enters.max(axis=2), leaves.min(axis=2)
    met = (near <= far) & (far >= 0) & (near <= 1)
    share = np.where(met, np.maximum(near, 0), np.inf)
    box = share.argmin(axis=1)
    rows = np.arange(len(start))
    return share[rows, box], enters[rows, box].argmax(axis=1)


def free(start: Array, end: Array, boxes: Array) -> Array:
    """Whether nothing stands between, bool `B`."""
    return np.isinf(first_hit(start, end, boxes)[0])
