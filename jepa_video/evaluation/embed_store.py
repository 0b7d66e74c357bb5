"""Where features lie: shards while they are made, one file at the end.

features.npy              `N D`, or `N T D` with all tokens; or features.parquet
features.csv              what row i of features.npy is (parquet has it inside)
features.unreadable.csv   videos without features, with the reason
features.json             counts, shape, and all that decided the features; written last
features.npy.partial/     shards, as long as the run is not finished
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from jepa_video.data.ledger import Ledger
from jepa_video.data.manifest import Listing
from jepa_video.errors import UserError
from jepa_video.training.run import held, write_whole

Meta: TypeAlias = dict[str, Any]
FORMATS: Final = (".npy", ".parquet")
_OURS: Final = ("path", "group", "clip", "class", "features")
_CALLED: Final = {"encoder": "another encoder", "videos": "another list of videos"}


@dataclass(frozen=True)
class Shard:
    """Features of some videos: rows, the videos' places in the list, and what failed, and why."""

    x: npt.NDArray[Any]
    kept: list[int]
    failed: list[tuple[str, str]]


class Store:
    """The files of one embedding run.

    Args:
        out: the file that is wanted, .npy or .parquet.
        identity: all that decides it; another one is refused.

    Raises:
        UserError: another suffix, or pyarrow is missing for parquet.
    """

    def __init__(self, out: Path, identity: Meta) -> None:
        if out.suffix not in FORMATS:
            raise UserError(f"{out} must end in {' or '.join(FORMATS)}")
        if out.suffix == ".parquet":
            arrow()
        self.out, self.identity = out, identity
        self.partial = out.with_name(f"{out.name}.partial")
        self.rows = out.with_suffix(".csv")
        self.unreadable = out.with_suffix(".unreadable.csv")
        self.meta = out.with_suffix(".json")

    def finished(self) -> Meta | None:
        """What an earlier run with the same identity has left; None where there is none.

        Raises:
            UserError: the file is there and was made with another identity, or by something else.
        """
        for old in self.out.parent.glob(f".{self.partial.name}.*.done"):
            shutil.rmtree(old, ignore_errors=True)  # killed while it cleared up
        if self.partial.exists() or not self.out.exists():
            return None
        try:
            meta: Meta = json.loads(self.meta.read_text())
            made = meta["made_with"]
        except (OSError, ValueError, KeyError, TypeError):
            raise UserError(
                f"{self.out} exists and is no finished file of embed: give another --out"
            ) from None
        self._refuse_other(made, f"{self.out} was made")
        return meta

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        """Hold the folder of shards for this process; what others wrote is left to them."""
        settings = self.partial / "made_with.json"
        try:
            self.partial.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot write to {self.partial}: {error.strerror}") from error
        with held(self.partial, f"{self.out} is being written by another process"):
            if settings.exists():
                self._refuse_other(json.loads(settings.read_text()), f"{self.partial} was begun")
            else:
                write_whole(settings, json.dumps(self.identity, indent=2) + "\n")
            yield

    def _refuse_other(self, made: Meta, told: str) -> None:
        for key in self.identity:
            if made.get(key) != self.identity[key]:
                other = f"{key} {made.get(key)} and not {self.identity[key]}"
                raise UserError(
                    f"{told} with {_CALLED.get(key, other)}: give what it was made with, give "
                    "another --out, or remove it"
                )

    def __contains__(self, number: int) -> bool:
        return self._of(number, "json").exists()

    def _of(self, number: int, kind: str) -> Path:
        return self.partial / f"{number:08d}.{kind}"

    def put(self, number: int, shard: Shard) -> None:
        """Save a shard; its .json comes last and says that it is whole."""
        target = self._of(number, "npy")
        draft = target.with_suffix(".draft")
        with draft.open("wb") as file:
            np.save(file, shard.x)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, target)
        told = {"kept": shard.kept, "failed": shard.failed}
        write_whole(self._of(number, "json"), json.dumps(told))

    def shards(self) -> Iterator[Shard]:
        """All shards in order, one at a time."""
        for number in range(sum(1 for _ in self.partial.glob("[0-9]*.json"))):
            told = json.loads(self._of(number, "json").read_text())
            failed = [(path, reason) for path, reason in told["failed"]]
            yield Shard(np.load(self._of(number, "npy")), told["kept"], failed)

    def assemble(self, listing: Listing, shape: tuple[int, ...], dtype: str, clips: int) -> Meta:
        """Put the shards together and remove them.

        Args:
            listing: the videos that the shards count.
            shape: of one row.
            dtype: of the numbers.
            clips: rows of each video.

        Raises:
            UserError: not one video has features.
        """
        ledger, videos = Ledger(len(listing.rows), None, listing.where), 0
        for shard in self.shards():
            videos += len(shard.kept)
            for path, reason in shard.failed:
                ledger.add(path, reason)
        if not videos:
            raise UserError(
                f"none of the {ledger.total} videos in {listing.where} could be read: "
                f"{ledger.summary()}; when that is mended, remove {self.partial}"
            )
        rows = videos * clips
        meta = {"videos": videos, "unreadable": len(ledger), "rows": rows, "shape": list(shape)}
        meta |= {"dtype": dtype, "made_with": self.identity}
        table = Table(listing, clips)
        draft = self.partial / f"whole{self.out.suffix}"
        if self.out.suffix == ".parquet":
            _write_parquet(draft, self.shards(), table, shape, dtype)
        else:
            _write_npy(draft, self.shards(), (rows, *shape), dtype)
            self._write_rows(table)
        ledger.write(self.unreadable)
        os.replace(draft, self.out)
        write_whole(self.meta, json.dumps(meta, indent=2) + "\n")
        done = self.partial.with_name(f".{self.partial.name}.{os.getpid()}.done")
        self.partial.rename(done)  # in one move: a folder half removed is none that goes on
        shutil.rmtree(done, ignore_errors=True)
        return meta

    def _write_rows(self, table: Table) -> None:
        draft = self.partial / "whole.csv"
        with draft.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(table.columns)
            for shard in self.shards():
                writer.writerows(table.rows(shard.kept))
        os.replace(draft, self.rows)


