"""Pretraining that starts from weights: encoder, target, and the predictor where it is the same."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..models.encoder import VideoEncoder, VideoViT
from ..training.video_jepa import VideoJEPA
from .weights import load_encoder, load_predictor

_SHAPE = ("width", "heads", "mlp_ratio", "patch", "tubelet", "norm_eps", "rotary")


def start_from(module: VideoJEPA, path: Path | str) -> str:
    """Fill `module` with the weights of `path`, and say in words what was filled.

    The target gets the slow average where the file has one, else the encoder. The predictor is
    filled where its settings are those of the file's; else it starts afresh.

    Args:
        module: as its settings made it.
        path: what `load_encoder` takes.

    Raises:
        UserError: the weights are not those of an encoder with these settings.
    """
    encoder = module.encoder
    given = load_encoder(path, "online", encoder.frames, encoder.image)
    if differing := _differing(given, encoder):
        raise UserError(
            f"--init {path} has another encoder than model.encoder: it needs {', '.join(differing)}"
        )
    encoder.load_state_dict(given.state_dict())
    if module.target is not encoder:
        with suppress(UserError):  # an export has one branch: both start from that
            given = load_encoder(path, "target", encoder.frames, encoder.image)
        module.target.load_state_dict(given.state_dict())
    return f"starts from {path}: encoder" + _predictor(module, path)


def _predictor(module: VideoJEPA, path: Path | str) -> str:
    try:
        given = load_predictor(path, mask_token=0)  # of V-JEPA 2's, the one that training moves
    except UserError:
        return "; the predictor starts afresh"
    # No weight depends on the grid: positions are rotary.
    if given.config | {"grid": None} != module.predictor.config | {"grid": None}:
        return "; the predictor starts afresh, since its settings are not those of the file"
    module.predictor.load_state_dict(given.state_dict())
    return " and predictor"


def _differing(given: VideoEncoder, made: VideoEncoder) -> list[str]:
    """Options that would make `made` the encoder of `given`."""
    there, here = _settings(given), _settings(made)
    return [f"--model.encoder.{k} {v}" for k, v in there.items() if here.get(k) != v]


def _settings(encoder: VideoEncoder) -> dict[str, Any]:
    if isinstance(encoder, VideoViT):
        shape = {name: getattr(encoder, name) for name in _SHAPE}
        return {"depth": len(encoder.blocks), **shape}
    own = {"frames", "image", "drop_path"}
    return {name: value for name, value in encoder.config.items() if name not in own}
