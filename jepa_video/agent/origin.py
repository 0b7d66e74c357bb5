"""What an agent was made from, by content: a run that goes on knows it again where it has moved.

origin.json
  world    a print of the world model's weights
  memory   the episodes, their steps, and a print of what was done and felt in them
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Final

from ..data.episodes import EpisodeSet
from ..errors import UserError
from ..interop.files import read_json
from ..training.run import write_whole
from .world_files import WEIGHTS, world_folder

FILE: Final = "origin.json"
STAYS: Final = "it may have moved, and nothing else; start a new run instead"


def note_origin(run: Path, world: str, episodes: EpisodeSet) -> None:
    """Write down what the run in a folder begins with."""
    told = {"world": print_of(world), "memory": known_by(episodes)}
    write_whole(run / FILE, json.dumps(told, indent=2) + "\n")


def refuse_origin(run: Path, world: str, episodes: EpisodeSet) -> None:
    """Say it where a run has begun with something else; an early run does not tell with what.

    Raises:
        UserError: with another world model, or other episodes.
    """
    if not (run / FILE).exists():
        return
    told = read_json(run / FILE)
    if told.get("world") != print_of(world):
        raise UserError(f"{world} is not the world model that {run} began with: {STAYS}")
    here, before = known_by(episodes), told.get("memory", {})
    if here != before:
        raise UserError(
            f"{episodes.root} has not the episodes that {run} began with "
            f"({_counts(here)} here, {_counts(before)} there): {STAYS}"
        )


def print_of(world: str) -> str:
    """Of the weights of a world model, as they lie in their file."""
    with (world_folder(world) / WEIGHTS).open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()[:32]


def known_by(episodes: EpisodeSet) -> dict[str, Any]:
    """The chosen episodes; pictures are left out, which other machines may decode otherwise."""
    state, steps = hashlib.blake2b(digest_size=16), 0
    for index in range(len(episodes)):
        one = episodes.episode(index)
        steps += len(one.actions)
        state.update(f"{one.number} {len(one.actions)} ".encode())
        for part in (one.actions, one.states, one.rewards, one.terminated):
            state.update(part.tobytes())
    return {"episodes": len(episodes), "steps": steps, "print": state.hexdigest()}


def _counts(memory: dict[str, Any]) -> str:
    return f"{memory.get('episodes')} episodes of {memory.get('steps')} steps"
