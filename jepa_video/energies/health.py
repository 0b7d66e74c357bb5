"""Says in words whether a run is learning or collapsing, and what to do.

The loss does not say: it is lowest where the encoder answers the same to every clip. Collapse is a
flat energy, and it is seen as few directions, little spread and no gap between true and shuffled
pairs. The judgement is a pure function of those figures, so that a run, its report and a test all
say the same. Figures that were not measured are left out of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

State = Literal["healthy", "watch", "collapsed"]
_ORDER: Final[dict[State, int]] = {"healthy": 0, "watch": 1, "collapsed": 2}

_WHOSE: Final = {"target": "targets", "context": "context", "encoder": "encoder"}

MORE_VARIETY: Final = (
    "raise the weights of the variance and covariance terms, bring the momentum of the EMA target "
    "closer to 1, or lower the learning rate"
)
TELLING_STATES: Final = (
    "raise model.regularize (variance and covariance) or model.inverse, lower model.prediction, or "
    "lower the learning rate"
)
AFTER_NAN: Final = (
    "go back to the last good checkpoint with a lower learning rate, a longer warm-up, "
    "stronger gradient clipping, or float32 in place of half precision"
)
_LOST: Final = "The {} stopped being a number: this run cannot recover."


@dataclass(frozen=True)
class Vitals:
    """The figures of one moment; None where not measured.

    Args:
        width: D of the tokens: the most that a rank can be.
        rank_context: RankMe of the context tokens.
        rank_target: RankMe of the target tokens.
        std_context: feature std of the context tokens.
        std_target: feature std of the target tokens.
        gap: energy of shuffled minus true pairs.
        gap_stderr: its standard error.
        energy: of the prediction, mean.
        energy_of_mean: of predicting the mean target token whatever the context.
        loss: whatever the run minimises.
        rank_encoder: RankMe of whole clips, for an encoder that stands alone.
        std_encoder: spread between whole clips, as a share of the size of their features.
        auc: how often a true pair has the lower energy of the two.
        bits: information in z, where there is one.
    """

    width: int
    rank_context: float | None = None
    rank_target: float | None = None
    std_context: float | None = None
    std_target: float | None = None
    gap: float | None = None
    gap_stderr: float | None = None
    energy: float | None = None
    energy_of_mean: float | None = None
    loss: float | None = None
    rank_encoder: float | None = None
    std_encoder: float | None = None
    auc: float | None = None
    bits: float | None = None

    @classmethod
    def read(cls, values: Mapping[str, float], width: int) -> Vitals:
        """From the names under which a run logs them (`rankme/target`, `energy_gap`, ...)."""
        names = {
            "rank_context": "rankme/context",
            "rank_target": "rankme/target",
            "std_context": "std/context",
            "std_target": "std/target",
            "rank_encoder": "rankme/clips",
            "std_encoder": "std/clips",
            "gap": "energy_gap",
            "gap_stderr": "energy_gap_stderr",
            "energy": "energy",
            "energy_of_mean": "energy_of_mean",
            "loss": "loss",
            "auc": "energy_auc",
            "bits": "latent/bits",
        }
        return cls(width, **{field: values.get(name) for field, name in names.items()})

    @property
    def sureness(self) -> float | None:
        """The energy gap in standard errors."""
        if self.gap is None or self.gap_stderr is None:
            return None
        return self.gap / self.gap_stderr if self.gap_stderr else math.copysign(math.inf, self.gap)


@dataclass(frozen=True)
class Verdict:
    """What the figures say, and what to do about it (empty where nothing need be done)."""

    state: State
    sentence: str
    advice: str = ""

    def __str__(self) -> str:
        """State, sentence and advice as one line for a log."""
        line = f"{self.state}: {self.sentence}"
        return f"{line} What helps: {self.advice}." if self.advice else line


def verdict_of_states(rank: float, spread: float, over_copy: float, width: int) -> Verdict:
    """The judgement of a world model's states.

    Measured on TwoRooms: models that foretell well fill 10 of 32 directions, or 18 to 22 of 64, and
    the variance term holds the spread near 1; after 20 steps the rank is 1.3. A world that moves in
    few ways needs few directions, so that only a rank below 2 is called a collapse.

    Args:
        rank: RankMe of the states.
        spread: mean standard deviation of their numbers.
        over_copy: squared error of what is foretold for the last step, over that of standing still.
        width: of a state, the most that the rank can be.
    """
    figures = {"effective rank": rank, "spread": spread, "error of what is foretold": over_copy}
    if broken := [name for name, x in figures.items() if not math.isfinite(x)]:
        return Verdict("collapsed", _LOST.format(" and the ".join(broken)), AFTER_NAN)
    told = f"effective rank {rank:.1f} of {width}, standard deviation {spread:.2g}"
    if rank < 2.0 or spread < 0.01:
        return Verdict("collapsed", f"The states are nearly all the same ({told}).", TELLING_STATES)
    if spread < 0.1:
        return Verdict("watch", f"The states hardly differ ({told}).", TELLING_STATES)
    if over_copy >= 1:
        return Verdict(
            "watch",
            f"What is foretold is no better than that nothing moves ({over_copy:.2g} of its error "
            "at the last step).",
            "train longer; if it stays, raise model.prediction, or give the dynamics more room",
        )
    return Verdict(
        "healthy",
        f"The states fill {rank:.1f} of {width} directions, and the error of what is foretold for "
        f"the last step is {100 * over_copy:.0f} % of that of standing still.",
    )


def verdict(now: Vitals, first: Vitals | None = None) -> Verdict:
    """The judgement of `now`, beside the same run's `first` figures where they are known.

    The gravest finding gives the state and the advice; every finding of that gravity is said.
    """
    checks: tuple[Callable[[Vitals, Vitals | None], Verdict | None], ...] = (
        _not_a_number,
        *(_branch_check(branch) for branch in _WHOSE),
        _flat_energy,
        _too_much_z,
        _no_better_than_the_mean,
    )
    findings = [found for check in checks if (found := check(now, first))]
    if not findings:
        return Verdict("healthy", _good_news(now))
    worst = max(_ORDER[found.state] for found in findings)
    graves = [found for found in findings if _ORDER[found.state] == worst]
    return Verdict(graves[0].state, " ".join(f.sentence for f in graves), graves[0].advice)


def _not_a_number(now: Vitals, first: Vitals | None) -> Verdict | None:
    """A figure that is NaN or infinite: the weights are lost, whatever else is said."""
    figures = {
        "loss": now.loss,
        "prediction energy": now.energy,
        "energy gap": now.gap,
        "rank of the targets": now.rank_target,
        "rank of the context": now.rank_context,
        "spread of the targets": now.std_target,
        "spread of the context": now.std_context,
        "rank of the encoder": now.rank_encoder,
        "spread of the encoder": now.std_encoder,
    }
    broken = [name for name, x in figures.items() if x is not None and not math.isfinite(x)]
    if not broken:
        return None
    return Verdict("collapsed", _LOST.format(" and the ".join(broken)), AFTER_NAN)


def _branch_check(branch: str) -> Callable[[Vitals, Vitals | None], Verdict | None]:
    """The check of spread and rank of one branch of `_WHOSE`."""
    whose = _WHOSE[branch]

    def check(now: Vitals, first: Vitals | None) -> Verdict | None:
        spread, rank = getattr(now, f"std_{branch}"), getattr(now, f"rank_{branch}")
        was = getattr(first, f"rank_{branch}") if first else None
        return _spread(spread, whose) or _rank(rank, was, now.width, whose)

    return check


def _spread(spread: float | None, whose: str) -> Verdict | None:
    """Features of layer-normed encoders have a std near 1; under 0.01 all clips look the same."""
    if spread is None or not math.isfinite(spread) or spread >= 0.1:
        return None
    state: State = "collapsed" if spread < 0.01 else "watch"
    same = "are the same for every clip" if state == "collapsed" else "hardly differ between clips"
    return Verdict(
        state,
        f"The features of the {whose} {same} (standard deviation {spread:.2g}).",
        MORE_VARIETY,
    )


def _rank(rank: float | None, was: float | None, width: int, whose: str) -> Verdict | None:
    """Few directions, or many fewer than at the start.

    Measured: a run that collapsed went from 18.5 to 2.0 of 192 with the best loss of all. Trained
    encoders that are fine lose up to half of the rank that random weights had.
    """
    if rank is None or not math.isfinite(rank):
        return None
    small = rank < max(2.0, 0.05 * width)
    if rank < 2.0 or (was is not None and small and rank < 0.25 * was):
        state: State = "collapsed"
    elif small or (was is not None and rank < 0.5 * was):
        state = "watch"
    else:
        return None
    path = f"fell from {was:.1f} to {rank:.1f}" if was and rank < was else f"is {rank:.1f}"
    end = ": the features have collapsed" if state == "collapsed" else ""
    return Verdict(
        state, f"The effective rank of the {whose} {path} of {width}{end}.", MORE_VARIETY
    )


def _flat_energy(now: Vitals, first: Vitals | None) -> Verdict | None:
    """No gap between true and shuffled pairs: early it is to come, at low energy it is lost."""
    sure = now.sureness
    if sure is None or math.isnan(sure) or sure >= 2:
        return None
    was, energy = first.energy if first else None, now.energy
    if was is not None and energy is not None and energy < 0.7 * was:
        return Verdict(
            "collapsed",
            f"The energy is flat: it fell from {was:.2g} to {energy:.2g}, but for wrong pairs as "
            f"much as for true ones (gap of {sure:.1f} standard errors).",
            f"{MORE_VARIETY}; with a latent, make it smaller or dearer, since a z that knows y "
            "explains any pair",
        )
    return Verdict(
        "watch",
        f"The energy does not tell true pairs from shuffled ones (gap of {sure:.1f} standard "
        "errors).",
        "train longer; if it stays, weaken the regulariser or mask less",
    )


def _too_much_z(now: Vitals, first: Vitals | None) -> Verdict | None:
    """A z that knows y explains any pair (LeCun 2022, section 4.3.3): low energy everywhere."""
    was, energy = first.energy if first else None, now.energy
    if now.bits is None or now.auc is None or now.auc >= 0.9 or was is None or energy is None:
        return None
    if energy > 0.7 * was:
        return None  # nothing is explained yet, true or false
    return Verdict(
        "collapsed",
        f"The latent explains any target: z holds {now.bits:.0f} bits, and the energy fell from "
        f"{was:.2g} to {energy:.2g} for wrong pairs too (a true pair is lower in {now.auc:.0%}).",
        "raise the price of z (model.latent.weight), or give it fewer numbers or codes",
    )


def _no_better_than_the_mean(now: Vitals, first: Vitals | None) -> Verdict | None:
    """A prediction that ignores its context costs what the mean token costs."""
    energy, naive = now.energy, now.energy_of_mean
    if energy is None or not naive or energy < 0.98 * naive:
        return None
    return Verdict(
        "watch",
        f"The prediction (energy {energy:.2g}) is no better than answering with the mean token "
        f"({naive:.2g}).",
        "train longer; if it stays, lower the weights of the regulariser, mask less, or enlarge "
        "the predictor",
    )


def _good_news(now: Vitals) -> str:
    """One sentence from what was measured and found good."""
    parts = []
    if now.rank_target is not None:
        parts.append(f"the targets fill {now.rank_target:.1f} of {now.width} directions")
    if now.rank_encoder is not None:
        parts.append(f"the features fill {now.rank_encoder:.1f} of {now.width} directions")
    if now.sureness is not None:
        parts.append(
            f"the energy tells true from shuffled pairs by {now.sureness:.1f} standard errors"
        )
    if now.energy is not None and now.energy_of_mean:
        share = 100 * (1 - now.energy / now.energy_of_mean)
        parts.append(f"the prediction costs {share:.0f} % less than the mean token")
    if not parts:
        return "Nothing was measured that speaks against it."
    text = ", ".join(parts[:-1]) + (" and " if parts[1:] else "") + parts[-1]
    return f"{text[0].upper()}{text[1:]}."
