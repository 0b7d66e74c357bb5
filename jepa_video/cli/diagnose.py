"""`jepa-video diagnose ENCODER`: the state of an encoder in figures, in words, and on one page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError

HELP = """\
usage: jepa-video diagnose ENCODER [--data.root PATH] [--OPTION VALUE ...]

Says what state an encoder is in, without labels: how many directions its features fill (RankMe,
LiDAR, spectrum), how far clips differ, how straight states move, and for a run of pretrain whether
the energy tells true pairs from shuffled ones. Random weights of the same shape stand beside it.

  ENCODER                   a run, an export, a checkpoint: what load_encoder takes
  --data.root PATH          videos to look at; those of the run, or the embedded set, if not given
  --data.frames N, --data.stride N, --data.size N
                            as the encoder was trained, if not given
  --clips N                 at most so many clips, of held-out videos where there are some
  --views N                 random crops of each clip, for LiDAR and alignment
  --branch B                online or target (the slow average), where it has both
  --out FILE.html           the page; in the run's folder, else here, if not given. The figures lie
                            beside it as FILE.json
  --seed N                  of the crops and of the random weights
  --device D                auto, cpu, cuda, cuda:1, mps ...

  --help-all                every option
"""


def run(words: list[str]) -> int:
    """Read the options, measure, write the page, say what was found."""
    parser = _parser()
    if "--help-all" in words:
        print(parser.format_help())
        return 0
    if not words or words[0].startswith("-"):
        raise UserError("diagnose begins with an encoder, as in: jepa-video diagnose runs/NAME")
    _diagnose(parser, words[0], words[1:])
    return 0


def _parser() -> Any:
    from typing import Literal

    from jsonargparse import ArgumentParser

    from ..data.datamodule import VideoDataModule

    parser = ArgumentParser(prog="jepa-video diagnose", exit_on_error=False, add_help=False)
    parser.allow_abbrev = False
    parser.add_argument("--config", action="config", help="YAML file with any of these options")
    parser.add_argument("--clips", type=int, default=512, help="at most so many clips")
    parser.add_argument("--views", type=int, default=4, help="random crops of each clip")
    parser.add_argument("--branch", type=Literal["online", "target"], default="online")
    parser.add_argument("--out", type=str | None, help="the page")
    parser.add_argument("--seed", type=int, default=0, help="of crops and random weights")
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda, mps ...")
    parser.add_class_arguments(VideoDataModule, "data")
    parser.link_arguments("seed", "data.seed")
    return parser


def _diagnose(parser: Any, path: str, words: Sequence[str]) -> None:
    from ..evaluation.diagnosis_page import write_diagnosis
    from ..evaluation.diagnostics import diagnose, gap_figures, look
    from ..evaluation.probing import first_weights
    from ..interop.weights import load_encoder
    from ..training.pretrain import quiet
    from ..training.progress import console
    from .encoders import data_defaults, named_device
    from .options import parse

    quiet()
    parse(parser, words)  # what is misspelt is told before anything is read
    encoder = load_encoder(path)
    parser.set_defaults(data_defaults(path, encoder, words))
    config = parse(parser, words)
    for name in ("clips", "views"):
        if getattr(config, name) < 2:
            raise UserError(f"{name} must be 2 or more, not {getattr(config, name)}")
    if config.branch != "online":
        encoder = load_encoder(path, config.branch)
    data, device, screen = _data(parser, config, encoder), named_device(config.device), console()
    batches = _batches(data, config.clips)
    shown = sum(len(batch["video"]) for batch in batches)
    screen.print(f"{shown} clips of {data.where}, {config.views} crops of each, on {device}")
    found = []
    for one in (encoder, first_weights(encoder, config.seed)):
        seen = look(one.to(device), batches, views=config.views, seed=config.seed, device=device)
        found.append(diagnose(seen))
    now, untrained = found
    module = _module(path)
    if module is not None:
        now.figures.update(gap_figures(module.to(device).eval(), batches))
    page = _page(path, config.out)
    facts = [
        f"{shown} clips of {data.where}",
        f"{config.views} crops of each",
        f"width {now.width}",
    ]
    write_diagnosis(page, Path(path).name, facts, now, untrained)
    told = now.verdict(untrained)
    _write_figures(page.with_suffix(".json"), path, now, untrained)
    _show(screen, now, untrained)
    screen.print(
        f"\n{told}\n\npage      {page}\nfigures   {page.with_suffix('.json')}", markup=False
    )


def _data(parser: Any, config: Any, encoder: Any) -> Any:
    """The data module, for clips of the length that the encoder takes."""
    data = parser.instantiate(config).data
    if data.settings.frames != encoder.frames:
        raise UserError(
            f"data.frames is {data.settings.frames} and the encoder takes {encoder.frames}: leave "
            "data.frames out, or give the same"
        )
    return data


def _batches(data: Any, most: int) -> list[Any]:
    """Clips from the middle of at most so many videos: held-out ones where there are some."""
    from ..evaluation.probing import thinned

    try:
        videos = data.clips("val")
    except UserError:
        videos = data.clips("train")
    chosen = thinned(range(len(videos.paths)), most)
    return [batch for batch in data.loader(videos.evaluation(chosen)) if len(batch["video"])]


def _module(path: str) -> Any:
    """The whole module of a run of `pretrain`, with its predictor; None for all else."""
    from ..training.checkpoints import load_checkpoint, newest_checkpoint
    from ..training.run import Run, checkpoints_of
    from .encoders import run_settings
    from .options import build_parser, parse

    run, settings = Run(Path(path).expanduser()), run_settings(path)
    model = settings.get("model")
    if not isinstance(model, dict) or "predictor" not in model or not checkpoints_of(run):
        return None
    parser = build_parser()
    config = parse(parser, ["--config", str(run.config)])
    module = parser.instantiate(config).model
    newest = newest_checkpoint(run)
    if newest.is_dir():
        return None  # sharded: only a strategy puts it together
    module.load_state_dict(load_checkpoint(newest)["state_dict"])
    return module


def _page(path: str, out: str | None) -> Path:
    if out is not None:
        page = Path(out)
        if page.suffix != ".html" or not page.parent.is_dir():
            raise UserError(f"--out must be a file NAME.html in a folder that exists, not {out}")
        return page
    folder = Path(path).expanduser()
    return (folder if folder.is_dir() else Path()) / "diagnosis.html"


def _write_figures(path: Path, encoder: str, now: Any, untrained: Any) -> None:
    from ..training.run import write_whole

    told = now.verdict(untrained)
    figures = {
        "encoder": encoder,
        "clips": now.clips,
        "width": now.width,
        "state": told.state,
        "verdict": str(told),
        "figures": now.figures,
        "untrained": untrained.figures,
        "spectrum": now.spectrum,
    }
    write_whole(path, json.dumps(figures, indent=2) + "\n")


def _show(screen: Any, now: Any, untrained: Any) -> None:
    from rich.table import Table

    from ..evaluation.charts import number
    from ..evaluation.readings import readings

    table = Table()
    for heading in ("figure", "this encoder", "random weights"):
        table.add_column(heading, justify="left" if heading == "figure" else "right")
    for one in readings(now, untrained):
        beside = "" if one.beside is None else number(one.beside)
        table.add_row(one.title, number(one.value), beside)
    screen.print(table)
