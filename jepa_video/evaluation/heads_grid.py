"""Many probes trained at once: learning rates, weight decays and seeds as one batch of heads.

Tokens are read once for all heads; every parameter is one tensor with the heads in front. A head
learns with its own rate, decay and first weights, and from its own videos: rows of weight zero are
held out for it. What a head learns is the same as if it were trained alone.

Shapes: `H` heads, `N` videos, `V` views of a video, `T` tokens, `D` width, `K` outputs, `B` batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..errors import UserError
from ..models.heads import AttentiveProbe
from ..randomness import PROBE, generator, seed_of
from .labels import Kind, Target, answer_of, loss_of
from .probes import fold_of
from .scores import Outcome

Rows = npt.NDArray[np.int64]


class Tokens(Protocol):
    """Tokens `N V T D`, on disk or in memory: an array, or some rows of one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """`N V T D`."""

    def __len__(self) -> int:
        """`N`."""

    def __getitem__(self, key: Any, /) -> Any:
        """Rows, or rows and their views."""


Told = Callable[[int, int], None]
_WARM: float = 0.1  # part of the steps in which the rate rises
_BETAS, _EPS = (0.9, 0.999), 1e-8


@dataclass
class AttentiveSettings:
    """How attentive probes are trained.

    Args:
        depths: of the poolers, each a row of the table; 0 is a linear head on the mean token.
        rates: learning rates to choose from.
        decays: weight decays to choose from.
        epochs: passes over the training videos, each through one of its views.
        batch: videos of a step.
        folds: into which the training groups are cut to choose rate and decay.
        held: so many of these folds are held out in turn.
    """

    depths: list[int] = field(default_factory=lambda: [1, 4])
    rates: list[float] = field(default_factory=lambda: [3e-4, 1e-3, 3e-3])
    decays: list[float] = field(default_factory=lambda: [0.01, 0.4])
    epochs: int = 20
    batch: int = 16
    folds: int = 5
    held: int = 1

    def __post_init__(self) -> None:
        for name, low in (("epochs", 1), ("batch", 1), ("folds", 2), ("held", 1)):
            if getattr(self, name) < low:
                raise UserError(
                    f"attentive.{name} must be {low} or more, not {getattr(self, name)}"
                )
        if not self.rates or min(self.rates) <= 0:
            raise UserError(f"attentive.rates must be numbers above 0, not {self.rates}")
        if not self.decays or min(self.decays) < 0 or min(self.depths, default=0) < 0:
            raise UserError("attentive.decays and attentive.depths must be 0 or more")
        if self.held > self.folds:
            raise UserError("attentive.held must not exceed attentive.folds")


@dataclass(frozen=True)
class Heads:
    """Heads of one architecture: the module, and every parameter with `H` in front."""

    module: nn.Module
    weights: dict[str, Tensor]

    def __call__(self, tokens: Tensor) -> Tensor:
        """`B T D` to `H B K`."""

        def one(weights: dict[str, Tensor]) -> Tensor:
            out: Tensor = functional_call(self.module, weights, (tokens,))
            return out

        # The fused kernels have no rule for a batch of weights and would run head by head.
        with sdpa_kernel(SDPBackend.MATH):
            answer: Tensor = vmap(one)(self.weights)
        return answer


def make_heads(make: Callable[[], nn.Module], seeds: Sequence[int], device: torch.device) -> Heads:
    """A head for each seed; the same seed gives the same first weights."""
    first = {}
    for seed in dict.fromkeys(seeds):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of(seed, PROBE))
            first[seed] = make()
    names = [name for name, _ in first[seeds[0]].named_parameters()]
    states = {seed: dict(module.named_parameters()) for seed, module in first.items()}
    weights = {
        name: torch.stack([states[seed][name].detach() for seed in seeds]).to(device)
        for name in names
    }
    return Heads(first[seeds[0]].to(device), weights)


