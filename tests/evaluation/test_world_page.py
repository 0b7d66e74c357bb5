"""Claims about the pages of `world` and `agent fit`, and about pictures of what is foretold."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from jepa_video.agent.collect import collect
from jepa_video.cli import main
from jepa_video.data.episode_module import EpisodeDataModule
from jepa_video.evaluation.album import load_album
from jepa_video.evaluation.attempt import attempt
from jepa_video.evaluation.report import write_report
from jepa_video.evaluation.world_pictures import (
    FOLDER,
    PATHS,
    choose_windows,
    draw_foresight,
    painter,
)
from jepa_video.training.world_model import WorldModel
from tests.agent.tiny_agent import world
from tests.evaluation.test_report import Page, write_csv

WORLD = {
    "kind": "world",
    "status": "finished",
    "steps": 40,
    "seed": 0,
    "env": "TwoRooms",
    "windows_per_second": 120.5,
    "data_wait": 0.04,
    "rankme": 9.97,
    "state_std": 0.78,
    "energy_over_copy": [0.25, 0.125, 0.0625],
    "reward_explained": 0.5,
    "reach": 0.27,
    "read_error": 1.4,
    "read_error_foretold": [1.5, 1.75, 2.5],
    "read_error_copied": [1.8, 6.0, 13.0],
    "verdict": "healthy: The states fill 10.0 of 32 directions.",
}
AGENT = {
    "kind": "agent",
    "status": "finished",
    "steps": 6000,
    "env": "TwoRooms",
    "episodes": 2732,
    "reach": 0.27,
    "doubt": 0.045,
    "states_per_second": 3619.0,
    "cost": {"goal": 1.0, "effort": 0.5},
}
WORLD_CONFIG = "model:\n  dynamics:\n    class_path: V\ndata:\n  root: rooms\n"
AGENT_CONFIG = "checkpoint: runs/tr0\nlearn:\n  source: plans\ndata:\n  root: rooms\n"


def fabricate(folder: Path, summary: dict | None, config: str) -> Path:
    """What a run leaves, less its weights."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(config)
    if summary is not None:
        (folder / "summary.json").write_text(json.dumps(summary))
    rows: list[dict[str, object]] = [
        {"step": step, "loss": 9 - step / 10, "energy": 1 / (step + 1), "critic": 0.1}
        | ({"energy_over_copy/3": 0.4, "rankme/states": 8.5, "read_error/now": 2.0})
        for step in range(0, 40, 10)
    ]
    write_csv(folder / "metrics.csv", rows)
    write_csv(folder / "unreadable.csv", [{"path": "a.mp4", "reason": "no frame decodes"}])
    return folder


