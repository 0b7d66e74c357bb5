import math

import pytest
import torch
from torch import nn

from jepa_video.errors import UserError
from jepa_video.models.blocks import Block
from jepa_video.models.encoder import SIZES, VideoViT, build_encoder
from jepa_video.models.latent import GaussianLatent, NoLatent, gaussian_kl
from jepa_video.models.predictor import MaskedPredictor
from jepa_video.models.rope import grid_positions, rotary_tables, rotate
from jepa_video.models.timm_encoder import TimmEncoder, inflate


def test_rotary_attention_depends_on_differences_of_position_only():
    q, k = torch.randn(2, 1, 1, 1, 24).double().unbind(0)
    here, there = torch.tensor([[1, 2, 3]]), torch.tensor([[4, 0, 2]])
    move = torch.tensor([[5, 7, 1]])

    def product(a, b):
        return (rotate(q, rotary_tables(a, 24)) * rotate(k, rotary_tables(b, 24))).sum()

    torch.testing.assert_close(
        product(here, there), product(here + move, there + move), rtol=1e-5, atol=1e-5
    )
    assert not torch.isclose(product(here, there), product(here, there + move), rtol=1e-3)


def test_rotation_keeps_length():
    x = torch.randn(2, 3, 12, 32)
    turned = rotate(x, rotary_tables(grid_positions((3, 2, 2)), 32))
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))


def test_positions_count_time_slowest():
    positions = grid_positions((2, 3, 4))
    assert positions.shape == (24, 3)
    assert positions[1].tolist() == [0, 0, 1] and positions[12].tolist() == [1, 0, 0]


def test_hidden_tokens_cannot_reach_the_context():
    """A change of pixels outside `keep` leaves the context tokens as they are, bit for bit."""
    encoder = VideoViT().eval()
    clip = torch.randn(1, 3, 8, 32, 32)
    keep = torch.arange(32)[None]  # the first two of four time slots
    other = clip.clone()
    other[:, :, 4:] = torch.randn(1, 3, 4, 32, 32)
    assert torch.equal(encoder(clip, keep), encoder(other, keep))
    assert not torch.equal(encoder(clip)[:, :32], encoder(other)[:, :32])


def test_keeping_everything_is_the_whole_clip():
    encoder = VideoViT().eval()
    clip = torch.randn(2, 3, 8, 32, 32)
    everything = torch.arange(encoder.num_tokens).expand(2, -1)
    torch.testing.assert_close(encoder(clip, everything), encoder(clip))


def test_patches_are_the_pixels_of_their_tubelet():
    encoder = VideoViT(frames=4, image=16, tubelet=2, patch=8)
    clip = torch.arange(3 * 4 * 16 * 16).view(1, 3, 4, 16, 16).float()
    t, row, column = 1, 0, 1
    token = encoder.patches(clip)[0, t * 4 + row * 2 + column]
    expected = clip[0, :, 2:4, 0:8, 8:16].reshape(-1)
    assert torch.equal(token, expected)


@pytest.mark.parametrize("option", [{"patch": 7}, {"tubelet": 3}])
def test_what_does_not_divide_is_named(option):
    with pytest.raises(UserError, match=str(next(iter(option.values())))):
        VideoViT(**option)


@pytest.mark.parametrize(
    "size, millions",
    [("tiny", 5.6), ("small", 21.4), ("base", 85.6), ("large", 303), ("giant", 1011)],
)
def test_sizes_are_the_published_ones(size, millions):
    with torch.device("meta"):
        encoder = VideoViT(size, frames=16, image=224, patch=16)
    count = sum(p.numel() for p in encoder.parameters()) / 1e6
    assert count == pytest.approx(millions, rel=0.03)


def test_config_rebuilds_the_encoder():
    for encoder in (VideoViT("nano", width=48, heads=2), TimmEncoder(image=32)):
        again = build_encoder(encoder.config)
        again.load_state_dict(encoder.state_dict())
        clip = torch.randn(1, 3, 8, 32, 32)
        assert torch.equal(again.eval()(clip), encoder.eval()(clip))


