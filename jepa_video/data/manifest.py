"""Sources of videos -> a listing: class folders, plain folders, and three kinds of manifest.

    path,label,class,group        CSV with a header; other columns are labels too, empty = unknown
    a.mp4,3                       CSV without a header
    a.mp4 3                       separated by spaces, as V-JEPA's lists are

Paths in a manifest are absolute, or relative to the manifest's folder, or to the data root. `group`
(the person, the scene) is no label: splits keep it together. Where `label` and `class` are both
there, `class` gives the names of the labels. A folder of episodes (`lerobot.py`) is one of videos.
"""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from jepa_video.data.lerobot import video_groups
from jepa_video.errors import UserError

# fmt: off
VIDEO_SUFFIXES: Final = frozenset([
    ".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".flv", ".f4v", ".3gp", ".gif", ".mpg",
    ".mpeg", ".ts", ".m2ts", ".mts", ".vob", ".wmv", ".asf", ".ogv", ".y4m", ".mxf", ".ivf",
])
# fmt: on
_PATH_COLUMNS: Final = ("path", "video", "video_path", "file", "filename", "file_name")
_GROUP_COLUMN: Final = "group"


@dataclass(frozen=True)
class Row:
    """One video: its file, the text of its labels by column, its group, and where it was named."""

    path: str
    labels: dict[str, str] = field(default_factory=dict)
    group: str = ""
    origin: str = ""


@dataclass
class Listing:
    """The videos of a source. `names`: for a label column, what its values are called."""

    rows: list[Row]
    columns: list[str]
    where: str
    names: dict[str, dict[str, str]] = field(default_factory=dict)


def read_source(
    source: str | os.PathLike[str], root: str | os.PathLike[str] | None = None
) -> Listing:
    """List the videos of a folder or of a manifest.

    Args:
        source: a folder or a manifest file (any suffix but a video's).
        root: what relative paths of a manifest may refer to beside its own folder.

    Raises:
        UserError: nothing there, no video in it, or a manifest that cannot be understood.
    """
    path = Path(source)
    if path.is_dir():
        return _read_folder(path)
    if not path.exists():
        raise UserError(f"there is no folder or manifest at {path}")
    if path.suffix.lower() in VIDEO_SUFFIXES:
        return Listing([Row(str(path), origin=str(path))], [], str(path))
    return _read_manifest(path, Path(root) if root is not None else None)


def classes_of(listings: Iterable[Listing], column: str) -> tuple[list[str], dict[str, int]]:
    """Names of the classes of a label column, and the class number of each of its values.

    Values that are all whole numbers keep their order as numbers; others go by the alphabet. All
    listings of a run are passed together, so that a class has one number in all of them.
    """
    values: dict[str, str] = {}
    for listing in listings:
        named = listing.names.get(column, {})
        for row in listing.rows:
            value = row.labels.get(column, "")
            if value:
                values[value] = named.get(value, values.get(value, value))
    ordered = sorted(values, key=_numeric) if all(map(_is_whole, values)) else sorted(values)
    return [values[value] for value in ordered], {v: number for number, v in enumerate(ordered)}


def _numeric(value: str) -> int:
    return int(value)


def _is_whole(value: str) -> bool:
    return value.lstrip("-").isdecimal()


# -- folders ---------------------------------------------------------------------------------------


def _read_folder(folder: Path) -> Listing:
    videos, others = [], Counter[str]()
    for file in _files(folder):
        if file.suffix.lower() in VIDEO_SUFFIXES:
            videos.append(file)
        else:
            others[file.suffix.lower() or "no suffix"] += 1
    if not videos:
        raise UserError(_no_videos(folder, others))
    labelled, groups = _class_folders(folder, videos), video_groups(folder)
    rows = [
        Row(
            str(video),
            {"label": video.parent.name} if labelled else {},
            groups.get(video.stem, ""),
            str(video),
        )
        for video in videos
    ]
    return Listing(rows, ["label"] if labelled else [], str(folder))


def _files(folder: Path, above: Sequence[str] = ()) -> Iterator[Path]:
    """All files below a folder in a fixed order; hidden ones and hidden folders are left out.

    Links are followed, but not back into a folder on whose way they lie (`above`).

    Raises:
        UserError: a folder that cannot be read, whose videos would be missing in silence.
    """
    way = (*above, os.path.realpath(folder))
    if way[-1] in above:
        return
    try:
        with os.scandir(folder) as found:
            entries = sorted((each.name, _is_folder(each)) for each in found)
    except OSError as error:
        raise UserError(f"the folder {folder} cannot be read: {error.strerror}") from error
    entries = [(name, below) for name, below in entries if not name.startswith(".")]
    yield from (folder / name for name, below in entries if not below)
    for name in (name for name, below in entries if below):
        yield from _files(folder / name, way)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    return os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()


def _class_folders(folder: Path, videos: Sequence[Path]) -> bool:
    """Every video lies in a folder of its own class: two or more of them, one level down."""
    parents = {video.parent for video in videos}
    return len(parents) > 1 and all(parent.parent == folder for parent in parents)


