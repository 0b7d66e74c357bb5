"""The scene as far as it was seen: pictures that show a part of it are completed from memory.

Short-term memory holds patches of pixels by their place. What is seen now is taken as it is, and
written; what is not seen now is recalled as it was when it was last seen; what never was keeps the
colour `UNSEEN`, which is the one thing that tells what is not seen (`envs/unseen.py`). What moves
leaves no trail as long as the place that it left is still in view.

Shapes: pictures uint8 `B H W 3`, patches `B N V` with `V = PATCH PATCH 3`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Final

import numpy as np
import torch
from torch import Tensor

from ..data.decode import Frames
from ..data.shelf import Completion
from ..envs.unseen import UNSEEN
from ..errors import UserError
from .memory import ShortTermMemory

PATCH: Final = 8  # pixels along height and width of what an entry holds


class SceneMemory:
    """Completes the pictures of B environments, from the first of an episode on.

    Args:
        capacity: patches that are remembered of each environment; 64 are a picture of 64 x 64.

    Attributes:
        recalled: which pixels of the last pictures were recalled, bool `B H W`.
        completed: the last pictures as they were completed.

    Raises:
        UserError: a capacity below 1.
    """

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise UserError(f"memory must be 0 or more patches, not {capacity}")
        self.capacity = capacity
        self.store: ShortTermMemory | None = None
        self.recalled = self.completed = torch.zeros(0)

    def reset(self) -> None:
        """Forget all: episodes begin."""
        self.store = None

    def complete(self, pixels: Tensor) -> Tensor:
        """The pictures `B H W 3` with what is remembered in the place of what is not seen.

        Raises:
            UserError: pictures that patches do not fill.
        """
        batch, high, wide, _ = pixels.shape
        if high % PATCH or wide % PATCH:
            raise UserError(
                f"memory holds patches of {PATCH} x {PATCH} pixels, which do not fill a picture of "
                f"{high} x {wide}"
            )
        if self.store is None:
            self.store = ShortTermMemory(batch, self.capacity, 2, PATCH * PATCH * 3)
        unseen = (pixels == torch.tensor(UNSEEN, dtype=torch.uint8)).all(-1, keepdim=True)
        now, hidden = patches(pixels.float()), patches(unseen.expand_as(pixels))
        keys = places(high, wide).expand(batch, -1, -1)
        told = self.store.read(keys)
        whole = torch.where(hidden & told.found[..., None], told.values, now)
        self.store.write(keys, whole, ~hidden.all(-1))
        self.completed = pictures(whole.to(torch.uint8), high, wide)
        self.recalled = (self.completed != pixels).any(-1)
        return self.completed


def patches(pictures: Tensor) -> Tensor:
    """Pictures `B H W 3` to their patches `B N V`, by rows."""
    b, high, wide, _ = pictures.shape
    cut = pictures.reshape(b, high // PATCH, PATCH, wide // PATCH, PATCH, 3)
    return cut.transpose(2, 3).reshape(b, -1, PATCH * PATCH * 3)


def pictures(patches: Tensor, high: int, wide: int) -> Tensor:
    """Patches `B N V` to the pictures `B H W 3` that they were cut from."""
    cut = patches.reshape(-1, high // PATCH, wide // PATCH, PATCH, PATCH, 3)
    return cut.transpose(2, 3).reshape(-1, high, wide, 3)


def places(high: int, wide: int) -> Tensor:
    """Row and column of each patch, `N 2`: the keys."""
    rows, columns = torch.arange(high // PATCH), torch.arange(wide // PATCH)
    return torch.cartesian_prod(rows, columns).float()


def completion(capacity: int) -> Completion | None:
    """What completes episodes from a memory of so many patches; None for 0.

    Raises:
        UserError: a capacity below 0.
    """
    if not capacity:
        return None
    SceneMemory(capacity)  # says what is wrong before anything is read
    return Completion(capacity, partial(_completed, capacity))


def scene_words(memory: int) -> list[str]:
    """A line for the screen on what is remembered; none where nothing is."""
    told = f"scene     {memory} patches of {PATCH} x {PATCH} pixels are remembered"
    return [told] if memory else []


def _completed(capacity: int, parts: Iterable[Frames]) -> Iterator[Frames]:
    """The frames `k H W 3` of one episode, some at a time, each with what came before it."""
    scene = SceneMemory(capacity)
    for part in parts:
        frames = torch.from_numpy(np.ascontiguousarray(part))
        whole = [scene.complete(frames[i : i + 1]) for i in range(len(frames))]
        yield torch.cat(whole).numpy()
