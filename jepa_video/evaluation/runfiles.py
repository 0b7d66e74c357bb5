"""What is in a run folder, read with patience: a run may have been killed at any moment.

Nothing here raises for a file that is missing or cut short; the reader of the page is told.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from ..errors import UserError
from ..models.encoder import SIZES

Column = dict[float, float]  # value at each step; steps without a value are not in it
SHARES = ("top1", "top5", "accuracy")


@dataclass(frozen=True)
class RunFiles:
    """What a run folder holds: None or empty where missing, named in `problems` where damaged."""

    folder: Path
    config: str | None
    encoder: dict[str, Any] | None  # encoder/config.json
    summary: dict[str, Any] | None
    metrics: dict[str, Column]
    timings: dict[str, Column]
    unreadable: list[dict[str, str]] | None
    problems: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Folder and its parent, as in `runs/first`; the rest of the path is nobody's business."""
        return f"{self.folder.parent.name}/{self.folder.name}".lstrip("/")

    @property
    def finished(self) -> bool:
        """Whether training and evaluation came to their end."""
        return self.summary is not None and self.summary.get("status", "finished") == "finished"

    @property
    def verb(self) -> str:
        """The command that made the run, as its summary or else its config tells."""
        by_kind = {"world": "world", "agent": "agent fit"}
        if (kind := (self.summary or {}).get("kind")) in by_kind:
            return by_kind[kind]
        config = self.settings
        if "learn" in config:
            return "agent fit"
        if "dynamics" in (config.get("model") or ()):
            return "world"
        return "finetune" if "baseline" in config else "pretrain"

    @property
    def settings(self) -> dict[str, Any]:
        """The config as plain values; empty where it is damaged."""
        config = _parsed(self.config)
        return config if isinstance(config, dict) else {}

    @property
    def width(self) -> int | None:
        """`D` of the encoder's tokens, by the exported encoder or else by the config."""
        for source in (self.encoder, _parsed(self.config)):
            found = _encoder_settings(source)
            width = found.get("width") or SIZES.get(str(found.get("size")), (None,))[0]
            if isinstance(width, int):
                return width
        return None

    @property
    def last_step(self) -> int | None:
        """The last step that was logged."""
        steps = [max(column) for column in self.metrics.values() if column]
        return int(max(steps)) if steps else None


def read_run(run: Path) -> RunFiles:
    """Reads the folder of a run.

    Raises:
        UserError: where `run` is no folder, holds nothing that a run leaves, or is an evaluation.
    """
    folder = Path(run).resolve()
    if not folder.is_dir():
        raise UserError(f"{run} is not a folder; expected the folder of a run, such as runs/first")
    left = ("config.yaml", "metrics.csv", "summary.json")
    if not any((folder / name).is_file() for name in left):
        raise UserError(f"{run} is not the folder of a run: it has none of {', '.join(left)}")
    if (folder / "episodes.csv").is_file() and not (folder / "config.yaml").exists():
        raise UserError(f"{run} is an evaluation: its page is written by jepa-video agent eval")
    problems: list[str] = []
    return RunFiles(
        folder=folder,
        config=_text(folder / "config.yaml", problems),
        encoder=_mapping(folder / "encoder" / "config.json", problems),
        summary=_mapping(folder / "summary.json", problems),
        metrics=read_columns(folder / "metrics.csv", problems),
        timings=read_columns(folder / "timings.csv", problems),
        unreadable=_rows(folder / "unreadable.csv", problems),
        problems=problems,
    )


def _text(path: Path, problems: list[str]) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None
    except OSError as error:
        problems.append(f"{path.name} cannot be read: {error.strerror}.")
        return None


def _mapping(path: Path, problems: list[str]) -> dict[str, Any] | None:
    text = _text(path, problems)
    if text is None:
        return None
    try:
        loaded = json.loads(text)
    except ValueError as error:
        problems.append(f"{path.name} is not valid JSON ({error}).")
        return None
    if not isinstance(loaded, dict):
        problems.append(f"{path.name} holds no mapping of names to values.")
        return None
    return loaded


