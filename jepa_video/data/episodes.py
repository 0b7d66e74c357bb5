"""EpisodeSet: trajectories of frames, actions, states and rewards, at memory speed.

    episodes = EpisodeSet("rooms")          # a folder of jepa-video collect, or a LeRobot dataset
    one = episodes.episode(0)               # all of it, as arrays
    windows = Windows(episodes, frames=9)   # what a world model learns from

Legend: B windows, T frames of one, A numbers of an action, S of a state, n frames of an episode.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from jepa_video.data.decode import Frames
from jepa_video.data.ledger import Ledger
from jepa_video.data.lerobot import Dataset
from jepa_video.data.sampler import Key
from jepa_video.data.shelf import SHELF, Completion, Progress, Shelf, shelves
from jepa_video.data.split import hold
from jepa_video.errors import UserError
from jepa_video.randomness import SHUFFLE, seed_of

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
_SMALLEST: Final = 8  # pixels


@dataclass(frozen=True)
class Facts:
    """What a world model has to know of the episodes that it learns from.

    Args:
        env: id of the environment; None for datasets of others.
        settings: what it was made with.
        action_size: A; the number of kinds where actions are discrete.
        discrete: whether an action is one of some kinds; it is given as a one-hot row.
        action_low, action_high: what -1 and 1 stand for in the dataset's own units, one for each A.
        action_names, state_names: what the numbers are called, where the dataset says.
        state_size: S.
        size: height and width of a frame.
        fps: frames a second.
        memory: how much is remembered where frames are completed; 0 where they are not.
    """

    env: str | None
    settings: dict[str, Any]
    action_size: int
    discrete: bool
    action_low: tuple[float, ...]
    action_high: tuple[float, ...]
    action_names: tuple[str, ...]
    state_names: tuple[str, ...]
    state_size: int
    size: int
    fps: float
    memory: int = 0


@dataclass(frozen=True)
class Trajectory:
    """One episode of n frames and the n - 1 actions between them.

    Args:
        number: of the episode in the dataset.
        frames: uint8 `n size size 3`; a view of the file, not to be written to.
        actions: float32 `n-1 A` in [-1, 1].
        states: float32 `n S`.
        rewards: float32 `n-1`.
        terminated: bool `n-1`: the episode came to an end of its own with this step; where none
            did, it was truncated, or the dataset does not tell.
        success: bool `n`.
        goal_state: float32, or None.
        seed: of the episode, or None.
        scene: the frames with what is remembered, like them; None where nothing is.
    """

    number: int
    frames: Frames
    actions: Floats
    states: Floats
    rewards: Floats
    terminated: npt.NDArray[np.bool_]
    success: npt.NDArray[np.bool_]
    goal_state: Floats | None
    seed: int | None
    scene: Frames | None = None


class EpisodeSet:
    """Episodes of a folder of `jepa-video collect`, or of a LeRobot dataset (2.0, 2.1, 3.0).

    Frames are decoded once, into files that are mapped into memory (`shelf.py`): 12 kB a frame of
    64 x 64. Actions of our folders are in [-1, 1] as they are; those of others are scaled from the
    least and the largest of each number in the dataset. Kinds become one-hot rows.

    Args:
        root: the folder.
        image: the key of the pictures, where there are several.
        size: height and width of the frames; None takes the pictures' own shorter side. Pictures
            that are not square are squashed.
        share: the part of the episodes that is taken, above 0 to 1; a smaller part lies within
            every larger one of the same seed.
        seed: which part that is.
        state: the column of the state.
        progress: called with episodes done and to do, while frames are decoded.
        completion: completes frames from those before them: `scene`, beside the frames.

    Attributes:
        facts: what a world model has to know.
        chosen: the numbers of the episodes, as `episode` of a batch tells them.
        unreadable: the ledger of files that are left out.

    Raises:
        UserError: no dataset, none of its episodes can be read, pyarrow missing.
    """

    def __init__(
        self,
        root: str | Path,
        image: str | None = None,
        size: int | None = None,
        share: float = 1.0,
        seed: int = 0,
        state: str = "observation.state",
        progress: Progress | None = None,
        completion: Completion | None = None,
    ) -> None:
        data = Dataset(Path(root), image, state)
        entries = data.entries()
        size = min(data.picture) if size is None else size
        if size < _SMALLEST:
            raise UserError(f"size must be {_SMALLEST} or more, not {size}")
        self.root, self.groups = data.root, [entry.group for entry in entries]
        self._shelves = shelves(data, entries, size, progress)
        self._scenes: list[Shelf] = []
        if completion is not None:
            self._scenes = shelves(data, entries, size, progress, completion)
        self.lengths: Ints = np.array([n for shelf in self._shelves for n in shelf.lengths])
        self.numbers = [entry.number for entry in entries]
        self._first = np.cumsum(self.lengths) - self.lengths
        self.unreadable = Ledger(len(entries), 1.0, str(root))
        for shelf in self._shelves:
            for path, reason in shelf.failed.values():
                self.unreadable.add(path, reason)
        self.unreadable.enforce()
        self._columns(data)
        self.facts = self._facts(data, size, completion)
        self.chosen = [place for place, length in enumerate(self.lengths) if length]
        self.chosen = self.part(share, seed).chosen

    def __len__(self) -> int:
        return len(self.chosen)

    @property
    def total_frames(self) -> int:
        """Frames of the chosen episodes."""
        return int(self.lengths[self.chosen].sum())

    def episode(self, index: int) -> Trajectory:
        """The episode `index` of those chosen, 0 to `len(self) - 1`."""
        place = self.chosen[index]
        first, length = int(self._first[place]), int(self.lengths[place])
        rows = slice(first, first + length)
        goal, seed = self._rows.get("goal_state"), self._rows.get("seed")
        return Trajectory(
            number=self.numbers[place],
            frames=self.frames(place, 0, length),
            actions=self.actions[rows][:-1],
            states=self.states[rows],
            rewards=self.rewards[rows][:-1],
            terminated=self.terminated[rows][:-1],
            success=self.success[rows],
            goal_state=None if goal is None else goal[first].reshape(-1),
            seed=None if seed is None else int(seed[first]),
            scene=self.scenes(place, 0, length) if self._scenes else None,
        )

    def episode_seed(self, number: int) -> int | None:
        """The seed of the episode with this number in the dataset; None where none is told."""
        seed = self._rows.get("seed")
        return None if seed is None else int(seed[self._first[self.numbers.index(number)]])

    def frames(self, place: int, start: int, count: int) -> Frames:
        """`count` frames of the episode at `place` in the dataset, from `start` on."""
        return self._taken(self._shelves, place, start, count)

    def scenes(self, place: int, start: int, count: int) -> Frames:
        """The same frames as they are completed; there are some where `facts.memory` is above 0."""
        return self._taken(self._scenes, place, start, count)

    def _taken(self, shelves: list[Shelf], place: int, start: int, count: int) -> Frames:
        first = int(self._first[place] - self._first[place // SHELF * SHELF]) + start
        return shelves[place // SHELF].frames[first : first + count]

    def part(self, share: float, seed: int = 0) -> EpisodeSet:
        """A share of the chosen episodes, at least one; a smaller one lies within a larger one."""
        if not 0 < share <= 1:
            raise UserError(f"share must be above 0 and at most 1, not {share}")
        count = max(round(share * len(self)), 1)
        turn = sorted(self.chosen, key=lambda place: seed_of(seed, SHUFFLE, self.numbers[place]))
        return self.only(sorted(turn[:count]))

    def split(self, fraction: float) -> tuple[EpisodeSet, EpisodeSet]:
        """Training and held-out episodes, by a hash of the group; always the same.

        Episodes of one seed stay together, whoever played them. It is the split that
        `VideoDataModule` makes of the same folder (version 2) with the same fraction.
        """
        if not 0 <= fraction < 1:
            raise UserError(f"val_share must be from 0 to below 1, not {fraction}")
        held = hold([self.groups[place] for place in self.chosen], fraction)
        pairs = list(zip(self.chosen, held, strict=True))
        sides = ([place for place, aside in pairs if aside == side] for side in (False, True))
        train, val = (self.only(side) for side in sides)
        return train, val

    def only(self, places: Sequence[int]) -> EpisodeSet:
        """The same set with other episodes chosen, by their places in the dataset."""
        other = copy.copy(self)
        other.chosen = list(places)
        return other

    def _columns(self, data: Dataset) -> None:
        """Rows of all episodes, one after the other: actions, states, rewards, success."""
        parts = [shelf.rows for shelf in self._shelves if any(shelf.lengths)]
        names = set.intersection(*(set(part) for part in parts))
        self._rows = {name: np.concatenate([part[name] for part in parts]) for name in names}
        total = int(self.lengths.sum())
        given = self._rows[data.action]
        self._kinds = data.own.get("action_size", int(given.max()) + 1) if data.discrete else 0
        if self._kinds:
            self.actions = np.eye(self._kinds, dtype=np.float32)[given.reshape(-1)]
        else:
            given = given.reshape(total, -1).astype(np.float32)
            self._range = _range(given, bool(data.own))
            self.actions = given if data.own else _scaled(given, *self._range)
        states = self._rows.get(data.state or "", np.zeros((total, 0)))
        self.states = states.reshape(total, -1).astype(np.float32)
        self.rewards = self._rows.get("next.reward", np.zeros(total)).astype(np.float32)
        ended = self._rows.get("next.terminated", np.zeros(total))
        self.terminated: npt.NDArray[np.bool_] = ended.astype(bool)
        self.success = self._solved(total)

    def _solved(self, total: int) -> npt.NDArray[np.bool_]:
        """Whether each state is a solved one; LeRobot's column tells it of the state after."""
        if "success" in self._rows:
            return self._rows["success"].astype(bool)
        solved = np.zeros(total, bool)
        if "next.success" in self._rows:
            solved[1:] = self._rows["next.success"][:-1].astype(bool)
            solved[self._first[self.lengths > 0]] = False
        return solved

    def _facts(self, data: Dataset, size: int, completion: Completion | None) -> Facts:
        low, high = (np.zeros(self._kinds), np.ones(self._kinds)) if self._kinds else self._range
        return Facts(
            env=data.own.get("env"),
            settings=data.own.get("settings", {}),
            action_size=self.actions.shape[1],
            discrete=data.discrete,
            action_low=tuple(map(float, low)),
            action_high=tuple(map(float, high)),
            action_names=data.names(data.action),
            state_names=data.names(data.state),
            state_size=self.states.shape[1],
            size=size,
            fps=data.fps,
            memory=completion.capacity if completion else 0,
        )


