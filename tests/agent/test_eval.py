"""Evaluation of control: every episode counts, and figures are those of a direct loop."""

import csv
import json
import math
import sys
import time
from dataclasses import dataclass, replace
from types import ModuleType

import av
import numpy as np
import pytest
from PIL import Image

from jepa_video.agent.drawn import GAP, GOAL, LINE, ZONE
from jepa_video.agent.eval_film import ROW
from jepa_video.agent.eval_pictures import choose_shown
from jepa_video.agent.evaluate import Contestant, evaluate
from jepa_video.agent.figures import Row, differences, row_figures, share
from jepa_video.agent.trials import (
    CALLS,
    Clock,
    Played,
    Tasks,
    Trial,
    choose_tasks,
    play_trials,
    replay,
    time_alone,
)
from jepa_video.cli import main
from jepa_video.envs import make_batch
from jepa_video.envs.point import NEAR
from jepa_video.envs.policies import make_policy
from jepa_video.envs.rollout import HELD_OUT, seeds_of
from jepa_video.envs.two_rooms import TwoRooms, eb_tasks
from jepa_video.errors import UserError
from jepa_video.evaluation.intervals import Interval


class NoBar:
    """No progress bar."""

    def __init__(self, name):
        self.name = name

    def __enter__(self):
        return lambda done, total: None

    def __exit__(self, *_):
        pass


def played(id, policy, count, batch, to_the_end=False, **settings):
    env = make_batch(id, batch, **settings)
    tasks = choose_tasks(env, count, 0)
    return play_trials(env, make_policy(policy, env), tasks, to_the_end)


def compete(id, policies, count, to_the_end=False, tasks=None, **settings):
    env = make_batch(id, count, **settings)
    names = [
        Contestant(name, name, lambda env, name=name: make_policy(name, env)) for name in policies
    ]
    return evaluate(env, names, tasks or choose_tasks(env, count, 0), to_the_end, NoBar)


def outcome(trial):
    return trial.seed, trial.success, trial.at_end, trial.steps, trial.reached, trial.total


# -- the contract ----------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["random", "scripted"])
def test_trials_are_those_of_a_direct_loop(policy):
    found = played("TwoRooms", policy, 3, 3, budget=15).trials
    env = make_batch("TwoRooms", 1, budget=15)
    for seed, trial in zip(seeds_of(0, 3, HELD_OUT), found, strict=True):
        seen, _ = env.reset(seed=seed)
        player = make_policy(policy, env)
        player.reset([seed])
        total, steps, solved, cut = 0.0, 0, False, False
        while not solved and not cut:
            seen, rewards, _, (cut,), told = env.step(player.act(seen))
            total, steps, solved = total + rewards[0], steps + 1, bool(told["success"][0])
        assert outcome(trial) == (seed, solved, solved, steps, steps if solved else None, total)
        assert (trial.states[-1] == told["state"][0]).all()


@pytest.mark.parametrize("to_the_end", [False, True])
def test_no_figure_depends_on_the_size_of_the_batches(to_the_end):
    lots = [
        [outcome(trial) for trial in played("TwoRooms", "straight", 7, batch, to_the_end).trials]
        for batch in (1, 3, 7)
    ]
    assert lots[0] == lots[1] == lots[2]
    assert {trial[1] for trial in lots[0]} == {False, True}


def test_what_is_solved_at_the_start_gives_way_to_the_next_seeds(monkeypatch):
    plain = make_batch("TwoRooms", 4)
    solved = set(seeds_of(0, 20, HELD_OUT)[1:9:2])
    begin = type(plain).begin

    def at_the_goal(self, which):
        begin(self, which)
        for i in which:
            if self.seeds[i] in solved:
                self.state[i] = self.goal_state[i]

    monkeypatch.setattr(type(plain), "begin", at_the_goal)
    for batch in (1, 4, 5):
        tasks = choose_tasks(make_batch("TwoRooms", batch), 6, 0)
        kept = [seed for seed in seeds_of(0, 20, HELD_OUT) if seed not in solved]
        assert tasks.seeds == kept[:6] and tasks.replaced == 4
    solved |= set(seeds_of(0, 200, HELD_OUT))
    with pytest.raises(UserError, match="40 of 40 episodes of TwoRooms are solved at their start"):
        choose_tasks(plain, 2, 0)


