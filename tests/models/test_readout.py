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
