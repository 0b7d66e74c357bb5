"""The linear probe: a regularised linear map of frozen features, cross-validated.

Features are standardised by the training part. The penalty is chosen by k-fold cross validation
within the training part alone; the test part is looked at once. The objective is scikit-learn's,

    C * sum_i CE(y_i, softmax(W x_i + b)) + |W|^2 / 2        (the bias b is free),

so that a probe can be checked against `LogisticRegression(C=C)`. Labels of which a video has
several get a logistic regression each, numbers ridge regression, under the same penalty.

Shapes: `N` training clips, `M` test clips, `D` width, `K` classes or outputs.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor

from jepa_video.errors import UserError

from .labels import Kind, Target, answer_of, loss_of

GRID: Final = tuple(10.0 ** (half / 2) for half in range(-10, 3))  # C from 1e-5 to 10
_PATIENCE: Final = 2  # grid points without a gain after which weaker penalties are not tried


@dataclass(frozen=True)
class ProbeResult:
    """What a probe found.

    Attributes:
        accuracy: share of the labelled test clips that are right, 0..1.
        predictions: classes `M`.
        correct: `M`, bool; False where a test clip has no label.
        strength: the chosen C, the inverse of the penalty.
        validation: mean cross-validated cross entropy at that C, nats.
    """

    accuracy: float
    predictions: Tensor
    correct: Tensor
    strength: float
    validation: float


@dataclass(frozen=True)
class LogisticModel:
    """A fitted linear map: `weight` `D K`, `bias` `K`, the scale of the features `D`."""

    weight: Tensor
    bias: Tensor
    mean: Tensor
    scale: Tensor

    def logits(self, x: Tensor) -> Tensor:
        """Unnormalised log probabilities, or numbers, `M K` of features `M D`."""
        return (x.double() - self.mean) / self.scale @ self.weight + self.bias


def linear_probe(
    train_x: Tensor,
    train_y: Tensor,
    test_x: Tensor,
    test_y: Tensor,
    *,
    groups: Sequence[Hashable] | None = None,
    grid: Sequence[float] = GRID,
    folds: int = 5,
    seed: int = 0,
) -> ProbeResult:
    """Fit on the training part, choose C there by cross validation, measure on the test part.

    Args:
        train_x: features `N D`.
        train_y: classes `N` from 0; -1 means no label, and the clip is left out.
        test_x: features `M D`.
        test_y: classes `M`, -1 as above.
        groups: `N` names; clips of one group then stay in one fold.
        grid: values of C, ascending.
        folds: of the cross validation.
        seed: of the folds.

    Raises:
        UserError: fewer than two classes are labelled in the training part.
    """
    classes = tuple(map(str, range(max(2, int(train_y.max()) + 1))))
    target = Target("class", classes, train_y.long())
    found = fit_linear(train_x, target, groups=groups, grid=grid, folds=folds, seed=seed)
    predictions = found.model.logits(test_x).argmax(1)
    correct = predictions == test_y
    accuracy = float(correct[test_y >= 0].double().mean())
    return ProbeResult(accuracy, predictions, correct, found.strength, found.validation)


@dataclass(frozen=True)
class LinearFit:
    """A linear map, the C that was chosen for it, and its cross-validated loss in nats."""

    model: LogisticModel
    strength: float
    validation: float


def fit_linear(
    x: Tensor,
    target: Target,
    *,
    groups: Sequence[Hashable] | None = None,
    grid: Sequence[float] = GRID,
    folds: int = 5,
    seed: int = 0,
) -> LinearFit:
    """Fit the labelled rows of `x` (`N D`), with C chosen by cross validation among them.

    Arguments are those of `linear_probe`.

    Raises:
        UserError: the labels do not differ.
    """
    kept = target.known
    if groups is not None:
        groups = [group for group, keep in zip(groups, kept.tolist(), strict=True) if keep]
    x, target = x[kept], target.rows(kept.nonzero()[:, 0])
    if not len(x) or bool((target.y == target.y[0]).all()):
        raise UserError("a linear probe needs labelled training clips of at least two classes")
    dense, unit = target.dense(), (0.0, 1.0)
    if target.kind == "number":
        unit = (float(dense.mean()), float(dense.std(correction=0)))
        dense = (dense - unit[0]) / unit[1]
    strength, validation = grid[0], float("nan")
    if len(grid) > 1:
        fold = fold_of(target.strata(), groups, folds, seed)
        strength, validation = _choose(x, dense, target.kind, fold, grid)
    problem = _Problem(x, dense, target.kind)
    problem.solve(strength)
    model = problem.model()
    if target.kind == "number":
        model = replace(model, weight=model.weight * unit[1], bias=model.bias * unit[1] + unit[0])
    return LinearFit(model, strength, validation)


def fit_logistic(
    x: Tensor, y: Tensor, strength: float, *, classes: int | None = None
) -> LogisticModel:
    """Softmax regression of `y` (`N`) on standardised `x` (`N D`) with C = `strength`."""
    problem = _Problem(x, _one_hot(y, classes), "class")
    problem.solve(strength)
    return problem.model()


def choose_strength(
    x: Tensor, y: Tensor, fold: Tensor, grid: Sequence[float] = GRID
) -> tuple[float, float]:
    """The C with the lowest cross entropy on held-out folds, and that cross entropy in nats.

    Cross entropy and not accuracy: with twenty clips a class one clip more or less decides nothing.
    The path goes from the strongest penalty to weaker ones, each fit starting from the one before,
    and ends when it has not gained for a while.

    Args:
        x: features `N D`.
        y: classes `N`.
        fold: `N`, the number of the fold in which a clip is held out.
        grid: values of C, ascending.
    """
    return _choose(x, _one_hot(y), "class", fold, grid)


def _one_hot(y: Tensor, classes: int | None = None) -> Tensor:
    return Target("class", ("",) * (classes or int(y.max()) + 1), y.long()).dense()


def _choose(
    x: Tensor, target: Tensor, kind: Kind, fold: Tensor, grid: Sequence[float]
) -> tuple[float, float]:
    """`choose_strength` for dense targets `N K`."""
    parts = [fold == k for k in range(int(fold.max()) + 1)]
    parts = [held for held in parts if held.any() and not held.all()]
    problems = [_Problem(x[~held], target[~held], kind) for held in parts]
    best, best_loss, waited = grid[0], float("inf"), 0
    for strength in grid:
        total = 0.0
        for held, problem in zip(parts, problems, strict=True):
            problem.solve(strength)
            logits = problem.model().logits(x[held])
            total += float(loss_of(kind, logits, target[held]).sum())
        loss = total / len(x)
        if loss < best_loss:
            best, best_loss, waited = strength, loss, 0
        else:
            waited += 1
        if waited == _PATIENCE:
            break
    return best, best_loss


def fold_of(
    y: Tensor, groups: Sequence[Hashable] | None = None, folds: int = 5, seed: int = 0
) -> Tensor:
    """The fold of each clip, `N`: every class spread evenly, no group in two folds."""
    generator = torch.Generator().manual_seed(seed)
    names: Sequence[Hashable] = range(len(y)) if groups is None else groups
    members: dict[Hashable, list[int]] = {}
    for i, name in enumerate(names):
        members.setdefault(name, []).append(i)
    units = list(members.values())
    order = torch.randperm(len(units), generator=generator).tolist()
    fold = torch.zeros(len(y), dtype=torch.int64)
    load = torch.zeros(folds, int(y.max()) + 1)
    # Greedy: a unit goes where its classes are rarest so far, then where there are fewest clips.
    for unit in sorted((units[i] for i in order), key=len, reverse=True):
        count = torch.bincount(y[unit], minlength=load.shape[1]).float()
        cost = (load * count).sum(1) + 1e-3 * load.sum(1)
        chosen = int(cost.argmin())
        fold[unit] = chosen
        load[chosen] += count
    return fold


class _Problem:
    """One training set, solved for one C after another, each from the solution before.

    The features are standardised and, where there are fewer clips than dimensions, rotated into
    the space that the clips span: no rotation changes the penalty, and the optimum lies there.
    """

    def __init__(self, x: Tensor, target: Tensor, kind: Kind) -> None:
        x = x.detach().double()
        self.mean = x.mean(0)
        spread = x.std(0, correction=0)
        self.scale = torch.where(spread > 1e-8 * x.abs().amax(), spread, 1.0)
        x = (x - self.mean) / self.scale
        self.basis: Tensor | None = None
        if x.shape[0] < x.shape[1]:
            self.basis = torch.linalg.qr(x.T).Q  # D N
            x = x @ self.basis
        self.x = x
        self.target, self.kind = target.double(), kind
        self.solution = torch.zeros(x.shape[1] + 1, target.shape[1], dtype=torch.float64)

    def solve(self, strength: float) -> None:
        """Minimise by L-BFGS; the gradient is written out, which is most of the speed."""
        x, target, count = self.x, self.target, len(self.x)
        penalty = 1 / (strength * count)
        point = self.solution.requires_grad_(False)
        optimiser = torch.optim.LBFGS(
            [point], max_iter=500, tolerance_grad=1e-6, tolerance_change=1e-10,
            history_size=20, line_search_fn="strong_wolfe",
        )  # fmt: skip

        def closure() -> Tensor:
            weight, bias = point[:-1], point[-1]
            out = x @ weight + bias
            # The three losses have one gradient: what is answered minus what is true.
            error = (answer_of(self.kind, out) - target) / count
            point.grad = torch.cat([x.T @ error + penalty * weight, error.sum(0, keepdim=True)])
            loss = loss_of(self.kind, out, target).sum() / count
            return loss + penalty / 2 * weight.square().sum()

        optimiser.step(closure)  # type: ignore[no-untyped-call]
        point.grad = None

    def model(self) -> LogisticModel:
        """The solution in the space of the features."""
        weight, bias = self.solution[:-1], self.solution[-1]
        weight = weight if self.basis is None else self.basis @ weight
        return LogisticModel(weight.clone(), bias.clone(), self.mean, self.scale)
