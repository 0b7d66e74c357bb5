"""Is it learning, or collapsing? Measured while the run trains, and said in words.

A JEPA's loss does not tell: the lowest one belongs to an encoder that answers the same to every
clip. What tells is measured here on held-out clips: spread and effective rank of the features,
whether the energy keeps true pairs apart from shuffled ones, and probes where labels exist.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from ..distributed import all_sum, world_size
from ..energies.health import Vitals, verdict
from ..energies.metrics import energy_gap, feature_std, rankme
from .callbacks import Batch, HeldOut, step_is_done, undisturbed
from .logs import log_everywhere

Say = Callable[[str], None]


def spread_sample(tokens: Tensor, count: int) -> Tensor:
    """At most `count` tokens of `... D`, evenly spaced, so that no draw is needed: `count D`."""
    flat = tokens.flatten(0, -2)
    stride = max(len(flat) // count, 1)
    return flat[::stride][:count]


class CollapseDashboard(Callback):
    """Feature std, RankMe of context and target, and the energy gap; a sentence when it turns.

    Logs `std/context`, `std/target`, `rankme/context`, `rankme/target`, `energy_gap`,
    `energy_gap_stderr` and `energy_auc`.

    Args:
        held_out: clips for the energy gap.
        say: where the sentence goes.
        every_n_steps: optimiser steps between two measurements; 0 for never.
        tokens: tokens of a batch on which rank and std are measured.
    """

    def __init__(
        self, held_out: HeldOut, say: Say = print, every_n_steps: int = 200, tokens: int = 1024
    ) -> None:
        self.held_out, self.say = held_out, say
        self.every_n_steps, self.tokens = every_n_steps, tokens
        self.state = ""
        self.first: dict[str, float] = {}

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measure where it is due."""
        due = self.every_n_steps and trainer.global_step % self.every_n_steps == 0
        if due and step_is_done(trainer, batch_idx):
            values = self.measure(trainer, pl_module, outputs)
            log_everywhere(trainer, values)
            told = {"loss": float(outputs["loss"])}
            if (bits := trainer.callback_metrics.get("latent/bits")) is not None:
                told["latent/bits"] = float(bits)
            self._remark(trainer, pl_module, values | told)

    def measure(
        self, trainer: Trainer, module: Any, outputs: dict[str, Tensor]
    ) -> dict[str, float]:
        """All figures of this moment, by name."""
        values: dict[str, float] = {}
        with undisturbed(trainer, module):
            for branch, name in (("context", "s_x"), ("target", "s_y")):
                sample = spread_sample(outputs[name], self.tokens)
                values[f"std/{branch}"] = float(feature_std(sample))
                values[f"rankme/{branch}"] = float(rankme(sample))
            true, shuffled = held_out_energies(module, self.held_out.batches())
            if len(true) > 1:
                gap = energy_gap(true, shuffled)
                values["energy/held_out"] = float(true.mean())
                values["energy_gap"] = float(gap.gap)
                values["energy_gap_stderr"] = float(gap.stderr)
                values["energy_auc"] = float(gap.auc)
        return values

    def _remark(self, trainer: Trainer, module: Any, values: dict[str, float]) -> None:
        """Say what the figures mean, once for each turn."""
        self.first = self.first or values
        now, first = (vitals(figures, module.encoder.width) for figures in (values, self.first))
        judgement = verdict(now, first)
        turned = judgement.state != (self.state or "healthy")
        self.state = judgement.state
        if turned and trainer.is_global_zero:
            self.say(f"step {trainer.global_step}: {judgement}")

    def state_dict(self) -> dict[str, Any]:
        """The last state, so that a resumed run does not repeat itself, and the first figures."""
        return {"state": self.state, "first": self.first}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        self.state, self.first = state_dict["state"], state_dict["first"]


def vitals(values: Mapping[str, float], width: int) -> Vitals:
    """What a verdict looks at, from the figures of a moment by their logged names."""
    renamed = {name.removesuffix("/held_out"): value for name, value in values.items()}
    return Vitals.read(renamed, width)


def pooled_tokens(module: Any, video: Tensor) -> Tensor:
    """The mean token of the online encoder, of whole clips: `B T C H W` uint8 to `B D`.

    Not what the step has at hand: the context is half a clip, and the EMA target lags (at a slow
    momentum it knows little more at the end of a short run than at its start).
    """
    tokens: Tensor = module.encode(video)
    return tokens.float().mean(dim=1)


def held_out_energies(module: Any, batches: Sequence[Batch]) -> tuple[Tensor, Tensor]:
    """Energies of true and of shuffled pairs over batches of two clips or more: `[N]` each."""
    pairs = [
        module.energies(batch["video"].to(module.device), draw)
        for draw, batch in enumerate(batches)
        if len(batch["video"]) > 1  # a clip alone has no other clip to be paired with
    ]
    if not pairs:
        return torch.empty(0), torch.empty(0)
    return torch.cat([true for true, _ in pairs]), torch.cat([other for _, other in pairs])


