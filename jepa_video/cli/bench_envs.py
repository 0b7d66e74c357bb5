"""`jepa-video bench envs`: frames a second of environments, beside what is asked of them."""

from __future__ import annotations

from typing import Any

HELP = """\
usage: jepa-video bench envs [--OPTION VALUE ...]

Steps environments with random actions and says how many frames of 64 x 64 pixels they make in a
second of one processor core, many together and one alone.

  --envs ID[,ID]            which; our own if not given
  --batch N                 how many step together
  --rounds N                episodes, the first 100 steps of which are timed
  --seed N                  of episodes and actions
  --workers N               also in a second of the clock on the wall, in one process and stepped by
                            N; other work on the machine counts in these
  --at_least N              frames a second that each has to make in its batch

Exit code 0 where each makes --at_least, 1 where one does not.
"""


def run(words: list[str]) -> int:
    """Read the options, measure, show, judge."""
    if words[:1] and words[0] in ("-h", "--help"):
        print(HELP, end="")
        return 0
    from ..bench.frames import frame_rates
    from ..training.progress import console
    from .bar import Bar
    from .options import parse

    config, screen = parse(_parser(), words), console()
    names = list(dict.fromkeys(name for name in config.envs.split(",") if name))
    with Bar(screen, "stepping", "environments") as bar:
        rows = frame_rates(names, config.batch, config.rounds, config.seed, config.workers, bar)
    _show(screen, rows, config)
    slow = [row.id for row in rows if row.rate.value < config.at_least]
    told = f"below {config.at_least:,}: {', '.join(slow)}" if slow else "each makes as many"
    screen.print(f"at least {config.at_least:,} frames a second of a core: {told}", markup=False)
    return 1 if slow else 0


def _parser() -> Any:
    from jsonargparse import ArgumentParser

    from ..envs.registry import WORLDS

    parser = ArgumentParser(prog="jepa-video bench envs", exit_on_error=False, add_help=False)
    parser.allow_abbrev = False
    parser.add_argument("--envs", type=str, default=",".join(WORLDS), help="which")
    parser.add_argument("--batch", type=int, default=64, help="how many step together")
    parser.add_argument("--rounds", type=int, default=5, help="episodes that are timed")
    parser.add_argument("--seed", type=int, default=0, help="of episodes and actions")
    parser.add_argument("--workers", type=int, default=0, help="processes that step as well")
    parser.add_argument("--at_least", type=int, default=10_000, help="frames a second")
    return parser


def _show(screen: Any, rows: list[Any], config: Any) -> None:
    from rich.table import Table

    title = f"frames of 64 x 64 pixels in a second of a core, {config.rounds} rounds"
    table = Table(title=title, title_justify="left")
    table.add_column("environment")
    headings = [f"{config.batch} together", "one alone"]
    if config.workers > 1:
        headings += ["on the wall", f"by {config.workers} workers"]
    for heading in headings:
        table.add_column(heading, justify="right")
    for row in rows:
        told = [x for x in (row.rate, row.alone, row.here, row.split) if x is not None]
        spans = [f"{x.value:,.0f} ({x.low:,.0f} to {x.high:,.0f})" for x in told]
        table.add_row(row.id, *spans)
    screen.print(table)
