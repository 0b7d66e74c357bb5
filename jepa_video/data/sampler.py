"""The order of videos: seeded, shared out to ranks, and a function of (epoch, position) alone.

A key is `(index, draw)`. `draw` numbers the position in the whole run, over all ranks, so that what
is drawn for a key (where a clip starts) is the same on one rank and on eight, in the process or in
a worker, and after a resume.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import Sampler

from jepa_video.errors import UserError
from jepa_video.randomness import SHUFFLE, generator

Key = tuple[int, int]


class ClipSampler(Sampler[Key]):
    """Every video once in an epoch; with weights, each dataset as often as its weight says.

    Args:
        lengths: number of videos of each dataset; their indices follow one another.
        weights: one positive number for each dataset; None takes every video once. An epoch has
            the same length either way; a dataset that is taken more often than it is long begins
            again, and what an epoch leaves out comes first in the next.
        shuffle: draw an order for each epoch.
        rank, world: this process takes every `world`-th position.
        batch: an epoch ends with a whole batch of so many on every rank.
        seed: of the orders.

    What does not divide by `world * batch` is left out of an epoch (another part in each epoch):
    all ranks take the same number of steps, and the end of the last batch is the end of the epoch.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        weights: Sequence[float] | None = None,
        *,
        shuffle: bool = True,
        rank: int = 0,
        world: int = 1,
        batch: int = 1,
        seed: int = 0,
    ) -> None:
        if weights is not None and (len(weights) != len(lengths) or min(weights) <= 0):
            raise UserError(
                f"data.weights needs one positive number for each of the {len(lengths)} datasets, "
                f"not {list(weights)}"
            )
        self.lengths, self.weights = list(lengths), list(weights) if weights else None
        self.shuffle, self.seed = shuffle, seed
        self.rank, self.world, self.batch = rank, world, batch
        self.epoch = 0
        self.position = 0  # of this rank within the epoch
        self._resumed = False

    @property
    def total(self) -> int:
        """Positions of an epoch over all ranks, before the remainder is left out."""
        return sum(self.lengths)

    def __len__(self) -> int:
        """Positions of this rank in an epoch."""
        return self.total // (self.world * self.batch) * self.batch

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of an epoch; a position that was resumed within it stays."""
        if epoch != self.epoch:
            self.epoch, self.position, self._resumed = epoch, 0, False

    def __iter__(self) -> Iterator[Key]:
        """Keys from the present position on; a new epoch where one was begun and left."""
        if self.position and not self._resumed:
            self.epoch, self.position = self.epoch + 1, 0
        self._resumed = False
        order, first = self._order(), self.epoch * self.total
        while self.position < len(self):
            place = self.position * self.world + self.rank
            self.position += 1
            yield order[place], first + place
        self.epoch, self.position = self.epoch + 1, 0

    def state_dict(self) -> dict[str, Any]:
        """Where the run is; positions count over all ranks, so that their number may change."""
        return {"epoch": self.epoch, "position": self.position * self.world}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`; the end of an epoch is the start of the next."""
        self.epoch, self.position = int(state["epoch"]), int(state["position"]) // self.world
        if self.position >= len(self):
            self.epoch, self.position = self.epoch + 1, 0
        self._resumed = self.position > 0

    def _order(self) -> list[int]:
        picks = self._all() if self.weights is None else self._weighted(self.weights)
        if not self.shuffle:
            return picks
        turn = torch.randperm(len(picks), generator=generator(self.seed, SHUFFLE, self.epoch))
        return torch.tensor(picks)[turn].tolist()

    def _all(self) -> list[int]:
        return list(range(self.total))

    def _weighted(self, weights: list[float]) -> list[int]:
        """Indices of one epoch: shares by weight, each dataset walked round in seeded rounds."""
        picks: list[int] = []
        first = 0
        for dataset, (length, count) in enumerate(
            zip(self.lengths, shares(self.total, weights), strict=True)
        ):
            begin = self.epoch * count
            for place in range(begin, begin + count):
                turn, step = divmod(place, length)
                if step == 0 or place == begin:
                    order = self._round(dataset, turn, length)
                picks.append(first + order[step])
            first += length
        return picks

    def _round(self, dataset: int, turn: int, length: int) -> list[int]:
        if not self.shuffle:
            return list(range(length))
        source = generator(self.seed, SHUFFLE, dataset, turn)
        return torch.randperm(length, generator=source).tolist()


def shares(total: int, weights: Sequence[float]) -> list[int]:
    """Whole numbers in proportion to `weights` that sum to `total` (largest remainders first)."""
    exact = [total * weight / sum(weights) for weight in weights]
    counts = [int(value) for value in exact]
    order = sorted(range(len(exact)), key=lambda i: counts[i] - exact[i])
    for i in order[: total - sum(counts)]:
        counts[i] += 1
    return counts
