"""`jepa-video probe`: one table whatever the workers, batches and ranks, and refusals in words."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from jepa_video.cli import main
from jepa_video.cli.options import parse
from jepa_video.cli.probe import build_parser
from jepa_video.data.clips import ClipSettings, VideoClips
from jepa_video.data.datamodule import VideoDataModule
from jepa_video.data.synthetic import SyntheticSettings, write_synthetic
from jepa_video.errors import UserError
from jepa_video.evaluation.extraction import (
    CHUNK,
    ON_A_CPU,
    FeatureSettings,
    Source,
    crops_of,
    pooled_to,
)
from jepa_video.evaluation.features import extract
from jepa_video.evaluation.heads_grid import AttentiveSettings
from jepa_video.evaluation.probe_run import ProbeRun, load_encoders
from jepa_video.evaluation.probing import pooled
from jepa_video.evaluation.suite import SuiteSettings
from jepa_video.interop.weights import load_encoder, save_encoder
from jepa_video.models.encoder import VideoViT

ROOT = Path(__file__).parents[1]
QUICK = ["--attentive.epochs", "2", "--attentive.depths", "[1,2]", "--probe.seeds", "2"]
QUICK += ["--probe.draws", "1", "--probe.shares", "[20]", "--attentive.rates", "[1e-2,1e-3]"]
QUICK += ["--attentive.decays", "[0.01]", "--features.clips", "2", "--features.blocks", "2"]
QUICK += ["--data.stride", "1", "--trainer.accelerator", "cpu", "--data.check", "none"]


def write_set(folder: Path, **changes) -> Path:
    """Manifests of moving shapes with a class, several tags, a number, and groups."""
    settings = SyntheticSettings(videos_train=42, videos_val=21, frames=8, size=32)
    write_synthetic(folder, settings, workers=1)
    for split, first in (("train", 0), ("val", 100)):
        with (folder / f"{split}.csv").open() as file:
            rows = list(csv.DictReader(file))
        with (folder / f"{split}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["path", "event", "tags", "size", "group"])
            for i, row in enumerate(rows):
                cells = [row["event"], f"{row['shape']}|{row['speed']}", f"{i % 7}.5"]
                writer.writerow([row["path"], *cells, f"g{first + i // 3}"])
    return folder


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return write_set(tmp_path_factory.mktemp("probe") / "set")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    torch.manual_seed(3)
    folder = tmp_path_factory.mktemp("probe") / "mine"
    save_encoder(VideoViT(frames=4, image=32, depth=2, width=24, heads=2), folder)
    return folder


def call(encoder: Path, videos: Path, tmp_path: Path, *words: str, out: str = "out") -> dict:
    """The summary of a call with a cache below `tmp_path`."""
    folder = tmp_path / out
    words = ("--data.root", str(videos), "--features.cache", str(tmp_path / "cache"), *words)
    assert main(["probe", str(encoder), *QUICK, "--out", str(folder), *words]) == 0
    return json.loads((folder / "summary.json").read_text())


def figures(summary: dict) -> dict:
    return {label: found for part in summary["sets"] for label, found in part["labels"].items()}


@pytest.fixture(scope="module")
def first(encoder, videos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("first")
    return folder, call(encoder, videos, folder)


def test_every_probe_stands_beside_what_it_has_to_beat(first):
    folder, summary = first
    assert summary["sources"] == ["mine", "untrained", "pixels", "motion"]
    found = figures(summary)
    assert {name: row["kind"] for name, row in found.items()} == {
        "event": "class", "tags": "multi", "size": "number",
    }  # fmt: skip
    everyone, learned = set(summary["sources"]), {"mine", "untrained"}
    for label in found.values():
        table = label["table"]
        assert list(table) == [
            "linear", "linear_blocks", "attentive_1", "attentive_2", "knn", "few_20",
        ]  # fmt: skip
        for probe, row in table.items():
            assert set(row) == (everyone if probe in ("linear", "knn", "few_20") else learned)
            assert {"gain", "gain_interval"} <= row["mine"].keys()
            for figure in row.values():
                low, high = figure["interval"]
                assert low <= figure["value"] <= high
        assert len(table["attentive_1"]["mine"]["by_seed"]) == 2
        assert table["few_20"]["mine"]["labelled"] < label["train_videos"] / 2
    matrix = np.array(found["event"]["table"]["linear"]["mine"]["confusion"])
    assert matrix.sum() == 21 and matrix.trace() / 21 == pytest.approx(
        found["event"]["table"]["linear"]["mine"]["value"]
    )


def test_the_page_is_whole_and_asks_for_nothing(first):
    folder, summary = first
    page = (folder / "out" / "probe.html").read_text()
    assert not re.search(r"(?:src|href)=\"(?!#|data:)|<script|@import|url\(", page)
    assert page.count("<svg") > 20 and "attentive, depth 2" in page
    for label in figures(summary).values():
        value = label["table"]["linear"]["mine"]["value"]
        assert f'<data value="{value!r}">' in page
    settings = yaml.safe_load((folder / "out" / "config.yaml").read_text())
    assert settings["attentive"]["epochs"] == 2 and settings["data"]["frames"] == 4


def test_a_second_call_computes_nothing(first, encoder, videos, monkeypatch):
    folder, summary = first

    def never(*_: object, **__: object) -> None:
        raise AssertionError("it was computed before")

    monkeypatch.setattr(Source, "forward", never)
    for name in ("attentive_probe", "linear_outcome", "knn_outcome"):
        monkeypatch.setattr(f"jepa_video.evaluation.suite.{name}", never)
    again = call(encoder, videos, folder, out="again")
    assert figures(again) == figures(summary)


def test_other_weights_views_and_files_are_other_features(first, encoder, videos, tmp_path):
    from jepa_video.evaluation.cache import clips_key, weights_key
    from jepa_video.evaluation.extraction import FeatureSettings

    loaded = load_encoder(encoder)
    one = Source("a", loaded, FeatureSettings())
    assert one.key == Source("another name", load_encoder(encoder), FeatureSettings()).key
    assert one.key != Source("a", loaded, FeatureSettings(crops=3)).key
    key = weights_key(loaded, loaded.config)
    with torch.no_grad():
        loaded.norm.bias[0] += 1e-6
    assert weights_key(loaded, loaded.config) != key
    settings = ClipSettings(4, 1, size=32)
    clips = VideoClips(str(videos / "val.csv"), settings, check="none").evaluation(clips=2)
    key = clips_key(clips)
    assert clips_key(clips.evaluation(clips=3)) != key != clips_key(clips.evaluation([0], 2))
    before = os.stat(clips.paths[4])
    os.utime(clips.paths[4])
    assert clips_key(clips) != key
    os.utime(clips.paths[4], ns=(before.st_atime_ns, before.st_mtime_ns))
    assert clips_key(clips) == key


SOME = ["--data.labels", "[event]", "--probe.probes", "[knn,attentive]"]


def same(summary: dict, cache: Path, first: tuple[Path, dict]) -> None:
    """The figures of `SOME` are those of the first call, and the features to the last bit."""
    whole, part = (figures(s)["event"]["table"] for s in (first[1], summary))
    assert len(part) == 3 and part == {probe: whole[probe] for probe in part}
    folders = sorted((cache / "features").iterdir())
    assert len(folders) == 12  # mean of four, tokens of two, of both parts
    for folder in folders:
        other = first[0] / "cache" / "features" / folder.name
        assert (folder / "array.npy").read_bytes() == (other / "array.npy").read_bytes()


@pytest.mark.parametrize("words", [["--data.workers", "2"], ["--data.batch_size", "24"]])
def test_workers_and_batches_do_not_matter(words, first, encoder, videos, tmp_path):
    same(call(encoder, videos, tmp_path, *SOME, *words), tmp_path / "cache", first)


@pytest.mark.slow
def test_ranks_do_not_matter(first, encoder, videos, tmp_path):
    words = ["--data.root", str(videos), "--features.cache", str(tmp_path / "cache")]
    words += ["--out", str(tmp_path / "out"), "--trainer.devices", "2"]
    words += SOME
    command = [sys.executable, "-m", "jepa_video", "probe", str(encoder), *QUICK, *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    same(summary, tmp_path / "cache", first)
    assert not list((tmp_path / "cache" / "features").glob(".*"))


def test_linear_and_nearest_neighbours_are_scikit_learns(first, encoder, videos):
    """On features that were computed another way: by `extract`, in batches of its own."""
    linear = pytest.importorskip("sklearn.linear_model")
    neighbors = pytest.importorskip("sklearn.neighbors")
    loaded = load_encoder(encoder)
    parts = []
    for split in ("train", "val"):
        settings = ClipSettings(4, 1, size=40)
        clips = VideoClips(str(videos / f"{split}.csv"), settings, check="none")
        parts.append(extract(pooled(loaded), clips.evaluation(clips=2)))
    (x, y), (test, truth) = ((p.x.double().numpy(), p.labels[:, 0].numpy()) for p in parts)
    table = figures(first[1])["event"]["table"]
    ours = table["linear"]["mine"]
    mean, scale = x.mean(0), x.std(0)
    oracle = linear.LogisticRegression(C=ours["chosen"][0]["C"], max_iter=5000)
    theirs = oracle.fit((x - mean) / scale, y).score((test - mean) / scale, truth)
    assert abs(ours["value"] - theirs) <= 0.01
    oracle = neighbors.KNeighborsClassifier(20, metric="cosine", algorithm="brute")
    assert table["knn"]["mine"]["value"] == oracle.fit(x, y).score(test, truth)


def refused(encoder, root, tmp_path, capsys, *words) -> str:
    cache = ["--features.cache", str(tmp_path / "cache"), "--out", str(tmp_path / "out")]
    given = ["probe", str(encoder), *QUICK, "--data.root", str(root), *cache, *words]
    assert main(given) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and not (tmp_path / "out").exists()
    return error


def manifest(videos: Path, folder: Path, change) -> Path:
    """A copy of the manifests in which `change(split, cells)` has been at every row."""
    folder.mkdir()
    for split in ("train", "val"):
        with (videos / f"{split}.csv").open() as file:
            head, *rows = csv.reader(file)
        rows = [[str(videos / row[0]), *change(split, row[1:])] for row in rows]
        text = "\n".join(",".join(row) for row in [head, *rows])
        (folder / f"{split}.csv").write_text(text + "\n")
    return folder


def test_one_class_is_no_question(encoder, videos, tmp_path, capsys):
    root = manifest(videos, tmp_path / "set", lambda _, row: ["cruise", *row[1:]])
    told = refused(encoder, root, tmp_path, capsys, "--data.labels", "[event]")
    assert "have the same 'event': a probe needs two classes or more" in told


def test_groups_that_overlap_are_refused(encoder, videos, tmp_path, capsys):
    root = manifest(videos, tmp_path / "set", lambda _, row: [*row[:3], f"g{len(row[0])}"])
    told = refused(encoder, root, tmp_path, capsys)
    assert "in the training and in the validation part" in told and "split by group" in told


def test_a_video_on_both_sides_is_refused(encoder, videos, tmp_path, capsys):
    words = ["--data.train", str(videos / "train.csv"), "--data.val", str(videos / "train.csv")]
    assert "42 videos are (such as" in refused(encoder, videos, tmp_path, capsys, *words)


def test_encoders_that_are_none_are_told(encoder, videos, tmp_path, capsys):
    assert "does not exist" in refused(tmp_path / "none", videos, tmp_path, capsys)
    broken = tmp_path / "broken.ckpt"
    broken.write_bytes(b"no checkpoint")
    assert "broken.ckpt" in refused(broken, videos, tmp_path, capsys)
    assert main(["probe", str(encoder), str(encoder)]) == 2
    assert "given twice" in capsys.readouterr().err
    assert main(["probe"]) == 2
    assert "probe needs an encoder" in capsys.readouterr().err


REFUSED = [
    (["--data.frames", "8"], "data.frames is 8 and the encoder mine takes 4"),
    (["--probe.seeds", "0"], "probe.seeds must be 1 or more"),
    (["--probe.k", "0"], "probe.k must be 1 or more"),
    (["--probe.shares", "[0]"], "probe.shares must be percentages"),
    (["--features.crops", "3", "--data.size", "32"], "features.crops 3 needs clips larger"),
    (["--features.most_gb", "0"], "features.most_gb"),
    (["--attentive.epochs", "0"], "attentive.epochs must be 1 or more"),
    (["--probe.kinds", "{speed: number}"], "probe.kinds names 'speed'"),
    (["--probe.kinds", "{event: number}"], "'event' is to be a number"),
    (["--data.labels", "[none]"], "there is no label 'none'"),
    (["--probe.prbes", "[linear]"], "probe.prbes"),
]


@pytest.mark.parametrize(("words", "said"), REFUSED, ids=[" ".join(w) for w, _ in REFUSED])
def test_settings_that_no_probe_can_have(words, said, encoder, videos, tmp_path, capsys):
    assert said in refused(encoder, videos, tmp_path, capsys, *words)


def test_several_encoders_and_several_sets_in_one_call(encoder, videos, tmp_path):
    torch.manual_seed(4)
    other = tmp_path / "other"
    save_encoder(VideoViT(frames=4, image=32, depth=2, width=24, heads=2), other)
    second = manifest(videos, tmp_path / "second", lambda _, row: row)
    words = ["--sets", f"[{videos},{second}]", "--probe.probes", "[knn]", "--data.labels"]
    common = ["--features.cache", str(tmp_path / "cache"), "--out", str(tmp_path / "out")]
    given = ["probe", str(encoder), str(other), *QUICK, *words, "[event]", *common]
    assert main(given) == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["sources"] == ["mine", "other", "untrained", "pixels", "motion"]
    one, two = (part["labels"]["event"]["table"]["knn"] for part in summary["sets"])
    assert one["mine"]["value"] == two["mine"]["value"] and set(one) == set(summary["sources"])


def test_a_file_that_fails_is_listed_and_left_out(encoder, tmp_path):
    videos = write_set(tmp_path / "set")
    path = videos / "videos" / "val" / "000003.mp4"
    path.write_bytes(b"no video")
    words = ["--probe.probes", "[linear]", "--data.labels", "[event]"]
    summary = call(encoder, videos, tmp_path, *words)
    assert [Path(row[0]).name for row in summary["unreadable"]] == ["000003.mp4"]
    assert figures(summary)["event"]["held_out_videos"] == 20


@pytest.mark.slow
def test_a_file_that_fails_on_another_rank_is_listed_too(encoder, tmp_path):
    """Chunks go to the ranks in turn, and the second has that of videos 4 to 7."""
    videos = write_set(tmp_path / "set")
    (videos / "videos" / "val" / "000005.mp4").write_bytes(b"no video")
    words = ["--data.root", str(videos), "--features.cache", str(tmp_path / "cache")]
    words += ["--out", str(tmp_path / "out"), "--trainer.devices", "2"]
    words += ["--probe.probes", "[linear]", "--data.labels", "[event]"]
    command = [sys.executable, "-m", "jepa_video", "probe", str(encoder), *QUICK, *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert [Path(row[0]).name for row in summary["unreadable"]] == ["000005.mp4"]
    assert figures(summary)["event"]["held_out_videos"] == 20


def test_crops_go_from_left_to_right():
    video = torch.zeros(1, 2, 3, 10, 10, dtype=torch.uint8)
    video[..., 4] = 255
    bright = [(view[0, 0, 0, 0] > 0).nonzero()[:, 0].tolist() for view in crops_of(video, 6, 3)]
    assert bright == [[4], [2], [0]]
    assert [view.shape[-1] for view in crops_of(video, 6, 1)] == [6]


def test_a_cpu_trains_on_fewer_tokens_where_nobody_says_how_many(encoder, videos):
    def grids(**changes) -> set[tuple[int, ...] | None]:
        data = [VideoDataModule(str(videos), frames=4, size=40)]
        settings = SuiteSettings(probes=changes.pop("probes", ["attentive"]))
        features = FeatureSettings(**changes)
        loaded = load_encoders([str(encoder)])
        cpu = {"accelerator": "cpu"}
        job = ProbeRun(loaded, data, features, settings, AttentiveSettings(), cpu)
        assert features.grid == changes.get("grid"), "what was given is not changed"
        return {source.settings.grid for source in job.sources}

    assert grids() == {ON_A_CPU}
    assert grids(grid=(9, 9, 9)) == {(9, 9, 9)}, "every token, for who waits"
    assert grids(probes=["linear"]) == {None}


def test_tokens_are_averaged_over_their_neighbours():
    x = torch.randn(2, 4 * 4 * 6, 5)
    found = pooled_to(x, (4, 4, 6), (2, 2, 3)).view(2, 2, 2, 3, 5)
    by_hand = x.view(2, 2, 2, 2, 2, 3, 2, 5).mean((2, 4, 6))
    torch.testing.assert_close(found, by_hand)
    assert CHUNK > 1


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_features_with_its_code(
    number, code, encoder, videos, tmp_path, monkeypatch
):
    def told(*_: object) -> dict[str, torch.Tensor]:
        os.kill(os.getpid(), number)
        return {}

    monkeypatch.setattr(Source, "forward", told)
    words = ["--data.root", str(videos), "--features.cache", str(tmp_path), *SOME]
    # Where the tests run in the background, a shell has it ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        ended = main(["probe", str(encoder), *QUICK, *words])
    except SystemExit as stop:
        ended = stop.code
    finally:
        signal.signal(signal.SIGINT, before)  # Lightning hears it no more after the first
    assert ended == code
    assert not list((tmp_path / "features").glob(".*"))


RECIPES = sorted((ROOT / "configs" / "probe").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_a_recipe_is_read_as_it_is_written(path):
    config = parse(build_parser(), ["--config", str(path)])
    for group, values in yaml.safe_load(path.read_text()).items():
        for key, value in values.items():
            got = getattr(getattr(config, group), key)
            assert (list(got) if isinstance(got, tuple) else got) == value
    with pytest.raises(UserError, match="frmes"):
        parse(build_parser(), ["--config", str(path), "--data.frmes", "3"])
    told = path.read_text().split("\n", 1)[0]
    assert told.startswith("# ") and told.endswith(".")
