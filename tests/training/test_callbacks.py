import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from jepa_video.training.callbacks import Batch, DataHealth, HeldOut, Schedules, undisturbed
from jepa_video.training.checkpoints import Checkpointer
from jepa_video.training.dashboard import CollapseDashboard, OnlineProbe, spread_sample, vitals
from jepa_video.training.logs import CsvLog, read_metrics
from jepa_video.training.run import Run, create_run

from .tiny import TinyData, tiny_module


def batches() -> Iterator[Batch]:
    video = torch.randint(256, (64, 4, 3, 16, 16), dtype=torch.uint8)
    for part in video.split(16):
        yield {"video": part, "labels": torch.zeros(len(part), 1, dtype=torch.long)}


def trainer(run: Run, *callbacks: L.Callback, steps: int = 6, **options: Any) -> L.Trainer:
    return L.Trainer(
        accelerator="cpu",
        max_steps=steps,
        logger=CsvLog(run.metrics),
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=run.path,
        callbacks=list(callbacks),
        **options,
    )


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return create_run(tmp_path, "one")


def test_watching_changes_nothing_of_what_is_learned(tmp_path: Path) -> None:
    """Random depth draws from the global generator: a callback that draws too would be seen."""
    weights = []
    for name in ("alone", "watched"):
        run = create_run(tmp_path, name)
        held_out = HeldOut(batches)
        watchers: list[L.Callback] = [
            CollapseDashboard(held_out, every_n_steps=2),
            OnlineProbe(held_out, {"parity": 2}, every_n_steps=2),
        ]
        held_out.batches()
        torch.manual_seed(0)
        module = tiny_module()
        trainer(run, *(watchers if name == "watched" else [])).fit(module, TinyData())
        weights.append(module.state_dict())
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_the_rate_in_the_log_is_the_one_of_the_step(run: Run) -> None:
    """Warm-up over 3 of 6 steps to 1e-3: the first step is taken with a third of it."""
    module = tiny_module()
    module.warmup, module.learning_rate = 0.5, 1e-3
    trainer(run, Schedules(), accumulate_grad_batches=2).fit(module, TinyData())
    rates = [value for _, value in read_metrics(run.metrics)["lr"]]
    assert rates[:3] == pytest.approx([1e-3 / 3, 2e-3 / 3, 1e-3])
    assert rates[3:] == sorted(rates[3:], reverse=True) and len(rates) == 6


def test_held_out_clips_are_read_once_and_bounded() -> None:
    reads = []

    def read() -> Iterator[Batch]:
        reads.append(1)
        return batches()

    held_out = HeldOut(read, clips=20)
    first = held_out.batches()
    assert held_out.batches() is first and len(reads) == 1
    assert sum(len(batch["video"]) for batch in first) == 32, "whole batches up to the bound"
    assert len(HeldOut(batches, megabytes=0.01).batches()) == 1
    assert HeldOut(lambda: iter(())).batches() == []


def test_measuring_leaves_modes_and_generators_as_they_were(run: Run) -> None:
    module = tiny_module()
    module.encoder.blocks[0].eval()
    before = [part.training for part in module.modules()]
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    with pytest.raises(RuntimeError), undisturbed(trainer(run), module):
        assert not any(part.training for part in module.modules())
        assert not torch.is_grad_enabled()
        torch.rand(100)
        raise RuntimeError
    assert [part.training for part in module.modules()] == before
    assert torch.equal(torch.rand(3), expected)


def test_the_dashboard_sees_a_collapsed_encoder_and_says_so_once(run: Run) -> None:
    said: list[str] = []
    module = tiny_module()
    with torch.no_grad():  # every clip is answered with the same tokens
        for encoder in (module.encoder, module.target):
            encoder.norm.weight.zero_()
    module.learning_rate = 0.0
    trainer(run, CollapseDashboard(HeldOut(batches), said.append, every_n_steps=2)).fit(
        module, TinyData()
    )
    figures = read_metrics(run.metrics)
    assert [step for step, _ in figures["rankme/target"]] == [2, 4, 6]
    assert all(value < 1e-3 for _, value in figures["std/target"])
    assert all(abs(value) < 1e-4 for _, value in figures["energy_gap"])
    assert len(said) == 1 and said[0].startswith("step 2: collapsed"), said
    assert "What helps" in said[0]


