"""Level 2: where an agent is some steps later by what it does, and the sub-goals that it sets.

    z = (a_t + .. + a_(t+k-1)) / k
    hat place_(t+k) = place_t + f(place_t, what lies around it, z)
    E2 = |hat place_(t+k) - place_(t+k)|^2,    p = p(nothing stops z at place_t)

What k steps do is an abstract action (LeCun 2022, section 4.7 and figure 16), z. A latent that is
inferred from where they led knows too much: whatever it is drawn as, f leads there, through a wall
as well. What was done tells where a free way leads, and it is left to the model what stops it. A
mean alone takes one of eight of the ways that are blocked for free, and these a search finds first.
So it foretells as well how likely a stride leads as far as what is done means.

A plan is the cheapest route over such strides, each of which costs itself and the risk that
it is stopped, see `routes.py`; no critic is asked. Its places are the sub-goals of level 1, whose
own plans are short.

Shapes: states `B P D`, of which the first `aim` numbers are the place; N places, M of each scene.
"""

from __future__ import annotations

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models.blocks import Mlp
from .chart import SINES, Chart, waves
from .met import Met
from .routes import Routes, routes
from .tried import Tried

COUNT: Final = 16  # abstract actions that a plan chooses from
LONG: Final = (0.4, 0.6)  # quantiles of what memory did in a stride, which they lie between
HELD: Final = 0.4  # cells that a stride may fall short of what was done and count as free
RISK: Final = 20.0  # strides that one costs which something stops
PATIENCE: Final = 4  # decisions that come no nearer to a place, after which it is given up
NEARER: Final = 0.1  # cells
SHUT: Final = 20.0  # what the step that led to it costs more from then on
WIDE: Final = 2.0  # and steps beside it, see `Met`
THERE: Final = 0.35  # cells from a sub-goal that count as there
NEAR: Final = 1.0  # and from the goal, for a plan
_SEEN: Final = 7  # cells along and across of what lies around
_POINTS: Final = 0.1  # weight of the places' own numbers beside their spots on the chart
_TOLD: Final = 0.3  # of what is free


