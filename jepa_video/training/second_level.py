"""The second level of an H-JEPA: its own states, z, energy and regulariser over those of level 1.

    s2_k = states(pool(tokens of window k))      s2_hat = rollout(predictor, s2_1 .. s2_given, z)
    E2(x, y, z) = D(s2, s2_hat), step by step and rolled out

Shapes: tokens of windows `K*B N D`, states `B K D2`, latent `B 1 Z`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..distributed import world_size
from ..energies.distances import Distance, distance
from ..energies.regularizers import Regularizer, VICReg
from ..errors import UserError
from ..models.hierarchy import CausalPredictor, StateEncoder, by_clip, pooled_cells
from ..models.latent import Latent, NoLatent, Places
from ..models.rope import Grid
from .rollout import rollout


class LevelStep(NamedTuple):
    """What a level adds to a step: weighted terms of the loss, and facts for the log."""

    terms: dict[str, Tensor]
    facts: dict[str, Tensor]


class LevelAbove(nn.Module):
    """What stands above level 1.

    Attributes:
        windows: windows of a clip; the clip has so many times the frames of the encoder.
        alone: share of the steps in which level 1 trains alone, then level 2 on a level 1 that
            stays as it is; 0 trains both jointly.
    """

    windows: int = 1
    alone: float = 0.0

    def forward(self, tokens: Tensor, generator: torch.Generator | None = None) -> LevelStep:
        """Terms and facts of this level from the tokens of all windows, `K*B N D`."""
        raise NotImplementedError


class NoLevelAbove(LevelAbove):
    """One level only."""

    def __init__(self, width: int, grid: Grid) -> None:
        super().__init__()

    def forward(self, tokens: Tensor, generator: torch.Generator | None = None) -> LevelStep:
        """Nothing to add."""
        return LevelStep({}, {})


class SecondLevel(LevelAbove):
    """Slow states over the windows of a clip (LeCun 2022, section 4.6).

    Args:
        width: `D` of the tokens of level 1.
        grid: token grid of a window.
        windows: windows of a clip, `K`; the clip has so many times the frames of the encoder.
        given: windows that a rollout starts from; the others are its future.
        cells: parts along height and width over which the tokens are averaged.
        dim: `D2`, the width of a state.
        hidden: width inside the map from tokens to a state.
        predictor: makes the causal transformer from width, number of windows and width of z.
        latent: makes the latent of this level from the width of the states.
        regularizer: makes the term against collapse of the states. A weak one lets level 2 keep
            what never changes, which is told without error, and drop what moves.
        distance: `D` of this level.
        weight: of this level's energy beside that of level 1.
        alone: share of the steps in which level 1 trains alone; level 2 has the rest, on a level 1
            that stays as it is then. 0 trains both jointly.
    """

    def __init__(
        self,
        width: int,
        grid: Grid,
        windows: int = 4,
        given: int = 2,
        cells: int = 2,
        dim: int = 64,
        hidden: int = 256,
        predictor: Callable[[int, int, int], CausalPredictor] = CausalPredictor,
        latent: Callable[[int], Latent] = NoLatent,
        regularizer: Callable[[], Regularizer] = VICReg,
        distance: Distance = "l1",
        weight: float = 1.0,
        alone: float = 0.0,
    ) -> None:
        super().__init__()
        if not 1 <= given < windows:
            raise UserError(
                f"model.level2: given {given} must be 1 or more, below {windows} windows"
            )
        if not 0 <= alone < 1:
            raise UserError(f"model.level2.alone must be from 0 to below 1, not {alone}")
        self.windows, self.given, self.cells, self.alone = windows, given, cells, alone
        self.token_grid, self.distance, self.weight = grid, distance, weight
        self.states = StateEncoder(cells * cells * width, dim, hidden)
        self.latent = latent(dim)
        self.predictor = predictor(dim, windows, self.latent.dim)
        self.regularizer = regularizer()

    def abstract(self, tokens: Tensor) -> Tensor:
        """The states of clips from the tokens of their windows: `K*B N D` to `B K D2`."""
        pooled = pooled_cells(tokens, self.token_grid, self.cells)
        states: Tensor = self.states(by_clip(pooled, len(tokens) // self.windows))
        return states

    def foretold(self, states: Tensor, z: Tensor | None, steps: int) -> Tensor:
        """The states of the next `steps` windows after `B K D2`, rolled out: `B steps D2`."""
        return rollout(self.predictor, states[:, :, None], z, steps)[:, :, 0]

    def places(self, s: Tensor) -> Places:
        """Past and future of `B K D2` lie along time alone."""
        slots = torch.arange(s.shape[1], device=s.device)
        where = torch.stack((slots, 0 * slots, 0 * slots), dim=-1).expand(len(s), -1, -1)
        return Places(where[:, : self.given], where[:, self.given :])

    def forward(self, tokens: Tensor, generator: torch.Generator | None = None) -> LevelStep:
        """Terms and facts of this level from the tokens of all windows, `K*B N D`."""
        s = self.abstract(tokens)
        past, future = s[:, : self.given], s[:, self.given :]
        z = self.latent.posterior(past, future, generator, self.places(s))
        d = distance(self.distance)
        told = self.predictor.following(s[:, :-1], z.z)
        rolled = self.foretold(past, z.z, future.shape[1])
        energy = d(rolled, future).mean(dim=1)  # B
        terms = {
            "energy": self.weight * energy.mean(),
            "energy_next": self.weight * d(told, s[:, 1:]).mean(),
            **z.terms,
            **{f"reg/{name}": term for name, term in self.regularizer(s).items()},
        }
        gap = d(rolled, future.roll(1, dims=0)).mean() - energy.mean()
        facts = {"energy_gap": gap.detach(), **z.facts}
        return LevelStep(
            {f"level2/{name}": term for name, term in terms.items()},
            {f"level2/{name}": fact for name, fact in facts.items()},
        )


def untouched(parameters: Iterable[nn.Parameter]) -> dict[str, Tensor]:
    """A term of zero that touches every parameter: DDP waits for those that take no part."""
    if world_size() == 1:
        return {}
    return {"idle": torch.stack([0.0 * p.sum() for p in parameters if p.requires_grad]).sum()}
