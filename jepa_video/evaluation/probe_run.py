"""From paths of encoders and sets of videos to a table, `summary.json` and a page.

OUT/
  config.yaml    every setting, as it was run
  summary.json   every figure with its interval, and what was chosen
  probe.html     the same for a person: bars, confusion matrices; one file, no network
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from lightning.pytorch import Trainer
from rich.console import Console
from rich.table import Table

from ..data.datamodule import VideoDataModule
from ..data.once import cache_folder
from ..distributed import part_ways
from ..errors import UserError
from ..interop.weights import load_encoder
from ..models.encoder import VideoEncoder
from ..training.pretrain import make_trainer
from .extraction import BASELINES, ON_A_CPU, Extractor, FeatureSettings, Source, Task, task_of
from .heads_grid import AttentiveSettings
from .probing import first_weights
from .suite import (
    UNTRAINED,
    LabelSet,
    Part,
    Suite,
    SuiteSettings,
    label_sets,
    refuse_shared,
)


class Shown(Protocol):
    """A bar for something that is done: a context that is called with done and to do."""

    def __call__(self, done: int, total: int, /) -> None:
        """Show it."""


Bars = Callable[[str, str], AbstractContextManager[Shown]]  # doing, what is counted


@dataclass
class ProbeRun:
    """What is probed, and how.

    Args:
        encoders: paths, as `load_encoder` takes them.
        data: the sets of videos, with the same clip settings.
        features: views and cache.
        settings: probes.
        attentive: training of attentive probes.
        trainer: options of Lightning's Trainer.
        seed: of the untrained encoders.
    """

    encoders: Mapping[str, VideoEncoder]
    data: Sequence[VideoDataModule]
    features: FeatureSettings
    settings: SuiteSettings
    attentive: AttentiveSettings
    trainer: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0

    def __post_init__(self) -> None:
        for data in self.data:
            for name, encoder in self.encoders.items():
                if data.settings.frames != encoder.frames:
                    raise UserError(
                        f"data.frames is {data.settings.frames} and the encoder {name} takes "
                        f"{encoder.frames}: give --data.frames {encoder.frames}, and probe "
                        "encoders of different lengths one by one"
                    )
        self.cache = Path(self.features.cache or cache_folder() / "probe").expanduser()
        self.engine = make_trainer({"accelerator": "auto", **self.trainer})
        slow = self.engine.strategy.root_device.type == "cpu" and self.features.grid is None
        self.coarser = slow and "attentive" in self.settings.probes
        if self.coarser:
            self.features = replace(self.features, grid=ON_A_CPU)
        self.sources, self.twin_of = self._sources()

    def _sources(self) -> tuple[list[Source], dict[int, int]]:
        """Pretrained encoders, their untrained twins and the features made by hand."""
        sources = [Source(name, each, self.features) for name, each in self.encoders.items()]
        kinds = [json.dumps(each.config, sort_keys=True) for each in self.encoders.values()]
        several = len(set(kinds)) > 1
        twins: dict[str, int] = {}
        for (name, encoder), kind in zip(self.encoders.items(), kinds, strict=True):
            if kind not in twins:
                twins[kind] = len(sources)
                called = f"{UNTRAINED} ({name})" if several else UNTRAINED
                sources.append(Source(called, first_weights(encoder, self.seed), self.features))
        sources += [Source(name, None, self.features) for name in BASELINES]
        return sources, {number: twins[kind] for number, kind in enumerate(kinds)}

    def run(self, screen: Console, bars: Bars) -> dict[str, Any] | None:
        """Measure everything; None on the ranks that only helped with the features.

        Args:
            screen: where a person reads.
            bars: makes a progress bar.

        Raises:
            UserError: labels, splits or settings that no figure can come from.
        """
        started = time.monotonic()
        labels = [self._labels(data) for data in self.data]
        trainer = self.engine
        if self.coarser and trainer.is_global_zero:
            told = f"a CPU trains the attentive probes, on tokens averaged to {list(ON_A_CPU)}"
            screen.print(f"{told} at most; --features.grid gives other sizes", markup=False)
        tasks = [self._tasks(data, str(trainer.precision)) for data in self.data]
        self._enough_room(tasks)
        failed = self._extract(trainer, [task for pair in tasks for task in pair], bars)
        if not trainer.is_global_zero:
            return None
        between = time.monotonic()
        sets = [
            self._set(data, own, pair, trainer, bars)
            for data, own, pair in zip(self.data, labels, tasks, strict=True)
        ]
        return {
            "status": "finished",
            "sources": [source.name for source in self.sources],
            "encoders": list(self.encoders),
            "sets": sets,
            "unreadable": self._unreadable(failed),
            "seed": self.seed,
            "grid": self.features.grid,
            "features_seconds": between - started,
            "probes_seconds": time.monotonic() - between,
        }

    def _labels(self, data: VideoDataModule) -> list[LabelSet]:
        data.setup()
        refuse_shared(data)
        return label_sets(data, self.settings)

    def _tasks(self, data: VideoDataModule, precision: str) -> list[Task]:
        parts = {n: self.settings.parts(source) for n, source in enumerate(self.sources)}
        return [
            task_of(
                data.clips(split).evaluation(clips=self.features.clips),
                self.sources,
                parts,
                self.cache,
                precision,
            )
            for split in ("train", "val")
        ]

    def _enough_room(self, tasks: Sequence[Sequence[Task]]) -> None:
        for data, pair in zip(self.data, tasks, strict=True):
            size = sum(shelf.size for task in pair for shelf in task.shelves.values()) / 1e9
            if size > self.features.most_gb:
                raise UserError(
                    f"the features of {data.where} take {size:.0f} GB and features.most_gb is "
                    f"{self.features.most_gb:g}: raise it, give a coarser --features.grid, or "
                    "leave `attentive` out of probe.probes"
                )

    def _extract(self, trainer: Trainer, tasks: Sequence[Task], bars: Bars) -> dict[str, str]:
        """Fill the cache; afterwards no process group is left, so that rank 0 goes on alone."""
        with bars("features", "clips") as bar:
            told = bar if trainer.is_global_zero else None
            first = self.data[0]
            extractor = Extractor(
                self.sources, tasks, batch_size=first.batch_size, workers=first.workers, told=told
            )
            if extractor.complete and trainer.world_size == 1:
                return {}
            try:
                trainer.predict(extractor, return_predictions=False)
            except BaseException as error:
                extractor.abandon()
                if isinstance(error.__context__, KeyboardInterrupt):  # Lightning's exit(1) for it
                    raise KeyboardInterrupt from None
                raise
        part_ways()
        return extractor.failed

    def _set(
        self,
        data: VideoDataModule,
        labels: Sequence[LabelSet],
        tasks: Sequence[Task],
        trainer: Trainer,
        bars: Bars,
    ) -> dict[str, Any]:
        parts = [Part(task, task.clips.groups) for task in tasks]
        suite = Suite(
            self.sources,
            parts[0],
            parts[1],
            self.settings,
            self.attentive,
            self.cache,
            trainer.strategy.root_device,
        )
        tables = {}
        for each in labels:
            with _Rows(bars) as told:
                tables[each.label] = suite.measure(each, self.twin_of, told)
        return {"root": data.where, "labels": tables}

    def _unreadable(self, failed: Mapping[str, str]) -> list[list[str]]:
        """Files left out, with the reason: at the examination, or when they were read."""
        rows = {path: reason for data in self.data for path, reason in data.unreadable.rows()}
        return [[path, reason] for path, reason in sorted({**rows, **failed}.items())]


class _Rows:
    """A bar for each row of the table in turn."""

    def __init__(self, bars: Bars) -> None:
        self.bars = bars
        self._name = ""
        self._bar: AbstractContextManager[Shown] | None = None
        self._show: Shown | None = None

    def __enter__(self) -> _Rows:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.__exit__(None, None, None)

    def __call__(self, name: str, done: int, total: int) -> None:
        if name != self._name or self._show is None:
            self.__exit__()
            self._name, self._bar = name, self.bars(name, "steps")
            self._show = self._bar.__enter__()
        self._show(done, total)


def load_encoders(paths: Sequence[str]) -> dict[str, VideoEncoder]:
    """Encoders by a name that tells them apart: the last part of the path, or all of it.

    Raises:
        UserError: a path that holds no encoder, or one that is given twice.
    """
    short = [Path(path).resolve().name for path in paths]
    found: dict[str, VideoEncoder] = {}
    for path, name in zip(paths, short, strict=True):
        called = name if short.count(name) == 1 and name not in (UNTRAINED, *BASELINES) else path
        if called in found:
            raise UserError(f"the encoder {path} is given twice")
        found[called] = load_encoder(path)
    return found


def result_tables(summary: Mapping[str, Any]) -> list[Table]:
    """A table for each label of each set: probes down, representations across."""
    tables = []
    for part in summary["sets"]:
        for label, found in part["labels"].items():
            title = (
                f"{part['root']}, {label}: {found['train_videos']} videos for training, "
                f"{found['held_out_videos']} held out; in brackets the 95 % interval"
            )
            table = Table(title=title)
            table.add_column("probe")
            for name in summary["sources"]:
                table.add_column(name, justify="right")
            for probe, row in found["table"].items():
                cells = [told(row.get(name)) for name in summary["sources"]]
                table.add_row(called(probe, row), *cells)
            tables.append(table)
    return tables


def told(figures: Mapping[str, Any] | None) -> str:
    """A figure with its interval; a dash where this probe does not apply."""
    if figures is None:
        return "-"
    scale = 1.0 if figures["metric"] == "r2" else 100.0
    digits = 2 if scale == 1.0 else 1
    value, (low, high) = figures["value"], figures["interval"]
    return f"{scale * value:.{digits}f} ({scale * low:.{digits}f} to {scale * high:.{digits}f})"


def called(probe: str, row: Mapping[str, Any]) -> str:
    """The name of a row as a person would write it."""
    word, _, number = probe.rpartition("_")
    labelled = max((figures["labelled"] for figures in row.values()), default=0)
    names = {
        "linear": "linear",
        "linear_blocks": "linear, last blocks",
        "knn": "k nearest neighbours",
    }
    if probe in names:
        return names[probe]
    if word == "few":
        return f"linear, {number} % of the labels ({labelled})"
    return f"attentive, depth {number}" if number != "0" else "linear by gradient"
