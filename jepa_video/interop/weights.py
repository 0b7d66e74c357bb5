"""Encoders in and out of files, without ever running code that a file brings.

    encoder/
      encoder.safetensors   the weights, float32 unless the encoder was in another type
      config.json           "encoder": what rebuilds it; "input": what it expects; and extras

`load_encoder` takes what a person has at hand: a run, an export, one of its two files, or a
Lightning checkpoint. A new format is one more line in `_stored`.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import tempfile
import zipfile
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..data.transforms import MEAN, STD
from ..errors import UserError
from ..models import timm_encoder  # noqa: F401  its class has to be known to build_encoder
from ..models.encoder import VideoEncoder, build_encoder
from ..training.checkpoints import newest_checkpoint
from ..training.run import open_run

Branch = Literal["online", "target"]
WEIGHTS: Final = "encoder.safetensors"
CONFIG: Final = "config.json"
_PREFIX: Final = {"online": "encoder.", "target": "target."}
_BROKEN = (OSError, RuntimeError, EOFError, ValueError, KeyError, zipfile.BadZipFile)


class _Stored(NamedTuple):
    """What a file or folder holds of an encoder: its config, its weights, and where they lie."""

    config: dict[str, Any]
    weights: dict[str, Tensor]
    where: Path


def save_encoder(
    encoder: VideoEncoder, folder: Path | str, extra: dict[str, Any] | None = None
) -> None:
    """Write `encoder.safetensors` and `config.json` into `folder`; a crash leaves no half of them.

    Args:
        encoder: on any device; its config and weights are stored, not its device.
        folder: made where missing; files of an earlier export are replaced.
        extra: further entries of `config.json`, plain values, e.g. `{"branch": "target"}`.
    """
    folder = Path(folder)
    entries = {"encoder": encoder.config, "input": {"layout": "B C T H W", "range": [0, 255]}}
    entries["input"] |= {"mean": [255 * m for m in MEAN], "std": [255 * s for s in STD]}
    weights = {name: w.detach().cpu().contiguous() for name, w in encoder.state_dict().items()}
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".partial", dir=folder.parent))
    try:
        save_file(weights, draft / WEIGHTS, metadata={"format": "pt"})
        (draft / CONFIG).write_text(json.dumps(entries | (extra or {}), indent=2) + "\n")
        draft.chmod(0o755)  # mkdtemp's folders are for one user only
        if not folder.exists():
            draft.rename(folder)  # both files appear at once
        else:
            for name in (WEIGHTS, CONFIG):
                os.replace(draft / name, folder / name)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def load_encoder(path: Path | str, branch: Branch = "online") -> VideoEncoder:
    """The encoder that `path` holds, in evaluation mode, on the CPU.

    Args:
        path: a run folder (its export, else its newest checkpoint), an export folder, one of the
            two files of an export, or a Lightning checkpoint file.
        branch: `online`, or `target`, the EMA of it. Checkpoints have both, an export has one.

    Raises:
        UserError: there is nothing there, it is none of these, it is damaged, it holds code, or
            its weights are not those of the encoder that its config describes.
    """
    if branch not in _PREFIX:
        raise UserError(f"branch {branch!r} of an encoder; expected online or target")
    stored = _stored(Path(path).expanduser(), branch)
    with torch.random.fork_rng(devices=[]):  # the first weights are drawn, and then overwritten
        try:
            encoder = build_encoder(stored.config)
        except (TypeError, ValueError, KeyError) as error:
            raise UserError(f"{stored.where} has an encoder config that fails: {error}") from error
    _refuse_mismatch(encoder, stored)
    encoder.load_state_dict(stored.weights)
    return encoder.eval()


def _stored(path: Path, branch: Branch) -> _Stored:
    """Recognise `path` and read it."""
    if not path.exists():
        raise UserError(
            f"{path} does not exist: expected a run, an exported encoder or a checkpoint"
        )
    if path.is_file():
        if path.name == CONFIG or path.suffix == ".safetensors":
            return _export(path.parent / WEIGHTS if path.name == CONFIG else path, branch)
        return _checkpoint(path, branch)
    if (path / "checkpoints").is_dir():
        return _run(path, branch)
    if (path / WEIGHTS).exists():
        return _export(path / WEIGHTS, branch)
    raise UserError(
        f"{path} is neither a run (config.yaml and checkpoints/) nor an exported encoder "
        f"({WEIGHTS} and {CONFIG})"
    )


def _run(path: Path, branch: Branch) -> _Stored:
    """The export of a run where it is of this branch, else its newest checkpoint."""
    exported = path / "encoder" / WEIGHTS
    if exported.exists() and _entries(exported).get("branch", "online") == branch:
        return _export(exported, branch)
    return _checkpoint(newest_checkpoint(open_run(path)), branch)


def _entries(weights: Path) -> dict[str, Any]:
    """The `config.json` beside a file of weights."""
    path = weights.parent / CONFIG
    if not path.exists():
        raise UserError(f"{weights} has no {CONFIG} beside it, which says how to build the encoder")
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not readable as JSON: {error}") from error
    if not isinstance(entries, dict) or not isinstance(entries.get("encoder"), dict):
        raise UserError(f"{path} describes no encoder of jepa_video: it has no entry 'encoder'")
    return entries


def _export(weights: Path, branch: Branch) -> _Stored:
    """`encoder.safetensors` with its `config.json`."""
    entries = _entries(weights)
    holds = entries.get("branch", "online")
    if holds != branch:
        raise UserError(
            f"{weights} holds the {holds} encoder alone; the {branch} one is in the run's "
            "checkpoints"
        )
    try:
        return _Stored(entries["encoder"], load_file(weights), weights)
    except FileNotFoundError as error:
        raise UserError(f"{weights} does not exist beside its {CONFIG}") from error
    except (SafetensorError, OSError) as error:
        raise UserError(f"{weights} is not a readable safetensors file: {error}") from error


def _checkpoint(path: Path, branch: Branch) -> _Stored:
    """A Lightning checkpoint of `VideoJEPA`: its `encoder_config` and one branch of the weights."""
    if path.is_dir():
        raise UserError(f"{path} is a sharded checkpoint: load the run's encoder/ export instead")
    content = _unpickled(path)
    config = content.get("encoder_config") if isinstance(content, dict) else None
    state = content.get("state_dict") if isinstance(content, dict) else None
    if not isinstance(config, dict) or not isinstance(state, dict):
        raise UserError(f"{path} is not a checkpoint of jepa_video: it has no encoder_config")
    prefix = _PREFIX[branch]
    weights = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    return _Stored(config, weights, path)


def _unpickled(path: Path) -> Any:
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


def _refuse_mismatch(encoder: VideoEncoder, stored: _Stored) -> None:
    """Weights must be those of the encoder, name by name and shape by shape."""
    wanted, given = encoder.state_dict(), stored.weights
    kind = type(encoder).__name__
    if missing := sorted(wanted.keys() - given.keys()):
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise UserError(f"{stored.where} lacks {missing[0]}{more}, which its {kind} needs")
    if unexpected := sorted(given.keys() - wanted.keys()):
        more = f" and {len(unexpected) - 1} more" if len(unexpected) > 1 else ""
        raise UserError(f"{stored.where} has {unexpected[0]}{more}, which its {kind} does not know")
    for name, tensor in wanted.items():
        if tensor.shape != given[name].shape:
            raise UserError(
                f"{stored.where} has {name} of shape {tuple(given[name].shape)}; its {kind} needs "
                f"{tuple(tensor.shape)}"
            )