def test_far_tasks_are_those_whose_scripted_way_is_as_long(monkeypatch):
    env = make_batch("TwoRooms", 8)
    tasks = choose_tasks(env, 5, 0, least=15)
    ways = [trial.reached for trial in play_trials(env, make_policy("scripted", env), tasks).trials]
    assert min(ways) >= 15
    known = choose_tasks(env, 40, 0).seeds  # none of these that is as far was left out
    every = play_trials(env, make_policy("scripted", env), Tasks(known)).trials
    far = [trial.seed for trial in every if trial.reached >= 15]
    assert tasks.seeds == far[:5] and tasks.replaced == known.index(far[4]) - 4
    with pytest.raises(UserError, match="240 of 240 episodes of TwoRooms have no way of 49"):
        choose_tasks(env, 2, 0, least=49)
    with pytest.raises(UserError, match="--least 51 is more than the budget of 50 actions"):
        choose_tasks(env, 2, 0, least=51)
    with pytest.raises(UserError, match="--least is 1 or more"):
        choose_tasks(env, 2, 0, least=0)
    monkeypatch.setattr(env, "has", lambda name: False)
    with pytest.raises(UserError, match="TwoRooms has none to a goal"):
        choose_tasks(env, 2, 0, least=5)


class Early:
    """An environment whose solved episodes are short: half of them end at the second step."""

    def __init__(self, batch):
        self.num_envs = self.batch = batch
        self.budget, self.id = 40, "Early"

    def reset(self, *, seed=None, options=None):
        self.good, self.time = np.array(seed) % 4 == 1, 0
        return {}, self._told()

    def step(self, actions):
        self.time += 1
        ended = self.good & (self.time >= 2)
        cut = np.full(self.batch, self.time >= self.budget)
        return {}, np.ones(self.batch), ended, cut, self._told()

    def _told(self):
        return {"state": np.zeros((self.batch, 1)), "success": self.good & (self.time >= 2)}


def test_short_episodes_are_not_counted_more_than_long_ones():
    class Idle:
        def reset(self, seeds):
            pass

        def act(self, observation):
            return np.zeros((4, 1))

    tasks = Tasks([4 * i + 1 + 2 * (i % 2) for i in range(16)])
    trials = play_trials(Early(4), Idle(), tasks).trials
    # The first 16 that finish, in a batch of 4 that begins anew at each end, would be nearly all
    # of the kind that ends after 2 steps.
    assert [trial.seed for trial in trials] == tasks.seeds
    assert sum(trial.success for trial in trials) == 8
    assert sorted({trial.steps for trial in trials}) == [2, 40]


def test_an_episode_ends_at_its_first_success_unless_it_is_to_be_played_to_the_end():
    short = played("Pendulum", "scripted", 2, 2).trials
    long = played("Pendulum", "scripted", 2, 2, to_the_end=True).trials
    assert [t.reached for t in short] == [t.reached for t in long] == [t.steps for t in short]
    assert {t.steps for t in long} == {200}


def test_who_walks_on_was_there_at_some_time_and_not_at_the_end():
    trials = played("TwoRooms", "explore", 40, 40, to_the_end=True).trials
    left = [t for t in trials if t.success and not t.at_end]
    assert left and all(np.linalg.norm(t.states[-1] - t.goal) >= NEAR for t in left)
    assert all(np.linalg.norm(t.states[t.reached] - t.goal) < NEAR for t in left)


def test_taking_the_actions_again_gives_the_same_states_and_frames():
    env = make_batch("Stochastic", 3)
    tasks = choose_tasks(env, 3, 0)
    trials = play_trials(env, make_policy("explore", env), tasks).trials
    frames, first = replay(
        make_batch("Stochastic", 2), tasks.chosen([2, 0]), [trials[2], trials[0]]
    )
    assert [len(f) for f in frames] == [trials[2].steps + 1, trials[0].steps + 1]
    seen, _ = tasks.chosen([2, 0]).begin(make_batch("Stochastic", 2))
    assert (frames[0][0] == seen["pixels"][0]).all() and (first["goal"] == seen["goal"]).all()
    last = env.paint(trials[0].states[-1:].astype(float), np.array([0]))
    # `env` is still in the layouts of the tasks.
    assert np.abs(frames[1][-1].astype(int) - last[0]).max() <= 1


