"""Settings that no run can have: each is refused in one sentence before a folder is made."""

from pathlib import Path

import pytest

from jepa_video.cli import main
from jepa_video.data.synthetic import SyntheticSettings, write_synthetic
from jepa_video.training.run import create_run

SMALL = ["--model.encoder.depth", "1", "--trainer.max_steps", "1", "--wandb", "off"]
SMALL += ["--trainer.accelerator", "cpu", "--data.check", "none"]


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of one training video and one held-out video."""
    folder = tmp_path_factory.mktemp("videos") / "set"
    settings = SyntheticSettings(videos_train=1, videos_val=1, frames=18, size=32)
    return write_synthetic(folder, settings, workers=1)


REFUSED = [
    (["--model.encoder.image", "0"], "model.encoder.image must be 1 or more, not 0"),
    (["--model.encoder.patch", "0"], "model.encoder.patch must be 1 or more, not 0"),
    (["--model.encoder.depth", "-1"], "model.encoder.depth must be 1 or more, not -1"),
    (["--model.encoder.depht", "3"], "no option 'model.encoder.depht'"),
    (["--model.compile", "nothing"], "model.compile: there is no backend 'nothing'"),
    (["--model.learning_rate", "-1"], "model.learning_rate must be 0 or more, not -1"),
    (["--model.momentum", "[2,3]"], "model.momentum must be from 0 to 1, not (2.0, 3.0)"),
    (["--model.warmup", "-3"], "model.warmup must be from 0 to 1, not -3"),
    (["--model.weight_decay", "[0.1,-1]"], "model.weight_decay must be 0 or more"),
    (["--model.betas", "[0.9,1]"], "model.betas must be below 1"),
    (["--trainer.devices", "100000"], "trainer.devices is 100000: so many processes are to share"),
    (["--data.workers", "100000"], "data.workers must be from 0 to 1024, not 100000"),
    (["--trainer.accumulate_grad_batches", "0"], "accumulate_grad_batches must be 1 or more"),
    (["--checkpoint.keep", "0"], "checkpoint.keep must be 1 or more"),
    (["--watch.every_n_steps", "-1"], "watch.every_n_steps must be 0 or more, not -1"),
    (["--probe.draws", "0"], "probe.draws must be 1 or more"),
    (["--seed", "-1"], "seed must be from 0"),
    (["--seed", str(2**70)], "seed must be from 0"),
    (["--wandb", "maybe"], "expected one of 'offline', 'online', 'off', got 'maybe'"),
    (["--model.infer_z.stray", "0.2"], "model.infer_z.stray is of world models"),
    ([], "gives batches of one clip"),
]


@pytest.mark.parametrize(("words", "said"), REFUSED, ids=[" ".join(words) for words, _ in REFUSED])
def test_what_cannot_run_is_told_in_a_sentence(
    words: list[str],
    said: str,
    one: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["pretrain", *SMALL, "--data.root", str(one), *words]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("content", [b"data: [\n", b"- a\n", b"words", b"\xff\xfe\x00"])
def test_a_config_that_is_none_is_named(
    content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_bytes(content)
    assert main(["pretrain", "--config", str(file)]) == 2
    error = capsys.readouterr().err
    assert f"{file} is not a YAML file of settings" in error and error.count("\n") == 1


def test_a_negative_number_is_a_value() -> None:
    from jepa_video.cli.options import build_parser, parse

    parsed = parse(build_parser(), ["--trainer.max_steps", "-1", "--trainer.max_epochs", "2"])
    assert (parsed.trainer.max_steps, parsed.trainer.max_epochs) == (-1, 2)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"data: [\n", "is not a YAML file of settings"),
        (b"", "config.yaml"),
        (b"data:\n  sizze: 3\n", "no option 'data.sizze'"),
        (b"data:\n  size: large\n", "data.size: expected a value of type int, got 'large'"),
        (b"model:\n  encoder: Nothing\n", "there is no class 'Nothing'"),
    ],
)
def test_a_run_whose_settings_are_broken_is_named(
    content: bytes, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = create_run(tmp_path, "one")
    run.config.write_bytes(content)
    assert main(["pretrain", "--resume", str(run.path)]) == 2
    error = capsys.readouterr().err
    assert str(run.config) in error and said in error and error.count("\n") == 1
