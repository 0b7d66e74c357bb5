"""A run that was killed and resumed equals, bit for bit, the run that was not."""

import random
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from jepa_video.training.run import Run, checkpoint_step, checkpoints_of

STEPS = 24
ROOT = Path(__file__).parents[2]


def train(*runs: tuple[Path, str]) -> list[int]:
    """Exit codes of runs, each a process of its own, one after the other."""
    words = " then ".join(f"{folder} --steps {STEPS} {options}" for folder, options in runs)
    command = [sys.executable, "-m", "tests.training.tiny", *words.split()]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    codes = re.findall(r"^ended (-?\d+)$", done.stdout, re.MULTILINE)
    assert len(codes) == len(runs), done.stderr
    return [int(code) for code in codes]


def assert_same(whole: Path, parts: Path) -> None:
    assert (parts / "metrics.csv").read_bytes() == (whole / "metrics.csv").read_bytes()
    one, other = (
        torch.load(checkpoints_of(Run(folder))[0], weights_only=True) for folder in (whole, parts)
    )
    assert one["global_step"] == other["global_step"] == STEPS
    for name, value in one["state_dict"].items():
        assert torch.equal(value, other["state_dict"][name]), name
    probe, probe_other = (saved["callbacks"]["OnlineProbe"] for saved in (one, other))
    assert torch.equal(probe["features"], probe_other["features"])


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("workers", [0, 2])
def test_five_kills_change_no_bit(tmp_path: Path, workers: int) -> None:
    whole, parts, options = tmp_path / "whole", tmp_path / "parts", f"--workers {workers}"
    steps = sorted(random.Random(workers).sample(range(1, STEPS), 5))
    killed = [(parts, f"{options} --kill {step}") for step in steps]
    codes = train((whole, options), *killed, (parts, options))
    assert codes == [0, *[-signal.SIGKILL] * 5, 0]
    assert_same(whole, parts)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_told_to_stop_has_a_checkpoint_and_says_why(
    tmp_path: Path, number: signal.Signals
) -> None:
    """The batch that ends step 8 ends an epoch: the checkpoint comes with step 9."""
    whole, parts, told = tmp_path / "whole", tmp_path / "parts", f"--signal {int(number)}"
    stopped = [(parts, f"--every 0 {told} --kill {step}") for step in (5, 7)]
    assert train(*stopped) == [128 + number] * 2
    assert [checkpoint_step(path) for path in checkpoints_of(Run(parts))] == [9, 6]
    assert train((parts, "--every 0"), (whole, "--every 0")) == [0, 0]
    assert_same(whole, parts)
