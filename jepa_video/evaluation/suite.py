"""Every probe of every representation on every label of a set: what `jepa-video probe` measures.

Hyper-parameters are chosen within the training videos, by folds that keep groups together; the
held-out videos are looked at once. What was fitted before with the same features, labels and
settings is read from the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import torch
from torch import Tensor

from ..data.clips import VideoClips
from ..data.datamodule import VideoDataModule
from ..errors import UserError
from .cache import VERSION, Array, digest, load_outcome, save_outcome
from .extraction import Source, Task
from .heads_grid import AttentiveSettings, Tokens, attentive_probe
from .labels import Kind, Target, kind_of, target_of
from .methods import knn_outcome, linear_outcome
from .scores import Groups, Outcome, gain, groups_of, judge

Probe = Literal["linear", "blocks", "attentive", "knn", "few"]
PROBES: Final[tuple[Probe, ...]] = ("linear", "blocks", "attentive", "knn", "few")
UNTRAINED: Final = "untrained"
Told = Callable[[str, int, int], None]


@dataclass
class SuiteSettings:
    """Which probes are asked, and how.

    Args:
        probes: `linear` on mean tokens, `blocks` on the mean tokens of the last blocks side by
            side, `attentive`, `knn`, and `few`: linear on a few labels.
        kinds: of label columns whose values leave it open: `class`, `multi` or `number`.
        shares: percentages of the labels for `few`.
        draws: how often these few are drawn anew.
        seeds: heads of an attentive probe, each with first weights of its own.
        k: neighbours that vote.
    """

    probes: list[Probe] = field(default_factory=lambda: list(PROBES))
    kinds: dict[str, Kind] = field(default_factory=dict)
    shares: list[float] = field(default_factory=lambda: [1.0, 5.0, 10.0])
    draws: int = 5
    seeds: int = 3
    k: int = 20

    def __post_init__(self) -> None:
        for name in ("draws", "seeds", "k"):
            if getattr(self, name) < 1:
                raise UserError(f"probe.{name} must be 1 or more, not {getattr(self, name)}")
        if any(not 0 < share <= 100 for share in self.shares):
            raise UserError(f"probe.shares must be percentages above 0, not {self.shares}")
        if not self.probes:
            raise UserError(f"probe.probes must name one of {', '.join(PROBES)}")

    def parts(self, source: Source) -> list[str]:
        """The features that these probes need of a source."""
        parts = ["mean"] if {"linear", "knn", "few"} & set(self.probes) else []
        if source.encoder is not None:
            parts += ["blocks"] * ("blocks" in self.probes)
            parts += ["tokens"] * ("attentive" in self.probes)
        return parts


@dataclass(frozen=True)
class LabelSet:
    """One label column of a set, with its training and its held-out videos."""

    name: str
    label: str
    train: Target
    test: Target


def refuse_shared(data: VideoDataModule) -> None:
    """A held-out video must share neither file nor group with the training videos.

    Raises:
        UserError: one does.
    """
    train, test = data.clips("train"), data.clips("val")
    if both := set(train.paths) & set(test.paths):
        raise UserError(
            f"{data.where}: {_counted(both, 'video')} in the training and in the validation part; "
            "no figure on them would mean anything"
        )
    if train.groups is None or test.groups is None:
        return
    if both := (set(train.groups) & set(test.groups)) - {""}:
        raise UserError(
            f"{data.where}: {_counted(both, 'group')} in the training and in the validation part; "
            "a probe would be judged on people or scenes that it has seen: split by group"
        )


def _counted(names: set[str], what: str) -> str:
    several = f"{len(names)} {what}s are" if len(names) > 1 else f"one {what} is"
    return f"{several} (such as {min(names)!r})"


def label_sets(data: VideoDataModule, settings: SuiteSettings) -> list[LabelSet]:
    """The label columns of a set.

    Raises:
        UserError: there are none, one has a single class, or nothing of it is held out.
    """
    train, test = data.clips("train"), data.clips("val")
    if not data.label_names:
        raise UserError(f"{data.where} has no labels: a probe needs a manifest with a label column")
    if strange := settings.kinds.keys() - set(data.label_names):
        there = ", ".join(data.label_names)
        raise UserError(f"probe.kinds names {min(strange)!r}; the labels are {there}")
    return [
        _label_set(data.where, label, data.classes[label], column, train, test, settings)
        for column, label in enumerate(data.label_names)
    ]


def _label_set(
    root: str,
    label: str,
    values: Sequence[str],
    column: int,
    train: VideoClips,
    test: VideoClips,
    settings: SuiteSettings,
) -> LabelSet:
    kind = settings.kinds.get(label) or kind_of(values)
    parts = [target_of(v.targets[:, column], values, kind, label) for v in (train, test)]
    for part, what in zip(parts, ("training", "held-out"), strict=True):
        if not bool(part.known.any()):
            raise UserError(f"no {what} video of {root} has the label {label!r}")
    known = parts[0].rows(parts[0].known.nonzero()[:, 0])
    if bool((known.y == known.y[0]).all()):
        raise UserError(
            f"all training videos of {root} have the same {label!r}: a probe needs two classes or "
            "more (--data.labels chooses among the columns)"
        )
    return LabelSet(root, label, *parts)


class _Rows:
    """Some rows of mapped tokens `NC V T D` (clips and crops) as videos and views `N V T D`."""

    def __init__(self, array: Array, videos: Tensor, clips: int) -> None:
        self.array = array.reshape(-1, clips * array.shape[1], *array.shape[2:])
        self.videos = videos.numpy()

    @property
    def shape(self) -> tuple[int, ...]:
        """`N V T D`."""
        return (len(self.videos), *self.array.shape[1:])

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, key: Any) -> Any:
        rows, rest = (key[0], key[1:]) if isinstance(key, tuple) else (key, ())
        return self.array[(self.videos[rows], *rest)]


@dataclass(frozen=True)
class Part:
    """One split of a set: its shelves, and the videos of which every clip could be read."""

    task: Task
    groups: Sequence[str] | None

    @property
    def clips(self) -> int:
        """Clips of a video."""
        return self.task.clips.clips or 1

    def read(self) -> Tensor:
        """Numbers of the videos that could be read."""
        first = next(iter(self.task.shelves.values()))
        good = torch.from_numpy(np.array(first.load()[1])).view(-1, self.clips).all(1)
        return good.nonzero()[:, 0]

    def key(self, source: int, part: str) -> str:
        """Of the features."""
        return self.task.shelves[source, part].key

    def mean(self, source: int, part: str, videos: Tensor) -> Tensor:
        """Features `N D`, averaged over clips and crops."""
        array = self.task.shelves[source, part].load()[0]
        views = array.reshape(-1, self.clips * array.shape[1], array.shape[2])
        return torch.from_numpy(np.asarray(views.mean(1)))[videos]

    def tokens(self, source: int, videos: Tensor) -> Tokens:
        """Tokens `N V T D`, mapped."""
        return _Rows(self.task.shelves[source, "tokens"].load()[0], videos, self.clips)


@dataclass(frozen=True)
class Asked:
    """One row of the table: a probe by name, its features, and how it is fitted."""

    name: str
    part: str
    depth: int = 0
    share: float = 100.0


def rows_asked(settings: SuiteSettings, attentive: AttentiveSettings) -> list[Asked]:
    """The rows of the table, in its order."""
    rows = {
        "linear": [Asked("linear", "mean")],
        "blocks": [Asked("linear_blocks", "blocks")],
        "attentive": [Asked(f"attentive_{d}", "tokens", depth=d) for d in attentive.depths],
        "knn": [Asked("knn", "mean")],
        "few": [Asked(f"few_{share:g}", "mean", share=share) for share in settings.shares],
    }
    return [row for probe in PROBES if probe in settings.probes for row in rows[probe]]


@dataclass(frozen=True)
class Suite:
    """All that is needed to ask the probes of one set.

    Attributes:
        sources: representations.
        train, test: the two parts of the set.
        settings, attentive: of the probes.
        root: the cache.
        device: where attentive probes are trained.
    """

    sources: Sequence[Source]
    train: Part
    test: Part
    settings: SuiteSettings
    attentive: AttentiveSettings
    root: Path
    device: torch.device

    def measure(self, labels: LabelSet, twin_of: Mapping[int, int], told: Told) -> dict[str, Any]:
        """The table of one label: figures by probe and source.

        Args:
            labels: the label.
            twin_of: for each pretrained source, the same encoder untrained.
            told: called with the row, and steps done and to do.
        """
        rows = [part.read() for part in (self.train, self.test)]
        parts = (labels.train.rows(rows[0]), labels.test.rows(rows[1]))
        kept = [rows[i][parts[i].known] for i in range(2)]
        train = labels.train.rows(kept[0])
        test = labels.test.rows(kept[1])
        groups = groups_of(_some(self.test.groups, kept[1]), test)
        table: dict[str, Any] = {}
        for asked in rows_asked(self.settings, self.attentive):
            outcomes = dict(self._outcomes(asked, train, kept, told))
            row = {self.sources[n].name: judge(o, test, groups) for n, o in outcomes.items()}
            for number, outcome in outcomes.items():
                figures = row[self.sources[number].name]
                figures |= {"labelled": outcome.labelled, "chosen": outcome.chosen}
                if number in twin_of:
                    figures |= _gain(outcome, outcomes[twin_of[number]], test, groups)
            table[asked.name] = row
        return {"kind": train.kind, "names": list(train.names), "table": table} | {
            "train_videos": len(kept[0]), "held_out_videos": len(kept[1]),
            "groups": None if groups is None else len(set(groups)), "chance": chance(train, test),
        }  # fmt: skip

    def _outcomes(
        self, asked: Asked, train: Target, kept: Sequence[Tensor], told: Told
    ) -> Iterator[tuple[int, Outcome]]:
        for number, source in enumerate(self.sources):
            if (number, asked.part) not in self.train.task.shelves:
                continue
            key = self._key(asked, number, train, kept)
            outcome = load_outcome(self.root, key)
            if outcome is None:
                told(f"{asked.name}, {source.name}", 0, 1)
                outcome = self._fit(asked, number, train, kept, told)
                save_outcome(self.root, key, outcome)
            yield number, outcome

    def _key(self, asked: Asked, source: int, train: Target, kept: Sequence[Tensor]) -> str:
        """What decides the answers of a fit."""
        features = [part.key(source, asked.part) for part in (self.train, self.test)]
        plain: list[Any] = [VERSION, asdict(asked), features, train.kind, train.names]
        plain.append(_some(self.train.groups, kept[0]))
        if asked.name == "knn":
            plain.append(self.settings.k)
        elif asked.part == "tokens":
            plain += [self.settings.seeds, asdict(self.attentive) | {"depths": None}]
        elif asked.share < 100:
            plain.append(self.settings.draws)
        return digest(*plain, train.y, *kept)

    def _fit(
        self, asked: Asked, source: int, train: Target, kept: Sequence[Tensor], told: Told
    ) -> Outcome:
        groups = _some(self.train.groups, kept[0])
        if asked.part == "tokens":
            tokens = [
                p.tokens(source, v) for p, v in zip((self.train, self.test), kept, strict=True)
            ]
            name = f"{asked.name}, {self.sources[source].name}"
            return attentive_probe(
                tokens[0],
                train,
                tokens[1],
                depth=asked.depth,
                seeds=self.settings.seeds,
                settings=self.attentive,
                groups=groups,
                device=self.device,
                told=lambda done, total: told(name, done, total),
            )
        x = self.train.mean(source, asked.part, kept[0])
        test = self.test.mean(source, asked.part, kept[1])
        if asked.name == "knn":
            return knn_outcome(x, train, test, [range(len(x))], self.settings.k)
        draws: list[Sequence[int]] = [range(len(x))]
        if asked.share < 100:
            draws = [train.few(asked.share / 100, seed) for seed in range(self.settings.draws)]
        return linear_outcome(x, train, test, draws, groups)


def _some(names: Sequence[str] | None, index: Tensor) -> list[str] | None:
    return None if names is None else [names[i] for i in index.tolist()]


def _gain(ours: Outcome, theirs: Outcome, test: Target, groups: Groups) -> dict[str, Any]:
    found = gain(ours, theirs, test, groups)
    return {"gain": found.value, "gain_interval": [found.low, found.high]}


def chance(train: Target, test: Target) -> float:
    """What an answer that does not look reaches: one class in K, the mAP of ties, R2 of a mean."""
    if train.kind == "class":
        return 1 / len(train.names)
    return float(test.y[:, test.y.sum(0) > 0].mean()) if train.kind == "multi" else 0.0
