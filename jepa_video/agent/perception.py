"""Perception: from what an environment shows to the state that the world model moves.

With a memory, what is not seen now is completed from what was seen before (`scene.py`).

Shapes: pixels uint8 `B H W 3`, or `B K H W 3` where the environment stacks; states `B P D`; what is
felt is float32 `B S` with the environment's state numbers in their places, NaN where not told.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data.frames import shrink
from ..envs.base import Array
from ..errors import UserError
from ..training.world_model import WorldModel
from .scene import SceneMemory


class Perception:
    """Keeps the last K frames of each environment and encodes them once a step.

    Args:
        world: whose encoder sees.
        device: where it sees.
        memory: patches of a scene that are remembered; 0 for none.

    Attributes:
        scene: the memory, or None.
    """

    def __init__(self, world: WorldModel, device: torch.device, memory: int = 0) -> None:
        self.world, self.device = world, device
        self.scene = SceneMemory(memory) if memory else None
        self.reset()

    def reset(self) -> None:
        """Forget all that was seen: episodes begin."""
        self.seen: list[Tensor] = []  # the last K frames and, with a memory, K completed ones
        if self.scene is not None:
            self.scene.reset()

    def see(self, pixels: Array, own: Array | None = None) -> Tensor:
        """The state `B P D` now. The first frame stands for those before it.

        Raises:
            UserError: the world model feels something itself, and `own` is not there.
        """
        if self.world.felt and (own is None or np.isnan(own[:, self.world.felt]).any()):
            raise UserError(
                "this world model feels its own state, which the environment does not tell: load "
                "the agent with its env, or ask the env to `feel`"
            )
        last = pixels[:, -1] if pixels.ndim == 5 else pixels
        shown = [last]
        if self.scene is not None:
            shown.append(self.scene.complete(torch.from_numpy(np.ascontiguousarray(last))).numpy())
        new = [self._tensor(part) for part in shown]
        before = [old[:, 1:] for old in self.seen] or [self._still(part)[:, 1:] for part in new]
        self.seen = [_after(old, part) for old, part in zip(before, new, strict=True)]
        return self._encode(self.seen, own)

    def picture(self, pixels: Array, own: Array | None = None) -> Tensor:
        """The state `B P D` of a scene that stands still as in `pixels`: a goal.

        It is of what its picture shows alone, whatever is remembered. Where the world model feels
        something, and nobody tells how the goal feels, it feels as what was learned from does on
        average.
        """
        still = self._still(self._tensor(pixels))
        if self.world.felt and own is None:
            own = self.world.state_mean.expand(len(pixels), -1).cpu().numpy()
        return self._encode([still], own)

    def _tensor(self, pixels: Array) -> Tensor:
        """Pixels `B H W 3` as the encoder takes them, `B C H W`."""
        return shrink(pixels, self.world.encoder.image, "squash").to(self.device)  # as `EpisodeSet`

    def _still(self, picture: Tensor) -> Tensor:
        """Pictures `B C H W` for as many frames as a state sees, `B K C H W`."""
        return picture[:, None].repeat(1, self.world.encoder.frames, 1, 1, 1)

    @torch.no_grad()
    def _encode(self, shown: list[Tensor], own: Array | None) -> Tensor:
        """The state `B P D` of frames `B K C H W`, and of the same ones completed."""
        felt = None
        if own is not None:
            felt = torch.from_numpy(own).to(self.device)[:, None]
            felt = felt.repeat(1, self.world.encoder.frames, 1)
        return self.world.encode(shown[0], felt, *shown[1:])[:, -1]


def _after(old: Tensor, new: Tensor) -> Tensor:
    """Frames `B K-1 C H W` and the new one `B C H W`, a copy in the order in which it lies."""
    return torch.cat((old, new[:, None]), 1) if old.shape[1] else new[:, None].clone()


def shown(observation: Any, batch: int = 0) -> tuple[Array, Array | None]:
    """The pictures of an observation, and what is felt where it tells.

    Args:
        observation: as an environment shows it.
        batch: environments that there were before; 0 for any.

    Raises:
        UserError: it has no `pixels`, they are no batch of pictures in uint8, or something is of
            another number of environments.
    """
    if not isinstance(observation, Mapping) or "pixels" not in observation:
        raise UserError(
            "an observation is a dict with pixels (uint8 `B H W 3`) and, for a goal, goal"
        )
    for name in ("pixels", "goal"):
        part = observation.get(name)
        if name == "goal" and part is None:
            continue
        shape = tuple(getattr(part, "shape", ()))
        told = f"{getattr(part, 'dtype', type(part).__name__)} {shape or ''}".strip()
        fits = isinstance(part, np.ndarray) and part.dtype == np.uint8
        if not fits or len(shape) not in (4, 5) or shape[-1] != 3 or 0 in shape:
            raise UserError(f"{name} are a batch of pictures, uint8 `B H W 3`, not {told}")
    count = len(observation["pixels"])
    if batch and count != batch:
        raise UserError(
            f"the agent is in an episode of each of {batch} environments, and pixels are of "
            f"{count}: reset it first"
        )
    for name in ("goal", "felt", "goal_felt"):
        part = observation.get(name)
        if part is not None and np.shape(part)[:1] != (count,):
            other = (*np.shape(part), "no")[0]
            raise UserError(f"{name} is of {other} environments, and pixels are of {count}")
    return observation["pixels"], observation.get("felt")
