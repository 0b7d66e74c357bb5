"""Transformer blocks shared by encoder, predictor and probes.

Shapes: `B` clips, `N` tokens, `D` width, `h` heads, `d` width of a head.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from timm.layers.drop import DropPath
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .rope import rotate


def gather_tokens(tokens: Tensor, index: Tensor) -> Tensor:
    """Tokens `B N D` at positions `B K`: `B K D`."""
    return tokens.gather(1, index[..., None].expand(-1, -1, tokens.shape[-1]))


class Attention(nn.Module):
    """Multi-head self-attention with rotary positions."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads or (width // heads) % 2:
            raise ValueError(f"width {width} must split into {heads} heads of even width")
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, tables: Tensor | None, mask: Tensor | None = None) -> Tensor:
        """`B N D` to `B N D`; `mask` is True where a query may look, broadcast to `B h N N`."""
        b, n, width = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)  # B h N d
        if tables is not None:
            q, k = rotate(q, tables), rotate(k, tables)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        out: Tensor = self.out(y.transpose(1, 2).reshape(b, n, width))
        return out


class Mlp(nn.Module):
    """Two linear maps with a GELU between."""

    def __init__(self, width: int, hidden: int, out: int | None = None) -> None:
        super().__init__()
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width if out is None else out)

    def forward(self, x: Tensor) -> Tensor:
        """`... D` to `... out`."""
        y: Tensor = self.down(F.gelu(self.up(x)))
        return y


class Waves(nn.Module):
    """Numbers beside sines of learned projections of them, so that what is sharp can be learned.

    A wall is three pixels thick, and a network of plain layers smooths over it. Learned Fourier
    features: Yang, Ajay and Agrawal (2022), "Overcoming the spectral bias of neural value
    approximation".

    Args:
        width: numbers that come in.
        count: sines.
        scale: of the frequencies at first, for numbers of deviation 1.
    """

    def __init__(self, width: int, count: int = 256, scale: float = 2.0) -> None:
        super().__init__()
        self.out = width + count
        self.project = nn.Linear(width, count)
        nn.init.normal_(self.project.weight, std=scale / math.sqrt(width))
        nn.init.uniform_(self.project.bias, -math.pi, math.pi)

    def forward(self, x: Tensor) -> Tensor:
        """`... width` to `... out`."""
        return torch.cat((x, torch.sin(self.project(x))), -1)


def middles(grid: tuple[int, int]) -> Tensor:
    """Places of the cells of rows and columns, row by row: `N 2`, x and y from -1 to 1."""
    y, x = torch.meshgrid(*(torch.linspace(-1, 1, size) for size in grid), indexing="ij")
    return torch.stack((x, y), -1).flatten(0, 1)


class Sought(nn.Module):
    """Where things of a scene are, from a map: few numbers of each cell of a grid.

    Each of some soft places weighs all cells by what they hold and takes the mean of their places,
    each moved by what its cell tells, and of a number beside. Where a door is, a linear map of all
    cells tells to 1.2 pixels of 64; a critic of ways that has to find doors so leads 58 % of 100
    tasks in TwoRooms to the goal after 4,000 steps, and 77 % after 2,000 with these places
    (configs/agent/LOG.md).

    Args:
        width: numbers of all cells.
        grid: rows and columns of the cells.
        count: soft places, three numbers each.
        hidden: width inside, of each cell.
    """

    def __init__(self, width: int, grid: tuple[int, int], count: int = 8, hidden: int = 32) -> None:
        super().__init__()
        self.cells, self.out = grid[0] * grid[1], 3 * count
        self.places: Tensor
        self.register_buffer("places", middles(grid), persistent=False)
        self.look = Mlp(width // self.cells, hidden, 4 * count)
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, x: Tensor) -> Tensor:
        """`... width` to `... out`."""
        told = self.look(x.view(*x.shape[:-1], self.cells, -1))
        told = told.view(*told.shape[:-1], -1, 4)  # ... cells count 4
        share = (2 * told[..., :1]).softmax(-3)
        moved = self.places[:, None] + told[..., 1:3] / 4
        found: Tensor = (share * torch.cat((moved, told[..., 3:]), -1)).sum(-3)
        return self.scale * found.flatten(-2)


