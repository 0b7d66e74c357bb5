"""Heads that are trained together are heads that were trained alone; choice is made in training."""

import numpy as np
import pytest
import torch
from torch import nn

from jepa_video.errors import UserError
from jepa_video.evaluation.heads_grid import (
    AttentiveSettings,
    answers,
    attentive_probe,
    make_heads,
    train_heads,
)
from jepa_video.evaluation.labels import Target
from jepa_video.models.heads import AttentivePooler, AttentiveProbe, heads_for

CPU = torch.device("cpu")
QUICK = AttentiveSettings(rates=[1e-2, 1e-3], decays=[0.01, 0.4], epochs=3, batch=8)


def labelled(n: int, seed: int, classes: int = 3, views: int = 2):
    """Tokens of which one in nine carries the class, at any place: the mean hardly tells."""
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % classes
    x = torch.randn(n, views, 9, 32, generator=g)
    place = torch.randint(9, (n, views), generator=g)
    signs = torch.eye(32)[:classes] * 8
    for i in range(n):
        for v in range(views):
            x[i, v, place[i, v]] += signs[y[i]]
    return x.numpy().astype(np.float16), Target("class", tuple("abc"[:classes]), y)


def make(depth: int):
    return lambda: AttentiveProbe(32, 3, depth)


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_a_head_learns_together_what_it_learns_alone(depth):
    x, target = labelled(24, 0)
    seen = torch.ones(3, 24)
    seen[1, :6] = 0
    rates, decays, seeds = [1e-2, 3e-3, 1e-2], [0.1, 0.0, 0.1], [0, 1, 0]
    together = make_heads(make(depth), seeds, CPU)
    train_heads(together, x, target, seen, rates, decays, QUICK)
    for h in range(3):
        alone = make_heads(make(depth), seeds[h : h + 1], CPU)
        train_heads(alone, x, target, seen[h : h + 1], rates[h : h + 1], decays[h : h + 1], QUICK)
        found, lone = answers(together, x, "class")[h], answers(alone, x, "class")[0]
        torch.testing.assert_close(found, lone, atol=2e-4, rtol=1e-3)
    equal = answers(together, x, "class")
    assert (equal[0] - equal[1]).abs().max() > 1e-3, "heads that differ must differ"


def test_a_step_is_that_of_torchs_adamw():
    x, target = labelled(8, 1, views=1)
    settings = AttentiveSettings(epochs=12, batch=8)
    heads = make_heads(make(1), [4], CPU)
    model = AttentiveProbe(32, 3, 1)
    model.load_state_dict({name: w[0].clone() for name, w in heads.weights.items()})
    thick = [p for p in model.parameters() if p.ndim > 1]
    thin = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": thick, "weight_decay": 0.3}, {"params": thin, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=1e-2)
    for step in range(12):
        scale = 1.0 if step < 1 else 0.5 * (1 + np.cos(np.pi * (step - 1) / 11))
        for group in optimiser.param_groups:
            group["lr"] = 1e-2 * scale
        out = model(torch.from_numpy(x[:, 0].astype(np.float32)))
        optimiser.zero_grad()
        nn.functional.cross_entropy(out, target.y).backward()
        optimiser.step()
    train_heads(heads, x, target, torch.ones(1, 8), [1e-2], [0.3], settings)
    for name, weight in model.named_parameters():
        torch.testing.assert_close(heads.weights[name][0], weight, atol=1e-3, rtol=1e-3)


def test_rows_of_weight_zero_leave_no_trace():
    x, target = labelled(24, 2)
    seen = torch.ones(1, 24)
    seen[0, ::3] = 0
    spoilt = Target("class", target.names, target.y.clone())
    spoilt.y[::3] = (spoilt.y[::3] + 1) % 3
    found = []
    for labels in (target, spoilt):
        heads = make_heads(make(1), [0], CPU)
        train_heads(heads, x, labels, seen, [1e-2], [0.1], QUICK)
        found.append(answers(heads, x, "class"))
    assert torch.equal(*found)


def test_attention_finds_the_token_that_the_mean_hides():
    x, target = labelled(150, 3)
    test, truth = labelled(60, 4)
    settings = AttentiveSettings(rates=[1e-3, 3e-3], decays=[0.01], epochs=15, batch=16)

    def right(depth: int) -> float:
        found = attentive_probe(x, target, test, depth=depth, seeds=2, settings=settings)
        assert found.scores.shape == (2, 60, 3)
        return float((found.scores.argmax(-1) == truth.y).double().mean())

    assert right(1) > 0.9


def test_the_held_out_videos_choose_nothing():
    x, target = labelled(48, 5)
    test, _ = labelled(12, 6)
    few, many = (
        attentive_probe(x, target, part, depth=1, seeds=1, settings=QUICK)
        for part in (test[:3], test)
    )
    assert few.chosen == many.chosen
    torch.testing.assert_close(few.scores, many.scores[:, :3], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", ["multi", "number"])
def test_other_kinds_of_labels_are_learned(kind):
    x, classes = labelled(120, 7)
    y = classes.dense() if kind == "multi" else classes.y[:, None].double() * 50 + 1000
    target = Target(kind, tuple("abc") if kind == "multi" else ("n",), y)
    settings = AttentiveSettings(rates=[3e-3], decays=[0.01], epochs=15, batch=16)
    found = attentive_probe(x, target, x, depth=1, seeds=1, settings=settings).scores[0]
    if kind == "multi":
        assert ((found > 0.5) == (y > 0.5)).double().mean() > 0.9
    else:
        assert (found - y).abs().mean() < 15  # the spread is 41


def test_the_pooler_does_not_care_about_the_order_of_tokens():
    pooler = AttentivePooler(64, 3)
    x = torch.randn(2, 10, 64)
    torch.testing.assert_close(pooler(x), pooler(x[:, torch.randperm(10)]), atol=1e-5, rtol=1e-5)
    assert len(pooler.blocks) == 2


def test_heads_of_a_probe_have_an_even_width_from_32_on():
    assert {w: heads_for(w) for w in (96, 192, 384, 768, 1024, 1408)} == {
        96: 3, 192: 6, 384: 12, 768: 16, 1024: 16, 1408: 16,
    }  # fmt: skip


@pytest.mark.parametrize("wrong", [{"epochs": 0}, {"rates": []}, {"decays": [-1.0]}, {"held": 9}])
def test_settings_that_no_training_can_have(wrong):
    with pytest.raises(UserError, match="attentive"):
        AttentiveSettings(**wrong)
