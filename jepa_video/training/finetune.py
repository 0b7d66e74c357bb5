"""Fine-tuning on labels: a pretrained encoder and a head, trained together.

Shapes: video `B T C H W` uint8, clip `B C T S S` float, tokens `B N D`, logits `B K`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from ..data.transforms import Augment, centre
from ..distributed import all_sum, rank, world_size
from ..errors import within
from ..models.encoder import VideoEncoder
from ..models.heads import AttentiveProbe
from ..randomness import AUGMENT, generator
from .adapters import add_lora, blocks_of, layer_of, merged, train_last
from .callbacks import HeldOut, step_is_done, undisturbed
from .logs import log_everywhere
from .schedules import warmup_cosine

Train = Literal["full", "last", "lora"]


class FineTune(L.LightningModule):
    """A classifier of clips on a pretrained encoder.

    Args:
        encoder: pretrained; it is trained in place.
        classes: `K`.
        train: `full` trains all weights, `last` the last `blocks` blocks, `lora` low-rank adapters
            beside frozen weights; the head is trained in any case.
        blocks: how many of the last blocks `last` trains.
        lora_rank: rank of an adapter.
        lora_alpha: an adapter is scaled by `lora_alpha / lora_rank`.
        lora_dropout: share of an adapter's inputs that are dropped in training.
        head: `mean` is a linear map of the mean token, `attentive` a learned query on all tokens.
        start: where the linear head starts: `probe` at the linear probe of the frozen features,
            which spares the encoder the gradients of a random head (Kumar et al. 2022, arXiv
            2202.10054), `zero` at zero. An attentive head starts at random.
        augment: makes the augmentation of the batch.
        learning_rate: peak of the schedule, for the head and the last layer.
        layer_decay: each layer before the last has this share of the rate of the one after it.
        final_learning_rate: end of the cosine, as a share of the peak.
        warmup: share of all steps in which the learning rate rises.
        weight_decay: not on biases and norms.
        betas: of AdamW.
        label_smoothing: share of the target that is spread over all classes.
        seed: of every draw in training.

    Raises:
        UserError: the encoder has fewer than `blocks` blocks, peft is not installed, or a number
            lies outside of its range.
    """

    def __init__(
        self,
        encoder: VideoEncoder,
        classes: int,
        train: Train = "full",
        blocks: int = 1,
        lora_rank: int = 8,
        lora_alpha: int = 16,
        lora_dropout: float = 0.0,
        head: Literal["mean", "attentive"] = "mean",
        start: Literal["probe", "zero"] = "probe",
        augment: Callable[[], Augment] = Augment,
        learning_rate: float = 3e-4,
        layer_decay: float = 1.0,
        final_learning_rate: float = 0.01,
        warmup: float = 0.1,
        weight_decay: float = 0.05,
        betas: tuple[float, float] = (0.9, 0.999),
        label_smoothing: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        within(
            "model", 0, 1, layer_decay=layer_decay, label_smoothing=label_smoothing, warmup=warmup
        )
        within("model", 1, lora_rank=lora_rank)
        within("model", 0, learning_rate=learning_rate, lora_dropout=lora_dropout)
        if train == "last":
            train_last(encoder, blocks)
        elif train == "lora":
            add_lora(encoder, lora_rank, lora_alpha, lora_dropout)
        else:
            encoder.requires_grad_(True)
        self.encoder, self.start = encoder, start
        self.head: nn.Module = MeanHead(encoder.width, classes)
        if head == "attentive":
            self.head = AttentiveProbe(encoder.width, classes)
        self.augment = augment()
        self.learning_rate, self.layer_decay = learning_rate, layer_decay
        self.final_learning_rate, self.warmup = final_learning_rate, warmup
        self.weight_decay, self.betas, self.label_smoothing = weight_decay, betas, label_smoothing
        self.seed = seed
        self.draws = 0  # batches seen: names the random draws, see randomness.py

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """Cross entropy of an augmented batch."""
        self.draws += 1
        draw = generator(self.seed, AUGMENT, rank(), self.draws)
        logits = self(self.augment(batch["video"], self.encoder.image, draw))
        labels = batch["labels"][:, 0]
        loss = self.cross_entropy(logits, labels)
        right = (logits.detach().argmax(1) == labels).float().mean()
        self.log_dict({"loss": loss.detach(), "accuracy": right})
        return {"loss": loss}

    def cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean over the global batch: a rank that lost a clip to a broken file weighs less."""
        total = F.cross_entropy(
            logits, labels, reduction="sum", label_smoothing=self.label_smoothing
        )
        count = all_sum(torch.tensor(float(len(labels)), device=labels.device))
        return total * world_size() / count

    def forward(self, clip: Tensor) -> Tensor:
        """Clip `B C T S S` to logits `B K`."""
        logits: Tensor = self.head(self.encoder(clip))
        return logits

    @torch.no_grad()
    def classify(self, video: Tensor) -> Tensor:
        """Logits `B K` of the centred view of `B T C H W` uint8."""
        logits: Tensor = self(centre(video, self.encoder.image)).float()
        return logits

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Share of held-out clips that are right."""
        labels = batch["labels"][:, 0]
        known = labels >= 0
        right = (self.classify(batch["video"]).argmax(1) == labels)[known].float().mean()
        self.log("val/accuracy", right, batch_size=int(known.sum()), sync_dist=True)

    def tuned(self) -> VideoEncoder:
        """The encoder as others load it: adapters are merged into a copy."""
        return merged(self.encoder).eval()

    # Optimisation

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW on what is trained; warm-up and cosine; a rate for each layer."""
        optimizer = torch.optim.AdamW(self.groups(), self.learning_rate, self.betas)
        total = int(self.trainer.estimated_stepping_batches)
        warmup, end = int(self.warmup * total), self.final_learning_rate
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: warmup_cosine(step + 1, total, warmup, 0.0, 1.0, end)
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step", "name": "lr"},
        }

    def groups(self) -> list[dict[str, Any]]:
        """Trained weights by layer, the last one first, matrices apart from the rest."""
        depth = len(blocks_of(self.encoder))
        found: dict[tuple[int, bool], list[nn.Parameter]] = {}
        for name, weight in self.named_parameters():
            if weight.requires_grad:
                inner = name.removeprefix("encoder.")
                layer = layer_of(inner, depth) if inner != name else depth + 1
                found.setdefault((layer, weight.ndim > 1), []).append(weight)
        return [
            {
                "params": found[layer, matrix],
                "lr": self.learning_rate * self.layer_decay ** (depth + 1 - layer),
                "weight_decay": self.weight_decay if matrix else 0.0,
            }
            for layer, matrix in sorted(found, reverse=True)
        ]

    # What a checkpoint needs beside the weights

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The counter of the random draws, and what rebuilds the encoder."""
        checkpoint["finetune"] = {"draws": self.draws}
        checkpoint["encoder_config"] = self.encoder.config

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the counter."""
        self.draws = checkpoint["finetune"]["draws"]