def test_figures_that_were_not_measured_are_not_judged() -> None:
    figures = vitals({"std/target": 1.0, "energy": 0.5, "energy/held_out": 0.25}, 24)
    assert figures.energy == 0.25 and figures.gap is None and figures.rank_context is None
    assert vitals({"loss": 1.0}, 24).energy is None


class Coloured(TinyData):
    """Clips whose brightness is their class, which any encoder shows."""

    def __init__(self) -> None:
        super().__init__(count=64)
        labels = torch.arange(64) % 2
        level = 40 + 170 * labels[:, None, None, None, None]
        noise = torch.randint(20, (64, 4, 3, 16, 16), generator=torch.Generator().manual_seed(0))
        self.clips.video = (level + noise).to(torch.uint8)

    def held_out(self) -> Iterator[Batch]:
        yield {"video": self.clips.video, "labels": torch.arange(64)[:, None] % 2}


def test_the_online_probe_learns_what_is_plain_to_see(run: Run) -> None:
    data = Coloured()
    held_out = HeldOut(data.held_out)
    probe = OnlineProbe(held_out, {"bright": 2}, every_n_steps=30, learn_every=1, memory=40)
    module = tiny_module()
    trainer(run, probe, steps=60).fit(module, data)
    figures = read_metrics(run.metrics)
    assert figures["knn/bright"][-1][1] > 0.95
    assert figures["probe/bright"][-1][1] > 0.95
    assert len(probe.state_dict()["features"]) == 40, "the memory is bounded"


def test_labels_that_are_not_known_are_left_out(run: Run) -> None:
    held_out = HeldOut(lambda: iter([{**b, "labels": b["labels"] - 1} for b in batches()]))
    data = TinyData()
    probe = OnlineProbe(held_out, {"parity": 2}, every_n_steps=2)
    trainer(run, probe, steps=2).fit(tiny_module(), data)
    assert "probe/parity" not in read_metrics(run.metrics)


def test_clips_a_second_and_the_wait_are_counted(run: Run) -> None:
    class Slow(TinyData):
        def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            import time

            time.sleep(0.05)
            return batch

    rows = [("a.mp4", "no video stream")]
    health = DataHealth(run, lambda: rows, every_n_steps=2)
    trainer(run, health, steps=7).fit(tiny_module(), Slow())
    assert health.clips == 7 * 4
    assert health.waited >= 7 * 0.05 and health.waited <= health.seconds
    assert [step for step, _ in read_metrics(run.timings)["clips_per_second"]] == [2, 4, 6, 7]
    assert run.unreadable.read_text() == "path,reason\na.mp4,no video stream\n"
    assert "clips_per_second" not in read_metrics(run.metrics), "no clock in metrics.csv"


@pytest.mark.parametrize(("tokens", "count"), [(10, 4), (10, 10), (10, 50), (1025, 1024)])
def test_a_sample_of_tokens_is_bounded_and_spread(tokens: int, count: int) -> None:
    sample = spread_sample(torch.arange(tokens)[None, :, None], count)
    assert len(sample) == min(tokens, count)


def test_neighbours_vote_under_bf16() -> None:
    probe = OnlineProbe(HeldOut(batches), {"shape": 2}, neighbours=2)
    probe._features = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
    probe._labels = torch.tensor([[0], [0], [1], [1]])
    with torch.autocast("cpu", torch.bfloat16):
        assert probe._votes(probe._features).flatten().tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("length", [{"max_steps": 5}, {"max_epochs": 1}, {"max_steps": 14}])
def test_the_last_step_has_a_row_whatever_the_interval(
    length: dict[str, int], tmp_path: Path
) -> None:
    """The row is the one that a run which logs every step writes, shorter than an interval too."""
    rows = []
    for interval in (1, 10):
        run = create_run(tmp_path, f"every-{interval}")
        log = CsvLog(run.metrics)
        torch.manual_seed(0)
        trainer = L.Trainer(
            accelerator="cpu",
            logger=log,
            log_every_n_steps=interval,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            callbacks=[Schedules(), Checkpointer(run, (log.table,), every_n_steps=0)],
            **length,
        )
        trainer.fit(tiny_module(), TinyData())
        rows.append(list(csv.DictReader(run.metrics.open())))
    every, tens = rows
    wanted = [row for row in every if int(row["step"]) % 10 == 0 or row is every[-1]]
    assert tens == wanted and "lr" in tens[-1] and "loss" in tens[-1]
