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
    """

    id: str
    batch: int
    rate: Interval
    alone: Interval


def frame_rates(
    ids: Sequence[str],
    batch: int,
    rounds: int,
    seed: int,
    told: Callable[[int, int], None] = lambda done, total: None,
) -> list[Rate]:
    """A row for each environment. Time is that of the processor, which other load does not change.

    Args:
        ids: names.
        batch: how many step together.
        rounds: of an episode each, of random actions.
        seed: of episodes and actions.
        told: called with how many environments are done, and of how many.

    Raises:
        UserError: no or an unknown environment, a batch below 1, fewer than two rounds or a
            negative seed.
    """
    if batch < 1 or rounds < 2:
        raise UserError(f"batch must be 1 or more and rounds 2 or more, not {batch} and {rounds}")
    if not ids or seed < 0:
        raise UserError(f"envs must name one, and seed be 0 or more, not {list(ids)} and {seed}")
    from ..envs import make_batch  # of an extra

    for id in ids:
        make_batch(id, 1).close()  # who is unknown is told before anybody is timed
    found = []
    for number, id in enumerate(ids):
        each = [_rate(make_batch(id, size), rounds, seed) for size in (batch, 1)]
        found.append(Rate(id, batch, *each))
        told(number + 1, len(ids))
    return found


def _rate(env: BatchEnv, rounds: int, seed: int) -> Interval:
    """Over rounds after a first one that warms up."""
    from ..envs.policies import make_policy
    from ..envs.rollout import HELD_OUT, seeds_of

    policy, rates = make_policy("random", env), []
    for turn in range(rounds + 1):
        seeds = seeds_of(seed, env.batch, HELD_OUT, turn * env.batch)
        seen, _ = env.reset(seed=seeds)
        policy.reset(seeds)
        steps = min(env.budget, _MOST)
        actions = [policy.act(seen) for _ in range(steps)]
        made, alive = 0, np.ones(env.batch, bool)
        began = time.process_time()
        for action in actions:
            _, _, ended, cut, _ = env.step(action)
            made += int(alive.sum())  # who has ended draws nothing
            alive &= ~(ended | cut)
        rates.append(made / max(time.process_time() - began, 1e-9))
    env.close()
    return bootstrap_accuracy(np.array(rates[1:]))
