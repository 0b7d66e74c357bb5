"""Episodes read back: our folders and LeRobot's, windows of them, and loaders that resume."""

from __future__ import annotations

import io
import json
import pickle
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from jepa_video.agent.collect import collect
from jepa_video.data import lerobot, shelf
from jepa_video.data.datamodule import VideoDataModule
from jepa_video.data.encode import Codec, lossless, write_video
from jepa_video.data.episode_module import EpisodeDataModule
from jepa_video.data.episodes import EpisodeSet, Windows
from jepa_video.envs import make_batch
from jepa_video.envs.policies import make_policy
from jepa_video.envs.rollout import play, seeds_of
from jepa_video.errors import UserError

LENGTHS = (7, 12, 9)


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty episodes of 18 steps, half of them of another policy."""
    root = tmp_path_factory.mktemp("episodes") / "rooms"
    for policy in ("explore", "random"):
        collect("TwoRooms", policy, 10, root, seed=3, settings={"budget": 18})
    return root


def rows_of(number: int, length: int, discrete: bool = False) -> dict[str, Any]:
    """Columns of an episode in the units of a robot; frame t of episode k is grey level 20k + t."""
    source = np.random.default_rng(number)
    action = source.uniform(-5, 20, (length, 3)).astype(np.float32)
    kinds = np.arange(length) % 4
    return {
        "observation.state": [[float(number), float(t)] for t in range(length)],
        "action": kinds if discrete else list(action),
        "next.reward": np.arange(length, dtype=np.float32),
        "next.success": np.arange(length) == length - 2,
        "episode_index": np.full(length, number),
        "frame_index": np.arange(length),
    }


def grey(number: int, length: int) -> np.ndarray:
    levels = (20 * number + np.arange(length)).astype(np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (length, 32, 40, 3)).copy()


def info_of(version: str, **changes: Any) -> dict[str, Any]:
    v3 = version == "v3.0"
    at = "chunk_index" if v3 else "episode_chunk"
    file = "file-{file_index:03d}" if v3 else "episode_{episode_index:06d}"
    chunk = f"chunk-{{{at}:03d}}"
    videos = f"videos/{{video_key}}/{chunk}" if v3 else f"videos/{chunk}/{{video_key}}"
    features = {
        "observation.images.top": {"dtype": "video", "shape": [32, 40, 3], "names": None},
        "observation.state": {"dtype": "float32", "shape": [2], "names": {"motors": ["id", "t"]}},
        "action": {"dtype": "float32", "shape": [3], "names": ["a", "b", "c"]},
        "next.reward": {"dtype": "float32", "shape": [1], "names": None},
        "next.success": {"dtype": "bool", "shape": [1], "names": None},
        "episode_index": {"dtype": "int64", "shape": [1], "names": None},
        "frame_index": {"dtype": "int64", "shape": [1], "names": None},
    }
    return {
        "codebase_version": version,
        "fps": 10,
        "chunks_size": 1000,
        "data_path": f"data/{chunk}/{file}.parquet",
        "video_path": f"{videos}/{file}.mp4",
        "features": {**features, **changes},
    }


def write_info(root: Path, info: dict[str, Any]) -> None:
    (root / "meta").mkdir(parents=True, exist_ok=True)
    (root / "meta" / "info.json").write_text(json.dumps(info))


def put(path: Path, rows: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(rows), path)


def video(path: Path, frames: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, frames, 10, lossless())


def lerobot_v2(root: Path, discrete: bool = False) -> Path:
    kinds = {"action": {"dtype": "int64", "shape": [1], "names": None}} if discrete else {}
    write_info(root, info_of("v2.1", **kinds))
    lines = []
    for number, length in enumerate(LENGTHS):
        name = f"episode_{number:06d}"
        put(root / f"data/chunk-000/{name}.parquet", rows_of(number, length, discrete))
        key = "observation.images.top"
        video(root / f"videos/chunk-000/{key}/{name}.mp4", grey(number, length))
        lines.append(json.dumps({"episode_index": number, "tasks": ["x"], "length": length}) + "\n")
    (root / "meta" / "episodes.jsonl").write_text("".join(lines))
    return root


def lerobot_v3(root: Path) -> Path:
    """Two episodes in the first video and data file, one in the second video."""
    write_info(root, info_of("v3.0"))
    key, rows = "observation.images.top", []
    for file, numbers in enumerate([(0, 1), (2,)]):
        start = 0
        for number in numbers:
            place = {f"{part}/chunk_index": 0 for part in ("data", f"videos/{key}")}
            place |= {"data/file_index": 0, f"videos/{key}/file_index": file}
            time = {f"videos/{key}/from_timestamp": start / 10}
            told = {"episode_index": number, "length": LENGTHS[number], "stats/action/min": [0.0]}
            rows.append({**told, **place, **time})
            start += LENGTHS[number]
        joined = np.concatenate([grey(number, LENGTHS[number]) for number in numbers])
        video(root / f"videos/{key}/chunk-000/file-{file:03d}.mp4", joined)
    parts = [pa.table(rows_of(number, length)) for number, length in enumerate(LENGTHS)]
    (root / "data/chunk-000").mkdir(parents=True)
    pq.write_table(pa.concat_tables(parts), root / "data/chunk-000/file-000.parquet")
    (root / "meta/episodes/chunk-000").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), root / "meta/episodes/chunk-000/file-000.parquet")
    return root


def test_an_episode_read_is_the_episode_played(rooms: Path) -> None:
    env = make_batch("TwoRooms", 10, budget=18)
    played = play(env, make_policy("explore", env), seeds_of(3, 10))
    episodes = EpisodeSet(rooms)
    assert len(episodes) == 20 and episodes.total_frames == 380
    for i, there in enumerate(played):
        read = episodes.episode(i)
        assert (read.number, read.seed) == (i, there.seed)
        for name in ("frames", "actions", "states", "rewards", "success", "goal_state"):
            mine, theirs = getattr(read, name), getattr(there, name)
            assert mine.dtype == theirs.dtype and (mine == theirs).all(), name
    facts = episodes.facts
    assert (facts.env, facts.settings["budget"]) == ("TwoRooms", 18)
    assert (facts.action_size, facts.discrete, facts.state_names) == (2, False, ("x", "y"))
    assert (facts.action_low, facts.action_high) == ((-1, -1), (1, 1))
    assert (facts.size, facts.fps, facts.state_size) == (64, 10, 2)


@pytest.mark.parametrize("at_once", [2**27, 3 * 32 * 40 * 5])
@pytest.mark.parametrize("write", [lerobot_v2, lerobot_v3])
def test_lerobot_folders_are_read_as_they_are(
    write: Any, at_once: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lerobot, "_AT_ONCE", at_once)  # whole episodes, or five frames
    episodes = EpisodeSet(write(tmp_path))
    assert [len(episodes.episode(i).frames) for i in range(3)] == list(LENGTHS)
    low, high = np.full(3, np.inf), np.full(3, -np.inf)
    raw = [np.stack(rows_of(number, length)["action"]) for number, length in enumerate(LENGTHS)]
    for actions in raw:
        low, high = np.minimum(low, actions.min(0)), np.maximum(high, actions.max(0))
    for number, length in enumerate(LENGTHS):
        read = episodes.episode(number)
        assert read.frames.shape == (length, 32, 32, 3)  # 32 x 40, squashed
        assert (read.frames[:, 16, 16, 1] == 20 * number + np.arange(length)).all()
        assert (read.states == [[number, t] for t in range(length)]).all()
        back = low + (read.actions + 1) / 2 * (high - low)
        assert back == pytest.approx(raw[number][:-1], abs=1e-4)
        assert (read.rewards == np.arange(length - 1)).all()
        assert np.flatnonzero(read.success).tolist() == [length - 1]
    facts = episodes.facts
    assert facts.env is None and facts.state_names == ("id", "t")
    assert facts.action_names == ("a", "b", "c") and facts.action_low == pytest.approx(low)
    reached = np.concatenate([episodes.actions.min(0), episodes.actions.max(0)])
    assert reached == pytest.approx([-1] * 3 + [1] * 3)


CODECS = {
    "av1": Codec("libsvtav1", "yuv420p", {"g": "2", "crf": "30", "preset": "12"}),
    "h264": Codec("libx264", "yuv420p", {"g": "2", "crf": "30"}),
}


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("write", [lerobot_v2, lerobot_v3])
def test_videos_as_lerobot_writes_them_give_each_step_its_own_frame(
    write: Any, codec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lossy, in 4:2:0, a key frame every other picture: its defaults of AV1 and of H.264."""
    if CODECS[codec].name not in av.codecs_available:
        pytest.skip(f"this FFmpeg has no {CODECS[codec].name}")

    def steep(number: int, length: int) -> np.ndarray:
        levels = (60 * number + 10 * np.arange(length)).astype(np.uint8)
        return np.broadcast_to(levels[:, None, None, None], (length, 64, 80, 3)).copy()

    def lossy(path: Path, frames: np.ndarray) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, frames, 10, CODECS[codec])

    here = sys.modules[__name__]
    monkeypatch.setattr(here, "grey", steep)
    monkeypatch.setattr(here, "video", lossy)
    episodes = EpisodeSet(write(tmp_path))
    for number, length in enumerate(LENGTHS):
        read = episodes.episode(number)
        gap = read.frames[:, 16, 16, 1] - (60.0 * number + 10 * np.arange(length))
        assert np.abs(gap).max() < 5  # the next frame is 10 away
        assert (read.states == [[number, t] for t in range(length)]).all()


