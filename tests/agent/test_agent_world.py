"""Claims of `agent fit --world`: what comes first is `world`, whole, and never done twice."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from jepa_video import load_encoder, load_world
from jepa_video.agent.collect import collect
from jepa_video.cli import main
from jepa_video.errors import UserError
from jepa_video.interop.files import read_safetensors
from jepa_video.models.encoder import VideoEncoder
from jepa_video.training.run import held

QUIET = ["--wandb", "off", "--trainer.accelerator", "cpu"]
SETTINGS = """\
data: {batch_size: 4, frames: 8}
model:
  encoder: {class_path: ConvEncoder, init_args: {channels: 4, width: 8}}
checkpoint: {every_n_steps: 1}
watch: {clips: 8}
trainer: {max_steps: STEPS}
"""
AGENT = (
    "data: {batch_size: 16}\nlearn: {hidden: 16}\ntrainer: {max_steps: 3}\nworld: ../world.yaml\n"
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Episodes, settings of a world model, and in another folder settings that name them."""
    root = tmp_path_factory.mktemp("first")
    collect("TwoRooms", "explore", 10, root / "rooms", settings={"budget": 12, "scenes": 3})
    (root / "world.yaml").write_text(SETTINGS.replace("STEPS", "3"))
    (root / "long.yaml").write_text(SETTINGS.replace("STEPS", "100000"))
    (root / "agent").mkdir()
    (root / "agent" / "agent.yaml").write_text(AGENT)
    assert main(words(root, "one")) == 0
    return root


def words(root: Path, name: str, *more: str) -> list[str]:
    told = ["--config", str(root / "agent" / "agent.yaml"), "--data.root", str(root / "rooms")]
    return ["agent", "fit", *told, *QUIET, "--runs", str(root), "--name", name, *more]


@pytest.fixture(scope="module")
def eyes(root: Path) -> Path:
    """A pretraining run on the videos of the episodes: clips of 4 frames."""
    told = ["--model.encoder.depth", "1", "--model.encoder.width", "24", "--data.size", "64"]
    told += ["--model.encoder.heads", "2", "--model.encoder.frames", "4", *QUIET]
    told += ["--model.encoder.image", "64", "--data.batch_size", "4", "--trainer.max_steps", "2"]
    told += ["--data.root", str(root / "rooms"), "--runs", str(root), "--name", "eyes"]
    assert main(["pretrain", *told]) == 0
    return root / "eyes"


def settings_of(root: Path, name: str, *changes: tuple[str, str]) -> list[str]:
    """The option that names settings of a world model with some changes."""
    told = SETTINGS.replace("STEPS", "3")
    for old, new in changes:
        assert old in told
        told = told.replace(old, new)
    (root / f"{name}.yaml").write_text(told)
    return ["--world", str(root / f"{name}.yaml")]


def kept(before: VideoEncoder, after: VideoEncoder) -> list[bool]:
    """Of which weights no bit has changed."""
    weights = after.state_dict()
    return [torch.equal(value, weights[name]) for name, value in before.state_dict().items()]


def on_eyes(root: Path, eyes: Path, train: str) -> list[str]:
    """The command of an agent on that encoder; its world model's settings name another one."""
    changed = settings_of(root, train, ("model:", f"model:\n  train: {train}"))
    return words(root, train, "--checkpoint", str(eyes), *changed)


@pytest.fixture(scope="module")
def frozen(root: Path, eyes: Path) -> Path:
    assert main(on_eyes(root, eyes, "frozen")) == 0
    return root / "frozen"


def test_no_bit_of_a_frozen_pretraining_run_changes_in_the_agent(eyes: Path, frozen: Path):
    before, after = load_encoder(eyes), load_world(frozen).encoder
    assert after.config == before.config and all(kept(before, after))


def test_a_pretraining_run_is_tuned_where_the_settings_say_full(root: Path, eyes: Path):
    assert main(on_eyes(root, eyes, "full")) == 0
    before, after = load_encoder(eyes), load_world(root / "full").encoder
    assert after.config == before.config and not all(kept(before, after))


