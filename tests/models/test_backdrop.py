"""Claims of the backdrop: what all pictures share is taken away; what is left is of unit size."""

from __future__ import annotations

import torch

from jepa_video.models.backdrop import Backdrop
from jepa_video.models.conv import ConvEncoder


def videos():
    draw = torch.Generator().manual_seed(0)
    ground = 5 * torch.randn(3, 8, 8, generator=draw)
    return [ground[:, None] + 0.1 * torch.randn(n, 3, 4, 8, 8, generator=draw) for n in (2, 5)]


def test_what_is_left_has_mean_zero_and_unit_deviation_whatever_the_batches():
    backdrop = Backdrop(3, 8)
    seen = torch.cat(videos())
    assert torch.equal(backdrop(seen), seen), "before it is fitted it changes nothing"
    assert not backdrop.fitted
    backdrop.fit(videos())
    assert backdrop.fitted
    left = backdrop(seen)
    torch.testing.assert_close(left.mean((0, 2)), torch.zeros(3, 8, 8), atol=1e-4, rtol=0)
    torch.testing.assert_close(left.square().mean(), torch.tensor(1.0), atol=1e-3, rtol=0)
    once = Backdrop(3, 8)
    once.fit([seen])
    torch.testing.assert_close(once.state_dict(), backdrop.state_dict())


def test_where_nothing_differs_nothing_is_divided_by_zero():
    backdrop = Backdrop(3, 8)
    backdrop.fit([torch.ones(2, 3, 1, 8, 8)])
    assert not backdrop(torch.ones(1, 3, 1, 8, 8)).any()


def test_an_encoder_with_it_sees_through_the_background():
    torch.manual_seed(0)
    model = ConvEncoder(image=8, patch=4, channels=4, width=8, backdrop=True).eval()
    clips = torch.cat(videos())[:, :, :1]
    apart = [model(clips).std(0).mean()]
    model.backdrop.fit(videos())
    apart.append(model(clips).std(0).mean())
    assert apart[1] > 5 * apart[0]
    again = ConvEncoder(**{k: v for k, v in model.config.items() if k != "class"}).eval()
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(clips), model(clips))