class Table:
    """What is known of each row beside its features, as text: path, labels, group, clip."""

    def __init__(self, listing: Listing, clips: int) -> None:
        self.listing, self.clips = listing, clips
        self.groups = any(row.group for row in listing.rows)
        labels = [f"{n}_label" if n in _OURS else n for n in listing.columns]
        named = "label" in listing.names
        self.columns = ["path", *labels, *["class"] * named, *["group"] * self.groups]
        self.columns += ["clip"] * (clips > 1)

    def rows(self, kept: list[int]) -> Iterator[list[str]]:
        """The cells of the rows of these videos."""
        names = self.listing.names.get("label")
        for row in (self.listing.rows[i] for i in kept):
            cells = [row.path, *(row.labels.get(name, "") for name in self.listing.columns)]
            if names is not None:
                cells.append(names.get(row.labels.get("label", ""), ""))
            if self.groups:
                cells.append(row.group)
            for clip in range(self.clips):
                yield [*cells, str(clip)] if self.clips > 1 else cells


def _text(cell: str) -> str:
    """A cell of Parquet, which holds text alone: other bytes of a name are escaped."""
    return cell.encode("utf-8", "backslashreplace").decode()


def _write_npy(path: Path, shards: Iterator[Shard], shape: tuple[int, ...], dtype: str) -> None:
    """The header, and the shards behind it: written as a stream, not through mapped memory."""
    with path.open("wb") as file:
        descr = np.lib.format.dtype_to_descr(np.dtype(dtype))
        header = {"descr": descr, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for shard in shards:
            file.write(np.ascontiguousarray(shard.x).data)
        file.flush()
        os.fsync(file.fileno())


def _write_parquet(
    path: Path, shards: Iterator[Shard], table: Table, shape: tuple[int, ...], dtype: str
) -> None:
    """One row group for each shard; `features` is a list of fixed length."""
    pa, parquet = arrow()
    kind = pa.list_(pa.from_numpy_dtype(np.dtype(dtype)), int(np.prod(shape)))
    fields = [pa.field(name, pa.string()) for name in table.columns]
    schema = pa.schema(
        [*fields, pa.field("features", kind)], metadata={"shape": json.dumps(list(shape))}
    )
    with parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        for shard in shards:
            cells = [[_text(cell) for cell in row] for row in table.rows(shard.kept)]
            columns = [pa.array([row[i] for row in cells], pa.string()) for i in range(len(fields))]
            flat = pa.array(shard.x.reshape(-1))
            columns.append(pa.FixedSizeListArray.from_arrays(flat, type=kind))
            if cells:
                writer.write_table(pa.Table.from_arrays(columns, schema=schema))


def arrow() -> tuple[Any, Any]:
    """The modules of pyarrow, which only parquet files need."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UserError(
            "parquet files need pyarrow: pip install 'jepa-video[parquet]', or give --out a name "
            "that ends in .npy"
        ) from None
    return pyarrow, pyarrow.parquet


def reading_lines(out: Path, meta: Meta) -> list[str]:
    """The lines of Python that open a finished file."""
    if out.suffix == ".npy":
        return [
            "import numpy as np",
            f'x = np.load("{out}", mmap_mode="r")  # {_shape(meta)}',
            f'rows = open("{out.with_suffix(".csv")}").read().splitlines()[1:]  # what row i is',
        ]
    shape = ", ".join(str(size) for size in meta["shape"])
    return [
        "import pyarrow.parquet as pq",
        f'table = pq.read_table("{out}")  # {", ".join(("path", "labels", "features"))}',
        'x = table["features"].combine_chunks().flatten().to_numpy()'
        f".reshape(-1, {shape})  # {_shape(meta)}",
    ]


def _shape(meta: Meta) -> str:
    return " x ".join(str(size) for size in (meta["rows"], *meta["shape"])) + f", {meta['dtype']}"
