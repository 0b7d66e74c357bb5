"""The pretraining module: a video JEPA as a latent-variable energy-based model.

    s_x = encoder(x, keep=context)          s_y = target(y)
    z   = latent(s_x, s_y)                  s_y_hat = predictor(s_x, positions, z)
    E(x, y, z) = D(s_y, s_y_hat)            loss = E + price of z + regulariser of s_x (and s_y)

Every method is a setting: `target=ema` without regulariser is V-JEPA, `target=shared` with VICReg
the recipe of LeCun (2022, section 4.5), both together the hybrid that is the default.
Shapes: video `B T C H W` uint8, clip `B C T S S` float, tokens `B N D`, masks `B K`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from ..data.masks import MaskGroup, MaskSampler, PastToFuture
from ..data.transforms import Augment, centre
from ..distributed import rank, world_size
from ..energies.contrastive import Contrastive, NoContrast
from ..energies.distances import Distance, distance
from ..energies.regularizers import NoRegularizer, Regularizer, VCReg
from ..errors import UserError
from ..models.blocks import gather_tokens
from ..models.encoder import VideoEncoder, VideoViT
from ..models.expander import Expander
from ..models.latent import Latent, NoLatent
from ..models.predictor import MaskedPredictor
from ..models.rope import Grid
from ..randomness import AUGMENT, LATENT, MASK, generator
from .rollout import rollout
from .schedules import cosine, warmup_cosine
from .target import ema_update, frozen_copy


class VideoJEPA(L.LightningModule):
    """Joint-embedding predictive architecture for video.

    Args:
        encoder: makes the context encoder; the target encoder is made from it.
        predictor: makes the predictor from width, grid and width of z.
        latent: makes the latent from the width of the tokens.
        expander: makes the expander in front of the regulariser.
        regularizer: makes the term that keeps the representation from collapse.
        contrast: makes the term that pushes the energy up at the other clips' targets; it acts on
            mean tokens of prediction and target.
        masks: makes the sampler of context and target.
        augment: makes the augmentation of the batch.
        target: `ema` follows the encoder without gradient; `shared` is the encoder itself, and
            `separate` an encoder with weights of its own, both with gradient on both branches.
        prediction: `parallel` tells all targets at once; `rollout` tells the future one time slot
            after the other, each from what was told before (the multi-step loss), and takes
            `masks=PastToFuture` that hides nothing of the past.
        distance: `D` between prediction and target tokens.
        normalise_target: `layer` norms each target token over its width (V-JEPA), `instance` each
            channel over the tokens of its clip (data2vec, Baevski et al. 2022, section 3.3): what
            all tokens of a clip share, such as its colour, then costs nothing; `none` compares raw
            states.
        regularize: statistics over all tokens, over the clips' mean tokens, or both.
        momentum: of the EMA target, at the first and at the last step.
        learning_rate: peak of the schedule.
        final_learning_rate: end of the cosine, as a share of the peak.
        warmup: share of all steps in which the learning rate rises.
        weight_decay: at the first and at the last step; not on biases and norms.
        betas: of AdamW.
        seed: of every draw in training (masks, augmentation, z).
        compile: backend of `torch.compile` for encoders and predictor, e.g. `inductor`; none where
            not given.
    """

    def __init__(
        self,
        encoder: Callable[[], VideoEncoder] = VideoViT,
        predictor: Callable[[int, Grid, int], MaskedPredictor] = MaskedPredictor,
        latent: Callable[[int], Latent] = NoLatent,
        expander: Callable[[int], Expander] = Expander,
        regularizer: Callable[[], Regularizer] = VCReg,
        contrast: Callable[[], Contrastive] = NoContrast,
        masks: Callable[[], MaskSampler] = PastToFuture,
        augment: Callable[[], Augment] = Augment,
        target: Literal["ema", "shared", "separate"] = "ema",
        prediction: Literal["parallel", "rollout"] = "parallel",
        distance: Distance = "l1",
        normalise_target: Literal["layer", "instance", "none"] = "layer",
        regularize: Sequence[Literal["tokens", "clips"]] = ("tokens", "clips"),
        momentum: tuple[float, float] = (0.9999, 1.0),
        learning_rate: float = 3e-3,
        final_learning_rate: float = 0.01,
        warmup: float = 0.1,
        weight_decay: tuple[float, float] = (0.04, 0.04),
        betas: tuple[float, float] = (0.9, 0.95),
        seed: int = 0,
        compile: str | None = None,
    ) -> None:
        super().__init__()
        known = torch._dynamo.list_backends(exclude_tags=()) if isinstance(compile, str) else []
        if isinstance(compile, str) and compile not in known:
            names = ", ".join(torch._dynamo.list_backends())
            raise UserError(f"model.compile: there is no backend {compile!r}; there are {names}")
        self.encoder = encoder()
        self.ema = target == "ema"
        self.target = frozen_copy(self.encoder) if self.ema else self.encoder
        if target == "separate":
            self.target = encoder()
        self.latent = latent(self.encoder.width)
        self.predictor = predictor(self.encoder.width, self.encoder.grid, self.latent.dim)
        self.regularizer, self.contrast = regularizer(), contrast()
        # Without a regulariser the expander would be parameters that no gradient reaches.
        idle = isinstance(self.regularizer, NoRegularizer)
        self.expander = Expander(self.encoder.width) if idle else expander(self.encoder.width)
        self.masks, self.augment = masks(), augment()
        self.rolled_out = prediction == "rollout"
        if self.rolled_out and getattr(self.masks, "hide", 1.0) > 0:
            raise UserError("model.prediction rollout needs model.masks PastToFuture with hide 0")
        self.regularize = regularize
        self.distance, self.normalise_target = distance, normalise_target
        self.momentum, self.weight_decay, self.betas = momentum, weight_decay, betas
        self.learning_rate, self.final_learning_rate = learning_rate, final_learning_rate
        self.warmup, self.seed, self.backend = warmup, seed, compile
        self.draws = 0  # batches seen: names the random draws, see randomness.py

    # The step

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """Encode context and target, infer z, predict, energy, log."""
        clip, groups = self.draw(batch["video"])
        s_y = self.target_tokens(clip)  # B N D
        parts: list[dict[str, Tensor]] = []
        for mask in groups:
            s_x = self.encoder(clip, mask.context)  # B K D
            y = self.normalised(gather_tokens(s_y, mask.target))  # B M D
            z = self.latent.posterior(s_x, y, self.generator(LATENT))
            y_hat = self.predict(s_x, mask, z.z)  # B M D
            energy = self.energy(y_hat, y)  # B
            against = self.regularization(s_x, s_y) | self.contrast(y_hat.mean(1), y.mean(1))
            parts.append({"energy": energy, **z.terms, **against})
        terms = {name: torch.stack([part[name] for part in parts]).mean(0) for name in parts[0]}
        loss = torch.stack([value.mean() for value in terms.values()]).sum()
        self.log_dict({"loss": loss.detach(), **{k: v.detach().mean() for k, v in terms.items()}})
        self.log_dict({name: value.detach() for name, value in z.facts.items()})
        energy = terms["energy"].detach()
        return {"loss": loss, "energy": energy, "s_x": s_x.detach(), "s_y": s_y.detach()}

    def draw(self, video: Tensor) -> tuple[Tensor, list[MaskGroup]]:
        """Augmented clip and masks of this step: `B T C H W` uint8 to `B C T S S` and groups."""
        self.draws += 1
        clip = self.augment(video, self.encoder.image, self.generator(AUGMENT))
        groups = self.masks(self.encoder.grid, len(video), self.generator(MASK))
        return clip, [mask.to(video.device) for mask in groups]

    def generator(self, stream: int) -> torch.Generator:
        """The draw of `stream` for this batch on this rank."""
        return generator(self.seed, stream, rank(), self.draws)

    def target_tokens(self, clip: Tensor) -> Tensor:
        """`s_y` of the whole clip, `B N D`; without gradient where it is the EMA's."""
        with torch.set_grad_enabled(not self.ema and torch.is_grad_enabled()):
            tokens: Tensor = self.target(clip)
        return tokens

    def normalised(self, y: Tensor) -> Tensor:
        """Target tokens `B M D` as the energy compares them."""
        if self.normalise_target == "instance":
            return F.instance_norm(y.transpose(1, 2)).transpose(1, 2)
        return F.layer_norm(y, y.shape[-1:]) if self.normalise_target == "layer" else y

    def predict(self, s_x: Tensor, mask: MaskGroup, z: Tensor | None) -> Tensor:
        """Target tokens `B M D` from those of the context `B K D`, in parallel or rolled out."""
        if not self.rolled_out:
            told: Tensor = self.predictor(s_x, mask.context, mask.target, z)
            return told
        slots, height, width = self.encoder.grid
        past = s_x.unflatten(1, (-1, height * width))  # B T P D
        return rollout(self.predictor, past, z, slots - past.shape[1]).flatten(1, 2)

    def energy(self, y_hat: Tensor, y: Tensor) -> Tensor:
        """`E = D(y_hat, y)`, mean over tokens: `B M D` twice to `B`."""
        return distance(self.distance)(y_hat, y).mean(dim=1)

    def regularization(self, s_x: Tensor, s_y: Tensor) -> dict[str, Tensor]:
        """Weighted terms against collapse, of each branch that has a gradient, by name.

        Files that fail while they are read can leave a batch of one clip, which has no spread over
        clips: that level counts 0 in the step, and `DataHealth` counts the batch.
        """
        terms: dict[str, Tensor] = {}
        for level in self.regularize:
            lone = level == "clips" and len(s_x) == 1 and world_size() == 1
            pooled = level == "clips" and not lone
            for s in (s_x,) if self.ema else (s_x, s_y):
                v = self.expander(s.mean(dim=1) if pooled else s.flatten(0, 1))
                for name, value in self.regularizer(v).items():
                    value = torch.zeros_like(value) if lone else value  # the log wants its name
                    key = f"reg/{level}/{name}"
                    terms[key] = terms[key] + value if key in terms else value
        return terms

    # Frozen use

    @torch.no_grad()
    def encode(self, video: Tensor, branch: Literal["online", "target"] = "online") -> Tensor:
        """Tokens of the centred view of `B T C H W` uint8: `B N D`, no gradient."""
        encoder = self.encoder if branch == "online" else self.target
        tokens: Tensor = encoder(centre(video, self.encoder.image))
        return tokens

    @torch.no_grad()
    def energies(self, video: Tensor, draw: int = 0) -> tuple[Tensor, Tensor]:
        """Energy of true pairs and of pairs whose target is another clip of the batch: `B` each.

        Same context, same masks; the target clips move on by one place. z is inferred for each
        pair, so a latent that explains any y shows as a gap that closes.
        """
        clip = centre(video, self.encoder.image)
        masks = self.masks(self.encoder.grid, len(video), generator(self.seed, MASK, draw))
        s_y = self.target(clip)
        totals = [torch.zeros(len(video), device=clip.device) for _ in range(2)]
        for mask in (m.to(clip.device) for m in masks):
            s_x = self.encoder(clip, mask.context)
            for i, other in enumerate((s_y, s_y.roll(1, dims=0))):
                y = self.normalised(gather_tokens(other, mask.target))
                z = self.latent.posterior(s_x, y, generator(self.seed, LATENT, draw))
                y_hat = self.predict(s_x, mask, z.z)
                totals[i] += self.energy(y_hat, y) / len(masks)
        return totals[0], totals[1]

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """Energy of held-out clips, true and shuffled."""
        true, shuffled = self.energies(batch["video"], batch_idx)
        values = {"val/energy": true.mean(), "val/energy_shuffled": shuffled.mean()}
        self.log_dict(values, batch_size=len(true), sync_dist=True)
        return {"energy": true, "shuffled": shuffled}

    # Optimisation

    def setup(self, stage: str) -> None:
        """Compile what takes the time. `Module.compile` keeps names, weights and checkpoints."""
        if self.backend and stage == "fit":
            # Encoder and target share their code, in training and in measuring, for each size of
            # mask and batch: at the usual 8 variants torch would go on uncompiled.
            torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)
            for part in (self.encoder, self.target, self.predictor):
                part.compile(backend=self.backend)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW; warm-up and cosine for the rate; weight decay on matrices only."""
        named = [(n, p) for n, p in self.named_parameters() if p.requires_grad]
        decayed = [p for _, p in named if p.ndim > 1]
        free = [p for _, p in named if p.ndim <= 1]
        groups = [{"params": decayed, "decayed": True}, {"params": free, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(
            groups, self.learning_rate, self.betas, weight_decay=self.weight_decay[0]
        )
        total = self.total_steps()
        warmup = int(self.warmup * total)
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer,
            lambda step: warmup_cosine(step + 1, total, warmup, 0.0, 1.0, self.final_learning_rate),
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step", "name": "lr"},
        }

    def total_steps(self) -> int:
        """Optimiser steps of the whole run: the length of every schedule."""
        return int(self.trainer.estimated_stepping_batches)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Weight decay follows its schedule."""
        decay = cosine(self.global_step, self.total_steps(), *self.weight_decay)
        for group in optimizer.param_groups:
            if group.get("decayed"):
                group["weight_decay"] = decay

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """The EMA target moves inside the optimiser step, so that no checkpoint comes between.

        Callbacks save in their `on_train_batch_end`, which runs before the module's own.
        """
        super().optimizer_step(*args, **kwargs)
        if self.ema:
            momentum = cosine(self.global_step + 1, self.total_steps(), *self.momentum)
            ema_update(self.target, self.encoder, momentum)

    def train(self, mode: bool = True) -> VideoJEPA:
        """The EMA target stays in evaluation mode (no stochastic depth)."""
        super().train(mode)
        if self.ema:
            self.target.eval()
        return self

    # What a checkpoint needs beside the weights

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The counter of the random draws, and what rebuilds encoder and predictor."""
        checkpoint["video_jepa"] = {"draws": self.draws}
        checkpoint["encoder_config"] = self.encoder.config
        checkpoint["predictor_config"] = self.predictor.config

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the counter."""
        self.draws = checkpoint["video_jepa"]["draws"]
