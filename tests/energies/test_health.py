from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from jepa_video.energies.health import Vitals, verdict
from jepa_video.energies.metrics import constant_energy, energy_gap, feature_std, rankme

START = Vitals(96, 30, 30, 0.9, 0.9, gap=0.0, gap_stderr=0.01, energy=0.8, energy_of_mean=0.8)
GOOD = Vitals(96, 25, 26, 0.8, 0.85, gap=0.1, gap_stderr=0.01, energy=0.5, energy_of_mean=0.75)


def test_a_good_run_is_left_alone_and_told_why() -> None:
    found = verdict(GOOD, START)
    assert found.state == "healthy" and found.advice == ""
    assert found.sentence == (
        "The targets fill 26.0 of 96 directions, the energy tells true from shuffled pairs by 10.0 "
        "standard errors and the prediction costs 33 % less than the mean token."
    )


def test_the_collapse_with_the_best_loss_is_named() -> None:
    """The measured one: targets from 18.5 to 2.0 of 192 while the loss falls to 0.28."""
    first = replace(START, width=192, rank_target=18.5)
    found = verdict(replace(GOOD, width=192, rank_target=2.0, energy=0.28), first)
    assert found.state == "collapsed"
    assert "rank of the targets fell from 18.5 to 2.0 of 192" in found.sentence
    assert "covariance" in found.advice and "momentum" in found.advice


@pytest.mark.parametrize(
    ("change", "state", "says"),
    [
        ({"rank_target": 1.4}, "collapsed", "rank of the targets"),
        ({"rank_context": 1.4}, "collapsed", "rank of the context"),
        ({"rank_target": 12.0}, "watch", "fell from 30.0 to 12.0"),
        ({"rank_target": 16.0}, "healthy", "16.0 of 96"),
        ({"std_target": 1e-4}, "collapsed", "same for every clip"),
        ({"std_context": 0.05}, "watch", "hardly differ"),
        ({"gap": 0.001, "energy": 0.7}, "watch", "true pairs from shuffled"),
        ({"gap": 0.001}, "collapsed", "energy is flat"),
        ({"gap": -0.5}, "collapsed", "energy is flat"),
        ({"energy": 0.75}, "watch", "no better than answering with the mean"),
        ({"loss": math.nan}, "collapsed", "loss stopped being a number"),
        ({"rank_target": math.nan, "gap": math.nan}, "collapsed", "energy gap and the rank"),
    ],
)
def test_each_trouble_has_its_word(change: dict[str, float], state: str, says: str) -> None:
    found = verdict(replace(GOOD, **change), START)
    assert found.state == state and says in found.sentence
    assert bool(found.advice) == (state != "healthy")
    assert "nan" not in str(found)


def test_the_gravest_trouble_speaks() -> None:
    found = verdict(replace(GOOD, std_context=0.05, rank_target=1.0, gap=0.001), START)
    assert found.state == "collapsed" and "hardly differ" not in found.sentence
    assert "effective rank" in found.sentence and "flat" in found.sentence


def test_an_untrained_run_is_watched_and_not_condemned() -> None:
    assert verdict(START, START).state == "watch"
    assert verdict(START).state == "watch"


def test_what_was_not_measured_is_not_judged() -> None:
    assert verdict(Vitals(96)).state == "healthy"
    read = Vitals.read({"rankme/target": 1.2, "energy_gap": 0.3, "energy_gap_stderr": 0.1}, 96)
    assert read.rank_target == 1.2 and read.sureness == pytest.approx(3) and read.loss is None
    assert verdict(read).state == "collapsed"


def test_features_that_collapse_are_seen_from_the_features() -> None:
    """From tensors to the word: nearly constant features against varied ones."""
    draw = torch.Generator().manual_seed(0)
    varied = torch.randn(256, 32, generator=draw)
    constant = torch.ones(32) + 1e-3 * varied
    states = []
    for s in (varied, constant):
        true = (s - s.mean(0)).abs().mean(-1) * 0.5
        gap = energy_gap(true, (s - s.roll(1, 0)).abs().mean(-1))
        rank, spread = float(rankme(s)), float(feature_std(s))
        now = Vitals(32, rank, rank, spread, spread, float(gap.gap), float(gap.stderr))
        now = replace(now, energy=float(true.mean()), energy_of_mean=float(constant_energy(s)))
        states.append(verdict(now).state)
    assert states == ["healthy", "collapsed"]


def test_a_latent_that_explains_any_target_is_told():
    """Low energy that no longer tells true from shuffled pairs, with a z that holds much."""
    first = Vitals(96, energy=0.5)
    told = verdict(Vitals(96, energy=0.1, auc=0.8, bits=300.0), first)
    assert told.state == "collapsed" and "z holds 300 bits" in told.sentence
    for fine in (
        Vitals(96, energy=0.1, auc=0.99, bits=300.0),  # it tells pairs apart
        Vitals(96, energy=0.45, auc=0.8, bits=300.0),  # nothing learned yet
        Vitals(96, energy=0.1, auc=0.8),  # no latent
    ):
        assert verdict(fine, first).state == "healthy"
