"""Clips show the frames that their settings say, and files that fail are counted, not replaced."""

from __future__ import annotations

import pickle
import time
from collections.abc import Iterator
from contextlib import closing
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jepa_video.data import clips as module
from jepa_video.data.clips import ClipSettings, Dropped, VideoClips, collate
from jepa_video.data.decode import DecodeError, DecoderLost, has_decord, read_clip
from jepa_video.data.frames import shrink
from jepa_video.data.loader import ClipLoader
from jepa_video.data.sampler import ClipSampler
from jepa_video.errors import UserError
from tests.videos import numbers, write_clip, write_sound

WIDE = ClipSettings(frames=4, stride=3, size=64, fit="squash")


@pytest.fixture(autouse=True, scope="module")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JEPA_VIDEO_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of three videos, 40 to 45 frames at 25 frames a second."""
    root = tmp_path_factory.mktemp("videos")
    for i in range(6):
        path = root / "ab"[i % 2] / f"{i}.mp4"
        path.parent.mkdir(exist_ok=True)
        write_clip(path, 40 + i)
    return root


def shown(item: Any) -> list[int]:
    """Frame numbers that a clip shows."""
    return numbers(item["video"].permute(0, 2, 3, 1).numpy())


def test_items_have_one_shape_and_their_labels(folder: Path) -> None:
    clips = VideoClips(str(folder), ClipSettings(frames=4, stride=2, size=40))
    assert len(clips) == 6 and clips.lengths == [6]
    assert clips.label_names == ["label"] and clips.classes == {"label": ["a", "b"]}
    batch = collate([clips[i] for i in range(6)])
    assert batch["video"].shape == (6, 4, 3, 40, 40) and batch["video"].dtype == torch.uint8
    assert batch["labels"].tolist() == [[0], [0], [0], [1], [1], [1]]
    assert batch["index"].tolist() == list(range(6))


def test_stride_and_start(folder: Path) -> None:
    clips = VideoClips(str(folder), WIDE, seed=1)
    starts = set()
    for draw in range(60):
        frames = shown(clips[(2, draw)])
        assert [number - frames[0] for number in frames] == [0, 3, 6, 9]
        starts.add(frames[0])
    assert min(starts) == 0 and max(starts) == 44 - 10  # video 2 has 44 frames; all starts occur
    assert len(starts) > 25


def test_loader_processes_may_be_started_afresh(folder: Path) -> None:
    """Where processes are not forked, the videos travel as a pickle: the same clips come out."""
    clips = VideoClips(str(folder), WIDE, seed=1)
    copy = pickle.loads(pickle.dumps(clips))
    assert torch.equal(copy[(3, 5)]["video"], clips[(3, 5)]["video"])  # type: ignore[index]


def test_a_start_depends_on_seed_draw_and_video_alone(folder: Path) -> None:
    one, other = (VideoClips(str(folder), WIDE, seed=1) for _ in range(2))
    keys = [(video, draw) for video in range(6) for draw in (0, 7)]
    first = [shown(one[key]) for key in keys]
    assert [shown(other[key]) for key in reversed(keys)] == first[::-1]
    assert [shown(VideoClips(str(folder), WIDE, seed=2)[key]) for key in keys] != first


@pytest.mark.parametrize(
    ("fps", "offsets"),
    [(25.0, [0, 1, 2, 3]), (10.0, [0, 3, 5, 8]), (50.0, [0, 1, 1, 2]), (6.25, [0, 4, 8, 12])],
)
def test_frame_rate_takes_the_nearest_frames(folder: Path, fps: float, offsets: list[int]) -> None:
    clips = VideoClips(str(folder), ClipSettings(4, 99, fps, 64, "squash"))
    frames = shown(clips[(0, 5)])
    assert [number - frames[0] for number in frames] == offsets


def test_evaluation_clips_reach_from_the_start_to_the_end(folder: Path) -> None:
    clips = VideoClips(str(folder), WIDE, clips=3)
    assert len(clips) == 18
    assert [shown(clips[i])[0] for i in range(3)] == [0, 15, 30]  # 40 frames, clips of 10
    assert clips[4]["index"] == 1  # type: ignore[index]
    single = clips.evaluation(clips=1)
    assert shown(single[0])[0] == 15
    assert shown(single[(0, 99)]) == shown(single[(0, 3)])  # a draw changes nothing


def test_memory_gives_the_same_clips_without_reading(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = VideoClips(str(folder), WIDE)
    kept = VideoClips(str(folder), WIDE, cache_mb=100)
    for video in range(6):
        kept[video]
    monkeypatch.setattr(kept, "_read", lambda *_: pytest.fail("read a file again"))
    for key in [(video, draw) for video in range(6) for draw in range(3)]:
        assert torch.equal(kept[key]["video"], plain[key]["video"])  # type: ignore[index]


def test_memory_keeps_to_its_size(folder: Path) -> None:
    clips = VideoClips(str(folder), WIDE, cache_mb=1.2)  # two of 40 to 45 frames of 64 x 64 x 3
    for video in range(6):
        clips[video]
    assert len(clips._cache._frames) == 2


def test_an_item_from_memory_takes_little_time(folder: Path) -> None:
    clips = VideoClips(str(folder), ClipSettings(), cache_mb=100)
    keys = [(i % 6, i) for i in range(300)]
    collate([clips[key] for key in keys])
    start = time.process_time()
    for first in range(0, 300, 30):
        collate([clips[key] for key in keys[first : first + 30]])
    assert (time.process_time() - start) / 300 < 0.5e-3  # measured 0.05 ms


def test_shrinking_keeps_the_middle_or_all() -> None:
    frames = np.zeros((2, 20, 60, 3), np.uint8)
    frames[:, :, 20:40] = 200
    assert (shrink(frames, 10, "crop") == 200).all()
    squashed = shrink(frames, 12, "squash")
    assert squashed.shape == (2, 3, 12, 12)
    assert (squashed[..., 5:7] == 200).all() and (squashed[..., :2] == 0).all()


def test_shrinking_does_not_alias() -> None:
    """One-pixel stripes become grey; picking pixels would leave stripes of another width."""
    frames = np.zeros((1, 160, 160, 3), np.uint8)
    frames[:, :, ::2] = 255
    small = shrink(frames, 40)[..., 2:-2].float()
    assert (small - 127.5).abs().max() < 6


def faulty(folder: Path) -> Path:
    """Five good videos and three that are not."""
    for i in range(5):
        write_clip(folder / f"good{i}.mp4", 40)
    write_clip(folder / "short.mp4", 9)
    write_sound(folder / "sound.mp4")
    (folder / "empty.mp4").touch()
    return folder


def test_unusable_files_are_listed_with_their_reason(tmp_path: Path) -> None:
    clips = VideoClips(str(faulty(tmp_path)), WIDE, unreadable_limit=0.5)
    assert [Path(path).name for path in clips.paths] == [f"good{i}.mp4" for i in range(5)]
    reasons = {Path(path).name: reason for path, reason in clips.unreadable.rows()}
    assert reasons == {
        "short.mp4": "too short (9 frames, needs 10)",
        "sound.mp4": "audio only",
        "empty.mp4": "empty",
    }
    with pytest.raises(UserError, match=r"3 of 8 video files in .* are unusable \(38%"):
        VideoClips(str(tmp_path), WIDE, unreadable_limit=0.37)


def test_a_row_without_a_file_stops_or_is_skipped(tmp_path: Path) -> None:
    write_clip(tmp_path / "a.mp4", 20)
    manifest = tmp_path / "list.csv"
    manifest.write_text("path,label\na.mp4,1\nb.mp4,2\na.mp4,2\n")
    with pytest.raises(UserError, match=r"list.csv, line 3: there is no file .*b.mp4"):
        VideoClips(str(manifest), WIDE)
    clips = VideoClips(str(manifest), WIDE, missing="skip", unreadable_limit=0.4)
    assert clips.unreadable.rows() == [(str(tmp_path / "b.mp4"), "missing")]
    assert clips.targets.tolist() == [[0], [1]]


def test_a_file_that_fails_later_is_dropped_and_not_replaced(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips = VideoClips(str(folder), WIDE)
    real = read_clip

    def read(path: str, places: list[int], **options: Any) -> Any:
        if path.endswith("2.mp4"):
            raise DecodeError(path, "unreadable: the disk is gone")
        return real(path, places, **options)

    monkeypatch.setattr(module, "read_clip", read)
    loader = ClipLoader(clips, batch_size=2)
    batches = list(loader)
    lost = next(i for i, path in enumerate(clips.paths) if path.endswith("2.mp4"))
    assert [i for batch in batches for i in batch["index"].tolist()] == [
        i for i in range(6) if i != lost
    ]
    assert all("dropped" not in batch for batch in batches)
    assert loader.ledger.rows() == [(clips.paths[lost], "unreadable: the disk is gone")]


@pytest.mark.parametrize("workers", [0, 1])
def test_failures_beyond_the_limit_stop_the_run(tmp_path: Path, workers: int) -> None:
    """From loader processes too: what they could not read is counted here."""
    for i in range(6):
        write_clip(tmp_path / f"{i}.mp4", 20)
    clips = VideoClips(str(tmp_path), WIDE, unreadable_limit=0.3)
    (tmp_path / "0.mp4").unlink()
    loader = ClipLoader(clips, batch_size=1, workers=workers)
    # A batch of which nothing is left is left out.
    assert [batch["index"].tolist() for batch in loader] == [[1], [2], [3], [4], [5]]
    assert loader.ledger.rows() == [(str(tmp_path / "0.mp4"), "missing")]
    (tmp_path / "4.mp4").write_bytes(b"")
    with pytest.raises(UserError, match="2 of 6 video files"):
        list(ClipLoader(clips, batch_size=1, workers=workers))


def test_a_loader_that_is_closed_has_no_process_left(folder: Path) -> None:
    for workers in (0, 1):
        with closing(ClipLoader(VideoClips(str(folder), WIDE), workers=workers)) as loader:
            (batch,) = loader
            assert len(batch["index"]) == 6 and len(active_children()) == workers
        assert not active_children()


def test_a_hanging_file_is_waited_for_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once by each decoder."""
    clips = VideoClips(str(folder), WIDE)
    asked = []

    def hang(path: str, *_: Any, backend: str, **__: Any) -> Any:
        asked.append((path, backend))
        raise DecoderLost(path, "decoder hangs (no answer in 30 s)")

    monkeypatch.setattr(module, "read_clip", hang)
    assert isinstance(clips[(1, 0)], Dropped) and clips[(1, 9)] == clips[(1, 0)]
    decoders = ["decord", "pyav"] if has_decord() else ["pyav"]
    assert asked == [(clips.paths[1], decoder) for decoder in decoders]