class Windows(TorchDataset[dict[str, Tensor]]):
    """Windows of T frames that follow one another within an episode; a whole batch at a time.

    Args:
        episodes: where they come from; those that are shorter give none.
        frames: T.
        step: from the start of one to the start of the next in the same episode.

    Raises:
        UserError: no episode is long enough.
    """

    def __init__(self, episodes: EpisodeSet, frames: int, step: int = 1) -> None:
        if frames < 1:
            raise UserError(f"frames must be 1 or more, not {frames}")
        self.episodes, self.frames, self.step = episodes, frames, step
        lengths = episodes.lengths[episodes.chosen]
        self._counts = np.maximum(lengths - frames, -1) // step + 1
        if not self._counts.sum():
            longest = int(lengths.max(initial=0))
            raise UserError(
                f"no episode of {episodes.root} has {frames} frames: the longest has {longest}"
            )

    def __len__(self) -> int:
        return int(self._counts.sum())

    @cached_property
    def _ends(self) -> Ints:
        return np.cumsum(self._counts)

    def __getitem__(self, key: Key | int) -> dict[str, Tensor]:
        return {name: rows[0] for name, rows in self.__getitems__([key]).items()}

    def __getitems__(self, keys: Sequence[Key | int]) -> dict[str, Tensor]:
        """The windows asked for as one batch; see `EpisodeDataModule`."""
        index = np.array([key[0] if isinstance(key, tuple) else key for key in keys])
        row = np.searchsorted(self._ends, index, side="right")
        start = (index - (self._ends - self._counts)[row]) * self.step
        place = np.array(self.episodes.chosen)[row]
        return self.at(place, start)

    def at(self, place: Ints, start: Ints) -> dict[str, Tensor]:
        """The windows that begin at `start` in the episodes at `place` of the dataset, each `B`."""
        these, count = self.episodes, self.frames
        size = these.facts.size
        shown = {"video": these.frames}
        if these.facts.memory:
            shown["scene"] = these.scenes
        told = {}
        for name, frames in shown.items():
            block = np.empty((len(place), count, size, size, 3), np.uint8)
            for out, one, begin in zip(block, place.tolist(), start.tolist(), strict=True):
                out[:] = frames(one, begin, count)
            told[name] = torch.from_numpy(block).permute(0, 1, 4, 2, 3).contiguous()
        rows = (these._first[place] + start)[:, None] + np.arange(count)
        batch = {
            "action": these.actions[rows[:, :-1]],
            "state": these.states[rows],
            "reward": these.rewards[rows[:, :-1]],
            "success": these.success[rows],
            "episode": np.array(these.numbers)[place],
            "start": start,
        }
        return told | {name: torch.from_numpy(values) for name, values in batch.items()}


def _range(actions: Floats, own: bool) -> tuple[Floats, Floats]:
    """Least and largest of each number: -1 and 1 in our own folders."""
    if own:
        ones = np.ones(actions.shape[1], np.float32)
        return -ones, ones
    return actions.min(0), actions.max(0)


def _scaled(actions: Floats, low: Floats, high: Floats) -> Floats:
    """Actions brought to [-1, 1]; a number that never changes becomes 0."""
    span = high - low
    scaled = 2 * (actions - low) / np.where(span > 0, span, 1) - 1
    return np.asarray(np.clip(np.where(span > 0, scaled, 0), -1, 1), np.float32)
