"""What the C library does with memory that torch gives back on a CPU.

Symptom: a convolutional world model trains with a fifth of its time in the kernel, and encoding of
episodes with half of it.
Why: glibc takes blocks of more than 32 MB from the system for each use, and gives them back after
it; the kernel clears every page anew.
Fix: keep them. `release` gives back what is free where much was needed for once.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from typing import Final

_TRIM, _MAP = -1, -3  # names of glibc's mallopt
_KEPT: Final = 2**31 - 1  # bytes


def keep() -> None:
    """Let freed blocks stay with this process, unless its surroundings say otherwise."""
    if any(name in os.environ for name in ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")):
        return
    _call("mallopt", _MAP, _KEPT)
    _call("mallopt", _TRIM, _KEPT)


def release() -> None:
    """Give what is free back to the system."""
    _call("malloc_trim", 0)


def _call(name: str, *values: int) -> None:
    with contextlib.suppress(OSError, AttributeError):  # another C library has its own ways
        getattr(ctypes.CDLL("libc.so.6"), name)(*values)
