"""Claims of rounds: who acts when, what is imitated, what a crash or a kill changes (nothing)."""

from __future__ import annotations

import csv
import html
import json
import math
import re
import shutil
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from safetensors.torch import save_file

from jepa_video import Agent
from jepa_video.agent import collect as collecting
from jepa_video.agent.bank import Bank
from jepa_video.agent.collect import collect
from jepa_video.agent.configurator import RollIn, rolled_in
from jepa_video.agent.cost import IntrinsicCost
from jepa_video.agent.crashes import Crashes, lasting
from jepa_video.agent.encoding import encoded
from jepa_video.agent.learner import AgentLearner
from jepa_video.agent.rounds import Field, Rounds, Row, Table
from jepa_video.agent.task import Task
from jepa_video.agent.trials import Tasks, choose_tasks, play_trials
from jepa_video.agent.world_files import load_world
from jepa_video.cli import main
from jepa_video.data.episodes import EpisodeSet
from jepa_video.data.lerobot import episode_rows
from jepa_video.envs import split
from jepa_video.envs.policies import make_policy
from jepa_video.envs.registry import make_batch
from jepa_video.envs.two_rooms import TwoRooms
from jepa_video.envs.wrap import Wrapped
from jepa_video.errors import UserError
from jepa_video.interop.files import read_safetensors
from jepa_video.randomness import EPISODE, seed_of
from tests.agent.tiny_agent import moving_world, save_tiny_agent

# -- who is judged ---------------------------------------------------------------------------------


def test_who_is_to_stay_up_is_judged_to_the_end_and_not_to_the_first_success(monkeypatch, tmp_path):
    """The return of a pole that is up early is all that comes of it."""
    monkeypatch.setattr(Agent, "load", lambda path, env, *_: make_policy("scripted", env))
    field = Field("Pendulum", {"budget": 120}, Rounds(tasks=5), 0)
    told = field.judged(tmp_path, "cpu", Crashes())
    assert told["solved"] == 1
    env = make_batch("Pendulum", 5, budget=120)
    seeds = choose_tasks(env, 5, seed_of(0, EPISODE, 14) % 2**31).seeds
    env.reset(seed=seeds)
    total = sum(env.step(env.expert())[1] for _ in range(120))
    assert told["total"] == pytest.approx(total.mean(), rel=1e-5)


# -- who acts --------------------------------------------------------------------------------------


def test_half_of_the_episodes_begin_with_mode_1_for_any_number_of_decisions():
    begun = torch.tensor([rolled_in(seed, 20) for seed in range(4000)])
    assert float((begun > 0).float().mean()) == pytest.approx(0.5, abs=0.03)
    counts = torch.bincount(begun[begun > 0], minlength=21)
    assert len(counts) == 21 and int(counts[1:].min()) > 60 and int(counts[1:].max()) < 140
    assert {rolled_in(seed, 0) for seed in range(50)} == {0}


def test_mode_2_takes_over_where_that_is_told():
    seeds = list(range(40))
    who, task = RollIn(5), Task(None)
    state = torch.zeros(40, 1, 2)
    for _ in range(2):  # the second time everything begins anew
        who.begin(seeds)
        for time in range(8):
            plans = who.configure(state, task).plans
            assert plans.tolist() == [time >= rolled_in(seed, 5) for seed in seeds]


# -- what is imitated ------------------------------------------------------------------------------


def bank_of(*shown: tuple[int, int]) -> Bank:
    """Episodes of ten states 100 e + t; the action after each is its number over 1,000."""
    memory = Bank(0)
    for e, told in enumerate(shown):
        states = (100.0 * e + torch.arange(10.0)).view(-1, 1, 1)
        memory.add(states, states[:-1, 0] / 1000, torch.zeros(9), shown=told)
    return memory


def test_planned_steps_are_shown_with_what_their_plans_led_to():
    memory = bank_of((0, 0), (3, 7), (0, 9), (5, 5))
    pairs: set[tuple[int, int]] = set()
    for draw in range(400):
        given = memory.__getitems__([(i, 36 * draw) for i in range(36)])
        assert len(given["shown_state"]) == 9  # a quarter
        state, goal = (given[f"shown_{name}"].flatten() for name in ("state", "goal"))
        torch.testing.assert_close(given["shown_action"].flatten(), state / 1000)
        pairs |= set(zip(state.long().tolist(), goal.long().tolist(), strict=True))
    wanted = {(100 + a, 100 + b) for a in range(3, 7) for b in range(a + 1, 8)}
    wanted |= {(200 + a, 200 + b) for a in range(9) for b in range(a + 1, 10)}
    assert pairs == wanted


