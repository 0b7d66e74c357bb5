"""The ways of asking frozen features for a label, each from features to an `Outcome`.

`pretrain` and `probe` ask through these, so that a figure of the one is a figure of the other.

Shapes: `N` training videos, `M` held-out videos, `D` width, `K` outputs, `S` draws of few labels.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from .knn import knn_scores
from .labels import Target
from .probes import fit_linear
from .scores import Outcome

Draws = Sequence[Sequence[int]]  # rows of the training videos that may be learned from


def linear_outcome(
    train: Tensor,
    target: Target,
    test: Tensor,
    draws: Draws,
    groups: Sequence[Hashable] | None = None,
) -> Outcome:
    """A regularised linear map, fitted once for each of `draws`.

    Args:
        train: features `N D`.
        target: labels of the training videos.
        test: features `M D`.
        draws: `S` lists of rows.
        groups: `N` names; videos of one group stay in one fold of the cross validation.
    """
    scores, chosen = [], []
    for rows in draws:
        of = None if groups is None else [groups[i] for i in rows]
        found = fit_linear(train[list(rows)], _present(target.rows(rows)), groups=of)
        scores.append(_padded(found.model.logits(test), len(target.names)))
        chosen.append({"C": found.strength})
    return Outcome(torch.stack(scores), chosen, len(draws[0]))


def knn_outcome(train: Tensor, target: Target, test: Tensor, draws: Draws, k: int = 20) -> Outcome:
    """What the `k` nearest training videos say; arguments as in `linear_outcome`."""
    scores = []
    for rows in draws:
        some = target.rows(rows)
        kept = some.known.nonzero()[:, 0]
        votes = some.rows(kept).dense()
        scores.append(knn_scores(train[list(rows)][kept], votes, test, k=k))
    return Outcome(torch.stack(scores), [{"k": float(k)}], len(draws[0]))


def _present(target: Target) -> Target:
    """Classes up to the last one that is there: one without an example has no optimum."""
    if target.kind != "class":
        return target
    return Target(target.kind, target.names[: int(target.y.max()) + 1], target.y)


def _padded(scores: Tensor, outputs: int) -> Tensor:
    lack = outputs - scores.shape[1]
    return torch.nn.functional.pad(scores, (0, lack), value=-torch.inf) if lack else scores
