"""What a study leaves: `table.csv`, `table.md`, `summary.json` and one self-contained page.

A table that needs no row is kept as `NAME.json` beside them, and measured once.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from html import escape
from io import StringIO
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from ..training.logs import read_metrics
from ..training.run import write_whole
from .album import load_album
from .bars import bar_chart
from .charts import Series, line_chart
from .measure import Beside, Column, Curve
from .measures import BESIDE, MEASURES
from .page import document, folded, note, paragraph, plate, section, table
from .study import PICTURES, Outcome, Study

VERDICT = "verdict"
REMARK = {
    "collapsed": ("bad", "Collapsed."),
    "watch": ("warn", "Watch."),
    "failed": ("bad", "Failed."),
}
REMARK |= {"healthy": ("good", "Healthy.")}


def columns_of(study: Study) -> list[Column]:
    """The columns of all measures of a study, each once."""
    found = {column.key: column for name in study.measures for column in MEASURES[name].columns}
    return list(found.values())


def write_study(study: Study, outcomes: Sequence[Outcome], folder: Path) -> None:
    """Write table, summary and page anew, from the outcomes so far."""
    columns = columns_of(study)
    write_whole(folder / "table.csv", csv_table(columns, outcomes))
    write_whole(folder / "table.md", markdown_table(study, columns, outcomes))
    write_whole(folder / "summary.json", json.dumps(summary(study, outcomes), indent=2) + "\n")
    write_whole(folder / "report.html", page(study, columns, outcomes, folder))


def csv_table(columns: Sequence[Column], outcomes: Sequence[Outcome]) -> str:
    """A line for each run: row, seed, state, every column, and what went wrong."""
    out = StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["row", "seed", "state", *(column.key for column in columns), "error"])
    for one in outcomes:
        cells = [one.figures.get(column.key, "") for column in columns]
        writer.writerow([one.row, one.seed, one.state, *cells, one.error])
    return out.getvalue()


def markdown_table(study: Study, columns: Sequence[Column], outcomes: Sequence[Outcome]) -> str:
    """A line for each row: mean over the seeds and their range, and the verdicts."""
    heads = ["row", *(column.heading for column in columns), VERDICT]
    lines = [_line(heads), _line(["---"] * len(heads))]
    for row in study.rows:
        own = [one for one in outcomes if one.row == row]
        cells = [_spread(column, values_of(column.key, own)) for column in columns]
        lines.append(_line([row, *cells, states(own)]))
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def values_of(key: str, outcomes: Sequence[Outcome]) -> list[float]:
    """The figure of each run that has it."""
    return [one.figures[key] for one in outcomes if key in one.figures]


def _spread(column: Column, values: Sequence[float]) -> str:
    """Mean, and from the lowest to the highest where there are several."""
    if not values:
        return "\N{EN DASH}"
    scaled = [column.factor * value for value in values]
    mean, low, high = (
        f"{value:.{column.digits}f}"
        for value in (sum(scaled) / len(scaled), min(scaled), max(scaled))
    )
    return f"{mean} ({low} to {high})" if len(scaled) > 1 else mean


def states(outcomes: Sequence[Outcome]) -> str:
    """What the runs of a row say of themselves: one word where they agree, else counts."""
    counts = Counter(one.state for one in outcomes)
    if not counts:
        return "not run"
    if len(counts) == 1:
        return next(iter(counts))
    return ", ".join(f"{state} {count}" for state, count in counts.most_common())


def summary(study: Study, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Every figure of every run, by row and seed."""
    rows: dict[str, Any] = {}
    for one in outcomes:
        told: dict[str, Any] = {"state": one.state}
        told |= {"error": one.error} if one.error else {"verdict": one.verdict}
        rows.setdefault(one.row, {})[str(one.seed)] = told | {"figures": one.figures}
    wanted = len(study.rows) * len(study.seeds)
    done = sum(not one.error for one in outcomes)
    head = {"study": study.name, "title": study.title, "seeds": list(study.seeds)}
    return head | {"finished": done, "wanted": wanted, "rows": rows}


def page(study: Study, columns: Sequence[Column], outcomes: Sequence[Outcome], folder: Path) -> str:
    """`report.html`."""
    wanted = len(study.rows) * len(study.seeds)
    done = sum(not one.error for one in outcomes)
    head = '<p class="kind">study</p>' + f"<h1>{escape(study.title)}</h1>"
    head += paragraph(study.about, "lead") if study.about else ""
    told = f"{done} of {wanted} runs are finished: {len(study.rows)} rows, seeds "
    head += paragraph(told + ", ".join(str(seed) for seed in study.seeds) + ".", "small")
    curves = [curve for name in study.measures for curve in MEASURES[name].curves]
    sections = [
        section("table", "Table", _table(study, columns, outcomes)),
        section("charts", "Figures", _charts(study, columns, outcomes)),
        *(_curves(study, curve, outcomes) for curve in curves),
        *_plates(study, outcomes),
        *_beside(study, folder),
        section("verdicts", "What the runs say of themselves", *_verdicts(outcomes)),
        section("settings", "Settings", *_settings(study)),
    ]
    return document(study.title, head, [part for part in sections if part], "jepa-video study")


