"""The embedded set shows what its labels say, and a single frame does not tell the motion."""

from __future__ import annotations

import csv
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

from jepa_video.data import synthetic
from jepa_video.data.encode import write_video
from jepa_video.data.once import cache_folder
from jepa_video.data.scenes import (
    DIRECTIONS,
    EVENTS,
    SHAPES,
    SPEEDS,
    _scene,
    draw_labels,
    render,
)
from jepa_video.data.synthetic import (
    SyntheticSettings,
    ensure_synthetic,
    write_synthetic,
)
from jepa_video.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
SMALL = SyntheticSettings(videos_train=7, videos_val=5, frames=8, size=32)
# Nothing but the shapes over one colour: what is drawn can be measured.
CLEAN = SyntheticSettings(pan=0.0, distractors=(0, 0), texture=0.0, contrast=(0.4, 0.45))
LONG = replace(CLEAN, frames=40)  # the props of the event are gone by frame 36


def labels(**changes: str) -> dict[str, str]:
    row = {"shape": "circle", "direction": "E", "speed": "slow", "number": "one"}
    return {**row, "event": "cruise", "fork": "", **changes}


def visible(frames: np.ndarray) -> np.ndarray:
    """What differs from the one background colour of a clean clip, bool `T S S`."""
    background = np.median(frames, axis=(0, 1, 2))
    return np.abs(frames.astype(float) - background).sum(-1) > 12


def tracked(
    row: dict[str, str], frames: list[int], first: int = 0, settings: SyntheticSettings = CLEAN
) -> np.ndarray:
    """Centre `x, y` of a shape in the given frames of the first clip that shows it whole there."""
    y, x = np.mgrid[:64, :64]
    for index in range(first, first + 100):
        seen = visible(render(settings, row, "train", index))[frames]
        edge = seen[:, [0, -1]].any() or seen[:, :, [0, -1]].any()
        if seen.any((1, 2)).all() and not edge:
            mass = seen.sum((1, 2))
            return np.stack([(seen * x).sum((1, 2)) / mass, (seen * y).sum((1, 2)) / mass], 1)
    raise AssertionError("no clip shows the whole shape in these frames")


def heading(move: np.ndarray) -> float:
    return float(np.rad2deg(np.arctan2(-move[1], move[0])))


def apart(a: float, b: float) -> float:
    return abs((a - b + 180) % 360 - 180)


