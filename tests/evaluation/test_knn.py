"""The neighbour classifier is scikit-learn's."""

from __future__ import annotations

import pytest
import torch

from jepa_video.errors import UserError
from jepa_video.evaluation.knn import knn_accuracy, knn_predict


@pytest.mark.parametrize("k", [1, 2, 5, 20])
def test_equals_scikit_learn_with_its_ties(k: int) -> None:
    neighbors = pytest.importorskip("sklearn.neighbors")
    g = torch.Generator().manual_seed(k)
    # Three classes and no structure: with even k most votes are close and many are tied.
    x, y = torch.randn(150, 6, generator=g).double(), torch.randint(0, 3, (150,), generator=g)
    test = torch.randn(400, 6, generator=g).double()
    oracle = neighbors.KNeighborsClassifier(k, metric="cosine").fit(x.numpy(), y.numpy())
    assert knn_predict(x, y, test, k=k).tolist() == oracle.predict(test.numpy()).tolist()


def test_a_tie_goes_to_the_lowest_class_and_the_weight_to_the_nearest() -> None:
    train = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    labels = torch.tensor([1, 0])
    nearer_to_first = torch.tensor([[2.0, 1.0]])
    assert knn_predict(train, labels, nearer_to_first, k=2).tolist() == [0]
    assert knn_predict(train, labels, nearer_to_first, k=2, temperature=0.07).tolist() == [1]
    assert knn_predict(train, labels, nearer_to_first, k=2, temperature=1e-4).tolist() == [1]


def test_length_does_not_matter_and_k_is_cut_to_what_there_is() -> None:
    g = torch.Generator().manual_seed(0)
    x, test = torch.randn(30, 4, generator=g), torch.randn(50, 4, generator=g)
    y = torch.arange(30) % 3
    stretched = x * torch.rand(30, 1, generator=g).add(0.1)
    assert torch.equal(knn_predict(x, y, test, k=3), knn_predict(stretched, y, test * 9, k=3))
    assert torch.equal(knn_predict(x, y, test, k=30), knn_predict(x, y, test, k=1000))


def test_clips_without_a_label_neither_vote_nor_count() -> None:
    train = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]])
    labels = torch.tensor([-1, 0, 1])
    test = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    assert knn_accuracy(train, labels, test, torch.tensor([0, 1, -1]), k=1) == 1.0
    assert knn_accuracy(train, labels, test, torch.tensor([0, 0, -1]), k=1) == 0.5
    with pytest.raises(UserError, match="labelled"):
        knn_predict(train, torch.tensor([-1, -1, -1]), test)
