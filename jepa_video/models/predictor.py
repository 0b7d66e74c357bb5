"""The predictor: from context tokens, positions and a latent z to the tokens of the target.

Shapes: context `B K D`, target positions `B M`, latent `B L Z`, prediction `B M D`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .blocks import Block, init_weights, rescale_residuals, run_blocks
from .rope import Grid, Rotary, grid_positions, rotary_tables


class MaskedPredictor(nn.Module):
    """Narrow transformer over context and mask tokens (V-JEPA, Bardes et al. 2024, section 3).

    The latent enters twice: as tokens of its own, which attention can consult (or in the target
    tokens, where each has its own z), and through adaptive layer-norm, which every token feels.
    With `latent_width` 0 neither exists.

    Args:
        width: `D` of the encoder.
        grid: token grid `(T', H', W')` of a whole clip.
        latent_width: `Z`; 0 means a deterministic predictor.
        hidden: width inside.
        depth: blocks.
        heads: attention heads.
        checkpointing: recompute activations in the backward pass to save memory.
        mlp_ratio: hidden width of the MLPs as a multiple of `hidden`.
        norm_eps: added to the variance in each layer-norm; V-JEPA 2 has 1e-6.
        rotary: form of the positions, see `rotary_tables`.

    Attributes:
        config: plain values that rebuild the predictor.
    """

    def __init__(
        self,
        width: int,
        grid: Grid,
        latent_width: int = 0,
        hidden: int = 64,
        depth: int = 2,
        heads: int = 2,
        checkpointing: bool = False,
        mlp_ratio: float = 4.0,
        norm_eps: float = 1e-5,
        rotary: Rotary = "paired",
    ) -> None:
        super().__init__()
        self.config: dict[str, Any] = {
            "width": width,
            "grid": list(grid),
            "latent_width": latent_width,
        }
        self.config |= {"hidden": hidden, "depth": depth, "heads": heads, "mlp_ratio": mlp_ratio}
        self.config |= {"norm_eps": norm_eps, "rotary": rotary}
        self.rotary = rotary
        self.grid, self.heads, self.hidden, self.checkpointing = grid, heads, hidden, checkpointing
        self.enter = nn.Linear(width, hidden)
        self.mask_token = nn.Parameter(torch.zeros(hidden))
        condition = hidden if latent_width else 0
        self.latent_enter = nn.Linear(latent_width, hidden) if latent_width else None
        self.blocks = nn.ModuleList(
            Block(hidden, heads, mlp_ratio, condition=condition, norm_eps=norm_eps)
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(hidden, norm_eps)
        self.leave = nn.Linear(hidden, width)
        self.apply(init_weights)
        rescale_residuals(self.blocks)
        nn.init.trunc_normal_(self.mask_token, std=0.02)

    def forward(
        self, s_x: Tensor, context: Tensor, target: Tensor, z: Tensor | None = None
    ) -> Tensor:
        """Predict the tokens at `target` (`B M`) from `s_x` (`B K D`) seen at `context` (`B K`)."""
        positions = grid_positions(self.grid, s_x.device)[torch.cat((context, target), dim=1)]
        masked = self.mask_token.expand(*target.shape, -1)
        x = torch.cat((self.enter(s_x), masked.to(s_x.dtype)), dim=1)
        tables = rotary_tables(positions, self.hidden // self.heads, self.rotary)
        condition = None
        if self.latent_enter is not None:
            if z is None:
                raise ValueError("this predictor is conditioned on a latent z; none was given")
            tokens = self.latent_enter(z).to(x.dtype)  # B L hidden
            condition = tokens.mean(dim=1, keepdim=True)
            if tokens.shape[1] == target.shape[1] > 1:  # each target token has its own z
                seen = condition.expand(-1, context.shape[1], -1)
                condition = torch.cat((seen, tokens), dim=1)
                x = torch.cat((x[:, : context.shape[1]], x[:, context.shape[1] :] + tokens), dim=1)
            else:
                x = torch.cat((x, tokens), dim=1)
                # Latent tokens have no place in space and time: their planes do not turn.
                still = torch.zeros_like(tables[:, :, :1]).expand(-1, -1, tokens.shape[1], -1)
                still = torch.stack((still[0] + 1.0, still[1]))
                tables = torch.cat((tables, still), dim=2)
        x = run_blocks(self.blocks, x, tables, None, condition, self.checkpointing)
        seen = context.shape[1]
        out: Tensor = self.leave(self.norm(x[:, seen : seen + target.shape[1]]))
        return out
