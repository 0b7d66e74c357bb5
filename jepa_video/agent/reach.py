"""A critic of ways: how many steps lie between two states, as a quasimetric of what they become.

    d(s, g) = mean over groups of  max over landmarks i of  relu(f_i(s) - f_i(g))
    loss    = mean softplus(far - d(s, g)) / weight  +  mean relu(d(s, s') - 1)^2

The scene that states share is told to f once, from one of them: f(s) is of where the agent is in s
and of that scene. Were each state to tell its own, the traces that the agent leaves in what is told
of a scene would set states apart from goals that no memory joins: ways came out three times too
long (configs/agent/LOG.md).

Whatever f is, d(s, s) = 0 and d(a, c) <= d(a, b) + d(b, c). States and goals are pushed apart as
far as the steps that memory took, each of which is one step long, hold them together: what remains
is the length of the shortest way (Wang, Torralba, Isola and Zhang 2023, "Optimal goal-reaching
reinforcement learning via quasimetric learning", eq. 8). No step is imagined, so that a way through
a wall is never learned from; and one that is imagined and longer than any in memory is known for
what it is.

Shapes: states `N P D`, goals like them, groups G, landmarks of a group K.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models.blocks import Mlp, Scenic
from .tried import Tried

FAR = 1.2  # steps beyond which nothing is pushed further, in 1 / (1 - discount)
LEAP = 10.0  # cost of each step by which an imagined step is too long
SLACK = 0.5  # steps by which an imagined step may be longer than one without being a leap
_BEND = 0.1  # of the softplus
_WEIGHTS = (
    5.0,
    300.0,
)  # of the constraint, at the beginning and from nine tenths of the training on


class Ways(nn.Module):
    """How many steps lie between places, told by several groups, and what is on the way of a plan.

    Attributes:
        discount: of each step.
        weight: of the cost `goal`, which each step on the way costs.
        groups: whose answers are averaged; where they disagree, it has not seen enough.
        shun: steps that each step in a cell of a chart costs beside itself, see `shunned.py`; None
            where nothing is to be kept out of, or nobody knows ways around.
    """

    discount: float
    weight: float
    groups: int
    shun: Tensor | None = None

    @property
    def goal(self) -> bool:
        """There always is one."""
        return True

    def steps(self, states: Tensor, others: Tensor) -> Tensor:
        """How many from states `N P D` to where others are in their scenes: `G N`."""
        raise NotImplementedError

    def foretold(
        self,
        now: Tensor,
        goal: Tensor,
        future: Tensor,
        stride: int = 1,
        tried: Tried | None = None,
        felt: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """What is left after each imagined state, and by how much the step to it is a leap.

        All are looked at in the scene of now, which stands still.

        Args:
            now: `B P D`.
            goal: `B P D`.
            future: `B S H P D`, or their first `aim` numbers alone.
            stride: steps between two of them.
            tried: what was done in the episode, for a critic that minds it.
            felt: whether who asks counts what zones on the way cost, for a critic that minds them:
                then no step is too long for being in one.

        Returns:
            Discounted cost of the way that is left, and steps too long: `B S H` each.
        """
        raise NotImplementedError

    def learn(self, batch: dict[str, Tensor], share: float) -> Tensor:
        """The loss on a batch of memory; `share` of the training is over."""
        raise NotImplementedError

    def each(self, states: Tensor, goal: Tensor | None) -> Tensor:
        """The discounted cost of the way to the goal, by each group: `G N`."""
        assert goal is not None
        return self.cost(self.steps(states, goal))

    def cost(self, steps: Tensor) -> Tensor:
        """Of so many steps, discounted."""
        spent: Tensor = self.weight * (1 - self.discount**steps) / (1 - self.discount)
        return spent

    def forward(self, states: Tensor, goal: Tensor | None) -> Tensor:
        """The mean of the groups, `N`."""
        return self.each(states, goal).mean(0)


class Reach(Scenic, Ways):
    """Steps to a goal, and the discounted cost of being on the way for so long.

    Args:
        width: `D` times `P` of a state.
        aim: how many of its numbers, from the first on, say where the agent is: those of the goal.
        hidden: width inside.
        discount: of each step.
        weight: of the cost `goal`, which each step on the way costs.
        groups: that are averaged; where they disagree, it has not seen enough.
        landmarks: of each.
        narrow, grid: see `Scenic`.
    """

    def __init__(
        self,
        width: int,
        aim: int,
        hidden: int = 256,
        discount: float = 0.97,
        weight: float = 1.0,
        groups: int = 8,
        landmarks: int = 32,
        narrow: int = 16,
        grid: tuple[int, int] | None = None,
    ) -> None:
        super().__init__(width, aim, narrow, grid)
        self.discount, self.weight, self.groups = discount, weight, groups
        self.enter, self.norm = nn.Linear(self.waves.out, hidden), nn.LayerNorm(hidden)
        self.leave = Mlp(hidden, 2 * hidden, groups * landmarks)

    def place(self, states: Tensor, scene: Tensor) -> Tensor:
        """`f`: where states `N P D` are in scenes `N C`, `N G K`."""
        s = torch.cat((states.flatten(1)[:, : self.aim], scene), 1)
        h = F.gelu(self.norm(self.enter(self.waves(s))))
        return torch.stack(self.leave(h).chunk(self.groups, 1), 1)

    def steps(self, states: Tensor, others: Tensor) -> Tensor:
        """See `Ways`."""
        scene = self.scene(states)
        return between(self.place(states, scene), self.place(others, scene))

    def foretold(
        self,
        now: Tensor,
        goal: Tensor,
        future: Tensor,
        stride: int = 1,
        tried: Tried | None = None,
        felt: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """See `Ways`."""
        scene, (batch, *many) = self.scene(now), future.shape[:3]
        begin, aim = self.place(now, scene), self.place(goal, scene)  # B G K
        each = scene[:, None, None].expand(-1, *many, -1).flatten(0, 2)
        places = self.place(future.flatten(0, 2), each).view(batch, *many, *begin.shape[1:])
        first = begin[:, None, None].expand_as(places[:, :, :1])
        before = torch.cat((first, places[:, :, :-1]), 2)
        steps = (before - places).relu().amax(-1).mean(-1)
        left = self.cost((places - aim[:, None, None]).relu().amax(-1)).mean(-1)
        return left, (steps - stride - SLACK).relu()

    def learn(self, batch: dict[str, Tensor], share: float) -> Tensor:
        """See `loss`."""
        return self.loss(batch["state"], batch["next"], batch["goal"], share)

    def loss(self, states: Tensor, after: Tensor, goal: Tensor, share: float) -> Tensor:
        """See the top of the file.

        Args:
            states: of memory.
            after: the states one step later.
            goal: of the same scene, which it tells.
            share: of the training that is over: the constraint weighs ever more.
        """
        first, last = _WEIGHTS
        weight = first * (last / first) ** min(1.0, share / 0.9)
        scene = self.scene(goal)
        places = self.place(torch.cat((states, after, goal)), scene.repeat(3, 1))
        here, there, aim = places.chunk(3)
        far = FAR / (1 - self.discount)
        apart = F.softplus(far - between(here, aim).mean(0), beta=_BEND).mean()
        long = (between(here, there).mean(0) - 1).relu().square().mean()
        total: Tensor = apart / weight + long
        return total


def between(here: Tensor, there: Tensor) -> Tensor:
    """`N G K` twice to steps `G N`."""
    far: Tensor = (here - there).relu().amax(-1)
    return far.T
