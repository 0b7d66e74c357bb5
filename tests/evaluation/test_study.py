"""A study runs what is not finished, tells what fails, and writes what it measured."""

import csv
import json
from io import StringIO
from pathlib import Path

import pytest
import torch
import yaml

from jepa_video.errors import UserError
from jepa_video.evaluation import measures
from jepa_video.evaluation.bars import LEFT, RIGHT, bar_chart
from jepa_video.evaluation.charts import WIDTH
from jepa_video.evaluation.measure import Beside, Column, Measure
from jepa_video.evaluation.study import Trained, read_study, run_of, run_study, shipped
from jepa_video.evaluation.study_page import measure_beside, write_study
from jepa_video.training.run import Run
from jepa_video.training.stops import RunStopped

GOOD = {"rows": {"a": {}, "b": {"model": {"target": "shared"}}}, "seeds": [0, 1]}
GOOD |= {"measures": ["size"], "title": "Two & more"}


@pytest.fixture(autouse=True)
def size(monkeypatch):
    """A measure that a test can compute: ten times the row's number, plus the seed."""
    columns = (Column("size", "size", 100, 1), Column("kept", "kept"))
    measure = Measure(columns, lambda module, data, device: {"size": float(module.figure)})
    monkeypatch.setitem(measures.MEASURES, "size", measure)


def written(folder: Path, **changes) -> str:
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump({**GOOD, **changes}))
    return str(path)


class Fake(torch.nn.Module):
    def __init__(self, figure: float) -> None:
        super().__init__()
        self.figure = figure


class Rows:
    """Trains nothing; row b fails, or is stopped, where told."""

    def __init__(self, wrong: Exception | None = None) -> None:
        self.wrong, self.calls, self.verified = wrong, [], []

    def verify(self, row: str, seed: int, run: Run) -> None:
        self.verified.append((row, seed))

    def trained(self, row: str, seed: int, run: Run) -> Trained:
        self.calls.append((row, seed))
        if row == "b" and self.wrong is not None:
            raise self.wrong
        run.path.mkdir(parents=True, exist_ok=True)
        verdict = "collapsed: flat." if row == "a" else "healthy: fine."
        run.update_summary(status="finished", verdict=verdict, kept=0.5)
        return Trained(Fake(10 * "ab".index(row) + seed), None, torch.device("cpu"))


def test_every_row_has_its_turn_before_the_next_seed(tmp_path):
    study, rows = read_study(written(tmp_path)), Rows()
    outcomes = run_study(study, tmp_path, rows, say=lambda text: None)
    assert rows.calls == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]
    assert [one.figures["size"] for one in outcomes] == [0, 10, 1, 11]
    assert {one.state for one in outcomes if one.row == "a"} == {"collapsed"}


def test_what_is_finished_is_verified_and_not_run_again(tmp_path):
    study, rows = read_study(written(tmp_path)), Rows()
    first = run_study(study, tmp_path, rows, say=lambda text: None)
    again = Rows()
    second = run_study(study, tmp_path, again, say=lambda text: None)
    assert again.calls == [] and again.verified == rows.calls
    assert [one.figures for one in second] == [one.figures for one in first]


def test_a_measure_that_is_new_is_taken_of_the_finished_run(tmp_path, monkeypatch):
    run_study(read_study(written(tmp_path)), tmp_path, Rows(), say=lambda text: None)
    more = Measure((Column("twice", "twice"),), lambda m, data, device: {"twice": 2.0 * m.figure})
    monkeypatch.setitem(measures.MEASURES, "more", more)
    study = read_study(written(tmp_path, measures=["size", "more"]))
    outcomes = run_study(study, tmp_path, Rows(), say=lambda text: None)
    assert [one.figures["twice"] for one in outcomes] == [0, 20, 2, 22]
    assert [one.figures["size"] for one in outcomes] == [0, 10, 1, 11]


@pytest.mark.parametrize("wrong", [UserError("no room"), RuntimeError("no room")])
def test_a_row_that_fails_is_told_and_the_others_go_on(tmp_path, wrong):
    study, told = read_study(written(tmp_path)), []
    outcomes = run_study(study, tmp_path, Rows(wrong), say=told.append)
    assert [one.state for one in outcomes] == ["collapsed", "failed"] * 2
    assert "no room" in told[1] and ("RuntimeError" in told[1]) == isinstance(wrong, RuntimeError)
    write_study(study, outcomes, tmp_path)
    assert "no room" in (tmp_path / "report.html").read_text()


def test_a_stop_ends_the_study_at_once(tmp_path):
    with pytest.raises(RunStopped):
        run_study(read_study(written(tmp_path)), tmp_path, Rows(RunStopped(130)), say=print)
    assert not run_of(tmp_path, "a", 1).path.exists()


