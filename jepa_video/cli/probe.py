"""`jepa-video probe`: what frozen encoders know about labels."""

from __future__ import annotations

import inspect
import json
import time
from pathlib import Path
from typing import Any

from ..errors import UserError

HELP = """\
usage: jepa-video probe ENCODER [ENCODER ...] [--config FILE.yaml] [--OPTION VALUE ...]

Says what frozen encoders know about the labels of videos: linear, attentive, nearest-neighbour and
few-label probes, each beside the untrained encoder, pixels and motion by hand, with 95 % intervals.
An ENCODER is a run, an export or a checkpoint. Features and fits are kept, so that a second call
answers at once. Without data options the videos of the first run are used, as it used them.

  --data.root PATH          labelled videos: class folders, train/ and val/, or a manifest
  --sets "[A, B]"           several such sets, in the place of data.root
  --data.labels "[a, b]"    label columns; all if not given. Values such as rain|night are several
                            labels (mAP), 3.25 is a number (R2), all else a class (top-1, top-5)
  --probe.probes "[...]"    of linear, blocks, attentive, knn, few
  --probe.seeds N           heads of an attentive probe    --probe.draws N    draws of few labels
  --features.clips N        clips of a video               --features.crops N crops of a clip
  --features.grid "[T,H,W]" average tokens to at most this grid for attentive probes; if not given
                            all of them are kept, and at most [4,2,2] where a CPU trains the probes
  --features.cache DIR      where features and fits are kept
  --attentive.depths "[1, 4]"   and rates, decays, epochs, batch, folds, held: the grid of heads
  --trainer.devices N       how many devices compute the features; also accelerator, precision ...
  --out DIR                 folder for summary.json and probe.html; probes/DATE-WORD if not given

  --help-all                every option              --print_config      all settings as YAML
"""

TRAINER = {"accelerator", "devices", "num_nodes", "strategy", "precision"}


def build_parser() -> Any:
    """Every option of `probe`."""
    from jsonargparse import ArgumentParser
    from lightning.pytorch import Trainer

    from ..data.datamodule import VideoDataModule
    from ..evaluation.extraction import FeatureSettings
    from ..evaluation.heads_grid import AttentiveSettings
    from ..evaluation.suite import SuiteSettings

    parser = ArgumentParser(prog="jepa-video probe", exit_on_error=False, add_help=False)
    parser.allow_abbrev = False  # a key that is misspelt is an error, not another key
    parser.add_argument("--config", action="config", help="YAML file with any of these options")
    parser.add_argument("--encoders", type=list[str], default=[], help="runs, exports, checkpoints")
    parser.add_argument("--sets", type=list[str], default=[], help="roots of several sets")
    parser.add_argument("--out", type=str | None, help="folder of the result")
    parser.add_argument("--seed", type=int, default=0, help="of the untrained encoder")
    parser.add_class_arguments(VideoDataModule, "data")
    parser.add_class_arguments(FeatureSettings, "features")
    parser.add_class_arguments(SuiteSettings, "probe")
    parser.add_class_arguments(AttentiveSettings, "attentive")
    skipped = set(inspect.signature(Trainer.__init__).parameters) - TRAINER - {"self"}
    parser.add_class_arguments(Trainer, "trainer", skip=skipped, instantiate=False)
    parser.link_arguments("seed", "data.seed")
    return parser


def run(words: list[str]) -> int:
    """Read the options, measure, write and show."""
    from ..evaluation.probe_run import load_encoders
    from ..training.pretrain import quiet
    from .encoders import data_defaults
    from .options import parse

    started = time.monotonic()
    quiet()
    parser = build_parser()
    if "--help-all" in words:
        print(parser.format_help())
        return 0
    paths, words = _positional(words)
    config = parse(parser, words)
    paths = paths or config.encoders
    if not paths:
        raise UserError("probe needs an encoder, as in: jepa-video probe runs/NAME")
    encoders = load_encoders(paths)
    parser.set_defaults(data_defaults(paths[0], next(iter(encoders.values())), words))
    config = parse(parser, words)
    config.encoders = paths
    _measure(parser, config, encoders, started)
    return 0


def _positional(words: list[str]) -> tuple[list[str], list[str]]:
    """Encoders come first, options after them."""
    count = next((i for i, word in enumerate(words) if word.startswith("-")), len(words))
    return words[:count], words[count:]


def _measure(parser: Any, config: Any, encoders: Any, started: float) -> None:
    from ..evaluation.probe_page import write_page
    from ..evaluation.probe_run import ProbeRun, result_tables
    from ..training.progress import console
    from ..training.run import write_whole
    from .bar import Bar

    made = _made(parser, config)
    screen = console()
    sets = [_data(config, root) for root in config.sets] or [made.data]
    trainer = {key: value for key, value in vars(made.trainer).items() if value is not None}
    job = ProbeRun(encoders, sets, made.features, made.probe, made.attentive, trainer, config.seed)
    summary = job.run(screen, lambda doing, what: Bar(screen, doing, what))
    if summary is None:
        return  # a rank that helped with the features
    out = _folder(config.out)
    kept = config.clone()
    kept.config = None
    write_whole(out / "config.yaml", parser.dump(kept))
    summary["seconds"] = time.monotonic() - started
    write_whole(out / "summary.json", json.dumps(summary, indent=2) + "\n")
    page = write_page(out, summary)
    for table in result_tables(summary):
        screen.print(table)
    screen.print(f"{summary['seconds']:.0f} s, of which features {summary['features_seconds']:.0f}")
    screen.print(f"numbers   {out / 'summary.json'}\npage      {page}", markup=False)


def _made(parser: Any, config: Any) -> Any:
    """The objects of the options."""
    try:
        return parser.instantiate(config)
    except (ValueError, TypeError) as error:
        raise UserError(" ".join(str(error).split())) from error


def _data(config: Any, root: str) -> Any:
    """One of several sets, with the clip settings of all."""
    from ..data.datamodule import VideoDataModule

    options = {**config.data.as_dict(), "root": root, "train": None, "val": None, "weights": None}
    return VideoDataModule(**options)


def _folder(out: str | None) -> Path:
    """The folder of the result; one that is there already is written anew.

    Raises:
        UserError: it cannot be made.
    """
    from ..training.run import fresh_name

    folder = Path(out) if out else Path("probes") / fresh_name()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {folder}: {error.strerror}") from error
    return folder
