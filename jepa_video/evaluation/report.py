"""One page about a run: `report.html`, self-contained, from what lies in the run folder."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from html import escape
from pathlib import Path
from typing import Any

from ..training.run import write_whole
from .album import load_album
from .charts import MOST_LINES, Series, bar, line_chart, number
from .page import document, folded, missing, note, paragraph, plate, section, table
from .rollouts_section import rollouts_section
from .runfiles import Column, RunFiles, baselines, finite, flat, interval, read_run
from .words import collapse_remark, final_remark, headline, points, pretty, share, who_is

REPORT = "report.html"
DASHBOARD = ("energy_gap", "energy_auc", "rankme", "std", "lidar", "collapse")
SHOWN_UNREADABLE = 100
CLOCKS = ("clips_per_second", "data_wait")
UNDRAWN = ("epoch", "seconds", "unreadable")
NOTHING = "<td>\N{EN DASH}</td>"
BESIDE = {  # columns under the name by which a reader knows them
    "energy": "energy/training batches",
    "energy/held_out": "energy/held-out clips",
    "energy_of_mean": "energy/of the mean token",
}
FIRST = ("", "untrained", "pixels")  # representations, in the order of the table

CHART_TITLES = {
    "loss": "Loss",
    "val": "Held-out clips, every one of them",
    "energy": "Prediction energy E(x, y, z)",
    "reg": "Terms against collapse",
    "latent": "Latent z",
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
}


def write_report(run: Path) -> Path:
    """Writes `report.html` into the run folder and returns its path.

    Works on a run that is still going or was killed: what is missing is named on the page. The file
    is replaced at once, never half-written.

    Raises:
        UserError: where `run` is not the folder of a run.
    """
    files = read_run(run)
    sections = [made(files) for _, made in sections_of(files).values()]
    foot = "Written by jepa_video. The page is one file and asks the network for nothing."
    path = files.folder / REPORT
    write_whole(path, document(f"{files.name} - jepa_video", page_head(files), sections, foot))
    return path


def sections_of(files: RunFiles) -> dict[str, tuple[str, Callable[[RunFiles], str]]]:
    """The sections of the page by their anchors: a word for the contents, and what makes them."""
    every: dict[str, tuple[str, Callable[[RunFiles], str]]] = {
        "result": ("Result", result_section),
        "curves": ("Curves", curves_section),
        "collapse": ("Collapse", collapse_section),
        "future": ("Future", lambda files: rollouts_section(files.folder)),
        "pictures": ("Pictures", pictures_section),
        "data": ("Data", data_section),
        "config": ("Config", config_section),
        "use": ("Use it", load_section),
    }
    silent = ("collapse", "future", "pictures") if files.verb == "finetune" else ()
    return {name: made for name, made in every.items() if name not in silent}


def page_head(files: RunFiles) -> str:
    """Name, state and table of contents."""
    facts = ["finished" if files.finished else "not finished, or killed"]
    if files.last_step is not None:
        facts.append(f"last logged step {files.last_step:,}")
    if files.summary is not None and "seed" in files.summary:
        facts.append(f"seed {files.summary['seed']}")
    written = [p.stat().st_mtime for p in [files.folder / "metrics.csv"] if p.exists()]
    facts += [time.strftime("log of %Y-%m-%d %H:%M", time.localtime(at)) for at in written]
    told = sections_of(files).items()
    links = "".join(f'<a href="#{name}">{word}</a>' for name, (word, _) in told)
    kind = "fine-tuning" if files.verb == "finetune" else "pretraining"
    return (
        f'<p class="kind">jepa_video, report of a {kind} run</p><h1>{escape(files.name)}</h1>'
        f'<p class="facts">{escape(", ".join(facts))}</p><nav aria-label="Sections">{links}</nav>'
    )


def result_section(files: RunFiles) -> str:
    """The headline, the few numbers that matter, and the table of baselines."""
    parts = [note("bad", "Damaged file.", problem) for problem in files.problems]
    if not files.finished:
        lack = "There is no summary.json: the" if files.summary is None else "The"
        text = f"{lack} run has not finished. Below is what it left so far."
        parts.append(note("warn", "Not finished.", text))
    if files.summary is None:
        return section("result", "Result", *parts)
    leaves = flat(files.summary)
    parts.append(f'<p class="lead">{escape(headline(leaves))}</p>')
    parts.append(_tiles(leaves))
    parts.append(_baseline_tables(leaves))
    rows = [(escape(name), _exact(value)) for name, value in sorted(leaves.items())]
    parts.append(folded("Every number of summary.json", table(("name", "value"), rows)))
    return section("result", "Result", *parts)


def _exact(value: Any) -> str:
    if finite(value) is None:
        return escape(str(value))
    return f'<data value="{value!r}">{number(float(value))}</data>'


def _tiles(leaves: Mapping[str, Any]) -> str:
    """The numbers a reader looks for first, each with what it means; those that are there."""
    gap, error = finite(leaves.get("energy_gap")), finite(leaves.get("energy_gap_stderr"))
    sure = f" ({gap / error:.1f} standard errors)" if gap is not None and error else ""
    meaning = {
        "finetune_top1": "fine-tuned encoder, held-out videos",
        "probe_top1": "linear probe on the frozen encoder, held-out videos",
        "rankme": "RankMe: directions that the features fill",
        "energy_gap": f"energy of shuffled minus true pairs{sure}",
        "clips_per_second": "clips a second",
        "data_wait": "of the time waiting for data",
    }
    tiles = []
    for name, told in meaning.items():
        value = finite(leaves.get(name))
        if value is not None:
            whole = not name.endswith(("top1", "data_wait"))
            shown = number(value) if whole else share(value)
            data = f'<data value="{leaves[name]!r}">{shown}</data>'
            tiles.append(f'<div class="tile"><b>{data}</b><span>{escape(told)}</span></div>')
    return f'<div class="tiles">{"".join(tiles)}</div>' if tiles else ""


def _baseline_tables(leaves: Mapping[str, Any]) -> str:
    """A table for each way of asking: the linear probe in sight, the others on a click."""
    measures = baselines(leaves)
    if not measures:
        return missing("summary.json holds no probe: it needs labels, which this run did not have.")
    if any("/" in measure for measure in measures):  # those of one label stand at the top as well
        measures = {measure: row for measure, row in measures.items() if "/" in measure}
    main = f"labels/{leaves.get('probe_label')}/"
    kinds: dict[str, list[str]] = {}
    for measure in sorted(measures, key=lambda measure: not measure.startswith(main)):
        kinds.setdefault(measure.rpartition("/")[2], []).append(measure)
    rank = {"finetune_top1": 0, "probe_top1": 1}
    first, *rest = sorted(kinds, key=lambda kind: rank.get(kind, 2))
    parts = [_baseline_table(leaves, kinds[first], measures)]
    parts += [folded(pretty(k), _baseline_table(leaves, kinds[k], measures)) for k in rest]
    return "".join(parts)


def _baseline_table(
    leaves: Mapping[str, Any], names: list[str], measures: Mapping[str, Mapping[str, float]]
) -> str:
    """Labels down, representations across: this run first, then what it has to beat."""
    seen = dict.fromkeys(who for name in names for who in measures[name])
    order = [*(who for who in FIRST if who in seen), *(who for who in seen if who not in FIRST)]
    gains = any(finite(leaves.get(f"{name}_gain")) is not None for name in names)
    rows = []
    for name in names:
        label, _, kind = name.rpartition("/")
        row = measures[name]
        cells = [_baseline_cell(leaves, name, who, row, max(row.values())) for who in order]
        chance = finite(leaves.get(f"{label}/chance" if label else "chance"))
        cells.append(NOTHING if chance is None else f"<td>{share(chance)}</td>")
        cells += [_gain_cell(leaves, name)] if gains else []
        rows.append((escape(pretty(label or kind)), *cells))
    heads = [pretty(names[0].rpartition("/")[2]), *(who_is(who) for who in order), "guessing"]
    heads += ["points gained over untrained"] if gains else []
    legend = "Shares of right answers; the best is bold. Ranges and whiskers are 95 % intervals."
    return table(heads, rows) + paragraph(legend, "small")


def _baseline_cell(
    leaves: Mapping[str, Any], measure: str, who: str, row: Mapping[str, float], best: float
) -> str:
    if who not in row:
        return NOTHING
    name, value = f"{measure}_{who}" if who else measure, row[who]
    ends = interval(leaves, name)
    scaled = [f"{100 * end:.1f}" for end in ends or ()]
    spread = f'<span class="small">{" to ".join(scaled)}</span>' if ends else ""
    shade = ' class="best"' if value == best and len(row) > 1 else ""
    shown = f'<data value="{leaves[name]!r}">{share(value)}</data>'
    return f"<td{shade}>{shown}{bar(value, ends, 0 if not who else 1)}{spread}</td>"


def _gain_cell(leaves: Mapping[str, Any], measure: str) -> str:
    name = f"{measure}_gain"
    gain, ends = finite(leaves.get(name)), interval(leaves, name)
    if gain is None:
        return NOTHING
    spread = f"{points(ends[0])} to {points(ends[1])}" if ends else ""
    shown = f'<data value="{leaves[name]!r}">{points(gain)}</data>'
    return f'<td>{shown}<span class="small">{spread}</span></td>'


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


def _chart_grid(groups: Iterable[tuple[str, list[Series]]]) -> str:
    figures = []
    for prefix, lines in groups:
        title, remark = CHART_TITLES.get(prefix, pretty(prefix)), CHART_NOTES.get(prefix, "")
        zero = prefix in ("energy_gap", "rankme", "std", *CLOCKS)
        for start in range(0, len(lines), MOST_LINES):
            figures.append(line_chart(title, lines[start : start + MOST_LINES], remark, zero))
    return f'<div class="charts">{"".join(figures)}</div>'


def _in_order(groups: Mapping[str, list[Series]]) -> list[tuple[str, list[Series]]]:
    """Known groups in the order of their titles, unknown ones after them."""
    known = [name for name in CHART_TITLES if name in groups]
    return [(name, groups[name]) for name in [*known, *(n for n in groups if n not in known)]]


def curves_section(files: RunFiles) -> str:
    """Loss, energy, terms, schedules, online probes, throughput."""
    groups = charts_of(files.metrics)
    shown = [(name, lines) for name, lines in _in_order(groups) if name not in DASHBOARD]
    clocks = [(name, lines) for name, lines in _in_order(charts_of(files.timings)) if name]
    parts = [
        paragraph(
            "A falling loss alone proves nothing: the lowest loss of all belongs to an encoder "
            "that answers the same to everything. Read it together with the next section."
        ),
        _chart_grid(shown) if shown else missing("metrics.csv is missing or has no numbers yet."),
    ]
    if clocks:
        parts += ["<h3>Speed</h3>", _chart_grid(clocks)]
    else:
        parts.append(missing("timings.csv is missing or has no numbers yet: no curves of speed."))
    return section("curves", "Curves", *parts)


def collapse_section(files: RunFiles) -> str:
    """Verdict in words and the measures behind it."""
    remark = final_remark(files.summary) or collapse_remark(files.metrics, files.width)
    shown = [pair for pair in _in_order(charts_of(files.metrics)) if pair[0] in DASHBOARD]
    parts = [note(*remark)]
    if shown:
        parts.append(_chart_grid(shown))
    else:
        parts.append(missing("metrics.csv has no feature statistics yet: no dashboard."))
    return section("collapse", "Has it collapsed?", *parts)


def pictures_section(files: RunFiles) -> str:
    """The picture pack, embedded."""
    folder = files.folder / "pictures"
    try:
        plates = load_album(folder)
    except FileNotFoundError:
        text = "No pictures yet: they are drawn with the trained model when the run ends."
        return section("pictures", "Pictures", missing(text))
    except (OSError, ValueError) as error:
        return section("pictures", "Pictures", note("bad", "Damaged file.", str(error)))
    if not plates:
        return section("pictures", "Pictures", missing("The picture pack is empty."))
    return section("pictures", "Pictures", *(plate(folder, shown) for shown in plates))


def data_section(files: RunFiles) -> str:
    """Which videos could not be read, and why."""
    rows = files.unreadable
    if rows is None:
        text = "unreadable.csv is missing: the run ended before its videos were checked."
        return section("data", "Data health", missing(text))
    if not rows:
        return section("data", "Data health", note("good", "Every video", "could be read."))
    text = f"{len(rows):,} could not be read. They were left out, and no other took their place."
    parts = [note("warn", "Unreadable videos.", text)]
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


def load_section(files: RunFiles) -> str:
    """The lines that load the encoder."""
    exported = (files.folder / "encoder" / "encoder.safetensors").exists()
    checkpoints = any((files.folder / "checkpoints").glob("*.ckpt"))
    if not exported and not checkpoints:
        text = "Neither encoder/ nor a checkpoint is there yet: nothing to load."
        return section("use", "Use the encoder", missing(text))
    code = (
        "import torch\nfrom jepa_video import load_encoder\n\n"
        f'encoder = load_encoder("{files.name}")\n'
        "clip = torch.zeros(1, 3, encoder.frames, encoder.image, encoder.image)"
        "  # B C T H W, normalised\n"
        "tokens = encoder(clip)  # B N D\n"
    )
    parts = [f"<pre>{escape(code)}</pre>"]
    if not exported:
        text = "This reads the newest checkpoint. The run itself goes on from there with"
        command = f"jepa-video {files.verb} --resume {files.name}"
        parts += [paragraph(text), f"<pre>{escape(command)}</pre>"]
    return section("use", "Use the encoder", *parts)
