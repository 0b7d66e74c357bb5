"""The probe is scikit-learn's logistic regression, and its strength is chosen on training clips."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from torch import Tensor

from jepa_video.errors import UserError
from jepa_video.evaluation.probes import choose_strength, fit_logistic, fold_of, linear_probe


def blobs(n: int, d: int, classes: int, seed: int, distance: float = 1.0) -> tuple[Tensor, Tensor]:
    """Gaussian classes in `d` dimensions of unequal scale and offset."""
    fixed, drawn = torch.Generator().manual_seed(99), torch.Generator().manual_seed(seed)
    centres = distance * torch.randn(classes, d, generator=fixed) / d**0.25
    scale, offset = torch.rand(d, generator=fixed) * 9 + 0.1, torch.randn(d, generator=fixed) * 5
    y = torch.arange(n) % classes
    x = centres[y] + torch.randn(n, d, generator=drawn)
    return x * scale + offset, y


@pytest.mark.parametrize(("n", "d"), [(160, 96), (96, 240), (600, 40)])
@pytest.mark.parametrize("strength", [1e-3, 0.1, 10.0])
def test_fit_is_scikit_learns(n: int, d: int, strength: float) -> None:
    linear = pytest.importorskip("sklearn.linear_model")
    x, y = blobs(n, d, 8, seed=1)
    test, _ = blobs(300, d, 8, seed=2)
    ours = fit_logistic(x, y, strength).logits(test).softmax(1)
    mean, scale = x.double().mean(0), x.double().std(0, correction=0)
    oracle = linear.LogisticRegression(C=strength, tol=1e-8, max_iter=20_000)
    oracle.fit(((x - mean) / scale).numpy(), y.numpy())
    theirs = oracle.predict_proba(((test - mean) / scale).numpy())
    assert np.abs(ours.numpy() - theirs).max() < 5e-3
    assert (ours.argmax(1).numpy() == theirs.argmax(1)).mean() >= 0.99


def test_probe_is_as_good_as_scikit_learn_with_the_same_choice() -> None:
    linear = pytest.importorskip("sklearn.linear_model")
    x, y = blobs(160, 96, 8, seed=3)
    test, test_y = blobs(800, 96, 8, seed=4)
    result = linear_probe(x, y, test, test_y)
    mean, scale = x.mean(0), x.std(0, correction=0)
    oracle = linear.LogisticRegression(C=result.strength, max_iter=5000)
    oracle.fit(((x - mean) / scale).numpy(), y.numpy())
    theirs = oracle.score(((test - mean) / scale).numpy(), test_y.numpy())
    assert abs(result.accuracy - theirs) <= 0.01
    assert result.accuracy == pytest.approx(float((result.predictions == test_y).float().mean()))


def test_strength_follows_the_noise() -> None:
    """Twenty clips a class: much noise asks for a strong penalty, clear classes for a weak one."""
    noisy = blobs(160, 96, 8, seed=5, distance=0.3)
    clear = blobs(160, 96, 8, seed=5, distance=3.0)
    chosen = [choose_strength(x, y, fold_of(y))[0] for x, y in (noisy, clear)]
    assert chosen[0] <= chosen[1] / 10


def test_labels_without_relation_to_the_features_give_chance() -> None:
    x, y = blobs(160, 96, 8, seed=6)
    y = y[torch.randperm(160, generator=torch.Generator().manual_seed(0))]
    test, test_y = blobs(800, 96, 8, seed=7)
    assert linear_probe(x, y, test, test_y).accuracy < 0.2


def test_the_test_part_has_no_say() -> None:
    """Other test clips and labels change neither the strength nor the prediction of a clip."""
    x, y = blobs(160, 32, 8, seed=8)
    test, test_y = blobs(100, 32, 8, seed=9)
    whole = linear_probe(x, y, test, test_y)
    part = linear_probe(x, y, test[:10], (test_y[:10] + 1) % 8)
    assert whole.strength == part.strength
    assert torch.equal(whole.predictions[:10], part.predictions)


def test_scale_and_offset_of_a_feature_do_not_matter_and_a_constant_one_is_no_danger() -> None:
    x, y = blobs(160, 32, 8, seed=10)
    test, test_y = blobs(200, 32, 8, seed=11)
    plain = linear_probe(x, y, test, test_y)
    other = linear_probe(x * 100 - 7, y, test * 100 - 7, test_y)
    assert other.accuracy == pytest.approx(plain.accuracy, abs=0.006)
    dead = torch.full((len(x), 1), 0.3), torch.full((len(test), 1), 0.3)
    with_dead = linear_probe(torch.cat([x, dead[0]], 1), y, torch.cat([test, dead[1]], 1), test_y)
    assert torch.equal(with_dead.predictions, plain.predictions)


def test_clips_without_a_label_are_left_out() -> None:
    x, y = blobs(160, 32, 8, seed=12)
    test, test_y = blobs(200, 32, 8, seed=13)
    plain = linear_probe(x, y, test, test_y)
    junk = torch.full((20, 32), 1e4)
    none = torch.full((20,), -1)
    mixed = linear_probe(
        torch.cat([x, junk]),
        torch.cat([y, none]),
        torch.cat([test, junk]),
        torch.cat([test_y, none]),
    )
    assert mixed.accuracy == plain.accuracy and len(mixed.predictions) == 220
    assert not mixed.correct[200:].any()
    with pytest.raises(UserError, match="at least two classes"):
        linear_probe(x, torch.zeros(160, dtype=torch.int64), test, test_y)
    with pytest.raises(UserError, match="at least two classes"):
        linear_probe(x, torch.full((160,), -1), test, test_y)


def test_no_group_is_in_two_folds_and_every_class_is_spread() -> None:
    y = torch.arange(200) % 10
    fold = fold_of(y)
    for k in range(5):
        assert (torch.bincount(y[fold == k], minlength=10) == 4).all()
    groups = [f"{int(c)}-{i // 40}" for i, c in enumerate(y)]  # five groups of four in each class
    fold = fold_of(y, groups)
    for group in set(groups):
        assert len({int(f) for f, g in zip(fold, groups, strict=True) if g == group}) == 1
    for k in range(5):
        assert (torch.bincount(y[fold == k], minlength=10) == 4).all()


def test_same_seed_same_result_and_quickly() -> None:
    x, y = blobs(1000, 384, 10, seed=14, distance=0.6)
    test, test_y = blobs(500, 384, 10, seed=15, distance=0.6)
    start = time.process_time()
    first = linear_probe(x, y, test, test_y)
    seconds = time.process_time() - start
    print(f"1000 x 384, 10 classes: {seconds:.2f} s of processor, accuracy {first.accuracy:.3f}")
    again = linear_probe(x, y, test, test_y)
    assert torch.equal(first.predictions, again.predictions) and first.strength == again.strength
    assert seconds < 6  # measured below 2; the slack is for a busy machine
