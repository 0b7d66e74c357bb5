"""Helper processes, each watched by a clock: work on files that may hang or kill a decoder.

Symptom: one damaged file hangs or kills a decoder, and with it a run of days.
Why a try-block fails: a hang raises nothing, and a crash takes the process.
Fix: long-lived helpers that take a job a line and answer a line; a hang or a crash costs one file
and one process. Not by multiprocessing: that imports the caller's script, and torch with it.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final, TypeVar

Job = dict[str, Any]
_READY: Final = "ready"
_START: Final = 120.0  # seconds: a cold import on a slow file system
T = TypeVar("T")
W = TypeVar("W", bound="AbstractContextManager[Any]")
A = TypeVar("A")


class Watched:
    """One helper process; a new one takes its place where it hangs or dies.

    Args:
        code: Python that ends in a call of `serve`.
        timeout: seconds that one job may take.

    Raises:
        RuntimeError: at the first job, where the code does not start.
    """

    def __init__(self, code: str, timeout: float) -> None:
        self.code, self.timeout = code, timeout
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Watched:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def ask(self, job: Job) -> Job | str:
        """The answer, or in words how the helper failed."""
        process = self._started()
        assert process.stdin is not None and process.stdout is not None
        with contextlib.suppress(OSError):  # it died since: the empty answer says so
            process.stdin.write(json.dumps(job) + "\n")
            process.stdin.flush()
        line, in_time = _line(process, self.timeout)
        if line:
            answer: Job = json.loads(line)
            return answer
        self._end()
        if not in_time:
            return f"decoder hangs (no answer in {self.timeout:g} s)"
        return "decoder crashes on it"

    def _started(self) -> subprocess.Popen[str]:
        if self._process is None:
            self._process = _start(self.code)
            if _line(self._process, _START)[0].strip() != _READY:
                self._end()
                raise RuntimeError(
                    f"the process that works on video files does not start: {sys.executable} -c "
                    f"{self.code!r}"
                )
        return self._process

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


def in_parallel(
    todo: Sequence[T], helper: Callable[[], W], work: Callable[[W, T], A], workers: int | None
) -> Iterator[A]:
    """`work(helper, item)` for each item, as the answers come.

    Args:
        todo: the items.
        helper: opens what a thread works with, once for each.
        work: runs in a thread, which mostly waits for its helper.
        workers: how many; by default one for each core, 16 at most, fewer for a few items.
    """
    jobs: queue.SimpleQueue[T] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[A | None, Exception | None]] = queue.SimpleQueue()
    for item in todo:
        jobs.put(item)
    stop = threading.Event()

    def run() -> None:
        try:
            with helper() as mine:
                while not stop.is_set():
                    done.put((work(mine, jobs.get_nowait()), None))
        except queue.Empty:
            pass
        except Exception as error:  # handed over to the caller below
            done.put((None, error))

    # A start costs as much as a score of files: small sets have one helper.
    count = workers or min(16, _cores(), 1 + len(todo) // 32)
    threads = [threading.Thread(target=run, daemon=True) for _ in range(min(count, len(todo)))]
    for thread in threads:
        thread.start()
    try:
        for _ in todo:
            answer, error = done.get()
            if error is not None:
                raise error
            yield answer  # type: ignore[misc]  # None only beside an error
    finally:
        stop.set()
        for thread in threads:
            thread.join(timeout=1.0)


def serve(work: Callable[[Job], Job], failed: Callable[[str], Job]) -> None:
    """Answer jobs until the input ends; decoders print, so the answers have their own channel.

    Args:
        work: the answer to a job.
        failed: the answer in words where `work` raises: nothing that a file does ends a helper.
    """
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    print(_READY, file=answers, flush=True)
    for line in sys.stdin:
        try:
            answer = work(json.loads(line))
        except Exception as error:
            answer = failed(f"unreadable: {type(error).__name__} ({error})")
        print(json.dumps(answer), file=answers, flush=True)


def _cores() -> int:
    """Cores that this process may use: on a cluster often fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _start(code: str) -> subprocess.Popen[str]:
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-P", "-c", code],  # not from the folder that we happen to be in
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
