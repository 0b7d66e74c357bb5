"""`jepa-video finetune` as a person meets it: a run, its resume, its result, what is refused."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from jepa_video import load_encoder, save_encoder
from jepa_video.cli import main
from jepa_video.cli.finetune import HELP
from jepa_video.cli.finetune_job import build_parser
from jepa_video.cli.options import flat, parse
from jepa_video.data.synthetic import SyntheticSettings, write_synthetic
from jepa_video.models.encoder import VideoViT
from tests.test_configs import FIELDS, header

ROOT = Path(__file__).parents[1]
SMALL = ["--data.batch_size", "6", "--trainer.log_every_n_steps", "1", "--wandb", "off"]
SMALL += ["--trainer.accelerator", "cpu", "--watch.every_n_steps", "2", "--label", "shape"]


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos") / "set"
    settings = SyntheticSettings(videos_train=24, videos_val=16, frames=18, size=32)
    return write_synthetic(folder, settings, workers=1)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random depth draws from the global generator, which a resume must find again."""
    folder = tmp_path_factory.mktemp("encoder") / "nano"
    torch.manual_seed(7)  # a run of seed 0 draws its random weights from 0
    size = {"width": 24, "depth": 2, "heads": 2, "drop_path": 0.3}
    save_encoder(VideoViT(frames=4, image=16, **size), folder)
    return folder


@pytest.fixture(scope="module")
def words(videos: Path, encoder: Path) -> list[str]:
    return ["finetune", "--encoder", str(encoder), "--data.root", str(videos), *SMALL]


