"""`jepa-video prepare DATASET`: a download becomes a folder that pretrain reads."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any

from ..errors import UserError

HELP = """\
usage: jepa-video prepare DATASET --from PATH --out DIR [--OPTION VALUE ...]

Checks, indexes and splits videos; re-encodes them where asked to. Writes train.csv, val.csv,
index.csv and unreadable.csv into DIR, for: jepa-video pretrain --data.root DIR
Stopped and started again with the same line, it goes on.

DATASET: kinetics, ssv2, ucf101, hmdb51, diving48, moving-mnist, or folder (any folder of videos)

  --from PATH                 the folder of videos; for moving-mnist MNIST's idx file, or `digits`
  --lists DIR                 the dataset's own lists, where they lie elsewhere
  --settings.short_side N     re-encode: H.264, N pixels, constant rate, a key frame every 25 frames
  --settings.fps N            re-encode to this rate    --settings.quality N   CRF, 18
  --settings.group REGEX      what in a file's place names its group (person, scene, source)
  --settings.split own        split anew by group       --settings.val_fraction F   held out, 0.1
  --settings.number N         which official split      --settings.leaks drop  take leaks out of val
  --settings.check quick      a shorter examination     --settings.hash false  no hashes
  --mnist.videos_train N      and .videos_val, .frames, .size, .digits, .speed, .fps, .seed
  --workers N                 helper processes; one for each core

  --help-all                  every option
"""


def run(words: list[str]) -> int:
    """Read the options, prepare, say what there is."""
    from .options import parse

    parser = _parser()
    if "--help-all" in words:
        print(parser.format_help())
        return 0
    if not words or words[0].startswith("-"):
        raise UserError(
            "prepare takes a dataset first, as in: jepa-video prepare folder --from ..."
        )
    config = parse(parser, words[1:])
    for name in ("from", "out"):
        if config[name] is None:
            raise UserError(f"prepare needs --{name}; see jepa-video prepare --help")
    if (config.workers is not None and config.workers < 1) or not config.timeout > 0:
        raise UserError("workers must be 1 or more, and timeout above 0 seconds")
    _prepare(words[0], parser, config)
    return 0


def _parser() -> Any:
    from jsonargparse import ArgumentParser

    from ..data.prepare.job import PrepareSettings
    from ..data.prepare.moving_mnist import MnistSettings

    parser = ArgumentParser(prog="jepa-video prepare", exit_on_error=False, add_help=False)
    parser.allow_abbrev = False
    parser.add_argument("--config", action="config", help="YAML file with any of these options")
    parser.add_argument("--from", type=str | None, help="what was downloaded")
    parser.add_argument("--lists", type=str | None, help="folder of the dataset's own lists")
    parser.add_argument("--out", type=str | None, help="folder that becomes the dataset")
    parser.add_argument("--workers", type=int | None, help="helper processes; one for each core")
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds to re-encode a file")
    parser.add_class_arguments(PrepareSettings, "settings")
    parser.add_class_arguments(MnistSettings, "mnist")
    return parser


def _prepare(dataset: str, parser: Any, config: Any) -> None:
    from ..data.prepare.job import prepare
    from ..training.progress import console

    made = parser.instantiate(config)
    screen = console()
    with _stages(screen) as progress:
        told = prepare(
            dataset,
            config["from"],
            config.out,
            made.settings,
            lists=config.lists,
            mnist=made.mnist,
            workers=config.workers,
            timeout=config.timeout,
            progress=progress,
        )
    counts = ", ".join(f"{count} {split}" for split, count in told["videos"].items())
    say = partial(screen.print, markup=False)
    say(f"{config.out}: {counts}; {told['classes']} classes, {told['frames']} frames")
    if told["unusable"]:
        say(f"{told['unusable']} videos are not used: {config.out}/unreadable.csv says why")
    say(f"  jepa-video pretrain --data.root {config.out}")


@contextlib.contextmanager
def _stages(screen: Any) -> Iterator[Any]:
    """A bar for each stage, one after the other."""
    from .bar import Bar

    bars: dict[str, Bar] = {}
    with contextlib.ExitStack() as stack:

        def progress(stage: str, done: int, total: int) -> None:
            if stage not in bars:
                stack.close()
                bars[stage] = stack.enter_context(Bar(screen, stage, "files"))
            bars[stage](done, total)

        yield progress
