"""Is this file a video that can be trained on, and which decoder reads it right?

Runs in a process of its own (see `watched.py`), which a decoder may hang or crash. Imports no
torch: it must start quickly.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, replace
from typing import Any, BinaryIO, Final

import numpy as np

from jepa_video.data.decode import (
    SEEK_FROM,
    DecodeError,
    Frames,
    PastEnd,
    VideoInfo,
    read_clip,
    video_info,
)
from jepa_video.watched import serve

_ONE_PASS: Final = 1024  # up to so many frames a doubtful file is decoded in order, without seeks
_MP4_FIRST: Final = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")
_LFS: Final = b"version https://git-lfs"


@dataclass(frozen=True)
class Finding:
    """What an examination found: `info` of a usable file, else the `reason` in plain words."""

    info: VideoInfo | None
    reason: str = ""


def examine(path: str, level: str, decord: bool = True) -> Finding:
    """Examine a file.

    Args:
        path: the file.
        level: `quick` counts packets and decodes one frame; `full` also decodes the first, the
            middle and the last frame, with both decoders where decord is a candidate, and keeps
            decord only where the two agree.
        decord: whether decord may be tried.
    """
    try:
        _outside(path)
        try:
            info = video_info(path)
        except DecodeError:
            _cut_short(path)
            raise
        _cut_short(path)
        if not decord:
            info = replace(info, backend="pyav")
        return Finding(_inside(path, info) if level == "full" else info)
    except DecodeError as error:
        return Finding(None, error.reason)


def _outside(path: str) -> None:
    """Faults that show without a decoder."""
    if not os.path.exists(path):
        raise DecodeError(path, "missing")
    if os.path.isdir(path):
        raise DecodeError(path, "not a video (a folder)")
    if not os.path.isfile(path):  # see `identity`
        raise DecodeError(path, "not a video (no regular file)")
    try:
        with open(path, "rb") as file:
            head = file.read(1024)
    except OSError as error:
        raise DecodeError(path, f"unreadable: {error.strerror}") from None
    if not head:
        raise DecodeError(path, "empty")
    if head.startswith(_LFS):
        raise DecodeError(path, "not a video (a Git LFS pointer: the file was never downloaded)")
    if _is_text(head):
        raise DecodeError(path, "not a video (a text file)")


def _is_text(head: bytes) -> bool:
    controls = sum(byte < 9 or 13 < byte < 32 for byte in head)
    try:
        head.decode()
    except UnicodeDecodeError as error:
        if error.start < len(head) - 4:  # a character may be cut at the end of the sample
            return False
    return controls == 0


def _cut_short(path: str) -> None:
    """Raise where the file ends before its own header says: mp4 and mov, AVI, Matroska and webm."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        head = file.read(256)
        if head[4:8] in _MP4_FIRST:
            end, whole = _mp4_end(file, size)
        elif head[:4] == b"RIFF":
            end, whole = int.from_bytes(head[4:8], "little") + 8, True
        elif head[:4] == b"\x1a\x45\xdf\xa3":
            end, whole = _matroska_end(head), True
        else:
            return
    if end > size + 1:  # AVI writers differ on a last byte of padding
        raise DecodeError(path, f"truncated ({size} of {end} bytes are there)")
    if not whole:
        raise DecodeError(path, "truncated (the index at its end is not there)")


def _mp4_end(file: BinaryIO, size: int) -> tuple[int, bool]:
    """Where the last box that begins in the file ends, and whether the frames have an index."""
    place, kinds = 0, set()
    while place + 8 <= size:
        file.seek(place)
        box = file.read(16)
        kinds.add(box[4:8])
        length = int.from_bytes(box[:4], "big")
        if length == 1:
            length = int.from_bytes(box[8:16], "big")
        if length == 0:  # a box to the end of the file
            length = size - place
        place += max(length, 8)
    return place, b"mdat" not in kinds or bool(kinds & {b"moov", b"moof"})


def _matroska_end(head: bytes) -> int:
    """Where the segment ends that follows the EBML header; 0 where a live writer left it open."""
    header, width = _ebml_size(head, 4)
    place = 4 + width + header
    if head[place : place + 4] != b"\x18\x53\x80\x67" or place + 12 > len(head):
        return 0
    length, width = _ebml_size(head, place + 4)
    unknown = (1 << 7 * width) - 1
    return 0 if length == unknown else place + 4 + width + length


def _ebml_size(head: bytes, place: int) -> tuple[int, int]:
    """A number of variable width: its value and its width in bytes."""
    width = 9 - head[place].bit_length()
    value = int.from_bytes(head[place : place + width], "big")
    return value & ((1 << 7 * width) - 1), width


def _inside(path: str, info: VideoInfo) -> VideoInfo:
    """Decode the first, middle and last frame; settle the count and the decoder."""
    if info.backend == "decord" and _agree(path, info.frames):
        return info
    info = replace(info, backend="pyav")
    try:
        _sample(path, info.frames, "pyav", one_pass=info.frames <= _ONE_PASS)
    except PastEnd as error:
        info = _shortened(path, info, error.frames)
        _sample(path, info.frames, "pyav")
    return info


def _shortened(path: str, info: VideoInfo, frames: int) -> VideoInfo:
    """A few frames fewer than promised are common in AVI; many are a broken file."""
    if frames < info.frames - max(3, info.frames // 50):
        raise DecodeError(path, f"truncated ({frames} of {info.frames} frames decode)")
    return replace(info, frames=frames)


def _agree(path: str, frames: int) -> bool:
    """Whether both decoders give the same frames, each with its own way of seeking."""
    try:
        ours = _sample(path, frames, "pyav", one_pass=frames <= SEEK_FROM)
        return np.array_equal(_sample(path, frames, "decord"), ours)
    except (DecodeError, IndexError):
        return False


def _sample(path: str, frames: int, backend: str, one_pass: bool = False) -> Frames:
    places = sorted({0, frames // 2, frames - 1})
    if one_pass or backend == "decord":
        return read_clip(path, places, backend=backend)
    return np.concatenate([read_clip(path, [place], backend=backend) for place in places])


def to_json(finding: Finding) -> dict[str, Any]:
    """A finding as plain values."""
    return {"info": asdict(finding.info) if finding.info else None, "reason": finding.reason}


def from_json(values: dict[str, Any]) -> Finding:
    """The inverse of `to_json`."""
    info = values["info"]
    return Finding(VideoInfo(**info) if info else None, values["reason"])


def main() -> None:
    """Answer the jobs of `check.py` in a helper process."""
    serve(
        lambda job: to_json(examine(job["path"], job["level"], job["decord"])),
        lambda told: to_json(Finding(None, told)),
    )
