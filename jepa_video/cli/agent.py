"""`jepa-video agent WORD`: what is done with agents; each word is a module of its own."""

from __future__ import annotations

from importlib import import_module
from typing import Final

from ..errors import UserError

WORDS: Final = {
    "fit": ("agent_fit", "learn a critic and a policy around a world model"),
    "eval": ("agent_eval", "play policies on held-out episodes and say what they reach"),
}

HELP = "usage: jepa-video agent WORD [--OPTION VALUE ...]\n\n" + "".join(
    f"  {word:<10} {told}\n" for word, (_, told) in WORDS.items()
) + "\n  jepa-video agent WORD --help    the options of a word\n"  # fmt: skip


def run(words: list[str]) -> int:
    """Find the word and hand over the rest."""
    if not words or words[0] not in WORDS:
        told = f", not {words[0]!r}" if words else ""
        raise UserError(f"agent takes the name of what is done: {' or '.join(WORDS)}{told}")
    room = import_module(f".{WORDS[words[0]][0]}", __package__)
    if words[1:2] and words[1] in ("-h", "--help"):
        print(room.HELP, end="")
        return 0
    code: int = room.run(words[1:])
    return code
