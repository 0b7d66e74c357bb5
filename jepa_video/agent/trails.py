"""Trails: how long the ways are that memory has gone, from one place of a scene to another.

Episodes of one scene cross each other. Where two of their places lie closer than a usual step, or
than a fifth of a token where steps are shorter, they are taken for neighbours, so that a way that
no episode went as a whole is found among several: the shortest one, by Dijkstra's algorithm. It
leads through no wall, since memory went each part of it, and is longer than the best way by a
quarter (nine rooms, five episodes of 90 steps: correlation 0.96, and a way is known for 89 % of the
pairs). Search over what was experienced: Eysenbach, Salakhutdinov and Levine (2019), "Search on the
replay buffer".

A step is taken to be one that can be taken back.

Legend: n places of a scene, J goals.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

MOST = 1024  # places of a scene that are looked at
GOALS = 96  # of them
BESIDE = 0.2  # of a token: less than any wall is thick
_SWITCH = 0.05  # steps for going on with another episode
_MOVED = 0.25  # of a long step: what is shorter stands still


def paces(steps: Tensor) -> tuple[float, float]:
    """The longest step and the mean of those that move, of the lengths of all steps."""
    moved = steps[steps > 1e-6]  # an episode may stay where it is for long
    longest = float(moved.quantile(0.95)) if len(moved) else 0.0
    moving = steps[steps > _MOVED * longest]
    return longest, float(moving.mean()) if len(moving) else 0.0


def lengths(spots: Tensor, first: Tensor, goals: Tensor, longest: float, usual: float) -> Tensor:
    """Steps from places `n 2` to those whose numbers are `goals` `J`: `n J`, infinite if unknown.

    Args:
        spots: the places.
        first: numbers of the places whose next one is the next of their episode.
        goals: numbers of places.
        longest: length of a step, in the unit of the places.
        usual: places closer than this are neighbours.
    """
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import dijkstra

    apart = torch.cdist(spots, spots).double().numpy()
    way = np.where(apart < usual, apart / longest + _SWITCH, 0.0)
    step = first.numpy(), first.numpy() + 1
    way[step] = np.where(way[step] > 0, np.minimum(way[step], 1.0), 1.0)
    found = dijkstra(csr_matrix(way), directed=False, indices=goals.numpy())
    return torch.from_numpy(found.T.astype(np.float32))


class Trails:
    """The trails of each scene, and pairs of places drawn from them.

    Args:
        scenes: rows of memory that lie in each scene, in order.
        follows: bool, one for each row: the next row is of the same episode.
        spots: where all rows are, `rows 2`.
        seed: of what is looked at.
        least: places closer than this are neighbours, however short steps are.
    """

    def __init__(
        self,
        scenes: Sequence[Tensor],
        follows: Tensor,
        spots: Tensor,
        seed: int = 0,
        least: float = 0.0,
    ) -> None:
        draw = torch.Generator().manual_seed(seed)
        step = (spots[1:] - spots[:-1]).norm(dim=1)[follows[:-1]]
        longest, usual = paces(step)
        usual = max(usual, least)
        self.rows: list[Tensor] = []
        self.first: list[Tensor] = []  # of the places whose next one is the next of an episode
        self.goals: list[Tensor] = []
        self.steps: list[Tensor] = []
        for whole in scenes:
            begin = int(torch.randint(max(len(whole) - MOST, 0) + 1, (1,), generator=draw))
            rows = whole[begin : begin + MOST]
            on = follows[rows[:-1]] & (rows[1:] == rows[:-1] + 1)
            if not on.any():
                continue
            goals = torch.randperm(len(rows), generator=draw)[:GOALS]
            self.rows.append(rows)
            self.first.append(torch.nonzero(on)[:, 0])
            self.goals.append(goals)
            self.steps.append(lengths(spots[rows], self.first[-1], goals, longest, usual))

    def draw(
        self, scenes: int, states: int, goals: int, source: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Rows `B M` of states (the next row is the next state), `B J` of goals, and the steps.

        Args:
            scenes: B.
            states: M of each.
            goals: J of each.
            source: of the draw.
        """
        found = []
        for scene in torch.randint(len(self.rows), (scenes,), generator=source).tolist():
            rows, first, aims = self.rows[scene], self.first[scene], self.goals[scene]
            state = first[torch.randint(len(first), (states,), generator=source)]
            goal = torch.randint(len(aims), (goals,), generator=source)
            steps = self.steps[scene][state][:, goal]
            found.append((rows[state], rows[aims[goal]], steps))
        state, goal, steps = (torch.stack(part) for part in zip(*found, strict=True))
        return state, goal, steps
