"""World models in and out of files, without ever running code that a file brings.

world/
  world.safetensors   the weights
  config.json         "model": the settings that rebuild it; "facts": what it was trained on
"""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Final

import torch
from jsonargparse import ArgumentParser
from safetensors.torch import save_file

from ..data.episodes import Facts
from ..errors import UserError
from ..interop.files import read_json, read_safetensors, whole_folder
from ..training.world_model import WorldModel

FOLDER: Final = "world"
WEIGHTS: Final = "world.safetensors"
CONFIG: Final = "config.json"


def save_world(module: WorldModel, settings: dict[str, Any], folder: Path) -> None:
    """Write weights and config into `folder`; a crash leaves no half of them.

    Args:
        module: trained.
        settings: its constructor's arguments as plain values, less `facts`.
        folder: made where missing.
    """
    weights = {name: w.detach().cpu().contiguous() for name, w in module.state_dict().items()}
    entries = {"model": settings, "facts": asdict(module.facts)}
    with whole_folder(folder) as draft:
        save_file(weights, draft / WEIGHTS, metadata={"format": "pt"})
        (draft / CONFIG).write_text(json.dumps(entries, indent=2) + "\n")


def world_folder(path: Path | str) -> Path:
    """The folder with the two files, of a run or the folder itself.

    Raises:
        UserError: there is none.
    """
    folder = Path(path).expanduser()
    folder = folder / FOLDER if (folder / FOLDER).is_dir() else folder
    if not (folder / CONFIG).exists() or not (folder / WEIGHTS).exists():
        raise UserError(f"{path} is no world model: expected a finished run of jepa-video world")
    return folder


def load_world(path: Path | str) -> WorldModel:
    """The world model of a run, or of its folder `world`, in evaluation mode, on the CPU.

    Raises:
        UserError: there is none, or it is damaged.
    """
    folder = world_folder(path)
    entries = read_json(folder / CONFIG)
    if not isinstance(entries.get("model"), dict) or not isinstance(entries.get("facts"), dict):
        raise UserError(f"{folder / CONFIG} describes no world model")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(WorldModel, "model", skip={"facts"}, instantiate=False)
    try:
        made = parser.instantiate(parser.parse_object({"model": entries["model"]}))
        known = {field.name for field in fields(Facts)}
        told: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v
            for k, v in entries["facts"].items()
            if k in known
        }
        with torch.random.fork_rng(devices=[]):
            module = WorldModel(Facts(**told), **vars(made.model))
        module.load_state_dict(read_safetensors(folder / WEIGHTS))
    except (TypeError, ValueError, KeyError, RuntimeError) as error:
        raise UserError(
            f"{folder} holds a world model that does not load: {' '.join(str(error).split())}"
        ) from error
    return module.eval().requires_grad_(False)