def test_unchecked_files_are_found_out_when_they_are_read(tmp_path: Path) -> None:
    clips = VideoClips(str(faulty(tmp_path)), WIDE, check="none", unreadable_limit=0.5)
    loader = ClipLoader(clips, batch_size=8)
    (batch,) = list(loader)
    assert len(batch["video"]) == 5
    assert sorted(reason for _, reason in loader.ledger.rows()) == [
        "audio only",
        "empty",
        "too short (9 frames, needs 10)",
    ]


def test_several_sources_are_one_set(folder: Path, tmp_path: Path) -> None:
    write_clip(tmp_path / "extra.mp4", 20)
    manifest = tmp_path / "more.csv"
    manifest.write_text("path,speed,group\nextra.mp4,fast,g1\n")
    clips = VideoClips([str(folder), str(manifest)], WIDE)
    assert clips.lengths == [6, 1] and clips.source_of == [0] * 6 + [1]
    assert clips.label_names == ["label", "speed"]
    assert clips.targets[-1].tolist() == [-1, 0] and clips.targets[0].tolist() == [0, -1]
    assert clips.groups == [""] * 6 + ["g1"]
    only = VideoClips([str(folder), str(manifest)], WIDE, labels=["speed"])
    assert only.targets.shape == (7, 1)
    with pytest.raises(UserError, match="no label 'colour' in .*there are label"):
        VideoClips(str(folder), WIDE, labels=["colour"])