def test_kinds_become_one_hot(tmp_path: Path) -> None:
    episodes = EpisodeSet(lerobot_v2(tmp_path, discrete=True))
    assert episodes.facts.discrete and episodes.facts.action_size == 4
    assert (episodes.episode(0).actions == np.eye(4)[[0, 1, 2, 3, 0, 1]]).all()


def test_pictures_within_parquet_and_one_of_two_cameras(tmp_path: Path) -> None:
    picture = {"dtype": "image", "shape": [3, 16, 16], "names": ["channels", "height", "width"]}
    write_info(tmp_path, info_of("v2.0", wrist=picture))
    cells = []
    for level in range(7):
        file = io.BytesIO()
        Image.new("RGB", (16, 16), (level, 9, 9)).save(file, "png")
        cells.append({"bytes": file.getvalue(), "path": None})
    put(tmp_path / "data/chunk-000/episode_000000.parquet", {**rows_of(0, 7), "wrist": cells})
    (tmp_path / "meta/episodes.jsonl").write_text('{"episode_index": 0, "length": 7}\n')
    read = EpisodeSet(tmp_path, image="wrist").episode(0)
    assert read.frames.shape == (7, 16, 16, 3) and (read.frames[:, 0, 0, 0] == range(7)).all()
    with pytest.raises(UserError, match=r"several kinds.* one of observation.images.top, wrist"):
        EpisodeSet(tmp_path)
    with pytest.raises(UserError, match=r"no pictures 'front': give as image one of"):
        EpisodeSet(tmp_path, image="front")


