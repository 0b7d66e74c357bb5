"""Claims of the watch over a world model: true figures, no trace in the run, exact resume."""

from __future__ import annotations

import shutil
from pathlib import Path

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader

from jepa_video.energies.health import verdict_of_states
from jepa_video.training.callbacks import HeldOut
from jepa_video.training.foresight import foresight, look_ahead, step_length
from jepa_video.training.logs import CsvLog, read_metrics
from jepa_video.training.world_model import WorldModel
from jepa_video.training.world_watch import WorldWatch
from tests.agent.tiny_agent import batch, world
from tests.training.test_world_model import Perfect

CPU = torch.device("cpu")


def held_out() -> HeldOut:
    return HeldOut(lambda: iter([batch(seed=7), batch(seed=8)]))


class SaveAt(L.Callback):
    """A checkpoint after step 2, as the run's own comes after what watches."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_batch_end(self, trainer: L.Trainer, *args: object) -> None:
        if trainer.global_step == 2:
            trainer.save_checkpoint(self.path)


def fit(folder: Path, watch: WorldWatch | None, resume: Path | None = None) -> WorldModel:
    """Train a tiny world for four steps, with `metrics.csv` and `two.ckpt` in `folder`."""
    folder.mkdir(exist_ok=True)
    rows = [{name: part[i] for name, part in batch(count=8).items()} for i in range(8)]
    log = CsvLog(folder / "metrics.csv")
    if resume is not None:
        shutil.copy(resume.with_name("metrics.csv"), folder)
        log.table.truncate(2)
    trainer = L.Trainer(
        accelerator="cpu",
        max_steps=4,
        logger=log,
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[*([] if watch is None else [watch]), SaveAt(folder / "two.ckpt")],
    )
    torch.manual_seed(0)
    module = world(piece=3)
    trainer.fit(module, DataLoader(rows, 4, shuffle=False), ckpt_path=resume, weights_only=True)
    return module


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())


def test_watching_changes_nothing_of_what_is_learned(tmp_path):
    alone = fit(tmp_path / "alone", None)
    watched = fit(tmp_path / "watched", WorldWatch(held_out(), every_n_steps=2))
    assert same(alone.state_dict(), watched.state_dict())
    assert watched.training
    steps = [step for step, _ in read_metrics(tmp_path / "watched" / "metrics.csv")["std/states"]]
    assert steps == [2, 4]


def test_a_resumed_run_logs_and_says_what_the_whole_one_does(tmp_path):
    said: list[str] = []
    whole = fit(tmp_path / "whole", WorldWatch(held_out(), said.append, 2))
    later: list[str] = []
    watch = WorldWatch(held_out(), later.append, 2)
    parts = fit(tmp_path / "parts", watch, tmp_path / "whole" / "two.ckpt")
    assert same(whole.state_dict(), parts.state_dict())
    assert [line[:7] for line in said] == ["step 2:"] and later == []
    logs = [(tmp_path / name / "metrics.csv").read_bytes() for name in ("whole", "parts")]
    assert logs[0] == logs[1] and b"energy_over_copy/5" in logs[0]


def test_states_that_are_all_the_same_are_told_once_with_what_helps(tmp_path, monkeypatch):
    said: list[str] = []
    watch = WorldWatch(held_out(), said.append, 1)
    monkeypatch.setattr("jepa_video.training.world_watch.foresight", flat)
    fit(tmp_path / "flat", watch)
    assert len(said) == 1 and said[0].startswith("step 1: collapsed: The states are nearly all")
    assert "raise model.regularize" in said[0]


def flat(module, batches, device):
    """Figures of a model whose every state is zero but for the last bits."""
    for part in module.state.parameters():
        part.data.mul_(1e-6)
    return foresight(module, batches, device)


def test_nothing_is_held_out_nothing_is_measured(tmp_path):
    fit(tmp_path / "none", WorldWatch(HeldOut(lambda: iter(())), every_n_steps=1))
    assert "std/states" not in read_metrics(tmp_path / "none" / "metrics.csv")


def test_before_training_what_is_foretold_is_a_copy():
    found = foresight(world(), [batch()], CPU)
    assert found.energy == pytest.approx([1.0] * 5)
    assert found.read == pytest.approx(found.read_copied)
    assert len(found.figures()["read_error_foretold"]) == 5


class Shifts(Perfect):
    """The first two numbers of a state move by the action."""

    def forward(self, states, actions, z=None):
        return states[:, -1] + F.pad(actions[:, -1], (0, states.shape[-1] - 2))[:, None]


def test_perfect_dynamics_have_no_error_and_the_readout_keeps_its_own():
    model, given = world(), batch()
    moved = torch.cat((torch.zeros(4, 1, 2), given["action"].cumsum(1)), 1)
    model.dynamics = Shifts()
    model.encode = lambda video, own, scene: F.pad(moved, (0, model.state.width - 2))[:, :, None]
    ahead = look_ahead(model, given)
    assert ahead.errors[0].max() < 1e-9 < ahead.errors[1].min()
    found = foresight(model, [given], CPU)
    assert max(found.energy) < 1e-6
    assert found.read_true == pytest.approx(sum(found.read) / 5, rel=1e-4)


@pytest.mark.parametrize(
    ("rank", "spread", "over", "state", "word"),
    [
        (1.4, 0.9, 0.1, "collapsed", "nearly all the same"),
        (9.0, 0.004, 0.1, "collapsed", "nearly all the same"),
        (float("nan"), 0.9, 0.1, "collapsed", "stopped being a number"),
        (9.0, 0.05, 0.1, "watch", "hardly differ"),
        (9.0, 0.9, 1.3, "watch", "no better than that nothing moves"),
        (9.0, 0.9, 0.07, "healthy", "7 % of that of standing still"),
    ],
)
def test_the_judgement_follows_the_figures(rank, spread, over, state, word):
    found = verdict_of_states(rank, spread, over, 32)
    assert found.state == state and word in found.sentence
    assert bool(found.advice) == (state != "healthy")


def test_a_stride_is_two_steps_of_what_moves():
    line = torch.arange(6.0)[:, None] * torch.tensor([[3.0, 4.0]])
    assert step_length([line]) == 10.0
    assert step_length([line[:2]]) == 5.0
    assert step_length([line, torch.zeros(50, 2)]) == 10.0
