"""Decoded episodes on disk, made once: frames that are mapped into memory, and their rows.

    .cache/frames-64-IMAGE/0000-DIGEST/frames.u8     uint8 `F size size 3`, all episodes in a row
                                       rows.npz      the columns, `F` or `F K`
                                       index.json    frames of each episode, and what failed

A shelf holds `SHELF` episodes, so that a folder that grows costs only its last shelf anew. Its
digest is of the places, sizes and times of the files, so that one that has changed is read again.
It is made once (`once.py`): a kill leaves no half one, and two processes may ask at the same time.
Frames that are completed (`Completion`) stand on shelves of their own, beside those as they are.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from jepa_video.data.decode import DecodeError, Frames
from jepa_video.data.frames import shrink
from jepa_video.data.lerobot import Dataset, Entry
from jepa_video.data.once import cache_folder, made_once
from jepa_video.errors import UserError

SHELF: Final = 256
_FORM: Final = 1  # of what is written here

Progress = Callable[[int, int], None]
Rows = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Completion:
    """What puts into the frames of an episode what earlier ones showed and they do not.

    Args:
        capacity: how much is remembered; names its shelves.
        of: the frames of one episode, uint8 `k H W 3`, some at a time from the first on, to as many
            of the same shapes.
    """

    capacity: int
    of: Callable[[Iterable[Frames]], Iterator[Frames]]


class Shelf:
    """Some episodes, decoded.

    Args:
        folder: a complete one.
        size: height and width of the frames.

    Attributes:
        lengths: frames of each episode; 0 of one that cannot be read.
        failed: path and reason by the episode's place on the shelf.
    """

    def __init__(self, folder: Path, size: int) -> None:
        index = json.loads((folder / "index.json").read_text())
        self.lengths: list[int] = index["lengths"]
        self.failed = {int(place): tuple(told) for place, told in index["failed"].items()}
        with np.load(folder / "rows.npz", allow_pickle=False) as rows:
            self.rows: Rows = dict(rows)
        self._path, self._shape = folder / "frames.u8", (sum(self.lengths), size, size, 3)
        self._frames: Frames | None = None

    @property
    def frames(self) -> Frames:
        """All frames, uint8 `F size size 3`, read when they are looked at."""
        if self._frames is None:
            if not self._shape[0]:
                return np.zeros(self._shape, np.uint8)
            # A plain view: slices of a memmap cost ten times as much to make.
            self._frames = np.asarray(np.memmap(self._path, np.uint8, "r", shape=self._shape))
        return self._frames

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_frames": None}  # a worker maps them for itself


def shelves(
    data: Dataset,
    entries: Sequence[Entry],
    size: int,
    progress: Progress | None = None,
    completion: Completion | None = None,
) -> list[Shelf]:
    """All episodes on their shelves; those that are not there yet are decoded.

    Args:
        data: the dataset.
        entries: its episodes.
        size: height and width that frames get; the whole picture is squashed to it.
        progress: called with episodes done and to do.
        completion: completes the frames, at the size that they are recorded in.

    Raises:
        UserError: neither the dataset's folder nor the user's cache can be written.
    """
    base = _base(data, size, completion)
    given: dict[str, Any] = {"data": data, "size": size, "completion": completion}
    found, done = [], 0

    def told(more: int) -> None:
        if progress is not None:
            progress(done + more, len(entries))

    for number, first in enumerate(range(0, len(entries), SHELF)):
        some = entries[first : first + SHELF]
        final = base / f"{number:04d}-{_digest(data, some)}"
        if not final.is_dir():
            made_once(final, partial(_fill, entries=some, progress=told, **given))
            for old in base.glob(f"{number:04d}-*"):  # of files that have changed, or were fewer
                if old != final:
                    shutil.rmtree(old, ignore_errors=True)
        done += len(some)
        found.append(Shelf(final, size))
    return found


def _base(data: Dataset, size: int, completion: Completion | None) -> Path:
    """Where the shelves stand: below the dataset, or in the user's cache where that is closed."""
    name = f"frames-{size}-{data.image.replace('/', '_')}"
    name += f"-memory-{completion.capacity}" if completion else ""
    mine = data.root / ".cache"
    digest = hashlib.blake2b(str(data.root.resolve()).encode(), digest_size=8).hexdigest()
    for base in (mine / name, cache_folder() / f"episodes-{digest}" / name):
        try:
            base.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=base):
                return base
        except OSError as error:
            reason = error.strerror
    raise UserError(
        f"decoded frames can be kept neither in {mine} nor in {base} ({reason}); set "
        "JEPA_VIDEO_CACHE to a folder that can be written"
    )


def _digest(data: Dataset, entries: Sequence[Entry]) -> str:
    """What the content of a shelf depends on."""
    told: list[Any] = [_FORM, data.image]
    for entry in entries:
        told.append((entry.number, entry.length, entry.first))
        for path in (entry.data, entry.video):
            if path is not None:
                told.append((path.relative_to(data.root).as_posix(), *_stamp(path)))
    return hashlib.blake2b(json.dumps(told).encode(), digest_size=8).hexdigest()


def _stamp(path: Path) -> tuple[int, int]:
    try:
        stat = path.stat()
    except OSError:
        return (-1, -1)
    return stat.st_size, stat.st_mtime_ns


def _fill(
    draft: Path,
    data: Dataset,
    entries: Sequence[Entry],
    size: int,
    progress: Callable[[int], None],
    completion: Completion | None,
) -> None:
    lengths, failed, rows = [], {}, []
    with (draft / "frames.u8").open("wb") as file:
        for place, entry in enumerate(entries):
            begin = file.tell()
            try:
                mine = data.rows(entry)
                parts = data.frames(entry)
                for frames in completion.of(parts) if completion else parts:
                    file.write(_sized(frames, size).tobytes())
            except DecodeError as error:
                failed[place] = (error.path, error.reason)
                lengths.append(0)
                file.truncate(file.seek(begin))
            else:
                rows.append(mine)
                lengths.append(entry.length)
            progress(place + 1)
    names = set.intersection(*(set(mine) for mine in rows)) if rows else set()
    joined: dict[str, Any] = {
        name: np.concatenate([mine[name] for mine in rows]) for name in sorted(names)
    }
    np.savez(draft / "rows.npz", **joined)
    (draft / "index.json").write_text(json.dumps({"lengths": lengths, "failed": failed}) + "\n")


def _sized(frames: Frames, size: int) -> Frames:
    if frames.shape[1:3] == (size, size):
        return frames
    return np.ascontiguousarray(shrink(frames, size, "squash").permute(0, 2, 3, 1).numpy())
