"""An encoder as two files that need no code of ours to be opened: weights and a config.

encoder/
  encoder.safetensors   the weights, by parameter name
  config.json           plain values that rebuild the encoder
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..errors import UserError
from .encoder import VideoEncoder, build_encoder

WEIGHTS, CONFIG = "encoder.safetensors", "config.json"


def save_encoder(encoder: VideoEncoder, folder: Path) -> Path:
    """Write weights and config of `encoder` into `folder`; each file comes whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: value.detach().cpu().contiguous() for name, value in _state(encoder).items()}
    save_file(weights, folder / f".{WEIGHTS}.partial", metadata={"format": "pt"})
    os.replace(folder / f".{WEIGHTS}.partial", folder / WEIGHTS)
    (folder / f".{CONFIG}.partial").write_text(json.dumps(encoder.config, indent=2) + "\n")
    os.replace(folder / f".{CONFIG}.partial", folder / CONFIG)
    return folder


def _state(encoder: VideoEncoder) -> dict[str, Tensor]:
    return encoder.state_dict()


def load_encoder(path: str | Path) -> VideoEncoder:
    """The encoder of a run, in evaluation mode, on the CPU.

    Args:
        path: a run folder, a folder of `save_encoder`, or a checkpoint of a run.

    Returns:
        An encoder that takes normalised clips `B C T H W` and gives tokens `B N D`.

    Raises:
        UserError: there is no encoder in `path`, or its files do not fit together.
    """
    path = Path(path)
    if path.is_file():
        config, weights = _from_checkpoint(path)
    else:
        folder = path / "encoder" if (path / "encoder" / CONFIG).exists() else path
        config, weights = _from_folder(folder)
    encoder = _built(config, path)
    try:
        encoder.load_state_dict(weights)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise UserError(f"the weights in {path} do not fit its config: {reason}") from error
    return encoder.eval()


def _built(config: dict[str, Any], path: Path) -> VideoEncoder:
    if config.get("class") == "TimmEncoder":
        from . import timm_encoder  # noqa: F401  # registers the class; timm takes a second to load
    try:
        return build_encoder(config)
    except (TypeError, ValueError) as error:
        raise UserError(f"the config in {path} does not describe an encoder: {error}") from error


def _from_folder(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    missing = [name for name in (CONFIG, WEIGHTS) if not (folder / name).is_file()]
    if missing:
        raise UserError(
            f"{folder} holds no encoder: it has no {' and no '.join(missing)} (expected the folder "
            "of a finished run, its encoder/ folder, or a checkpoint)"
        )
    try:
        config: dict[str, Any] = json.loads((folder / CONFIG).read_text())
        return config, load_file(folder / WEIGHTS)
    except (ValueError, SafetensorError) as error:
        raise UserError(f"the encoder in {folder} cannot be read: {error}") from error


def _from_checkpoint(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        config, state = content["encoder_config"], content["state_dict"]
    except Exception as error:  # what a file that is no checkpoint raises is anyone's guess
        raise UserError(f"{path} is not a checkpoint of a run") from error
    prefix = "encoder."
    weights = {name[len(prefix) :]: v for name, v in state.items() if name.startswith(prefix)}
    return config, weights
