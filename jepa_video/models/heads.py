"""Heads on frozen tokens: attentive pooling, and the probe that classifies what it has pooled.

Shapes: tokens `B N D`, the query `1 1 D`, outputs `B K`.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UserError
from .blocks import Block, Mlp, init_weights, rescale_residuals

MOST_HEADS = 16
NARROWEST_HEAD = 32


def heads_for(width: int) -> int:
    """Attention heads of a probe: at most 16, as in V-JEPA 2, each of even width from 32 on."""
    fits = (h for h in range(MOST_HEADS, 1, -1) if width % h == 0 and width // h % 2 == 0)
    return next((h for h in fits if width // h >= NARROWEST_HEAD), 1)


class CrossAttention(nn.Module):
    """Queries look at tokens; without an output map, as in the probe of V-JEPA 2."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)

    def forward(self, query: Tensor, tokens: Tensor) -> Tensor:
        """Queries `B Q D` and tokens `B N D` to `B Q D`."""
        b, n, width = tokens.shape
        q = self.query(query).view(b, query.shape[1], self.heads, -1).transpose(1, 2)  # B h Q d
        k, v = self.key_value(tokens).view(b, n, 2, self.heads, -1).permute(2, 0, 3, 1, 4)
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, -1, width)


class AttentivePooler(nn.Module):
    """Tokens to one vector: `depth - 1` self-attention blocks, then one learned query looks.

    As V-JEPA 2 evaluates (arXiv 2506.09985, section 3.1 and appendix on probes): depth 1 is the
    cross-attention alone, depth 4 the probe of its tables. Positions are not told anew: the tokens
    of the encoder know theirs.

    Args:
        width: `D`.
        depth: blocks, the cross-attention among them; 1 or more.
        heads: attention heads; None takes `heads_for(width)`.
        mlp_ratio: width of the MLPs over `D`.
    """

    def __init__(
        self, width: int, depth: int = 1, heads: int | None = None, mlp_ratio: float = 4.0
    ) -> None:
        super().__init__()
        if depth < 1:
            raise UserError(f"the depth of an attentive pooler must be 1 or more, not {depth}")
        heads = heads or heads_for(width)
        self.blocks = nn.ModuleList(Block(width, heads, mlp_ratio) for _ in range(depth - 1))
        self.query = nn.Parameter(
            nn.init.trunc_normal_(nn.Parameter(Tensor(1, 1, width)), std=0.02)
        )
        self.norm_tokens = nn.LayerNorm(width)
        self.attention = CrossAttention(width, heads)
        self.norm = nn.LayerNorm(width)
        self.mlp = Mlp(width, int(width * mlp_ratio))
        self.apply(init_weights)
        rescale_residuals(self.blocks)

    def forward(self, tokens: Tensor) -> Tensor:
        """`B N D` to `B D`."""
        for block in self.blocks:
            tokens = block(tokens, None)
        query = self.query.expand(len(tokens), -1, -1)
        query = query + self.attention(query, self.norm_tokens(tokens))
        pooled: Tensor = query + self.mlp(self.norm(query))
        return pooled[:, 0]


class AttentiveProbe(nn.Module):
    """An attentive pooler and a linear map; at depth 0 the linear map of the mean token alone.

    Args:
        width: `D`.
        outputs: `K`.
        depth: of the pooler.
        heads: attention heads of the pooler.
    """

    def __init__(self, width: int, outputs: int, depth: int = 1, heads: int | None = None) -> None:
        super().__init__()
        self.pooler = AttentivePooler(width, depth, heads) if depth else None
        self.norm = nn.LayerNorm(width, elementwise_affine=False) if not depth else None
        self.out = nn.Linear(width, outputs)
        self.out.apply(init_weights)

    def forward(self, tokens: Tensor) -> Tensor:
        """`B N D` to `B K`."""
        pooled = tokens.mean(1) if self.pooler is None else self.pooler(tokens)
        out: Tensor = self.out(pooled if self.norm is None else self.norm(pooled))
        return out
