"""Claims about the second level: what it sees, what stages freeze, whom it teaches."""

from __future__ import annotations

from functools import partial
from typing import Any

import lightning as L
import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import DataLoader

from jepa_video.data.transforms import Augment, centre
from jepa_video.errors import UserError
from jepa_video.models.encoder import VideoViT
from jepa_video.models.hierarchy import CausalPredictor, by_clip, pooled_cells, whole_clip, windows
from jepa_video.models.latent import GaussianLatent
from jepa_video.models.predictor import MaskedPredictor
from jepa_video.training.second_level import SecondLevel
from jepa_video.training.video_jepa import VideoJEPA
from tests.ranks import run_ranks

WINDOWS, FRAMES = 3, 4
LEVEL = partial(SecondLevel, windows=WINDOWS, given=1, dim=8, hidden=16)


def module(level2: Any = LEVEL, **settings: Any) -> VideoJEPA:
    torch.manual_seed(0)
    encoder = partial(VideoViT, width=24, depth=1, heads=2, frames=FRAMES, image=16, patch=4)
    augment = partial(Augment, (1.0, 1.0), (1.0, 1.0), 0.0, 0.0, 0.0, 0.0)
    predictor = partial(MaskedPredictor, hidden=16, depth=1)
    return VideoJEPA(encoder, predictor, level2=level2, augment=augment, **settings)


