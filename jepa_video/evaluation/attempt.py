"""Pictures and pages are not worth a run: a fault in them is told and passed over."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any


def attempt(what: str, action: Callable[[], Any]) -> None:
    """Do it; where it fails, say on the error stream that `what` could not be made, and why."""
    try:
        action()
    except Exception as error:
        print(f"{what} could not be made ({type(error).__name__}: {error})", file=sys.stderr)
