"""What a video file is: its stream, packets and pictures, and which decoder may be asked for them.

No torch in this module: the processes that examine files import it and must start quickly.
"""

from __future__ import annotations

import importlib
import os
import stat
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

Frames: TypeAlias = npt.NDArray[np.uint8]

CONTAINERS: Final = {"mov", "mp4", "matroska", "webm", "flv"}  # whose time stamps can be relied on
_CODECS: Final = {"h264", "hevc", "vp8", "vp9", "mpeg4"}
# Pixel formats that decord reads right, with the luma samples (x, y) that share one chroma sample.
_PIXELS: Final = {"yuv420p": (2, 2), "yuvj420p": (2, 2), "yuv422p": (2, 1), "yuvj422p": (2, 1)}
_BAD_WIDTHS: Final = {48, 72}


class DecodeError(Exception):
    """A file whose frames cannot be had. `reason` is plain words: it goes into the ledger.

    Raised for one file; a loader drops the file and goes on.
    """

    def __init__(self, path: str | os.PathLike[str], reason: str) -> None:
        super().__init__(f"{os.fspath(path)}: {reason}")
        self.path = os.fspath(path)
        self.reason = reason

    def __reduce__(self) -> tuple[type[DecodeError], tuple[str, str]]:
        return type(self), (self.path, self.reason)


class DecoderLost(DecodeError):
    """A decoder that hung on the file or crashed; the next attempt would cost as much."""


class PastEnd(IndexError):
    """A frame number `index` at or after the end; `frames` is how many there are."""

    def __init__(self, path: str, index: int, frames: int) -> None:
        super().__init__(f"{path}: frame {index} asked of a video of {frames} frames")
        self.index, self.frames = index, frames


@dataclass(frozen=True)
class VideoInfo:
    """What a file holds, counted and not only promised.

    `frames`: packets that become frames. `fps`: frames a second, averaged where the rate varies.
    `width`, `height`: pixels, after rotation. `backend`: the decoder that is right for this file.
    """

    frames: int
    fps: float
    width: int
    height: int
    codec: str
    container: str
    backend: str


@dataclass(frozen=True)
class Packets:
    """The packets of a video stream in the order of storage."""

    times: tuple[int | None, ...]  # presentation time stamps, in the stream's time base
    keys: tuple[int, ...]  # positions of the key frames
    cut: bool  # an edit list hides some frames

    @property
    def clean(self) -> bool:
        """Every packet has its own time stamp, so that a time names a frame."""
        return None not in self.times and len(set(self.times)) == len(self.times)

    @property
    def closed(self) -> bool:
        """Key frames have the same number in storage and in display."""
        if not self.clean:
            return False
        times = np.array(self.times, dtype=np.int64)
        rank = np.empty(len(times), dtype=np.int64)
        rank[np.argsort(times, kind="stable")] = np.arange(len(times))
        return all(rank[key] == key for key in self.keys)


def video_info(path: str | os.PathLike[str]) -> VideoInfo:
    """Count, rate and size of a file from its packets and one decoded frame.

    Raises:
        DecodeError: not a video, or nothing of it decodes.
    """
    return examined(*identity(path))[0]


def has_decord() -> bool:
    """Whether decord can be imported here; it has wheels for Linux and Windows on x86-64 alone."""
    return decord_module() is not None


@lru_cache(maxsize=1)
def imported_decord() -> Any:
    """The module decord, told to print nothing."""
    module = importlib.import_module("decord")
    module.logging.set_level(module.logging.QUIET)
    return module


def decord_module() -> Any | None:
    """The module decord, or None where it cannot be imported."""
    try:
        return imported_decord()
    except (ImportError, OSError, AttributeError):  # absent, hidden, or it does not load
        return None