def test_activation_checkpointing_changes_no_gradient():
    plain, saving = VideoViT(), VideoViT(checkpointing=True)
    saving.load_state_dict(plain.state_dict())
    clip = torch.randn(2, 3, 8, 32, 32)
    for encoder in (plain, saving):
        encoder(clip).square().sum().backward()
    for a, b in zip(plain.parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_conditioning_begins_as_the_identity_and_then_matters():
    block = Block(24, 2, condition=8)
    nn.init.zeros_(block.modulation.weight), nn.init.zeros_(block.modulation.bias)
    x, c = torch.randn(2, 5, 24), torch.randn(2, 1, 8)
    torch.testing.assert_close(block(x, None, None, c), block(x, None, None, torch.zeros_like(c)))
    nn.init.normal_(block.modulation.weight)
    assert not torch.allclose(block(x, None, None, c), block(x, None, None, -c))


def predictor_inputs(latent_width=0):
    torch.manual_seed(0)
    predictor = MaskedPredictor(48, (2, 2, 2), latent_width).eval()
    context, target = torch.tensor([[0, 1, 2]]), torch.tensor([[5, 7]])
    return predictor, torch.randn(1, 3, 48), context, target


def test_prediction_of_a_token_does_not_depend_on_the_order_of_targets():
    predictor, s_x, context, target = predictor_inputs()
    there, back = predictor(s_x, context, target), predictor(s_x, context, target.flip(1))
    torch.testing.assert_close(there, back.flip(1))


def test_prediction_depends_on_position_and_on_context():
    predictor, s_x, context, target = predictor_inputs()
    y = predictor(s_x, context, target)
    assert not torch.allclose(y[:, 0], y[:, 1], atol=1e-4)
    assert not torch.allclose(y, predictor(s_x.flip(1), context, target), atol=1e-5)


def test_latent_moves_the_prediction_and_is_demanded():
    predictor, s_x, context, target = predictor_inputs(latent_width=4)
    y = [predictor(s_x, context, target, torch.full((1, 1, 4), v)) for v in (-3.0, 3.0)]
    assert not torch.allclose(y[0], y[1], atol=1e-5)
    with pytest.raises(ValueError, match="latent"):
        predictor(s_x, context, target)


def test_gaussian_kl_is_the_closed_form():
    q = torch.distributions.Normal(torch.tensor(0.3), torch.tensor(0.7))
    p = torch.distributions.Normal(torch.tensor(-1.0), torch.tensor(1.4))
    mine = gaussian_kl(q.mean, 2 * q.stddev.log(), p.mean, 2 * p.stddev.log())
    torch.testing.assert_close(mine, torch.distributions.kl_divergence(q, p))


def test_bits_count_what_z_knows_and_free_bits_are_free():
    s_x, s_y = torch.randn(16, 4, 24), torch.randn(16, 4, 24)
    latent = GaussianLatent(24, dim=2, weight=1.0)
    draw = latent.posterior(s_x, s_y)
    cost, bits = draw.terms["latent/cost"].item(), draw.facts["latent/bits"].item()
    assert cost == pytest.approx(bits * math.log(2), rel=1e-5)
    latent.free_bits = bits + 100
    assert latent.posterior(s_x, s_y).terms["latent/cost"].item() == 0


def test_a_posterior_that_ignores_the_target_carries_no_information():
    latent = GaussianLatent(24, dim=2)
    for p in latent.infer.parameters():
        nn.init.zeros_(p)
    draw = latent.posterior(torch.randn(4, 3, 24), torch.randn(4, 3, 24))
    assert draw.facts["latent/bits"].item() == pytest.approx(0, abs=1e-6)


def test_prior_samples_have_the_prior_moments():
    latent = GaussianLatent(24, dim=3)
    z = latent.sample(torch.randn(2, 5, 24), 4000, torch.Generator().manual_seed(0))
    assert z.shape == (4000, 2, 1, 3)
    assert z.mean().abs() < 0.05 and (z.std() - 1).abs() < 0.05
    assert NoLatent(24).sample(torch.randn(2, 5, 24), 3) is None


def test_inflated_filter_sees_a_still_clip_as_the_image_model_sees_its_frame():
    flat = nn.Conv2d(3, 5, 4, 4)
    frame = torch.randn(1, 3, 8, 8)
    still = frame[:, :, None].repeat(1, 1, 2, 1, 1)
    torch.testing.assert_close(inflate(flat, 2)(still)[:, :, 0], flat(frame), rtol=1e-4, atol=1e-5)


def test_per_frame_encoder_keeps_frames_apart_and_the_inflated_one_mixes_them():
    clip = torch.randn(1, 3, 4, 32, 32)
    other = clip.clone()
    other[:, :, 2:] = 0
    for mode, mixes in (("frame", False), ("inflated", True)):
        encoder = TimmEncoder(mode=mode, frames=4, image=32).eval()
        first = encoder.num_tokens // 2
        same = torch.allclose(encoder(clip)[:, :first], encoder(other)[:, :first], atol=1e-5)
        assert same != mixes


def test_a_timm_model_that_is_no_vit_is_refused():
    with pytest.raises(UserError, match="resnet18"):
        TimmEncoder("resnet18")


def test_every_size_splits_into_even_heads():
    for width, _, heads, _ in SIZES.values():
        assert width % heads == 0 and (width // heads) % 2 == 0


def test_without_its_background_a_clip_is_its_motion():
    """What stands still changes nothing, and the past knows nothing of the future."""
    encoder = VideoViT(size="nano", frames=8, image=16, background=0.5).eval()
    clip, still = torch.randn(2, 3, 8, 16, 16), torch.randn(2, 3, 1, 16, 16)
    torch.testing.assert_close(encoder(clip + still), encoder(clip))
    past = torch.arange(encoder.num_tokens // 2).expand(2, -1)
    other = torch.cat((clip[:, :, :4], torch.randn(2, 3, 4, 16, 16)), dim=2)
    torch.testing.assert_close(encoder(other, past), encoder(clip, past))
    assert not torch.allclose(
        VideoViT(size="nano", frames=8, image=16)(clip + still), encoder(clip)
    )
    with pytest.raises(UserError, match="background must be from 0 to 1"):
        VideoViT(background=1.5)
