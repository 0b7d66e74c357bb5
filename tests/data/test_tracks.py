"""What is known of where the shapes are agrees with the pictures."""

from __future__ import annotations

import numpy as np
import pytest

from jepa_video.data.scenes import SPEEDS, SyntheticSettings, draw_labels, render, tracks

PLAIN = {"texture": 0.0, "distractors": (0, 0), "pan": 0.0, "contrast": (0.8, 0.8)}


@pytest.mark.parametrize("event", ["cruise", "bounce"])
def test_a_track_is_where_the_picture_shows_the_shape(event: str) -> None:
    settings = SyntheticSettings(events=(event,), numbers=("one",), frames=24, **PLAIN)
    seen = 0
    for index, labels in enumerate(draw_labels(settings, "val")[:48]):
        (track,) = tracks(settings, labels, "val", index)
        video = render(settings, labels, "val", index).astype(np.float64)
        if labels["shape"] == "triangle":
            continue  # its centre is not the mean of its pixels
        off = np.abs(video - video[:, :1, :1]).sum(-1)  # T S S; the corner is background
        for t in (0, 3, 5):  # before any wall shows
            margin = 1.3 * np.array([8, 10])
            low, high = (track.turns[t] * (63 + 2 * m) - m for m in margin)
            if min(*low, *high) < 16 or max(*low, *high) > 47:
                continue  # cut off by the frame, or the corner may not be background
            weight = off[t] / off[t].sum()
            grid = np.arange(64)
            x, y = (weight.sum(0) * grid).sum(), (weight.sum(1) * grid).sum()
            assert np.minimum(low, high)[0] - 0.7 < x < np.maximum(low, high)[0] + 0.7
            assert np.minimum(low, high)[1] - 0.7 < y < np.maximum(low, high)[1] + 0.7
            seen += 1
    assert seen >= 3


def test_a_track_keeps_its_speed_across_the_seam() -> None:
    settings = SyntheticSettings(events=("cruise",), frames=60)
    labels = draw_labels(settings, "train")[:24]
    wrapped = 0
    for index, row in enumerate(labels):
        for track in tracks(settings, row, "train", index):
            assert track.turns.min() >= 0 and track.turns.max() <= 1
            speeds = np.linalg.norm(track.velocity, axis=1)
            np.testing.assert_allclose(speeds, SPEEDS[row["speed"]], rtol=1e-3)
            wrapped += int((np.abs(np.diff(track.turns, axis=0)) > 0.5).any())
    assert wrapped > 10
