"""Rounds: an agent goes out, and what it met there joins the memory that it learns from.

    round r:  agent as it is  ->  episodes (mode 1 first, then mode 2)  ->  bank  ->  learn

Plans that led to their goal are imitated, each step for the goal and for what came on the way
(hindsight; Andrychowicz et al. 2017): mode 2, which learns from its mistakes within an episode, is
distilled into mode 1, which does not. That mode 1 begins half of the episodes shows what to do
where its own mistakes lead (DAgger; Ross, Gordon and Bagnell 2011). All else that came corrects the
dynamics and teaches the critic.

A round is a function of the agent that begins it, its seed and its settings; one that was killed
goes on where it was.
"""

from __future__ import annotations

import csv
import io
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, astuple, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..data.episodes import Trajectory
from ..envs.base import BatchEnv
from ..envs.registry import make_batch
from ..errors import UserError, within
from ..evaluation.intervals import wilson
from ..randomness import EPISODE, seed_of
from ..training.run import write_whole
from .agent import Agent
from .collect import Collected, collect
from .configurator import RollIn, rolled_in
from .crashes import Crashes, lasting
from .mind import FOLDER
from .trials import choose_tasks, play_trials
from .world_files import FOLDER as WORLD

_GATHER, _JUDGE = 13, 14  # streams of seeds, beside those of an episode
_TOGETHER = 64  # tasks at once


@dataclass(frozen=True)
class Rounds:
    """What is learned from the agent's own episodes, after what is learned from memory.

    Args:
        count: rounds; 0 for none.
        episodes: of each.
        steps: optimiser steps after each.
        budget: steps of an episode; as in memory if None.
        mode: who acts. Of mode2, plans that led to their goal are imitated.
        roll_in: share of the budget in which mode 1 may act before mode2 takes over, in half of the
            episodes.
        learning_rate: peak, in each round.
        tasks: that mode 1 is judged on before the first round and after each.
        workers: processes that step the environments; with 0 or 1 it is that which learns.
        still: the dynamics stand still in a round whose steps have at most so many times the energy
            of memory's, see `frozen.py`; None: they are corrected in each.
        keep: which agent the run holds in the end: that of the last round, or of the one after
            which mode 1 did best on `tasks` (the latest of equals), which may be none: 0.
    """

    count: int = 0
    episodes: int = 128
    steps: int = 1000
    budget: int | None = None
    mode: Literal["mode1", "mode2", "auto", "learned"] = "mode2"
    roll_in: float = 0.4
    learning_rate: float = 5e-4
    tasks: int = 64
    workers: int = 0
    still: float | None = None
    keep: Literal["last", "best"] = "last"

    def __post_init__(self) -> None:
        within("rounds", 0, count=self.count, workers=self.workers)
        within("rounds", 1, episodes=self.episodes, steps=self.steps, tasks=self.tasks)
        within("rounds", 1, **({} if self.budget is None else {"budget": self.budget}))
        within("rounds", 0, **({} if self.still is None else {"still": self.still}))
        within("rounds", 0, 1, roll_in=self.roll_in, learning_rate=self.learning_rate)


@dataclass(frozen=True)
class Row:
    """What there is to tell of a round, and of the agent after it; 0 is before the first.

    Args:
        round: its number.
        env_steps: actions that the agent has taken in all rounds so far, however often each was
            repeated.
        gathered: episodes of this round.
        gathered_solved: share of them that came to the goal at some time.
        crashes: how often the environment failed in it, or while mode 1 was judged after it, and
            was started again.
        solved, low, high: share of `rounds.tasks` that mode 1 solves, with Wilson's 95 % interval.
        total: mean return of mode 1 on them.
        error: its standard error; not a number in tables of earlier versions.
        strange: how badly the round's steps were foretold before it learned from them, against
            memory's; not a number before the first, and in such tables.
        corrected: whether the dynamics learned from them: 1 or 0.
    """

    round: int
    env_steps: int
    gathered: int
    gathered_solved: float
    crashes: int
    solved: float
    low: float
    high: float
    total: float
    error: float = math.nan
    strange: float = math.nan
    corrected: int = 1


