"""What each figure of a diagnosis means, in a sentence that a newcomer can act on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from .charts import number
from .diagnostics import Diagnosis

Sentence = Callable[[float, float | None, Diagnosis], str]


@dataclass(frozen=True)
class Reading:
    """One figure: its name for a person, its value beside the untrained encoder's, its meaning."""

    title: str
    value: float
    beside: float | None
    sentence: str


def readings(now: Diagnosis, untrained: Diagnosis | None = None) -> list[Reading]:
    """Every figure that was measured, in the order in which a person should read them."""
    beside = untrained.figures if untrained else {}
    return [
        Reading(
            title,
            now.figures[name],
            beside.get(name),
            told(now.figures[name], beside.get(name), now),
        )
        for name, (title, told) in _FIGURES.items()
        if name in now.figures
    ]


def _rank(value: float, was: float | None, of: Diagnosis) -> str:
    share = value / of.most
    if value < 2:
        return "All clips lie on one line: the representation has collapsed."
    if share < 0.05:
        return (
            "Dimensional collapse: clips differ, but along very few directions. What is not in "
            "them, no probe can read."
        )
    few = f"The clips fill {share:.0%} of the {of.most} directions that {of.clips} clips can fill."
    if was is not None and value < 0.5 * was:
        return f"{few} Random weights fill {was / value:.1f} times as many: training gave them up."
    return f"{few} Compare it between encoders on the same clips; more is usually better."


def _token_rank(value: float, was: float | None, of: Diagnosis) -> str:
    return (
        f"The same over tokens, of {of.width} directions: what differs within a clip counts too. "
        "High here and low for clips means that features know places, but not clips."
    )


def _lidar(value: float, was: float | None, of: Diagnosis) -> str:
    if value < 2:
        return "Crops of a clip differ as much as clips do: nothing in the features names a clip."
    return (
        f"About {number(value)} directions tell clips apart and stay when a clip is cropped or "
        "lit otherwise. Of all the figures without labels this one follows probes best."
    )


def _spread(value: float, was: float | None, of: Diagnosis) -> str:
    if value < 0.01:
        return "The features are the same for every clip: the representation has collapsed."
    if value < 0.1:
        return "Clips hardly differ: nearly all of a feature is what all clips share."
    return "Clips differ by a healthy share of the size of a feature; 0 would be collapse."


def _token_spread(value: float, was: float | None, of: Diagnosis) -> str:
    return "In the units of the features; about 1 where the last layer is a norm, 0 is collapse."


def _alpha(value: float, was: float | None, of: Diagnosis) -> str:
    if value > 2:
        return "Steep: a few directions carry nearly all of the variance."
    if value < 0.5:
        return "Flat: as many directions, but noise would look the same. Look at the probe."
    return "Near 1, where fine detail is kept without drowning what is coarse."


def _uniformity(value: float, was: float | None, of: Diagnosis) -> str:
    if value > -0.1:
        return "Close to 0: all clips point the same way."
    return "Lower is better: clips are spread over more of the sphere (the least possible is -4)."


def _alignment(value: float, was: float | None, of: Diagnosis) -> str:
    return (
        "Squared distance between two crops of one clip, from 0 to 4. Low is good only together "
        "with low uniformity: a collapsed encoder has 0."
    )


def _straightness(value: float, was: float | None, of: Diagnosis) -> str:
    if value > 0.3:
        return "States move on nearly straight paths: the next one can be extrapolated."
    if value < -0.3:
        return "States go back and forth from one time slot to the next, as they do under noise."
    return "Turns are as good as random: a state and the one before say little of the next."


def _energy(value: float, was: float | None, of: Diagnosis) -> str:
    return "Of true pairs on these clips. Its size means nothing alone: collapse has the lowest."


def _gap(value: float, was: float | None, of: Diagnosis) -> str:
    error = of.figures.get("energy_gap_stderr", 0.0)
    sure = f" ({value / error:.1f} standard errors)" if error else ""
    if value <= 2 * error:
        return f"The energy does not tell true pairs from shuffled ones{sure}."
    return f"Shuffled pairs cost more than true ones{sure}: the prediction depends on what it sees."


def _auc(value: float, was: float | None, of: Diagnosis) -> str:
    return "How often a true pair has less energy than a shuffled one; one half is a flat energy."


_FIGURES: Final[dict[str, tuple[str, Sentence]]] = {
    "rankme/clips": ("RankMe of clips", _rank),
    "std/clips": ("Spread between clips, as a share of their size", _spread),
    "lidar": ("LiDAR", _lidar),
    "rankme/tokens": ("RankMe of tokens", _token_rank),
    "std/tokens": ("Standard deviation of tokens", _token_spread),
    "alpha": ("Decay of the spectrum, alpha", _alpha),
    "uniformity": ("Uniformity", _uniformity),
    "alignment": ("Alignment", _alignment),
    "straightness": ("Straightness in time", _straightness),
    "energy": ("Prediction energy", _energy),
    "energy_gap": ("Energy gap", _gap),
    "energy_auc": ("Chance that a true pair has the lower energy", _auc),
}
