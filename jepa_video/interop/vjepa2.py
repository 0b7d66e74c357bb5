"""The formats of V-JEPA 2 (Assran et al. 2025): the authors' checkpoints and Hugging Face folders.

Both hold the same numbers under other names than ours. Three things are more than a name:

* the patch filters are a 3-D convolution; ours are the same numbers as a linear map;
* Hugging Face splits queries, keys and values, which the others keep in one matrix;
* the halves of a rotary plane lie side by side there and half a head apart here, so rows of
  queries and keys change places. Scores are sums over both alike, and stay what they are.

The predictor has several mask tokens there, of which a call uses one; ours has that one.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from ..errors import UserError
from ..models.encoder import SIZES, token_grid
from .files import Ask, Stored

OFFICIAL: Final = {"online": "encoder", "target": "target_encoder", "predictor": "predictor"}
_EPS: Final = 1e-6
_FRAMES, _IMAGE = 64, 256  # of the released models; their weights do not depend on either
_MASK_TOKENS: Final = 10  # of V-JEPA 2's predictors; V-JEPA had one for each kind of mask
_PREDICTOR: Final = (384, 12)  # width and heads, the same for every encoder
# Nothing in the weights says how many heads there are.
_HEADS: Final = {width: heads for name, (width, _, heads, _) in SIZES.items() if name != "nano"}

# Their names to ours: the start of a name, and what stands inside a block.
_NAMES: Final = {
    "patch_embed.proj.": "embed.", "blocks.": "blocks.", "norm.": "norm.",
    "predictor_embed.": "enter.", "predictor_blocks.": "blocks.",
    "predictor_norm.": "norm.", "predictor_proj.": "leave.",
}  # fmt: skip
_BLOCK: Final = {
    ".attn.qkv.": ".attention.qkv.", ".attn.proj.": ".attention.out.",
    ".mlp.fc1.": ".mlp.up.", ".mlp.fc2.": ".mlp.down.",
}  # fmt: skip


# The authors' checkpoints


def is_official(content: Any) -> bool:
    """Whether a torch file looks like a checkpoint of V-JEPA 2's authors."""
    return isinstance(content, dict) and any(
        isinstance(content.get(key), dict) for key in OFFICIAL.values()
    )


def read_official(content: dict[str, Any], ask: Ask, where: Path) -> Stored:
    """One part of a checkpoint with the entries `encoder`, `target_encoder`, `predictor`.

    Raises:
        UserError: the part is not there, or is not what V-JEPA 2 has.
    """
    parts = {k: _bare(content[k]) for k in OFFICIAL.values() if isinstance(content.get(k), dict)}
    key = OFFICIAL[ask.part]
    if key not in parts:
        raise UserError(f"{where} has no {key!r}, only {' and '.join(sorted(parts))}")
    _refuse_absolute(parts, where)
    weights = {k: v for k, v in parts[key].items() if not k.endswith("pos_embed")}
    encoders = [parts[k] for k in ("encoder", "target_encoder") if k in parts]
    shape = _patch_shape(encoders[0], where) if encoders else (0, 3, 2, 16, 16)
    if ask.part == "predictor":
        return _official_predictor(weights, shape, ask, where)
    return _official_encoder(weights, _patch_shape(weights, where), ask, where)


def _bare(state: dict[str, Any]) -> dict[str, Tensor]:
    """Weights without the names of the wrappers of distributed training and of several clips."""
    named = {k.removeprefix("module.").removeprefix("backbone."): v for k, v in state.items()}
    return {k: v for k, v in named.items() if isinstance(v, Tensor)}


def _refuse_absolute(parts: dict[str, dict[str, Tensor]], where: Path) -> None:
    """V-JEPA has the same names and absolute positions; V-JEPA 2 may hold an unread table."""
    tokens = sum(name.startswith("mask_tokens.") for name in parts.get("predictor", {}))
    absolute = any(name.endswith("pos_embed") for part in parts.values() for name in part)
    if absolute and tokens != _MASK_TOKENS:
        raise UserError(
            f"{where} has absolute positions (pos_embed) and not the {_MASK_TOKENS} mask tokens of "
            "V-JEPA 2: weights of V-JEPA, whose encoder is another one, are not read"
        )


def _patch_shape(weights: dict[str, Tensor], where: Path) -> tuple[int, ...]:
    """`D C t p p` of the patch filters."""
    proj = weights.get("patch_embed.proj.weight")
    if proj is None or proj.ndim != 5 or proj.shape[3] != proj.shape[4]:
        found = "none" if proj is None else f"shape {tuple(proj.shape)}"
        raise UserError(
            f"{where} is no encoder of V-JEPA 2: expected patch_embed.proj.weight of shape "
            f"(width, channels, tubelet, patch, patch), found {found}"
        )
    return tuple(proj.shape)


