"""What frozen features know about each label, beside what they have to beat.

Four views of the same clips: the pretrained encoder, the same encoder with the weights it started
from, thumbnails and histograms of the pixels, and a hand-made grid of frame differences. Each goes
through the same linear probe, fitted on the same few labels, and is judged on the same held-out
videos.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..data.datamodule import VideoDataModule
from ..data.transforms import centre
from ..errors import UserError
from ..models.encoder import VideoEncoder, build_encoder
from ..models.hierarchy import whole_clip
from .baselines import motion_grid, pixel_statistics
from .features import Features, extract
from .intervals import paired_difference
from .labels import Target
from .methods import knn_outcome, linear_outcome
from .scores import accuracy_interval, groups_of, hits_of, right_of

View = Callable[[Tensor], Tensor]
LEARNED = ("", "untrained")  # views that come from an encoder; the names are those of summary.json


@dataclass
class ProbeSettings:
    """How the frozen features are judged once the training is over.

    Args:
        label: the label of the headline; the first one (`direction` in the embedded set) if None.
        per_class: labelled training videos of each class; if None, 20 in the embedded set and all
            elsewhere.
        draws: how often these few are drawn anew; the figures are means over the draws.
        clips: clips of each video, whose features are averaged.
        most_videos: bound on the training and on the held-out videos; 0 leaves the probes out.
    """

    label: str | None = None
    per_class: int | None = None
    draws: int = 5
    clips: int = 1
    most_videos: int = 10_000

    def __post_init__(self) -> None:
        lowest = {"per_class": 1, "draws": 1, "clips": 1, "most_videos": 0}
        for name, low in lowest.items():
            value = getattr(self, name)
            if value is not None and value < low:
                raise UserError(f"probe.{name} must be {low} or more, not {value}")


def first_weights(encoder: VideoEncoder, seed: int) -> VideoEncoder:
    """The same encoder with the weights that a run of `seed` starts from, on the same device."""
    device = next(encoder.parameters()).device
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_encoder(encoder.config).to(device).eval()


def pooled(encoder: VideoEncoder) -> View:
    """The mean token of the evaluation view: `B T C H W` uint8 to `B D`."""

    def view(video: Tensor) -> Tensor:
        return whole_clip(encoder, centre(video, encoder.image)).float().mean(dim=1)

    return view


class Views:
    """Several views of a clip in one pass over the videos: decoding is what costs."""

    def __init__(self, views: dict[str, View]) -> None:
        self.views = views
        self.widths: list[int] = []

    def __call__(self, video: Tensor) -> Tensor:
        """`B T C H W` uint8 to all features side by side, `B D`."""
        parts = [view(video) for view in self.views.values()]
        self.widths = [part.shape[1] for part in parts]
        return torch.cat(parts, dim=1)

    def split(self, x: Tensor) -> dict[str, Tensor]:
        """The features `N D` of each view."""
        return dict(zip(self.views, torch.split(x, self.widths, dim=1), strict=True))


def primary_label(data: VideoDataModule, settings: ProbeSettings) -> str | None:
    """The label of the headline, or None without labels."""
    names = data.label_names
    if settings.label is not None:
        data.clips("train").column(settings.label)  # says which ones there are
        return settings.label
    if data.embedded and "direction" in names:
        return "direction"
    return names[0] if names else None


def probe_all(
    data: VideoDataModule,
    trained: VideoEncoder,
    untrained: VideoEncoder,
    settings: ProbeSettings,
    device: torch.device,
) -> tuple[dict[str, dict[str, Any]], Tensor]:
    """Probes of every label, and the pooled features of the held-out videos (`N D`)."""
    views = Views(
        {
            "": pooled(trained),
            "untrained": pooled(untrained),
            "pixels": pixel_statistics,
            "motion": motion_grid,
        }
    )
    held_out, videos = data.clips("val"), data.clips("train")
    chosen = thinned(range(len(held_out.paths)), settings.most_videos)
    test = extract(views, held_out.evaluation(chosen, settings.clips), device=device)
    picks = {label: label_draws(data, label, settings) for label in data.label_names}
    used = sorted({video for draws in picks.values() for few in draws for video in few})
    if not used:
        return {}, views.split(test.x)[""]
    train = extract(views, videos.evaluation(used, settings.clips), device=device)
    row_of = {used[number]: row for row, number in enumerate(train.index.tolist())}
    results = {}
    for column, label in enumerate(data.label_names):
        rows = [[row_of[video] for video in few if video in row_of] for few in picks[label]]
        several = all(len(set(train.labels[few, column].tolist())) > 1 for few in rows)
        if several and bool((test.labels[:, column] >= 0).any()):
            classes = len(data.classes[label])
            results[label] = probe_label(views, train, test, rows, column, classes)
    return results, views.split(test.x)[""]


def label_draws(data: VideoDataModule, label: str, settings: ProbeSettings) -> list[list[int]]:
    """The labelled training videos of each draw; a single draw where all labels are used."""
    per_class = settings.per_class
    if per_class is None and data.embedded:
        per_class = 20
    draws = settings.draws if per_class is not None else 1
    few = (data.clips("train").few(label, per_class, seed) for seed in range(draws))
    return [thinned(videos, settings.most_videos) for videos in few]


def thinned(numbers: Sequence[int], most: int) -> list[int]:
    """At most `most` of `numbers`, evenly spread."""
    count = min(len(numbers), most)
    return [numbers[i * len(numbers) // count] for i in range(count)]


def probe_label(
    views: Views,
    train: Features,
    test: Features,
    draws: Sequence[Sequence[int]],
    column: int,
    classes: int,
) -> dict[str, Any]:
    """One label: accuracies with intervals, and the gain over the untrained encoder.

    Each of `draws` names the rows of `train` that may be learned from; a held-out video counts as
    right to the share of draws in which it is. The interval is a bootstrap over groups where the
    set has groups, and Wilson's where clips are independent.
    """
    target = _target(train, column, classes)
    truth = _target(test, column, classes)
    groups = groups_of(test.groups, truth)
    row: dict[str, Any] = {"chance": 1 / classes, "videos": int(truth.known.sum())}
    row |= {"labelled": len(draws[0]), "draws": len(draws)}
    hits: dict[str, Tensor] = {}
    test_views = views.split(test.x)
    for name, x in views.split(train.x).items():
        ending = f"_{name}" if name else ""
        found = linear_outcome(x, target, test_views[name], draws, train.groups)
        hits[name] = hits_of(found, truth)
        told = accuracy_interval(hits[name], groups)
        row |= {f"probe_top1{ending}": told.value}
        row |= {f"probe_top1{ending}_interval": [told.low, told.high]}
        if name in LEARNED:
            votes = knn_outcome(x, target, test_views[name], draws)
            row[f"knn_top1{ending}"] = float(right_of(votes, truth).mean())
    gain = paired_difference(hits[""].tolist(), hits["untrained"].tolist(), groups)
    row |= {"probe_top1_gain": gain.value, "probe_top1_gain_interval": [gain.low, gain.high]}
    return row


def _target(features: Features, column: int, classes: int) -> Target:
    return Target("class", tuple(map(str, range(classes))), features.labels[:, column])
