"""A diagnosis says the right words of encoders whose state is known by construction."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch

from jepa_video import save_encoder
from jepa_video.cli import main
from jepa_video.data.synthetic import SyntheticSettings, write_synthetic
from jepa_video.evaluation.diagnosis_page import write_diagnosis
from jepa_video.evaluation.diagnostics import Diagnosis, Seen, diagnose, gap_figures, look
from jepa_video.evaluation.readings import readings
from jepa_video.models.encoder import VideoEncoder, VideoViT
from jepa_video.models.predictor import MaskedPredictor
from jepa_video.training.video_jepa import VideoJEPA

WIDTH, CLIPS = 64, 96


class Linear(VideoEncoder):
    """Pixels through a fixed random map of a given rank; rank 0 answers the same to everything."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.width, self.grid, self.frames, self.image = WIDTH, (4, 1, 1), 4, 8
        source = torch.Generator().manual_seed(0)
        down, up = torch.randn(192, rank, generator=source), torch.randn(rank, 64, generator=source)
        self.register_buffer("map", down @ up / 192**0.5 / max(rank, 1) ** 0.5)
        self.register_buffer("always", torch.randn(64, generator=source) if rank == 0 else None)

    def forward(self, clip, keep=None):
        x = clip.transpose(1, 2).flatten(2)  # B T C*8*8
        return x @ self.map if self.always is None else self.always.expand(*x.shape[:2], -1)


def clips() -> list[dict[str, torch.Tensor]]:
    source = torch.Generator().manual_seed(1)
    video = torch.randint(256, (CLIPS, 1, 3, 8, 8), generator=source, dtype=torch.uint8)
    return [{"video": part} for part in video.repeat(1, 4, 1, 1, 1).split(32)]


def diagnosed(rank: int) -> Diagnosis:
    return diagnose(look(Linear(rank), clips(), views=3))


@pytest.fixture(scope="module")
def healthy() -> Diagnosis:
    return diagnosed(WIDTH)


@pytest.mark.parametrize("rank", [1, 4, 16, 48])
def test_rankme_of_features_of_rank_k_is_k(rank: int) -> None:
    source = torch.Generator().manual_seed(rank)
    left, right = (torch.linalg.qr(torch.randn(n, rank, generator=source)).Q for n in (CLIPS, 64))
    x = left @ right.T  # all singular values are one
    views, states = x[:, None].repeat(1, 2, 1), x[:, None].repeat(1, 2, 1)
    figures = diagnose(Seen(x, views, x, states)).figures
    assert figures["rankme/clips"] == pytest.approx(rank, rel=0.05)
    assert figures["alignment"] == pytest.approx(0, abs=1e-6)


def test_a_healthy_encoder_is_called_healthy(healthy: Diagnosis) -> None:
    found = healthy.verdict(healthy)
    assert found.state == "healthy" and "of 64 directions" in found.sentence
    assert found.advice == ""


def test_the_same_answer_to_every_clip_is_called_collapse(healthy: Diagnosis) -> None:
    constant = diagnosed(0)
    found = constant.verdict(healthy)
    assert found.state == "collapsed" and "are the same for every clip" in found.sentence
    told = {one.title: one.sentence for one in readings(constant, healthy)}
    assert told["RankMe of clips"].startswith("All clips lie on one line")
    assert "alpha" not in constant.figures, "of no variance there is no slope"
    assert "turn" not in str(constant.figures) and constant.figures["uniformity"] == 0


def test_few_directions_are_called_dimensional_collapse(healthy: Diagnosis) -> None:
    few = diagnosed(3)
    assert few.figures["std/clips"] == pytest.approx(healthy.figures["std/clips"], rel=0.1)
    found = few.verdict(healthy)
    assert (
        found.state == "collapsed" and "effective rank of the encoder fell from" in found.sentence
    )
    rank = next(one for one in readings(few, healthy) if one.title == "RankMe of clips")
    assert (
        rank.value == pytest.approx(3, rel=0.1) and rank.beside == healthy.figures["rankme/clips"]
    )
    assert rank.sentence.startswith("Dimensional collapse")


def test_the_most_directions_are_bounded_by_the_clips() -> None:
    video = clips()[0]["video"][:5]
    few = diagnose(look(Linear(WIDTH), [{"video": video}], views=2))
    assert few.most == 5 and "of the 5 directions that 5 clips" in readings(few)[0].sentence


def test_states_that_move_straight_are_told_from_noise() -> None:
    x = torch.randn(20, 8, generator=torch.Generator().manual_seed(2))
    straight = x[:, None] * torch.arange(1.0, 6.0)[:, None]
    noise = torch.randn(20, 200, 8, generator=torch.Generator().manual_seed(3))
    views = x[:, None].repeat(1, 2, 1)
    for states, value, word in ((straight, 1.0, "straight paths"), (noise, -0.5, "back and forth")):
        found = diagnose(Seen(x, views, x, states))
        assert found.figures["straightness"] == pytest.approx(value, abs=0.05)
        assert word in {one.title: one.sentence for one in readings(found)}["Straightness in time"]
    still = diagnose(Seen(x, views, x, straight[:, :2]))
    assert "straightness" not in still.figures, "two states have no turn"


