"""Learn a world model from video by self-supervision (JEPA), on PyTorch Lightning.

The public names are imported when they are first used, so that `import jepa_video` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_NAMES = {
    "Agent": "agent.agent",
    "UserError": "errors",
    "EpisodeDataModule": "data.episode_module",
    "EpisodeSet": "data.episodes",
    "VideoDataModule": "data.datamodule",
    "VideoClips": "data.clips",
    "VideoEncoder": "models.encoder",
    "VideoJEPA": "training.video_jepa",
    "VideoViT": "models.encoder",
    "WorldModel": "training.world_model",
    "load_encoder": "interop.weights",
    "load_predictor": "interop.weights",
    "load_world": "agent.world_files",
    "read_clip": "data.decode",
    "save_encoder": "interop.weights",
    "video_info": "data.decode",
    "write_report": "evaluation.report",
}

__all__ = ["__version__", *_NAMES]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module 'jepa_video' has no attribute {name!r}")
    value = getattr(import_module(f".{_NAMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_NAMES})
