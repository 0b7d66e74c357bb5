"""Claims of the heap: freed blocks stay, the surroundings decide, and it can be given back."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROGRAM = """
import json, resource, torch
from jepa_video import heap

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.empty(20_000_000).fill_(1.0)  # 80 MB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def held():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()

found = [faults()]
heap.keep()
faults()
found.append(faults())
before = held()
heap.release()
print(json.dumps([*found, before - held()]))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
@pytest.mark.parametrize("own", [False, True])
def test_freed_blocks_are_used_again_and_can_be_given_back(own: bool) -> None:
    told = {"MALLOC_MMAP_THRESHOLD_": "1000000"} if own else {}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    environment = {**kept, **told, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True
    )
    before, after, given = json.loads(done.stdout)
    if own:  # whoever set it has it so
        assert after > 0.9 * before
    else:
        assert after < 0.1 * before and given > 70e6
