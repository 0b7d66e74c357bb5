"""The bank: states of whole episodes, encoded once, and pairs of state and goal drawn from them.

Legend: E episodes of at most T states, F fields of a state `P D`, B pairs of a batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from lightning import LightningDataModule
from torch import Tensor, nn
from torch.utils.data import Dataset

from ..data.episode_module import NO_ROOT, as_gathered
from ..data.episodes import EpisodeSet
from ..data.ledger import Ledger
from ..data.loader import ExactLoader
from ..data.notice import Notice
from ..data.sampler import ClipSampler, Key
from ..data.shelf import Completion
from ..distributed import rank, world_size
from ..errors import UserError
from ..randomness import CLIP, generator
from .changed import Changes
from .trails import Trails

_ANYWHERE = 0.75  # share of the goals that may be any state of the episode
_SHOWN = 4  # one for so many pairs of a batch
_TRAILS = (16, 64, 12)  # scenes of a batch, states and goals of each
_LAST = 0.5  # share of their goals that are where the episode led to


class Bank(Dataset[dict[str, Tensor]]):
    """States with their actions and rewards; a key draws a state and a goal for it.

    Goals are states of the same scene: of the same episode, before or after, and of the others that
    took place there. A quarter of them lies within `near` steps.

    Args:
        seed: of the goals.
        near: steps.
        stride: steps to a later state, which trails tell beside; 0 for none.
        onward: steps after the state, all of which are told beside; 0 for none.
    """

    def __init__(self, seed: int = 0, near: int = 20, stride: int = 0, onward: int = 0) -> None:
        self.seed, self.near, self.stride, self.onward = seed, near, stride, onward
        self.states: list[Tensor] = []  # T P D each
        self.actions: list[Tensor] = []  # T-1 A each
        self.rewards: list[Tensor] = []  # T-1 each
        self.terminated: list[Tensor] = []  # T-1 each, bool
        self.scenes: list[int | None] = []  # None: a scene that no other episode has
        self.shown: list[tuple[int, int]] = []  # steps, from and to, that are worth imitating
        self.changed: list[Tensor | None] = []
        self.spots: nn.Linear | None = None  # tells where places lie, for trails
        self.beside = 0.0  # how close they are neighbours, see `Trails`
        self.trails: Trails | None = None
        self._odd: Tensor | None = None
        self._where: Tensor | None = None

    def add(
        self,
        states: Tensor,
        actions: Tensor,
        rewards: Tensor,
        terminated: Tensor | None = None,
        scene: int | None = None,
        shown: tuple[int, int] = (0, 0),
        changed: Tensor | None = None,
    ) -> None:
        """One episode: `T P D`, `T-1 A`, `T-1`, bool `T-1`.

        Without the last it was truncated; episodes of the same `scene` lend each other goals.
        `shown` are the steps, from and to, whose actions a policy is to learn: they were planned.
        `changed`, `T 2`, tells where its pictures did, where that is known.
        """
        self.scenes.append(scene)
        self.shown.append(shown)
        self.changed.append(changed)
        self.states.append(states)
        self.actions.append(actions)
        self.rewards.append(rewards)
        never = torch.zeros(len(rewards), dtype=torch.bool)
        self.terminated.append(never if terminated is None else terminated)
        self._where = self.trails = self._odd = None

    def __len__(self) -> int:
        return len(self._table()[0])

    def _table(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Of each step that was taken: its row in `flat`, first row and length of its episode."""
        if self._where is None:
            if not self.states:
                raise UserError("there are no episodes to learn from")
            lengths = torch.tensor([len(s) for s in self.states])
            first = lengths.cumsum(0) - lengths
            steps = torch.cat(
                [torch.arange(n - 1) + f for n, f in zip(lengths, first, strict=True)]
            )
            episode = torch.repeat_interleave(torch.arange(len(lengths)), lengths - 1)
            self._flat = torch.cat(self.states)
            self.states = list(torch.split(self._flat, lengths.tolist()))  # they lie there once
            self._acts, self._gains = torch.cat(self.actions), torch.cat(self.rewards)
            self._ends = torch.cat(self.terminated)
            self._summed = F.pad(self._acts.double().cumsum(0), (0, 0, 1, 0))
            self._first, self._lengths, self._where = first[episode], lengths[episode], steps
            self._lend(episode, first, lengths)
            begin, end = torch.tensor(self.shown).T[:, episode]
            time = steps - self._first
            self._planned = torch.nonzero((begin <= time) & (time < end))[:, 0]
            self._led_to = self._first + end
        return self._where, self._first, self._lengths, self._flat, self._acts

    def _lend(self, episode: Tensor, first: Tensor, lengths: Tensor) -> None:
        """Rows of `flat` scene by scene; of each step, where its scene begins and how many rows."""
        alone = (-1 - i for i in range(len(self.scenes)))
        named = [own if s is None else s for s, own in zip(self.scenes, alone, strict=True)]
        kinds, group = torch.unique(torch.tensor(named), return_inverse=True)
        order = group.argsort(stable=True)
        parts = [torch.arange(int(first[i]), int(first[i] + lengths[i])) for i in order]
        sizes = torch.zeros(len(kinds), dtype=torch.long).index_add_(0, group, lengths)
        self._rows = torch.cat(parts)
        self._scene = (sizes.cumsum(0) - sizes)[group][episode]
        self._scene_rows = sizes[group][episode]

    @torch.no_grad()
    def _lay(self, where: nn.Linear) -> Trails:
        """The ways of memory through its scenes, see `trails.py`."""
        steps, _, _, flat, _ = self._table()
        follows = torch.zeros(len(flat), dtype=torch.bool)
        follows[steps] = True
        self._number = follows.cumsum(0) - 1  # of the step that begins at a row
        begin, size = torch.unique(torch.stack((self._scene, self._scene_rows)), dim=1).tolist()
        scenes = [self._rows[b : b + n] for b, n in zip(begin, size, strict=True)]
        spots = where(flat.flatten(1)[:, : where.in_features].to(where.weight.device))
        return Trails(scenes, follows, spots.cpu(), self.seed, self.beside)

    def __getitem__(self, key: Key | int) -> dict[str, Tensor]:
        return {name: rows[0] for name, rows in self.__getitems__([key]).items()}

    def __getitems__(self, keys: Sequence[Key | int]) -> dict[str, Tensor]:
        """`state`, `goal`, `next` `B P D`, `action` `B A`, `reward` `B`; `ahead` `B`.

        `terminated`, bool `B`: the episode ended of its own, and nothing comes after `next`.
        `ahead` tells how many steps after the state the episode was at the goal; 0 or less: before
        it, or never. Where there are planned steps, also some of those: `shown_state`,
        `shown_action`, and `shown_goal`, a later state of the same plans, half of them the last.
        """
        where, first, lengths, flat, actions = self._table()
        index = torch.tensor([key[0] if isinstance(key, tuple) else key for key in keys])
        draw = keys[0][1] if isinstance(keys[0], tuple) else int(index[0])
        source = generator(self.seed, CLIP, draw)
        even = torch.rand(3, len(index), generator=source)
        row = where[index]
        low, high = first[index], first[index] + lengths[index] - 1
        anywhere = self._scene[index] + (even[0] * self._scene_rows[index]).long()
        anywhere = self._rows[anywhere]
        close = row + ((2 * even[1] - 1) * (self.near + 1)).long()
        goal = torch.where(even[2] < _ANYWHERE, anywhere, close.clamp(low, high))
        own = (goal >= low) & (goal <= high)
        return {
            "state": flat[row],
            "goal": flat[goal],
            "next": flat[row + 1],
            "action": actions[index],
            "reward": self._gains[index],
            "terminated": self._ends[index],
            "ahead": torch.where(own, goal - row, -1),
            **self._onward(row, high, index, source),
            **self._demonstrated(-(-len(index) // _SHOWN), source),
            **self._surprising(len(index), source),
            **self._trodden(source),
        }

    def _onward(
        self, row: Tensor, high: Tensor, index: Tensor, source: torch.Generator
    ) -> dict[str, Tensor]:
        """What followed: `way` `B n P D`, `did` `B n A`, `ended` `B n`, and how many `steps` count.

        As many as are drawn, up to n, and to the end of the episode; `there` tells how many there
        are, `B`.
        """
        if not self.onward:
            return {}
        time = torch.arange(self.onward)
        drawn = torch.randint(1, self.onward + 1, row.shape, generator=source)
        left = high - row
        done = index[:, None] + torch.minimum(time, left[:, None] - 1)
        return {
            "way": self._flat[torch.minimum(row[:, None] + 1 + time, high[:, None])],
            "did": self._acts[done],
            "ended": self._ends[done],
            "steps": torch.minimum(drawn, left),
            "there": left.clamp(max=self.onward),
        }

    def transitions(
        self, count: int, which: Tensor | None = None
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """All steps in order, or those of the numbers `which`, `count` at once.

        Each time the states before, the actions, and the states after.
        """
        where, _, _, flat, actions = self._table()
        if which is not None:
            where, actions = where[which], actions[which]
        for rows, done in zip(torch.split(where, count), torch.split(actions, count), strict=True):
            yield flat[rows], done, flat[rows + 1]

    def weigh(self, weights: Tensor) -> None:
        """Tell some steps beside each batch, each as often as it weighs, `len(self)`."""
        self._odd = weights.double().cumsum(0)

    def _surprising(self, count: int, source: torch.Generator) -> dict[str, Tensor]:
        """`odd_state`, `odd_next` `B P D` and `odd_action`, where `weigh` was called."""
        if self._odd is None:
            return {}
        even = torch.rand(count, generator=source, dtype=torch.float64)
        index = torch.searchsorted(self._odd, even * self._odd[-1]).clamp(max=len(self._odd) - 1)
        row = self._table()[0][index]
        return {
            "odd_state": self._flat[row],
            "odd_next": self._flat[row + 1],
            "odd_action": self._acts[index],
        }

    def _trodden(self, source: torch.Generator) -> dict[str, Tensor]:
        """Ways of a few scenes, where trails are asked for.

        `trail_state`, `trail_next` `B M P D`, `trail_goal` `B J P D`; `trail_steps` `B M J`, from
        the first to the last of them. With a stride, `trail_later` and `trail_did`, see `strides`.
        """
        if self.spots is None:
            return {}
        if self.trails is None:
            self.trails = self._lay(self.spots)
        state, goal, steps = self.trails.draw(*_TRAILS, source)
        strides = self.strides(self._number[state]) if self.stride else ()
        return {
            **dict(zip(("trail_later", "trail_did"), strides, strict=False)),
            "trail_state": self._flat[state],
            "trail_next": self._flat[state + 1],
            "trail_action": self._acts[self._number[state]],
            "trail_goal": self._flat[goal],
            "trail_steps": steps,
        }

    def _demonstrated(self, count: int, source: torch.Generator) -> dict[str, Tensor]:
        """Planned steps, each with where its plans led to later on."""
        where, _, _, flat, actions = self._table()
        if not len(self._planned):
            return {}
        even = torch.rand(3, count, generator=source)
        index = self._planned[(even[0] * len(self._planned)).long()]
        row, end = where[index], self._led_to[index]
        later = row + 1 + (even[1] * (end - row)).long()
        goal = torch.where(even[2] < _LAST, end, later)
        return {
            "shown_state": flat[row],
            "shown_goal": flat[goal],
            "shown_action": actions[index],
        }

    def spread(self, count: int = 4096) -> dict[str, Tensor]:
        """So many pairs, evenly from all of memory, or all that there are."""
        count = min(count, len(self))
        return self.__getitems__([i * len(self) // count for i in range(count)])

    def strides(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """The states a stride after the steps `...`, or the last of the episode, `... P D`.

        And what was done in between, `... A`: the sum of the actions, by the stride.
        """
        where, first, lengths, flat, _ = self._table()
        row = where[index]
        later = torch.minimum(row + self.stride, first[index] + lengths[index] - 1)
        done = self._summed[index + later - row] - self._summed[index]
        return flat[later], (done / self.stride).to(flat.dtype)

    def gone(self, aim: int, count: int = 4096) -> tuple[Tensor, Tensor]:
        """How far places, the first `aim` numbers of states, went in a stride, by what was done.

        `N aim` and `N A`, of N steps, evenly from all of memory.
        """
        count = min(count, len(self))
        index = torch.arange(count) * len(self) // count
        later, did = self.strides(index)
        before = self._flat[self._table()[0][index]]
        return later.flatten(1)[:, :aim] - before.flatten(1)[:, :aim], did

    def strayed(self, aim: int) -> Tensor:
        """Places, the first `aim` numbers of states, less the mean of their episode: `N aim`."""
        return torch.cat(
            [part - part.mean(0) for part in (s.flatten(1)[:, :aim] for s in self.states)]
        )

    def seen(self, aim: int) -> Changes | None:
        """Places, the first `aim` numbers of states, and where pictures changed, where known."""
        pairs = zip(self.states, self.changed, strict=True)
        known = [(state.flatten(1)[:, :aim], spots) for state, spots in pairs if spots is not None]
        if not known:
            return None
        places, spots = map(torch.cat, zip(*known, strict=True))
        there = ~spots.isnan().any(1)
        return Changes(places[there], spots[there])

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and deviation of the states, `P*D` each."""
        flat = self._table()[3].flatten(1)
        std = flat.std(0)
        # What hardly moves says little, and is not to be blown up.
        return flat.mean(0), std.clamp_min(max(1e-4, 0.1 * float(std.square().mean().sqrt())))


class BankData(LightningDataModule):
    """Pairs of the bank for a learner, in an order that resumes exactly.

    Args:
        root: a folder of jepa-video collect, or a LeRobot dataset: the memory that is learned from.
        share: the part of its training episodes that is used, nested.
        val_share: the part that is left out, as the world model left it out.
        batch_size: pairs of a batch, on each device.
        near: a quarter of the goals lies within so many steps of the state.
        seed: of order, goals and share.
        image: the key of the pictures, where the dataset has several.
    """

    def __init__(
        self,
        root: str | None = None,
        share: float = 1.0,
        val_share: float = 0.1,
        batch_size: int = 1024,
        near: int = 20,
        seed: int = 0,
        image: str | None = None,
    ) -> None:
        super().__init__()
        if root is None:
            raise UserError(NO_ROOT)
        if batch_size < 2 or near < 1:
            raise UserError(
                f"data.batch_size must be 2 or more and data.near 1, not {batch_size} and {near}"
            )
        self.root, self.share, self.val_share, self.image = root, share, val_share, image
        self.batch_size, self.seed = batch_size, seed
        self.bank = Bank(seed, near)
        self.episodes: EpisodeSet | None = None

    def open(self, size: int, completion: Completion | None = None) -> EpisodeSet:
        """The training episodes, with frames of `size` pixels; decoded at the first call."""
        if self.episodes is None:
            with Notice(self.root, "decoding", "episodes") as notice:
                whole = EpisodeSet(
                    self.root, self.image, size, progress=notice, completion=completion
                )
            self.episodes = whole.split(self.val_share)[0].part(self.share, self.seed)
        return self.episodes

    @property
    def unreadable(self) -> Ledger:
        """The files that could not be read."""
        assert self.episodes is not None
        return self.episodes.unreadable

    def train_dataloader(self) -> ExactLoader:
        """Every step once in an epoch, in equal parts for the ranks; all of few in one batch."""
        steps, world = len(self.bank), world_size()
        if steps < world:
            raise UserError(f"{steps} steps of memory are too few for {world} processes")
        batch = self.batch_size if steps >= world * self.batch_size else 1
        sampler = ClipSampler([steps], rank=rank(), world=world, batch=batch, seed=self.seed)
        return ExactLoader(
            self.bank,
            batch_size=self.batch_size,
            sampler=sampler,
            workers=0,
            collate=as_gathered,
            pin_memory=torch.cuda.is_available(),
        )

    def held_out(self, clips: int) -> Iterator[dict[str, Tensor]]:
        """Nothing: an agent is judged in its environment."""
        return iter(())