def test_table_summary_and_page_say_the_same(tmp_path):
    study = read_study(written(tmp_path))
    outcomes = run_study(study, tmp_path, Rows(), say=lambda text: None)
    write_study(study, outcomes, tmp_path)
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert lines[0] == "| row | size | kept | verdict |"
    assert lines[2] == "| a | 50.0 (0.0 to 100.0) | 0.50 (0.50 to 0.50) | collapsed |"
    assert lines[3] == "| b | 1050.0 (1000.0 to 1100.0) | 0.50 (0.50 to 0.50) | healthy |"
    rows = list(csv.DictReader(StringIO((tmp_path / "table.csv").read_text())))
    assert [(row["row"], row["seed"], float(row["size"])) for row in rows] == [
        ("a", "0", 0), ("b", "0", 10), ("a", "1", 1), ("b", "1", 11),
    ]  # fmt: skip
    told = json.loads((tmp_path / "summary.json").read_text())
    assert told["finished"] == told["wanted"] == 4
    assert told["rows"]["b"]["1"]["figures"]["size"] == 11
    page = (tmp_path / "report.html").read_text()
    assert "Two &amp; more" in page and "1050.0" in page and "1000.0 to 1100.0" in page
    assert "http" not in page.replace("http-equiv", "") and "<script" not in page


def test_a_table_that_needs_no_row_is_measured_once_and_stands_on_the_page(tmp_path, monkeypatch):
    calls = []

    def cost() -> Beside:
        calls.append(1)
        return Beside("Cost <of>", "In words.", ("method", "D = 4"), [("push", "over 3")])

    monkeypatch.setitem(measures.BESIDE, "cost", cost)
    study = read_study(written(tmp_path, beside=["cost"]))
    for _ in range(2):
        measure_beside(study, tmp_path)
    write_study(study, [], tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert calls == [1] and "Cost &lt;of&gt;" in page and "over 3" in page


def test_a_table_is_there_before_the_study_is_through(tmp_path):
    study, lines = read_study(written(tmp_path)), []

    def done(outcomes):
        write_study(study, outcomes, tmp_path)
        lines.append((tmp_path / "table.md").read_text().splitlines()[3])

    run_study(study, tmp_path, Rows(), say=lambda text: None, done=done)
    assert lines[0] == "| b | \N{EN DASH} | \N{EN DASH} | not run |"
    assert lines[1] == "| b | 1000.0 | 0.50 | healthy |"


def test_bars_are_as_long_as_their_means():
    chart = bar_chart("t", {"half": [1.0, 3.0], "whole": [4.0], "none": []}, [("chance", 1.0)])
    room = WIDTH - RIGHT - LEFT
    assert f'width="{room / 2:.1f}"' in chart and f'width="{room:.1f}"' in chart
    assert chart.count('class="seed"') == 3 and "none not measured" in chart
    assert f'class="mark" d="M{LEFT + room / 4:.1f} ' in chart


def test_a_bar_below_zero_starts_there():
    chart = bar_chart("t", {"low": [-1.0], "high": [3.0]})
    room = WIDTH - RIGHT - LEFT
    assert f'x="{LEFT:.1f}" width="{room / 4:.1f}"' in chart
    assert f'x="{LEFT + room / 4:.1f}" width="{3 * room / 4:.1f}"' in chart


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rowz": {}}, "nobody reads the key 'rowz'"),
        ({"rows": {}}, "rows must be a mapping"),
        ({"rows": {"a/b": {}}}, "'a/b' is not a plain name"),
        ({"rows": {"a": 3}}, "a must be a mapping of options"),
        ({"rows": {"a": {"seed": 3}}}, "a gives 'seed'"),
        ({"base": {"name": "x"}}, "base gives 'name'"),
        ({"seeds": ["x"]}, "seeds must be a list of whole numbers"),
        ({"seeds": [-1]}, "seeds must be a list of whole numbers"),
        ({"measures": ["weight"]}, "no measure 'weight'; expected some of collapse"),
        ({"measures": []}, "measures must be a list"),
        ({"beside": "negatives"}, "beside must be a list"),
        ({"beside": ["weights"]}, "no table 'weights'; expected some of negatives"),
    ],
)
def test_a_file_that_is_wrong_is_refused_by_its_key(tmp_path, changes, said):
    with pytest.raises(UserError, match="study mine.yaml") as error:
        read_study(written(tmp_path, **changes))
    assert said in str(error.value)


def test_what_is_no_study_is_refused_with_those_that_are(tmp_path):
    with pytest.raises(UserError, match="no study 'colapse'.*collapse"):
        read_study("colapse")
    (tmp_path / "torn.yaml").write_text("rows: [")
    with pytest.raises(UserError, match="torn.yaml is not a YAML file"):
        read_study(str(tmp_path / "torn.yaml"))
    with pytest.raises(UserError, match="has no row 'c'; expected some of a, b"):
        read_study(written(tmp_path)).only(rows=["c"])


@pytest.mark.parametrize("name", shipped())
def test_a_shipped_study_is_found_from_any_folder(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study = read_study(name)
    assert study.rows and study.name == name and study.title
