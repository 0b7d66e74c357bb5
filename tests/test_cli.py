"""The command line as a person meets it: what helps, what is refused and how, what a run leaves."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

import jepa_video
from jepa_video.cli import VERBS, main
from jepa_video.data.synthetic import SyntheticSettings, write_synthetic

ROOT = Path(__file__).parents[1]
SMALL = ["--model.encoder.depth", "1", "--model.encoder.width", "24", "--model.encoder.heads", "2"]
SMALL += ["--data.batch_size", "8", "--trainer.log_every_n_steps", "1", "--wandb", "off"]
SMALL += ["--trainer.accelerator", "cpu", "--watch.every_n_steps", "3"]


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos") / "set"
    settings = SyntheticSettings(videos_train=24, videos_val=16, frames=18, size=32)
    return write_synthetic(folder, settings, workers=1)


@pytest.fixture(scope="module")
def finished(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six steps, with everything that comes after them."""
    runs = tmp_path_factory.mktemp("finished")
    words = ["--data.root", str(videos), "--runs", str(runs), "--name", "six", *SMALL]
    assert main(["pretrain", *words, "--trainer.max_steps", "6"]) == 0
    return runs / "six"


# Light


def python(code: str) -> str:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


def test_all_settings_are_printed_wherever_that_is_asked_for(
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = ["--config", str(ROOT / "configs" / "pretrain" / "ucf10.yaml")]
    told = []
    for words in ([*config, "--print_config"], ["--print_config", *config]):
        with pytest.raises(SystemExit, match="0"):
            main(["pretrain", *words])
        told.append(capsys.readouterr().out)
    assert told[0] == told[1] and "infer_z:" in told[0]  # which the file does not name


def test_import_and_help_load_nothing_heavy() -> None:
    heavy = "{'torch', 'numpy', 'lightning', 'jsonargparse', 'matplotlib', 'wandb'}"
    for line in (
        "import jepa_video; dir(jepa_video)",
        "from jepa_video.cli import main; main(['--help'])",
        "from jepa_video.cli import main; main(['pretrain', '--help'])",
        "from jepa_video.cli import main; main(['doctor', '--help'])",
    ):
        loaded = python(f"{line}\nimport sys; print('loaded', sorted({heavy} & set(sys.modules)))")
        assert loaded.endswith("loaded []\n"), line


@pytest.mark.parametrize(
    ("given", "spins"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, None)],
)
def test_threads_learn_to_give_cores_away_before_torch_starts_them(
    given: dict[str, str], spins: str | None
) -> None:
    code = """
import os, sys
from jepa_video import cli
cli._run = lambda *_: print(os.environ.get("GOMP_SPINCOUNT"), "torch" in sys.modules) or 0
cli.main(["pretrain"])
"""
    names = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    kept = {name: value for name, value in os.environ.items() if name not in names}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=kept | given, capture_output=True, text=True
    )
    assert done.stdout == f"{spins} False\n"


@pytest.mark.parametrize("name", jepa_video.__all__)
def test_public_names_are_there(name: str) -> None:
    assert getattr(jepa_video, name) is not None
    assert name in dir(jepa_video)


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = jepa_video.nothing


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_has_a_short_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"usage: jepa-video {verb}")
    assert len(lines) < 40 and max(len(line) for line in lines) <= 100
    assert main(["--help"]) == 0
    assert f"  {verb} " in capsys.readouterr().out


def test_every_option_that_the_short_help_names_exists() -> None:
    import re

    from jepa_video.cli.options import build_parser
    from jepa_video.cli.pretrain import HELP

    known = {name for action in build_parser()._actions for name in action.option_strings}
    for name in re.findall(r"--[a-z_.]+\b(?!\.)", HELP.replace("--help-all", "")):
        nested = name.startswith("--model.encoder.")  # of the class that is chosen
        assert nested or name in known, name


def test_a_default_stands_in_the_signature_and_nowhere_else() -> None:
    import inspect

    from jepa_video.cli.options import build_parser, flat, parse

    parser = build_parser()
    options = flat(parser, parse(parser, []))
    for prefix, made in (("data", jepa_video.VideoDataModule), ("model", jepa_video.VideoJEPA)):
        for name, parameter in inspect.signature(made).parameters.items():
            default = parameter.default
            if isinstance(default, (int, float, str)) and name != "seed":
                assert options[f"{prefix}.{name}"] == default, name


