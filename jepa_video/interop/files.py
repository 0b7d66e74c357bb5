"""Files of weights: read without ever running code that they bring, written whole or not at all."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ..errors import UserError

Part = Literal["online", "target", "predictor"]
CONFIG: Final = "config.json"
_BROKEN = (OSError, RuntimeError, EOFError, ValueError, KeyError, zipfile.BadZipFile)


class Ask(NamedTuple):
    """What is wanted of a file.

    Attributes:
        part: the encoder, its slow average, or the predictor.
        frames: of a clip, where the file leaves it open; None for what the file says.
        image: pixels of a side, likewise.
        mask_token: which of V-JEPA 2's mask tokens the predictor gets.
    """

    part: Part
    frames: int | None = None
    image: int | None = None
    mask_token: int = 1


class Stored(NamedTuple):
    """What a file holds of one part: the arguments that build it, its weights, where they lie."""

    config: dict[str, Any]
    weights: dict[str, Tensor]
    where: Path


def read_torch(path: Path) -> Any:
    """What a torch file holds; one that would run code is refused.

    A file without torch's zip container is not looked into: torch has written one since 1.6.
    """
    if not zipfile.is_zipfile(path):
        raise UserError(f"{path} is not a checkpoint, or is damaged: it is no file of torch.save")
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} is refused: it holds more than tensors and plain values, and opening it could "
            "run code"
        ) from error
    except _BROKEN as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path} is damaged and does not load: {reason}") from error


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file."""
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist beside its {CONFIG}") from error
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is not a readable safetensors file: {error}") from error
    return tensors


def read_json(path: Path) -> dict[str, Any]:
    """The entries of a JSON file."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not readable as JSON: {error}") from error
    return entries if isinstance(entries, dict) else {}


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A draft whose files appear in `folder` when the block ends well; an error leaves no half.

    Files of the same name in `folder` are replaced, others stay.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(
            tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".partial", dir=folder.parent)
        )
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror or error}") from error
    try:
        yield draft
        draft.chmod(0o755)  # mkdtemp's folders are for one user only, as are safetensors' files
        for path in draft.iterdir():
            path.chmod(0o644)
        if not folder.exists():
            draft.rename(folder)  # all files appear at once
        else:
            for path in draft.iterdir():
                os.replace(path, folder / path.name)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