def test_half_of_their_goals_are_the_last():
    memory = bank_of((0, 9))
    given = [memory.__getitems__([(i % 9, d) for i in range(400)]) for d in range(40)]
    state, goal = (torch.cat([g[f"shown_{n}"].flatten() for g in given]) for n in ("state", "goal"))
    first = goal[state == 0]
    assert float((first == 9).float().mean()) == pytest.approx(0.5 + 0.5 / 9, abs=0.06)


def test_memory_without_plans_shows_none_and_draws_as_before():
    given = bank_of((0, 0), (0, 0)).__getitems__([(i, 5) for i in range(8)])
    other = bank_of((0, 0), (2, 8)).__getitems__([(i, 5) for i in range(8)])
    assert not any(name.startswith("shown") for name in given)
    assert all(torch.equal(given[name], other[name]) for name in given)


# -- an environment that fails ---------------------------------------------------------------------


class Frail(gymnasium.Env):
    """Counts steps; raises at the step that is told, as often as is told."""

    observation_space = spaces.Box(-99.0, 99.0, (1,))
    action_space = spaces.Box(np.float32(-1.0), np.float32(1.0), (1,))
    render_mode = "rgb_array"
    left = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.time += 1
        if self.time == 4 and Frail.left:
            Frail.left -= 1
            raise RuntimeError("the simulator lost its mind")
        return np.full(1, self.time, np.float32), float(action[0]), False, False, {}

    def render(self):
        return np.full((16, 16, 3), self.time, np.uint8)


@pytest.fixture
def frail(monkeypatch: pytest.MonkeyPatch) -> type[Frail]:
    def made(id: str, batch: int, **settings: object) -> Wrapped:
        return Wrapped([Frail() for _ in range(batch)], "frail", budget=6, size=16)

    monkeypatch.setattr(collecting, "make_batch", made)
    monkeypatch.setattr(collecting, "all_settings", lambda id, given: {})
    return Frail


def test_an_environment_that_crashes_is_started_again_and_counted(frail, tmp_path: Path):
    frail.left = 2
    found = collect("frail", "random", 5, tmp_path / "hurt", batch=2)
    assert found.crashes == ["RuntimeError: the simulator lost its mind"] * 2
    assert (found.new, found.episodes) == (5, 5)
    assert collect("frail", "random", 5, tmp_path / "well", batch=2).crashes == []
    hurt, well = (EpisodeSet(tmp_path / name, size=16) for name in ("hurt", "well"))
    assert len(hurt) == len(well) == 5
    for i in range(5):
        one, other = hurt.episode(i), well.episode(i)
        for name in ("frames", "actions", "states", "rewards"):
            assert np.array_equal(getattr(one, name), getattr(other, name)), name


def test_one_that_crashes_again_and_again_is_told_in_a_sentence(frail, tmp_path: Path):
    frail.left = 99
    with pytest.raises(UserError, match="frail crashed 3 times in the same episodes: RuntimeError"):
        collect("frail", "random", 5, tmp_path / "hurt", batch=2)
    frail.left = 0
    assert collect("frail", "random", 5, tmp_path / "hurt", batch=2).episodes == 5


