"""The folder of a run: where everything lands, who may write there, and where to go on from.

    runs/NAME/
      config.yaml      every setting, as it was run
      checkpoints/     step-00000500.ckpt ...: all that an exact resume needs
      metrics.csv      what was logged, the same bytes for the same seed
      timings.csv      clips a second and the share of time spent waiting for data
      unreadable.csv   what was left out, with the reason
      wandb/           offline unless asked otherwise
      encoder/         encoder.safetensors and config.json: what others load
      summary.json     the result, machine-readable
      report.html      the result, for a person

A folder belongs to one process at a time: a lock that the operating system releases even after a
SIGKILL tells a living run from a dead one.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from ..errors import UserError

try:
    import fcntl
except ImportError:  # Windows has no advisory locks of this kind; folders are still never shared
    fcntl = None  # type: ignore[assignment]

_WORDS = (
    "alder amber aspen birch brook cedar clover coral crane delta dune ember fern finch fjord "
    "gale glade grove harbor heron hazel indigo iris ivory jade juniper kelp kestrel lagoon larch "
    "lark lotus maple marsh meadow moss myrtle opal orchid osprey otter pebble pine plover poppy "
    "quail quartz raven reed ridge robin sage shoal sorrel spruce swift tern thistle tide topaz "
    "tundra vale violet willow wren"
)
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
CHECKPOINT = re.compile(r"step-(\d+)\.ckpt")


@dataclass(frozen=True)
class Run:
    """The paths of one run folder.

    Args:
        path: of the folder.
        fresh: whether this process has made it.
    """

    path: Path
    fresh: bool = field(default=False, compare=False)

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.path.name

    @property
    def config(self) -> Path:
        """Every setting, as it was run."""
        return self.path / "config.yaml"

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.path / "checkpoints"

    @property
    def metrics(self) -> Path:
        """What was logged: `step` and a column for each name."""
        return self.path / "metrics.csv"

    @property
    def timings(self) -> Path:
        """Speed, which no two runs share and which therefore has a file of its own."""
        return self.path / "timings.csv"

    @property
    def unreadable(self) -> Path:
        """What was left out, with the reason."""
        return self.path / "unreadable.csv"

    @property
    def encoder(self) -> Path:
        """The exported encoder."""
        return self.path / "encoder"

    @property
    def report(self) -> Path:
        """The page for a person."""
        return self.path / "report.html"

    def summary(self) -> dict[str, Any]:
        """What `summary.json` holds; empty before the first one is written."""
        try:
            summary: dict[str, Any] = json.loads((self.path / "summary.json").read_text())
        except (FileNotFoundError, ValueError):
            return {}
        return summary

    def update_summary(self, **values: Any) -> dict[str, Any]:
        """Merge `values` into `summary.json` and return the whole."""
        summary = self.summary() | values
        write_whole(self.path / "summary.json", json.dumps(summary, indent=2) + "\n")
        return summary

    @property
    def finished(self) -> bool:
        """Whether training and evaluation came to their end."""
        return self.summary().get("status") == "finished"


def write_whole(path: Path, text: str) -> None:
    """Write `text` so that a reader, or a crash, sees the old file or the new one, never a part."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    # A name on the disk need not be text; what is not comes back as the bytes that it is.
    with partial.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def fresh_name() -> str:
    """Date, time and a short word, by which a person finds the run again."""
    return f"{datetime.now():%Y%m%d-%H%M%S}-{secrets.choice(_WORDS.split())}"


def refuse_name(name: str | None) -> None:
    """Say it where a name could not be that of one folder.

    Raises:
        UserError: what it may have.
    """
    if name is not None and not NAME.fullmatch(name):
        raise UserError(f"--name {name!r} is not a plain name of letters, digits and . _ + -")


def create_run(
    runs: Path, name: str | None = None, settings: Callable[[str], str] | None = None
) -> Run:
    """A new run folder under `runs`, with its settings as far as they are told.

    Args:
        runs: the folder of all runs; made where it is missing.
        name: its name; without one the date, the time and a short word.
        settings: gives what `config.yaml` says from the name.

    Raises:
        UserError: where the name is taken, is not a plain name, or the folder cannot be made.
    """
    refuse_name(name)
    with _plain_errors(runs):
        runs.mkdir(parents=True, exist_ok=True)
        while True:
            run = Run(runs / (name or fresh_name()), fresh=True)
            if _made(run, settings):
                return run
            if name is not None:
                raise UserError(taken(run))