class OnlineProbe(Callback):
    """A linear probe and a nearest-neighbour vote for each label, beside the training.

    They learn from the detached target tokens of the training batches, averaged over each clip, and
    are judged on held-out clips. The linear probe has an optimiser of its own; the neighbours come
    from a memory of the last clips. Logs `probe/LABEL` and `knn/LABEL`, shares of right answers.

    Args:
        held_out: clips with labels.
        classes: the number of classes of each label, in the order of the batch's `labels`.
        every_n_steps: optimiser steps between two measurements; 0 for never.
        learn_every: batches from one step of the probe to the next; each costs a forward pass.
        memory: clips that the neighbours are taken from.
        neighbours: how many of them vote.
        learning_rate: of the linear probe's Adam.
    """

    def __init__(
        self,
        held_out: HeldOut,
        classes: dict[str, int],
        every_n_steps: int = 200,
        learn_every: int = 4,
        memory: int = 2048,
        neighbours: int = 10,
        learning_rate: float = 3e-3,
    ) -> None:
        self.held_out, self.classes, self.every_n_steps = held_out, classes, every_n_steps
        self.memory, self.neighbours, self.learning_rate = memory, neighbours, learning_rate
        self.learn_every = learn_every
        self._restored: dict[str, Any] | None = None
        self._heads: nn.Sequential | None = None
        self._optimizer: torch.optim.Optimizer | None = None
        self._features = self._labels = torch.empty(0)

    @property
    def on(self) -> bool:
        """Whether there is anything to probe."""
        return bool(self.classes) and self.every_n_steps > 0

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Heads at zero, or as the checkpoint has them: a draw would move the run's generators."""
        if not self.on:
            return
        width, device = pl_module.encoder.width, pl_module.device
        with torch.random.fork_rng(devices=[]):
            linear = nn.Linear(width, sum(self.classes.values()))
        nn.init.zeros_(linear.weight)
        nn.init.zeros_(linear.bias)
        self._heads = nn.Sequential(nn.BatchNorm1d(width, affine=False), linear).to(device)
        self._optimizer = torch.optim.Adam(linear.parameters(), self.learning_rate)
        self._features = torch.empty(0, width, device=device)
        self._labels = torch.empty(0, len(self.classes), dtype=torch.long, device=device)
        if self._restored is not None:
            self._heads.load_state_dict(self._restored["heads"])
            self._optimizer.load_state_dict(self._restored["optimizer"])
            self._features = self._restored["features"].to(device)
            self._labels = self._restored["labels"].to(device)
            self._restored = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """One step of the probe on this batch; now and then the held-out score."""
        if not self.on:
            return
        if batch_idx % self.learn_every == 0:
            with undisturbed(trainer, pl_module):
                features = pooled_tokens(pl_module, batch["video"])
            self._learn(features, batch["labels"])
        if trainer.global_step % self.every_n_steps == 0 and step_is_done(trainer, batch_idx):
            log_everywhere(trainer, self.measure(trainer, pl_module))

    def _learn(self, features: Tensor, labels: Tensor) -> None:
        """A step on `features` (`B D`) and `labels` (`B L`, -1 for none)."""
        assert self._heads is not None and self._optimizer is not None
        # A clip alone has no spread to be normed by. All ranks take part: the gradients are summed.
        self._heads[0].train(len(features) > 1)
        self._features = torch.cat((self._features, F.normalize(features, dim=1)))[-self.memory :]
        self._labels = torch.cat((self._labels, labels.to(features.device)))[-self.memory :]
        with torch.enable_grad():
            loss = features.new_zeros(())
            for column, scores in enumerate(self._scores(features)):
                known = labels[:, column] >= 0
                right = labels[:, column].clamp(min=0).to(features.device)
                losses = F.cross_entropy(scores, right, reduction="none")
                loss = loss + torch.where(known, losses, 0.0).sum() / known.sum().clamp(min=1)
            torch.autograd.backward(loss)
        for parameter in self._heads.parameters():
            if parameter.grad is not None and world_size() > 1:
                parameter.grad = all_sum(parameter.grad) / world_size()
        self._optimizer.step()
        self._optimizer.zero_grad()

    def _scores(self, features: Tensor) -> tuple[Tensor, ...]:
        assert self._heads is not None
        return torch.split(self._heads(features), list(self.classes.values()), dim=1)

    def measure(self, trainer: Trainer, module: Any) -> dict[str, float]:
        """Shares of right answers on the held-out clips, by label."""
        right: dict[str, list[Tensor]] = {}
        assert self._heads is not None
        self._heads.eval()
        with undisturbed(trainer, module):
            for batch in self.held_out.batches():
                features = pooled_tokens(module, batch["video"].to(module.device))
                votes = self._votes(features)
                for column, (name, scores) in enumerate(
                    zip(self.classes, self._scores(features), strict=True)
                ):
                    truth = batch["labels"][:, column].to(features.device)
                    known = truth >= 0
                    for kind, given in (("probe", scores.argmax(1)), ("knn", votes[:, column])):
                        hits = (given == truth)[known].float()
                        right.setdefault(f"{kind}/{name}", []).append(hits)
        self._heads.train()
        shares = {name: torch.cat(hits) for name, hits in right.items()}
        return {name: float(hits.mean()) for name, hits in shares.items() if len(hits)}

    def _votes(self, features: Tensor) -> Tensor:
        """What the neighbours of each clip say, weighted by closeness: `B D` to `B L`."""
        closeness = F.normalize(features, dim=1) @ self._features.T
        weights, nearest = closeness.topk(min(self.neighbours, len(self._features)), dim=1)
        weights = (weights / 0.07).softmax(dim=1)  # the temperature of Wu et al. 2018, eq. 7
        columns = []
        for column, count in enumerate(self.classes.values()):
            labels = self._labels[nearest, column]  # B K
            votes = weights.new_zeros(len(features), count)  # autocast may have lowered them
            votes.scatter_add_(1, labels.clamp(min=0), weights * (labels >= 0))
            columns.append(votes.argmax(dim=1))
        return torch.stack(columns, dim=1)

    def state_dict(self) -> dict[str, Any]:
        """Heads, their optimiser and the memory of neighbours."""
        if self._heads is None or self._optimizer is None:
            return self._restored or {}
        return {
            "heads": self._heads.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "features": self._features,
            "labels": self._labels,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Kept until the training starts and the width and the device are known."""
        self._restored = state_dict or None
