"""Claims about horizons: nothing of the future is seen, and the words follow from the curves."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from jepa_video.data.masks import MultiBlock, PastToFuture
from jepa_video.data.transforms import centre
from jepa_video.errors import UserError
from jepa_video.evaluation.album import load_album, save_album
from jepa_video.evaluation.report import write_report
from jepa_video.evaluation.rollout_pictures import decoded_plate, patches, unpatched
from jepa_video.evaluation.rollouts import (
    Foresight,
    Horizon,
    foresight,
    horizon,
    in_words,
    load_horizon,
    past_slots,
    save_horizon,
    seen,
)
from jepa_video.models.encoder import VideoViT
from jepa_video.models.latent import GaussianLatent
from jepa_video.training.video_jepa import VideoJEPA

FRAMES = 14  # of the clips: seven slots, of which the encoder takes four


def module(**settings: Any) -> VideoJEPA:
    torch.manual_seed(0)
    encoder = partial(VideoViT, frames=8, image=16, width=24, depth=1, heads=2)
    return VideoJEPA(encoder, **settings).eval()


def clips(count: int = 10) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    shape = (count, FRAMES, 3, 16, 16)
    return torch.randint(256, shape, generator=generator, dtype=torch.uint8)


def linear(law: float, told: float, steps: int = 6) -> Foresight:
    """A world `s <- law s`, foretold by `s <- told s`."""
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(12, 1, 2, 3, generator=generator)
    powers = torch.arange(1, steps + 1)[None, :, None, None]
    truth, rolled = first * law**powers, first * told**powers
    forced = torch.cat((first, truth[:, :-1]), dim=1) * told
    kinds = {"rolled out": rolled, "teacher-forced": forced, "in parallel": rolled[:, :2]}
    kinds["last frame"] = first.expand_as(truth)
    kinds["mean"] = truth.mean(dim=0, keepdim=True).expand_as(truth)
    return Foresight(first, truth, kinds, 2)


def test_a_perfect_model_of_a_linear_world_has_no_error_at_any_horizon() -> None:
    curves = horizon(module(), linear(0.9, 0.9))
    for kind in ("rolled out", "teacher-forced", "in parallel"):
        assert max(curves.error[kind]) < 1e-9 and max(curves.energy[kind]) < 1e-6
    assert curves.frames == [2, 4, 6, 8, 10, 12]
    torch.testing.assert_close(torch.tensor(curves.error["mean"]), torch.ones(6))
    assert in_words(curves)[1] == "No sign that errors compound."


def test_a_wrong_law_compounds_and_the_words_say_so() -> None:
    curves = horizon(module(), linear(1.0, 1.2))
    grown = torch.tensor([1.2**step - 1 for step in range(1, 7)])
    ratio = torch.tensor(curves.energy["rolled out"]) / curves.energy["rolled out"][0]
    torch.testing.assert_close(ratio, grown / 0.2)
    torch.testing.assert_close(
        torch.tensor(curves.energy["teacher-forced"]) / 0.2,
        torch.full((6,), curves.energy["teacher-forced"][0] / 0.2),
    )
    kind, word, told = in_words(curves)
    assert (kind, word) == ("warn", "Errors compound.")
    assert "no better than copying the last frame from the first step on" in told
    assert "better than the mean state up to 6 frames" in told  # 1.2^4 - 1 > 1 > 1.2^3 - 1


@pytest.mark.parametrize("latent", [{}, {"latent": partial(GaussianLatent, dim=2)}])
def test_predictions_know_nothing_of_the_future(latent: dict[str, Any]) -> None:
    model, video = module(**latent), clips(3)
    before = foresight(model, video)
    other = video.clone()
    other[:, 10:] = 255 - other[:, 10:]  # from slot 5 on: the fourth that is foretold
    after = foresight(model, other)
    for kind in ("rolled out", "in parallel", "last frame"):
        assert torch.equal(before.told[kind], after.told[kind])
    same = (before.told["teacher-forced"] == after.told["teacher-forced"]).flatten(2).all(2).all(0)
    assert same.tolist() == [True, True, True, True, False]
    assert not torch.equal(before.truth[:, 3], after.truth[:, 3])


def test_the_first_step_is_the_same_in_all_three_ways() -> None:
    model, video = module(), clips(3)
    found = foresight(model, video)
    first = found.told["rolled out"][:, 0]
    torch.testing.assert_close(found.told["teacher-forced"][:, 0], first)
    assert found.told["in parallel"].shape[1] == 2 and found.truth.shape[:2] == (3, 5)
    clip = centre(video, 16)[:, :, :8]
    keep = torch.arange(8).expand(3, -1)  # two slots of four tokens
    with torch.no_grad():
        states = model.encoder(clip, keep)
        expected = model.predictor(states, keep, torch.arange(8, 12).expand(3, -1))
        torch.testing.assert_close(first, expected)
        torch.testing.assert_close(seen(model, clip, 0, 2).flatten(1, 2), states)


def test_the_energy_of_a_parallel_model_is_that_of_its_training_view() -> None:
    model, video = module(), clips(3)[:, :8]
    curves = horizon(model, foresight(model, video))
    true, _ = model.energies(video)
    mean = sum(curves.energy["in parallel"]) / 2
    assert mean == pytest.approx(float(true.mean()), rel=0.05)  # slots stand elsewhere in windows


def test_only_a_module_that_foretells_is_rolled_out() -> None:
    assert past_slots(module()) == 2
    assert past_slots(module(masks=partial(PastToFuture, past=0.75))) == 3
    for masks in (MultiBlock, partial(PastToFuture, hide=0.5)):
        assert past_slots(module(masks=masks)) is None
        with pytest.raises(UserError, match="PastToFuture with hide 0"):
            foresight(module(masks=masks), clips(2))
    with pytest.raises(UserError, match="clips of 8 frames or more"):
        foresight(module(), clips(2)[:, :6])


def test_pixels_of_tokens_are_the_encoders_and_come_back() -> None:
    model, clip = module(), centre(clips(2)[:, :8], 16)
    values = patches(clip, 4, model.encoder.grid)
    assert torch.equal(values.flatten(1, 2), model.encoder.patches(clip))  # type: ignore[operator]
    assert torch.equal(unpatched(values, 3, 16, model.encoder.grid), clip)


def test_the_page_shows_curves_words_and_moving_pictures(tmp_path: Path) -> None:
    model, video = module(), clips()
    found = foresight(model, video)
    folder = tmp_path / "rollouts"
    save_horizon(horizon(model, found), folder)
    assert load_horizon(folder) == horizon(model, found)
    plate = decoded_plate(found, centre(video, 16), model.encoder.grid, folder)
    assert len(plate.rows) == 3
    save_album(folder, [plate])
    (tmp_path / "metrics.csv").write_text("step,loss\n1,2\n")
    text = write_report(tmp_path).read_text()
    for told in (
        "How far it sees",
        "teacher-forced",
        "rolled out",
        "last frame",
        "Decoded rollouts",
    ):
        assert told in text
    assert in_words(load_horizon(folder))[2] in text
    assert text.count("data:image/webp;base64,") == 6
    (folder / "figures.json").write_text('{"compounds": [0]}')
    assert "holds no curves" in write_report(tmp_path).read_text()
    assert len(load_album(folder)) == 1


def test_no_rollouts_are_named_as_missing(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("step,loss\n1,2\n")
    assert "No rollouts" in write_report(tmp_path).read_text()


def test_one_step_alone_cannot_add_up() -> None:
    curves = horizon(module(), linear(1.0, 1.2, steps=2))
    cut = replace(
        curves,
        frames=curves.frames[:1],
        error={kind: values[:1] for kind, values in curves.error.items()},
    )
    assert isinstance(cut, Horizon) and in_words(cut)[1] == "One step."
