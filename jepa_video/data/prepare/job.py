"""A dataset from its download to manifests: list, check, hash, split, re-encode, write.

OUT/
  train.csv, val.csv, test.csv   path,label,class,group
  index.csv                      what is known of each video
  unreadable.csv                 what is not used, with the reason
  prepare.json                   settings and counts
  videos/                        where files were re-encoded, or drawn
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

from jepa_video.data.check import check_files
from jepa_video.data.ledger import Ledger
from jepa_video.data.prepare import moving_mnist, reencode
from jepa_video.data.prepare.index import (
    Item,
    grouped,
    hashes,
    split_here,
    without_leaks,
    write_index,
    write_manifests,
    write_text,
)
from jepa_video.data.prepare.layouts import LAYOUTS, Entry, Places
from jepa_video.data.prepare.moving_mnist import MnistSettings
from jepa_video.errors import UserError
from jepa_video.watched import Job, Watched, in_parallel

MNIST: Final = "moving-mnist"
DATASETS: Final = (*LAYOUTS, MNIST)
Progress = Callable[[str, int, int], None]  # what is done, how many are, of how many


@dataclass(frozen=True)
class PrepareSettings:
    """How a dataset is prepared.

    Args:
        short_side: re-encode to this short side, pixels; None leaves the files where they are.
        fps: re-encode to this rate; None keeps each file's own.
        quality: of the re-encoding, x264's constant rate factor: smaller is better and larger.
        check: how files are examined: `full` or `quick`.
        hash: whether to hash the files, which finds copies across the splits.
        group: regular expression that finds the group in a file's place below the source.
        split: the `official` one where there is one, or our `own`, by group.
        number: which official split, where there are several (UCF101, HMDB51).
        val_fraction: the held-out part of an own split.
        leaks: `refuse` videos whose group or content is on both sides, or `drop` the held-out ones.

    Raises:
        UserError: a number out of its range.
    """

    short_side: int | None = None
    fps: float | None = None
    quality: int = 18
    check: Literal["full", "quick"] = "full"
    hash: bool = True
    group: str | None = None
    split: Literal["official", "own"] = "official"
    number: int = 1
    val_fraction: float = 0.1
    leaks: Literal["refuse", "drop"] = "refuse"

    def __post_init__(self) -> None:
        if self.short_side is not None and self.short_side < 16:
            raise UserError(f"settings.short_side must be 16 or more, not {self.short_side}")
        if self.fps is not None and not self.fps > 0:
            raise UserError(f"settings.fps must be above 0, not {self.fps}")
        if not 0 <= self.quality <= 51:
            raise UserError(f"settings.quality must be from 0 to 51, not {self.quality}")
        if not 0 < self.val_fraction < 1:
            raise UserError(f"settings.val_fraction must be between 0 and 1: {self.val_fraction}")

    @property
    def encodes(self) -> bool:
        """Whether new files are written."""
        return self.short_side is not None or self.fps is not None


def prepare(
    dataset: str,
    source: str,
    out: Path | str,
    settings: PrepareSettings | None = None,
    *,
    lists: str | None = None,
    mnist: MnistSettings | None = None,
    workers: int | None = None,
    timeout: float = 600.0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Prepare a dataset; called again after a stop, it goes on.

    Args:
        dataset: one of `DATASETS`.
        source: the folder of videos; for Moving MNIST an idx file or `digits`.
        out: the folder that becomes the dataset.
        settings: how.
        lists: the folder of the dataset's own lists, by default `source`.
        mnist: what is drawn.
        workers: helper processes; by default one for each core.
        timeout: seconds that one file may take to be re-encoded.
        progress: told of each stage.

    Returns:
        What stands in prepare.json.

    Raises:
        UserError: the dataset is not as it is published, or what is in `out` was prepared with
            other settings, or splits leak, or nothing is usable.
    """
    job = _Preparation(dataset, source, Path(out), settings, mnist, workers, timeout, progress)
    items = job.drawn() if dataset == MNIST else job.read(lists)
    return job.write(items)


