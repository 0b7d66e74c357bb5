"""What memory teaches without imagination: values of its own steps, and which of them surprise.

    V(s_t, g) <- expectile of  sum_(k<n) d^k c(s_(t+k+1), g) + d^n V'(s_(t+n), g)

Imagined plans pass a wall wherever the world model lets them; steps that were taken do not. Memory
acted badly most of the time, so that the mean of what came is too dear: an expectile near the best
of it is learned (Kostrikov, Nair and Levine 2022, "Offline reinforcement learning with implicit
Q-learning", eq. 5). Where there is chance it is a hopeful value, of lucky steps; what a plan costs
that sees the chance within its horizon is the mean over draws of z.

Shapes: B pairs of state and goal, n steps of memory after each, states `B P D`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

import torch
from torch import Tensor

from ..training.passages import Passage
from ..training.world_model import WorldModel
from .cost import Critic

Felt = Callable[[Tensor, Tensor, Tensor | None], Tensor]  # states, actions, goals to costs
ROWS: Final = 1024  # steps that are foretold at once


def recalled(
    critic: Critic,
    later: Critic,
    batch: dict[str, Tensor],
    felt: Felt,
    discount: float,
    hope: float,
    most: Tensor,
) -> Tensor:
    """The loss of a critic on a batch of memory.

    Args:
        critic: learns.
        later: V', its slow average.
        batch: `state`, `goal` `B P D`; `way` `B n P D`, the states after; `did` `B n A`; `ended`,
            bool `B n`: the episode ended of its own there; `steps` `B`, how many of them count.
        felt: the intrinsic cost of states `B n P D` and actions `B n A` under goals `B P D`.
        discount: of each step.
        hope: the expectile; above one half it learns from what went well.
        most: `B`, what the way to the goal can have cost at most, infinite where nobody knows.
    """
    goal = batch["goal"] if critic.goal else None
    with torch.no_grad():
        target = torch.minimum(returns(later, batch, felt, goal, discount), most)
    off = (target - critic.each(batch["state"], goal)) / critic.unit.abs()  # M B
    return expectile(off, 1 - hope)


def returns(
    later: Critic, batch: dict[str, Tensor], felt: Felt, goal: Tensor | None, discount: float
) -> Tensor:
    """What the next `steps` of memory cost, and what V' says after them: `B`."""
    way, steps = batch["way"], batch["steps"]
    time = torch.arange(way.shape[1], device=way.device)
    counts = time < steps[:, None]
    spent = (felt(way, batch["did"], goal) * discount**time * counts).sum(1)
    last = way[torch.arange(len(way), device=way.device), steps - 1]
    over = (batch["ended"] & counts).any(1)
    after: Tensor = spent + discount**steps * torch.where(over, 0.0, later(last, goal))
    return after


def expectile(error: Tensor, share: float) -> Tensor:
    """The loss whose minimum is the `share` expectile of what is aimed at, of target less guess."""
    weight = torch.where(error < 0, 1 - share, share)
    loss: Tensor = (weight * error.square()).mean()
    return loss


def lived(ahead: Tensor, discount: float, weight: float) -> Tensor:
    """The most that the way of memory to a goal can have cost, `B`; infinite where it is behind.

    Memory was at the goal `ahead` steps later, and no step costs more than the weight.
    """
    steps = (1 - discount ** ahead.float()) / (1 - discount)
    return torch.where(ahead >= 0, weight * steps, torch.inf)


def reached(batch: dict[str, Tensor]) -> Tensor:
    """Where actions of memory led: the goal, where its episode was there later, else `next`."""
    later: Tensor = torch.where(batch["ahead"][:, None, None] > 0, batch["goal"], batch["next"])
    return later


def surprising(batch: dict[str, Tensor], share: float) -> tuple[Tensor, ...]:
    """States, actions and states after of a batch, a share of them by how much they surprised."""
    parts = tuple(batch[name] for name in ("state", "action", "next"))
    if "odd_state" not in batch:
        return parts
    count = round(share * len(parts[0]))
    odd = (batch[f"odd_{name}"][:count] for name in ("state", "action", "next"))
    return tuple(torch.cat((a, b[count:])) for a, b in zip(odd, parts, strict=True))


@torch.no_grad()
def surprises(
    world: WorldModel,
    transitions: Iterable[tuple[Tensor, Tensor, Tensor]],
    device: torch.device,
    draw: torch.Generator,
) -> Tensor:
    """The energy of each step of memory, under the z that explains it best: `N`, on the CPU.

    Args:
        world: foretells.
        transitions: states `n P D`, actions `n A`, and states after, of N in all.
        device: where it computes.
        draw: of the search for z.
    """
    told = []
    for rows in transitions:
        state, action, after = (part.to(device)[:, None] for part in rows)
        passage = Passage(state, action[:, :0], action, after)
        z = world.explain(passage, draw) if world.latent.dim else None
        energy = world.energy(world.imagine(state, action, z), after)
        told.append(energy.cpu())
    return torch.cat(told)
