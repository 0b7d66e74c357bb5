"""Examine many files without trusting any of them, and remember the answers.

Files are opened in helper processes (see `watched.py`); what hangs or kills decord is given to PyAV
before it is called unreadable.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from typing import Any, Final

from jepa_video.data.examine import Finding, from_json, to_json
from jepa_video.data.once import cache_folder
from jepa_video.watched import Watched, in_parallel

Progress = Callable[[int, int], None]

LEVELS: Final = ("none", "quick", "full")
_SAVE_EVERY: Final = 2000  # files between two writes of the memory
_CODE: Final = "from jepa_video.data.examine import main; main()"


def check_files(
    paths: Sequence[str],
    level: str = "full",
    *,
    timeout: float = 30.0,
    workers: int | None = None,
    memory: str = "",
    progress: Progress | None = None,
) -> dict[str, Finding]:
    """Findings by path.

    Args:
        paths: files; looked at once each.
        level: `quick` or `full`, see `examine`.
        timeout: seconds that one file may take.
        workers: examiner processes; by default one for each core, 16 at most.
        memory: name of the set whose earlier findings may be used; a finding holds as long as the
            file's size and time of change do. Empty: remember nothing.
        progress: called with the number of files done and to do.
    """
    known = _Memory(memory) if memory else None
    todo = list(dict.fromkeys(paths))
    found: dict[str, Finding] = {}
    if known is not None:
        found = {p: f for p in todo if (f := known.get(p, level)) is not None}
        todo = [path for path in todo if path not in found]
    total = len(found) + len(todo)
    for path, finding, lasting in _examined(todo, level, timeout, workers):
        found[path] = finding
        if known is not None and lasting:
            known.put(path, level, finding)
        if progress is not None:
            progress(len(found), total)
    if known is not None:
        known.save()
    return found


def _examined(
    todo: Sequence[str], level: str, timeout: float, workers: int | None
) -> Iterator[tuple[str, Finding, bool]]:
    """Findings as they come, and whether each would be the same another day."""

    def work(examiner: _Examiner, path: str) -> tuple[str, Finding, bool]:
        return path, *examiner.examine(path)

    return in_parallel(todo, lambda: _Examiner(level, timeout), work, workers)


class _Examiner:
    """Asks a helper process about files."""

    def __init__(self, level: str, timeout: float) -> None:
        self.level, self.helper = level, Watched(_CODE, timeout)

    def __enter__(self) -> _Examiner:
        return self

    def __exit__(self, *_: object) -> None:
        self.helper.__exit__()

    def examine(self, path: str) -> tuple[Finding, bool]:
        """The finding, and whether it would be the same another day: a hang may be a busy disk."""
        fault = ""
        for decord in (True, False):
            answer = self.helper.ask({"path": path, "level": self.level, "decord": decord})
            if not isinstance(answer, str):
                return from_json(answer), not fault
            fault = answer
        return Finding(None, fault), False


class _Memory:
    """Findings of a set in the user's cache folder, by path, size and time of change.

    One JSON file a set, replaced in one move. A folder that cannot be written only costs time.
    """

    def __init__(self, name: str) -> None:
        digest = hashlib.blake2b(os.fsencode(name), digest_size=12).hexdigest()
        self.file = cache_folder() / "checks" / f"{digest}.json"
        self._new = 0
        self._entries: dict[str, dict[str, Any]] = {}
        with contextlib.suppress(OSError, ValueError):
            stored = json.loads(self.file.read_text())
            if stored["versions"] == _versions():
                self._entries = stored["files"]

    def get(self, path: str, level: str) -> Finding | None:
        """What is known of a file at this level or a stricter one."""
        entry = self._entries.get(path)
        if entry is None or LEVELS.index(entry["level"]) < LEVELS.index(level):
            return None
        return from_json(entry) if entry["is"] == _fingerprint(path) else None

    def put(self, path: str, level: str, finding: Finding) -> None:
        """Remember a finding; now and then write, so that a killed check begins half-way."""
        fingerprint = _fingerprint(path)
        if fingerprint is None:
            return
        self._entries[path] = {"is": fingerprint, "level": level, **to_json(finding)}
        self._new += 1
        if self._new % _SAVE_EVERY == 0:
            self.save()

    def save(self) -> None:
        """Write what is new."""
        if not self._new:
            return
        draft = self.file.with_suffix(f".{os.getpid()}")
        with contextlib.suppress(OSError):
            self.file.parent.mkdir(parents=True, exist_ok=True)
            draft.write_text(json.dumps({"versions": _versions(), "files": self._entries}))
            os.replace(draft, self.file)
            self._new = 0


def _fingerprint(path: str) -> list[int] | None:
    try:
        stat = os.stat(path)
    except OSError:
        return None
    return [stat.st_size, stat.st_mtime_ns]


def _versions() -> dict[str, str]:
    """What a finding depends on beside the file: another decoder may read it another way."""
    found = {"rules": "1"}
    for name in ("av", "decord"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found
