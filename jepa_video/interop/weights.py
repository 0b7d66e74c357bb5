"""Encoders and predictors in and out of files, without ever running code that a file brings.

    encoder/
      encoder.safetensors   the weights, float32 unless the encoder was in another type
      config.json           "encoder": what rebuilds it; "input": what it expects; and extras

`load_encoder` takes what a person has at hand: a run, an export, one of its two files, a Lightning
checkpoint, a checkpoint of V-JEPA 2's authors, a folder of Hugging Face's `VJEPA2Model` or of a ViT
of timm. A new format is one more line in `_stored` or `_folder`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final, Literal, TypeVar, get_args

import torch
from safetensors.torch import save_file
from torch import nn

from ..data.transforms import MEAN, STD
from ..errors import UserError
from ..models.encoder import VideoEncoder, build_encoder
from ..models.predictor import MaskedPredictor
from ..models.timm_encoder import TimmEncoder
from ..training.checkpoints import newest_checkpoint
from ..training.run import open_run
from .files import CONFIG, Ask, Stored, read_json, read_safetensors, read_torch, whole_folder
from .hugging_face import MODEL_TYPE, read_hugging_face
from .vjepa2 import is_official, read_official

Branch = Literal["online", "target"]
WEIGHTS: Final = "encoder.safetensors"
_PREFIX: Final = {"online": "encoder.", "target": "target.", "predictor": "predictor."}
_Part = TypeVar("_Part", VideoEncoder, MaskedPredictor)


def input_facts() -> dict[str, Any]:
    """What every encoder expects of a clip, as `config.json` says it."""
    facts: dict[str, Any] = {"layout": "B C T H W", "range": [0, 255]}
    return facts | {"mean": [255 * m for m in MEAN], "std": [255 * s for s in STD]}


def save_encoder(
    encoder: VideoEncoder, folder: Path | str, extra: dict[str, Any] | None = None
) -> None:
    """Write `encoder.safetensors` and `config.json` into `folder`; a crash leaves no half of them.

    Args:
        encoder: on any device; its config and weights are stored, not its device.
        folder: made where missing; files of an earlier export are replaced.
        extra: further entries of `config.json`, plain values, e.g. `{"branch": "target"}`.
    """
    with whole_folder(Path(folder)) as draft:
        write_encoder(encoder, draft, extra)


def write_encoder(encoder: VideoEncoder, draft: Path, extra: dict[str, Any] | None = None) -> None:
    """The two files of `save_encoder`, into a folder that is there."""
    entries = {"encoder": encoder.config, "input": input_facts()} | (extra or {})
    weights = {name: w.detach().cpu().contiguous() for name, w in encoder.state_dict().items()}
    save_file(weights, draft / WEIGHTS, metadata={"format": "pt"})
    (draft / CONFIG).write_text(json.dumps(entries, indent=2) + "\n")


def load_encoder(
    path: Path | str,
    branch: Branch = "online",
    frames: int | None = None,
    image: int | None = None,
) -> VideoEncoder:
    """The encoder that `path` holds, in evaluation mode, on the CPU.

    Args:
        path: a run folder (its export, else its newest checkpoint), an export folder, one of the
            two files of an export, a Lightning checkpoint file; a checkpoint of V-JEPA 2's authors
            (`vitl.pt`), a folder of `VJEPA2Model`, a folder of a ViT of timm.
        branch: `online`, or `target`, the EMA of it. Checkpoints have both, an export has one.
        frames: of a clip, where the weights fit any number, as with rotary positions. None for
            what the file says; 64 for a checkpoint of V-JEPA 2's authors, which says nothing.
        image: height and width in pixels, likewise; 256 where the file says nothing.

    Raises:
        UserError: there is nothing there, it is none of these, it is damaged, it holds code, or
            its weights are not those of the encoder that its config describes.
    """
    if branch not in get_args(Branch):
        raise UserError(f"branch {branch!r} of an encoder; expected online or target")
    stored = _stored(Path(path).expanduser(), Ask(branch, frames, image))
    asked = {"frames": frames, "image": image}
    config = stored.config | {name: value for name, value in asked.items() if value is not None}
    with torch.random.fork_rng(devices=[]):  # the first weights are drawn, and then overwritten
        try:
            encoder = build_encoder(config)
        except (TypeError, ValueError, KeyError) as error:
            raise UserError(f"{stored.where} has an encoder config that fails: {error}") from error
    return _filled(encoder, stored)


def load_predictor(
    path: Path | str,
    frames: int | None = None,
    image: int | None = None,
    mask_token: int = 1,
) -> MaskedPredictor:
    """The predictor that `path` holds, in evaluation mode, on the CPU.

    Args:
        path: as `load_encoder` takes it; an export of ours and a ViT of timm have none.
        frames: as `load_encoder` takes it, for weights of V-JEPA 2.
        image: likewise.
        mask_token: which of V-JEPA 2's mask tokens stands for what is to be predicted. 1 is what
            its authors' and Hugging Face's code use; 0 is the one that training with clips of one
            length moves.

    Raises:
        UserError: there is no predictor in it, or as `load_encoder` has it.
    """
    stored = _stored(Path(path).expanduser(), Ask("predictor", frames, image, mask_token))
    with torch.random.fork_rng(devices=[]):
        try:
            config = stored.config | {"grid": tuple(stored.config["grid"])}
            predictor = MaskedPredictor(**config)
        except (TypeError, ValueError, KeyError) as error:
            raise UserError(f"{stored.where} has a predictor config that fails: {error}") from error
    return _filled(predictor, stored)


def _filled(module: _Part, stored: Stored) -> _Part:
    _refuse_mismatch(module, stored)
    module.load_state_dict(stored.weights)
    return module.eval()


def _stored(path: Path, ask: Ask) -> Stored:
    """Recognise `path` and read it."""
    if not path.exists():
        raise UserError(
            f"{path} does not exist: expected a run, an exported encoder or a checkpoint"
        )
    if path.is_file():
        if path.name == CONFIG or path.suffix == ".safetensors":
            return _folder(path.parent, ask, None if path.name == CONFIG else path)
        return _checkpoint(path, ask)
    if (path / "checkpoints").is_dir():
        return _run(path, ask)
    if (path / WEIGHTS).exists() or (path / CONFIG).exists():
        return _folder(path, ask)
    raise UserError(
        f"{path} is neither a run (config.yaml and checkpoints/) nor an exported encoder "
        f"({WEIGHTS} and {CONFIG}), nor a folder of weights with a {CONFIG}"
    )


def _run(path: Path, ask: Ask) -> Stored:
    """The export of a run where it is of this branch, else its newest checkpoint."""
    exported = path / "encoder"
    if (exported / WEIGHTS).exists() and _entries(exported).get("branch", "online") == ask.part:
        return _folder(exported, ask)
    return _checkpoint(newest_checkpoint(open_run(path)), ask)


def _entries(folder: Path, weights: Path | None = None) -> dict[str, Any]:
    """The `config.json` of a folder."""
    path = folder / CONFIG
    if not path.exists():
        named = weights or folder / WEIGHTS
        raise UserError(f"{named} has no {CONFIG} beside it, which says how to build the encoder")
    return read_json(path)


def _folder(folder: Path, ask: Ask, weights: Path | None = None) -> Stored:
    """A folder of weights, by what its `config.json` says."""
    entries = _entries(folder, weights)
    if isinstance(entries.get("encoder"), dict):
        return _export(entries, weights or folder / WEIGHTS, ask)
    if entries.get("model_type") == MODEL_TYPE:
        try:
            return read_hugging_face(folder, ask)
        except (TypeError, ValueError, KeyError, ZeroDivisionError) as error:
            raise UserError(f"{folder / CONFIG} describes no model: {error}") from error
    if isinstance(entries.get("architecture"), str):
        return _timm(entries, folder, ask)
    raise UserError(
        f"{folder / CONFIG} describes no encoder of jepa_video (it has no entry 'encoder'), no "
        f"model of type {MODEL_TYPE} and no architecture of timm"
    )


def _export(entries: dict[str, Any], weights: Path, ask: Ask) -> Stored:
    """`encoder.safetensors` with its `config.json`."""
    holds = entries.get("branch", "online")
    if holds != ask.part:
        wanted = "predictor is" if ask.part == "predictor" else f"{ask.part} one is"
        raise UserError(
            f"{weights} holds the {holds} encoder alone; the {wanted} in the run's checkpoints"
        )
    return Stored(entries["encoder"], read_safetensors(weights), weights)


def _timm(entries: dict[str, Any], folder: Path, ask: Ask) -> Stored:
    """A folder as timm writes it; the image filters are inflated, see `TimmEncoder`."""
    if ask.part != "online":
        raise UserError(f"{folder} holds an image model of timm, which has no {ask.part}")
    file = folder / "model.safetensors"
    given = read_safetensors(file)
    size = (entries.get("pretrained_cfg") or {}).get("input_size") or (3, 224, 224)
    with torch.random.fork_rng(devices=[]):
        encoder = TimmEncoder(
            entries["architecture"],
            frames=ask.frames or 8,
            image=ask.image or int(size[-1]),
            weights=str(file),
        )
    weights = encoder.state_dict()
    # timm passes over what is missing; these names are the same there and here.
    same = [name for name in weights if name.startswith(("blocks.", "norm.", "norm_pre."))]
    for name in same:
        if name not in given:
            raise UserError(f"{file} lacks {name}, which {entries['architecture']} needs")
    return Stored(encoder.config, weights, file)


def _checkpoint(path: Path, ask: Ask) -> Stored:
    """A Lightning checkpoint of `VideoJEPA`, or a checkpoint of V-JEPA 2's authors."""
    if path.is_dir():
        raise UserError(f"{path} is a sharded checkpoint: load the run's encoder/ export instead")
    content = read_torch(path)
    if is_official(content):
        return read_official(content, ask, path)
    state = content.get("state_dict") if isinstance(content, dict) else None
    if not isinstance(state, dict) or not isinstance(content.get("encoder_config"), dict):
        raise UserError(
            f"{path} is not a checkpoint of jepa_video or V-JEPA 2: it has neither encoder_config "
            "nor encoder, target_encoder or predictor"
        )
    config = content["encoder_config"]
    if ask.part == "predictor":
        config = content.get("predictor_config")
        if not isinstance(config, dict):
            raise UserError(f"{path} does not say how to build its predictor: it is too old")
        if ask.frames or ask.image:
            raise UserError(
                f"{path} has a predictor for its own size of clips; frames and image stay"
            )
    prefix = _PREFIX[ask.part]
    weights = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    return Stored(config, weights, path)


def _refuse_mismatch(module: nn.Module, stored: Stored) -> None:
    """Weights must be those of the module, name by name and shape by shape."""
    wanted, given = module.state_dict(), stored.weights
    kind = type(module).__name__
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
