"""Perception: from what an environment shows to the state that the world model moves.

Shapes: pixels uint8 `B H W 3`, or `B K H W 3` where the environment stacks; states `B P D`; what is
felt is float32 `B S` with the environment's state numbers in their places, NaN where not told.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..data.frames import shrink
from ..envs.base import Array
from ..errors import UserError
from ..training.world_model import WorldModel


class Perception:
    """Keeps the last K frames of each environment and encodes them once a step.

    Args:
        world: whose encoder sees.
        device: where it sees.
    """

    def __init__(self, world: WorldModel, device: torch.device) -> None:
        self.world, self.device = world, device
        self.frames: Tensor | None = None  # B K C H W uint8

    def reset(self) -> None:
        """Forget all frames: episodes begin."""
        self.frames = None

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
        new = self._tensor(pixels)  # B C H W
        k = self.world.encoder.frames
        if self.frames is None:
            self.frames = new[:, None].repeat(1, k, 1, 1, 1)
        else:
            self.frames = torch.cat((self.frames[:, 1:], new[:, None]), 1)
        return self._encode(self.frames, own)

    def picture(self, pixels: Array, own: Array | None = None) -> Tensor:
        """The state `B P D` of a scene that stands still as in `pixels`: a goal.

        Where the world model feels something, and nobody tells how the goal feels, it feels as what
        was learned from does on average.
        """
        still = self._tensor(pixels)[:, None].repeat(1, self.world.encoder.frames, 1, 1, 1)
        if self.world.felt and own is None:
            own = self.world.state_mean.expand(len(pixels), -1).cpu().numpy()
        return self._encode(still, own)

    def _tensor(self, pixels: Array) -> Tensor:
        last = pixels[:, -1] if pixels.ndim == 5 else pixels
        return shrink(last, self.world.encoder.image, "squash").to(self.device)  # as `EpisodeSet`

    @torch.no_grad()
    def _encode(self, frames: Tensor, own: Array | None) -> Tensor:
        felt = None
        if own is not None:
            felt = torch.from_numpy(own).to(self.device)[:, None].repeat(1, frames.shape[1], 1)
        return self.world.encode(frames, felt)[:, -1]
