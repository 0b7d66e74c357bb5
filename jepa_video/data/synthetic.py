"""The embedded default set: `scenes` written as real mp4 files into the user's cache on first use.

Folder that `write_synthetic` leaves::

    settings.json              what was drawn
    train.csv, val.csv         path,shape,direction,speed,number,event,fork   (empty: no label)
    videos/train/000000.mp4    H.264 where the build of FFmpeg has it, MPEG-4 otherwise
    videos/val/000000.mp4
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jepa_video.data.encode import write_video
from jepa_video.data.once import cache_folder, made_once
from jepa_video.data.scenes import (
    FACTORS,
    SPLITS,
    Labels,
    SyntheticSettings,
    draw_labels,
    render,
)

__all__ = ["SyntheticSettings", "ensure_synthetic", "write_synthetic"]

Progress = Callable[[int, int], None]


def write_synthetic(
    folder: Path | str,
    settings: SyntheticSettings | None = None,
    *,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Path:
    """Draw the whole set into `folder` and return it.

    Args:
        folder: made where missing.
        settings: defaults to `SyntheticSettings()`.
        workers: processes; by default two, or one on a single core.
        progress: called now and then with the number of videos done and to do.
    """
    settings = settings or SyntheticSettings()
    folder = Path(folder)
    workers = workers or min(2, os.cpu_count() or 1)
    for split in SPLITS:
        (folder / "videos" / split).mkdir(parents=True, exist_ok=True)
        _write_manifest(folder, split, draw_labels(settings, split))
    (folder / "settings.json").write_text(json.dumps(asdict(settings), indent=2) + "\n")
    helpers = {part: _helper(folder, part, workers) for part in range(1, workers)}
    try:
        _write_part(folder, settings, 0, workers, progress)
        for part, helper in helpers.items():
            if helper.wait() != 0:  # out of memory, say: what a helper left undone is done here
                _write_part(folder, settings, part, workers, None)
    finally:
        for helper in helpers.values():
            helper.kill()
    if progress is not None:
        total = settings.videos_train + settings.videos_val
        progress(total, total)
    return folder


def _write_manifest(folder: Path, split: str, rows: list[Labels]) -> None:
    with open(folder / f"{split}.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, ["path", *FACTORS], lineterminator="\n")
        writer.writeheader()
        for i, row in enumerate(rows):
            writer.writerow({"path": f"videos/{split}/{i:06d}.mp4", **row})


def _write_part(
    folder: Path, settings: SyntheticSettings, part: int, parts: int, progress: Progress | None
) -> None:
    """Every `parts`-th video from `part` on."""
    labels = {split: draw_labels(settings, split) for split in SPLITS}
    jobs = [(split, i, row) for split, rows in labels.items() for i, row in enumerate(rows)]
    parent = os.getppid()
    for done, (split, i, row) in enumerate(jobs[part::parts]):
        if part and os.getppid() != parent:
            return  # the process that asked was killed: nobody wants the rest
        path = folder / "videos" / split / f"{i:06d}.mp4"
        write_video(path, render(settings, row, split, i), settings.fps)
        if progress is not None and done % 8 == 0:
            progress(min(done * parts, len(jobs)), len(jobs))


def _helper(folder: Path, part: int, parts: int) -> subprocess.Popen[bytes]:
    """A process that writes one part; multiprocessing would run the caller's script again."""
    code = (
        "import sys; from jepa_video.data.synthetic import helper_main; helper_main(*sys.argv[1:])"
    )
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, str(folder), str(part), str(parts)]
    quiet = subprocess.DEVNULL
    return subprocess.Popen(command, env=env, stdin=quiet, stdout=quiet, stderr=quiet)


def helper_main(folder: str, part: str, parts: str) -> None:
    """Write one part of the set whose `settings.json` lies in `folder`: a helper process."""
    raw: dict[str, Any] = json.loads((Path(folder) / "settings.json").read_text())
    values: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in raw.items()
    }
    _write_part(Path(folder), SyntheticSettings(**values), int(part), int(parts), None)


def ensure_synthetic(
    settings: SyntheticSettings | None = None,
    cache: Path | str | None = None,
    *,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Path:
    """The folder of the set with these settings; drawn on the first call, found at once afterwards.

    The folder appears under its name by one rename when it is complete: a killed run leaves a
    temporary folder that nobody takes for the set, and of two processes the first one wins.

    Raises:
        UserError: the cache folder cannot be written.
    """
    settings = settings or SyntheticSettings()
    root = Path(cache) if cache is not None else cache_folder()
    final = root / f"synthetic-{settings.digest()}"

    def draw(draft: Path) -> None:
        write_synthetic(draft, settings, workers=workers, progress=progress)

    return made_once(final, draw)