# -- figures ---------------------------------------------------------------------------------------


def test_wilson_is_the_closed_form():
    z, n, p = 1.959963984540054, 20, 9 / 20
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    found = share(np.array([[1.0] * 9 + [0.0] * 11]))
    assert (found["low"], found["high"]) == pytest.approx((middle - half, middle + half))
    assert found["hits"] == 9 and found["of"] == 20 and "seeds" not in found


def made(*lots):
    """A row whose trials have these successes, a lot for each seed."""
    blank = np.zeros((2, 1))
    trials = [
        [Trial(i, s, s, 2, 2 if s else None, float(s), blank, blank, None, [], [])
         for i, s in enumerate(lot)]
        for lot in lots
    ]  # fmt: skip
    clock = Clock([0.1, 0.2, 0.4], [0.1, 0.1, 0.1])
    return tuple(Played(some, clock, 2, alone=Clock([3.0, 0.3], [1, 1])) for some in trials)


def test_several_seeds_are_pooled_and_keep_their_range():
    row = Row(
        "all", "mode2", made([True, True, True, False], [True, False, False, False]), ("a", "b")
    )
    hard = np.array([False, True, True, True])
    found = row_figures(row, ["success", "total"], hard)
    assert found["success"]["hits"] == 4 and found["success"]["of"] == 8
    assert found["success"]["seeds"] == [0.75, 0.25]
    assert found["success_not_straight"]["hits"] == 2 and found["success_not_straight"]["of"] == 6
    # The first call builds things; a call is for the two environments of a batch.
    assert found["decision"]["median_ms"] == pytest.approx(150.0)
    assert found["decision"]["busy_ms"] == pytest.approx(50.0)
    assert found["decision"]["alone"]["median_ms"] == pytest.approx(300.0)


class Slow:
    """Takes 2 ms for a call and 1 ms for each environment of it."""

    def __init__(self, env):
        self.env = env

    def reset(self, seeds):
        pass

    def act(self, observation):
        time.sleep(0.002 + 0.001 * self.env.batch)
        return np.zeros((self.env.batch, 2))


def test_time_in_a_batch_is_shared_and_time_alone_is_not():
    env, one = make_batch("TwoRooms", 10, budget=20), make_batch("TwoRooms", 1, budget=20)
    tasks = choose_tasks(env, 10, 0)
    clock = play_trials(env, Slow(env), tasks).clock
    assert len(clock.seconds) == 20 and 0.0119 < np.median(clock.seconds) < 0.03
    assert sum(clock.busy) < 0.5 * sum(clock.seconds)  # it slept
    alone = time_alone(one, Slow(one), tasks)
    assert len(alone.seconds) == CALLS + 1 and 0.0029 < np.median(alone.seconds) < 0.01


def test_a_difference_is_paired_by_episode():
    one = Row("one", "mode2", made([True, True, False, True] * 10), ("a",))
    other = Row("other", "random", made([True, False, False, False] * 10), beside=True)
    (gap,) = differences([one, other], ["success"])
    assert (gap["row"], gap["less"], gap["value"]) == ("one", "other", 0.5)
    # Unpaired, with 0.75 and 0.25 of 40 each, the interval would be wider than this one.
    assert gap["excludes_zero"] and gap["high"] - gap["low"] < 0.35
    assert Interval(gap["value"], gap["low"], gap["high"]).excludes()


def test_the_wide_protocol_keeps_a_straight_line_out():
    found = compete("Rooms", ["straight"], 60)
    (row,) = found.summary()["rows"]
    assert row["success"]["value"] < 0.3 and row["success_not_straight"]["value"] == 0
    assert found.hard.sum() == row["success"]["of"] - row["success"]["hits"]


