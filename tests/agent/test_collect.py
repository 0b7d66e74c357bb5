"""Episodes collected into a folder: exact, the same after a kill, and the same added as at once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from pyarrow import parquet

from jepa_video.agent import recording
from jepa_video.agent.bank import Bank
from jepa_video.agent.collect import collect
from jepa_video.agent.encoding import encoded
from jepa_video.agent.recording import Recording
from jepa_video.cli import main
from jepa_video.cli.options import build_parser, parse
from jepa_video.data.datamodule import VideoDataModule
from jepa_video.data.decode import has_decord, read_clip
from jepa_video.data.episodes import EpisodeSet
from jepa_video.data.lerobot import Dataset, Entry, episode_rows
from jepa_video.envs import make_batch
from jepa_video.envs.policies import make_policy
from jepa_video.envs.rollout import play, seeds_of
from jepa_video.envs.wrap import Wrapped
from jepa_video.errors import UserError
from jepa_video.models.conv import ConvEncoder
from jepa_video.training.world_model import WorldModel
from tests.agent.tiny_agent import facts

SHORT = {"budget": 18}


def contents(root: Path) -> dict[str, bytes]:
    """Every file that counts."""
    files = (path for path in root.rglob("*") if path.is_file() and path.name[0] != ".")
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


def frames_of(data: Dataset, entry: Entry) -> np.ndarray:
    return np.concatenate(list(data.frames(entry)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten walks in two rooms."""
    root = tmp_path_factory.mktemp("episodes") / "rooms"
    collect("TwoRooms", "explore", 10, root, seed=3, batch=4, settings=SHORT)
    return root


class Ending(gymnasium.Env):
    """Counts down: from 3 where the seed is odd, from 99 else; at 0 it is over."""

    observation_space = spaces.Box(-9.0, 9.0, (1,))
    action_space = spaces.Box(np.float32(-1.0), np.float32(1.0), (1,))
    render_mode = "rgb_array"

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = 3 if seed % 2 else 99
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.left -= 1
        return np.full(1, self.left, np.float32), 0.0, self.left == 0, False, {}

    def render(self):
        return np.full((16, 16, 3), self.left, np.uint8)


def endings(root: Path) -> list[int]:
    """Add two episodes that end after 3 steps and two that are cut after 5; their lengths."""
    env = Wrapped([Ending() for _ in range(4)], "ending", budget=5, size=16)
    played = play(env, make_policy("random", env), [1, 2, 3, 4])
    recording = Recording(root, env, {})
    with recording.opened():
        recording.add(played, "random", 0, recording.made("random", 0))
    assert [one.terminated for one in played] == [True, False, True, False]
    return [len(one.frames) for one in played]


def test_an_end_of_its_own_and_a_cut_are_told_apart(tmp_path: Path) -> None:
    root = tmp_path / "ends"
    assert endings(root) == [4, 6, 4, 6]
    data, episodes = Dataset(root), EpisodeSet(root)
    for number, entry in enumerate(data.entries()):
        ends = data.rows(entry)["next.terminated"]
        assert ends.dtype == bool and len(ends) == entry.length
        assert np.flatnonzero(ends).tolist() == ([2] if number in (0, 2) else [])
        told = episodes.episode(number).terminated
        assert told.shape == (entry.length - 1,) and (told == ends[:-1]).all()
    # Into the bank: what comes after the last step of the first and third episode is nothing.
    told = facts(env="ending", action_size=1, state_size=1, state_names=("s",), size=16)
    for frames in (1, 2):
        encoder = partial(ConvEncoder, frames=frames, tubelet=frames, channels=4, width=8, image=16)
        memory = Bank()
        encoded(WorldModel(told, encoder=encoder).eval(), episodes, memory, torch.device("cpu"))
        given = memory.__getitems__([(i, 0) for i in range(len(memory))])["terminated"]
        lost = frames - 1
        wanted = [*[False] * (2 - lost), True, *[False] * (5 - lost)] * 2
        assert given.dtype == torch.bool and given.tolist() == wanted