def test_lidar_sees_what_random_views_leave() -> None:
    """Five directions name the clip; all others change with the view."""
    source = torch.Generator().manual_seed(4)
    x = torch.randn(300, 1, 5, generator=source).expand(-1, 6, -1)
    views = torch.cat([x, torch.randn(300, 6, 20, generator=source)], 2)
    pooled = views[:, 0]
    figures = diagnose(Seen(pooled, views, pooled, views[:, :2])).figures
    assert figures["lidar"] == pytest.approx(5, rel=0.1)
    assert figures["rankme/clips"] > 20


def test_the_gap_is_that_of_the_module() -> None:
    torch.manual_seed(0)
    module = VideoJEPA(
        partial(VideoViT, width=24, depth=1, heads=2, frames=4, image=8, patch=4),
        partial(MaskedPredictor, hidden=16, depth=1),
    ).eval()
    batches = clips()
    found = gap_figures(module, batches)
    pairs = [module.energies(batch["video"], draw) for draw, batch in enumerate(batches)]
    true, shuffled = (torch.cat([pair[i] for pair in pairs]) for i in (0, 1))
    assert found["energy_gap"] == pytest.approx(float((shuffled - true).mean()), abs=1e-6)
    assert gap_figures(module, [{"video": batches[0]["video"][:1]}]) == {}


def test_the_page_is_one_file_with_every_figure_and_its_words(
    tmp_path: Path, healthy: Diagnosis
) -> None:
    path, few = tmp_path / "page.html", diagnosed(3)
    write_diagnosis(path, "a <name>", ["96 clips"], few, healthy)
    page = path.read_text()
    assert "a &lt;name&gt;" in page and "Collapsed." in page
    for one in readings(few, healthy):
        assert one.title in page and f'data value="{one.value!r}"' in page
    assert "src=" not in page and "<script" not in page and "at direction 1" in page


# The verb


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos") / "set"
    settings = SyntheticSettings(videos_train=10, videos_val=8, frames=18, size=32)
    return write_synthetic(folder, settings, workers=1)


@pytest.fixture(scope="module")
def run(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("runs")
    words = ["--data.root", str(videos), "--runs", str(runs), "--name", "one", "--wandb", "off"]
    words += ["--model.encoder.depth", "1", "--trainer.max_steps", "1", "--data.batch_size", "4"]
    words += ["--trainer.accelerator", "cpu", "--probe.most_videos", "0"]
    assert main(["pretrain", *words]) == 0
    return runs / "one"


def test_a_run_is_diagnosed_on_its_own_videos_with_its_predictor(run: Path, capsys) -> None:
    assert main(["diagnose", str(run), "--views", "2", "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert (
        "RankMe of clips" in said and "Energy gap" in said and str(run / "diagnosis.html") in said
    )
    assert (run / "diagnosis.html").read_text().startswith("<!DOCTYPE html>")
    figures = json.loads((run / "diagnosis.json").read_text())
    assert figures["clips"] == 8 and figures["width"] == 96, "the held-out videos of the run"
    assert {"energy_gap", "lidar", "rankme/clips", "straightness"} <= set(figures["figures"])
    assert "energy_gap" not in figures["untrained"]


def test_an_encoder_alone_is_diagnosed_without_a_gap(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder = VideoViT(width=24, depth=1, heads=2, frames=4, image=16)
    with torch.no_grad():
        for parameter in encoder.norm.parameters():
            parameter.zero_()
        encoder.norm.bias.fill_(0.5)
    save_encoder(encoder, tmp_path / "encoder")
    words = [
        str(tmp_path / "encoder"),
        "--data.root",
        str(videos),
        "--out",
        str(tmp_path / "p.html"),
    ]
    assert main(["diagnose", *words, "--device", "cpu"]) == 0
    assert "are the same for every clip" in capsys.readouterr().out
    figures = json.loads((tmp_path / "p.json").read_text())
    assert figures["state"] == "collapsed" and "energy_gap" not in figures["figures"]
    assert figures["untrained"]["std/clips"] > 0.1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "begins with an encoder"),
        (["{tmp}/none"], "none does not exist"),
        (["{run}", "--data.frames", "4"], "data.frames is 4 and the encoder takes 8"),
        (["{run}", "--views", "1"], "views must be 2 or more, not 1"),
        (["{run}", "--view", "3"], "no option --view"),
        (["{run}", "--out", "{tmp}/no/p.html"], "a folder that exists"),
        (["{run}", "--device", "moon"], "no device 'moon'"),
        (["{run}", "--data.root", "{tmp}/none"], "none"),
    ],
)
def test_bad_input_is_one_sentence(words, said, run, tmp_path, capsys) -> None:
    words = [word.format(tmp=tmp_path, run=run) for word in words]
    assert main(["diagnose", *words]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and "Traceback" not in error
