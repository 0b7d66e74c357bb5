"""The measure `collapse`: does the representation tell clips apart, and does the energy?"""

from __future__ import annotations

import torch
from torch import Tensor

from ..data.datamodule import VideoDataModule
from ..energies.metrics import feature_std
from ..training.video_jepa import VideoJEPA
from .features import extract
from .measure import Column, Curve, Figures, Measure
from .probing import thinned

CLIPS = 256  # held-out clips of which the spread is taken


def figures(module: VideoJEPA, data: VideoDataModule, device: torch.device) -> Figures:
    """`clip_std`: how far held-out clips differ at each place of the token grid.

    The spread over clips alone: tokens that say where they are and nothing else have a spread over
    the grid, and none here.
    """

    def encode(video: Tensor) -> Tensor:
        return module.encode(video).float()

    videos = data.clips("val")
    chosen = thinned(range(len(videos.paths)), CLIPS)
    found = extract(encode, videos.evaluation(chosen), device=device, pool="flat")
    return {"clip_std": float(feature_std(found.x))}


COLLAPSE = Measure(
    columns=(
        Column(
            "probe_top1",
            "probe, %",
            100,
            1,
            "Linear probe of the frozen encoder on held-out videos, mean token of a clip.",
            (("chance", "chance"), ("probe_top1_untrained", "untrained")),
        ),
        Column(
            "rankme",
            "RankMe",
            1,
            1,
            "Directions that the held-out clips' mean tokens fill; 1 is total collapse.",
        ),
        Column(
            "clip_std",
            "feature std",
            1,
            3,
            "How far held-out clips differ at each place of the token grid; 0 is total collapse.",
        ),
        Column(
            "energy_gap",
            "energy gap",
            1,
            3,
            "Energy of pairs with another clip's target minus that of true ones; 0 is a flat "
            "energy. Scales differ between methods: see the next chart.",
        ),
        Column(
            "energy_auc",
            "energy AUC",
            1,
            3,
            "Chance that a true pair has less energy than a shuffled one; 0.5 is a flat energy.",
        ),
        Column("cpu_seconds", "CPU s", 1, 0, "Training, evaluation and pictures.", charted=False),
    ),
    figures=figures,
    curves=(Curve("rankme/context", "RankMe of the context tokens", "1 is total collapse."),),
)
