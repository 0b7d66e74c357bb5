import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from jepa_video.errors import UserError
from jepa_video.training.checkpoints import newest_checkpoint
from jepa_video.training.logs import CsvLog, CsvTable, read_metrics, wandb_logger, wandb_mode
from jepa_video.training.run import (
    Run,
    can_begin,
    create_run,
    held,
    only_writer,
    open_run,
    write_whole,
)

ROOT = Path(__file__).parents[2]


def test_two_runs_never_share_a_folder(tmp_path: Path) -> None:
    create_run(tmp_path, "first")
    with pytest.raises(UserError, match="first exists"):
        create_run(tmp_path, "first")


def test_of_many_processes_that_want_one_name_one_gets_it(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from jepa_video.training.run import create_run\n"
        "from jepa_video.errors import UserError\n"
        "try: create_run(Path(sys.argv[1]), 'same')\n"
        "except UserError: sys.exit(2)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    codes = sorted(p.wait() for p in [subprocess.Popen(command) for _ in range(4)])
    assert codes == [0, 2, 2, 2]


def test_names_without_a_wish_differ(tmp_path: Path) -> None:
    assert len({create_run(tmp_path).name for _ in range(20)}) == 20


@pytest.mark.parametrize("name", ["a/b", "..", "", "a b", "-x"])
def test_a_name_is_a_plain_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="plain name"):
        create_run(tmp_path, name)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no config.yaml and no checkpoints"):
        open_run(tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        open_run(tmp_path / "nowhere")


def test_a_run_has_one_writer_and_a_dead_writer_is_none(tmp_path: Path) -> None:
    run = create_run(tmp_path, "one")
    script = (
        "import sys, time; from pathlib import Path\n"
        "from jepa_video.training.run import Run, only_writer\n"
        "with only_writer(Run(Path(sys.argv[1]))):\n"
        "    print('held', flush=True); time.sleep(60)\n"
    )
    command = [sys.executable, "-c", script, str(run.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="in use"), only_writer(run):
            pass
        other.kill()
        other.wait()
        with only_writer(run):
            pass


def test_a_summary_is_whole_or_not_there(tmp_path: Path) -> None:
    run = create_run(tmp_path, "one")
    assert not run.finished and run.summary() == {}
    run.update_summary(steps=3)
    assert run.update_summary(status="finished") == {"steps": 3, "status": "finished"}
    assert run.finished
    (run.path / "summary.json").write_text('{"steps": 3, "sta')
    assert not run.finished, "a torn summary does not make a run finished"


KILLED = """
import os, signal, sys, time
from pathlib import Path
from jepa_video.training.run import held
with held(Path(sys.argv[1]), "taken"):
    ready, tell = os.pipe()
    if (child := os.fork()) == 0:
        os.write(tell, b"!")
        time.sleep(60)
    os.read(ready, 1)
    print(child, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_run_that_was_killed_is_free_although_its_loaders_still_live(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        loader = int(process.stdout.readline())
        assert process.wait() == -signal.SIGKILL
        try:
            with held(tmp_path, "taken"):
                os.kill(loader, 0)
        finally:
            os.kill(loader, signal.SIGKILL)


def test_what_a_process_forks_does_not_free_its_run(tmp_path: Path) -> None:
    with held(tmp_path, "taken"):
        if (child := os.fork()) == 0:
            os._exit(0)
        os.waitpid(child, 0)
        with pytest.raises(UserError, match="taken"), held(tmp_path, "taken"):
            pass


def test_a_crash_in_a_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "file"
    write_whole(path, "old")

    def crash(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", crash)
    with pytest.raises(KeyboardInterrupt):
        write_whole(path, "new")
    assert path.read_text() == "old"


def table(path: Path, steps: range, late: int) -> CsvTable:
    made = CsvTable(path)
    made.truncate(steps.start - 1)
    for step in steps:
        made.add({"loss": 1 / step}, step)
        if step >= late:
            made.add({"probe": step / 7}, step)
    made.flush()
    return made


@pytest.mark.parametrize("kept", [2, 5, 6, 9])
def test_a_table_cut_back_and_written_on_equals_one_written_at_once(tmp_path: Path, kept: int):
    table(tmp_path / "whole.csv", range(1, 13), late=6)
    table(tmp_path / "cut.csv", range(1, 11), late=6)
    with (tmp_path / "cut.csv").open("a") as file:
        file.write("11,0.0")  # torn by a kill in the middle of a line
    table(tmp_path / "cut.csv", range(kept + 1, 13), late=6)
    assert (tmp_path / "cut.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_a_table_keeps_float32_exactly(tmp_path: Path) -> None:
    import torch

    values = torch.rand(50, generator=torch.Generator().manual_seed(0))
    made = CsvTable(tmp_path / "t.csv")
    for step, value in enumerate(values, 1):
        made.add({"x": value}, step)
    made.flush()
    read = torch.tensor([value for _, value in read_metrics(tmp_path / "t.csv")["x"]])
    assert torch.equal(read, values)


def test_a_row_that_a_checkpoint_closed_is_not_written_twice(tmp_path: Path) -> None:
    log = CsvLog(tmp_path / "m.csv")
    log.log_metrics({"loss": 1.0}, step=0)
    log.save()
    log.log_metrics({"loss": 1.0}, step=0)
    log.log_metrics({"loss": 2.0}, step=1)
    log.save()
    assert (tmp_path / "m.csv").read_text() == "step,loss\n1,1\n2,2\n"


def test_a_torn_checkpoint_is_passed_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    import torch

    run = create_run(tmp_path, "one")
    with pytest.raises(UserError, match="no checkpoint"):
        newest_checkpoint(run)
    torch.save({"weights": torch.arange(1000)}, run.checkpoints / "step-00000010.ckpt")
    whole = (run.checkpoints / "step-00000010.ckpt").read_bytes()
    (run.checkpoints / "step-00000020.ckpt").write_bytes(whole[: len(whole) // 2])
    (run.checkpoints / ".step-00000030.ckpt.partial").write_bytes(whole)
    assert newest_checkpoint(run).name == "step-00000010.ckpt"
    assert "step-00000020.ckpt does not load" in capsys.readouterr().err


def test_a_checkpoint_that_brings_code_is_not_run(tmp_path: Path) -> None:
    import torch

    run = create_run(tmp_path, "one")

    class Code:
        def __reduce__(self):  # noqa: ANN204
            return os.mkdir, (str(tmp_path / "it ran"),)

    torch.save({"weights": Code()}, run.checkpoints / "step-00000001.ckpt")
    with pytest.raises(UserError, match="no checkpoint"):
        newest_checkpoint(run)
    assert not (tmp_path / "it ran").exists()


def test_wandb_is_offline_unless_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    assert wandb_mode(None) == "offline"
    assert wandb_mode("online") == "online"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert wandb_mode(None) == "off"
    assert wandb_mode("offline") == "offline", "the command line is nearer than the environment"


def test_a_run_goes_on_where_wandb_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import wandb

    def broken(**_: object) -> None:
        raise RuntimeError("no service\nat all")

    monkeypatch.setattr(wandb, "init", broken)
    assert wandb_logger(Run(tmp_path), "offline", {}) is None
    assert capsys.readouterr().err == "wandb did not start (no service); going on without it\n"


def test_a_summary_is_json(tmp_path: Path) -> None:
    run = create_run(tmp_path, "one")
    run.update_summary(rankme=1.5)
    assert json.loads((run.path / "summary.json").read_text()) == {"rankme": 1.5}


def test_a_run_that_fails_before_its_first_step_leaves_its_name_free(tmp_path: Path) -> None:
    for error in (UserError, RuntimeError, KeyboardInterrupt, SystemExit):
        run = create_run(tmp_path, "one")
        with pytest.raises(error), only_writer(run):
            run.config.write_text("seed: 0\n")
            run.metrics.write_text("step,loss\n")
            raise error
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("step", "said"),
    [
        ("metrics.csv", "has no checkpoint yet"),  # there is nothing to resume from
        ("checkpoints/step-00000003.ckpt", "continue it with --resume"),
    ],
)
def test_a_run_that_fails_after_a_step_keeps_it(tmp_path: Path, step: str, said: str) -> None:
    run = create_run(tmp_path, "one")
    with pytest.raises(RuntimeError), only_writer(run):
        (run.path / step).write_text("step,loss\n3,1\n")
        raise RuntimeError
    assert (run.path / step).is_file()
    with pytest.raises(UserError, match=said):
        create_run(tmp_path, "one")


def test_a_folder_that_a_killed_start_has_left_is_not_said_to_resume(tmp_path: Path) -> None:
    create_run(tmp_path, "one")
    with pytest.raises(UserError, match="has no step yet; .* remove the folder"):
        create_run(tmp_path, "one")


def test_a_folder_appears_whole_so_that_a_kill_leaves_the_name_free(tmp_path: Path) -> None:
    if (child := os.fork()) == 0:
        create_run(tmp_path, "one", lambda name: os._exit(9))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    run = create_run(tmp_path, "one", lambda name: f"name: {name}\n")
    assert run.config.read_text() == "name: one\n" and run.checkpoints.is_dir()
    with pytest.raises(UserError, match="no checkpoint yet; .* begin it again with --resume"):
        create_run(tmp_path, "one")


def test_a_run_begins_again_where_no_checkpoint_can_have_been(tmp_path: Path) -> None:
    run = create_run(tmp_path, "one", lambda name: "")
    run.metrics.write_text("step,loss\n3,1\n")
    (run.checkpoints / ".step-00000005.ckpt.partial").write_text("half")
    assert can_begin(run)
    (run.checkpoints / "step-00000005.ckpt").write_text("whole")
    assert not can_begin(run)
    (run.checkpoints / "step-00000005.ckpt").unlink()
    (run.path / "summary.json").write_text("{}")
    assert not can_begin(run), "its checkpoints were removed, and its result is there"


def test_a_run_that_begins_again_and_fails_before_its_first_step_stays(tmp_path: Path) -> None:
    run = create_run(tmp_path, "one", lambda name: "seed: 0\n")
    with pytest.raises(KeyboardInterrupt), only_writer(open_run(run.path)):
        raise KeyboardInterrupt
    assert can_begin(run)
