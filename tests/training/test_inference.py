"""What a pair's energy allows to ask: z*, F(x, y), futures."""

import math
from functools import partial

import pytest
import torch

from jepa_video.data.masks import MultiBlock
from jepa_video.errors import UserError
from jepa_video.models.latent import (
    DiscreteLatent,
    GaussianLatent,
    NoisyLatent,
    SparseLatent,
)
from jepa_video.training.inference import InferZ
from tests.training.test_video_jepa import jepa, step, videos

KINDS = [
    partial(GaussianLatent, dim=3),
    partial(SparseLatent, dim=3),
    NoisyLatent,
    partial(DiscreteLatent, count=5),
]


def asked(latent, **options):
    """A module whose predictor listens to z, and a pair."""
    module = jepa(latent=latent, distance="l2", **options).eval()
    for block in module.predictor.blocks:  # they begin deaf to their condition
        torch.nn.init.normal_(block.modulation.weight, std=0.3)
    clip, groups = module.draw(videos())
    with torch.no_grad():
        return module, module.pair(clip, module.target_tokens(clip), groups[0])


def by_hand(module, pair, z):
    """Energies of candidates `B S L Z`, one by one."""
    told = [module.predict(pair.s_x, pair.mask, z[:, s]) for s in range(z.shape[1])]
    return torch.stack([module.energy(y_hat, pair.y) for y_hat in told], dim=1)


@pytest.mark.parametrize("latent", KINDS)
def test_the_inferred_z_is_no_worse_than_the_posteriors(latent):
    module, pair = asked(latent)
    with torch.no_grad():
        z = module.posterior(pair, torch.Generator().manual_seed(3)).z
        first = by_hand(module, pair, z[:, None])[:, 0]
    best = module.infer(pair, torch.Generator().manual_seed(3))
    assert (best.energy <= first + 1e-6).all() and (best.energy < first - 1e-6).any()
    with torch.no_grad():
        torch.testing.assert_close(by_hand(module, pair, best.z[:, None])[:, 0], best.energy)


def test_codes_are_all_tried():
    module, pair = asked(partial(DiscreteLatent, count=5))
    book = module.latent.codes.detach()
    with torch.no_grad():
        each = by_hand(module, pair, book.expand(len(pair.y), *book.shape))
    best = module.infer(pair)
    torch.testing.assert_close(best.energy, each.min(1).values)
    torch.testing.assert_close(best.z, book[each.argmin(1)])


def test_free_energy_falls_from_the_mean_over_codes_to_the_minimum():
    module, pair = asked(partial(DiscreteLatent, count=5))
    book = module.latent.codes.detach()
    with torch.no_grad():
        each = by_hand(module, pair, book.expand(len(pair.y), *book.shape))
    torch.testing.assert_close(module.free_energy(pair, 0.0), each.mean(1))
    torch.testing.assert_close(module.free_energy(pair), each.min(1).values)
    soft = -((-3.0 * each).exp().mean(1)).log() / 3.0
    torch.testing.assert_close(module.free_energy(pair, 3.0), soft)


def test_without_a_latent_f_is_the_energy_and_there_is_nothing_to_infer():
    module = jepa().eval()
    clip, groups = module.draw(videos())
    with torch.no_grad():
        pair = module.pair(clip, module.target_tokens(clip), groups[0])
        energy = module.energy(module.predict(pair.s_x, pair.mask, None), pair.y)
    torch.testing.assert_close(module.free_energy(pair), energy)
    for ask in (module.infer, partial(module.sample_futures, n=2)):
        with pytest.raises(UserError, match="NoLatent"):
            ask(pair)


@pytest.mark.parametrize("latent", KINDS)
def test_futures_are_predictions_from_draws_of_the_prior(latent):
    module, pair = asked(latent)
    futures = module.sample_futures(pair, 4, torch.Generator().manual_seed(5))
    z = module.prior_draws(pair, 4, torch.Generator().manual_seed(5))
    with torch.no_grad():
        torch.testing.assert_close(futures[2], module.predict(pair.s_x, pair.mask, z[2]))
    assert not torch.allclose(futures[0], futures[1])


@pytest.mark.parametrize("latent", KINDS)
@pytest.mark.parametrize("per", ["clip", "group", "token"])
def test_training_may_minimise_over_z_and_every_parameter_learns(latent, per):
    if per == "token" and isinstance(latent(24), DiscreteLatent):
        with pytest.raises(UserError, match="K codes for each of many tokens"):
            jepa(latent=partial(latent, per=per), infer_z=InferZ("minimise"))
        return
    module = jepa(
        latent=partial(latent, per=per),
        infer_z=InferZ("minimise", restarts=1, steps=2),
        masks=MultiBlock,
    )
    step(module)["loss"].backward()
    idle = [n for n, p in module.named_parameters() if p.requires_grad and p.grad is None]
    assert not idle
    assert module.logged["latent/amortised"].isfinite()


def test_a_z_for_the_clip_is_the_same_in_all_mask_groups():
    module = jepa(latent=partial(GaussianLatent, per="clip"), masks=MultiBlock).eval()
    clip, groups = module.draw(videos())
    with torch.no_grad():
        s_y = module.target_tokens(clip)
        z = [
            module.inferred(module.pair(clip, s_y, mask), torch.Generator().manual_seed(0)).z
            for mask in groups
        ]
    torch.testing.assert_close(z[0], z[1])


def test_inference_works_inside_inference_mode():
    module, _ = asked(partial(GaussianLatent, dim=2))
    with torch.inference_mode():
        clip, groups = module.draw(videos())
        pair = module.pair(clip, module.target_tokens(clip), groups[0])
        assert pair.s_x.is_inference()
        assert module.infer(pair, torch.Generator().manual_seed(0)).energy.isfinite().all()


def test_asking_for_less_than_nothing_is_told():
    with pytest.raises(UserError, match="infer_z.steps must be 0 or more"):
        InferZ(steps=-1)


def test_a_wide_unpriced_z_for_each_token_explains_any_y():
    """The paper's failure: with enough z every pair has low energy, true or not."""
    module, pair = asked(partial(GaussianLatent, dim=24, weight=0.0, per="token"))
    other = pair._replace(y=pair.y.roll(1, 0), whole=pair.whole.roll(1, 0))
    narrow, pair1 = asked(partial(DiscreteLatent, count=2))
    other1 = pair1._replace(y=pair1.y.roll(1, 0), whole=pair1.whole.roll(1, 0))
    wide_fall = module.infer(other, steps=60).energy / module.free_energy(other, 1e-6)
    code_fall = narrow.infer(other1).energy / narrow.free_energy(other1, 1e-6)
    assert wide_fall.mean() < code_fall.mean() and math.isfinite(wide_fall.mean())
