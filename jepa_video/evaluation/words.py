"""What the numbers of a run say, in plain sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..energies.health import State, Vitals, verdict
from .charts import number
from .runfiles import Column, baselines, finite, interval

STATES: dict[State, tuple[str, str]] = {
    "healthy": ("good", "No sign of collapse."),
    "watch": ("warn", "Watch this."),
    "collapsed": ("bad", "Collapsed."),
}
REPRESENTATIONS = {
    "": "this run",
    "untrained": "untrained encoder",
    "pixels": "raw pixels",
    "chance": "guessing",
    "majority": "most frequent class",
    "motion": "hand-made motion",
}
RIVALS = {
    "untrained": "the untrained encoder",
    "pixels": "raw pixels",
    "motion": "hand-made motion features",
}


def who_is(word: str) -> str:
    """The representation that a suffix of summary.json stands for."""
    return REPRESENTATIONS.get(word, word.replace("_", " "))


def pretty(name: str) -> str:
    """A key of a log or a summary as a person would write it."""
    words = name.removeprefix("labels/").replace("probe_top1", "linear probe")
    words = words.replace("finetune_top1", "fine-tuned")
    words = words.replace("knn_top1", "nearest neighbours").replace("/", ", ").replace("_", " ")
    return words.replace("knn", "kNN")


def share(value: float) -> str:
    """A share from 0 to 1 in percent."""
    return f"{100 * value:.1f} %"


def points(value: float) -> str:
    """A difference of shares in percentage points, with its sign."""
    return f"{100 * value:+.1f}"


def headline(leaves: Mapping[str, Any]) -> str:
    """The result of the run in one or two plain sentences."""
    if "finetune_top1" in leaves:
        return _finetuned(leaves)
    row = baselines(leaves).get("probe_top1", {})
    if "" not in row:
        return _without_probe(leaves)
    label = leaves.get("probe_label")
    what = f" of {label}" if isinstance(label, str) and label else ""
    first = (
        f"On held-out videos, a linear probe{what} on the frozen encoder is right "
        f"{share(row[''])} of the time"
    )
    against = [f"{share(row[who])} with {name}" for who, name in RIVALS.items() if who in row]
    listed = " and ".join(filter(None, (", ".join(against[:-1]), *against[-1:])))
    compared = f", against {listed}." if against else "."
    return first + compared + _gain(leaves, row)


def _finetuned(leaves: Mapping[str, Any]) -> str:
    """The tuned classifier beside what it has to beat, and whether the gain can be chance."""
    against = {
        "probe_top1": "a linear probe on the frozen encoder",
        "finetune_top1_untrained": "the same training from random weights",
        "chance": "guessing",
    }
    told = [f"{share(leaves[name])} for {who}" for name, who in against.items() if name in leaves]
    listed = " and ".join(filter(None, (", ".join(told[:-1]), *told[-1:])))
    first = (
        f"On held-out videos, the fine-tuned encoder is right {share(leaves['finetune_top1'])} of "
        f"the time (label {leaves.get('label')}), against {listed}."
    )
    ends = interval(leaves, "gain_over_probe")
    if ends is not None and ends[0] <= 0 <= ends[1]:
        return f"{first} The difference to the frozen probe can be chance."
    return first


def _gain(leaves: Mapping[str, Any], row: Mapping[str, float]) -> str:
    """What the difference to the untrained encoder allows to say."""
    if "untrained" not in row:
        return ""
    gain = 100 * (row[""] - row["untrained"])
    ends = interval(leaves, "probe_top1_gain")
    if ends is not None and ends[0] <= 0 <= ends[1]:
        return " The difference to the untrained encoder can be chance."
    if abs(gain) < 0.05:
        return " Pretraining made no difference."
    if gain < 0:
        return f" Pretraining cost {-gain:.1f} points: it did harm."
    spread = f" (95 % interval {points(ends[0])} to {points(ends[1])})" if ends else ""
    return f" Pretraining gained {gain:.1f} points{spread}."


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


def final_remark(summary: Mapping[str, Any] | None) -> tuple[str, str, str] | None:
    """Kind, word and sentence of the verdict in a summary, `STATE: SENTENCE`; None without one."""
    state, _, told = str((summary or {}).get("verdict", "")).partition(": ")
    found = next((STATES[known] for known in STATES if known == state), None)
    return (*found, told) if found and told else None


def collapse_remark(metrics: Mapping[str, Column], width: int | None) -> tuple[str, str, str]:
    """Kind, word and sentence about collapse, by the same judgement as in training.

    Args:
        metrics: the columns of the log.
        width: `D` of the tokens; without it nothing is said about rank.
    """
    known = {name: column for name, column in metrics.items() if column}
    known.pop("energy", None)  # of training batches; the held-out one is judged
    known = {name.removesuffix("/held_out"): column for name, column in known.items()}
    if width is None:
        known = {name: column for name, column in known.items() if not name.startswith("rankme")}
    first = {name: next(iter(column.values())) for name, column in known.items()}
    last = {name: next(reversed(column.values())) for name, column in known.items()}
    if not any(name.startswith(("rankme", "std", "energy_gap")) for name in known):
        return ("plain", "Unknown.", "Rank, spread and energy gap were not measured yet.")
    found = verdict(Vitals.read(last, width or 0), Vitals.read(first, width or 0))
    advice = f" What helps: {found.advice}." if found.advice else ""
    kind, word = STATES[found.state]
    return (kind, word, f"{found.sentence}{advice}")
