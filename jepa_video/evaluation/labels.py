"""What a label column asks for: one class, several at once, or a number; read off its values.

    label   bounce            one class of several        top-1, top-5
    tags    rain|night        any number of classes       mAP
    speed   3.25              a number                    R2, mean absolute error

Shapes: `N` videos, `K` outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UserError
from ..randomness import PROBE, generator

Kind = Literal["class", "multi", "number"]
SEPARATOR: Final = "|"  # between the labels of one video
_BINS: Final = 5  # parts into which numbers are cut where folds need classes


@dataclass(frozen=True)
class Target:
    """The labels of some videos.

    Attributes:
        kind: of the label.
        names: of the outputs `K`.
        y: int64 `N`, -1 unknown, for classes; float64 `N K`, a row of NaN unknown, for the others.
    """

    kind: Kind
    names: tuple[str, ...]
    y: Tensor

    @property
    def known(self) -> Tensor:
        """Which videos have a label: bool `N`."""
        return self.y >= 0 if self.kind == "class" else ~self.y.isnan().any(1)

    def rows(self, index: Tensor | Sequence[int]) -> Target:
        """The labels of some of the videos."""
        return replace(self, y=self.y[torch.as_tensor(index)])

    def dense(self) -> Tensor:
        """Float64 `N K`: one-hot for classes."""
        if self.kind != "class":
            return self.y
        return F.one_hot(self.y.clamp(min=0), len(self.names)).double()

    def strata(self) -> Tensor:
        """A class for each video, int64 `N`, for folds and few labels; -1 where unknown."""
        if self.kind == "class":
            return self.y
        known = self.known
        part = torch.full((len(self.y),), -1, dtype=torch.int64)
        if self.kind == "multi":  # the rarest of its labels, which is the one that may go missing
            rare = self.y[known].sum(0)
            part[known] = torch.where(self.y[known] > 0, rare, torch.inf).argmin(1)
        else:
            value = self.y[known, 0]
            cuts = torch.quantile(value, torch.arange(1, _BINS, dtype=torch.float64) / _BINS)
            part[known] = torch.bucketize(value, cuts)
        return part

    def few(self, share: float, seed: int) -> list[int]:
        """Rows of `share` of the known labels, of each stratum at least one, drawn by `seed`."""
        strata = self.strata()
        picks = []
        for number in range(int(strata.max()) + 1):
            members = (strata == number).nonzero()[:, 0]
            if len(members):
                turn = torch.randperm(len(members), generator=generator(seed, PROBE, number))
                picks.append(members[turn[: max(1, round(share * len(members)))]])
        return sorted(torch.cat(picks).tolist())


def kind_of(values: Sequence[str]) -> Kind:
    """The kind of a label column with these values; whole numbers are numbers of classes."""
    if any(SEPARATOR in value for value in values):
        return "multi"
    numbers = [_number(value) for value in values]
    if values and all(n is not None for n in numbers) and not all(map(_whole, values)):
        return "number"
    return "class"


def target_of(column: Tensor, values: Sequence[str], kind: Kind, label: str = "") -> Target:
    """The labels of a column of class numbers `N` (-1: none) whose values are named `values`."""
    if kind == "class":
        return Target(kind, tuple(values), column)
    if kind == "number":
        names: tuple[str, ...] = (label,)
        numbers = [_number(value) for value in values]
        wrong = next((v for v, n in zip(values, numbers, strict=True) if n is None), None)
        if wrong is not None:
            raise UserError(f"the label {label!r} is to be a number, and one value is {wrong!r}")
        table = torch.tensor([[n] for n in numbers], dtype=torch.float64)
    else:
        parts = [[p.strip() for p in v.split(SEPARATOR) if p.strip()] for v in values]
        names = tuple(sorted({p for several in parts for p in several}))
        rows = [[float(name in several) for name in names] for several in parts]
        table = torch.tensor(rows, dtype=torch.float64)
    y = torch.full((len(column), len(names)), torch.nan, dtype=torch.float64)
    y[column >= 0] = table[column[column >= 0]]
    return Target(kind, names, y)


def _number(value: str) -> float | None:
    try:
        return float(value)
    except ValueError:
        return None


def _whole(value: str) -> bool:
    return value.lstrip("-").isdecimal()


def loss_of(kind: Kind, out: Tensor, target: Tensor) -> Tensor:
    """The loss of outputs `... K` against dense targets `... K`, not averaged: `...`, nats.

    Cross entropy, binary cross entropy summed over the labels, or half the squared error.
    """
    if kind == "class":
        return -(target * out.log_softmax(-1)).sum(-1)
    if kind == "multi":
        return (F.softplus(out) - target * out).sum(-1)
    return (out - target).square().sum(-1) / 2


def answer_of(kind: Kind, out: Tensor) -> Tensor:
    """Outputs as what may be averaged over views: probabilities, or the values themselves."""
    if kind == "class":
        return out.softmax(-1)
    return out.sigmoid() if kind == "multi" else out
