"""Features of many videos into one file: in shards, so that a killed run goes on where it was.

Symptom: an embedding run of days is killed, and its features of most videos are gone with it.
Why appending to one file fails: a half-written tail cannot be told from a whole one, and batches
that fall differently round their sums differently.
Fix: videos are cut into shards by their place in the list alone. A shard is encoded as a whole,
saved in one move, and put together with the others at the end; whoever goes on encodes the missing
ones, with the same batches. In memory there is one shard, and the list of the videos.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import torch
from torch import Tensor

from jepa_video.data.clips import Check, ClipSettings, VideoClips
from jepa_video.data.loader import ClipLoader
from jepa_video.data.manifest import Listing, Row, read_source
from jepa_video.data.split import standard_splits
from jepa_video.data.transforms import centre
from jepa_video.errors import UserError
from jepa_video.evaluation.cache import digest, weights_key
from jepa_video.evaluation.embed_store import Meta, Shard, Store
from jepa_video.evaluation.features import Batch, Pool, extract
from jepa_video.models.encoder import VideoEncoder

Progress = Callable[[int, int], None]
SHARD_BYTES: Final = 256 * 2**20  # of one shard's features: all tokens of a clip are megabytes


@dataclass(frozen=True)
class EmbedSettings:
    """What decides the features; a run that goes on needs the same.

    Args:
        features: `mean` or `max` over the tokens of a clip, or all `tokens`.
        clips: clips of each video, at even distances from its start to its end.
        rows: one row for each `video`, the mean over its clips, or for each `clip`.
        stride: source frames from one frame of a clip to the next.
        fps: frames a second in place of the stride.
        fit: `crop` keeps the middle square of the picture, `squash` all of it.
        dtype: of the numbers in the file.
        precision: in which the encoder computes; bfloat16 where the device is good at it.
        batch_size: clips that are encoded at a time.
        shard: most videos between two savings; fewer where their features are large.
        check: how files are examined before use: `full`, `quick` or `none`.

    Raises:
        UserError: a number below 1, or the mean of several clips' tokens.
    """

    features: Literal["mean", "max", "tokens"] = "mean"
    clips: int = 1
    rows: Literal["video", "clip"] = "video"
    stride: int = 2
    fps: float | None = None
    fit: Literal["crop", "squash"] = "crop"
    dtype: Literal["float32", "float16"] = "float32"
    precision: Literal["float32", "bfloat16"] = "float32"
    batch_size: int = 32
    shard: int = 256
    check: Check = "full"

    def __post_init__(self) -> None:
        for name in ("clips", "batch_size", "shard"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be 1 or more, not {getattr(self, name)}")
        if self.features == "tokens" and self.clips > 1 and self.rows == "video":
            raise UserError(
                "tokens of several clips show different moments and have no mean: give "
                "--settings.rows clip, or --settings.clips 1"
            )


def list_videos(source: str, root: str | None = None) -> Listing:
    """The videos of a folder or manifest; where a folder brings splits, they are a label."""
    if root is not None or not Path(source).is_dir():
        return read_source(source, root)
    train, val = standard_splits(Path(source))
    if not val:
        return train[0]
    rows = [
        Row(row.path, {**row.labels, "split": split}, row.group, row.origin)
        for split, parts in (("train", train), ("val", val))
        for part in parts
        for row in part.rows
    ]
    columns = list(dict.fromkeys(name for part in (*train, *val) for name in part.columns))
    names = {key: table for part in (*train, *val) for key, table in part.names.items()}
    return Listing(rows, list(dict.fromkeys([*columns, "split"])), source, names)


def embed(
    encoder: VideoEncoder,
    listing: Listing,
    out: Path | str,
    settings: EmbedSettings | None = None,
    *,
    device: torch.device | str = "cpu",
    workers: int = 0,
    timeout: float = 30.0,
    progress: Progress | None = None,
) -> Meta:
    """Write the features of `listing` to `out`, going on where an earlier call was stopped.

    Args:
        encoder: in evaluation mode.
        listing: the videos; their order is the order of the rows.
        out: a file named .npy (with a .csv of the rows beside it) or .parquet.
        settings: what decides the features.
        device: where the encoder computes.
        workers: loader processes; they change nothing in the file.
        timeout: seconds that one file may take to be read.
        progress: told of videos done and to do.

    Returns:
        What stands in the .json beside `out`: counts, shape, and all that decided the features.

    Raises:
        UserError: `out` cannot be written, was begun or made with other settings, another encoder
            or other videos, is being written by another process, or no video could be read.
    """
    settings = settings or EmbedSettings()
    job = _Job(encoder.to(device), listing, settings, device, workers, timeout)
    store = Store(Path(out), job.identity())
    if (done := store.finished()) is not None:
        return done
    with store.opened():
        _fill(store, job, progress)
        return store.assemble(listing, job.shape, settings.dtype, job.clips_a_row)


def _fill(store: Store, job: _Job, progress: Progress | None) -> None:
    """Encode the shards that are not there yet."""
    rows, size = job.listing.rows, job.shard
    starts = range(0, len(rows), size)
    for number, start in enumerate(starts):
        if number not in store:

            def tell(videos: int, start: int = start) -> None:
                if progress is not None:
                    progress(start + videos, len(rows))

            store.put(number, job.encode(start, tell))
        if progress is not None:
            progress(min(start + size, len(rows)), len(rows))


class _Job:
    """One encoder, one list of videos, one setting."""

    def __init__(
        self,
        encoder: VideoEncoder,
        listing: Listing,
        settings: EmbedSettings,
        device: torch.device | str,
        workers: int,
        timeout: float,
    ) -> None:
        self.encoder, self.listing, self.settings = encoder, listing, settings
        self.device, self.workers, self.timeout = torch.device(device), workers, timeout
        self.frames = ClipSettings(
            encoder.frames, settings.stride, settings.fps, encoder.image, settings.fit
        )
        self.pool: Pool = "flat" if settings.features == "tokens" else settings.features
        size = (encoder.num_tokens,) if settings.features == "tokens" else ()
        self.shape = (*size, encoder.width)  # of one row
        self.clips_a_row = settings.clips if settings.rows == "clip" else 1
        row_bytes = 4 * int(np.prod(self.shape)) * settings.clips
        self.shard = max(1, min(settings.shard, SHARD_BYTES // row_bytes))

    def identity(self) -> dict[str, Any]:
        """All that decides the file, as plain values."""
        return {
            **asdict(self.settings),
            "device": self.device.type,
            "encoder": weights_key(self.encoder, self.encoder.config),
            "videos": digest(*([row.path, row.labels, row.group] for row in self.listing.rows)),
        }

    def encode(self, start: int, tell: Callable[[int], None]) -> Shard:
        """The shard of the videos from `start` on."""
        rows = self.listing.rows[start : start + self.shard]
        # A name of its own, so that the memory of examinations does not grow with the list.
        part = Listing(rows, [], f"{self.listing.where}, from video {start}")
        settings = self.settings
        videos = VideoClips(
            part,
            self.frames,
            clips=settings.clips,
            check=settings.check,
            unreadable_limit=None,
            missing="skip",
            timeout=self.timeout,
        )
        failed = videos.unreadable
        left = [start + i for i, row in enumerate(rows) if row.path not in failed.entries]
        x, whole = self._features(videos, tell) if left else (torch.empty(0), [])
        kept = [left[video] for video in whole]
        x = x.reshape(len(kept) * self.clips_a_row, *self.shape)
        return Shard(x.numpy().astype(settings.dtype), kept, failed.rows())

    def _features(
        self, videos: VideoClips, tell: Callable[[int], None]
    ) -> tuple[Tensor, list[int]]:
        """Rows of the videos of which every clip could be read, and which those are."""
        clips = self.settings.clips
        size = self.settings.batch_size
        with closing(ClipLoader(videos, batch_size=size, workers=self.workers)) as loader:
            batches = _by_clip(loader, clips, tell)
            first = next(batches, None)
            if first is None:
                return torch.empty(0), []
            every = _chain(first, batches)
            found = extract(self._encode, every, device=self.device, pool=self.pool)
        counts = Counter((found.index // clips).tolist())
        whole = [video for video, count in counts.items() if count == clips]
        x = found.x[torch.isin(found.index // clips, torch.tensor(whole, dtype=torch.int64))]
        if self.settings.rows == "video":
            x = x.reshape(len(whole), clips, *x.shape[1:]).mean(1)
        return x, whole

    def _encode(self, video: Tensor) -> Tensor:
        low = self.settings.precision == "bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=low):
            tokens: Tensor = self.encoder(centre(video, self.encoder.image))
        return tokens.float()


def _chain(first: Batch, rest: Iterator[Batch]) -> Iterator[Batch]:
    yield first
    yield from rest


def _by_clip(loader: ClipLoader, clips: int, tell: Callable[[int], None]) -> Iterator[Batch]:
    """Batches whose `index` numbers clips and not videos, so that each clip keeps its own row."""
    seen: Counter[int] = Counter()
    for batch in loader:
        numbers = []
        for video in batch["index"].tolist():
            numbers.append(video * clips + seen[video])
            seen[video] += 1
        yield {**batch, "index": torch.tensor(numbers)}
        tell(video)