class Scenic(nn.Module):
    """What looks at a state's place and at few numbers made of the rest: the scene it is in.

    Args:
        width: `D` times `P` of a state.
        aim: how many of its numbers, from the first on, are the place.
        narrow: numbers that are made of the others, where they are no map.
        grid: rows and columns of the cells that they are of, if they are.

    Attributes:
        waves: of place and scene, joined.
    """

    def __init__(
        self, width: int, aim: int, narrow: int = 16, grid: tuple[int, int] | None = None
    ) -> None:
        super().__init__()
        self.aim = aim
        rest, self.scenic, found = width - aim, width > aim, 0
        if rest:
            self.narrow = Sought(rest, grid) if grid else nn.Linear(rest, narrow)
            found = self.narrow.out if isinstance(self.narrow, Sought) else narrow
        self.waves = Waves(aim + found)

    def scene(self, states: Tensor) -> Tensor:
        """What there is beside the agent: states `N P D` to `N C`."""
        rest = states.flatten(1)[:, self.aim :]
        return self.narrow(rest) if self.scenic else rest


class Narrowed(nn.Module):
    """The first `aim` numbers of a state, which say where the agent is, and few made of the rest.

    Args:
        width: numbers of the state.
        aim: how many are kept as they are.
        count: numbers that are made of the others.
    """

    def __init__(self, width: int, aim: int, count: int) -> None:
        super().__init__()
        self.aim, rest = aim, width - aim
        self.rest = nn.Linear(rest, count) if rest else None
        self.out = aim + (count if rest else 0)

    def forward(self, x: Tensor) -> Tensor:
        """`... width` to `... out`."""
        if self.rest is None:
            return x
        return torch.cat((x[..., : self.aim], self.rest(x[..., self.aim :])), -1)


class Block(nn.Module):
    """Pre-norm block; with `condition > 0` its norms are shifted, scaled and gated by a vector.

    The conditioning is AdaLN-zero (Peebles and Xie 2023, section 3.2): it starts as an
    unconditioned block, since the map from the vector begins at zero (and the gates at one).
    """

    def __init__(
        self,
        width: int,
        heads: int,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
        condition: int = 0,
        norm_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, norm_eps, elementwise_affine=condition == 0)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, norm_eps, elementwise_affine=condition == 0)
        self.mlp = Mlp(width, round(width * mlp_ratio))
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()
        self.modulation = nn.Linear(condition, 6 * width) if condition else None

    def forward(
        self,
        x: Tensor,
        tables: Tensor | None,
        mask: Tensor | None = None,
        condition: Tensor | None = None,
    ) -> Tensor:
        """`B N D` to `B N D`; `condition` is `B 1 C` or `B N C`."""
        if self.modulation is None or condition is None:
            x = x + self.drop_path(self.attention(self.norm1(x), tables, mask))
            out: Tensor = x + self.drop_path(self.mlp(self.norm2(x)))
            return out
        m: Tensor = self.modulation(condition)
        shift1, scale1, gate1, shift2, scale2, gate2 = m.chunk(6, dim=-1)
        y = self.attention(self.norm1(x) * (1 + scale1) + shift1, tables, mask)
        x = x + (1 + gate1) * self.drop_path(y)
        y = self.mlp(self.norm2(x) * (1 + scale2) + shift2)
        out = x + (1 + gate2) * self.drop_path(y)
        return out


def run_blocks(
    blocks: nn.ModuleList,
    x: Tensor,
    tables: Tensor | None,
    mask: Tensor | None = None,
    condition: Tensor | None = None,
    checkpointing: bool = False,
) -> Tensor:
    """Apply `blocks` in turn; `checkpointing` trades a second forward for memory."""
    for block in blocks:
        if checkpointing and torch.is_grad_enabled():
            x = checkpoint(block, x, tables, mask, condition, use_reentrant=False)
        else:
            x = block(x, tables, mask, condition)
    return x


def init_weights(module: nn.Module) -> None:
    """Truncated normal of 0.02 for linear maps, biases and modulation zero; use with `.apply`."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    if isinstance(module, Block) and module.modulation is not None:
        nn.init.zeros_(module.modulation.weight)
        nn.init.zeros_(module.modulation.bias)


def rescale_residuals(blocks: nn.ModuleList) -> None:
    """Divide each block's output maps by sqrt(2 depth), so that depth does not swell the stream.

    As V-JEPA and I-JEPA do (`fix_init_weight`).
    """
    for depth, block in enumerate(blocks, start=1):
        assert isinstance(block, Block)
        with torch.no_grad():
            block.attention.out.weight.div_((2.0 * depth) ** 0.5)
            block.mlp.down.weight.div_((2.0 * depth) ** 0.5)
