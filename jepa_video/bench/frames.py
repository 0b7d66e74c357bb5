"""How many frames a second an environment makes: steps with their pictures, on one core."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..errors import UserError
from ..evaluation.intervals import Interval, bootstrap_accuracy

if TYPE_CHECKING:
    from ..envs.base import BatchEnv

_MOST = 100  # steps of a round


@dataclass(frozen=True)
class Rate:
    """Of one environment.

    Args:
        id: its name.
        batch: how many step together.
        rate: frames for each second of the processor; the interval is of 95 % over rounds.
        alone: the same of one that steps by itself.
        here, split: the same of the batch for each second of the clock on the wall, in this process
            and by workers; None where no workers are asked for.
    """

    id: str
    batch: int
    rate: Interval
    alone: Interval
    here: Interval | None = None
    split: Interval | None = None


def frame_rates(
    ids: Sequence[str],
    batch: int,
    rounds: int,
    seed: int,
    workers: int = 0,
    told: Callable[[int, int], None] = lambda done, total: None,
) -> list[Rate]:
    """A row for each environment. Time is that of the processor, which other load does not change.

    Args:
        ids: names.
        batch: how many step together.
        rounds: of an episode each, of random actions.
        seed: of episodes and actions.
        workers: with 2 or more, also the time on the wall, without and with so many processes.
        told: called with how many environments are done, and of how many.

    Raises:
        UserError: no or an unknown environment, a batch below 1, fewer than two rounds, a negative
            seed, or workers that have no environment.
    """
    if batch < 1 or rounds < 2:
        raise UserError(f"batch must be 1 or more and rounds 2 or more, not {batch} and {rounds}")
    if not ids or seed < 0:
        raise UserError(f"envs must name one, and seed be 0 or more, not {list(ids)} and {seed}")
    if not 0 <= workers <= batch:
        raise UserError(f"workers must be from 0 to the batch of {batch}, not {workers}")
    from ..envs import make_batch  # of an extra

    for id in ids:
        make_batch(id, 1).close()  # who is unknown is told before anybody is timed
    found = []
    for number, id in enumerate(ids):
        each = [_rate(make_batch(id, size), rounds, seed) for size in (batch, 1)]
        if workers > 1:  # what a worker does is not in the time of this process
            for count in (0, workers):
                env = make_batch(id, batch, workers=count)
                each.append(_rate(env, rounds, seed, "perf_counter"))
        found.append(Rate(id, batch, *each))
        told(number + 1, len(ids))
    return found


def _rate(env: BatchEnv, rounds: int, seed: int, clock: str = "process_time") -> Interval:
    """Over rounds after a first one that warms up."""
    from ..envs.policies import make_policy
    from ..envs.rollout import HELD_OUT, seeds_of

    policy, rates, now = make_policy("random", env), [], getattr(time, clock)
    for turn in range(rounds + 1):
        seeds = seeds_of(seed, env.batch, HELD_OUT, turn * env.batch)
        seen, _ = env.reset(seed=seeds)
        policy.reset(seeds)
        steps = min(env.budget, _MOST)
        actions = [policy.act(seen) for _ in range(steps)]
        made, alive = 0, np.ones(env.batch, bool)
        began = now()
        for action in actions:
            _, _, ended, cut, _ = env.step(action)
            made += int(alive.sum())  # who has ended draws nothing
            alive &= ~(ended | cut)
        rates.append(made / max(now() - began, 1e-9))
    env.close()
    return bootstrap_accuracy(np.array(rates[1:]))
