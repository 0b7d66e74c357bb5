"""A study: one training, one thing changed in each row, several seeds, one table and one page.

    title: Ways against collapse          # of the page
    about: what is compared, in words     # optional
    base: {trainer: {max_steps: 400}}     # options of `pretrain` that all rows share
    rows:                                 # a name, and what this row changes
      nothing: {model: {target: shared, regularizer: NoRegularizer}}
      ema: {model: {target: ema}}
    seeds: [0, 1, 2]
    measures: [collapse]                  # by their names in measures.py
    beside: [negatives]                   # optional: tables that need no row, by their names there

    OUT/
      study.yaml       what was asked for
      rows/ROW-seedN/  a run folder as `pretrain` leaves it; its summary.json has `measured`
      table.csv  table.md  summary.json  report.html

A row that is finished is not run again, one that was stopped goes on from its checkpoint, one that
fails is told, and the others go on. Who trains is the caller's business (`Rows`): this room knows
nobody above it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
import yaml  # type: ignore[import-untyped]

from ..data.datamodule import VideoDataModule
from ..errors import UserError
from ..training.run import NAME, Run
from ..training.stops import RunStopped
from ..training.video_jepa import VideoJEPA
from .album import save_album
from .measures import BESIDE, MEASURES
from .runfiles import finite, flat

SHIPPED = Path(__file__).parent / "studies"
KEYS = ("title", "about", "base", "rows", "seeds", "measures", "beside")
FIXED = ("config", "resume", "name", "runs", "seed")  # what the study decides for each row
PICTURES = "study"  # folder of a run with the pictures that the measures draw


@dataclass(frozen=True)
class Study:
    """What a study's YAML says.

    Args:
        name: of the file, without its ending.
        title: of the page.
        about: what is compared, in words.
        base: options of `pretrain` that all rows share.
        rows: what each row changes, by its name.
        seeds: of each row.
        measures: names of measures.
        beside: names of tables that need no row.
    """

    name: str
    title: str
    about: str
    base: dict[str, Any]
    rows: dict[str, dict[str, Any]]
    seeds: tuple[int, ...]
    measures: tuple[str, ...]
    beside: tuple[str, ...] = ()

    def only(self, rows: Sequence[str] = (), seeds: Sequence[int] = ()) -> Study:
        """The same study with fewer rows or other seeds; all where empty.

        Raises:
            UserError: a row that the study does not have.
        """
        for row in rows:
            if row not in self.rows:
                raise UserError(
                    f"study {self.name} has no row {row!r}; expected some of {', '.join(self.rows)}"
                )
        kept = {row: self.rows[row] for row in self.rows if not rows or row in rows}
        return replace(self, rows=kept, seeds=tuple(seeds) or self.seeds)


class Trained(NamedTuple):
    """What a measure looks at."""

    module: VideoJEPA
    data: VideoDataModule
    device: torch.device


class Rows(Protocol):
    """Who trains the rows."""

    def verify(self, row: str, seed: int, run: Run) -> None:
        """Refuse a run folder whose settings are not those of the row.

        Raises:
            UserError: the folder is that of another training.
        """

    def trained(self, row: str, seed: int, run: Run) -> Trained:
        """The module of a row: trained now, trained to its end, or loaded where it is finished."""


@dataclass(frozen=True)
class Outcome:
    """One run of a study: its figures by name, its verdict, or what went wrong."""

    row: str
    seed: int
    run: Run
    figures: dict[str, float] = field(default_factory=dict)
    verdict: str = ""
    error: str = ""

    @property
    def state(self) -> str:
        """`healthy`, `watch` or `collapsed`, the word with which a verdict begins; or `failed`."""
        return "failed" if self.error else self.verdict.partition(":")[0]


def shipped() -> list[str]:
    """The names of the studies that come with the package."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def read_study(named: str) -> Study:
    """The study of a shipped name or of a YAML file.

    Raises:
        UserError: there is no such study, or the file does not describe one.
    """
    path = SHIPPED / f"{named}.yaml" if named in shipped() else Path(named)
    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"there is no study {named!r}; expected a YAML file or one of {', '.join(shipped())}"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{named} is not a YAML file: {' '.join(str(error).split())}") from error
    return _checked(path, loaded)


def _checked(path: Path, loaded: Any) -> Study:
    """The study in `loaded`, or a sentence on the key that is wrong."""
    try:
        _refuse_nonsense(loaded)
    except UserError as error:
        raise UserError(f"study {path.name}: {error}") from error
    title, about = (str(loaded.get(key, "")) for key in ("title", "about"))
    return Study(
        name=path.stem,
        title=title or path.stem,
        about=about,
        base=loaded.get("base") or {},
        rows={str(name): dict(options or {}) for name, options in loaded["rows"].items()},
        seeds=tuple(loaded.get("seeds", [0])),
        measures=tuple(loaded["measures"]),
        beside=tuple(loaded.get("beside", [])),
    )


