"""What negatives cost as the dimension grows, measured where the answer is known.

D independent factors are seen twice, with a little noise in between, by a linear encoder that
starts collapsed: nearly all of it points one way. The same number of optimiser steps undoes that,
or does not, with k negatives for each sample. A representation that is whole again fills D
directions. LeCun (2022, section 4.3) expects the number of contrastive samples to grow with the
dimension; a regulariser has none, and sees the same batches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..energies.contrastive import Hinge, InfoNCE
from ..energies.metrics import rankme
from ..energies.regularizers import VICReg
from .measure import Beside

Loss = Callable[[Tensor, Tensor], dict[str, Tensor]]
LOSSES: dict[str, Callable[[], Loss]] = {"InfoNCE": InfoNCE, "hinge": Hinge, "VICReg": VICReg}
DIMENSIONS, NEGATIVES, SEEDS = (4, 16, 64), (1, 3, 7, 15, 31, 63, 127, 255), (0, 1, 2)
WHOLE = 0.75  # share of the directions that counts as whole
ABOUT = (
    "D independent factors, seen twice by a linear encoder that starts with nearly all of it "
    "pointing one way; 300 steps of Adam. How many negatives a sample needs until three quarters "
    f"of all directions are filled, mean of {len(SEEDS)} seeds; in brackets what {max(NEGATIVES)} "
    "negatives fill. VICReg has no negatives: its number is the batch less one."
)


@dataclass(frozen=True)
class Toy:
    """The setting that all cells of the table share.

    Args:
        steps: optimiser steps.
        learning_rate: of Adam.
        noise: standard deviation of what two views of a sample differ by, where factors have 1.
        tilt: standard deviation of what an encoder of rank 1 is disturbed by.
        seed: of factors, noise and encoder.
    """

    steps: int = 300
    learning_rate: float = 0.01
    noise: float = 0.3
    tilt: float = 0.01
    seed: int = 0

    def filled(self, loss: Loss, dimension: int, negatives: int) -> float:
        """Share of the D directions that 4 D fresh samples fill after the training, 0 to 1."""
        draw = torch.Generator().manual_seed(self.seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=draw)

        one_way = normal(dimension, 1) @ normal(1, dimension) / dimension**0.5
        encoder = (one_way + self.tilt * normal(dimension, dimension)).requires_grad_()
        optimizer = torch.optim.Adam([encoder], self.learning_rate)
        for _ in range(self.steps):
            factors = normal(negatives + 1, dimension)
            views = [factors + self.noise * normal(*factors.shape) for _ in range(2)]
            with torch.enable_grad():
                terms = loss(views[0] @ encoder, views[1] @ encoder)
                torch.autograd.backward(torch.stack(list(terms.values())).sum())
            optimizer.step()
            optimizer.zero_grad()
        states = normal(4 * dimension, dimension) @ encoder.detach()
        return float(rankme(states)) / dimension


def shares(
    dimensions: Sequence[int] = DIMENSIONS,
    negatives: Sequence[int] = NEGATIVES,
    seeds: Sequence[int] = SEEDS,
) -> dict[str, dict[int, dict[int, float]]]:
    """Share of directions filled, by method, dimension and number of negatives; mean over seeds."""

    def mean(loss: Loss, dimension: int, count: int) -> float:
        found = [Toy(seed=seed).filled(loss, dimension, count) for seed in seeds]
        return sum(found) / len(found)

    return {
        name: {d: {k: mean(make(), d, k) for k in negatives} for d in dimensions}
        for name, make in LOSSES.items()
    }


def needed(filled: Mapping[int, float], share: float = WHOLE) -> int | None:
    """The fewest negatives from which on every larger number fills `share`; None if none does."""
    enough = [count for count in sorted(filled) if filled[count] >= share]
    fewest = [k for k in enough if all(filled[more] >= share for more in filled if more > k)]
    return min(fewest, default=None)


def negatives_table() -> Beside:
    """Negatives that a method needs in D dimensions, and what the largest batch reaches."""
    most = max(NEGATIVES)
    rows = []
    for name, by_dimension in shares().items():
        cells = []
        for filled in by_dimension.values():
            few = needed(filled)
            cells.append(f"{f'over {most}' if few is None else few} ({100 * filled[most]:.0f} %)")
        rows.append((name, *cells))
    return Beside("What negatives cost", ABOUT, ("method", *(f"D = {d}" for d in DIMENSIONS)), rows)
