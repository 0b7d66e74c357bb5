"""Where numbers go: a CSV file that is the same for the same seed, and wandb or TensorBoard."""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from .run import Run, write_whole

WandbMode = Literal["offline", "online", "off"]
Row = dict[str, str]


def read_table(path: Path) -> tuple[list[str], list[Row]]:
    """Columns and rows of a table that `CsvTable` wrote; a torn last line is left out."""
    if not path.exists():
        return [], []
    whole, _, _ = path.read_text().rpartition("\n")
    lines = list(csv.reader(StringIO(whole)))
    if not lines:
        return [], []
    columns = lines[0]
    return columns, [dict(zip(columns, line, strict=True)) for line in lines[1:]]


def read_metrics(path: Path) -> dict[str, list[tuple[int, float]]]:
    """Each column of a table as `(step, value)` pairs, without the empty cells."""
    columns, rows = read_table(path)
    return {
        name: [(int(row["step"]), float(row[name])) for row in rows if row[name]]
        for name in columns
        if name != "step"
    }


class CsvTable:
    """A table with a row for each step and columns that may come later.

    Rows reach the file as they are complete, so that a run that dies has its curve. Values are
    written with nine digits, which is a float32 exactly: the same run gives the same bytes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.columns: list[str] = []
        self._step = 0
        self._row: Row = {}
        self._written = 0

    def add(self, values: Mapping[str, float], step: int) -> None:
        """Put `values` into the row of `step`; later steps close earlier rows."""
        if step <= self._written:
            return  # closed by a checkpoint already; Lightning repeats the row after it
        if self._row and step != self._step:
            self.flush()
        self._step = step
        self._row.update({name: format(float(value), ".9g") for name, value in values.items()})

    def flush(self) -> None:
        """Close the open row and bring it to the file."""
        if not self._row:
            return
        new = [name for name in self._row if name not in self.columns]
        if new:
            self._widen(new)
        line = ",".join([str(self._step), *(self._row.get(name, "") for name in self.columns)])
        with self.path.open("a", newline="") as file:
            file.write(line + "\n")
        self._written, self._row = self._step, {}

    def truncate(self, step: int) -> None:
        """Forget all after `step`, columns that only came later included: the state at `step`."""
        columns, rows = read_table(self.path)
        rows = [row for row in rows if int(row["step"]) <= step]
        self.columns = [name for name in columns[1:] if any(row[name] for row in rows)]
        self._written, self._row = step, {}
        if self.path.exists():
            self._rewrite(rows)

    def _widen(self, new: Iterable[str]) -> None:
        _, rows = read_table(self.path)
        self.columns += new
        self._rewrite(rows)

    def _rewrite(self, rows: list[Row]) -> None:
        out = StringIO(newline="")
        names = ["step", *self.columns]
        writer = csv.DictWriter(out, names, restval="", extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_whole(self.path, out.getvalue())


class CsvLog(Logger):
    """`metrics.csv` as a Lightning logger. `step` counts the optimiser steps that are done."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.table = CsvTable(path)

    @property
    def name(self) -> str:
        """Lightning asks for one."""
        return "csv"

    @property
    def version(self) -> str:
        """Lightning asks for one."""
        return ""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Lightning counts steps from 0 where it logs; the table says how many are done."""
        self.table.add(metrics, (step or 0) + 1)

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """The settings are in config.yaml."""

    @rank_zero_only
    def save(self) -> None:
        """Lightning calls this once the row of a step is complete."""
        self.table.flush()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Close the last row."""
        self.table.flush()


def log_everywhere(trainer: Trainer, values: Mapping[str, float]) -> None:
    """Log numbers that a callback measured, under the step that has just been done."""
    for logger in trainer.loggers:
        logger.log_metrics(dict(values), step=trainer.global_step - 1)


def wandb_mode(asked: WandbMode | None) -> WandbMode:
    """What was asked for on the command line, else `WANDB_MODE`, else offline."""
    if asked is not None:
        return asked
    mode = os.environ.get("WANDB_MODE", "offline")
    return "online" if mode == "online" else "off" if mode in ("disabled", "off") else "offline"


def wandb_logger(run: Run, mode: WandbMode, config: dict[str, Any]) -> WandbLogger | None:
    """A wandb run inside the run folder, or None, with a sentence, where wandb does not start."""
    if mode == "off":
        return None
    os.environ.setdefault("WANDB_SILENT", "true")
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # offline means no crash reports either
    try:
        import wandb

        if mode == "online" and not wandb.login(prompt=False, verify=False):
            print("wandb has no key on this machine (wandb login): logging offline", flush=True)
            mode = "offline"
        started = wandb.init(
            project="jepa_video",
            name=run.name,
            dir=str(run.path),
            mode=mode,
            config=config,
            settings=wandb.Settings(console="off", silent=True),
        )
        return WandbLogger(experiment=started)
    except Exception as error:  # whatever it is, the run matters more than its log
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        print(f"wandb did not start ({reason}); going on without it", file=sys.stderr, flush=True)
        return None


def tensorboard_logger(run: Run) -> TensorBoardLogger | None:
    """A TensorBoard log inside the run folder, or None, with a sentence, where it is missing."""
    if find_spec("tensorboard") is None:
        print("TensorBoard is not installed (pip install tensorboard); going on without it")
        return None
    return TensorBoardLogger(str(run.path), name="tensorboard", version="")
