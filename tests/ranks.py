"""Runs a function on several CPU ranks of one gloo group; no port, no launcher."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def run_ranks(fn: Callable[..., Any], *args: Any, world: int = 2) -> list[Any]:
    """What `fn(*args)` returns on each of `world` ranks, in their order.

    `fn` must be importable (module level) and return tensors, numbers, or dicts and lists of them.
    Inside, `torch.distributed` gives rank and world size. One call costs the start of `world`
    interpreters (seconds): put all that a file checks into one function.
    """
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_one_rank, args=(world, folder, fn, args), nprocs=world, join=True)
        return [torch.load(_result(folder, rank), weights_only=True) for rank in range(world)]


def _result(folder: str, rank: int) -> Path:
    return Path(folder, f"rank{rank}.pt")


def _one_rank(rank: int, world: int, folder: str, fn: Callable[..., Any], args: Any) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/store",
        rank=rank,
        world_size=world,
        timeout=timedelta(seconds=60),
    )
    try:
        torch.save(fn(*args), _result(folder, rank))
    finally:
        dist.destroy_process_group()