def _no_videos(folder: Path, others: Counter[str]) -> str:
    if not others:
        return f"{folder} is empty: expected video files, in class folders or not"
    kinds = ", ".join(f"{count} {suffix}" for suffix, count in others.most_common(3))
    return f"no video file in {folder}: expected .mp4, .mkv, .avi or the like, found {kinds}"


# -- manifests -------------------------------------------------------------------------------------


def _read_manifest(path: Path, root: Path | None) -> Listing:
    lines = _fields(path)
    if not lines:
        raise UserError(f"the manifest {path} is empty: expected lines of path,label")
    header = [name.strip() for name in lines[0][1]]
    lowered = [name.lower() for name in header]
    place = next((lowered.index(name) for name in _PATH_COLUMNS if name in lowered), None)
    if place is not None:
        return _with_header(path, lines[1:], header, place, _Places(path.parent, root))
    if not Path(header[0]).suffix:
        raise UserError(
            f"{path} has no column 'path' and line 1 begins with {header[0]!r}, which names no "
            "video: expected a header with 'path', or lines of path,label"
        )
    return _without_header(path, lines, _Places(path.parent, root))


def _fields(path: Path) -> list[tuple[int, list[str]]]:
    """Line numbers and fields, apart by commas, by tabs or, before the last field, by a space."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        raise UserError(
            f"{path} cannot be read as text: expected a folder of videos or a manifest of paths"
        ) from None
    lines = [(n, line) for n, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not lines:
        return []
    if "," in lines[0][1] or "\t" in lines[0][1]:
        delimiter = "," if "," in lines[0][1] else "\t"
        return [(n, next(csv.reader([line], delimiter=delimiter))) for n, line in lines]
    return [(n, _split_at_space(line)) for n, line in lines]


def _split_at_space(line: str) -> list[str]:
    """A path may hold spaces; a label behind it does not, and is no file name."""
    head, _, tail = line.strip().rpartition(" ")
    return [head.strip(), tail] if head and not Path(tail).suffix else [line.strip()]


class _Places:
    """Where a manifest's relative paths may start: its own folder, the data root."""

    def __init__(self, folder: Path, root: Path | None) -> None:
        self.bases = [folder] if root is None or root == folder else [folder, root]

    def find(self, name: str) -> str:
        """The file that `name` means; under the first base where there is none."""
        if os.path.isabs(name):
            return name
        for base in self.bases:
            if os.path.exists(base / name):
                # The base that served comes first for the next row: one look in place of two.
                self.bases.sort(key=lambda other: other != base)
                return str(base / name)
        return str(self.bases[0] / name)


def _with_header(
    path: Path, lines: list[tuple[int, list[str]]], header: list[str], place: int, places: _Places
) -> Listing:
    columns = [
        name for i, name in enumerate(header) if i != place and name and name != _GROUP_COLUMN
    ]
    named = "label" in columns and "class" in columns
    rows, names = [], {}
    for number, fields in lines:
        _same_width(path, number, fields, len(header), "the header")
        cells = {name: cell.strip() for name, cell in zip(header, fields, strict=True)}
        labels = {name: cells[name] for name in columns if cells.get(name)}
        if named and "label" in labels:
            names[labels["label"]] = labels.get("class", labels["label"])
        file = _path_of(path, number, cells.get(header[place], ""))
        rows.append(
            Row(places.find(file), labels, cells.get(_GROUP_COLUMN, ""), f"{path}, line {number}")
        )
    if not rows:
        raise UserError(
            f"the manifest {path} has a header and no rows: expected one for each video"
        )
    if named:
        columns.remove("class")
    return Listing(rows, columns, str(path), {"label": names} if named else {})


def _without_header(path: Path, lines: list[tuple[int, list[str]]], places: _Places) -> Listing:
    rows = []
    first, width = lines[0][0], len(lines[0][1])
    columns = ["label", *(f"label{i}" for i in range(2, width))][: width - 1]
    for number, fields in lines:
        _same_width(path, number, fields, width, f"line {first}")
        file = _path_of(path, number, fields[0].strip())
        cells = zip(columns, (cell.strip() for cell in fields[1:]), strict=True)
        labels = {name: cell for name, cell in cells if cell}
        rows.append(Row(places.find(file), labels, origin=f"{path}, line {number}"))
    return Listing(rows, columns, str(path))


def _same_width(manifest: Path, number: int, fields: list[str], width: int, other: str) -> None:
    """A row of another width has its cells under the wrong names: a comma in a path, say."""
    if len(fields) != width:
        raise UserError(
            f"{manifest}, line {number} has another number of cells ({len(fields)}) than {other} "
            f"({width}): leave a label empty where there is none, and put quotes around a comma"
        )


def _path_of(manifest: Path, number: int, cell: str) -> str:
    if not cell:
        raise UserError(f"{manifest}, line {number}: the row names no file")
    return cell
