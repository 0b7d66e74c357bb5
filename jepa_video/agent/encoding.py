"""Memory is filled: the states of whole episodes, encoded once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from .. import heap
from ..data.episodes import EpisodeSet, Trajectory
from ..data.notice import Notice
from ..envs.point import scene_of
from ..errors import UserError
from ..training.world_model import WorldModel
from .bank import Bank
from .changed import changes

_FRAMES: Final = 512  # encoded at once


@torch.no_grad()
def encoded(
    world: WorldModel,
    episodes: EpisodeSet,
    bank: Bank,
    device: torch.device,
    shown: Callable[[Trajectory], tuple[int, int]] = lambda one: (0, 0),
    noted: int = 0,
) -> None:
    """Fill the bank with the states of all chosen episodes.

    Args:
        world: encodes.
        episodes: what is encoded.
        bank: is filled.
        device: where it encodes.
        shown: from and to which of its frames an episode was planned.
        noted: episodes, evenly of all, of which is noted where their pictures change, at most.

    Raises:
        UserError: no episode has a step between two states.
    """
    notice, k = Notice(str(episodes.root), "encoding", "episodes"), world.encoder.frames
    count = len(episodes)
    lengths = [max(int(episodes.lengths[place]) - k + 1, 0) for place in episodes.chosen]
    steps = [index for index, states in enumerate(lengths) if states > 1]  # others have none
    if not steps:
        raise UserError(f"{episodes.root}: no episode has more than the {k} frames of a state")
    # All states in one block, and nothing else that stays: what is kept between the encoder's large
    # temporary blocks leaves holes in the heap, 11 GB of them after 2,200 episodes.
    block = torch.empty(sum(lengths), world.state.tokens, world.state.width)
    parts = torch.split(block, lengths)
    for index in steps:
        one = episodes.episode(index)
        parts[index].copy_(states_of(world, one.frames, one.states, device, one.scene))
        notice(index + 1, count)
    heap.release()
    scenes = episodes.facts.settings.get("scenes")
    for index in steps:
        one = episodes.episode(index)
        told = (one.actions, one.rewards, one.terminated)
        scene = None if scenes is None or one.seed is None else scene_of(one.seed, scenes)
        done, gains, ends = (torch.from_numpy(np.array(part))[k - 1 :] for part in told)
        begin, end = (max(step - k + 1, 0) for step in shown(one))
        changed = None
        if noted and index % -(-count // noted) == 0:
            changed = changes(torch.from_numpy(np.array(one.frames)))[k - 1 :]
        bank.add(parts[index], done, gains, ends, scene, (begin, end), changed)


@torch.no_grad()
def states_of(
    world: WorldModel, frames: Any, own: Any, device: torch.device, scene: Any = None
) -> Tensor:
    """The states `n-K+1 P D`, on the CPU, of an episode's frames `n H W 3`.

    Args:
        world: encodes.
        frames: as they were seen.
        own: the true states `n S`.
        device: where it encodes.
        scene: the frames as memory completes them, or None.
    """
    shown = [frames] if scene is None else [frames, scene]
    videos = [torch.from_numpy(np.array(part)).permute(0, 3, 1, 2) for part in shown]
    felt, k, parts = torch.from_numpy(np.array(own)), world.encoder.frames, []
    for start in range(0, len(felt) - k + 1, _FRAMES):
        rows = slice(start, start + _FRAMES + k - 1)
        video, own, *whole = (
            part[None, rows].to(device) for part in (videos[0], felt, *videos[1:])
        )
        parts.append(world.encode(video, own, *whole)[0])
    return torch.cat(parts).cpu()
