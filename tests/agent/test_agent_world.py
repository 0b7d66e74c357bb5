"""Claims of `agent fit --world`: what comes first is `world`, whole, and never done twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from jepa_video.agent.collect import collect
from jepa_video.cli import main
from jepa_video.interop.files import read_safetensors

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
    ],
)
def test_what_the_world_model_cannot_be_trained_on_is_told_in_a_sentence(
    root: Path, told: list[str], said: str, capfd: pytest.CaptureFixture[str]
):
    told = [word.format(root=root) for word in told]
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
    config = root / "cut-world" / "config.yaml"
    config.write_text(config.read_text().replace("max_steps: 100000", f"max_steps: {steps + 2}"))
    assert main(told) == 0
    assert json.loads((root / "cut-world" / "summary.json").read_text())["steps"] == steps + 2
    assert json.loads((root / "cut" / "summary.json").read_text())["status"] == "finished"
