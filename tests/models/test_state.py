"""Claims of the heads that make states out of tokens."""

from __future__ import annotations

import pytest
import torch

from jepa_video.models.blocks import Sought
from jepa_video.models.state import MapState, Points


def looking(count: int = 1) -> Points:
    """Points that weigh the first number of a token, and take the second and third as offset."""
    points = Points(3, (1, 4, 4), count)
    with torch.no_grad():
        for weight in points.parameters():
            weight.zero_()
        points.scale.fill_(1.0)
        points.weigh.weight[:, 0] = 1.0
        points.offset.weight[0, 1], points.offset.weight[1, 2] = 4.0, 4.0
    return points


@pytest.mark.parametrize(("row", "column"), [(0, 0), (2, 1), (3, 3)])
def test_a_point_is_where_its_token_is_moved_by_what_the_token_says(row, column):
    tokens = torch.zeros(1, 4, 4, 3)
    tokens[0, row, column] = torch.tensor([30.0, 0.125, -0.25])
    found = looking()(tokens.flatten(1, 2))[0]
    middle = torch.linspace(-1, 1, 4)
    expected = torch.stack((middle[column] + 0.125, middle[row] - 0.25))
    assert torch.allclose(found, expected, atol=1e-5)


def test_a_point_lies_between_two_tokens_by_the_softmax_of_their_weights():
    tokens = torch.zeros(1, 4, 4, 3)
    tokens[0, 1, 1, 0], tokens[0, 1, 2, 0] = 30.0, 30.5
    share = torch.sigmoid(torch.tensor(2 * 0.5))
    left, right = torch.linspace(-1, 1, 4)[1:3]
    found = looking()(tokens.flatten(1, 2))[0, 0]
    assert torch.isclose(found, (1 - share) * left + share * right, atol=1e-5)


def test_the_points_of_a_map_state_are_of_what_is_seen_and_its_map_of_the_scene():
    head = MapState(3, (1, 4, 4), points=2, each=5)
    seen, scene = torch.randn(2, 16, 3), torch.randn(2, 16, 3)
    alone, known = head(seen), head(seen, scene)
    assert torch.equal(alone[..., : head.aim], known[..., : head.aim])
    assert torch.equal(known[..., head.aim :], head(scene)[..., head.aim :])
    assert head.width == 2 * 2 + 16 * 5


def test_what_all_pictures_share_is_no_variance_of_a_centred_map():
    tokens = torch.randn(1, 16, 3).expand(5, -1, -1).clone()  # the same walls in all
    tokens[:, 6] = torch.randn(5, 3)  # and something that differs
    for centred in (False, True):
        torch.manual_seed(0)
        head = MapState(3, (1, 4, 4), points=2, each=5, centred=centred)
        states = head(tokens)
        points, cells = head.samples(states)
        assert torch.equal(points, states[:, 0, :4])
        cells = cells.view(5, 16, 5)
        if not centred:
            assert torch.equal(cells, states[:, 0, 4:].view(5, 16, 5))
            continue
        assert cells[:, [i for i in range(16) if i != 6]].abs().max() < 1e-6
        told = states[:, 0, 4:].view(5, 16, 5)[:, 6]
        torch.testing.assert_close(cells[:, 6], told - told.mean(0))


def test_what_is_sought_moves_with_the_cell_that_holds_it():
    sought = Sought(16 * 2, (4, 4), 1, 8)
    for weight in sought.look.parameters():
        torch.nn.init.zeros_(weight)
    sought.look.up.weight.data[0, 0] = 1.0
    sought.look.down.weight.data[0, 0] = 30.0  # the first number of a cell is looked for
    for row, column in ((0, 0), (1, 3), (3, 2)):
        cells = torch.zeros(4, 4, 2)
        cells[row, column, 0] = 5.0
        found = sought(cells.flatten())
        expected = torch.tensor([-1 + 2 * column / 3, -1 + 2 * row / 3, 0.0])
        torch.testing.assert_close(found, sought.scale.detach() * expected)
