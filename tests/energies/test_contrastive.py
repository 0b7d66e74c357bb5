from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from jepa_video.energies.contrastive import Contrastive, Hinge, InfoNCE


def pairs(n: int = 6, d: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, d, generator=generator).double()
    return x + 2, x + 2 + 0.5 * torch.randn(n, d, generator=generator).double()


def info_nce_in_words(pred: list[list[float]], target: list[list[float]], heat: float) -> float:
    def cosine(a: list[float], b: list[float]) -> float:
        return sum(u * v for u, v in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)

    total = 0.0
    for i, p in enumerate(pred):
        scores = [math.exp(cosine(p, t) / heat) for t in target]
        total -= math.log(scores[i] / sum(scores))
    return total / len(pred)


def test_info_nce_equals_the_published_formula() -> None:
    pred, target = pairs()
    there = info_nce_in_words(pred.tolist(), target.tolist(), 0.2)
    back = info_nce_in_words(target.tolist(), pred.tolist(), 0.2)
    one = InfoNCE(temperature=0.2, weight=3.0)(pred, target)["contrastive"].item()
    two = InfoNCE(temperature=0.2, symmetric=True)(pred, target)["contrastive"].item()
    assert abs(one - 3 * there) < 1e-6
    assert abs(two - (there + back) / 2) < 1e-6


def hinge_in_words(pred: Tensor, target: Tensor, margin: float, dependent: bool) -> float:
    def energy(a: Tensor, b: Tensor) -> float:
        return float((a - b).square().mean())

    wrong = [(i, j) for i in range(len(pred)) for j in range(len(pred)) if i != j]
    mean = sum(energy(target[i], target[j]) for i, j in wrong) / len(wrong)
    total = 0.0
    for i, j in wrong:
        asked = margin * energy(target[i], target[j]) / mean if dependent else margin
        total += max(0.0, energy(pred[i], target[i]) + asked - energy(pred[i], target[j]))
    return total / len(wrong)


@pytest.mark.parametrize("dependent", (True, False))
def test_hinge_equals_its_formula(dependent: bool) -> None:
    pred, target = pairs()
    found = Hinge(margin=2.0, distance_dependent=dependent)(pred, target)["contrastive"].item()
    expected = hinge_in_words(pred, target, 2.0, dependent)
    assert expected > 0.1 and abs(found - expected) < 1e-9


TERMS = {"infonce": InfoNCE(), "symmetric": InfoNCE(symmetric=True), "flat": Hinge(1.0, 1.0, False)}


@pytest.mark.parametrize("name", TERMS)
def test_gradients_are_right(name: str) -> None:
    pred, target = (side.requires_grad_() for side in pairs(5, 3))
    assert torch.autograd.gradcheck(lambda p, t: TERMS[name](p, t)["contrastive"], (pred, target))


@pytest.mark.parametrize("term", (InfoNCE(), Hinge(margin=0.1)))
def test_right_pairs_cost_less_than_wrong_ones(term: Contrastive) -> None:
    target = 3 * torch.eye(8)
    right, wrong = (term(p, target)["contrastive"] for p in (target, target.roll(1, 0)))
    assert right < 1e-2 < 0.3 < wrong


@pytest.mark.parametrize("dependent", (True, False))
def test_shrinking_to_a_point_is_no_way_out(dependent: bool) -> None:
    """The margins do not shrink with the states, so a collapse costs the whole margin."""
    pred, target = pairs()
    tiny = Hinge(1.0, 1.0, dependent)(1e-4 * pred, 1e-4 * target)["contrastive"]
    point = Hinge(1.0, 1.0, dependent)(0 * pred, 0 * target)["contrastive"]
    assert tiny > 0.99 and abs(point.item() - 1) < 1e-9


def test_one_pair_has_no_negative() -> None:
    for term in (InfoNCE(), Hinge()):
        with pytest.raises(ValueError, match="at least 2 pairs"):
            term(torch.zeros(1, 4), torch.zeros(1, 4))


def test_shapes_are_checked_in_words() -> None:
    with pytest.raises(ValueError, match=r"\[B, D\].*\(2, 3, 4\)"):
        InfoNCE()(torch.zeros(2, 3, 4), torch.zeros(2, 3, 4))