def page_of(run: Path) -> Page:
    return Page(write_report(run).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> EpisodeDataModule:
    """Held-out windows of twelve short episodes."""
    root = tmp_path_factory.mktemp("episodes") / "rooms"
    collect("TwoRooms", "explore", 24, root, settings={"budget": 12})
    data = EpisodeDataModule(str(root), frames=6, batch_size=4, val_share=0.4)
    data.setup()
    return data


def knowing(data: EpisodeDataModule) -> WorldModel:
    """A world model whose state is the true one: every readout is right, nothing moves."""
    model = world(told=data.facts).eval()
    width = model.state.width

    def encode(video, own, scene=None):
        return torch.nn.functional.pad(own, (0, width - own.shape[-1]))[:, :, None]

    model.encode = encode  # type: ignore[method-assign]
    with torch.no_grad():
        line = model.readout.maps["state"]
        line.weight.copy_(torch.eye(2, width))
        line.bias.zero_()
    return model


def test_the_page_of_a_world_model_is_whole_and_asks_for_nothing(tmp_path):
    page = page_of(fabricate(tmp_path / "runs" / "w", WORLD, WORLD_CONFIG))
    assert page.faults == []
    anchors = {link[1:] for link in page.loads if link.startswith("#")}
    assert {"result", "future", "curves", "collapse", "use"} <= anchors <= page.ids
    assert "report of a world model run" in page.text
    assert (
        "what is foretold 3 steps ahead has 6.2 % of the error of standing still; one step ahead "
        "25.0 %. The true state that is read off it is 2.50 away from the truth, in its own unit; "
        "1.40 off states that are not foretold, and 13.0 where nothing moves."
    ) in page.text
    assert "No sign of collapse. The states fill 10.0 of 32 directions." in page.text
    assert "While it trained" in page.text


def test_it_says_how_to_load_it_once_there_is_something_to_load(tmp_path):
    run = fabricate(tmp_path / "runs" / "w", WORLD, WORLD_CONFIG)
    assert "nothing to load yet" in page_of(run).text
    (run / "world").mkdir()
    (run / "world" / "config.json").write_text("{}")
    text = page_of(run).text
    assert 'load_world("runs/w")' in text
    assert "jepa-video agent fit --checkpoint runs/w --data.root rooms" in text


@pytest.mark.parametrize(("config", "verb"), [(WORLD_CONFIG, "world"), (AGENT_CONFIG, "agent fit")])
def test_a_run_that_was_killed_is_known_by_its_config(tmp_path, config, verb):
    page = page_of(fabricate(tmp_path / "runs" / "k", None, config))
    assert page.faults == [] and "the run has not finished" in page.text
    assert f"jepa-video {verb} --resume runs/k" in page.text


def test_the_page_of_an_agent_says_what_it_is_made_of_and_how_to_play_it(tmp_path):
    run = fabricate(tmp_path / "runs" / "a", AGENT, AGENT_CONFIG)
    (run / "agent").mkdir()
    (run / "agent" / "config.json").write_text("{}")
    page = page_of(run)
    assert page.faults == [] and "report of an agent fit run" in page.text
    for words in (
        "6,000 steps from the states of 2,732 episodes",
        "runs/tr0",
        "1 goal, 0.5 effort",
        "--env TwoRooms --policy mode1,mode2,auto --checkpoint runs/a",
        "Critic: squared error",
    ):
        assert words in page.text, words


def test_a_summary_with_other_things_in_it_costs_what_it_should_show_alone(tmp_path):
    odd = {**WORLD, "energy_over_copy": "<b>", "read_error": None, "env": "<script>"}
    run = fabricate(tmp_path / "runs" / "w", odd, WORLD_CONFIG)
    (run / FOLDER).mkdir()
    (run / FOLDER / PATHS).write_text('{"names": ["x"], "windows": [{"true"')
    text = write_report(run).read_text(encoding="utf-8")
    assert "<script" not in text and Page(text).faults == []
    assert "Damaged file." in text and "nothing says how far" in text


def test_the_verb_writes_the_page(tmp_path, capsys):
    run = fabricate(tmp_path / "runs" / "w", WORLD, WORLD_CONFIG)
    assert main(["report", str(run)]) == 0
    assert capsys.readouterr().out.strip() == str(run / "report.html")


def test_a_world_paints_what_was_recorded_and_no_other_layout(rooms):
    one = rooms.val.episode(0)
    paint, other = painter(rooms.facts, one.seed), painter(rooms.facts, one.seed + 1)
    assert paint is not None and other is not None
    assert (paint(one.states) == one.frames).all()
    assert (other(one.states) != one.frames).any()
    assert painter(rooms.facts, None) is None


def test_windows_are_drawn_from_the_least_error_to_the_largest(rooms, tmp_path):
    model, batches = knowing(rooms), list(rooms.held_out(30))
    draw_foresight(model, batches, rooms.val, tmp_path)
    told = json.loads((tmp_path / PATHS).read_text())
    errors = [window["error"] for window in told["windows"]]
    assert len(errors) == 4 and errors == sorted(errors) and errors[-1] > errors[0]
    moved = [
        (batch["state"][:, -1] - batch["state"][:, 0]).norm(dim=1) for batch in batches
    ]  # what a model in which nothing moves is off by
    assert errors[-1] == pytest.approx(float(torch.cat(moved).max()), rel=1e-5)
    assert errors[0] == pytest.approx(float(torch.cat(moved).min()), rel=1e-5, abs=1e-6)
    for window in told["windows"]:
        assert np.allclose(window["read"], window["true"], atol=1e-5)
        assert len(window["foretold"]) == 5 and window["known"] == 1
    (plate,) = load_album(tmp_path)
    assert len(plate.rows) == 4 and all((tmp_path / row[0].file).exists() for row in plate.rows)
    run = fabricate(tmp_path / "runs" / "w", WORLD, WORLD_CONFIG)
    tmp_path.joinpath("runs/w", FOLDER).symlink_to(tmp_path)
    page = page_of(run)
    assert len(page.images) == 8 and "States that are read off" in page.text


def test_scenes_that_no_environment_paints_are_told_in_numbers(rooms, tmp_path):
    model, batches = knowing(rooms), list(rooms.held_out(6))
    dark = [{**batch, "video": 255 - batch["video"]} for batch in batches]
    draw_foresight(model, dark, rooms.val, tmp_path)
    (plate,) = load_album(tmp_path)
    assert plate.rows == () and "numbers" in plate.caption
    assert not list(tmp_path.glob("*.webp")) and (tmp_path / PATHS).exists()


def test_of_few_windows_each_is_shown_once(rooms):
    one = {name: part[:2] for name, part in next(rooms.held_out(6)).items()}
    assert sorted(choose_windows(knowing(rooms), [one])) == [0, 1]


def test_a_fault_is_told_and_passed_over(capsys):
    attempt("the pictures", lambda: 1 / 0)
    assert "the pictures could not be made (ZeroDivisionError" in capsys.readouterr().err


def drawings(run):
    """What the charts of a page are called for those who do not see them."""
    return " | ".join(re.findall('aria-label="([^"]*)"', (run / "report.html").read_text()))


def test_the_page_of_an_agent_tells_of_its_rounds(tmp_path):
    row = dict(round=0, env_steps=0, gathered=0, gathered_solved=0.0, crashes=0, solved=0.25)
    row |= dict(low=0.1, high=0.4, total=0.25)
    later = row | dict(round=1, env_steps=9600, gathered=192, gathered_solved=0.875, crashes=2)
    later |= dict(solved=0.5)
    told = AGENT | {"rounds": [row, later], "memory_steps": 1000, "cost": {"goal": 1.0}}
    page = page_of(fabricate(tmp_path / "runs" / "a", told, AGENT_CONFIG))
    assert page.faults == []
    drawn = "goes from 0.250 at environment step 1,000 to 0.500 at environment"
    assert f"Share that mode 1 solves: mode 1 {drawn}" in drawings(tmp_path / "runs" / "a")
    paid = [row | {"total": -9.0, "error": 0.5}, later | {"total": -3.0, "error": 0.5}]
    other = told | {"rounds": paid, "cost": {"reward": 1.0}, "settings": {"repeat": 4}}
    page_of(fabricate(tmp_path / "runs" / "c", other, AGENT_CONFIG))
    drawn = "goes from -9.00 at environment step 4,000 to -3.00 at environment step 42,400"
    assert f"Return of mode 1: mode 1 {drawn}" in drawings(tmp_path / "runs" / "c")
    for words in ("9,600", "192", "87.5%", "25.0% (10.0% to 40.0%)", "50.0%", "crashed 2 times"):
        assert words in page.text, words
    without = page_of(fabricate(tmp_path / "runs" / "b", AGENT, AGENT_CONFIG))
    assert "learned from memory alone" in without.text