def test_a_world_model_on_an_encoder_is_taken_when_it_is_finished_and_goes_on_when_not(
    root: Path, eyes: Path, frozen: Path
):
    trained = root / "frozen-world" / "world" / "world.safetensors"
    os.symlink(root / "frozen-world", root / "taken-again-world")
    written = trained.stat().st_mtime_ns
    told = on_eyes(root, eyes, "frozen")
    assert main([*told, "--name", "taken-again"]) == 0 and trained.stat().st_mtime_ns == written
    part = root / "halt-world"
    shutil.copytree(root / "frozen-world", part)
    (part / "summary.json").unlink()
    shutil.rmtree(part / "world")
    (part / "checkpoints" / "step-00000003.ckpt").unlink()
    assert list((part / "checkpoints").iterdir())
    assert main([*told, "--name", "halt"]) == 0
    assert (part / "world" / "world.safetensors").read_bytes() == trained.read_bytes()


def test_an_encoder_of_somebody_else_becomes_the_eyes_too_with_the_frames_of_the_file(root: Path):
    transformers = pytest.importorskip("transformers", reason="needs jepa-video[hf]")
    torch.manual_seed(0)
    config = transformers.VJEPA2Config(
        hidden_size=24, num_hidden_layers=1, num_attention_heads=2, crop_size=64,
        frames_per_clip=8, pred_hidden_size=24, pred_num_attention_heads=2,
        pred_num_hidden_layers=1,
    )  # fmt: skip
    transformers.VJEPA2Model(config).save_pretrained(root / "theirs")
    changes = ("model:", "model:\n  train: frozen"), ("{channels: 4", "{frames: 2, channels: 4")
    told = settings_of(root, "few", *changes)
    assert main(words(root, "theirs-agent", "--checkpoint", str(root / "theirs"), *told)) == 0
    before, after = (
        load_encoder(root / "theirs", frames=2), load_world(root / "theirs-agent").encoder
    )  # fmt: skip
    assert after.frames == 2 and all(kept(before, after))


def test_an_encoder_without_settings_of_a_world_model_is_told_what_is_missing(
    root: Path, eyes: Path, capsys: pytest.CaptureFixture[str]
):
    bare = root / "bare.yaml"
    bare.write_text(AGENT.replace("world: ../world.yaml\n", ""))
    given = ["--config", str(bare), "--data.root", str(root / "rooms"), *QUIET, "--runs", str(root)]
    for place, more, said in (
        (eyes, [], f"{eyes} is no world model: expected a finished run of jepa-video world, or"),
        (root / "rooms", [], "an encoder --world FILE, settings to train a world model on it by"),
        (root / "rooms", settings_of(root, "plain"), "nor an encoder to train one on: "),
    ):
        told = ["agent", "fit", *given, "--checkpoint", str(place), "--name", "blind", *more]
        assert main(told) == 2
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1, error
        assert not (root / "blind").exists() and not (root / "blind-world").exists()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("model:", "init: {root}/eyes\nmodel:", "--init None, not {root}/eyes"),
        ("model:", "model:\n  train: frozen", "--model.train full, not frozen"),
        ("model:", "model:\n  horizon: 2", "--model.horizon 6, not 2"),
        ("width: 8", "width: 16", "--model.encoder.width 8, not 16"),
        ("max_steps: 3", "max_steps: 4", "--trainer.max_steps 3, not 4"),
        ("frames: 8", "frames: 9", "--data.frames 8, not 9"),
    ],
)
def test_a_world_model_that_was_trained_otherwise_is_not_taken(
    root: Path, eyes: Path, old: str, new: str, said: str, capsys: pytest.CaptureFixture[str]
):
    changed = settings_of(root, "changed", (old, new.format(root=root)))
    if not (root / "odd-world").exists():
        os.symlink(root / "one-world", root / "odd-world")
    capsys.readouterr()
    assert main(words(root, "odd", *changed)) == 2
    error = capsys.readouterr().err
    told = f"odd-world is a world model of {said.format(root=root)}: choose another --name, or give"
    assert told in error and error.count("\n") == 1, error
    assert not (root / "odd").exists()


