"""`jepa-video bench plan` and `bench envs`: speed against what is asked, measured in one run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..errors import UserError

HELP = """\
usage: jepa-video bench plan [--OPTION VALUE ...]

Plans on random latent dynamics (an MLP) towards goals that can be reached, and says for each
planner how long a decision takes and how near the plan comes, beside plain CEM with the full budget
on the same problems in the same run.

  --sizes small,large       small: D 256, horizon 5, 300 samples x 10 iterations;
                            large: D 512, horizon 10, 512 samples x 10 iterations
  --problems N              each with weights, start and goals of its own
  --decisions N             of each problem; the first is cold, the others begin with the last plan
  --seed N                  of problems and draws
  --threads N               of torch
  --device D                auto, cpu, cuda, cuda:1, mps ...
  --at_most SHARE           of the time of plain CEM, that some planner must keep to at no worse a
                            final cost
  --out FILE.json           write the figures there too

Exit code 0 where a planner of continuous actions keeps to --at_most at every size, 1 where none
does; of discrete ones it is said.
How many frames a second environments make: jepa-video bench envs.
"""


def run(words: list[str]) -> int:
    """Read the options, measure, show, judge."""
    if words[:1] == ["envs"]:
        from .bench_envs import run as run_envs

        return run_envs(words[1:])
    if not words or words[0] != "plan":
        told = f", not {words[0]!r}" if words else ""
        raise UserError(f"bench takes the name of what is measured: plan or envs{told}")
    if words[1:2] and words[1] in ("-h", "--help"):
        print(HELP, end="")
        return 0
    from .options import parse

    config = parse(_parser(), words[1:])
    out = _out(config.out)
    for name in ("problems", "decisions"):
        if getattr(config, name) < 2:
            raise UserError(f"{name} must be 2 or more, not {getattr(config, name)}")
    if config.threads < 1:
        raise UserError(f"threads must be 1 or more, not {config.threads}")
    return _bench(config, out)


def _parser() -> Any:
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(prog="jepa-video bench plan", exit_on_error=False, add_help=False)
    parser.allow_abbrev = False
    parser.add_argument("--sizes", type=str, default="small,large", help="which problems")
    parser.add_argument("--problems", type=int, default=8, help="of each size")
    parser.add_argument("--decisions", type=int, default=4, help="of each problem")
    parser.add_argument("--seed", type=int, default=0, help="of problems and draws")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--device", type=str, default="cpu", help="auto, cpu, cuda, mps ...")
    parser.add_argument("--at_most", type=float, default=0.5, help="share of plain CEM's time")
    parser.add_argument("--out", type=str | None, help="file of figures")
    return parser


def _bench(config: Any, out: Path | None) -> int:
    from ..bench.plan import compare, figures
    from ..training.progress import console
    from ..training.run import write_whole
    from .bar import Bar
    from .encoders import named_device

    sizes, device, screen = _sizes(config.sizes), named_device(config.device), console()
    given = (config.problems, config.decisions, config.seed, device)
    found, kept = {}, True
    for size in sizes:
        for kind in ("continuous", "discrete"):
            with Bar(screen, f"planning {size.name} {kind}", "problems") as bar:
                rows = compare(size, *given, kind == "discrete", config.threads, bar)
            _show(screen, size, kind, rows, config)
            found[f"{size.name} {kind}"] = figures(rows)
            holds = _judge(screen, rows[2:], config.at_most)
            kept &= holds or kind == "discrete"
    if out is not None:
        settings = {key: getattr(config, key) for key in ("problems", "decisions", "seed")}
        settings |= {"threads": config.threads, "device": str(device), "at_most": config.at_most}
        told = {"settings": settings, "holds": kept, "rows": found}
        write_whole(out, json.dumps(told, indent=2) + "\n")
        screen.print(f"figures   {out}", markup=False)
    return 0 if kept else 1


def _sizes(named: str) -> list[Any]:
    from ..bench.reference import SIZES

    names = [name for name in named.split(",") if name]
    for name in names:
        if name not in SIZES:
            raise UserError(f"sizes must be of {', '.join(SIZES)}, not {name!r}")
    if not names:
        raise UserError(f"sizes must name at least one of {', '.join(SIZES)}")
    return [SIZES[name] for name in dict.fromkeys(names)]


def _out(out: str | None) -> Path | None:
    if out is None:
        return None
    path = Path(out)
    if path.suffix != ".json" or not path.parent.is_dir():
        raise UserError(f"--out must be a file NAME.json in a folder that exists, not {out}")
    return path


def _judge(screen: Any, rows: list[Any], at_most: float) -> bool:
    """Say which planner keeps to the share of time, the quickest first."""
    kept = sorted((row for row in rows if row.holds(at_most)), key=lambda row: row.time.value)
    if kept:
        names = ", ".join(f"{row.name} ({row.time.value:.2f})" for row in kept)
        screen.print(f"at most {at_most:g} of plain CEM's time at no worse a final cost: {names}\n")
    else:
        screen.print(f"no planner keeps to {at_most:g} of plain CEM's time at no worse a cost\n")
    return bool(kept)


def _show(screen: Any, size: Any, kind: str, rows: list[Any], config: Any) -> None:
    from rich.table import Table

    from ..evaluation.charts import number

    table = Table(
        title=f"{size.name}: D {size.width}, horizon {size.horizon}, {size.samples} samples x "
        f"{size.iterations} iterations, {kind} actions; {config.problems} problems of "
        f"{config.decisions} decisions",
        title_justify="left",
    )
    headings = ("planner", "ms", "busy ms", "sequences", "time", "cost, cold", "later")
    for heading in (*headings, "less plain, cold", "later"):
        table.add_column(heading, justify="left" if heading == "planner" else "right")
    for row in rows:
        beside = [_span(one, "+.4f") for one in (row.cold, row.later)]
        table.add_row(
            row.name,
            f"{row.milliseconds:.1f}",
            f"{row.busy_milliseconds:.1f}",
            str(row.evaluations),
            _span(row.time, ".2f") if row is not rows[0] else "1",
            number(row.cold_cost),
            number(row.later_cost),
            *(beside if row is not rows[0] else []),
        )
    screen.print(table)


def _span(interval: Any, form: str) -> str:
    return f"{interval.value:{form}} ({interval.low:{form}} to {interval.high:{form}})"
