"""Many representations of many clips in one pass over the files, by Lightning's `Trainer.predict`.

The clips are cut into chunks of a fixed size and membership. A chunk is encoded as one batch
whatever the loader's batch, the workers and the ranks are, so that features do not depend on them,
not even in the last bit. Chunks go to the ranks in turn; each writes its own rows of the mapped
arrays, and nothing is gathered.

Shapes: `B` clips of a chunk, `V` crops of a clip, `N` tokens, `D` width.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler

from ..data.clips import ClipSettings, Dropped, Item, VideoClips
from ..data.transforms import centre, normalise
from ..distributed import heard_by_all
from ..errors import UserError
from ..models.encoder import VideoEncoder
from .baselines import motion_grid, pixel_statistics
from .cache import VERSION, Array, Shelf, alone, clips_key, digest, opened, weights_key

CHUNK: Final = 8
ON_A_CPU: Final = (4, 2, 2)  # a tenth of the time, for a nano encoder of 144 tokens
BASELINES: Final[dict[str, Callable[[Tensor], Tensor]]] = {
    "pixels": pixel_statistics,
    "motion": motion_grid,
}
Told = Callable[[int, int], None]


@dataclass
class FeatureSettings:
    """What is computed of each video, and where it is kept.

    Args:
        clips: clips of a video, at even distances from its start to its end.
        crops: 1 for the whole picture at the encoder's size; more for so many squares of the
            encoder's size from left to right, which need a larger data.size.
        blocks: the last so many blocks, whose mean tokens stand side by side.
        grid: time, rows and columns to which tokens are averaged for attentive probes; None keeps
            every token, but averages to `ON_A_CPU` where the probes are trained on a CPU.
        cache: folder of features and fits; a folder in the user's cache if None.
        most_gb: bound on what one set may take on disk.
    """

    clips: int = 1
    crops: int = 1
    blocks: int = 4
    grid: tuple[int, int, int] | None = None
    cache: str | None = None
    most_gb: float = 50.0

    def __post_init__(self) -> None:
        for name in ("clips", "crops", "blocks"):
            if getattr(self, name) < 1:
                raise UserError(f"features.{name} must be 1 or more, not {getattr(self, name)}")
        if self.grid is not None and min(self.grid) < 1:
            raise UserError(f"features.grid must be three numbers from 1, not {self.grid}")


def crops_of(video: Tensor, size: int, count: int) -> Iterator[Tensor]:
    """Evaluation views of `B T C H W` uint8, each `B C T size size`, normalised.

    One: all of the centred square, resized. Several: squares of `size` pixels, left to right, in
    the middle of the height.
    """
    if count == 1:
        yield centre(video, size)
        return
    height, width = video.shape[-2:]
    if min(height, width) < size or width == size:
        raise UserError(
            f"features.crops {count} needs clips larger than the encoder's {size} pixels; "
            f"data.size is {width}"
        )
    top = (height - size) // 2
    for number in range(count):
        left = round(number * (width - size) / (count - 1))
        yield normalise(video[..., top : top + size, left : left + size])


class Source(nn.Module):
    """A representation: an encoder, or features made by hand.

    Args:
        name: in tables, e.g. the name of a run.
        encoder: None for features made by hand, whose name is one of `BASELINES`.
        settings: views and parts.
    """

    def __init__(self, name: str, encoder: VideoEncoder | None, settings: FeatureSettings) -> None:
        super().__init__()
        self.name, self.encoder, self.settings = name, encoder, settings
        crops = settings.crops if encoder is not None else 1
        self.key = digest(name) if encoder is None else weights_key(encoder, encoder.config)
        self.key = digest(VERSION, self.key, crops)

    def shape_of(self, part: str, clip: ClipSettings) -> tuple[int, ...]:
        """The shape of `part` of one clip, crops in front."""
        if self.encoder is None:
            empty = torch.zeros(1, clip.frames, 3, clip.size, clip.size, dtype=torch.uint8)
            return (1, BASELINES[self.name](empty).shape[1])
        width, crops = self.encoder.width, self.settings.crops
        if part == "blocks":
            return (crops, width * len(self._blocks()))
        if part == "tokens":
            return (crops, int(np.prod(self._grid())), width)
        return (crops, width)

    def part_key(self, part: str) -> str:
        """What makes this part differ from others of the same source."""
        if part == "blocks":
            return f"blocks {self.settings.blocks}"
        return f"tokens {self._grid()}" if part == "tokens" else part

    def forward(self, video: Tensor, parts: Sequence[str]) -> dict[str, Tensor]:
        """`B T C H W` uint8 to `mean` `B V D`, `blocks` `B V kD`, `tokens` `B V N D` as asked."""
        if self.encoder is None:
            return {"mean": BASELINES[self.name](video)[:, None]}
        views = [self._encode(v, parts) for v in self._crops(video)]
        return {part: torch.stack([view[part] for view in views], 1) for part in parts}

    def _crops(self, video: Tensor) -> Iterator[Tensor]:
        assert self.encoder is not None
        return crops_of(video, self.encoder.image, self.settings.crops)

    def _encode(self, clip: Tensor, parts: Sequence[str]) -> dict[str, Tensor]:
        encoder, seen = self.encoder, []
        assert encoder is not None
        with ExitStack() as stack:
            if "blocks" in parts:
                for block in self._blocks():
                    hook = block.register_forward_hook(lambda _m, _i, out: seen.append(out))
                    stack.callback(hook.remove)
            tokens: Tensor = encoder(clip).float()
        found = {"mean": tokens.mean(1)}
        if "blocks" in parts:
            norm = getattr(encoder, "norm", nn.Identity())
            found["blocks"] = torch.cat([norm(x).float().mean(1) for x in seen], 1)
        if "tokens" in parts:
            found["tokens"] = pooled_to(tokens, encoder.grid, self._grid())
        return {part: found[part] for part in parts}

    def _blocks(self) -> list[nn.Module]:
        blocks = getattr(self.encoder, "blocks", None)
        if not isinstance(blocks, nn.ModuleList):
            kind = type(self.encoder).__name__
            raise UserError(f"{kind} has no list of blocks: leave `blocks` out of probe.probes")
        return list(blocks)[-self.settings.blocks :]

    def _grid(self) -> tuple[int, ...]:
        assert self.encoder is not None
        whole = self.encoder.grid
        return tuple(map(min, whole, self.settings.grid or whole))


def pooled_to(tokens: Tensor, grid: Sequence[int], size: Sequence[int]) -> Tensor:
    """Tokens `B N D` on `grid` (time, rows, columns), averaged to the coarser grid `size`."""
    if tuple(grid) == tuple(size):
        return tokens
    volume = tokens.transpose(1, 2).unflatten(2, tuple(grid))  # type: ignore[no-untyped-call]
    return F.adaptive_avg_pool3d(volume, (size[0], size[1], size[2])).flatten(2).transpose(1, 2)


@dataclass(frozen=True)
class Task:
    """A set of clips and the parts of each source that are wanted of it."""

    clips: VideoClips
    shelves: Mapping[tuple[int, str], Shelf]  # by number of the source and part


def task_of(
    clips: VideoClips,
    sources: Sequence[Source],
    parts: Mapping[int, Sequence[str]],
    root: Path,
    precision: str,
) -> Task:
    """The shelves of all parts of all sources for one set of clips."""
    key, shelves = clips_key(clips), {}
    for number, wanted in parts.items():
        source = sources[number]
        for part in wanted:
            about = {"source": source.name, "part": source.part_key(part), "clips": len(clips)}
            about |= {"precision": precision, "clip": vars(clips.settings)}
            shape = (len(clips), *source.shape_of(part, clips.settings))
            dtype = "float16" if part == "tokens" else "float32"
            name = digest(key, source.key, source.part_key(part), precision)
            shelves[number, part] = Shelf(root, name, shape, dtype, about)
    return Task(clips, shelves)


class Extractor(LightningModule):
    """Fills the shelves that are not there yet; use with `Trainer.predict(extractor)`.

    Args:
        sources: all representations.
        tasks: sets of clips.
        batch_size: clips that a loader reads at a time; rounded to chunks.
        workers: loader processes.
        told: called on every rank with the clips that are done and to do there.

    Attributes:
        failed: files that could not be read, with the reason; at the end those of all ranks.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        tasks: Sequence[Task],
        *,
        batch_size: int = 32,
        workers: int = 0,
        told: Told | None = None,
    ) -> None:
        super().__init__()
        self.sources = nn.ModuleList(sources)
        self.tasks, self.workers, self.told = list(tasks), workers, told
        self.batch = max(1, batch_size // CHUNK) * CHUNK
        self.failed: dict[str, str] = {}
        self._drafts: list[dict[tuple[int, str], str]] = []
        self._arrays: dict[tuple[int, int, str], tuple[Array, Array]] = {}
        self._hold = ExitStack()
        self._done = 0

    @property
    def complete(self) -> bool:
        """Whether there is nothing to compute."""
        return all(shelf.there for task in self.tasks for shelf in task.shelves.values())

    def setup(self, stage: str) -> None:
        """Rank 0 says what is missing and makes the files; all ranks open them."""
        strategy = self.trainer.strategy
        found: Any = self._make() if self.trainer.is_global_zero else None
        found = strategy.broadcast(found)
        if isinstance(found, str):
            raise UserError(found)
        self._drafts = found
        for number, drafts in enumerate(self._drafts):
            for (source, part), path in drafts.items():
                self._arrays[number, source, part] = opened(Path(path))
        self.eval()

    def _make(self) -> list[dict[tuple[int, str], str]] | str:
        """The drafts of what is missing; a sentence, which all ranks must hear, where none can."""
        token = f"{os.getpid()}-{secrets.token_hex(4)}"
        shelves = [shelf for task in self.tasks for shelf in task.shelves.values()]
        try:
            self._hold.enter_context(alone(shelves[0].root, [shelf.key for shelf in shelves]))
            begun: set[str] = set()  # two sets, or two paths, may mean the same features
            drafts: list[dict[tuple[int, str], str]] = []
            for task in self.tasks:
                drafts.append({})
                for at, shelf in task.shelves.items():
                    if not shelf.there and shelf.key not in begun:
                        drafts[-1][at] = str(shelf.draft(token))
                        begun.add(shelf.key)
            return drafts
        except UserError as error:
            return str(error)

    def predict_dataloader(self) -> list[DataLoader[Any]]:
        """A loader for each set that lacks something."""
        world, rank = self.trainer.world_size, self.trainer.global_rank
        return [
            _loader(self.tasks[number].clips, rank, world, self.batch, self.workers)
            for number in self._open
        ]

    @property
    def _open(self) -> list[int]:
        return [number for number, drafts in enumerate(self._drafts) if drafts]

    def predict_step(self, batch: dict[str, Any], batch_idx: int, dataloader_idx: int = 0) -> None:
        """Encode the chunks of a batch and write their rows."""
        if self.trainer.received_sigterm:  # which Lightning hears, and leaves at that
            raise SystemExit(143)
        number = self._open[dataloader_idx]
        wanted: dict[int, list[str]] = {}
        for source, part in self._drafts[number]:
            wanted.setdefault(source, []).append(part)
        clips = self.tasks[number].clips
        for place, reason in batch["dropped"]:
            self.failed[clips.paths[place // (clips.clips or 1)]] = reason
        for at in range(0, len(batch["video"]), CHUNK):
            rows = batch["rows"][at : at + CHUNK].cpu().numpy()
            video = _filled(batch["video"][at : at + CHUNK])
            for source, parts in wanted.items():
                for part, value in self.sources[source](video, parts).items():
                    array, read = self._arrays[number, source, part]
                    array[rows] = value[: len(rows)].cpu().numpy().astype(array.dtype)
                    read[rows] = batch["read"][at : at + CHUNK].cpu().numpy()
        self._tell(len(batch["video"]))

    def _tell(self, count: int) -> None:
        self._done += count
        if self.told is not None:
            total = sum(len(self.tasks[number].clips) for number in self._open)
            self.told(self._done, -(-total // self.trainer.world_size))

    def on_predict_end(self) -> None:
        """All rows are on disk before rank 0 puts the arrays in their places."""
        for array, read in self._arrays.values():
            array.flush()  # type: ignore[attr-defined]
            read.flush()  # type: ignore[attr-defined]
        self._arrays.clear()
        self.failed = dict(heard_by_all(list(self.failed.items()), False)[0])
        self.trainer.strategy.barrier()
        if self.trainer.is_global_zero:
            for task, drafts in zip(self.tasks, self._drafts, strict=True):
                for at, draft in drafts.items():
                    task.shelves[at].finish(Path(draft))
        self._hold.close()

    def abandon(self) -> None:
        """Remove what was begun and will not be finished."""
        for drafts in self._drafts:
            for draft in drafts.values():
                shutil.rmtree(draft, ignore_errors=True)
        self._hold.close()


def _filled(video: Tensor) -> Tensor:
    """A chunk of the full size: every chunk is the same problem for the device."""
    lack = CHUNK - len(video)
    return F.pad(video, (0, 0) * 4 + (0, lack)) if lack else video


class _Chunks(Sampler[int]):
    """The clips of this rank: every `world`-th chunk, in order."""

    def __init__(self, count: int, rank: int, world: int) -> None:
        starts = range(rank * CHUNK, count, world * CHUNK)
        self.items = [i for start in starts for i in range(start, min(start + CHUNK, count))]

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[int]:
        return iter(self.items)


class _Numbered(torch.utils.data.Dataset[tuple[int, Item | Dropped]]):
    """Clips with their numbers."""

    def __init__(self, clips: VideoClips) -> None:
        self.clips = clips

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, number: int) -> tuple[int, Item | Dropped]:
        return number, self.clips[number]

    def whole(self, items: Sequence[tuple[int, Item | Dropped]]) -> dict[str, Any]:
        """A batch in which a clip that could not be read is black, and is said to be."""
        size = self.clips.settings
        black = torch.zeros(size.frames, 3, size.size, size.size, dtype=torch.uint8)
        lost = [(n, item.reason) for n, item in items if isinstance(item, Dropped)]
        videos = [black if isinstance(i, Dropped) else i["video"] for _, i in items]
        return {
            "video": torch.stack(videos),
            "rows": torch.tensor([n for n, _ in items]),
            "read": torch.tensor([not isinstance(item, Dropped) for _, item in items]),
            "dropped": lost,
        }


def _loader(clips: VideoClips, rank: int, world: int, batch: int, workers: int) -> DataLoader[Any]:
    clips = clips.with_cache(clips.cache_mb / max(1, workers))
    data = _Numbered(clips)
    return DataLoader(
        data,
        batch_size=batch,
        sampler=_Chunks(len(clips), rank, world),
        num_workers=workers,
        collate_fn=data.whole,
        pin_memory=torch.cuda.is_available(),
        timeout=60 + 10 * clips.timeout if workers else 0,
    )
