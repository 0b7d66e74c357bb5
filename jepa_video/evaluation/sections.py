"""Sections that the pages of all kinds of run share: curves, pictures, data, config."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from html import escape
from pathlib import Path
from typing import Any

from .album import load_album
from .charts import MOST_LINES, Series, line_chart, number
from .page import folded, missing, note, paragraph, plate, section, table
from .runfiles import Column, RunFiles, finite
from .words import pretty, share

Sections = dict[str, tuple[str, Callable[[RunFiles], str]]]  # anchor: word of the contents, maker

SHOWN_UNREADABLE = 100
ZERO = (  # groups in whose charts 0 must be in sight
    *("energy_gap", "rankme", "std", "energy_over_copy", "read_error"),
    *("clips_per_second", "data_wait"),
)
UNDRAWN = ("epoch", "seconds", "unreadable")
BESIDE = {  # columns under the name by which a reader knows them
    "energy": "energy/training batches",
    "energy/held_out": "energy/held-out clips",
    "energy_of_mean": "energy/of the mean token",
}
CHART_TITLES = {
    "loss": "Loss",
    "val": "Held-out clips, every one of them",
    "energy": "Prediction energy E(x, y, z)",
    "reg": "Terms against collapse",
    "latent": "Latent z",
    "inverse": "Inverse model: error of the action between two states",
    "temporal": "Distance of neighbouring states",
    "read": "Readouts, which shape nothing: squared error",
    "energy_over_copy": "Error of the foretold state, standing still = 1",
    "read_error": "Distance of the state that is read off from the true one",
    "critic": "Critic: squared error of the cost to come",
    "policy": "Policy: its own loss",
    "cost": "Cost to come, of the best plans",
    "doubt": "Doubt: how far the critic's networks disagree",
    "lr": "Learning rate",
    "weight_decay": "Weight decay",
    "momentum": "Momentum of the EMA target",
    "std": "Standard deviation of the features",
    "rankme": "RankMe: directions that the features fill",
    "energy_gap": "Energy gap: shuffled minus true pairs",
    "energy_auc": "Chance that a true pair has the lower energy",
    "probe": "Online probe on held-out clips",
    "knn": "Online nearest-neighbour vote",
    "clips_per_second": "Clips a second",
    "data_wait": "Share of the time spent waiting for data",
}
CHART_NOTES = {
    "energy_gap": "The band is two standard errors. A flat energy has a gap of 0.",
    "rankme": "1 is total collapse.",
    "std": "0 is total collapse.",
    "energy_over_copy": "Held-out windows; a line for each number of steps ahead.",
    "read_error": "Held-out windows, in the state's own unit; now: off true states, else a line "
    "for each number of steps ahead.",
}
ABOUT_CURVES = (
    "A falling loss alone proves nothing: the lowest loss of all belongs to an encoder that "
    "answers the same to everything. Read it together with the next section."
)


def state_notes(files: RunFiles) -> list[str]:
    """Remarks on damaged files, and on a run that has not finished."""
    parts = [note("bad", "Damaged file.", problem) for problem in files.problems]
    if not files.finished:
        lack = "There is no summary.json: the" if files.summary is None else "The"
        text = f"{lack} run has not finished. Below is what it left so far."
        parts.append(note("warn", "Not finished.", text))
    return parts


def exact(value: Any, shown: str | None = None) -> str:
    """A number with its stored value behind what is shown; anything else as text."""
    if finite(value) is None:
        return escape(str(value))
    return f'<data value="{value!r}">{shown or number(float(value))}</data>'


def tiles(leaves: Mapping[str, Any], meaning: Mapping[str, str], shares: tuple[str, ...]) -> str:
    """The numbers a reader looks for first, each with what it means; those that are there.

    Args:
        leaves: the summary.
        meaning: words by name, in order.
        shares: endings of the names that are shown in percent.
    """
    told = []
    for name, words in meaning.items():
        value = finite(leaves.get(name))
        if value is not None:
            shown = exact(leaves[name], share(value) if name.endswith(shares) else None)
            told.append(f'<div class="tile"><b>{shown}</b><span>{escape(words)}</span></div>')
    return f'<div class="tiles">{"".join(told)}</div>' if told else ""


def every_number(leaves: Mapping[str, Any]) -> str:
    """The whole summary, on a click."""
    rows = [(escape(name), exact(value)) for name, value in sorted(leaves.items())]
    return folded("Every number of summary.json", table(("name", "value"), rows))


def charts_of(columns: Mapping[str, Column]) -> dict[str, list[Series]]:
    """Columns grouped by the word before the first `/`; `NAME_stderr` is the band of `NAME`."""
    groups: dict[str, list[Series]] = {}
    for name, column in columns.items():
        owner = name.removesuffix("_stderr")
        if (owner != name and owner in columns) or name in UNDRAWN:
            continue
        prefix, _, rest = BESIDE.get(name, name).partition("/")
        error = columns.get(f"{name}_stderr")
        band = [error.get(step, 0.0) for step in column] if error else None
        line = Series(rest or pretty(prefix), list(column), list(column.values()), band)
        groups.setdefault(prefix, []).append(line)
    return groups


def chart_grid(
    groups: Iterable[tuple[str, list[Series]]], titles: Mapping[str, str] = CHART_TITLES
) -> str:
    """A chart for each group, or several where it has many lines."""
    figures = []
    for prefix, lines in groups:
        title, remark = titles.get(prefix, pretty(prefix)), CHART_NOTES.get(prefix, "")
        zero = prefix in ZERO
        for start in range(0, len(lines), MOST_LINES):
            figures.append(line_chart(title, lines[start : start + MOST_LINES], remark, zero))
    return f'<div class="charts">{"".join(figures)}</div>'


def in_order(groups: Mapping[str, list[Series]]) -> list[tuple[str, list[Series]]]:
    """Known groups in the order of their titles, unknown ones after them."""
    known = [name for name in CHART_TITLES if name in groups]
    return [(name, groups[name]) for name in [*known, *(n for n in groups if n not in known)]]


def charts_section(
    files: RunFiles, about: str, elsewhere: tuple[str, ...] = (), counted: str = "Clips"
) -> str:
    """Loss, energy, terms, schedules, and how many of what is `counted` are done a second.

    Groups of columns that are shown `elsewhere` are left out.
    """
    groups = charts_of(files.metrics)
    shown = [(name, lines) for name, lines in in_order(groups) if name not in elsewhere]
    clocks = [(name, lines) for name, lines in in_order(charts_of(files.timings)) if name]
    parts = [
        paragraph(about),
        chart_grid(shown) if shown else missing("metrics.csv is missing or has no numbers yet."),
    ]
    if clocks:
        titles = CHART_TITLES | {"clips_per_second": f"{counted} a second"}
        parts += ["<h3>Speed</h3>", chart_grid(clocks, titles)]
    else:
        parts.append(missing("timings.csv is missing or has no numbers yet: no curves of speed."))
    return section("curves", "Curves", *parts)


def album(folder: Path) -> list[str]:
    """The plates of a picture pack, embedded, or what is wrong with it."""
    try:
        plates = load_album(folder)
    except FileNotFoundError:
        text = "No pictures yet: they are drawn with the trained model when the run ends."
        return [missing(text)]
    except (OSError, ValueError) as error:
        return [note("bad", "Damaged file.", str(error))]
    if not plates:
        return [missing("The picture pack is empty.")]
    return [plate(folder, shown) for shown in plates]


def data_section(files: RunFiles) -> str:
    """Which videos were left out, and why."""
    rows = files.unreadable
    if rows is None:
        text = "unreadable.csv is missing: the run ended before its videos were checked."
        return section("data", "Data health", missing(text))
    if not rows:
        return section("data", "Data health", note("good", "Every video", "was used."))
    text = f"{len(rows):,} were, for the reasons below, and no other took their place."
    parts = [note("warn", "Left out:", text)]
    reasons = Counter(row.get("reason", "no reason given") for row in rows)
    if 1 < len(reasons) < len(rows):
        counted = [(escape(reason), f"{count:,}") for reason, count in reasons.most_common(20)]
        parts.append(table(("reason", "videos"), counted))
    heads = list(rows[0])
    body = [[escape(row.get(head, "")) for head in heads] for row in rows[:SHOWN_UNREADABLE]]
    listed = table(heads, body, first_is_head=False)
    if len(rows) > SHOWN_UNREADABLE:
        listed += paragraph(f"The first {SHOWN_UNREADABLE}; all are in unreadable.csv.", "small")
    parts.append(listed if len(rows) <= 10 else folded("The list", listed))
    return section("data", "Data health", *parts)


def config_section(files: RunFiles) -> str:
    """The config, whole."""
    if files.config is None:
        return section("config", "Config", missing("config.yaml is missing."))
    text = "This is all that the run was told; with it and the same data the run can be repeated."
    shown = folded("config.yaml", f"<pre>{escape(files.config)}</pre>")
    return section("config", "Config", paragraph(text), shown)


def resume_lines(files: RunFiles) -> list[str]:
    """How a run goes on that has not come to its end."""
    text = "The run goes on from its newest checkpoint with"
    command = f"jepa-video {files.verb} --resume {files.name}"
    return [paragraph(text), f"<pre>{escape(command)}</pre>"]
