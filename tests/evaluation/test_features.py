"""Features: one row a video, in order, whatever the batch size; and the two made by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from jepa_video.errors import UserError
from jepa_video.evaluation.baselines import motion_grid, pixel_statistics
from jepa_video.evaluation.features import extract
from jepa_video.evaluation.probes import linear_probe


class Set:
    """Three clips of each of seven videos, in mixed order; clips of video 2 cannot be read."""

    groups = [f"g{i // 2}" for i in range(7)]

    def __len__(self) -> int:
        return 21

    def __getitem__(self, key: int) -> dict[str, Any] | None:
        video = (key * 5) % 7
        if video == 2:
            return None
        clip = torch.randint(
            0, 256, (4, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(key)
        )
        return {
            "video": clip,
            "labels": torch.tensor([video % 3, -1]),
            "index": torch.tensor(video),
        }


def tokens(video: Tensor) -> Tensor:
    """`B T C H W` to four tokens of 192 numbers."""
    return video.float().flatten(2)


def test_clips_of_a_video_are_averaged_and_batches_do_not_matter() -> None:
    clips = Set()
    found = extract(tokens, clips, batch_size=4)
    assert found.index.tolist() == [0, 1, 3, 4, 5, 6]
    assert found.groups == ["g0", "g0", "g1", "g2", "g2", "g3"]
    assert found.labels.tolist() == [[i % 3, -1] for i in found.index.tolist()]
    items = [item for k in range(21) if (item := clips[k]) and item["index"] == 3]
    by_hand = torch.stack([item["video"].float().flatten(1).mean(0) for item in items]).mean(0)
    assert len(items) == 3 and torch.allclose(found.x[2], by_hand)
    assert torch.allclose(found.x, extract(tokens, clips, batch_size=100).x)


def test_pooling() -> None:
    clips = Set()
    one = extract(lambda v: tokens(v)[:, :1], clips)
    assert torch.equal(extract(lambda v: tokens(v)[:, 0], clips).x, one.x)
    assert extract(tokens, clips, pool="flat").x.shape == (6, 4 * 192)
    assert (extract(tokens, clips, pool="max").x >= extract(tokens, clips).x - 1e-4).all()


def test_features_can_train_a_probe() -> None:
    """Tensors made in inference mode cannot: they must leave it."""
    layer = torch.nn.Linear(192, 4)
    found = extract(lambda v: layer(tokens(v)), Set())
    assert not found.x.is_inference() and not found.x.requires_grad
    linear_probe(found.x, found.labels[:, 0], found.x, found.labels[:, 0], folds=2)


def test_a_set_of_which_nothing_can_be_read_is_told() -> None:
    class Broken(Set):
        def __getitem__(self, key: int) -> None:
            return None

    with pytest.raises(UserError, match="not one clip"):
        extract(tokens, Broken())


def random_video(b: int = 2, t: int = 9) -> Tensor:
    g = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (b, t, 3, 32, 40), dtype=torch.uint8, generator=g)


def test_pixel_statistics_see_no_order_and_motion_sees_no_light() -> None:
    video = random_video()
    shuffled = video[:, torch.randperm(9, generator=torch.Generator().manual_seed(1))]
    assert torch.allclose(pixel_statistics(video), pixel_statistics(shuffled), atol=1e-6)
    assert not torch.allclose(motion_grid(video), motion_grid(shuffled), atol=1e-3)
    dark = video // 2
    assert torch.allclose(motion_grid(dark), motion_grid(dark + 90), atol=1e-6)
    still = video[:, :1].expand(-1, 9, -1, -1, -1)
    assert motion_grid(still).abs().max() == 0


def test_histogram_is_the_histogram() -> None:
    video = random_video()
    found = pixel_statistics(video)[:, 3 * 64 :].view(2, 3, 16)
    for b in range(2):
        for c in range(3):
            counts = torch.histc(video[b, :, c].float(), 16, 0, 256)
            assert torch.allclose(found[b, c], counts / counts.sum())


def test_motion_is_found_where_and_when_it_is() -> None:
    video = torch.zeros(1, 17, 3, 48, 64, dtype=torch.uint8)
    video[0, 11:, :, 40:, 56:] = 255  # the lower right corner lights up at frame 11
    grid = motion_grid(video).view(16, 6, 8)
    assert grid.nonzero().tolist() == [[10, 5, 7]]
    assert motion_grid(random_video(t=5)).shape == (2, 4 * 48)
