"""No file may hang or kill a run: what a decoder cannot bear is found out in another process."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from jepa_video.data import check, examine
from jepa_video.data.check import check_files
from jepa_video.data.decode import DecodeError, has_decord, video_info
from tests.videos import SHARED, write_clip, write_sound


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("JEPA_VIDEO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def cut(path: Path, share: float) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    return path


@pytest.fixture
def zoo(tmp_path: Path) -> dict[str, Path]:
    """One file of each fault, and a good one."""
    long = {"options": {"g": "5"}}
    front = {**long, "muxer": {"movflags": "faststart"}}
    files = {
        "": write_clip(tmp_path / "good.mp4"),
        "missing": tmp_path / "missing.mp4",
        "empty": tmp_path / "empty.mp4",
        "not a video (a text file)": tmp_path / "text.mp4",
        "not a video (a Git LFS pointer": tmp_path / "pointer.mp4",
        "not a video (a folder)": tmp_path / "folder.mp4",
        "not a video (no regular file)": tmp_path / "pipe.mp4",
        "audio only": write_sound(tmp_path / "sound.mp4"),
        "unreadable": tmp_path / "noise.mp4",
        "truncated (the index": write_clip(tmp_path / "no_index.mp4"),
        "truncated (": cut(write_clip(tmp_path / "mp4.mp4", **front), 0.7),  # type: ignore[arg-type]
        "truncated  (": cut(write_clip(tmp_path / "mkv.mkv", **long), 0.7),  # type: ignore[arg-type]
        "truncated   (": cut(write_clip(tmp_path / "avi.avi", codec="mpeg4"), 0.7),
    }
    index = files["truncated (the index"]
    index.write_bytes(index.read_bytes().split(b"moov")[0][:-4])
    files["empty"].touch()
    files["not a video (a text file)"].write_text("Übung: no frames here\n" * 60)
    files["not a video (a Git LFS pointer"].write_text("version https://git-lfs.github.com/spec/v1")
    files["not a video (a folder)"].mkdir()
    os.mkfifo(files["not a video (no regular file)"])
    files["unreadable"].write_bytes(bytes(range(256)) * 40)
    return files


@pytest.mark.parametrize("level", ["quick", "full"])
def test_each_fault_has_its_words(level: str, zoo: dict[str, Path]) -> None:
    found = check_files([str(path) for path in zoo.values()], level, workers=1)
    for words, path in zoo.items():
        finding = found[str(path)]
        assert finding.reason.startswith(" ".join(words.split())), (path, finding.reason)
        assert (finding.info is None) == bool(words)
    good = found[str(zoo[""])].info
    assert good is not None and (good.frames, good.width, good.height) == (40, 128, 64)
    assert good.fps == pytest.approx(25)


def test_every_real_file_gets_an_answer() -> None:
    folder = SHARED / "decode"
    if not folder.is_dir():
        pytest.skip(f"no {folder}: set JEPA_VIDEO_TEST_DATA")
    found = check_files([str(p) for p in sorted(folder.rglob("*")) if p.is_file()], "quick")
    reasons = {Path(p).name: f.reason for p, f in found.items() if f.info is None}
    assert len(found) - len(reasons) > 40
    assert reasons["result.webm"] == "empty"
    assert reasons["sine_mono_s16.wav"] == "audio only"
    assert reasons["clip_h264.mp4"].startswith("not a video (a Git LFS pointer")


HANGS = """
import os, time
from jepa_video.data import examine
real = examine.read_clip
def faulty(path, places, *, backend):
    name = os.path.basename(path)
    if "decord" not in name or backend == "decord":
        if "hang" in name: time.sleep(60)
        if "crash" in name: os.abort()
    return real(path, places, backend=backend)
examine.read_clip = faulty
examine.main()
"""


def test_hangs_and_crashes_cost_a_file_and_not_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "_CODE", HANGS)
    names = ["a", "hang", "b", "crash", "c", "decord_hang", "decord_crash", "d"]
    files = {name: str(write_clip(tmp_path / f"{name}.mp4", 12)) for name in names}
    start = time.monotonic()
    found = check_files(list(files.values()), "full", timeout=1.5, workers=2, memory="zoo")
    assert time.monotonic() - start < 40
    for name in "abcd":
        info = found[files[name]].info
        assert info is not None and info.backend == ("decord" if has_decord() else "pyav")
    assert found[files["hang"]].reason == "decoder hangs (no answer in 1.5 s)"
    assert found[files["crash"]].reason == "decoder crashes on it"
    for name in ("decord_hang", "decord_crash"):  # decord cannot bear them; PyAV can
        info = found[files[name]].info
        assert info is not None and info.backend == "pyav"
    # A hang may have been a busy disk: it is not remembered against the file.
    monkeypatch.undo()
    monkeypatch.setenv("JEPA_VIDEO_CACHE", str(tmp_path / "cache"))
    again = check_files(list(files.values()), "full", workers=1, memory="zoo")
    assert all(finding.info is not None for finding in again.values())


def test_an_examiner_that_cannot_start_is_said_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "_CODE", "raise SystemExit(3)")
    with pytest.raises(RuntimeError, match="does not start"):
        check_files([str(write_clip(tmp_path / "a.mp4", 4))], "quick")


def test_answers_are_remembered_until_the_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, bad = write_clip(tmp_path / "good.mp4"), tmp_path / "bad.mp4"
    bad.touch()
    files = [str(good), str(bad)]
    first = check_files(files, "full", memory="set")

    asked: list[str] = []
    real = check._Examiner.examine

    def spy(self: check._Examiner, path: str) -> object:
        asked.append(path)
        return real(self, path)

    monkeypatch.setattr(check._Examiner, "examine", spy)
    assert check_files(files, "quick", memory="set") == first  # full answers serve a quick question
    assert asked == []
    write_clip(good, 20)
    os.utime(good, ns=(1, 1))
    second = check_files(files, "full", memory="set")
    assert asked == [str(good)]
    info = second[str(good)].info
    assert info is not None and info.frames == 20
    assert check_files(files, "full", memory="another set") == second
    assert asked == [str(good), str(good), str(bad)]


def test_a_quick_answer_is_not_enough_for_a_full_question(tmp_path: Path) -> None:
    """The frames of this file are noise behind a sound index: only decoding shows it."""
    path = write_clip(
        tmp_path / "noise.mp4", 60, options={"g": "1"}, muxer={"movflags": "faststart"}
    )
    content = bytearray(path.read_bytes())
    start = content.index(b"mdat") + 4
    first = int(0.3 * (len(content) - start))
    for place in range(start + first, len(content)):
        content[place] = 0
    path.write_bytes(content)
    assert check_files([str(path)], "quick", memory="set")[str(path)].info is not None
    assert check_files([str(path)], "full", memory="set")[str(path)].info is None


def test_a_cache_that_cannot_be_written_costs_only_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("JEPA_VIDEO_CACHE", str(tmp_path / "file" / "below"))
    path = str(write_clip(tmp_path / "a.mp4", 4))
    assert check_files([path], "quick", memory="set")[path].info is not None


def test_promised_frames_that_do_not_decode(tmp_path: Path) -> None:
    """AVI files that promise some frames too many are common: the count is what decodes."""
    path = str(write_clip(tmp_path / "promises.avi", 60, codec="mpeg4"))
    info = video_info(path)
    assert examine._inside(path, replace(info, frames=63)).frames == 60
    with pytest.raises(DecodeError, match=r"truncated \(60 of 90 frames decode\)"):
        examine._inside(path, replace(info, frames=90))
