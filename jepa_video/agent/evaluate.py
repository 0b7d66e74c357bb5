"""Evaluate: several policies on the same held-out episodes, and all that is told of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import numpy as np

from jepa_video.agent.behaviour import BEHAVIOUR
from jepa_video.agent.figures import Row, differences, measures_of, pooled, row_figures
from jepa_video.agent.task import Zone
from jepa_video.agent.trials import Played, Progress, Tasks, Trial, play_trials, time_alone
from jepa_video.envs.base import Array, BatchEnv
from jepa_video.envs.policies import Policy, make_policy

Bars = Callable[[str], AbstractContextManager[Progress]]


@dataclass(frozen=True)
class Contestant:
    """Somebody who is to play.

    Args:
        name: in tables.
        policy: its kind.
        make: gives the policy for an environment.
        checkpoint: where it is loaded from, if it is.
        beside: whether it is there to compare with.
    """

    name: str
    policy: str
    make: Callable[[BatchEnv], Policy]
    checkpoint: str | None = None
    beside: bool = False


@dataclass(frozen=True)
class Evaluation:
    """The rows of an evaluation.

    Args:
        rows: one for each contestant, in their order.
        together: one for each policy with several checkpoints.
        hard: the tasks that a straight line does not solve, bool `N`; None where the environment
            has no straight line.
        tasks: what was played.
        measures: what the rows are compared by.
    """

    rows: list[Row]
    together: list[Row]
    hard: Array | None
    tasks: Tasks
    measures: list[str]

    @property
    def compared(self) -> list[Row]:
        """The rows, with one for all seeds in place of each seed's own."""
        several = {row.policy for row in self.together}
        alone = [row for row in self.rows if not (row.checkpoints and row.policy in several)]
        return [*self.together, *alone]

    def summary(self) -> dict[str, Any]:
        """All figures, ready for JSON."""
        shown = [*self.rows, *self.together]
        return {
            "episodes": len(self.tasks.seeds),
            "solved_at_start_replaced": self.tasks.replaced,
            "not_solved_by_straight": None if self.hard is None else int(self.hard.sum()),
            "measures": self.measures,
            "rows": [row_figures(row, self.measures, self.hard) for row in shown],
            "differences": differences(self.compared, self.measures),
        }


def evaluate(
    env: BatchEnv,
    contestants: Sequence[Contestant],
    tasks: Tasks,
    to_the_end: bool,
    bars: Bars,
    alone: BatchEnv | None = None,
    tell: Sequence[str] = (),
    zones: Sequence[Zone] = (),
    met: Callable[[Sequence[Policy]], None] | None = None,
) -> Evaluation:
    """Play all contestants, and a straight line where there is one, on the same tasks.

    Args:
        env: in which they play, one after the other.
        contestants: who plays.
        tasks: what is played.
        to_the_end: go on after a success.
        bars: gives the progress bar of a row by its name.
        alone: one environment, to time decisions in it too.
        tell: what else is measured of each episode, see `behaviour.py`.
        zones: boxes in which time is measured.
        met: called with who plays, before anybody does.
    """
    rows, line = [], None
    players = [one.make(env) for one in contestants]  # whom nobody can load is told at once
    if met is not None:
        met(players)
    for one, player in zip(contestants, players, strict=True):
        with bars(one.name) as bar:
            played = play_trials(env, player, tasks, to_the_end, bar)
        played = replace(played, trials=[_measured(trial, tell, zones) for trial in played.trials])
        if alone is not None:
            played = replace(played, alone=time_alone(alone, one.make(alone), tasks))
        line = played if one.policy == "straight" else line
        kept = () if one.checkpoint is None else (one.checkpoint,)
        rows.append(Row(one.name, one.policy, (played,), kept, one.beside))
    if line is None and env.has("straight"):
        line = play_trials(env, make_policy("straight", env), tasks, to_the_end)
    trained = [row for row in rows if row.checkpoints]
    lots = [list(lot) for _, lot in groupby(trained, key=lambda row: row.policy)]
    together = [pooled(lot, f"{lot[0].policy}, {len(lot)} seeds") for lot in lots if len(lot) > 1]
    told = env.tells_success or any(row.values("success").any() for row in rows)
    return Evaluation(rows, together, _hard(line), tasks, measures_of(told, to_the_end, tell))


def _measured(trial: Trial, tell: Sequence[str], zones: Sequence[Zone]) -> Trial:
    found = {name: BEHAVIOUR[name](trial.states, trial.actions, zones) for name in tell}
    return replace(trial, told=found)


def _hard(line: Played | None) -> Array | None:
    return None if line is None else np.array([not trial.at_end for trial in line.trials])
