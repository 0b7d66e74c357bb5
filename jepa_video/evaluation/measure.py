"""What a study measures of a trained module, and how a measure is added.

A measure is a function `(module, data, device) -> dict[str, float]` with the headings of its
columns. To add one, write it in a module of its own and name it in `measures.py`:

    def figures(module: VideoJEPA, data: VideoDataModule, device: torch.device) -> Figures:
        return {"latent_bits": ..., "latent_auc": ...}

    LATENT = Measure((Column("latent_bits", "bits in z"), ...), figures)

    MEASURES = {"collapse": COLLAPSE, "latent": LATENT}        # in measures.py

A study's YAML then lists `measures: [latent]`. The module comes in evaluation mode on `device`,
`data` is set up, and nothing records a gradient unless the function asks for one. What it returns
is kept in the run's `summary.json` under `measured`, so that a finished row is not measured again.
A column may also name any figure that a run's `summary.json` has without it, nested names joined by
`/` (`probe_top1`, `labels/event/probe_top1`). What pictures `draw` writes into its folder stands on
the study's page, of the first seed of each row. A table that needs no trained module (`Beside`) is
a function without arguments, in `BESIDE` of `measures.py`; a study names it under `beside`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ..data.datamodule import VideoDataModule
from ..training.video_jepa import VideoJEPA
from .album import Plate

Figures = dict[str, float]
Draw = Callable[[VideoJEPA, VideoDataModule, torch.device, Path], list[Plate]]


@dataclass(frozen=True)
class Column:
    """A column of the table and a chart of the page.

    Args:
        key: of the figure, in what the measure returns or in the run's `summary.json`.
        heading: above the column, with the unit.
        factor: what the figure is multiplied by, 100 for shares.
        digits: after the point.
        note: what it is, in a sentence below the chart.
        beside: keys of figures that are drawn as a mark for comparison, with a word for each.
        charted: whether the page draws it.
    """

    key: str
    heading: str
    factor: float = 1.0
    digits: int = 2
    note: str = ""
    beside: tuple[tuple[str, str], ...] = ()
    charted: bool = True


@dataclass(frozen=True)
class Curve:
    """A column of `metrics.csv` that the page draws over the steps, a chart for each row."""

    key: str
    title: str
    note: str = ""


@dataclass(frozen=True)
class Beside:
    """A table that stands on the page beside the rows, and is measured without them.

    Args:
        title: of its section.
        about: how to read it, in words.
        heads: of its columns.
        rows: cells as text, the first of which names the row.
    """

    title: str
    about: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]


def nothing(module: VideoJEPA, data: VideoDataModule, device: torch.device) -> Figures:
    """For a measure whose columns are all in the run's own summary."""
    return {}


@dataclass(frozen=True)
class Measure:
    """Columns, the function that fills those that the run itself does not, curves and pictures.

    Args:
        columns: in the order of the table.
        figures: measures a trained module.
        curves: what is drawn over the steps.
        draw: writes pictures into a folder and says what they show.
    """

    columns: tuple[Column, ...]
    figures: Callable[[VideoJEPA, VideoDataModule, torch.device], Figures] = nothing
    curves: tuple[Curve, ...] = ()
    draw: Draw | None = None