class Level2(nn.Module):
    """Places `stride` steps later, on the chart of a critic.

    Args:
        width: `D` times `P` of a state.
        aim: how many of its numbers, from the first on, are the place.
        grid: rows and columns of the map that the others are.
        action: numbers of an action.
        stride: k, steps of level 1 that one of level 2 takes.
        finer: cells of the chart along a token of the map.
        hidden: width inside.
        told: numbers of a cell.
    """

    def __init__(
        self,
        width: int,
        aim: int,
        grid: tuple[int, int],
        action: int,
        stride: int,
        finer: int = 1,
        hidden: int = 192,
        told: int = 16,
    ) -> None:
        super().__init__()
        self.aim, self.stride, self.tokens = aim, stride, grid
        channels = (width - aim) // (grid[0] * grid[1])
        self.look = nn.Sequential(
            nn.Conv2d(channels, 64, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(64, told * finer**2, 3, padding=1),
            nn.PixelShuffle(finer),
            nn.GELU(),
            nn.Conv2d(told, hidden, _SEEN, padding=_SEEN // 2),
        )
        self.enter = nn.Linear((2 + action) * (1 + 2 * SINES), hidden)
        self.norm, self.leave = nn.LayerNorm(hidden), Mlp(hidden, 2 * hidden, aim + 1)
        self.spread: Tensor
        self.ways: Tensor
        self.register_buffer("spread", torch.ones(()))
        self.register_buffer("ways", torch.zeros(COUNT, action))

    def follow(self, chart: Chart) -> Level2:
        """Lie on this chart from now on."""
        self._chart = [chart]  # not a submodule
        return self

    @property
    def chart(self) -> Chart:
        """Where places lie."""
        return self._chart[0]

    def around(self, states: Tensor) -> Tensor:
        """What lies around each cell of the maps of states `B P D`, `B C H`."""
        cells = states.flatten(1)[:, self.aim :].view(len(states), *self.tokens, -1)
        chart = self.chart
        seen: Tensor = self.look((cells.permute(0, 3, 1, 2) - chart.mean) / chart.std)
        return seen.flatten(2).transpose(1, 2)

    def cell(self, spots: Tensor) -> Tensor:
        """The numbers of the cells that spots `... 2` lie in."""
        return self.chart.number(self.chart.held_in(spots.floor()))

    def meant(self, did: Tensor) -> Tensor:
        """How far `did` `... A` leads on the chart where nothing stops it, `... 2`."""
        way: Tensor = self.stride * did @ self.chart.drive.T
        return way

    def seen(self, around: Tensor, spots: Tensor) -> Tensor:
        """Of `B C H` that of the cells of spots `B M 2`: `B M H`."""
        index = self.cell(spots)[..., None].expand(-1, -1, around.shape[-1])
        return around.gather(1, index)

    def later(self, places: Tensor, around: Tensor, did: Tensor) -> tuple[Tensor, Tensor]:
        """Where `did` `... A` leads from `places` `... aim`, and the odds that nothing stops it.

        `around` `... H` is of the cell that the place lies in; the odds are a logarithm.
        """
        spots = self.chart.spots(places).detach()
        enters = torch.cat((waves(spots - spots.floor() - 0.5), waves(did)), -1)
        found = self.leave(F.gelu(self.norm(around + self.enter(enters))))
        return places + self.spread * found[..., : self.aim], found[..., self.aim]

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The energy of memory's strides, and how far off they are foretold: cells, squared.

        Args:
            batch: `trail_state` and `trail_later` `B M P D`, M of one scene each, and what was done
                in between, `trail_did` `B M A`.
        """
        state, after = (batch[f"trail_{name}"] for name in ("state", "later"))
        here, there = (part.flatten(2)[..., : self.aim] for part in (state, after))
        began, around = self.chart.spots(here).detach(), self.around(state[:, 0])
        seen = self.seen(around, began)
        found, free = self.later(here, seen, batch["trail_did"])
        where = self.chart.where  # stays as it is: spots that lie closer would not be nearer
        spots = F.linear(found, where.weight.detach(), where.bias.detach())
        led = self.chart.spots(there).detach()
        near = F.smooth_l1_loss(spots, led, beta=0.3)
        points = ((found - there) / self.spread).square().sum(-1).mean()
        lost = (led - began - self.meant(batch["trail_did"])).norm(dim=-1)
        went = F.binary_cross_entropy_with_logits(free, (lost < HELD).to(free))
        off = (spots - led).detach().square().sum(-1).mean()
        return near + _POINTS * points + _TOLD * went, off

    @torch.no_grad()
    def measure(self, gone: Tensor, did: Tensor) -> None:
        """The spread, and the abstract actions of plans, from memory's strides.

        The first of those is the one that did most, each other the one that is least like those
        that there are: so they point everywhere.

        Args:
            gone: how far places went, `N aim`.
            did: meanwhile, `N A`.
        """
        self.spread.copy_(gone.square().sum(1).mean().sqrt().clamp_min(1e-6))
        long = did.norm(dim=1)
        low, high = (long.quantile(share) for share in LONG)
        some = did[(long >= low) & (long <= high)]
        some = some if len(some) else did  # of a few strides none lies between
        which = [int(some.norm(dim=1).argmax())]
        apart = (some - some[which[0]]).norm(dim=1)
        for _ in range(COUNT - 1):
            which.append(int(apart.argmax()))
            apart = torch.minimum(apart, (some - some[which[-1]]).norm(dim=1))
        self.ways.copy_(some[which])


class Ahead:
    """Sets the sub-goals of a batch of episodes: the places on level 2's routes, one by one.

    A route stands until it is gone, or a place on it comes no nearer: looked for anew at each
    place, it leads to and fro between ways that cost the same. What was given up is dear for the
    rest of the episode. Where it ends at the goal, the goal itself takes the last place.

    Args:
        level2: imagines.
        far: what a route costs at most, in its steps.
    """

    def __init__(self, level2: Level2, far: int) -> None:
        self.level2, self.far = level2, far
        self.reset()

    def reset(self) -> None:
        """Episodes begin."""
        self.ways: list[Tensor] = []  # of each episode what is left of its route, L n
        self.shut: list[list[Tensor]] = []  # and what was given up: from and to, spots 2 2
        self.arrives: Tensor = torch.zeros(0, dtype=torch.bool)  # at the goal
        self.least = torch.zeros(0)  # cells from the place that is gone for, at best
        self.since = torch.zeros(0)  # decisions since then
        self.calls = 0

    @torch.no_grad()
    def aim(
        self,
        state: Tensor,
        goal: Tensor,
        over: Tensor | None = None,
        tried: Tried | None = None,
    ) -> Tensor:
        """What to go for now, `B P D`.

        Args:
            state: `B P D`.
            goal: `B P D`.
            over: episodes that nothing is planned for any more, bool `B`.
            tried: what was met in the episodes.
        """
        here, width = state.flatten(1), self.level2.aim
        if not self.ways:
            self.ways = list(here[:, None, :width].clone())
            self.shut, self.arrives = [[] for _ in here], torch.zeros(len(here), dtype=torch.bool)
            self.least = torch.full((len(here),), torch.inf)
            self.since = torch.zeros(len(here), dtype=torch.long)
        spots = self.level2.chart.spots
        aimed = torch.stack([way[0] for way in self.ways])
        far = (spots(here[:, :width]) - spots(aimed)).norm(dim=1).cpu()
        there, left = far < THERE, torch.tensor([len(way) for way in self.ways])
        nearer = far < self.least - NEARER
        self.least = torch.where(nearer, far, self.least)
        self.since = torch.where(nearer, 0, self.since + 1)
        late = ~there & (self.since >= PATIENCE)
        if over is not None:
            there, late = there & ~over.cpu(), late & ~over.cpu()
        for row in torch.nonzero(late)[:, 0].tolist():
            self.shut[row].append(torch.stack((spots(here[row, :width]), spots(aimed[row]))))
        done = (there & (left == 1)) | late
        self.least = torch.where(there | done, torch.inf, self.least)
        self.since = torch.where(there | done, 0, self.since)
        self.ways = [
            way[1:] if on else way for way, on in zip(self.ways, there & (left > 1), strict=True)
        ]
        which = torch.nonzero(done)[:, 0]
        if len(which):
            met = None if tried is None else tried.rows(which.to(state.device))
            shut = self._shut(which.tolist(), state)
            told = self.route(state[which], goal[which], met, shut)
            for row, way, end, hops in zip(
                which.tolist(), told.way(), told.end.tolist(), told.hops, strict=True
            ):
                self.ways[row] = way[: max(int(hops[end]), 1)]
                self.arrives[row] = end == self.level2.chart.cells
            self.calls += len(which)
        made = here.clone()
        made[:, :width] = torch.stack([way[0] for way in self.ways])
        last = self.arrives & torch.tensor([len(way) == 1 for way in self.ways])
        return torch.where(last[:, None, None].to(state.device), goal, made.view_as(state))

    def _shut(self, rows: list[int], like: Tensor) -> Met | None:
        """What was given up in some episodes, as what stopped the agent; None where nothing was."""
        most = max(len(self.shut[row]) for row in rows)
        if not most:
            return None
        held = like.new_zeros(len(rows), most, 2, 2)
        counts = like.new_zeros(len(rows), most)
        for i, row in enumerate(rows):
            for j, ends in enumerate(self.shut[row]):
                held[i, j], counts[i, j] = ends, 1
        way = held[:, :, 1] - held[:, :, 0]
        way = way / way.norm(dim=-1, keepdim=True).clamp_min(1e-6)
        return Met(held[:, :, 0], way, counts, SHUT, WIDE)

    def route(
        self,
        state: Tensor,
        goal: Tensor,
        tried: Tried | None = None,
        shut: Met | None = None,
    ) -> Routes:
        """The cheapest ways from states `B P D` to goals `B P D`.

        Args:
            state: where they begin.
            goal: where they end.
            tried: what was met in the episodes.
            shut: steps that were given up in them.
        """
        level2, chart = self.level2, self.level2.chart
        around, width = level2.around(state), level2.aim
        known = [met for met in (chart.met(tried), shut) if met is not None]

        def steps(rows: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
            begin = chart.spots(places)
            seen = around[rows, level2.cell(begin)]
            each = (len(rows), COUNT, -1)
            did, seen = level2.ways.expand(each), seen[:, None].expand(each)
            found, free = level2.later(places[:, None].expand(each), seen, did)
            way = chart.spots(found) - begin[:, None]
            price = 1 + (RISK * torch.sigmoid(-free)).round().long()
            return found, price + self._paid(begin[:, None], way, [met.rows(rows) for met in known])

        start, end = (part.flatten(1)[:, :width] for part in (state, goal))
        return routes(steps, chart.spots, level2.cell, start, end, chart.cells, self.far, NEAR)

    def _paid(self, begin: Tensor, way: Tensor, known: list[Met]) -> Tensor:
        """What memory and zones ask for ways `F W 2` from `F 1 2`, beside themselves: `F W`."""
        chart, paid = self.level2.chart, way.new_zeros(way.shape[:-1])
        if chart.shun is not None:
            paid = torch.maximum(chart.price_at(begin), chart.price_at(begin + way))
        for met in known:
            paid = paid + met.against(begin, way[:, None])[:, 0]
            paid = paid + met.against(begin + way / 2, way[:, :, None])[..., 0]
        return paid.round().long()
