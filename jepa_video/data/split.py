"""Train and held-out videos: the split that a folder brings, or one by a hash."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from jepa_video.data.manifest import Listing, Row, read_source
from jepa_video.errors import UserError

_TRAIN = ("splits/train.csv", "train.csv", "splits/train.txt", "train.txt", "train")
_VAL = ("val", "validation", "valid", "test")


def standard_splits(root: Path) -> tuple[list[Listing], list[Listing]]:
    """The splits that a folder brings along; the second is empty where it has none.

    Looked for in this order: manifests in splits/, manifests in the folder, train/ and val/.

    Raises:
        UserError: there are no videos.
    """
    if not root.is_dir():
        return [read_source(root)], []
    for name in _TRAIN:
        train = root / name
        if not train.exists() or (name == "train" and not train.is_dir()):
            continue
        held = [train.with_name(f"{other}{train.suffix}") for other in _VAL]
        found = next((path for path in held if path.exists()), None)
        if name == "train" and found is None:
            break  # a class of that name, or the only part there is: the whole folder is split
        return [read_source(train, root)], [read_source(found, root)] if found else []
    return [read_source(root)], []


def held_out(listings: Sequence[Listing], fraction: float) -> tuple[list[Listing], list[Listing]]:
    """Split listings by a hash of the group, or of the path where there is none.

    The same file falls on the same side whatever else is in the set and wherever the set lies. At
    least one group is held out, and at least one is not, where there are two or more.
    """
    if not 0 <= fraction < 1:
        raise UserError(f"data.val_fraction must be from 0 to below 1, not {fraction}")
    names = [[_name(row, listing) for row in listing.rows] for listing in listings]
    held = iter(hold([name for part in names for name in part], fraction))
    train, val = [], []
    for listing in listings:
        out = [next(held) for _ in listing.rows]
        pairs = list(zip(listing.rows, out, strict=True))
        train.append(replace(listing, rows=[row for row, aside in pairs if not aside]))
        val.append(replace(listing, rows=[row for row, aside in pairs if aside]))
    return (train, val) if any(part.rows for part in val) else (list(listings), [])


def hold(names: Sequence[str], fraction: float) -> list[bool]:
    """Which of the groups named are held out; the same name always falls on the same side.

    At least one is, and at least one is not, where there are two names or more.
    """
    draws = [_draw(name) for name in names]
    values = sorted(set(draws))
    if fraction == 0 or len(values) < 2:
        return [False] * len(names)
    limit = min(max(fraction, values[0] + 1e-12), values[-1])
    return [draw < limit for draw in draws]


def _name(row: Row, listing: Listing) -> str:
    """A row's group, or its file's place in the set."""
    base = listing.where if os.path.isdir(listing.where) else os.path.dirname(listing.where)
    return row.group or Path(os.path.relpath(row.path, base or ".")).as_posix()


def _draw(name: str) -> float:
    """A number from 0 to 1 that a name always gets."""
    digest = hashlib.blake2b(os.fsencode(name), digest_size=7).digest()
    return int.from_bytes(digest, "little") / 2**56
