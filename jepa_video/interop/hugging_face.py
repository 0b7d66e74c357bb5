"""Folders of Hugging Face's `VJEPA2Model`, read and written without that library.

What differs from our weights beyond names: see `vjepa2.py`.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from ..errors import UserError
from ..models.encoder import VideoEncoder, VideoViT, token_grid
from ..models.predictor import MaskedPredictor
from ..models.rope import Grid
from .files import CONFIG, Ask, Stored, read_json, read_safetensors
from .vjepa2 import halves_to_pairs, joined, mask_token, renamed

MODEL_TYPE: Final = "vjepa2"
WEIGHTS: Final = "model.safetensors"
_USUAL: Final[dict[str, Any]] = {  # what VJEPA2Config has where its file says nothing
    "patch_size": 16, "tubelet_size": 2, "crop_size": 256, "frames_per_clip": 64, "in_chans": 3,
    "hidden_size": 1024, "num_attention_heads": 16, "num_hidden_layers": 24, "mlp_ratio": 4.0,
    "layer_norm_eps": 1e-6, "hidden_act": "gelu", "qkv_bias": True, "pred_hidden_size": 384,
    "pred_num_attention_heads": 12, "pred_num_hidden_layers": 12, "pred_mlp_ratio": 4.0,
}  # fmt: skip
_TOKENS: Final = "predictor.embeddings.mask_tokens"
_SPLIT: Final = ("query", "key", "value")
_ENCODER: Final = {
    "encoder.embeddings.patch_embeddings.proj.": "embed.", "encoder.layer.": "blocks.",
    "encoder.layernorm.": "norm.",
}  # fmt: skip
_PREDICTOR: Final = {
    "predictor.embeddings.predictor_embeddings.": "enter.", "predictor.layer.": "blocks.",
    "predictor.layernorm.": "norm.", "predictor.proj.": "leave.",
}  # fmt: skip
_BLOCK: Final = {
    ".attention.proj.": ".attention.out.", ".mlp.fc1.": ".mlp.up.", ".mlp.fc2.": ".mlp.down.",
}  # fmt: skip


def read_hugging_face(folder: Path, ask: Ask) -> Stored:
    """One part of a folder that `VJEPA2Model.save_pretrained` wrote.

    A folder of `VJEPA2ForVideoClassification` is read too; its pooler and classifier are left.

    Raises:
        UserError: the part is not there, or the architecture is one that ours cannot express.
    """
    if ask.part == "target":
        raise UserError(f"{folder} holds one encoder alone and no slow average of it (target)")
    settings = _settings(folder / CONFIG)
    frames, image = ask.frames or settings["frames_per_clip"], ask.image or settings["crop_size"]
    tubelet, patch = settings["tubelet_size"], settings["patch_size"]
    every = {k.removeprefix("vjepa2."): v for k, v in _every(folder).items()}
    if ask.part == "predictor":
        grid = token_grid(frames, image, tubelet, patch)
        return _predictor(every, settings, grid, ask.mask_token, folder)
    width, heads = settings["hidden_size"], settings["num_attention_heads"]
    ours = joined(_fused(renamed(_start(every, "encoder."), _ENCODER, _BLOCK), settings), heads)
    config = {
        "class": "VideoViT", "width": width, "depth": settings["num_hidden_layers"],
        "heads": heads, "mlp_ratio": int(width * settings["mlp_ratio"]) / width,
        "tubelet": tubelet, "patch": patch, "channels": settings["in_chans"],
        "norm_eps": settings["layer_norm_eps"], "rotary": "vjepa2",
        "frames": frames, "image": image,
    }  # fmt: skip
    return Stored(config, ours, folder)


def _settings(path: Path) -> dict[str, Any]:
    """The entries of `config.json`, which leaves out what is as usual."""
    settings = _USUAL | read_json(path)
    patch = settings["patch_size"]
    if isinstance(patch, list) and len(set(patch)) == 1:
        settings["patch_size"] = patch = patch[0]
    if not isinstance(patch, int) or settings["hidden_act"] != "gelu":
        raise UserError(
            f"{path} has patch_size {patch} and hidden_act {settings['hidden_act']}; expected "
            "square patches and gelu"
        )
    return settings


def _predictor(
    every: dict[str, Tensor], settings: dict[str, Any], grid: Grid, index: int, folder: Path
) -> Stored:
    theirs = _start(every, "predictor.")
    if _TOKENS not in theirs:
        raise UserError(f"{folder} holds no predictor: it has no {_TOKENS}")
    token = mask_token(theirs.pop(_TOKENS), index, folder)
    hidden, heads = settings["pred_hidden_size"], settings["pred_num_attention_heads"]
    ours = joined(_fused(renamed(theirs, _PREDICTOR, _BLOCK), settings), heads)
    config = {
        "width": settings["hidden_size"], "grid": grid, "hidden": hidden, "heads": heads,
        "depth": settings["pred_num_hidden_layers"],
        "mlp_ratio": int(hidden * settings["pred_mlp_ratio"]) / hidden,
        "norm_eps": settings["layer_norm_eps"], "rotary": "vjepa2",
    }  # fmt: skip
    return Stored(config, ours | {"mask_token": token}, folder)


def _every(folder: Path) -> dict[str, Tensor]:
    """The tensors of one file, or of the files that an index lists."""
    index = folder / f"{WEIGHTS}.index.json"
    if (folder / WEIGHTS).exists():
        return read_safetensors(folder / WEIGHTS)
    if not index.exists():
        raise UserError(f"{folder} has no {WEIGHTS}: weights in other forms are not read")
    weights: dict[str, Tensor] = {}
    for name in sorted(set(read_json(index).get("weight_map", {}).values())):
        weights |= read_safetensors(folder / Path(name).name)
    return weights


def _start(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name: value for name, value in weights.items() if name.startswith(prefix)}


def _fused(weights: dict[str, Tensor], settings: dict[str, Any]) -> dict[str, Tensor]:
    """Queries, keys and values in one matrix; a model without biases there has zeros here."""
    out = dict(weights)
    for name in weights:
        names = [name.replace(".query.", f".{part}.") for part in _SPLIT]
        if ".attention.query." not in name or not all(part in weights for part in names):
            continue
        fused = torch.cat([out.pop(part) for part in names])
        out[name.replace(".query.", ".qkv.")] = fused
        if not settings["qkv_bias"]:
            out[name.replace(".query.weight", ".qkv.bias")] = fused.new_zeros(len(fused))
    return out


# Ours to Hugging Face


def obstacle(encoder: VideoEncoder) -> str | None:
    """Why `VJEPA2Model` cannot be this encoder, and what would make it so; None where it can."""
    if not isinstance(encoder, VideoViT):
        return f"{type(encoder).__name__} has no counterpart in VJEPA2Model, only VideoViT has"
    if encoder.rotary != "vjepa2":
        return (
            f"its rotary positions are {encoder.rotary!r} and VJEPA2Model knows only its own form; "
            "a run with --model.encoder.rotary vjepa2 can be exported"
        )
    if encoder.config["background"]:
        return "it takes the background off its frames, which VJEPA2Model does not do"
    return None


def predictor_obstacle(encoder: VideoEncoder, predictor: MaskedPredictor) -> str | None:
    """Why `VJEPA2Model` cannot have this predictor beside `encoder`; None where it can."""
    config = predictor.config
    if type(predictor) is not MaskedPredictor or config["latent_width"]:
        return "it is conditioned on a latent, which VJEPA2Model does not know"
    if config["rotary"] != "vjepa2":
        return "its rotary positions are not vjepa2"
    if config["norm_eps"] != encoder.config["norm_eps"]:
        return "its norm_eps is not the encoder's, and VJEPA2Model has one for both"
    return None


def to_hugging_face(
    encoder: VideoViT, predictor: MaskedPredictor | None
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Entries of `config.json` and the weights of `VJEPA2Model`; see `obstacle` first.

    Without a predictor its configuration has no layers, and its weights are left out.
    """
    width, depth = encoder.width, len(encoder.blocks)
    entries: dict[str, Any] = {
        "architectures": ["VJEPA2Model"], "model_type": MODEL_TYPE, "dtype": "float32",
        "patch_size": encoder.patch, "tubelet_size": encoder.tubelet,
        "crop_size": encoder.image, "frames_per_clip": encoder.frames,
        "in_chans": encoder.config["channels"], "hidden_size": width,
        "num_attention_heads": encoder.heads, "num_hidden_layers": depth,
        "mlp_ratio": _ratio(width, encoder.mlp_ratio), "layer_norm_eps": encoder.norm_eps,
        "drop_path_rate": encoder.config["drop_path"], "qkv_bias": True, "hidden_act": "gelu",
        "pred_num_hidden_layers": 0, "pred_num_mask_tokens": 1,
    }  # fmt: skip
    weights = _their_names(encoder.state_dict(), encoder.heads, _ENCODER)
    filters = "encoder.embeddings.patch_embeddings.proj.weight"
    shape = (width, -1, encoder.tubelet, encoder.patch, encoder.patch)
    weights[filters] = weights[filters].view(shape)
    if predictor is not None:
        theirs = _their_names(predictor.state_dict(), predictor.heads, _PREDICTOR)
        theirs[_TOKENS] = theirs.pop("mask_token").view(1, 1, 1, -1)
        weights |= theirs
        config = predictor.config
        entries |= {
            "pred_hidden_size": config["hidden"], "pred_num_attention_heads": config["heads"],
            "pred_num_hidden_layers": config["depth"],
            "pred_mlp_ratio": _ratio(config["hidden"], config["mlp_ratio"]),
        }  # fmt: skip
    return entries, {name: w.detach().float().cpu().contiguous() for name, w in weights.items()}


def _their_names(state: dict[str, Tensor], heads: int, names: dict[str, str]) -> dict[str, Tensor]:
    back = {ours: theirs for theirs, ours in names.items()}
    inside = {ours: theirs for theirs, ours in _BLOCK.items()}
    split: dict[str, Tensor] = {}
    for name, value in state.items():
        if ".attention.qkv." not in name:
            split[name] = value
            continue
        for part, rows in zip(_SPLIT, halves_to_pairs(value, heads).chunk(3), strict=True):
            split[name.replace(".qkv.", f".{part}.")] = rows
    return renamed(split, back, inside)


def _ratio(width: int, ratio: float) -> float:
    """A ratio whose product with `width`, cut to a whole number as theirs is, is our width."""
    hidden = round(width * ratio)
    exact = hidden / width
    return exact if int(width * exact) == hidden else math.nextafter(exact, math.inf)
