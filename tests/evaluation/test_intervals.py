"""Intervals cover what they promise, and know that clips of a group are not independent."""

from __future__ import annotations

import numpy as np
import pytest

from jepa_video.errors import UserError
from jepa_video.evaluation.intervals import bootstrap_accuracy, paired_difference, wilson


def test_wilson_at_known_points() -> None:
    # Newcombe (1998), table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29.
    for hits, total, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        found = wilson(hits, total)
        assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)
    assert wilson(20, 20).high == pytest.approx(1.0) and wilson(20, 20).low < 0.85
    with pytest.raises(UserError, match="3 of 2"):
        wilson(3, 2)


def test_without_groups_the_bootstrap_agrees_with_theory() -> None:
    scores = np.arange(400) % 4 == 0
    found = bootstrap_accuracy(scores)
    half = 1.96 * np.sqrt(0.25 * 0.75 / 400)
    assert found.value == 0.25
    assert found.high - found.value == pytest.approx(half, rel=0.1)
    assert found.value - found.low == pytest.approx(half, rel=0.1)


def test_clips_that_fail_together_widen_the_interval() -> None:
    """Ten equal clips a group are worth one: the interval is wider by the root of ten."""
    groups = [f"g{i // 10}" for i in range(400)]
    scores = np.repeat(np.arange(40) % 2, 10)
    alone, grouped = bootstrap_accuracy(scores), bootstrap_accuracy(scores, groups)
    ratio = (grouped.high - grouped.low) / (alone.high - alone.low)
    assert ratio == pytest.approx(np.sqrt(10), rel=0.12)


def test_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(300):
        ability = rng.beta(6, 4, 40)  # of each group; the mean is 0.6
        scores = rng.random((40, 8)) < ability[:, None]
        groups = np.repeat(np.arange(40), 8).tolist()
        found = bootstrap_accuracy(scores.ravel(), groups, draws=500, seed=trial)
        covered += found.low <= 0.6 <= found.high
    assert 0.90 <= covered / 300 <= 0.98


def test_pairing_sees_what_unpaired_intervals_do_not() -> None:
    rng = np.random.default_rng(1)
    easy = rng.random(200)
    worse, better = easy < 0.50, easy < 0.56
    gain = paired_difference(better, worse)
    assert gain.excludes(0) and gain.value == pytest.approx(better.mean() - worse.mean())
    assert bootstrap_accuracy(worse).high > bootstrap_accuracy(better).low
    none = paired_difference(better, better)
    assert (none.value, none.low, none.high) == (0, 0, 0) and not none.excludes(0)


def test_seeds_are_averaged_before_clips_are_drawn() -> None:
    one = np.arange(100) % 2
    both = np.stack([one, 1 - one])  # every clip is right in one seed of two
    found = bootstrap_accuracy(both)
    assert (found.low, found.value, found.high) == (0.5, 0.5, 0.5)


def test_same_seed_same_interval_and_unequal_groups_keep_the_mean() -> None:
    scores = np.random.default_rng(0).random(60)
    groups = [i // 7 for i in range(60)]
    assert bootstrap_accuracy(scores, groups) == bootstrap_accuracy(scores, groups)
    assert bootstrap_accuracy(scores, groups) != bootstrap_accuracy(scores, groups, seed=1)
    assert bootstrap_accuracy(scores, groups).value == pytest.approx(scores.mean())


def test_mismatched_input_is_told() -> None:
    with pytest.raises(UserError, match="same clips"):
        paired_difference([1, 0], [1])
    with pytest.raises(UserError, match="a group for each of 2"):
        bootstrap_accuracy([1, 0], ["a"])
    with pytest.raises(UserError, match="N or S N"):
        bootstrap_accuracy([])
