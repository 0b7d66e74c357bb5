"""VideoDataModule: from one word, a folder or manifests to loaders that resume exactly."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Literal

import torch
from lightning import LightningDataModule
from torch import Tensor

from jepa_video.data.clips import Check, ClipSettings, Tables, VideoClips, label_columns
from jepa_video.data.ledger import Ledger
from jepa_video.data.loader import ClipLoader
from jepa_video.data.manifest import Listing, classes_of, read_source
from jepa_video.data.notice import Notice
from jepa_video.data.sampler import ClipSampler
from jepa_video.data.split import held_out, standard_splits
from jepa_video.data.synthetic import SyntheticSettings, ensure_synthetic
from jepa_video.distributed import rank, world_size
from jepa_video.errors import UserError, within

MOST_WORKERS: Final = 1024  # a slip of the finger must not bring the machine down
Split = Literal["train", "val"]
Sources = str | list[str] | None


class VideoDataModule(LightningDataModule):
    """Videos for pretraining and for the probes.

    Args:
        root: a folder (with train and val manifests, with train/ and val/ folders, or one that is
            split here), a manifest, or `synthetic`: the embedded set, made on first use.
        train: manifests or folders in place of what `root` has; several are mixed.
        val: the same for the held-out videos.
        weights: how often each training source is taken; None takes every video once an epoch.
        labels: label columns to keep; None keeps all.
        frames: frames of a clip; None takes as many as the encoder does, 8 where there is none.
        stride: source frames from one to the next.
        fps: frames a second in place of the stride.
        size: height and width of the stored clip, pixels; augmentation crops from it.
        fit: `crop` keeps the middle square of the picture, `squash` all of it.
        batch_size: clips of a batch, on each device.
        workers: loader processes; 0 reads in the main one.
        cache_mb: memory for decoded frames of short videos, on each rank.
        check: how files are examined before use: `full`, `quick` or `none`. The embedded set was
            written here and is not examined.
        unreadable_limit: the share of unusable files at which the run stops, 0 to 1.
        missing: `stop` at a manifest row whose file is not there, or `skip` and list it.
        val_fraction: the part that is held out where the source has no split of its own.
        seed: of the order and of the clips' starts.
        timeout: seconds that one file may take to be read.
        synthetic: what the embedded set shows, where `root` is `synthetic`.
    """

    def __init__(
        self,
        root: str = "synthetic",
        train: Sources = None,
        val: Sources = None,
        weights: list[float] | None = None,
        labels: list[str] | None = None,
        frames: int | None = None,
        stride: int = 2,
        fps: float | None = None,
        size: int = 40,
        fit: Literal["crop", "squash"] = "crop",
        batch_size: int = 32,
        workers: int = 0,
        cache_mb: float = 1024.0,
        check: Check = "full",
        unreadable_limit: float = 0.25,
        missing: Literal["stop", "skip"] = "stop",
        val_fraction: float = 0.1,
        seed: int = 0,
        timeout: float = 30.0,
        synthetic: SyntheticSettings = SyntheticSettings(),
    ) -> None:
        super().__init__()
        self.synthetic = synthetic
        self.root, self.train, self.val, self.weights = root, train, val, weights
        self.labels, self.batch_size, self.workers = labels, batch_size, workers
        self.cache_mb = cache_mb
        self.frames = frames
        length = ClipSettings.frames if frames is None else frames
        self.settings = ClipSettings(length, stride, fps, size, fit)
        self.check, self.unreadable_limit, self.missing = check, unreadable_limit, missing
        self.val_fraction, self.seed, self.timeout = val_fraction, seed, timeout
        self.unreadable = Ledger(0, unreadable_limit, root)
        self._clips: dict[str, VideoClips] = {}
        self._refuse_nonsense()

    def suit(self, frames: int, image: int) -> None:
        """Make clips of `frames` frames where the settings leave it open: before `setup`.

        Args:
            frames: what the encoder takes.
            image: height and width that it sees, pixels.

        Raises:
            UserError: the stored clip would have to be blown up to what the encoder sees.
        """
        if self.frames is None:
            self.settings = replace(self.settings, frames=frames)
        if self.settings.size < image:
            raise UserError(
                f"data.size is {self.settings.size} and model.encoder.image is {image}: the clips "
                "would be blown up; give data.size as much or more"
            )

    def prepare_data(self) -> None:
        """Make the embedded set and examine the files, on one process; others find the answers."""
        self.setup()

    def setup(self, stage: str | None = None) -> None:
        """List the videos of both splits; the second call finds the work done."""
        if self._clips:
            return
        listings = self._listings()
        both = [*listings["train"], *listings["val"]]
        names = label_columns(both, self.labels)
        tables = {name: classes_of(both, name) for name in names}
        total = sum(len(part.rows) for part in both)
        clips = {}
        for split, parts in listings.items():
            if parts:
                share = sum(len(part.rows) for part in parts) / total
                clips[split] = self._open(parts, names, tables, self.cache_mb * share)
        self.unreadable.total = total
        for videos in clips.values():
            self.unreadable.update(videos.unreadable)
        self.unreadable.enforce()
        self._clips = {split: videos for split, videos in clips.items() if videos.paths}

    def _open(
        self, parts: list[Listing], names: list[str], tables: Tables, cache_mb: float
    ) -> VideoClips:
        with Notice(", ".join(part.where for part in parts)) as notice:
            return VideoClips(
                list(parts),
                self.settings,
                labels=names,
                tables=tables,
                seed=self.seed,
                check="none" if self.embedded else self.check,
                unreadable_limit=None,  # the limit is for the run as a whole
                missing=self.missing,
                cache_mb=cache_mb,
                timeout=self.timeout,
                progress=notice,
            )

    @property
    def embedded(self) -> bool:
        """Whether these are the videos of the embedded set."""
        return self.root == "synthetic" and self.train is None

    @property
    def where(self) -> str:
        """The sources, for a person."""
        return self.root if self.train is None else ", ".join(_several(self.train))

    @property
    def label_names(self) -> list[str]:
        """The label columns."""
        return self.clips("train").label_names

    @property
    def classes(self) -> dict[str, list[str]]:
        """The class names of each label column, the same for both splits."""
        return self.clips("train").classes

    def clips(self, split: Split) -> VideoClips:
        """The videos of a split as the loaders use them.

        Raises:
            UserError: there is nothing in this split.
        """
        self.setup()
        if split not in self._clips:
            raise UserError(
                f"{self.where} has no {split} videos: give data.{split}, or a data.val_fraction "
                "above 0"
            )
        return self._clips[split]

    def labelled(
        self,
        split: Split,
        label: str | None = None,
        per_class: int | None = None,
        seed: int = 0,
        clips: int = 1,
    ) -> VideoClips:
        """Videos for a probe, in evaluation: always the same clips.

        Args:
            split: `train` or `val`.
            label: keep this column alone, and only videos that have it.
            per_class: at most so many videos of each class (of `label`, or of the first column).
            seed: which ones those are.
            clips: clips of each video.
        """
        videos = self.clips(split)
        column = label or next(iter(videos.label_names), None)
        if per_class is not None and column is None:
            raise UserError(f"{self.where} has no labels, so per_class has nothing to count")
        chosen = None
        if column is not None and (label is not None or per_class is not None):
            chosen = videos.few(column, per_class, seed)
        return videos.evaluation(chosen, clips, label)

    def keep_labelled(self, label: str, per_class: int | None = None) -> None:
        """Train on the videos that have `label`, and know no other label: for supervised training.

        Args:
            label: the column.
            per_class: at most so many training videos of each class, drawn by the seed.

        Raises:
            UserError: there is no such label, or the training videos are of fewer than two classes.
        """
        train = self.clips("train")
        few = train.few(label, per_class, self.seed)
        seen = set(train.targets[few, train.column(label)].tolist())
        if len(seen) < 2:
            names = [train.classes[label][number] for number in seen]
            raise UserError(
                f"the training videos of {self.where} are of {len(seen)} class of {label!r}"
                f"{f' ({names[0]})' if names else ''}: a classifier needs two or more"
            )
        self._clips["train"] = train.chosen(few, label)
        if "val" in self._clips:
            self._clips["val"] = self._clips["val"].chosen(None, label)

    def train_dataloader(self) -> ClipLoader:
        """Shuffled or weighted, in equal parts for the ranks, with a position that is stored."""
        videos = self.clips("train")
        place, world = rank(), world_size()
        if len(videos) < world:
            raise UserError(f"{len(videos)} training videos are too few for {world} processes")
        # Fewer videos than a batch make one small batch.
        batch = self.batch_size if len(videos) >= world * self.batch_size else 1
        sampler = ClipSampler(
            videos.lengths, self.weights, rank=place, world=world, batch=batch, seed=self.seed
        )
        return self._loader(videos, sampler)

    def val_dataloader(self) -> ClipLoader | list[Any]:
        """The held-out videos in a fixed order, one clip from the middle of each."""
        self.setup()
        if "val" not in self._clips:
            return []
        videos = self._clips["val"].evaluation()
        place, world = rank(), world_size()
        sampler = ClipSampler([len(videos)], shuffle=False, rank=place, world=world)
        return self._loader(videos, sampler)

    def loader(self, videos: VideoClips) -> ClipLoader:
        """All clips of `videos` in order, on this process alone: for features and probes."""
        return ClipLoader(videos, self.unreadable, batch_size=self.batch_size)

    def held_out(self, clips: int) -> Iterator[dict[str, Tensor]]:
        """Held-out clips, evenly spread over the set, read in this process."""
        try:
            videos = self.clips("val")
        except UserError:
            return iter(())
        count = min(clips, len(videos.paths))
        chosen = [i * len(videos.paths) // count for i in range(count)]
        return iter(self.loader(videos.evaluation(chosen)))

    def _loader(self, videos: VideoClips, sampler: ClipSampler) -> ClipLoader:
        return ClipLoader(
            videos,
            self.unreadable,
            batch_size=self.batch_size,
            workers=self.workers,
            sampler=sampler,
            pin_memory=torch.cuda.is_available(),
            together=True,
        )

    def _listings(self) -> dict[str, list[Listing]]:
        """Listings of the two splits; `val` is empty where nothing is held out."""
        if self.train is not None:
            train = [self._source(source) for source in _several(self.train)]
            val = [self._source(source) for source in _several(self.val)]
        else:
            root = self._embedded() if self.root == "synthetic" else Path(self.root)
            train, val = standard_splits(root)
            val = [self._source(source) for source in _several(self.val)] or val
        if not val:
            train, val = held_out(train, self.val_fraction)
        return {"train": train, "val": val}

    def _embedded(self) -> Path:
        """The folder of the embedded set; writing it takes most of a minute, and says so."""
        with Notice("the embedded set into the cache", "writing") as notice:
            return ensure_synthetic(self.synthetic, progress=notice)

    def _source(self, source: str) -> Listing:
        """A source as given, or below `root`."""
        below = None if self.root == "synthetic" else self.root
        if below is not None and not os.path.exists(source):
            inside = os.path.join(below, source)
            source = inside if os.path.exists(inside) else source
        return read_source(source, below)

    def _refuse_nonsense(self) -> None:
        for name in ("root", "train", "val"):
            if "" in (source.strip() for source in _several(getattr(self, name))):
                raise UserError(f"data.{name} is empty: expected a folder or a manifest")
        within("data", 1, batch_size=self.batch_size)
        within("data", 0, cache_mb=self.cache_mb)
        within("data", 0, MOST_WORKERS, workers=self.workers)
        limits = {"unreadable_limit": self.unreadable_limit, "val_fraction": self.val_fraction}
        within("data", 0, 1, **limits)
        if not self.timeout > 0:
            raise UserError(f"data.timeout must be above 0 seconds, not {self.timeout}")


def _several(sources: Sources) -> list[str]:
    return [sources] if isinstance(sources, str) else list(sources or [])
