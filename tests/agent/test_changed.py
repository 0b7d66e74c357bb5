"""Claims of where pictures change: to a fraction of a pixel, in each scene alike, or not at all."""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from jepa_video.agent.bank import Bank
from jepa_video.agent.changed import NOTED, Changes, changes, told_by_changes
from jepa_video.agent.chart import Chart
from jepa_video.agent.collect import collect
from jepa_video.agent.encoding import encoded
from jepa_video.cli import agent_job, main
from jepa_video.data.episodes import EpisodeSet
from jepa_video.models.conv import ConvEncoder
from jepa_video.training.world_model import WorldModel
from tests.agent.tiny_agent import facts

SIDE, SIZE = 6, (48, 64)


def film(places: Tensor, ground: Tensor) -> Tensor:
    """A blob at places `T 2` of pixels, x and y, over a ground `H W 3`."""
    y, x = torch.meshgrid(*(torch.arange(n) + 0.5 for n in SIZE), indexing="ij")
    far = (x - places[:, :1, None]).square() + (y - places[:, 1:, None]).square()
    blob = (-far / 8).exp()[..., None]
    return (ground * (1 - blob) + 255 * blob).round().to(torch.uint8)


def test_a_thing_that_moves_is_found_where_it_is_and_what_stands_still_is_not():
    source = torch.Generator().manual_seed(0)
    places = 6 + torch.rand(60, 2, generator=source) * torch.tensor([52.0, 36.0])
    grain = 4 * torch.rand(60, *SIZE, 3, generator=source)  # of a camera
    for ground in (torch.zeros(*SIZE, 3), 200 * torch.rand(*SIZE, 3, generator=source), grain):
        found = changes(film(places, ground)) * torch.tensor([64.0, 48.0])
        assert (found - places).norm(dim=1).max() < 0.8
        assert (found - places).norm(dim=1).mean() < 0.25
    still = torch.randint(0, 255, (1, *SIZE, 3), generator=source).expand(5, -1, -1, -1)
    assert changes(still).isnan().all()


def test_who_stands_still_for_most_of_an_episode_is_no_background():
    source = torch.Generator().manual_seed(0)
    places = 6 + torch.rand(20, 2, generator=source) * torch.tensor([52.0, 36.0])
    stays = torch.cat((places[:10], places[9:10].expand(60, -1), places[10:]))
    found = changes(film(stays, torch.zeros(*SIZE, 3))) * torch.tensor([64.0, 48.0])
    assert (found - stays).norm(dim=1).max() < 0.8


def test_spots_that_lie_far_off_do_not_count():
    source = torch.Generator().manual_seed(0)
    places, mix = torch.randn(400, 5, generator=source), torch.randn(6, 2, generator=source)
    spots = places @ mix[:-1] + mix[-1]
    wrong = spots + 1e-3 * torch.randn(spots.shape, generator=source)
    wrong[::16] += 5
    found, off, kept = told_by_changes(Changes(places, wrong))
    assert told_by_changes(Changes(places, spots)).kept == 1  # exact: all
    assert told_by_changes(Changes(places[:20], spots[:20])) is None  # which five numbers tell
    torch.testing.assert_close(found, mix, atol=5e-4, rtol=0)
    assert 8e-4 < off.max() < 1.2e-3 and float(kept) == pytest.approx(375 / 400, abs=0.01)


def scenes(noise: float = 0.01) -> tuple[dict[str, Tensor], Tensor, Tensor, Tensor]:
    """Steps, points less their mean, points and places of 60 scenes that move all points, each."""
    source = torch.Generator().manual_seed(0)
    places = (0.05 + 0.9 * torch.rand(60, 50, 2, generator=source)) * SIDE
    odd = torch.randn(60, 1, 2, generator=source)  # in one point, and less so in the other
    points = torch.cat((places + odd, places + 0.5 * odd), 2)
    points = points + noise * torch.randn(points.shape, generator=source)
    states = torch.cat((points, torch.zeros(60, 50, 2 * SIDE * SIDE)), 2)
    steps = {
        "state": states[:, :-1].flatten(0, 1)[:, None],
        "action": (places[:, 1:] - places[:, :-1]).flatten(0, 1),
        "next": states[:, 1:].flatten(0, 1)[:, None],
    }
    strayed = (points - points.mean(1, keepdim=True)).flatten(0, 1)
    return steps, strayed, points.flatten(0, 1), places.flatten(0, 1)


def chart_of(*given, seen: Changes | None) -> Chart:
    chart = Chart(4 + 2 * SIDE * SIDE, 4, (SIDE, SIDE), 2)
    chart.survey(*given, seen)
    return chart


def test_pictures_tell_what_moves_do_not_where_each_scene_lies():
    steps, strayed, points, places = scenes()
    by_moves = chart_of(steps, strayed, seen=None)
    by_sight = chart_of(steps, strayed, seen=Changes(points, places / SIDE))
    blind, told = (
        float((chart.spots(points).detach() - places).norm(dim=1).mean())
        for chart in (by_moves, by_sight)
    )
    assert blind > 0.5 and told < 0.05
    assert not by_sight.where.weight.requires_grad
    assert by_sight.placed.startswith("where pictures change, 0.0")
    assert by_moves.placed == "as actions move points"


