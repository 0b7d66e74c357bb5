"""What a column asks for, and figures that are scikit-learn's."""

import numpy as np
import pytest
import torch

from jepa_video.errors import UserError
from jepa_video.evaluation.labels import Target, kind_of, target_of
from jepa_video.evaluation.methods import knn_outcome, linear_outcome
from jepa_video.evaluation.scores import (
    Outcome,
    confusion,
    gain,
    groups_of,
    judge,
    mean_average_precision,
    r_squared,
)


def test_the_kind_is_read_off_the_values():
    assert kind_of(["walk", "run"]) == "class"
    assert kind_of(["0", "1", "12"]) == "class"
    assert kind_of(["0.5", "1", "-3e2"]) == "number"
    assert kind_of(["rain|night", "sun"]) == "multi"


def test_values_become_targets_and_unknown_ones_stay_unknown():
    column = torch.tensor([1, -1, 0])
    multi = target_of(column, ["rain|night", "sun"], "multi")
    assert multi.names == ("night", "rain", "sun")
    assert multi.y[[0, 2]].tolist() == [[0, 0, 1], [1, 1, 0]]
    number = target_of(column, ["0.5", "2"], "number", "speed")
    assert number.y[[0, 2], 0].tolist() == [2.0, 0.5]
    for target in (multi, number, target_of(column, ["a", "b"], "class")):
        assert target.known.tolist() == [True, False, True]
        assert target.strata()[1] == -1
    with pytest.raises(UserError, match="'speed' is to be a number.*'fast'"):
        target_of(column, ["0.5", "fast"], "number", "speed")


def test_few_labels_have_every_class_and_the_share_that_was_asked_for():
    target = Target("class", ("a", "b", "c"), torch.tensor([0] * 60 + [1] * 40 + [2] * 3 + [-1]))
    rows = target.few(0.1, 0)
    assert torch.bincount(target.y[rows]).tolist() == [6, 4, 1]
    assert rows == target.few(0.1, 0) and rows != target.few(0.1, 1)


def test_mean_average_precision_is_scikit_learns():
    metrics = pytest.importorskip("sklearn.metrics")
    g = np.random.default_rng(0)
    truth = (g.random((50, 4)) < 0.3).astype(float)
    scores = np.round(g.random((50, 4)) + 0.5 * truth, 1)  # with ties
    weights = g.multinomial(50, np.full(50, 0.02), size=3)
    found = mean_average_precision(scores, truth, weights)
    for value, drawn in zip(found, weights, strict=True):
        rows = np.repeat(np.arange(50), drawn)
        theirs = metrics.average_precision_score(truth[rows], scores[rows], average="macro")
        assert value == pytest.approx(theirs, abs=1e-9)


def test_r_squared_is_scikit_learns():
    metrics = pytest.importorskip("sklearn.metrics")
    g = np.random.default_rng(1)
    y = g.normal(5, 2, (40, 1))
    guess = y + g.normal(0, 1, (40, 1))
    weights = g.multinomial(40, np.full(40, 1 / 40), size=3)
    for value, drawn in zip(r_squared(guess, y, weights), weights, strict=True):
        rows = np.repeat(np.arange(40), drawn)
        assert value == pytest.approx(metrics.r2_score(y[rows], guess[rows]))


