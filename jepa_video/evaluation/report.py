"""One page about a run: `report.html`, self-contained, from what lies in the run folder."""

from __future__ import annotations

import time
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from ..training.run import write_whole
from .charts import bar
from .page import document, folded, missing, note, paragraph, section, table
from .rollouts_section import rollouts_section
from .runfiles import RunFiles, baselines, finite, flat, interval, read_run
from .sections import (
    ABOUT_CURVES,
    Sections,
    album,
    chart_grid,
    charts_of,
    charts_section,
    config_section,
    data_section,
    every_number,
    exact,
    in_order,
    resume_lines,
    state_notes,
    tiles,
)
from .words import collapse_remark, final_remark, headline, points, pretty, share, who_is
from .world_page import AGENT_SECTIONS, WORLD_SECTIONS

REPORT = "report.html"
NOTHING = "<td>\N{EN DASH}</td>"
DASHBOARD = ("energy_gap", "energy_auc", "rankme", "std", "lidar", "collapse")
KINDS = {"pretrain": "a pretraining", "finetune": "a fine-tuning", "world": "a world model"}
KINDS |= {"agent fit": "an agent fit"}
OTHER_PAGES = {"world": WORLD_SECTIONS, "agent fit": AGENT_SECTIONS}
FIRST = ("", "untrained", "pixels")  # representations, in the order of the table


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


def sections_of(files: RunFiles) -> Sections:
    """The sections of the page by their anchors: a word for the contents, and what makes them."""
    if files.verb in OTHER_PAGES:
        return OTHER_PAGES[files.verb]
    every: Sections = {
        "result": ("Result", result_section),
        "curves": ("Curves", lambda files: charts_section(files, ABOUT_CURVES, DASHBOARD)),
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
    kind = KINDS[files.verb]
    return (
        f'<p class="kind">jepa_video, report of {kind} run</p><h1>{escape(files.name)}</h1>'
        f'<p class="facts">{escape(", ".join(facts))}</p><nav aria-label="Sections">{links}</nav>'
    )


def result_section(files: RunFiles) -> str:
    """The headline, the few numbers that matter, and the table of baselines."""
    parts = state_notes(files)
    if files.summary is None:
        return section("result", "Result", *parts)
    leaves = flat(files.summary)
    parts.append(f'<p class="lead">{escape(headline(leaves))}</p>')
    parts.append(_tiles(leaves))
    parts.append(_baseline_tables(leaves))
    parts.append(every_number(leaves))
    return section("result", "Result", *parts)


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
    return tiles(leaves, meaning, ("top1", "data_wait"))


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
    shown = exact(leaves[name], share(value))
    return f"<td{shade}>{shown}{bar(value, ends, 0 if not who else 1)}{spread}</td>"


def _gain_cell(leaves: Mapping[str, Any], measure: str) -> str:
    name = f"{measure}_gain"
    gain, ends = finite(leaves.get(name)), interval(leaves, name)
    if gain is None:
        return NOTHING
    spread = f"{points(ends[0])} to {points(ends[1])}" if ends else ""
    shown = exact(leaves[name], points(gain))
    return f'<td>{shown}<span class="small">{spread}</span></td>'


def collapse_section(files: RunFiles) -> str:
    """Verdict in words and the measures behind it."""
    remark = final_remark(files.summary) or collapse_remark(files.metrics, files.width)
    shown = [pair for pair in in_order(charts_of(files.metrics)) if pair[0] in DASHBOARD]
    parts = [note(*remark)]
    if shown:
        parts.append(chart_grid(shown))
    else:
        parts.append(missing("metrics.csv has no feature statistics yet: no dashboard."))
    return section("collapse", "Has it collapsed?", *parts)


def pictures_section(files: RunFiles) -> str:
    """The picture pack, embedded."""
    return section("pictures", "Pictures", *album(files.folder / "pictures"))


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
        parts += [paragraph("This reads the newest checkpoint."), *resume_lines(files)]
    return section("use", "Use the encoder", *parts)
