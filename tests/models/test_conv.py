"""Claims of the convolutional encoder: what is masked is not seen, and its tokens lie on a grid."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from jepa_video.errors import UserError
from jepa_video.models.conv import ConvEncoder

SMALL = {"image": 32, "patch": 8, "channels": 4, "width": 8}


def encoder(**settings) -> ConvEncoder:
    torch.manual_seed(0)
    return ConvEncoder(**{**SMALL, **settings}).eval()


def clip(frames: int, count: int = 2, seed: int = 1) -> Tensor:
    return torch.randn(count, 3, frames, 32, 32, generator=torch.Generator().manual_seed(seed))


def pixels_of(keep: Tensor, like: ConvEncoder, frames: int) -> Tensor:
    """Which pixels belong to the tokens `B K`: bool `B 1 T H W`."""
    seen = torch.zeros(len(keep), frames, 32, 32, dtype=torch.bool)
    slots, rows, columns = like.grid
    for b, tokens in enumerate(keep.tolist()):
        for token in tokens:
            t, rest = divmod(token, rows * columns)
            y, x = divmod(rest, columns)
            time = slice(t * like.tubelet, (t + 1) * like.tubelet)
            patch = like.patch
            seen[b, time, y * patch : (y + 1) * patch, x * patch : (x + 1) * patch] = True
    return seen[:, None]


@pytest.mark.parametrize(("frames", "tubelet"), [(1, 1), (2, 1), (4, 2)])
def test_pixels_that_are_masked_are_not_seen(frames, tubelet):
    model, video = encoder(frames=frames, tubelet=tubelet), clip(frames)
    draws = torch.Generator().manual_seed(0)
    keep = torch.stack(
        [torch.randperm(model.num_tokens, generator=draws)[:7].sort().values for _ in range(2)]
    )
    seen = pixels_of(keep, model, frames)
    told = model(video, keep)
    assert told.shape == (2, 7, 8)
    other = torch.where(seen, video, clip(frames, seed=9))
    assert torch.equal(model(other, keep), told)
    changed = torch.where(seen, clip(frames, seed=9), video)
    assert not torch.isclose(model(changed, keep), told).all(-1).any()


def test_no_gradient_comes_to_what_is_masked():
    model, video = encoder(frames=2), clip(2).requires_grad_()
    keep = torch.tensor([[0, 5, 20], [3, 17, 31]])
    model(video, keep).square().sum().backward()
    seen = pixels_of(keep, model, 2).expand_as(video)
    assert not video.grad[~seen].any() and video.grad[seen].any()


@pytest.mark.parametrize("frames", [1, 2])
def test_where_all_is_kept_the_tokens_are_those_without_a_mask(frames):
    model, video = encoder(frames=frames), clip(frames)
    every = torch.arange(model.num_tokens).expand(2, -1)
    assert torch.equal(model(video, every), model(video))
    assert torch.equal(model(video, every.flip(1)), model(video).flip(1))


def test_frames_of_different_tokens_do_not_mix():
    model, video = encoder(frames=2, tubelet=1), clip(2)
    other = video.clone()
    other[:, :, 1] = 0
    first = model.num_tokens // 2
    assert torch.equal(model(other)[:, :first], model(video)[:, :first])
    assert not torch.isclose(model(other)[:, first:], model(video)[:, first:]).all(-1).any()


def test_a_scene_that_moves_by_a_patch_moves_the_tokens_by_one():
    model = encoder(image=64)
    video = torch.randn(1, 3, 1, 64, 64, generator=torch.Generator().manual_seed(1))
    before, after = (
        model(seen).view(8, 8, 8) for seen in (video, video.roll((8, 16), dims=(-2, -1)))
    )
    torch.testing.assert_close(after[3:6, 4:6], before[2:5, 2:4])  # away from the edges
    assert not torch.allclose(after[2:5, 2:4], before[2:5, 2:4], atol=1e-2)


@pytest.mark.parametrize("patch", [2, 4, 16])
def test_every_patch_that_halves_the_picture_makes_its_grid(patch):
    model = encoder(patch=patch, frames=2, tubelet=2)
    assert model.grid == (1, 32 // patch, 32 // patch)
    assert model(clip(2)).shape == (2, model.num_tokens, 8)


def test_its_config_makes_it_again():
    model = encoder(frames=2, tubelet=2, patch=4, channels=2)
    again = ConvEncoder(**{k: v for k, v in model.config.items() if k != "class"})
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.eval()(clip(2)), model(clip(2)))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"patch": 6}, "patch of ConvEncoder must be 2, 4, 8 ..., not 6"),
        ({"patch": 1}, "patch of ConvEncoder must be 2, 4, 8 ..., not 1"),
        ({"patch": 0}, "patch of ConvEncoder must be 2, 4, 8 ..., not 0"),
        ({"image": 30}, "30"),
        ({"frames": 3, "tubelet": 2}, "3"),
    ],
)
def test_sizes_that_do_not_divide_are_refused(settings, said):
    with pytest.raises(UserError, match=said):
        encoder(**settings)


def test_a_clip_of_another_size_is_named():
    with pytest.raises(ValueError, match="clip of 2 frames of 32 x 32; the encoder takes 1 frames"):
        encoder()(clip(2))
