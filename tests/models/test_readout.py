"""Claims of what is read off states."""

from __future__ import annotations

import torch

from jepa_video.models.dynamics import Readout


def angles(count: int = 4000, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """States that point somewhere, and what no linear map of them tells: four times the angle."""
    even = torch.rand(count, generator=torch.Generator().manual_seed(seed))
    angle = 2 * torch.pi * even
    states = torch.stack((angle.cos(), angle.sin()), 1)[:, None]  # N P D
    return states, torch.stack(((4 * angle).cos(), (4 * angle).sin()), 1)


def error(readout: Readout) -> float:
    states, truth = angles(seed=1)
    with torch.no_grad():
        return float((readout(states, "turn") - truth).square().mean())


def test_the_network_beside_the_linear_map_reads_what_the_map_cannot():
    torch.manual_seed(0)
    states, truth = angles()
    plain, deep = Readout(2, [("turn", 2)]), Readout(2, [("turn", 2)], hidden=64)
    plain.solve("turn", states, truth)
    assert error(plain) > 0.45  # of a variance of 0.5: nothing
    optimizer = torch.optim.Adam(deep.parameters(), 3e-3)
    for _ in range(300):
        optimizer.zero_grad()
        (deep(states, "turn") - truth).square().mean().backward()
        optimizer.step()
    assert error(deep) < 0.01


def test_at_first_the_network_adds_nothing_and_the_map_is_solved_for_what_it_leaves():
    torch.manual_seed(0)
    readout = Readout(2, [("turn", 2)], hidden=16)
    states, _ = angles(500)
    flat = states.flatten(1)
    assert torch.equal(readout(states, "turn"), readout.maps["turn"](flat))
    torch.nn.init.normal_(readout.deep["turn"][-1].weight)
    with torch.no_grad():
        truth = flat @ torch.tensor([[1.0, 2.0], [3.0, -1.0]]) + readout.deep["turn"](flat)
    readout.solve("turn", states, truth, price=1e-9)
    torch.testing.assert_close(readout(states, "turn"), truth, atol=1e-4, rtol=1e-4)


def targets(scenes: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Hands in scenes with one target each, `N 1 D`, and 1 where a hand is at its target.

    The map has 6 x 6 cells of 2 numbers: each tells how far the target's middle is, where it is
    near. The hand's two numbers come first.
    """
    draw = torch.Generator().manual_seed(seed)
    there = torch.rand(scenes, 1, 2, generator=draw)
    hand = torch.rand(scenes, 20, 2, generator=draw)
    hand[:, ::3] = there + 0.1 * torch.randn(scenes, 7, 2, generator=draw)
    even = (torch.arange(6) + 0.5) / 6
    y, x = torch.meshgrid(even, even, indexing="ij")
    gap = (there - torch.stack((x, y), -1).flatten(0, 1)) * 6  # S 36 2
    cells = (gap * (gap.abs().amax(-1, keepdim=True) < 1)).flatten(1)
    at = ((hand - there).norm(dim=-1) < 0.15).float().flatten()
    states = torch.cat((hand, cells[:, None].expand(-1, 20, -1)), -1).flatten(0, 1)
    return states[:, None], at[:, None]


def test_who_looks_for_a_target_reads_whether_a_hand_is_there_in_scenes_that_it_has_not_seen():
    told = {}
    states, truth = targets(150, 0)
    others, right = targets(100, 1)
    for name, seen in (("all numbers", None), ("looks", (2, (6, 6)))):
        torch.manual_seed(0)
        readout = Readout(74, [("reward", 1)], 64, seen)
        optimizer = torch.optim.AdamW(readout.parameters(), 3e-3)
        for step in range(400):
            some = torch.arange(step % 4, len(states), 4)
            optimizer.zero_grad()
            (readout(states[some], "reward") - truth[some]).square().mean().backward()
            optimizer.step()
        with torch.no_grad():
            wrong = (readout(others, "reward") - right).square().mean() / right.var()
        told[name] = 1 - float(wrong)
    assert told["looks"] > 0.6 > 0.35 > told["all numbers"], told
