"""A decoder that hangs or crashes while a clip is read costs the file, and nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from jepa_video.data import reader
from jepa_video.data.clips import ClipSettings, Dropped, VideoClips
from jepa_video.data.decode import DecodeError, DecoderLost, PastEnd, has_decord, read_clip
from jepa_video.data.loader import ClipLoader
from tests.videos import write_clip

ROOT = Path(reader.__file__).parents[2]
FAULTY = """
import os, time
from jepa_video.data import reader
real = reader.read_clip
def faulty(path, places, *, backend):
    name = os.path.basename(path)
    if "decord" not in name or backend == "decord":
        if "hang" in name: time.sleep(600)
        if "crash" in name: os.abort()
        if "slow" in name: time.sleep(1)
    return real(path, places, backend=backend)
reader.read_clip = faulty
reader.main()
"""
SHORT = ClipSettings(frames=4, stride=2, size=32)


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], int]]:
    """A helper whose decoders fail on some names; gives the number of its process."""
    monkeypatch.setattr(reader, "_CODE", FAULTY)
    monkeypatch.setattr(reader, "_helper", None)

    def pid() -> int:
        assert reader._helper is not None and reader._helper[1]._process is not None
        return reader._helper[1]._process.pid

    yield pid
    reader._close()


def test_frames_come_back_as_they_are(tmp_path: Path) -> None:
    path = str(write_clip(tmp_path / "a.mp4", 40))
    for backend in ("auto", "pyav"):
        apart = read_clip(path, [7, 3, 3], backend=backend, timeout=30)
        assert np.array_equal(apart, read_clip(path, [7, 3, 3], backend=backend))
    assert reader.info_of(path, 30).frames == 40


def test_a_path_is_meant_from_the_folder_that_its_reader_is_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The helper stays in the folder that it was started from; a notebook does not."""
    for frames in (20, 30):
        (tmp_path / str(frames)).mkdir()
        write_clip(tmp_path / str(frames) / "a.mp4", frames)
    for frames in (20, 30):
        monkeypatch.chdir(tmp_path / str(frames))
        assert reader.info_of("a.mp4", 30).frames == frames
        assert len(read_clip("a.mp4", [frames - 1], timeout=30)) == 1
    with pytest.raises(DecodeError, match=r"^b\.mp4: missing"):
        reader.info_of("b.mp4", 30)


def test_faults_of_files_come_back_in_words(tmp_path: Path) -> None:
    path = str(write_clip(tmp_path / "a.mp4", 40))
    with pytest.raises(PastEnd, match="frame 40 asked of a video of 40 frames"):
        read_clip(path, [40], timeout=30)
    noise = tmp_path / "noise.mp4"
    noise.write_bytes(bytes(range(256)) * 40)
    with pytest.raises(DecodeError, match="unreadable: ") as told:
        reader.info_of(str(noise), 30)
    assert not isinstance(told.value, DecoderLost)


def test_a_crash_and_a_hang_cost_the_file(tmp_path: Path, faulty: Callable[[], int]) -> None:
    good = str(write_clip(tmp_path / "good.mp4", 20))
    truth = read_clip(good, [5])
    for name, words in (("crash", "decoder crashes on it"), ("hang", "decoder hangs")):
        path = str(write_clip(tmp_path / f"{name}.mp4", 20))
        start = time.monotonic()
        with pytest.raises(DecoderLost, match=words):
            read_clip(path, [5], timeout=1.0)
        assert time.monotonic() - start < 30
        assert np.array_equal(read_clip(good, [5], timeout=30), truth), "another helper goes on"


@pytest.mark.parametrize("workers", [0, 2])
def test_a_crash_in_the_middle_of_training_drops_the_file(
    workers: int, tmp_path: Path, faulty: Callable[[], int]
) -> None:
    """Each of them passed the examination; a worker that died would end the run."""
    for name in ("a", "b", "crash", "d"):
        write_clip(tmp_path / f"{name}.mp4", 20)
    clips = VideoClips(str(tmp_path), SHORT, unreadable_limit=0.5)
    assert len(clips) == 4 and not len(clips.unreadable)
    loader = ClipLoader(clips, batch_size=2, workers=workers)
    for _ in range(2):
        assert [i for batch in loader for i in batch["index"].tolist()] == [0, 1, 3]
    assert loader.ledger.rows() == [(str(tmp_path / "crash.mp4"), "decoder crashes on it")]


def test_what_only_decord_cannot_bear_is_read_by_pyav(
    tmp_path: Path, faulty: Callable[[], int]
) -> None:
    if not has_decord():
        pytest.skip("decord has no wheel for this machine")
    write_clip(tmp_path / "decord_crash.mp4", 20)
    clips = VideoClips(str(tmp_path), SHORT)
    assert not isinstance(clips[(0, 3)], Dropped)
    before = faulty()
    assert not isinstance(clips[(0, 4)], Dropped)
    assert faulty() == before, "the next clip of it is not given to decord any more"


def test_an_answer_that_nobody_waited_for_is_not_taken_for_the_next(
    tmp_path: Path, faulty: Callable[[], int]
) -> None:
    """As where a cell of a notebook is interrupted and run again."""
    slow, good = (str(write_clip(tmp_path / f"{name}.mp4", 20)) for name in ("slow", "good"))
    reader.info_of(good, 30)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with pytest.raises(KeyboardInterrupt):
            read_clip(slow, [0], timeout=30)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert np.array_equal(read_clip(good, [7], timeout=30), read_clip(good, [7]))


def test_a_helper_does_not_hear_what_stops_a_run(tmp_path: Path, faulty: Callable[[], int]) -> None:
    """Ctrl-C and SLURM's SIGTERM come to it as well, and the step that is begun needs it."""
    path = str(write_clip(tmp_path / "a.mp4", 20))
    read_clip(path, [1], timeout=30)
    helper = faulty()
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(helper, number)
        time.sleep(0.1)
        read_clip(path, [2], timeout=30)
        assert faulty() == helper


ORPHAN = """
import sys, threading, time
from jepa_video.data import reader
path, reader._CODE = sys.argv[1:]
reader.info_of(path, 30)
threading.Thread(target=reader.frames_of, args=(path, [0], "pyav", 600), daemon=True).start()
time.sleep(0.5)
print(reader._helper[1]._process.pid, flush=True)
time.sleep(600)
"""


def test_a_helper_that_hangs_ends_with_a_run_that_is_killed(tmp_path: Path) -> None:
    path = str(write_clip(tmp_path / "hang.mp4", 20))
    command = [sys.executable, "-c", ORPHAN, path, FAULTY]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        helper = int(run.stdout.readline())
        os.kill(helper, 0)
        run.kill()
    end = time.monotonic() + 30
    while time.monotonic() < end and _lives(helper):
        time.sleep(0.1)
    assert not _lives(helper)


def _lives(pid: int) -> bool:
    """Whether a process runs; one that ended and that nobody has asked about does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rsplit(")", 1)[1].split()[0] != "Z"
