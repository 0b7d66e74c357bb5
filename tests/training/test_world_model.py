"""Claims of the world model: what it foretells, what its loss is, what stands still when."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from jepa_video.energies.regularizers import NoRegularizer
from jepa_video.errors import UserError
from jepa_video.models.dynamics import Dynamics, InverseDynamics, TokenDynamics, VectorDynamics
from jepa_video.models.latent import DiscreteLatent
from jepa_video.models.state import PatchState, VectorState
from jepa_video.training.inference import InferZ
from tests.agent.tiny_agent import batch, facts, on_trainer, world


class Perfect(Dynamics):
    """Moves the state by the action, exactly."""

    history, latent_width = 1, 0

    def forward(self, states, actions, z=None):
        return states[:, -1] + actions[:, -1][:, None]


def moved(count: int = 4, frames: int = 9) -> dict[str, torch.Tensor]:
    """A batch whose places move by the actions, exactly; `state` tells them."""
    given = batch(frames, count)
    way = torch.cat((torch.zeros(count, 1, 2), given["action"].cumsum(1)), 1)
    return given | {"state": torch.randn(count, 1, 2) + way}


@pytest.mark.parametrize("context", [1, 2, 4])
@pytest.mark.parametrize("horizon", [1, 2, 8])
@pytest.mark.parametrize("frames", [1, 2])
@pytest.mark.parametrize("piece", [None, 7])
def test_the_rollout_loss_of_a_perfect_predictor_is_zero_for_every_context(
    context, horizon, frames, piece, monkeypatch
):
    """In the step that trains: over pieces, windows and what an encoder of K frames sees first."""
    settings = {"context": context, "horizon": horizon, "piece": piece}
    model = on_trainer(world(frames, state=partial(VectorState, dim=2), **settings))
    model.dynamics = Perfect()
    monkeypatch.setattr(model, "encode", lambda video, own, scene=None: own[:, frames - 1 :, None])
    logged = {}
    model.log_dict = logged.update
    model.training_step(moved(), 0)
    assert logged["energy"] < 1e-10
    shifted = moved()
    shifted["action"] = shifted["action"].roll(1, 1)  # of another step: it can fail
    model.training_step(shifted, 0)
    assert logged["energy"] > 1e-2


@pytest.mark.parametrize("history", [1, 2, 3])
@pytest.mark.parametrize("kind", [VectorDynamics, TokenDynamics])
def test_a_rollout_is_one_step_after_the_other_and_never_sees_later_actions(kind, history):
    tokens = 1 if kind is VectorDynamics else 4
    dynamics = kind(8, tokens, 2, history=history)
    for weight in dynamics.parameters():  # nothing starts at zero
        nn.init.normal_(weight, std=0.1)
    states, actions = torch.randn(2, 4, tokens, 8), torch.randn(2, 5, 2)
    past = torch.randn(2, 3, 2)
    told = dynamics.rollout(states, actions, None, past)
    later = actions.clone()
    later[:, 3:] += 1
    assert torch.equal(dynamics.rollout(states, later, None, past)[:, :3], told[:, :3])
    assert not torch.allclose(dynamics.rollout(states, later, None, past)[:, 3], told[:, 3])
    one = dynamics.rollout(states, actions[:, :1], None, past)
    rest = dynamics.rollout(
        torch.cat((states, one), 1), actions[:, 1:], None, torch.cat((past, actions[:, :1]), 1)
    )
    assert torch.allclose(torch.cat((one, rest), 1), told, atol=1e-6)


def test_at_first_nothing_changes():
    states = torch.randn(2, 1, 1, 8)
    dynamics = VectorDynamics(8, 1, 2)
    assert torch.equal(dynamics(states, torch.randn(2, 1, 2)), states[:, 0])


def test_the_loss_is_the_weighted_sum_of_its_terms():
    model = on_trainer(world(piece=None, state=VectorState))
    given = batch()
    logged: dict[str, float] = {}
    model.log_dict = lambda values: logged.update({k: float(v) for k, v in values.items()})
    loss = model.training_step(given, 0)["loss"].item()
    states = model.encode(given["video"])
    told = model.imagine(states[:, :1], given["action"])
    energy = 50 * (told - states[:, 1:]).square().mean()
    rows = states.flatten(0, 2)
    covariance = rows.T.cov()
    hinge = torch.relu(1 - (covariance.diagonal() + 1e-4).sqrt()).mean()
    off = (covariance - covariance.diagonal().diag()).square().sum() / len(covariance)
    inverse = 50 * (model.inverse_model(states[:, :, 0]) - given["action"]).square().mean()
    near = (states[:, 1:] - states[:, :-1]).square().mean()
    parts = energy + 20 * (0.05 * hinge + 0.005 * off) + inverse + near
    assert logged["loss"] == pytest.approx(float(parts), rel=1e-5)
    read = logged["read/state"] + logged["read/reward"]
    assert loss == pytest.approx(float(parts) + read, rel=1e-5)


def test_a_term_without_weight_has_no_part():
    model = on_trainer(world(regularizer=NoRegularizer, inverse=0.0, temporal=0.0, steady=0.0))
    logged: dict[str, float] = {}
    model.log_dict = lambda values: logged.update({k: float(v) for k, v in values.items()})
    model.training_step(batch(), 0)
    assert logged["loss"] == pytest.approx(logged["energy"])


def test_the_scene_is_held_to_that_of_another_time_of_the_window():
    model = on_trainer(world(piece=3, steady=7.0))
    given = batch(frames=9)
    looked = model.looked_at(given)
    assert looked["other/video"].shape[1] == model.encoder.frames
    states, other = model.encode(looked["video"]), model.encode(looked["other/video"])
    aim = model.state.aim
    gap = (states[:, 0, 0, aim:] - other[:, 0, 0, aim:]).square().mean()
    torch.testing.assert_close(model.standing(states, looked)["steady"], 7 * gap)
    whole = model.encode(given["video"])
    ends = (whole[:, 0, 0, aim:] - whole[:, -1, 0, aim:]).square().mean()
    torch.testing.assert_close(model.standing(whole, given)["steady"], 7 * ends)
    assert gap > 0 and not on_trainer(world(state=VectorState)).scenic


def test_a_scene_that_stands_still_for_who_feels_it_costs_nothing():
    """What is felt moves the map's numbers too, at both times alike."""
    model = on_trainer(world(piece=4, steady=7.0, felt=("x",)))
    nn.init.normal_(model.proprioception.leave.weight)
    still = batch(frames=8)
    still = {name: part[:, :1].expand_as(part) for name, part in still.items()}
    looked = model.looked_at(still)
    states = model.encode(looked["video"], looked["state"])
    assert float(model.standing(states, looked)["steady"]) == pytest.approx(0, abs=1e-8)