# Refused: one sentence, exit code 2


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert "Traceback" not in err and err.count("\n") == 1, err
    assert err.startswith("jepa-video: ") and out == ""
    return err.removeprefix("jepa-video: ").strip()


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("not a video")
    (tmp_path / "rows.csv").write_text("path,label\nnowhere.mp4,a\n")
    (tmp_path / "key.yaml").write_text("data:\n  sizze: 40\n")
    (tmp_path / "deep.yaml").write_text("model:\n  encoder:\n    init_args:\n      framez: 8\n")
    (tmp_path / "stray.yaml").write_text("sizze: 40\n")
    (tmp_path / "type.yaml").write_text("data:\n  size: large\n")
    (tmp_path / "torn.yaml").write_text("data: [\n")
    return tmp_path


REFUSED = [
    (["--data.root", "{bad}/none"], "none"),
    (["--data.root", "{bad}/empty"], "empty"),
    (["--data.root", "{bad}/text"], "no video file in"),
    (["--data.root", "{bad}/rows.csv"], "nowhere.mp4"),
    (["--config", "{bad}/none.yaml"], "none.yaml"),
    (["--config", "{bad}/torn.yaml"], "torn.yaml is not a YAML file of settings"),
    (["--config", "{bad}/key.yaml"], "no option 'data.sizze'; did you mean --data.size?"),
    (["--config", "{bad}/deep.yaml"], "framez"),
    (["--config", "{bad}/stray.yaml"], "no option 'sizze'"),
    (["--config", "{bad}/type.yaml"], "data.size: expected a value of type int, got 'large'"),
    (["--data.size", "large"], "data.size: expected a value of type int, got 'large'"),
    (["--data.sise", "40"], "no option --data.sise; did you mean --data.size?"),
    (["--trainer.max_step", "3"], "no option --trainer.max_step; did you mean"),
    (["--model.target", "emma"], "model.target: expected one of 'ema', 'shared'"),
    (["--model.encoder.size", "big"], "model.encoder.size: expected one of 'nano'"),
    (["--model.encoder", "Nothing"], "no class 'Nothing'"),
    (["--data.root"], "expected one argument"),
    (["stray"], "no place for the word 'stray'"),
    (["--wandb", "maybe"], "wandb: expected one of"),
    (["--data.root", "{videos}", "--model.encoder.image", "30"], "multiple of the patch size 8"),
    (["--data.root", "{videos}", "--data.frames", "16"], "leave data.frames out"),
    (["--data.root", "{videos}", "--data.size", "31"], "size is 31 and model.encoder.image is 32"),
    (["--data.root", ""], "data.root is empty: expected a folder or a manifest"),
    (["--data.train", "[a.csv, '']"], "data.train is empty"),
    (["--data.root", "{videos}", "--probe.label", "mood"], "no label 'mood'"),
    (["--data.root", "{videos}", "--trainer.devices", "x"], "trainer: "),
    (["--data.root", "{videos}", "--trainer.strategy", "x"], "trainer: "),
    (["--data.root", "{videos}", "--name", "a/b"], "plain name"),
    (["--data.root", "{videos}", "--name", "six", "--runs", "{finished}/.."], "six exists"),
    (["--resume", "{bad}"], "is not a run: it has no config.yaml and no checkpoints"),
    (["--resume", "{bad}/none"], "is not a run: there is no such folder"),
    (["--resume", "{finished}"], "is finished (step 6); to train it further"),
    (["--resume", "{finished}", "--seed", "3"], "--seed cannot change in a resumed run"),
]