def _parsed(config: str | None) -> Any:
    """A config as plain values; None where it is not one."""
    try:
        return yaml.safe_load(config or "")
    except yaml.YAMLError:
        return None


def _encoder_settings(config: Any) -> dict[str, Any]:
    """The arguments of the encoder, wherever in a nested config they stand."""
    while isinstance(config, dict):
        if "size" in config or "width" in config:
            return config
        steps = ("model", "encoder", "init_args")
        config = next((config[step] for step in steps if step in config), None)
    return {}


def _rows(path: Path, problems: list[str]) -> list[dict[str, str]] | None:
    """The rows of a table, None where there is none; a torn last line is left out.

    More patient than the reader that a resume relies on: a row that is short, or has a cell that is
    no number, costs that cell and not the page.
    """
    text = _text(path, problems)
    if text is None:
        return None
    whole = text.replace("\0", "").rpartition("\n")[0]
    reader = csv.DictReader(StringIO(whole), restkey="", restval="")
    try:
        return [{str(key): str(value) for key, value in row.items()} for row in reader]
    except csv.Error as error:
        problems.append(f"{path.name} is damaged at line {reader.line_num} ({error}).")
        return []


def read_columns(path: Path, problems: list[str]) -> dict[str, Column]:
    """The numeric columns of a log with a `step` column; of two rows for a step the later counts.

    Without a step column the number of the row stands in. Cells that are no number are left out.
    """
    columns: dict[str, Column] = {}
    for index, row in enumerate(_rows(path, problems) or []):
        step = _number(row.get("step", "")) if "step" in row else float(index)
        for name, cell in row.items():
            value = _number(cell)
            if step is not None and value is not None and name != "step":
                columns.setdefault(name, {})[step] = value
    return {name: dict(sorted(column.items())) for name, column in columns.items()}


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


def flat(summary: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with `/` between the names."""
    leaves: dict[str, Any] = {}
    for key, value in summary.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            leaves.update(flat(value, f"{name}/"))
        else:
            leaves[name] = value
    return leaves


def finite(value: Any) -> float | None:
    """`value` as a finite float, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def interval(leaves: Mapping[str, Any], name: str) -> tuple[float, float] | None:
    """The interval that the summary gives for `name`, as a pair or as a low and a high end."""
    for ending in ("_interval", "_ci", "_ci95"):
        pair = leaves.get(name + ending)
        if isinstance(pair, Sequence) and not isinstance(pair, str) and len(pair) == 2:
            low, high = finite(pair[0]), finite(pair[1])
            return None if low is None or high is None else (low, high)
    low, high = finite(leaves.get(f"{name}_low")), finite(leaves.get(f"{name}_high"))
    return None if low is None or high is None else (low, high)


def measure_of(name: str) -> tuple[str, str] | None:
    """Splits `probe_top1_untrained` into measure and representation, empty for the run itself.

    None where `name` is no share of right answers, or belongs to one as its interval or the like.
    """
    head, slash, leaf = name.rpartition("/")
    for word in SHARES:
        before, found, after = leaf.partition(word)
        if not found:
            continue
        who = after.removeprefix("_")
        extra = ("interval", "ci", "ci95", "low", "high", "stderr", "gain", "n", "label")
        if after and (not after.startswith("_") or who.rpartition("_")[2] in extra):
            return None
        return f"{head}{slash}{before}{found}", who
    return None


def baselines(leaves: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Every share of right answers in the summary: measure -> representation -> value."""
    table: dict[str, dict[str, float]] = {}
    for name, stored in leaves.items():
        value, split = finite(stored), measure_of(name)
        if value is not None and split is not None:
            table.setdefault(split[0], {})[split[1]] = value
    return table
