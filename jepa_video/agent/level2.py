"""Level 2: where an agent may be some steps later, by a latent, and the sub-goals that it sets.

    place_(t+k) = place_t + f(place_t, scene, z)       E2 = |place_hat - place_(t+k)|^2 / spread^2
    z ~ q(z | place_t, scene, place_(t+k)),  pulled to N(0, 1)

A latent of level 2 stands for what is done in k steps of level 1: an abstract action (LeCun 2022,
section 4.7 and figure 16). A plan of few of them reaches far; the first place on it is the
sub-goal of level 1, whose own plan is short. Memory alone says what k steps can do, so that nothing
is planned that nobody did; what a latent would lead to through a wall is a leap to the critic of
ways (`reach.py`).

Shapes: states `B P D`, of which the first `aim` numbers are the place; latents `B S H Z`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models.blocks import Mlp, Scenic
from .planners.base import Limits
from .planners.sampling import CEM
from .reach import LEAP, Ways
from .tried import Tried

PRICE: Final = 0.01  # of a nat of the latent, beside the energy
EDGE: Final = 2.5  # deviations of the prior that a plan keeps within
_ITERATIONS: Final = 3
_ELITES: Final = 8
_CARRIED: Final = 5  # of them begin the next iteration


class Level2(Scenic):
    """Places `stride` steps later.

    Args:
        width: `D` times `P` of a state.
        aim: how many of its numbers, from the first on, are the place.
        stride: k, steps of level 1 that one of level 2 takes.
        hidden: width inside.
        dim: Z.
        narrow, grid: see `Scenic`.
    """

    def __init__(
        self,
        width: int,
        aim: int,
        stride: int,
        hidden: int = 256,
        dim: int = 4,
        narrow: int = 16,
        grid: tuple[int, int] | None = None,
    ) -> None:
        super().__init__(width, aim, narrow, grid)
        self.stride, self.dim = stride, dim
        # Few numbers beside many are not to be lost among them: they have maps of their own.
        self.enter, self.steer = nn.Linear(self.waves.out, hidden), nn.Linear(dim, hidden)
        self.norm, self.leave = nn.LayerNorm(hidden), Mlp(hidden, 2 * hidden, aim)
        self.ask, self.look = nn.Linear(self.waves.out, hidden), nn.Linear(aim, hidden)
        self.asked = nn.LayerNorm(hidden)
        self.answer = Mlp(hidden, hidden, 2 * dim)
        self.spread: Tensor
        self.register_buffer("spread", torch.ones(()))

    def later(self, places: Tensor, scene: Tensor, z: Tensor) -> Tensor:
        """Where latents `N Z` lead from places `N aim` in scenes `N C`: `N aim`."""
        seen = self.waves(torch.cat((places, scene), 1))
        h = F.gelu(self.norm(self.enter(seen) + self.steer(z)))
        moved: Tensor = places + self.spread * self.leave(h)
        return moved

    def posterior(self, places: Tensor, scene: Tensor, later: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of z, `N Z` each, where a place became another."""
        seen = self.waves(torch.cat((places, scene), 1))
        gone = (later - places) / self.spread
        h = F.gelu(self.asked(self.ask(seen) + self.look(gone)))
        mean, log = self.answer(h).chunk(2, 1)
        return mean, log.clamp(-8, 2)

    def loss(
        self, states: Tensor, later: Tensor, scene: Tensor, draw: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Energy of memory's pairs `B P D` and the price of z, and the energy alone.

        Args:
            states: of memory.
            later: `stride` steps after them.
            scene: states of the same scenes, which tell it.
            draw: of z.
        """
        here, there = (part.flatten(1)[:, : self.aim] for part in (states, later))
        told = self.scene(scene)
        mean, log = self.posterior(here, told, there)
        noise = torch.randn(mean.shape, generator=draw).to(mean)
        found = self.later(here, told, mean + (log / 2).exp() * noise)
        energy = ((found - there) / self.spread).square().sum(1).mean()
        nats = 0.5 * (mean.square() + log.exp() - 1 - log).sum(1).mean()
        return energy + PRICE * nats, energy.detach()

    def rollout(self, places: Tensor, scene: Tensor, z: Tensor) -> Tensor:
        """Places `N H aim` on the way of latents `N H Z`."""
        way = []
        for step in z.unbind(1):
            places = self.later(places, scene, step)
            way.append(places)
        return torch.stack(way, 1)

    def scale_to(self, gone: Tensor) -> None:
        """The spread from how far memory's places went in `stride` steps, `N aim`."""
        self.spread.copy_(gone.square().sum(1).mean().sqrt().clamp_min(1e-6))


class FarCost:
    """What a plan of level 2 costs: the steps until the best of its places, and the way from there.

    Args:
        level2: imagines.
        critic: judges.
        tried: what was met in these episodes, for a critic that knows what to make of it.
    """

    def __init__(self, level2: Level2, critic: Ways, tried: Tried | None = None) -> None:
        self.level2, self.critic, self.tried = level2, critic, tried

    def places(self, state: Tensor, z: Tensor) -> Tensor:
        """Where latents `B S H Z` lead from states `B P D`: `B S H aim`."""
        batch, samples = z.shape[:2]
        scene = self.level2.scene(state).repeat_interleave(samples, 0)
        here = state.flatten(1)[:, : self.level2.aim].repeat_interleave(samples, 0)
        way = self.level2.rollout(here, scene, z.flatten(0, 1))
        return way.view(batch, samples, *way.shape[1:])

    def __call__(self, state: Tensor, actions: Tensor, task: Tensor) -> Tensor:
        """Latents `B S H Z` in the place of actions, and goals `B P D` of the task, to `B S`."""
        stride, discount = self.level2.stride, self.critic.discount
        way = self.places(state, actions)
        left, over = self.critic.foretold(state, task, way[..., None, :], stride, self.tried, False)
        steps = stride * torch.arange(1, way.shape[2] + 1, device=way.device)
        leaps = LEAP * self.critic.weight * over.cumsum(-1)
        total = self.critic.cost(steps) + discount**steps * left + leaps
        return total.amin(-1)


class Ahead:
    """Sets the sub-goals of a batch of episodes: the first place on the best plan of level 2.

    A sub-goal stands for half of the stride, and the goal itself takes its place where it is no
    further away than one stride.

    Args:
        level2: imagines.
        critic: judges.
        far: H, steps of a plan.
        samples: plans that are drawn in an iteration.
    """

    def __init__(self, level2: Level2, critic: Ways, far: int, samples: int) -> None:
        self.level2, self.critic = level2, critic
        limits, elites = Limits(level2.dim, -EDGE, EDGE), min(_ELITES, samples)
        self.planner = CEM(
            far, limits, samples, _ITERATIONS, elites, min(_CARRIED, elites), std=1 / EDGE,
            min_std=0.05,
        )  # fmt: skip
        self.reset()

    def reset(self) -> None:
        """Episodes begin."""
        self.now: Tensor | None = None  # sub-goals B P D
        self.age = torch.zeros(0)
        self.calls = 0

    @torch.no_grad()
    def aim(
        self,
        state: Tensor,
        goal: Tensor,
        draws: Callable[[Tensor], Sequence[torch.Generator]],
        over: Tensor | None = None,
        tried: Tried | None = None,
    ) -> Tensor:
        """What to go for now, `B P D`.

        Args:
            state: `B P D`.
            goal: `B P D`.
            draws: gives generators for the environments of some numbers.
            over: episodes that nothing is planned for any more, bool `B`.
            tried: what was met in the episodes.
        """
        left = self.critic.steps(state, goal).mean(0)
        near = left <= self.level2.stride
        if self.now is None:
            self.now, self.age = goal.clone(), torch.full(left.shape, self.level2.stride)
        self.age = self.age.to(near.device) + 1
        stale = ~near & (self.age > max(self.level2.stride // 2, 1))
        which = torch.nonzero(stale if over is None else stale & ~over)[:, 0]
        if len(which):
            cost = FarCost(self.level2, self.critic, None if tried is None else tried.rows(which))
            plan = self.planner.plan(cost, state[which], goal[which], None, draws(which))
            first = cost.places(state[which], plan.actions[:, None])[:, 0, 0]
            made = state[which].flatten(1).clone()
            made[:, : self.level2.aim] = first
            self.now[which] = made.view_as(state[which])
            self.age[which] = 1
            self.calls += len(which)
        self.age = torch.where(near, self.level2.stride, self.age)
        return torch.where(near[:, None, None], goal, self.now)