def _refuse_nonsense(loaded: Any) -> None:
    if not isinstance(loaded, dict):
        raise UserError(f"expected a mapping with {', '.join(KEYS)}")
    for key in loaded:
        if key not in KEYS:
            raise UserError(f"nobody reads the key {key!r}; expected some of {', '.join(KEYS)}")
    rows, seeds = loaded.get("rows"), loaded.get("seeds", [0])
    base, measures = loaded.get("base") or {}, loaded.get("measures")
    if not isinstance(rows, dict) or not rows:
        raise UserError("rows must be a mapping of names to options")
    for name, options in [("base", base), *rows.items()]:
        if not NAME.fullmatch(str(name)):
            raise UserError(f"row {name!r} is not a plain name of letters, digits and . _ + -")
        if not isinstance(options or {}, dict):
            raise UserError(f"{name} must be a mapping of options of pretrain")
        for key in FIXED:
            if key in (options or {}):
                raise UserError(f"{name} gives {key!r}, which the study decides for each run")
    if not _whole_numbers(seeds):
        raise UserError(f"seeds must be a list of whole numbers from 0, not {seeds!r}")
    if not isinstance(measures, list) or not measures:
        raise UserError(f"measures must be a list of some of {', '.join(MEASURES)}")
    for name in measures:
        if name not in MEASURES:
            raise UserError(f"there is no measure {name!r}; expected some of {', '.join(MEASURES)}")
    if not isinstance(loaded.get("beside", []), list):
        raise UserError(f"beside must be a list of some of {', '.join(BESIDE)}")
    for name in loaded.get("beside", []):
        if name not in BESIDE:
            raise UserError(f"there is no table {name!r}; expected some of {', '.join(BESIDE)}")


def _whole_numbers(seeds: Any) -> bool:
    numbers = isinstance(seeds, list) and bool(seeds)
    return numbers and all(isinstance(seed, int) and seed >= 0 for seed in seeds)


def run_of(folder: Path, row: str, seed: int) -> Run:
    """The run folder of a row."""
    return Run(folder / "rows" / f"{row}-seed{seed}")


def run_study(
    study: Study,
    folder: Path,
    rows: Rows,
    say: Callable[[str], None] = print,
    done: Callable[[list[Outcome]], None] = lambda outcomes: None,
) -> list[Outcome]:
    """Every row with the first seed, then with the next, so that a first table is there early.

    Args:
        study: what to run.
        folder: of the study.
        rows: trains.
        say: where a line on each run goes.
        done: called after each run with all outcomes so far, to bring table and page up to date.

    Raises:
        RunStopped: after Ctrl-C or SIGTERM; the row goes on when the study is called again.
    """
    pairs = [(row, seed) for seed in study.seeds for row in study.rows]
    outcomes: list[Outcome] = []
    for number, (row, seed) in enumerate(pairs, 1):
        started, run = time.monotonic(), run_of(folder, row, seed)
        outcome = _outcome(study, row, seed, run, rows)
        outcomes.append(outcome)
        told = outcome.error or outcome.verdict
        clock = f"{time.monotonic() - started:.0f} s"
        say(f"[{number}/{len(pairs)}] {row}, seed {seed} ({clock})  {told}")
        done(outcomes)
    return outcomes


def _outcome(study: Study, row: str, seed: int, run: Run, rows: Rows) -> Outcome:
    """Train what is not trained, measure what is not measured; an error is told, not raised."""
    try:
        if run.path.exists():
            rows.verify(row, seed, run)
        missing = [name for name in study.measures if name not in run.summary().get("measured", {})]
        if missing or not run.finished:
            _train_and_measure(row, seed, run, rows, missing)
    except RunStopped:
        raise
    except Exception as error:
        told = " ".join(str(error).split()) or "no reason given"
        known = isinstance(error, UserError)
        return Outcome(row, seed, run, error=told if known else f"{type(error).__name__}: {told}")
    return outcome_of(run, row, seed)


def _train_and_measure(row: str, seed: int, run: Run, rows: Rows, missing: list[str]) -> None:
    new, started = not run.path.exists(), time.process_time()
    trained = rows.trained(row, seed, run)
    trained.module.to(trained.device).eval()
    with torch.no_grad():
        found = {name: MEASURES[name].figures(*trained) for name in missing}
        for name in missing:
            if (draw := MEASURES[name].draw) is not None:
                folder = run.path / PICTURES / name
                folder.mkdir(parents=True, exist_ok=True)
                save_album(folder, draw(*trained, folder))
    if new:  # of a run in several pieces nobody knows the whole time
        run.update_summary(cpu_seconds=time.process_time() - started)
    run.update_summary(measured=run.summary().get("measured", {}) | found)


def outcome_of(run: Run, row: str, seed: int) -> Outcome:
    """What a finished run has left."""
    summary = run.summary()
    measured: Mapping[str, Mapping[str, float]] = summary.pop("measured", {})
    leaves = {name: value for part in measured.values() for name, value in part.items()}
    numbers = {name: finite(value) for name, value in (flat(summary) | leaves).items()}
    figures = {name: value for name, value in numbers.items() if value is not None}
    return Outcome(row, seed, run, figures, str(summary.get("verdict", "")))
