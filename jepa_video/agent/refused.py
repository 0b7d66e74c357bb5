"""Settings that a learner cannot learn from, and why: told before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from ..errors import UserError

Source = Literal["plans", "critic", "data", "dreams", "deeds"]
Judge = Literal["auto", "ways", "chart", "value"]


def refuse_numbers(
    correct: float,
    planned: int,
    candidates: int,
    members: int,
    holds: tuple[int, ...],
    discount: float,
) -> None:
    """Say it where numbers, of which `AgentLearner` tells, teach nothing.

    Raises:
        UserError: which, and what they have to be.
    """
    if not 0 <= correct < 1 or planned < 2:
        raise UserError(
            "learn.correct must be from 0 to below 1 and learn.planned 2 or more, not "
            f"{correct} and {planned}"
        )
    if candidates < 5 or members < 1 or not holds or min(holds) < 1:
        raise UserError("candidates must be 5 or more, members and holds 1 or more")
    if not 0 < discount < 1:
        raise UserError(f"discount must be between 0 and 1, not {discount}")


def refuse_steps(steps: int, correct: float) -> None:
    """Say it where no step is left in which critic and policy learn.

    Args:
        steps: of the training; below 0 where they are not counted.
        correct: share of them, at the beginning, in which the dynamics are corrected.

    Raises:
        UserError: how many there are.
    """
    if 0 <= steps <= (first := round(correct * max(steps, 0))):
        raise UserError(
            f"trainer.max_steps {steps} leaves no step for critic and policy: learn.correct "
            f"{correct} gives {first} of them to the dynamics"
        )


def refuse_judge(judge: Judge, alone: bool, recall: int, stride: int) -> None:
    """Say it where the critic cannot be of the kind that is asked for.

    Args:
        judge: the kind.
        alone: whether there are goals, and these count alone.
        recall: steps that a critic of values looks ahead.
        stride: steps of level 2, which lies on a chart.

    Raises:
        UserError: why not.
    """
    if judge in ("ways", "chart") and not alone:
        raise UserError(f"learn.judge {judge} counts steps to a goal: it takes the cost goal alone")
    ways = judge != "value" and alone
    if recall and ways:
        raise UserError("learn.recall is of a critic of values: give --learn.judge value")
    if stride and judge != "chart":
        raise UserError("learn.stride lays level 2 on a chart: give --learn.judge chart")


def refuse_source(source: Source, discrete: bool, values: bool) -> None:
    """Say it where the policy cannot learn from that.

    Args:
        source: of what it learns.
        discrete: whether actions are kinds.
        values: whether the critic is one of values that does not learn by `recall`.

    Raises:
        UserError: why not.
    """
    if source in ("critic", "dreams", "deeds") and discrete:
        raise UserError(
            f"learn.source {source} follows the slope of actions, and kinds have none: take plans"
        )
    if source in ("dreams", "deeds") and not values:
        raise UserError(f"learn.source {source} takes --learn.judge value, and no learn.recall")


def refuse_kinds(
    judge: Judge,
    source: Source,
    alone: bool,
    discrete: bool,
    recall: int,
    stride: int,
    foretold: int,
    surprise: float,
) -> bool:
    """Say it where critic, policy and dynamics cannot learn beside one another; see the others.

    Returns:
        Whether the critic is one of ways.

    Raises:
        UserError: why not.
    """
    ways = judge != "value" and alone
    refuse_judge(judge, alone, recall, stride)
    refuse_foretold(foretold, recall, surprise)
    refuse_source(source, discrete, not ways and not recall)
    return ways


def goal_alone(weights: Mapping[str, float], goal: bool) -> bool:
    """Whether there are goals, and these count alone by the weights of a cost."""
    return goal and {name for name, weight in weights.items() if weight} == {"goal"}


def refuse_foretold(foretold: int, recall: int, surprise: float) -> None:
    """Say it where the dynamics cannot be corrected on so many steps at once.

    Args:
        foretold: how many.
        recall: steps of memory that are told for the critic; 0 for none.
        surprise: share of what they are corrected on that is drawn by how wrong they are.

    Raises:
        UserError: why not.
    """
    if 0 < recall < foretold:
        raise UserError(
            f"learn.foretold {foretold} needs as many steps of learn.recall, which is {recall}"
        )
    if surprise and foretold > 1:
        raise UserError("learn.surprise draws single steps: leave learn.foretold at 1")