def videos(clips: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    shape = (clips, WINDOWS * FRAMES, 3, 16, 16)
    return torch.randint(256, shape, generator=generator, dtype=torch.uint8)


def causal(latent: int = 0) -> CausalPredictor:
    torch.manual_seed(0)
    return CausalPredictor(8, 4, latent, hidden=24, depth=2, heads=2).double()


# What it sees


def test_windows_are_the_clip_cut_in_time_and_sorted_back() -> None:
    clip = torch.arange(2 * 12).view(2, 1, 12, 1, 1).float()
    cut = windows(clip, 4)
    assert cut.flatten(1).tolist()[:2] == [[0, 1, 2, 3], [12, 13, 14, 15]]
    assert torch.equal(by_clip(cut, 2).flatten(), clip.flatten())
    assert windows(clip, 12).shape == clip.shape and torch.equal(windows(clip, 12), clip)
    with pytest.raises(ValueError, match="12 frames are no whole number of windows of 5"):
        windows(clip, 5)


def test_a_window_is_seen_without_its_neighbours() -> None:
    encoder, clip = module().encoder, centre(videos(), 16)
    tokens = whole_clip(encoder, clip)
    other = clip.clone()
    other[:, :, FRAMES:] = 0.0
    n = encoder.num_tokens
    assert torch.equal(whole_clip(encoder, other)[:, :n], tokens[:, :n])
    torch.testing.assert_close(tokens[:, n : 2 * n], encoder(clip[:, :, FRAMES : 2 * FRAMES]))


def test_cells_keep_where_things_are() -> None:
    tokens = torch.zeros(2, 4, 4, 1)
    tokens[:, 2, 3] = 1.0  # in the lower right quarter, in both time slots
    quarter = torch.tensor([-0.0625, -0.0625, -0.0625, 0.1875])
    torch.testing.assert_close(pooled_cells(tokens.view(32, 1), (2, 4, 4), 2), quarter)
    shifted = pooled_cells(tokens.view(32, 1) + 5.0, (2, 4, 4), 2)
    torch.testing.assert_close(shifted, quarter)  # what all parts share is no news
    with pytest.raises(ValueError, match="4 x 4 tokens do not split into 3 x 3"):
        pooled_cells(tokens.view(32, 1), (2, 4, 4), 3)


@pytest.mark.parametrize("latent", [0, 2])
def test_the_second_level_does_not_see_the_future(latent: int) -> None:
    model, states = causal(latent), torch.randn(2, 4, 8, dtype=torch.float64)
    z = torch.randn(2, 4, 2, dtype=torch.float64) if latent else None
    before = model.following(states, z)
    for step in range(4):
        changed = states.clone()
        changed[:, step] += 1.0
        moved = (model.following(changed, z) - before).abs().amax(dim=(0, 2))
        assert (moved[:step] == 0).all() and (moved[step:] > 1e-6).all()


def test_what_is_told_next_is_a_rollout_of_one_step() -> None:
    level, states = LEVEL(24, (2, 4, 4)), torch.randn(3, 3, 8)
    told = level.predictor.following(states[:, :2])[:, -1:]
    torch.testing.assert_close(level.foretold(states[:, :2], None, 1), told)
    twice = level.predictor.following(torch.cat((states[:, :2], told), dim=1))[:, -1:]
    rolled = level.foretold(states[:, :2], None, 2)  # its window has room for two
    torch.testing.assert_close(rolled[:, :1], told)
    assert rolled.shape == (3, 2, 8) and not torch.allclose(rolled[:, 1:], told)
    assert twice.shape == told.shape


def test_a_causal_predictor_tells_one_step() -> None:
    model, states = causal(), torch.randn(2, 2, 8, dtype=torch.float64)
    with pytest.raises(ValueError, match="one step after its context"):
        model(states, torch.zeros(2, 2), torch.zeros(2, 2))
    with pytest.raises(ValueError, match="z goes with a predictor"):
        model.following(states, torch.zeros(2, 1, 3, dtype=torch.float64))


# Learning


class Quiet(L.Callback):
    """Keeps the weights at the start of each step."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Tensor]] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self.seen.append({k: v.clone() for k, v in pl_module.state_dict().items()})


def fitted(model: VideoJEPA, steps: int) -> list[dict[str, Tensor]]:
    keep = Quiet()
    trainer = L.Trainer(
        accelerator="cpu", max_steps=steps, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=[keep],
    )  # fmt: skip
    data = [{"video": videos(2)} for _ in range(steps)]
    trainer.fit(model, DataLoader(data, batch_size=None))
    return [*keep.seen, {k: v.clone() for k, v in model.state_dict().items()}]


def moved(before: dict[str, Tensor], after: dict[str, Tensor], upper: bool) -> bool:
    """Whether any weight of a level has changed."""
    names = [name for name in before if name.startswith("level2.") == upper]
    return any(not torch.equal(before[name], after[name]) for name in names)


@pytest.mark.parametrize("target", ["ema", "shared"])
def test_a_stage_freezes_the_other_level_to_the_bit(target: str) -> None:
    model = module(partial(LEVEL, alone=0.5), target=target, momentum=(0.5, 0.5), warmup=0.0)
    seen = fitted(model, 6)
    for step in range(6):
        changes = [moved(seen[step], seen[step + 1], upper) for upper in (False, True)]
        assert changes == [step < 3, step >= 3], step


def test_jointly_both_levels_learn_in_every_step() -> None:
    seen = fitted(module(warmup=0.0), 2)
    assert all(moved(seen[i], seen[i + 1], upper) for i in (0, 1) for upper in (False, True))


@pytest.mark.parametrize(("target", "reached"), [("ema", False), ("shared", True)])
def test_the_second_level_teaches_the_first_where_that_has_a_gradient(
    target: str, reached: bool
) -> None:
    model = module(target=target)
    clip, _ = model.draw(videos())
    terms = model.level2(model.target_tokens(clip)).terms
    torch.stack(list(terms.values())).sum().backward()
    assert any(p.grad is not None for p in model.encoder.parameters()) == reached
    assert all(p.grad is not None for p in model.level2.parameters())


def test_each_level_has_its_own_z_and_its_own_terms() -> None:
    level = partial(LEVEL, latent=partial(GaussianLatent, dim=2, hidden=8))
    model = module(level, latent=partial(GaussianLatent, dim=3, hidden=8))
    logged: dict[str, Tensor] = {}
    model.log_dict = lambda values, **_: logged.update(values)  # type: ignore[assignment]
    model.training_step({"video": videos()}, 0)
    names = ("energy", "latent/bits", "latent/cost", "reg/tokens/variance")
    assert all(name in logged for name in names)
    assert {"level2/energy", "level2/latent/bits", "level2/reg/variance"} <= logged.keys()
    assert model.level2.latent.dim == 2 and model.latent.dim == 3


def test_energies_pair_windows_of_different_clips() -> None:
    model, video = module(), videos(2)
    clip = windows(centre(video, 16), FRAMES)
    true, shuffled = model.energies(video)
    assert len(true) == len(shuffled) == WINDOWS * 2
    single = module(level2=LEVEL)
    for window in range(WINDOWS):
        part = video[:, window * FRAMES : (window + 1) * FRAMES]
        here, _ = single.energies(part)
        torch.testing.assert_close(here, true[2 * window : 2 * window + 2])
    assert len(clip) == len(true)


def gradients(rows: slice) -> dict[str, Tensor]:
    model = module(target="shared")
    model.log_dict = lambda *_, **__: None  # type: ignore[assignment]
    model.training_step({"video": videos(8)[rows]}, 0)["loss"].backward()
    return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def on_each_rank() -> dict[str, Tensor]:
    found = gradients(slice(4 * dist.get_rank(), 4 * dist.get_rank() + 4))
    for grad in found.values():
        dist.all_reduce(grad)
        grad /= dist.get_world_size()
    return found


def test_two_ranks_give_the_gradient_of_one() -> None:
    expected = gradients(slice(None))
    largest = max(float(grad.abs().max()) for grad in expected.values())
    assert any(name.startswith("level2.") for name in expected)
    for rank in run_ranks(on_each_rank):
        assert rank.keys() == expected.keys()
        for name, grad in expected.items():
            torch.testing.assert_close(rank[name], grad, rtol=1e-3, atol=1e-5 * largest)


@pytest.mark.parametrize(
    ("settings", "told"),
    [({"given": 3}, "given 3 must be 1 or more"), ({"alone": 1.0}, "alone must be from 0")],
)
def test_settings_that_no_level_can_have_are_refused(settings: Any, told: str) -> None:
    with pytest.raises(UserError, match=told):
        module(partial(LEVEL, **settings))
