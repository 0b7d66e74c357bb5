"""The target encoder: what gives `s_y`."""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import nn


def frozen_copy(module: nn.Module) -> nn.Module:
    """A copy that takes no gradient and stays in evaluation mode."""
    return copy.deepcopy(module).requires_grad_(False).eval()


@torch.no_grad()
def ema_update(target: nn.Module, online: nn.Module, momentum: float) -> None:
    """Move `target` towards `online`: `t <- m t + (1 - m) o`; buffers are copied.

    No communication: under DDP every rank holds the same online weights, and under FSDP every rank
    moves the shards that it holds.
    """
    torch._foreach_lerp_(
        cast(list[torch.Tensor], list(target.parameters())),
        cast(list[torch.Tensor], list(online.parameters())),
        1.0 - momentum,
    )
    for mine, theirs in zip(target.buffers(), online.buffers(), strict=True):
        mine.copy_(theirs)
