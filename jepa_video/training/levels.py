"""Two levels in one training: which of them learns in a step, and what the second adds to it.

The step asks `turn()`: where level 2 learns on a level 1 that stands still, `second_step` is all of
it; otherwise `above` gives the terms that level 2 adds. Tokens of windows are `K*B N D`.
"""

from __future__ import annotations

from typing import Literal

import lightning as L
import torch
from torch import Tensor, nn

from ..models.encoder import VideoEncoder
from ..randomness import LATENT
from .second_level import LevelAbove, untouched


class Levels(L.LightningModule):
    """The part of a video JEPA that knows of a second level.

    Attributes:
        encoder: of level 1.
        level2: what stands above it.
    """

    encoder: VideoEncoder
    level2: LevelAbove

    def generator(self, stream: int) -> torch.Generator:
        """The draw of `stream` for this batch on this rank."""
        raise NotImplementedError

    @property
    def frames(self) -> int:
        """Frames of a clip: one window of the encoder, or several where there is a second level."""
        return self.encoder.frames * self.level2.windows

    def levels(self) -> list[list[nn.Parameter]]:
        """The weights that learn together: of both levels, or of each where they have stages."""
        if not self.level2.alone:
            return [[p for p in self.parameters() if p.requires_grad]]
        upper = list(self.level2.parameters())
        above = {id(p) for p in upper}
        return [[p for p in self.parameters() if p.requires_grad and id(p) not in above], upper]

    def first_stage(self) -> int:
        """Optimiser steps in which level 1 learns alone."""
        return round(self.level2.alone * self.total_steps()) if self.level2.alone else 0

    def turn(self) -> Literal["both", "first", "second"]:
        """Which level learns in this step."""
        if not self.level2.alone:
            return "both"
        return "first" if self.global_step < self.first_stage() else "second"

    def above(self, s_y: Tensor) -> dict[str, Tensor]:
        """Terms of the second level from the tokens `K*B N D` of all windows."""
        if self.turn() == "first":
            return untouched(self.level2.parameters())
        step = self.level2(s_y, self.generator(LATENT))
        self.log_dict(step.facts)
        terms: dict[str, Tensor] = step.terms
        return terms

    def second_step(self, s_y: Tensor) -> dict[str, Tensor]:
        """A step of the second level on a first that stands still."""
        s_y = s_y.detach()
        terms = self.above(s_y)
        loss = torch.stack(list((terms | untouched(self.levels()[0])).values())).sum()
        self.log_dict({"loss": loss.detach(), **{k: v.detach() for k, v in terms.items()}})
        return {"loss": loss, "energy": terms["level2/energy"].detach(), "s_x": s_y, "s_y": s_y}

    def total_steps(self) -> int:
        """Optimiser steps of the whole run: the length of every schedule."""
        return int(self.trainer.estimated_stepping_batches)
