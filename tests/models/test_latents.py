"""What each kind of z promises, against distributions stated independently."""

import math

import pytest
import torch
from torch.distributions import Laplace, Normal

from jepa_video.errors import UserError
from jepa_video.models.latent import (
    DiscreteLatent,
    GaussianLatent,
    NoisyLatent,
    Places,
    SparseLatent,
)

KINDS = [GaussianLatent, SparseLatent, NoisyLatent, DiscreteLatent]


def pair(b=6, k=4, m=5, d=24):
    draw = torch.Generator().manual_seed(0)
    s_x, s_y = torch.randn(b, k, d, generator=draw), torch.randn(b, m, d, generator=draw)
    where = torch.randint(4, (b, k + m, 3), generator=draw)
    return s_x, s_y, Places(where[:, :k], where[:, k:])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("per", ["clip", "group", "token"])
def test_one_z_for_all_targets_or_one_for_each(kind, per):
    s_x, s_y, places = pair()
    latent = kind(24, per=per)
    count = 5 if per == "token" else 1
    draw = latent.posterior(s_x, s_y, torch.Generator().manual_seed(1), places)
    assert draw.z.shape == (6, count, latent.dim)
    z = latent.sample(s_x, 3, torch.Generator().manual_seed(1), places)
    assert z.shape == (3, 6, count, latent.dim)
    assert latent.log_prior(z[0], s_x, places).shape == (6,)


@pytest.mark.parametrize("kind", KINDS)
def test_a_z_for_the_clip_does_not_depend_on_the_groups_context(kind):
    s_x, s_y, places = pair()
    clip, group = kind(24, per="clip"), kind(24, per="group")
    for latent, same in ((clip, True), (group, False)):
        read = [latent.read(x, s_y, places) for x in (s_x, s_x + torch.randn_like(s_x))]
        assert torch.equal(*read) is same


def test_a_token_of_its_own_is_told_by_where_it_lies():
    """The mean over tokens is the same, the places differ: so does z."""
    s_x, s_y, places = pair()
    latent = GaussianLatent(24)
    torch.nn.init.normal_(latent.infer.leave.weight)
    moved = Places(places.context, places.target.flip(1) + 1)
    with torch.no_grad():
        here, there = (latent.read(s_x, s_y, where) for where in (places, moved))
    assert (here - there).abs().max() > 1e-3


def test_the_sparse_prior_is_laplace_and_its_price_the_l1_norm():
    s_x, s_y, places = pair()
    latent = SparseLatent(24, dim=3, weight=0.5)
    z = torch.randn(6, 1, 3)
    torch.testing.assert_close(latent.log_prior(z, s_x), Laplace(0.0, 1.0).log_prob(z).sum((1, 2)))
    more = latent.log_prior(z, s_x) - latent.log_prior(2 * z, s_x)
    torch.testing.assert_close(more, z.abs().sum((1, 2)))
    drawn = latent.sample(s_x, 4000, torch.Generator().manual_seed(0)).flatten()
    assert abs(drawn.abs().mean() - 1) < 0.02 and abs(drawn.mean()) < 0.02
    assert drawn.isfinite().all()


def test_the_noisy_prior_is_a_density_and_that_of_its_samples():
    latent = NoisyLatent(24, dim=1, noise=0.25)
    line = torch.linspace(-3, 3, 6001)[:, None, None]
    density = latent.log_prior(line, line).exp()
    assert density.sum().item() * 0.001 == pytest.approx(1, abs=1e-3)
    drawn = latent.sample(torch.zeros(1, 2, 24), 40_000, torch.Generator().manual_seed(0))
    share = (drawn.abs() < 0.5).float().mean().item()
    inside = density[(line[:, 0, 0].abs() < 0.5)].sum().item() * 0.001
    assert share == pytest.approx(inside, abs=0.01)


def test_a_noisy_channel_never_holds_more_than_its_width():
    """Whatever the network says: in the middle log2 of 2 / (noise sqrt(2 pi e)) bits a number.

    At the rim the prior falls as the normal integral does, a uniform number: log2(e) bits more.
    """
    s_x, s_y, places = pair(b=512)
    latent = NoisyLatent(24, dim=2, noise=0.25)
    torch.nn.init.normal_(latent.infer.leave.weight, std=10)
    draw = latent.posterior(s_x, s_y, torch.Generator().manual_seed(0), places)
    most = math.log2(2 / (0.25 * math.sqrt(2 * math.pi * math.e))) + math.log2(math.e)
    assert draw.facts["latent/bits"] <= 2 * most + 0.1


