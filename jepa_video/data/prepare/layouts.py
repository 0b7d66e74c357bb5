"""What each public dataset's own lists say: file, split, label, class, group.

Lists are looked for below the annotations folder by what they hold, so that it matters little how a
copy was unpacked; videos below the source folder by their names. A listed video without a file is
an entry all the same: it is counted as missing, never dropped in silence.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from jepa_video.data.manifest import VIDEO_SUFFIXES, read_source
from jepa_video.errors import UserError

TRAIN, VAL, TEST = "train", "val", "test"
_KINETICS_SPLITS: Final = {"train": TRAIN, "validate": VAL, "validation": VAL, "val": VAL}


@dataclass(frozen=True)
class Entry:
    """A video as a dataset lists it.

    Attributes:
        path: its file; where there is none, the place at which it was looked for.
        name: its place in a prepared folder, without suffix.
        split: `train`, `val`, `test`, or empty: not said.
        label: number of the class as text; `named`: its name. Empty where unknown.
        group: videos of one group (a person, a source) belong to one split; empty: alone.
    """

    path: str
    name: str
    split: str = ""
    label: str = ""
    named: str = ""
    group: str = ""


@dataclass(frozen=True)
class Places:
    """Where a dataset lies: its videos, its lists (by default in the same folder), which split."""

    videos: Path
    lists: Path
    number: int = 1

    @cached_property
    def by_stem(self) -> dict[str, list[Path]]:
        """Video files by name without suffix."""
        found: dict[str, list[Path]] = {}
        for path in sorted(self.videos.rglob("*")):
            if path.suffix.lower() in VIDEO_SUFFIXES and not _hidden(path, self.videos):
                found.setdefault(path.stem, []).append(path)
        return found

    def video(self, stem: str, folder: str = "") -> Path:
        """The file of that name, in a folder of that name where there are several.

        Raises:
            UserError: two files could be meant.
        """
        found = self.by_stem.get(stem, [])
        near = [path for path in found if path.parent.name == folder] if folder else []
        found = near or found
        if len(found) > 1:
            raise UserError(f"{found[0]} and {found[1]} have one name: which is meant?")
        return found[0] if found else self.videos / folder / stem

    def entry(self, path: Path, **known: str) -> Entry:
        """An entry of a file at or below the folder of videos."""
        name = path.relative_to(self.videos)
        if path.suffix.lower() in VIDEO_SUFFIXES:
            name = name.with_suffix("")
        return Entry(str(path), name.as_posix(), **known)

    def files(self, pattern: str) -> list[Path]:
        """Lists whose name matches, in a fixed order."""
        found = sorted(self.lists.rglob(pattern))
        return [path for path in found if path.is_file() and not _hidden(path, self.lists)]

    def one(self, pattern: str, dataset: str) -> Path:
        """The list whose name matches.

        Raises:
            UserError: there is none, or there are several.
        """
        found = self.files(pattern)
        if len(found) != 1:
            told = "there is no" if not found else f"there are {len(found)} files"
            raise UserError(f"{told} {pattern} below {self.lists}, which {dataset} is read from")
        return found[0]


def _hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def _numbered(names: Iterable[str]) -> dict[str, str]:
    """Class numbers by name, in the order of the alphabet."""
    return {name: str(number) for number, name in enumerate(sorted(set(names)))}


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not readable as JSON: {error}") from error


def kinetics(places: Places) -> list[Entry]:
    """Kinetics-400, 600, 700: CSV of label, youtube_id, time_start, time_end, split.

    Files are ID_000010_000020.mp4, in class folders or not, or ID.mp4. The group is the YouTube
    video. Kay et al., *The Kinetics Human Action Video Dataset*, arXiv 1705.06950.
    """
    rows = [row for path in places.files("*.csv") for row in _kinetics_rows(path)]
    if not rows:
        raise UserError(
            f"no CSV below {places.lists} has a column youtube_id: expected the lists of Kinetics "
            "(train.csv, validate.csv)"
        )
    numbers = _numbered(row["label"] for row in rows if row.get("label"))
    return [_kinetics_entry(places, row, numbers) for row in rows]


def _kinetics_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        if "youtube_id" not in (reader.fieldnames or []):
            return []
        named = path.stem.removeprefix("kinetics_").rsplit("_", 1)[-1]
        return [{**row, "split": row.get("split") or named} for row in reader]


def _kinetics_entry(places: Places, row: dict[str, str], numbers: dict[str, str]) -> Entry:
    video, label = row["youtube_id"], row.get("label", "")
    try:
        span = f"_{int(float(row['time_start'])):06d}_{int(float(row['time_end'])):06d}"
    except (KeyError, ValueError):
        span = ""
    whole = f"{video}{span}"
    path = places.video(whole if whole in places.by_stem or span else video)
    if whole not in places.by_stem and video in places.by_stem:
        path = places.video(video)
    split = _KINETICS_SPLITS.get(row["split"], TEST)
    return places.entry(path, split=split, label=numbers.get(label, ""), named=label, group=video)


def ssv2(places: Places) -> list[Entry]:
    """Something-Something v2: JSON lists of id and template, and the numbers of the templates.

    Goyal et al., *The "Something Something" Video Database*, arXiv 1706.04261.
    """
    lists = [path for path in places.files("*.json") if _json_kind(path)]
    numbers = next((_json(p) for p in lists if "label" in p.stem), None)
    parts = {
        part: p for part in (TRAIN, "validation", TEST) for p in lists if p.stem.endswith(part)
    }
    if numbers is None or TRAIN not in parts:
        raise UserError(
            f"below {places.lists} there are no lists of Something-Something v2: expected "
            "something-something-v2-labels.json (or labels.json), -train.json and -validation.json"
        )
    answers = _ssv2_answers(places)
    entries = []
    for part, path in parts.items():
        split = VAL if part == "validation" else part
        for item in _json(path):
            said = str(item.get("template") or answers.get(str(item["id"]), ""))
            named = said.replace("[", "").replace("]", "")
            if named and named not in numbers:
                raise UserError(f"{path} has the class {named!r}, which no list of labels has")
            file = places.video(str(item["id"]))
            label = str(numbers.get(named, ""))
            entries.append(places.entry(file, split=split, label=label, named=named))
    return entries


def _json_kind(path: Path) -> bool:
    """Whether a file is one of the four lists, by its name."""
    return path.stem.split("-")[-1] in ("labels", "train", "validation", "test")


def _ssv2_answers(places: Places) -> dict[str, str]:
    """Classes of the test videos, where the list that was published later is there."""
    lines = [line for path in places.files("*test-answers.csv") for line in _lines(path)]
    pairs = (line.partition(";") for line in lines)
    return {video: named for video, _, named in pairs}


def ucf101(places: Places) -> list[Entry]:
    """UCF101: classInd.txt, trainlist0N.txt, testlist0N.txt; the group is class and gNN.

    Soomro et al., *UCF101*, arXiv 1212.0402.
    """
    classes = (line.split() for line in _lines(places.one("classInd.txt", "UCF101")))
    numbers = {named: str(int(number) - 1) for number, named in classes}
    entries = []
    for split, kind in ((TRAIN, "train"), (VAL, "test")):
        path = places.one(f"{kind}list{places.number:02d}.txt", "UCF101")
        for line in _lines(path):
            named, _, file = line.split()[0].rpartition("/")
            found = re.search(r"_g(\d+)_", file)
            if named not in numbers or found is None:
                raise UserError(f"{path} has the line {line!r}: expected CLASS/v_CLASS_gNN_cNN.avi")
            video = places.video(Path(file).stem, named)
            group = f"{named}_g{found[1]}"
            entries.append(
                places.entry(video, split=split, label=numbers[named], named=named, group=group)
            )
    return entries


def hmdb51(places: Places) -> list[Entry]:
    """HMDB51: CLASS_test_splitN.txt with lines of FILE and 1 (train), 2 (test) or 0 (neither).

    The lists say nothing of the films that clips are cut from, so there is no group.
    Kuehne et al., *HMDB: a large video database for human motion recognition*, ICCV 2011.
    """
    ending = f"_test_split{places.number}"
    lists = {path.stem.removesuffix(ending): path for path in places.files(f"*{ending}.txt")}
    if not lists:
        raise UserError(
            f"below {places.lists} there is no CLASS{ending}.txt: expected the lists of HMDB51 "
            "(testTrainMulti_7030_splits)"
        )
    numbers, entries = _numbered(lists), []
    for named, path in lists.items():
        for line in _lines(path):
            file, _, kind = line.rpartition(" ")
            if kind not in ("0", "1", "2"):
                raise UserError(f"{path} has the line {line!r}: expected FILE and 0, 1 or 2")
            if kind != "0":
                video = places.video(Path(file.strip()).stem, named)
                split = TRAIN if kind == "1" else VAL
                entries.append(places.entry(video, split=split, label=numbers[named], named=named))
    return entries


def diving48(places: Places) -> list[Entry]:
    """Diving48, version 2 where it is there: JSON lists of vid_name and label.

    Li et al., *RESOUND: Towards Action Recognition without Representation Bias*, ECCV 2018.
    """
    newest = "_V2" if places.files("Diving48_V2_train.json") else ""
    vocabulary: list[list[str]] = next((_json(p) for p in places.files("Diving48_vocab.json")), [])
    entries = []
    for split, kind in ((TRAIN, "train"), (VAL, "test")):
        for item in _json(places.one(f"Diving48{newest}_{kind}.json", "Diving48")):
            number = int(item["label"])
            named = "-".join(vocabulary[number]) if number < len(vocabulary) else str(number)
            video = places.video(str(item["vid_name"]))
            entries.append(places.entry(video, split=split, label=str(number), named=named))
    return entries


def folder(places: Places) -> list[Entry]:
    """Any folder of videos: class folders give the labels, train/ and val/ the splits."""
    parts = {
        TRAIN: [TRAIN],
        VAL: [VAL, "validation", "valid"],
        TEST: [TEST],
    }
    found = {
        split: places.videos / name
        for split, names in parts.items()
        for name in names
        if (places.videos / name).is_dir()
    }
    if TEST in found and VAL not in found:
        found[VAL] = found.pop(TEST)  # the held-out videos, whatever they are called
    if TRAIN not in found or VAL not in found:
        found = {"": places.videos}
    listed = [
        (split, Path(row.path), row.labels.get("label", ""))
        for split, place in found.items()
        for row in read_source(place).rows
    ]
    numbers = _numbered(named for _, _, named in listed if named)
    return [
        places.entry(path, split=split, label=numbers.get(named, ""), named=named)
        for split, path, named in listed
    ]


def _lines(path: Path) -> Iterator[str]:
    text = path.read_text(encoding="utf-8-sig")
    return (line.strip() for line in text.splitlines() if line.strip())


LAYOUTS: Final[dict[str, Callable[[Places], list[Entry]]]] = {
    "kinetics": kinetics,
    "ssv2": ssv2,
    "ucf101": ucf101,
    "hmdb51": hmdb51,
    "diving48": diving48,
    "folder": folder,
}
