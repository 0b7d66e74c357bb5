"""`probe.html`: tables, bars with intervals and confusion matrices, one file without a script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, Final

from ..training.run import write_whole
from .charts import bar
from .page import document, folded, note, paragraph, section, table
from .probe_run import called, told
from .words import points

PAGE: Final = "probe.html"
METRICS: Final = {
    "top1": "Share of right answers (top-1), %.",
    "mAP": "Mean average precision over the labels, %.",
    "r2": "R2: 1 is right, 0 is as good as the mean.",
}
MOST_CLASSES: Final = 60  # of a confusion matrix that can still be read
CELL: Final = 16


def write_page(folder: Path, summary: Mapping[str, Any]) -> Path:
    """Write `probe.html` into `folder` and return its path."""
    parts = [
        _label_section(number, part["root"], label, found, summary)
        for number, part in enumerate(summary["sets"])
        for label, found in part["labels"].items()
    ]
    names = ", ".join(summary["encoders"])
    head = (
        '<p class="kind">jepa_video, probes of frozen encoders</p>'
        f"<h1>{escape(names)}</h1>"
        f'<p class="facts">features {summary["features_seconds"]:.0f} s, probes '
        f"{summary['probes_seconds']:.0f} s</p>"
    )
    foot = "Written by jepa_video. The page is one file and asks the network for nothing."
    path = folder / PAGE
    write_whole(path, document(f"{names} - probes", head, [*parts, _unreadable(summary)], foot))
    return path


def _label_section(
    number: int, root: str, label: str, found: Mapping[str, Any], summary: Mapping[str, Any]
) -> str:
    sources, rows = summary["sources"], found["table"]
    metric = next(iter(next(iter(rows.values())).values()))["metric"]
    body = [
        (escape(called(probe, row)), *(_cell(row.get(name), row, i) for i, name in _on(sources)))
        for probe, row in rows.items()
    ]
    how = "a bootstrap over groups" if found["groups"] else "Wilson's or a bootstrap over videos"
    legend = (
        f"{METRICS[metric]} Guessing reaches {told_share(found['chance'], metric)}. In brackets "
        f"the 95 % interval, {how}; below it the gain over the same encoder untrained. "
        "Hyper-parameters were chosen on folds of the training videos."
    )
    facts = (
        f"{found['train_videos']} videos for training, {found['held_out_videos']} held out"
        + (f" in {found['groups']} groups" if found["groups"] else "")
        + f"; {len(found['names'])} {'classes' if found['kind'] == 'class' else 'outputs'}."
    )
    return section(
        f"set{number}-{label}",
        f"{label} of {root}",
        paragraph(facts, "facts"),
        table(("probe", *sources), body),
        paragraph(legend, "small"),
        *_confusions(found, summary["encoders"]),
    )


def _on(sources: Sequence[str]) -> list[tuple[int, str]]:
    return list(enumerate(sources))


def told_share(value: float, metric: str) -> str:
    """A share in percent; R2 as it is."""
    return f"{value:.2f}" if metric == "r2" else f"{100 * value:.1f} %"


def _cell(figures: Mapping[str, Any] | None, row: Mapping[str, Any], shade: int) -> str:
    if figures is None:
        return "<td>\N{EN DASH}</td>"
    best = figures["value"] == max(other["value"] for other in row.values())
    low, high = figures["interval"]
    shown = f'<data value="{figures["value"]!r}">{told(figures)}</data>'
    lines = [shown, bar(max(0.0, figures["value"]), (max(0.0, low), max(0.0, high)), shade % 6)]
    if "top5" in figures:
        lines.append(f'<span class="small">top-5 {100 * figures["top5"]:.1f}</span>')
    if "mean_absolute_error" in figures:
        error = figures["mean_absolute_error"]
        lines.append(f'<span class="small">mean absolute error {error:.3g}</span>')
    if "gain" in figures:
        ends = " to ".join(points(end) for end in figures["gain_interval"])
        told_gain = f"gain {points(figures['gain'])} ({ends})"
        lines.append(f'<span class="small">{told_gain}</span>')
    shade_of = ' class="best"' if best else ""
    return f"<td{shade_of}>{''.join(lines)}</td>"


def _confusions(found: Mapping[str, Any], encoders: Sequence[str]) -> list[str]:
    """The matrix of each encoder under its first probe in sight, those of the others on a click."""
    names = found["names"]
    if found["kind"] != "class" or len(names) > MOST_CLASSES:
        return []
    shown: list[str] = []
    hidden: list[str] = []
    for number, (probe, row) in enumerate(found["table"].items()):
        for name in encoders:
            if name in row:
                title = f"{name}, {called(probe, row)}: what is (rows) and what was answered"
                (hidden if number else shown).append(matrix(title, names, row[name]["confusion"]))
    parts = [f'<div class="charts">{"".join(shown)}</div>']
    more = f'<div class="charts">{"".join(hidden)}</div>'
    return [*parts, folded("Confusion under the other probes", more)] if hidden else parts


def matrix(title: str, names: Sequence[str], counts: Sequence[Sequence[float]]) -> str:
    """A confusion matrix as SVG: the darker, the larger the part of the row; values on hover."""
    size = len(names)
    left = 8 + 6 * min(22, max(map(len, names)))
    cells = []
    for i, row in enumerate(counts):
        total = sum(row)
        y = 4 + i * CELL
        cells.append(f'<text class="y" x="{left - 4}" y="{y + 12}">{escape(names[i][:22])}</text>')
        for j, count in enumerate(row):
            share = count / total if total else 0.0
            tip = f"{escape(names[i])} called {escape(names[j])}: {count:.4g} of {total:.4g}"
            kind = "s2" if i == j else "s1"
            place = f'x="{left + j * CELL}" y="{y}" width="{CELL - 1}" height="{CELL - 1}"'
            cells.append(
                f'<rect class="track" {place}/><rect class="bar {kind}" {place} '
                f'fill-opacity="{share:.3f}"><title>{tip}</title></rect>'
            )
    box = f"0 0 {left + size * CELL + 4} {size * CELL + 8}"
    right = sum(counts[i][i] for i in range(size)) / max(1e-9, sum(map(sum, counts)))
    label = escape(f"{title}; {100 * right:.1f} % lie on the diagonal")
    svg = f'<svg viewBox="{box}" role="img" aria-label="{label}">{"".join(cells)}</svg>'
    return f'<figure class="chart"><figcaption>{escape(title)}</figcaption>{svg}</figure>'


def _unreadable(summary: Mapping[str, Any]) -> str:
    rows = summary["unreadable"]
    if not rows:
        told_all = note("good", "Every video", "could be read.")
        return section("data", "Data health", told_all)
    text = f"{len(rows):,} could not be read. They were left out, and no other took their place."
    listed = [[escape(cell) for cell in row] for row in rows[:100]]
    parts = [note("warn", "Unreadable videos.", text), table(("path", "reason"), listed)]
    return section("data", "Data health", *parts)