@pytest.mark.parametrize("off", [0.5, 9.0])
def test_where_what_changes_is_not_the_place_it_is_as_if_nothing_were_seen(off):
    """Spots that are off by more than a quarter of a cell; or a third of them, far."""
    steps, strayed, points, places = scenes()
    source = torch.Generator().manual_seed(1)
    wrong = places + off * torch.randn(places.shape, generator=source) * (
        1 if off < 1 else (torch.rand(len(places), 1, generator=source) < 1 / 3)
    )
    plain = chart_of(steps, strayed, seen=None)
    chart = chart_of(steps, strayed, seen=Changes(points, wrong / SIDE))
    assert chart.placed == plain.placed
    assert torch.equal(chart.where.weight, plain.where.weight)
    assert torch.equal(chart.where.bias, plain.where.bias)
    assert chart.where.weight.requires_grad == plain.where.weight.requires_grad


@pytest.mark.parametrize("share", [1.0, 0.5, 0.3])
def test_what_changes_and_does_not_move_as_actions_say_is_no_place(share):
    """Another thing, that the points know too, or the middle between both."""
    source = torch.Generator().manual_seed(2)
    turn = 2 * torch.pi * torch.rand(2, 60, 50, 1, generator=source)
    steps = 0.2 * torch.cat((turn.cos(), turn.sin()), -1)  # of one length, which tells least
    places, other = steps.cumsum(2)
    points = torch.cat((places, other), 2)
    points = points + 0.01 * torch.randn(points.shape, generator=source)
    states = torch.cat((points, torch.zeros(60, 50, 2 * SIDE * SIDE)), 2)
    batch = {"state": states[:, :-1], "next": states[:, 1:], "action": steps[0, :, 1:]}
    batch = {name: part.flatten(0, 1) for name, part in batch.items()}
    given = batch, (points - points.mean(1, keepdim=True)).flatten(0, 1)
    plain = chart_of(*given, seen=None)
    for mixed, taken in ((0.0, True), (share, False)):
        spots = (places + mixed * (other - places)).flatten(0, 1) / SIDE
        chart = chart_of(*given, seen=Changes(points.flatten(0, 1), spots))
        told = (chart.spots(points.flatten(0, 1)).detach() - SIDE * spots).abs().max() < 0.1
        assert told == taken
        assert torch.equal(chart.where.weight, plain.where.weight) == (not taken)


def test_agent_fit_notes_it_for_a_chart_alone_and_says_so(tmp_path, monkeypatch, capsys):
    noted = []

    def watched(*given, **told):
        noted.append(told.get("noted", 0))
        encoded(*given, **told)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(agent_job, "encoded", watched)
    collect("Rooms", "wander", 8, tmp_path / "episodes", settings={"budget": 20, "scenes": 2})
    common = ["--data.root", "episodes", "--wandb", "off", "--trainer.accelerator", "cpu"]
    common += ["--trainer.max_steps", "2", "--data.batch_size", "4"]
    assert main(["world", *common, "--data.frames", "8", "--name", "world"]) == 0
    for judge, wanted in (("chart", NOTED), ("ways", 0)):
        told = ["--checkpoint", "runs/world", "--learn.judge", judge, "--name", judge]
        capsys.readouterr()
        assert main(["agent", "fit", *common, *told]) == 0
        assert noted.pop() == wanted
        said = [line for line in capsys.readouterr().out.splitlines() if line[:6] == "chart "]
        summary = json.loads((tmp_path / "runs" / judge / "summary.json").read_text())
        assert len(said) == (judge == "chart") == ("places" in summary)
        assert all(line.endswith(f"cells; places laid {summary['places']}") for line in said)


@pytest.mark.parametrize("frames", [1, 2])
def test_memory_notes_where_pictures_of_its_states_change(tmp_path, frames):
    root = tmp_path / "episodes"
    collect("TwoRooms", "explore", 6, root, settings={"budget": 30, "scenes": 2})
    episodes = EpisodeSet(root)
    encoder = partial(ConvEncoder, frames=frames, tubelet=frames, channels=4, width=8)
    model, bank = WorldModel(facts(), encoder=encoder).eval(), Bank()
    encoded(model, episodes, bank, torch.device("cpu"), noted=6)
    seen = bank.seen(3)
    assert seen is not None
    assert torch.equal(seen.places, torch.cat(bank.states).flatten(1)[:, :3])
    told = np.concatenate([episodes.episode(i).states[frames - 1 :] for i in range(6)])
    off = 64 * seen.spots - 0.5 - torch.from_numpy(told[:, :2]).float()
    assert off.norm(dim=1).median() < 0.5
    for noted, kept in ((0, []), (3, [0, 2, 4]), (4, [0, 2, 4])):
        bank = Bank()
        encoded(model, episodes, bank, torch.device("cpu"), noted=noted)
        assert [i for i, spots in enumerate(bank.changed) if spots is not None] == kept
        assert (bank.seen(3) is None) == (not kept)
