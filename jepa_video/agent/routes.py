"""Routes: where an abstract model leads, place by place, and the cheapest way to a goal by that.

Dijkstra's search in buckets (Dial 1969) for a batch of episodes at once. A cell of the chart is
reached by the cheapest step into it, and of that step the place itself is kept: a step begins where
the last one led, not at the middle of a cell. Nothing here knows a wall or a critic; what a step
costs is for the model to say.

Legend: B episodes, C cells, n numbers of a place, F places that steps are tried from, W steps each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

import torch
from torch import Tensor

NEVER: Final = 1 << 30

# Rows `F` and places `F n`, to where steps lead `F W n` and what they cost, whole numbers `F W`.
Steps = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class Routes(NamedTuple):
    """What was reached; the last cell, C, is the goal.

    Attributes:
        place: where, `B C+1 n`.
        cost: to get there, `B C+1`; `NEVER` where it was not reached.
        came: the cell before it, `B C+1`, itself at the start.
        hops: steps on the way there, `B C+1`.
        end: the goal's, C, where it was reached, else the reached cell nearest to it, `B`.
    """

    place: Tensor
    cost: Tensor
    came: Tensor
    hops: Tensor
    end: Tensor

    def way(self) -> Tensor:
        """The places after 1, 2, .. steps of the way to the end, which stands for all after it.

        `B L n`, of as many steps as the longest takes, at least one.
        """
        rows, cell = torch.arange(len(self.end), device=self.end.device), self.end
        long = max(int(self.hops[rows, cell].max()), 1)
        found = self.place[rows, cell][:, None].repeat(1, long, 1)
        for _ in range(long):
            hop = self.hops[rows, cell]
            at = (hop - 1).clamp_min(0)
            on = (hop > 0)[:, None]
            found[rows, at] = torch.where(on, self.place[rows, cell], found[rows, at])
            cell = torch.where(hop > 0, self.came[rows, cell], cell)
        return found


class _Open(NamedTuple):
    """Steps that were tried and not taken so far, one a row of all of them."""

    row: Tensor
    cell: Tensor
    cost: Tensor
    came: Tensor
    place: Tensor
    off: Tensor

    def at(self, which: Tensor) -> _Open:
        return _Open(*(part[which] for part in self))

    def plus(self, other: _Open) -> _Open:
        return _Open(*(torch.cat(pair) for pair in zip(self, other, strict=True)))


@torch.no_grad()
def routes(
    steps: Steps,
    spots: Callable[[Tensor], Tensor],
    number: Callable[[Tensor], Tensor],
    start: Tensor,
    goal: Tensor,
    cells: int,
    most: int,
    near: float,
) -> Routes:
    """The cheapest ways from starts to goals.

    Args:
        steps: what can be done from a place, by number of its episode; costs are 1 or more.
        spots: where places `... n` lie on the chart, `... 2`.
        number: the numbers of the cells that spots lie in.
        start: `B n`.
        goal: `B n`.
        cells: C.
        most: cost, beyond which nothing is looked for.
        near: cells from the goal that count as there.
    """
    batch, width = start.shape
    aim, rows = spots(goal), torch.arange(batch, device=start.device)
    shape = (batch, cells + 1)
    place = start.new_zeros(*shape, width)
    cost = rows.new_full(shape, NEVER)
    came, hops = rows.new_zeros(shape), rows.new_zeros(shape)
    nothing = rows.new_zeros(batch)
    open_ = _Open(rows, number(spots(start)), nothing, number(spots(start)), start, start[:, 0] * 0)
    for now in range(most + 1):
        due = open_.cost <= now
        taken, open_ = _best(open_.at(due), cost), open_.at(~due)
        place[taken.row, taken.cell], cost[taken.row, taken.cell] = taken.place, taken.cost
        came[taken.row, taken.cell] = taken.came
        before = hops[taken.row, taken.came]
        hops[taken.row, taken.cell] = before + (taken.cost > 0).long()
        arrived = cost[:, cells] < NEVER
        onward = ~arrived[taken.row]
        if onward.any():
            row, cell = taken.row[onward], taken.cell[onward]
            found, price = steps(row, taken.place[onward])
            lies = spots(found)
            there = (lies - aim[row][:, None]).norm(dim=-1) < near
            into = torch.where(there, cells, number(lies))
            told = (price + cost[row, cell][:, None]).flatten()
            each = _Open(
                row[:, None].expand_as(into).flatten(),
                into.flatten(),
                told,
                cell[:, None].expand_as(into).flatten(),
                found.flatten(0, 1),
                (lies - lies.floor() - 0.5).norm(dim=-1).flatten(),
            )
            open_ = open_.plus(each.at(told <= most))
        open_ = open_.at((cost[open_.row, open_.cell] == NEVER) & ~arrived[open_.row])
        if not len(open_.row):
            break
    far = (spots(place) - aim[:, None]).norm(dim=-1).masked_fill(cost == NEVER, torch.inf)
    end = torch.where(cost[:, cells] < NEVER, cells, far.argmin(1))
    return Routes(place, cost, came, hops, end)


def _best(tried: _Open, cost: Tensor) -> _Open:
    """Of the steps into each cell that was not reached, that which ends nearest to its middle."""
    tried = tried.at(cost[tried.row, tried.cell] == NEVER)
    key = tried.row * cost.shape[1] + tried.cell
    order = tried.off.argsort(stable=True)
    order = order[key[order].argsort(stable=True)]
    first = torch.ones_like(key, dtype=torch.bool)
    first[1:] = key[order][1:] != key[order][:-1]
    return tried.at(order[first])