def train_heads(
    heads: Heads,
    tokens: Tokens,
    target: Target,
    seen: Tensor,
    rates: Sequence[float],
    decays: Sequence[float],
    settings: AttentiveSettings,
    *,
    seed: int = 0,
    told: Told | None = None,
) -> None:
    """Train all heads in place, in one pass over the tokens for each epoch (AdamW, cosine).

    Args:
        heads: `H` of them.
        tokens: `N V T D`.
        target: of the `N` videos, all of them known.
        seen: how much each video counts for each head, `H N`.
        rates: learning rate of each head, `H`.
        decays: weight decay of each head, `H`.
        settings: epochs and batch.
        seed: of the order of the videos and the choice of views.
        told: called with steps done and to do.
    """
    device = next(iter(heads.weights.values())).device
    dense, seen = target.dense().float().to(device), seen.to(device)
    step_of = _AdamW(heads.weights, rates, decays)
    total = settings.epochs * math.ceil(len(seen[0]) / settings.batch)
    for step, (rows, views) in enumerate(_batches(len(seen[0]), tokens.shape[1], settings, seed)):
        x = _read(tokens, rows, views, device)
        index = torch.from_numpy(rows).to(device)
        loss = loss_of(target.kind, heads(x), dense[index])  # H B
        share = seen[:, index]
        loss = (loss * share).sum(1) / share.sum(1).clamp(min=1.0)
        step_of(torch.autograd.grad(loss.sum(), list(heads.weights.values())), step, total)
        if told is not None:
            told(step + 1, total)


def _batches(
    count: int, views: int, settings: AttentiveSettings, seed: int
) -> Iterator[tuple[Rows, Rows]]:
    """Videos of each step and the view through which each is seen."""
    for epoch in range(settings.epochs):
        source = generator(seed, PROBE, epoch)
        order = torch.randperm(count, generator=source)
        view = torch.randint(views, (count,), generator=source)
        for rows in torch.split(order, settings.batch):
            yield rows.numpy(), view[rows].numpy()


def _read(tokens: Tokens, rows: Rows, views: Rows, device: torch.device) -> Tensor:
    return torch.from_numpy(np.asarray(tokens[rows, views], np.float32)).to(device)


class _AdamW:
    """AdamW with a learning rate and a weight decay for each head (Loshchilov and Hutter 2019)."""

    def __init__(
        self, weights: dict[str, Tensor], rates: Sequence[float], decays: Sequence[float]
    ) -> None:
        self.weights = [weight.requires_grad_() for weight in weights.values()]
        self.first = [torch.zeros_like(weight) for weight in self.weights]
        self.second = [torch.zeros_like(weight) for weight in self.weights]
        device = self.weights[0].device
        self.rates = torch.tensor(list(rates), device=device)
        # Gains and biases, of one number a channel, do not shrink.
        self.decays = [
            torch.tensor(list(decays), device=device) * float(weight.ndim > 2)
            for weight in self.weights
        ]

    @torch.no_grad()
    def __call__(self, grads: Sequence[Tensor], step: int, total: int) -> None:
        """One step; the rate rises for a tenth of the way and falls as a cosine to zero."""
        warm = max(1, int(_WARM * total))
        scale = (step + 1) / warm if step < warm else _cosine((step - warm) / (total - warm))
        rate = self.rates * scale
        fix = (1 - _BETAS[0] ** (step + 1), 1 - _BETAS[1] ** (step + 1))
        for i, (weight, grad) in enumerate(zip(self.weights, grads, strict=True)):
            shape = (-1,) + (1,) * (weight.ndim - 1)
            self.first[i].lerp_(grad, 1 - _BETAS[0])
            self.second[i].lerp_(grad.square(), 1 - _BETAS[1])
            change = (self.first[i] / fix[0]) / ((self.second[i] / fix[1]).sqrt() + _EPS)
            weight.mul_(1 - (rate * self.decays[i]).view(shape))
            weight.sub_(rate.view(shape) * change)


def _cosine(share: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * share))


@torch.no_grad()
def answers(
    heads: Heads, tokens: Tokens, kind: Kind, rows: Tensor | None = None, batch: int = 16
) -> Tensor:
    """Answers `H N K` on the CPU: probabilities or values, averaged over the views of a video.

    Args:
        heads: `H` of them.
        tokens: `N V T D`.
        kind: of the label.
        rows: the videos that are asked about; None asks about all.
        batch: videos at a time.
    """
    device = next(iter(heads.weights.values())).device
    parts = []
    for some in torch.split(torch.arange(len(tokens)) if rows is None else rows, batch):
        x = np.asarray(tokens[some.numpy()], np.float32)  # B V T D
        b, v = x.shape[:2]
        out = heads(torch.from_numpy(x).flatten(0, 1).to(device))  # H BV K
        answer = answer_of(kind, out).view(len(out), b, v, -1)
        parts.append(answer.mean(2).cpu())
    return torch.cat(parts, 1)


