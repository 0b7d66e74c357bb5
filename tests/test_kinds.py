"""Kinds of actions and of states, from episodes to plans through the commands."""

import json
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from jepa_video import Agent
from jepa_video.agent.planners import CategoricalCEM
from jepa_video.cli import main
from jepa_video.data.lerobot import Dataset
from jepa_video.envs import make_batch, registry, swing
from jepa_video.envs.wrap import Wrapped

QUIET = ["--wandb", "off", "--trainer.accelerator", "cpu", "--trainer.max_steps", "6"]
TINY = ["--model.encoder.channels", "4", "--model.encoder.width", "8", "--data.frames", "6"]
LOOK = "{horizon: 3, samples: 12, iterations: 2, elites: 4}"


class Track(gymnasium.Env):
    """A dot that a whole number moves left, not at all, or right; reward to the right."""

    observation_space = spaces.Box(-9.0, 9.0, (1,))
    action_space = spaces.Discrete(3)
    render_mode = "rgb_array"

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x = int(self.np_random.integers(20, 44))
        return np.array([self.x], np.float32), {}

    def step(self, action):
        assert action in (0, 1, 2)
        self.x = int(np.clip(self.x + 3 * (int(action) - 1), 4, 60))
        return np.array([self.x], np.float32), self.x / 60, False, False, {}

    def render(self):
        picture = np.zeros((64, 64, 3), np.uint8)
        picture[28:36, self.x - 4 : self.x + 4] = 255
        return picture


def tracks(batch: int = 1, budget: int = 12) -> Wrapped:
    return Wrapped([Track() for _ in range(batch)], id="Tracks", budget=budget)


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.WORLDS, "Tracks", "swing")
    monkeypatch.setattr(swing, "Tracks", tracks, raising=False)


def rows_of(folder: Path) -> dict:
    told = json.loads((folder / "summary.json").read_text())
    return {row["name"]: row for row in told["rows"]}


def test_whole_numbers_are_collected_learned_planned_and_taken(
    known: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    episodes, runs = tmp_path / "episodes", tmp_path / "runs"
    words = ["collect", "--env", "Tracks", "--policy", "random", "--episodes", "8"]
    assert main([*words, "--out", str(episodes)]) == 0
    assert "solved" not in capsys.readouterr().out  # it tells returns alone
    data = Dataset(episodes)
    taken = np.concatenate([data.rows(entry)["action"] for entry in data.entries()])
    assert set(np.unique(taken)) == {0, 1, 2}
    words = ["world", "--data.root", str(episodes), "--data.batch_size", "4", *TINY, *QUIET]
    assert main([*words, "--runs", str(runs), "--name", "world"]) == 0
    words = ["agent", "fit", "--checkpoint", str(runs / "world"), "--data.root", str(episodes)]
    words += ["--data.batch_size", "16", "--learn.hidden", "16", "--search.samples", "12", *QUIET]
    words += ["--rounds.count", "1", "--rounds.episodes", "2", "--rounds.steps", "2"]
    assert main([*words, "--runs", str(runs), "--name", "agent"]) == 0
    assert len((runs / "agent" / "rounds.csv").read_text().splitlines()) == 3
    out = tmp_path / "out"
    words = ["agent", "eval", "--env", "Tracks", "--policy", "mode1,mode2", "--episodes", "3"]
    words += ["--checkpoint", str(runs / "agent"), "--search", LOOK, "--device", "cpu"]
    assert main([*words, "--out", str(out)]) == 0
    rows = rows_of(out)
    assert rows["mode2"]["facts"]["planner"] == "CategoricalCEM"
    assert rows["mode2"]["modes"] == {"mode2": 1.0} and rows["mode1"]["modes"] == {"mode1": 1.0}
    env = make_batch("Tracks", 3)
    agent = Agent.load(runs / "agent", env, mode="mode2")
    assert isinstance(agent.actor.planner, CategoricalCEM)


def test_states_of_patch_tokens_are_learned_and_planned_with(tmp_path: Path) -> None:
    episodes, runs = tmp_path / "episodes", tmp_path / "runs"
    words = ["collect", "--env", "TwoRooms", "--policy", "explore", "--episodes", "8"]
    assert main([*words, "--budget", "12", "--out", str(episodes)]) == 0
    words = ["world", "--data.root", str(episodes), "--data.batch_size", "4", *TINY, *QUIET]
    words += ["--model.state", "PatchState", "--model.state.dim", "4"]
    words += ["--model.dynamics", "TokenDynamics", "--model.dynamics.depth", "1"]
    assert main([*words, "--runs", str(runs), "--name", "patches"]) == 0
    world = Agent.load(runs / "patches", mode="mode2").world
    assert (world.state.tokens, world.state.width) == (64, 4)  # a state has a row for each patch
    out = tmp_path / "out"
    words = ["agent", "eval", "--env", "TwoRooms", "--policy", "mode2", "--episodes", "2"]
    words += ["--checkpoint", str(runs / "patches"), "--search", LOOK, "--device", "cpu"]
    assert main([*words, "--budget", "4", "--out", str(out)]) == 0
    row = rows_of(out)["mode2"]
    assert row["success"]["of"] == 2 and row["facts"]["sequences"] > 24
