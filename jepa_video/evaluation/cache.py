"""Features on disk: computed once, mapped into memory, found again by what they depend on.

    CACHE/features/KEY/
      array.npy     one row for each clip, mapped, never read whole
      read.npy      which clips could be read
      about.json    in words what KEY stands for
    CACHE/fits/KEY.safetensors   what a probe answered

A key is a digest of weights, files (path, size, time of change), clip, transform and precision. A
folder appears whole or not at all; two processes that want the same one wait for each other, and
where the file system has no locks the second throws its own copy away.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ..data.clips import VideoClips
from ..errors import UserError
from ..training.run import locked
from .scores import Outcome

try:
    import fcntl
except ImportError:  # Windows: see above
    fcntl = None  # type: ignore[assignment]

VERSION: Final = 1  # raised when features or fits of the same key would come out differently
Array = npt.NDArray[Any]


def digest(*parts: Any) -> str:
    """A key from plain values, arrays and tensors; the order counts."""
    state = hashlib.blake2b(digest_size=16)
    for part in parts:
        if isinstance(part, Tensor):
            flat = part.detach().cpu().contiguous().flatten().view(torch.uint8)
            state.update(f"{part.dtype}{tuple(part.shape)}".encode())
            state.update(flat.numpy().data)
        else:
            state.update(json.dumps(part, sort_keys=True, default=str).encode())
        state.update(b"\0")
    return state.hexdigest()


def weights_key(module: nn.Module, config: Mapping[str, Any]) -> str:
    """The key of a module: its weights and what it was built from."""
    named = sorted(module.state_dict().items())
    return digest(dict(config), *(part for pair in named for part in pair))


def clips_key(clips: VideoClips) -> str:
    """The key of a set of clips: files by path, size and time of change, and how they are cut."""
    files = []
    for path in clips.paths:
        try:
            found = os.stat(path)
            files.append([os.path.abspath(path), found.st_size, found.st_mtime_ns])
        except OSError:
            files.append([os.path.abspath(path), -1, -1])
    return digest(files, vars(clips.settings), clips.clips)


@dataclass(frozen=True)
class Shelf:
    """The place of one array: `key` below `root`, rows of `shape` and `dtype`."""

    root: Path
    key: str
    shape: tuple[int, ...]
    dtype: str
    about: Mapping[str, Any]

    @property
    def folder(self) -> Path:
        """Where the array lies when it is whole."""
        return self.root / "features" / self.key

    @property
    def there(self) -> bool:
        """Whether it does."""
        return (self.folder / "about.json").exists()

    @property
    def size(self) -> int:
        """Bytes of the array."""
        return int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize

    def draft(self, token: str) -> Path:
        """Make the files that are to be filled; `finish` puts them in their place."""
        folder = self.root / "features" / f".{self.key}.{token}.partial"
        with plain_errors(self.root):
            folder.mkdir(parents=True)
            _create(folder / "array.npy", self.dtype, self.shape)
            _create(folder / "read.npy", "bool", self.shape[:1])
        return folder

    def finish(self, draft: Path) -> None:
        """Put a filled draft in its place, or throw it away where another process was first."""
        (draft / "about.json").write_text(json.dumps(dict(self.about), indent=2) + "\n")
        try:
            draft.rename(self.folder)
        except OSError:
            if not self.there:
                raise
            shutil.rmtree(draft, ignore_errors=True)

    def load(self) -> tuple[Array, Array]:
        """The array, mapped, and which of its rows could be read.

        Raises:
            UserError: the files are damaged.
        """
        try:
            array = np.load(self.folder / "array.npy", mmap_mode="r", allow_pickle=False)
            read = np.load(self.folder / "read.npy", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise UserError(
                f"the cached features in {self.folder} are damaged ({error}); remove that folder"
            ) from error
        if array.shape != self.shape:
            raise UserError(
                f"the cached features in {self.folder} have the shape {array.shape}, not "
                f"{self.shape}; remove that folder"
            )
        return array, read


def _create(path: Path, dtype: str, shape: tuple[int, ...]) -> None:
    np.lib.format.open_memmap(path, "w+", np.dtype(dtype), shape).flush()


def opened(draft: Path) -> tuple[Array, Array]:
    """The arrays of a draft, to be written into.

    Raises:
        UserError: the draft of rank 0 cannot be seen from here.
    """
    try:
        return np.load(draft / "array.npy", "r+"), np.load(draft / "read.npy", "r+")
    except FileNotFoundError as error:
        raise UserError(
            f"{draft} is not seen by all processes: give a features.cache that they share"
        ) from error


@contextlib.contextmanager
def plain_errors(folder: Path) -> Iterator[None]:
    """Turn what the file system says about the cache into a sentence."""
    try:
        yield
    except OSError as error:
        told = error.strerror or str(error)
        raise UserError(f"cannot write features into {folder}: {told}") from error


@contextlib.contextmanager
def alone(root: Path, keys: Sequence[str]) -> Iterator[None]:
    """Hold these keys; another process that wants one of them waits until this one is done.

    What a process that was killed has left of them is removed: nobody else is at work on it.
    """
    with contextlib.ExitStack() as stack:
        with plain_errors(root):
            (root / "locks").mkdir(parents=True, exist_ok=True)
            for key in sorted(set(keys)):  # in one order, so that no two wait for each other
                handle = stack.enter_context((root / "locks" / key).open("a"))
                stack.enter_context(locked(handle))
                if fcntl is not None:
                    with contextlib.suppress(OSError):  # a file system without locks: see above
                        fcntl.flock(handle, fcntl.LOCK_EX)
                        for left in (root / "features").glob(f".{key}.*.partial"):
                            shutil.rmtree(left, ignore_errors=True)
        yield


def load_outcome(root: Path, key: str) -> Outcome | None:
    """What a probe answered the last time; None where it was not asked yet."""
    path = root / "fits" / f"{key}.safetensors"
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads(file.metadata()["about"])
            return Outcome(file.get_tensor("scores"), about["chosen"], about["labelled"])
    except (OSError, SafetensorError, KeyError, ValueError, TypeError):
        return None  # damaged or not there: it is fitted again


def save_outcome(root: Path, key: str, outcome: Outcome) -> None:
    """Remember what a probe answered."""
    folder = root / "fits"
    about = json.dumps({"chosen": outcome.chosen, "labelled": outcome.labelled})
    partial = folder / f".{key}.{os.getpid()}.partial"
    with plain_errors(root):
        folder.mkdir(parents=True, exist_ok=True)
        save_file({"scores": outcome.scores.contiguous()}, partial, metadata={"about": about})
        os.replace(partial, folder / f"{key}.safetensors")
