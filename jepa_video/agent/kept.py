"""What mode 1 does not look at again: the ways of a scene, until something in it is new.

A reaction asks the chart how much nearer the goal is on each side of where the agent is. The scene
stands still, so that the ways through it to one goal are found once and kept, as long as nothing
else was met, the goal is the same, and the map shows the same; what the agent itself leaves in the
map, where it was and where it is, does not count. After so many decisions they are found anew.

Shapes: B environments, G groups, J goals, C cells of the chart, F numbers of a cell.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import torch
from torch import Tensor

from .met import Met

if TYPE_CHECKING:
    from .chart import Chart

_LONG: Final = 16  # decisions after which the scene is looked at anew
_OTHER: Final = 0.5  # deviations of a cell's numbers from which on it shows something else
_OWN: Final = 2.5  # cells of the map around the agent that show the agent


class Field(NamedTuple):
    """The ways to goals over the cells of scenes.

    Attributes:
        value: what is left from each cell, `B G J C`.
        own: the same from the goals themselves, `B G J`.
        about: what the cells tell, `B C F`.
    """

    value: Tensor
    own: Tensor
    about: Tensor

    def with_rows(self, which: Tensor, others: Field) -> Field:
        """The same with other rows `which`."""
        return Field(
            *(old.index_copy(0, which, new) for old, new in zip(self, others, strict=True))
        )


class Seen(NamedTuple):
    """What a field was told of, for each environment.

    Attributes:
        cells: the map, `B high wide n`, in deviations.
        spot: where the agent was, `B 2` in cells of the map.
        goal: where to, `B 2`.
        met: how many steps had been stopped, and where, summed: `B 3`.
    """

    cells: Tensor
    spot: Tensor
    goal: Tensor
    met: Tensor

    def rows(self, which: Tensor) -> Seen:
        """Those of some environments."""
        return Seen(*(part[which] for part in self))

    def other(self, now: Seen) -> Tensor:
        """Whether something is new by now, bool `B`."""
        high, wide = self.cells.shape[1:3]
        y, x = torch.meshgrid(torch.arange(high), torch.arange(wide), indexing="ij")
        middle = torch.stack((x, y), -1).to(self.spot) + 0.5  # high wide 2
        apart = torch.ones_like(self.cells[..., 0], dtype=torch.bool)
        for spot in (self.spot, now.spot):
            apart &= (middle - spot[:, None, None]).abs().amax(-1) > _OWN
        gap = (now.cells - self.cells).square().mean(-1).sqrt() * apart
        moved = (now.goal - self.goal).abs().amax(1) > 1e-4
        return (
            (gap.flatten(1).amax(1) > _OTHER) | moved | ((now.met - self.met).abs() > 1e-3).any(1)
        )


class Kept:
    """The fields of the environments of an agent, in one episode."""

    def __init__(self) -> None:
        self.field: Field | None = None
        self.seen: Seen | None = None
        self.age = torch.zeros(0)

    def of(self, chart: Chart, states: Tensor, goals: Tensor, met: Met | None) -> Field:
        """The field of states `B P D` and goals `B 1 2`, looked at anew where it has to be."""
        now = seen_by(chart, states, goals, met)
        if self.field is None or self.seen is None or len(self.age) != len(states):
            self.field, self.seen = chart.field(chart.ground(states), goals, met), now
            self.age = torch.zeros(len(states), device=states.device)
            return self.field
        self.age += 1
        anew = self.seen.other(now) | (self.age >= _LONG)
        if anew.any():
            which = torch.nonzero(anew)[:, 0]
            told = None if met is None else Met(*(part[which] for part in met))
            fresh = chart.field(chart.ground(states[which]), goals[which], told)
            self.field = self.field.with_rows(which, fresh)
            parts = zip(self.seen, now.rows(which), strict=True)
            self.seen = Seen(*(old.index_copy(0, which, new) for old, new in parts))
            self.age = self.age.masked_fill(anew, 0)
        return self.field


def seen_by(chart: Chart, states: Tensor, goals: Tensor, met: Met | None) -> Seen:
    """What `Chart.field` is told of."""
    flat = states.flatten(1)
    cells = flat[:, chart.aim :].view(len(flat), *chart.tokens, -1)
    spot = chart.spots(flat[:, : chart.aim]) * chart.tokens[0] / chart.size[0]
    told = flat.new_zeros(len(flat), 3)
    if met is not None:
        stopped = met.stopped[..., None]
        told = torch.cat((stopped, stopped * met.place), -1).sum(1)
    return Seen(cells / chart.std[:, 0, 0], spot, goals[:, 0], told)
