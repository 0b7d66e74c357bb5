"""What a learner imagines: actions that are tried, and what they come to.

Shapes: states `B P D`, candidates `B S A`, states of candidates `N P D` with N = B S.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from ..training.target import still
from ..training.world_model import WorldModel
from .cost import Critic, IntrinsicCost
from .dreams import Dream, dreamt, returns
from .planners.base import Limits
from .policy import Reaction, ReactivePolicy, anything
from .reach import LEAP, Ways
from .recall import lived
from .task import Task, Zone


class Imagined:
    """The part of a learner that asks the `world`.

    Attributes:
        intrinsic: the cost of what is imagined, under `weights` and with `zones`.
        goal: whether there are goals.
        limits: of actions; None where they are kinds.
        critic: says what is left after it where it is one of ways, else `target`, its slow average.
        candidates: actions that are tried in each state.
        holds: for how many steps each is held.
        futures: draws of z that a cost is the mean of.
        discount: of each step.
        recall: steps of memory that a critic of values looks ahead.
        ahead: steps that are dreamt.
        trace: of what dreams come to, see `dreams.returns`.
    """

    intrinsic: IntrinsicCost
    weights: dict[str, float]
    zones: tuple[Zone, ...]
    goal: bool
    limits: Limits | None
    critic: Critic | Ways
    target: Critic | None
    candidates: int
    holds: list[int]
    futures: int
    discount: float
    recall: int
    ahead: int
    trace: float

    @property
    def world(self) -> WorldModel:
        """The world model."""
        raise NotImplementedError

    def proposals(
        self, state: Tensor, reaction: Reaction, done: Tensor, draw: torch.Generator
    ) -> Tensor:
        """Candidates `B S A`: what the policy would do and did, and draws over all actions."""
        known = torch.stack((reaction.best(), done), 1)
        drawn = reaction.sample(2, draw)
        facts, count = self.world.facts, self.candidates - 4
        shape = (len(state), count, facts.action_size)
        tried = torch.cat((known, drawn, anything(shape, facts.discrete, draw).to(state)), 1)
        return tried if self.limits is None else self.limits.clip(tried)

    def outcome(
        self, state: Tensor, goal: Tensor | None, actions: Tensor, draw: torch.Generator
    ) -> Tensor:
        """Cost of holding each action for the best of `holds` steps and what V' adds: `B S`.

        Where the world has a latent it is the mean over draws of z: the action is chosen before
        chance has spoken.
        """
        count, draws = actions.shape[1], self.futures
        act = actions.flatten(0, 1).repeat_interleave(draws, 0)
        first, aim = (
            None if part is None else part.repeat_interleave(count * draws, 0)
            for part in (state, goal)
        )
        assert first is not None
        task, z = Task(aim, self.weights, self.zones), self._future(state, count, draw)
        held = act[:, None].expand(-1, self.holds[-1], -1)
        future = self.world.imagine(first[:, None], held, z)  # N H P D
        shares = self.discount ** torch.arange(self.holds[-1], device=act.device)
        spent = (self.intrinsic(future, held, task) * shares).cumsum(1)
        if isinstance(self.critic, Ways):
            assert goal is not None
            price = LEAP * self.critic.weight
            left, over = self.critic.foretold(
                state, goal, future.view(len(state), count * draws, *future.shape[1:])
            )
            left, spent = left.flatten(0, 1), spent + price * over.flatten(0, 1).cumsum(1)
        else:
            left = self.later(future, aim)
        which = [step - 1 for step in self.holds]
        total = (spent + self.discount * shares * left)[:, which]
        least: Tensor = total.view(len(state), count, draws, -1).mean(2).amin(-1)
        return least

    def dream(
        self, state: Tensor, goal: Tensor | None, policy: ReactivePolicy, draw: torch.Generator
    ) -> tuple[Dream, Tensor]:
        """What a policy would do from states `B P D`, and what that costs from each on, `B H`."""
        world, limits = self.world, self.limits
        assert limits is not None
        drawn = world.futures(state[:, None], 1, draw)
        z = None if drawn is None else drawn[:, 0]

        def foretells(known: Tensor, past: Tensor, action: Tensor) -> Tensor:
            return world.imagine(known, action, z, past)[:, 0]

        with still(world.dynamics):  # they say where to, and do not come nearer
            reacts = partial(policy.on, goal=goal)
            dream = dreamt(state, self.ahead, reacts, foretells, limits.clip_inwards, draw)
        costs = self.felt(dream.after, dream.actions, goal)
        later = self.later(dream.after, goal)
        return dream, returns(costs, later, self.discount, self.trace)

    def later(self, future: Tensor, goal: Tensor | None) -> Tensor:
        """What the least hopeful network expects after imagined states `N H P D`: `N H`."""
        assert self.target is not None
        steps = future.shape[1]
        aim = None if goal is None else goal.repeat_interleave(steps, 0)
        told: Tensor = self.target.each(future.flatten(0, 1), aim).amax(0)
        return told.view(-1, steps)

    def lived(self, ahead: Tensor) -> Tensor:
        """The most that memory's way to the goal can have cost, `B`, where that alone is asked for.

        It says nothing where imagination is to tell what chance may bring: memory was lucky.
        """
        lucky = self.world.latent.dim and not self.recall
        if not self.goal or set(self.weights) != {"goal"} or lucky:
            return torch.full(ahead.shape, torch.inf, device=ahead.device)
        return lived(ahead, self.discount, self.weights["goal"])

    def felt(self, states: Tensor, actions: Tensor, goal: Tensor | None) -> Tensor:
        """The intrinsic cost that is foretold, of states `B ... P D`: `B ...`."""
        goal = goal if self.goal else None
        return self.intrinsic(states, actions, Task(goal, self.weights, self.zones))

    def _future(self, now: Tensor, count: int, draw: torch.Generator) -> Tensor | None:
        """The same draws of z for each of `count` plans, one after the other; None: no latent."""
        if not self.world.latent.dim:
            return None
        drawn = self.world.futures(now[:, None], self.futures, draw)
        assert drawn is not None
        return drawn[:, None].expand(-1, count, -1, -1, -1).flatten(0, 2)