class MeanHead(nn.Linear):
    """A linear map of the mean token, zero at the start."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__(width, classes)
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """`B N D` to `B K`."""
        return super().forward(tokens.mean(dim=1))

    @torch.no_grad()
    def start_at(self, weight: Tensor, bias: Tensor) -> None:
        """Begin at a map that was found before: `weight` `D K`, `bias` `K`."""
        self.weight.copy_(weight.T)
        self.bias.copy_(bias)


class HeldOutAccuracy(Callback):
    """Logs `val/accuracy` and `val/loss` on a sample of held-out clips.

    Args:
        held_out: the sample, with the label in the first column.
        every_n_steps: optimiser steps between two measurements; 0 for never.
    """

    def __init__(self, held_out: HeldOut, every_n_steps: int = 200) -> None:
        self.held_out, self.every_n_steps = held_out, every_n_steps

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measure where it is due."""
        due = self.every_n_steps and trainer.global_step % self.every_n_steps == 0
        if due and step_is_done(trainer, batch_idx):
            log_everywhere(trainer, self.measure(trainer, pl_module))

    def measure(self, trainer: Trainer, module: Any) -> dict[str, float]:
        """Both figures over all labelled clips of the sample; empty where there are none."""
        logits, labels = [], []
        with undisturbed(trainer, module):
            for batch in self.held_out.batches():
                logits.append(module.classify(batch["video"].to(module.device)).cpu())
                labels.append(batch["labels"][:, 0].cpu())
        if not labels or not bool((truth := torch.cat(labels)).ge(0).any()):
            return {}
        known, scores = truth >= 0, torch.cat(logits)
        right = (scores.argmax(1) == truth)[known].float().mean()
        loss = F.cross_entropy(scores[known], truth[known])
        return {"val/accuracy": float(right), "val/loss": float(loss)}