class _Preparation:
    def __init__(
        self,
        dataset: str,
        source: str,
        out: Path,
        settings: PrepareSettings | None,
        mnist: MnistSettings | None,
        workers: int | None,
        timeout: float,
        progress: Progress | None,
    ) -> None:
        self.dataset, self.source, self.out = dataset, source, out
        self.settings, self.mnist = settings or PrepareSettings(), mnist or MnistSettings()
        self.workers, self.timeout = workers, timeout
        self.progress = progress or (lambda stage, done, total: None)
        self.ledger = Ledger(0, None, source)
        self.sources: dict[str, str] = {}  # of files that were re-encoded
        if dataset not in DATASETS:
            raise UserError(f"there is no dataset {dataset!r}: expected {', '.join(DATASETS)}")
        self._refuse_other()

    def identity(self) -> dict[str, Any]:
        """What decides the files that are written."""
        made = asdict(self.mnist if self.dataset == MNIST else self.settings)
        keep = None if self.dataset == MNIST else ("short_side", "fps", "quality")
        chosen = {k: v for k, v in made.items() if keep is None or k in keep}
        plain = {"dataset": self.dataset, "source": os.path.abspath(self.source), **chosen}
        found: dict[str, Any] = json.loads(json.dumps(plain))
        return found

    def _refuse_other(self) -> None:
        path = self.out / "prepare.json"
        if not path.exists():
            return
        made, asked = json.loads(path.read_text())["made_with"], self.identity()
        for key in asked:
            if made.get(key) != asked[key]:
                raise UserError(
                    f"{self.out} was prepared with {key} {made.get(key)} and not {asked[key]}: "
                    "give another --out, or remove it"
                )

    def begin(self) -> None:
        """Write down what is to be made, before the first file of it."""
        try:
            self.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot write to {self.out}: {error.strerror}") from error
        if not (self.out / "prepare.json").exists():
            self._write_record({})

    def _write_record(self, told: dict[str, Any]) -> dict[str, Any]:
        record = {**told, "made_with": self.identity()}
        write_text(self.out / "prepare.json", json.dumps(record, indent=2) + "\n")
        return record

    # -- datasets of files -------------------------------------------------------------------------

    def read(self, lists: str | None) -> list[Item]:
        """List, examine, hash, split, and re-encode."""
        for folder in (self.source, lists or self.source):
            if not Path(folder).is_dir():
                raise UserError(f"there is no folder {folder}")
        if self.settings.encodes:
            reencode.need_encoder()
        places = Places(Path(self.source), Path(lists or self.source), self.settings.number)
        entries = LAYOUTS[self.dataset](places)
        self.ledger.total = len(entries)
        items = grouped(self._examined(entries), self.settings.group)
        if self.settings.split == "own" or not any(item.entry.split for item in items):
            items = split_here(items, self.settings.val_fraction, self.source)
        items = without_leaks(items, self.settings.leaks, self.ledger)
        self.begin()
        return self._reencoded(items) if self.settings.encodes else items

    def _examined(self, entries: list[Entry]) -> list[Item]:
        found = check_files(
            [entry.path for entry in entries],
            self.settings.check,
            workers=self.workers,
            memory=os.path.abspath(self.source),
            progress=lambda done, total: self.progress("examining", done, total),
        )
        items = []
        for entry in entries:
            finding = found[entry.path]
            if finding.info is None:
                self.ledger.add(entry.path, finding.reason)
            else:
                items.append(Item(entry, finding.info))
        self._refuse_nothing(items)
        if self.settings.hash:
            sums = hashes([item.entry.path for item in items], self.workers)
            items = [replace(item, sha256=s) for item, s in zip(items, sums, strict=True)]
        return items

    def _refuse_nothing(self, items: list[Item]) -> None:
        if not items:
            raise UserError(
                f"none of the {self.ledger.total} videos of {self.source} is usable: "
                f"{self.ledger.summary()}"
            )

    def _reencoded(self, items: list[Item]) -> list[Item]:
        """The items with their new files; those that fail are listed."""
        targets = self._targets(items)
        jobs = [self._job(item, targets[item.entry.path]) for item in items]
        todo = [job for job in jobs if not os.path.exists(job["target"])]
        already = len(jobs) - len(todo)
        failed = set()
        answers = reencode.encode_all(todo, self.workers, self.timeout)
        for done, (job, reason) in enumerate(answers, already + 1):
            if reason:
                self.ledger.add(job["source"], f"not re-encoded: {reason}")
                failed.add(job["source"])
            self.progress("re-encoding", done, len(jobs))
        left = [item for item in items if item.entry.path not in failed]
        found = check_files([targets[i.entry.path] for i in left], "quick", workers=self.workers)
        new = []
        for item in left:
            target = targets[item.entry.path]
            self.sources[target] = os.path.abspath(item.entry.path)
            info = found[target].info
            if info is None:
                self.ledger.add(target, found[target].reason)
            else:
                new.append(replace(item, entry=replace(item.entry, path=target), info=info))
        self._refuse_nothing(new)
        return new

    def _targets(self, items: list[Item]) -> dict[str, str]:
        """The new file of each; a.avi and a.mp4 of one folder get names of their own."""
        taken: dict[str, str] = {}
        targets = {}
        for item in items:
            path, name = item.entry.path, item.entry.name
            if taken.setdefault(name, path) != path:
                name += Path(path).suffix
            targets[path] = str(self.out / "videos" / f"{name}.mp4")
        return targets

    def _job(self, item: Item, target: str) -> Job:
        settings, info = self.settings, item.info
        return {
            "source": item.entry.path,
            "target": target,
            "short_side": settings.short_side,
            "quality": settings.quality,
            "fps": settings.fps or info.fps,
            "frames": info.frames,
        }

    # -- drawn -------------------------------------------------------------------------------------

    def drawn(self) -> list[Item]:
        """Moving MNIST: draw what is not there yet."""
        planned = moving_mnist.plan(self.source, self.mnist, self.out / "videos")
        self.begin()
        self.ledger.total = len(planned)
        todo = [job for entry, job in planned if not os.path.exists(entry.path)]

        def work(helper: Watched, job: Job) -> tuple[Job, str]:
            answer = helper.ask(job)
            return job, answer if isinstance(answer, str) else str(answer["reason"])

        answers = in_parallel(
            todo, lambda: Watched(moving_mnist.CODE, self.timeout), work, self.workers
        )
        for done, (job, reason) in enumerate(answers, 1):
            if reason:
                raise UserError(f"{job['target']} cannot be written: {reason}")
            self.progress("drawing", len(planned) - len(todo) + done, len(planned))
        found = check_files([entry.path for entry, _ in planned], "quick", workers=self.workers)
        items = []
        for entry, _ in planned:
            info = found[entry.path].info
            if info is None:
                self.ledger.add(entry.path, found[entry.path].reason)
            else:
                items.append(Item(entry, info))
        self._refuse_nothing(items)
        return items

    # -- the end -----------------------------------------------------------------------------------

    def write(self, items: list[Item]) -> dict[str, Any]:
        """Manifests, index, ledger, record."""
        write_index(self.out, items, self.sources)
        counts = write_manifests(self.out, items)
        self.ledger.write(self.out / "unreadable.csv")
        for old in (self.out / "videos").rglob(".*.partial"):
            old.unlink(missing_ok=True)  # of helpers that were killed
        frames = sum(item.info.frames for item in items)
        told = {"videos": counts, "frames": frames, "unusable": len(self.ledger)}
        told["classes"] = len({item.entry.label for item in items} - {""})
        return self._write_record(told)
