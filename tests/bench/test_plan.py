"""The reference problem of planning can be solved, and its comparison is a fair one."""

import json
from dataclasses import replace

import pytest
import torch

from jepa_video.agent.planners import GradientPlanner, Limits, Plan
from jepa_video.bench import plan as bench
from jepa_video.bench.reference import SIZES, PlanSize, make_problem
from jepa_video.cli import main
from jepa_video.evaluation.intervals import Interval
from jepa_video.randomness import generator

CPU = torch.device("cpu")
TINY = PlanSize("tiny", 16, 3, 20, 2)


def hidden_plan(size: PlanSize, problem, decision: int) -> Plan:
    """What a thorough descent finds."""
    planner = GradientPlanner(size.horizon, Limits(size.action), 16, 60)
    goal = problem.goals[decision : decision + 1]
    return planner.plan(problem.dynamics.cost, problem.start, goal, None, generator(0))


@pytest.mark.parametrize("seed", range(3))
def test_the_first_goal_is_reached_within_the_limits(seed):
    problem = make_problem(TINY, seed, 3, CPU)
    still = problem.dynamics.cost(
        problem.start, torch.zeros(1, 1, 3, TINY.action), problem.goals[:1]
    )
    found = hidden_plan(TINY, problem, 0)
    assert found.actions.abs().max() <= 1
    assert found.cost.item() < 1e-3 < 0.05 < still.item()


def test_the_cost_is_zero_at_the_goal_and_of_each_candidate_alone():
    problem = make_problem(TINY, 0, 2, CPU)
    actions = torch.rand(1, 6, 3, TINY.action, generator=generator(1))
    reached = problem.dynamics.rollout(problem.start, actions)
    for index in range(6):
        now = problem.start
        for step in range(3):
            now = problem.dynamics.step(now, actions[:, index, step])
        assert torch.allclose(now, reached[:, index], atol=1e-5)
    costs = problem.dynamics.cost(problem.start, actions, reached[:, 2])
    assert costs[0, 2] < 1e-10 and (costs[0, [0, 1, 3, 4, 5]] > 1e-3).all()


def test_a_problem_follows_from_its_seed():
    one, same, other = (make_problem(TINY, seed, 2, CPU) for seed in (4, 4, 5))
    assert torch.equal(one.goals, same.goals) and not torch.equal(one.goals, other.goals)


def test_the_sizes_are_those_that_are_named():
    small, large = SIZES["small"], SIZES["large"]
    assert (small.width, small.horizon, small.samples, small.iterations) == (256, 5, 300, 10)
    assert (large.width, large.horizon, large.samples, large.iterations) == (512, 10, 512, 10)


class Watcher:
    """Notes what it is asked, and answers with a constant."""

    def __init__(self, level: float) -> None:
        self.level, self.asked = level, []

    def plan(self, cost, state, task, previous, generator):
        self.asked.append((state.clone(), task.clone(), previous))
        actions = torch.full((1, 3, TINY.action), self.level)
        return Plan(actions, cost(state, actions[:, None], task)[:, 0], actions[:, None], 1)


def test_all_planners_solve_the_same_problems_and_the_plain_one_begins_anew(monkeypatch):
    plain, other = Watcher(0.1), Watcher(-0.7)
    entered = [bench.Contestant("plain", plain, False), bench.Contestant("other", other)]
    monkeypatch.setattr(bench, "contestants", lambda size: entered)
    rows = bench.compare(TINY, 2, 3, 0, CPU)
    assert [row.name for row in rows] == ["plain", "other"]
    for one, two in zip(plain.asked, other.asked, strict=True):
        assert torch.equal(one[0], two[0]) and torch.equal(one[1], two[1])
    assert all(asked[2] is None for asked in plain.asked)
    assert [asked[2] is None for asked in other.asked[-6:]] == [True, False, False] * 2
    assert rows[0].time.value == 1 and rows[0].cold.value == 0 and rows[0].later.value == 0


def test_plain_cem_costs_the_whole_budget_and_no_more_than_its_means():
    for entered, actions in (
        (bench.contestants(TINY), TINY.action),
        (bench.discrete_contestants(TINY), 8),
    ):
        problem = make_problem(TINY, 0, 2, CPU, actions == 8)
        plan = entered[0].planner.plan(
            problem.dynamics.cost, problem.start, problem.goals[:1], None, generator(1)
        )
        assert 0 <= plan.evaluations - TINY.samples * TINY.iterations <= TINY.iterations + 1


def test_the_verdict_needs_both_time_and_cost():
    row = bench.Row("a", 1, 1, 1, *(Interval(x, x, x) for x in (0.4, -0.1, -0.1)), 0, 0)
    assert row.holds(0.5) and not row.holds(0.3)
    assert not replace(row, cold=Interval(0.1, 0, 0.2)).holds(0.5)
    assert not replace(row, later=Interval(0.1, 0, 0.2)).holds(0.5)


WORDS = ["bench", "plan", "--sizes", "small", "--problems", "2", "--decisions", "2"]


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setitem(SIZES, "small", replace(TINY, name="small"))


def test_the_table_and_the_figures_are_written(tiny, tmp_path, capsys):
    out = tmp_path / "plan.json"
    code = main([*WORDS, "--at_most", "1000", "--out", str(out)])
    told, figures = capsys.readouterr().out, json.loads(out.read_text())
    names = [row["name"] for row in figures["rows"]["small continuous"]]
    assert names == [one.name for one in bench.contestants(TINY)]
    assert all(name in told for name in names)
    assert {"small continuous", "small discrete"} == figures["rows"].keys()
    assert code == (0 if figures["holds"] else 1)
    assert figures["settings"]["at_most"] == 1000 and figures["settings"]["threads"] == 1


def test_the_exit_code_is_one_where_no_planner_is_quick_enough(tiny, capsys):
    assert main([*WORDS, "--at_most", "0"]) == 1
    assert "no planner keeps to 0 of plain CEM's time" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "bench takes the name of what is measured: plan or envs"),
        (["step"], "bench takes the name of what is measured: plan or envs, not 'step'"),
        (["plan", "--sizes", "huge"], "sizes must be of small, large, not 'huge'"),
        (["plan", "--problems", "1"], "problems must be 2 or more, not 1"),
        (["plan", "--decisions", "1"], "decisions must be 2 or more, not 1"),
        (["plan", "--threads", "0"], "threads must be 1 or more, not 0"),
        (["plan", "--device", "abacus"], "there is no device 'abacus'"),
        (["plan", "--out", "figures.txt"], "--out must be a file NAME.json"),
        (["plan", "--size", "small"], "there is no option --size"),
    ],
)
def test_bad_input_is_one_sentence(words, said, capsys):
    assert main(["bench", *words]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_the_options_of_the_help_text_exist():
    import re

    from jepa_video.cli.bench import HELP, _parser

    known = {name for action in _parser()._actions for name in action.option_strings}
    assert set(re.findall(r"--\w+", HELP.replace("--OPTION", ""))) <= known
