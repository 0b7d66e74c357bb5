"""The smallest run that exercises everything a resume must restore; a script, so it can be killed.

    python -m tests.training.tiny RUN --workers 2 --kill 11 then RUN --workers 2

Random depth draws from the global generator, the sampler has an order of its own for each epoch, an
epoch is shorter than the run, gradients are accumulated, and two callbacks measure and learn.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchdata.stateful_dataloader import StatefulDataLoader

from jepa_video.data.sampler import ClipSampler
from jepa_video.models.encoder import VideoViT
from jepa_video.training.callbacks import DataHealth, HeldOut, Schedules
from jepa_video.training.checkpoints import Checkpointer, newest_checkpoint
from jepa_video.training.dashboard import CollapseDashboard, OnlineProbe
from jepa_video.training.logs import CsvLog
from jepa_video.training.run import Run
from jepa_video.training.stops import RunStopped, StopRequests
from jepa_video.training.video_jepa import VideoJEPA


class Clips(Dataset[dict[str, Tensor]]):
    def __init__(self, count: int) -> None:
        generator = torch.Generator().manual_seed(7)
        self.video = torch.randint(
            256, (count, 4, 3, 16, 16), generator=generator, dtype=torch.uint8
        )

    def __len__(self) -> int:
        return len(self.video)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Tensor]:
        index, draw = key
        video = self.video[index].roll(draw, dims=-1)  # the draw matters, as the clip's start does
        return {"video": video, "labels": torch.tensor([index % 2])}


class TinyData(L.LightningDataModule):
    def __init__(self, workers: int = 0, count: int = 30) -> None:
        super().__init__()
        self.workers, self.clips = workers, Clips(count)

    def train_dataloader(self) -> StatefulDataLoader[dict[str, Tensor]]:
        sampler = ClipSampler([len(self.clips)])
        return StatefulDataLoader(
            self.clips, batch_size=4, sampler=sampler, num_workers=self.workers, drop_last=True
        )


class KillAt(L.Callback):
    """Die, or be told to stop, once `step` is done."""

    def __init__(self, step: int, number: int) -> None:
        self.step, self.number = step, number

    def on_train_batch_start(self, trainer: L.Trainer, *args: Any) -> None:
        if trainer.global_step == self.step:
            self.step = -1  # a step of two batches is told once; twice means at once
            os.kill(os.getpid(), self.number)


def tiny_module() -> VideoJEPA:
    def encoder() -> VideoViT:
        return VideoViT(frames=4, image=16, width=24, depth=2, heads=2, drop_path=0.3)

    return VideoJEPA(encoder=encoder)


def tiny_trainer(
    run: Run, steps: int, stops: StopRequests, extra: list[L.Callback], every: int = 4
) -> L.Trainer:
    held_out = HeldOut(
        lambda: iter([{"video": Clips(8).video, "labels": torch.arange(8)[:, None] % 2}])
    )
    health = DataHealth(run, every_n_steps=2)
    log = CsvLog(run.metrics)
    return L.Trainer(
        accelerator="cpu",
        default_root_dir=run.path,
        max_steps=steps,
        accumulate_grad_batches=2,
        logger=log,
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        callbacks=[
            Schedules(),
            CollapseDashboard(held_out, every_n_steps=3),
            OnlineProbe(held_out, {"parity": 2}, every_n_steps=3),
            Checkpointer(run, (log.table, health.table), stops, every, 0),
            health,
            *extra,
        ],
    )


def train(words: list[str]) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--every", type=int, default=4)
    parser.add_argument("--kill", type=int, default=-1)
    parser.add_argument("--signal", type=int, default=int(signal.SIGKILL))
    args = parser.parse_args(words)
    warnings.simplefilter("ignore")
    run = Run(args.run)
    run.checkpoints.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    extra: list[L.Callback] = [KillAt(args.kill, args.signal)] if args.kill >= 0 else []
    resumed = newest_checkpoint(run) if list(run.checkpoints.glob("step-*")) else None
    with StopRequests().heard() as stops:
        trainer = tiny_trainer(run, args.steps, stops, extra, args.every)
        try:
            data = TinyData(args.workers)
            trainer.fit(tiny_module(), datamodule=data, ckpt_path=resumed, weights_only=True)
        except RunStopped as stop:
            return stop.code
    return 0


def main() -> None:
    """One process for each run, forked after the imports, which cost more than the runs."""
    torch.set_num_threads(1)
    for words in " ".join(sys.argv[1:]).split(" then "):
        if (child := os.fork()) == 0:
            code = 1
            try:
                code = train(words.split())
            except BaseException:
                traceback.print_exc()
            sys.stdout.flush()
            os._exit(code)
        print("ended", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
