"""From trials to figures: shares with intervals, steps, returns, time, and paired differences.

A row is a policy; of a policy that was trained with several seeds it has S lots of the same N
episodes. Shares have Wilson's interval on all S x N episodes and the range over the seeds; means
and differences have the bootstrap over episodes, in which the S results of one stay together.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from io import StringIO
from typing import Any, Final

import numpy as np

from jepa_video.agent.trials import Clock, Played, Trial
from jepa_video.envs.base import Array
from jepa_video.evaluation.intervals import bootstrap_accuracy, paired_difference, wilson

SHARES: Final = ("success", "at_end")  # measures that are 0 or 1; of the others there are means
QUANTILES: Final = {"low": 0.1, "quarter": 0.25, "median": 0.5, "three_quarters": 0.75, "high": 0.9}


@dataclass(frozen=True)
class Row:
    """A policy and what it made of the tasks.

    Args:
        name: in tables.
        policy: its kind, such as `straight` or `mode2`.
        played: all the tasks, once for each checkpoint.
        checkpoints: where it was loaded from; empty for a policy that was not trained.
        beside: whether it is there to compare with.
    """

    name: str
    policy: str
    played: tuple[Played, ...]
    checkpoints: tuple[str, ...] = ()
    beside: bool = False

    def values(self, measure: str) -> Array:
        """`success`, `at_end`, `steps`, `total` or what else is told of trials, float `S N`."""

        def of(trial: Trial) -> float:
            return trial.told[measure] if measure in trial.told else float(getattr(trial, measure))

        return np.array([[of(trial) for trial in one.trials] for one in self.played])


def pooled(rows: Sequence[Row], name: str) -> Row:
    """Rows of one policy with several checkpoints as one."""
    played = tuple(one for row in rows for one in row.played)
    return Row(name, rows[0].policy, played, tuple(c for row in rows for c in row.checkpoints))


def measures_of(tells_success: bool, to_the_end: bool, more: Sequence[str] = ()) -> list[str]:
    """What rows are compared by: shares first, then the return, then what else is asked for."""
    shares = ["success", *(["at_end"] if to_the_end else [])] if tells_success else []
    return [*shares, "total", *more]


def row_figures(row: Row, measures: Sequence[str], hard: Array | None) -> dict[str, Any]:
    """All figures of a row, ready for JSON.

    Args:
        row: a policy.
        measures: see `measures_of`.
        hard: the tasks that a straight line does not solve, bool `N`; None where nobody tried.
    """
    found: dict[str, Any] = {"name": row.name, "policy": row.policy, "beside": row.beside}
    found["checkpoints"] = list(row.checkpoints)
    found["episodes"] = row.values("steps").size
    for measure in measures:
        values = row.values(measure)
        if measure not in SHARES:
            found[measure] = asdict(bootstrap_accuracy(values)) | _range(values)
            continue
        found[measure] = share(values)
        if hard is not None:
            found[f"{measure}_not_straight"] = share(values[:, hard])
    found["steps_to_goal"] = steps_to_goal([t for one in row.played for t in one.trials])
    found["decision"] = decision_time(row.played)
    found["modes"] = _modes(row.played)
    found["facts"] = row.played[0].facts
    return found


def share(values: Array) -> dict[str, Any] | None:
    """The share of ones in `S N` with Wilson's interval; None where there are no episodes."""
    if not values.size:
        return None
    hits = int(values.sum())
    found = {**asdict(wilson(hits, values.size)), "hits": hits, "of": int(values.size)}
    return found | _range(values)


def _range(values: Array) -> dict[str, Any]:
    """The means over the episodes of each seed, where there are several."""
    return {"seeds": [float(mean) for mean in values.mean(axis=1)]} if len(values) > 1 else {}


def steps_to_goal(trials: Sequence[Trial]) -> dict[str, float] | None:
    """Quantiles of the actions up to the first success, over the episodes that have one."""
    steps = [trial.reached for trial in trials if trial.reached is not None]
    if not steps:
        return None
    found = np.quantile(steps, list(QUANTILES.values()))
    return dict(zip(QUANTILES, map(float, found), strict=True))


def decision_time(played: Sequence[Played]) -> dict[str, Any]:
    """Milliseconds of a decision for one environment: a call of `act` divided by its batch.

    Of calls in which no episode of the batch was over yet. `alone` has them for a batch of one,
    where somebody looked. The first call of each is left out, in which things are built that stay.
    """
    found = _milliseconds([(one.clock, one.batch) for one in played])
    found["batch"] = played[0].batch
    alone = [(one.alone, 1) for one in played if one.alone is not None]
    return found | ({"alone": _milliseconds(alone)} if alone else {})


def _milliseconds(clocks: Sequence[tuple[Clock, int]]) -> dict[str, Any]:
    calls = [
        1000 * s / batch for clock, batch in clocks for s in clock.seconds[1:] or clock.seconds
    ]
    busy = [1000 * s / batch for clock, batch in clocks for s in clock.busy[1:] or clock.busy]
    median, high = (float(quantile) for quantile in np.quantile(calls, [0.5, 0.95]))
    told = {"median_ms": median, "q95_ms": high, "busy_ms": float(np.median(busy))}
    return told | {"calls": len(calls)}


def _modes(played: Sequence[Played]) -> dict[str, float]:
    """The share of the decisions that were made in each mode."""
    counts = Counter(mode for one in played for trial in one.trials for mode in trial.modes)
    return {mode: count / counts.total() for mode, count in sorted(counts.items())}


def differences(rows: Sequence[Row], measures: Sequence[str]) -> list[dict[str, Any]]:
    """Each row less each later one on the same episodes; what is there to compare with comes last.

    Rows that are beside are compared among each other only where there are no others, and then
    the last less the first: they stand in the order of what they know.
    """
    alone = all(row.beside for row in rows)
    order = list(rows)[::-1] if alone else sorted(rows, key=lambda row: row.beside)
    found = []
    for number, row in enumerate(order):
        for other in order[number + 1 :]:
            if row.beside and not alone:
                continue
            for measure in measures:
                gap = paired_difference(row.values(measure), other.values(measure))
                head = {"row": row.name, "less": other.name, "measure": measure}
                found.append(head | asdict(gap) | {"excludes_zero": gap.excludes()})
    return found


def episodes_table(rows: Sequence[Row], hard: Array | None) -> str:
    """CSV: a line for each row, checkpoint and episode."""
    out = StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    heads = ("row", "checkpoint", "episode", "seed", "success", "at_end", "steps")
    told = [*rows[0].played[0].trials[0].told]
    writer.writerow((*heads, "steps_to_goal", "return", "straight_solves", *told))
    for row in rows:
        checkpoints = row.checkpoints or ("",)
        for checkpoint, one in zip(checkpoints, row.played, strict=True):
            for number, trial in enumerate(one.trials):
                reached = "" if trial.reached is None else trial.reached
                easy = "" if hard is None else int(not hard[number])
                figures = (int(trial.success), int(trial.at_end), trial.steps, reached)
                head = (row.name, checkpoint, number, trial.seed)
                more = (f"{trial.told[name]:.6g}" for name in told)
                writer.writerow((*head, *figures, f"{trial.total:.6g}", easy, *more))
    return out.getvalue()
