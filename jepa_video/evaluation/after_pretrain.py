"""What `pretrain` does after its last step: judge, export, draw, and say where things are."""

from __future__ import annotations

import sys
import time
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from ..data.datamodule import VideoDataModule
from ..energies.health import verdict
from ..energies.metrics import rankme
from ..errors import UserError
from ..interop.weights import save_encoder
from ..training.callbacks import HeldOut
from ..training.dashboard import vitals
from ..training.logs import read_metrics
from ..training.run import Run
from ..training.video_jepa import VideoJEPA
from .attempt import attempt
from .diagnostics import gap_figures
from .pictures import draw_pictures
from .probing import ProbeSettings, first_weights, primary_label, probe_all
from .report import write_report
from .rollout_pictures import draw_rollouts
from .rollouts import FOLDER
from .suite import refuse_shared

HEADLINE = ("probe_top1", "knn_top1", "chance")  # what the primary label lifts to the top


def conclude(
    run: Run,
    module: VideoJEPA,
    data: VideoDataModule,
    held_out: HeldOut,
    facts: dict[str, Any],
    settings: ProbeSettings,
    device: torch.device,
) -> dict[str, Any]:
    """Export the encoder, evaluate it, and write `summary.json`, pictures and `report.html`.

    Args:
        run: the folder.
        module: as it was trained.
        data: its data module.
        held_out: held-out clips for the energy gap.
        facts: what the training knows about itself (steps, seed, clips a second).
        settings: of the probes.
        device: where to compute.

    Returns:
        What `summary.json` holds.
    """
    module.to(device).eval()
    save_encoder(module.encoder, run.encoder)
    summary: dict[str, Any] = dict(facts)
    with torch.no_grad():
        summary |= _probes(module, data, settings, device, int(facts["seed"]))
        summary |= gap_figures(module, held_out.batches())
    summary["verdict"] = _verdict(run, summary, module.encoder.width)
    attempt("the rollouts", lambda: draw_rollouts(module, data, run.path / FOLDER))
    attempt("the pictures", lambda: draw_pictures(module, data, run.path / "pictures"))
    run.update_summary(**summary, status="finished")
    attempt("the report", lambda: write_report(run.path))
    return summary


def _probes(
    module: VideoJEPA,
    data: VideoDataModule,
    settings: ProbeSettings,
    device: torch.device,
    seed: int,
) -> dict[str, Any]:
    """Probes of all labels, with those of the primary label at the top, and RankMe."""
    try:
        data.clips("val")
    except UserError:
        return {}  # nothing is held out, so nothing can be judged
    if not settings.most_videos:
        return {}
    untrained = first_weights(module.encoder, seed)
    try:
        refuse_shared(data)
        labels, features = probe_all(data, module.encoder, untrained, settings, device)
    except UserError as error:  # a fault of the held-out videos is not worth the run
        print(f"no probes: {error}", file=sys.stderr)
        return {}
    result: dict[str, Any] = {"rankme": float(rankme(features)), "labels": labels}
    label = primary_label(data, settings)
    if label in labels:
        result["probe_label"] = label
        chosen = labels[label].items()
        result |= {key: value for key, value in chosen if key.startswith(HEADLINE)}
    return result


def _verdict(run: Run, summary: dict[str, Any], width: int) -> str:
    """The judgement of the end, beside the first figures that the run logged."""
    columns = {name: column for name, column in read_metrics(run.metrics).items() if column}
    first = {name: column[0][1] for name, column in columns.items()}
    now = {name: column[-1][1] for name, column in columns.items()}
    now |= {name: summary[name] for name in ("energy_gap", "energy_gap_stderr") if name in summary}
    if "energy" in summary:
        now["energy/held_out"] = summary["energy"]
    # Tokens that say where they are fill directions that clips do not.
    if "rankme" in summary:
        now["rankme/clips"] = summary["rankme"]
    for figures in (first, now):
        figures.pop("energy", None)  # of training batches; the held-out one is compared
    return str(verdict(vitals(now, width), vitals(first, width)))


def last_screen(run: Run, summary: dict[str, Any], screen: Console, started: float) -> None:
    """The result beside its baselines, where things are, and the lines that load the encoder."""
    screen.print()
    if summary.get("labels"):
        screen.print(result_table(summary))
    told = [f"{summary['steps']} steps in {(time.monotonic() - started) / 60:.1f} min"]
    if "energy_gap" in summary:
        sure = summary["energy_gap"] / max(summary["energy_gap_stderr"], 1e-12)
        told.append(f"energy gap {summary['energy_gap']:.3f} ({sure:.1f} standard errors)")
    if "rankme" in summary:
        told.append(f"RankMe {summary['rankme']:.1f}")
    told.append(f"{summary['clips_per_second']:.0f} clips/s")
    told.append(f"data wait {summary['data_wait']:.0%}")
    screen.print("  ".join(told))
    screen.print(summary["verdict"])
    screen.print(f"\nreport    {run.report}\nnumbers   {run.path / 'summary.json'}")
    screen.print(f"encoder   {run.encoder}\n")
    screen.print("  from jepa_video import load_encoder", markup=False)
    screen.print(f'  encoder = load_encoder("{run.path}")', markup=False)


def result_table(summary: dict[str, Any]) -> Table:
    """A row for each label: the linear probe on each view, and the gain with its interval."""
    table = Table(title="linear probe on frozen features, held-out videos (top-1, %)")
    for heading in ("label", "pretrained", "untrained", "pixels", "motion", "chance", "gain"):
        table.add_column(heading, justify="left" if heading == "label" else "right")
    for label, row in summary["labels"].items():
        low, high = row["probe_top1_gain_interval"]
        values = [row["probe_top1"], *(row[f"probe_top1_{v}"] for v in table_views())]
        gain = f"{100 * row['probe_top1_gain']:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"
        strong = label == summary.get("probe_label")
        cells = [f"{100 * value:.1f}" for value in [*values, row["chance"]]]
        table.add_row(label, *cells, gain, style="bold" if strong else None)
    return table


def table_views() -> tuple[str, ...]:
    """What stands beside the pretrained encoder."""
    return ("untrained", "pixels", "motion")
