"""How far a world model sees: error of the foretold future against horizon, beside its baselines.

Shapes: states `B T P D`, environment states `B T S`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from ..energies.health import Verdict, verdict_of_states
from ..energies.metrics import rankme
from .dashboard import spread_sample
from .world_model import WorldModel

SAMPLE: Final = 1024  # states on which rank and spread are measured


class Ahead(NamedTuple):
    """A window with what was foretold of it.

    Attributes:
        seen: states of all frames, `B T P D`.
        future: those after the known ones, `B H P D`.
        told: what is foretold in their place, `B H P D`.
        copied: the last known state in their place, `B H P D`.
    """

    seen: Tensor
    future: Tensor
    told: Tensor
    copied: Tensor

    @property
    def errors(self) -> Tensor:
        """Squared error of foretold and copied states, `2 B H`."""
        pair = (self.told - self.future, self.copied - self.future)
        return torch.stack([gap.square().mean((2, 3)) for gap in pair])


@torch.no_grad()
def look_ahead(module: WorldModel, batch: Mapping[str, Tensor]) -> Ahead:
    """Roll out over windows, with the z of lowest energy where there is a latent."""
    seen = module.encode(batch["video"], batch["state"], batch.get("scene"))
    passage = module.passage(seen, batch["action"])
    z = module.explain(passage) if module.latent.dim else None
    told = module.imagine(passage.known, passage.actions, z, passage.past)
    return Ahead(seen, passage.future, told, passage.known[:, -1:].expand_as(told))


@torch.no_grad()
def refit(
    module: WorldModel, batches: Iterable[Mapping[str, Tensor]], device: torch.device
) -> None:
    """Solve the readouts on the states of some windows, as they are now.

    Args:
        module: whose readouts; the rest of it stays as it is.
        batches: windows that were trained on.
        device: where it computes.
    """
    parts: dict[str, list[Tensor]] = {"seen": [], "own": [], "gain": []}
    first = module.encoder.frames - 1
    for batch in batches:
        batch = {name: part.to(device) for name, part in batch.items()}
        seen = module.encode(batch["video"], batch["state"], batch.get("scene"))
        parts["seen"].append(seen)
        parts["own"].append((batch["state"][:, first:] - module.state_mean) / module.state_std)
        parts["gain"].append(batch["reward"][:, first:, None])
    if not parts["seen"]:
        return
    seen, own, gain = (torch.cat(part) for part in parts.values())
    module.readout.solve("reward", seen[:, 1:].flatten(0, 1), gain.flatten(0, 1))
    if module.facts.state_size:
        module.readout.solve("state", seen.flatten(0, 1), own.flatten(0, 1))


@dataclass
class Foresight:
    """Errors at each horizon, from 1 step on.

    Attributes:
        energy: squared error of the foretold state over that of copying the last one, `H`.
        read: mean distance of the environment state that is read off the foretold state from the
            true one, in its own unit, `H`; empty where the episodes tell no states.
        read_true: the same off the true state: what the readout itself gets wrong.
        read_copied: the same off the last known state.
        rankme: effective rank of what says in the states where the agent is.
        spread: mean standard deviation of these numbers.
        width: how many they are.
        reward: share of the rewards' variance that the readout explains; None where there is none.
        reach: see `stride`.
    """

    energy: list[float]
    read: list[float]
    read_true: float | None
    read_copied: list[float]
    rankme: float
    spread: float
    width: int
    reward: float | None
    reach: float | None

    def verdict(self) -> Verdict:
        """What the figures say."""
        return verdict_of_states(self.rankme, self.spread, self.energy[-1], self.width)

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
    """The figures of held-out windows; the module is left in evaluation mode."""
    module.to(device).eval()
    errors: list[Tensor] = []
    reads: list[Tensor] = []
    states: list[Tensor] = []
    rewards: list[Tensor] = []
    strides: list[Tensor] = []
    for one in batches:
        batch = {name: part.to(device) for name, part in one.items()}
        ahead = look_ahead(module, batch)
        moving = module.state.moving(ahead.seen)  # B T d
        errors.append(ahead.errors)
        states.append(moving.flatten(0, 1))
        strides += list(moving)
        first = module.encoder.frames - 1
        truth = batch["reward"][:, first:]
        gained = module.read(ahead.seen[:, 1:], "reward")[..., 0]
        rewards.append(torch.stack((gained, truth)).flatten(1))
        if module.facts.state_size:
            reads.append(read_errors(module, ahead, batch["state"]))
    error = torch.cat(errors, 1).mean(1)
    sample = spread_sample(torch.cat(states), SAMPLE)
    read = torch.cat(reads, 1).mean(1) if reads else None
    return Foresight(
        energy=(error[0] / error[1].clamp_min(1e-12)).tolist(),
        read=[] if read is None else read[0].tolist(),
        read_true=None if read is None else float(read[1].mean()),
        read_copied=[] if read is None else read[2].tolist(),
        rankme=float(rankme(sample)),
        spread=float(sample.std(0).mean()),
        width=module.state.aim,
        reward=_explained(*torch.cat(rewards, 1)),
        reach=step_length(strides),
    )


def read_errors(module: WorldModel, ahead: Ahead, truth: Tensor) -> Tensor:
    """Distances from the true environment states, read off foretold, true and last: `3 B H`."""
    after = truth[:, -ahead.told.shape[1] :]
    kinds = (ahead.told, ahead.future, ahead.copied)
    return torch.stack([(module.read(kind) - after).norm(dim=-1) for kind in kinds])


def _explained(told: Tensor, truth: Tensor) -> float | None:
    """1 less the squared error over the variance; None where nothing varies."""
    variance = truth.var()
    return float(1 - (told - truth).square().mean() / variance) if variance > 1e-12 else None


def step_length(paths: Iterable[Tensor]) -> float | None:
    """The median distance of states two steps apart where something moved, of paths `T d`.

    The distance in which a goal counts as reached: an agent that steps cannot do much better. Paths
    of two states count with their one step. None where nothing moved.
    """
    hops = [(s, min(2, len(s) - 1)) for s in paths if len(s) > 1]
    steps = [(s[hop:] - s[:-hop]).norm(dim=1) for s, hop in hops]
    apart = torch.cat(steps) if steps else torch.zeros(0)
    moved = apart[apart > 0.25 * apart.mean()]
    return float(moved.median()) if len(moved) else None
