"""Claims about the measure of two levels: the closed forms of its error, and what it looks at."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from jepa_video.data.datamodule import VideoDataModule
from jepa_video.data.masks import MultiBlock
from jepa_video.data.scenes import SyntheticSettings, Track, draw_labels, render, tracks
from jepa_video.data.transforms import centre
from jepa_video.errors import UserError
from jepa_video.evaluation.hierarchy import (
    HIERARCHY,
    Seen,
    errors,
    figures,
    look,
    second_level,
    window_factors,
)
from jepa_video.models.encoder import VideoViT
from jepa_video.training.second_level import SecondLevel
from jepa_video.training.video_jepa import VideoJEPA

ONE = SyntheticSettings(
    videos_train=10, videos_val=6, frames=40, numbers=("one",), events=("cruise",)
)


def module(windows: int = 4, **settings: Any) -> VideoJEPA:
    torch.manual_seed(0)
    encoder = partial(VideoViT, width=24, depth=1, heads=2)
    level2 = partial(SecondLevel, windows=windows, given=2, dim=16, hidden=16)
    return VideoJEPA(encoder, level2=level2, **settings).eval()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> VideoDataModule:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JEPA_VIDEO_CACHE", str(tmp_path_factory.mktemp("cache")))
        found = VideoDataModule(synthetic=ONE, frames=32, stride=1, batch_size=4)
        found.setup()
        return found


def known(count: int, seed: int) -> Seen:
    """States that hold the factors: level 1 turned around, level 2 with noise beside."""
    generator = torch.Generator().manual_seed(seed)
    factors = torch.randn(count, 4, 6, generator=generator, dtype=torch.float64)
    noise = torch.randn(count, 4, 3, generator=generator, dtype=torch.float64)
    level2 = torch.cat((2 * factors + 1, noise), dim=-1)
    return Seen(-factors, level2, -factors[:, 3], level2[:, 1], factors)


def test_what_is_foretold_exactly_has_no_error_and_what_stands_still_has_that_of_the_last() -> None:
    found = errors(known(200, 0), known(100, 1), at=3, given=2)
    assert float(found["level1"].mean()) < 1e-3  # told is the truth
    torch.testing.assert_close(found["level2"], found["level2_still"])
    # The last state is independent of the true one and as wide: twice the variance.
    assert float(found["level2_still"].mean()) == pytest.approx(2.0, abs=0.25)
    assert float(found["level2_true"].mean()) < 1e-3


def test_the_mean_factor_scores_one() -> None:
    train, test = known(300, 0), known(200, 1)
    blind = Seen(
        torch.zeros_like(train.level1), train.level2, train.told1, train.told2, train.factors
    )
    hidden = Seen(
        torch.zeros_like(test.level1), test.level2, 0 * test.told1, test.told2, test.factors
    )
    assert float(errors(blind, hidden, 3, 2)["level1"].mean()) == pytest.approx(1.0, abs=1e-6)


def test_factors_are_the_place_and_speed_in_the_middle_of_a_window() -> None:
    turns = np.stack((np.arange(16) / 16, np.zeros(16)), axis=1)
    track = Track(turns, np.full((16, 2), 3.0))
    found = window_factors(track, range(0, 16, 8), frames=8, stride=1)
    middle = 2 * np.pi * np.array([3.5, 11.5]) / 16
    flat = np.cos(np.pi / 16)  # the mean of two points on a circle lies inside it
    expected = np.stack((np.sin(middle) * flat, 0 * middle, np.cos(middle) * flat, 1 + 0 * middle))
    np.testing.assert_allclose(found[:, :4].T, expected, atol=1e-12)
    assert (found[:, 4:] == 3).all()


def test_the_factors_are_those_of_the_frames_that_the_model_sees(data: VideoDataModule) -> None:
    seen = look(module(), data, "val")
    batch = next(iter(data.loader(data.clips("val").evaluation())))
    labels = draw_labels(ONE, "val")
    for row, index in enumerate(batch["index"].tolist()):
        number = int(Path(data.clips("val").paths[index]).stem)
        (track,) = tracks(ONE, labels[number], "val", number)
        frames = torch.from_numpy(render(ONE, labels[number], "val", number)[4:36])
        small = torch.nn.functional.interpolate(
            frames.movedim(-1, 1).float(), (40, 40), mode="bilinear", antialias=True
        )
        shown: Tensor = batch["video"][row].float()
        assert (shown - small).abs().mean() < 4  # what the file has of them
        expected = window_factors(track, range(4, 36, 8), 8, 1)
        torch.testing.assert_close(seen.factors[row], expected)


def test_level_one_foretells_from_its_own_context_alone(data: VideoDataModule) -> None:
    model = module()
    before = look(model, data, "val")
    level, ahead, past = second_level(model)
    assert (ahead, past, level.given) == (2, 2, 2)
    batch = next(iter(data.loader(data.clips("val").evaluation())))
    video = batch["video"].clone()
    video[:, 16:] = 0  # nothing after the windows that are given
    from jepa_video.evaluation.hierarchy import _states

    with torch.no_grad():
        clip = centre(video, 32)
        _, _, told1, told2 = _states(model, level, clip, ahead, past)
    torch.testing.assert_close(told1.double(), before.told1[: len(video)])
    torch.testing.assert_close(told2.double(), before.told2[: len(video)])


def test_the_measure_fills_its_columns(data: VideoDataModule) -> None:
    row = figures(module(), data, torch.device("cpu"))
    assert {column.key for column in HIERARCHY.columns} <= row.keys()
    assert {key for column in HIERARCHY.columns for key, _ in column.beside} <= row.keys()
    assert row["gain"] == pytest.approx(row["level1_error"] - row["level2_error"])
    assert row["gain_low"] <= row["gain"] <= row["gain_high"] and row["time_share"] > 0


def test_what_cannot_be_asked_is_refused(data: VideoDataModule) -> None:
    with pytest.raises(UserError, match="needs model.level2 SecondLevel"):
        figures(module(masks=MultiBlock), data, torch.device("cpu"))
    with pytest.raises(UserError, match="fits no clip of 3 windows"):
        second_level(module(windows=3))
    other = VideoDataModule()
    with pytest.raises(UserError, match=r"numbers \[one\]"):
        look(module(), other, "val")
