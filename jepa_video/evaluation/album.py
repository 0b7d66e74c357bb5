"""The picture pack of a run: image files and one `album.json` that says what they show.

    pictures/
      album.json     a list of plates
      *.webp *.png   what the plates name

Drawing needs the model and the videos; showing needs this folder alone, so a report can be written
again long after the run, on a machine that has neither.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ALBUM = "album.json"


@dataclass(frozen=True)
class Picture:
    """One image file of the pack."""

    file: str
    alt: str  # what it shows, for those who do not see it
    label: str = ""  # a few words beneath
    still: str = ""  # stands in for a moving picture on paper, or where motion is unwanted


@dataclass(frozen=True)
class Plate:
    """Pictures that belong together, in rows, with a title and a caption in plain text."""

    title: str
    caption: str
    rows: tuple[tuple[Picture, ...], ...]
    columns: tuple[str, ...] = ()  # a heading for each place of a row


def save_album(folder: Path, plates: Sequence[Plate]) -> None:
    """Writes `album.json`; the image files are there already."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps([asdict(plate) for plate in plates], indent=1, ensure_ascii=False)
    (folder / ALBUM).write_text(text + "\n", encoding="utf-8")


def load_album(folder: Path) -> list[Plate]:
    """The plates of a pack.

    Raises:
        OSError: where there is no `album.json`.
        ValueError: where it is not one (cut short, for example).
    """
    stored = json.loads((folder / ALBUM).read_text(encoding="utf-8"))
    try:
        return [_plate(entry) for entry in stored]
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{folder / ALBUM} is not a list of plates: {error}") from None


def _plate(entry: dict[str, Any]) -> Plate:
    rows = tuple(tuple(Picture(**picture) for picture in row) for row in entry["rows"])
    return Plate(entry["title"], entry["caption"], rows, tuple(entry.get("columns", ())))
