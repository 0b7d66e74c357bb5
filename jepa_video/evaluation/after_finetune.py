"""What `finetune` says at its end: the tuned classifier beside frozen features and chance.

Shapes: `N` training videos, `M` held-out videos, `D` width, `K` classes.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from ..data.datamodule import VideoDataModule
from ..errors import UserError
from ..interop.weights import save_encoder
from ..models.encoder import VideoEncoder
from ..training.finetune import FineTune
from ..training.run import Run
from .features import extract
from .intervals import paired_difference
from .labels import Target
from .probes import LinearFit, fit_linear
from .probing import Views, pooled
from .report import write_report
from .scores import Groups, accuracy_interval, groups_of

ENDINGS = {"pretrained": "", "untrained": "_untrained"}  # of keys of summary.json


@dataclass(frozen=True)
class Frozen:
    """A linear probe on the frozen features of one encoder.

    Attributes:
        fit: the probe.
        hits: 1 for each labelled held-out video that is right, float64 `M`.
    """

    fit: LinearFit
    hits: Tensor

    def start(self, classes: int) -> tuple[Tensor, Tensor]:
        """The probe as a map of raw features, `D K` and `K`; a class without an example is last."""
        model = self.fit.model
        weight = model.weight / model.scale[:, None]
        bias = model.bias - model.mean @ weight
        more = classes - len(bias)
        lowest = bias.min().expand(more) - 5.0
        return torch.cat([weight, weight.new_zeros(len(weight), more)], 1), torch.cat(
            [bias, lowest]
        )


@dataclass(frozen=True)
class HeldOutLabels:
    """The labelled held-out videos: their classes, and the groups that an interval draws."""

    target: Target
    groups: Groups


def frozen_probes(
    encoders: Mapping[str, VideoEncoder],
    data: VideoDataModule,
    label: str,
    clips: int,
    device: torch.device,
) -> tuple[dict[str, Frozen], HeldOutLabels]:
    """A linear probe on each encoder's mean token, cross-validated on the training videos.

    Args:
        encoders: by name, in evaluation mode.
        data: with the videos that have the label.
        label: the column.
        clips: of each video, whose features are averaged.
        device: where to compute.

    Raises:
        UserError: no held-out video has the label.
    """
    views = Views({name: pooled(one.to(device)) for name, one in encoders.items()})
    train = extract(views, data.clips("train").evaluation(None, clips), device=device)
    train_x = views.split(train.x)
    test = extract(views, data.clips("val").evaluation(None, clips), device=device)
    test_x = views.split(test.x)
    names = tuple(data.classes[label])
    truth = Target("class", names, test.labels[:, 0])
    if not bool(truth.known.any()):
        raise UserError(f"no held-out video of {data.where} has the label {label!r}")
    present = names[: int(train.labels.max()) + 1]
    found = {}
    for name, x in train_x.items():
        fit = fit_linear(x, Target("class", present, train.labels[:, 0]), groups=train.groups)
        found[name] = Frozen(fit, _hits(fit.model.logits(test_x[name]), truth))
    return found, HeldOutLabels(truth, groups_of(test.groups, truth))


def _hits(logits: Tensor, truth: Target) -> Tensor:
    return (logits.argmax(1) == truth.y)[truth.known].double()


def tuned_hits(
    module: FineTune, data: VideoDataModule, clips: int, device: torch.device, truth: Target
) -> Tensor:
    """Which labelled held-out videos a tuned classifier has right: float64 `M`.

    The probabilities of a video's clips are averaged.
    """
    module.to(device).eval()
    videos = data.clips("val").evaluation(None, clips)
    answers = extract(lambda video: module.classify(video).softmax(1), videos, device=device)
    return _hits(answers.x, truth)


def conclude(
    run: Run,
    modules: Mapping[str, FineTune],
    frozen: Mapping[str, Frozen],
    known: HeldOutLabels,
    data: VideoDataModule,
    facts: dict[str, Any],
    clips: int,
    device: torch.device,
) -> dict[str, Any]:
    """Judge, export the tuned encoder, and write `summary.json` and `report.html`.

    Args:
        run: the folder.
        modules: as they were trained: `pretrained`, and `untrained` where that was asked for.
        frozen: probes by the same names.
        known: labels of the held-out videos.
        data: the videos.
        facts: what the training knows about itself, `label` among it.
        clips: of each held-out video.
        device: where to compute.

    Returns:
        What `summary.json` holds.
    """
    label, names = facts["label"], known.target.names
    summary = dict(facts) | {"chance": 1 / len(names), "held_out": int(known.target.known.sum())}
    hits = {}
    for name, module in modules.items():
        hits[name] = tuned_hits(module, data, clips, device, known.target)
        summary |= _told(f"finetune_top1{ENDINGS[name]}", hits[name], known.groups)
    for name, probe in frozen.items():
        summary |= _told(f"probe_top1{ENDINGS[name]}", probe.hits, known.groups)
    rivals = {"probe": frozen["pretrained"].hits}
    rivals |= {"untrained": hits["untrained"]} if "untrained" in hits else {}
    for name, others in rivals.items():
        gain = paired_difference(hits["pretrained"].tolist(), others.tolist(), known.groups)
        summary |= {f"gain_over_{name}": gain.value}
        summary |= {f"gain_over_{name}_interval": [gain.low, gain.high]}
    tuned = modules["pretrained"].tuned()
    save_encoder(tuned, run.encoder, {"finetuned": {"label": label, "classes": list(names)}})
    run.update_summary(**summary, status="finished")
    write_report(run.path)
    return summary


def _told(name: str, hits: Tensor, groups: Groups) -> dict[str, Any]:
    found = accuracy_interval(hits, groups)
    return {name: found.value, f"{name}_interval": [found.low, found.high]}


ROWS = {
    "finetune_top1": "fine-tuned from the pretrained encoder",
    "finetune_top1_untrained": "fine-tuned from random weights",
    "probe_top1": "linear probe on the frozen encoder",
    "probe_top1_untrained": "linear probe on random weights",
}


def last_screen(run: Run, summary: dict[str, Any], screen: Console, started: float) -> None:
    """The result beside its baselines, where things are, and the lines that load the encoder."""
    screen.print()
    screen.print(result_table(summary))
    told = [f"{summary['steps']} steps in {(time.monotonic() - started) / 60:.1f} min"]
    told.append(f"{summary['clips_per_second']:.0f} clips/s")
    told.append(f"data wait {summary['data_wait']:.0%}")
    screen.print("  ".join(told))
    for name, words in (("probe", "the frozen probe"), ("untrained", "random weights")):
        if f"gain_over_{name}" in summary:
            low, high = summary[f"gain_over_{name}_interval"]
            gain = f"{100 * summary[f'gain_over_{name}']:+.1f}"
            screen.print(f"gain over {words}: {gain} ({100 * low:+.1f} to {100 * high:+.1f})")
    screen.print(f"\nreport    {run.report}\nnumbers   {run.path / 'summary.json'}")
    screen.print(f"encoder   {run.encoder}\n")
    screen.print("  from jepa_video import load_encoder", markup=False)
    screen.print(f'  encoder = load_encoder("{run.path}")', markup=False)


def result_table(summary: Mapping[str, Any]) -> Table:
    """A row for each way to the label, with its 95 % interval."""
    title = f"{summary['label']}: {summary['held_out']} held-out videos (top-1, %)"
    table = Table(title=title)
    for heading in ("", "right", "95 % interval"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, words in ROWS.items():
        if name in summary:
            low, high = summary[f"{name}_interval"]
            shown = f"{100 * summary[name]:.1f}", f"{100 * low:.1f} to {100 * high:.1f}"
            table.add_row(words, *shown, style="bold" if name == "finetune_top1" else None)
    table.add_row("chance", f"{100 * summary['chance']:.1f}", "")
    return table
