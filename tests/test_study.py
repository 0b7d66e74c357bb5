"""`jepa-video study` as a person meets it: its rows are runs of `pretrain`, and it can go on."""

import csv
import json
from pathlib import Path

import pytest
import yaml

from jepa_video.cli import main
from jepa_video.cli.study import PretrainRows
from jepa_video.data.synthetic import SyntheticSettings, write_synthetic
from jepa_video.evaluation.study import SHIPPED, read_study, run_of, shipped
from jepa_video.training.run import Run
from jepa_video.training.stops import StopRequests

ENCODER = {"class_path": "VideoViT", "init_args": {"depth": 1, "width": 24, "heads": 2}}
FIELDS = ("hardware", "time", "memory", "result")


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos") / "set"
    settings = SyntheticSettings(videos_train=24, videos_val=16, frames=18, size=32)
    return write_synthetic(folder, settings, workers=1)


@pytest.fixture(scope="module")
def grid(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = {
        "model": {"encoder": ENCODER},
        "data": {"root": str(videos), "batch_size": 8, "labels": ["direction"]},
        "trainer": {"max_steps": 3, "accelerator": "cpu", "log_every_n_steps": 1},
        "watch": {"every_n_steps": 2},
    }
    rows = {
        "ema": {},
        "shared": {"model": {"target": "shared", "regularizer": "NoRegularizer"}},
    }
    path = tmp_path_factory.mktemp("grid") / "grid.yaml"
    study = {"base": base, "rows": rows, "seeds": [3], "measures": ["collapse"]}
    path.write_text(yaml.safe_dump(study))
    return path


@pytest.fixture(scope="module")
def done(grid: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "study"
    assert main(["study", str(grid), "--out", str(out)]) == 0
    return out


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert err.count("\n") == 1 and err.startswith("jepa-video: ") and out == ""
    return err


def test_a_study_leaves_a_table_a_page_and_a_run_for_each_row(done: Path) -> None:
    rows = list(csv.DictReader((done / "table.csv").open()))
    assert [(row["row"], row["seed"]) for row in rows] == [("ema", "3"), ("shared", "3")]
    for row in rows:
        run = done / "rows" / f"{row['row']}-seed3"
        summary = json.loads((run / "summary.json").read_text())
        assert float(row["rankme"]) == summary["rankme"] and row["state"] in summary["verdict"]
        assert float(row["clip_std"]) == summary["measured"]["collapse"]["clip_std"] > 0
        assert (run / "report.html").is_file() and (run / "encoder").is_dir()
    page = (done / "report.html").read_text()
    assert "rankme-context" in page and "NoRegularizer" in page


def test_a_row_is_the_run_that_pretrain_gives(done: Path, tmp_path: Path) -> None:
    config = done / "rows" / "shared-seed3" / "config.yaml"
    words = ["--config", str(config), "--runs", str(tmp_path), "--name", "alone"]
    assert main(["pretrain", *words, "--probe.most_videos", "0"]) == 0
    alone = (tmp_path / "alone" / "metrics.csv").read_bytes()
    assert alone == (config.parent / "metrics.csv").read_bytes()


def test_what_is_finished_is_found_and_what_is_missing_is_trained(
    done: Path, grid: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = run_of(done, "ema", 3)
    (checkpoint,) = kept.checkpoints.glob("*.ckpt")
    before = checkpoint.stat().st_mtime_ns
    table = (done / "table.csv").read_text()
    lost = run_of(done, "shared", 3)
    for path in [*lost.checkpoints.iterdir(), lost.path / "summary.json"]:
        path.unlink()  # as a kill before the first checkpoint leaves it
    assert main(["study", str(grid), "--out", str(done)]) == 0
    assert checkpoint.stat().st_mtime_ns == before and lost.finished

    def figures(text: str) -> list[dict[str, str]]:
        return [dict(row, cpu_seconds="") for row in csv.DictReader(text.splitlines())]

    assert figures((done / "table.csv").read_text()) == figures(table)


def test_a_finished_run_is_loaded_to_be_measured_anew(
    done: Path, grid: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_of(done, "ema", 3)
    first = run.summary()["measured"]
    run.update_summary(measured={})
    assert main(["study", str(grid), "--out", str(done)]) == 0
    assert run.summary()["measured"] == first


def test_a_row_that_was_trained_otherwise_is_told_and_kept(
    done: Path, grid: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["study", str(grid), "--out", str(done), "--rows", "ema"]
    assert main([*words, "--trainer.max_steps", "5"]) == 1
    said = capsys.readouterr().out
    assert "was trained with trainer.max_steps 3 where the study asks for 5" in said
    assert run_of(done, "ema", 3).finished
    assert main(["study", str(grid), "--out", str(done)]) == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "study takes a name or a YAML file"),
        (["colapse"], "there is no study 'colapse'"),
        (["{grid}", "--rows", "emma"], "has no row 'emma'; expected some of ema, shared"),
        (["{grid}", "--seeds", "a"], "--seeds must be whole numbers"),
        (["{grid}", "--out"], "--out needs a value"),
        (["{grid}", "--seed", "1"], "what the study decides"),
        (["{grid}", "--model.targett", "ema"], "row ema: there is no option --model.targett"),
        (["{grid}", "--model.target", "emma"], "row ema: model.target: expected one of"),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_made(
    words: list[str],
    said: str,
    grid: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert said in refused(["study", *(word.format(grid=grid) for word in words)], capsys)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", shipped())
def test_each_row_of_a_shipped_study_is_one_that_pretrain_takes(name: str, tmp_path: Path) -> None:
    study = read_study(name)
    rows = PretrainRows(study, [], tmp_path, StopRequests())
    for row in study.rows:
        config = rows._config(row, study.seeds[0], Run(tmp_path / row))
        assert config.trainer.max_steps <= 5000
    assert not list(tmp_path.iterdir())


def test_the_header_of_the_study_of_collapse_says_what_it_takes() -> None:
    text = (SHIPPED / "collapse.yaml").read_text()
    assert text.startswith("# ")
    assert [field for field in FIELDS if f"\n# {field} " not in text] == []
