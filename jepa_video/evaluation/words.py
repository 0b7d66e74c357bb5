"""What the numbers of a run say, in plain sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .charts import number
from .runfiles import Column, baselines, finite, interval

SURE = 3.0  # standard errors of the energy gap that count as proof

REPRESENTATIONS = {
    "": "this run",
    "untrained": "untrained encoder",
    "pixels": "raw pixels",
    "chance": "guessing",
    "majority": "most frequent class",
    "motion": "hand-made motion features",
}


def who_is(word: str) -> str:
    """The representation that a suffix of summary.json stands for."""
    return REPRESENTATIONS.get(word, word.replace("_", " "))


def pretty(name: str) -> str:
    """A key of a log or a summary as a person would write it."""
    words = name.replace("/", ": ").replace("_", " ").replace("knn", "kNN")
    return words.replace("top1", "top-1").replace("top5", "top-5")


def share(value: float) -> str:
    """A share in percent; values above 1 are percent already."""
    return f"{value if value > 1 else 100 * value:.1f} %"


def _points(first: float, second: float) -> float:
    """Difference in percentage points."""
    return (first - second) * (1.0 if max(first, second) > 1 else 100.0)


def headline(leaves: Mapping[str, Any]) -> str:
    """The result of the run in one or two plain sentences."""
    measures = baselines(leaves)
    measure = "probe_top1" if "probe_top1" in measures else next(iter(measures), None)
    if measure is None or "" not in measures[measure]:
        return _without_probe(leaves)
    row = measures[measure]
    label = leaves.get("probe_label") or leaves.get("label")
    what = f" of {label}" if isinstance(label, str) and label else ""
    first = (
        f"On held-out videos, a linear probe{what} on the frozen encoder is right "
        f"{share(row[''])} of the time"
    )
    if measure != "probe_top1":
        first = f"On held-out videos, {pretty(measure)} is {share(row[''])}"
    against = [
        f"{share(row[who])} with {name}"
        for who, name in (("untrained", "the untrained encoder"), ("pixels", "raw pixels"))
        if who in row
    ]
    compared = f", against {' and '.join(against)}." if against else "."
    return first + compared + _gain(leaves, measure, row)


def _gain(leaves: Mapping[str, Any], measure: str, row: Mapping[str, float]) -> str:
    """What the difference to the untrained encoder allows to say."""
    if "untrained" not in row:
        return ""
    points = _points(row[""], row["untrained"])
    ends = interval(leaves, f"{measure}_gain")
    if ends is not None and ends[0] <= 0 <= ends[1]:
        return " The difference to the untrained encoder can be chance."
    if abs(points) < 0.05:
        return " Pretraining made no difference."
    if points < 0:
        return f" Pretraining cost {-points:.1f} points: it did harm."
    return f" Pretraining gained {points:.1f} points."


def _without_probe(leaves: Mapping[str, Any]) -> str:
    told = []
    gap, rank = finite(leaves.get("energy_gap")), finite(leaves.get("rankme"))
    if gap is not None:
        more = "more" if gap > 0 else "less"
        told.append(f"shuffled pairs have {number(abs(gap))} {more} energy than true ones")
    if rank is not None:
        told.append(f"the features fill {number(rank)} directions (RankMe)")
    rest = "; " + ", and ".join(told) if told else ", and no other result was written"
    return f"Without labels there is no probe{rest}."


def collapse_remark(
    summary: Mapping[str, Any] | None, metrics: Mapping[str, Column]
) -> tuple[str, str, str]:
    """Kind, word and sentence about collapse: the run's verdict and what its last figures say."""
    last = {name: next(reversed(column.values())) for name, column in metrics.items() if column}
    told = summary or {}
    gap = finite(told.get("energy_gap", last.get("energy_gap")))
    error = finite(told.get("energy_gap_stderr", last.get("energy_gap_stderr")))
    rank = finite(told.get("rankme", last.get("rankme/context")))
    verdict = told.get("verdict")
    if gap is None:
        text = "The energy of true and shuffled pairs was not measured yet."
        return ("plain", "Unknown.", f"{verdict} {text}" if isinstance(verdict, str) else text)
    sure = f", {gap / error:.1f} standard errors from 0" if error else ""
    ranks = f" The features fill {number(rank)} directions (1 is total collapse)." if rank else ""
    figures = f"Shuffled pairs have {number(gap)} more energy than true ones{sure}.{ranks}"
    text = f"{verdict} {figures}" if isinstance(verdict, str) else figures
    if (rank is not None and rank < 2) or gap <= 0:
        mend = "Raise the weight of the regulariser, or slow the target down."
        return ("bad", "Collapsed.", f"{text} {mend}")
    if error and gap / error < SURE:
        return ("warn", "Not sure.", text)
    return ("good", "No collapse.", text)
