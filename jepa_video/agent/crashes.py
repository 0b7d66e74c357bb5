"""Crashes: an environment that fails is made anew, what was played is played again, and it is told.

    crashes = Crashes()
    env = lasting("gym/Pendulum-v1", lambda: make_batch("gym/Pendulum-v1", 4), crashes)
    episodes = again(play)(env, policy, seeds)

An episode follows from its seed and its actions, so that what is played again is what would have
been without the crash.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, Final, ParamSpec, TypeVar, cast

from jepa_video.data.lerobot import whole_rows
from jepa_video.envs.base import Array, BatchEnv
from jepa_video.envs.rollout import Crashed, of_env
from jepa_video.errors import UserError
from jepa_video.training.run import write_whole

TRIES: Final = 3  # of the same episodes, and of making an environment

P = ParamSpec("P")
T = TypeVar("T")


class Crashes:
    """What environments raised, each time that they failed and were started again.

    Attributes:
        told: in words, the first one first.
    """

    def __init__(self) -> None:
        self.told: list[str] = []
        self._path: Path | None = None
        self._of: dict[str, Any] = {}

    def keep(self, path: Path, **of: Any) -> None:
        """Count those in a file too, and from now on keep all in it: a kill does not lose them.

        Args:
            path: a line of JSON for each; made at the first crash.
            of: what they belong to; those of others stay in the file and are not counted.
        """
        self._path, self._of, new = path, of, self.told
        self.told = [row["crash"] for row in whole_rows(path) if row.items() >= of.items()]
        for crash in new:
            self.note(crash)

    def note(self, crash: str) -> None:
        """One more."""
        self.told.append(crash)
        if self._path is not None:
            rows = [*whole_rows(self._path), {**self._of, "crash": crash}]
            write_whole(self._path, "".join(json.dumps(row) + "\n" for row in rows))


def crash_words(env: str, told: Sequence[str]) -> list[str]:
    """A line on how often an environment crashed, and how at last; none where it did not."""
    if not told:
        return []
    times = f"{len(told)} times" if len(told) > 1 else "once"
    return [f"{env} crashed {times} and was started again: {told[-1]}"]


def lasting(id: str, make: Callable[[], BatchEnv], crashes: Crashes) -> BatchEnv:
    """A batch of environments that `again` can make anew; whoever holds it need not know.

    Args:
        id: its name in messages.
        make: gives the batch.
        crashes: where those are noted.

    Raises:
        UserError: what `make` raises as one, or whatever else it raises in each of three tries.
    """
    return cast(BatchEnv, _Lasting(id, make, crashes))


def again(
    played: Callable[Concatenate[BatchEnv, P], T],
) -> Callable[Concatenate[BatchEnv, P], T]:
    """The same, but begun anew where the environment crashes: the first argument, a `lasting` one.

    Of any other the crash goes on to the caller.

    Raises:
        UserError: it crashes in each of three tries.
    """

    @wraps(played)
    def tried(env: BatchEnv, /, *args: P.args, **options: P.kwargs) -> T:
        if not isinstance(env, _Lasting):
            return played(env, *args, **options)
        for _ in range(TRIES):
            try:
                return played(env, *args, **options)
            except Crashed as crash:
                env.drop(str(crash))
        raise UserError(f"{env.called} crashed {TRIES} times in the same episodes: {env.last}")

    return tried


class _Lasting:
    """All that the environment has, which is made where there is none."""

    def __init__(self, id: str, make: Callable[[], BatchEnv], crashes: Crashes) -> None:
        self.called, self._make, self._crashes = id, make, crashes
        self._felt: tuple[int, ...] = ()
        self._env: BatchEnv | None = self._made()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._now(), name)

    # What plays is asked by methods that stay when the environment does not: policies hold them.

    def reset(self, **options: Any) -> Any:
        return of_env(self._now().reset, **options)

    def step(self, actions: Any) -> Any:
        return of_env(self._now().step, actions)

    def expert(self) -> Array:
        return cast(Array, of_env(self._now().expert))

    def straight(self) -> Array:
        return cast(Array, of_env(self._now().straight))

    def feel(self, places: Sequence[int]) -> None:
        self._now().feel(places)
        self._felt = (*self._felt, *places)

    def close(self) -> None:
        if self._env is not None:
            self._env.close()

    @property
    def last(self) -> str:
        """What it raised at last."""
        return self._crashes.told[-1]

    def drop(self, crash: str) -> None:
        """It has crashed; another one is made as soon as it is needed."""
        self._crashes.note(crash)
        with contextlib.suppress(Exception):  # a broken one may not even close
            self.close()
        self._env = None

    def _now(self) -> BatchEnv:
        if self._env is None:
            self._env = self._made()
            if self._felt:
                self._env.feel(self._felt)
        return self._env

    def _made(self) -> BatchEnv:
        for _ in range(TRIES):
            try:
                return cast(BatchEnv, of_env(self._make))
            except Crashed as crash:
                self._crashes.note(str(crash))
        raise UserError(f"{self.called} could not be started in {TRIES} tries: {self.last}")
