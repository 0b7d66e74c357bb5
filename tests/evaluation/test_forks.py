"""The measure of a fork: what is decided, what covers a way, and what the figures stand for."""

from functools import partial

import pytest
import torch

from jepa_video.data.datamodule import VideoDataModule
from jepa_video.data.synthetic import SyntheticSettings
from jepa_video.errors import UserError
from jepa_video.evaluation.fork_pictures import draw_futures
from jepa_video.evaluation.forks import (
    Asked,
    asked,
    covered_ways,
    decided_tokens,
    fork_figures,
    forked_clips,
)
from jepa_video.models.encoder import VideoViT
from jepa_video.models.latent import DiscreteLatent, GaussianLatent, NoLatent
from jepa_video.training.video_jepa import VideoJEPA

FORKS = SyntheticSettings(
    videos_train=24,
    videos_val=24,
    fork_ways=4,
    events=("fork",),
    numbers=("one",),
    directions=("E",),
    speeds=("fast",),
    turn=(0.49, 0.54),
    radius=(6.0, 7.0),
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JEPA_VIDEO_CACHE", str(tmp_path_factory.mktemp("cache")))
        made = VideoDataModule(frames=8, stride=3, size=32, synthetic=FORKS)
        made.setup()
        yield made


def model(latent=NoLatent, background=0.0):
    torch.manual_seed(0)
    encoder = partial(
        VideoViT, frames=8, image=32, width=24, depth=1, heads=2, background=background
    )
    return VideoJEPA(encoder=encoder, latent=latent, distance="l2").eval()


def test_the_ways_part_at_the_fork_and_not_before(data):
    clips = forked_clips(data)
    assert clips.video.shape == (24, 4, 8, 3, 64, 64)
    context, future = clips.video[:, :, :4], clips.video[:, :, 6:]
    assert (context == context[:, :1]).all()
    for one in range(4):
        for other in range(one):
            apart = (future[:, one].float() - future[:, other].float()).abs().mean((1, 2, 3, 4))
            assert (apart > 0).all()
    decided = decided_tokens(clips.video, (4, 4, 4)).view(24, 4, 16)
    assert not decided[:, :2].any() and decided[:, 2:].any(2).any(1).float().mean() > 0.9


def test_the_way_that_came_true_is_the_one_in_the_file(data):
    clips = forked_clips(data)
    videos = data.clips("val")
    for row in range(4):
        stored = videos.evaluation([row], 1)[0]["video"].float()  # T C 32 32
        drawn = torch.nn.functional.interpolate(
            clips.video[row, clips.way[row]].float(), (32, 32), mode="bilinear", antialias=True
        )
        wrong = torch.nn.functional.interpolate(
            clips.video[row, (clips.way[row] + 2) % 4].float(),
            (32, 32),
            antialias=True,
            mode="bilinear",
        )
        assert (stored - drawn).abs().mean() < 4
        assert (stored - drawn).abs().mean() < (stored - wrong).abs().mean()


def test_what_covers_a_way(data):
    """The true futures cover all ways, one of them its own, and their mean none."""
    module = model()
    with torch.no_grad():
        chunk = next(asked(module, forked_clips(data)))
    assert covered_ways(module, chunk.futures, chunk).all()
    one = covered_ways(module, chunk.futures[2:3], chunk)
    assert one[:, 2].all() and not one[:, [0, 1, 3]].any()
    assert not covered_ways(module, chunk.futures.mean(0, keepdim=True), chunk).any()


def test_the_bland_energy_is_the_least_that_one_answer_can_have(data):
    """Under squared error nothing without z beats the mean of the ways, on average over them."""
    module = model()
    with torch.no_grad():
        chunk: Asked = next(asked(module, forked_clips(data)))
        mean = chunk.futures.mean(0)
        best = torch.stack([module.energy(mean, y) for y in chunk.futures]).mean()
        for noise in (0.1, 0.3):
            other = mean + noise * torch.randn_like(mean)
            assert torch.stack([module.energy(other, y) for y in chunk.futures]).mean() > best


@pytest.mark.parametrize("latent", [partial(DiscreteLatent, count=4), GaussianLatent])
def test_figures_of_a_latent_and_of_none(data, latent):
    device = torch.device("cpu")
    with torch.no_grad():
        plain, with_z = (fork_figures(model(kind), data, device) for kind in (NoLatent, latent))
    needs_z = {"latent_bits", "ways_covered", "way_probe", "argmin_no_worse"}
    assert not needs_z & plain.keys() and needs_z <= with_z.keys()
    assert with_z["argmin_no_worse"] == 1
    assert plain["fork_energy_bland"] == pytest.approx(with_z["fork_energy_bland"], rel=1e-4)
    assert 0 <= with_z["ways_covered"] <= 1 and plain["parameters"] > 0


@pytest.mark.parametrize("background", [0.0, 0.5])
def test_the_picture_shows_every_way(data, tmp_path, background):
    module = model(GaussianLatent, background)
    with torch.no_grad():
        (plate,) = draw_futures(module, data, torch.device("cpu"), tmp_path)
    assert ("no background of its own" in plate.caption) == bool(background)
    assert len(plate.rows) == 3
    for row in plate.rows:
        for picture in row:
            assert (tmp_path / picture.file).stat().st_size > 1000


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"root": "somewhere"}, "data.root must be synthetic"),
        ({"synthetic": SyntheticSettings(events=("cruise",))}, "needs 20 held-out forks"),
        ({"synthetic": FORKS, "stride": 9}, "does not fit in videos of 24"),
    ],
)
def test_data_without_forks_is_told(options, told):
    with pytest.raises(UserError, match=told):
        forked_clips(VideoDataModule(**{"frames": 8, "stride": 3, **options}))
