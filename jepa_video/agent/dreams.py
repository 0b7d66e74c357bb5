"""Dreams: what the policy would do, played in the world model, and what that comes to.

    G_t = c_(t+1) + d ((1 - l) V'(s_(t+1)) + l G_(t+1))        G_(H-1) = c_H + d V'(s_H)

From states of memory the policy acts for H steps in imagination. The critic learns G in each state
on the way, and the policy goes down the slope of G, through the world model and all of its own
later actions (Hafner, Lillicrap, Ba and Norouzi 2020, "Dream to Control", eq. 6 to 8). Where plans
that are held for a step or three are imitated, what is to be done over many steps, as to swing a
pole up and to catch it there, comes by bootstrapping alone; here it comes by its slope.

Shapes: B dreams of H steps, states `B P D`, actions `B A`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .policy import Reaction

Reacts = Callable[[Tensor], Reaction]  # states `B P D` to distributions over actions
Foretells = Callable[[Tensor, Tensor, Tensor], Tensor]  # known, past, action to the next state
Clips = Callable[[Tensor], Tensor]  # actions to such as can be taken


class Dream(NamedTuple):
    """What was imagined.

    Attributes:
        before: states in which the policy acted, `B H P D`; the first is of memory.
        after: where that led, `B H P D`.
        actions: `B H A`.
        odds: the logarithm of how likely each was to the policy, `B H`: the lower, the more it
            leaves open.
    """

    before: Tensor
    after: Tensor
    actions: Tensor
    odds: Tensor


def dreamt(
    state: Tensor,
    steps: int,
    reacts: Reacts,
    foretells: Foretells,
    clips: Clips,
    draw: torch.Generator,
) -> Dream:
    """The policy acts for so many steps from states `B P D`, by draws that gradients go through.

    Args:
        state: where each begins.
        steps: H.
        reacts: the policy.
        foretells: the next state from known ones `B T P D`, the actions between them `B T-1 A`,
            and one more `B 1 A`.
        clips: actions within their limits.
        draw: of the actions.
    """
    known, past = state[:, None], state.new_zeros(len(state), 0, 0)
    odds: list[Tensor] = []
    for _ in range(steps):
        action, likely = reacts(known[:, -1]).drawn(draw)
        action = clips(action)[:, None]
        past = past.new_zeros(len(state), 0, action.shape[2]) if not odds else past
        told = foretells(known, past, action)
        known, past = torch.cat((known, told[:, None]), 1), torch.cat((past, action), 1)
        odds.append(likely)
    return Dream(known[:, :-1], known[:, 1:], past, torch.stack(odds, 1))


def returns(costs: Tensor, later: Tensor, discount: float, trace: float) -> Tensor:
    """G of each step: costs `B H` of where it led and what a critic says of that, to `B H`.

    With a trace of 0 the critic's word counts after each step, with 1 at the end alone.
    """
    total, told = later[:, -1], []
    for cost, word in zip(reversed(costs.unbind(1)), reversed(later.unbind(1)), strict=True):
        total = cost + discount * ((1 - trace) * word + trace * total)
        told.append(total)
    return torch.stack(told[::-1], 1)
