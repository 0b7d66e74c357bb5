"""Files that fail while they are read: batches shrink, the run goes on, and a resume is exact."""

from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from rich.console import Console

from jepa_video.data.datamodule import VideoDataModule
from jepa_video.data.synthetic import SyntheticSettings, write_synthetic
from jepa_video.models.encoder import VideoViT
from jepa_video.training.checkpoints import newest_checkpoint
from jepa_video.training.pretrain import (
    CheckpointSettings,
    Parts,
    WatchSettings,
    fit,
    prepare,
)
from jepa_video.training.run import Run, create_run
from jepa_video.training.stops import EXIT_TERMINATE, RunStopped, StopRequests
from jepa_video.training.video_jepa import VideoJEPA

OPTIONS = {"accelerator": "cpu", "max_steps": 8, "log_every_n_steps": 1, "limit_val_batches": 0}


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight training videos; two are no videos any more, but nobody looks beforehand."""
    settings = SyntheticSettings(videos_train=8, videos_val=4, frames=18, size=32)
    folder = write_synthetic(tmp_path_factory.mktemp("damaged") / "set", settings, workers=1)
    for number in (2, 5):
        (folder / f"videos/train/{number:06d}.mp4").write_bytes(b"\x00" * 4000)
    return folder


def run_of(run: Run, data: Path, stops: StopRequests, *extra: L.Callback) -> Parts:
    torch.manual_seed(0)
    encoder = partial(VideoViT, width=24, depth=1, heads=2, frames=4, image=16)
    module = VideoJEPA(encoder)
    clips = VideoDataModule(
        str(data), frames=4, size=20, batch_size=2, check="none", unreadable_limit=1.0
    )
    clips.setup()
    parts = prepare(
        run,
        module,
        clips,
        dict(OPTIONS),
        stops=stops,
        loggers=[],
        checkpoint=CheckpointSettings(),
        watch=WatchSettings(every_n_steps=3),
        screen=Console(quiet=True),
    )
    parts.trainer.callbacks[:0] = extra
    return parts


class StopAt(L.Callback):
    def __init__(self, step: int, stops: StopRequests) -> None:
        self.step, self.stops = step, stops

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            self.stops.code = EXIT_TERMINATE


def test_a_batch_that_shrinks_to_one_clip_is_trained_on_and_resumed_exactly(
    damaged: Path, tmp_path: Path
) -> None:
    whole, parts = create_run(tmp_path, "whole"), create_run(tmp_path, "parts")
    done = run_of(whole, damaged, StopRequests())
    fit(done)
    rows = [line.split(",") for line in whole.metrics.read_text().splitlines()]
    clips, tokens = (rows[0].index(f"reg/{level}/variance") for level in ("clips", "tokens"))
    lone = [row for row in rows[1:] if float(row[clips]) == 0]
    assert 0 < len(lone) < 8, "some batches are of one clip, some of two"
    assert all(float(row[tokens]) > 0 for row in lone), "the rest stays"
    assert done.health.lone == len(lone)
    assert len(whole.unreadable.read_text().splitlines()) == 3, "both files are listed"
    for step in (2, 5):
        stops = StopRequests()
        with pytest.raises(RunStopped):
            resumed = newest_checkpoint(parts) if step > 2 else None
            fit(run_of(parts, damaged, stops, StopAt(step, stops)), resumed)
    again = run_of(parts, damaged, StopRequests())
    fit(again, newest_checkpoint(parts))
    assert parts.metrics.read_bytes() == whole.metrics.read_bytes()
    assert again.health.lone == done.health.lone
    for name, value in done.module.state_dict().items():
        assert torch.equal(value, again.module.state_dict()[name]), name
