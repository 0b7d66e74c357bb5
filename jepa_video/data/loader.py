"""The loader: batches with an exact position, and files that fail while they are read."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any, Final

from torch.utils.data import Dataset, Sampler
from torchdata.stateful_dataloader import StatefulDataLoader

from jepa_video.data.clips import VideoClips, collate
from jepa_video.data.ledger import Ledger
from jepa_video.data.sampler import Key
from jepa_video.distributed import heard_by_all

_PATIENCE: Final = 10  # files of a batch that may hang before a worker is taken for stopped


class ExactLoader(StatefulDataLoader):  # type: ignore[misc]
    """A StatefulDataLoader: `state_dict()` in the middle of an epoch, exact resume.

    Args:
        dataset: what is asked for the sampler's keys.
        batch_size: items of a batch.
        sampler: gives the keys; in order by default.
        workers: loader processes; 0 reads in this one.
        collate: a batch from its items.
        pin_memory, timeout: see the DataLoader.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        *,
        batch_size: int,
        sampler: Sampler[Key] | None,
        workers: int,
        collate: Callable[[Any], Any],
        pin_memory: bool,
        timeout: float = 0,
    ) -> None:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "'set_vital' is deprecated")  # torchdata's own affair
            super().__init__(
                dataset,
                batch_size=batch_size,
                sampler=sampler,
                num_workers=workers,
                collate_fn=collate,
                pin_memory=pin_memory,
                persistent_workers=workers > 0,
                timeout=timeout,
            )


class ClipLoader(ExactLoader):
    """The loader of clips.

    What the workers could not read comes with the batch, goes into the ledger here, and stops the
    run where the ledger's limit is passed. A batch of which nothing could be read is left out.

    Ranks that train together do so together: a batch of which one of them has nothing is left out
    on all, and what one could not read stands in the ledger of all. A rank that went on alone would
    be a batch ahead of the others for the rest of its epoch, and end it while they wait.

    Args:
        clips: the videos.
        ledger: takes the files that fail; the videos' own by default.
        batch_size: clips of a batch.
        workers: loader processes; 0 reads in this one.
        sampler: gives the keys; in order by default.
        pin_memory: see the DataLoader.
        together: whether all ranks iterate in step, over as many batches.
    """

    def __init__(
        self,
        clips: VideoClips,
        ledger: Ledger | None = None,
        *,
        batch_size: int = 32,
        workers: int = 0,
        sampler: Sampler[Key] | None = None,
        pin_memory: bool = False,
        together: bool = False,
    ) -> None:
        self.ledger = clips.unreadable if ledger is None else ledger
        self.together = together
        if workers:  # each has its own memory for decoded frames: they share the size
            clips = clips.with_cache(clips.cache_mb / workers)
        super().__init__(
            clips,
            batch_size=batch_size,
            sampler=sampler,
            workers=workers,
            collate=collate,
            pin_memory=pin_memory,
            # Reading gives up on a file by itself; this is for a worker that stopped.
            timeout=60 + _PATIENCE * clips.timeout if workers else 0,
        )

    def __iter__(self) -> Iterator[dict[str, Any]]:
        batches = super().__iter__()
        return (batch for batch in map(self._settled, batches) if batch)

    def close(self) -> None:
        """End the loader processes now: a Ctrl-C while Python collects them would be lost."""
        if (batches := getattr(self, "_iterator", None)) is not None:
            self._iterator = None
            if self.num_workers:
                batches._shutdown_workers()

    def _settled(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The batch without the files that failed, which go into the ledger; {} is left out."""
        dropped = list(batch.pop("dropped", ()))
        empty = not batch
        if self.together:
            dropped, empty = heard_by_all(dropped, empty)
        for path, reason in dropped:
            self.ledger.add(path, reason)
        if dropped:
            self.ledger.enforce()
        return {} if empty else batch