@pytest.fixture(scope="module")
def finished(words: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("runs")
    options = ["--baseline", "true", "--trainer.max_steps", "6", "--checkpoint.every_n_steps", "3"]
    assert main([*words, *options, "--runs", str(runs), "--name", "six"]) == 0
    return runs / "six"


def weights(run: Path, step: int) -> dict[str, torch.Tensor]:
    path = run / "checkpoints" / f"step-{step:08d}.ckpt"
    return torch.load(path, weights_only=True)["state_dict"]


def test_a_run_leaves_its_result_beside_what_it_has_to_beat(finished: Path) -> None:
    summary = json.loads((finished / "summary.json").read_text())
    assert summary["status"] == "finished" and summary["label"] == "shape"
    for name in ("finetune_top1", "finetune_top1_untrained", "probe_top1", "probe_top1_untrained"):
        low, high = summary[f"{name}_interval"]
        assert 0 <= low <= summary[name] <= high <= 1
    assert summary["held_out"] == 16 and summary["labelled"] == 24
    for name in ("gain_over_probe", "gain_over_untrained"):
        assert summary[f"{name}_interval"][0] <= summary[name] <= summary[f"{name}_interval"][1]
    for name in ("config.yaml", "timings.csv", "report.html", "untrained/metrics.csv"):
        assert (finished / name).is_file(), name
    rows = (finished / "metrics.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["step", *map(str, range(1, 7))]
    assert {"loss", "accuracy", "val/accuracy", "lr"} <= set(rows[0].split(","))
    page = (finished / "report.html").read_text()
    assert "fine-tuned" in page and "(label shape)" in page


def test_the_result_is_loaded_as_any_encoder(finished: Path, encoder: Path) -> None:
    tuned, saved = load_encoder(finished), weights(finished, 6)
    for name, value in tuned.state_dict().items():
        assert torch.equal(value, saved[f"encoder.{name}"]), name
    before = load_encoder(encoder).state_dict()
    assert any(not torch.equal(value, before[name]) for name, value in tuned.state_dict().items())
    entries = json.loads((finished / "encoder" / "config.json").read_text())
    assert entries["finetuned"]["label"] == "shape" and len(entries["finetuned"]["classes"]) > 1


def test_random_weights_have_the_same_budget_and_another_start(finished: Path) -> None:
    ours, theirs = weights(finished, 6), weights(finished / "untrained", 6)
    assert ours.keys() == theirs.keys()
    assert not torch.equal(ours["encoder.embed.weight"], theirs["encoder.embed.weight"])


@pytest.mark.parametrize("killed", ["early", "first", "baseline"])
def test_a_resumed_run_equals_the_one_that_was_not_stopped(
    finished: Path, tmp_path: Path, killed: str
) -> None:
    run = tmp_path / "six"
    shutil.copytree(finished, run)
    (run / "summary.json").unlink()
    if killed != "baseline":
        shutil.rmtree(run / "untrained")
    if killed == "early":
        shutil.rmtree(run / "encoder")
        shutil.rmtree(run / "checkpoints")
        (run / "checkpoints").mkdir()
    else:
        part = run if killed == "first" else run / "untrained"
        (part / "checkpoints" / "step-00000006.ckpt").unlink()
    assert main(["finetune", "--resume", str(run)]) == 0
    for folder in ("", "untrained"):
        one, other = weights(finished / folder, 6), weights(run / folder, 6)
        for name, value in one.items():
            assert torch.equal(value, other[name]), name
        files = (finished / folder / "metrics.csv", run / folder / "metrics.csv")
        assert files[0].read_bytes() == files[1].read_bytes()
    first, again = (json.loads((path / "summary.json").read_text()) for path in (finished, run))
    for name in ("finetune_top1", "finetune_top1_untrained", "probe_top1", "gain_over_probe"):
        assert first[name] == again[name]


def test_few_labels_are_few(words: list[str], tmp_path: Path) -> None:
    options = ["--per_class", "2", "--trainer.max_steps", "1", "--clips", "2"]
    assert main([*words, *options, "--runs", str(tmp_path), "--name", "few"]) == 0
    summary = json.loads((tmp_path / "few" / "summary.json").read_text())
    assert summary["labelled"] == round(2 / summary["chance"]) and summary["held_out"] == 16


def test_what_was_tuned_by_adapters_is_a_plain_encoder(
    words: list[str], encoder: Path, tmp_path: Path
) -> None:
    pytest.importorskip("peft")
    options = ["--train", "lora", "--model.lora_rank", "2", "--trainer.max_steps", "2"]
    assert main([*words, *options, "--runs", str(tmp_path), "--name", "lora"]) == 0
    tuned, before = load_encoder(tmp_path / "lora"), load_encoder(encoder)
    assert tuned.config == before.config
    assert torch.equal(tuned.embed.weight, before.embed.weight), "no map of a block, no adapter"
    changed = tuned.blocks[0].attention.qkv.weight, before.blocks[0].attention.qkv.weight
    assert not torch.equal(*changed)


RECIPES = sorted((ROOT / "configs" / "finetune").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_parsed_as_it_is_written(path: Path) -> None:
    parser = build_parser()
    found = flat(parser, parse(parser, ["--config", str(path)]))
    for key, value in yaml.safe_load(path.read_text()).items():
        for name, asked in value.items() if isinstance(value, dict) else [("", value)]:
            if name != "augment":
                assert found[f"{key}.{name}".rstrip(".")] == asked
    assert [field for field in FIELDS if field not in header(path)] == []


def test_every_option_that_the_short_help_names_exists() -> None:
    known = {name for action in build_parser()._actions for name in action.option_strings}
    named = set(re.findall(r"--[a-z_.]+\b(?!\.)", HELP.replace("--help-all", "")))
    assert named <= known and len(named) > 20


# Refused: one sentence, exit code 2


@pytest.fixture
def one_class(videos: Path, tmp_path: Path) -> Path:
    """The same videos, all of which are said to be of one class."""
    for split in ("train", "val"):
        lines = (videos / f"{split}.csv").read_text().splitlines()[1:]
        rows = [f"{videos / line.split(',')[0]},round" for line in lines]
        (tmp_path / f"{split}.csv").write_text("\n".join(["path,form", *rows]) + "\n")
    return tmp_path


REFUSED = [
    ([], "finetune needs --encoder RUN"),
    (["--encoder", "{tmp}/none"], "none does not exist"),
    (["{ok}", "--label", "mood"], "no label 'mood'; there are shape"),
    (["{ok}"], "give --label, one of the labels of"),
    (["{one}", "--label", "form"], "are of 1 class of 'form' (round): a classifier needs two"),
    (["{ok}", "--label", "shape", "--train", "last", "--model.blocks", "3"], "expected 1 to 2"),
    (["{ok}", "--label", "shape", "--train", "some"], "train: expected one of 'full', 'last'"),
    (["{ok}", "--label", "shape", "--data.frames", "8"], "the encoder takes 4"),
    (["{ok}", "--label", "shape", "--clips", "0"], "clips must be 1 or more, not 0"),
    (["{ok}", "--label", "shape", "--per_class", "0"], "per_class must be 1 or more, not 0"),
    (["{ok}", "--label", "shape", "--model.haed", "mean"], "no option --model.haed"),
]


@pytest.mark.parametrize(("said_words", "said"), REFUSED, ids=[said for _, said in REFUSED])
def test_bad_input_is_one_sentence_and_leaves_no_folder(
    said_words: list[str],
    said: str,
    videos: Path,
    encoder: Path,
    one_class: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    places = {
        "{ok}": ["--encoder", str(encoder), "--data.root", str(videos)],
        "{one}": ["--encoder", str(encoder), "--data.root", str(one_class)],
    }
    options: list[str] = []
    for word in said_words:
        options += places.get(word, [word.replace("{tmp}", str(tmp_path))])
    capsys.readouterr()
    assert main(["finetune", *options, "--trainer.accelerator", "cpu", "--wandb", "off"]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and "Traceback" not in error
    assert not (tmp_path / "runs").exists()


def test_a_finished_run_is_not_resumed_by_accident(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert main(["finetune", "--resume", str(finished)]) == 2
    assert "is finished (step 6)" in capsys.readouterr().err
    assert main(["finetune", "--resume", str(finished), "--model.blocks", "2"]) == 2
    assert "--model.blocks cannot change in a resumed run" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_end_with_one_result(words: list[str], tmp_path: Path) -> None:
    options = ["--trainer.devices", "2", "--trainer.max_steps", "3", "--baseline", "true"]
    options += ["--runs", str(tmp_path), "--name", "two"]
    command = [sys.executable, "-m", "jepa_video", *words, *options]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "two" / "summary.json").read_text())
    assert summary["steps"] == 3 and "finetune_top1_untrained" in summary
    assert load_encoder(tmp_path / "two").width == 24