def test_what_cannot_be_read_is_listed_and_skipped(tmp_path: Path) -> None:
    lerobot_v2(tmp_path)
    broken = tmp_path / "videos/chunk-000/observation.images.top/episode_000001.mp4"
    broken.write_bytes(broken.read_bytes()[:200])
    episodes = EpisodeSet(tmp_path)
    assert len(episodes) == 2 and [episodes.episode(i).number for i in range(2)] == [0, 2]
    ((path, reason),) = episodes.unreadable.rows()
    assert path == str(broken) and reason
    # The file is mended: its time has changed, so it is read again.
    video(broken, grey(1, 12))
    assert len(EpisodeSet(tmp_path)) == 3
    put(tmp_path / "data/chunk-000/episode_000000.parquet", rows_of(0, 5))
    told = EpisodeSet(tmp_path).unreadable.rows()
    assert [reason for _, reason in told] == ["has 5 rows for an episode of 7"]


def test_an_episode_that_gives_no_window_is_listed(tmp_path: Path) -> None:
    data = EpisodeDataModule(str(lerobot_v2(tmp_path)), frames=max(LENGTHS), val_share=0.0)
    data.setup()
    short = [number for number, length in enumerate(LENGTHS) if length < max(LENGTHS)]
    told = data.unreadable.rows()
    assert [path for path, _ in told] == [f"{tmp_path}: episode {number}" for number in short]
    for number, (_, why) in zip(short, told, strict=True):
        assert why == f"is shorter than data.frames (has {LENGTHS[number]} frames)"
    (words,) = data.unreadable.words()
    assert words.startswith(
        f"left out  {len(short)}, listed in unreadable.csv: {len(short)} is short"
    )
    data = EpisodeDataModule(str(tmp_path), frames=min(LENGTHS), val_share=0.0)
    data.setup()
    assert not data.unreadable.words()


