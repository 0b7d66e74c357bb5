"""The order of a run is a function of epoch and position: whole, fair, the same after a stop."""

from __future__ import annotations

from collections import Counter

import pytest

from jepa_video.data.sampler import ClipSampler, shares
from jepa_video.errors import UserError


def test_every_video_once_in_an_epoch_and_every_epoch_in_another_order() -> None:
    sampler = ClipSampler([7, 10], seed=3)
    first, second = [[index for index, _ in sampler] for _ in range(2)]
    assert sorted(first) == sorted(second) == list(range(17))
    assert first != second and first != list(range(17))
    assert [index for index, _ in ClipSampler([7, 10], seed=4)] != first


def test_ranks_partition_the_epoch_and_share_its_draws() -> None:
    alone = list(ClipSampler([12]))
    ranks = [list(ClipSampler([12], rank=rank, world=3)) for rank in range(3)]
    assert sorted(key for keys in ranks for key in keys) == sorted(alone)


def test_ranks_take_the_same_number_of_steps_and_leave_another_rest_each_time() -> None:
    left = set()
    samplers = [ClipSampler([11], rank=rank, world=4) for rank in range(4)]
    for _ in range(40):
        seen = [[index for index, _ in sampler] for sampler in samplers]
        assert [len(keys) for keys in seen] == [2, 2, 2, 2]
        left |= set(range(11)) - {index for keys in seen for index in keys}
    assert left == set(range(11))


def test_an_epoch_ends_with_a_whole_batch() -> None:
    """The state after the last batch is the start of the next epoch, not some left-over keys."""
    sampler = ClipSampler([23], world=2, batch=4)
    assert len(sampler) == len(list(sampler)) == 8
    keys = iter(sampler)
    for _ in range(8):
        next(keys)
    resumed = ClipSampler([23], world=2, batch=4)
    resumed.load_state_dict(sampler.state_dict())
    assert (resumed.epoch, resumed.position) == (2, 0)


def test_no_draw_comes_twice_in_a_run() -> None:
    sampler = ClipSampler([5, 4], [1.0, 3.0])
    draws = [draw for _ in range(6) for _, draw in sampler]
    assert len(set(draws)) == len(draws) == 54


def test_weights_are_kept_exactly_and_small_sets_are_used_evenly() -> None:
    sampler = ClipSampler([90, 10], [1.0, 1.0], seed=1)
    counts: Counter[int] = Counter()
    for _ in range(9):
        epoch = [index for index, _ in sampler]
        assert sum(index >= 90 for index in epoch) == 50  # half of the epoch, from a tenth of it
        counts.update(epoch)
    # 450 draws of each: the large set walked through five times, the small one 45 times.
    assert {counts[i] for i in range(90)} == {5}
    assert {counts[i] for i in range(90, 100)} == {45}


@pytest.mark.parametrize("weights", [[1.0], [1.0, 0.0], [1.0, -1.0]])
def test_weights_must_fit_the_sets(weights: list[float]) -> None:
    with pytest.raises(UserError, match="one positive number for each of the 2 datasets"):
        ClipSampler([3, 3], weights)


def test_shares_sum_up() -> None:
    assert shares(10, [1, 1, 1]) == [4, 3, 3]
    assert shares(7, [0.9, 0.1]) == [6, 1]


@pytest.mark.parametrize("stop", [0, 1, 9, 17, 18, 25, 36])
@pytest.mark.parametrize("weights", [None, [1.0, 2.0]])
def test_resume_continues_where_the_run_stopped(stop: int, weights: list[float] | None) -> None:
    def stream(sampler: ClipSampler, count: int) -> list[tuple[int, int]]:
        keys: list[tuple[int, int]] = []
        while len(keys) < count:
            for key in sampler:
                keys.append(key)
                if len(keys) == count:
                    return keys
        return keys

    whole = stream(ClipSampler([7, 11], weights, seed=5), 50)
    stopped = ClipSampler([7, 11], weights, seed=5)
    stream(stopped, stop)
    state = stopped.state_dict()
    resumed = ClipSampler([7, 11], weights, seed=5)
    resumed.load_state_dict(state)
    assert stream(resumed, 50 - stop) == whole[stop:]


def test_resume_on_another_number_of_ranks() -> None:
    alone = list(ClipSampler([24], seed=2))
    stopped = ClipSampler([24], seed=2, rank=1, world=4)
    keys = iter(stopped)
    for _ in range(3):  # three on each of four ranks: twelve of the epoch
        next(keys)
    resumed = [ClipSampler([24], seed=2, rank=rank, world=2) for rank in range(2)]
    for sampler in resumed:
        sampler.load_state_dict(stopped.state_dict())
    rest = [key for pair in zip(*resumed, strict=True) for key in pair]
    assert rest == alone[12:]


def test_an_epoch_that_was_left_is_not_begun_again() -> None:
    sampler = ClipSampler([8], seed=1)
    for _ in sampler:
        break
    assert [index for index, _ in sampler] == [i for i, _ in _epoch(1)]


def test_set_epoch_moves_only_to_another_epoch() -> None:
    sampler = ClipSampler([8], seed=1)
    sampler.load_state_dict({"epoch": 2, "position": 3})
    sampler.set_epoch(2)
    assert list(sampler) == _epoch(2)[3:]
    sampler.set_epoch(5)
    assert list(sampler) == _epoch(5)


def _epoch(number: int) -> list[tuple[int, int]]:
    sampler = ClipSampler([8], seed=1)
    sampler.set_epoch(number)
    return list(sampler)