def test_it_is_the_world_and_the_agent_of_two_commands(root: Path):
    told = ["world", "--config", str(root / "world.yaml"), "--data.root", str(root / "rooms")]
    assert main([*told, *QUIET, "--runs", str(root), "--name", "apart"]) == 0
    assert main(words(root, "two", "--checkpoint", str(root / "apart"))) == 0
    for one, other in (("one-world", "apart"), ("one", "two")):
        part = "agent/agent" if one == "one" else "world/world"
        mine, wanted = (
            read_safetensors(root / run / f"{part}.safetensors") for run in (one, other)
        )
        assert mine.keys() == wanted.keys()
        assert all(torch.equal(mine[name], wanted[name]) for name in mine)


def test_a_world_model_that_is_finished_is_taken_and_one_of_other_data_refused(
    root: Path, capsys: pytest.CaptureFixture[str]
):
    os.symlink(root / "one-world", root / "again-world")
    written = (root / "one-world" / "world" / "world.safetensors").stat().st_mtime_ns
    assert main(words(root, "again", "--seed", "1")) == 2
    assert "is a world model of --seed 0, not 1: choose another --name" in capsys.readouterr().err
    assert not (root / "again").exists()
    assert main(words(root, "again")) == 0
    assert (root / "one-world" / "world" / "world.safetensors").stat().st_mtime_ns == written


def test_what_the_settings_of_the_world_model_say_is_what_it_is_taken_by(root: Path):
    """A seed and a share in the file are not asked for again on the command line."""
    told = SETTINGS.replace("STEPS", "3").replace("{batch_size: 4", "{share: 0.5, batch_size: 4")
    (root / "half.yaml").write_text(f"seed: 3\n{told}")
    asked = words(root, "half", "--world", str(root / "half.yaml"))
    assert main(asked) == 0
    (root / "half").rename(root / "half-before")
    assert main(asked) == 0
    assert "seed: 3" in (root / "half-world" / "config.yaml").read_text()


def test_a_world_model_that_was_killed_before_its_first_checkpoint_begins_anew(root: Path):
    place = root / "early-world"
    (place / "checkpoints").mkdir(parents=True)
    (place / "config.yaml").write_bytes((root / "one-world" / "config.yaml").read_bytes())
    (place / "metrics.csv").write_text("step,loss\n1,2.0\n")
    assert main(words(root, "early")) == 0
    told = json.loads((place / "summary.json").read_text())
    assert told["steps"] == 3


def test_a_folder_of_somebody_elses_is_not_removed_for_it(
    root: Path, capsys: pytest.CaptureFixture[str]
):
    (root / "mine-world").mkdir()
    (root / "mine-world" / "thesis.txt").write_text("years of work")
    assert main(words(root, "mine")) == 2
    assert "mine-world exists and has no step yet; choose another" in capsys.readouterr().err
    assert (root / "mine-world" / "thesis.txt").read_text() == "years of work"


