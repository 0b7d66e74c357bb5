"""Claims about the diagnostic decoder: it reads, and it teaches nobody."""

from __future__ import annotations

import pytest
import torch

from jepa_video.models.decoder import Decoder


def test_it_is_ridge_regression_with_a_free_bias() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 3, generator=generator, dtype=torch.float64) * torch.tensor([1.0, 5, 0.1])
    y = torch.randn(40, 2, generator=generator, dtype=torch.float64) + 7
    decoder = Decoder(3, 2).double().fit(x, y, penalties=[4.0])
    unit = (x - x.mean(0)) / x.std(0, correction=0)
    # The same by least squares on rows that stand for the penalty.
    rows = torch.cat((torch.cat((unit, torch.ones(40, 1)), 1), 2 * torch.eye(4)[:3]))
    expected = torch.linalg.lstsq(rows.double(), torch.cat((y, torch.zeros(3, 2)))).solution
    told = torch.cat((unit, torch.ones(40, 1)), 1) @ expected
    torch.testing.assert_close(decoder(x), told)


def test_the_penalty_is_chosen_on_rows_that_were_not_fitted() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(50, n, generator=generator) for n in (45, 1))  # noise: nothing to learn
    assert Decoder(45, 1).fit(x, y).weight.norm() < 0.3
    assert Decoder(45, 1).fit(x, y, penalties=[0.1]).weight.norm() > 1
    exact = x[:, :1] * 3 + 1
    torch.testing.assert_close(Decoder(45, 1).fit(x, exact)(x), exact, rtol=0.1, atol=0.1)


def test_no_gradient_reaches_the_states_and_no_optimiser_the_decoder() -> None:
    states = torch.randn(8, 4, requires_grad=True)
    decoder = Decoder(4, 2).fit(states, torch.randn(8, 2))
    assert not decoder(states).requires_grad
    assert not list(decoder.parameters()) and len(decoder.state_dict()) == 4


def test_a_constant_state_is_no_division_by_zero() -> None:
    x = torch.cat((torch.ones(10, 1), torch.arange(10.0)[:, None]), 1)
    assert Decoder(2, 1).fit(x, x[:, 1:])(x).isfinite().all()
    with pytest.raises(ValueError, match="five rows or more, got 4"):
        Decoder(2, 1).fit(x[:4], x[:4, 1:])
