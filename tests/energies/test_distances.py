from __future__ import annotations

import pytest
import torch

from jepa_video.energies.distances import DISTANCES, distance
from jepa_video.errors import UserError


@pytest.mark.parametrize("name", DISTANCES)
def test_zero_at_the_truth_and_positive_elsewhere(name: str) -> None:
    x, y = torch.randn(2, 4, 3, 8, generator=torch.Generator().manual_seed(0)).double()
    away = distance(name)(x, y)
    assert away.shape == (4, 3) and (away > 0.01).all()
    torch.testing.assert_close(distance(name)(x, x), torch.zeros_like(away))
    torch.testing.assert_close(away, distance(name)(y, x))


def test_values_by_hand() -> None:
    x, y = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.5, 3.0]])
    assert distance("l1")(x, y).item() == 1.75
    assert distance("l2")(x, y).item() == 4.625
    assert distance("smooth_l1")(x, y).item() == (0.125 + 2.5) / 2
    assert distance("cosine")(torch.tensor([[1.0, 0.0]]), torch.tensor([[-2.0, 0.0]])).item() == 2


@pytest.mark.parametrize("name", ("l1", "l2", "smooth_l1"))
def test_half_precision_is_widened_before_the_subtraction(name: str) -> None:
    x = torch.full((64,), 100.0, dtype=torch.bfloat16)
    y = x + 0.5  # 100.5 in bfloat16: kept, but its mean of 64 and its square need more digits
    exact = distance(name)(x.double(), y.double())
    found = distance(name)(x, y)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), exact)


def test_an_unknown_name_lists_the_known() -> None:
    with pytest.raises(UserError, match="l3.*smooth_l1"):
        distance("l3")