def test_a_folder_that_grows_is_decoded_only_where_it_grew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shelf, "SHELF", 4)
    monkeypatch.setattr("jepa_video.data.episodes.SHELF", 4)
    for count, shelves in ((6, 2), (9, 3)):
        collect("TwoRooms", "random", count, tmp_path, settings={"budget": 5})
        decoded: list[int] = []
        episodes = EpisodeSet(tmp_path, progress=lambda done, total, d=decoded: d.append(done))
        assert decoded == ([*range(1, 7)] if count == 6 else [*range(5, 10)])
        stored = list((tmp_path / ".cache").glob("frames-64-*/0*"))
        assert len(stored) == shelves  # no shelf of before is left
        fresh = EpisodeSet(tmp_path, size=32)
        assert len(episodes) == len(fresh) == count
    env = make_batch("TwoRooms", 9, budget=5)
    played = play(env, make_policy("random", env), seeds_of(0, 9))
    for i, there in enumerate(played):
        assert (episodes.episode(i).frames == there.frames).all()


def test_a_closed_folder_is_cached_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = lerobot_v2(tmp_path / "data")
    (root / ".cache").write_text("no folder can be made here")
    monkeypatch.setenv("JEPA_VIDEO_CACHE", str(tmp_path / "cache"))
    assert len(EpisodeSet(root)) == 3
    assert len(list((tmp_path / "cache").rglob("frames.u8"))) == 1
    monkeypatch.setenv("JEPA_VIDEO_CACHE", str(root / ".cache"))
    with pytest.raises(UserError, match="set JEPA_VIDEO_CACHE"):
        EpisodeSet(root, size=16)


def test_windows_never_cross_episodes_and_are_all_there(tmp_path: Path) -> None:
    episodes = EpisodeSet(lerobot_v2(tmp_path))
    windows = Windows(episodes, frames=8)
    assert len(windows) == 0 + 5 + 2
    batch = windows.__getitems__(list(range(7)))
    assert batch["episode"].tolist() == [1] * 5 + [2] * 2
    assert batch["start"].tolist() == [*range(5), *range(2)]
    assert batch["video"].shape == (7, 8, 3, 32, 32) and batch["video"].dtype == torch.uint8
    levels = batch["video"][:, :, 0, 16, 16].long()
    steps = batch["start"][:, None] + torch.arange(8)
    assert (levels == 20 * batch["episode"][:, None] + steps).all()
    assert (batch["state"][..., 0] == batch["episode"][:, None]).all()
    assert (batch["state"][..., 1] == steps).all()
    assert (batch["reward"] == steps[:, :-1]).all()
    for row in range(7):
        whole = episodes.episode(int(batch["episode"][row])).actions
        start = int(batch["start"][row])
        assert (batch["action"][row].numpy() == whole[start : start + 7]).all()
    assert (windows[4]["video"] == batch["video"][4]).all()
    with pytest.raises(UserError, match="no episode .* has 13 frames: the longest has 12"):
        Windows(episodes, frames=13)


