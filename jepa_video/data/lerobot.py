"""Datasets of episodes on disk in LeRobot's form, versions 2.0, 2.1 and 3.0, read as they are.

Version 2 has a file for each episode, version 3 joins several::

    meta/info.json                                    features, fps, patterns of the paths below
    meta/episodes.jsonl                               or  meta/episodes/chunk-000/file-000.parquet
    data/chunk-000/episode_000000.parquet             or  data/chunk-000/file-000.parquet
    videos/chunk-000/KEY/episode_000000.mp4           or  videos/KEY/chunk-000/file-000.mp4

Row t has what was seen at t, the action taken there, and what came of it (`next.reward`). What is
seen after the last action is nowhere in LeRobot's own datasets; `jepa-video collect` writes a row
for it (see `agent/recording.py`). Either way an episode of n rows gives n - 1 steps here.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from jepa_video.data.decode import DecodeError, Frames, read_clip
from jepa_video.errors import UserError

OWN: Final = "jepa_video"  # the key of info.json under which our folders tell of the environment
VERSIONS: Final = ("v2.0", "v2.1", "v3.0")
_VISUAL: Final = ("video", "image")
_PATIENCE: Final = 60.0  # seconds that a reading may take; a decoder that hangs costs an episode
_AT_ONCE: Final = 2**27  # bytes of frames in one reading


@dataclass(frozen=True)
class Entry:
    """Where one episode lies.

    Args:
        number: in the dataset.
        length: rows, and frames.
        data: the parquet file.
        video: the video file; None where the pictures lie in the parquet file.
        first: its first frame in the video file.
        group: episodes of one group stay on one side of a split.
    """

    number: int
    length: int
    data: Path
    video: Path | None
    first: int
    group: str


class Dataset:
    """What a folder says of itself.

    Args:
        root: the folder.
        image: the key of the pictures; None where there is one.
        state: the column of the state; where there is none of this name the state is empty.
        action: the column of the actions.

    Raises:
        UserError: no such dataset, no or several image keys, no actions, pyarrow missing.
    """

    def __init__(
        self,
        root: Path,
        image: str | None = None,
        state: str = "observation.state",
        action: str = "action",
    ) -> None:
        need_pyarrow()
        self.root, self.info = root, read_info(root)
        self.version = str(self.info.get("codebase_version"))
        if self.version not in VERSIONS:
            known = ", ".join(VERSIONS)
            raise UserError(f"{root} is a LeRobot dataset of {self.version}; {known} can be read")
        self.features: dict[str, Any] = self.info["features"]
        self.image = self._image(image)
        self.action, self.state = action, state if state in self.features else None
        if action not in self.features:
            raise UserError(f"{root} has no column {action!r}; it has {', '.join(self.features)}")
        self.fps = float(self.info["fps"])
        self.own: dict[str, Any] = self.info.get(OWN, {})

    @property
    def picture(self) -> tuple[int, int]:
        """Height and width of the pictures as they are kept."""
        shape = [int(side) for side in self.features[self.image]["shape"]]
        height, width = shape[1:] if shape[0] == 3 != shape[-1] else shape[:2]
        return height, width

    @property
    def discrete(self) -> bool:
        """Whether an action is one of some kinds."""
        told = self.features[self.action]
        return str(told["dtype"]).startswith("int") and int(np.prod(told["shape"])) == 1

    def names(self, column: str | None) -> tuple[str, ...]:
        """What the numbers of a column are called."""
        told: Any = self.features[column].get("names") if column else None
        if isinstance(told, dict):
            told = [name for part in told.values() for name in part]
        return tuple(map(str, told or ()))

    def entries(self) -> list[Entry]:
        """All episodes, in order.

        Raises:
            UserError: the folder lists none.
        """
        found = self._joined() if self.version == "v3.0" else self._single()
        if not found:
            raise UserError(f"{self.root} has no episodes yet")
        return found

    def rows(self, entry: Entry) -> dict[str, npt.NDArray[Any]]:
        """Columns of numbers of one episode, each `n` or `n K`.

        Raises:
            DecodeError: the file is missing, damaged or of another length.
        """
        table = self._table(entry)
        if self.action not in table.column_names:
            raise DecodeError(entry.data, f"has no column {self.action!r}")
        kinds = {name: told["dtype"] for name, told in self.features.items()}
        return {
            name: _numbers(table[name])
            for name in table.column_names
            if kinds.get(name, "string") not in (*_VISUAL, "string")
        }

    def frames(self, entry: Entry) -> Iterator[Frames]:
        """The pictures of one episode, uint8 `k H W 3`, some at a time.

        Raises:
            DecodeError: they cannot be read.
        """
        if entry.video is None:
            yield self._pictures(entry)
            return
        height, width = self.picture
        some = max(_AT_ONCE // (height * width * 3), 1)
        end = entry.first + entry.length
        for first in range(entry.first, end, some):
            places = range(first, min(first + some, end))
            try:
                yield read_clip(entry.video, places, timeout=_PATIENCE)
            except IndexError as error:
                raise DecodeError(entry.video, f"too short: {error}") from None

    def _pictures(self, entry: Entry) -> Frames:
        """Those that lie in the parquet file."""
        cells = self._table(entry)[self.image].to_pylist()
        try:
            pictures = [Image.open(io.BytesIO(cell["bytes"])).convert("RGB") for cell in cells]
        except (OSError, TypeError, KeyError) as error:
            raise DecodeError(entry.data, f"holds no pictures: {error}") from None
        return np.stack([np.asarray(picture) for picture in pictures])

    def _table(self, entry: Entry) -> Any:
        import pyarrow
        import pyarrow.compute

        try:
            table = _parquet(entry.data, self.version == "v3.0")
            if self.version == "v3.0":
                mine = pyarrow.compute.equal(table["episode_index"], entry.number)
                table = table.filter(mine)
        except FileNotFoundError:
            raise DecodeError(entry.data, "missing") from None
        except (OSError, KeyError, pyarrow.ArrowException) as error:
            raise DecodeError(entry.data, f"unreadable: {str(error).splitlines()[0]}") from None
        if table.num_rows != entry.length:
            told = f"has {table.num_rows} rows for an episode of {entry.length}"
            raise DecodeError(entry.data, told)
        return table

    def _image(self, image: str | None) -> str:
        keys = [name for name, told in self.features.items() if told.get("dtype") in _VISUAL]
        if image is None and len(keys) == 1:
            return keys[0]
        if image in keys:
            return str(image)
        named = f"no pictures {image!r}" if image else "several kinds of pictures" if keys else ""
        if not named:
            raise UserError(f"{self.root} has no pictures, only {', '.join(self.features)}")
        raise UserError(f"{self.root} has {named}: give as image one of {', '.join(keys)}")

    def _single(self) -> list[Entry]:
        """Version 2: a file for each."""
        found = []
        size = int(self.info.get("chunks_size", 1000))
        for row in episode_rows(self.root):
            number = int(row["episode_index"])
            place = {"episode_index": number, "episode_chunk": number // size}
            data = self.root / str(self.info["data_path"]).format(**place)
            video = self._video({**place, "video_key": self.image})
            found.append(Entry(number, int(row["length"]), data, video, 0, group_of(row)))
        return found

    def _joined(self) -> list[Entry]:
        """Version 3: several in a file, with the time at which each begins."""
        found = []
        for file in sorted((self.root / "meta" / "episodes").rglob("*.parquet")):
            table = _parquet(file, keep=False)
            kept = [name for name in table.column_names if not name.startswith("stats/")]
            for row in table.select(kept).to_pylist():
                place = {part: int(row[f"data/{part}"]) for part in ("chunk_index", "file_index")}
                data = self.root / str(self.info["data_path"]).format(**place)
                mine = f"videos/{self.image}"
                video, first = None, 0
                if f"{mine}/file_index" in row:
                    place = {part: int(row[f"{mine}/{part}"]) for part in place}
                    video = self._video({**place, "video_key": self.image})
                    first = round(float(row[f"{mine}/from_timestamp"]) * self.fps)
                number, length = int(row["episode_index"]), int(row["length"])
                found.append(Entry(number, length, data, video, first, group_of(row)))
        return sorted(found, key=lambda entry: entry.number)

    def _video(self, place: Mapping[str, Any]) -> Path | None:
        if self.features[self.image]["dtype"] == "image":
            return None
        return self.root / str(self.info["video_path"]).format(**place)


def read_info(root: Path) -> dict[str, Any]:
    """The content of `meta/info.json`.

    Raises:
        UserError: there is none, or it says nothing of features.
    """
    path = root / "meta" / "info.json"
    try:
        info: dict[str, Any] = json.loads(path.read_text())
        if info["features"] and info["fps"]:
            return info
    except FileNotFoundError:
        raise UserError(
            f"{root} holds no episodes (there is no {path}): expected a folder of "
            "jepa-video collect, or a LeRobot dataset"
        ) from None
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise UserError(f"{path} does not describe a dataset of episodes")


def episode_rows(root: Path) -> list[dict[str, Any]]:
    """The whole lines of `meta/episodes.jsonl`; one that was cut off by a kill does not count."""
    return whole_rows(root / "meta" / "episodes.jsonl")


def whole_rows(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a file of JSON lines, none where there is no file.

    Raises:
        UserError: one of them is no JSON.
    """
    text = path.read_text() if path.exists() else ""
    try:
        return [json.loads(line) for line in text.split("\n")[:-1] if line.strip()]
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}") from None


