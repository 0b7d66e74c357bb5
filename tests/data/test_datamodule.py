"""From a word, a folder or manifests to loaders that a Trainer stops and resumes exactly."""

from __future__ import annotations

import contextlib
import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, LightningModule, Trainer

from jepa_video.data import datamodule as module
from jepa_video.data.datamodule import VideoDataModule
from jepa_video.data.scenes import FACTORS, SyntheticSettings
from jepa_video.data.synthetic import write_synthetic
from jepa_video.errors import UserError
from tests.videos import SHARED, write_clip

SMALL: dict[str, Any] = {"frames": 4, "stride": 2, "size": 16, "batch_size": 4}


@pytest.fixture(autouse=True, scope="module")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JEPA_VIDEO_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty short videos in three class folders."""
    root = tmp_path_factory.mktemp("videos")
    source = write_clip(root / "source.mp4", 20, height=32, width=64).read_bytes()
    (root / "source.mp4").unlink()
    for i in range(30):
        path = root / "abc"[i % 3] / f"{i:02}.mp4"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(source)
    return root


def names(data: VideoDataModule, split: Any) -> set[str]:
    return {Path(path).name for path in data.clips(split).paths}


def test_a_folder_is_split_once_and_for_all(folder: Path) -> None:
    one = VideoDataModule(str(folder), val_fraction=0.3, **SMALL)
    two = VideoDataModule(str(folder), val_fraction=0.3, seed=9, **SMALL)
    assert names(one, "train") | names(one, "val") == {f"{i:02}.mp4" for i in range(30)}
    assert not names(one, "train") & names(one, "val")
    assert names(one, "val") == names(two, "val") and len(names(one, "val")) > 3
    assert one.label_names == ["label"] and one.classes == {"label": ["a", "b", "c"]}


def test_manifests_of_their_own_and_weights(folder: Path, tmp_path: Path) -> None:
    few, many, held = (tmp_path / f"{name}.csv" for name in ("few", "many", "held"))
    few.write_text("path\na/00.mp4\nb/01.mp4\n")
    many.write_text("path\n" + "".join(f"{'abc'[i % 3]}/{i:02}.mp4\n" for i in range(2, 24)))
    held.write_text("path\nc/29.mp4\n")
    data = VideoDataModule(
        str(folder), [str(few), str(many)], str(held), weights=[1.0, 1.0], **SMALL
    )
    seen = torch.cat([batch["index"] for batch in data.train_dataloader()])
    assert len(seen) == 24 and (seen < 2).sum() == 12
    assert names(data, "val") == {"29.mp4"}


def test_batches(folder: Path) -> None:
    data = VideoDataModule(str(folder), val_fraction=0.3, **SMALL)
    batches = list(data.train_dataloader())
    assert all(batch["video"].shape == (4, 4, 3, 16, 16) for batch in batches)
    seen = torch.cat([batch["index"] for batch in batches]).tolist()
    assert len(set(seen)) == len(seen) == len(names(data, "train")) // 4 * 4
    held = [torch.cat([batch["index"] for batch in data.val_dataloader()]) for _ in range(2)]
    assert held[0].tolist() == held[1].tolist() == list(range(len(names(data, "val"))))


def test_fewer_videos_than_a_batch_are_one_batch(folder: Path) -> None:
    data = VideoDataModule(str(folder), val_fraction=0.3, **{**SMALL, "batch_size": 64})
    (batch,) = list(data.train_dataloader())
    assert len(batch["video"]) == len(names(data, "train"))


def test_labelled_videos_for_a_probe(folder: Path) -> None:
    data = VideoDataModule(str(folder), val_fraction=0.3, **SMALL)
    few = data.labelled("train", "label", per_class=3, seed=1, clips=2)
    assert len(few) == 18 and few.targets[:, 0].bincount().tolist() == [3, 3, 3]
    first, again = ([batch["video"] for batch in data.loader(few)] for _ in range(2))
    assert all(map(torch.equal, first, again))
    assert set(few.paths) <= set(data.clips("train").paths)
    assert len(data.labelled("val")) == len(names(data, "val"))
    with pytest.raises(UserError, match="no label 'speed'; there are label"):
        data.labelled("val", "speed")


def test_the_embedded_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = SyntheticSettings(videos_train=16, videos_val=8)
    made = write_synthetic(tmp_path / "set", settings, workers=1)
    monkeypatch.setattr(module, "ensure_synthetic", lambda settings, **_: made)
    data = VideoDataModule()
    (batch,) = list(data.train_dataloader())
    assert batch["video"].shape == (16, 8, 3, 40, 40)
    assert data.label_names == list(FACTORS) and batch["labels"].shape == (16, len(FACTORS))
    assert len(names(data, "val")) == 8 and len(data.unreadable) == 0


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "missing": ({"root": "/no/such/folder"}, "there is no folder or manifest at /no/such/folder"),
    "empty": ({"root": "empty"}, "is empty: expected video files"),
    "texts": ({"root": "texts"}, "no video file in .* found 2 .txt"),
    "row": ({"root": "lost.csv"}, r"lost.csv, line 3: there is no file .*gone.mp4"),
    "broken": ({"root": "broken"}, r"2 of 3 video files in .* are unusable \(67%.*is 25%"),
    "train": ({"root": "good", "train": "nowhere.csv"}, "no folder or manifest at nowhere.csv"),
    "label": ({"root": "good", "labels": ["hue"]}, "no label 'hue' in .*; there are none"),
    "long": ({"root": "good", "frames": 99}, "too short"),
    "batch": ({"root": "good", "batch_size": 0}, "data.batch_size must be 1 or more, not 0"),
    "limit": ({"root": "good", "unreadable_limit": 3.0}, "data.unreadable_limit must be from 0"),
    "check": ({"root": "good", "check": "some"}, "data.check must be one of none, quick, full"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("empty", "texts", "broken", "good"):
        Path(name).mkdir()
    for name in ("texts/a.txt", "texts/b.txt", "broken/a.mp4", "broken/b.mp4"):
        Path(name).touch()
    for name in ("broken/c.mp4", "good/a.mp4", "good/b.mp4"):
        write_clip(name, 20)
    Path("lost.csv").write_text("path,label\ngood/a.mp4,1\ngone.mp4,2\n")
    options, words = BAD[case]
    with pytest.raises(UserError, match=words) as caught:
        VideoDataModule(**options).setup()
    assert "\n" not in str(caught.value)


def test_unusable_files_of_both_splits_are_counted_together(tmp_path: Path) -> None:
    """The only held-out video is broken: one of nine, which is no reason to stop."""
    for i in range(8):
        write_clip(tmp_path / "train" / f"{i}.mp4" if i else _made(tmp_path / "train"), 20)
    (tmp_path / "val").mkdir()
    (tmp_path / "val/8.mp4").touch()
    data = VideoDataModule(str(tmp_path), **SMALL)
    data.setup()
    assert data.unreadable.rows() == [(str(tmp_path / "val/8.mp4"), "empty")]
    assert data.unreadable.total == 9 and data.val_dataloader() == []
    with pytest.raises(UserError, match="has no val videos"):
        data.labelled("val")


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder / "0.mp4"


class Killed(Exception):
    """In the place of a signal."""


class Save(Callback):
    """Saves once between two steps."""

    def __init__(self, step: int, path: Path) -> None:
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)


class Recorder(LightningModule):
    """Writes down every batch, and has a weight so that a Trainer trains it."""

    def __init__(self, log: Path, stop_at: int) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.log_file, self.stop_at = log, stop_at

    def training_step(self, batch: dict[str, torch.Tensor], number: int) -> torch.Tensor:
        if self.global_step == self.stop_at + 2:  # after the checkpoint: two steps are lost
            raise Killed
        with open(self.log_file, "a") as file:
            row = [*batch["index"].tolist(), int(batch["video"].long().sum())]
            csv.writer(file).writerow([self.global_step, *row])
        return self.weight * batch["video"].float().mean()

    def validation_step(self, batch: dict[str, torch.Tensor], number: int) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 1e-3)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_trainer_that_was_stopped_sees_what_it_would_have_seen(
    folder: Path, tmp_path: Path, workers: int
) -> None:
    def run(stop_at: int = -9, resume: Path | None = None) -> list[str]:
        log = tmp_path / "log"
        log.unlink(missing_ok=True)
        data = VideoDataModule(
            str(folder), val_fraction=0.2, workers=workers, cache_mb=50, seed=3, **SMALL
        )
        trainer = Trainer(
            max_steps=14,
            callbacks=[Save(stop_at, tmp_path / f"{stop_at}.ckpt")],
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            default_root_dir=tmp_path,
            num_sanity_val_steps=1,
            val_check_interval=3,
        )
        with contextlib.suppress(Killed):
            trainer.fit(Recorder(log, stop_at), data, ckpt_path=resume)
        return log.read_text().splitlines()

    whole = run()
    assert len(whole) == len(set(whole)) == 14
    for stop in (2, 5, 10):  # within the first epoch of five steps, at its end, at the end of one
        assert run(stop) == whole[: stop + 2]
        assert run(resume=tmp_path / f"{stop}.ckpt") == whole[stop:]


def test_ranks_share_the_videos_out(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    for rank in range(2):
        monkeypatch.setattr(module, "rank", lambda rank=rank: rank)
        monkeypatch.setattr(module, "world_size", lambda: 2)
        data = VideoDataModule(str(folder), val_fraction=0.2, **{**SMALL, "batch_size": 2})
        seen.append(torch.cat([batch["index"] for batch in data.train_dataloader()]).tolist())
    assert len(seen[0]) == len(seen[1]) == len(names(data, "train")) // 4 * 2
    assert len(set(seen[0] + seen[1])) == len(seen[0]) + len(seen[1])


def test_real_splits_keep_groups_apart() -> None:
    root = SHARED / "ucf10"
    if not root.is_dir():
        pytest.skip(f"no {root}: set JEPA_VIDEO_TEST_DATA to a folder that has ucf10")
    data = VideoDataModule(str(root), check="none")
    assert len(names(data, "train")) == 528 and len(names(data, "val")) == 212
    train, val = data.clips("train"), data.clips("val")
    assert not set(train.groups or []) & set(val.groups or [])
    assert data.label_names == ["label"] and len(data.classes["label"]) == 10
    assert all(
        data.classes["label"][train.targets[i, 0]] in train.paths[i] for i in range(0, 528, 50)
    )
    item: Any = train[(5, 1)]
    assert item["video"].shape == (8, 3, 40, 40) and item["video"].float().std() > 10
