"""The k-nearest-neighbour classifier on frozen features: no training, nothing to tune but `k`.

Shapes: `N` training clips, `M` test clips, `D` width, `C` classes.
"""

from __future__ import annotations

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from jepa_video.errors import UserError

_CHUNK: Final = 1024


def knn_predict(
    train: Tensor, labels: Tensor, test: Tensor, *, k: int = 20, temperature: float | None = None
) -> Tensor:
    """The class that most of the `k` training clips nearest by cosine belong to.

    Args:
        train: features `N D`.
        labels: `N`, classes from 0; -1 means none, and the clip is left out.
        test: features `M D`.
        k: neighbours that vote, at most all.
        temperature: of the weights exp(similarity / temperature) (Wu et al., arXiv 1805.01978,
            eq. 7); without it every neighbour has one vote.

    Returns:
        Classes `M`. Between classes with equally many votes the lowest number wins, as in
        scikit-learn; of neighbours at the same distance the one that comes first.
    """
    kept = labels >= 0
    if not bool(kept.any()):
        raise UserError("a nearest-neighbour classifier needs at least one labelled clip")
    votes = F.one_hot(labels[kept].long()).double()  # N C
    return knn_scores(train[kept], votes, test, k=k, temperature=temperature).argmax(1)


def knn_scores(
    train: Tensor, votes: Tensor, test: Tensor, *, k: int = 20, temperature: float | None = None
) -> Tensor:
    """The mean of what the `k` nearest clips say, `M C`.

    Args:
        train: features `N D`.
        votes: what each training clip says, `N C`: one-hot classes, several labels, or a number.
        test: features `M D`.
        k: neighbours, at most all.
        temperature: as in `knn_predict`.
    """
    # In double: otherwise ties and near ties fall as the order of summation has it.
    bank, votes = F.normalize(train.double(), dim=1), votes.double()
    k = min(k, len(bank))
    parts = []
    for part in torch.split(test, _CHUNK):
        similarity = F.normalize(part.double(), dim=1) @ bank.T  # M N
        near, index = similarity.sort(dim=1, descending=True, stable=True)
        near, index = near[:, :k], index[:, :k]
        weight = torch.ones_like(near) if temperature is None else _weights(near, temperature)
        said = (weight.unsqueeze(2) * votes[index]).sum(1)
        parts.append(said / weight.sum(1, keepdim=True))
    return torch.cat(parts)


def _weights(similarity: Tensor, temperature: float) -> Tensor:
    """Proportional to exp(similarity / temperature), without overflow at a small temperature."""
    return ((similarity - similarity[:, :1]) / temperature).exp()


def knn_accuracy(
    train: Tensor,
    labels: Tensor,
    test: Tensor,
    test_labels: Tensor,
    *,
    k: int = 20,
    temperature: float | None = None,
) -> float:
    """The share of labelled test clips that `knn_predict` gets right, 0..1."""
    kept = test_labels >= 0
    predicted = knn_predict(train, labels, test[kept], k=k, temperature=temperature)
    return float((predicted == test_labels[kept]).double().mean())
