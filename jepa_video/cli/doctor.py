"""`jepa-video doctor`."""

from __future__ import annotations

from ..errors import UserError

HELP = """\
usage: jepa-video doctor

Says what is installed, which devices and decoders work (it decodes a video with each), the state of
wandb, disk and cache, and whether a run would work, with the mend for each thing that fails.
Exit code 0 when a run would work, 1 when not.
"""


def run(words: list[str]) -> int:
    """Examine, print, and judge."""
    if words:
        raise UserError(f"doctor takes no options, got {' '.join(words)!r}")
    from ..doctor import examine, printed

    findings = examine()
    print(printed(findings))
    return 1 if any(finding.state == "fails" for finding in findings) else 0
