"""Schedules: pure functions of the optimiser step."""

from __future__ import annotations

import math


def cosine(step: int, total: int, start: float, end: float) -> float:
    """Half a cosine from `start` at step 0 to `end` at step `total`, and `end` afterwards."""
    progress = min(max(step / max(total, 1), 0.0), 1.0)
    return end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * progress))


def warmup_cosine(
    step: int, total: int, warmup: int, start: float, peak: float, end: float
) -> float:
    """Linear from `start` to `peak` over `warmup` steps, then a cosine to `end` at step `total`."""
    if step < warmup:
        return start + (peak - start) * step / warmup
    return cosine(step - warmup, total - warmup, peak, end)


def staged(begin: int, end: int, warmup: float, step: int) -> float:
    """`warmup_cosine` from 1 to a tenth within the steps `begin` to `end`, 0 outside of them.

    Args:
        begin: first step.
        end: the one after the last.
        warmup: share of the stage in which it rises from 0.
        step: to be looked at.
    """
    if not begin <= step < end:
        return 0.0
    return warmup_cosine(step - begin + 1, end - begin, int(warmup * (end - begin)), 0.0, 1.0, 0.1)