def decode(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        frames = container.decode(video=0)
        return np.stack([frame.to_ndarray(format="rgb24") for frame in frames])


def test_direction_and_speed_are_what_is_drawn() -> None:
    for i, (direction, speed) in enumerate(itertools.product(DIRECTIONS, SPEEDS)):
        path = tracked(labels(direction=direction, speed=speed), [2, 12], first=100 * i)
        move = (path[1] - path[0]) / 10
        assert apart(heading(move), 45 * DIRECTIONS.index(direction)) < 12
        assert np.hypot(*move) == pytest.approx(SPEEDS[speed], rel=0.05)


@pytest.mark.parametrize(("way", "turn"), [("left", 45), ("right", -45)])
def test_fork_turns_by_45_degrees_to_the_labelled_side(way: str, turn: int) -> None:
    row = labels(event="fork", fork=way)
    path = tracked(row, [0, 5, 36, 39], settings=LONG)
    assert apart(heading(path[3] - path[2]) - heading(path[1] - path[0]), turn) < 6


def test_wall_throws_back_and_keeps_the_speed() -> None:
    for i in range(4):
        row = labels(event="bounce", direction="N", speed="medium")
        path = tracked(row, [0, 2, 36, 39], first=100 * i, settings=LONG)
        before, after = (path[1] - path[0]) / 2, (path[3] - path[2]) / 3
        assert before @ after < -0.5 * (before @ before)
        assert np.hypot(*after) == pytest.approx(np.hypot(*before), rel=0.1)


def test_pillar_hides_the_shape_and_lets_it_go_on_as_if_nothing_had_been() -> None:
    settings = SyntheticSettings()
    hidden = [
        render(settings, labels(event="occlusion", shape=shape), "val", 0) for shape in SHAPES[::3]
    ]
    same = (hidden[0] == hidden[1]).all((1, 2, 3))  # where one cannot tell a circle from a cross
    assert same[13:18].any() and not same[:3].any()
    path = tracked(labels(event="occlusion"), [0, 2, 36, 39], settings=LONG)
    steps = np.stack([path[1] - path[0], path[2] - path[1], path[3] - path[2]])
    steps /= np.array([[2], [34], [3]])
    assert np.abs(steps - steps.mean(0)).max() < 0.06


def test_number_of_shapes() -> None:
    settings = replace(CLEAN, radius=(4.5, 4.5))
    area = np.zeros(3)
    for i in range(24):
        clips = [
            visible(render(settings, labels(number=number), "train", i))
            for number in ("one", "two", "three")
        ]
        assert (clips[0] <= clips[1]).all() and (clips[1] <= clips[2]).all()
        area += [clip.sum() for clip in clips]
    assert np.round(area / area[0]).tolist() == [1, 2, 3]


def test_factors_are_balanced_and_none_predicts_another() -> None:
    rows = draw_labels(SyntheticSettings(events=EVENTS), "val")
    assert len(rows) == 900
    for a, b in itertools.combinations(["shape", "direction", "speed", "number", "event"], 2):
        cells = Counter((row[a], row[b]) for row in rows)
        expected = 900 / len(cells)
        assert max(abs(n - expected) for n in cells.values()) <= 0.22 * expected, (a, b)
    exact = Counter((row["direction"], row["speed"]) for row in rows)
    assert len(exact) == 24 and set(exact.values()) <= {37, 38}


def test_coin_is_fair_and_thrown_for_forks_alone() -> None:
    rows = draw_labels(SyntheticSettings(), "train")
    assert all((row["fork"] != "") == (row["event"] == "fork") for row in rows)
    coins = Counter(row["fork"] for row in rows if row["fork"])
    assert set(coins) == {"left", "right"} and abs(coins["left"] - coins["right"]) <= 1
    four = draw_labels(replace(SyntheticSettings(), fork_ways=4), "train")
    assert {row["fork"] for row in four} == {"", "way0", "way1", "way2", "way3"}


def test_nothing_before_the_turn_depends_on_the_coin(tmp_path: Path) -> None:
    """Not even in the compressed file: an encoder that looks ahead would leak the outcome."""
    clips = {}
    for way in ("left", "right"):
        frames = render(SyntheticSettings(), labels(event="fork", fork=way), "val", 5)
        write_video(tmp_path / f"{way}.mp4", frames, 8)
        clips[way] = (frames, decode(tmp_path / f"{way}.mp4"))
    for drawn, other in zip(clips["left"], clips["right"], strict=True):
        same = (drawn == other).all((1, 2, 3))
        assert same[:13].all()  # the turn is never before frame 13
        assert not same[-5:].any()


def thumbnails(pictures: list[np.ndarray]) -> np.ndarray:
    small = [p.astype(float).reshape(8, 4, 8, 4, -1).mean((1, 3)).ravel() for p in pictures]
    return np.stack(small)


def ridge_accuracy(x: np.ndarray, y: np.ndarray, classes: int) -> float:
    """Two thirds to train, one third to test."""
    cut = 2 * len(x) // 3
    x = (x - x[:cut].mean(0)) / (x[:cut].std(0) + 1e-6)
    kernel = x @ x[:cut].T
    targets = np.eye(classes)[y[:cut]] - 1 / classes
    weights = np.linalg.solve(kernel[:cut] + 300 * np.eye(cut), targets)
    return float(((kernel[cut:] @ weights).argmax(1) == y[cut:]).mean())


def test_one_frame_does_not_tell_the_direction() -> None:
    """Chance is 12.5 %, the bound 4 standard deviations above it."""
    settings = SyntheticSettings(videos_val=450, size=32)
    rows = draw_labels(settings, "val")
    y = np.array([DIRECTIONS.index(row["direction"]) for row in rows])
    clips = [render(settings, row, "val", i) for i, row in enumerate(rows)]
    for pick in (lambda clip: clip[0], lambda clip: clip[11], lambda clip: clip.mean(0)):
        accuracy = ridge_accuracy(thumbnails([pick(clip) for clip in clips]), y, 8)
        assert accuracy < 0.125 + 4 * np.sqrt(0.125 * 0.875 / 150)


def test_not_even_the_true_places_of_the_shapes_tell_the_direction_but_their_shift_does() -> None:
    """The same probe with the same labels finds the direction once the features hold motion."""
    settings = replace(CLEAN, videos_val=450, size=32, events=("cruise",))
    rows = draw_labels(settings, "val")
    y = np.array([DIRECTIONS.index(row["direction"]) for row in rows])
    masks = [visible(render(settings, row, "val", i)[[0, 6]]) for i, row in enumerate(rows)]
    first, sixth = np.stack(masks, 1)
    places = ridge_accuracy(thumbnails([*first]), y, 8)
    spectrum = np.fft.fft2(first).conj() * np.fft.fft2(sixth)
    shift = np.fft.fftshift(np.fft.ifft2(spectrum).real, axes=(1, 2))  # where the peak has moved
    moved = ridge_accuracy(thumbnails([*shift]), y, 8)
    print(f"direction from the places {places:.2f}, from the shift between two frames {moved:.2f}")
    assert places < 0.125 + 4 * np.sqrt(0.125 * 0.875 / 150)
    assert moved > 0.5


def test_events_happen_in_view() -> None:
    for i, event in enumerate(("bounce", "fork") * 4):
        way = "left" if event == "fork" else ""
        row = labels(direction=DIRECTIONS[i], speed="fast", event=event, fork=way)
        area = visible(render(CLEAN, row, "train", 40 + i)).sum((1, 2))
        assert area[13:17].min() > 0.35 * area.max()


def test_manifest_names_every_file_with_its_labels(tmp_path: Path) -> None:
    folder = write_synthetic(tmp_path / "set", SMALL, workers=1)
    for split, count in (("train", 7), ("val", 5)):
        with open(folder / f"{split}.csv") as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == count
        assert set(rows[0]) == {"path", "shape", "direction", "speed", "number", "event", "fork"}
        for i, row in enumerate(rows):
            drawn = render(SMALL, row, split, i).astype(float)
            stored = decode(folder / row["path"]).astype(float)
            assert stored.shape == (8, 32, 32, 3)
            assert np.abs(stored - drawn).mean() < 6  # colour has half the resolution in yuv420p


def test_same_bytes_whatever_the_number_of_processes(tmp_path: Path) -> None:
    sets = [write_synthetic(tmp_path / str(w), SMALL, workers=w) for w in (1, 2, 3)]
    files = [sorted(p.relative_to(s) for p in s.rglob("*") if p.is_file()) for s in sets]
    assert len(files[0]) == 7 + 5 + 3 and files[0] == files[1] == files[2]
    for name in files[0]:
        assert len({(s / name).read_bytes() for s in sets}) == 1
    other = write_synthetic(tmp_path / "seed", replace(SMALL, seed=1), workers=1)
    name = Path("videos/val/000000.mp4")
    assert (other / name).read_bytes() != (sets[0] / name).read_bytes()


def test_a_helper_that_dies_leaves_no_gap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(*_: object) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", "raise SystemExit(9)"])

    monkeypatch.setattr(synthetic, "_helper", dies)
    folder = write_synthetic(tmp_path / "set", SMALL, workers=2)
    assert len(list(folder.rglob("*.mp4"))) == 12


def test_second_call_finds_the_set_and_other_settings_get_another_folder(tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    folder = ensure_synthetic(
        SMALL, tmp_path, workers=1, progress=lambda a, b: steps.append((a, b))
    )
    assert steps[-1] == (12, 12) and steps == sorted(steps)
    before = (folder / "train.csv").stat().st_mtime_ns
    start = time.perf_counter()
    assert ensure_synthetic(SMALL, tmp_path) == folder
    assert time.perf_counter() - start < 0.05
    assert (folder / "train.csv").stat().st_mtime_ns == before
    assert ensure_synthetic(replace(SMALL, seed=2), tmp_path, workers=1) != folder


def test_killed_writer_leaves_nothing_that_looks_like_the_set(tmp_path: Path) -> None:
    settings = replace(SMALL, videos_train=300)
    code = (
        "import os\nfrom jepa_video.data.synthetic import *\n"
        "s = SyntheticSettings(videos_train=300, videos_val=5, frames=8, size=32)\n"
        "kill = lambda done, total: os.kill(os.getpid(), 9)\n"
        f"ensure_synthetic(s, {str(tmp_path)!r}, workers=1, progress=kill)"
    )
    writer = subprocess.run([sys.executable, "-c", code], cwd=ROOT)
    assert writer.returncode == -signal.SIGKILL
    assert list(tmp_path.rglob("*.mp4")), "the writer had written nothing when it was killed"
    assert not list(tmp_path.glob("synthetic-*"))
    folder = ensure_synthetic(settings, tmp_path, workers=1)
    assert len(list(folder.rglob("*.mp4"))) == 305
    # What the killed one left is kept while it may still be alive, and swept a day later.
    draft = next(tmp_path.glob(".draft-*"))
    os.utime(draft, (0, 0))
    ensure_synthetic(SMALL, tmp_path, workers=1)
    assert not list(tmp_path.glob(".draft-*"))


def test_two_writers_at_once_agree(tmp_path: Path) -> None:
    found: list[Path] = []
    writers = [
        threading.Thread(target=lambda: found.append(ensure_synthetic(SMALL, tmp_path, workers=1)))
        for _ in range(2)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len(found) == 2 and found[0] == found[1]
    assert [p.name for p in tmp_path.iterdir()] == [found[0].name]


def test_bad_settings_and_a_bad_cache_are_told_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="fork_ways"):
        SyntheticSettings(fork_ways=3)
    with pytest.raises(UserError, match="cruise, bounce, occlusion, fork"):
        SyntheticSettings(events=("explosion",))
    with pytest.raises(UserError, match="at least 8 frames"):
        SyntheticSettings(frames=2)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="JEPA_VIDEO_CACHE"):
        ensure_synthetic(SMALL, tmp_path / "file")


def test_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    monkeypatch.setenv("JEPA_VIDEO_CACHE", "/own")
    assert cache_folder() == Path("/own")
    monkeypatch.delenv("JEPA_VIDEO_CACHE")
    assert cache_folder() == Path("/x/jepa_video")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "jepa_video"


def test_only_the_chosen_events_occur_as_often_as_they_are_named() -> None:
    settings = replace(SyntheticSettings(), events=("cruise", "fork", "cruise"))
    rows = draw_labels(settings, "val")
    found = Counter(row["event"] for row in rows)
    assert set(found) == {"cruise", "fork"} and abs(found["fork"] - 300) <= 6
    for direction in DIRECTIONS:  # and in every direction alike
        events = Counter(row["event"] for row in rows if row["direction"] == direction)
        assert abs(events["cruise"] - 2 * events["fork"]) <= 24


def test_a_narrow_spread_keeps_events_in_the_middle():
    """Where the shapes are at the event: within the central square, and elsewhere too without."""
    for spread, most in ((0.25, 9.0), (1.0, 32.0)):
        settings = replace(CLEAN, spread=spread, turn=(0.5, 0.5))
        row = labels(event="fork", fork="left")
        shapes = [_scene(settings, row, "train", i)[1][2][0] for i in range(12)]
        far = max(np.abs(shape.centre[11:13].mean(0) - 31.5).max() for shape in shapes)
        assert far < most and (spread < 1 or far > 9.0)
    with pytest.raises(UserError, match="spread must be from 0 to 1"):
        SyntheticSettings(spread=2.0)


def test_without_colours_every_video_is_grey_on_the_same_grey():
    for settings, grey in ((replace(CLEAN, colours=0.0), True), (CLEAN, False)):
        frames = [render(settings, labels(), "train", i).astype(float) for i in range(6)]
        grounds = np.stack([np.median(video, axis=(0, 1, 2)) for video in frames])
        things = np.stack([video[visible(video)].mean(axis=0) for video in frames])
        assert (np.ptp(grounds, axis=0).max() == 0) == grey
        assert (np.ptp(things, axis=1).max() < 1) == grey
