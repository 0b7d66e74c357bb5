"""Claims about the picture pack: colours mean what captions say, and drawing changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from jepa_video.data.masks import MaskSampler, MultiBlock, PastToFuture
from jepa_video.data.transforms import centre, normalise
from jepa_video.evaluation.album import Plate, load_album
from jepa_video.evaluation.drawing import (
    beside,
    enlarge,
    heat,
    pixels,
    principal_colours,
    slot_frames,
    tile_side,
    tint,
)
from jepa_video.evaluation.pictures import (
    distinct_masks,
    draw_album,
    nearest,
    token_energies,
)
from jepa_video.evaluation.report import write_report
from jepa_video.evaluation.samples import Sample, sample_clips
from jepa_video.models.encoder import VideoViT
from jepa_video.training.video_jepa import VideoJEPA


def tiny(masks: Callable[[], MaskSampler] = PastToFuture) -> VideoJEPA:
    torch.manual_seed(3)
    encoder = VideoViT(frames=4, image=16, width=24, depth=1, heads=2, drop_path=0.5)
    return VideoJEPA(encoder=lambda: encoder, masks=masks)


def clips(count: int = 6) -> Sample:
    generator = torch.Generator().manual_seed(1)
    video = torch.randint(256, (count, 4, 3, 20, 20), generator=generator, dtype=torch.uint8)
    labels = torch.stack((torch.arange(count) % 2, torch.arange(count) % 3), dim=1)
    classes = {"way": ["left", "right"], "shape": ["disc", "ring", "star"]}
    return Sample(video, torch.arange(count), labels, ["way", "shape"], classes)


def files_of(plates: list[Plate]) -> set[str]:
    shown = [picture for plate in plates for row in plate.rows for picture in row]
    return {name for picture in shown for name in (picture.file, picture.still) if name}


@pytest.mark.parametrize("masks", [PastToFuture, MultiBlock])
def test_every_picture_of_the_album_is_there_and_no_other(
    tmp_path: Path, masks: Callable[[], MaskSampler]
) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "old.webp").write_bytes(b"of an earlier drawing")
    plates = draw_album(tiny(masks), clips(), folder)
    assert load_album(folder) == plates and len(plates) == 4
    assert {path.name for path in folder.glob("*.webp")} == files_of(plates)
    assert all(picture.alt for plate in plates for row in plate.rows for picture in row)


def test_the_page_of_a_run_shows_the_pack(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("step,loss\n1,2\n")
    plates = draw_album(tiny(), clips(), tmp_path / "pictures")
    text = write_report(tmp_path).read_text()
    shown = [picture for plate in plates for row in plate.rows for picture in row]
    assert text.count("<img ") == sum(1 + bool(picture.still) for picture in shown)
    assert text.count("data:image/webp;base64,") == text.count("<img ")


def test_drawing_leaves_module_and_generators_as_they_were(tmp_path: Path) -> None:
    module = tiny()
    module.train()
    module.predictor.eval()
    weights = [weight.clone() for weight in module.state_dict().values()]
    modes = [part.training for part in module.modules()]
    state, draws = torch.get_rng_state(), module.draws
    draw_album(module, clips(), tmp_path)
    assert [part.training for part in module.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state) and module.draws == draws
    assert all(map(torch.equal, weights, module.state_dict().values()))
    assert all(weight.grad is None for weight in module.parameters())


def test_pictures_move_as_long_as_the_clip(tmp_path: Path) -> None:
    draw_album(tiny(), clips(), tmp_path)
    with Image.open(tmp_path / "features_0.webp") as image:
        assert getattr(image, "n_frames", 1) == 4
        assert image.info["loop"] == 0


@pytest.mark.parametrize(("sample", "count"), [(None, 0), (clips(1), 2)])
def test_what_cannot_be_drawn_is_left_out(
    tmp_path: Path, sample: Sample | None, count: int
) -> None:
    assert len(draw_album(tiny(), sample, tmp_path)) == count
    assert len(load_album(tmp_path)) == count


def test_token_energies_average_to_the_energies_of_the_module() -> None:
    module, video = tiny().eval(), clips().video
    with torch.no_grad():
        clip = centre(video, 16)
        told = [token_energies(module, clip, shift).nanmean(dim=1) for shift in (0, 1)]
    for mine, its in zip(told, module.energies(video), strict=True):
        assert torch.allclose(mine, its, atol=1e-6)


def test_tokens_that_are_never_a_target_have_no_energy() -> None:
    module = tiny().eval()
    with torch.no_grad():
        energy = token_energies(module, torch.randn(2, 3, 4, 16, 16), 0)
    assert energy[:, :4].isnan().all() and not energy[:, 4:].isnan().any()


def test_masks_that_repeat_are_shown_once() -> None:
    assert len(distinct_masks(tiny(PastToFuture))) == 1


def test_colours_do_not_depend_on_the_axes_of_the_features() -> None:
    generator = torch.Generator().manual_seed(0)
    scale = torch.tensor([8.0, 4.0, 2.0, *[0.1] * 7])
    tokens = torch.randn(5, 40, 10, generator=generator) * scale
    turn = torch.linalg.qr(torch.randn(10, 10, generator=generator)).Q
    colours, held = principal_colours(tokens)
    turned, _ = principal_colours(tokens @ turn)
    same = [
        min((a - b).abs().max(), (a - (1 - b)).abs().max()) for a, b in pairs_of(colours, turned)
    ]
    assert max(same) < 1e-3  # up to the sign of a component
    assert held > 0.99


def pairs_of(one: Tensor, other: Tensor) -> list[tuple[Tensor, Tensor]]:
    return [(one[..., channel], other[..., channel]) for channel in range(3)]


def test_colours_keep_two_kinds_of_token_apart() -> None:
    kind = torch.arange(32) % 2
    tokens = torch.randn(1, 32, 8) * 0.01 + kind[None, :, None] * torch.randn(8)
    colours = principal_colours(tokens)[0][0]
    red = colours[:, 0]
    assert (red[kind == 0].mean() - red[kind == 1].mean()).abs() > 0.9


def test_collapsed_tokens_are_grey() -> None:
    colours, _ = principal_colours(torch.ones(2, 16, 8))
    assert torch.equal(colours, torch.full_like(colours, 0.5))


def test_neighbours_are_of_other_videos_and_the_nearest_first() -> None:
    features = torch.eye(6) + 0.01
    features[4] = features[0] * 2 + 0.05 * features[1]  # nearly parallel to 0
    index = torch.tensor([0, 0, 1, 2, 3, 4])
    features[1] = features[0]  # the same video: must not count
    places, values = nearest(features, index, 4)
    assert places[0, 0] == 4 and 1 not in places[0].tolist()
    assert (values.diff(dim=1) <= 0).all() and places.shape == (6, 4)
    assert all(index[i] != index[j] for i, row in enumerate(places.tolist()) for j in row)


def test_tint_is_orange_where_the_target_is() -> None:
    grey = torch.full((1, 4, 4, 3), 128, dtype=torch.uint8)
    masked = torch.zeros(1, 4, 4, dtype=torch.bool)
    masked[:, 2:] = True
    red, _, blue = tint(grey, masked).float().unbind(-1)
    assert (red > blue)[masked].all() and (blue > red)[~masked].all()


def test_heat_grows_lighter() -> None:
    colours = heat(torch.linspace(0, 1, 50))
    luminance = colours @ torch.tensor([0.2126, 0.7152, 0.0722])
    assert (luminance.diff() > 0).all()


def test_frames_are_shown_as_they_were_filmed() -> None:
    video = clips().video
    assert torch.equal(pixels(normalise(video)), video.movedim(2, -1))


def test_growing_repeats_pixels_and_slots_take_the_middle_frame() -> None:
    frames = torch.arange(8, dtype=torch.uint8).view(8, 1, 1, 1).expand(8, 2, 2, 3)
    assert slot_frames(frames, 2)[:, 0, 0, 0].tolist() == [2, 6]
    checks = torch.tensor([[0, 255], [255, 0]], dtype=torch.uint8)[None, :, :, None].expand(
        -1, -1, -1, 3
    )
    assert torch.equal(
        enlarge(checks, 4)[0, :, :, 0],
        checks[0, :, :, 0].repeat_interleave(2, 0).repeat_interleave(2, 1),
    )
    assert tile_side(32) == 128 and tile_side(224) == 128 and tile_side(160) == 160


def test_panels_are_parted_by_clear_gaps() -> None:
    panel = torch.zeros(2, 3, 3, dtype=torch.uint8)
    picture = beside([panel, panel], gap=2)
    assert picture[0, :, 3].tolist() == [255, 255, 255, 0, 0, 255, 255, 255]


def test_a_sample_is_spread_over_the_set_and_skips_the_unreadable() -> None:
    class Clips:
        label_names = ["kind"]
        classes = {"kind": ["a", "b"]}
        groups: list[str] | None = None

        def __len__(self) -> int:
            return 100

        def __getitem__(self, key: int) -> Any:
            video = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
            item = {"video": video, "labels": torch.tensor([key // 50]), "index": torch.tensor(key)}
            return "unreadable" if key == 99 else item

    sample = sample_clips(Clips(), clips=5)
    assert sample is not None
    assert sample.labels.flatten().tolist() == [0, 0, 0, 1] and len(sample.source.unique()) == 4
    Clips.groups = ["studio" if number < 30 else "garden" for number in range(100)]
    grouped = sample_clips(Clips(), clips=5)
    assert grouped is not None and grouped.source.tolist() == [0, 0, 1, 1]
    assert sample.described(3) == "b" and sample.compared(0, 3) == "a (other)"


def test_labels_are_compared_in_words() -> None:
    sample = clips()
    assert sample.described(1) == "way right, shape ring"
    assert sample.compared(3, 1) == "same way" and sample.compared(0, 1) == "nothing in common"
