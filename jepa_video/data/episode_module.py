"""EpisodeDataModule: from a folder of episodes to loaders of windows that resume exactly."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import Sampler

from jepa_video.data.episodes import EpisodeSet, Facts, Windows
from jepa_video.data.ledger import Ledger
from jepa_video.data.loader import ExactLoader
from jepa_video.data.notice import Notice
from jepa_video.data.sampler import ClipSampler, Key
from jepa_video.data.shelf import Completion
from jepa_video.distributed import rank, world_size
from jepa_video.errors import UserError

NO_ROOT: Final = "give --data.root EPISODES: a folder of jepa-video collect, or a LeRobot dataset"


class EpisodeDataModule(LightningDataModule):
    """Windows of episodes for a world model.

    A batch has `video` uint8 `B T C H W`; `action` float32 `B T-1 A` in [-1, 1], one-hot where
    actions are kinds; `state` float32 `B T S`; `reward` float32 `B T-1`; `success` bool `B T`;
    `episode` and `start` int64 `B`; and `scene`, like `video`, where frames are completed. Every
    window is seen once in an epoch, in a seeded order; what does not fill a batch is left out of
    it, another part in each epoch.

    Args:
        root: a folder of jepa-video collect, or a LeRobot dataset.
        frames: T, frames of a window.
        batch_size: windows of a batch, on each device.
        share: the part of the training episodes that is used, above 0 to 1, nested.
        val_share: the part of the episodes that is held out, by a hash of their seed.
        seed: of the order and of the share.
        size: height and width of the frames; None takes the pictures' own shorter side.
        image: the key of the pictures, where the dataset has several.
        workers: loader processes; 0 gathers in the main one, which takes a millisecond or two.

    Attributes:
        completion: completes frames from those before them, `scene`; set before `setup`.
    """

    completion: Completion | None = None

    def __init__(
        self,
        root: str | None = None,
        frames: int = 9,
        batch_size: int = 32,
        share: float = 1.0,
        val_share: float = 0.1,
        seed: int = 0,
        size: int | None = None,
        image: str | None = None,
        workers: int = 0,
    ) -> None:
        super().__init__()
        if root is None:
            raise UserError(NO_ROOT)
        for name, value, low in (
            ("frames", frames, 2), ("batch_size", batch_size, 1), ("workers", workers, 0),
        ):  # fmt: skip
            if value < low:
                raise UserError(f"data.{name} must be {low} or more, not {value}")
        self.root, self.frames, self.batch_size = root, frames, batch_size
        self.share, self.val_share, self.seed = share, val_share, seed
        self.size, self.image, self.workers = size, image, workers
        self._sides: tuple[EpisodeSet, EpisodeSet] | None = None

    def prepare_data(self) -> None:
        """Decode the frames on one process; the others find them."""
        self.setup()

    def setup(self, stage: str | None = None) -> None:
        """Open the episodes; the second call finds the work done."""
        if self._sides is None:
            with Notice(self.root, "decoding", "episodes") as notice:
                whole = EpisodeSet(
                    self.root, self.image, self.size, progress=notice, completion=self.completion
                )
            train, val = whole.split(self.val_share)
            self._sides = train.part(self.share, self.seed), val
            self._list_short()

    def _list_short(self) -> None:
        """Put the episodes that give no window on the list of what is left out."""
        for side in self._opened():
            for place in side.chosen:
                if side.lengths[place] < self.frames:
                    told = f"is shorter than data.frames (has {side.lengths[place]} frames)"
                    side.unreadable.add(f"{side.root}: episode {side.numbers[place]}", told)

    @property
    def train(self) -> EpisodeSet:
        """The training episodes."""
        return self._opened()[0]

    @property
    def val(self) -> EpisodeSet:
        """The held-out episodes: all of them, whatever the share."""
        return self._opened()[1]

    @property
    def facts(self) -> Facts:
        """What a world model has to know of the episodes."""
        return self.train.facts

    def train_dataloader(self) -> ExactLoader:
        """Shuffled, in equal parts for the ranks, with a position that is stored."""
        windows = Windows(self.train, self.frames)
        world = world_size()
        if len(windows) < world:
            raise UserError(f"{len(windows)} training windows are too few for {world} processes")
        batch = self.batch_size if len(windows) >= world * self.batch_size else 1
        sampler = ClipSampler([len(windows)], rank=rank(), world=world, batch=batch, seed=self.seed)
        return self._loader(windows, sampler)

    def val_dataloader(self) -> ExactLoader | list[Any]:
        """Held-out windows, one after the other; empty where nothing is held out."""
        if not len(self.val):
            return []
        windows = Windows(self.val, self.frames, step=self.frames - 1)
        sampler = ClipSampler([len(windows)], shuffle=False, rank=rank(), world=world_size())
        return self._loader(windows, sampler)

    def _loader(self, windows: Windows, sampler: Sampler[Key]) -> ExactLoader:
        return ExactLoader(
            windows,
            batch_size=self.batch_size,
            sampler=sampler,
            workers=self.workers,
            collate=as_gathered,
            pin_memory=torch.cuda.is_available(),
        )

    @property
    def unreadable(self) -> Ledger:
        """What is left out: files that could not be read, and episodes that give no window."""
        return self.train.unreadable

    def held_out(self, clips: int) -> Iterator[dict[str, Tensor]]:
        """About so many held-out windows, evenly spread, read in this process."""
        return self._spread(self.val, clips)

    def trained_on(self, clips: int) -> Iterator[dict[str, Tensor]]:
        """The same of the training windows."""
        return self._spread(self.train, clips)

    def _spread(self, episodes: EpisodeSet, clips: int) -> Iterator[dict[str, Tensor]]:
        if not len(episodes):
            return
        windows = Windows(episodes, self.frames)
        count = min(clips, len(windows))
        chosen = [i * len(windows) // count for i in range(count)]
        for first in range(0, count, self.batch_size):
            yield windows.__getitems__(chosen[first : first + self.batch_size])

    def _opened(self) -> tuple[EpisodeSet, EpisodeSet]:
        self.setup()
        assert self._sides is not None
        return self._sides


def as_gathered(batch: Sequence[Any] | dict[str, Tensor]) -> Any:
    """`Windows` gives whole batches already."""
    return batch
