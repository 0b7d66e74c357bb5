"""Options of verbs that play: the settings that an environment has, read off its signature."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..envs.registry import maker_of


def named(words: Sequence[str], option: str = "--env") -> str | None:
    """What an option says before there is a parser; the last one counts."""
    said = None
    for word, after in zip(words, [*words, None][1:], strict=True):
        if word == option:
            said = after
        elif word.startswith(f"{option}="):
            said = word.partition("=")[2]
    return said


def add_settings(parser: Any, id: str) -> list[str]:
    """Add the settings of the environment `id` as options, and return their names.

    Raises:
        UserError: there is no such environment.
    """
    maker, fixed = maker_of(id)
    add = parser.add_class_arguments if isinstance(maker, type) else parser.add_function_arguments
    names: list[str] = add(maker, skip={"batch", *fixed})
    return names
