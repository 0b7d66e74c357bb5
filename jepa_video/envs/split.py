"""Split: a batch of environments whose parts are stepped by processes at the same time.

    envs = make_batch("dmc/cartpole-swingup", 8, workers=4)  # two in each process

Symptom: environments of other packages step one after the other, on one core of many.
Why threads fail: they share one interpreter, and OpenGL contexts belong to a thread.
Fix: helper processes (see `watched.py`), each with a part of the batch; all get their jobs
before an answer is awaited. An episode is a function of its seed and its actions wherever it
stands in a batch, so that parts side by side are the whole, bit for bit.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from gymnasium import spaces

from jepa_video.envs.base import (
    Array,
    BatchEnv,
    Observation,
    Pace,
    Told,
    box_actions,
    reset_mask,
)
from jepa_video.envs.worker import Groups, unpacked
from jepa_video.errors import UserError
from jepa_video.watched import Job, Watched

PATIENCE = 300.0  # seconds that a worker may take for an answer; then it hangs
_FAREWELL: Final = 5.0  # and to close what it runs
_CODE: Final = "from jepa_video.envs.worker import main; main()"


class WorkerFailed(RuntimeError):
    """An environment raised something in its worker, or the worker died or hangs."""


def split_batch(id: str, batch: int, workers: int, settings: dict[str, Any]) -> Split:
    """A batch in as many processes; see `registry.make_batch`.

    Raises:
        UserError: the environment cannot be made so.
        WorkerFailed: a worker did not survive it.
    """
    sizes = [len(part) for part in np.array_split(np.arange(batch), workers)]
    try:
        json.dumps(settings)
    except TypeError as error:
        raise UserError(f"{id} with workers takes plain values as settings: {error}") from None
    crew = _Crew(id, len(sizes))
    same = {"id": id, "settings": settings, "path": [str(folder) for folder in sys.path]}
    try:
        facts = crew.ask("make", [{**same, "batch": size} for size in sizes])[0]
        return (_SplitWorld if facts["sees"] else Split)(crew, sizes, facts)
    except BaseException:
        crew.end()
        raise


class Split(BatchEnv):
    """Environments in the processes of a crew.

    Args:
        crew: whose members hold the parts.
        sizes: of the parts.
        facts: what each part tells of itself.
    """

    def __init__(self, crew: _Crew, sizes: Sequence[int], facts: Job) -> None:
        self.id, self.state_names = facts["id"], tuple(facts["state_names"])
        self.action_norm, self.stays = facts["action_norm"], facts["stays"]
        self.tells_success, self._has = facts["tells_success"], facts["has"]
        if facts["guides"] is not None:
            self.guides = tuple(facts["guides"])
        size = facts["action_size"]
        action = spaces.Discrete(size) if facts["discrete"] else box_actions(size)
        super().__init__(action, sum(sizes), facts["budget"], Pace(*facts["pace"]))
        self._see(tuple(facts["picture"]), facts["shows_goal"], facts["state_size"])
        self._crew, self._tasks = crew, facts["tasks"]
        ends = np.cumsum(sizes).tolist()
        self._parts = [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Observation, Told]:
        """Begin episodes; see `BatchEnv`."""
        fresh = reset_mask(options, self.batch, self.id)
        self._seeded(seed, fresh)
        rows = self._rows((options or {}).get("tasks"))
        jobs = [
            {
                "seed": self.seeds[part],
                "mask": fresh[part].tolist(),
                "tasks": None if rows is None else rows[part].tolist(),
            }
            for part in self._parts
        ]
        came = self._asked("reset", jobs)
        self._saw(came)
        return came["seen"], came["told"]

    def step(self, actions: Any) -> tuple[Observation, Array, Array, Array, Told]:
        """Take actions in all environments."""
        wanted = self._actions(actions)
        jobs = [{"actions": wanted[part].tolist()} for part in self._parts]
        groups = self._asked("step", jobs)
        self._saw(groups)
        came = groups["came"]
        return groups["seen"], came["rewards"], came["ended"], came["cut"], groups["told"]

    def has(self, name: str) -> bool:
        """See `BatchEnv`."""
        return name in self._has

    def expert(self) -> Array:
        """See `BatchEnv`."""
        return self._proposed("expert", super().expert)

    def straight(self) -> Array:
        """See `BatchEnv`."""
        return self._proposed("straight", super().straight)

    def feel(self, places: Sequence[int]) -> None:
        """See `BatchEnv`."""
        super().feel(places)
        self._crew.ask("feel", [{"places": list(self.felt)}] * len(self._parts))

    def render(self) -> tuple[Array, ...]:
        """The pictures of now."""
        return tuple(self._asked("render", [{}] * len(self._parts))["came"]["pictures"])

    def close(self, **kwargs: Any) -> None:
        """Close all of them and end their processes; a second time nothing happens."""
        if not self.closed:
            self.closed = True
            self._crew.dismiss()

    def _asked(self, call: str, jobs: Sequence[Job]) -> Groups:
        """What all parts answer, side by side."""
        parts = [unpacked(answer) for answer in self._crew.ask(call, jobs)]
        return {
            group: {name: np.concatenate([part[group][name] for part in parts]) for name in names}
            for group, names in parts[0].items()
        }

    def _proposed(self, name: str, missing: Callable[[], Array]) -> Array:
        if not self.has(name):
            return missing()
        return self._asked("propose", [{"name": name}] * len(self._parts))["came"]["actions"]

    def _saw(self, groups: Groups) -> None:
        """Take note of what came; here of nothing."""

    def _rows(self, tasks: Any) -> Array | None:
        """Tasks that were handed over, where the environment takes any."""
        if tasks is None or not self._tasks:
            return None
        rows, shape = np.asarray(tasks, np.float64), (self.batch, self._tasks)
        if rows.shape != shape:
            raise UserError(f"tasks of {self.id} have the shape {shape}, not {rows.shape}")
        return rows


class _SplitWorld(Split):
    """One of our own worlds, whose exact `state` and `success()` policies may see."""

    state: Array

    def success(self) -> Array:
        """Whether each state is a solved one, bool `B`."""
        return self._solved

    def _saw(self, groups: Groups) -> None:
        self.state, self._solved = groups["truth"]["state"], groups["told"]["success"]


class _Crew:
    """Workers that each hold a part of a batch; where one is lost, all are."""

    def __init__(self, id: str, count: int) -> None:
        self.id, self._owner = id, os.getpid()
        self._members = [Watched(_CODE, PATIENCE) for _ in range(count)]
        self._lost = False

    def ask(self, call: str, jobs: Sequence[Job], patience: float | None = None) -> list[Job]:
        """The answers to a job for each, who work at the same time.

        Raises:
            UserError, WorkerFailed: what one of them says or does.
        """
        if self._lost:
            raise WorkerFailed(f"{self.id}: its workers have ended, it is to be made anew")
        patience = patience or PATIENCE
        try:
            for member, given in zip(self._members, jobs, strict=True):
                member.tell({"call": call, "given": given})
            heard = [member.hear(patience) for member in self._members]
        except BaseException:  # an answer that nobody took must not be read as the next one
            self.end()
            raise
        for number, (answer, in_time) in enumerate(heard, 1):
            if answer is None:
                self.end()
                how = "died" if in_time else f"hangs (no answer in {patience:g} s)"
                raise WorkerFailed(f"{self.id}: worker {number} of {len(heard)} {how}")
        answers = [answer for answer, _ in heard if answer is not None]
        for answer in answers:
            if "refused" in answer:
                raise UserError(answer["refused"])
            if "raised" in answer:
                raise WorkerFailed(f"{self.id}: {answer['raised']}")
        return answers

    def dismiss(self) -> None:
        """Let them close what they run, then end them; those of a forked parent are left alone."""
        if os.getpid() != self._owner:
            return
        if not self._lost:
            with contextlib.suppress(WorkerFailed, UserError):  # who cannot close ends all the same
                self.ask("close", [{}] * len(self._members), _FAREWELL)
        self.end()

    def end(self) -> None:
        """End them at once."""
        self._lost = True
        for member in self._members:  # all at the same time: a large one takes a while to go
            member.kill()
        for member in self._members:
            member.end()
