"""A folder of episodes in LeRobot's form (v2.1): appended to, killed at any time, never half.

    meta/info.json              features, fps, counts; under `jepa_video` environment and settings
    meta/episodes.jsonl         a line for each episode; what has no line does not exist
    meta/episodes_stats.jsonl   least, largest, mean and deviation of each column, as LeRobot wants
    meta/tasks.jsonl            one task: the name of the environment
    meta/crashes.jsonl          where the environment crashed: a line for each time, with `policy`,
                                `base` and what it raised
    data/chunk-000/episode_000000.parquet
    videos/chunk-000/observation.image/episode_000000.mp4     lossless, see `data/encode.py`

An episode of T actions has T + 1 rows and frames. The last row is what was seen in the end: its
`valid` is false, its action and `next.reward` are 0. Columns, beside LeRobot's own (`timestamp`,
`frame_index`, `episode_index`, `index`, `task_index`):

    action              float32 A in [-1, 1], or int64: the kind
    observation.state   float32 S; left out where the environment tells none
    goal_state          float32, the same in all rows; left out where there is no goal
    next.reward         float32, of the action in this row
    next.terminated     bool: the episode came to an end of its own with the action in this row; an
                        episode without one was truncated. A folder that was begun without the
                        column goes on without it
    success             bool, in the state of this row
    valid               bool: an action was taken here
    seed                int64, of the episode

A line of episodes.jsonl also has `policy`, `base` (the seed given to collect), `number` (which of
its episodes), `seed` (of the episode) and `success` (at some time).
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from jepa_video.data.encode import lossless, write_video
from jepa_video.data.lerobot import OWN, episode_rows, need_pyarrow, read_info
from jepa_video.envs.base import BatchEnv
from jepa_video.envs.rollout import Episode
from jepa_video.errors import UserError
from jepa_video.training.run import held, write_whole

FPS: Final = 10  # of the videos: environments tell no rate, so one is agreed on
CHUNK: Final = 1000  # episodes in a folder
_IMAGE: Final = "observation.image"
_DATA: Final = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
_VIDEO: Final = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"

Column = npt.NDArray[Any]


class Recording:
    """The writing side of a folder of episodes.

    Args:
        root: the folder; made where missing.
        env: whose episodes come in; `settings`: what it was made with.

    Raises:
        UserError: the folder holds something else, or episodes of another environment.
    """

    def __init__(self, root: Path, env: BatchEnv, settings: dict[str, Any]) -> None:
        need_pyarrow()
        self.root, self.meta = root, root / "meta"
        self.env, self.settings = env.id, settings
        self.rows: list[dict[str, Any]] = []
        self.info = self._fresh(env)
        if root.is_file() or any(_visible(root)):
            self.info = self._found()

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        """Hold the folder for this process, and mend what a killed one left."""
        try:
            self.meta.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot write to {self.root}: {error.strerror}") from error
        with held(self.root, f"{self.root} is being written by another process"):
            self.rows = episode_rows(self.root)
            for name in ("episodes.jsonl", "episodes_stats.jsonl"):
                _cut(self.meta / name, len(self.rows))
            self._count()
            if not (self.meta / "tasks.jsonl").exists():
                task = {"task_index": 0, "task": self.env}
                write_whole(self.meta / "tasks.jsonl", json.dumps(task) + "\n")
            yield

    def made(self, policy: str, base: int) -> int:
        """How many episodes of this policy and seed there are."""
        return sum(row["policy"] == policy and row["base"] == base for row in self.rows)

    def add(self, episodes: Sequence[Episode], policy: str, base: int, first: int) -> None:
        """Write episodes `first`, `first + 1`, ... of a policy and a seed."""
        lines, stats = [], []
        frame = sum(row["length"] for row in self.rows)
        for offset, episode in enumerate(episodes):
            number = len(self.rows) + offset
            columns = _columns(episode, number, frame)
            # A folder that was begun before a column was thought of goes on without it.
            columns = {name: c for name, c in columns.items() if name in self.info["features"]}
            self._write(number, episode, columns)
            frame += len(episode.frames)
            lines.append(
                {
                    "episode_index": number,
                    "tasks": [self.env],
                    "length": len(episode.frames),
                    "policy": policy,
                    "base": base,
                    "number": first + offset,
                    "seed": episode.seed,
                    "success": bool(episode.success.any()),
                }
            )
            stats.append({"episode_index": number, "stats": _stats(columns, episode.frames)})
        _append(self.meta / "episodes_stats.jsonl", stats)
        _append(self.meta / "episodes.jsonl", lines)  # last: from here on they count
        self.rows += lines
        self._count()

    def _write(self, number: int, episode: Episode, columns: dict[str, Column]) -> None:
        import pyarrow
        import pyarrow.parquet

        arrays = {name: _arrow(column) for name, column in columns.items()}
        place: dict[str, Any] = {"episode_index": number, "episode_chunk": number // CHUNK}
        table = pyarrow.table(arrays)
        _whole(
            self.root / _DATA.format(**place),
            lambda draft: pyarrow.parquet.write_table(table, draft),
        )
        _whole(
            self.root / _VIDEO.format(**place, video_key=_IMAGE),
            lambda draft: write_video(draft, episode.frames, FPS, lossless()),
        )

    def _count(self) -> None:
        """Bring the counts of info.json up to date."""
        episodes = len(self.rows)
        self.info |= {
            "total_episodes": episodes,
            "total_frames": sum(row["length"] for row in self.rows),
            "total_videos": episodes,
            "total_chunks": -(-episodes // CHUNK),
            "splits": {"train": f"0:{episodes}"},
        }
        write_whole(self.meta / "info.json", json.dumps(self.info, indent=2) + "\n")

    def _fresh(self, env: BatchEnv) -> dict[str, Any]:
        return {
            "codebase_version": "v2.1",
            "robot_type": env.id,
            "total_tasks": 1,
            "chunks_size": CHUNK,
            "fps": FPS,
            "data_path": _DATA,
            "video_path": _VIDEO,
            "features": _features(env),
            OWN: {
                "env": env.id,
                "settings": self.settings,
                "action_size": env.action_size,
                "discrete": env.discrete,
            },
        }

    def _found(self) -> dict[str, Any]:
        """The info of a folder that has something in it already."""
        info = read_info(self.root)
        there = info.get(OWN)
        if there is None:
            raise UserError(f"{self.root} holds a dataset of others: give another --out")
        if there["env"] != self.env:
            raise UserError(
                f"{self.root} holds episodes of {there['env']}, not of {self.env}: give another "
                "--out"
            )
        old, new = there["settings"], self.settings
        for name in sorted(old.keys() | new.keys()):
            if old.get(name) != new.get(name):
                raise UserError(
                    f"{self.root} was collected with {name} {old.get(name)}, not {new.get(name)}: "
                    "give what it was made with, or another --out"
                )
        return info


def _features(env: BatchEnv) -> dict[str, Any]:
    """The columns as info.json describes them."""
    height, width = env.single_observation_space["pixels"].shape[-3:-1]  # type: ignore[index]
    codec = lossless()
    kind = "h264" if codec.name.startswith("libx264") else codec.name
    video = {"video.fps": FPS, "video.codec": kind, "video.pix_fmt": "gbrp", "has_audio": False}
    video |= {"video.height": height, "video.width": width, "video.channels": 3}
    _, told = env.reset(seed=list(range(env.batch)))
    size = told["state"].shape[1]
    names = list(env.state_names) or [f"state_{i}" for i in range(size)]
    action = _feature("int64", 1) if env.discrete else _feature("float32", env.action_size)
    features = {
        _IMAGE: {
            "dtype": "video",
            "shape": [height, width, 3],
            "names": ["height", "width", "channels"],
            "info": video,
        },
        "observation.state": _feature("float32", size, names),
        "action": action,
        "next.reward": _feature("float32"),
        "next.terminated": _feature("bool"),
        "success": _feature("bool"),
        "valid": _feature("bool"),
        "seed": _feature("int64"),
        "goal_state": _feature("float32", told.get("goal_state", np.zeros((1, 0))).shape[1]),
        "timestamp": _feature("float32"),
        **{name: _feature("int64") for name in _COUNTERS},
    }
    return {name: told for name, told in features.items() if told["shape"] != [0]}


_COUNTERS: Final = ("frame_index", "episode_index", "index", "task_index")


def _feature(dtype: str, size: int = 1, names: list[str] | None = None) -> dict[str, Any]:
    return {"dtype": dtype, "shape": [size], "names": names}


def _columns(episode: Episode, number: int, frame: int) -> dict[str, Column]:
    """All columns of an episode, `n` or `n K`; `frame` is its first row in the dataset."""
    length = len(episode.frames)
    rows = np.arange(length)
    last_step = rows == length - 2
    last = np.zeros((1, *episode.actions.shape[1:]), episode.actions.dtype)
    columns = {
        "action": np.concatenate([episode.actions, last]),
        "next.reward": np.append(episode.rewards, np.float32(0)),
        "next.terminated": last_step & episode.terminated,
        "success": episode.success,
        "valid": rows < length - 1,
        "seed": np.full(length, episode.seed, np.int64),
        "timestamp": (rows / FPS).astype(np.float32),
        "frame_index": rows,
        "episode_index": np.full(length, number),
        "index": rows + frame,
        "task_index": np.zeros(length, np.int64),
    }
    if episode.states.shape[1]:
        columns["observation.state"] = episode.states
    if episode.goal_state is not None and episode.goal_state.size:
        columns["goal_state"] = np.repeat(episode.goal_state[None], length, axis=0)
    return columns


def _arrow(column: Column) -> Any:
    """A column for parquet; rows of one number are numbers, as LeRobot has them."""
    import pyarrow

    if column.ndim == 1 or column.shape[1] == 1:
        return pyarrow.array(column.reshape(-1))
    flat = pyarrow.array(np.ascontiguousarray(column).reshape(-1))
    return pyarrow.FixedSizeListArray.from_arrays(flat, column.shape[1])


def _stats(columns: dict[str, Column], frames: Column) -> dict[str, Any]:
    """LeRobot's figures of each column; those of the pictures by channel, from 0 to 1."""
    found: dict[str, Any] = {
        name: _figures(column.reshape(len(column), -1)) for name, column in columns.items()
    }
    few = frames[:: max(len(frames) // 8, 1)].reshape(-1, 3) / 255
    picture = {key: [[[x]] for x in value] for key, value in _figures(few).items()}
    found[_IMAGE] = {**picture, "count": [len(few) // (frames.shape[1] * frames.shape[2])]}
    return found


def _figures(column: Column) -> dict[str, list[float]]:
    values = column.astype(np.float64)
    figures = {
        "min": values.min(0).tolist(),
        "max": values.max(0).tolist(),
        "mean": values.mean(0).tolist(),
        "std": values.std(0).tolist(),
    }
    return {**figures, "count": [len(values)]}


def _whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file under a name that nobody takes for it, then give it its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.draft")
    write(draft)
    os.replace(draft, path)


def _append(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    with path.open("a") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows))


def _cut(path: Path, lines: int) -> None:
    """Take off what follows the first lines: a cut-off one, or figures without an episode."""
    if path.exists():
        whole = path.read_text().split("\n")[:lines]
        kept = "".join(f"{line}\n" for line in whole)
        if len(kept.encode()) != path.stat().st_size:
            write_whole(path, kept)


def _visible(root: Path) -> Iterator[Path]:
    """Files, but for hidden ones: a lock, a draft that a kill has left."""
    return (path for path in root.rglob("*") if path.name[0] != "." and path.is_file())
