"""Collectives that are right under autograd, and the identity where there is one process."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from .errors import UserError

T = TypeVar("T")


def world_size() -> int:
    """Number of processes that train together (1 without a process group)."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Index of this process among them (0 without a process group)."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def device_of(name: torch.device | str) -> torch.device:
    """The device of that name.

    Raises:
        UserError: this machine has no such device.
    """
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError, TypeError) as error:
        told = str(error).splitlines()[0]
        raise UserError(f"there is no device {name!r} here: {told}") from error


def wait_for(path: Path, parent: int, pause: float = 0.2) -> None:
    """Wait until rank 0 has written a file.

    Args:
        path: of the file.
        parent: the process that began this one, as `os.getppid` told early on.
        pause: seconds between two looks.

    Raises:
        RuntimeError: the parent is gone: rank 0, or who watches over both.
    """
    while not path.exists():
        if os.getppid() != parent:
            raise RuntimeError(f"rank 0 is gone, and has not written {path}")
        time.sleep(pause)


class _AllSum(torch.autograd.Function):
    """Sum over ranks, whose gradient is again the sum over ranks.

    With L the same function of the global sum on each of W ranks, the backward sum gives W dL/dS on
    every rank; DDP then averages the parameters' gradients over ranks, which leaves dL/dS exactly.
    """

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        value = value.clone()
        dist.all_reduce(value)
        return value

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        grad = grads[0].clone()
        dist.all_reduce(grad)
        return grad


def all_sum(value: Tensor) -> Tensor:
    """`value` summed over all ranks, differentiable; the same shape on every rank."""
    if world_size() == 1:
        return value
    summed: Tensor = _AllSum.apply(value)
    return summed


def gather_rows(rows: Tensor) -> tuple[Tensor, int]:
    """The rows of all ranks, in the order of the ranks, and where this rank's begin.

    `[N, ...] -> [sum of N, ...]`, differentiable; N may differ between ranks. Each rank adds its
    rows into a field of zeros, so that the one collective whose gradient is checked serves here
    too. It moves twice the bytes of a gather, of the few that contrastive terms exchange.
    """
    if world_size() == 1:
        return rows, 0
    counts = torch.zeros(world_size(), dtype=torch.long, device=rows.device)
    counts[rank()] = len(rows)
    lengths = all_sum(counts).tolist()
    begin = sum(lengths[: rank()])
    before = rows.new_zeros(begin, *rows.shape[1:])
    after = rows.new_zeros(sum(lengths) - begin - len(rows), *rows.shape[1:])
    return all_sum(torch.cat([before, rows, after])), begin


_cpu_group: dist.ProcessGroup | None = None


def _group_on_cpu() -> dist.ProcessGroup | None:
    """The group that exchanges values on the CPU; None is the group of all that there is.

    NCCL takes values on the device alone, and to read the answer would make the host wait for all
    the work that lies before it there.
    """
    global _cpu_group
    if _cpu_group is None and dist.get_backend() != "gloo":
        _cpu_group = cast(dist.ProcessGroup, dist.new_group(backend="gloo"))
    return _cpu_group


def heard_by_all(own: list[T], flag: bool) -> tuple[list[T], bool]:
    """What every rank has, and whether one of them has the flag up: a fifth of a millisecond.

    All ranks call this, in one order. What they have travels only where there is some.

    Args:
        own: plain values of this rank, most often none.
        flag: of this rank.
    """
    if world_size() == 1:
        return own, flag
    group = _group_on_cpu()
    words = torch.tensor([bool(own), flag], dtype=torch.int32)
    dist.all_reduce(words, dist.ReduceOp.MAX, group=group)
    some, raised = words.tolist()
    if not some:
        return own, bool(raised)
    every: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(every, own, group=group)
    return [value for part in every for value in part], bool(raised)


def part_ways() -> None:
    """End the groups of a training, and agree on another port for the next one.

    All ranks call this. On the old port a rank that is ahead would still meet the store of the
    group that ends, and then wait for an answer that never comes.
    """
    global _cpu_group
    if dist.is_available() and dist.is_initialized():
        if world_size() > 1:
            port = torch.tensor([_free_port() if rank() == 0 else 0])
            dist.all_reduce(port, dist.ReduceOp.MAX, group=_group_on_cpu())
            os.environ["MASTER_PORT"] = str(int(port))
            os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "False"  # which is on the old port
        dist.destroy_process_group()
    _cpu_group = None


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("", 0))
        return int(one.getsockname()[1])
