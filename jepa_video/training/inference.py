"""A pair (x, y) as the energy sees it, and inference over its latent.

    z* = argmin_z E(x, y, z)        F(x, y) = E(x, y, z*)        y_hat ~ Pred(s_x, z), z ~ p(z | x)

`EnergyModel` is the part of a video JEPA that asks such questions, in training and in use alike;
the search itself is in `energies/inference.py`. Shapes: tokens `B N D`, latent `B L Z`, masks
`B K`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from ..data.masks import MaskGroup
from ..energies.inference import Energy, Minimum, argmin_codes, argmin_z, code_energies, free_energy
from ..errors import UserError, within
from ..models.latent import DiscreteLatent, Latent, LatentDraw, Places
from ..models.rope import Grid, grid_positions


class Pair(NamedTuple):
    """Context and target of one mask group.

    Attributes:
        s_x: context tokens `B K D`.
        y: target tokens as the energy compares them, `B M D`.
        mask: where they lie.
        whole: all tokens of the target clip `B N D`, of which a z for the whole clip is inferred.
    """

    s_x: Tensor
    y: Tensor
    mask: MaskGroup
    whole: Tensor

    def repeated(self, times: int) -> Pair:
        """Every clip `times` times in a row."""
        s_x, y, whole = (t.repeat_interleave(times, 0) for t in (self.s_x, self.y, self.whole))
        mask = MaskGroup(*(m.repeat_interleave(times, 0) for m in self.mask))
        return Pair(s_x, y, mask, whole)

    def detached(self) -> Pair:
        """The same pair, cut off from what made it, so that a descent over z can look at it."""
        mask = MaskGroup(*(_plain(m) for m in self.mask))
        return Pair(_plain(self.s_x), _plain(self.y), mask, _plain(self.whole))


def _plain(tensor: Tensor) -> Tensor:
    """Without gradient; a copy where inference mode made it, since autograd cannot save those."""
    if not tensor.is_inference():
        return tensor.detach()
    with torch.inference_mode(False):
        return tensor.clone()


@dataclass(frozen=True)
class InferZ:
    """How z is found for a pair.

    Args:
        by: `posterior` takes the network's word; `minimise` starts from it and looks for the z of
            lowest energy (all codes where z is discrete, else descent with restarts).
        restarts: further starts, drawn from the prior.
        steps: of the descent.
        stray: share of a world model's passages that learn with any code in place of the best.
            A code that is never the best is not trained else, and what it foretells is nonsense,
            while plans over z draw all codes alike (relaxed winner-takes-all: Rupprecht et al.
            2017, "Learning in an uncertain world", eq. 5).
    """

    by: Literal["posterior", "minimise"] = "posterior"
    restarts: int = 3
    steps: int = 20
    stray: float = 0.0

    def __post_init__(self) -> None:
        within("model.infer_z", 0, 1, stray=self.stray)
        for name in ("restarts", "steps"):
            if getattr(self, name) < 0:
                raise UserError(
                    f"model.infer_z.{name} must be 0 or more, not {getattr(self, name)}"
                )


class EnergyModel(nn.Module):
    """What a predictor, a latent and an energy allow to ask of a pair.

    Attributes:
        latent: the kind of z.
        infer_z: how training infers it.
    """

    latent: Latent
    infer_z: InferZ

    @property
    def grid(self) -> Grid:
        """Tokens of a clip along time, height and width."""
        raise NotImplementedError

    def predict(self, s_x: Tensor, mask: MaskGroup, z: Tensor | None) -> Tensor:
        """Target tokens `B M D` from those of the context and z."""
        raise NotImplementedError

    def energy(self, y_hat: Tensor, y: Tensor) -> Tensor:
        """`E` of each pair, `B M D` twice to `B`."""
        raise NotImplementedError

    def places(self, mask: MaskGroup, s_x: Tensor) -> Places:
        """Coordinates of context and of the target tokens that z is inferred from."""
        where = grid_positions(self.grid, s_x.device)
        if self.latent.per == "clip":
            return Places(where[mask.context], where.expand(len(s_x), -1, -1))
        return Places(where[mask.context], where[mask.target])

    def posterior(self, pair: Pair, generator: torch.Generator | None = None) -> LatentDraw:
        """The z of the network that looks at both sides."""
        seen = pair.whole if self.latent.per == "clip" else pair.y
        return self.latent.posterior(pair.s_x, seen, generator, self.places(pair.mask, pair.s_x))

    def inferred(self, pair: Pair, generator: torch.Generator | None = None) -> LatentDraw:
        """The z that `infer_z` asks for, with what it costs."""
        if self.infer_z.by == "posterior" or not self.latent.dim:
            return self.posterior(pair, generator)
        best = self.infer(pair, generator)
        seen = pair.whole if self.latent.per == "clip" else pair.y
        return self.latent.explained(pair.s_x, seen, best.z, self.places(pair.mask, pair.s_x))

    def energy_of_z(self, pair: Pair) -> Energy:
        """`E(x, y, .)` of each pair: candidates `B S L Z` to `B S`."""
        pair = pair.detached()

        def energy(z: Tensor) -> Tensor:
            each = pair.repeated(z.shape[1])
            y_hat = self.predict(each.s_x, each.mask, z.flatten(0, 1))
            return self.energy(y_hat, each.y).view(z.shape[:2])

        return energy

    def infer(
        self,
        pair: Pair,
        generator: torch.Generator | None = None,
        restarts: int | None = None,
        steps: int | None = None,
    ) -> Minimum:
        """`z* = argmin_z E(x, y, z)`, never above the energy of the posterior's z.

        Args:
            pair: context and target.
            generator: of the posterior's draw and the restarts.
            restarts: further starts from the prior; those of `infer_z` where not given.
            steps: of the descent, likewise.

        Returns:
            `z` `B L Z`, its energy `B`, and which start or code it came from, `B`.

        Raises:
            UserError: there is no latent to infer, or one code for each token.
        """
        self.require_searchable()
        restarts = self.infer_z.restarts if restarts is None else restarts
        steps = self.infer_z.steps if steps is None else steps
        energy, codes = self.energy_of_z(pair), self.latent.codes
        with torch.no_grad():
            if codes is not None:
                return argmin_codes(energy, codes.detach(), len(pair.y))
            first = self.posterior(pair, generator).z
            assert first is not None
            starts = [first[None]]
            if restarts:
                starts.append(self.prior_draws(pair, restarts, generator))
        return argmin_z(energy, torch.cat(starts).transpose(0, 1), steps)

    def require_searchable(self) -> None:
        """Say it where there is no z, or too many values of it to try."""
        if not self.latent.dim:
            raise UserError("model.latent is NoLatent: there is no z to infer")
        if isinstance(self.latent, DiscreteLatent) and self.latent.codes is None:
            raise UserError(
                "model.infer_z cannot try K codes for each of many tokens: "
                "give model.latent.per clip or group, or infer_z.by posterior"
            )

    def prior_draws(self, pair: Pair, n: int, generator: torch.Generator | None = None) -> Tensor:
        """`n` draws of z from p(z | x), `n B L Z`; of a pair only the context is looked at."""
        z = self.latent.sample(pair.s_x, n, generator, self.places(pair.mask, pair.s_x))
        if z is None:
            raise UserError("model.latent is NoLatent: there is no z to draw")
        return z

    def free_energy(
        self,
        pair: Pair,
        beta: float = math.inf,
        generator: torch.Generator | None = None,
        samples: int = 16,
    ) -> Tensor:
        """`F(x, y)` of each pair, `B`; without a latent it is the energy itself.

        `beta` infinite minimises over z; finite averages over the prior (over all codes where z is
        discrete), `-1/beta log mean exp(-beta E)`.
        """
        if not self.latent.dim:
            with torch.no_grad():
                return self.energy(self.predict(pair.s_x, pair.mask, None), pair.y)
        if math.isinf(beta):
            return self.infer(pair, generator).energy
        energy, codes = self.energy_of_z(pair), self.latent.codes
        with torch.no_grad():
            if codes is not None:
                return free_energy(code_energies(energy, codes, len(pair.y)), beta)
            z = self.prior_draws(pair, samples, generator).transpose(0, 1)
            return free_energy(energy(z), beta)

    @torch.no_grad()
    def sample_futures(
        self, pair: Pair, n: int, generator: torch.Generator | None = None
    ) -> Tensor:
        """`n` predictions of the target, `n B M D`, each from its own draw of the prior."""
        z = self.prior_draws(pair, n, generator)
        return torch.stack([self.predict(pair.s_x, pair.mask, one) for one in z])
