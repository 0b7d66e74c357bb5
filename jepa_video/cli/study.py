"""`jepa-video study`: a comparison from a YAML file to one table and one page."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

from ..errors import UserError

HELP = """\
usage: jepa-video study NAME|FILE.yaml [--out DIR] [--rows A,B] [--seeds 0,1] [--OPTION VALUE ...]

Trains every row of a comparison with every seed, as `jepa-video pretrain` does, measures them, and
writes table.csv, table.md, summary.json and report.html. What is finished is not run again; what
was stopped goes on.

  collapse          ways against collapse on the same data and budget, and nothing against it
  hierarchy         two levels asked for known factors 16 frames ahead, and their time
  latent            what a latent is worth where a clip may go four ways
  FILE.yaml         your own: base, rows, seeds, measures

  --out DIR         runs/study-NAME if not given
  --rows A,B        only these rows
  --seeds 0,1       these seeds in the place of the file's
  --OPTION VALUE    any option of pretrain, for every row
"""
OWN = ("--out", "--rows", "--seeds")
DECIDED = ("--config", "--resume", "--name", "--runs", "--seed")
PLACE = ("config", "resume", "name", "runs", "wandb", "tensorboard", "watch.say_every_seconds")


def run(words: list[str]) -> int:
    """Run the study; 1 where a row failed, the code of the signal where it was stopped."""
    from ..training.stops import RunStopped, StopRequests

    asked, own, options = _split(words)
    with StopRequests().heard() as stops:
        try:
            return _run(asked, own, options, stops)
        except RunStopped as stop:
            print("stopped; the same command goes on")
            return stop.code


def _split(words: list[str]) -> tuple[str, dict[str, str], list[str]]:
    """Study, the options of this verb, and those of every row."""
    if not words or words[0].startswith("-"):
        raise UserError("study takes a name or a YAML file, as in: jepa-video study collapse")
    own: dict[str, str] = {}
    options: list[str] = []
    rest = iter(words[1:])
    for word in rest:
        name, equals, value = word.partition("=")
        if name not in OWN:
            options.append(word)
            continue
        value = value if equals else next(rest, "")
        if not value:
            raise UserError(f"{name} needs a value")
        own[name] = value
    return words[0], own, options


def _run(asked: str, own: dict[str, str], options: list[str], stops: Any) -> int:
    from ..evaluation.study import read_study, run_study
    from ..evaluation.study_page import measure_beside, write_study
    from ..training.run import write_whole

    study = read_study(asked).only(_listed(own, "--rows"), _numbers(_listed(own, "--seeds")))
    folder = Path(own.get("--out", f"runs/study-{study.name}"))
    rows = PretrainRows(study, options, folder, stops)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rows").mkdir(exist_ok=True)
    write_whole(folder / "study.yaml", rows.text())
    print(f"study {study.name}: {len(study.rows)} rows x {len(study.seeds)} seeds in {folder}")
    outcomes = run_study(study, folder, rows, _say, lambda found: write_study(study, found, folder))
    measure_beside(study, folder)
    write_study(study, outcomes, folder)
    print((folder / "table.md").read_text(), end="")
    print(f"report    {folder / 'report.html'}\nnumbers   {folder / 'table.csv'}")
    return 1 if any(outcome.error for outcome in outcomes) else 0


def _say(text: str) -> None:
    print(text, flush=True)


def _listed(own: dict[str, str], name: str) -> list[str]:
    return [word for word in own.get(name, "").split(",") if word]


def _numbers(words: list[str]) -> list[int]:
    if not all(word.isdigit() for word in words):
        raise UserError(f"--seeds must be whole numbers such as 0,1,2, not {','.join(words)}")
    return [int(word) for word in words]


class PretrainRows:
    """Trains the rows of a study through the job of `jepa-video pretrain`.

    Args:
        study: base and rows.
        options: words of the command line for every row.
        folder: of the study.
        stops: requests to stop.

    Raises:
        UserError: options of a row that `pretrain` would not take; told before anything trains.
    """

    def __init__(self, study: Any, options: list[str], folder: Path, stops: Any) -> None:
        from ..evaluation.study import run_of
        from .options import build_parser

        self.study, self.options, self.folder, self.stops = study, options, folder, stops
        self.parser, self._data = build_parser(), None
        for word in options:
            if word.partition("=")[0] in DECIDED:
                raise UserError(f"{word} is what the study decides for each run; leave it out")
        for row in study.rows:
            self._config(row, study.seeds[0], run_of(folder, row, study.seeds[0]))

    def text(self) -> str:
        """The study as it is run, as YAML."""
        import yaml  # type: ignore[import-untyped]

        kept = {key: getattr(self.study, key) for key in ("title", "about", "base", "rows")}
        kept |= {key: list(getattr(self.study, key)) for key in ("seeds", "measures", "beside")}
        head = f"# with {' '.join(self.options)}\n" if self.options else ""
        return head + str(yaml.safe_dump(kept, sort_keys=False, allow_unicode=True))

    def _config(self, row: str, seed: int, run: Any) -> Any:
        """The options of a run: base, then the row's own, then the command line's."""
        import yaml

        from .options import parse

        words = ["--wandb", "off"]
        fixed = ["--seed", str(seed), "--name", run.name, "--runs", str(run.path.parent)]
        with tempfile.TemporaryDirectory() as scratch:
            for name, part in (("base", self.study.base), ("row", self.study.rows[row])):
                path = Path(scratch, f"{name}.yaml")
                path.write_text(yaml.safe_dump(part))
                words += ["--config", str(path)] if part else []
            try:
                config = parse(self.parser, [*words, *self.options, *fixed])
            except UserError as error:
                raise UserError(f"study {self.study.name}, row {row}: {error}") from error
        config.config = None  # the scratch files
        return config

    def verify(self, row: str, seed: int, run: Any) -> None:
        """Refuse a folder that holds another training."""
        from .options import flat, parse

        if not run.config.exists():
            return
        found = flat(self.parser, parse(self.parser, ["--config", str(run.config)]))
        asked = flat(self.parser, self._config(row, seed, run))
        for key in sorted(found.keys() | asked.keys()):
            if found.get(key) != asked.get(key) and not key.startswith(PLACE):
                raise UserError(
                    f"{run.path} was trained with {key} {found.get(key)} where the study asks for "
                    f"{asked.get(key)}: remove it, or give another --out"
                )

    def trained(self, row: str, seed: int, run: Any) -> Any:
        """Train, go on, or load."""
        from rich.console import Console

        from ..evaluation.study import Trained
        from ..training.checkpoints import newest_checkpoint
        from ..training.run import checkpoints_of, cleared, create_run
        from .job import Job

        config = self._config(row, seed, run)
        with (run.path.parent / f"{run.name}.txt").open("a") as lines:
            job = Job(self.parser, config, Console(file=lines, highlight=False, width=200))
            if not job.alone:
                raise UserError("a study trains each row in one process: give --trainer.devices 1")
            self._share_frames(job.data)
            if run.finished:
                _load(job.module, newest_checkpoint(run))
                return Trained(job.module, job.data, job.device)
            newest = newest_checkpoint(run) if checkpoints_of(run) else None
            if newest is None:
                cleared(run)
                run = create_run(run.path.parent, run.name)
            job.run(run, newest, self.stops, time.monotonic())
        return Trained(job.module, job.data, job.device)

    def _share_frames(self, data: Any) -> None:
        """Rows read the same videos: what one has decoded, the next one finds."""
        before, self._data = self._data, data
        for split in ("train", "val"):
            try:
                data.clips(split).share_frames((before or data).clips(split))
            except UserError:  # nothing is held out
                continue


def _load(module: Any, checkpoint: Path) -> None:
    import torch

    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    module.load_state_dict(state["state_dict"])
