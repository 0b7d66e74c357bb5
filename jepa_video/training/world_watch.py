"""Does a world model learn, or do its states collapse? Measured while it trains, said in words."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from .callbacks import HeldOut, step_is_done, undisturbed
from .dashboard import Say
from .foresight import Foresight, foresight
from .logs import log_everywhere


class WorldWatch(Callback):
    """How far the model foretells held-out windows, and what its states are worth.

    Logs `energy_over_copy/H` (squared error of the foretold state over that of copying the last
    known one) for 1 step and the last; `read_error/now`, `read_error/H` where the episodes tell
    states (distance of what is read off, in their own unit); `rankme/states` and `std/states` of
    the numbers that say where the agent is. Says it when the judgement turns.

    Args:
        held_out: windows.
        say: where the sentence goes.
        every_n_steps: optimiser steps between two measurements; 0 for never.
    """

    def __init__(self, held_out: HeldOut, say: Say = print, every_n_steps: int = 200) -> None:
        self.held_out, self.say, self.every_n_steps = held_out, say, every_n_steps
        self.state = ""

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measure where it is due and windows are held out."""
        due = self.every_n_steps and trainer.global_step % self.every_n_steps == 0
        if not due or not step_is_done(trainer, batch_idx) or not self.held_out.batches():
            return
        with undisturbed(trainer, pl_module):
            found = foresight(pl_module, self.held_out.batches(), pl_module.device)  # type: ignore
        log_everywhere(trainer, figures(found))
        self._remark(trainer, found)

    def _remark(self, trainer: Trainer, found: Foresight) -> None:
        """Say what the figures mean, once for each turn."""
        judgement = found.verdict()
        turned = judgement.state != (self.state or "healthy")
        self.state = judgement.state
        if turned and trainer.is_global_zero:
            self.say(f"step {trainer.global_step}: {judgement}")

    def state_dict(self) -> dict[str, Any]:
        """The last state, so that a resumed run does not repeat itself."""
        return {"state": self.state}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        self.state = state_dict["state"]


def figures(found: Foresight) -> dict[str, float]:
    """By the names under which a run logs them."""
    told = {"rankme/states": found.rankme, "std/states": found.spread}
    for horizon in dict.fromkeys((1, len(found.energy))):
        told[f"energy_over_copy/{horizon}"] = found.energy[horizon - 1]
    if found.read_true is not None:
        told["read_error/now"] = found.read_true
        for horizon in dict.fromkeys((1, len(found.read))):
            told[f"read_error/{horizon}"] = found.read[horizon - 1]
    return told
