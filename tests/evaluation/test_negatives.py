"""The toy of negatives: its table follows from its shares, and its ends are known."""

import pytest
import torch

from jepa_video.energies.contrastive import InfoNCE
from jepa_video.evaluation import negatives
from jepa_video.evaluation.negatives import Toy, needed


def test_the_fewest_that_are_enough_from_there_on():
    assert needed({1: 0.2, 3: 0.8, 7: 0.9}) == 3
    assert needed({1: 0.8, 3: 0.7, 7: 0.9}) == 7, "a lucky small batch does not count"
    assert needed({1: 0.2, 3: 0.7}) is None


def test_without_a_step_nearly_all_points_one_way():
    assert Toy(steps=0, tilt=1e-4).filled(InfoNCE(), 16, 3) * 16 == pytest.approx(1, abs=0.05)


def test_more_negatives_fill_more_directions_and_more_dimensions_ask_for_more():
    toy = Toy(steps=150)
    few, many = (toy.filled(InfoNCE(), 32, count) for count in (1, 63))
    assert 1 / 32 < few < many - 0.2 and many <= 1
    assert toy.filled(InfoNCE(), 4, 7) > toy.filled(InfoNCE(), 32, 7) + 0.15


def test_the_toy_repeats_and_leaves_the_global_generator_alone():
    before = torch.random.get_rng_state()
    one, two = (Toy(steps=5).filled(InfoNCE(), 4, 3) for _ in range(2))
    assert one == two and torch.equal(torch.random.get_rng_state(), before)


def test_the_table_says_what_is_needed_and_what_the_largest_reaches(monkeypatch):
    found = {"InfoNCE": {4: {1: 0.5, 3: 0.8}, 16: {1: 0.3, 3: 0.6}}}
    monkeypatch.setattr(negatives, "shares", lambda: found)
    monkeypatch.setattr(negatives, "DIMENSIONS", (4, 16))
    monkeypatch.setattr(negatives, "NEGATIVES", (1, 3))
    table = negatives.negatives_table()
    assert table.heads == ("method", "D = 4", "D = 16")
    assert table.rows == [("InfoNCE", "3 (80 %)", "over 3 (60 %)")]
