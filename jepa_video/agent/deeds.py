"""Deeds: what memory's own actions came to, told by a critic of states and actions.

    Q(s, a) <- c(s') + d [max_m Q'_m(s', a') + u log p(a' | s')]        a' ~ p
    policy:  the least of  max_m Q_m(s, a) + u log p(a | s)             a ~ p
    u:       such that the policy keeps an entropy of -A nats
    V(s)  <- max_m Q'_m(s, a)                                           a ~ p

Soft actor-critic (Haarnoja et al. 2018, "Soft actor-critic algorithms and applications", eq. 5, 7
and 18), of costs, so that the most of M networks is the careful one. Nothing is imagined: where the
world model is a little wrong, as of a pole that hangs still, plans and dreams learn to go there,
and by bootstrapping a little becomes all there is. What was done and where it led is never wrong.
It needs memory that did most things in most places. Q' is a slow average of Q. V is what plans ask.

Shapes: B steps of memory, states `B P D`, actions `B A`, M networks.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..training.target import frozen_copy, still
from ..training.world_model import WorldModel
from .cost import Critic
from .policy import ReactivePolicy

_OPEN = 0.5  # at first, what a nat is worth in costs of a step


class Deeds(nn.Module):
    """A critic of what is done, and what a nat of the policy's entropy is worth to it.

    Args:
        width: `D` times `P` of a state.
        action: `A`.
        aim: how many of a goal's numbers, from the first on, are looked at; 0 for no goal.
        hidden: width inside.
        members: networks.
        discount: of each step.
    """

    def __init__(
        self, width: int, action: int, aim: int, hidden: int, members: int, discount: float
    ) -> None:
        super().__init__()
        self.discount, self.entropy = discount, -float(action)
        self.quick = Critic(width + action, aim, hidden, members)
        self.slow = frozen_copy(self.quick)
        # In what the critic counts in, which is a mean cost for ever.
        self.price = nn.Parameter(torch.tensor(math.log(_OPEN * (1 - discount))))

    def judges(self) -> tuple[Critic, Critic]:
        """The critic and its slow average."""
        assert isinstance(self.slow, Critic)
        return self.quick, self.slow

    def aimed(self, batch: dict[str, Tensor], cost: Tensor, act: Tensor, odds: Tensor) -> Tensor:
        """What Q is to say of memory's steps, `B`.

        Args:
            batch: `next` and `goal` `B P D`; `terminated`, bool `B`: nothing comes after.
            cost: of each step, `B`.
            act: what the policy would do in `next`, `B A`.
            odds: how likely that was to it, `B`, in nats.
        """
        quick, slow = self.judges()
        price = self.price.exp() * quick.unit
        later = told(slow, batch["next"], act, batch.get("goal")).amax(0) + price * odds
        return cost + self.discount * later.masked_fill(batch["terminated"], 0.0)

    def learn(
        self,
        batch: dict[str, Tensor],
        cost: Tensor,
        policy: ReactivePolicy,
        critic: Critic,
        clips: Callable[[Tensor], Tensor],
        draw: torch.Generator,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of Q, of the policy, of its entropy's price and of V; and facts for the log.

        Args:
            batch: steps of memory, see `aimed`; and `state` `B P D`, `action` `B A`.
            cost: of each, `B`.
            policy: is to do the best of what Q knows.
            critic: V.
            clips: actions to such as can be taken.
            draw: of the policy's actions.
        """
        quick, slow = self.judges()
        state, goal, unit = batch["state"], batch.get("goal"), quick.unit
        with torch.no_grad():
            next_act, next_odds = policy.on(batch["next"], goal).drawn(draw)
            aim = self.aimed(batch, cost, clips(next_act), next_odds)
        error = ((told(quick, state, batch["action"], goal) - aim) / unit).square().mean()
        act, odds = policy.on(state, goal).drawn(draw)
        act = clips(act)
        with still(quick):
            acted = (told(quick, state, act, goal).amax(0) / unit).mean()
        acted = acted + self.price.exp().detach() * odds.mean()
        held = -self.price * (odds.detach().mean() + self.entropy)
        with torch.no_grad():
            value = told(slow, state, act, goal).amax(0)
        each = critic.each(state, goal)  # M B
        judged = ((each - value) / unit).square().mean()
        facts = {"deeds": error, "policy": acted, "critic": judged, "cost": value.mean()}
        facts |= {"nat": self.price.exp() * unit, "entropy": -odds.mean()}
        facts |= {"doubt": each.std(0).mean()} if len(each) > 1 else {}
        return error + acted + held + judged, facts


def told(judge: Critic, state: Tensor, action: Tensor, goal: Tensor | None) -> Tensor:
    """What each network says of doing that there: `M B`."""
    return judge.each(torch.cat((state.flatten(1), action), 1)[:, None], goal)


def deeds_of(world: WorldModel, goal: bool, hidden: int, members: int, discount: float) -> Deeds:
    """A fresh critic of what is done in the states of a world, with goals or without."""
    state = world.state
    width, aim = state.width * state.tokens, state.aim if goal else 0
    return Deeds(width, world.facts.action_size, aim, hidden, members, discount)
