"""A critic of ways over a chart of the scene: what a place costs is the shortest way over cells.

    V(c)    = min( e(g, c),  min over neighbours n of  k(c, n) + V(n) )     cells c, goal g
    d(s, g) = min over cells c beside s of  e(s, c) + V(c)   less the same of g

A state's map lies on a grid, and where the agent is lies between its cells. From the map a network
of a few convolutions tells what it costs to go from a cell to each of its neighbours, `k`, and from
a place to a cell beside it, `e`; the shortest ways follow by Bellman and Ford's iterations, through
which gradients flow down the ways that are taken. So what is learned is what a wall and a door look
like, not where they are: where a network that sees the scene as a whole learned no wall of nine
rooms, this one learns those of layouts that it has never seen. After value iteration networks
(Tamar, Wu, Thomas, Levine and Abbeel 2016), with costs for rewards and the least for the greatest.

It is taught the lengths of ways that memory has gone, see `trails.py`, and from each step of memory
what holds a step: where it leads by its action and what the cells beside it show. This it needs for
nothing but to see walls early: without it they are not found in 900 batches.

Legend: N states, M of them in each scene, goals J of each scene, cells C, groups G.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models.blocks import Mlp
from .changed import Changes, laid
from .kept import Field, Kept
from .met import Met, led_by, told_by
from .reach import FAR, SLACK, Ways
from .spread import AROUND, Spread, neighbours
from .tried import Tried

_EXTRA, _BIAS = 5.0, 2.0  # of what is learned beside the length: 5 softplus(x - 2)
_PACE = 1.6  # steps from a token of the map to the next, at first
_EDGE = 0.05  # share of the picture beyond the outermost places, at first
_LOW = 0.3  # quantile of the lengths that are seen which is learned
_UNKNOWN = 0.02  # weight of pairs that memory knows no way between, which are pushed apart
_HELD = 3.0  # weight of what holds a step
SINES = 4
_STEEP = 4.0  # steps, the most that a cell's slope is told as
_PIECES = 4  # that a long way is priced in, at most
SLOPE = 8  # numbers of it
SIDES = 8  # neighbours of a cell


class Chart(Ways):
    """Steps to a goal by the shortest way over the cells of the scene's map.

    Args:
        width: `D` times `P` of a state.
        aim: how many of its numbers, from the first on, are points: x and y of each in turn.
        grid: rows and columns of the map that the others are.
        action: numbers of an action.
        discount: of each step.
        weight: of the cost `goal`, which each step on the way costs.
        groups: charts that are averaged; where they disagree, it has not seen enough.
        finer: cells along a token of the map.
        hidden: channels inside.
        told: numbers of a cell that its entry costs are made of.
    """

    def __init__(
        self,
        width: int,
        aim: int,
        grid: tuple[int, int],
        action: int,
        discount: float = 0.97,
        weight: float = 1.0,
        groups: int = 2,
        finer: int = 1,
        hidden: int = 64,
        told: int = 16,
    ) -> None:
        super().__init__()
        self.discount, self.weight, self.groups = discount, weight, groups
        self.aim, self.tokens = aim, grid
        high, wide = self.size = (grid[0] * finer, grid[1] * finer)
        self.cells, self.turns = high * wide, 3 * max(high, wide)
        self.far = FAR / (1 - discount)
        channels = (width - aim) // (grid[0] * grid[1])
        self.look = nn.Sequential(
            nn.Conv2d(channels, hidden, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(hidden, hidden // 2 * finer**2, 3, padding=1),
            nn.PixelShuffle(finer),
            nn.GELU(),
            nn.Conv2d(hidden // 2, hidden, 3, padding=1),
            nn.GELU(),
        )
        self.onward = nn.Conv2d(hidden, SIDES * groups, 3, padding=1)
        self.about = nn.Conv2d(hidden, told, 3, padding=1)
        self.entry = nn.Sequential(
            nn.Linear(told + 2 + 4 * SINES, hidden), nn.GELU(), nn.Linear(hidden, groups)
        )
        seen = 9 * told + 2 + 4 * SINES + action
        self.held = nn.Sequential(
            nn.Linear(seen, 2 * hidden), nn.GELU(), Mlp(2 * hidden, 2 * hidden, 2)
        )
        self.pace = nn.Parameter(torch.tensor(math.log(_PACE / finer)))
        self.where = nn.Linear(aim, 2)
        self.placed = ""  # in words, how `survey` laid places
        self.mean: Tensor
        self.std: Tensor
        self.neighbours: Tensor
        self.lengths: Tensor
        self.around: Tensor
        self.ahead: Tensor
        self.centres: Tensor
        self.drive: Tensor
        self.most: Tensor
        self.register_buffer("mean", torch.zeros(channels, 1, 1))
        self.register_buffer("std", torch.ones(channels, 1, 1))
        self.register_buffer("neighbours", neighbours(high, wide), persistent=False)
        self.register_buffer("around", torch.tensor(AROUND).float(), persistent=False)
        ahead = torch.tensor([step for step in AROUND if any(step)]).float()
        self.register_buffer("ahead", ahead, persistent=False)
        self.register_buffer("lengths", ahead.norm(dim=1), persistent=False)
        y, x = torch.meshgrid(torch.arange(high), torch.arange(wide), indexing="ij")
        centres = torch.stack((x, y), -1).flatten(0, 1) + 0.5
        self.register_buffer("centres", centres, persistent=False)
        self.register_buffer("drive", torch.zeros(2, action))  # cells that an action leads on
        self.register_buffer("most", torch.tensor([wide - 1.0, high - 1.0]), persistent=False)

    # What it is measured by

    @torch.no_grad()
    def survey(
        self, batch: Mapping[str, Tensor], moves: Tensor, seen: Changes | None = None
    ) -> None:
        """The map's scale, and where places lie in it, or a first guess of that.

        They lie where the picture changes, see `changed.py`, if that can be told to a quarter of a
        cell: who moves is what changes. Where actions are ways, it has to move as they say.

        Else, points lie in the picture, as the cells do: of their x (and of their y) the mixture
        that moves most within the episodes is taken, and spread over the picture. Some of these
        points see the scene too, so that in two rooms it is off by 3 to 4 pixels of 64, more than a
        wall is thick. Where actions are ways, the mixture that moves as they say is taken instead,
        laid along that guess, which is off by one; it stays as it was measured, since training
        moves it off by two.

        Args:
            batch: steps of memory: `state` `N P D`, `action` `N A`, and `next` `N P D` after it.
            moves: points, less the mean of their episode, `M aim`.
            seen: places and where pictures changed meanwhile, where that is known.
        """
        flat, after = batch["state"].flatten(1), batch["next"].flatten(1)
        cells = flat[:, self.aim :].view(len(flat), *self.tokens, -1).permute(3, 0, 1, 2).flatten(1)
        self.mean.copy_(cells.mean(1)[:, None, None])
        self.std.copy_(cells.std(1).clamp_min(1e-4)[:, None, None])
        points, moved = flat[:, : self.aim], (after - flat)[:, : self.aim]
        mix = told_by(moved, batch["action"])
        found = None if seen is None else laid(seen, self.most + 1, moved, mix)
        if found is not None:
            self.where.weight.copy_(found.mix[:-1].T)
            self.where.bias.copy_(found.mix[-1])
            self.where.requires_grad_(False)
            self.placed = f"where pictures change, {float(found.off.norm()):.2f} cells off"
            return
        guess = points.new_zeros(self.aim, 2)
        for axis in range(2):
            guess[axis::2, axis] = most(moves[:, axis::2].double()).to(points)
        self._lay(points, guess)
        self.placed = "where points move most" if mix is None else "as actions move points"
        self.where.requires_grad_(mix is None)
        if mix is not None:
            given = F.pad(points @ mix, (0, 1), value=1.0).cpu()
            along = torch.linalg.lstsq(given, self.spots(points).cpu(), driver="gelsd").solution
            self._lay(points, mix @ along[:-1].to(mix))

    def _lay(self, points: Tensor, mix: Tensor) -> None:
        """Spread mixtures `aim 2` of points `N aim` over the picture."""
        ends = torch.tensor([0.01, 0.99]).to(points)
        for axis, size in enumerate(reversed(self.size)):
            low, high = (points @ mix[:, axis]).quantile(ends)
            gain = size * (1 - 2 * _EDGE) / (high - low).clamp_min(1e-6)
            self.where.weight[axis] = gain * mix[:, axis]
            self.where.bias[axis] = size * _EDGE - gain * low

    @torch.no_grad()
    def steer(self, states: Tensor, actions: Tensor, after: Tensor) -> None:
        """What steps of memory `N P D`, `N A` and `N P D` say of where actions lead."""
        here, there = (self.spots(part.flatten(1)[:, : self.aim]) for part in (states, after))
        self.drive.copy_(led_by(there - here, actions))

    def spots(self, places: Tensor) -> Tensor:
        """Where points `... aim` lie among the cells, `... 2`: x and y, a cell is 1 wide."""
        spot: Tensor = self.where(places)
        return spot

    # Ways

    def ground(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """What maps of states `B P D` tell: costs to neighbours `B G 8 C`, and cells `B C F`."""
        cells = states.flatten(1)[:, self.aim :].view(len(states), *self.tokens, -1)
        seen = self.look((cells.permute(0, 3, 1, 2) - self.mean) / self.std)
        extra = self.onward(seen).flatten(2).unflatten(1, (self.groups, SIDES))
        costs = self.lengths[:, None] * self.pace.exp() * (1 + self._shunned()) + learned(extra)
        return costs, self.about(seen).flatten(2).transpose(1, 2)

    def _shunned(self) -> Tensor:
        """What is to be paid beside each step from a cell to its neighbours, `8 C`."""
        if self.shun is None:
            return self.lengths.new_zeros(SIDES, 1)
        return torch.maximum(self.shun, F.pad(self.shun, (0, 1))[self.neighbours])

    def held_in(self, cells: Tensor) -> Tensor:
        """The nearest of the cells that there are, `... 2`."""
        return torch.minimum(cells.clamp_min(0), self.most)

    def number(self, cells: Tensor) -> Tensor:
        """The numbers of cells `... 2`, row by row."""
        return (cells[..., 1] * self.size[1] + cells[..., 0]).long()

    def beside(self, spots: Tensor, about: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The nine cells around `B M 2`, what they are called and what they tell.

        Returns:
            Their numbers and whether there are such, `B M 9`; the ways from their middles,
            `B M 9 2`; and what they tell, `B M 9 F`.
        """
        cell = self.held_in(spots.detach().floor())[..., None, :] + self.around
        held = self.held_in(cell)
        index = self.number(held)
        told = about.gather(1, index.flatten(1)[..., None].expand(-1, -1, about.shape[-1]))
        way = spots[..., None, :] - cell - 0.5
        return index, (held == cell).all(-1), way, told.view(*index.shape, -1)

    def entries(self, spots: Tensor, about: Tensor) -> tuple[Tensor, Tensor]:
        """Cells beside `B M 2`, `B M 9`, and what it costs to get there, `B G M 9`."""
        index, inside, way, told = self.beside(spots, about)
        length = (way.square().sum(-1) + 1e-4).sqrt() * self.pace.exp()
        if self.shun is not None:
            own = self.price_at(spots)[..., None]
            length = length * (1 + torch.maximum(self.shun[index], own))
        costs = length[..., None] + learned(self.entry(torch.cat((told, waves(way)), -1)))
        costs = torch.where(inside[..., None], costs, 2 * self.far)
        return index, costs.permute(0, 3, 1, 2)

    @torch.no_grad()
    def met(self, tried: Tried | None) -> Met | None:
        """The steps of an episode that were stopped; None where memory holds nothing."""
        if tried is None or not self.drive.any():
            return None
        here, there = self.spots(tried.place), self.spots(tried.came)
        return Met.of(here, there, tried.action @ self.drive.T, tried.felt > 0, tried.price)

    def field(self, ground: tuple[Tensor, Tensor], goals: Tensor, met: Met | None = None) -> Field:
        """The ways over the cells to each of the goals `B J 2`; what was met is a cost of them."""
        costs, about = ground
        if met is not None:
            ways = self.ahead.expand(len(costs), 1, -1, -1)
            costs = costs + met.against(self.centres.expand(len(costs), -1, -1), ways).mT[:, None]
        at, enter = self.entries(goals, about)
        batch, groups, count, _ = enter.shape
        each = at[:, None].expand(-1, groups, -1, -1)
        begin = enter.new_full((batch, groups, count, self.cells), 2 * self.far)
        begin = begin.scatter_reduce(3, each, enter, "amin")
        value = cast(
            Tensor,
            Spread.apply(
                begin.flatten(0, 1), costs.flatten(0, 1), self.neighbours, self.size[1], self.turns
            ),
        ).view_as(begin)
        return Field(value, (value.gather(3, each) + enter).amin(3), about)

    def left(self, field: Field, spots: Tensor, met: Met | None = None) -> Tensor:
        """Steps from `B M 2` to each of a field's goals, less what the goal's own cells cost.

        Negative where a place is nearer to a cell than the goal is: `B G M J`. What was met is a
        cost of the ways to the cells too.
        """
        batch, groups, count, _ = field.value.shape
        index, leave = self.entries(spots, field.about)
        if met is not None:
            leave = leave + met.against(spots, self.centres[index] - spots[:, :, None])[:, None]
        places = index.flatten(1)[:, None, None].expand(-1, groups, count, -1)
        found = field.value.gather(3, places).view(batch, groups, count, len(index[0]), 9)
        told = (found + leave[:, :, None]).amin(4) - field.own[..., None]
        return told.transpose(2, 3)

    def steps(self, states: Tensor, others: Tensor) -> Tensor:
        """See `Ways`; of the scene of the states."""
        here, there = (
            self.spots(part.flatten(1)[:, None, : self.aim]) for part in (states, others)
        )
        told = self.left(self.field(self.ground(states), there), here)
        return told[:, :, 0, 0].relu().T

    @torch.no_grad()
    def slope(
        self, states: Tensor, goal: Tensor, tried: Tried | None = None, kept: Kept | None = None
    ) -> Tensor:
        """How many steps further the goal is from the eight places one cell around, `N 8`."""
        here, aim = (self.spots(part.flatten(1)[:, None, : self.aim]) for part in (states, goal))
        around, met = here + self.around, self.met(tried)
        if kept is None:
            field = self.field(self.ground(states), aim, met)
        else:
            field = kept.of(self, states, aim, met)
        told = self.left(field, around, met)[..., 0].mean(1)
        before, own, after = told[:, :4], told[:, 4:5], told[:, 5:]  # the fifth is where it is
        more = torch.cat((before, after), 1) - own
        if met is not None:
            more = more + met.against(here, self.ahead.expand(len(here), 1, -1, -1))[:, 0]
        return more.clamp(-_STEEP, _STEEP)

    def foretold(
        self,
        now: Tensor,
        goal: Tensor,
        future: Tensor,
        stride: int = 1,
        tried: Tried | None = None,
        felt: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """See `Ways`. A leap is a step that brings the goal nearer than a step can.

        Where memory notes what stops the agent, a leap costs no more than the cells that it goes
        over: what the chart holds for a wall may be a door, and plans that shun it altogether
        never find out, while what was a wall is one after a try.
        """
        batch, samples, horizon = future.shape[:3]
        way = future.flatten(3)[..., : self.aim].flatten(1, 2)
        first, aim = (part.flatten(1)[:, None, : self.aim] for part in (now, goal))
        spots = self.spots(torch.cat((first, way), 1))
        ground, met = self.ground(now), self.met(tried)
        told = self.left(self.field(ground, self.spots(aim), met), spots, met)
        told = told[..., 0].mean(1)[..., None]  # B 1+SH 1
        before, after = (part[..., 0] for part in steps_of(told, samples, horizon))
        ends = steps_of(spots, samples, horizon)
        scale = 1 + self._felt(*ends) if felt else 1.0
        nearer = (before - after) / scale - stride
        if met is None:
            return self.cost(after.relu()), (nearer - SLACK).relu()
        toll = self.toll(ground[0], *ends, met, min(stride, _PIECES)) / scale - stride
        extra = torch.maximum(toll, nearer).relu().cumsum(2)
        return self.cost(after.relu() + extra), torch.zeros_like(extra)

    def _felt(self, here: Tensor, there: Tensor) -> Tensor | float:
        """What steps `B S H 2` cost beside themselves, by the dearer one of their ends: `B S H`."""
        if self.shun is None:
            return 0.0
        return torch.maximum(self.price_at(here), self.price_at(there))

    def price_at(self, spots: Tensor) -> Tensor:
        """What a step at `... 2` costs beside itself, by the cell: `...`."""
        assert self.shun is not None
        return self.shun[self.number(self.held_in(spots.detach().floor()))]

    def toll(self, costs: Tensor, here: Tensor, there: Tensor, met: Met, pieces: int = 1) -> Tensor:
        """What cells `B G 8 C`, and what was met, ask for straight ways `B S H 2`: steps `B S H`.

        A way is priced in equal pieces, each as one between the cells that its middle lies
        between, by its length: a long one in one piece would step over walls.
        """
        if pieces > 1:
            shares = torch.linspace(0, 1, pieces + 1, device=here.device)[:, None]
            marks = here[..., None, :] + shares * (there - here)[..., None, :]  # B S H n+1 2
            begin, end = marks[..., :-1, :].flatten(2, 3), marks[..., 1:, :].flatten(2, 3)
            parts = self.toll(costs, begin, end, met)
            return parts.view(*here.shape[:-1], pieces).sum(3)
        way = (there - here).flatten(1, 2)
        long = way.norm(dim=-1)
        unit = way / long.clamp_min(1e-6)[..., None]
        at = (here + there).flatten(1, 2) / 2 - unit / 2
        index = self.number(self.held_in(at.floor()))[:, None]  # B 1 SH
        each = (costs.mean(1) / self.lengths[:, None]).gather(2, index.expand(-1, 8, -1))
        share = (unit @ (self.ahead / self.lengths[:, None]).T - 0.5**0.5).relu()  # 45 degrees
        share = share / share.sum(-1, keepdim=True).clamp_min(1e-6)
        told = (each.mT * share).sum(-1) + met.against(at, unit[:, :, None])[..., 0]
        asked: Tensor = (long * told).view(here.shape[:-1])
        return asked

    def learn(self, batch: dict[str, Tensor], share: float) -> Tensor:
        """The lengths of trails, steps of memory that are one step long, and what no trail joins.

        Args:
            batch: `trail_state` and `trail_next` `B M P D` with the `trail_action` between them,
                `B M A`, `trail_goal` `B J P D` of one scene each, and `trail_steps` `B M J`,
                infinite where memory knows no way.
            share: is not looked at.
        """
        state, after, goal = (batch[f"trail_{name}"] for name in ("state", "next", "goal"))
        known, count = batch["trail_steps"][:, None], state.shape[1]
        places = torch.cat((state, after), 1).flatten(2)[..., : self.aim]
        aims = self.spots(goal.flatten(2)[..., : self.aim])
        ground, spots = self.ground(state[:, 0]), self.spots(places)
        told = self.left(self.field(ground, aims), spots)
        here, there = told[:, :, :count], told[:, :, count:]
        long = (here - there - 1).relu().square().mean()
        steps, sure = here.relu(), (known < 2 * self.far).expand_as(here)
        over = steps - torch.where(sure, known, 0.0)
        error = torch.where(over > 0, (1 - _LOW) * over, -_LOW * over)
        apart = F.softplus(self.far - steps, beta=0.1)
        lengths = (error * sure).sum() / sure.sum().clamp_min(1)
        unknown = (apart * ~sure).sum() / (~sure).sum().clamp_min(1)
        held = self._held(ground[1], spots.detach(), batch["trail_action"])
        total: Tensor = 2 * lengths + long + _UNKNOWN * unknown + _HELD * held
        return total

    def _held(self, about: Tensor, spots: Tensor, actions: Tensor) -> Tensor:
        """The error of where steps lead, from M places to the M after them, `B 2M 2`."""
        here, there = spots.chunk(2, 1)
        _, _, way, told = self.beside(here, about)
        found = self.held(torch.cat((told.flatten(2), waves(way[:, :, 4]), actions), -1))
        went = there - here
        error: Tensor = F.smooth_l1_loss(found, went / went.square().mean().sqrt().clamp_min(1e-6))
        return error


def steps_of(way: Tensor, samples: int, horizon: int) -> tuple[Tensor, Tensor]:
    """Begins and ends `B S H n` of all steps, of where plans begin and where they go `B 1+SH n`."""
    there = way[:, 1:].view(len(way), samples, horizon, -1)
    first = way[:, None, :1].expand(-1, samples, -1, -1)
    return torch.cat((first, there[:, :, :-1]), 2), there


def most(moves: Tensor) -> Tensor:
    """The mixture of numbers `M n` that changes most, `n`, and grows where most of them grow."""
    mix = torch.linalg.eigh(moves.T @ moves).eigenvectors[:, -1]
    upward: Tensor = mix * torch.where(mix.sum() < 0, -1.0, 1.0)
    return upward


def waves(way: Tensor) -> Tensor:
    """`... 2` beside sines of it."""
    parts = [f(math.pi * k * way) for k in range(1, SINES + 1) for f in (torch.sin, torch.cos)]
    return torch.cat((way, *parts), -1)


def learned(x: Tensor) -> Tensor:
    """Steps beside the length, never below 0."""
    return _EXTRA * F.softplus(x - _BIAS)
