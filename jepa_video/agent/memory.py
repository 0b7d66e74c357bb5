"""Short-term memory: what was, in a bounded key-value store that is read by attention.

    read    v_i where q is the key k_i, else c = softmax(-|q - k|^2 / temperature),  sum_i c_i v_i
    write   v_i <- v_i + share (v - v_i)   where k_i is the key: the difference alone

After LeCun (2022), section 4.10, where the state of the world lies in a writeable memory and an
event changes only the entries that it concerns, and section 3.1.2, where the critic takes its pairs
from it. A key that is not there takes an empty slot, else that of the entry that was written
longest ago.

Legend: B environments, M slots, N rows that are written, Q queries, K numbers of a key, V of a
value. Environments know nothing of each other: a batch is B memories side by side.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import torch
from torch import Tensor

from ..errors import UserError

SAME: Final = 1e-3  # distance up to which two keys are one


class Recall(NamedTuple):
    """What a query brings back.

    Attributes:
        values: `B Q V`; 0 where memory is empty.
        found: whether this very key was written, bool `B Q`; else the values are of its neighbours.
        weights: of the slots, `B Q M`, with sum 1: all on one that was found; 0 where memory is
            empty.
    """

    values: Tensor
    found: Tensor
    weights: Tensor


class ShortTermMemory:
    """At most `capacity` entries for each environment, of a key, a value and a time.

    An entry is recalled to the bit by its own key, however near the others are. Nothing has a
    gradient.

    Args:
        batch: B.
        capacity: M.
        key: K.
        value: V.
        temperature: of the attention, in units of squared distance.
        device: where it lies.

    Attributes:
        clock: writes so far; an entry's age counts from its last one.

    Raises:
        UserError: sizes below 1, or a temperature that is not above 0.
    """

    def __init__(
        self,
        batch: int,
        capacity: int,
        key: int,
        value: int,
        temperature: float = 0.005,
        device: torch.device | str = "cpu",
    ) -> None:
        if min(batch, capacity, key, value) < 1 or not temperature > 0:
            raise UserError(
                "a memory has batch, capacity, key and value of 1 or more and a temperature above "
                f"0, not {batch}, {capacity}, {key}, {value} and {temperature}"
            )
        self.capacity, self.temperature, self.clock = capacity, temperature, 0
        # One slot more than there are: rows that are not written go there, and nobody looks.
        slots = (batch, capacity + 1)
        self._keys = torch.zeros(*slots, key, device=device)
        self._values = torch.zeros(*slots, value, device=device)
        self._times, self._order = torch.zeros(2, *slots, dtype=torch.long, device=device)
        self._filled = torch.zeros(slots, dtype=torch.bool, device=device)
        self._rows = 0  # put so far: tells which of two rows of one write is older
        self._written = 0  # rows that were given so far

    @property
    def filled(self) -> Tensor:
        """Which slots hold an entry, bool `B M`."""
        return self._filled[:, : self.capacity]

    @property
    def keys(self) -> Tensor:
        """`B M K`; what stands in an empty slot means nothing."""
        return self._keys[:, : self.capacity]

    @property
    def values(self) -> Tensor:
        """`B M V`; what stands in an empty slot means nothing."""
        return self._values[:, : self.capacity]

    @property
    def used(self) -> int:
        """Slots that anything was ever written to: the first ones, of which some may be empty."""
        return min(self._written, self.capacity)

    @property
    def age(self) -> Tensor:
        """Writes since each entry was last written, `B M`."""
        age: Tensor = self.clock - self._times[:, : self.capacity]
        return age

    @property
    def count(self) -> Tensor:
        """Entries, `B`."""
        return self.filled.sum(1)

    @torch.no_grad()
    def read(self, queries: Tensor) -> Recall:
        """What is remembered for queries `B Q K`."""
        gap = self._gap(queries)
        near, slot = gap.min(-1)
        found = near <= SAME**2
        weights = (-gap / self.temperature).softmax(-1).nan_to_num(0.0)  # all are empty: no weight
        # What was forgotten may be no number, which is none with no weight either.
        around = weights @ self.values.masked_fill(~self.filled[..., None], 0.0)
        values = torch.where(found[..., None], self._at(self.values, slot), around)
        alone = torch.zeros_like(weights).scatter_(-1, slot[..., None], 1.0)
        return Recall(values, found, torch.where(found[..., None], alone, weights))

    @torch.no_grad()
    def write(
        self, keys: Tensor, values: Tensor, which: Tensor | None = None, share: float = 1.0
    ) -> None:
        """Write rows: those whose key is there first, then the new ones, each in their order.

        Args:
            keys: `B N K`; of rows with the same key the last counts.
            values: `B N V`.
            which: the rows that are written, bool `B N`; all without it.
            share: how far an entry that is there moves to its new value; 1 puts it there.

        Raises:
            UserError: a key that is to be written is not finite.
        """
        rows = torch.ones_like(keys[..., 0], dtype=torch.bool) if which is None else which
        if not keys[rows].isfinite().all():
            raise UserError("the keys of a memory are finite numbers, and one to be written is not")
        gap, slot = self._gap(keys).min(-1)
        known = rows & (gap <= SAME**2)
        last = rows & ~_again(keys, rows)
        self.clock += 1
        self._written += keys.shape[1]
        old, there = self._at(self._values, slot), self._at(self._keys, slot)
        moved = values if share == 1 else torch.lerp(old, values, share)
        self._put(slot, known & last, there, moved)
        slot, kept = self._room(last & ~known)
        self._put(slot, kept, keys, values)

    @torch.no_grad()
    def forget(self, which: Tensor | None = None, age: int | None = None) -> None:
        """Empty the slots `which`, bool `B M`, and those that were written more than `age` ago."""
        gone = torch.zeros_like(self.filled) if which is None else which
        self.filled.logical_and_(~gone if age is None else ~(gone | (self.age > age)))

    def reset(self, which: Tensor | None = None) -> None:
        """Forget all that the environments `which`, bool `B`, had: an episode begins there."""
        kept = torch.zeros_like(self.filled[:, 0]) if which is None else ~which
        self._filled &= kept[:, None]

    def _gap(self, keys: Tensor) -> Tensor:
        """Squared distance of keys `B N K` from all entries, `B N M`; empty slots are far away."""
        gap = (keys[:, :, None] - self.keys[:, None]).square().sum(-1)
        return gap.masked_fill(~self.filled[:, None], torch.inf)

    @staticmethod
    def _at(part: Tensor, slot: Tensor) -> Tensor:
        return part.gather(1, slot[..., None].expand(-1, -1, part.shape[2]))

    def _room(self, fresh: Tensor) -> tuple[Tensor, Tensor]:
        """Slots `B N` for the rows `fresh`, and which have one: the last M, were there more."""
        oldest = self._order[:, : self.capacity].masked_fill(~self.filled, -1)
        oldest = oldest.argsort(stable=True)
        after = fresh.flip(1).cumsum(1).flip(1)  # new rows from this one on
        kept = fresh & (after <= self.capacity)
        return oldest.gather(1, (kept.cumsum(1) - 1).clamp_min(0)), kept

    def _put(self, slot: Tensor, which: Tensor, keys: Tensor, values: Tensor) -> None:
        """Fill slots `B N` with the rows `which`."""
        slot = torch.where(which, slot, self.capacity)
        for part, rows in ((self._keys, keys), (self._values, values)):
            part.scatter_(1, slot[..., None].expand_as(rows), rows)
        order = torch.arange(slot.shape[1], device=slot.device) + self._rows
        self._rows += slot.shape[1]
        self._order.scatter_(1, slot, order.expand_as(slot))
        self._times.scatter_(1, slot, self.clock)
        self._filled.scatter_(1, slot, True)
        self._filled[:, self.capacity] = False


class Moment(NamedTuple):
    """What was at some times.

    Attributes:
        state: `B Q P D`.
        action: that was taken there, `B Q A`.
        cost: the intrinsic cost that was felt in the state, `B Q`.
        found: whether the time is remembered, bool `B Q`; if not, the others mean nothing.
    """

    state: Tensor
    action: Tensor
    cost: Tensor
    found: Tensor


class Moments:
    """The last moments of each environment: time, state, action, intrinsic cost.

    The key is the time, so that what came after a moment can be asked for.

    Args:
        batch: B.
        capacity: moments that are kept, M.
        state: P and D of a state.
        action: A.
        device: where they lie.
    """

    def __init__(
        self,
        batch: int,
        capacity: int,
        state: tuple[int, int],
        action: int,
        device: torch.device | str = "cpu",
    ) -> None:
        self.shape, self.action = state, action
        width = state[0] * state[1] + action + 1
        self.store = ShortTermMemory(batch, capacity, 1, width, device=device)

    @property
    def times(self) -> Tensor:
        """The times that are remembered, `B M'`, -1 in empty slots.

        Here and below M' is how many slots were ever written to: an episode begins with few.
        """
        keys, filled = self.store.keys[:, : self.store.used, 0], self.store.filled
        return keys.masked_fill(~filled[:, : self.store.used], -1.0).long()

    def write(self, time: int, state: Tensor, action: Tensor, cost: Tensor) -> None:
        """Write the moment `time`: states `B P D`, actions `B A`, costs `B`."""
        value = torch.cat((state.flatten(1), action, cost[:, None]), 1)
        self.store.write(value.new_full((len(value), 1, 1), float(time)), value[:, None])

    def read(self, times: Tensor) -> Moment:
        """What was at `times`, `B Q`."""
        told = self.store.read(times[..., None].float())
        return self._parted(told.values, told.found)

    def held(self) -> Moment:
        """What the slots hold, `B M'`, in no order: `found` tells the filled ones."""
        used = self.store.used
        return self._parted(self.store.values[:, :used], self.store.filled[:, :used])

    def after(self, now: Tensor) -> Tensor:
        """The first n numbers of the states after these, `B M' n`; after the last moment `now`.

        Args:
            now: the same numbers of the present, `B n`.
        """
        order = self.times.argsort(1)  # empty slots come first
        next_ = order.roll(-1, 1)
        held = self.times.gather(1, order)
        known = (self.times.gather(1, next_) == held + 1) & (held >= 0)
        slot = order.scatter(1, order, torch.where(known, next_, -1))  # each slot's successor
        state = self.store.values[:, : self.store.used, : now.shape[1]]
        rows = slot.clamp_min(0)[..., None].expand_as(state)
        return torch.where((slot >= 0)[..., None], state.gather(1, rows), now[:, None])

    def _parted(self, values: Tensor, found: Tensor) -> Moment:
        width = math.prod(self.shape)
        state, action = values[..., :width], values[..., width:-1]
        state = state.reshape(*values.shape[:2], *self.shape)
        return Moment(state, action, values[..., -1], found)


def _again(keys: Tensor, rows: Tensor) -> Tensor:
    """Rows whose key comes again further on in the same write, bool `B N`."""
    same = (keys[:, :, None] - keys[:, None]).square().sum(-1) <= SAME**2
    return (same & rows[:, None]).triu(1).any(-1)
