"""Claims of what is measured beside success: each is its formula, and it is in the table."""

from __future__ import annotations

import json

import numpy as np
import pytest

from jepa_video.agent.behaviour import effort, places, refuse_behaviour, zone
from jepa_video.agent.task import Zone
from jepa_video.cli import main
from jepa_video.envs import make_batch
from jepa_video.errors import UserError

BOXES = (Zone((8.0, 8.0), (12.0, 12.0), 5.0), Zone((30.0,), (64.0,)))


def test_each_measure_is_its_formula():
    states = np.array([[9, 9], [7.9, 9], [10, 10], [10.5, 9], [40, 3], [9, 9]], np.float32)
    actions = np.array([[1, 0], [0.6, 0.8], [0, 0], [0, 0.5], [0, 0]], np.float32)
    assert effort(states, actions, ()) == pytest.approx((1 + 1 + 0.25) / 10)
    assert places(states, actions, ()) == 3  # (2, 2), (1, 2) and (10, 0)
    # Where it began it had no choice; a margin is outside; a box of one number has no y.
    assert zone(states, actions, BOXES) == pytest.approx(4 / 5)
    assert zone(states, actions, BOXES[1:]) == pytest.approx(1 / 5)


@pytest.mark.parametrize(
    ("name", "env", "told"),
    [
        ("speed", "TwoRooms", "--tell has no 'speed'; it has effort, places, zone"),
        ("places", "Pendulum", "states that begin with x and y, not those of Pendulum"),
        ("zone", "TwoRooms", "--tell zone needs boxes: give --zones or --watched"),
    ],
)
def test_what_cannot_be_measured_is_said(name, env, told):
    with pytest.raises(UserError, match=told):
        refuse_behaviour([name], make_batch(env, 1), ())


def test_the_command_tells_them_of_whoever_plays(tmp_path):
    words = "agent eval --env TwoRooms --policy random --episodes 6 --batch 3 --budget 20"
    box = ["--watched", "[{low: [0, 0], high: [64, 64]}]", "--tell", "effort,places,zone"]
    assert main([*words.split(), *box, "--out", str(tmp_path / "out")]) == 0
    told = json.loads((tmp_path / "out" / "summary.json").read_text())
    rows = {row["name"]: row for row in told["rows"]}
    assert told["measures"][-3:] == ["effort", "places", "zone"]
    assert {row["zone"]["value"] for row in rows.values()} == {1.0}  # all of it is the box
    random, straight = rows["random"], rows["straight"]
    assert random["effort"]["low"] < random["effort"]["value"] < straight["effort"]["value"] < 0.51
    assert random["places"]["value"] > 1
    assert {gap["measure"] for gap in told["differences"]} >= {"effort", "places", "zone"}
    heads = (tmp_path / "out" / "episodes.csv").read_text().splitlines()[0]
    assert heads.endswith(",effort,places,zone")
    page = (tmp_path / "out" / "report.html").read_text()
    assert "time in zones" in page
    wide = ["--tell", "zone", "--watched", "[{low: [0, 0, 0], high: [9, 9, 9]}]"]
    for wrong in (wide, ["--watched", "[{low: [0], high: [9]}]"]):
        assert main([*words.split(), *wrong, "--out", str(tmp_path / "no")]) == 2
    assert main([*words.split(), "--tell", "zone", "--out", str(tmp_path / "no")]) == 2
    assert not (tmp_path / "no").exists()
