"""Files that fail while they are read: batches shrink, the run goes on, and a resume is exact."""

import csv
import shutil
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from jepa_video.cli.job import Job
from jepa_video.cli.options import build_parser, parse
from jepa_video.data.synthetic import SyntheticSettings, write_synthetic
from jepa_video.energies.contrastive import InfoNCE
from jepa_video.models.encoder import VideoViT
from jepa_video.training.checkpoints import newest_checkpoint
from jepa_video.training.run import Run, checkpoints_of, create_run
from jepa_video.training.stops import EXIT_TERMINATE, RunStopped, StopRequests
from jepa_video.training.video_jepa import VideoJEPA

ROOT = Path(__file__).parents[2]
TINY = (
    "--data.size 20 --data.batch_size 2 --data.check none --data.unreadable_limit 1.0 "
    "--model.encoder.frames 4 --model.encoder.image 16 --model.encoder.width 24 "
    "--model.encoder.depth 1 --model.encoder.heads 2 --trainer.max_steps 8 "
    "--trainer.log_every_n_steps 1 --trainer.accelerator cpu --watch.every_n_steps 3 "
    "--wandb off --probe.most_videos 0"
)


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight training videos; two are no videos any more, but nobody looks beforehand."""
    settings = SyntheticSettings(videos_train=8, videos_val=4, frames=18, size=32)
    folder = write_synthetic(tmp_path_factory.mktemp("damaged") / "set", settings, workers=1)
    for number in (2, 5):
        (folder / f"videos/train/{number:06d}.mp4").write_bytes(b"\x00" * 4000)
    return folder


def train(run: Run, data: Path, stop: int | None = None) -> VideoJEPA:
    """Eight steps in `run`, or what is left of them; a request to stop comes in step `stop`."""
    parser = build_parser()
    job = Job(parser, parse(parser, ["--data.root", str(data), *TINY.split()]), Console(quiet=True))
    stops = StopRequests()

    def told(*_: Any) -> None:
        if job.module.global_step == stop:
            stops.code = EXIT_TERMINATE

    job.module.on_train_batch_start = told
    newest = newest_checkpoint(run) if checkpoints_of(run) else None
    job.run(run, newest, stops, time.monotonic())
    return job.module


def test_a_batch_that_shrinks_to_one_clip_is_trained_on_and_resumed_exactly(
    damaged: Path, tmp_path: Path
) -> None:
    whole, parts = create_run(tmp_path, "whole"), create_run(tmp_path, "parts")
    module = train(whole, damaged)
    rows = list(csv.DictReader(whole.metrics.open()))
    lone = [row for row in rows if float(row["reg/clips/variance"]) == 0]
    assert 0 < len(lone) < 8, "some batches are of one clip, some of two"
    assert all(float(row["reg/tokens/variance"]) > 0 for row in lone), "the rest stays"
    assert whole.summary()["lone_batches"] == len(lone)
    assert len(whole.unreadable.read_text().splitlines()) == 3, "both files are listed"
    for step in (2, 5):
        with pytest.raises(RunStopped):
            train(parts, damaged, step)
    again = train(parts, damaged)
    assert parts.metrics.read_bytes() == whole.metrics.read_bytes()
    assert parts.summary()["lone_batches"] == len(lone)
    for name, value in module.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_a_clip_alone_counts_0_in_what_compares_clips() -> None:
    encoder = partial(VideoViT, width=24, depth=1, heads=2, frames=4, image=16)
    module, logged = VideoJEPA(encoder, contrast=InfoNCE), {}
    module.log_dict = lambda values, **_: logged.update(values)
    video = torch.randint(256, (2, 4, 3, 16, 16), dtype=torch.uint8)
    compared = ("contrastive", "reg/clips/variance")
    module.training_step({"video": video}, 0)
    assert all(logged[name] > 0 for name in compared)
    loss = module.training_step({"video": video[:1]}, 0)["loss"]
    assert all(logged[name] == 0 for name in compared)
    rest = [v for k, v in logged.items() if k == "energy" or k.startswith("reg/tokens/")]
    torch.testing.assert_close(loss.detach(), torch.stack(rest).sum())


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_processes_that_lose_whole_batches_stay_in_step(damaged: Path, tmp_path: Path) -> None:
    """One clip a process: what fails leaves one of them with nothing, and both leave it out."""
    words = f"--data.root {damaged} --runs {tmp_path} --name whole {TINY}".split()
    words += ["--data.batch_size", "1", "--trainer.devices", "2", "--trainer.strategy", "ddp"]
    words += ["--checkpoint.every_n_steps", "3", "--checkpoint.keep", "9"]

    def pretrain(*words: str) -> Run:
        command = [sys.executable, "-m", "jepa_video", "pretrain", *words]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=250)
        assert done.returncode == 0, done.stderr
        return Run(tmp_path / "whole")

    whole = pretrain(*words)
    metrics, kept = whole.metrics.read_bytes(), tmp_path / "kept.ckpt"
    checkpoint, *_, third = checkpoints_of(whole)
    assert len(metrics.splitlines()) == 9
    assert len(whole.unreadable.read_text().splitlines()) == 3, "of both processes"
    shutil.copy(checkpoint, kept)
    for path in checkpoints_of(whole):
        if path != third:
            path.unlink()
    (whole.path / "summary.json").unlink()
    again = pretrain("--resume", str(whole.path))
    assert again.metrics.read_bytes() == metrics
    one, other = (torch.load(p, weights_only=True) for p in (kept, checkpoints_of(again)[0]))
    for name, value in one["state_dict"].items():
        assert torch.equal(value, other["state_dict"][name]), name