def test_the_references_of_eb_jepas_own_tasks():
    tasks = Tasks(seeds_of(0, 20, HELD_OUT), eb_tasks())
    found = compete(
        "TwoRooms", ["scripted", "straight", "random"], 20, True, tasks, budget=200,
        collision="bounce",
    )  # fmt: skip
    door, straight, random = found.summary()["rows"]
    assert door["at_end"]["hits"] == 20 and 13 <= door["steps_to_goal"]["median"] <= 17
    assert straight["at_end"]["hits"] == 9
    assert random["at_end"]["hits"] <= 3


# -- the command -----------------------------------------------------------------------------------


@dataclass
class Told:
    mode: list
    sub_goal: None
    terms: dict
    imagined: np.ndarray


class FakeAgent:
    """A straight line that imagines it; `mode1` stands still."""

    facts = {"planner": "cem", "samples": 64, "horizon": 5}  # noqa: RUF012

    def __init__(self, env, mode):
        self.env, self.mode = env, mode

    @classmethod
    def load(cls, path, env, mode, device):
        if path.name == "wrong":
            raise UserError(f"{path} was trained on Rooms, not on {env.id}")
        return cls(env, mode)

    def reset(self, seeds):
        pass

    def act(self, observation):
        return self.env.straight() * (self.mode != "mode1")

    def explain(self):
        way = np.linspace(0, 1, 6)[:, None, None]
        plan = (1 - way) * self.env.state + way * self.env.goal_state
        return Told([self.mode] * self.env.batch, None, {}, plan.swapaxes(0, 1))


@pytest.fixture
def agents(monkeypatch):
    module = ModuleType("jepa_video.agent.agent")
    module.Agent = FakeAgent
    monkeypatch.setitem(sys.modules, "jepa_video.agent.agent", module)


def pink(path):
    """Pixels in the colour of plans, in a picture or the first one of a film."""
    with av.open(str(path)) as film:
        red, green, blue = next(film.decode(video=0)).to_ndarray(format="rgb24").astype(int).T
    return int(((red - green > 60) & (blue - green > 60)).sum())


def test_of_several_seeds_the_first_is_drawn_though_another_plans_alone(tmp_path, agents):
    class Doubtful(FakeAgent):
        @classmethod
        def load(cls, path, env, mode, device):
            return cls(env, "mode2" if path.name == "b" else "mode1")

    sys.modules["jepa_video.agent.agent"].Agent = Doubtful
    words = ["--env", "TwoRooms", "--policy", "auto", "--checkpoint", "a,b", "--episodes", "3"]
    assert main(["agent", "eval", *words, "--budget", "9", "--out", str(tmp_path)]) == 0
    assert json.loads((tmp_path / "summary.json").read_text())["film"]["row"] == "auto a"


def test_a_film_of_who_plans_nothing_shows_no_plan(tmp_path, agents):
    words = ["--env", "TwoRooms", "--policy", "mode1", "--checkpoint", "a", "--episodes", "3"]
    words += ["--budget", "9", "--layouts", "fixed", "--out", str(tmp_path)]
    assert main(["agent", "eval", *words]) == 0
    assert json.loads((tmp_path / "summary.json").read_text())["film"]["row"] == "mode1"
    assert pink(tmp_path / "episodes.mp4") == 0


@pytest.mark.parametrize("explained", [True, False])
def test_the_film_and_its_page_tell_of_terms_where_there_are_some(tmp_path, agents, explained):
    class Telling(FakeAgent):
        def explain(self):
            told, count = super().explain(), self.env.batch
            terms = {"goal": np.full(count, 2.0), "zone": np.arange(count) * 1.0}
            return replace(told, terms=terms)

    if explained:
        sys.modules["jepa_video.agent.agent"].Agent = Telling
    words = ["--env", "TwoRooms", "--policy", "mode2", "--checkpoint", "a", "--episodes", "3"]
    words += ["--budget", "9", "--beside", "none", "--out", str(tmp_path)]
    assert main(["agent", "eval", *words]) == 0
    with av.open(str(tmp_path / "episodes.mp4")) as film:
        first = next(film.decode(video=0)).to_ndarray(format="rgb24")
    assert first.shape[0] == 256 + LINE + GAP + (2 * ROW if explained else 0)
    page = (tmp_path / "report.html").read_text()
    assert ("each term adds to the cost of the plan" in page) == explained


