"""The world model: what an action does to the state of a scene, learned from episodes.

    s_t = state(encoder(x_t))                     z = latent(s_<=t, s_>t)
    s_hat_(t+1) = dynamics(s_hat_<=t, a_t, z)     E = mean over steps of D(s_hat_(t+k), s_(t+k))

The loss is the energy of the rolled-out future plus what keeps states informative: variance and
covariance of the VICReg family, an inverse model (states must tell the action between them), and
temporal similarity (neighbours lie near each other). Each is a weight, so that what it is worth can
be measured by leaving it out (Sobal et al. 2025, PLDM, section 3; EB-JEPA, 2026).

Shapes: video `B T C H W` uint8, actions `B T-1 A`, states `B T P D`, latent `B L Z`; a state sees K
frames, so that T frames give T - K + 1 states.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from ..data.episodes import Facts
from ..data.transforms import normalise
from ..distributed import rank
from ..energies.distances import Distance, distance
from ..energies.inference import argmin_codes, argmin_z, strayed
from ..energies.regularizers import Regularizer, VCReg
from ..errors import UserError, within
from ..models.conv import ConvEncoder
from ..models.dynamics import Dynamics, InverseDynamics, Readout, VectorDynamics
from ..models.encoder import VideoEncoder
from ..models.latent import Latent, LatentDraw, NoLatent
from ..models.latent_base import Places
from ..models.rope import Grid
from ..models.state import MapState, Proprioception, StateHead
from ..randomness import CLIP, LATENT, generator
from .inference import InferZ
from .passages import Passage, passages
from .schedules import warmup_cosine
from .second_level import untouched
from .settings import numbers_of, refuse_backend, refuse_rates, refuse_windows, seen_by

READ = ("state", "reward")  # what the readouts tell of a state


class WorldModel(L.LightningModule):
    """An action-conditioned joint-embedding predictive model.

    Args:
        facts: of the episodes: environment, actions, states.
        encoder: makes the encoder of the K frames that one state sees.
        train: `full` trains the encoder too, `frozen` leaves it as it was loaded.
        state: makes the head from the width and grid of the tokens: one vector with a map of the
            scene or without, or patch tokens.
        dynamics: makes the dynamics from width and tokens of a state, width of an action, of z, and
            how many of a state's numbers say where the agent is.
        latent: makes the latent from the width of a state; one z for a passage.
        infer_z: how z is found: by the posterior alone, or by minimising the energy.
        regularizer: makes the term that keeps the states from collapse.
        context: states that are known before a rollout begins.
        horizon: steps of a rollout; one begins at every state that has so many after it.
        piece: frames of each window that are looked at while the encoder learns; None for all.
        settle: share of all steps, at the end, in which the encoder stands still and the dynamics
            alone learn from whole windows: long rollouts are then cheap, and their target is fixed.
        distance: `D`.
        prediction: weight of the energy.
        regularize: weight of the regulariser's terms.
        inverse: weight of the inverse model's squared error.
        temporal: weight of the squared distance of neighbouring states.
        steady: weight of the squared distance of the scene's numbers, those of a state beyond its
            `aim`, to those of another frame of the window; 0 where the scene changes.
        felt: names of state numbers that the agent feels itself (proprioception), added to what it
            sees; those of `facts.state_names`.
        read_hidden: width of a network that reads numbers off states beside the linear map; 0 for
            none.
        read_sought: that network looks for things in a state's map, see `Seeker`.
        learning_rate: peak of the schedule.
        final_learning_rate: end of the cosine, as a share of the peak.
        warmup: share of all steps in which the learning rate rises.
        weight_decay: on matrices.
        betas: of AdamW.
        seed: of z's draws.
        compile: backend of `torch.compile` for encoder and dynamics; none where not given.

    Raises:
        UserError: parts that do not fit together.
    """

    def __init__(
        self,
        facts: Facts,
        encoder: Callable[[], VideoEncoder] = ConvEncoder,
        train: Literal["full", "frozen"] = "full",
        state: Callable[[int, Grid], StateHead] = MapState,
        dynamics: Callable[[int, int, int, int, int], Dynamics] = VectorDynamics,
        latent: Callable[[int], Latent] = NoLatent,
        infer_z: InferZ = InferZ(),
        regularizer: Callable[[], Regularizer] = VCReg,
        context: int = 1,
        horizon: int = 6,
        piece: int | None = 8,
        settle: float = 0.5,
        distance: Distance = "l2",
        prediction: float = 50.0,
        regularize: float = 20.0,
        inverse: float = 50.0,
        temporal: float = 1.0,
        steady: float = 25.0,
        felt: Sequence[str] = (),
        read_hidden: int = 0,
        read_sought: bool = False,
        learning_rate: float = 2e-3,
        final_learning_rate: float = 0.01,
        warmup: float = 0.05,
        weight_decay: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.99),
        seed: int = 0,
        compile: str | None = None,
    ) -> None:
        super().__init__()
        refuse_windows(context, horizon, piece, settle)
        refuse_rates(learning_rate, final_learning_rate, warmup, weight_decay, betas)
        refuse_backend(compile)
        weights = {"prediction": prediction, "regularize": regularize, "read_hidden": read_hidden}
        within("model", 0, **weights, inverse=inverse, temporal=temporal, steady=steady)
        self.facts, self.context, self.horizon = facts, context, horizon
        self.piece, self.settle = piece, settle
        self.encoder = encoder()
        self.encoder.requires_grad_(train == "full")
        self.trained = train == "full"
        self.state = state(self.encoder.width, self.encoder.grid)
        width, tokens = self.state.width, self.state.tokens
        self.latent, self.infer_z = latent(width), infer_z
        if self.latent.per == "token":
            raise UserError("a world model has one z for a passage: model.latent.per clip or group")
        sizes = width, tokens, facts.action_size, self.latent.dim, self.state.aim
        self.dynamics = dynamics(*sizes)
        self.inverse_model = InverseDynamics(self.state.aim, facts.action_size)
        # Several ranks wait for the gradient of every weight that trains; without the term it has
        # none.
        self.inverse_model.requires_grad_(inverse > 0)
        read = [("state", facts.state_size), ("reward", 1)][not facts.state_size :]
        seen = seen_by(read_sought, read_hidden, self.state)
        self.readout = Readout(width * tokens, read, read_hidden, seen)
        self.felt = numbers_of(facts.state_names, felt)
        self.proprioception = Proprioception(len(felt), width) if felt else None
        self.regularizer, self.distance = regularizer(), distance
        self.prediction, self.regularize = prediction, regularize
        self.inverse, self.temporal, self.steady = inverse, temporal, steady
        self.scenic = steady > 0 and self.state.aim < width * tokens  # whether there is a scene
        self.learning_rate, self.final_learning_rate = learning_rate, final_learning_rate
        self.warmup, self.weight_decay, self.betas = warmup, weight_decay, betas
        self.seed, self.backend = seed, compile
        self.draws = 0  # batches seen: names the random draws, see randomness.py
        self.state_mean: Tensor
        self.state_std: Tensor
        self.register_buffer("state_mean", torch.zeros(facts.state_size))
        self.register_buffer("state_std", torch.ones(facts.state_size))

    # The step

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """Encode, infer z, imagine, energy; and what keeps the states informative."""
        self.draws += 1
        batch = self.looked_at(batch)
        states = self.encode(batch["video"], batch["state"], batch.get("scene"))  # B T P D
        passage = self.passage(states, batch["action"], self.horizon)
        z = self.inferred(passage, generator(self.seed, LATENT, rank(), self.draws))
        told = self.imagine(passage.known, passage.actions, z.z, passage.past)  # B H P D
        terms = {"energy": self.prediction * self.energy(told, passage.future).mean(), **z.terms}
        terms |= self.against_collapse(states) | self.grounded(states, batch["action"])
        terms |= self.standing(states, batch)
        loss = torch.stack(list(terms.values())).sum()
        read = self.read_error(states.detach(), batch)
        self.log_dict({"loss": loss.detach(), **{k: v.detach() for k, v in terms.items()}})
        self.log_dict({**{f"read/{k}": v.detach() for k, v in read.items()}, **z.facts})
        return {"loss": loss + torch.stack(list(read.values())).sum()}

    @property
    def settled(self) -> bool:
        """Whether the encoder stands still by now, and the dynamics alone learn."""
        return self.training and self.global_step >= self.first_stage()

    def first_stage(self) -> int:
        """Optimiser steps in which the encoder learns too."""
        return round((1 - self.settle) * self.total_steps())

    def total_steps(self) -> int:
        """Optimiser steps of the whole training."""
        return int(self.trainer.estimated_stepping_batches)

    def looked_at(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The windows, or a piece of each while the encoder learns; the same piece of all."""
        frames = batch["video"].shape[1]
        if self.piece is None or self.piece >= frames or self.settled:
            return batch
        draw = generator(self.seed, CLIP, rank(), self.draws)
        first = int(torch.randint(frames - self.piece + 1, (), generator=draw))
        other = int(torch.randint(frames - self.encoder.frames + 1, (), generator=draw))
        seen, done = slice(first, first + self.piece), slice(first, first + self.piece - 1)
        cut = {"video": seen, "scene": seen, "state": seen, "action": done, "reward": done}
        looked = {name: batch[name][:, part] for name, part in cut.items() if name in batch}
        if self.scenic:
            there = slice(other, other + self.encoder.frames)
            parts = ("video", "state", "scene")
            looked |= {f"other/{name}": batch[name][:, there] for name in parts if name in batch}
        return looked

    def encode(
        self, video: Tensor, own: Tensor | None = None, scene: Tensor | None = None
    ) -> Tensor:
        """Frames to states.

        Args:
            video: `B T C H W` uint8.
            own: the true states `B T S`, where it feels some.
            scene: the same frames as memory completes them; None where nothing is remembered.

        Returns:
            `B T-K+1 P D`.
        """
        k = self.encoder.frames
        parts = [video] if scene is None else [video, scene]
        parts = parts if self.state.apart else parts[-1:]
        cut = [part.unfold(1, k, 1) for part in parts]  # B T' C H W K, once or twice
        clips = (torch.cat(cut) if len(cut) > 1 else cut[0]).permute(0, 1, 5, 2, 3, 4)
        learns = torch.is_grad_enabled() and not self.settled
        with torch.set_grad_enabled(learns and self.trained):
            tokens = self.encoder(normalise(clips.flatten(0, 1)))
        with torch.set_grad_enabled(learns):
            states: Tensor = self.state(*tokens.chunk(len(parts)))
            if self.proprioception is not None and own is not None:
                scaled = (own - self.state_mean) / self.state_std
                states = self.proprioception(states, scaled[:, k - 1 :, self.felt].flatten(0, 1))
        return states.view(len(video), -1, *states.shape[1:])

    def passage(self, states: Tensor, actions: Tensor, horizon: int | None = None) -> Passage:
        """Passages of `horizon` steps from states `B T P D` and the actions of their window.

        One begins after every `context` states, as far as the window reaches: `B J` of them in all.
        Without a horizon there is one, to the end of the window.
        """
        return passages(states, actions[:, self.encoder.frames - 1 :], self.context, horizon)

    def imagine(
        self, known: Tensor, actions: Tensor, z: Tensor | None = None, past: Tensor | None = None
    ) -> Tensor:
        """The states `B H P D` after actions `B H A`; see `Dynamics.rollout`."""
        told: Tensor = self.dynamics.rollout(known, actions, z, past)
        return told

    def energy(self, told: Tensor, future: Tensor) -> Tensor:
        """`E`, the mean of D over steps: `B H P D` twice to `B`.

        What says where the agent is and what else there is in a state count as one each, however
        many numbers they have.
        """
        told, future, d = told.flatten(2), future.flatten(2), distance(self.distance)
        aim = self.state.aim
        energy = d(told[..., :aim], future[..., :aim]).mean(1)
        rest = told.shape[-1] > aim
        return energy + d(told[..., aim:], future[..., aim:]).mean(1) if rest else energy

    def against_collapse(self, states: Tensor) -> dict[str, Tensor]:
        """The regulariser's terms; in the second stage, which changes no state, they are idle."""
        if self.settled:
            return untouched(self.perception())
        terms: dict[str, Tensor] = {}
        for rows in self.state.samples(states):
            for name, value in self.regularizer(rows).items():
                key = f"reg/{name}"
                weighted = self.regularize * value
                terms[key] = terms[key] + weighted if key in terms else weighted
        return terms

    def standing(self, states: Tensor, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """What a scene's numbers differ by from those of another time of the window."""
        if not self.scenic or self.settled:
            return {}
        other = states[:, -1:]
        if "other/video" in batch:
            own, scene = batch.get("other/state"), batch.get("other/scene")
            other = self.encode(batch["other/video"], own, scene)
        aim = self.state.aim
        gap = states.flatten(2)[:, :1, aim:] - other.flatten(2)[..., aim:]
        return {"steady": self.steady * gap.square().mean()}

    def perception(self) -> list[nn.Parameter]:
        """The weights that make states out of pictures, and the inverse model that shapes them."""
        parts = (self.encoder, self.state, self.proprioception, self.inverse_model)
        return [p for part in parts if part is not None for p in part.parameters()]

    def grounded(self, states: Tensor, actions: Tensor) -> dict[str, Tensor]:
        """What ties states to actions and to their neighbours, where it has a weight."""
        terms: dict[str, Tensor] = {}
        if self.settled:
            return terms
        actions = actions[:, self.encoder.frames - 1 :]
        if self.inverse:
            error = (self.inverse_model(self.state.moving(states)) - actions).square().mean()
            terms["inverse"] = self.inverse * error
        if self.temporal:
            terms["temporal"] = self.temporal * (states[:, 1:] - states[:, :-1]).square().mean()
        return terms

    def read_error(self, states: Tensor, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Squared errors of the readouts, whose gradient ends at the states."""
        first = self.encoder.frames - 1
        truth = {"reward": batch["reward"][:, first:, None]}
        errors = {"reward": (self.readout(states[:, 1:], "reward") - truth["reward"]).square()}
        if self.facts.state_size:
            scaled = (batch["state"][:, first:] - self.state_mean) / self.state_std
            errors["state"] = (self.readout(states, "state") - scaled).square()
        return {name: error.mean() for name, error in errors.items()}

    # The latent: one z for a passage

    def inferred(self, passage: Passage, generator: torch.Generator | None = None) -> LatentDraw:
        """The z that `infer_z` asks for, with what it costs."""
        s_x, s_y = passage.known.flatten(1, 2), passage.future.flatten(1, 2)
        places = self.places(passage)
        if self.infer_z.by == "posterior" or not self.latent.dim:
            return self.latent.posterior(s_x, s_y, generator, places)
        draw = self.latent.explained(s_x, s_y, self.explain(passage, generator), places)
        if draw.z is None or not self.training:
            return draw
        return draw._replace(z=self.stray(draw.z, generator))

    def stray(self, z: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Z `B L Z`, some of them another code, as `infer_z.stray` says; to learn with."""
        codes, share = self.latent.codes, self.infer_z.stray
        return strayed(z, codes, share, generator) if share and codes is not None else z

    def explain(self, passage: Passage, generator: torch.Generator | None = None) -> Tensor:
        """`z* = argmin_z E(x, y, z)`, `B L Z`: over all codes, else from the posterior down."""
        still = Passage(*(part.detach() for part in passage))

        def energy(z: Tensor) -> Tensor:
            each = still.repeated(z.shape[1])
            told = self.imagine(each.known, each.actions, z.flatten(0, 1), each.past)
            return self.energy(told, each.future).view(z.shape[:2])

        codes = self.latent.codes
        with torch.no_grad():
            if codes is not None:
                return argmin_codes(energy, codes.detach(), len(still.known)).z
            s_x, places = still.known.flatten(1, 2), self.places(still)
            s_y = still.future.flatten(1, 2)
            first = self.latent.posterior(s_x, s_y, generator, places).z
            assert first is not None
            starts = [first[None]]
            if self.infer_z.restarts:
                drawn = self.latent.sample(s_x, self.infer_z.restarts, generator, places)
                starts.append(drawn if drawn is not None else first[:0][None])
        return argmin_z(energy, torch.cat(starts).transpose(0, 1), self.infer_z.steps).z

    def futures(
        self, known: Tensor, count: int, generator: torch.Generator | None = None
    ) -> Tensor | None:
        """`count` draws of z for what may come after `known` `B T P D`: `B count L Z`, or None."""
        where = Places(self._times(known, 0), self._times(known, 0))
        drawn = self.latent.sample(known.flatten(1, 2), count, generator, where)
        return None if drawn is None else drawn.transpose(0, 1)

    def places(self, passage: Passage) -> Places:
        """Known and future tokens by their time."""
        known, future = passage.known, passage.future
        return Places(self._times(known, 0), self._times(future, known.shape[1]))

    def _times(self, states: Tensor, first: int) -> Tensor:
        b, t, p, _ = states.shape
        time = torch.arange(first, first + t, device=states.device).repeat_interleave(p)
        token = torch.arange(p, device=states.device).repeat(t)
        return torch.stack((time, token, torch.zeros_like(time)), 1).expand(b, -1, -1)

    def standardise(self, mean: Any, std: Any) -> None:
        """Mean and deviation `S` of the environment's states, the scale of their readout."""
        self.state_mean.copy_(torch.as_tensor(mean))
        self.state_std.copy_(torch.as_tensor(std).clamp_min(1e-6))

    # What others ask

    def read(self, states: Tensor, name: Literal["state", "reward"] = "state") -> Tensor:
        """What a readout tells of states `... P D`: environment states `... S`, rewards `... 1`."""
        told: Tensor = self.readout(states, name)
        return told * self.state_std + self.state_mean if name == "state" else told

    # Lightning's side

    def setup(self, stage: str) -> None:
        """Compile what takes the time."""
        if self.backend and stage == "fit":
            for part in (self.encoder, self.dynamics):
                part.compile(backend=self.backend)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW, warm-up and cosine."""
        seeing = {id(p) for p in self.perception()}
        groups: list[dict[str, Any]] = []
        for perceives in (False, True):
            weights = [
                p for p in self.parameters() if p.requires_grad and (id(p) in seeing) == perceives
            ]
            for decay, matrices in ((self.weight_decay, True), (0.0, False)):
                chosen = [p for p in weights if (p.ndim > 1) == matrices]
                groups.append({"params": chosen, "weight_decay": decay})
        optimizer = torch.optim.AdamW(groups, self.learning_rate, self.betas)
        rates: list[Callable[[int], float]] = [
            partial(self.rate, perceives) for perceives in (False, False, True, True)
        ]
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, rates)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step", "name": "lr"},
        }

    def rate(self, perceives: bool, step: int) -> float:
        """Share of the learning rate: each stage has its own warm-up and cosine."""
        total, first = self.total_steps(), self.first_stage()
        if step >= first and perceives:
            return 0.0
        begin, end = (0, first) if step < first else (first, total)
        warmup = int(self.warmup * (end - begin))
        share = self.final_learning_rate
        return warmup_cosine(step - begin + 1, end - begin, warmup, 0.0, 1.0, share)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The counter of the random draws, and what rebuilds the encoder."""
        checkpoint["world_model"] = {"draws": self.draws}
        checkpoint["encoder_config"] = self.encoder.config

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the counter."""
        self.draws = checkpoint["world_model"]["draws"]
