"""The target encoder: what gives `s_y`."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def still(*parts: nn.Module) -> Iterator[None]:
    """Gradients flow through these and move nothing of them."""
    weights = [w for part in parts for w in part.parameters() if w.requires_grad]
    for weight in weights:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in weights:
            weight.requires_grad_(True)