def attentive_probe(
    train: Tokens,
    target: Target,
    test: Tokens,
    *,
    depth: int,
    seeds: int,
    settings: AttentiveSettings,
    groups: Sequence[Hashable] | None = None,
    device: torch.device | str = "cpu",
    told: Told | None = None,
) -> Outcome:
    """Choose rate and decay on held-out training groups, then train a head for each seed on all.

    Args:
        train: tokens `N V T D` of the training videos.
        target: their labels, all known.
        test: tokens `M V T D` of the held-out videos.
        depth: of the pooler.
        seeds: heads that are trained with what was chosen.
        settings: of the training.
        groups: `N` names; clips of one group then stay in one fold.
        device: where to train.
        told: called with steps done and to do, of both passes.
    """
    device, width = torch.device(device), train.shape[-1]
    fitted, unit = _standardised(target)
    pairs = [(rate, decay) for rate in settings.rates for decay in settings.decays]
    passes = 2 if len(pairs) > 1 else 1

    def fit(seen: Tensor, chosen: list[tuple[float, float]], first: list[int], part: int) -> Heads:
        heads = make_heads(lambda: AttentiveProbe(width, len(target.names), depth), first, device)
        rates, decays = zip(*chosen, strict=True)

        def count(done: int, total: int) -> None:
            if told is not None:
                told(part * total + done, passes * total)

        train_heads(heads, train, fitted, seen, rates, decays, settings, told=count)
        return heads

    best = pairs[0]
    if len(pairs) > 1:
        best = _choose(fit, train, fitted, groups, pairs, settings)
    heads = fit(torch.ones(seeds, len(train)), [best] * seeds, list(range(seeds)), passes - 1)
    scores = answers(heads, test, fitted.kind) * unit[1] + unit[0]
    return Outcome(scores, [{"rate": best[0], "decay": best[1]}], len(train))


def _choose(
    fit: Callable[[Tensor, list[tuple[float, float]], list[int], int], Heads],
    train: Tokens,
    target: Target,
    groups: Sequence[Hashable] | None,
    pairs: list[tuple[float, float]],
    settings: AttentiveSettings,
) -> tuple[float, float]:
    """The pair with the lowest loss on held-out folds, all pairs and folds trained in one pass."""
    fold = fold_of(target.strata(), groups, settings.folds)
    held = [fold == k for k in range(settings.held) if 0 < int((fold == k).sum()) < len(fold)]
    if not held:
        return pairs[len(pairs) // 2]
    unseen = torch.stack([part for part in held for _ in pairs])  # folds x pairs, N
    heads = fit((~unseen).float(), pairs * len(held), [0] * len(unseen), 0)
    rows = unseen.any(0).nonzero()[:, 0]
    answer = answers(heads, train, target.kind, rows).double()
    loss = _loss_of_answer(target.kind, answer, target.dense()[rows])
    total = (loss * unseen[:, rows]).sum(1).view(len(held), len(pairs)).sum(0)
    return pairs[int(total.argmin())]


def _loss_of_answer(kind: Kind, answer: Tensor, dense: Tensor) -> Tensor:
    """The loss of averaged probabilities, or values, `H N K`: `H N`."""
    if kind == "number":
        return (answer - dense).square().sum(-1)
    p = answer.clamp(1e-12, 1 - 1e-12)
    rest = torch.zeros_like(p) if kind == "class" else (1 - dense) * (1 - p).log()
    return -(dense * p.log() + rest).sum(-1)


def _standardised(target: Target) -> tuple[Target, tuple[float, float]]:
    """Numbers with zero mean and unit spread, and how to undo it; others as they are."""
    if target.kind != "number":
        return target, (0.0, 1.0)
    unit = float(target.y.mean()), max(float(target.y.std(correction=0)), 1e-12)
    return Target(target.kind, target.names, (target.y - unit[0]) / unit[1]), unit
