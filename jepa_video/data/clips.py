"""VideoClips: videos of one or several sources as clips of one shape, labelled or not.

Shapes: a stored clip is uint8 `T C H W` with `H = W = size`, RGB; a batch `B T C H W`. Cropping at
random, flips and normalisation come later, on the device and for a whole batch.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from jepa_video.data.check import LEVELS, check_files
from jepa_video.data.decode import (
    DecodeError,
    DecoderLost,
    VideoInfo,
    has_decord,
    read_clip,
)
from jepa_video.data.examine import Finding
from jepa_video.data.frames import FrameCache, shrink
from jepa_video.data.ledger import Ledger
from jepa_video.data.manifest import Listing, Row, classes_of, read_source
from jepa_video.data.reader import info_of
from jepa_video.data.sampler import Key
from jepa_video.errors import UserError
from jepa_video.randomness import CLIP, PROBE, generator

Check = Literal["full", "quick", "none"]
Tables = dict[str, tuple[list[str], dict[str, int]]]  # by label column: class names, their numbers


class Item(TypedDict):
    """One clip: uint8 `T C H W`, int64 `L` (-1: no label), int64 number of the video."""

    video: Tensor
    labels: Tensor
    index: Tensor


@dataclass(frozen=True)
class Dropped:
    """In the place of an item that could not be read; `collate` takes it out of the batch."""

    path: str
    reason: str


@dataclass(frozen=True)
class ClipSettings:
    """What a clip is.

    Args:
        frames: frames of a clip.
        stride: source frames from one to the next.
        fps: frames a second in place of `stride`: the nearest source frames are taken.
        size: height and width of the stored clip, pixels.
        fit: `crop` keeps the middle square of the picture, `squash` all of it.
    """

    frames: int = 8
    stride: int = 2
    fps: float | None = None
    size: int = 40
    fit: Literal["crop", "squash"] = "crop"

    def __post_init__(self) -> None:
        for name in ("frames", "stride", "size"):
            if getattr(self, name) < 1:
                raise UserError(f"data.{name} must be 1 or more, not {getattr(self, name)}")
        if self.fps is not None and not self.fps > 0:
            raise UserError(f"data.fps must be above 0, not {self.fps}")
        if self.fit not in ("crop", "squash"):
            raise UserError(f"data.fit must be crop or squash, not {self.fit!r}")

    def offsets(self, rate: float) -> list[int]:
        """Source frames of a clip, counted from its first, in a video of `rate` frames a second."""
        step = self.stride if self.fps is None else rate / self.fps
        return [int(i * step + 0.5) for i in range(self.frames)]


class VideoClips(Dataset[Item | Dropped]):
    """Videos as clips; an item is asked for by `(video, draw)`, or by a number (draw 0).

    In training (`clips=None`) the clip starts at random, as a function of seed, draw and video
    alone. In evaluation item `i` is clip `i % clips` of video `i // clips`; the clips of a video
    lie at even distances from its start to its end. A file that passed the examination and
    still fails when it is read gives `Dropped`: it is listed, never replaced by another file.

    Args:
        sources: a folder, a manifest, or several; see `manifest.py`.
        settings: what a clip is.
        root: what paths in manifests may be relative to.
        labels: label columns to keep; None keeps all.
        tables: class names and numbers by column, where they come from more than these sources.
        clips: evaluation with so many clips of each video; None for training.
        seed: of the random starts.
        check: `full`, `quick` or `none`, see `examine.py`.
        unreadable_limit: the share of unusable files at which the run stops; None: not here.
        missing: `stop` at a manifest row whose file is not there, or `skip` and list it.
        cache_mb: memory for the decoded frames of short videos, in this process.
        timeout: seconds that one file may take to be read.
        progress: told of the examination: files done, files to do.

    Attributes:
        paths: the usable files; `groups`: theirs, or None; `source_of`: the number of their source.
        label_names, classes: the label columns, and the class names of each.
        targets: int64 `N L`, -1 where there is no label.
        unreadable: the ledger.

    Raises:
        UserError: sources that cannot be used.
    """

    def __init__(
        self,
        sources: str | Listing | Sequence[str | Listing],
        settings: ClipSettings | None = None,
        *,
        root: str | None = None,
        labels: Sequence[str] | None = None,
        tables: Tables | None = None,
        clips: int | None = None,
        seed: int = 0,
        check: Check = "full",
        unreadable_limit: float | None = 0.25,
        missing: Literal["stop", "skip"] = "stop",
        cache_mb: float = 0.0,
        timeout: float = 30.0,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        several = [sources] if isinstance(sources, (str, Listing)) else list(sources)
        listings = [s if isinstance(s, Listing) else read_source(s, root) for s in several]
        self.settings = settings or ClipSettings()
        self.seed, self.clips, self.timeout = seed, clips, timeout
        where = ", ".join(listing.where for listing in listings)
        total = sum(len(listing.rows) for listing in listings)
        self.unreadable = Ledger(total, unreadable_limit, where)
        self._lost: dict[int, Dropped] = {}
        self.cache_mb, self._cache = cache_mb, FrameCache(cache_mb)
        self._sources = len(listings)
        rows = [(number, row) for number, listing in enumerate(listings) for row in listing.rows]
        infos = self._examine([row for _, row in rows], check, missing, where, progress)
        kept = [(number, row) for number, row in rows if row.path in infos]
        self.paths = [row.path for _, row in kept]
        self.source_of = [number for number, _ in kept]
        self._infos: list[VideoInfo | None] = [infos[path] for path in self.paths]
        groups = [row.group for _, row in kept]
        self.groups = groups if any(groups) else None
        self.label_names = label_columns(listings, labels)
        tables = tables or {name: classes_of(listings, name) for name in self.label_names}
        self.classes = {name: tables[name][0] for name in self.label_names}
        self.targets = _targets([row for _, row in kept], self.label_names, tables)

    def __len__(self) -> int:
        return len(self.paths) * (self.clips or 1)

    def __getitem__(self, key: Key | int) -> Item | Dropped:
        index, draw = key if isinstance(key, tuple) else (key, 0)
        if not 0 <= index < len(self):
            raise IndexError(f"item {index} of a set of {len(self)}")
        video, part = divmod(index, self.clips or 1)
        if video in self._lost:  # once is enough
            return self._lost[video]
        try:
            frames = self._frames(video, self._places(video, part, draw))
        except (DecodeError, IndexError) as error:
            dropped = Dropped(self.paths[video], getattr(error, "reason", str(error)))
            if isinstance(error, DecoderLost):
                self._lost[video] = dropped
            return dropped
        return {"video": frames, "labels": self.targets[video], "index": torch.tensor(video)}

    @property
    def lengths(self) -> list[int]:
        """Usable videos of each source."""
        return [self.source_of.count(number) for number in range(self._sources)]

    def evaluation(
        self, videos: Sequence[int] | None = None, clips: int = 1, label: str | None = None
    ) -> VideoClips:
        """The same videos, or the chosen ones, in evaluation; with `label`, only that column."""
        if clips < 1:
            raise UserError(f"clips must be 1 or more, not {clips}")
        other = self.chosen(videos, label)
        other.clips = clips
        return other

    def chosen(self, videos: Sequence[int] | None = None, label: str | None = None) -> VideoClips:
        """The chosen videos, or all, used as these are; with `label`, only that column."""
        chosen = list(range(len(self.paths))) if videos is None else list(videos)
        other = copy.copy(self)
        other._lost = {}
        other.paths = [self.paths[i] for i in chosen]
        other.source_of = [self.source_of[i] for i in chosen]
        other._infos = [self._infos[i] for i in chosen]
        other.groups = [self.groups[i] for i in chosen] if self.groups else None
        other.targets = self.targets[torch.tensor(chosen, dtype=torch.int64)]
        if label is not None:
            column = self.column(label)
            other.label_names, other.classes = [label], {label: self.classes[label]}
            other.targets = other.targets[:, column : column + 1]
        return other

    def lengthened(self, most: int, look: int = 8) -> VideoClips:
        """The same videos as clips of up to `most` frames, as far as some of them have room.

        The first `look` that can be opened decide; a video that is shorter than they are does not
        give a clip.
        """
        room = most
        for video in range(min(look, len(self.paths))):
            try:
                info = self._info(video)
            except DecodeError:
                continue
            whole = replace(self.settings, frames=most).offsets(info.fps)
            room = min(room, sum(offset < info.frames for offset in whole))
        other = copy.copy(self)
        other.settings, other._lost = replace(self.settings, frames=max(room, 1)), {}
        return other

    def column(self, label: str) -> int:
        """The column of a label in `targets`."""
        if label not in self.label_names:
            raise UserError(f"there is no label {label!r}; there are {_names(self.label_names)}")
        return self.label_names.index(label)

    def few(self, label: str, per_class: int | None, seed: int = 0) -> list[int]:
        """Videos that have a label; with `per_class`, at most so many of each class, drawn."""
        target = self.targets[:, self.column(label)]
        known = [(target == number).nonzero()[:, 0] for number in range(len(self.classes[label]))]
        if per_class is not None:
            for number, videos in enumerate(known):
                turn = torch.randperm(len(videos), generator=generator(seed, PROBE, number))
                known[number] = videos[turn[:per_class]]
        return sorted(torch.cat(known).tolist()) if known else []

    def with_cache(self, megabytes: float) -> VideoClips:
        """The same videos with a frame memory of its own, for a loader's workers."""
        other = copy.copy(self)
        other.cache_mb, other._cache = megabytes, FrameCache(megabytes)
        return other

    def share_frames(self, other: VideoClips) -> None:
        """Take over the frame memory of `other` where it keeps frames of the same size and cut."""
        mine, theirs = self.settings, other.settings
        if (mine.size, mine.fit) == (theirs.size, theirs.fit):
            self._cache = other._cache

    # -- which files -------------------------------------------------------------------------------

    def _examine(
        self,
        rows: list[Row],
        check: str,
        missing: str,
        where: str,
        progress: Callable[[int, int], None] | None,
    ) -> dict[str, VideoInfo | None]:
        """What is known of each usable file; the others go into the ledger."""
        if check not in LEVELS:
            raise UserError(f"data.check must be one of {', '.join(LEVELS)}, not {check!r}")
        paths = [row.path for row in rows]
        if check == "none":
            return dict.fromkeys(paths)
        found = check_files(
            paths, check, timeout=self.timeout, memory=os.path.abspath(where), progress=progress
        )
        infos: dict[str, VideoInfo | None] = {}
        for row in rows:
            info, reason = self._verdict(found[row.path])
            if reason == "missing" and missing == "stop":
                raise UserError(
                    f"{row.origin}: there is no file {row.path} "
                    "(--data.missing skip goes on without such rows)"
                )
            if info is None:
                self.unreadable.add(row.path, reason)
            else:
                infos[row.path] = info
        self.unreadable.enforce()
        return infos

    def _verdict(self, finding: Finding) -> tuple[VideoInfo | None, str]:
        if finding.info is None:
            return None, finding.reason
        try:
            self._span(finding.info)
        except DecodeError as error:
            return None, error.reason
        return finding.info, ""

    def _span(self, info: VideoInfo, path: str = "") -> list[int]:
        """Offsets of a clip's frames in a video that is long enough for one."""
        offsets = self.settings.offsets(info.fps)
        if offsets[-1] >= info.frames:
            raise DecodeError(path, f"too short ({info.frames} frames, needs {offsets[-1] + 1})")
        return offsets

    # -- which frames ------------------------------------------------------------------------------

    def _info(self, video: int) -> VideoInfo:
        info = self._infos[video]
        if info is None:  # nothing was examined beforehand
            info = self._infos[video] = info_of(self.paths[video], self.timeout)
        return info

    def _places(self, video: int, part: int, draw: int) -> list[int]:
        info = self._info(video)
        offsets = self._span(info, self.paths[video])
        room = info.frames - 1 - offsets[-1]
        if self.clips is None:
            source = generator(self.seed, CLIP, draw, video)
            start = int(torch.randint(room + 1, (), generator=source))
        else:
            start = _even(room, part, self.clips)
        return [start + offset for offset in offsets]

    def _frames(self, video: int, places: list[int]) -> Tensor:
        path, info = self.paths[video], self._info(video)
        whole = self._cache.get(path)
        if whole is None:
            if not self._cache.admits(info, self.settings.size):
                return self._read(video, info, places)
            whole = self._read(video, info, list(range(info.frames)))
            self._cache.put(path, whole)
        return torch.from_numpy(whole.numpy()[places])  # see collate

    def _read(self, video: int, info: VideoInfo, places: list[int]) -> Tensor:
        path, frames = self.paths[video], None
        if info.backend == "decord" and has_decord():
            try:
                frames = read_clip(path, places, backend="decord", timeout=self.timeout)
            except DecoderLost:
                self._infos[video] = replace(info, backend="pyav")  # once is enough
            except DecodeError:
                pass  # PyAV's turn
        if frames is None:
            frames = read_clip(path, places, backend="pyav", timeout=self.timeout)
        return shrink(frames, self.settings.size, self.settings.fit).contiguous()


