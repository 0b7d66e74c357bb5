"""What an agent ran into: steps of this episode that led nowhere, as walls on a chart.

    against(u, v) = sum_i b_i exp(-l_i^2 / 2 L^2 - r_i^2 / 2 R^2) max(0, cos(v - u, a_i))^2

Where a chart is told a door a cell too far on, an agent stands beside it for ever: what it did in
vain it does no more, but every place that it turns to looks further away. So what stopped it is put
down where it stopped, and the shortest way leads around, as that of a traveller who corrects the
map (Koenig and Likhachev 2002, "D* Lite"). `l_i` and `r_i` are how far u lies beside and along the
way `a_i` of the step that was stopped, `b_i` is 1 where it was. Nothing is trained.

Shapes: B environments, M moments, places `... 2` in cells of the chart.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import torch
from torch import Tensor

PRICE: Final = 6.0  # steps that a way costs more for each time that it was stopped, if not told
_BESIDE, _ALONG = 0.4, 0.8  # L and R, cells
_STOPPED: Final = 0.3  # share of what was meant below which a step was stopped
_MEANT: Final = 0.15  # cells, below which a step is too short to tell
_TURNS: Final = 5
_SOME: Final = 0.1  # of the steps have to be free
_RIDGE: Final = 0.02  # of the mean square of a point's moves


class Met(NamedTuple):
    """The steps that were stopped.

    As many as the environment with most of them has.

    Attributes:
        place: where, `B M 2`.
        way: their directions, of length 1, `B M 2`.
        stopped: 1 where one was, else 0, `B M`.
        price: steps that a way costs more for each time.
        wide: how many times as far as `L` and `R` it is felt.
    """

    place: Tensor
    way: Tensor
    stopped: Tensor
    price: float = PRICE
    wide: float = 1.0

    @classmethod
    def of(
        cls, here: Tensor, there: Tensor, meant: Tensor, counts: Tensor, price: float = PRICE
    ) -> Met:
        """From steps, those that were stopped.

        Args:
            here: where they began, `B M 2`.
            there: where they led.
            meant: where they lead where nothing is in the way, less `here`.
            counts: bool `B M`, which of them there are.
            price: see `Met`.
        """
        long = meant.norm(dim=-1)
        way = meant / long.clamp_min(1e-6)[..., None]
        share = ((there - here) * way).sum(-1) / long.clamp_min(1e-6)
        stopped = counts & (long > _MEANT) & (share < _STOPPED)
        most = int(stopped.sum(1).max()) if stopped.numel() else 0
        which = stopped.long().argsort(dim=1, descending=True, stable=True)[:, :most]
        rows = which[..., None].expand(-1, -1, 2)
        found = here.gather(1, rows), way.gather(1, rows), stopped.gather(1, which).to(here)
        return cls(*found, price)

    def rows(self, which: Tensor) -> Met:
        """Those of some environments."""
        return self._replace(
            place=self.place[which], way=self.way[which], stopped=self.stopped[which]
        )

    def against(self, begin: Tensor, ways: Tensor) -> Tensor:
        """What is to be paid for going from `B N 2` along `B N K 2`, in steps: `B N K`.

        Ways `B 1 K 2` are the same from all places, which takes a fraction of the time.
        """
        off = begin[:, :, None] - self.place[:, None]  # B N M 2
        along = (off * self.way[:, None]).sum(-1)
        beside = off.square().sum(-1) - along.square()
        far = beside / _BESIDE**2 + along.square() / _ALONG**2
        near = (-far / (2 * self.wide**2)).exp()
        near = near * self.stopped[:, None]
        straight = ways / ways.norm(dim=-1, keepdim=True).clamp_min(1e-6)
        turn = (straight @ self.way.mT[:, None]).relu().square()  # B N K M
        shared = turn.shape[1] == 1
        told: Tensor = near @ turn[:, 0].mT if shared else (turn @ near[..., None])[..., 0]
        return self.price * told


def led_by(moves: Tensor, actions: Tensor) -> Tensor:
    """Where actions `N A` lead in cells, where nothing is in the way, as `2 A`: `N 2` they did.

    Least squares over the steps that went at least half as far as they say. 0 where these explain
    less than half of how places move: then actions are no steps on this chart.
    """
    free = torch.ones(len(moves), dtype=torch.bool, device=moves.device)
    drive = moves.new_zeros(2, actions.shape[1])
    for _ in range(_TURNS):
        if int(free.sum()) <= actions.shape[1]:
            return torch.zeros_like(drive)
        # On the CPU, which has the driver that takes columns without anything in them.
        told = torch.linalg.lstsq(actions[free].cpu(), moves[free].cpu(), driver="gelsd").solution
        drive = told.T.to(moves)
        meant = actions @ drive.T
        free = (moves * meant).sum(1) > 0.5 * meant.square().sum(1)
    rest = (moves - actions @ drive.T)[free].square().sum()
    return drive if rest < 0.5 * moves[free].square().sum() else torch.zeros_like(drive)


def told_by(moves: Tensor, actions: Tensor) -> Tensor | None:
    """The mixtures `n A` of numbers `N n` that move as the actions `N A` say.

    Ridge regression over the steps that went at least half as far as they say. None for actions of
    one number, where hardly any step did, and where more than half of these is not told.
    """
    if actions.shape[1] < 2:
        return None
    free = torch.ones(len(moves), dtype=torch.bool, device=moves.device)
    for _ in range(_TURNS):
        if free.float().mean() < _SOME:
            return None
        went, said = moves[free], actions[free]
        square = went.T @ went
        ridge = _RIDGE * square.diagonal().mean().clamp_min(1e-12) * torch.eye(len(square)).to(went)
        mix = torch.linalg.solve(square + ridge, went.T @ said)
        told = moves @ mix
        free = (told * actions).sum(1) > 0.5 * actions.square().sum(1)
    rest = (told - actions)[free].square().sum()
    return mix if rest < 0.5 * actions[free].square().sum() else None