def test_one_that_cannot_even_be_made_anew_is_counted_or_told_in_a_sentence(
    frail, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    real, fails = collecting.make_batch, [0, 0]

    def made(id: str, batch: int, **settings: object) -> Wrapped:
        fails[0] += 1
        if 1 < fails[0] <= fails[1]:
            raise RuntimeError("EGL: no display")
        return real(id, batch, **settings)

    monkeypatch.setattr(collecting, "make_batch", made)
    frail.left, fails[1] = 1, 2
    found = collect("frail", "random", 2, tmp_path / "once", batch=2)
    lost, dark = "RuntimeError: the simulator lost its mind", "RuntimeError: EGL: no display"
    assert found.crashes == [lost, dark] and found.episodes == 2
    frail.left, fails[:] = 1, [0, 99]
    with pytest.raises(UserError, match="frail could not be started in 3 tries: .*no display"):
        collect("frail", "random", 2, tmp_path / "ever", batch=2)


def test_one_made_anew_tells_what_was_felt_and_one_that_is_not_lasting_raises_its_own(frail):
    crashes = Crashes()
    env = lasting("frail", lambda: collecting.make_batch("frail", 2), crashes)
    env.feel([0])
    policy = make_policy("random", env)
    frail.left = 1
    trials = play_trials(env, policy, Tasks([1, 2])).trials
    assert [trial.steps for trial in trials] == [6, 6] and len(crashes.told) == 1
    assert env.felt == (0,) and env.reset(seed=1)[0]["felt"].shape == (2, 1)
    frail.left = 1
    with pytest.raises(RuntimeError, match="lost its mind"):
        play_trials(collecting.make_batch("frail", 2), policy, Tasks([1, 2]))


def test_a_kill_does_not_lose_the_count_of_crashes(frail, tmp_path: Path):
    """The crash is in the first of two batches, the kill after it, or while it is played again."""

    class Killed(BaseException):
        pass

    def killed(done: int, total: int, frames: int) -> None:
        if done == 2:
            raise Killed

    frail.left = 1
    with pytest.raises(Killed):
        collect("frail", "random", 4, tmp_path, batch=2, progress=killed)
    (tmp_path / "meta" / "crashes.jsonl").open("a").write('{"policy": "ran')  # cut off
    found = collect("frail", "random", 4, tmp_path, batch=2)
    assert found.crashes == ["RuntimeError: the simulator lost its mind"] and found.new == 2
    assert collect("frail", "random", 2, tmp_path, 5, batch=2).crashes == [], "another seed's"
    frail.left = 3
    with pytest.raises(UserError, match="crashed 3 times"):
        collect("frail", "random", 6, tmp_path, batch=2)
    assert len(collect("frail", "random", 6, tmp_path, batch=2).crashes) == 4


# -- the table -------------------------------------------------------------------------------------


def test_a_row_of_the_table_is_read_as_it_was_written_and_replaces_what_came_after(tmp_path: Path):
    rows = [Row(n, 10 * n, 4, 0.1 * n, 0, 0.5, 0.25, 0.75, -1.5, 0.5, 1.5, n % 2) for n in range(3)]
    table = Table(tmp_path / "rounds.csv")
    for row in rows:
        table.put(row)
    assert Table(tmp_path / "rounds.csv").rows == rows
    again = Table(tmp_path / "rounds.csv")
    again.put(rows[1])
    assert Table(tmp_path / "rounds.csv").rows == rows[:2]
    again.put(replace(rows[2], error=math.nan))  # of one task there is no error
    assert [told["error"] for told in again.told()] == [0.5, 0.5, None]
    old = [",".join(line.split(",")[:-2]) for line in again.path.read_text().splitlines()]
    again.path.write_text("\n".join(old))  # of a version that did not tell how strange it was
    assert [told["strange"] for told in Table(again.path).told()] == [None] * 3


# -- agent fit with rounds -------------------------------------------------------------------------

QUIET = ["--wandb", "off", "--trainer.accelerator", "cpu", "--trainer.log_every_n_steps", "1"]
SMALL = ["--data.batch_size", "16", "--learn.hidden", "16", "--trainer.max_steps", "4"]
SMALL += ["--search", "{samples: 12, iterations: 2, horizon: 3, lessons: 4}"]
ROUNDS = "{count: 2, episodes: 3, steps: 4, budget: 8, tasks: 4}"


def words(root: Path, name: str) -> list[str]:
    told = ["agent", "fit", "--checkpoint", str(root / "tiny"), "--data.root", str(root / "rooms")]
    told += [*SMALL, *QUIET, "--rounds", ROUNDS, "--checkpoints.every_n_steps", "1"]
    return [*told, "--checkpoints.keep", "9", "--runs", str(root), "--name", name]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a world, walks, and a run of two rounds."""
    root = tmp_path_factory.mktemp("rounds")
    save_tiny_agent(root / "tiny")
    collect("TwoRooms", "explore", 10, root / "rooms", settings={"budget": 12, "scenes": 3})
    assert main(words(root, "whole")) == 0
    return root


def test_rounds_gather_judge_and_learn(root: Path):
    run = root / "whole"
    rows = list(csv.DictReader((run / "rounds.csv").read_text().splitlines()))
    told = json.loads((run / "summary.json").read_text())
    assert [int(row["round"]) for row in rows] == [0, 1, 2]
    assert told["settings"]["scenes"] == 3, "it goes where its memory is from"
    assert [row["gathered"] for row in rows] == ["0", "3", "3"]
    assert [one["env_steps"] for one in told["rounds"]] == [int(row["env_steps"]) for row in rows]
    assert 0 < int(rows[1]["env_steps"]) < int(rows[2]["env_steps"]) <= 48
    seeds = []
    for number in (1, 2):
        place = run / "rounds" / str(number)
        there = episode_rows(place / "episodes")
        assert {row["policy"] for row in there} == {f"round {number}"}
        seeds += [row["seed"] for row in there]
        logged = list(csv.DictReader((place / "metrics.csv").read_text().splitlines()))
        assert [row["step"] for row in logged] == ["1", "2", "3", "4"]
    assert len(set(seeds)) == 6 and not set(seeds) & {
        r["seed"] for r in episode_rows(root / "rooms")
    }
    # Each round began with the agent of the one before, and the last is what the run holds.
    parts = [read_safetensors(p / "agent" / "agent.safetensors") for p in places(run)]
    for before, after in zip(parts, parts[1:], strict=False):
        assert any(not torch.equal(before[name], after[name]) for name in before)
    assert Agent.load(run).mind.search.lessons == 4


def places(run: Path) -> list[Path]:
    return [run / "rounds" / "1", run / "rounds" / "2", run]


CUTS = ("while gathering", "before learning", "while learning")


@pytest.fixture(scope="module")
def charted(root: Path) -> Path:
    """Another run, whose critic is a chart with a level 2."""
    told = ["--learn.judge", "chart", "--learn.stride", "2"]
    assert main([*words(root, "charted"), *told]) == 0
    return root / "charted"


def cut_short(run: Path, cut: str) -> None:
    """Leave of a finished run what a kill in its second round leaves."""
    (run / "summary.json").unlink()
    for part in ("agent", "world"):
        shutil.rmtree(run / part)
    last = run / "rounds" / "2"
    if cut == "while learning":
        for step in (3, 4):
            (last / "checkpoints" / f"step-{step:08d}.ckpt").unlink()
        return
    shutil.rmtree(last / "checkpoints")
    (last / "metrics.csv").unlink()
    (last / "frozen.json").unlink()
    if cut == "while gathering":  # the agent is written
        (last / "gathered.json").unlink()
        shutil.rmtree(last / "episodes")


def assert_the_same(whole: Path, other: Path) -> None:
    """Agent, world model, tables, and all that the last step of a round was taken with."""
    last = "rounds/2/checkpoints/step-00000004.ckpt"
    one, two = (torch.load(run / last, weights_only=True)["state_dict"] for run in (whole, other))
    assert not [key for key in one | two if not torch.equal(one[key], two[key])]
    for name in ("agent/agent.safetensors", "world/world.safetensors"):
        one, two = (read_safetensors(run / name) for run in (whole, other))
        differ = [key for key in one | two if not torch.equal(one[key], two[key])]
        assert not differ, (name, differ)
    for name in ("rounds.csv", "metrics.csv", "rounds/2/metrics.csv", "agent/config.json"):
        assert (other / name).read_text() == (whole / name).read_text(), name


@pytest.mark.parametrize("judge", ["ways", "chart"])
@pytest.mark.parametrize("cut", CUTS)
def test_a_run_that_was_killed_in_a_round_goes_on_the_same(root: Path, charted: Path, cut, judge):
    whole = charted if judge == "chart" else root / "whole"
    copy = root / f"{judge}-{cut.replace(' ', '-')}"
    shutil.copytree(whole, copy)
    cut_short(copy, cut)
    assert main(["agent", "fit", "--resume", str(copy), "--wandb", "off"]) == 0
    assert_the_same(whole, copy)


def contents(run: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in run.rglob("*") if path.is_file()}


def test_crashes_change_no_figure_of_a_round_and_a_kill_does_not_lose_them(
    root: Path, monkeypatch: pytest.MonkeyPatch
):
    """One in the first judging, one in the first episodes, in which the run is killed as well."""

    class Killed(BaseException):
        pass

    copy = root / "crashed"
    shutil.copytree(root / "whole", copy)
    for name in ("summary.json", "rounds.csv"):
        (copy / name).unlink()
    for name in ("agent", "rounds"):
        shutil.rmtree(copy / name)
    # Judged are four at once and gathered three: by that and the number of the step.
    wrong = {(4, 2): RuntimeError("lost"), (3, 1): RuntimeError("lost"), (3, 4): Killed()}
    real, calls = TwoRooms.step, Counter[int]()

    def step(self, actions):
        calls[self.batch] += 1
        if error := wrong.pop((self.batch, calls[self.batch]), None):
            raise error
        return real(self, actions)

    monkeypatch.setattr(TwoRooms, "step", step)
    again = ["agent", "fit", "--resume", str(copy), "--wandb", "off"]
    with pytest.raises(Killed):
        main(again)
    assert main(again) == 0 and not wrong
    hurt, well = (
        list(csv.DictReader((run / "rounds.csv").read_text().splitlines()))
        for run in (copy, root / "whole")
    )
    assert [row.pop("crashes") for row in hurt] == ["1", "1", "0"]
    assert [row.pop("crashes") for row in well] == ["0", "0", "0"]
    assert hurt == well


def test_a_judging_that_crashes_again_and_again_is_told_in_a_sentence(
    root: Path, monkeypatch: pytest.MonkeyPatch
):
    def step(self, actions):
        raise RuntimeError("the simulator lost its mind")

    monkeypatch.setattr(TwoRooms, "step", step)
    field, crashes = Field("TwoRooms", {"budget": 12}, Rounds(tasks=2), 0), Crashes()
    with pytest.raises(UserError, match="TwoRooms crashed 3 times in the same episodes: Runtime"):
        field.judged(root / "tiny", "cpu", crashes)
    assert crashes.told == ["RuntimeError: the simulator lost its mind"] * 3


def test_workers_gather_and_judge_the_same(root: Path, monkeypatch: pytest.MonkeyPatch):
    copy, parts = root / "by-workers", []
    shutil.copytree(root / "whole", copy)
    (copy / "summary.json").unlink()
    shutil.rmtree(copy / "rounds" / "2")
    real = split.split_batch
    monkeypatch.setattr(split, "split_batch", lambda *args: parts.append(args[2]) or real(*args))
    told = ["agent", "fit", "--resume", str(copy), "--wandb", "off", "--rounds.workers", "2"]
    assert main(told) == 0
    assert parts == [2] * 3, "round 1 is judged, round 2 is gathered and judged"
    assert (copy / "rounds.csv").read_text() == (root / "whole" / "rounds.csv").read_text()
    one, other = (read_safetensors(r / "agent/agent.safetensors") for r in (root / "whole", copy))
    assert all(torch.equal(one[key], other[key]) for key in other)


def test_a_run_that_went_out_does_not_learn_longer_from_memory_in_vain(
    root: Path, capsys: pytest.CaptureFixture[str]
):
    """Its rounds would begin where they had, and all that it learned anew would be lost."""
    before = contents(root / "whole")
    told = ["agent", "fit", "--resume", str(root / "whole"), "--trainer.max_steps", "8"]
    assert main(told) == 2
    assert "went out after 4 steps on memory: trainer.max_steps stays 4" in capsys.readouterr().err
    assert contents(root / "whole") == before, "a finished run stays one"


def test_a_run_that_was_killed_while_it_was_out_does_not_learn_longer_from_memory(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """Else some episodes of a round are of the agent as it was, and some of another one."""
    copy = tmp_path / "run"
    shutil.copytree(root / "whole", copy)
    cut_short(copy, "while gathering")
    shutil.rmtree(copy / "rounds" / "2")
    shutil.rmtree(copy / "rounds" / "1" / "checkpoints")
    (copy / "rounds" / "1" / "gathered.json").unlink()
    before = contents(copy)
    assert main(["agent", "fit", "--resume", str(copy), "--trainer.max_steps", "9"]) == 2
    said = "went out after 4 steps on memory: trainer.max_steps stays 4, not 9; more steps"
    assert said in capsys.readouterr().err and contents(copy) == before
    assert main(["agent", "fit", "--resume", str(copy), "--wandb", "off"]) == 0
    assert_the_same(root / "whole", copy)


def test_the_agent_of_the_best_round_is_kept(root: Path, monkeypatch, capsys):
    """What a round unlearns is not what is left of a run."""
    real, totals = Field.judged, iter([0.25, 0.75, 0.5])
    monkeypatch.setattr(Field, "judged", lambda *args: real(*args) | {"solved": next(totals)})
    told = [*words(root, "best"), "--rounds", ROUNDS, "--rounds.keep", "best"]
    assert main(told) == 0
    run = root / "best"
    assert "the agent after round 1" in capsys.readouterr().out
    summary = json.loads((run / "summary.json").read_text())
    assert summary["kept"] == 1 and len(summary["rounds"]) == 3
    assert "holds the agent after round 1." in (run / "report.html").read_text()
    for name in ("agent/agent.safetensors", "agent/config.json", "world/world.safetensors"):
        assert (run / name).read_bytes() == (run / "rounds" / "2" / name).read_bytes()
        last = root / "whole" / name  # all rounds of both are the same
        assert (run / name).read_bytes() != last.read_bytes() or name.endswith("json")
    assert summary["doubt"] == json.loads((run / "agent" / "config.json").read_text())["doubt"]


def test_the_best_round_is_by_what_is_solved_of_goals_and_else_by_return(root: Path):
    rows = [Row(n, 0, 0, 0, 0, s, 0, 0, t) for n, (s, t) in enumerate([(1, 2), (1, 3), (0, 4)])]
    field = Field("TwoRooms", {"budget": 12}, Rounds(tasks=2, keep="best"), 0)
    assert field.kept(rows) == 1, "the latest of equals"
    field.goal = False
    assert field.kept(rows) == 2
    assert Field("TwoRooms", {"budget": 12}, Rounds(tasks=2), 0).kept(rows) == 2


@pytest.mark.parametrize(("still", "corrected"), [(1e9, "0"), (0.0, "1")])
def test_dynamics_stand_still_in_a_round_that_is_not_too_strange(
    root: Path, still: float, corrected: str
):
    run = root / f"still-{corrected}"
    told = [*words(root, run.name), "--rounds", ROUNDS, "--rounds.still", str(still)]
    assert main(told) == 0
    rows = list(csv.DictReader((run / "rounds.csv").read_text().splitlines()))
    assert [row["corrected"] for row in rows] == ["1", corrected, corrected]
    assert rows[0]["strange"] == "nan" and all(float(row["strange"]) > 0 for row in rows[1:])
    worlds = [read_safetensors(place / "world" / "world.safetensors") for place in places(run)]
    moved = [any(not torch.equal(a[k], b[k]) for k in a) for a, b in pairwise(worlds)]
    assert moved == [corrected == "1"] * 2
    # What is not corrected leaves its steps to critic and policy.
    logged = list(csv.DictReader((run / "rounds" / "1" / "metrics.csv").read_text().splitlines()))
    assert ["energy" in row and bool(row["energy"]) for row in logged] == (
        [True, True, False, False] if corrected == "1" else [False] * 4
    )


def test_epochs_are_of_memory_and_a_round_takes_its_steps(
    root: Path, capsys: pytest.CaptureFixture[str]
):
    told = [*words(root, "epochs"), "--trainer.max_epochs", "1", "--trainer.max_steps", "-1"]
    told += ["--data.batch_size", "64", "--rounds", "{count: 1, episodes: 2, steps: 5, tasks: 2}"]
    assert main(told) == 0
    run = root / "epochs"
    for place, steps in ((run, 1), (run / "rounds" / "1", 5)):
        logged = list(csv.DictReader((place / "metrics.csv").read_text().splitlines()))
        assert [int(row["step"]) for row in logged] == [*range(1, steps + 1)]
    (run / "summary.json").unlink()
    capsys.readouterr()
    assert main(["agent", "fit", "--resume", str(run), "--trainer.max_epochs", "2"]) == 2
    said = "went out after 1 epochs on memory: trainer.max_epochs stays 1, not 2; more steps"
    assert said in capsys.readouterr().err


def test_what_a_run_began_with_may_move_and_not_change(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """A saved agent has a critic and dynamics of one world model, learned from one memory."""
    run = tmp_path / "run"
    shutil.copytree(root / "whole", run)
    cut_short(run, "while learning")
    for name in ("tiny", "rooms"):
        shutil.copytree(root / name, tmp_path / f"moved-{name}")
        shutil.copytree(root / name, tmp_path / f"other-{name}")
    weights = read_safetensors(tmp_path / "other-tiny/world/world.safetensors")
    weights = {name: value + 1 for name, value in weights.items()}
    save_file(weights, tmp_path / "other-tiny/world/world.safetensors")
    shutil.rmtree(tmp_path / "other-rooms")
    collect("TwoRooms", "explore", 10, tmp_path / "other-rooms", 5, settings={"budget": 12})
    before, told = contents(run), ["agent", "fit", "--resume", str(run), "--wandb", "off"]
    for option, name, said in (
        ("--checkpoint", "tiny", f"is not the world model that {run} began with"),
        ("--data.root", "rooms", f"has not the episodes that {run} began with ("),
    ):
        assert main([*told, option, str(tmp_path / f"other-{name}")]) == 2
        assert said in capsys.readouterr().err
    assert contents(run) == before
    moved = ["--checkpoint", str(tmp_path / "moved-tiny")]
    assert main([*told, *moved, "--data.root", str(tmp_path / "moved-rooms")]) == 0
    assert_the_same(root / "whole", run)
    # A run of an earlier version does not tell what it began with.
    (run / "origin.json").unlink()
    (run / "summary.json").unlink()
    assert main([*told, "--data.root", str(tmp_path / "other-rooms")]) == 0
    assert not (run / "origin.json").exists()


def test_a_memory_smaller_than_a_batch_is_learned_from(root: Path):
    told = ["agent", "fit", "--checkpoint", str(root / "tiny"), "--data.root", str(root / "rooms")]
    told += [*SMALL, *QUIET, "--data.batch_size", "4096", "--runs", str(root), "--name", "small"]
    assert main(told) == 0
    assert json.loads((root / "small" / "summary.json").read_text())["steps"] == 4
    logged = list(csv.DictReader((root / "small" / "metrics.csv").read_text().splitlines()))
    assert [row["step"] for row in logged] == ["1", "2", "3", "4"]


def test_episodes_without_a_step_between_two_states_are_left_out(root: Path, tmp_path: Path):
    collect("TwoRooms", "explore", 2, tmp_path / "long", settings={"budget": 12})
    world, bank = load_world(root / "tiny"), Bank()
    episodes = EpisodeSet(tmp_path / "long", None, world.encoder.image)
    frames = world.encoder.frames
    episodes.lengths[episodes.chosen[0]] = frames  # one state, and no step
    encoded(world, episodes, bank, torch.device("cpu"))
    assert len(bank.states) == 1 and len(bank) == 13 - frames
    episodes.lengths[episodes.chosen[1]] = frames - 1
    with pytest.raises(UserError, match=f"no episode has more than the {frames} frames"):
        encoded(world, episodes, Bank(), torch.device("cpu"))


def test_rounds_need_an_environment_and_numbers_that_make_sense(
    root: Path, capsys: pytest.CaptureFixture[str]
):
    for told, wanted in (
        ("{count: -1}", "rounds.count must be 0 or more, not -1"),
        ("{count: 1, episodes: 0}", "rounds.episodes must be 1 or more, not 0"),
        ("{count: 1, roll_in: 2}", "rounds.roll_in must be"),
        ("{count: 1, workers: -2}", "rounds.workers must be 0 or more, not -2"),
    ):
        assert main([*words(root, "bad"), "--rounds", told]) == 2
        assert wanted in capsys.readouterr().err
    assert not (root / "bad").exists()


def test_the_imitated_loss_is_the_mean_log_likelihood_of_what_was_shown():
    model = moving_world()
    intrinsic = IntrinsicCost(1.0, model.state.aim, model.read)
    made = AgentLearner(model, intrinsic, {"goal": 1.0}, True, hidden=16)
    state, goal, action = torch.randn(5, 1, 2), torch.randn(5, 1, 2), torch.rand(5, 2) - 0.5
    batch = {"shown_state": state, "shown_goal": goal, "shown_action": action}
    wanted = -made.policy.on(state, goal).log_likelihood(action).mean()
    torch.testing.assert_close(made.shown(batch), wanted)
    assert made.shown({}) == 0


def test_the_lines_of_its_page_play_it(root: Path, capsys: pytest.CaptureFixture[str]):
    page = (root / "whole" / "report.html").read_text()
    code = html.unescape(re.findall(r"<pre>(from jepa_video import Agent.*?)</pre>", page, re.S)[0])
    line = next(line for line in code.splitlines() if line.startswith("agent = "))
    exec(code.replace(line, f"agent = Agent.load({str(root / 'whole')!r}, env)"), {})
    assert "mode=" in capsys.readouterr().out
