"""Claims of routes: they are Dijkstra's, and keep the places that steps lead to."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import dijkstra
from torch import Tensor

from jepa_video.agent.routes import NEVER, Routes, routes

SIDE, CELLS = 6, 36
AROUND = torch.tensor([(1.0, 0.0), (-1.0, 0.0), (0.0, 1.0), (0.0, -1.0)])


def number(spots: Tensor) -> Tensor:
    cells = spots.floor().clamp(0, SIDE - 1).long()
    return cells[..., 1] * SIDE + cells[..., 0]


def middle(cells: Tensor) -> Tensor:
    return torch.stack((cells % SIDE, cells // SIDE), -1) + 0.5


def found(prices: Tensor, start: Tensor, goal: Tensor, most: int = 500) -> Routes:
    """Steps to the four neighbours, of which episodes have prices `B C 4`; off the grid: none."""

    def steps(rows: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        there = places[:, None] + AROUND
        inside = ((there > 0) & (there < SIDE)).all(-1)
        asked = prices[rows, number(places)]
        return there, torch.where(inside, asked, NEVER)

    return routes(steps, lambda p: p, number, middle(start), middle(goal), CELLS, most, 0.1)


def graph(prices: Tensor) -> np.ndarray:
    """The same prices `C 4` as a matrix."""
    told = np.zeros((CELLS, CELLS))
    for cell in range(CELLS):
        for way, price in zip(AROUND, prices[cell], strict=True):
            there = middle(torch.tensor(cell)) + way
            if ((there > 0) & (there < SIDE)).all():
                told[cell, int(number(there))] = float(price)
    return told


def test_costs_are_those_of_dijkstra():
    draw = torch.Generator().manual_seed(0)
    prices = torch.randint(1, 30, (8, CELLS, 4), generator=draw)
    start, goal = torch.randint(0, CELLS, (2, 8), generator=draw)
    told = found(prices, start, goal)
    for i in range(8):
        want = dijkstra(csr_matrix(graph(prices[i])), indices=int(start[i]))
        assert int(told.cost[i, CELLS]) == want[int(goal[i])]
        # What was reached before the goal is right too.
        reached = (told.cost[i, :CELLS] < NEVER).nonzero()[:, 0]
        assert np.array_equal(told.cost[i, reached].numpy(), want[reached.numpy()])
    assert (told.end == CELLS).all()


def test_the_way_back_leads_to_the_start_by_steps_that_are_next_to_each_other():
    prices = torch.ones(1, CELLS, 4, dtype=torch.long)
    told = found(prices, torch.tensor([0]), torch.tensor([CELLS - 1]))
    assert int(told.hops[0, CELLS]) == int(told.cost[0, CELLS]) == 2 * (SIDE - 1)
    before = middle(torch.tensor([0]))
    way = told.way()
    assert way.shape == (1, 10, 2) and torch.equal(way[:, -1], middle(torch.tensor([CELLS - 1])))
    for place in way.unbind(1):
        assert float((place - before).norm()) == 1.0
        before = place


def test_a_step_begins_where_the_last_one_led_and_not_at_the_middle_of_a_cell():
    def steps(rows: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        return places[:, None] + torch.tensor([[1.2, 0.0]]), torch.ones(len(rows), 1).long()

    start, goal = torch.tensor([[0.2, 0.5]]), torch.tensor([[5.0, 0.5]])
    told = routes(steps, lambda p: p, number, start, goal, CELLS, 9, 0.05)
    assert told.end.tolist() == [CELLS] and int(told.hops[0, CELLS]) == 4
    assert told.way()[0, :, 0].tolist() == pytest.approx([1.4, 2.6, 3.8, 5.0])


def test_where_no_way_is_known_the_nearest_place_is_the_end():
    prices = torch.ones(2, CELLS, 4, dtype=torch.long)
    prices[0, torch.arange(2, CELLS, SIDE), 0] = NEVER  # nobody steps from column 2 to 3
    start, goal = torch.tensor([0, 0]), torch.tensor([17, 17])  # column 5 of row 2
    told = found(prices, start, goal)
    assert told.end.tolist() == [14, CELLS]
    assert torch.equal(told.way()[0, -1], middle(torch.tensor(14)))
    few = found(prices[1:], start[1:], goal[1:], most=3)
    assert few.cost[few.cost < NEVER].max() == 3 and int(few.end) != CELLS


def test_an_episode_is_alone_as_in_a_batch():
    draw = torch.Generator().manual_seed(1)
    prices = torch.randint(1, 5, (5, CELLS, 4), generator=draw)
    start, goal = torch.randint(0, CELLS, (2, 5), generator=draw)
    together = found(prices, start, goal)
    for i in range(5):
        alone = found(prices[i : i + 1], start[i : i + 1], goal[i : i + 1])
        for one, all_ in zip(alone, together, strict=True):
            assert torch.equal(one[0], all_[i])
