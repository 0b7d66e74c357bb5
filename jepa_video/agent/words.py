"""The figures of an evaluation in words: the same cells on the screen and on the page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from jepa_video.agent.figures import SHARES
from jepa_video.evaluation.charts import number

NAMES: Final = {
    "success": "solved", "at_end": "solved at the end", "total": "return", "effort": "effort",
    "places": "places", "zone": "time in zones",
}  # fmt: skip
NONE: Final = "\N{EN DASH}"

Told = Mapping[str, Any]


def rule_of(told: Told) -> str:
    """What was played, in one sentence."""
    settings = {k: v for k, v in told["settings"].items() if k != "budget"}
    own = ", ".join(f"{name} {value}" for name, value in settings.items() if value is not None)
    eb, budget = told["tasks"] == "eb", told["settings"]["budget"]
    which = "tasks of EB-JEPA" if eb else f"held-out episodes (seed {told['seed']})"
    ends = f"{budget} steps" if told["to_the_end"] else f"until solved or {budget} steps are over"
    ends = f"at most {budget} steps" if told["measures"] == ["total"] else ends
    text = f"{told['env']}: {told['episodes']} {which}, {ends}"
    text += f" ({own})" if own else ""
    text += f"; sub-goals: {told['via']} pictures of the scripted way" if told["via"] else ""
    text += "; goals are told as numbers of their state" if told["goals"] == "state" else ""
    far = told["least"] > 1
    text += f"; the scripted way takes {told['least']} actions or more" if far else ""
    replaced = told["solved_at_start_replaced"]
    if replaced:
        why = "nearer" if far else "solved at the start"
        text += f"; {replaced} that were {why} gave way to the next"
    hard = told["not_solved_by_straight"]
    if hard is not None and told["measures"][0] != "total":
        text += f"; hard are the {hard} that a straight line does not solve"
    return text


def headline(told: Told) -> str:
    """What the policies reach, in one sentence: first those that are asked about."""
    measure = (shares_of(told) or ["total"])[-1]
    several = {row["policy"] for row in told["rows"] if len(row["checkpoints"]) > 1}
    rows = [
        row for row in told["rows"] if len(row["checkpoints"]) != 1 or row["policy"] not in several
    ]
    tell, unit = (told_mean, "") if measure == "total" else (told_share, " %")
    parts = [f"{row['name']} {tell(row[measure])}" for row in sorted(rows, key=_is_beside)]
    return f"{NAMES[measure].capitalize()}{unit and ','}{unit}: {'; '.join(parts)}."


def shares_of(told: Told) -> list[str]:
    """The measures that are shares of the episodes."""
    return [measure for measure in told["measures"] if measure in SHARES]


def means_of(told: Told) -> list[str]:
    """Those that are means over them."""
    return [measure for measure in told["measures"] if measure not in SHARES]


def _is_beside(row: Told) -> bool:
    return bool(row["beside"])


def headings(told: Told) -> list[str]:
    """Of the columns of the table."""
    columns = ["policy"]
    for measure in shares_of(told):
        columns.append(f"{NAMES[measure]}, %")
        if told["not_solved_by_straight"] is not None:
            columns.append(f"of the {told['not_solved_by_straight']} hard")
    if len(columns) > 1:
        columns.append("steps to goal")
    columns += [NAMES[measure] for measure in means_of(told)]
    columns += ["ms a decision (95 %)", "ms alone (95 %)"]
    return [*columns, "planner"] if _has_facts(told) else columns


def cells(told: Told, row: Told) -> list[str]:
    """Of a row, in the order of `headings`."""
    found = [row["name"]]
    for measure in shares_of(told):
        found.append(told_share(row[measure]))
        if told["not_solved_by_straight"] is not None:
            found.append(told_share(row[f"{measure}_not_straight"]))
    if len(found) > 1:
        found.append(told_steps(row["steps_to_goal"]))
    time = row["decision"]
    found += [told_mean(row[measure]) for measure in means_of(told)]
    found += [told_time(time), told_time(time.get("alone"))]
    return [*found, told_facts(row)] if _has_facts(told) else found


def _has_facts(told: Told) -> bool:
    return any(row["facts"] or len(row["modes"]) > 1 for row in told["rows"])


def told_share(found: Told | None) -> str:
    """A share in percent with its interval, and the range over the seeds."""
    if found is None:
        return NONE
    low, high = 100 * found["low"], 100 * found["high"]
    text = f"{100 * found['value']:.1f} ({low:.1f} to {high:.1f})"
    seeds = found.get("seeds")
    return text + (f", seeds {100 * min(seeds):.1f} to {100 * max(seeds):.1f}" if seeds else "")


def told_mean(found: Told) -> str:
    """A mean with its interval, and the range over the seeds."""
    text = f"{number(found['value'])} ({number(found['low'])} to {number(found['high'])})"
    seeds = found.get("seeds")
    return text + (f", seeds {number(min(seeds))} to {number(max(seeds))}" if seeds else "")


def told_steps(found: Told | None) -> str:
    """The median, and from the first to the ninth tenth."""
    if found is None:
        return NONE
    return f"{found['median']:g} ({found['low']:g} to {found['high']:g})"


def told_time(found: Told | None) -> str:
    """The median in milliseconds, and what 95 % of the decisions stay under."""
    if found is None:
        return NONE
    median, high = (
        number(found[key]) if found[key] >= 1e-3 else "0.00" for key in ("median_ms", "q95_ms")
    )
    return f"{median} ({high})"


def told_facts(row: Told) -> str:
    """What the policy says of itself, and how often it was in which mode."""
    parts = [f"{name} {_plain(value)}" for name, value in row["facts"].items()]
    if len(row["modes"]) > 1:
        parts += [f"{mode} in {100 * part:.0f} %" for mode, part in row["modes"].items()]
    return ", ".join(parts)


def _plain(value: Any) -> str:
    return number(value) if isinstance(value, float) else str(value)


def told_gap(gap: Told) -> str:
    """A paired difference."""
    share = gap["measure"] in SHARES
    values = [(100 if share else 1) * gap[key] for key in ("value", "low", "high")]
    value, low, high = (f"{v:+.1f}" if share else f"{'+' * (v > 0)}{number(v)}" for v in values)
    unit = " points" if share else ""
    sure = "" if gap["excludes_zero"] else "; can be chance"
    head = f"{gap['row']} less {gap['less']}, {NAMES[gap['measure']]}"
    return f"{head}: {value}{unit} ({low} to {high}){sure}"
