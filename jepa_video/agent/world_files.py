"""World models in and out of files, without ever running code that a file brings.

world/
  world.safetensors   the weights
  config.json         "model": the settings that rebuild it; "facts": what it was trained on
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
from argparse import ArgumentError
from collections.abc import Iterator
from dataclasses import asdict, fields
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from jsonargparse import ArgumentParser
from safetensors.torch import save_file
from torch import Tensor, nn

from ..data.episodes import Facts
from ..errors import UserError
from ..interop.files import read_json, read_safetensors, whole_folder
from ..training.world_model import WorldModel

if TYPE_CHECKING:  # world models are trained where no environment is installed
    from ..envs.base import BatchEnv

FOLDER: Final = "world"
WEIGHTS: Final = "world.safetensors"
CONFIG: Final = "config.json"
UNFIT: Final = (ArgumentError, TypeError, ValueError, KeyError, RuntimeError)  # entries of a file


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


def said(error: Exception) -> str:
    """What an error says, on one line."""
    return " ".join(str(error).split())


def world_folder(path: Path | str) -> Path:
    """The folder with the two files, of a run or the folder itself.

    Raises:
        UserError: there is none.
    """
    folder = Path(path).expanduser()
    if not folder.exists():
        raise UserError(f"{path} is not there: expected a run of jepa-video world or agent fit")
    folder = folder / FOLDER if (folder / FOLDER).is_dir() else folder
    if not (folder / CONFIG).exists() or not (folder / WEIGHTS).exists():
        raise UserError(f"{path} is no world model: expected a finished run of jepa-video world")
    return folder


def _refuse_strangers(settings: dict[str, Any], where: Path) -> None:
    """Let a file name our modules alone, and those that the caller has imported: it runs no code.

    Raises:
        UserError: it names anything else.
    """
    plain = [value for value in settings.values() if isinstance(value, str) and "." in value]
    for name in [*plain, *_class_paths(settings)]:
        home, _, kind = name.rpartition(".")
        if re.fullmatch(r"jepa_video(\.\w+)*", home):
            with contextlib.suppress(ImportError):
                import_module(home)
        found = getattr(sys.modules.get(home), kind, None)
        if not (isinstance(found, type) and issubclass(found, nn.Module)):
            raise UserError(
                f"{where} is refused: it names {name!r}, which is no torch module of jepa_video or "
                "of a package that was imported before"
            )


def _class_paths(value: Any) -> Iterator[str]:
    """Every class that is named in settings, however deep."""
    if isinstance(value, dict):
        if "class_path" in value:
            yield str(value["class_path"])
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            yield from _class_paths(part)


def load_world(path: Path | str) -> WorldModel:
    """The world model of a run, or of its folder `world`, in evaluation mode, on the CPU.

    Raises:
        UserError: there is none, or it is damaged.
    """
    folder = world_folder(path)
    entries = read_json(folder / CONFIG)
    if not isinstance(entries.get("model"), dict) or not isinstance(entries.get("facts"), dict):
        raise UserError(f"{folder / CONFIG} describes no world model")
    _refuse_strangers(entries["model"], folder / CONFIG)
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
        module.load_state_dict(finite(read_safetensors(folder / WEIGHTS)))
    except UNFIT as error:
        raise UserError(
            f"{folder} holds a world model that does not load: {said(error)}"
        ) from error
    return module.eval().requires_grad_(False)


def finite(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same weights.

    Raises:
        ValueError: some are not finite.
    """
    for name, value in weights.items():
        if not value.isfinite().all():
            raise ValueError(f"{name} has numbers that are not finite")
    return weights


def repeat_of(facts: Facts) -> int | None:
    """How often each action is taken in a step; None where an environment is not told."""
    return None if facts.env is None else int(facts.settings.get("repeat", 1))


def refuse_other(world: WorldModel, env: BatchEnv, path: Path) -> None:
    """Say it where an environment is not one that a world model can act in.

    Raises:
        UserError: no environment, another id or pace, another kind or number of actions, or another
            state to feel.
    """
    if not hasattr(env, "action_size"):
        raise UserError(f"env is a batch of environments, as of make_batch, not {env!r}")
    facts = world.facts
    if facts.env is not None and facts.env != env.id:
        raise UserError(f"{path} was trained on {facts.env} and cannot act in {env.id}")
    repeat = repeat_of(facts)
    if repeat not in (None, env.pace.repeat):
        raise UserError(
            f"{path} was trained on steps of repeat {repeat} and cannot act in those of repeat "
            f"{env.pace.repeat}"
        )
    if (facts.discrete, facts.action_size) != (env.discrete, env.action_size):
        kinds = ("numbers", "kinds")
        raise UserError(
            f"{path} gives actions of {facts.action_size} {kinds[facts.discrete]}; {env.id} takes "
            f"{env.action_size} {kinds[env.discrete]}"
        )
    if world.felt and facts.state_size != env.state_size:
        raise UserError(
            f"{path} feels numbers of a state of {facts.state_size}; {env.id} tells "
            f"{env.state_size}"
        )


def reach_of(path: Path) -> float:
    """What `world` measured: the distance of states two steps apart."""
    summary = path / "summary.json"
    found = read_json(summary).get("reach") if summary.exists() else None
    if not isinstance(found, float):
        raise UserError(f"{summary} tells no reach: its run did not finish, or nothing moves")
    return found