def test_bits_of_a_gaussian_equal_their_estimate_from_draws():
    s_x, s_y, places = pair(b=2000)
    latent = GaussianLatent(24, dim=3, learned_prior=True)
    for reader in (latent.infer, latent.prior):
        torch.nn.init.normal_(reader.leave.weight, std=0.1)
    mean, log_std = latent.moments(latent.read(s_x, s_y, places))
    prior_mean, prior_log_std = latent.prior_moments(s_x, places)
    z = latent.posterior(s_x, s_y, torch.Generator().manual_seed(0), places).z
    log_q = Normal(mean, log_std.exp()).log_prob(z).sum((1, 2))
    log_p = Normal(prior_mean, prior_log_std.exp()).log_prob(z).sum((1, 2))
    torch.testing.assert_close(latent.log_prior(z, s_x, places), log_p)
    drawn = latent.posterior(s_x, s_y, None, places).facts["latent/bits"]
    assert drawn.item() * math.log(2) == pytest.approx((log_q - log_p).mean().item(), rel=0.05)


def test_a_code_that_is_as_sure_as_can_be_holds_log_k():
    s_x, s_y, places = pair(b=64)
    latent = DiscreteLatent(24, count=4, dim=3, weight=1.0, balance=1.0)
    torch.nn.init.normal_(latent.infer.leave.weight, std=1e4)
    draw = latent.posterior(s_x, s_y, torch.Generator().manual_seed(0), places)
    assert draw.facts["latent/bits"].item() == pytest.approx(2, abs=0.02)
    assert draw.terms["latent/cost"].item() == pytest.approx(2 * math.log(2), abs=0.02)


def test_the_hard_choice_passes_the_soft_gradient():
    s_x, s_y, places = pair(b=64)
    latent = DiscreteLatent(24, count=4, dim=3, weight=1.0, balance=1.0)
    draw = latent.posterior(s_x, s_y, torch.Generator().manual_seed(0), places)
    near = (draw.z - latent.book).norm(dim=-1).min(1).values
    torch.testing.assert_close(near, torch.zeros(64), atol=1e-5, rtol=0)  # nothing in between
    draw.z.square().sum().backward()
    assert latent.infer.leave.weight.grad.abs().sum() > 0 and latent.book.grad.abs().sum() > 0


def test_even_use_of_codes_costs_nothing_and_one_code_alone_log_k():
    latent = DiscreteLatent(24, count=4, balance=1.0)
    zero = torch.zeros(8, 1, 4)
    even = zero.clone()
    even[torch.arange(8), 0, torch.arange(8) % 4] = 50.0
    one = zero.clone()
    one[..., 0] = 50.0
    for logits, cost in ((even, 0.0), (one, math.log(4))):
        draw = latent._charged(zero, logits, torch.zeros(8, 2, 24), None)
        assert draw.terms["latent/balance"].item() == pytest.approx(cost, abs=1e-4)
        assert draw.facts["latent/codes"].item() == pytest.approx(4 * math.exp(-cost), abs=1e-2)


def test_codes_are_drawn_as_often_as_the_prior_says():
    latent = DiscreteLatent(24, count=3, weight=1.0, learned_prior=True)
    torch.nn.init.normal_(latent.prior.leave.weight, std=0.3)
    s_x, _, places = pair()
    with torch.no_grad():
        chances = latent.log_chances(s_x, places).exp()[:, 0]
        z = latent.sample(s_x, 6000, torch.Generator().manual_seed(0), places)[:, :, 0]
        drawn = torch.cdist(z, latent.book.expand(6000, -1, -1)).argmin(-1)
    for code in range(3):
        share = (drawn == code).float().mean(0)
        torch.testing.assert_close(share, chances[:, code], atol=0.03, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_the_posterior_learns_to_find_what_minimising_found(kind):
    s_x, s_y, places = pair(b=16)
    latent = kind(24, weight=0.0) if kind is GaussianLatent else kind(24)
    found = latent.sample(s_x, 1, torch.Generator().manual_seed(2), places)[0].detach()
    optimizer = torch.optim.Adam(latent.parameters(), 3e-3)
    misses = []
    for _ in range(60):
        draw = latent.explained(s_x, s_y, found, places)
        misses.append(draw.terms["latent/amortised"].item())
        optimizer.zero_grad()
        draw.terms["latent/amortised"].backward()
        optimizer.step()
    assert misses[-1] < misses[0] - 0.05
    torch.testing.assert_close(draw.z, found)


def test_settings_that_cannot_learn_are_told():
    with pytest.raises(UserError, match="dim must be 1 or more"):
        GaussianLatent(24, dim=0)
    with pytest.raises(UserError, match="count must be 2 or more"):
        DiscreteLatent(24, count=1)
    with pytest.raises(UserError, match="weight above 0"):
        GaussianLatent(24, weight=0.0, learned_prior=True)
