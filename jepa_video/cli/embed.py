"""`jepa-video embed`: features of many videos into one file."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import UserError

HELP = """\
usage: jepa-video embed --encoder PATH --videos PATH --out FILE [--OPTION VALUE ...]

Writes one row of features for each video. Killed at any time and started again with the same line,
it goes on and ends with the same file. Videos that cannot be read are listed beside it.

  --encoder PATH            a run, an export, a checkpoint: what load_encoder takes
  --branch B                online or target (the slow average), where it has both
  --videos PATH             a folder of videos, one with train and val lists, or a manifest
  --root PATH               what paths in a manifest may be relative to
  --out FILE                .npy with a .csv of the rows beside it, or .parquet with all inside
  --settings.features F     mean (default) or max over tokens, or all tokens
  --settings.clips N        clips of each video      --settings.rows R   video or clip a row
  --settings.stride N       source frames between two; or --settings.fps N frames a second
  --settings.dtype D        float32 or float16       --settings.precision P  float32 or bfloat16
  --settings.batch_size N   clips at a time          --settings.shard N      videos between savings
  --settings.check C        full, quick or none      --workers N             loader processes
  --device D                auto, cpu, cuda, cuda:1, mps ...

  --help-all                every option
"""


def run(words: list[str]) -> int:
    """Read the options, encode, say where the file lies."""
    started = time.monotonic()
    from .options import parse

    parser = _parser()
    if "--help-all" in words:
        print(parser.format_help())
        return 0
    config = parse(parser, words)
    for name in ("encoder", "videos", "out"):
        if getattr(config, name) is None:
            raise UserError(f"embed needs --{name}; see jepa-video embed --help")
    _embed(parser, config, started)
    return 0


def _parser() -> Any:
    from typing import Literal

    from jsonargparse import ArgumentParser

    from ..evaluation.embed import EmbedSettings

    parser = ArgumentParser(prog="jepa-video embed", exit_on_error=False, add_help=False)
    parser.allow_abbrev = False
    parser.add_argument("--config", action="config", help="YAML file with any of these options")
    parser.add_argument("--encoder", type=str | None, help="what load_encoder takes")
    parser.add_argument("--branch", type=Literal["online", "target"], default="online")
    parser.add_argument("--videos", type=str | None, help="a folder or a manifest")
    parser.add_argument("--root", type=str | None, help="of relative paths in a manifest")
    parser.add_argument("--out", type=str | None, help="FILE.npy or FILE.parquet")
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda, mps ...")
    parser.add_argument("--workers", type=int, default=0, help="loader processes")
    parser.add_argument("--timeout", type=float, default=30.0, help="seconds that a file may take")
    parser.add_class_arguments(EmbedSettings, "settings")
    return parser


def _embed(parser: Any, config: Any, started: float) -> None:
    from ..evaluation.embed import embed, list_videos
    from ..evaluation.embed_store import reading_lines
    from ..interop.weights import load_encoder
    from ..training.progress import console, duration
    from .bar import Bar
    from .encoders import named_device

    settings = parser.instantiate(config).settings
    if config.workers < 0 or not config.timeout > 0:
        raise UserError("workers must be 0 or more, and timeout above 0 seconds")
    device, out, screen = named_device(config.device), Path(config.out), console()
    encoder = load_encoder(config.encoder, config.branch)
    listing = list_videos(config.videos, config.root)
    say = partial(screen.print, markup=False)
    say(f"{len(listing.rows)} videos of {config.videos} -> {out}, on {device}")
    try:
        with Bar(screen, "embedding") as bar:
            meta = embed(
                encoder,
                listing,
                out,
                settings,
                device=device,
                workers=config.workers,
                timeout=config.timeout,
                progress=bar,
            )
    except KeyboardInterrupt:
        say("stopped; the same line goes on from here")
        raise
    say(f"{out}: {meta['videos']} videos in {duration(time.monotonic() - started)}")
    if meta["unreadable"]:
        say(f"{meta['unreadable']} have no features: {out.with_suffix('.unreadable.csv')}")
    for line in reading_lines(out, meta):
        say(f"  {line}")
