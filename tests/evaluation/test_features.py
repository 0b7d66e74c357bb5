"""Features: one row a video, in order, whatever the batch size; and the two made by hand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from jepa_video.data.clips import ClipSettings, VideoClips
from jepa_video.data.synthetic import SyntheticSettings, write_synthetic
from jepa_video.errors import UserError
from jepa_video.evaluation.baselines import motion_grid, pixel_statistics
from jepa_video.evaluation.features import extract
from jepa_video.evaluation.probes import linear_probe


class Loader:
    """Three clips of each of seven videos but the third, in mixed order, in batches of four."""

    groups = [f"g{i // 2}" for i in range(7)]

    def __init__(self, size: int = 4) -> None:
        g = torch.Generator().manual_seed(0)
        self.index = torch.tensor([i for key in range(21) if (i := key * 5 % 7) != 2])
        self.video = torch.randint(0, 256, (18, 4, 3, 8, 8), dtype=torch.uint8, generator=g)
        self.size = size

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for part in torch.arange(18).split(self.size):
            index = self.index[part]
            labels = torch.stack([index % 3, torch.full_like(index, -1)], 1)
            yield {"video": self.video[part], "labels": labels, "index": index}


def tokens(video: Tensor) -> Tensor:
    """`B T C H W` to four tokens of 192 numbers."""
    return video.float().flatten(2)


def test_clips_of_a_video_are_averaged_and_batches_do_not_matter() -> None:
    loader = Loader()
    found = extract(tokens, loader)
    assert found.index.tolist() == [0, 1, 3, 4, 5, 6]
    assert found.groups == ["g0", "g0", "g1", "g2", "g2", "g3"]
    assert found.labels.tolist() == [[i % 3, -1] for i in found.index.tolist()]
    by_hand = loader.video[loader.index == 3].float().flatten(2).mean((0, 1))
    assert torch.allclose(found.x[2], by_hand)
    assert torch.allclose(found.x, extract(tokens, Loader(100)).x)


def test_pooling() -> None:
    one = extract(lambda v: tokens(v)[:, :1], Loader())
    assert torch.equal(extract(lambda v: tokens(v)[:, 0], Loader()).x, one.x)
    assert extract(tokens, Loader(), pool="flat").x.shape == (6, 4 * 192)
    assert (extract(tokens, Loader(), pool="max").x >= extract(tokens, Loader()).x - 1e-4).all()


def test_features_can_train_a_probe() -> None:
    """Tensors made in inference mode cannot: they must leave it."""
    layer = torch.nn.Linear(192, 4)
    found = extract(lambda v: layer(tokens(v)), Loader())
    assert not found.x.is_inference() and not found.x.requires_grad
    linear_probe(found.x, found.labels[:, 0], found.x, found.labels[:, 0], folds=2)


def test_a_set_of_which_nothing_can_be_read_is_told() -> None:
    with pytest.raises(UserError, match="not one clip"):
        extract(tokens, [])


def test_videos_from_files_and_one_that_fails_is_listed_and_left_out(tmp_path: Path) -> None:
    settings = SyntheticSettings(videos_train=5, videos_val=1, frames=8, size=32)
    folder = write_synthetic(tmp_path, settings, workers=1)
    videos = VideoClips(
        str(folder / "train.csv"), ClipSettings(frames=4, stride=1, size=32), check="none"
    ).evaluation(clips=2)
    (folder / "videos/train/000003.mp4").write_bytes(b"no video at all")
    found = extract(pixel_statistics, videos, batch_size=3)
    assert found.index.tolist() == [0, 1, 2, 4]
    assert torch.equal(found.labels, videos.targets[[0, 1, 2, 4]])
    assert [Path(path).name for path, _ in videos.unreadable.rows()] == ["000003.mp4"]
    clip = videos[8]["video"], videos[9]["video"]  # the two clips of the last video
    assert torch.allclose(found.x[3], pixel_statistics(torch.stack(clip)).mean(0), atol=1e-6)


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
