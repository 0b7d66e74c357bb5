"""Settings of an optimiser and of torch.compile: what no training can have is told at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..errors import UserError, within
from ..models.state import StateHead


def refuse_rates(
    learning_rate: float,
    final_learning_rate: float,
    warmup: float,
    weight_decay: float | tuple[float, float],
    betas: tuple[float, float],
) -> None:
    """Say which setting of AdamW and its schedule is out of its range.

    Raises:
        UserError: one is.
    """
    within("model", 0, learning_rate=learning_rate, weight_decay=weight_decay)
    within("model", 0, 1, warmup=warmup, betas=betas, final_learning_rate=final_learning_rate)
    if max(betas) == 1:
        raise UserError(f"model.betas must be below 1, not {betas}")


def refuse_windows(context: int, horizon: int, piece: int | None, settle: float) -> None:
    """Say what rollouts and pieces of windows cannot be.

    Raises:
        UserError: no state or no step, a piece without a step, or no time to see in.
    """
    if context < 1 or horizon < 1:
        raise UserError(
            f"model.context and model.horizon must be 1 or more, not {context} and {horizon}"
        )
    if not 0 <= settle < 1:
        raise UserError(f"model.settle must be from 0 to below 1, not {settle}")
    if piece is not None and piece <= context:
        raise UserError(f"model.piece must be above model.context, not {piece}")


def refuse_backend(backend: object) -> None:
    """Say that `torch.compile` has no backend of this name; one that can be called is its own.

    Raises:
        UserError: it has not.
    """
    if isinstance(backend, str) and backend not in torch._dynamo.list_backends(exclude_tags=()):
        names = ", ".join(torch._dynamo.list_backends())
        raise UserError(f"model.compile: there is no backend {backend!r}; there are {names}")


def numbers_of(known: Sequence[str], names: Sequence[str]) -> list[int]:
    """Which numbers of an environment's state have these names.

    Raises:
        UserError: there is none of a name.
    """
    if unknown := [name for name in names if name not in known]:
        told = ", ".join(known) or "none"
        raise UserError(f"model.felt: there is no state {unknown[0]!r}; there are {told}")
    return [known.index(name) for name in names]


def seen_by(sought: bool, hidden: int, state: StateHead) -> tuple[int, tuple[int, int]] | None:
    """What a readout that looks for things has to know of a state; None where it is not to.

    Raises:
        UserError: there is no network, or no map to look in.
    """
    if not sought:
        return None
    if not hidden or state.grid is None:
        raise UserError(
            "model.read_sought looks in the map of a MapState by a network: give both, "
            "--model.state MapState and --model.read_hidden 128"
        )
    return state.aim, state.grid