def test_when_it_has_settled_the_encoder_has_no_gradient_and_the_dynamics_have():
    model = world(settle=0.5, piece=3)
    for step, learns in ((4, True), (5, False)):
        on_trainer(model, step).zero_grad()
        model.training_step(batch(), 0)["loss"].backward()
        grads = [p.grad is not None for p in model.perception()]
        assert all(grads) if learns else not any(grads)
        assert all(p.grad is not None for p in model.dynamics.parameters())
    assert [model.rate(True, s) > 0 for s in (0, 4, 5, 9)] == [True, True, False, False]
    assert model.rate(False, 5) > 0


def test_readouts_shape_nothing():
    model = on_trainer(
        world(regularizer=NoRegularizer, inverse=0.0, temporal=0.0, steady=0.0, prediction=0.0)
    )
    model.training_step(batch(), 0)["loss"].backward()
    assert model.encoder.last.weight.grad is None or not model.encoder.last.weight.grad.any()
    assert model.readout.maps["state"].weight.grad.any()


def test_a_state_of_k_frames_sees_these_alone():
    model = world(frames=2).eval()
    given = batch(frames=5)["video"]
    states = model.encode(given)
    assert states.shape[1] == 4
    other = given.clone()
    other[:, 4] = 0
    changed = (model.encode(other) != states).flatten(2).any(-1)
    assert changed.any(0).tolist() == [False, False, False, True]


