"""What `world` does after its last step: judge, export the encoder, and say where things are."""

from __future__ import annotations

import shlex
import time
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from ..data.episode_module import EpisodeDataModule
from ..envs.registry import env_words
from ..interop.weights import save_encoder
from ..training.foresight import foresight
from ..training.run import Run
from ..training.world_model import WorldModel
from .attempt import attempt
from .report import write_report
from .world_pictures import FOLDER, draw_foresight

WINDOWS = 384  # held-out windows that are looked at
SHOWN = (1, 5, 10, 20, 40)  # horizons of the table


def conclude(
    run: Run,
    module: WorldModel,
    data: EpisodeDataModule,
    facts: dict[str, Any],
    device: torch.device,
) -> dict[str, Any]:
    """Measure on held-out windows, export the encoder, write `summary.json` and `report.html`."""
    save_encoder(module.encoder, run.encoder)
    batches = list(data.held_out(WINDOWS))
    told = dict(facts)
    if batches:
        found = foresight(module, batches, device)
        told |= found.figures()
        told["verdict"] = str(found.verdict())
        attempt(
            "the pictures",
            lambda: draw_foresight(module, batches, data.val, run.path / FOLDER),
        )
    summary = run.update_summary(**told, kind="world", status="finished")
    attempt("the report", lambda: write_report(run.path))
    return summary


def last_screen(run: Run, summary: dict[str, Any], screen: Console, started: float) -> None:
    """The result beside its baselines, where things are, and what comes next."""
    screen.print()
    if "energy_over_copy" in summary:
        screen.print(result_table(summary))
        told = [f"RankMe {summary['rankme']:.1f}", f"state std {summary['state_std']:.2f}"]
        if summary["reward_explained"] is not None:
            told.append(f"reward read off the state: {summary['reward_explained']:.0%}")
        screen.print("  ".join(told))
        screen.print(summary["verdict"])
    minutes = (time.monotonic() - started) / 60
    speed = f"{summary['windows_per_second']:.0f} windows/s, data wait {summary['data_wait']:.0%}"
    screen.print(f"{summary['steps']} steps in {minutes:.1f} min, {speed}")
    screen.print(f"\nreport    {run.report}\nnumbers   {run.path / 'summary.json'}")
    screen.print(f"model     {run.path / 'world'}\n")
    env, path = env_words(summary["env"], summary["settings"]), shlex.quote(str(run.path))
    line = f"  jepa-video agent eval {env} --policy mode2 --checkpoint {path}\n"
    screen.print(line, markup=False, soft_wrap=True)  # it can be copied
    screen.print("  from jepa_video import load_world", markup=False)
    screen.print(f'  world = load_world("{run.path}")', markup=False)


def result_table(summary: dict[str, Any]) -> Table:
    """Error against horizon, foretold and copied."""
    table = Table(title="the foretold future, held-out episodes", title_justify="left")
    horizons = [h for h in SHOWN if h <= len(summary["energy_over_copy"])]
    for heading in ("steps ahead", *map(str, horizons)):
        table.add_column(heading, justify="left" if heading == "steps ahead" else "right")
    rows = {"energy, copying the last state = 1": summary["energy_over_copy"]}
    if "read_error" in summary:
        floor = f"{summary['read_error']:.2f} off true states"
        rows[f"true state read off it, distance ({floor})"] = summary["read_error_foretold"]
        rows["the same, nothing moves"] = summary["read_error_copied"]
    for name, values in rows.items():
        table.add_row(name, *(f"{values[h - 1]:.3g}" for h in horizons))
    return table
