"""Claims of the foresight: errors of worlds that are known, beside what they have to beat."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from jepa_video.models.latent import DiscreteLatent
from jepa_video.training.foresight import Foresight, foresight, step_length
from jepa_video.training.world_model import WorldModel
from tests.agent.tiny_agent import Moving, batch, facts, world

CPU = torch.device("cpu")


def seeing_world(error: float = 0.0, **changes) -> WorldModel:
    """The state is what the episode tells; the action moves it, `error` times too far.

    It reads the state off as it is, and the first number of it as the reward.
    """
    model = world(told=facts(**changes), piece=None, dynamics=Moving)
    model.dynamics.step = 1 + error
    model.state.width = 2
    model.encode = lambda video, own=None, scene=None: own[:, :, None]
    model.read = lambda states, name="state": (
        states[..., 0, :] if name == "state" else states[..., 0, :1]
    )
    return model


def moved(count: int = 6, frames: int = 5, seed: int = 0) -> dict[str, Tensor]:
    """Windows in which the state moves by the actions; the reward is its first number."""
    given = batch(frames, count, seed)
    first = torch.randn(count, 1, 2, generator=torch.Generator().manual_seed(seed))
    ways = torch.cat((torch.zeros(count, 1, 2), given["action"].cumsum(1)), 1)
    states = first + ways
    return given | {"state": states, "reward": states[:, 1:, 0]}


def test_a_perfect_world_makes_no_error_and_nothing_moves_is_the_way_gone():
    windows = [moved(seed=0), moved(4, seed=1)]
    told = foresight(seeing_world(), windows, CPU)
    assert max(told.energy) < 1e-9 and max(told.read) < 1e-5 and told.read_true == 0.0
    states = torch.cat([w["state"] for w in windows])
    gone = (states[:, 1:] - states[:, :1]).norm(dim=-1).mean(0)
    assert told.read_copied == pytest.approx(gone.tolist(), rel=1e-5)
    assert told.reward == pytest.approx(1.0)
    assert told.spread == pytest.approx(float(states.flatten(0, 1).std(0).mean()), rel=1e-5)
    assert 1.5 < told.rankme <= 2.0 + 1e-3


def test_an_error_at_each_step_is_told_as_a_share_of_copying():
    """Half a step too far each time: the error is half of the way, its square a quarter."""
    told = foresight(seeing_world(0.5), [moved()], CPU)
    assert told.energy == pytest.approx([0.25] * 4, rel=1e-4)
    assert told.read == pytest.approx([0.5 * far for far in told.read_copied], rel=1e-4)


def test_a_world_that_stands_still_has_the_error_of_copying():
    told = foresight(seeing_world(-1.0), [moved()], CPU)
    assert told.energy == pytest.approx([1.0] * 4) and told.read == told.read_copied


def test_the_reward_is_explained_as_far_as_it_is():
    noisy, draw = moved(200), torch.Generator().manual_seed(3)
    variance = noisy["reward"].var()
    noisy["reward"] = noisy["reward"] + variance.sqrt() * torch.randn(200, 4, generator=draw)
    assert foresight(seeing_world(), [noisy], CPU).reward == pytest.approx(0.5, abs=0.06)
    still = moved() | {"reward": torch.zeros(6, 4)}
    assert foresight(seeing_world(), [still], CPU).reward is None


def test_what_is_known_is_not_foretold():
    """Of a window of 5 with 3 known states, 2 are foretold."""
    model = seeing_world(0.5)
    model.context = 3
    given = moved()
    told = foresight(model, [given], CPU)
    gone = (given["state"][:, 3:] - given["state"][:, 2:3]).norm(dim=-1).mean(0)
    assert told.read_copied == pytest.approx(gone.tolist(), rel=1e-5)
    assert told.energy == pytest.approx([0.25] * 2, rel=1e-4)


def test_without_states_nothing_is_read():
    model = world(told=facts(state_size=0, state_names=()), piece=None)
    told = foresight(model, [batch() | {"state": torch.zeros(4, 6, 0)}], CPU)
    assert told.read == [] and told.read_true is None
    assert not any("read" in name for name in told.figures())
    assert len(told.energy) == 5


def test_with_a_latent_it_looks_with_the_z_that_explains_best():
    class ByCode(Moving):
        latent_width = 3

        def forward(self, states, actions, z=None):
            return super().forward(states, actions) + z.sum((1, 2))[:, None, None]

    model = seeing_world()
    model.latent = DiscreteLatent(2, count=4, dim=3)
    model.dynamics = ByCode()
    model.infer_z = model.infer_z.__class__("minimise")
    pushed, codes = moved(8, 2), model.latent.codes.detach()
    push = codes.flatten(1).sum(1)[torch.arange(8) % 4][:, None]
    pushed["state"][:, 1] += push
    told = foresight(model, [pushed], CPU)
    assert max(told.energy) < 1e-6


def test_a_real_world_model_goes_through_and_is_judged_as_it_is_used():
    model = world(frames=2, context=2)
    given = batch()
    told = foresight(model, [given], CPU)
    assert len(told.energy) == len(told.read) == 3 and not model.training
    with torch.no_grad():
        states = model.encode(given["video"])
    off = (model.read(states.detach()[:, 2:]) - given["state"][:, 3:]).norm(dim=-1).mean()
    assert told.read_true == pytest.approx(float(off.detach()), rel=1e-5)
    figures = told.figures()
    assert figures["energy_over_copy"] == told.energy and figures["reach"] == told.reach


def test_the_stride_is_the_median_of_two_steps_that_moved():
    path = torch.tensor([0.0, 1.0, 2.0, 4.0, 4.0, 4.0, 4.0, 4.0, 4.0, 4.5])[:, None]
    # Two steps apart: 2 3 2 0 0 0 0 0.5; what stands still is no step.
    assert step_length([path]) == 2.0
    straight = torch.arange(9.0)[:, None].expand(-1, 6)
    assert step_length([straight]) == pytest.approx(2 * 6**0.5)
    assert step_length([straight[:2], straight[:1]]) == pytest.approx(6**0.5)


@pytest.mark.parametrize("paths", [[torch.zeros(5, 2)], [torch.randn(1, 2)], []])
def test_where_nothing_moved_there_is_no_stride(paths):
    assert step_length(paths) is None


def test_figures_leave_out_what_is_not_known():
    told = Foresight([0.5], [], None, [], 1.0, 2.0, 3, None, None)
    assert told.figures()["reach"] is None and "read_error" not in told.figures()