def test_linear_probes_of_numbers_and_of_several_labels_are_scikit_learns():
    linear = pytest.importorskip("sklearn.linear_model")
    g = torch.Generator().manual_seed(0)
    x = torch.randn(80, 6, generator=g)
    map_of = torch.randn(6, 2, generator=g)
    out = x @ map_of + 0.3 * torch.randn(80, 2, generator=g)
    mean, scale = x.double().mean(0), x.double().std(0, correction=0)
    z = ((x - mean) / scale).numpy()
    y = out[:, :1].double() * 40 + 7
    found = linear_outcome(x, Target("number", ("n",), y), x, [range(80)])
    unit = y.std(correction=0)
    ridge = linear.Ridge(alpha=1 / found.chosen[0]["C"]).fit(z, (y / unit).numpy()[:, 0])
    torch.testing.assert_close(
        found.scores[0, :, 0], torch.tensor(ridge.predict(z)) * unit, atol=0.05, rtol=1e-3
    )
    tags = (out > 0).double()
    found = linear_outcome(x, Target("multi", ("a", "b"), tags), x, [range(80)])
    for k in range(2):
        one = linear.LogisticRegression(C=found.chosen[0]["C"], tol=1e-8, max_iter=5000)
        theirs = one.fit(z, tags[:, k].numpy()).decision_function(z)
        assert np.abs(found.scores[0, :, k].numpy() - theirs).max() < 0.05


def test_neighbours_of_numbers_are_scikit_learns():
    neighbors = pytest.importorskip("sklearn.neighbors")
    g = torch.Generator().manual_seed(2)
    x, test = torch.randn(60, 8, generator=g), torch.randn(20, 8, generator=g)
    y = torch.randn(60, 1, generator=g).double()
    found = knn_outcome(x, Target("number", ("n",), y), test, [range(60)], k=7).scores[0]
    oracle = neighbors.KNeighborsRegressor(7, metric="cosine", algorithm="brute")
    theirs = oracle.fit(x.double().numpy(), y.numpy()).predict(test.double().numpy())
    np.testing.assert_allclose(found.numpy(), theirs, atol=1e-12)


def test_figures_of_classes():
    y = torch.tensor([0, 1, 2, 2, -1])
    target = Target("class", ("a", "b", "c"), y)
    scores = torch.nn.functional.one_hot(torch.tensor([[0, 1, 2, 0, 1], [0, 1, 2, 2, 1]]), 3)
    row = judge(Outcome(scores.double()), target, None)
    assert row["value"] == pytest.approx(7 / 8) and row["by_seed"] == [0.75, 1.0]
    assert row["interval"][0] < 7 / 8 < row["interval"][1]
    assert row["confusion"] == [[1, 0, 0], [0, 1, 0], [0.5, 0, 1.5]]
    assert "top5" not in row
    assert confusion(torch.tensor([[1]]), torch.tensor([0]), 2).tolist() == [[0, 1], [0, 0]]


def test_gain_is_zero_against_oneself_and_groups_widen_the_interval():
    g = torch.Generator().manual_seed(3)
    y = torch.arange(200) % 4
    target = Target("class", tuple("abcd"), y)
    scores = torch.rand(1, 200, 4, generator=g)
    clumped = torch.arange(200) // 20 % 2 == 0  # whole groups are right
    scores[0, clumped, y[clumped]] += 2
    outcome = Outcome(scores.double())
    assert gain(outcome, outcome, target, None).value == 0
    names = [str(i // 20) for i in range(200)]
    one, many = judge(outcome, target, None), judge(outcome, target, names)
    width = [row["interval"][1] - row["interval"][0] for row in (one, many)]
    assert width[1] > 2 * width[0]
    assert len(set(groups_of(["1", "1"], target.rows([0, 1])))) == 2  # a group of each class


@pytest.mark.parametrize("kind", ["multi", "number"])
def test_other_kinds_have_an_interval_and_a_gain(kind):
    g = torch.Generator().manual_seed(4)
    y = torch.rand(80, 2 if kind == "multi" else 1, generator=g).double()
    y = (y > 0.5).double() if kind == "multi" else y
    target = Target(kind, ("a", "b")[: y.shape[1]], y)
    noise = (0.6 if kind == "multi" else 0.2) * torch.randn(y.shape, generator=g)
    good = Outcome((y + noise)[None])
    bad = Outcome(torch.rand(1, *y.shape, generator=g).double())
    row = judge(good, target, None)
    assert row["interval"][0] < row["value"] < row["interval"][1]
    better = gain(good, bad, target, None)
    assert better.low > 0.1 and better.low < better.value < better.high
