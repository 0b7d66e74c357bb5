"""A guide: pictures of places on the scripted way, as sub-goals for whoever goes by pictures.

What an agent makes of them is what knowing the way is worth to it: no level above it can do better.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from jepa_video.agent.trials import Tasks, play_trials, replay
from jepa_video.envs.base import Array, BatchEnv
from jepa_video.envs.policies import make_policy
from jepa_video.errors import UserError


def guided(env: BatchEnv, tasks: Tasks, count: int) -> Tasks:
    """The tasks with pictures of `count` places, evenly in time on the scripted way of each.

    Args:
        env: any number of environments that step together.
        tasks: of them.
        count: pictures of each, beside that of the goal.

    Raises:
        UserError: a negative count, no goal's picture or no scripted way.
    """
    if count < 0:
        raise UserError(f"via must be 0 or more, not {count}")
    if not count:
        return tasks
    if not (env.shows_goal and env.has("expert")):
        raise UserError(f"--via shows places on the scripted way to a goal; {env.id} has none")
    trials = play_trials(env, make_policy("scripted", env), tasks).trials
    found: list[Array] = []
    for at in range(0, len(trials), env.batch):
        which = [min(at + i, len(trials) - 1) for i in range(env.batch)]
        frames, _ = replay(env, tasks.chosen(which), [trials[i] for i in which])
        for shown in frames[: len(trials) - at]:
            times = np.linspace(0, len(shown) - 1, count + 2)[1:-1]
            found.append(shown[times.round().astype(int)])
    return replace(tasks, via=np.stack(found))


def numbered(env: BatchEnv, tasks: Tasks) -> Tasks:
    """The tasks with goals that are told as numbers of their state, and not shown.

    Args:
        env: whose goals they are.
        tasks: of it.

    Raises:
        UserError: it tells no state of a goal, or pictures are to be shown on the way.
    """
    if not (env.shows_goal and env.state_size):
        raise UserError(f"--goals state tells the state of a goal; {env.id} has none")
    if tasks.via is not None:
        raise UserError("--via shows pictures, and --goals state none: leave one of them out")
    return replace(tasks, numbers=True)