def _table(study: Study, columns: Sequence[Column], outcomes: Sequence[Outcome]) -> str:
    rows = []
    for row in study.rows:
        own = [one for one in outcomes if one.row == row]
        cells = []
        for column in columns:
            mean, _, span = _spread(column, values_of(column.key, own)).partition(" ")
            small = f'<span class="small">{escape(span.strip("()"))}</span>' if span else ""
            cells.append(escape(mean) + small)
        rows.append([escape(row), *cells, escape(states(own))])
    told = "Mean over the seeds; below it the lowest and the highest."
    heads = ["row", *(column.heading for column in columns), VERDICT]
    return table(heads, rows) + paragraph(told, "small")


def _charts(study: Study, columns: Sequence[Column], outcomes: Sequence[Outcome]) -> str:
    """A bar for each row: the mean, with the seeds as dots on it."""
    figures = []
    for column in columns:
        rows: dict[str, list[float]] = {row: [] for row in study.rows}
        for one in outcomes:
            rows[one.row] += [column.factor * value for value in values_of(column.key, [one])]
        marks = []
        for key, word in column.beside:
            if others := values_of(key, outcomes):
                marks.append((word, column.factor * sum(others) / len(others)))
        if column.charted:
            figures.append(bar_chart(column.heading, rows, marks, column.note))
    return f'<div class="charts">{"".join(figures)}</div>'


def _curves(study: Study, curve: Curve, outcomes: Sequence[Outcome]) -> str:
    """A chart for each row with a line for each seed, all to one scale."""
    drawn: dict[str, list[Series]] = {}
    for one in outcomes:
        points = read_metrics(one.run.metrics).get(curve.key, []) if not one.error else []
        if points:
            steps, values = zip(*points, strict=True)
            drawn.setdefault(one.row, []).append(Series(f"seed {one.seed}", steps, values))
    top = max((v for lines in drawn.values() for line in lines for v in line.values), default=0.0)
    charts = "".join(
        line_chart(row, drawn[row], zero=True, top=top) for row in study.rows if row in drawn
    )
    name = curve.key.replace("/", "-")
    told = paragraph(curve.note) if curve.note else ""
    return section(name, curve.title, told, f'<div class="charts">{charts}</div>') if drawn else ""


def _plates(study: Study, outcomes: Sequence[Outcome]) -> list[str]:
    """The pictures that the measures drew, of the first seed of each row."""
    parts = []
    for one in outcomes:
        for name in study.measures:
            folder = one.run.path / PICTURES / name
            if one.seed != study.seeds[0] or not (folder / "album.json").is_file():
                continue
            shown = "".join(plate(folder, each) for each in load_album(folder))
            parts.append(section(f"{name}-{one.row}", f"{one.row}: pictures", shown))
    return parts


def _beside(study: Study, folder: Path) -> list[str]:
    """The tables that need no row, as far as they are measured."""
    found = [(name, beside_of(folder, name)) for name in study.beside]
    return [
        section(
            name,
            known.title,
            paragraph(known.about),
            table(known.heads, [[escape(cell) for cell in row] for row in known.rows]),
        )
        for name, known in found
        if known is not None
    ]


def beside_of(folder: Path, name: str) -> Beside | None:
    """A table that needs no row, as it was measured before; None where it was not."""
    try:
        return Beside(**json.loads((folder / f"{name}.json").read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def measure_beside(study: Study, folder: Path) -> None:
    """Measure the tables that need no row and are not measured yet."""
    for name in study.beside:
        if beside_of(folder, name) is None:
            told = json.dumps(asdict(BESIDE[name]()), indent=1) + "\n"
            write_whole(folder / f"{name}.json", told)


def _verdicts(outcomes: Sequence[Outcome]) -> list[str]:
    found = []
    for one in outcomes:
        kind, word = REMARK.get(one.state, ("plain", ""))
        text = one.error or one.verdict.partition(": ")[2]
        found.append(note(kind, f"{one.row}, seed {one.seed}: {word}", text))
    return [folded(f"{len(found)} runs, one sentence each", "".join(found))]


def _settings(study: Study) -> list[str]:
    """What the rows share and what each changes, as YAML."""
    base = f"<pre>{escape(_yaml(study.base))}</pre>" if study.base else ""
    rows = [[escape(row), f"<pre>{escape(_yaml(own))}</pre>"] for row, own in study.rows.items()]
    return [paragraph("All rows share:"), base, table(["row", "changes"], rows)]


def _yaml(options: dict[str, Any]) -> str:
    return str(yaml.safe_dump(options, sort_keys=False)).strip() if options else "nothing"
