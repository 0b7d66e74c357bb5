"""`jepa-video report RUN`."""

from __future__ import annotations

from pathlib import Path

from ..errors import UserError

HELP = """\
usage: jepa-video report RUN

Writes report.html of the run folder RUN anew, from what the run has left: a run that is still
going, or was killed, gets one too.
"""


def run(words: list[str]) -> int:
    """Write the page and say where it is."""
    if len(words) != 1 or words[0].startswith("-"):
        raise UserError("report takes one run folder, as in: jepa-video report runs/NAME")
    from ..evaluation.report import write_report

    print(write_report(Path(words[0])))
    return 0
