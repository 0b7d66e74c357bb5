"""Features of many videos in one file: what it holds, that a stop changes nothing, what is refused.

The long test stops a run over 1,000 clips with SIGKILL, twice; the short one stops a small run
before each of the moves by which files appear.
"""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from jepa_video import VideoClips, VideoViT, save_encoder
from jepa_video.cli import main
from jepa_video.data.clips import ClipSettings
from jepa_video.data.manifest import Listing, Row
from jepa_video.data.synthetic import SyntheticSettings, write_synthetic
from jepa_video.data.transforms import centre
from jepa_video.errors import UserError
from jepa_video.evaluation import embed as embedding
from jepa_video.evaluation import embed_store
from jepa_video.evaluation.embed import EmbedSettings, embed, list_videos
from jepa_video.evaluation.embed_store import reading_lines
from jepa_video.evaluation.features import extract

ROOT = Path(__file__).parents[2]
SMALL = {"batch_size": 3, "shard": 4, "check": "none"}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JEPA_VIDEO_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = SyntheticSettings(videos_train=8, videos_val=3, frames=18, size=32)
    return write_synthetic(tmp_path_factory.mktemp("videos") / "set", settings, workers=1)


@pytest.fixture(scope="module")
def encoder() -> VideoViT:
    torch.manual_seed(0)
    return VideoViT(depth=1).eval()


def files(out: Path) -> dict[str, bytes]:
    """Every file that a finished run leaves beside `out`, and nothing else there."""
    return {path.name: path.read_bytes() for path in sorted(out.parent.iterdir())}