def test_a_folder_begun_without_that_column_goes_on_without_it(tmp_path: Path) -> None:
    root = tmp_path / "old"
    endings(root)
    info = json.loads((root / "meta" / "info.json").read_text())
    del info["features"]["next.terminated"]
    (root / "meta" / "info.json").write_text(json.dumps(info))
    for path in root.rglob("*.parquet"):
        parquet.write_table(parquet.read_table(path).drop(["next.terminated"]), path)
    assert not EpisodeSet(root).episode(0).terminated.any()
    endings(root)
    schemas = {
        parquet.read_schema(path).to_string(False, False) for path in root.rglob("*.parquet")
    }
    assert len(schemas) == 1 and "next.terminated" not in schemas.pop()
    after = EpisodeSet(root)
    assert len(after) == 8 and not any(after.episode(i).terminated.any() for i in range(8))
    assert (
        "next.terminated" not in (root / "meta" / "episodes_stats.jsonl").read_text().split("\n")[5]
    )


def test_what_is_read_is_what_was_played_bit_for_bit(folder: Path) -> None:
    env = make_batch("TwoRooms", 10, **SHORT)
    played = play(env, make_policy("explore", env), seeds_of(3, 10))
    data = Dataset(folder)
    for entry, episode in zip(data.entries(), played, strict=True):
        rows = data.rows(entry)
        assert (frames_of(data, entry) == episode.frames).all()
        assert (rows["action"][:-1] == episode.actions).all() and not rows["action"][-1].any()
        assert rows["action"].dtype == rows["observation.state"].dtype == np.float32
        assert (rows["observation.state"] == episode.states).all()
        assert (rows["next.reward"][:-1] == episode.rewards).all()
        assert (rows["success"] == episode.success).all()
        assert (rows["goal_state"] == episode.goal_state).all()
        assert (rows["seed"] == episode.seed).all()
        assert rows["valid"].tolist() == [True] * 18 + [False]
        assert rows["timestamp"] == pytest.approx(np.arange(19) / 10)


def test_decord_reads_the_same_frames(folder: Path) -> None:
    if not has_decord():
        pytest.skip("decord is not installed")
    data = Dataset(folder)
    entry = data.entries()[0]
    assert entry.video is not None
    frames = read_clip(entry.video, range(entry.length), backend="decord")
    assert (frames == frames_of(data, entry)).all()


def test_added_is_collected_at_once(folder: Path, tmp_path: Path) -> None:
    for episodes in (3, 9, 10):
        found = collect("TwoRooms", "explore", episodes, tmp_path, 3, batch=5, settings=SHORT)
    assert (found.new, found.episodes, found.frames) == (1, 10, 190)
    assert contents(tmp_path) == contents(folder)