def test_few_videos_of_each_class(tmp_path: Path) -> None:
    write_clip(tmp_path / "a.mp4", 12)
    rows = "".join(f"a.mp4,{'xyz'[i % 3]}\n" for i in range(30)) + "a.mp4,\n"
    (tmp_path / "list.csv").write_text("path,kind\n" + rows)
    clips = VideoClips(str(tmp_path / "list.csv"), WIDE)
    few = clips.few("kind", 4, seed=0)
    assert clips.targets[few, 0].bincount().tolist() == [4, 4, 4]
    assert few == clips.few("kind", 4, seed=0) != clips.few("kind", 4, seed=1)
    assert clips.few("kind", None) == list(range(30))  # the one without a label is left out


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("stop", [1, 4])
def test_resume_gives_the_batches_that_were_still_to_come(
    folder: Path, workers: int, stop: int
) -> None:
    def loader() -> ClipLoader:
        clips = VideoClips([str(folder), str(folder)], WIDE, seed=4, cache_mb=50)
        sampler = ClipSampler(clips.lengths, [1.0, 2.0], batch=2, seed=4)
        return ClipLoader(clips, batch_size=2, workers=workers, sampler=sampler)

    def contents(batches: Any) -> list[tuple[list[int], list[list[int]]]]:
        return [
            (batch["index"].tolist(), [shown({"video": video}) for video in batch["video"]])
            for batch in batches
        ]

    undisturbed = loader()
    whole = [contents(undisturbed), contents(undisturbed)]
    assert len(whole[0]) == 6 and whole[0] != whole[1]
    stopped = loader()
    batches = iter(stopped)
    begun = contents(next(batches) for _ in range(stop))
    state = pickle.loads(pickle.dumps(stopped.state_dict()))  # a checkpoint on disk
    del batches, stopped
    resumed = loader()
    resumed.load_state_dict(state)
    assert [begun + contents(resumed), contents(resumed)] == whole


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"frames": 0}, "data.frames must be 1 or more, not 0"),
        ({"stride": -1}, "data.stride"),
        ({"size": 0}, "data.size"),
        ({"fps": 0.0}, "data.fps must be above 0"),
        ({"fit": "stretch"}, "data.fit must be crop or squash"),
    ],
)
def test_settings_that_make_no_clip(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        ClipSettings(**options)
