"""From the answers of a probe to figures with intervals: top-1, top-5, mAP, R2.

Shapes: `S` seeds or draws of a probe, `M` held-out videos, `K` outputs, `R` draws of a bootstrap.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .intervals import (
    Interval,
    bootstrap_accuracy,
    bootstrap_statistic,
    paired_difference,
    wilson,
)
from .labels import Kind, Target

METRIC: Final[dict[Kind, str]] = {"class": "top1", "multi": "mAP", "number": "r2"}
Groups = Sequence[Hashable] | None
Weights = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Outcome:
    """What a probe answered on the held-out videos.

    Attributes:
        scores: `S M K`, the higher the likelier, or numbers; a row for every seed or draw.
        chosen: hyper-parameters by name, one list entry for each of `S` (or one for all).
        labelled: training videos that it learned from.
    """

    scores: Tensor
    chosen: list[dict[str, float]] = field(default_factory=list)
    labelled: int = 0


def groups_of(names: Sequence[str] | None, target: Target) -> Groups:
    """The groups of the labelled videos, for intervals.

    Numbered anew in each class, as UCF101's are: a pair of group and class is a group.
    """
    if names is None:
        return None
    kept = target.known.tolist()
    classes = target.y.tolist() if target.kind == "class" else [0] * len(kept)
    return [pair for pair, keep in zip(zip(names, classes, strict=True), kept, strict=True) if keep]


def right_of(outcome: Outcome, target: Target) -> Tensor:
    """Whether each labelled held-out video is right, for every seed or draw: float64 `S M`."""
    known = target.known
    return (outcome.scores[:, known].argmax(-1) == target.y[known]).double()


def hits_of(outcome: Outcome, target: Target) -> Tensor:
    """The share of the draws in which each labelled held-out video is right: float64 `M`."""
    return right_of(outcome, target).mean(0)


def accuracy_interval(hits: Tensor, groups: Groups) -> Interval:
    """Wilson's interval where clips are independent, the bootstrap over groups where not."""
    if groups is None:
        return wilson(float(hits.sum()), len(hits))
    return bootstrap_accuracy(hits.tolist(), groups)


def judge(outcome: Outcome, target: Target, groups: Groups) -> dict[str, Any]:
    """The figures of one probe: its metric with an interval, and what goes with it."""
    if target.kind != "class":
        return _judge_other(outcome, target, groups)
    found = accuracy_interval(hits_of(outcome, target), groups)
    row = _row("top1", found)
    known = target.known
    scores, y = outcome.scores[:, known], target.y[known]
    row["by_seed"] = [float(value) for value in right_of(outcome, target).mean(1)]
    if scores.shape[-1] > 5:
        top = scores.topk(5, dim=-1).indices
        row["top5"] = float((top == y[:, None]).any(-1).double().mean())
    row["confusion"] = confusion(scores.argmax(-1), y, scores.shape[-1]).tolist()
    return row


def confusion(predicted: Tensor, truth: Tensor, classes: int) -> Tensor:
    """Videos of class `i` that were called `j`, `K K`, a mean over seeds `S M`."""
    cell = truth * classes + predicted  # S M
    counts = torch.bincount(cell.flatten(), minlength=classes**2).view(classes, classes)
    return counts.double() / len(predicted)


def gain(ours: Outcome, theirs: Outcome, target: Target, groups: Groups) -> Interval:
    """The metric of one probe minus that of another, on the same draws of the same videos."""
    if target.kind == "class":
        pair = (hits_of(ours, target).tolist(), hits_of(theirs, target).tolist())
        return paired_difference(*pair, groups)

    def difference(weights: Weights) -> Floats:
        return _metric(ours, target, weights) - _metric(theirs, target, weights)

    return bootstrap_statistic(difference, int(target.known.sum()), groups)


def _judge_other(outcome: Outcome, target: Target, groups: Groups) -> dict[str, Any]:
    count = int(target.known.sum())
    found = bootstrap_statistic(lambda weights: _metric(outcome, target, weights), count, groups)
    row = _row(METRIC[target.kind], found)
    alone = [Outcome(part[None]) for part in outcome.scores]
    once = np.ones((1, count), np.int64)
    row["by_seed"] = [float(_metric(one, target, once)[0]) for one in alone]
    if target.kind == "number":
        error = outcome.scores[:, target.known] - target.y[target.known]
        row["mean_absolute_error"] = float(error.abs().mean())
    return row


def _row(metric: str, found: Interval) -> dict[str, Any]:
    return {"metric": metric, "value": found.value, "interval": [found.low, found.high]}


def _metric(outcome: Outcome, target: Target, weights: Weights) -> Floats:
    """The mAP or R2 in each draw `R`, of clips that were drawn `weights` (`R M`) times."""
    known = target.known
    y = target.y[known].numpy()
    every = outcome.scores[:, known].double().numpy()
    measure = mean_average_precision if target.kind == "multi" else r_squared
    found: Floats = np.mean([measure(scores, y, weights) for scores in every], axis=0)
    return found


def mean_average_precision(scores: Floats, truth: Floats, weights: Weights) -> Floats:
    """The mean over labels of the average precision, in each draw: `R`.

    The average precision is scikit-learn's: the sum over ranks of precision times gain in recall;
    labels that no clip of a draw has are left out of its mean.

    Args:
        scores: `M K`.
        truth: 0 or 1, `M K`.
        weights: how often each clip was drawn, `R M`.
    """
    found = []
    for score, is_true in zip(scores.T, truth.T, strict=True):
        order = np.argsort(-score, kind="stable")
        drawn = weights[:, order]
        right = drawn * is_true[order]
        # Clips of equal score enter together: the precision of a tie is that of its last clip.
        last = np.flatnonzero(np.append(np.diff(score[order]) != 0, True))
        hits, seen = right.cumsum(1)[:, last], drawn.cumsum(1)[:, last]
        gained = np.diff(hits, axis=1, prepend=0)
        total = hits[:, -1].astype(np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            found.append((gained * np.nan_to_num(hits / seen)).sum(1) / total)
    each = np.array(found)  # K R
    present = np.isfinite(each)
    with np.errstate(invalid="ignore"):
        mean: Floats = np.where(present, each, 0.0).sum(0) / present.sum(0)
    return mean


def r_squared(values: Floats, truth: Floats, weights: Weights) -> Floats:
    """One minus squared error over variance in each draw: `R`; 0 is the mean, 1 is right.

    Args:
        values: `M 1`.
        truth: `M 1`.
        weights: how often each clip was drawn, `R M`.
    """
    y, error = truth[:, 0], (values[:, 0] - truth[:, 0]) ** 2
    count = weights.sum(1)
    mean = weights @ y / count
    spread = weights @ y**2 / count - mean**2
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Floats = 1 - (weights @ error / count) / spread
    return found
