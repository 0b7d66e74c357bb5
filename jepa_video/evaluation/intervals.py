"""How sure a measured accuracy is: Wilson's interval, and the bootstrap over groups.

Clips of one group (the same person, the same scene) succeed and fail together, so that an interval
over clips is too narrow; the bootstrap draws whole groups. Two encoders are compared on the same
draws: what makes a draw easy for both then cancels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from jepa_video.errors import UserError

Scores = npt.ArrayLike
_CHUNK: Final = 500


@dataclass(frozen=True)
class Interval:
    """A measured value and the interval around it, all in the unit of the value."""

    value: float
    low: float
    high: float

    def excludes(self, point: float = 0.0) -> bool:
        """Whether the interval lies wholly on one side of `point`."""
        return self.low > point or self.high < point


def wilson(hits: float, total: int, confidence: float = 0.95) -> Interval:
    """The interval of a share `hits / total` of independent trials (Wilson 1927, eq. 4).

    Unlike the normal approximation it never leaves 0..1 and is not empty at 0 or `total` hits.
    """
    if total < 1 or not 0 <= hits <= total:
        raise UserError(f"a share needs 0 <= hits <= total and total >= 1, got {hits} of {total}")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = hits / total
    middle = (share + z * z / (2 * total)) / (1 + z * z / total)
    spread = math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    half = z * spread / (1 + z * z / total)
    return Interval(share, max(0.0, middle - half), min(1.0, middle + half))


def bootstrap_accuracy(
    scores: Scores,
    groups: Sequence[Hashable] | None = None,
    *,
    confidence: float = 0.95,
    draws: int = 10_000,
    seed: int = 0,
) -> Interval:
    """The percentile interval of a mean score over draws of groups with replacement.

    Args:
        scores: `N` (1 where right, 0 where wrong), or `S N` for `S` seeds, averaged first.
        groups: `N` names; none means that every clip is its own group.
        confidence: of the interval.
        draws: of the bootstrap.
        seed: of the draws.
    """
    values = _per_clip(scores)
    means = _resampled(values, _codes(groups, len(values)), draws, seed)
    return _percentiles(float(values.mean()), means, confidence)


def paired_difference(
    scores: Scores,
    others: Scores,
    groups: Sequence[Hashable] | None = None,
    *,
    confidence: float = 0.95,
    draws: int = 10_000,
    seed: int = 0,
) -> Interval:
    """The interval of mean `scores` minus mean `others`, both measured on the same clips.

    Arguments are those of `bootstrap_accuracy`; `scores` and `others` may differ in seeds.
    """
    ours, theirs = _per_clip(scores), _per_clip(others)
    if len(ours) != len(theirs):
        raise UserError(
            f"a paired difference needs the same clips on both sides, got {len(ours)} "
            f"and {len(theirs)}"
        )
    difference = ours - theirs
    means = _resampled(difference, _codes(groups, len(ours)), draws, seed)
    return _percentiles(float(difference.mean()), means, confidence)


def bootstrap_statistic(
    statistic: Callable[[npt.NDArray[np.int64]], npt.NDArray[np.float64]],
    count: int,
    groups: Sequence[Hashable] | None = None,
    *,
    confidence: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> Interval:
    """The percentile interval of any statistic of `count` clips, over draws of whole groups.

    A draw repeats clips, by which a ranking gains and a spread shrinks: the mean of the draws less
    the value is taken off, so that the interval lies around the value.

    Args:
        statistic: takes how often each clip was drawn, `R N`, and gives the statistic of each of
            the `R` draws; NaN where it has none.
        count: of the clips, `N`.
        groups: `N` names; none means that every clip is its own group.
        confidence: of the interval.
        draws: of the bootstrap.
        seed: of the draws.
    """
    value = float(statistic(np.ones((1, count), np.int64))[0])
    codes = _codes(groups, count)
    parts = [statistic(times[:, codes]) for times in _times(int(codes.max()) + 1, draws, seed)]
    found = np.concatenate(parts)
    found = found[np.isfinite(found)]
    bias = found.mean() - value if len(found) else 0.0
    return _percentiles(value, found - bias, confidence)


def _per_clip(scores: Scores) -> npt.NDArray[np.float64]:
    values = np.asarray(scores, np.float64)
    values = values.mean(0) if values.ndim == 2 else values
    if values.ndim != 1 or not len(values):
        raise UserError(f"scores must have the shape N or S N, got {np.shape(scores)}")
    return values


def _codes(groups: Sequence[Hashable] | None, count: int) -> npt.NDArray[np.int64]:
    if groups is None:
        return np.arange(count)
    if len(groups) != count:
        raise UserError(f"there must be a group for each of {count} clips, got {len(groups)}")
    number: dict[Any, int] = {}
    return np.array([number.setdefault(group, len(number)) for group in groups])


def _resampled(
    values: npt.NDArray[np.float64], codes: npt.NDArray[np.int64], draws: int, seed: int
) -> npt.NDArray[np.float64]:
    """Means of `draws` samples of as many groups as there are, with replacement."""
    sums, counts = np.bincount(codes, weights=values), np.bincount(codes)
    chunks = _times(len(counts), draws, seed)
    return np.concatenate([(times @ sums) / (times @ counts) for times in chunks])


def _times(size: int, draws: int, seed: int) -> Iterator[npt.NDArray[np.int64]]:
    """How often each of `size` groups is drawn, `R size` at a time."""
    rng = np.random.default_rng(seed)
    for start in range(0, draws, _CHUNK):  # by chunks: a large set has one group for each clip
        yield rng.multinomial(size, np.full(size, 1 / size), size=min(_CHUNK, draws - start))


def _percentiles(value: float, means: npt.NDArray[np.float64], confidence: float) -> Interval:
    tail = (1 - confidence) / 2
    if not len(means):
        return Interval(value, math.nan, math.nan)
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(value, float(low), float(high))
