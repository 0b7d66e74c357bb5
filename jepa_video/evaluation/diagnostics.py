"""The state of any encoder, in figures that need no label.

Shapes: video `B T C H W` uint8, tokens `B N D`, pooled features `M D` of `M` clips, views `M V D`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..data.transforms import Augment, centre
from ..energies.health import Verdict, verdict
from ..energies.metrics import (
    alignment,
    energy_gap,
    feature_std,
    lidar,
    rankme,
    spectrum_alpha,
    straightness,
    uniformity,
)
from ..errors import UserError
from ..models.encoder import VideoEncoder
from ..randomness import AUGMENT, generator
from ..training.callbacks import Batch
from ..training.dashboard import held_out_energies, spread_sample, vitals
from ..training.video_jepa import VideoJEPA

TOKENS = 4096  # at most so many tokens are looked at
LINES = 64  # singular values that are kept for the picture


@dataclass(frozen=True)
class Seen:
    """What an encoder makes of some clips, on the CPU.

    Attributes:
        clips: pooled features of the centred view, `M D`.
        views: pooled features of `V` random views of each clip, `M V D`.
        tokens: tokens of the centred view, evenly sampled, `K D`.
        states: the mean token of each time slot, `M T' D`.
    """

    clips: Tensor
    views: Tensor
    tokens: Tensor
    states: Tensor


@dataclass(frozen=True)
class Diagnosis:
    """Figures of an encoder by name, those that could be measured, and its spectrum.

    Attributes:
        width: `D`.
        clips: how many clips were looked at.
        figures: `rankme/clips`, `rankme/tokens`, `lidar`, `std/clips`, `std/tokens`, `alpha`,
            `uniformity`, `alignment`, `straightness`, and with a predictor `energy`, `energy_gap`,
            `energy_gap_stderr` and `energy_auc`.
        spectrum: the largest eigenvalues of the covariance of the clips, as shares of their sum.
    """

    width: int
    clips: int
    figures: dict[str, float]
    spectrum: list[float]

    @property
    def most(self) -> int:
        """The most directions that so many clips can fill."""
        return min(self.width, self.clips)

    def verdict(self, first: Diagnosis | None = None) -> Verdict:
        """The judgement, beside the untrained encoder's figures where they are known."""
        was = vitals(first.figures, first.most) if first else None
        return verdict(vitals(self.figures, self.most), was)


@torch.no_grad()
def look(
    encoder: VideoEncoder,
    batches: Iterable[Batch],
    *,
    views: int = 4,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Seen:
    """Encode the centred view and `views` random views of every clip.

    Args:
        encoder: in evaluation mode, on `device`.
        batches: `{"video": B T C H W uint8}`.
        views: random crops with another light, drawn as in pretraining.
        seed: of the views.
        device: where to compute.

    Raises:
        UserError: fewer than two clips could be read: nothing can be compared.
    """
    augment = Augment()
    slots = encoder.grid[0]
    parts: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    for number, batch in enumerate(batches):
        video = batch["video"].to(device)
        tokens = encoder(centre(video, encoder.image)).float()
        draws = (generator(seed, AUGMENT, number, view) for view in range(views))
        others = [encoder(augment(video, encoder.image, draw)).float().mean(1) for draw in draws]
        states = tokens.unflatten(1, (slots, -1)).mean(2)
        seen = (tokens.mean(1), torch.stack(others, 1), spread_sample(tokens, TOKENS), states)
        parts.append(tuple(part.cpu() for part in seen))  # type: ignore[arg-type]
    count = sum(len(part[0]) for part in parts)
    if count < 2:
        raise UserError(f"a diagnosis compares clips and needs two or more, got {count}")
    clips, several, sample, paths = (torch.cat(list(part)) for part in zip(*parts, strict=True))
    return Seen(clips, several, spread_sample(sample, TOKENS), paths)


def diagnose(seen: Seen) -> Diagnosis:
    """All figures of what was seen."""
    clips = seen.clips
    size = clips.square().mean().sqrt().clamp_min(torch.finfo(clips.dtype).tiny)
    found = {
        "rankme/clips": rankme(clips),
        "rankme/tokens": rankme(seen.tokens),
        "std/clips": feature_std(clips / size),
        "std/tokens": feature_std(seen.tokens),
        "uniformity": uniformity(clips),
        "lidar": lidar(seen.views),
        "alignment": alignment(seen.views[:, 0], seen.views[:, 1]),
    }
    spectrum = torch.linalg.svdvals(clips.double() - clips.double().mean(0)).square()
    if int((spectrum > 1e-12 * size**2).sum()) > 2:  # of one or two there is no slope to speak of
        found["alpha"] = spectrum_alpha(clips)
    if seen.states.shape[1] > 2:
        found["straightness"] = straightness(seen.states)
    shares = spectrum / spectrum.sum().clamp_min(torch.finfo(spectrum.dtype).tiny)
    figures = {name: float(value) for name, value in found.items()}
    return Diagnosis(clips.shape[1], len(clips), figures, shares[:LINES].tolist())


@torch.no_grad()
def gap_figures(module: VideoJEPA, batches: Iterable[Batch]) -> dict[str, float]:
    """The energy of true pairs and its gap to shuffled ones; empty for fewer than two clips."""
    true, shuffled = held_out_energies(module, list(batches))
    if len(true) < 2:
        return {}
    gap = energy_gap(true, shuffled)
    return {
        "energy": float(true.mean()),
        "energy_gap": float(gap.gap),
        "energy_gap_stderr": float(gap.stderr),
        "energy_auc": float(gap.auc),
    }