def collate(items: Sequence[Item | Dropped]) -> dict[str, Any]:
    """Batch of `video` uint8 `B T C H W`, `labels` int64 `B L`, `index` int64 `B`.

    Dropped items make the batch smaller and are listed under `dropped`, a key that is there only
    then; a batch of nothing else has no other key. `ClipLoader` takes both away.
    """
    good = [item for item in items if not isinstance(item, Dropped)]
    batch: dict[str, Any] = {}
    if good:
        # numpy copies on this thread; torch wakes its others, which costs more than the copy.
        batch["video"] = torch.from_numpy(np.stack([item["video"].numpy() for item in good]))
        batch["labels"] = torch.stack([item["labels"] for item in good])
        batch["index"] = torch.stack([item["index"] for item in good])
    dropped = [(item.path, item.reason) for item in items if isinstance(item, Dropped)]
    return {**batch, "dropped": dropped} if dropped else batch


def label_columns(listings: Sequence[Listing], labels: Sequence[str] | None) -> list[str]:
    """The label columns to keep: those asked for, or all that any source has."""
    there = list(dict.fromkeys(name for listing in listings for name in listing.columns))
    for name in labels or []:
        if name not in there:
            where = ", ".join(listing.where for listing in listings)
            raise UserError(f"there is no label {name!r} in {where}; there are {_names(there)}")
    return there if labels is None else list(labels)


def _names(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"


def _targets(rows: Sequence[Row], names: Sequence[str], tables: Tables) -> Tensor:
    numbers = [
        [tables[name][1].get(row.labels.get(name, ""), -1) for name in names] for row in rows
    ]
    return torch.tensor(numbers, dtype=torch.int64).reshape(len(rows), len(names))


def _even(room: int, part: int, clips: int) -> int:
    """Start of clip `part` of `clips` over `room + 1` starts; a single clip lies in the middle."""
    return room // 2 if clips == 1 else int(part * room / (clips - 1) + 0.5)