def _official_encoder(
    weights: dict[str, Tensor], shape: tuple[int, ...], ask: Ask, where: Path
) -> Stored:
    width, channels, tubelet, patch, _ = shape
    if width not in _HEADS:
        known = ", ".join(str(known) for known in sorted(_HEADS))
        raise UserError(
            f"{where} has an encoder of width {width}, and its weights do not say how many heads "
            f"that has; known are the widths {known}"
        )
    ours = joined(renamed(weights, _NAMES, _BLOCK), _HEADS[width])
    config = {
        "class": "VideoViT", "width": width, "depth": _depth(ours), "heads": _HEADS[width],
        "mlp_ratio": _mlp_ratio(ours), "tubelet": tubelet, "patch": patch, "channels": channels,
        "norm_eps": _EPS, "rotary": "vjepa2",
        "frames": ask.frames or _FRAMES, "image": ask.image or _IMAGE,
    }  # fmt: skip
    return Stored(config, ours, where)


def _official_predictor(
    weights: dict[str, Tensor], shape: tuple[int, ...], ask: Ask, where: Path
) -> Stored:
    if "action_encoder.weight" in weights:
        raise UserError(
            f"{where} has the action-conditioned predictor of V-JEPA 2-AC, which the masked "
            "predictor cannot hold"
        )
    tokens = {k: v for k, v in weights.items() if k.startswith("mask_tokens.")}
    enter = weights.get("predictor_embed.weight")
    hidden, heads = _PREDICTOR
    if enter is None or enter.shape[0] != hidden:
        found = "none" if enter is None else f"one of width {enter.shape[0]}"
        raise UserError(f"{where} has no predictor of V-JEPA 2 (width {hidden}), but {found}")
    token = mask_token([tokens[k] for k in sorted(tokens, key=_number)], ask.mask_token, where)
    rest = {k: v for k, v in weights.items() if k not in tokens}
    ours = joined(renamed(rest, _NAMES, _BLOCK), heads) | {"mask_token": token}
    config = {
        "width": enter.shape[1], "hidden": hidden, "heads": heads, "depth": _depth(ours),
        "grid": token_grid(ask.frames or _FRAMES, ask.image or _IMAGE, shape[2], shape[3]),
        "mlp_ratio": _mlp_ratio(ours), "norm_eps": _EPS, "rotary": "vjepa2",
    }  # fmt: skip
    return Stored(config, ours, where)


def _number(name: str) -> int:
    return int(name.rpartition(".")[2])


def mask_token(tokens: Iterable[Tensor], index: int, where: Path) -> Tensor:
    """The token at `index`, modulo how many there are, as theirs is chosen."""
    tokens = list(tokens)
    if not tokens:
        raise UserError(f"{where} has a predictor without mask tokens, which V-JEPA 2's has")
    return tokens[index % len(tokens)].flatten()


# What both formats share


def renamed(
    weights: dict[str, Tensor], names: dict[str, str], inside: dict[str, str]
) -> dict[str, Tensor]:
    """Weights under other names; a name that nobody knows stays, and is reported on loading."""
    out: dict[str, Tensor] = {}
    for name, value in weights.items():
        start = next((start for start in names if name.startswith(start)), "")
        name = names.get(start, "") + name[len(start) :]
        for theirs, ours in inside.items():
            name = name.replace(theirs, ours)
        out[name] = value
    return out


def joined(weights: dict[str, Tensor], heads: int) -> dict[str, Tensor]:
    """Our order of rows in queries and keys, and patch filters as a linear map."""
    out = dict(weights)
    for name, value in weights.items():
        if ".attention.qkv." in name and len(value) % (6 * heads) == 0:
            out[name] = pairs_to_halves(value, heads)
    if "embed.weight" in out:
        out["embed.weight"] = out["embed.weight"].flatten(1)
    return out


def pairs_to_halves(qkv: Tensor, heads: int) -> Tensor:
    """Rows `(3 h d/2 2)` of queries, keys, values to `(3 h 2 d/2)` in queries and keys."""
    return _moved(qkv, qkv.view(3, heads, -1, 2, *qkv.shape[1:]))


def halves_to_pairs(qkv: Tensor, heads: int) -> Tensor:
    """The inverse of `pairs_to_halves`."""
    return _moved(qkv, qkv.view(3, heads, 2, -1, *qkv.shape[1:]))


def _moved(qkv: Tensor, parts: Tensor) -> Tensor:
    turned, values = parts[:2].transpose(2, 3), qkv[2 * len(qkv) // 3 :]
    return torch.cat((turned.flatten(0, 3), values))


def _depth(weights: dict[str, Tensor]) -> int:
    return len({name.split(".")[1] for name in weights if name.startswith("blocks.")})


def _mlp_ratio(weights: dict[str, Tensor]) -> float:
    up = weights.get("blocks.0.mlp.up.weight")
    return 4.0 if up is None else up.shape[0] / up.shape[1]
