"""Contrastive terms: push the energy up where the pair is wrong, instead of limiting low energy.

They act on pairs: `pred` `[B, D]` is what x says about y, `target` `[B, D]` is y. The negatives are
the targets of all other clips of the global batch, gathered with their gradient, so that the loss
of several ranks is that of one process on the whole batch; counts may differ between ranks. What
that costs is the point of the comparison: a push in D dimensions needs a number of negatives that
grows with D (LeCun 2022, section 4.3), where a regulariser needs none.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..distributed import all_sum, gather_rows
from .distances import widen


class Contrastive(nn.Module):
    """Term on pairs of prediction and target: `[B, D], [B, D]` -> weighted scalar terms by name."""

    def forward(self, pred: Tensor, target: Tensor) -> dict[str, Tensor]:
        """The term `contrastive`, averaged over the pairs of all ranks.

        Raises:
            ValueError: where the global batch has no negative, or the two shapes differ.
        """
        if pred.shape != target.shape or pred.dim() != 2:
            raise ValueError(
                "a contrastive term needs predictions and targets of one shape [B, D], "
                f"got {tuple(pred.shape)} and {tuple(target.shape)}"
            )
        with torch.autocast(pred.device.type, enabled=False):
            return {"contrastive": self.term(widen(pred), widen(target))}

    def term(self, pred: Tensor, target: Tensor) -> Tensor:
        """The weighted term for `[B, D], [B, D]` in full precision; `[]`."""
        raise NotImplementedError


class NoContrast(Contrastive):
    """Pushes nothing up: what keeps the energy from being flat must be elsewhere."""

    def forward(self, pred: Tensor, target: Tensor) -> dict[str, Tensor]:
        """No terms."""
        return {}


def _global_mean(values: Tensor) -> Tensor:
    """Mean of `[N]` over the entries of all ranks, differentiable; `[]`."""
    packed = all_sum(torch.stack([values.sum(), values.new_full((), values.numel())]))
    mean: Tensor = packed[0] / packed[1].detach()
    return mean


def _everyone(target: Tensor) -> tuple[Tensor, Tensor]:
    """Targets of all ranks `[G, D]` and, for each own pair, which of them is its own `[B]`."""
    everyone, begin = gather_rows(target)
    if len(everyone) < 2:
        raise ValueError("a contrastive term needs at least 2 pairs, so that there is a negative")
    return everyone, begin + torch.arange(len(target), device=target.device)


class InfoNCE(Contrastive):
    """Names the own target among all targets (van den Oord et al. 2018, arXiv 1807.03748, eq. 4).

    Softmax cross-entropy over cosine similarities divided by `temperature`.

    Args:
        temperature: of the softmax; small pushes the hardest negatives most.
        weight: factor of the term.
        symmetric: also name the own prediction among all predictions, and average the two.
    """

    def __init__(
        self, temperature: float = 0.1, weight: float = 1.0, symmetric: bool = False
    ) -> None:
        super().__init__()
        self.temperature, self.weight, self.symmetric = temperature, weight, symmetric

    def term(self, pred: Tensor, target: Tensor) -> Tensor:
        """Mean cross-entropy in nats times the weight."""
        pred, target = F.normalize(pred, dim=-1), F.normalize(target, dim=-1)
        loss = self._one_way(pred, target)
        if self.symmetric:
            loss = (loss + self._one_way(target, pred)) / 2
        return self.weight * loss

    def _one_way(self, query: Tensor, key: Tensor) -> Tensor:
        keys, own = _everyone(key)
        logits = query @ keys.T / self.temperature  # [B, G]
        return _global_mean(F.cross_entropy(logits, own, reduction="none"))


class Hinge(Contrastive):
    """Hinge whose margin grows with how far the wrong target lies from the right one.

    `max(0, E(x, y) + m(y, y') - E(x, y'))` over all wrong y' (LeCun 2022, section 4.3), with E the
    mean squared distance and `m = margin * d(y, y') / mean of d`: the nearly right target is pushed
    a little, the far one a lot. Dividing by the mean frees the margin from the scale of the states;
    without it, shrinking all of them to a point would meet every margin.

    Args:
        margin: mean margin, in units of the energy.
        weight: factor of the term.
        distance_dependent: False asks for the same margin from every negative.
    """

    def __init__(
        self, margin: float = 1.0, weight: float = 1.0, distance_dependent: bool = True
    ) -> None:
        super().__init__()
        self.margin, self.weight = margin, weight
        self.distance_dependent = distance_dependent

    def term(self, pred: Tensor, target: Tensor) -> Tensor:
        """Mean hinge over own predictions and their wrong targets, times the weight."""
        targets, own = _everyone(target)
        wrong = torch.ones(len(pred), len(targets), dtype=torch.bool, device=pred.device)
        wrong[torch.arange(len(pred), device=pred.device), own] = False
        true = (pred - target).square().mean(-1, keepdim=True)  # [B, 1]
        hinge = torch.relu(true + self._margins(target, targets, wrong) - _squared(pred, targets))
        return self.weight * _global_mean(hinge[wrong])

    def _margins(self, target: Tensor, targets: Tensor, wrong: Tensor) -> Tensor:
        """Margin asked from each wrong target `[B, G]`; a constant of the optimisation."""
        if not self.distance_dependent:
            return self.margin * torch.ones_like(wrong, dtype=target.dtype)
        with torch.no_grad():
            apart = _squared(target, targets)
            mean = _global_mean(apart[wrong])
            return self.margin * torch.where(mean > 0, apart / mean, torch.ones_like(apart))


def _squared(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared difference of every pair, `[B, D], [G, D] -> [B, G]`, without a [B, G, D]."""
    centre = b.detach().mean(0)  # squares of large means would swallow small distances
    a, b = a - centre, b - centre
    squares = a.square().sum(-1, keepdim=True) + b.square().sum(-1) - 2 * a @ b.T
    return squares.clamp_min(0) / a.shape[-1]
