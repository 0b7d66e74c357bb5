"""Claims about rollouts: one step is the prediction, a known world is followed without error."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor

from jepa_video.data.masks import MultiBlock, PastToFuture
from jepa_video.errors import UserError
from jepa_video.models.encoder import VideoViT
from jepa_video.models.latent import GaussianLatent
from jepa_video.models.predictor import MaskedPredictor
from jepa_video.models.rope import Grid
from jepa_video.training.rollout import foresee, rollout
from jepa_video.training.video_jepa import VideoJEPA


class LinearWorld:
    """Knows the law `s[t+1] = A s[t]` of every token, and looks at the last slot alone."""

    def __init__(self, law: Tensor, grid: Grid) -> None:
        self.law, self.grid, self.seen = law, grid, list[Tensor]()

    def __call__(self, s_x: Tensor, context: Tensor, target: Tensor, z: Tensor | None) -> Tensor:
        tokens = self.grid[1] * self.grid[2]
        assert torch.equal(target[0] // tokens, context[0, -tokens:] // tokens + 1)
        self.seen.append(context)
        last: Tensor = s_x[:, -tokens:] @ self.law.T
        return last


def trajectory(law: Tensor, slots: int, tokens: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    states = [torch.randn(3, tokens, len(law), generator=generator, dtype=law.dtype)]
    for _ in range(slots - 1):
        states.append(states[-1] @ law.T)
    return torch.stack(states, dim=1)


def rotation(width: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.linalg.qr(torch.randn(width, width, generator=generator, dtype=torch.float64)).Q


def predictor(latent: int = 0) -> MaskedPredictor:
    torch.manual_seed(0)
    return MaskedPredictor(12, (4, 2, 2), latent, hidden=16, depth=2).double()


@pytest.mark.parametrize("latent", [0, 3])
def test_a_rollout_of_one_step_is_the_parallel_prediction(latent: int) -> None:
    model, states = predictor(latent), torch.randn(2, 2, 4, 12, dtype=torch.float64)
    z = torch.randn(2, 1, latent, dtype=torch.float64) if latent else None
    context, target = torch.arange(8).expand(2, -1), torch.arange(8, 12).expand(2, -1)
    expected = model(states.flatten(1, 2), context, target, z).view(2, 1, 4, 12)
    assert torch.equal(rollout(model, states, z, steps=1), expected)
    assert torch.equal(foresee(model, states, z, steps=1), expected)


@pytest.mark.parametrize("window", [None, 1, 3])
def test_a_known_linear_world_is_followed_far_beyond_the_grid(window: int | None) -> None:
    truth = trajectory(rotation(), slots=22, tokens=4)
    world = LinearWorld(rotation(), (4, 2, 2))
    told = rollout(world, truth[:, :2], steps=20, window=window)
    torch.testing.assert_close(told, truth[:, 2:], rtol=0, atol=1e-12)
    assert max(int(seen.max()) for seen in world.seen) < 3 * 4  # a slot of the grid stays free


def test_a_wrong_law_compounds() -> None:
    truth = trajectory(rotation(), slots=10, tokens=4)
    told = rollout(LinearWorld(1.05 * rotation(), (4, 2, 2)), truth[:, :2], steps=8)
    error = (told - truth[:, 2:]).norm(dim=-1) / truth[:, 2:].norm(dim=-1)
    expected = 1.05 ** torch.arange(1, 9, dtype=torch.float64) - 1
    torch.testing.assert_close(error, expected[None, :, None].expand_as(error))


def test_only_the_window_counts_and_the_grid_hides_where_it_stands() -> None:
    model, states = predictor(), torch.randn(2, 3, 4, 12, dtype=torch.float64)
    other = states.clone()
    other[:, 0] = 7.0
    assert torch.equal(
        rollout(model, other, steps=2, window=2), rollout(model, states[:, 1:], steps=2)
    )
    late = model(
        states[:, :2].flatten(1, 2),
        torch.arange(4, 12).expand(2, -1),
        torch.arange(12, 16).expand(2, -1),
    )
    early = rollout(model, states[:, :2], steps=1)[:, 0]
    torch.testing.assert_close(late, early)  # rotary positions are relative


def test_the_gradient_of_a_late_step_goes_through_the_early_ones() -> None:
    model, states = predictor(), torch.randn(1, 2, 4, 12, dtype=torch.float64)
    told = rollout(model, states, steps=3, window=1)
    (grad,) = torch.autograd.grad(told[:, 2].sum(), model.enter.weight, retain_graph=True)
    (last_alone,) = torch.autograd.grad(
        rollout(model, told[:, 1:2].detach(), steps=1).sum(), model.enter.weight
    )
    assert not torch.allclose(grad, last_alone)


def test_windows_that_do_not_fit_are_refused() -> None:
    model, states = predictor(), torch.zeros(1, 2, 4, 12, dtype=torch.float64)
    for window in (0, 4):
        with pytest.raises(ValueError, match=f"windows of 1 to 3, not {window}"):
            rollout(model, states, window=window)
    with pytest.raises(ValueError, match="cannot hold 2 and 3 more"):
        foresee(model, states, steps=3)


def module(**settings: object) -> VideoJEPA:
    torch.manual_seed(0)
    encoder = partial(VideoViT, width=24, depth=1, heads=2, frames=8, image=16, patch=8)
    return VideoJEPA(encoder, partial(MaskedPredictor, hidden=16), **settings)  # type: ignore[arg-type]


def test_the_module_rolls_out_what_it_also_tells_in_parallel() -> None:
    """Three slots of past leave one to tell: then the two settings are the same prediction."""
    video = torch.randint(256, (3, 8, 3, 16, 16), dtype=torch.uint8)
    one = partial(PastToFuture, past=0.75)
    parallel, rolled = module(masks=one), module(masks=one, prediction="rollout")
    torch.testing.assert_close(rolled.energies(video), parallel.energies(video))
    two = module(prediction="rollout")
    assert not torch.allclose(two.energies(video)[0], module().energies(video)[0])


def test_a_rollout_needs_a_whole_past() -> None:
    for masks in (MultiBlock, partial(PastToFuture, hide=0.5)):
        with pytest.raises(UserError, match="PastToFuture with hide 0"):
            module(masks=masks, prediction="rollout")
    with pytest.raises(UserError, match="not per token"):
        module(latent=partial(GaussianLatent, per="token"), prediction="rollout")
