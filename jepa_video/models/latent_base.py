"""What every kind of z offers, and the network that reads a pair; the kinds are in `latent.py`.

A latent has a posterior (it may look at the target), a prior (it may not), and a price: the less z
can say about y, the less of y it can smuggle past the prediction (LeCun 2022, section 4.3.3,
"minimise the information content of z").

Shapes: tokens `B N D`, latent `B L Z`; `L` is 1, or the number of targets where each target token
has its own z. Positions are coordinates of tokens in time, height and width, `B N 3`.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from ..errors import UserError
from .blocks import Block, init_weights, run_blocks
from .rope import rotary_tables

Per = Literal["clip", "group", "token"]
BIT = math.log(2)  # nats


class Places(NamedTuple):
    """Where the tokens of context and target lie: coordinates `B K 3` and `B M 3`."""

    context: Tensor
    target: Tensor


class LatentDraw(NamedTuple):
    """One z for each clip, with what it costs.

    Attributes:
        z: `B L Z`, or None where there is no latent.
        terms: weighted regularisers of z by name, scalars; they are part of the loss.
        facts: what is worth logging beside, e.g. `latent/bits`: the information that z carries
            beyond its prior, mean over clips, in bits.
    """

    z: Tensor | None
    terms: dict[str, Tensor]
    facts: dict[str, Tensor]


class Latent(nn.Module):
    """What every kind of z offers.

    Attributes:
        dim: `Z`; 0 where there is no latent.
        per: how far one z reaches: the whole `clip` (inferred from all of its target tokens, the
            same for all mask groups), a mask `group`, or a `token`.
    """

    dim: int = 0
    per: Per = "group"

    def posterior(
        self,
        s_x: Tensor,
        s_y: Tensor,
        generator: torch.Generator | None = None,
        places: Places | None = None,
    ) -> LatentDraw:
        """Infer z from context tokens `B K D` and target tokens `B M D` (amortised)."""
        raise NotImplementedError

    def sample(
        self,
        s_x: Tensor,
        n: int,
        generator: torch.Generator | None = None,
        places: Places | None = None,
    ) -> Tensor | None:
        """`n` draws from the prior: `n B L Z`, or None where there is no latent."""
        raise NotImplementedError

    def log_prior(self, z: Tensor, s_x: Tensor, places: Places | None = None) -> Tensor:
        """`log p(z | x)` in nats, `B`."""
        raise NotImplementedError

    def explained(
        self, s_x: Tensor, s_y: Tensor, z: Tensor, places: Places | None = None
    ) -> LatentDraw:
        """A z `B L Z` found by minimising the energy, with what it costs.

        The terms teach the posterior to find it by itself, so that inference starts near the end.
        """
        raise NotImplementedError

    @property
    def codes(self) -> Tensor | None:
        """All values that z can take, `K 1 Z`; None where they cannot be listed."""
        return None


class Reader(nn.Module):
    """Reads what a distribution over z needs out of context and, for a posterior, target.

    One transformer block over both sets of tokens with their positions (where a thing went is in
    where tokens lie, and a mean over tokens would forget it), then one query that looks at all of
    them; or, where each target token has its own z, the target tokens themselves.

    Args:
        width: `D`.
        hidden: width inside.
        out: numbers for each z.
        per_token: one answer for each target token in place of one for all.
        sides: of `context` and `target`, those that it will be given.
    """

    def __init__(
        self, width: int, hidden: int, out: int, per_token: bool, sides: tuple[str, ...]
    ) -> None:
        super().__init__()
        self.heads, self.per_token = max(hidden // 16, 1), per_token
        if hidden % (2 * self.heads):
            raise UserError(
                f"model.latent.hidden must be even and split into heads of 16, not {hidden}"
            )
        self.enter = nn.ModuleDict({side: nn.Linear(width, hidden) for side in sides})
        self.query = nn.Parameter(torch.zeros(hidden))
        self.kind = nn.Parameter(torch.zeros(2, hidden))
        self.blocks = nn.ModuleList(Block(hidden, self.heads) for _ in range(2))
        self.norm = nn.LayerNorm(hidden)
        self.leave = nn.Linear(hidden, out)
        self.apply(init_weights)
        nn.init.trunc_normal_(self.query, std=0.02)
        nn.init.trunc_normal_(self.kind, std=0.02)

    def forward(self, s_x: Tensor | None, s_y: Tensor | None, places: Places | None) -> Tensor:
        """Context `B K D`, target `B M D`, or one of the two, to `B L out`."""
        given = {"context": s_x, "target": s_y}
        seen = [
            (i, self.enter[side](s) + self.kind[i])
            for i, (side, s) in enumerate(given.items())
            if s is not None
        ]
        x = torch.cat([self.query.expand(len(seen[0][1]), 1, -1), *(s for _, s in seen)], dim=1)
        tables = None
        if places is not None:
            where = [places[i] for i, _ in seen]
            where.insert(0, torch.zeros_like(where[0][:, :1]))  # the query stands at the origin
            tables = rotary_tables(torch.cat(where, dim=1), x.shape[-1] // self.heads)
        x = run_blocks(self.blocks, x, tables)
        own = self.per_token and s_y is not None
        answers = x[:, -len(s_y[0]) :] if own and s_y is not None else x[:, :1]
        out: Tensor = self.leave(self.norm(answers))
        return out.float()


class Inferred(Latent):
    """What the kinds with a z share: who reads what, and how many z there are.

    Args:
        width: `D` of the tokens.
        dim: `Z`.
        out: numbers from which the posterior of one z is made.
        hidden: width of the networks.
        per: how far one z reaches.
        learned_prior: p(z | x) from the context in place of a fixed one.
    """

    def __init__(
        self, width: int, dim: int, out: int, hidden: int, per: Per, learned_prior: bool
    ) -> None:
        super().__init__()
        if dim < 1:
            raise UserError(f"model.latent.dim must be 1 or more, not {dim}")
        self.dim, self.per = dim, per
        # Weights that no gradient reaches stop DDP: each reader has just what it reads.
        sides = ("target",) if per == "clip" else ("context", "target")
        token = per == "token"
        self.infer = Reader(width, hidden, out, token, sides)
        self.prior = Reader(width, hidden, out, token, ("context",)) if learned_prior else None

    def read(self, s_x: Tensor, s_y: Tensor, places: Places | None) -> Tensor:
        """What the posterior is made of, `B L out`.

        A z for the whole clip must not depend on the mask group's context: it looks at y alone.
        """
        answer: Tensor = self.infer(None if self.per == "clip" else s_x, s_y, places)
        return answer

    def read_prior(self, s_x: Tensor, places: Places | None) -> Tensor | None:
        """What the prior is made of, `B L out`; None where it is fixed."""
        if self.prior is None:
            return None
        answer: Tensor = self.prior(s_x, None, places)
        return answer.expand(-1, self.count(places), -1)

    def count(self, places: Places | None) -> int:
        """`L`."""
        if self.per != "token":
            return 1
        if places is None:
            raise ValueError("a z for each token is drawn for the places of the target tokens")
        return places.target.shape[1]