def test_the_command_writes_all_files(tmp_path, agents, capsys):
    out = tmp_path / "out"
    words = ["--env", "TwoRooms", "--policy", "mode1,mode2", "--checkpoint", "a,b"]
    words += ["--episodes", "6", "--batch", "4", "--budget", "20", "--layouts", "fixed"]
    assert main(["agent", "eval", *words, "--out", str(out)]) == 0
    names = {path.name for path in out.iterdir()}
    assert names == {"summary.json", "episodes.csv", "sheet.png", "episodes.mp4", "report.html"}
    told = json.loads((out / "summary.json").read_text())
    assert [row["name"] for row in told["rows"]] == [
        "mode1 a", "mode1 b", "mode2 a", "mode2 b", "random", "straight", "scripted",
        "mode1, 2 seeds", "mode2, 2 seeds",
    ]  # fmt: skip
    rows = {row["name"]: row for row in told["rows"]}
    assert rows["mode2 a"]["success"] == rows["straight"]["success"]
    assert rows["mode2, 2 seeds"]["success"]["of"] == 12 and rows["mode1 a"]["success"]["hits"] == 0
    assert rows["mode2 a"]["facts"]["samples"] == 64 and rows["mode2 a"]["modes"] == {"mode2": 1.0}
    assert told["settings"]["layouts"] == "fixed" and told["settings"]["budget"] == 20
    compared = {(gap["row"], gap["less"]) for gap in told["differences"]}
    assert ("mode2, 2 seeds", "straight") in compared and ("random", "straight") not in compared
    with (out / "episodes.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 7 * 6
    with av.open(str(out / "episodes.mp4")) as film:
        count = sum(1 for _ in film.decode(video=0))
    assert count == told["film"]["pictures"] == 20 + 1 + 10  # a straight line fails; then it holds
    assert told["film"]["row"] == "mode2 a"  # the first that plans: mode1 imagines nothing
    assert pink(out / "episodes.mp4") > 200 and pink(out / "sheet.png") > 200
    page = (out / "report.html").read_text()
    assert "data:video/mp4" in page and "data:image/png" in page and "mode2, 2 seeds" in page
    assert "mode1, 2 seeds" in capsys.readouterr().out


def test_the_command_plays_by_eb_jepas_rule(tmp_path):
    words = ["--env", "TwoRooms", "--tasks", "eb", "--policy", "straight", "--beside", "none"]
    assert main(["agent", "eval", *words, "--out", str(tmp_path)]) == 0
    told = json.loads((tmp_path / "summary.json").read_text())
    assert told["settings"]["collision"] == "bounce" and told["settings"]["budget"] == 200
    assert told["to_the_end"] and told["rows"][0]["at_end"]["hits"] == 9


def test_pictures_show_failures_first_or_go_from_the_lowest_return_to_the_highest():
    row = Row("one", "mode2", made([True, True, False, True, False, True, True, False, False]))
    assert choose_shown(row, True, 6) == [2, 4, 7, 0, 1, 3]
    assert choose_shown(Row("one", "mode2", made([True] * 5 + [False])), True, 4) == [5, 0, 1, 2]
    trials = [replace(row.played[0].trials[0], total=total) for total in (3.0, -1.0, 2.0, 9.0)]
    assert choose_shown(Row("one", "mode2", (Played(trials, Clock(), 1),)), False, 3) == [1, 0, 3]


def test_without_success_there_is_the_return(tmp_path, monkeypatch):
    from jepa_video.envs.swing import Pendulum

    monkeypatch.setattr(Pendulum, "tells_success", False)
    words = ["--env", "Pendulum", "--episodes", "3", "--budget", "9", "--beside", "random,straight"]
    assert main(["agent", "eval", *words, "--out", str(tmp_path)]) == 0
    told = json.loads((tmp_path / "summary.json").read_text())
    assert told["to_the_end"]  # a rod is to be held, not to come by
    assert told["measures"] == ["total"] and all(row["total"]["value"] < 0 for row in told["rows"])
    assert {gap["measure"] for gap in told["differences"]} == {"total"}


def test_crashes_of_the_environment_change_no_figure_and_are_counted(tmp_path, monkeypatch, capsys):
    words = ["agent", "eval", "--env", "TwoRooms", "--policy", "wander", "--episodes", "4"]
    words += ["--batch", "2", "--budget", "12", "--via", "1", "--least", "3", "--out"]
    every, calls = {"step": 10**9, "reset": 10**9}, {"step": 0, "reset": 0}

    def frail(name):
        real = getattr(TwoRooms, name)

        def called(self, *args, **options):
            calls[name] += 1
            if calls[name] % every[name] == 0:
                raise RuntimeError("the simulator lost its mind")
            return real(self, *args, **options)

        monkeypatch.setattr(TwoRooms, name, called)

    frail("step")
    frail("reset")
    assert main([*words, str(tmp_path / "well")]) == 0
    assert "crashed" not in capsys.readouterr().out
    every.update(step=97, reset=13)  # while tasks are chosen, played, timed alone and drawn
    calls.update(step=0, reset=0)
    assert main([*words, str(tmp_path / "hurt")]) == 0
    well, hurt = (
        json.loads((tmp_path / name / "summary.json").read_text()) for name in ("well", "hurt")
    )
    count = calls["step"] // 97 + calls["reset"] // 13
    assert well["crashes"] == 0 and hurt["crashes"] == count > 7
    said = f"TwoRooms crashed {count} times and was started again: RuntimeError: the simulator"
    assert said in " ".join(capsys.readouterr().out.split())
    page = (tmp_path / "hurt" / "report.html").read_text()
    assert f'<th scope="row">crashes</th><td>{count}</td>' in page
    for one, other in zip(well["rows"], hurt["rows"], strict=True):
        times, others = one.pop("decision"), other.pop("decision")
        assert (times["batch"], times["calls"]) == (others["batch"], others["calls"])
        assert one == other
    assert well["differences"] == hurt["differences"]
    for name in ("episodes.csv", "sheet.png"):
        assert (tmp_path / "well" / name).read_bytes() == (tmp_path / "hurt" / name).read_bytes()


@pytest.mark.parametrize("name", ["step", "reset", "expert"])
def test_one_that_crashes_again_and_again_ends_an_evaluation_with_a_sentence(
    name, tmp_path, monkeypatch, capsys
):
    def called(self, *args, **options):
        raise RuntimeError("the simulator lost its mind")

    monkeypatch.setattr(TwoRooms, name, called)
    words = ["--env", "TwoRooms", "--episodes", "2", "--budget", "3", "--out", str(tmp_path / "e")]
    assert main(["agent", "eval", *words]) == 2
    error = capsys.readouterr().err
    said = "TwoRooms crashed 3 times in the same episodes: RuntimeError: the simulator lost"
    assert said in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "agent eval needs an environment"),
        (["--env", "TwoRoom"], "did you mean TwoRooms?"),
        (["--env", "TwoRooms", "--episode", "3"], "no option --episode; did you mean --episodes?"),
        (["--env", "Rooms", "--policy", "strait"], "there is no policy 'strait'"),
        (["--env", "Rooms", "--policy", "mode2"], "--policy mode2 needs --checkpoint RUN"),
        (
            ["--env", "Rooms", "--policy", "random", "--checkpoint", "a"],
            "needs a --policy of mode1",
        ),
        (["--env", "Rooms", "--beside", "mode1"], "--beside takes policies without a checkpoint"),
        (["--env", "Rooms", "--beside", "none"], "nobody plays"),
        (["--env", "Rooms", "--episodes", "0"], "episodes must be 1 or more, not 0"),
        (["--env", "Rooms", "--tasks", "eb"], "are tasks of TwoRooms, not of Rooms"),
        (
            ["--env", "TwoRooms", "--tasks", "eb", "--budget", "9"],
            "--tasks eb has budget 200, not 9",
        ),
        (
            ["--env", "Rooms", "--cost", "{goal: 1}"],
            "--zones, --memory and --search are for agents",
        ),
        (["--env", "Rooms", "--search", "{horizon: 9}"], "--memory and --search are for agents"),
        (["--env", "Rooms", "--search", "{depth: 9}"], "search has no 'depth'; it has horizon"),
        (["--env", "Rooms", "--search", "{risk: all}"], "search.risk is expected or worst"),
        (["--env", "Rooms", "--search", "{samples: many}"], "search.samples is as 64"),
        (["--env", "Rooms", "--memory", "64"], "--zones, --memory and --search are for agents"),
        (["--env", "Rooms", "--zones", "[{low: [1], high: [2]}]"], "are for agents"),
        (["--env", "Rooms", "--checkpoint", "a", "--zones", "[{low: [1]}]"], "high"),
        (
            ["--env", "Rooms", "--checkpoint", "a", "--zones", "[{low: [1], high: [0]}]"],
            "a zone has as many numbers in low as in high",
        ),
        (["--env", "Rooms", "--layouts", "seen"], "there is no option --layouts"),
        (["--env", "Rooms", "--name", "a/b"], "is not a plain name"),
    ],
)
def test_bad_input_is_one_sentence(words, told, capsys):
    assert main(["agent", "eval", *words]) == 2
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1


