"""A worker: the process that steps a part of a batch for `split.py`, a line of JSON a job.

It answers with arrays as raw bytes behind a line that says what they are; nothing is unpickled.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from jepa_video.errors import UserError
from jepa_video.watched import Job, serve

if TYPE_CHECKING:
    from jepa_video.envs.base import Array, BatchEnv

Groups = dict[str, dict[str, "Array"]]


def main() -> None:
    """Answer jobs until the input ends."""
    serve(_Part().answer, lambda words: {"raised": words})


def packed(**groups: Mapping[str, Any]) -> Job:
    """Arrays by group and name as an answer."""
    all_of = [(g, n, np.asarray(x)) for g, group in groups.items() for n, x in group.items()]
    head = [(group, name, x.dtype.str, x.shape) for group, name, x in all_of]
    return {"arrays": head, "bytes": b"".join(x.tobytes() for _, _, x in all_of)}


def unpacked(answer: Job) -> Groups:
    """The arrays of an answer, by group and name."""
    groups: Groups = {}
    at = 0
    for group, name, kind, shape in answer["arrays"]:
        array: Array = np.ndarray(shape, np.dtype(kind), answer["bytes"], at)
        groups.setdefault(group, {})[name] = array
        at += array.nbytes
    return groups


class _Part:
    """Some environments of a batch, made by the first job."""

    env: BatchEnv

    def answer(self, job: Job) -> Job:
        """Do what a job says; what fails is an answer too."""
        call, given = job["call"], job.get("given", {})
        try:
            done: Job = getattr(self, call)(**given)
        except UserError as error:
            return {"refused": str(error)}
        except Exception as error:  # whatever another package raises
            return {"raised": f"{type(error).__name__}: {error}"}
        return done

    def make(self, id: str, batch: int, settings: dict[str, Any], path: list[str]) -> Job:
        """Make them; what is told is the same of every part."""
        # An environment that lies beside the caller's script is found, and shadows no module here.
        sys.path += [folder for folder in path if folder not in sys.path]
        from jepa_video.envs.base import Pace  # gymnasium: not before all workers are started
        from jepa_video.envs.registry import make_batch

        self.env = env = make_batch(id, batch, **settings)
        pace: Pace = env.pace
        shape = env.single_observation_space["pixels"].shape or ()  # type: ignore[index]
        return {
            "id": env.id,
            "budget": env.budget,
            "pace": [pace.stack, pace.repeat],
            "discrete": env.discrete,
            "action_size": env.action_size,
            "action_norm": env.action_norm,
            "picture": shape[-3:-1],
            "shows_goal": env.shows_goal,
            "state_size": env.state_size,
            "state_names": env.state_names,
            "stays": env.stays,
            "tells_success": env.tells_success,
            "has": [name for name in ("expert", "straight") if env.has(name)],
            "guides": getattr(env, "guides", None),
            "sees": hasattr(env, "state") and hasattr(env, "success"),
            "tasks": len(getattr(env, "task_names", ())),
        }

    def reset(self, seed: list[int], mask: list[bool], tasks: list[list[float]] | None) -> Job:
        """Begin episodes, named by their seeds."""
        options: dict[str, Any] = {"reset_mask": np.array(mask, bool)}
        options |= {} if tasks is None else {"tasks": np.array(tasks, np.float64)}
        observation, told = self.env.reset(seed=seed, options=options)
        return packed(seen=observation, told=told, truth=self._truth())

    def step(self, actions: Any) -> Job:
        """Take actions."""
        observation, rewards, ended, cut, told = self.env.step(np.array(actions))
        came = {"rewards": rewards, "ended": ended, "cut": cut}
        return packed(seen=observation, told=told, truth=self._truth(), came=came)

    def propose(self, name: str) -> Job:
        """Actions of the `expert` or the `straight` line."""
        return packed(came={"actions": getattr(self.env, name)()})

    def render(self) -> Job:
        """The pictures of now."""
        drawn: Any = self.env.render()
        return packed(came={"pictures": np.stack(drawn)})

    def feel(self, places: list[int]) -> Job:
        """See `BatchEnv.feel`."""
        self.env.feel(places)
        return {}

    def close(self) -> Job:
        """Close what runs."""
        self.env.close()
        return {}

    def _truth(self) -> dict[str, Array]:
        """The exact state, where our own worlds let policies see it."""
        state = getattr(self.env, "state", None)
        return {} if state is None else {"state": state}
