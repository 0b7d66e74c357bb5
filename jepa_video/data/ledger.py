"""The ledger of files that could not be used: counted, listed with the reason, never replaced."""

from __future__ import annotations

import csv
import io
import os
from collections import Counter
from pathlib import Path

from jepa_video.errors import UserError


class Ledger:
    """Path and reason of every unusable file of a run, and the share at which the run stops.

    Args:
        total: files that the sources name, usable or not.
        limit: the largest share of `total` that may be unusable, 0 to 1; None: never stop.
        where: the sources in words, for the sentence that stops a run.
    """

    def __init__(self, total: int = 0, limit: float | None = None, where: str = "the data") -> None:
        self.total, self.limit, self.where = total, limit, where
        self.entries: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self.entries)

    def rows(self) -> list[tuple[str, str]]:
        """The rows of `unreadable.csv`: path, reason."""
        return list(self.entries.items())

    @property
    def share(self) -> float:
        """The unusable part of the files, 0 to 1."""
        return len(self.entries) / max(self.total, len(self.entries), 1)

    def add(self, path: str, reason: str) -> None:
        """List a file; the first reason stands."""
        self.entries.setdefault(path, reason)

    def update(self, other: Ledger) -> None:
        """Take over what another ledger lists."""
        for path, reason in other.rows():
            self.add(path, reason)

    def enforce(self) -> None:
        """Stop the run where too many files are unusable.

        Raises:
            UserError: with the count, the limit and the most frequent reasons.
        """
        if self.limit is None or not self.entries:
            return
        if self.share > self.limit or len(self) >= self.total:
            raise UserError(
                f"{len(self)} of {self.total} video files in {self.where} are unusable "
                f"({self.share:.0%}; data.unreadable_limit is {self.limit:.0%}): {self.summary()}"
            )

    def summary(self) -> str:
        """The most frequent reasons with their counts and the first file, on one line."""
        kinds = Counter(reason.split(" (")[0].split(":")[0] for reason in self.entries.values())
        reasons = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(4))
        path, reason = next(iter(self.entries.items()))
        return f"{reasons}; the first is {path}: {reason}"

    def words(self) -> list[str]:
        """A line for the screen; none where all was used."""
        told = f"left out  {len(self)}, listed in unreadable.csv: "
        return [told + self.summary()] if self.entries else []

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write `unreadable.csv` in one move, so that a killed run leaves no half file."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["path", "reason"])
        writer.writerows(self.rows())
        target = Path(path)
        draft = target.with_name(f".{target.name}.{os.getpid()}")
        draft.write_text(out.getvalue(), "utf-8", "surrogateescape")  # names as the disk has them
        os.replace(draft, target)
