"""What mode 1 does not look at again: the ways of a scene, until something in it is new.

A reaction asks the chart how much nearer the goal is on each side of where the agent is. The scene
stands still, so that what it is made of is looked at once and kept as long as the map shows the
same; what the agent itself leaves in the map, where it was and where it is, does not count. It is
looked at anew where something stopped the agent, and after so many decisions. The ways through it
are kept until then, or until the goal is another one.

Shapes: B environments, G groups, J goals, C cells of the chart, F numbers of a cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import torch
from torch import Tensor

from .met import Met

if TYPE_CHECKING:
    from .chart import Chart

_LONG: Final = 16  # decisions after which the scene is looked at anew
_OTHER: Final = 0.5  # deviations of a cell's numbers from which on it shows something else
_OWN: Final = 2.5  # cells of the map around the agent that show the agent

Ground = tuple[Tensor, Tensor]  # see `Chart.ground`


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


class Looked(NamedTuple):
    """What the ground was looked at in, for each environment.

    Attributes:
        cells: the map, `B high wide n`, in deviations.
        spot: where the agent was, `B 2` in cells of the map.
    """

    cells: Tensor
    spot: Tensor

    def other(self, now: Looked) -> Tensor:
        """Whether the map shows something else by now, bool `B`."""
        high, wide = self.cells.shape[1:3]
        y, x = torch.meshgrid(torch.arange(high), torch.arange(wide), indexing="ij")
        middle = torch.stack((x, y), -1).to(self.spot) + 0.5  # high wide 2
        apart = torch.ones_like(self.cells[..., 0], dtype=torch.bool)
        for spot in (self.spot, now.spot):
            apart &= (middle - spot[:, None, None]).abs().amax(-1) > _OWN
        gap = (now.cells - self.cells).square().mean(-1).sqrt() * apart
        return gap.flatten(1).amax(1) > _OTHER


class Asked(NamedTuple):
    """What a field was asked for, for each environment.

    Attributes:
        goal: where to, `B 2`.
        met: how many steps had been stopped, and where, summed: `B 3`.
    """

    goal: Tensor
    met: Tensor

    def other(self, now: Asked) -> Tensor:
        """Whether something else is asked for by now, bool `B`."""
        moved = (now.goal - self.goal).abs().amax(1) > 1e-4
        return moved | ((now.met - self.met).abs() > 1e-3).any(1)


class Kept:
    """The ground and the fields of the environments of an agent, in one episode."""

    def __init__(self) -> None:
        self._begun: tuple[Looked, Asked, Ground, Field] | None = None
        self.age = torch.zeros(0)

    def of(self, chart: Chart, states: Tensor, goals: Tensor, met: Met | None) -> Field:
        """The field of states `B P D` and goals `B 1 2`, looked at anew where it has to be."""
        scene, asked = looked_at(chart, states), asked_of(goals, met)
        if self._begun is None or len(self.age) != len(states):
            ground = chart.ground(states)
            self._begun = scene, asked, ground, chart.field(ground, goals, met)
            self.age = torch.zeros(len(states), device=states.device)
            return self._begun[3]
        seen, wanted, ground, field = self._begun
        self.age += 1
        stopped = asked.met[:, 0] > wanted.met[:, 0] + 0.5  # what is new may be beside the agent
        look = seen.other(scene) | stopped | (self.age >= _LONG)
        anew = look | wanted.other(asked)
        if look.any():
            which = torch.nonzero(look)[:, 0]
            ground = put(which, ground, chart.ground(states[which]))
            seen = Looked(*put(which, seen, rows_of(scene, which)))
            self.age = self.age.masked_fill(look, 0)
        if anew.any():
            which = torch.nonzero(anew)[:, 0]
            told = None if met is None else met.rows(which)
            costs, about = rows_of(ground, which)
            fresh = chart.field((costs, about), goals[which], told)
            field = Field(*put(which, field, fresh))
            wanted = Asked(*put(which, wanted, rows_of(asked, which)))
        self._begun = seen, wanted, ground, field
        return field


def rows_of(parts: Sequence[Tensor], which: Tensor) -> tuple[Tensor, ...]:
    """Those of some environments."""
    return tuple(part[which] for part in parts)


def put(which: Tensor, old: Sequence[Tensor], new: Sequence[Tensor]) -> Any:
    """The same with other rows `which`."""
    return tuple(a.index_copy(0, which, b) for a, b in zip(old, new, strict=True))


def looked_at(chart: Chart, states: Tensor) -> Looked:
    """What `Chart.ground` is told of."""
    flat = states.flatten(1)
    cells = flat[:, chart.aim :].view(len(flat), *chart.tokens, -1)
    spot = chart.spots(flat[:, : chart.aim]) * chart.tokens[0] / chart.size[0]
    return Looked(cells / chart.std[:, 0, 0], spot)


def asked_of(goals: Tensor, met: Met | None) -> Asked:
    """What `Chart.field` is told beside the ground."""
    told = goals.new_zeros(len(goals), 3)
    if met is not None:
        stopped = met.stopped[..., None]
        told = torch.cat((stopped, stopped * met.place), -1).sum(1)
    return Asked(goals[:, 0], told)
