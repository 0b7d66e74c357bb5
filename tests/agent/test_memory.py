"""Claims of short-term memory: bounded, exact, writes the difference, a batch is many of them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from jepa_video.agent.memory import Moments, ShortTermMemory
from jepa_video.errors import UserError


def draws(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def apart(count: int, size: int = 2, seed: int = 0) -> Tensor:
    """Keys `count size` of whole numbers, each another."""
    places = torch.cartesian_prod(*[torch.arange(12.0)] * size)
    order = torch.randperm(len(places), generator=torch.Generator().manual_seed(seed))
    return places[order[:count]]


class Plain:
    """The same memory of one environment as a list, one row after the other."""

    def __init__(self, capacity: int) -> None:
        self.capacity, self.rows = capacity, []  # (key, value), the oldest first

    def write(self, keys: Tensor, values: Tensor, which: Tensor, share: float) -> None:
        rows: dict[tuple[float, ...], Tensor] = {}
        for key, value in zip(keys[which].tolist(), values[which], strict=True):
            rows.pop(tuple(key), None)
            rows[tuple(key)] = value
        there = dict(self.rows)
        for key in sorted(rows, key=lambda key: key not in there):  # those that are there first
            old = there.get(key, rows[key])
            self.rows = [row for row in self.rows if row[0] != key]
            self.rows = [*self.rows, (key, old + share * (rows[key] - old))][-self.capacity :]


def held(memory: ShortTermMemory, i: int) -> dict[tuple[float, ...], Tensor]:
    there = memory.filled[i]
    keys = [tuple(key.tolist()) for key in memory.keys[i, there]]
    return dict(zip(keys, memory.values[i, there], strict=True))


# -- recall ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("capacity", [1, 5, 64])
def test_up_to_its_capacity_it_recalls_to_the_bit(capacity):
    memory = ShortTermMemory(3, capacity, 2, 7)
    keys, values = apart(capacity).expand(3, -1, -1), 1e3 * draws(3, capacity, 7)
    for n in range(capacity):  # one after the other
        memory.write(keys[:, n : n + 1], values[:, n : n + 1])
        told = memory.read(keys[:, : n + 1])
        assert torch.equal(told.values, values[:, : n + 1]) and told.found.all()
    assert memory.count.tolist() == [capacity] * 3


def test_it_never_holds_more_than_its_capacity_and_keeps_the_last():
    memory, keys = ShortTermMemory(2, 6, 2, 1), apart(100).expand(2, -1, -1)
    values = torch.arange(100.0).view(1, 100, 1).expand(2, -1, -1)
    for n in range(0, 100, 4):
        memory.write(keys[:, n : n + 4], values[:, n : n + 4])
        assert memory.filled.shape == (2, 6) and int(memory.count.max()) <= 6
    assert sorted(memory.values[0, :, 0].tolist()) == list(range(94, 100))
    told = memory.read(keys)
    assert told.found[0].tolist() == [n >= 94 for n in range(100)]
    memory.write(keys[:, :50], values[:, :50])  # more at once than it can hold
    assert sorted(memory.values[1, :, 0].tolist()) == list(range(44, 50))


def test_recall_is_attention_over_the_keys():
    memory = ShortTermMemory(2, 9, 3, 4, temperature=2.0)
    keys, values, queries = draws(2, 5, 3), draws(2, 5, 4, seed=1), draws(2, 6, 3, seed=2)
    memory.write(keys, values)
    told = memory.read(queries)
    weights = torch.softmax(-torch.cdist(queries, keys).square() / 2.0, -1)
    torch.testing.assert_close(told.values, weights @ values)
    torch.testing.assert_close(told.weights.sum(-1), torch.ones(2, 6))
    assert not told.found.any() and memory.read(keys).found.all()


@pytest.mark.parametrize("temperature", [0.005, 2.0])
def test_keys_as_near_as_may_be_are_recalled_to_the_bit_too(temperature):
    memory = ShortTermMemory(2, 9, 2, 3, temperature)
    keys = 2e-3 * torch.cartesian_prod(*[torch.arange(3.0)] * 2).expand(2, -1, -1)
    values = draws(2, 9, 3)
    memory.write(keys, values)
    told = memory.read(keys)
    assert told.found.all() and torch.equal(told.values, values)
    assert torch.equal(told.weights @ memory.values, values)  # the weights say so too
    between = memory.read(keys[:, :1] + 1e-3)  # what nobody wrote is still of its neighbours
    assert not between.found.any() and 0 < float(between.weights.max()) < 1


def test_no_number_in_one_entry_is_no_number_in_no_other_and_is_forgotten_with_it():
    memory, keys = ShortTermMemory(2, 4, 2, 1), apart(3).expand(2, -1, -1)
    memory.write(keys, torch.tensor([torch.nan, 1.0, 2.0]).view(1, 3, 1).expand(2, -1, -1))
    told = memory.read(keys).values[..., 0]
    assert told[:, 0].isnan().all() and told[:, 1:].tolist() == [[1.0, 2.0]] * 2
    memory.write(keys[:, :1], torch.full((2, 1, 1), 5.0))  # a number again
    assert memory.read(keys).values[..., 0].tolist() == [[5.0, 1.0, 2.0]] * 2
    memory.write(keys[:, :1], torch.full((2, 1, 1), torch.nan))
    memory.forget(memory.values[..., 0].isnan())
    aside = keys + 0.25  # attention looks at every slot
    assert memory.read(aside).values.isfinite().all()
    memory.reset()
    assert not memory.read(aside).values.any()


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf])
def test_a_key_that_is_no_number_is_refused_and_changes_nothing(wrong):
    memory, keys = ShortTermMemory(1, 4, 2, 1), apart(2)[None]
    memory.write(keys, draws(1, 2, 1))
    bad = torch.tensor([[[1.0, wrong]]])
    with pytest.raises(UserError, match="keys of a memory are finite numbers"):
        memory.write(bad, torch.ones(1, 1, 1))
    memory.write(bad, torch.ones(1, 1, 1), torch.zeros(1, 1, dtype=torch.bool))  # not written
    assert memory.count.tolist() == [2] and memory.read(keys).found.all()


def test_an_empty_memory_brings_nothing_back():
    told = ShortTermMemory(2, 4, 2, 3).read(draws(2, 5, 2))
    assert not told.values.any() and not told.weights.any() and not told.found.any()


# -- writing ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.25, 0.5, 1.0])
def test_what_is_written_again_and_again_moves_by_its_closed_form(share):
    """v_n = v + (1 - share)^n (v_0 - v), and no other entry changes."""
    memory, keys = ShortTermMemory(1, 4, 2, 3), apart(3)[None]
    first, new = draws(1, 3, 3), draws(1, 1, 3, seed=1)
    memory.write(keys, first)
    for n in range(1, 6):
        memory.write(keys[:, 1:2], new, share=share)
        told = memory.read(keys).values
        torch.testing.assert_close(told[:, 1:2], new + (1 - share) ** n * (first[:, 1:2] - new))
        assert torch.equal(told[:, [0, 2]], first[:, [0, 2]])
        assert memory.count.tolist() == [3]
    if share == 1:
        assert torch.equal(told[:, 1:2], new)


def test_it_is_a_list_of_the_last_rows_whatever_is_written():
    """Against a list in plain Python: rows left out, keys that come again, too many at once."""
    memory, plain = ShortTermMemory(3, 7, 2, 2), [Plain(7) for _ in range(3)]
    source, places = torch.Generator().manual_seed(0), apart(15)
    for _ in range(60):
        count = int(torch.randint(1, 12, (), generator=source))
        keys = places[torch.randint(15, (3, count), generator=source)]
        values = torch.randn(3, count, 2, generator=source)
        which = torch.rand(3, count, generator=source) < 0.7
        share = [0.5, 1.0][int(torch.randint(2, (), generator=source))]
        memory.write(keys, values, which, share)
        for i, one in enumerate(plain):
            one.write(keys[i], values[i], which[i], share)
            found = held(memory, i)
            assert found.keys() == dict(one.rows).keys()
            for key, value in one.rows:
                torch.testing.assert_close(found[key], value)


def test_a_batch_is_so_many_memories():
    together, alone = ShortTermMemory(3, 5, 2, 4), [ShortTermMemory(1, 5, 2, 4) for _ in range(3)]
    source, places = torch.Generator().manual_seed(1), apart(9)
    for step in range(20):
        keys = places[torch.randint(9, (3, 4), generator=source)]
        values = torch.randn(3, 4, 4, generator=source)
        which = torch.rand(3, 4, generator=source) < 0.6
        together.write(keys, values, which)
        if step % 6 == 5:
            together.forget(age=3)
        queries = torch.randn(3, 8, 2, generator=source)
        told = together.read(queries)
        for i, one in enumerate(alone):
            row = slice(i, i + 1)
            one.write(keys[row], values[row], which[row])
            if step % 6 == 5:
                one.forget(age=3)
            assert all(map(torch.equal, one.read(queries[row]), (part[row] for part in told)))


def test_nothing_written_has_a_gradient():
    memory = ShortTermMemory(1, 2, 1, 1)
    value = torch.ones(1, 1, 1, requires_grad=True)
    memory.write(torch.zeros(1, 1, 1), 2 * value)
    assert not memory.read(torch.zeros(1, 1, 1)).values.requires_grad


# -- forgetting ------------------------------------------------------------------------------------


def test_what_is_old_is_forgotten_and_what_was_written_again_is_not():
    memory, keys = ShortTermMemory(1, 8, 2, 1), apart(5)[None]
    for n in range(5):
        memory.write(keys[:, n : n + 1], torch.full((1, 1, 1), float(n)))
    memory.write(keys[:, :1], torch.full((1, 1, 1), 9.0))
    assert sorted(memory.age[memory.filled].tolist()) == [0, 1, 2, 3, 4]
    memory.forget(age=2)
    assert {key for key in held(memory, 0)} == {tuple(keys[0, n].tolist()) for n in (0, 3, 4)}
    memory.forget(memory.values[..., 0] == 9.0)
    assert memory.count.tolist() == [2] and not memory.read(keys[:, :1]).found.any()
    memory.forget()
    assert memory.count.tolist() == [2]


def test_an_environment_that_begins_again_has_forgotten_and_the_others_have_not():
    memory, keys = ShortTermMemory(3, 4, 2, 1), apart(4).expand(3, -1, -1)
    memory.write(keys, draws(3, 4, 1))
    memory.reset(torch.tensor([False, True, False]))
    assert memory.count.tolist() == [4, 0, 4]
    memory.write(keys[:, :1], draws(3, 1, 1))
    assert memory.count.tolist() == [4, 1, 4]
    memory.reset()
    assert memory.count.tolist() == [0, 0, 0]


def test_sizes_that_are_none_are_refused():
    with pytest.raises(UserError, match="capacity, key and value of 1 or more"):
        ShortTermMemory(1, 0, 2, 2)
    with pytest.raises(UserError, match="a temperature above 0"):
        ShortTermMemory(1, 1, 2, 2, temperature=0.0)


# -- moments ---------------------------------------------------------------------------------------


def test_moments_are_told_by_their_time_and_know_what_came_after_each():
    moments = Moments(2, 5, (1, 3), 2)
    states, actions, costs = draws(9, 2, 1, 3), draws(9, 2, 2, seed=1), draws(9, 2, seed=2)
    for time in range(9):
        moments.write(time, states[time], actions[time], costs[time])
        # No more slots are looked at than were ever written to.
        assert moments.held().found.tolist() == [[True] * min(time + 1, 5)] * 2
    assert moments.times.sort(1).values.tolist() == [[4, 5, 6, 7, 8]] * 2
    told = moments.read(torch.tensor([[6, 2], [8, 4]]))
    assert told.found.tolist() == [[True, False], [True, True]]
    for i, q, time in ((0, 0, 6), (1, 0, 8), (1, 1, 4)):
        assert torch.equal(told.state[i, q], states[time, i])
        assert torch.equal(told.action[i, q], actions[time, i])
        assert told.cost[i, q] == costs[time, i]
    now, times = draws(2, 1, 3, seed=3), moments.times
    came = moments.after(now[:, 0, :2])  # of as many numbers as are told
    assert came.shape == (2, 5, 2)
    for i in range(2):
        for slot, time in enumerate(times[i].tolist()):
            assert torch.equal(came[i, slot], (now[i] if time == 8 else states[time + 1, i])[0, :2])
