"""`report.html` of an evaluation: table, bars, differences, sheet and film in one file."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from jepa_video.agent.words import (
    NAMES,
    cells,
    headings,
    headline,
    shares_of,
    told_gap,
    told_share,
)
from jepa_video.evaluation.charts import bar
from jepa_video.evaluation.page import document, embedded, folded, paragraph, section, table
from jepa_video.training.run import write_whole

Told = Mapping[str, Any]


def write_page(path: Path, told: Told, sheet: Path, film: Path) -> None:
    """Write the page with its pictures inside."""
    title = f"{told['env']}: {', '.join(row['name'] for row in told['rows'])}"
    head = '<p class="kind">jepa_video, evaluation of control</p>'
    head += f"<h1>{escape(told['env'])}</h1>" + paragraph(headline(told), "lead")
    head += paragraph(f"{told['rule']}.", "small")
    sections = [
        section("table", "What they reach", _table(told), *_bars(told), paragraph(_notes(told))),
        section("differences", "How far they lie apart", *_differences(told)),
        section("pictures", "Episodes", *_pictures(told, sheet, film)),
        section("settings", "Settings", _settings(told)),
    ]
    foot = "Written by jepa_video. The page is one file and asks the network for nothing."
    write_whole(path, document(title, head, sections, foot))


def _table(told: Told) -> str:
    rows = [[escape(cell) for cell in cells(told, row)] for row in told["rows"]]
    return table(headings(told), rows)


def _bars(told: Told) -> list[str]:
    """Shares with their intervals, a bar for each row."""
    found = []
    for measure in shares_of(told):
        for key in (measure, f"{measure}_not_straight"):
            rows = [
                [escape(row["name"]), bar(part["value"], (part["low"], part["high"]), at % 6),
                 escape(told_share(part))]
                for at, row in enumerate(told["rows"])
                if (part := row.get(key)) is not None
            ]  # fmt: skip
            heading = NAMES[measure] + (", not by a straight line" if key != measure else "")
            found += [table([heading, "", "% (95 % interval)"], rows)] if rows else []
    return found


def _notes(told: Told) -> str:
    text = (
        "Every episode counts, whichever ends first, and every policy plays the same ones. Shares "
        "have Wilson's 95 % interval, the mean return a bootstrap over episodes. "
        "Steps to goal are the median of the solved episodes, and in brackets from the first to "
        "the ninth tenth of them. A decision's time is that of a call for a batch of "
        f"{told['rows'][0]['decision']['batch']} environments, of which none was done yet, divided "
        "by their number: the median, and in brackets what 95 % of the calls stay under. Alone "
        "means a batch of one, which is what whoever acts in one world waits for."
    )
    if any(len(row["checkpoints"]) > 1 for row in told["rows"]):
        text += (
            " Rows of several training seeds pool all episodes of all seeds; seeds share their "
            "episodes, so that their range says more than the interval."
        )
    return text


def _differences(told: Told) -> list[str]:
    text = (
        "Paired by episode: what makes an episode easy for both cancels. 95 % intervals by a "
        "bootstrap over episodes; it sees no spread in a difference that all episodes share."
    )
    rows = []
    for gap in told["differences"]:
        head, _, value = told_gap(gap).partition(": ")
        rows.append([escape(head), escape(value)])
    if not rows:
        return [paragraph("There is one row only.", "missing")]
    return [paragraph(text), table(["difference", "value (95 % interval)"], rows)]


def _pictures(told: Told, sheet: Path, film: Path) -> list[str]:
    lines = "frames from first to last and the goal"
    if told["drawn"] == "ways":
        lines = "ways over the first picture and, darker, the last"
    order = "episodes that it fails come first"
    if "success" not in told["measures"]:
        order = "episodes go from the lowest return to the highest"
    caption = (
        f"A line for each policy, a column for each episode; {lines}; the goal is green, an "
        f"imagined plan pink. Of {told['film']['row']}, {order}."
    )
    alt = f"Episodes of {', '.join(row['name'] for row in told['rows'])}"
    image = f'<img src="{embedded(sheet)}" alt="{escape(alt)}" style="max-width: 100%">'
    source = embedded(film)
    moving = (
        f'<video controls loop muted playsinline style="max-width: 100%" src="{source}" '
        f'aria-label="The same episodes of {escape(told["film"]["row"])} in time"></video>'
    )
    told_film = f"The same episodes of {told['film']['row']} in time."
    if told["film"]["explained"]:
        told_film += (
            " Below each what its present decision was made of: mode, and what each term adds to "
            "the cost of the plan (pink), or of the reaction if it were held (grey); all bars have "
            "one measure. A sub-goal on the way, where there is one, is blue."
        )
    return [paragraph(caption), image, paragraph(told_film), moving]


def _settings(told: Told) -> str:
    names = ("env", "seed", "tasks", "episodes", "to_the_end", "solved_at_start_replaced")
    rows = [[name, escape(str(told[name]))] for name in names]
    rows += [[escape(k), escape(str(v))] for k, v in told["settings"].items() if v is not None]
    own = ("cost", "zones", "watched", "memory", "search", "goals", "via", "least", "crashes")
    rows += [[name, escape(str(told[name]))] for name in own if told.get(name)]
    for row in told["rows"]:
        rows += [[escape(row["name"]), escape(path)] for path in row["checkpoints"]]
    command = f"<pre>{escape(told['command'])}</pre>"
    return command + folded("Every setting", table(["setting", "value"], rows))
