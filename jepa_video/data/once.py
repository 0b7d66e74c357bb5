"""Folders that are made once, whoever asks and however often: a cache that a kill cannot spoil."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from jepa_video.errors import UserError

_DRAFT: Final = ".draft-"
_DAY: Final = 86400.0


def cache_folder() -> Path:
    """Where the project keeps what it can make again: JEPA_VIDEO_CACHE or the user's cache."""
    if own := os.environ.get("JEPA_VIDEO_CACHE"):
        return Path(own).expanduser()
    if xdg := os.environ.get("XDG_CACHE_HOME"):
        return Path(xdg) / "jepa_video"
    return Path.home() / ".cache" / "jepa_video"


def made_once(final: Path, make: Callable[[Path], None]) -> Path:
    """The folder `final`, filled by `make` where it is not there yet.

    It appears under its name by one rename when it is complete: a killed run leaves a temporary
    folder that nobody takes for it, and of two processes the first one wins.

    Raises:
        UserError: the folder above it cannot be written.
    """
    if final.is_dir():
        return final
    root = final.parent
    try:
        root.mkdir(parents=True, exist_ok=True)
        _sweep(root)
        draft = Path(tempfile.mkdtemp(prefix=_DRAFT, dir=root))
    except OSError as error:
        raise UserError(
            f"the cache folder {root} cannot be written ({error.strerror}); "
            "set JEPA_VIDEO_CACHE to one that can"
        ) from error
    try:
        make(draft)
        draft.chmod(0o755)  # mkdtemp's folders are for one user only
        os.rename(draft, final)
    except OSError:
        if not final.is_dir():
            raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return final


def _sweep(root: Path) -> None:
    """Remove what killed runs left, once it is a day old and no live run can be writing there."""
    for draft in root.glob(f"{_DRAFT}*"):
        if time.time() - draft.stat().st_mtime > _DAY:
            shutil.rmtree(draft, ignore_errors=True)
