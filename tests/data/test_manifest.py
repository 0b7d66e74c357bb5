"""Every kind of source becomes the same listing; a source that cannot be used is one sentence."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from jepa_video.data.check import check_files
from jepa_video.data.ledger import Ledger
from jepa_video.data.manifest import classes_of, read_source
from jepa_video.data.split import held_out, standard_splits
from jepa_video.errors import UserError


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def listed(path: Path, root: Path | None = None) -> list[tuple[str, dict[str, str], str]]:
    base = root or path.parent
    return [
        (Path(row.path).relative_to(base).as_posix(), row.labels, row.group)
        for row in read_source(path, root).rows
    ]


def test_class_folders_give_labels(tmp_path: Path) -> None:
    touch(tmp_path, "swim/b.mp4", "run/a.MP4", "run/notes.txt", "run/.hidden.mp4", "readme.md")
    assert listed(tmp_path, tmp_path) == [
        ("run/a.MP4", {"label": "run"}, ""),
        ("swim/b.mp4", {"label": "swim"}, ""),
    ]
    listing = read_source(tmp_path)
    assert classes_of([listing], "label") == (["run", "swim"], {"run": 0, "swim": 1})


@pytest.mark.parametrize(
    "names",
    [
        ("b.mp4", "a.mkv"),
        ("one/a.mp4", "one/b.mp4"),  # one folder is no choice between classes
        ("x/y/a.mp4", "x/z/b.mp4"),  # deeper than classes are
        ("run/a.mp4", "b.mp4"),  # a video beside the folders
    ],
)
def test_other_folders_are_unlabelled(tmp_path: Path, names: tuple[str, ...]) -> None:
    touch(tmp_path, *names)
    assert sorted(listed(tmp_path, tmp_path)) == sorted((name, {}, "") for name in names)
    assert read_source(tmp_path).columns == []


def test_a_link_that_leads_back_is_not_followed(tmp_path: Path) -> None:
    """Each folder once on its way: forty rounds of it would be what the system allows."""
    for name in ("set/a", "set/b", "elsewhere"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "1.mp4").touch()
    links = {"a/up": "..", "a/across": "../b", "b/across": "../a", "c": "../elsewhere"}
    for name, target in links.items():
        (tmp_path / "set" / name).symlink_to(target)
    (tmp_path / "set/b/loop.mp4").symlink_to("loop.mp4")
    found = [Path(row.path) for row in read_source(str(tmp_path / "set")).rows]
    assert [str(path.relative_to(tmp_path / "set")) for path in found] == [
        "a/1.mp4", "a/across/1.mp4", "a/across/loop.mp4", "b/1.mp4", "b/loop.mp4",
        "b/across/1.mp4", "c/1.mp4",
    ]  # fmt: skip


def test_a_folder_that_cannot_be_read_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "1.mp4").touch()
    real = os.scandir

    def locked(path: Path) -> object:
        if path.name == "a":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", locked)
    with pytest.raises(UserError, match="a cannot be read: Permission denied"):
        read_source(str(tmp_path))


def test_a_name_that_is_not_text_is_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JEPA_VIDEO_CACHE", str(tmp_path / "cache"))
    path = os.fsencode(tmp_path / "a") + b"\xff.mp4"
    try:
        os.close(os.open(path, os.O_CREAT))
    except OSError:
        pytest.skip("this file system has names of text alone")
    train, val = held_out([read_source(str(tmp_path))], 0.0)
    (row,) = train[0].rows
    ledger = Ledger(1, 1.0, str(tmp_path))
    ledger.add(row.path, "empty")
    ledger.write(tmp_path / "unreadable.csv")
    assert path in (tmp_path / "unreadable.csv").read_bytes()
    found = check_files([row.path], "quick", memory=row.path)
    assert found[row.path].reason == "empty"


def test_header_names_the_labels(tmp_path: Path) -> None:
    touch(tmp_path, "videos/a.mp4", "videos/b.mp4")
    manifest = tmp_path / "train.csv"
    manifest.write_text('path,shape,group,speed\nvideos/a.mp4,disc,7,3\n"videos/b.mp4",,8,12\n\n')
    assert listed(manifest) == [
        ("videos/a.mp4", {"shape": "disc", "speed": "3"}, "7"),
        ("videos/b.mp4", {"speed": "12"}, "8"),
    ]
    listing = read_source(manifest)
    assert listing.columns == ["shape", "speed"]
    assert classes_of([listing], "speed") == (["3", "12"], {"3": 0, "12": 1})  # as numbers
    assert listing.rows[1].origin == f"{manifest}, line 3"


def test_class_names_the_labels(tmp_path: Path) -> None:
    """Paths of a manifest in splits/ are relative to the data root."""
    touch(tmp_path, "Jump/a.mp4", "Push/b.mp4")
    (tmp_path / "splits").mkdir()
    manifest = tmp_path / "splits" / "train.csv"
    manifest.write_text("path,label,class,group\nPush/b.mp4,10,Push,9\nJump/a.mp4,2,Jump,9\n")
    listing = read_source(manifest, tmp_path)
    assert [row.path for row in listing.rows] == [
        str(tmp_path / "Push/b.mp4"),
        str(tmp_path / "Jump/a.mp4"),
    ]
    assert listing.columns == ["label"]
    assert classes_of([listing], "label") == (["Jump", "Push"], {"2": 0, "10": 1})


@pytest.mark.parametrize("separator", [",", " ", "\t"])
def test_without_a_header(tmp_path: Path, separator: str) -> None:
    touch(tmp_path, "a b.mp4", "c.mp4")
    manifest = tmp_path / "list.txt"
    manifest.write_text(f"a b.mp4{separator}1\n{tmp_path}/c.mp4{separator}0\n")
    assert listed(manifest) == [("a b.mp4", {"label": "1"}, ""), ("c.mp4", {"label": "0"}, "")]


def test_a_list_of_paths_alone(tmp_path: Path) -> None:
    touch(tmp_path, "a b.mp4", "c.mp4")
    (tmp_path / "list.txt").write_text("a b.mp4\nc.mp4\n")
    assert listed(tmp_path / "list.txt") == [("a b.mp4", {}, ""), ("c.mp4", {}, "")]


def test_classes_have_one_number_in_all_splits(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4")
    (tmp_path / "train.csv").write_text("path,label\na.mp4,zoo\na.mp4,ant\n")
    (tmp_path / "val.csv").write_text("path,label\na.mp4,bee\n")
    listings = [read_source(tmp_path / name) for name in ("train.csv", "val.csv")]
    assert classes_of(listings, "label")[1] == {"ant": 0, "bee": 1, "zoo": 2}


BAD = {
    "nothing": "there is no folder or manifest at",
    "empty": "is empty: expected video files",
    "texts": "no video file in .*: expected .mp4.*, found 3 .txt",
    "empty.csv": "the manifest .* is empty",
    "only_header.csv": "has a header and no rows",
    "no_path.csv": "line 3: the row names no file",
    "no_path_bare.csv": "line 2: the row names no file",
    "no_column.csv": "has no column 'path' and line 1 begins with 'name'",
    "bytes.csv": "cannot be read as text",
    "wide.csv": r"wide.csv, line 3 has another number of cells .3. than the header .2.",
    "narrow.csv": r"narrow.csv, line 2 has another number of cells .1. than the header .3.",
    "wide_bare.csv": r"wide_bare.csv, line 3 has another number of cells .3. than line 1 .2.",
    "narrow_bare.txt": r"narrow_bare.txt, line 2 has another number of cells .1. than line 1 .2.",
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_used_is_one_sentence(name: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    touch(tmp_path, "texts/a.txt", "texts/b.txt", "texts/deep/c.txt", "a.mp4", "empty.csv")
    (tmp_path / "only_header.csv").write_text("path,label\n")
    (tmp_path / "no_path.csv").write_text("path,label\na.mp4,1\n,2\n")
    (tmp_path / "no_path_bare.csv").write_text("a.mp4,1\n,2\n")
    (tmp_path / "no_column.csv").write_text("name,label\na.mp4,1\n")
    (tmp_path / "wide.csv").write_text("path,label\na.mp4,1\na,1.mp4,2\n")
    (tmp_path / "narrow.csv").write_text("path,label,group\na.mp4\n")
    (tmp_path / "wide_bare.csv").write_text("a.mp4,1\n\na,1.mp4,2\n")
    (tmp_path / "narrow_bare.txt").write_text("a.mp4 1\na.mp4\n")
    (tmp_path / "bytes.csv").write_bytes(b"\x00\xff\xfe\x81" * 20)
    with pytest.raises(UserError, match=BAD[name]) as caught:
        read_source(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_standard_splits(tmp_path: Path) -> None:
    touch(tmp_path, "train/a/1.mp4", "train/b/2.mp4", "test/a/3.mp4")
    train, val = standard_splits(tmp_path)
    assert [len(part.rows) for part in train + val] == [2, 1]
    (tmp_path / "train.csv").write_text("path\ntrain/a/1.mp4\n")
    train, val = standard_splits(tmp_path)
    assert [len(part.rows) for part in train] == [1] and val == []
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits/train.csv").write_text("path\ntrain/a/1.mp4\ntrain/b/2.mp4\n")
    (tmp_path / "splits/val.csv").write_text("path\ntest/a/3.mp4\n")
    train, val = standard_splits(tmp_path)
    assert [len(part.rows) for part in train + val] == [2, 1]


def test_a_class_named_train_is_a_class(tmp_path: Path) -> None:
    touch(tmp_path, "train/a.mp4", "plane/b.mp4")
    train, val = standard_splits(tmp_path)
    assert [row.labels["label"] for row in train[0].rows] == ["plane", "train"] and val == []


def test_held_out_videos_are_the_same_wherever_the_set_lies(tmp_path: Path) -> None:
    names = [f"{kind}/{i}.mp4" for kind in "ab" for i in range(100)]
    held = []
    for place in ("one", "two/deeper"):
        folder = touch(tmp_path / place, *names)
        train, val = held_out([read_source(folder)], 0.2)
        held.append({Path(row.path).relative_to(folder) for row in val[0].rows})
        assert len(train[0].rows) + len(val[0].rows) == 200
    assert held[0] == held[1]
    assert 20 <= len(held[0]) <= 60


def test_a_group_is_never_split(tmp_path: Path) -> None:
    lines = "".join(f"v{i}.mp4,{i % 2},{i // 5}\n" for i in range(200))
    (tmp_path / "all.csv").write_text("path,label,group\n" + lines)
    train, val = held_out([read_source(tmp_path / "all.csv")], 0.3)
    left, right = ({row.group for row in part[0].rows} for part in (train, val))
    assert left and right and not left & right


def test_two_videos_are_enough_for_a_split(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "b.mp4")
    for fraction in (0.001, 0.999):
        train, val = held_out([read_source(tmp_path)], fraction)
        assert len(train[0].rows) == len(val[0].rows) == 1
    train, val = held_out([read_source(tmp_path)], 0.0)
    assert len(train[0].rows) == 2 and val == []


def test_the_ledger_stops_a_run_in_one_sentence(tmp_path: Path) -> None:
    ledger = Ledger(10, 0.2, "videos")
    ledger.add("a.mp4", "empty")
    ledger.add("a.mp4", "another reason for the same file")
    ledger.add("b, c.mp4", "too short (3 frames, needs 15)")
    ledger.enforce()
    ledger.write(tmp_path / "unreadable.csv")
    assert (tmp_path / "unreadable.csv").read_text() == (
        'path,reason\na.mp4,empty\n"b, c.mp4","too short (3 frames, needs 15)"\n'
    )
    ledger.add("d.mp4", "empty")
    with pytest.raises(UserError) as caught:
        ledger.enforce()
    assert str(caught.value) == (
        "3 of 10 video files in videos are unusable (30%; data.unreadable_limit is 20%): "
        "2 empty, 1 too short; the first is a.mp4: empty"
    )


def test_nothing_usable_stops_a_run_at_any_limit() -> None:
    ledger = Ledger(1, 1.0)
    ledger.add("a.mp4", "empty")
    with pytest.raises(UserError, match="1 of 1"):
        ledger.enforce()