def identity(path: str | os.PathLike[str]) -> tuple[str, int, int]:
    """What a cached answer about a file depends on."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        raise DecodeError(path, "missing") from None
    except OSError as error:
        raise DecodeError(path, f"unreadable: {error.strerror}") from None
    if not stat.S_ISREG(found.st_mode):  # to open a pipe is to wait for who writes into it
        raise DecodeError(path, "not a video (no regular file)")
    if found.st_size == 0:
        raise DecodeError(path, "empty")
    return os.fspath(path), found.st_size, found.st_mtime_ns


def video_stream(path: str, container: Any) -> Any:
    """The video stream of an open container, set to one thread.

    Raises:
        DecodeError: there is none; the cover picture of a piece of music is not one.
    """
    stream = container.streams.best("video")
    if stream is None or stream.disposition & type(stream.disposition).attached_pic:
        kinds = {s.type for s in container.streams}
        raise DecodeError(path, "audio only" if "audio" in kinds else "unreadable: no video in it")
    stream.codec_context.thread_count = 1
    return stream


def upright(frame: Any, painter: Any) -> Frames:
    """RGB pixels of a decoded frame, turned by quarter turns as its display matrix says.

    `painter`: a VideoReformatter for all frames of a read; one for each costs as much as decoding.
    """
    pixels: Frames = painter.reformat(frame, format="rgb24").to_ndarray()
    return np.rot90(pixels, _turns(frame))


def _turns(frame: Any) -> int:
    """Counter-clockwise quarter turns; any other turn is left alone, as players do."""
    turns = frame.rotation / 90
    return int(turns) % 4 if turns == int(turns) else 0


def first_line(error: BaseException) -> str:
    """The gist of a decoder's message, on one line and without its source file."""
    text = str(error).strip().splitlines()
    line = text[0] if text else type(error).__name__
    return line.split("] ")[-1][:160]


def av_words(error: BaseException) -> str:
    """What libav says about a file, as a person would say it."""
    text = getattr(error, "strerror", None) or first_line(error)
    return {"Invalid data found when processing input": "damaged, or not a video"}.get(text, text)


@lru_cache(maxsize=256)
def examined(path: str, size: int, mtime: int) -> tuple[VideoInfo, Packets]:
    """Everything known of a file without decoding more than a frame; see `identity`."""
    import av

    try:
        with av.open(path) as container:
            stream = video_stream(path, container)
            packets, frame = _packets(container, stream)
            if frame is None:
                raise DecodeError(path, "unreadable: no frame of it decodes")
            return _describe(container, stream, frame, packets), packets
    except DecodeError:
        raise
    except Exception as error:
        raise DecodeError(path, f"unreadable: {av_words(error)}") from None


def _packets(container: Any, stream: Any) -> tuple[Packets, Any]:
    """All packets, and the first frame that comes out of them."""
    frame = None
    times: list[int | None] = []
    keys: list[int] = []
    cut = False
    for packet in container.demux(stream):
        if frame is None:
            frame = next(iter(packet.decode()), None)
        cut |= packet.is_discard
        if packet.size and not packet.is_discard:
            if packet.is_keyframe:
                keys.append(len(times))
            times.append(packet.pts)
    return Packets(tuple(times), tuple(keys), cut), frame


def _describe(container: Any, stream: Any, frame: Any, packets: Packets) -> VideoInfo:
    turned = _turns(frame) % 2 == 1
    return VideoInfo(
        frames=len(packets.times),
        fps=_rate(stream, packets),
        width=frame.height if turned else frame.width,
        height=frame.width if turned else frame.height,
        codec=stream.codec_context.codec.canonical_name,
        container=container.format.name,
        backend="decord" if _trusts_decord(container, stream, frame, packets) else "pyav",
    )


def _rate(stream: Any, packets: Packets) -> float:
    times = [t for t in packets.times if t is not None]
    span = max(times) - min(times) if times else 0
    if len(times) > 1 and span > 0:
        return float(Fraction(len(times) - 1, span) / stream.time_base)
    return float(stream.average_rate or stream.guessed_rate or 25)


def _trusts_decord(container: Any, stream: Any, frame: Any, packets: Packets) -> bool:
    """Whether decord gives the same frames as decoding from the start does."""
    step_x, step_y = _PIXELS.get(frame.format.name, (0, 0))
    return (
        decord_module() is not None
        and bool(CONTAINERS & set(container.format.name.split(",")))
        and container.duration is not None
        and stream.codec_context.codec.canonical_name in _CODECS
        and step_x > 0
        and frame.width % step_x == 0
        and frame.height % step_y == 0
        and frame.width >= 32
        and frame.width not in _BAD_WIDTHS
        and packets.closed
        and not packets.cut
    )