def test_a_folder_in_use_and_a_wrong_checkpoint_are_told_before_anybody_plays(
    tmp_path, agents, capsys
):
    (tmp_path / "kept.txt").write_text("mine")
    words = ["agent", "eval", "--env", "TwoRooms", "--episodes", "2"]
    assert main([*words, "--out", str(tmp_path)]) == 2
    assert "is there already" in capsys.readouterr().err
    out = tmp_path / "new"
    assert main([*words, "--checkpoint", "a,wrong", "--out", str(out)]) == 2
    assert "was trained on Rooms" in capsys.readouterr().err and not out.exists()
    below = tmp_path / "kept.txt" / "new"
    assert main([*words, "--out", str(below)]) == 2
    told = capsys.readouterr()
    assert (
        f"--out {below} cannot be written to: {tmp_path / 'kept.txt'} is no folder" in told.err
        and not told.out
    )


def test_the_page_of_an_evaluation_is_not_written_over(tmp_path, capsys):
    words = ["agent", "eval", "--env", "TwoRooms", "--episodes", "2", "--budget", "3"]
    assert main([*words, "--out", str(tmp_path / "e")]) == 0
    page = (tmp_path / "e" / "report.html").read_bytes()
    assert main(["report", str(tmp_path / "e")]) == 2
    assert "is an evaluation: its page is written by" in capsys.readouterr().err
    assert (tmp_path / "e" / "report.html").read_bytes() == page


