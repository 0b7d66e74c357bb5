"""How far a world model sees: error of the foretold future against horizon, beside its baselines.

Shapes: states `B T P D`, environment states `B T S`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..energies.metrics import rankme
from ..training.world_model import WorldModel


@dataclass
class Foresight:
    """Errors at each horizon, from 1 step on.

    Attributes:
        energy: squared error of the foretold state over that of copying the last one, `H`.
        read: mean distance of the environment state that is read off the foretold state from the
            true one, in its own unit, `H`; empty where the episodes tell no states.
        read_true: the same off the true state: what the readout itself gets wrong.
        read_copied: the same off the last known state.
        rankme: effective rank of the states.
        spread: mean standard deviation of a component of the states.
        reward: share of the rewards' variance that the readout explains; None where there is none.
        reach: see `stride`.
    """

    energy: list[float]
    read: list[float]
    read_true: float | None
    read_copied: list[float]
    rankme: float
    spread: float
    reward: float | None
    reach: float

    def figures(self) -> dict[str, Any]:
        """What `summary.json` holds."""
        told: dict[str, Any] = {"rankme": self.rankme, "state_std": self.spread}
        told |= {"energy_over_copy": self.energy, "reward_explained": self.reward}
        told["reach"] = self.reach
        if self.read_true is not None:
            told |= {"read_error": self.read_true, "read_error_foretold": self.read}
            told |= {"read_error_copied": self.read_copied}
        return told


@torch.no_grad()
def foresight(
    module: WorldModel, batches: Iterable[Mapping[str, Tensor]], device: torch.device
) -> Foresight:
    """Roll out over held-out windows, with the z of lowest energy where there is a latent."""
    module.to(device).eval()
    errors: list[Tensor] = []
    reads: list[Tensor] = []
    states: list[Tensor] = []
    rewards: list[Tensor] = []
    strides: list[Tensor] = []
    for one in batches:
        batch = {name: part.to(device) for name, part in one.items()}
        seen = module.encode(batch["video"], batch["state"])
        passage = module.passage(seen, batch["action"])
        z = module.explain(passage) if module.latent.dim else None
        told = module.imagine(passage.known, passage.actions, z, passage.past)
        copied = passage.known[:, -1:].expand_as(told)
        pair = [(told - passage.future), (copied - passage.future)]
        errors.append(torch.stack([e.square().mean((2, 3)) for e in pair]))  # 2 B H
        states.append(seen.flatten(0, 1).flatten(1))
        strides += list(module.state.moving(seen))
        first = module.encoder.frames - 1
        truth = batch["reward"][:, first:]
        rewards.append(torch.stack((module.read(seen[:, 1:], "reward")[..., 0], truth)).flatten(1))
        if module.facts.state_size:
            reads.append(_read_errors(module, told, passage.future, copied, batch["state"]))
    error = torch.cat(errors, 1).mean(1)
    sample = torch.cat(states)
    read = torch.cat(reads, 1).mean(1) if reads else None
    return Foresight(
        energy=(error[0] / error[1].clamp_min(1e-12)).tolist(),
        read=[] if read is None else read[0].tolist(),
        read_true=None if read is None else float(read[1].mean()),
        read_copied=[] if read is None else read[2].tolist(),
        rankme=float(rankme(sample)),
        spread=float(sample.std(0).mean()),
        reward=_explained(*torch.cat(rewards, 1)),
        reach=stride(strides),
    )


def _read_errors(
    module: WorldModel, told: Tensor, future: Tensor, copied: Tensor, truth: Tensor
) -> Tensor:
    """Distances from the true environment states, read off foretold, true and last: `3 B H`."""
    after = truth[:, -told.shape[1] :]
    kinds = (told, future, copied)
    return torch.stack([(module.read(kind) - after).norm(dim=-1) for kind in kinds])


def _explained(told: Tensor, truth: Tensor) -> float | None:
    """1 less the squared error over the variance; None where nothing varies."""
    variance = truth.var()
    return float(1 - (told - truth).square().mean() / variance) if variance > 1e-12 else None


def stride(paths: Iterable[Tensor]) -> float:
    """The median distance of states two steps apart where something moved, of paths `T d`.

    The distance in which a goal counts as reached: an agent that steps cannot do much better.
    """
    apart = torch.cat([(s[2:] - s[:-2]).norm(dim=1) for s in paths if len(s) > 2])
    return float(apart[apart > 0.25 * apart.mean()].median())