def group_of(row: Mapping[str, Any]) -> str:
    """What keeps episodes together: one seed gives one task, whoever plays it."""
    return f"seed {row['seed']}" if "seed" in row else f"episode {row['episode_index']}"


def video_groups(root: Path) -> dict[str, str]:
    """By the stem of a video file of version 2, the group of its episode; empty elsewhere."""
    if not (root / "meta" / "episodes.jsonl").exists():
        return {}
    return {f"episode_{row['episode_index']:06d}": group_of(row) for row in episode_rows(root)}


def need_pyarrow() -> None:
    """Say in a sentence that pyarrow is missing."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError:
        raise UserError("episodes need pyarrow: pip install 'jepa-video[control]'") from None


def _parquet(path: Path, keep: bool) -> Any:
    return _kept(path) if keep else _read(path)


def _read(path: Path) -> Any:
    import pyarrow.parquet

    return pyarrow.parquet.read_table(path)


_kept = lru_cache(maxsize=1)(_read)  # the episodes of a joined file follow one another


def _numbers(column: Any) -> npt.NDArray[Any]:
    """A column as an array; lists become rows."""
    import pyarrow.types as kinds

    whole = column.combine_chunks()
    depth: Sequence[int] = (len(whole),)
    while kinds.is_list(whole.type) or kinds.is_fixed_size_list(whole.type):
        inner = whole.flatten()
        depth = (*depth, len(inner) // max(len(whole), 1))
        whole = inner
    return np.asarray(whole.to_numpy(zero_copy_only=False)).reshape(depth)
