"""What is known of each file, which split it is in, and which splits are no splits.

index.csv         a line for each usable video: frames, rate, size, hash, and its labels
train.csv ...     path,label,class,group: what VideoClips reads
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from jepa_video.data.ledger import Ledger
from jepa_video.data.manifest import Listing, Row
from jepa_video.data.media import VideoInfo
from jepa_video.data.prepare.layouts import TEST, TRAIN, VAL, Entry
from jepa_video.data.split import held_out
from jepa_video.errors import UserError

COLUMNS: Final = (
    "path", "split", "label", "class", "group", "frames", "fps", "width", "height", "seconds",
    "codec", "bytes", "source", "source_sha256",
)  # fmt: skip
_CHUNK: Final = 2**22


@dataclass(frozen=True)
class Item:
    """A usable video: how it is listed, what its file holds, the hash of its bytes."""

    entry: Entry
    info: VideoInfo
    sha256: str = ""


def hashes(paths: Sequence[str], workers: int | None) -> list[str]:
    """SHA-256 of each file; in threads, since hashing and reading release the lock."""
    with ThreadPoolExecutor(workers or min(8, os.cpu_count() or 1)) as pool:
        return list(pool.map(_sha256, paths))


def _sha256(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def grouped(items: list[Item], pattern: str | None) -> list[Item]:
    """The items with groups that a regular expression finds in their names.

    Raises:
        UserError: it is no regular expression, or finds nothing in a name.
    """
    if pattern is None:
        return items
    try:
        search = re.compile(pattern)
    except re.error as error:
        raise UserError(f"--settings.group {pattern!r} is no regular expression: {error}") from None
    done = []
    for item in items:
        found = search.search(item.entry.name)
        if found is None:
            raise UserError(
                f"--settings.group {pattern!r} finds nothing in {item.entry.name!r}: each video "
                "needs a group"
            )
        group = "_".join(filter(None, found.groups())) or found[0]
        done.append(replace(item, entry=replace(item.entry, group=group)))
    return done


def split_here(items: list[Item], fraction: float, where: str) -> list[Item]:
    """The items with a split by the hash of the group; files of one content are one group."""
    copies = Counter(item.sha256 for item in items if item.sha256)
    rows = []
    for number, item in enumerate(items):
        alone = not item.entry.group and copies[item.sha256] > 1
        group = f"copies-{item.sha256[:12]}" if alone else item.entry.group
        rows.append(Row(item.entry.path, group=group, origin=str(number)))
    _, val = held_out([Listing(rows, [], where)], fraction)
    held = {int(row.origin) for listing in val for row in listing.rows}
    return [
        replace(
            item,
            entry=replace(item.entry, split=VAL if i in held else TRAIN, group=rows[i].group),
        )
        for i, item in enumerate(items)
    ]


def without_leaks(items: list[Item], leaks: str, ledger: Ledger) -> list[Item]:
    """The items, if no group and no content is both in training and held out.

    Args:
        items: with their splits.
        leaks: `refuse` them, or `drop` the held-out video and list it.
        ledger: takes what is dropped.

    Raises:
        UserError: there is a leak, and it is not to be dropped.
    """
    train = [item for item in items if item.entry.split == TRAIN]
    groups = {item.entry.group for item in train} - {""}
    contents = {item.sha256 for item in train} - {""}
    kept, found = [], []
    for item in items:
        if item.entry.split == TRAIN:
            kept.append(item)
        elif item.entry.group in groups:
            found.append((item, f"group {item.entry.group} is in training too"))
        elif item.sha256 in contents:
            found.append((item, "a training video has the same content"))
        else:
            kept.append(item)
    if found and leaks == "refuse":
        item, told = found[0]
        raise UserError(
            f"{len(found)} held-out videos leak, the first is {item.entry.path}: {told}; "
            "--settings.leaks drop takes them out, --settings.split own splits anew by group"
        )
    for item, told in found:
        ledger.add(item.entry.path, f"leak: {told}")
    return kept


def write_index(out: Path, items: Iterable[Item], sources: dict[str, str]) -> None:
    """Write index.csv; `sources`: where a re-encoded file came from."""
    rows = []
    for item in items:
        entry, info = item.entry, item.info
        known = [entry.split, entry.label, entry.named, entry.group]
        shape = [info.frames, f"{info.fps:.6g}", info.width, info.height]
        length = [f"{info.frames / info.fps:.3f}", info.codec, os.path.getsize(entry.path)]
        source = sources.get(entry.path, entry.path)
        rows.append([_written(entry.path, out), *known, *shape, *length, source, item.sha256])
    write_table(out / "index.csv", COLUMNS, rows)


def write_manifests(out: Path, items: Sequence[Item]) -> dict[str, int]:
    """Write train.csv, val.csv and test.csv; how many videos each has."""
    named = any(item.entry.label for item in items)
    grouped = any(item.entry.group for item in items)
    counts = {}
    for split in (TRAIN, VAL, TEST):
        part = [item.entry for item in items if item.entry.split == split]
        path = out / f"{split}.csv"
        if not part:
            path.unlink(missing_ok=True)
            continue
        header = ["path", *["label", "class"] * named, *["group"] * grouped]
        rows = [
            [_written(e.path, out), *[e.label, e.named] * named, *[e.group] * grouped] for e in part
        ]
        write_table(path, header, rows)
        counts[split] = len(part)
    return counts


def _written(path: str, out: Path) -> str:
    """A path below the folder relative to it, so that the folder can move; others absolute."""
    whole, base = Path(path).absolute(), out.absolute()
    return whole.relative_to(base).as_posix() if whole.is_relative_to(base) else str(whole)


def write_table(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV in one move."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_text(path, text.getvalue())


def write_text(path: Path, text: str) -> None:
    """Write a text file in one move, so that a killed run leaves no half of it."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(text, "utf-8", "surrogateescape")  # names as the disk has them
    os.replace(draft, path)
