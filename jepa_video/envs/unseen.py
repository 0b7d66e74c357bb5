"""What an agent does not see of a picture: one flat colour, and what lies near it.

The contract of every environment that shows a part of its scene: a pixel that is not seen has
exactly the colour `UNSEEN`, and no pixel that is seen has it. Nothing else tells what was seen.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

UNSEEN: Final = (24, 20, 36)


def near(whole: npt.NDArray[Any], centres: npt.NDArray[Any], view: float) -> npt.NDArray[Any]:
    """Pictures `N H W 3` with the square around each of `centres` `N 2` alone.

    A pixel is seen where its centre lies within `view` pixels along x and along y.
    """
    seen = np.empty_like(whole)
    row = np.tile(np.array(UNSEEN, np.uint8), whole.shape[2])
    seen.reshape(-1, len(row))[:] = row  # by rows: three bytes at a time take ten times as long
    low = np.maximum(np.ceil(centres - view), 0).astype(np.int64).tolist()
    high = np.maximum(np.floor(centres + view) + 1, 0).astype(np.int64).tolist()
    for to, of, (x0, y0), (x1, y1) in zip(seen, whole, low, high, strict=True):
        to[y0:y1, x0:x1] = of[y0:y1, x0:x1]
    return seen
