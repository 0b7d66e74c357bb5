"""Sums and gathers over ranks have the gradient that DDP expects."""

from __future__ import annotations

import multiprocessing
import os
import time
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from jepa_video.distributed import (
    _free_port,
    all_sum,
    gather_rows,
    part_ways,
    rank,
    wait_for,
    world_size,
)
from tests.ranks import run_ranks

SPLITS = {"equal": (3, 3), "unequal": (1, 5), "one without": (0, 6)}
Results = dict[str, list[Tensor]]


def rows() -> Tensor:
    return torch.randn(6, 2, generator=torch.Generator().manual_seed(0))


def on_each_rank() -> Results:
    own = torch.tensor([1.0 + rank(), 10.0], requires_grad=True)
    total = all_sum(own)
    (total[0] * total[1]).backward()
    results = {"sum": [total.detach(), own.grad, own.detach()]}
    for name, split in SPLITS.items():
        begin = sum(split[: rank()])
        part = rows()[begin : begin + split[rank()]].clone().requires_grad_()
        everyone, start = gather_rows(part)
        (everyone * torch.arange(6.0)[:, None]).sum().backward()
        results[name] = [everyone.detach(), torch.tensor(start), part.grad]
    return results


@pytest.fixture(scope="module")
def ranks() -> list[Results]:
    return run_ranks(on_each_rank)


def test_the_sum_and_its_gradient(ranks: list[Results]) -> None:
    for place, results in enumerate(ranks):
        total, grad, own = results["sum"]
        assert total.tolist() == [3.0, 20.0]
        # d(a b)/da = b on each of two ranks; DDP's mean over ranks leaves one b.
        assert (grad / 2).tolist() == [20.0, 3.0]
        assert own.tolist() == [1.0 + place, 10.0]  # the input is not written over


@pytest.mark.parametrize("name", SPLITS)
def test_gather_keeps_order_and_gradient(ranks: list[Results], name: str) -> None:
    for place, results in enumerate(ranks):
        everyone, start, grad = results[name]
        begin = sum(SPLITS[name][:place])
        assert torch.equal(everyone, rows()) and start == begin
        weights = torch.arange(begin, begin + SPLITS[name][place], dtype=torch.float32)
        assert torch.equal(grad / 2, weights[:, None].expand(-1, 2))


def begins_again() -> list[float]:
    """Two groups after each other, of which rank 0 is slow to leave the first."""
    place, port = rank(), torch.tensor([_free_port() if rank() == 0 else 0])
    dist.broadcast(port, 0)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(int(port))}
    begin, end = partial(dist.init_process_group, "gloo", "env://"), dist.destroy_process_group
    end()
    begin(rank=place, world_size=2, timeout=timedelta(seconds=20))

    def slowly() -> None:
        time.sleep(2 if place == 0 else 0)
        end()

    with patch.object(dist, "destroy_process_group", slowly):
        part_ways()
    begin(rank=place, world_size=2, timeout=timedelta(seconds=20))
    return [float(port), float(os.environ["MASTER_PORT"]), float(all_sum(torch.tensor(1.0)))]


def test_a_rank_that_is_ahead_does_not_meet_the_group_that_ends() -> None:
    one, other = run_ranks(begins_again)
    assert one == other and one[0] != one[1] and one[2] == 2


def test_one_process_needs_no_group() -> None:
    x = rows()
    assert world_size() == 1 and rank() == 0
    assert all_sum(x) is x
    everyone, start = gather_rows(x)
    assert everyone is x and start == 0


def waits(path: Path, begun: Any, result: Any) -> None:
    """A process between, which dies, and one below it that waits for its file."""
    parent = os.getpid()
    if os.fork():
        begun.wait(20)
        os._exit(0)
    begun.set()
    try:
        wait_for(path, parent, 0.05)
        result.put("there")
    except RuntimeError as error:
        result.put(str(error))
    result.close()
    result.join_thread()
    os._exit(0)


def test_who_waits_for_a_file_of_rank_0_does_not_outwait_it(tmp_path: Path) -> None:
    (tmp_path / "there").touch()
    wait_for(tmp_path / "there", os.getppid())
    context = multiprocessing.get_context("fork")
    begun, result = context.Event(), context.Queue()
    between = context.Process(target=waits, args=(tmp_path / "never", begun, result))
    between.start()
    assert result.get(timeout=20) == f"rank 0 is gone, and has not written {tmp_path / 'never'}"
    between.join(20)