@pytest.mark.parametrize(("words", "said"), REFUSED, ids=[" ".join(words) for words, _ in REFUSED])
def test_bad_input_is_one_sentence_and_exit_code_2(
    words: list[str],
    said: str,
    bad: Path,
    request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(bad)
    places = {"bad": str(bad)}
    for name in ("videos", "finished"):
        if any(f"{{{name}}}" in word for word in words):
            places[name] = str(request.getfixturevalue(name))
    capsys.readouterr()
    assert said in refused(["pretrain", *(word.format(**places) for word in words)], capsys)
    assert not (bad / "runs").exists(), "what cannot start leaves no folder"


LACKING = [
    (OSError(28, "No space left on device", "a", None, "b.ckpt"), "write b.ckpt: No space left"),
    (PermissionError(13, "Permission denied", "runs/a"), "write runs/a: Permission denied"),
    (RuntimeError("PytorchStreamWriter failed writing file data/3"), "is the disk full?"),
    (SafetensorError("I/O error: No space left on device (os error 28)"), "full? (I/O error"),
    (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "data.batch_size"),
    (RuntimeError("[enforce fail] can't allocate memory: 24000 bytes"), "out of memory"),
    (MemoryError(), "out of memory"),
]


@pytest.mark.parametrize(("error", "said"), LACKING, ids=[said for _, said in LACKING])
def test_a_machine_that_does_not_suffice_is_one_sentence(
    error: Exception,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: object) -> int:
        raise error

    monkeypatch.setattr("jepa_video.cli._run", fail)
    assert main(["pretrain"]) == 1
    told = capsys.readouterr().err
    assert said in told and told.startswith("jepa-video: ") and told.count("\n") == 1


def test_a_package_that_only_an_extra_brings_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> int:
        raise ModuleNotFoundError("No module named 'gymnasium'", name="gymnasium")

    monkeypatch.setattr("jepa_video.cli._run", fail)
    assert main(["collect"]) == 2
    told = capsys.readouterr().err
    assert told == "jepa-video: collect needs gymnasium: pip install 'jepa-video[control]'\n"


def test_a_fault_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jepa_video.cli._run", lambda *_: [][0])
    with pytest.raises(IndexError):
        main(["pretrain"])


def test_verbs_that_are_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean pretrain?" in refused(["pretrian"], capsys)
    assert "takes one run folder" in refused(["report"], capsys)
    assert "give --data.root EPISODES" in refused(["world"], capsys)
    assert main(["bench", "plan", "--help"]) == 0
    assert "usage: jepa-video bench plan" in capsys.readouterr().out
    assert "takes no options" in refused(["doctor", "now"], capsys)


def test_a_requeued_job_goes_on_in_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from types import SimpleNamespace

    from jepa_video.cli import launch
    from jepa_video.errors import UserError

    monkeypatch.delenv("JEPA_VIDEO_RUN", raising=False)
    for name, value in {"JOB_ID": "7", "STEP_ID": "0", "JOB_NAME": "train"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    config = SimpleNamespace(name=None, runs=str(tmp_path))
    run = launch.created(config)
    assert run.name == "slurm-7-0" and launch.requeued(run) is None
    assert launch.same_run(config).path == run.path, "another rank finds the same folder"
    with pytest.raises(UserError, match="exists"):
        launch.created(config)
    run.config.write_text("seed: 0")
    torch.save({"step": 3}, run.checkpoints / "step-00000003.ckpt")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    again = launch.created(config)
    assert again.path == run.path
    assert launch.requeued(again) == run.checkpoints / "step-00000003.ckpt"


# What a run leaves


def test_a_run_leaves_all_that_is_promised(finished: Path) -> None:
    for name in ("config.yaml", "metrics.csv", "timings.csv", "unreadable.csv", "report.html"):
        assert (finished / name).is_file(), name
    assert [path.name for path in sorted((finished / "checkpoints").iterdir())] == [
        "step-00000006.ckpt"
    ]
    summary = json.loads((finished / "summary.json").read_text())
    for name in ("probe_top1", "probe_top1_untrained", "probe_top1_pixels", "rankme", "energy_gap"):
        assert isinstance(summary[name], float), name
    for name in ("energy_gap_stderr", "clips_per_second", "data_wait", "verdict", "seed"):
        assert name in summary
    assert summary["steps"] == 6 and summary["status"] == "finished"
    assert summary["probe_top1"] == summary["labels"][summary["probe_label"]]["probe_top1"]
    with (finished / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == [str(step) for step in range(1, 7)]
    assert {"loss", "energy", "rankme/target", "energy_gap"} <= set(rows[0])


def test_the_lines_on_the_last_screen_load_the_encoder(finished: Path) -> None:
    encoder = jepa_video.load_encoder(finished)
    saved = torch.load(finished / "checkpoints" / "step-00000006.ckpt", weights_only=True)
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, saved["state_dict"][f"encoder.{name}"]), name


def test_the_config_of_a_run_gives_the_same_run(finished: Path, tmp_path: Path) -> None:
    words = ["--config", str(finished / "config.yaml"), "--runs", str(tmp_path), "--name", "again"]
    assert main(["pretrain", *words, "--probe.most_videos", "0"]) == 0
    first, again = finished / "metrics.csv", tmp_path / "again" / "metrics.csv"
    assert again.read_bytes() == first.read_bytes()


def test_held_out_videos_that_all_fail_cost_the_probes_and_not_the_run(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = tmp_path / "set"
    shutil.copytree(videos, damaged)
    for path in (damaged / "videos" / "val").iterdir():
        path.write_bytes(b"no video any more")
    words = ["--data.root", str(damaged), "--runs", str(tmp_path), "--name", "blind", *SMALL]
    words += ["--data.check", "none", "--data.unreadable_limit", "0.9", "--trainer.max_steps", "2"]
    assert main(["pretrain", *words]) == 0
    assert "no probes: there are no features" in capsys.readouterr().err
    assert json.loads((tmp_path / "blind" / "summary.json").read_text())["status"] == "finished"
    assert (tmp_path / "blind" / "report.html").is_file()


def test_a_finished_run_is_trained_further_only_when_told(videos: Path, tmp_path: Path) -> None:
    words = ["--data.root", str(videos), "--runs", str(tmp_path), "--name", "longer", *SMALL]
    words += ["--probe.most_videos", "0"]
    assert main(["pretrain", *words, "--trainer.max_steps", "2"]) == 0
    resumed = ["--resume", str(tmp_path / "longer"), "--trainer.max_steps", "4"]
    assert main(["pretrain", *resumed]) == 0
    summary = json.loads((tmp_path / "longer" / "summary.json").read_text())
    assert summary["steps"] == 4
    rows = (tmp_path / "longer" / "metrics.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows[1:]] == ["1", "2", "3", "4"]


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_again_the_same(
    finished: Path, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the weights that it was to start from, in the folder that it has."""
    words = ["--data.root", str(videos), "--runs", str(tmp_path), "--name", "whole", *SMALL]
    words += ["--probe.most_videos", "0", "--trainer.max_steps", "2", "--init", str(finished)]
    assert main(["pretrain", *words]) == 0
    whole, part = tmp_path / "whole", tmp_path / "part"
    (part / "checkpoints").mkdir(parents=True)
    shutil.copy(whole / "config.yaml", part)
    rows = (whole / "metrics.csv").read_text().splitlines(keepends=True)
    (part / "metrics.csv").write_text("".join(rows[:2]))
    capsys.readouterr()
    assert main(["pretrain", *words[:5], "part", *words[6:]]) == 2
    assert f"begin it again with --resume {part}" in capsys.readouterr().err
    assert main(["pretrain", "--resume", str(part)]) == 0
    assert f"{part} has no checkpoint yet: it begins at step 0" in capsys.readouterr().out
    assert (part / "metrics.csv").read_bytes() == (whole / "metrics.csv").read_bytes()
    one, other = (
        torch.load(run / "checkpoints" / "step-00000002.ckpt", weights_only=True)["state_dict"]
        for run in (whole, part)
    )
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_results_without_a_checkpoint_are_not_trained_over(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "six"
    shutil.copytree(finished, run)
    shutil.rmtree(run / "checkpoints")
    (run / "checkpoints").mkdir()
    capsys.readouterr()
    assert "has no checkpoint to resume from" in refused(["pretrain", "--resume", str(run)], capsys)
    assert (run / "summary.json").read_bytes() == (finished / "summary.json").read_bytes()


def test_the_encoder_alone_says_how_long_a_clip_is(videos: Path) -> None:
    from jepa_video.cli.job import Job
    from jepa_video.cli.options import build_parser, parse

    parser = build_parser()
    words = ["--data.root", str(videos), *SMALL]
    for said, frames in (([], 8), (["--model.encoder.frames", "4"], 4)):
        job = Job(parser, parse(parser, [*words, *said]))
        video = job.data.clips("train")[0]["video"]
        assert job.module.encoder.frames == len(video) == frames


def test_a_run_folder_that_says_the_length_twice_is_resumed(finished: Path, tmp_path: Path) -> None:
    """As every run wrote it before the clips' length followed from the encoder's."""
    old = tmp_path / "old"
    shutil.copytree(finished, old)
    text = (old / "config.yaml").read_text()
    assert "\n  frames:" not in text, "now it is said with the encoder alone"
    (old / "config.yaml").write_text(text.replace("\ndata:\n", "\ndata:\n  frames: 8\n"))
    words = ["--resume", str(old), "--trainer.max_steps", "7", "--probe.most_videos", "0"]
    assert main(["pretrain", *words]) == 0
    assert json.loads((old / "summary.json").read_text())["steps"] == 7


def test_report_writes_the_page_anew(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (finished / "report.html").unlink()
    assert main(["report", str(finished)]) == 0
    assert capsys.readouterr().out.strip() == str(finished.resolve() / "report.html")
    assert (finished / "report.html").stat().st_size > 1000


def test_wandb_lands_inside_the_run_without_a_network(videos: Path, tmp_path: Path) -> None:
    words = ["--data.root", str(videos), "--runs", str(tmp_path), "--name", "logged", *SMALL]
    words += ["--wandb", "offline", "--probe.most_videos", "0", "--trainer.max_steps", "2"]
    assert main(["pretrain", *words]) == 0
    assert list((tmp_path / "logged" / "wandb").glob("offline-run-*/*.wandb"))
    assert {path.name for path in tmp_path.iterdir()} == {"logged"}


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_a_run_with_a_checkpoint_and_its_code(
    videos: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    words = ["--data.root", str(videos), "--runs", str(tmp_path), "--name", "told", *SMALL]
    words += ["--trainer.max_steps", "100000", "--data.workers", "1"]
    command = [sys.executable, "-m", "jepa_video", "pretrain", *words]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        metrics = tmp_path / "told" / "metrics.csv"
        end = time.monotonic() + 200
        while not (metrics.exists() and metrics.read_text().count("\n") > 3):
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.2)
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == code and "Traceback" not in errors
    (checkpoint,) = (tmp_path / "told" / "checkpoints").glob("*.ckpt")
    assert torch.load(checkpoint, weights_only=True)["global_step"] > 0
    assert not (tmp_path / "told" / "summary.json").exists()


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_to_two_processes_ends_both_with_a_checkpoint_and_its_code(
    videos: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    """Ctrl-C comes to all processes of a terminal; SIGTERM here to the one that was started."""
    words = ["--data.root", str(videos), "--runs", str(tmp_path), "--name", "two", *SMALL]
    words += ["--trainer.max_steps", "100000", "--trainer.devices", "2"]
    command = [sys.executable, "-m", "jepa_video", "pretrain", *words, "--trainer.strategy", "ddp"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        metrics = tmp_path / "two" / "metrics.csv"
        end = time.monotonic() + 400
        while not (metrics.exists() and metrics.read_text().count("\n") > 3):
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.2)
        send = os.killpg if number == signal.SIGINT else os.kill
        send(process.pid, number)
        _, errors = process.communicate(timeout=100)
    assert process.returncode == code and "Traceback" not in errors, errors
    (checkpoint,) = (tmp_path / "two" / "checkpoints").glob("step-*.ckpt")
    assert torch.load(checkpoint, weights_only=True)["global_step"] > 0
    end = time.monotonic() + 60
    with pytest.raises(ProcessLookupError):
        while time.monotonic() < end:
            os.killpg(process.pid, 0)  # the other process needs a moment more
            time.sleep(0.2)


# Doctor


def test_the_doctor_finds_this_machine_fit(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert "A run would work" in said and "FAILS" not in said


def test_the_doctor_names_what_fails_and_the_mend(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from jepa_video import doctor

    def no_torch() -> list[doctor.Finding]:
        return [doctor.Finding("torch", "fails", "not installed", "pip install 'torch>=2.8'")]

    def breaks() -> list[doctor.Finding]:
        raise OSError("the disk is gone")

    monkeypatch.setattr(doctor, "packages", no_torch)
    monkeypatch.setattr(doctor, "disks", breaks)
    assert main(["doctor"]) == 1
    said = capsys.readouterr().out
    assert "-> pip install 'torch>=2.8'" in said and "the disk is gone" in said
    assert "A run would not work yet: torch, breaks." in said


def test_the_doctor_calls_a_missing_decord_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    from jepa_video import doctor
    from jepa_video.data import media

    monkeypatch.setitem(sys.modules, "decord", None)
    media.imported_decord.cache_clear()
    try:
        states = {finding.what: finding.state for finding in doctor.decoders()}
    finally:
        media.imported_decord.cache_clear()
    assert states["pyav"] == "good" and states["decord"] == "note"


CUT_OFF = """
import socket, sys
sys.modules["decord"] = None
connect, asked = socket.socket.connect, []
def guarded(self, address):
    if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1", "localhost"):
        asked.append(address)
        raise OSError("the network is cut")
    return connect(self, address)
socket.socket.connect = guarded
from jepa_video.cli import main
code = main(sys.argv[1:])
assert not asked, asked
raise SystemExit(code)
"""


@pytest.mark.slow
def test_without_decord_and_network_a_run_works_and_asks_for_neither(
    videos: Path, tmp_path: Path
) -> None:
    words = ["pretrain", "--data.root", str(videos), "--runs", str(tmp_path), "--name", "alone"]
    words += [*SMALL, "--wandb", "offline", "--trainer.max_steps", "2", "--data.workers", "1"]
    command = [sys.executable, "-c", CUT_OFF, *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "wandb did not start" not in done.stderr
    assert (tmp_path / "alone" / "report.html").is_file()
