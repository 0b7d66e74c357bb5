"""Frames a second: what is counted, what is judged, and what is refused."""

import re

import pytest

from jepa_video.bench import frames
from jepa_video.cli import main
from jepa_video.envs import registry, swing
from jepa_video.envs.wrap import Wrapped
from tests.test_kinds import Track


class Clock:
    """A processor that takes as long for each reading, so that a rate is what was stepped."""

    def __init__(self):
        self.now = 0.0

    def process_time(self):
        self.now += 1.0
        return self.now


def test_a_rate_is_frames_over_the_time_of_the_processor(monkeypatch):
    monkeypatch.setattr(frames, "time", Clock())
    (row,) = frames.frame_rates(["Pendulum"], 8, 3, 0)  # 200 steps, of which 100 are timed
    assert (row.alone.value, row.rate.value) == (100, 800)
    assert row.rate.low == row.rate.high == row.rate.value


def test_who_has_ended_makes_no_frames(monkeypatch):
    class Short(Track):
        def reset(self, *, seed=None, options=None):
            self.left = 10
            return super().reset(seed=seed)

        def step(self, action):
            self.left -= 1
            seen, reward, *_ = super().step(action)
            return seen, reward, self.left == 0, False, {}

    monkeypatch.setitem(registry.WORLDS, "Short", "swing")
    made = lambda batch=1: Wrapped([Short() for _ in range(batch)], id="Short", budget=50)  # noqa: E731
    monkeypatch.setattr(swing, "Short", made, raising=False)
    monkeypatch.setattr(frames, "time", Clock())
    (row,) = frames.frame_rates(["Short"], 4, 2, 0)
    assert (row.alone.value, row.rate.value) == (10, 40)


def test_the_command_judges_each_environment(capsys):
    words = ["bench", "envs", "--envs", "Pendulum,Rooms", "--batch", "4", "--rounds", "2"]
    assert main([*words, "--at_least", "1"]) == 0
    told = capsys.readouterr().out
    assert "Pendulum" in told and "4 together" in told and "each makes as many" in told
    assert main([*words, "--at_least", "1000000000"]) == 1
    assert "below 1,000,000,000: Pendulum, Rooms" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--batch", "0"], "batch must be 1 or more and rounds 2 or more, not 0 and 5"),
        (["--rounds", "1"], "batch must be 1 or more and rounds 2 or more, not 64 and 1"),
        (["--envs", ","], "envs must name one, and seed be 0 or more, not [] and 0"),
        (["--seed", "-1"], "seed be 0 or more"),
        (["--envs", "Room"], "there is no environment 'Room'"),
        (["--env", "Rooms"], "there is no option --env"),
    ],
)
def test_bad_input_is_one_sentence(words, said, capsys):
    assert main(["bench", "envs", *words]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_the_options_of_the_help_text_exist(capsys):
    from jepa_video.cli.bench_envs import _parser

    assert main(["bench", "envs", "--help"]) == 0
    told = set(re.findall(r"--\w+", capsys.readouterr().out.replace("--OPTION", "")))
    known = {name for action in _parser()._actions for name in action.option_strings}
    assert told - {"--help"} <= known
