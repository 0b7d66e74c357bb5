"""Datasets as they are published, in small: what is listed is what the manifests say."""

from __future__ import annotations

import csv
import gzip
import itertools
import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest

from jepa_video import VideoClips, read_clip, video_info
from jepa_video.cli import main
from jepa_video.data.clips import ClipSettings
from jepa_video.data.prepare import job, moving_mnist, reencode
from jepa_video.data.prepare.index import write_text
from jepa_video.data.prepare.job import PrepareSettings, prepare
from jepa_video.data.prepare.layouts import LAYOUTS, Places
from jepa_video.data.prepare.moving_mnist import MnistSettings
from jepa_video.data.split import standard_splits
from jepa_video.errors import UserError
from tests.videos import SHARED, numbers, write_clip

QUICK = {"check": "quick"}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JEPA_VIDEO_CACHE", str(tmp_path / "cache"))


_made = itertools.count()


def video(path: Path, **known: object) -> Path:
    """A video whose content is its own: no two are copies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    turns, turn = divmod(next(_made), 9)
    known = {"codec": "mpeg4", "height": 32, "width": 32 + 16 * turn, **known}
    return write_clip(path, 12 + turns, **known)  # type: ignore[arg-type]


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def listed(out: Path, split: str) -> list[tuple[str, ...]]:
    """Name of the file, then the other cells, of each row of a manifest."""
    return [(Path(row.pop("path")).name, *row.values()) for row in table(out / f"{split}.csv")]


# -- each dataset as it is published ---------------------------------------------------------------


def test_kinetics(tmp_path: Path) -> None:
    root = tmp_path / "k400"
    video(root / "train" / "abseiling" / "-aaaaaaaaaa_000010_000020.mp4")
    video(root / "train" / "_bbbbbbbbbb_000003_000013.mp4")  # CVDF's copies have no class folders
    video(root / "val" / "zumba" / "cccccccccc0.mp4")
    write_text(
        root / "train.csv",
        "label,youtube_id,time_start,time_end,split\n"
        "abseiling,-aaaaaaaaaa,10,20,train\nzumba,_bbbbbbbbbb,3,13,train\n"
        '"cooking, on fire",dddddddddd0,1,11,train\n',
    )
    write_text(
        root / "validate.csv",
        "label,youtube_id,time_start,time_end,split\nzumba,cccccccccc0,7,17,validate\n",
    )
    told = prepare("kinetics", str(root), tmp_path / "out", PrepareSettings(**QUICK))
    assert told["videos"] == {"train": 2, "val": 1} and told["unusable"] == 1
    assert listed(tmp_path / "out", "train") == [
        ("-aaaaaaaaaa_000010_000020.mp4", "0", "abseiling", "-aaaaaaaaaa"),
        ("_bbbbbbbbbb_000003_000013.mp4", "2", "zumba", "_bbbbbbbbbb"),
    ]
    assert listed(tmp_path / "out", "val") == [("cccccccccc0.mp4", "2", "zumba", "cccccccccc0")]
    (missing,) = table(tmp_path / "out" / "unreadable.csv")
    assert missing["reason"] == "missing" and "dddddddddd0_000001_000011" in missing["path"]


def test_something_something(tmp_path: Path) -> None:
    root, lists = tmp_path / "20bn-something-something-v2", tmp_path / "labels"
    lists.mkdir()
    for name in ("78687", "42326", "1420"):
        video(root / f"{name}.webm", codec="libvpx-vp9")
    classes = {"Approaching something with your camera": "0", "Holding something": "1"}
    parts = {
        "labels": classes,
        "train": [{"id": "78687", "label": "holding a cup", "template": "Holding [something]"}],
        "validation": [{"id": "42326", "template": "Approaching [something] with your camera"}],
        "test": [{"id": "1420"}],
    }
    for name, content in parts.items():
        write_text(lists / f"something-something-v2-{name}.json", json.dumps(content))
    out = tmp_path / "out"
    settings = PrepareSettings(**QUICK)
    prepare("ssv2", str(root), out, settings, lists=str(lists))
    assert listed(out, "train") == [("78687.webm", "1", "Holding something")]
    assert listed(out, "val") == [("42326.webm", "0", "Approaching something with your camera")]
    assert listed(out, "test") == [("1420.webm", "", "")]


def ucf(root: Path, groups: dict[str, list[int]]) -> Path:
    lists = root / "ucfTrainTestlist"
    lists.mkdir(parents=True)
    write_text(lists / "classInd.txt", "1 ApplyEyeMakeup\n2 Archery\n")
    for kind in ("train", "test"):
        lines = []
        for number, named in enumerate(("ApplyEyeMakeup", "Archery"), 1):
            for group in groups[kind]:
                name = f"{named}/v_{named}_g{group:02d}_c01.avi"
                video(root / "UCF-101" / name)
                lines.append(f"{name} {number}" if kind == "train" else name)
        write_text(lists / f"{kind}list01.txt", "\n".join(lines) + "\n")
    return root


def test_ucf101_and_its_groups(tmp_path: Path) -> None:
    root, out = ucf(tmp_path / "ucf", {"train": [8, 9], "test": [1]}), tmp_path / "out"
    prepare("ucf101", str(root), out, PrepareSettings(**QUICK))
    assert listed(out, "train") == [
        ("v_ApplyEyeMakeup_g08_c01.avi", "0", "ApplyEyeMakeup", "ApplyEyeMakeup_g08"),
        ("v_ApplyEyeMakeup_g09_c01.avi", "0", "ApplyEyeMakeup", "ApplyEyeMakeup_g09"),
        ("v_Archery_g08_c01.avi", "1", "Archery", "Archery_g08"),
        ("v_Archery_g09_c01.avi", "1", "Archery", "Archery_g09"),
    ]
    assert [row[-1] for row in listed(out, "val")] == ["ApplyEyeMakeup_g01", "Archery_g01"]


def test_hmdb51(tmp_path: Path) -> None:
    root = tmp_path / "hmdb"
    lines = {"clap": ["a_clap_1.avi 1", "b_clap_2.avi 2", "c_clap_3.avi 0"], "wave": ["d.avi 1"]}
    (root / "testTrainMulti_7030_splits").mkdir(parents=True)
    for named, content in lines.items():
        path = root / "testTrainMulti_7030_splits" / f"{named}_test_split2.txt"
        write_text(path, " \n".join(content) + " \n")  # the published ones end in a space
        for line in content:
            video(root / named / line.split()[0])
    video(root / "wave" / "b_clap_2.avi")  # a name may be there twice, in two classes
    out = tmp_path / "out"
    with pytest.raises(UserError, match="no CLASS_test_split1.txt"):
        prepare("hmdb51", str(root), out)
    prepare("hmdb51", str(root), out, PrepareSettings(number=2, **QUICK))
    assert listed(out, "train") == [("a_clap_1.avi", "0", "clap"), ("d.avi", "1", "wave")]
    (row,) = table(out / "val.csv")
    assert row["path"] == str(root / "clap" / "b_clap_2.avi")


def test_diving48(tmp_path: Path) -> None:
    root = tmp_path / "diving"
    parts = {
        "V2_train": [{"vid_name": "xx_00000", "label": 1, "start_frame": 0, "end_frame": 9}],
        "V2_test": [{"vid_name": "xx_00001", "label": 0, "start_frame": 0, "end_frame": 9}],
        "train": [],  # version 1 lies beside it
        "vocab": [["Back", "15som", "05Twis", "FREE"], ["Inward", "15som", "NoTwis", "PIKE"]],
    }
    for name in ("xx_00000", "xx_00001"):
        video(root / "rgb" / f"{name}.mp4")
    for part, content in parts.items():
        write_text(root / f"Diving48_{part}.json", json.dumps(content))
    prepare("diving48", str(root), tmp_path / "out", PrepareSettings(**QUICK))
    assert listed(tmp_path / "out", "train") == [("xx_00000.mp4", "1", "Inward-15som-NoTwis-PIKE")]
    assert listed(tmp_path / "out", "val") == [("xx_00001.mp4", "0", "Back-15som-05Twis-FREE")]


@pytest.mark.parametrize("dataset", [name for name in LAYOUTS if name != "folder"])
def test_lists_that_are_not_there_are_said(dataset: str, tmp_path: Path) -> None:
    video(tmp_path / "videos" / "a.mp4")
    with pytest.raises(UserError, match=r"(no|lists).*expected|there is no .* read from"):
        LAYOUTS[dataset](Places(tmp_path, tmp_path))


# -- any folder ------------------------------------------------------------------------------------


def some(root: Path) -> Path:
    for name in ("jump", "run"):
        for number in range(6):
            video(root / name / f"p{number // 2}_{number}.mp4")
    return root


def test_a_folder_is_split_by_group_and_pretraining_reads_it(tmp_path: Path) -> None:
    root, out = some(tmp_path / "mine"), tmp_path / "out"
    (root / "run" / "broken.mp4").write_bytes(b"\x00" * 300)
    settings = PrepareSettings(group=r"(p\d)_|(broken)", val_fraction=0.4)
    told = prepare("folder", str(root), out, settings)
    assert told["unusable"] == 1 and told["classes"] == 2
    train, val = table(out / "train.csv"), table(out / "val.csv")
    assert len(train) + len(val) == 12
    assert not {row["group"] for row in train} & {row["group"] for row in val}
    (listing,), (held,) = standard_splits(out)
    clips = VideoClips([listing, held], ClipSettings(4, 1), check="none")
    assert len(clips) == 12 and clips.classes == {"label": ["jump", "run"]}
    index = table(out / "index.csv")
    sample = video_info(index[0]["path"])
    assert int(index[0]["frames"]) == sample.frames and float(index[0]["fps"]) == 25
    assert int(index[0]["width"]) == sample.width and index[0]["codec"] == "mpeg4"
    assert len({row["source_sha256"] for row in index}) == 12


def test_train_and_val_folders_are_kept(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for named in ("b", "a"):
            video(tmp_path / "set" / split / named / f"{split}{named}.mp4")
    prepare("folder", str(tmp_path / "set"), tmp_path / "out", PrepareSettings(**QUICK))
    assert listed(tmp_path / "out", "val") == [("vala.mp4", "0", "a"), ("valb.mp4", "1", "b")]


def test_copies_stay_on_one_side_of_an_own_split(tmp_path: Path) -> None:
    root = some(tmp_path / "mine")
    for number in range(6):
        shutil.copy(root / "jump" / "p0_0.mp4", root / "run" / f"copy{number}.mp4")
    prepare("folder", str(root), tmp_path / "out", PrepareSettings(val_fraction=0.5, **QUICK))
    sides = [
        {Path(r["path"]).name for r in table(tmp_path / "out" / f"{split}.csv")}
        for split in ("train", "val")
    ]
    copies = {"p0_0.mp4", *(f"copy{number}.mp4" for number in range(6))}
    assert copies <= sides[0] or copies <= sides[1]


def test_groups_and_copies_on_both_sides_are_refused_or_dropped(tmp_path: Path) -> None:
    root, out = ucf(tmp_path / "ucf", {"train": [1, 2], "test": [2, 3]}), tmp_path / "out"
    with pytest.raises(
        UserError, match="2 held-out videos leak.*ApplyEyeMakeup_g02 is in training"
    ):
        prepare("ucf101", str(root), out, PrepareSettings(**QUICK))
    assert not out.exists()
    first = root / "UCF-101" / "Archery" / "v_Archery_g01_c01.avi"
    shutil.copy(first, first.with_name("v_Archery_g03_c01.avi"))
    told = prepare("ucf101", str(root), out, PrepareSettings(leaks="drop", **QUICK))
    assert told["videos"] == {"train": 4, "val": 1}
    reasons = [row["reason"] for row in table(out / "unreadable.csv")]
    assert reasons[:2] == [
        f"leak: group {c}_g02 is in training too" for c in ("ApplyEyeMakeup", "Archery")
    ]
    assert reasons[2] == "leak: a training video has the same content"


# -- re-encoding -----------------------------------------------------------------------------------


def test_reencoding_keeps_each_picture_and_seeks_everywhere(tmp_path: Path) -> None:
    source = write_clip(tmp_path / "a.mkv", 90, height=128, width=192)
    target = tmp_path / "b.mp4"
    reencode.encode(
        {"source": str(source), "target": str(target), "short_side": 64, "fps": 25.0,
         "frames": 90, "quality": 18}
    )  # fmt: skip
    info = video_info(target)
    assert (info.frames, info.fps, info.height, info.width) == (90, 25.0, 64, 96)
    assert info.codec == "h264"
    assert numbers(read_clip(str(target), range(90))) == list(range(90))
    import av

    with av.open(str(target)) as container:
        keys = [
            i for i, p in enumerate(p for p in container.demux(video=0) if p.size) if p.is_keyframe
        ]
    assert keys == [0, 25, 50, 75]


def test_a_varying_rate_becomes_constant(tmp_path: Path) -> None:
    times = [4 * n for n in range(20)] + [80 + 8 * n for n in range(10)]  # half the rate at the end
    source = write_clip(tmp_path / "a.mkv", 30, times=times)
    jobs = [{"source": str(source), "target": str(tmp_path / "b.mp4"), "short_side": None,
             "fps": 25.0, "frames": 30, "quality": 18}]  # fmt: skip
    reencode.encode(jobs[0])
    held = [20 + n // 2 for n in range(19)]
    assert numbers(read_clip(str(tmp_path / "b.mp4"), range(39))) == [*range(20), *held]


def test_steady_is_the_identity_at_the_same_rate_and_halves_evenly() -> None:
    timed = [(100 + n / 29.97, n) for n in range(400)]
    assert list(reencode.steady(iter(timed), 29.97)) == list(range(400))
    timed = [(n / 25, n) for n in range(100)]
    assert list(reencode.steady(iter(timed), 12.5)) == list(range(0, 100, 2))
    assert list(reencode.steady(iter([(0.0, 0), (0.0, 1), (0.3, 2)]), 10)) == [0, 1, 1, 2]


def test_sizes_are_even_and_never_larger() -> None:
    assert reencode.scaled(240, 320, 144) == (144, 192)
    assert reencode.scaled(1080, 1921, 256) == (256, 456)
    assert reencode.scaled(101, 75, 256) == (100, 76)
    assert reencode.scaled(101, 75, None) == (100, 76)


def test_a_turned_video_is_turned_upright(tmp_path: Path) -> None:
    source = write_clip(tmp_path / "a.mov", 10, height=64, width=128, rotation=90)
    info = video_info(source)
    reencode.encode(
        {"source": str(source), "target": str(tmp_path / "b.mp4"), "short_side": None,
         "fps": info.fps, "frames": 10, "quality": 12}
    )  # fmt: skip
    made = read_clip(str(tmp_path / "b.mp4"), [3]).astype(int)
    expected = read_clip(str(source), [3]).astype(int)
    assert made.shape == expected.shape and np.abs(made - expected).mean() < 4


def test_a_stopped_preparation_goes_on_and_failures_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, out = some(tmp_path / "mine"), tmp_path / "out"
    settings = PrepareSettings(short_side=32, **QUICK)
    real = reencode.encode_all

    def stopped(jobs, workers, timeout):
        for number, answer in enumerate(real(jobs, workers, timeout)):
            if number == 5:
                raise KeyboardInterrupt
            yield answer

    monkeypatch.setattr(reencode, "encode_all", stopped)
    with pytest.raises(KeyboardInterrupt):
        prepare("folder", str(root), out, settings, workers=1)
    assert not (out / "train.csv").exists()
    with pytest.raises(UserError, match="short_side 32 and not 64"):
        prepare("folder", str(root), out, PrepareSettings(short_side=64, **QUICK))
    asked: list[str] = []

    def counted(jobs, workers, timeout):
        asked.extend(work["source"] for work in jobs)
        for work, reason in real(jobs, workers, timeout):
            if Path(work["source"]) == last:
                Path(work["target"]).unlink()
                reason = "decoder crashes on it"
            yield work, reason

    last = root / "run" / "p2_5.mp4"
    monkeypatch.setattr(reencode, "encode_all", counted)
    told = prepare("folder", str(root), out, settings)
    assert 1 <= len(asked) <= 7 and told["unusable"] == 1  # a helper may be one file ahead
    paths = [row["path"] for row in (*table(out / "train.csv"), *table(out / "val.csv"))]
    assert len(paths) == 11 and all(path.startswith("videos/") for path in paths)
    assert "not re-encoded: decoder crashes" in (out / "unreadable.csv").read_text()
    asked.clear()
    assert prepare("folder", str(root), out, settings) == told
    assert asked == [str(last)]


def test_a_file_cut_short_is_not_passed_on(tmp_path: Path) -> None:
    source = write_clip(tmp_path / "a.avi", 60, codec="mpeg4")
    work = {"source": str(source), "target": str(tmp_path / "b.mp4"), "short_side": 32}
    (answer,) = reencode.encode_all([{**work, "fps": 25.0, "frames": 90, "quality": 18}], 1, 60)
    assert answer[1] == "truncated (60 of 90 frames decode)"
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["a.avi"]


# -- Moving MNIST ----------------------------------------------------------------------------------


def idx(folder: Path, count: int = 40) -> Path:
    random = np.random.default_rng(0)
    images = random.integers(1, 255, (count, 28, 28), dtype=np.uint8)
    head = np.array([2051, count, 28, 28], dtype=">i4").tobytes()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(head + images.tobytes()))
    labels = np.arange(count, dtype=np.uint8) % 10
    head = np.array([2049, count], dtype=">i4").tobytes()
    (folder / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(head + labels.tobytes()))
    return path


def test_moving_mnist_is_drawn_once_and_its_digits_do_not_leak(tmp_path: Path) -> None:
    source, out = idx(tmp_path / "mnist"), tmp_path / "out"
    small = MnistSettings(videos_train=6, videos_val=3, frames=10)
    told = prepare("moving-mnist", str(source), out, mnist=small)
    assert told["videos"] == {"train": 6, "val": 3} and told["frames"] == 90
    used = [
        {digit for row in table(out / f"{split}.csv") for digit in row["group"].split("-")}
        for split in ("train", "val")
    ]
    assert not used[0] & used[1]
    row = table(out / "train.csv")[0]
    digits = sorted(int(digit) % 10 for digit in row["group"].split("-"))
    assert row["class"] == f"{digits[0]} and {digits[1]}"
    written = {path: path.read_bytes() for path in sorted((out / "videos").rglob("*.mp4"))}
    first = next(iter(written))
    first.unlink()
    prepare("moving-mnist", str(tmp_path / "mnist" / source.name), out, mnist=small)
    assert {path: path.read_bytes() for path in written} == written
    with pytest.raises(UserError, match="with frames 10 and not 12"):
        prepare("moving-mnist", str(source), out, mnist=MnistSettings(6, 3, frames=12))


def test_digits_move_at_their_speed_and_bounce(tmp_path: Path) -> None:
    way = np.arange(0.0, 50.0)[:, None]
    places = moving_mnist.bounced(way, np.array([20]))[:, 0]
    assert places[:21].tolist() == list(range(21)) and places[40] == 0
    assert np.abs(np.diff(places)).max() == 1 and places.max() == 20
    source = idx(tmp_path)
    (_, work), *_ = moving_mnist.plan(str(source), MnistSettings(1, 1, digits=1), tmp_path)
    frames = moving_mnist.render(work)
    image = moving_mnist.digit_images(str(source))[0][work["chosen"][0]]
    for frame in frames[..., 0]:
        rows, columns = np.flatnonzero(frame.any(1)), np.flatnonzero(frame.any(0))
        assert np.array_equal(frame[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], image)


def test_digits_of_scikit_learn() -> None:
    pytest.importorskip("sklearn")
    images, digits = moving_mnist.digit_images("digits")
    assert images.shape[1:] == (24, 24) and images.max() == 255 and set(digits) == set(range(10))


def test_the_real_digits(tmp_path: Path) -> None:
    folder = SHARED / "mnist"
    if not folder.is_dir():
        pytest.skip(f"no MNIST at {folder}")
    small = MnistSettings(videos_train=2, videos_val=1, frames=5)
    told = prepare("moving-mnist", str(folder), tmp_path / "out", mnist=small)
    assert told["videos"] == {"train": 2, "val": 1}


def test_a_file_that_is_no_idx_file_is_named(tmp_path: Path) -> None:
    images = idx(tmp_path)
    labels = tmp_path / "t10k-labels-idx1-ubyte.gz"
    labels.write_bytes(images.read_bytes())
    with pytest.raises(UserError, match="labels-idx1-ubyte.gz is no idx file of MNIST's labels"):
        moving_mnist.digit_images(str(images))
    with pytest.raises(UserError, match="cannot be read"):
        moving_mnist.digit_images(str(tmp_path / "none"))


# -- the command -----------------------------------------------------------------------------------


def test_the_command_says_what_comes_next(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, out = some(tmp_path / "mine"), tmp_path / "out"
    words = ["prepare", "folder", "--from", str(root), "--out", str(out)]
    assert main([*words, "--settings.check", "quick"]) == 0
    said = capsys.readouterr().out
    assert f"jepa-video pretrain --data.root {out}" in said and "2 classes" in said


REFUSED = [
    (["imagenet"], "there is no dataset 'imagenet': expected kinetics"),
    ([], "prepare takes a dataset first"),
    (["folder", "--from", "nowhere"], "there is no folder nowhere"),
    (["folder", "--settings.group", "("], "is no regular expression"),
    (["folder", "--settings.group", "nothing like it"], "each video needs a group"),
    (["folder", "--settings.short_side", "4"], "short_side must be 16 or more"),
    (["folder", "--settings.val_fraction", "1"], "val_fraction must be between 0 and 1"),
    (["folder", "--settings.leaks", "keep"], "expected one of 'refuse', 'drop'"),
    (["folder", "--workers", "0"], "workers must be 1 or more"),
    (["moving-mnist", "--mnist.size", "20"], "mnist.size must be even and 32 or more"),
]


@pytest.mark.parametrize(("words", "said"), REFUSED, ids=[" ".join(words) for words, _ in REFUSED])
def test_bad_options_are_told_in_a_sentence(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    video(tmp_path / "mine" / "a" / "a.mp4")
    given = ["--from", str(tmp_path / "mine"), "--out", str(tmp_path / "out")]
    assert main(["prepare", *words[:1], *given, *words[1:]]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_the_page_on_datasets_names_each_and_types_what_is_accepted() -> None:
    from jepa_video.cli.options import parse
    from jepa_video.cli.prepare import _parser

    page = (Path(__file__).parents[2] / "data" / "README.md").read_text()
    assert all(f"`{name}`" in page for name in job.DATASETS)
    lines = [line.split(maxsplit=3) for line in page.splitlines() if "jepa-video prepare " in line]
    typed = [shlex.split(words[3]) for words in lines if words[:2] == ["jepa-video", "prepare"]]
    assert len(typed) >= 3
    for words in typed:
        assert parse(_parser(), words).out.startswith("prepared/")
