"""Helper processes, each watched by a clock: work on files that may hang or kill a decoder.

Environments are stepped by them too (`envs/split.py`), which may do the same.

Symptom: one damaged file hangs or kills a decoder, and with it a run of days.
Why a try-block fails: a hang raises nothing, and a crash takes the process.
Fix: long-lived helpers that take a job a line and answer a line, after which bytes may follow; a
hang or a crash costs one file and one process. Not by multiprocessing: that imports the caller's
script, and torch with it.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from io import BufferedReader
from pathlib import Path
from typing import Any, Final, TypeVar

Job = dict[str, Any]
_READY: Final = b"ready"
_START: Final = 120.0  # seconds: a cold import on a slow file system
_REST: Final = "length of the rest"  # of an answer, in bytes
_LOOK: Final = 2.0  # seconds between two looks of a helper at whether it is still needed
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
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Watched:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def ask(self, job: Job, timeout: float | None = None) -> Job | str:
        """The answer, or in words how the helper failed.

        Args:
            job: plain values.
            timeout: seconds that this job may take, in the place of the usual ones.

        Returns:
            Plain values, and under `bytes` what came after them, a `bytearray`.
        """
        timeout = timeout or self.timeout
        self.tell(job)
        answer, in_time = self.hear(timeout)
        if answer is not None:
            return answer
        if not in_time:
            return f"decoder hangs (no answer in {timeout:g} s)"
        return "decoder crashes on it"

    def tell(self, job: Job) -> None:
        """Hand over a job and go on; `hear` is to wait for its answer."""
        with self._no_half():
            process = self._started()
            assert process.stdin is not None
            with contextlib.suppress(OSError):  # it died since: the empty answer says so
                process.stdin.write(json.dumps(job).encode() + b"\n")
                process.stdin.flush()

    def hear(self, timeout: float) -> tuple[Job | None, bool]:
        """The answer to the job that was handed over.

        Returns:
            The answer, as that of `ask`, and True; or None, when the helper is ended, and whether
            it had died in time: else it hangs.
        """
        with self._no_half():
            assert self._process is not None
            answer, in_time = _answer(self._process, timeout)
        if answer is None:
            self.end()
        return answer, in_time

    @contextlib.contextmanager
    def _no_half(self) -> Iterator[None]:
        """End the helper at Ctrl-C: the rest of this answer must not be read as the next one."""
        try:
            yield
        except BaseException:
            self.end()
            raise

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            self._process = _start(self.code)
            with _killed_after(self._process, _START):
                line = _stdout(self._process).readline()
            if line.strip() != _READY:
                raise RuntimeError(
                    f"a helper process does not start: {sys.executable} -c {self.code!r}"
                )
        return self._process

    def kill(self) -> None:
        """Let it end, whatever it does; `end` waits until it has."""
        if self._process is not None:
            self._process.kill()

    def end(self) -> None:
        """End it at once, whatever it does; a next job would start another."""
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
        work: the answer to a job; what it has under `bytes` travels as it is.
        failed: the answer in words where `work` raises: nothing that a file does ends a helper.
    """
    answers = os.fdopen(os.dup(1), "wb")
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    answers.write(_READY + b"\n")
    answers.flush()
    for line in sys.stdin.buffer:
        try:
            answer = work(json.loads(line))
        except Exception as error:
            answer = failed(f"unreadable: {type(error).__name__} ({error})")
        rest = memoryview(answer.pop("bytes", b"")).cast("B")
        answers.write(json.dumps({**answer, _REST: len(rest)}).encode() + b"\n")
        answers.write(rest)
        answers.flush()


def _end_with(parent: int) -> None:
    """End with the process that asks: a helper that hangs never reads that its input has ended."""
    while os.getppid() == parent:
        time.sleep(_LOOK)
    os._exit(1)


def _cores() -> int:
    """Cores that this process may use: on a cluster often fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _start(code: str) -> subprocess.Popen[bytes]:
    root = str(Path(__file__).resolve().parents[1])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    with _deaf():
        return subprocess.Popen(
            [sys.executable, "-P", "-c", code],  # not from the folder that we happen to be in
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )


@contextlib.contextmanager
def _deaf() -> Iterator[None]:
    """What starts inside never hears Ctrl-C or SIGTERM, which come to whole groups of processes.

    A run that was told to stop ends its step first, and needs its helpers for that.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _answer(process: subprocess.Popen[bytes], timeout: float) -> tuple[Job | None, bool]:
    """The whole answer, or None, and whether it, or the end of the process, came in time."""
    with _killed_after(process, timeout) as late:
        line = _stdout(process).readline()
        if line.endswith(b"\n"):
            answer: Job = json.loads(line)
            rest = bytearray(answer.pop(_REST))
            if _stdout(process).readinto(rest) == len(rest):
                return {**answer, "bytes": rest}, True
        return None, not late.is_set()


def _stdout(process: subprocess.Popen[bytes]) -> BufferedReader:
    assert isinstance(process.stdout, BufferedReader)
    return process.stdout


@contextlib.contextmanager
def _killed_after(process: subprocess.Popen[bytes], seconds: float) -> Iterator[threading.Event]:
    """End a process that takes longer than the block may; the event says whether it did."""
    late = threading.Event()

    def give_up() -> None:
        late.set()
        process.kill()

    clock = threading.Timer(seconds, give_up)
    clock.daemon = True  # Ctrl-C may come before anybody can cancel it: no exit waits for it
    try:
        clock.start()
        yield late
    finally:
        clock.cancel()
