"""The pretraining module: a video JEPA as a latent-variable energy-based model.

    s_x = encoder(x, keep=context)          s_y = target(y)
    z   = latent(s_x, s_y)                  s_y_hat = predictor(s_x, positions, z)
    E(x, y, z) = D(s_y, s_y_hat)            loss = E + price of z + regulariser of s_x (and s_y)

Every method is a setting: `target=ema` without regulariser is V-JEPA, `target=shared` with VICReg
the recipe of LeCun (2022, section 4.5), both together the hybrid that is the default.
Shapes: video `B T C H W` uint8, clip `B C T S S` float, tokens `B N D`, masks `B K`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from ..data.masks import MaskGroup, MaskSampler, PastToFuture
from ..data.transforms import Augment, centre
from ..distributed import rank, world_size
from ..energies.contrastive import Contrastive, NoContrast
from ..energies.distances import Distance, distance
from ..energies.regularizers import NoRegularizer, Regularizer, VCReg, around_places, around_times
from ..errors import UserError, within
from ..models.blocks import gather_tokens
from ..models.encoder import VideoEncoder, VideoViT
from ..models.expander import Expander
from ..models.hierarchy import whole_clip, windows
from ..models.latent import Latent, NoLatent
from ..models.predictor import MaskedPredictor
from ..models.rope import Grid
from ..randomness import AUGMENT, LATENT, MASK, generator
from .inference import EnergyModel, InferZ, Pair
from .levels import Levels
from .rollout import rollout
from .schedules import cosine, warmup_cosine
from .second_level import LevelAbove, NoLevelAbove
from .settings import refuse_backend, refuse_rates
from .target import ema_update, frozen_copy


class VideoJEPA(EnergyModel, Levels):
    """Joint-embedding predictive architecture for video.

    Args:
        encoder: makes the context encoder; the target encoder is made from it.
        predictor: makes the predictor from width, grid and width of z.
        latent: makes the latent from the width of the tokens.
        infer_z: how z is found: by the posterior alone, or by minimising the energy from there.
        expander: makes the expander in front of the regulariser.
        regularizer: makes the term that keeps the representation from collapse.
        contrast: makes the term that pushes the energy up at the other clips' targets; it acts on
            mean tokens of prediction and target.
        level2: makes the second level from the width of the tokens and their grid. A clip is then
            several windows of the encoder's frames, which level 1 sees one by one.
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
        regularize: statistics over all tokens (`tokens`), over all tokens less the mean of those at
            their place (`places`: clips that share their scenery differ by little), or less their
            mean over time (`times`: what moves), and over the clips' mean tokens (`clips`): one of
            them or several.
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
        infer_z: InferZ = InferZ(),
        expander: Callable[[int], Expander] = Expander,
        regularizer: Callable[[], Regularizer] = VCReg,
        contrast: Callable[[], Contrastive] = NoContrast,
        level2: Callable[[int, Grid], LevelAbove] = NoLevelAbove,
        masks: Callable[[], MaskSampler] = PastToFuture,
        augment: Callable[[], Augment] = Augment,
        target: Literal["ema", "shared", "separate"] = "ema",
        prediction: Literal["parallel", "rollout"] = "parallel",
        distance: Distance = "l1",
        normalise_target: Literal["layer", "instance", "none"] = "layer",
        regularize: Sequence[Literal["tokens", "places", "times", "clips"]] = ("tokens", "clips"),
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
        refuse_rates(learning_rate, final_learning_rate, warmup, weight_decay, betas)
        within("model", 0, 1, momentum=momentum)
        refuse_backend(compile)
        self.encoder = encoder()
        backdrop = getattr(self.encoder, "backdrop", None)
        if backdrop is not None and not backdrop.fitted:
            raise UserError("model.encoder.backdrop is of world models: here no mean is known")
        self.ema = target == "ema"
        self.target = frozen_copy(self.encoder) if self.ema else self.encoder
        if target == "separate":
            self.target = encoder()
        if infer_z.stray:
            raise UserError("model.infer_z.stray is of world models: pretrain judges no plans by z")
        self.latent, self.infer_z = latent(self.encoder.width), infer_z
        if infer_z.by == "minimise" and self.latent.dim:
            self.require_searchable()
        self.predictor = predictor(self.encoder.width, self.encoder.grid, self.latent.dim)
        self.regularizer, self.contrast = regularizer(), contrast()
        # Without a regulariser the expander would be parameters that no gradient reaches.
        idle = isinstance(self.regularizer, NoRegularizer)
        self.expander = Expander(self.encoder.width) if idle else expander(self.encoder.width)
        self.level2 = level2(self.encoder.width, self.encoder.grid)
        self.masks, self.augment = masks(), augment()
        self.rolled_out = prediction == "rollout"
        if self.rolled_out and getattr(self.masks, "hide", 1.0) > 0:
            raise UserError("model.prediction rollout needs model.masks PastToFuture with hide 0")
        if self.rolled_out and self.latent.per == "token":
            raise UserError("model.prediction rollout needs a z per clip or group, not per token")
        if "times" in regularize and self.encoder.grid[0] < 2:
            raise UserError("model.regularize times needs two or more time slots in a clip")
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
        if self.turn() == "second":
            return self.second_step(s_y)
        parts: list[dict[str, Tensor]] = []
        for mask in groups:
            pair = self.pair(clip, s_y, mask)  # s_x: B K D, y: B M D
            z = self.inferred(pair, self.generator(LATENT))
            y_hat = self.predict(pair.s_x, mask, z.z)  # B M D
            energy = self.energy(y_hat, pair.y)  # B
            against = self.regularization(pair.s_x, s_y, mask.context)
            against |= self.contrasted(y_hat, pair.y)
            parts.append({"energy": energy, **z.terms, **against})
        terms = {name: torch.stack([part[name] for part in parts]).mean(0) for name in parts[0]}
        terms |= self.above(s_y)
        loss = torch.stack([value.mean() for value in terms.values()]).sum()
        self.log_dict({"loss": loss.detach(), **{k: v.detach().mean() for k, v in terms.items()}})
        self.log_dict({name: value.detach() for name, value in z.facts.items()})
        energy = terms["energy"].detach()
        return {"loss": loss, "energy": energy, "s_x": pair.s_x.detach(), "s_y": s_y.detach()}

    def draw(self, video: Tensor) -> tuple[Tensor, list[MaskGroup]]:
        """Augmented clip and masks of this step: `B T C H W` uint8 to `B C T S S` and groups."""
        self.draws += 1
        clip = self.augment(video, self.encoder.image, self.generator(AUGMENT))
        clip = windows(clip, self.encoder.frames)
        groups = self.masks(self.encoder.grid, len(clip), self.generator(MASK))
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

    def pair(self, clip: Tensor, s_y: Tensor, mask: MaskGroup) -> Pair:
        """Context of a clip `B C T S S`, encoded, beside its target, of tokens `s_y` `B N D`."""
        return self.paired(self.encoder(clip, mask.context), s_y, mask)

    def paired(self, s_x: Tensor, s_y: Tensor, mask: MaskGroup) -> Pair:
        """Context tokens `B K D` beside the target's part of `s_y` `B N D`, as it is compared."""
        y = self.normalised(gather_tokens(s_y, mask.target))
        return Pair(s_x, y, mask, self.normalised(s_y) if self.latent.per == "clip" else s_y)

    @property
    def grid(self) -> Grid:
        """Tokens of a clip along time, height and width."""
        return self.encoder.grid

    def predict(self, s_x: Tensor, mask: MaskGroup, z: Tensor | None) -> Tensor:
        """Target tokens `B M D` from those of the context `B K D`, in parallel or rolled out."""
        if not self.rolled_out:
            told: Tensor = self.predictor(s_x, mask.context, mask.target, z)
            return told
        slots, height, width = self.encoder.grid
        past = s_x.reshape(len(s_x), -1, height * width, s_x.shape[-1])  # B T P D
        return rollout(self.predictor, past, z, slots - past.shape[1]).flatten(1, 2)

    def energy(self, y_hat: Tensor, y: Tensor) -> Tensor:
        """`E = D(y_hat, y)`, mean over tokens: `B M D` twice to `B`."""
        return distance(self.distance)(y_hat, y).mean(dim=1)

    def regularization(self, s_x: Tensor, s_y: Tensor, context: Tensor) -> dict[str, Tensor]:
        """Weighted terms against collapse, of each branch that has a gradient, by name.

        Files that fail while they are read can leave a batch of one clip, which has no spread over
        clips: those levels count 0 in the step, and `DataHealth` counts the batch.

        Args:
            s_x: `B K D`.
            s_y: `B N D`.
            context: the places of `s_x`, `B K`.
        """
        terms: dict[str, Tensor] = {}
        every = torch.arange(s_y.shape[1], device=s_y.device).expand(s_y.shape[:2])
        for level in self.regularize:
            lone = level in ("clips", "places") and len(s_x) == 1 and world_size() == 1
            for s, places in ((s_x, context),) if self.ema else ((s_x, context), (s_y, every)):
                v = self.expander(s.mean(dim=1) if level == "clips" and not lone else s)
                v = around_places(v, places, s_y.shape[1]) if level == "places" else v
                v = around_times(v, places, math.prod(self.grid[1:])) if level == "times" else v
                for name, value in self.regularizer(v).items():
                    value = torch.zeros_like(value) if lone else value  # the log wants its name
                    key = f"reg/{level}/{name}"
                    terms[key] = terms[key] + value if key in terms else value
        return terms

    def contrasted(self, y_hat: Tensor, y: Tensor) -> dict[str, Tensor]:
        """The contrast of mean tokens, `B M D` twice; a clip alone has no negative and counts 0."""
        pair = [y_hat.mean(dim=1), y.mean(dim=1)]
        lone = len(y) == 1 and world_size() == 1
        terms: dict[str, Tensor] = self.contrast(*(m.expand(2, -1) if lone else m for m in pair))
        return {n: torch.zeros_like(v) for n, v in terms.items()} if lone else terms

    # Frozen use

    @torch.no_grad()
    def encode(self, video: Tensor, branch: Literal["online", "target"] = "online") -> Tensor:
        """Tokens of the centred view of `B T C H W` uint8: `B N D`, no gradient."""
        encoder = cast(VideoEncoder, self.encoder if branch == "online" else self.target)
        return whole_clip(encoder, centre(video, self.encoder.image))

    @torch.no_grad()
    def energies(self, video: Tensor, draw: int = 0) -> tuple[Tensor, Tensor]:
        """Energy of true pairs and of pairs whose target is another clip of the batch: `B` each.

        Same context, same masks; the target clips move on by one place. z is inferred for each
        pair, so a latent that explains any y shows as a gap that closes.
        """
        clip = windows(centre(video, self.encoder.image), self.encoder.frames)
        masks = self.masks(self.encoder.grid, len(clip), generator(self.seed, MASK, draw))
        s_y = self.target(clip)
        totals = [torch.zeros(len(clip), device=clip.device) for _ in range(2)]
        for mask in (m.to(clip.device) for m in masks):
            s_x = self.encoder(clip, mask.context)
            for i, other in enumerate((s_y, s_y.roll(1, dims=0))):
                pair = self.paired(s_x, other, mask)
                z = self.inferred(pair, generator(self.seed, LATENT, draw))
                y_hat = self.predict(s_x, mask, z.z)
                totals[i] += self.energy(y_hat, pair.y) / len(masks)
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
        groups: list[dict[str, Any]] = []
        rates: list[Callable[[int], float]] = []
        for level, weights in enumerate(self.levels()):
            groups.append({"params": [p for p in weights if p.ndim > 1], "decayed": True})
            groups.append({"params": [p for p in weights if p.ndim <= 1], "weight_decay": 0.0})
            rates += [partial(self.rate, level)] * 2
        optimizer = torch.optim.AdamW(
            groups, self.learning_rate, self.betas, weight_decay=self.weight_decay[0]
        )
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, rates)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step", "name": "lr"},
        }

    def rate(self, level: int, step: int) -> float:
        """Share of the learning rate; of two levels in stages, one stands still."""
        total, first = self.total_steps(), self.first_stage()
        begin, end = (first, total) if level or not first else (0, first)
        if step < begin or (first and not level and step >= end):
            return 0.0
        warmup = int(self.warmup * (end - begin))
        share = self.final_learning_rate
        return warmup_cosine(step - begin + 1, end - begin, warmup, 0.0, 1.0, share)

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
        turn = self.turn()
        super().optimizer_step(*args, **kwargs)
        if self.ema and turn != "second":
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
