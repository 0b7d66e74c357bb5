"""`diagnosis.html`: one self-contained page about one encoder."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from ..training.run import write_whole
from .charts import Series, line_chart, number
from .diagnostics import Diagnosis
from .page import document, note, paragraph, section, table
from .readings import readings
from .words import STATES

PAPERS = (
    ("RankMe", "Garrido et al. 2023", "2210.02885"),
    ("LiDAR", "Thilak et al. 2024", "2312.04000"),
    ("alignment and uniformity", "Wang and Isola 2020", "2005.10242"),
)


def write_diagnosis(
    path: Path, name: str, facts: Sequence[str], now: Diagnosis, untrained: Diagnosis
) -> None:
    """Write the page; the file is replaced at once, never half-written.

    Args:
        path: of the page.
        name: of the encoder, for the title.
        facts: what was measured on what, a few words each.
        now: the figures of the encoder.
        untrained: those of the same architecture with random weights, on the same clips.
    """
    head = (
        f'<p class="kind">jepa_video, diagnosis of an encoder</p><h1>{escape(name)}</h1>'
        f'<p class="facts">{escape(", ".join(facts))}</p>'
    )
    sections = [_judgement(now, untrained), _table(now, untrained), _spectrum(now, untrained)]
    foot = "Written by jepa_video. The page is one file and asks the network for nothing."
    write_whole(path, document(f"{name} - diagnosis", head, sections, foot))


def _judgement(now: Diagnosis, untrained: Diagnosis) -> str:
    found = now.verdict(untrained)
    advice = f" What helps: {found.advice}." if found.advice else ""
    return section("verdict", "Verdict", note(*STATES[found.state], found.sentence + advice))


def _table(now: Diagnosis, untrained: Diagnosis) -> str:
    """Every figure beside the untrained encoder's, and how to read it."""
    rows = []
    for reading in readings(now, untrained):
        beside = "\N{EN DASH}" if reading.beside is None else number(reading.beside)
        shown = f'<data value="{reading.value!r}">{number(reading.value)}</data>'
        rows.append((escape(reading.title), shown, beside, escape(reading.sentence)))
    parts = [
        paragraph(
            "None of these figures needs a label, and none replaces a probe: they say whether an "
            "encoder can be good, and not what it is good for."
        ),
        table(("figure", "this encoder", "random weights", "how to read it"), rows),
        _sources(),
    ]
    return section("figures", "Figures", *parts)


def _sources() -> str:
    """Where the figures come from."""
    links = (
        f'<a href="https://arxiv.org/abs/{number_}">{escape(what)}</a> ({escape(who)})'
        for what, who, number_ in PAPERS
    )
    return f'<p class="small">Defined in: {", ".join(links)}.</p>'


def _spectrum(now: Diagnosis, untrained: Diagnosis) -> str:
    """The covariance spectrum of both, as shares of the variance."""
    lines = []
    for name, of in (("this encoder", now), ("random weights", untrained)):
        shares = [share for share in of.spectrum if share > 1e-12]
        lines.append(Series(name, list(range(1, len(shares) + 1)), shares))
    text = "Left the strongest direction. A line that drops early has few directions to offer."
    chart = line_chart("Share of the variance in each direction", lines, text, unit="direction")
    return section("spectrum", "Spectrum", f'<div class="charts">{chart}</div>')