def test_a_frozen_encoder_keeps_its_weights_and_its_head_learns():
    model = on_trainer(world(train="frozen"))
    model.training_step(batch(), 0)["loss"].backward()
    assert all(p.grad is None for p in model.encoder.parameters())
    assert model.state.map.weight.grad.any()


def test_the_code_of_least_energy_is_the_one_that_explains_the_future():
    model = world(latent=partial(DiscreteLatent, count=4, dim=3), infer_z=InferZ("minimise"))
    codes = model.latent.codes

    class ByCode(Dynamics):
        history, latent_width = 1, 3

        def forward(self, states, actions, z=None):
            return states[:, -1] + z.sum((1, 2))[:, None, None]

    model.dynamics = ByCode()
    known, actions = torch.randn(5, 1, 1, 32), torch.zeros(5, 3, 2)
    z = codes.detach()[torch.arange(5) % len(codes)]
    future = model.imagine(known, actions, z)
    passage = model.passage(torch.cat((known, future), 1), actions)
    found = model.imagine(known, actions, model.explain(passage))
    assert torch.allclose(found, future, atol=1e-5)


def test_patch_states_go_through_the_same_module():
    model = on_trainer(
        world(state=partial(PatchState, dim=8), dynamics=partial(TokenDynamics, hidden=24))
    )
    model.training_step(batch(count=2), 0)["loss"].backward()
    assert model.encode(batch()["video"]).shape[2:] == (64, 8)
    with pytest.raises(UserError, match="one vector"):
        world(state=PatchState)


def test_the_inverse_model_tells_an_action_that_moves_the_state():
    inverse = InverseDynamics(2, 2, hidden=32)
    optimizer = torch.optim.Adam(inverse.parameters(), 1e-2)
    for _ in range(150):
        actions = torch.rand(64, 3, 2) * 2 - 1
        moved = torch.cat((torch.zeros(64, 1, 2), 0.05 * actions.cumsum(1)), 1)
        error = (inverse(torch.randn(64, 1, 2) + moved) - actions).square().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
    assert error < 0.02  # the actions' variance is 0.33


def test_what_is_felt_is_named_and_changes_the_state():
    with pytest.raises(UserError, match="there is no state 'z'"):
        world(felt=("z",))
    model = world(felt=("x",)).eval()
    nn.init.normal_(model.proprioception.leave.weight)
    given = batch()
    moved = model.encode(given["video"], given["state"] + torch.tensor([1.0, 0.0]))
    still = model.encode(given["video"], given["state"] + torch.tensor([0.0, 1.0]))
    first = model.encode(given["video"], given["state"])
    assert torch.equal(still, first) and not torch.allclose(moved, first)


def test_compile_compiles_what_the_step_calls():
    """Encoder and dynamics run as compiled graphs, with the loss of the eager step."""
    graphs = []

    def counting(graph, inputs):
        def run(*arguments):
            graphs.append(graph)
            return graph.forward(*arguments)

        return run

    torch._dynamo.reset()
    plain, compiled = on_trainer(world()), on_trainer(world(compile=counting))
    expected = plain.training_step(batch(), 0)["loss"]
    compiled.setup("fit")
    loss = compiled.training_step(batch(), 0)["loss"]
    torch.testing.assert_close(loss, expected)
    states = torch.randn(2, 1, 1, compiled.state.width)
    for part in (
        partial(compiled.encoder, torch.randn(2, 3, 1, 64, 64)),
        partial(compiled.dynamics, states, torch.randn(2, 1, 2)),
    ):
        graphs.clear()
        with torch.no_grad():
            part()
        assert graphs  # a whole step can have a graph though one of both runs without
    loss.backward()
    torch._dynamo.reset()


def test_facts_without_states_have_no_readout_of_them():
    model = on_trainer(world(told=facts(state_size=0, state_names=())))
    given = {**batch(), "state": torch.zeros(4, 6, 0)}
    assert torch.isfinite(model.training_step(given, 0)["loss"])


def test_vector_state_knows_where_things_are():
    head = VectorState(8, (1, 4, 4))
    tokens = torch.randn(1, 16, 8)
    assert not torch.allclose(head(tokens), head(tokens.flip(1)))
