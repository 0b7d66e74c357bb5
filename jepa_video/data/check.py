"""Examine many files without trusting any of them, and remember the answers.

Symptom: one damaged file hangs or kills a decoder, and with it a run of days.
Why a try-block fails: a hang raises nothing, and a crash takes the process.
Fix: long-lived examiner processes, each watched by a clock; a hang or a crash costs one file and
one process. What hangs or kills decord is given to PyAV before it is called unreadable.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from jepa_video.data.examine import READY, Finding, from_json, to_json
from jepa_video.data.synthetic import cache_folder

Progress = Callable[[int, int], None]

LEVELS: Final = ("none", "quick", "full")
_START: Final = 120.0  # seconds: a cold import on a slow file system
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
    jobs: queue.SimpleQueue[str] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[str, Finding, bool] | Exception] = queue.SimpleQueue()
    for path in todo:
        jobs.put(path)
    stop = threading.Event()

    def work() -> None:
        try:
            with _Examiner(level, timeout) as examiner:
                while not stop.is_set():
                    path = jobs.get_nowait()
                    done.put((path, *examiner.examine(path)))
        except queue.Empty:
            pass
        except Exception as error:  # handed over to the caller below
            done.put(error)

    # A start costs as much as a score of files: small sets have one examiner.
    count = workers or min(16, _cores(), 1 + len(todo) // 32)
    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(count, len(todo)))]
    for thread in threads:
        thread.start()
    try:
        for _ in todo:
            answer = done.get()
            if isinstance(answer, Exception):
                raise answer
            yield answer
    finally:
        stop.set()
        for thread in threads:
            thread.join(timeout=1.0)


def _cores() -> int:
    """Cores that this process may use: on a cluster often fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class _Examiner:
    """One examiner process; a new one takes its place where it hangs or dies."""

    def __init__(self, level: str, timeout: float) -> None:
        self.level, self.timeout = level, timeout
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> _Examiner:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def examine(self, path: str) -> tuple[Finding, bool]:
        """The finding, and whether it would be the same another day: a hang may be a busy disk."""
        fault = ""
        for decord in (True, False):
            answer = self._ask({"path": path, "level": self.level, "decord": decord})
            if isinstance(answer, Finding):
                return answer, not fault
            fault = answer
        return Finding(None, fault), False

    def _ask(self, job: dict[str, Any]) -> Finding | str:
        """A finding, or in words how the examiner failed."""
        process = self._started()
        assert process.stdin is not None and process.stdout is not None
        with contextlib.suppress(OSError):  # it died since: the empty answer says so
            process.stdin.write(json.dumps(job) + "\n")
            process.stdin.flush()
        line, in_time = _line(process, self.timeout)
        if line:
            return from_json(json.loads(line))
        self._end()
        if not in_time:
            return f"decoder hangs (no answer in {self.timeout:g} s)"
        return "decoder crashes on it"

    def _started(self) -> subprocess.Popen[str]:
        if self._process is None:
            self._process = _start()
            if _line(self._process, _START)[0].strip() != READY:
                self._end()
                raise RuntimeError(
                    f"the process that examines video files does not start: {sys.executable} -c "
                    f"{_CODE!r}"
                )
        return self._process

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


def _start() -> subprocess.Popen[str]:
    """An examiner. Not by multiprocessing: that imports the caller's script, and torch with it."""
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-P", "-c", _CODE],  # not from the folder that we happen to be in
        env=env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        encoding="utf-8",
    )


def _line(process: subprocess.Popen[str], timeout: float) -> tuple[str, bool]:
    """The next line of its output, and whether it came, or the process ended, in time."""
    late = threading.Event()

    def give_up() -> None:
        late.set()
        process.kill()

    clock = threading.Timer(timeout, give_up)
    clock.start()
    try:
        assert process.stdout is not None
        return process.stdout.readline(), not late.is_set()
    finally:
        clock.cancel()


class _Memory:
    """Findings of a set in the user's cache folder, by path, size and time of change.

    One JSON file a set, replaced in one move. A folder that cannot be written only costs time.
    """

    def __init__(self, name: str) -> None:
        digest = hashlib.blake2b(name.encode(), digest_size=12).hexdigest()
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