@pytest.mark.parametrize("files", [0, 1, 2, 5, 9, 11, 24])
def test_killed_and_started_again_is_undisturbed(
    files: int, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    real, left = os.replace, files

    def replace(draft: Path, path: Path) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise Killed
        real(draft, path)

    def again() -> None:
        collect("TwoRooms", "explore", 10, tmp_path, 3, batch=4, settings=SHORT)

    with monkeypatch.context() as patch:
        patch.setattr(recording.os, "replace", replace)
        with pytest.raises(Killed):
            again()
    again()
    assert contents(tmp_path) == contents(folder)


def test_a_line_that_was_cut_off_does_not_count(folder: Path, tmp_path: Path) -> None:
    collect("TwoRooms", "explore", 4, tmp_path, 3, batch=4, settings=SHORT)
    for name in ("episodes.jsonl", "episodes_stats.jsonl"):
        with (tmp_path / "meta" / name).open("a") as file:
            file.write('{"episode_index": 4, "tas')
    assert len(episode_rows(tmp_path)) == 4
    collect("TwoRooms", "explore", 10, tmp_path, 3, batch=4, settings=SHORT)
    assert contents(tmp_path) == contents(folder)


@pytest.mark.slow
def test_a_real_kill(folder: Path, tmp_path: Path) -> None:
    words = "collect --env TwoRooms --policy explore --episodes 10 --seed 3 --batch 1 --budget 18"
    command = [sys.executable, "-m", "jepa_video", *words.split(), "--out", str(tmp_path)]
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    lines = tmp_path / "meta" / "episodes.jsonl"
    while running.poll() is None and not (lines.exists() and lines.read_bytes()):
        time.sleep(0.001)
    running.send_signal(signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL
    assert 0 < len(episode_rows(tmp_path)) < 10
    assert main([*words.split(), "--out", str(tmp_path)]) == 0
    assert contents(tmp_path) == contents(folder)


def test_another_policy_adds_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["collect", "--env=TwoRooms", "--out", str(tmp_path), "--budget", "18", "--episodes"]
    assert main([*words, "2", "--policy", "random"]) == 0
    assert main([*words, "3", "--policy", "scripted"]) == 0
    assert main([*words, "3", "--policy", "random"]) == 0
    told = capsys.readouterr().out
    assert "6 episodes of 114 frames, 1 new" in told
    assert "jepa-video agent eval --env TwoRooms\n" in told
    (pretrain,) = {line for line in told.splitlines() if "jepa-video pretrain" in line}
    assert f"--data.root {tmp_path} " in pretrain
    assert parse(build_parser(), pretrain.split()[2:]).data.size == 64
    rows = episode_rows(tmp_path)
    order = [("random", 0), ("random", 1), ("scripted", 0), ("scripted", 1), ("scripted", 2)]
    assert [(row["policy"], row["number"]) for row in rows] == [*order, ("random", 2)]
    assert rows[0]["seed"] == rows[2]["seed"] != rows[1]["seed"]
    info = json.loads((tmp_path / "meta" / "info.json").read_text())
    assert (info["total_episodes"], info["total_frames"], info["total_chunks"]) == (6, 114, 1)


def test_the_folder_is_one_of_videos_split_by_seed(tmp_path: Path) -> None:
    for policy in ("random", "straight"):
        collect("TwoRooms", policy, 12, tmp_path, settings=SHORT)
    data = VideoDataModule(str(tmp_path), val_fraction=0.3, frames=8, size=64, batch_size=4)
    train, val = data.clips("train"), data.clips("val")
    assert len(train) + len(val) == 24 and not train.unreadable.rows() and val.groups
    assert not set(train.groups or ()) & set(val.groups)
    assert all(val.groups.count(group) == 2 for group in val.groups)
    batch = next(iter(data.train_dataloader()))
    assert batch["video"].shape == (4, 8, 3, 64, 64)


def test_kinds_of_actions_and_no_goal_are_kept(tmp_path: Path) -> None:
    pytest.importorskip("pygame", reason="gym/CartPole-v1 needs pygame, which is not installed")
    collect("gym/CartPole-v1", "random", 2, tmp_path, settings={"budget": 5})
    data = Dataset(tmp_path)
    rows = data.rows(data.entries()[0])
    assert data.discrete and rows["action"].dtype == np.int64 and "goal_state" not in rows


BASE = ["--policy", "random", "--episodes", "2"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--env", "TwoRoom", *BASE], "there is no environment 'TwoRoom'"),
        (["--env", "TwoRooms", "--policy", "nobody", "--episodes", "2"], "no policy 'nobody'"),
        (["--env", "TwoRooms", "--policy", "random"], "collect needs --episodes"),
        (["--env", "TwoRooms", *BASE, "--colour", "3"], "there is no option --colour"),
        (["--env", "TwoRooms", *BASE, "--layouts", "odd"], "expected one of 'random', 'fixed'"),
        (["--env", "TwoRooms", *BASE, "--budget", "0"], "budget must be 1 or more"),
        (["--env", "TwoRooms", *BASE, "--batch", "0"], "batch must be 1 or more"),
        (["--env", "Rooms", *BASE], "holds episodes of TwoRooms, not of Rooms"),
        (["--env", "TwoRooms", *BASE], "collected with budget 18, not None"),
    ],
)
def test_what_cannot_be_collected_is_a_sentence(
    words: list[str], said: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(folder)
    assert main(["collect", *words, "--out", str(folder)]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert contents(folder) == before


def test_folders_of_something_else_are_left_alone(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="holds no episodes"):
        collect("TwoRooms", "random", 2, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    theirs = tmp_path / "theirs"
    (theirs / "meta").mkdir(parents=True)
    info = json.loads((folder / "meta" / "info.json").read_text())
    del info["jepa_video"]
    (theirs / "meta" / "info.json").write_text(json.dumps(info))
    with pytest.raises(UserError, match="holds a dataset of others"):
        collect("TwoRooms", "random", 2, theirs)


def test_a_missing_package_is_a_sentence_with_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, line in (("pyarrow.parquet", "episodes"), ("gymnasium", "environments")):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, module, None)
            said = rf"{line} need \w+: pip install 'jepa-video\[control\]'"
            with pytest.raises(UserError, match=said):
                collect("TwoRooms", "random", 2, tmp_path / "none")
    assert not (tmp_path / "none").exists()
