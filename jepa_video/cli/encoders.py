"""What verbs that begin with an encoder share: where it runs, and what clips it was made for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch
import yaml  # type: ignore[import-untyped]

from ..distributed import device_of
from ..models.encoder import VideoEncoder

GEOMETRY: Final = ("stride", "fps", "size", "fit")  # of a clip, beside its frames
MARGIN: Final = 1.25  # stored pixels for each that the encoder sees: room for crops


def data_defaults(path: str, encoder: VideoEncoder, words: Sequence[str]) -> dict[str, Any]:
    """Options of the data room that follow from the encoder, where nobody says otherwise.

    A run tells its clips' geometry, and its videos where `words` and their config name none.

    Args:
        path: what the encoder was loaded from.
        encoder: as loaded.
        words: of the command line.
    """
    found = {"data.frames": encoder.frames, "data.size": math.ceil(MARGIN * encoder.image)}
    saved = run_settings(path).get("data")
    if not isinstance(saved, dict):
        return found
    sources = ("--data.root", "--data.train", "--config")
    named = any(word.startswith(sources) for word in words)
    own = () if named else ("root", "train", "val", "labels", "val_fraction", "missing")
    return found | {f"data.{key}": saved[key] for key in (*GEOMETRY, *own) if key in saved}


def run_settings(path: str) -> dict[str, Any]:
    """The config of the run in `path`; empty where it is no run."""
    try:
        settings = yaml.safe_load((Path(path).expanduser() / "config.yaml").read_text())
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return settings if isinstance(settings, dict) else {}


def named_device(name: str) -> torch.device:
    """The device of that name; `auto` takes an accelerator where there is one.

    Raises:
        UserError: this machine has no such device.
    """
    if name == "auto":
        there = torch.accelerator.is_available()
        return (torch.accelerator.current_accelerator() if there else None) or torch.device("cpu")
    return device_of(name)