class Field:
    """Where an agent goes out.

    Args:
        env: id of its environment.
        settings: of the environment.
        rounds: how much of it.
        seed: of all rounds.

    Raises:
        UserError: no environment, or one that cannot be made so.
    """

    def __init__(
        self, env: str | None, settings: dict[str, Any], rounds: Rounds, seed: int
    ) -> None:
        if env is None:
            raise UserError("rounds.count needs memory of an environment; this dataset names none")
        self.env, self.rounds, self.seed = env, rounds, seed
        self.settings = settings | ({} if rounds.budget is None else {"budget": rounds.budget})
        one = self._make(1)
        self.budget, self.goal = one.budget, one.shows_goal
        one.close()

    @property
    def longest(self) -> int:
        """Decisions of mode 1 before mode 2, at most."""
        return int(self.rounds.roll_in * self.budget)

    def gather(
        self,
        agent: Path,
        number: int,
        out: Path,
        device: str,
        progress: Callable[[int, int, int], None] | None = None,
    ) -> Collected:
        """The episodes of a round; those that are in the folder already stay.

        Args:
            agent: the run folder of the agent that goes.
            number: of the round.
            out: the folder.
            device: where it computes.
            progress: see `collect`.
        """
        mode = self.rounds.mode

        def made(env: BatchEnv) -> Agent:
            one = Agent.load(agent, env, mode, device)
            if mode == "mode2":
                one.configurator = RollIn(self.longest)
            return one

        base = seed_of(self.seed, EPISODE, _GATHER, number) % 2**31
        who = (f"round {number}", made)
        return collect(
            self.env, who, self.rounds.episodes, out, base, None, self.settings, progress,
            self.rounds.workers,
        )  # fmt: skip

    def planned(self, one: Trajectory) -> tuple[int, int]:
        """From and to which of its frames an episode was planned, and is to be imitated."""
        if self.rounds.mode != "mode2" or one.seed is None:
            return 0, 0
        begin, end = rolled_in(one.seed, self.longest), len(one.actions)
        if not self.goal:
            return begin, end
        solved = one.success.argmax() if one.success.any() else 0
        return (begin, int(solved)) if solved > begin else (0, 0)

    def judged(self, agent: Path, device: str, crashes: Crashes) -> dict[str, float]:
        """Share of the tasks that mode 1 solves, its interval, the mean return and its error.

        Args:
            agent: the run folder of the agent.
            device: where it computes.
            crashes: where those of the environment are noted.
        """
        # Layouts that memory does not have.
        make = partial(self._make, min(self.rounds.tasks, _TOGETHER), "scenes")
        env = lasting(self.env, make, crashes)
        try:
            base = seed_of(self.seed, EPISODE, _JUDGE) % 2**31
            tasks = choose_tasks(env, self.rounds.tasks, base)
            one = Agent.load(agent, env, "mode1", device)
            found = play_trials(env, one, tasks, env.stays).trials  # as agent eval plays them
        finally:
            env.close()
        solved = sum(trial.success for trial in found)
        share = wilson(solved, len(found))
        totals = np.array([trial.total for trial in found])
        error = totals.std(ddof=1) / len(totals) ** 0.5 if len(totals) > 1 else math.nan
        told = {"solved": share.value, "low": share.low, "high": share.high}
        return told | {"total": float(totals.mean()), "error": float(error)}

    def kept(self, rows: Sequence[Row]) -> int:
        """The round whose agent is kept: by what mode 1 solves of goals, or by its return."""
        if self.rounds.keep == "last":
            return rows[-1].round
        return max(rows, key=lambda row: (row.solved if self.goal else row.total, row.round)).round

    def _make(self, batch: int, *without: str) -> BatchEnv:
        settings = {name: value for name, value in self.settings.items() if name not in without}
        return make_batch(self.env, batch, workers=self.rounds.workers, **settings)


class Table:
    """`rounds.csv`: a row for each round, written whole each time.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[Row] = []
        if path.exists():
            counts = [one.name for one in fields(Row) if one.type == "int"]
            told: list[dict[str, Any]] = list(csv.DictReader(path.read_text().splitlines()))
            for row in told:
                read: dict[str, Any] = {
                    name: int(x) if name in counts else float(x) for name, x in row.items()
                }
                self.rows.append(Row(**read))

    def put(self, row: Row) -> None:
        """Add the row of a round, or replace it and those that came after."""
        self.rows = [*self.rows[: row.round], row]
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([one.name for one in fields(Row)])
        writer.writerows(astuple(one) for one in self.rows)
        write_whole(self.path, text.getvalue())

    def told(self) -> list[dict[str, Any]]:
        """The rows for a summary, where what is not a number is None: JSON has no other word."""
        rows = [asdict(row) for row in self.rows]
        return [{name: x if math.isfinite(x) else None for name, x in row.items()} for row in rows]


def bring_back(place: Path, run: Path) -> None:
    """Put the agent and the world model of a round in the place of the run's.

    A kill on the way is mended by the resumed run, which writes both anew.

    Args:
        place: folder of the round that began with them.
        run: folder of the run.
    """
    for part in (FOLDER, WORLD):
        shutil.copytree(place / part, run / part, dirs_exist_ok=True)


def round_words(row: Row, goal: bool) -> str:
    """A row in words."""
    if row.round:
        solved = f" ({row.gathered_solved:.1%} solved)" if goal else ""
        what = f"round {row.round}: {row.gathered} episodes{solved}, {row.env_steps} actions so far"
        still = "" if row.corrected else ": the dynamics stood still"
        what += f"; foretold with {row.strange:.2f} of memory's energy{still}"
    else:
        what = "before rounds"
    failed = f"; the environment crashed {row.crashes} times" if row.crashes else ""
    if not goal:
        return f"{what}; return of mode 1 {row.total:.1f} (error {row.error:.1f}){failed}"
    return f"{what}; mode 1 solves {row.solved:.1%} ({row.low:.1%} to {row.high:.1%}){failed}"
