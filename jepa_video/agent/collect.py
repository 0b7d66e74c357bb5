"""collect: a policy's episodes into a folder; the same line goes on after a kill, or with more."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from jepa_video.agent.crashes import Crashes, again, lasting
from jepa_video.agent.recording import Recording
from jepa_video.envs.base import BatchEnv
from jepa_video.envs.policies import POLICIES, Policy, make_policy
from jepa_video.envs.registry import WORLDS, all_settings, make_batch
from jepa_video.envs.rollout import Episode, play, seeds_of
from jepa_video.errors import UserError

Progress = Callable[[int, int, int], None]
Maker = Callable[[BatchEnv], Policy]
_TOGETHER: Final = (64, 8)  # episodes at once: of our own worlds, and of other packages'


@dataclass(frozen=True)
class Collected:
    """What a folder holds after a call: `new` episodes came in, of `episodes` with `frames`.

    `success` is the share that was solved at some time, by policy; empty where nothing is ever
    solved since the environment tells returns alone. `crashes` tells what the environment raised
    each time that it failed and was started again, in all calls for this policy and seed.
    """

    new: int
    episodes: int
    frames: int
    success: dict[str, float]
    crashes: list[str]


def collect(
    env: str,
    policy: str | tuple[str, Maker],
    episodes: int,
    out: Path,
    seed: int = 0,
    batch: int | None = None,
    settings: dict[str, Any] | None = None,
    progress: Progress | None = None,
    workers: int = 0,
) -> Collected:
    """Play until the folder holds `episodes` of this policy and seed; what is there stays.

    Episode i is a function of the environment, the policy, the seed and i. Another policy or seed
    of the same environment adds its own episodes to the folder. An environment that crashes is
    made anew and its episodes are begun again.

    Args:
        env: its id.
        policy: a name of `envs.policies.POLICIES`, or the run folder of an agent; or a name with
            what makes the policy for an environment.
        episodes: how many of this policy and seed there shall be.
        out: the folder.
        seed: of the episodes.
        batch: how many are played at once; None takes 64, and 8 of other packages' environments,
            but one for each worker at least.
        settings: the environment's own.
        progress: called with the episodes of this policy and seed that are done and that are to be,
            and the frames that came in.
        workers: processes that step the environments, see `make_batch`; no episode depends on it.

    Raises:
        UserError: what cannot be made, a folder of something else, or one that is in use; an
            environment that crashes in the same episodes again and again.
    """
    if episodes < 1 or (batch is not None and batch < 1):
        raise UserError("episodes and batch must be 1 or more")
    if seed < 0:
        raise UserError(f"seed must be 0 or more, not {seed}")
    together = batch or max(_TOGETHER[env not in WORLDS], workers)
    settings = json.loads(json.dumps(all_settings(env, settings or {})))  # as the folder tells them
    if isinstance(policy, str):
        asked = policy
        name, maker = _name(asked), lambda env: policy_of(asked, env)
    else:
        name, maker = policy
    stage = _Stage(env, settings, maker, workers)
    try:
        first = stage.ready(min(together, episodes))[0]
        tells, recording = first.tells_success, again(_recording)(first, out, settings)
        with recording.opened():
            stage.crashes.keep(recording.meta / "crashes.jsonl", policy=name, base=seed)
            done = begun = recording.made(name, seed)
            frames = 0
            tell = progress or (lambda done, total, frames: None)
            tell(done, episodes, frames)
            while done < episodes:
                # Whole batches, counted from the first episode: a resumed one plays the same.
                end = min((done // together + 1) * together, episodes)
                played = stage.played(seeds_of(seed, end - done, first=done))
                recording.add(played, name, seed, done)
                done = end
                frames += sum(len(episode.frames) for episode in played)
                tell(done, episodes, frames)
            return _summary(recording, max(done - begun, 0), stage.crashes.told, tells)
    finally:
        stage.close()


class _Stage:
    """A batch of environments with its policy, another one where another number is needed."""

    def __init__(self, env: str, settings: dict[str, Any], maker: Maker, workers: int) -> None:
        self.env, self.settings, self.maker, self.workers = env, settings, maker, workers
        self.crashes = Crashes()
        self._now: tuple[BatchEnv, Policy] | None = None

    def ready(self, batch: int) -> tuple[BatchEnv, Policy]:
        if self._now is None or self._now[0].batch != batch:
            self.close()
            make = partial(make_batch, self.env, batch, workers=self.workers, **self.settings)
            env = lasting(self.env, make, self.crashes)
            self._now = env, self.maker(env)
        return self._now

    def played(self, seeds: list[int]) -> list[Episode]:
        """One episode for each seed; where the environment crashes, all of them anew."""
        env, policy = self.ready(len(seeds))
        return again(play)(env, policy, seeds)

    def close(self) -> None:
        if self._now is not None:
            self._now[0].close()
            self._now = None


def _recording(env: BatchEnv, out: Path, settings: dict[str, Any]) -> Recording:
    return Recording(out, env, settings)


def _name(policy: str) -> str:
    """As the folder tells it."""
    return policy if policy in POLICIES else os.path.normpath(policy)


def policy_of(name: str, env: BatchEnv) -> Policy:
    """A policy by name, or the agent whose run folder lies there.

    Raises:
        UserError: neither a name nor the run of an agent.
    """
    if name in POLICIES:
        return make_policy(name, env)
    if not Path(name).exists():
        known = ", ".join(POLICIES)
        raise UserError(
            f"there is no policy {name!r} (expected one of {known}, or the run folder of an agent)"
        )
    from jepa_video.agent.agent import Agent  # torch and Lightning: seconds that others need not

    return Agent.load(name, env)


def _summary(recording: Recording, new: int, crashes: list[str], tells: bool) -> Collected:
    rows = recording.rows
    success = {}
    for policy in dict.fromkeys(row["policy"] for row in rows):
        ends = [row["success"] for row in rows if row["policy"] == policy]
        success[policy] = sum(ends) / len(ends)
    if not tells and not any(success.values()):
        success = {}
    return Collected(new, len(rows), sum(row["length"] for row in rows), success, crashes)