def test_a_rank_that_ends_well_after_a_signal_does_not_wait_for_the_others(tmp_path: Path):
    """Rank 0 alone tells the code of the signal, and writes nothing that could be waited for."""
    code = (
        "import os, signal, sys, threading\n"
        "from jepa_video.cli import agent_world\n"
        "sys.executable = '/bin/sh'\n"
        "real = agent_world.subprocess.Popen\n"
        "ends = ['/bin/sh', '-c', 'trap \"exit 0\" TERM; sleep 20 & wait']\n"
        "agent_world.subprocess.Popen = lambda words, **more: real(ends, **more)\n"
        "threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGTERM)).start()\n"
        "sys.exit(agent_world._called([]))\n"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 143


def test_a_name_that_is_taken_is_told_before_anything_is_trained(
    root: Path, capsys: pytest.CaptureFixture[str]
):
    (root / "taken").mkdir()
    assert main(words(root, "taken")) == 2
    assert "choose another --name" in capsys.readouterr().err
    assert not (root / "taken-world").exists()


@pytest.mark.parametrize(
    ("told", "said"),
    [
        (["--world", "none.yaml"], "--world none.yaml is not there: it names settings of"),
        (["--world", "{root}/agent/agent.yaml"], "there is no option"),
        (["--data.root", "{root}/nowhere"], "holds no episodes"),
        (["--learn.members", "0"], "members and holds 1 or more"),
        (["--search.samples", "4"], "8 elites need as many samples or more, got 4"),
        (["--search.levels", "2"], "search.levels 2 needs a level 2, which learn.stride 1"),
        (["--learn.source", "deeds"], "learn.source deeds takes --learn.judge value, and no"),
        (["--learn.recall", "4"], "learn.recall is of a critic of values"),
        (["--learn.surprise", "0.5", "--learn.foretold", "2"], "learn.surprise draws single steps"),
        (["--cost", "{gaol: 1}"], "there is no cost 'gaol'"),
        (["--cost", "{goal: 1, zone: 1}"], "the cost zone needs boxes"),
        (["--cost", "{curiosity: 1}"], "the cost curiosity is of what an episode has taught"),
    ],
)
def test_what_neither_can_be_trained_by_is_told_in_a_sentence_before_it_is(
    root: Path, told: list[str], said: str, capfd: pytest.CaptureFixture[str]
):
    told = [word.replace("{root}", str(root)) for word in told]
    assert main(words(root, "wrong", *told)) == 2
    error = capfd.readouterr().err
    assert said in error and error.count("\n") == 1, error
    assert not (root / "wrong").exists() and not (root / "wrong-world").exists()


def test_sigterm_comes_to_the_world_model_and_the_same_command_goes_on_with_it(root: Path):
    told = words(root, "cut", "--world", str(root / "long.yaml"))
    here = {"cwd": Path(__file__).parents[2], "text": True}
    child = subprocess.Popen([sys.executable, "-m", "jepa_video", *told], **here)
    place, until = root / "cut-world" / "checkpoints", time.monotonic() + 120
    while not list(place.glob("step-*.ckpt")) and time.monotonic() < until:
        time.sleep(0.1)
    child.send_signal(signal.SIGTERM)
    assert child.wait(60) == 143
    steps = max(int(path.stem.removeprefix("step-")) for path in place.glob("step-*.ckpt"))
    assert not (root / "cut").exists()
    for file in (root / "cut-world" / "config.yaml", root / "long.yaml"):
        text = file.read_text().replace("max_steps: 100000", f"max_steps: {steps + 2}")
        file.write_text(text)
    assert main(told) == 0
    assert json.loads((root / "cut-world" / "summary.json").read_text())["steps"] == steps + 2
    assert json.loads((root / "cut" / "summary.json").read_text())["status"] == "finished"


def test_a_world_model_stops_with_the_agent_fit_that_is_killed_and_goes_on_with_the_next(
    root: Path,
):
    told = words(root, "dead", "--world", str(root / "long.yaml"))
    here = {"cwd": Path(__file__).parents[2], "text": True}
    (root / "long.yaml").write_text(SETTINGS.replace("STEPS", "100000"))
    child = subprocess.Popen([sys.executable, "-m", "jepa_video", *told], **here)
    place, until = root / "dead-world", time.monotonic() + 120
    while not list((place / "checkpoints").glob("step-*.ckpt")) and time.monotonic() < until:
        time.sleep(0.1)
    child.kill()
    assert child.wait(60) == -9

    def free() -> bool:
        try:
            with held(place, "in use"):
                return True
        except UserError:
            return False

    while not free() and time.monotonic() < until:
        time.sleep(0.2)
    assert free(), "nobody is at work on it"
    steps = max(int(p.stem.removeprefix("step-")) for p in place.glob("checkpoints/step-*.ckpt"))
    for file in (place / "config.yaml", root / "long.yaml"):
        text = file.read_text().replace("max_steps: 100000", f"max_steps: {steps + 2}")
        file.write_text(text)
    assert main(told) == 0
    assert json.loads((place / "summary.json").read_text())["steps"] == steps + 2
