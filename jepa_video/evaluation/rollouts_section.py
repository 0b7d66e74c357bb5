"""The part of the report on prediction: curves against horizon, a verdict, decoded rollouts."""

from __future__ import annotations

from html import escape
from pathlib import Path

from .album import load_album
from .charts import Series, line_chart, number
from .page import folded, missing, note, paragraph, plate, section, table
from .rollouts import FOLDER, KINDS, Horizon, in_words, load_horizon

TITLE = "How far it sees"
ABOUT = (
    "The model sees the past of held-out clips and tells the states of the following frames: each "
    "step from the true one before (teacher-forced), or from what it told before (rolled out)."
)


def rollouts_section(run: Path) -> str:
    """What `rollouts/` of a run holds; names what is missing."""
    folder = run / FOLDER
    try:
        curves = load_horizon(folder)
        plates = load_album(folder)
    except FileNotFoundError:
        text = (
            "No rollouts: they are measured at the end of a run whose masks let it tell the future "
            "from the whole past (PastToFuture with hide 0)."
        )
        return section("future", TITLE, missing(text))
    except (OSError, ValueError) as error:
        return section("future", TITLE, note("bad", "Damaged file.", str(error)))
    parts = [paragraph(ABOUT), note(*in_words(curves)), horizon_charts(curves)]
    parts.append(folded("The curves as numbers", _numbers(curves)))
    return section("future", TITLE, *parts, *(plate(folder, shown) for shown in plates))


def horizon_charts(curves: Horizon) -> str:
    """State error and energy against the frames ahead."""
    remark = f"Means over {curves.clips} held-out clips, against the frames ahead."
    shown = (
        ("State error, as a share of the mean state's", curves.error),
        ("Energy against horizon", curves.energy),
    )
    figures = [line_chart(title, _series(curves, of), remark, zero=True) for title, of in shown]
    return f'<div class="charts">{"".join(figures)}</div>'


def _series(curves: Horizon, of: dict[str, list[float]]) -> list[Series]:
    kinds = (kind for kind in KINDS if kind in of)
    return [Series(kind, curves.frames[: len(of[kind])], of[kind]) for kind in kinds]


def _numbers(curves: Horizon) -> str:
    kinds = [kind for kind in KINDS if kind in curves.error]
    rows = []
    for at, frames in enumerate(curves.frames):
        known = [curves.error[kind][at : at + 1] for kind in kinds]
        rows.append((f"{frames}", *(escape(number(v[0])) if v else "" for v in known)))
    return table(["frames ahead; state error", *kinds], rows)