def test_rows_are_what_the_probes_see(videos: Path, encoder: VideoViT, tmp_path: Path) -> None:
    listing = list_videos(str(videos))
    out = tmp_path / "out" / "x.npy"
    meta = embed(encoder, listing, out, EmbedSettings(clips=3, **SMALL))
    paths = [row.path for row in listing.rows]
    clips = VideoClips(listing, ClipSettings(8, 2, size=32), clips=3, check="none")
    expected = extract(lambda video: encoder(centre(video, 32)), clips).x
    assert np.allclose(np.load(out), expected.numpy(), atol=1e-5)
    with out.with_suffix(".csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == paths
    assert [row["split"] for row in rows] == ["train"] * 8 + ["val"] * 3
    assert [row["shape"] for row in rows] == [row.labels["shape"] for row in listing.rows]
    assert meta["rows"] == meta["videos"] == 11 and meta["shape"] == [96]


def test_a_row_for_each_clip_and_all_tokens(
    videos: Path, encoder: VideoViT, tmp_path: Path
) -> None:
    listing = list_videos(str(videos))
    mean, clip, tokens = (tmp_path / f"{name}.npy" for name in ("mean", "clip", "tokens"))
    embed(encoder, listing, mean, EmbedSettings(clips=2, **SMALL))
    embed(encoder, listing, clip, EmbedSettings(clips=2, rows="clip", **SMALL))
    settings = EmbedSettings("tokens", clips=2, rows="clip", dtype="float16", **SMALL)
    assert embed(encoder, listing, tokens, settings)["shape"] == [64, 96]
    by_clip = np.load(clip)
    assert by_clip.shape == (22, 96)
    assert np.allclose(by_clip.reshape(11, 2, 96).mean(1), np.load(mean), atol=1e-6)
    assert np.load(tokens).dtype == np.float16
    assert np.allclose(np.load(tokens).astype(np.float32).mean(1), by_clip, atol=2e-3)
    with clip.with_suffix(".csv").open() as file:
        assert [row["clip"] for row in csv.DictReader(file)] == ["0", "1"] * 11


@pytest.mark.parametrize("suffix", [".npy", ".parquet"])
def test_a_stop_before_any_move_changes_nothing(
    suffix: str, videos: Path, encoder: VideoViT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    listing = list_videos(str(videos))
    listing.rows.insert(5, Row(str(tmp_path / "missing.mp4")))
    settings = EmbedSettings(**SMALL)
    undisturbed = tmp_path / "undisturbed" / f"x{suffix}"
    embed(encoder, listing, undisturbed, settings)
    expected = files(undisturbed)
    assert b"missing.mp4,missing" in expected["x.unreadable.csv"]

    real, moves = os.replace, 0

    def counted(source: str, target: str) -> None:
        nonlocal moves
        if moves == 0:
            raise KeyboardInterrupt
        moves -= 1
        real(source, target)

    monkeypatch.setattr(embed_store.os, "replace", counted)
    disturbed = tmp_path / "disturbed" / f"x{suffix}"
    for allowed in (0, 1, 2, 1, 2, 3, *range(9)):  # shards first; then each move of the assembly
        moves = allowed
        try:
            embed(encoder, listing, disturbed, settings)
            break
        except KeyboardInterrupt:
            assert not disturbed.with_suffix(".json").exists()
    assert allowed == (4 if suffix == ".npy" else 3), "it was not stopped before each move"
    assert files(disturbed) == expected


def test_a_finished_file_is_not_made_again(
    videos: Path, encoder: VideoViT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listing = list_videos(str(videos))
    meta = embed(encoder, listing, tmp_path / "x.npy", EmbedSettings(**SMALL))
    monkeypatch.setattr(embedding, "extract", None)
    assert embed(encoder, listing, tmp_path / "x.npy", EmbedSettings(**SMALL)) == meta


@pytest.mark.parametrize("finished", [False, True])
def test_another_identity_is_refused(
    finished: bool, videos: Path, encoder: VideoViT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listing, out = list_videos(str(videos)), tmp_path / "x.npy"
    settings = EmbedSettings(**SMALL)
    if not finished:
        monkeypatch.setattr(embed_store.Store, "assemble", lambda *_: {})
    embed(encoder, listing, out, settings)
    with pytest.raises(UserError, match="with clips 1 and not 2: give what it was made with"):
        embed(encoder, listing, out, EmbedSettings(clips=2, **SMALL))
    with pytest.raises(UserError, match="with another encoder"):
        embed(VideoViT(depth=1).eval(), listing, out, settings)
    fewer = Listing(listing.rows[:-1], listing.columns, listing.where)
    with pytest.raises(UserError, match="with another list of videos"):
        embed(encoder, fewer, out, settings)


def test_one_process_writes_a_file(videos: Path, encoder: VideoViT, tmp_path: Path) -> None:
    listing, out = list_videos(str(videos)), tmp_path / "x.npy"
    store = embed_store.Store(out, {})
    with store.opened(), pytest.raises(UserError, match="is being written by another process"):
        embed(encoder, listing, out, EmbedSettings(**SMALL))


def test_no_more_than_a_shard_is_held(
    videos: Path, encoder: VideoViT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, held = embedding.extract, []

    def spy(*words, **named):
        found = real(*words, **named)
        held.append(found.x.numel())
        return found

    monkeypatch.setattr(embedding, "extract", spy)
    listing = list_videos(str(videos))
    embed(encoder, listing, tmp_path / "x.npy", EmbedSettings(**SMALL))
    assert held == [4 * 96, 4 * 96, 3 * 96]
    monkeypatch.setattr(embedding, "SHARD_BYTES", 2 * 4 * 64 * 96)  # two videos' tokens
    held.clear()
    embed(encoder, listing, tmp_path / "tokens.npy", EmbedSettings("tokens", **SMALL))
    assert held == [2 * 64 * 96] * 5 + [64 * 96]


def test_parquet_opens_with_the_lines_that_are_said(
    videos: Path, encoder: VideoViT, tmp_path: Path
) -> None:
    pytest.importorskip("pyarrow")
    listing = list_videos(str(videos))
    tables = []
    for name in ("x.parquet", "x2.npy"):
        out = tmp_path / name
        meta = embed(encoder, listing, out, EmbedSettings("tokens", **SMALL))
        said: dict[str, object] = {}
        exec("\n".join(reading_lines(out, meta)), said)
        tables.append(said)
    assert np.array_equal(tables[0]["x"], tables[1]["x"])
    assert tables[0]["table"]["path"].to_pylist() == [row.path for row in listing.rows]
    assert [row.split(",")[0] for row in tables[1]["rows"]] == [r.path for r in listing.rows]


def test_a_name_that_is_not_text_is_told_in_both_kinds_of_file(
    videos: Path, encoder: VideoViT, tmp_path: Path
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    odd = os.fsencode(tmp_path / "odd") + b"\xff.mp4"
    try:
        shutil.copy(list_videos(str(videos)).rows[0].path, odd)
    except OSError:
        pytest.skip("this file system has names of text alone")
    listing = Listing([Row(os.fsdecode(odd))], [], "odd")
    for name in ("x.npy", "x.parquet"):
        embed(encoder, listing, tmp_path / name, EmbedSettings(**SMALL))
    assert odd in (tmp_path / "x.csv").read_bytes()
    (path,) = parquet.read_table(tmp_path / "x.parquet")["path"].to_pylist()
    assert path.endswith("odd\\udcff.mp4")


def test_columns_of_a_manifest_keep_their_names_beside_ours() -> None:
    rows = [Row("a.mp4", {"label": "3", "clip": "b"}, "g1")]
    listing = Listing(rows, ["label", "clip"], "x", {"label": {"3": "jump"}})
    table = embed_store.Table(listing, clips=2)
    assert table.columns == ["path", "label", "clip_label", "class", "group", "clip"]
    assert list(table.rows([0]))[1] == ["a.mp4", "3", "b", "jump", "g1", "1"]


def line(folder: Path, videos: Path, out: Path, *more: str) -> list[str]:
    words = ["--encoder", str(folder), "--videos", str(videos), "--out", str(out)]
    return ["embed", *words, "--device", "cpu", "--settings.check", "none", *more]


@pytest.fixture(scope="module")
def exported(encoder: VideoViT, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "encoder"
    save_encoder(encoder, folder)
    return folder


def test_the_last_screen_says_where_and_how(
    videos: Path, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "x.npy"
    assert main(line(exported, videos, out)) == 0
    said = capsys.readouterr().out
    assert f"{out}: 11 videos" in said and f'np.load("{out}", mmap_mode="r")' in said


REFUSED = [
    (["--out", "x.csv"], "x.csv must end in .npy or .parquet"),
    (["--settings.clips", "0"], "clips must be 1 or more, not 0"),
    (["--settings.features", "tokens", "--settings.clips", "2"], "have no mean"),
    (["--settings.features", "median"], "expected one of 'mean', 'max', 'tokens'"),
    (["--settings.fps", "0"], "fps must be above 0"),
    (["--device", "nowhere"], "there is no device 'nowhere'"),
    (["--workers", "-1"], "workers must be 0 or more"),
    (["--videos", "nothing.csv"], "there is no folder or manifest at nothing.csv"),
    (["--encoder", "nothing"], "nothing does not exist"),
]


@pytest.mark.parametrize(("words", "said"), REFUSED, ids=[" ".join(words) for words, _ in REFUSED])
def test_bad_options_are_told_in_a_sentence(
    words: list[str],
    said: str,
    videos: Path,
    exported: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([*line(exported, videos, tmp_path / "x.npy"), *words]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_nothing_readable_is_an_error_and_a_missing_option_too(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.mp4").write_text("words")
    assert main([*line(exported, tmp_path, tmp_path / "x.npy"), "--settings.check", "full"]) == 2
    assert "none of the 1 videos" in capsys.readouterr().err
    assert main(["embed", "--videos", str(tmp_path)]) == 2
    assert "embed needs --encoder" in capsys.readouterr().err


def test_a_broken_file_is_listed_and_the_others_keep_their_order(
    videos: Path, encoder: VideoViT, tmp_path: Path
) -> None:
    good = list_videos(str(videos)).rows[:3]
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(Path(good[0].path).read_bytes()[:2000])
    listing = Listing([good[0], Row(str(broken)), *good[1:]], [], "x")
    for check in ("none", "full"):
        out = tmp_path / f"{check}.npy"
        settings = EmbedSettings(check=check, batch_size=2)
        assert embed(encoder, listing, out, settings)["unreadable"] == 1
        assert str(broken) in out.with_suffix(".unreadable.csv").read_text()
        listed = out.with_suffix(".csv").read_text().split()[1:]
        assert listed == [row.path for row in good]


# -- the long one ----------------------------------------------------------------------------------


def started(words: list[str], tmp_path: Path) -> subprocess.Popen[bytes]:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "JEPA_VIDEO_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "jepa_video", *words]
    return subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL)


def peak(words: list[str], tmp_path: Path) -> float:
    """Run to the end; the most memory that it held, MiB."""
    process = started(words, tmp_path)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_thousand_clips_killed_twice_in_memory_that_does_not_grow(
    exported: Path, tmp_path: Path
) -> None:
    settings = SyntheticSettings(videos_train=900, videos_val=100, frames=16, size=32)
    videos = write_synthetic(tmp_path / "set", settings, workers=1)
    size = ("--settings.shard", "50")
    out = tmp_path / "undisturbed" / "x.npy"
    all_of_them = peak(line(exported, videos, out, *size), tmp_path)
    few = list((videos / "val.csv").read_text().splitlines())
    (videos / "few.csv").write_text("\n".join(few) + "\n")
    part = peak(line(exported, videos / "few.csv", tmp_path / "few.npy", *size), tmp_path)
    assert all_of_them - part < 30, f"{part:.0f} MiB for 100 videos, {all_of_them:.0f} for 1,000"

    again = tmp_path / "killed" / "x.npy"
    for shards in (4, 11):
        process = started(line(exported, videos, again, *size), tmp_path)
        while len(list(again.parent.glob("x.npy.partial/[0-9]*.json"))) < shards:
            assert process.poll() is None, "it ended before it was killed"
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert started(line(exported, videos, again, *size), tmp_path).wait() == 0
    expected = files(out)
    assert files(again) == expected
    assert json.loads(expected["x.json"])["rows"] == 1000