def test_agent_takes_a_word(capsys):
    assert main(["agent", "evl"]) == 2
    assert "agent takes the name of what is done: fit or eval, not 'evl'" in capsys.readouterr().err
    for word in ("--help", "--help-all"):
        assert main(["agent", "eval", word]) == 0
        assert "--checkpoint" in capsys.readouterr().out


@pytest.mark.parametrize("shown", [True, False])
def test_zones_and_places_on_the_way_are_drawn_where_there_are_some(tmp_path, shown):
    words = ["--env", "TwoRooms", "--policy", "straight", "--beside", "none", "--episodes", "2"]
    zone = ["--tell", "zone", "--watched", "[{low: [24, 24], high: [40, 40]}]", "--via", "1"]
    out = tmp_path / "out"
    assert main(["agent", "eval", *words, *(zone if shown else []), "--out", str(out)]) == 0
    whole = np.asarray(Image.open(out / "sheet.png")).astype(int)
    sheet, legend = whole[:-LINE], whole[-LINE:]
    assert (legend == GOAL).all(axis=-1).any()
    for part in (sheet, legend):
        assert (part == ZONE).all(axis=-1).any() == shown
    bluish = (sheet[..., 2] > 40) & (sheet[..., 2] > 2 * sheet[..., 0] + 20)
    bluish &= sheet[..., 1] > 0.7 * sheet[..., 2]  # walls are bluer
    assert (bluish.sum() > 50) == shown