def _made(run: Run, settings: Callable[[str], str] | None) -> bool:
    """Make the folder as far as its name is free; it appears whole, whenever a kill comes."""
    if os.path.lexists(run.path):  # also one without anything in it is somebody's
        return False
    draft = Run(run.path.with_name(f".{run.name}.{secrets.token_hex(4)}.partial"))
    try:
        draft.checkpoints.mkdir(parents=True)
        if settings is not None:
            write_whole(draft.config, settings(run.name))
        try:
            # The exclusive step: who comes second to a name finds a folder that is not empty.
            draft.path.rename(run.path)
        except OSError:
            if not os.path.lexists(run.path):
                raise
            return False
    finally:
        shutil.rmtree(draft.path, ignore_errors=True)
    return True


def taken(run: Run) -> str:
    """A sentence on a name that another run has."""
    if checkpoints_of(run):
        return (
            f"the run {run.path} exists; choose another --name, or continue it with "
            f"--resume {run.path}"
        )
    lacks = "checkpoint" if begun(run) or run.config.is_file() else "step"
    again = f"begin it again with --resume {run.path}"
    remove = "remove the folder if no process is at work on it"
    return (
        f"the run {run.path} exists and has no {lacks} yet; choose another --name, or "
        f"{again if can_begin(run) else remove}"
    )


def can_begin(run: Run) -> bool:
    """Whether a run came to no checkpoint, so that it begins at step 0 and loses nothing.

    Where there is what comes after a checkpoint, somebody has removed them.
    """
    after = ("summary.json", "encoder", "world", "agent", "rounds", "untrained")
    there = run.config.is_file() and run.checkpoints.is_dir() and not checkpoints_of(run)
    return there and not any((run.path / name).exists() for name in after)


def cleared(run: Run) -> None:
    """Remove what a run that was killed before its first checkpoint has left.

    Raises:
        UserError: where it is no run, or another process is at work on it.
    """
    if run.path.exists():
        if not run.checkpoints.is_dir():  # somebody else's folder
            raise UserError(taken(run))
        with only_writer(run):
            pass
        shutil.rmtree(run.path, ignore_errors=True)  # who held it may have left nothing


@contextlib.contextmanager
def _plain_errors(folder: Path) -> Iterator[None]:
    """Turn what the file system says about `folder` into a sentence."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"cannot make a run folder in {folder}: {reason}") from error


def open_run(path: Path) -> Run:
    """The run that lives in `path`.

    Raises:
        UserError: where `path` is not the folder of a run.
    """
    if not path.is_dir():
        raise UserError(f"{path} is not a run: there is no such folder")
    missing = [part for part in ("config.yaml", "checkpoints") if not (path / part).exists()]
    if missing:
        raise UserError(f"{path} is not a run: it has no {' and no '.join(missing)}")
    return Run(path)


def checkpoint_step(path: Path) -> int:
    """The optimiser step at which a checkpoint file was written, read off its name."""
    match = CHECKPOINT.fullmatch(path.name)
    if match is None:
        raise UserError(f"{path} is not a checkpoint of a run: expected a name like step-500.ckpt")
    return int(match[1])


def checkpoints_of(run: Run) -> list[Path]:
    """Checkpoint files of a run, newest first. Half-written ones have another name."""
    found = [path for path in run.checkpoints.glob("step-*.ckpt") if CHECKPOINT.match(path.name)]
    return sorted(found, key=checkpoint_step, reverse=True)


@contextlib.contextmanager
def only_writer(run: Run) -> Iterator[None]:
    """Hold the run for this process; a fresh one that fails before a step leaves no folder.

    Raises:
        UserError: where another living process holds it.
    """
    mine = False
    try:
        with held(run.path, f"the run {run.path} is in use by another process"):
            mine = True
            yield
    except BaseException:
        if mine and run.fresh and not begun(run):
            shutil.rmtree(run.path, ignore_errors=True)  # its name is free again
        raise


_LOCKS: set[IO[str]] = set()


def _let_go() -> None:
    """A forked loader process outlives a run that is killed by seconds, and its locks with it."""
    for handle in _LOCKS:
        handle.close()  # this copy alone: the parent's lock stays


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


@contextlib.contextmanager
def locked(handle: IO[str]) -> Iterator[None]:
    """Whatever lock is taken on `handle` inside ends with this process, not with those it forks."""
    _LOCKS.add(handle)
    try:
        yield
    finally:
        _LOCKS.discard(handle)


@contextlib.contextmanager
def held(folder: Path, told: str) -> Iterator[None]:
    """Hold a folder for this process, until the end or its own.

    Raises:
        UserError: `told`, where another living process holds it.
    """
    with (folder / ".lock").open("a") as handle, locked(handle):
        if fcntl is not None:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(told) from None
            except OSError:
                pass  # a file system without locks: the exclusive mkdir has to do
        yield


def begun(run: Run) -> bool:
    """Whether a run holds anything of a step: a checkpoint, or a row of its log."""
    return bool(checkpoints_of(run)) or any(
        len(table.read_text().splitlines()) > 1
        for table in (run.metrics, run.timings)
        if table.exists()
    )