def test_a_smaller_share_lies_within_a_larger_one(rooms: Path) -> None:
    parts = [set(EpisodeSet(rooms, share=share).chosen) for share in (0.1, 0.3, 0.55, 1.0)]
    assert [len(part) for part in parts] == [2, 6, 11, 20]
    assert parts[0] < parts[1] < parts[2] < parts[3]
    others = {tuple(EpisodeSet(rooms, share=0.3, seed=seed).chosen) for seed in range(5)}
    assert len(others) > 1


def test_the_held_out_are_the_same_for_every_share_and_for_pretraining(rooms: Path) -> None:
    few, all_ = (EpisodeDataModule(str(rooms), share=share, val_share=0.3) for share in (0.4, 1.0))
    assert few.val.chosen == all_.val.chosen
    assert set(few.train.chosen) < set(all_.train.chosen)
    assert sorted(all_.train.chosen + all_.val.chosen) == list(range(20))
    seeds = [{side.episode(i).seed for i in range(len(side))} for side in (all_.train, all_.val)]
    assert not seeds[0] & seeds[1] and len(seeds[1]) * 2 == len(all_.val)
    clips = VideoDataModule(str(rooms), val_fraction=0.3, frames=4, size=64).clips("val")
    assert [int(Path(path).stem[-6:]) for path in clips.paths] == all_.val.chosen


def test_an_epoch_has_every_window_once(rooms: Path) -> None:
    data = EpisodeDataModule(str(rooms), frames=9, batch_size=10)
    seen = []
    for batch in data.train_dataloader():
        assert batch["video"].shape == (10, 9, 3, 64, 64) and batch["action"].shape == (10, 8, 2)
        seen += list(zip(batch["episode"].tolist(), batch["start"].tolist(), strict=True))
    assert len(set(seen)) == len(seen) == len(data.train) * 11 // 10 * 10
    held = [batch["start"].tolist() for batch in data.val_dataloader()]
    assert sum(held, []) == [0, 8] * len(data.val)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_resumes_in_the_middle_of_an_epoch(rooms: Path, workers: int) -> None:
    def loader() -> Any:
        data = EpisodeDataModule(str(rooms), batch_size=16, seed=5, workers=workers)
        return data.train_dataloader()

    through = loader()
    whole = [batch for _ in range(2) for batch in through]
    begun = loader()
    batches = iter(begun)
    for _ in range(3):
        next(batches)
    state = pickle.loads(pickle.dumps(begun.state_dict()))
    resumed = loader()
    resumed.load_state_dict(state)
    after = [batch for _ in range(2) for batch in resumed]
    assert len(after) == len(whole) - 3
    for one, other in zip(whole[3:], after, strict=True):
        assert all((one[name] == other[name]).all() for name in one)


def test_a_set_sent_to_a_worker_does_not_take_its_frames_along(rooms: Path) -> None:
    episodes = EpisodeSet(rooms)
    frames = episodes.episode(3).frames
    sent = pickle.dumps(episodes)
    assert len(sent) < frames.nbytes
    assert (pickle.loads(sent).episode(3).frames == frames).all()


def test_what_cannot_be_opened_is_a_sentence(
    rooms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="holds no episodes"):
        EpisodeSet(tmp_path)
    write_info(tmp_path, info_of("v2.1"))
    with pytest.raises(UserError, match="has no episodes yet"):
        EpisodeSet(tmp_path)
    write_info(tmp_path, info_of("v1.6"))
    with pytest.raises(UserError, match=r"of v1.6; v2.0, v2.1, v3.0 can be read"):
        EpisodeSet(tmp_path)
    for settings, said in (
        ({"share": 0.0}, "share must be above 0"),
        ({"size": 4}, "size must be 8 or more"),
    ):
        with pytest.raises(UserError, match=said):
            EpisodeSet(rooms, **settings)
    for settings, said in (({"frames": 1}, "frames must be 2"), ({"val_share": 1.0}, "val_share")):
        with pytest.raises(UserError, match=said):
            EpisodeDataModule(str(rooms), **settings).setup()
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(UserError, match=r"need pyarrow: pip install 'jepa-video\[control\]'"):
        EpisodeSet(rooms)
