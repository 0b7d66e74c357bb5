import math

import pytest
import torch
from torch import nn

from jepa_video.training.schedules import cosine, warmup_cosine
from jepa_video.training.target import ema_update, frozen_copy


def test_ema_equals_its_closed_form():
    """After n updates towards w_1..w_n: m^n t_0 + (1 - m) sum_k m^(n-k) w_k."""
    online = nn.Linear(3, 2).double()
    target = frozen_copy(online)
    start, m, seen = target.weight.clone(), 0.9, []
    for _ in range(7):
        nn.init.normal_(online.weight)
        seen.append(online.weight.detach().clone())
        ema_update(target, online, m)
    closed = m**7 * start + (1 - m) * sum(m ** (6 - k) * w for k, w in enumerate(seen))
    torch.testing.assert_close(target.weight, closed)


def test_ema_copies_buffers_and_takes_no_gradient():
    online = nn.BatchNorm1d(3)
    target = frozen_copy(online)
    online(torch.randn(8, 3))
    ema_update(target, online, 0.99)
    assert torch.equal(target.running_mean, online.running_mean)
    assert not any(p.requires_grad for p in target.parameters()) and not target.training


@pytest.mark.parametrize("momentum, same_as", [(1.0, "before"), (0.0, "online")])
def test_ema_at_its_ends(momentum, same_as):
    online = nn.Linear(3, 2)
    target = frozen_copy(online)
    before = target.weight.clone()
    nn.init.normal_(online.weight)
    ema_update(target, online, momentum)
    torch.testing.assert_close(target.weight, before if same_as == "before" else online.weight)


def test_cosine_meets_its_ends_and_its_middle():
    assert cosine(0, 10, 3.0, 1.0) == 3.0
    assert cosine(10, 10, 3.0, 1.0) == pytest.approx(1.0)
    assert cosine(5, 10, 3.0, 1.0) == pytest.approx(2.0)
    assert cosine(25, 10, 3.0, 1.0) == pytest.approx(1.0)


def test_warmup_is_linear_and_joins_the_cosine():
    values = [warmup_cosine(s, 100, 10, 0.0, 1.0, 0.1) for s in range(101)]
    assert values[5] == pytest.approx(0.5) and values[10] == pytest.approx(1.0)
    assert values[55] == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * 0.5)))
    assert values[100] == pytest.approx(0.1)
    assert max(values) == values[10]
