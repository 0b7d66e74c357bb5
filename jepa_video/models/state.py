"""From the tokens of an encoder to the state that a world model moves.

A state is `B P D`: one vector (P = 1), which is cheap to imagine with, or P patch tokens.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..distributed import all_sum
from ..errors import within
from .blocks import middles
from .rope import Grid


class StateHead(nn.Module):
    """What every state promises.

    Attributes:
        tokens: `P`.
        width: `D`.
        apart: whether the agent is told apart from the scene: tokens of the scene, as memory
            completes it, are then taken beside those of what is seen.
        grid: rows and columns of the cells that the numbers after the first `aim` are of, as many
            of each; None where they are of no place.
    """

    tokens: int
    width: int
    apart: bool = False
    grid: tuple[int, int] | None = None

    @property
    def aim(self) -> int:
        """How many of a state's numbers, from the first on, say where the agent is."""
        return self.tokens * self.width

    def forward(self, tokens: Tensor) -> Tensor:
        """Encoder tokens `B N E` to a state `B P D`."""
        raise NotImplementedError

    def samples(self, states: Tensor) -> list[Tensor]:
        """What a regulariser looks at, `M d` each: states `... P D` as samples of their parts."""
        return [states.flatten(0, -2)]

    def moving(self, states: Tensor) -> Tensor:
        """The first `aim` numbers of states `... P D`, `... aim`."""
        return states.flatten(-2)[..., : self.aim]


class VectorState(StateHead):
    """One vector that knows what is where: each token is narrowed, and all are joined in order.

    A mean over tokens would forget where things are; encoders with relative positions leave it to
    the order.

    Args:
        width: `E` of the encoder's tokens.
        grid: their grid.
        dim: `D` of the state.
        narrow: numbers that are kept of each token.
        hidden: width of the hidden layer.
    """

    tokens = 1

    def __init__(
        self, width: int, grid: Grid, dim: int = 32, narrow: int = 16, hidden: int = 256
    ) -> None:
        super().__init__()
        within("model.state", 1, dim=dim, narrow=narrow, hidden=hidden)
        self.width = dim
        self.narrow = nn.Linear(width, narrow)
        self.enter = nn.Linear(narrow * math.prod(grid), hidden)
        self.leave = nn.Linear(hidden, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """`B N E` to `B 1 D`."""
        joined = F.gelu(self.narrow(tokens)).flatten(1)
        state: Tensor = self.leave(F.gelu(self.enter(joined)))
        return state[:, None]


class Points(nn.Module):
    """Where things are: soft places that are looked for among the tokens, two numbers each.

    Each point weighs all tokens (softmax) and takes the mean of their places, each moved by an
    offset that its token tells, so that a point lies between the tokens' middles too. After the
    spatial soft-argmax of Levine et al. (2016), "End-to-end training of deep visuomotor policies".
    Where the agent is can then be read off by a linear map, to half a pixel of 64, where a joined
    vector was two pixels off after as many steps: a wall is two pixels thick.

    Args:
        width: `E` of the encoder's tokens.
        grid: their grid.
        count: points.
    """

    def __init__(self, width: int, grid: Grid, count: int = 16) -> None:
        super().__init__()
        within("model.state", 1, points=count)
        self.count = count
        t, h, w = grid
        self.places: Tensor
        self.register_buffer("places", middles((h, w)).repeat(t, 1))
        self.weigh = nn.Linear(width, count)
        self.offset = nn.Linear(width, 2 * count)
        nn.init.zeros_(self.offset.weight)
        nn.init.zeros_(self.offset.bias)
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, tokens: Tensor) -> Tensor:
        """`B N E` to `B 2 count`."""
        share = (2 * self.weigh(tokens)).softmax(1)  # B N count
        moved = self.places[:, None] + self.offset(tokens).unflatten(-1, (self.count, 2)) / 4
        found: Tensor = self.scale * (share[..., None] * moved).sum(1)
        return found.flatten(1)


class MapState(StateHead):
    """Points for what moves, beside a map of the scene: a few numbers of every token in place.

    What has to tell the action soon knows where the agent is, and nothing makes it know where a
    door is until the agent has met it. The map has that from the start: its numbers are kept apart
    from each other over all tokens. Together they are one vector (P = 1), cheap to imagine with.

    The points are of what is seen alone, so that who stands at a goal has the goal's points,
    however much of the scene is remembered by then; the map is of what is seen and remembered.

    Args:
        width: `E` of the encoder's tokens.
        grid: their grid.
        points: soft places that are looked for, two numbers each.
        each: numbers of a token in the map.
        centred: the regulariser sees of each token how its numbers differ from their mean over the
            batch. Where all pictures have the same walls, these alone satisfy it otherwise: in
            PointPush a map's numbers vary by 0.04 then, and a block that is pushed is not foreseen
            (configs/agent/LOG.md). Where scenes differ it need not be.
    """

    tokens = 1
    apart = True

    @property
    def aim(self) -> int:
        """The points' numbers."""
        return self.dim

    def __init__(
        self, width: int, grid: Grid, points: int = 16, each: int = 8, centred: bool = False
    ) -> None:
        super().__init__()
        within("model.state", 1, each=each)
        self.centred = centred
        self.points = Points(width, grid, points)
        self.grid = (grid[1], grid[2])
        self.cells, self.each, self.dim = grid[1] * grid[2], each, 2 * points
        self.width = self.dim + self.cells * each
        self.map = nn.Linear(width, each)

    def forward(self, tokens: Tensor, scene: Tensor | None = None) -> Tensor:
        """`B N E` to `B 1 D`; the map from the tokens `scene`, `B N E`, where there are some."""
        scene = tokens if scene is None else scene
        cells = self.map(scene[:, -self.cells :]).flatten(1)
        return torch.cat((self.points(tokens), cells), 1)[:, None]

    def samples(self, states: Tensor) -> list[Tensor]:
        """The points, and the numbers of all tokens of all maps."""
        rows = states.flatten(0, -2)
        cells = rows[:, self.dim :].reshape(len(rows), self.cells, self.each)
        if self.centred:
            count = all_sum(cells.new_tensor(len(cells)))
            cells = cells - all_sum(cells.sum(0)) / count
        return [rows[:, : self.dim], cells.flatten(0, 1)]


class PatchState(StateHead):
    """The tokens of the last time slot, each narrowed to `dim` numbers.

    Args:
        width: `E` of the encoder's tokens.
        grid: their grid.
        dim: `D` of each token of the state.
    """

    def __init__(self, width: int, grid: Grid, dim: int = 32) -> None:
        super().__init__()
        within("model.state", 1, dim=dim)
        self.tokens, self.width = grid[1] * grid[2], dim
        self.leave = nn.Linear(width, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """`B N E` to `B P D`."""
        state: Tensor = self.leave(tokens[:, -self.tokens :])
        return state


class Proprioception(nn.Module):
    """Adds what an agent feels of itself, `B F`, to its state `B P D`; at first it adds nothing."""

    def __init__(self, felt: int, width: int, hidden: int = 64) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(felt, hidden), nn.Linear(hidden, width)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, state: Tensor, felt: Tensor) -> Tensor:
        """`B P D` and `B F` to `B P D`."""
        moved: Tensor = state + self.leave(torch.tanh(self.enter(felt)))[:, None]
        return moved
