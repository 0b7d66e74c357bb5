"""Dynamics: the state after an action, from the states and actions up to it.

    s_(t+1) = s_t + change(s_(t-K+1) ... s_t, a_(t-K+1) ... a_t, z)

The action enters through adaptive layer-norm, as in diffusion transformers (Peebles and Xie 2023,
section 3.2); jepa-wms (Terver et al. 2025) found it the best of the ways that it compared.

Shapes: B environments, K states of the history, P tokens of a state, D their width, A numbers of an
action, H steps, latent `B L Z`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UserError, within
from .blocks import (
    Block,
    Mlp,
    Narrowed,
    Sought,
    Waves,
    init_weights,
    rescale_residuals,
    run_blocks,
)
from .rope import grid_positions, rotary_tables


class Dynamics(nn.Module):
    """What every kind promises.

    Attributes:
        history: states that it looks at, `K`; where fewer are known, the first stands for those
            before it, with actions of 0.
        latent_width: `Z`; 0 where there is none.
    """

    history: int
    latent_width: int

    def forward(self, states: Tensor, actions: Tensor, z: Tensor | None = None) -> Tensor:
        """The state `B P D` after the last of `actions` `B K A`, taken in `states` `B K P D`."""
        raise NotImplementedError

    def rollout(
        self,
        states: Tensor,
        actions: Tensor,
        z: Tensor | None = None,
        past: Tensor | None = None,
    ) -> Tensor:
        """The states `B H P D` after each of `actions` `B H A`, each told from those told before.

        Args:
            states: known ones up to now, `B T P D`.
            actions: from now on.
            z: one latent for all steps, `B L Z`.
            past: actions between the known states, `B T-1 A`; None where T is 1.
        """
        known, acted = self._begin(states, actions, past)
        told = []
        for step in range(actions.shape[1]):
            acted = torch.cat((acted, actions[:, step : step + 1]), 1)
            told.append(self(known, acted, z))
            known = torch.cat((known[:, 1:], told[-1][:, None]), 1)
            acted = acted[:, 1:]
        return torch.stack(told, 1)

    def _begin(self, states: Tensor, actions: Tensor, past: Tensor | None) -> tuple[Tensor, Tensor]:
        """The last K states and the K - 1 actions between them, padded at the front."""
        lack = self.history - states.shape[1]
        past = actions[:, :0] if past is None else past
        if lack > 0:
            states = torch.cat((states[:, :1].expand(-1, lack, -1, -1), states), 1)
            past = torch.cat((past.new_zeros(len(past), lack, past.shape[2]), past), 1)
        keep = self.history - 1
        return states[:, -self.history :], past[:, past.shape[1] - keep :]


class VectorDynamics(Dynamics):
    """Residual layers on one vector; the history is joined, the last action modulates.

    Args:
        width: `D` of the state.
        tokens: `P`, which must be 1.
        action: `A`.
        latent_width: `Z`.
        aim: how many of a state's numbers, from the first on, say where the agent is; the others
            are narrowed before anything else is made of them. None: all.
        hidden: width inside.
        depth: residual layers.
        history: states that it looks at.
        narrow: numbers that are made of a state's others.
        waves: sines, see `Waves`; 0 for none.
        condition: width of what the modulation is made from; small, since planning pays for it.

    Raises:
        UserError: the state has several tokens.
    """

    def __init__(
        self,
        width: int,
        tokens: int,
        action: int,
        latent_width: int = 0,
        aim: int | None = None,
        hidden: int = 256,
        depth: int = 2,
        history: int = 1,
        narrow: int = 32,
        waves: int = 256,
        condition: int = 64,
    ) -> None:
        super().__init__()
        if tokens != 1:
            raise UserError("VectorDynamics moves one vector: give model.state VectorState")
        within("model.dynamics", 1, hidden=hidden, history=history, condition=condition)
        within("model.dynamics", 1, narrow=narrow)
        within("model.dynamics", 0, depth=depth, waves=waves)
        self.history, self.latent_width, self.hidden = history, latent_width, hidden
        self.narrow = Narrowed(width, width if aim is None else aim, narrow)
        self.waves = Waves(history * self.narrow.out + (history - 1) * action, waves)
        self.enter = nn.Linear(self.waves.out, hidden)
        self.act = nn.Linear(action + latent_width, condition)
        self.modulations = nn.ModuleList(nn.Linear(condition, 3 * hidden) for _ in range(depth))
        self.layers = nn.ModuleList(Mlp(hidden, hidden) for _ in range(depth))
        self.leave = nn.Linear(hidden, width)
        for part in (*self.modulations, self.leave):  # at first nothing changes
            nn.init.zeros_(part.weight)
            nn.init.zeros_(part.bias)

    def forward(self, states: Tensor, actions: Tensor, z: Tensor | None = None) -> Tensor:
        """See `Dynamics`."""
        known = self.narrow(states.flatten(2))
        seen = self.waves(torch.cat((known.flatten(1), actions[:, :-1].flatten(1)), 1))
        cause = actions[:, -1]
        if self.latent_width:
            if z is None:
                raise ValueError("these dynamics are conditioned on a latent z; none was given")
            cause = torch.cat((cause, z.mean(1).to(cause.dtype)), 1)
        h, c = self.enter(seen), F.gelu(self.act(cause))
        for modulation, layer in zip(self.modulations, self.layers, strict=True):
            shift, scale, gate = modulation(c).chunk(3, -1)
            normed = F.layer_norm(h, (self.hidden,))
            h = h + (1 + gate) * layer(normed * (1 + scale) + shift)
        change: Tensor = self.leave(F.layer_norm(h, (self.hidden,)))
        return states[:, -1] + change[:, None]


class TokenDynamics(Dynamics):
    """A transformer over the tokens of the history; a token sees its own time and those before.

    Each time slot is modulated by its action (and z) through adaptive layer-norm.

    Args:
        width: `D` of a token.
        tokens: `P`, a square number.
        action: `A`.
        latent_width: `Z`.
        aim: is not looked at: all tokens are alike.
        hidden: width inside.
        depth: blocks.
        heads: attention heads.
        history: states that it looks at.
        checkpointing: recompute activations in the backward pass to save memory.

    Raises:
        UserError: the tokens are no square, or the heads do not divide the width.
    """

    def __init__(
        self,
        width: int,
        tokens: int,
        action: int,
        latent_width: int = 0,
        aim: int | None = None,
        hidden: int = 96,
        depth: int = 3,
        heads: int = 3,
        history: int = 2,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        side = round(tokens**0.5)
        if side * side != tokens:
            raise UserError(f"TokenDynamics needs a square grid of tokens, not {tokens} of them")
        within("model.dynamics", 1, hidden=hidden, heads=heads, history=history)
        within("model.dynamics", 0, depth=depth)
        if hidden % (2 * heads):
            raise UserError(
                f"model.dynamics.hidden {hidden} must split into {heads} heads of even width"
            )
        self.history, self.latent_width = history, latent_width
        self.side, self.head, self.checkpointing = side, hidden // heads, checkpointing
        self.enter = nn.Linear(width, hidden)
        self.act = nn.Linear(action + latent_width, hidden)
        self.blocks = nn.ModuleList(Block(hidden, heads, condition=hidden) for _ in range(depth))
        self.norm, self.leave = nn.LayerNorm(hidden), nn.Linear(hidden, width)
        self.apply(init_weights)
        rescale_residuals(self.blocks)
        nn.init.zeros_(self.leave.weight)

    def forward(self, states: Tensor, actions: Tensor, z: Tensor | None = None) -> Tensor:
        """See `Dynamics`."""
        _, k, p, _ = states.shape
        cause = actions
        if self.latent_width:
            if z is None:
                raise ValueError("these dynamics are conditioned on a latent z; none was given")
            mean = z.mean(1, keepdim=True).expand(-1, k, -1)
            cause = torch.cat((cause, mean.to(cause.dtype)), 2)
        condition = F.gelu(self.act(cause)).repeat_interleave(p, 1)  # B KP hidden
        time = torch.arange(k, device=states.device).repeat_interleave(p)
        mask = time[:, None] >= time[None]
        places = grid_positions((k, self.side, self.side), states.device)
        tables = rotary_tables(places, self.head)
        x = self.enter(states.flatten(1, 2))
        x = run_blocks(self.blocks, x, tables, mask, condition, self.checkpointing)
        change: Tensor = self.leave(self.norm(x[:, -p:]))
        return states[:, -1] + change


class InverseDynamics(nn.Module):
    """The action between two states, from both: what a state must know to be steerable.

    The change is given apart and at a scale of its own: between neighbours it is small.
    """

    def __init__(self, width: int, action: int, hidden: int = 128) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(10.0))
        self.map = Mlp(2 * width, hidden, action)

    def forward(self, states: Tensor) -> Tensor:
        """Actions `B T-1 A` from states `B T D`."""
        change = self.scale * (states[:, 1:] - states[:, :-1])
        told: Tensor = self.map(torch.cat((states[:, :-1], change), -1))
        return told


class Readout(nn.Module):
    """Maps of states that others read and that shape nothing: `... P D` to named numbers.

    Linear, and with `hidden` a network is added: how a block is turned, say, is in what its tokens
    tell, but no linear map of them.

    Args:
        width: `D` times `P`.
        sizes: numbers of each name.
        hidden: width of the network; 0 for none.
        seen: how many numbers say where the agent is, and the grid of the map that the others are,
            where the network is to look for things in it, see `Seeker`.
    """

    def __init__(
        self,
        width: int,
        sizes: Sequence[tuple[str, int]],
        hidden: int = 0,
        seen: tuple[int, tuple[int, int]] | None = None,
    ) -> None:
        super().__init__()
        self.maps = nn.ModuleDict({name: nn.Linear(width, size) for name, size in sizes})
        self.deep = nn.ModuleDict()
        for name, size in sizes if hidden else ():
            deep = bent(width, size, hidden) if seen is None else Seeker(width, *seen, size, hidden)
            self.deep[name] = deep

    def forward(self, states: Tensor, name: str) -> Tensor:
        """`... P D` to `... size`."""
        flat = states.flatten(-2)
        told: Tensor = self.maps[name](flat)
        return told + self.deep[name](flat) if name in self.deep else told

    @torch.no_grad()
    def solve(self, name: str, states: Tensor, truth: Tensor, price: float = 1e-4) -> None:
        """Put a linear map where the squared error is least: ridge regression, in closed form.

        Gradient steps are slow here, since a state's numbers go together: after 250 of them a place
        is read 7 pixels off that these states tell to 0.3.

        Args:
            name: of the map.
            states: `N P D`.
            truth: `N size`.
            price: of its weights, as a share of the states' mean variance.
        """
        if name in self.deep:  # which stays as it is
            truth = truth - self.deep[name](states.flatten(1))
        x, y = states.flatten(1).double(), truth.double()
        middle, level = x.mean(0), y.mean(0)
        x, y = x - middle, y - level
        both = x.T @ x
        price = price * float(both.diagonal().mean()) + 1e-9
        found = torch.linalg.solve(both + price * torch.eye(len(both)).to(both), x.T @ y)
        last = self.maps[name]
        assert isinstance(last, nn.Linear)
        last.weight.copy_(found.T)
        last.bias.copy_(level - middle @ found)


class Seeker(nn.Module):
    """A network that first looks for a few things in a state's map, as a target for an arm.

    All numbers of a map at once are learned by heart: of 425 targets of reacher-easy a plain
    network told nothing of the reward at others (-2 % of its variance), this one 52 % of it, since
    a place that is found and the sines of it are few numbers, and sharp (configs/agent/LOG.md).

    Args:
        width: `D` times `P` of a state.
        aim: how many of its numbers, from the first on, say where the agent is.
        grid: of the map that the others are.
        size: numbers that are told.
        hidden: width inside.
        places: that are looked for.
        inside: width of what looks at each cell.
    """

    def __init__(
        self,
        width: int,
        aim: int,
        grid: tuple[int, int],
        size: int,
        hidden: int,
        places: int = 4,
        inside: int = 16,
    ) -> None:
        super().__init__()
        self.aim = aim
        self.look = Sought(width - aim, grid, places, inside)
        self.waves = Waves(aim + self.look.out)
        self.tell = bent(self.waves.out, size, hidden)

    def forward(self, x: Tensor) -> Tensor:
        """`... width` to `... size`."""
        found = self.look(x[..., self.aim :])
        told: Tensor = self.tell(self.waves(torch.cat((x[..., : self.aim], found), -1)))
        return told


def bent(width: int, size: int, hidden: int) -> nn.Sequential:
    """`... width` to `... size` by two hidden layers, 0 at first."""
    last = nn.Linear(hidden, size)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    layers = nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU()
    return nn.Sequential(*layers, last)
