"""Frames of a video file by number: decord first, PyAV where decord cannot be trusted.

    frames = read_clip("a.mp4", [0, 4, 8, 12])        # uint8 [4, H, W, 3], RGB

Frame `i` is the i-th frame in the order of display, counted from 0, turned upright as the file's
rotation metadata says. Where decord is used both decoders give the same pixels, so that a machine
without it trains on the same clips. It is not used where it was measured to be wrong or to fail:

* MPEG-PS, MPEG-TS, AVI (first frames lost or repeated in silence), GIF, files without a duration;
* AV1, VVC and every codec that is not on the short list below;
* widths that its buffers cannot hold (2, 4, 6, 8, 12, 16, 24, 48, 72 and all under 32);
* more than 8 bits, and odd sizes with subsampled chroma (colours differ by some levels);
* H.264 in 4:4:4 (old x264 files turn to wrong colours after a seek);
* open groups of pictures: it counts key frames in the order of storage and seeks to a neighbour.

A reader is opened for each read, with one thread, and closed: readers kept over a fork hang. No
torch in this module: the processes that examine files import it and must start quickly.
"""

from __future__ import annotations

import importlib
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any, Final, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

Frames: TypeAlias = npt.NDArray[np.uint8]
Backend = Literal["auto", "decord", "pyav"]

SEEK_FROM: Final = 96  # below this frame number decoding from the start costs less than a seek
_CONTAINERS: Final = {"mov", "mp4", "matroska", "webm", "flv"}
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
class _Packets:
    """The packets of a video stream in the order of storage."""

    times: tuple[int | None, ...]  # presentation time stamps, in the stream's time base
    keys: tuple[int, ...]  # positions of the key frames

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


def read_clip(
    path: str | os.PathLike[str],
    indices: Sequence[int] | npt.NDArray[np.integer[Any]],
    *,
    backend: Backend | str = "auto",
    timeout: float | None = None,
) -> Frames:
    """The frames `indices` of a file, uint8 `T H W 3` (RGB), in the order asked, repeats allowed.

    Args:
        path: a video file.
        indices: whole numbers from 0, one for each frame wanted.
        backend: `auto` chooses for the file and falls back to PyAV; `decord` or `pyav` insist.
        timeout: seconds after which a hanging decoder is given up (its thread is left behind).

    Raises:
        IndexError: an index is negative, or at or after the end of the video.
        TypeError: an index is not a whole number.
        DecodeError: the file cannot be read, with the reason in plain words.
    """
    wanted = _whole(indices)
    name, _, _ = _identity(path)  # a file that is gone or empty has a plainer reason than libav's
    if timeout is None:
        return _read(name, wanted, backend)
    return _in_time(name, wanted, backend, timeout)


def video_info(path: str | os.PathLike[str]) -> VideoInfo:
    """Count, rate and size of a file from its packets and one decoded frame.

    Raises:
        DecodeError: not a video, or nothing of it decodes.
    """
    return _examined(*_identity(path))[0]


def has_decord() -> bool:
    """Whether decord can be imported here; it has wheels for Linux and Windows on x86-64 alone."""
    return _decord() is not None


# -- choosing --------------------------------------------------------------------------------------


def _read(path: str, wanted: list[int], backend: str) -> Frames:
    if backend not in ("auto", "decord", "pyav"):
        raise ValueError(f"backend must be auto, decord or pyav, not {backend!r}")
    if backend == "decord":
        return _read_decord(path, wanted)
    if backend == "pyav":
        return _read_pyav(path, wanted)
    info = video_info(path)
    if max(wanted) >= info.frames:
        raise PastEnd(path, max(wanted), info.frames)
    try:
        if info.backend == "decord":
            return _read_decord(path, wanted)
    except (DecodeError, IndexError):
        pass  # the file is in order as far as its packets say, so the other decoder has its turn
    try:
        return _read_pyav(path, wanted)
    except IndexError:
        reason = f"truncated (frame {max(wanted)} of {info.frames} does not decode)"
        raise DecodeError(path, reason) from None


def _in_time(path: str, wanted: list[int], backend: str, timeout: float) -> Frames:
    """Read in a thread that can be abandoned: both decoders let go of the interpreter's lock."""
    answer: list[Frames | BaseException] = []

    def work() -> None:
        try:
            answer.append(_read(path, wanted, backend))
        except BaseException as error:  # handed over to the caller below
            answer.append(error)

    thread = threading.Thread(target=work, daemon=True, name=f"read {path}")
    thread.start()
    thread.join(timeout)
    if not answer:
        raise DecodeTimeout(path, f"decoder hangs (no answer in {timeout:g} s)")
    if isinstance(answer[0], BaseException):
        raise answer[0]
    return answer[0]


def _whole(indices: Sequence[int] | npt.NDArray[np.integer[Any]]) -> list[int]:
    """Plain non-negative integers; decord itself would take -1 and 1.5 in silence."""
    wanted = []
    for index in indices:
        if isinstance(index, (bool, np.bool_)) or not isinstance(index, (int, np.integer)):
            raise TypeError(f"frame numbers are whole numbers, not {index!r}")
        if index < 0:
            raise IndexError(f"frame number {index} is negative; frames count from 0")
        wanted.append(int(index))
    if not wanted:
        raise IndexError("no frame numbers given")
    return wanted


class DecodeTimeout(DecodeError):
    """A decoder that gave no answer in time; the next attempt would cost as much."""


class PastEnd(IndexError):
    """A frame number at or after the end; `frames` is how many there are."""

    def __init__(self, path: str, index: int, frames: int) -> None:
        super().__init__(f"{path}: frame {index} asked of a video of {frames} frames")
        self.frames = frames


def _identity(path: str | os.PathLike[str]) -> tuple[str, int, int]:
    """What a cached answer about a file depends on."""
    try:
        stat = os.stat(path)
    except FileNotFoundError:
        raise DecodeError(path, "missing") from None
    except OSError as error:
        raise DecodeError(path, f"unreadable: {error.strerror}") from None
    if stat.st_size == 0:
        raise DecodeError(path, "empty")
    return os.fspath(path), stat.st_size, stat.st_mtime_ns


# -- decord ----------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _imported_decord() -> Any:
    module = importlib.import_module("decord")
    module.logging.set_level(module.logging.QUIET)
    return module


def _decord() -> Any | None:
    try:
        return _imported_decord()
    except (ImportError, OSError, AttributeError):  # absent, hidden, or it does not load
        return None


def _read_decord(path: str, wanted: list[int]) -> Frames:
    decord = _decord()
    if decord is None:
        raise DecodeError(path, "decord is not installed")
    order, where = np.unique(np.array(wanted), return_inverse=True)  # decord wants them rising
    try:
        reader = decord.VideoReader(path, ctx=decord.cpu(0), num_threads=1)
        count = len(reader)
        if order[-1] < count:
            frames: Frames = reader.get_batch(order.tolist()).asnumpy()
        del reader
    except Exception as error:  # decord raises its own types and plain RuntimeError alike
        raise DecodeError(path, f"unreadable by decord: {_first_line(error)}") from None
    if order[-1] >= count:
        raise PastEnd(path, int(order[-1]), count)
    return frames if order.tolist() == wanted else frames[where]


def _first_line(error: BaseException) -> str:
    """The gist of a decoder's message, on one line and without its source file."""
    text = str(error).strip().splitlines()
    line = text[0] if text else type(error).__name__
    return line.split("] ")[-1][:160]


# -- PyAV ------------------------------------------------------------------------------------------


def _video_stream(path: str, container: Any) -> Any:
    stream = container.streams.best("video")
    if stream is None or stream.disposition & type(stream.disposition).attached_pic:
        kinds = {s.type for s in container.streams}
        raise DecodeError(path, "audio only" if "audio" in kinds else "unreadable: no video in it")
    stream.codec_context.thread_count = 1
    return stream


def _upright(frame: Any) -> Frames:
    """RGB pixels of a decoded frame, turned by quarter turns as its display matrix says."""
    pixels: Frames = frame.to_ndarray(format="rgb24")
    return np.rot90(pixels, _turns(frame))


def _turns(frame: Any) -> int:
    """Counter-clockwise quarter turns; any other turn is left alone, as players do."""
    turns = frame.rotation / 90
    return int(turns) % 4 if turns == int(turns) else 0


def _read_pyav(path: str, wanted: list[int]) -> Frames:
    found: dict[int, Frames] = {}
    try:
        if min(wanted) >= SEEK_FROM:
            found = _after_seek(path, sorted(set(wanted)))
        if not found:
            found = _from_start(path, set(wanted))
    except (DecodeError, IndexError):
        raise
    except Exception as error:  # PyAV's errors have no base class but Exception in every version
        raise DecodeError(path, f"unreadable: {_av_words(error)}") from None
    shapes = {frame.shape for frame in found.values()}
    if len(shapes) > 1:
        raise DecodeError(path, "the frame size changes within the video")
    return np.stack([found[index] for index in wanted])


def _from_start(path: str, wanted: set[int]) -> dict[int, Frames]:
    """Decode from frame 0: slow for late frames of long files, and right for every file."""
    import av

    found: dict[int, Frames] = {}
    last, count = max(wanted), 0
    with av.open(path) as container:
        stream = _video_stream(path, container)
        for frame in container.decode(stream):
            if count in wanted:
                found[count] = _upright(frame)
            count += 1
            if count > last:
                return found
    raise PastEnd(path, last, count)


def _after_seek(path: str, wanted: list[int]) -> dict[int, Frames]:
    """Decode from the key frame before the first frame wanted; empty where times name no frames."""
    import av

    info, packets = _examined(*_identity(path))
    if wanted[-1] >= info.frames:
        raise PastEnd(path, wanted[-1], info.frames)
    if not packets.clean or not _CONTAINERS & set(info.container.split(",")):
        return {}
    times = sorted(t for t in packets.times if t is not None)
    number = {times[index]: index for index in wanted}
    found: dict[int, Frames] = {}
    with av.open(path) as container:
        stream = _video_stream(path, container)
        next(container.decode(stream))  # old x264 files say in frame 0 how the others are coded
        container.seek(times[wanted[0]], stream=stream, backward=True)
        for frame in container.decode(stream):
            if frame.pts in number:
                found[number[frame.pts]] = _upright(frame)
            if len(found) == len(wanted):
                return found
            if frame.pts is None or frame.pts > times[wanted[-1]]:
                break
    return {}


def _av_words(error: BaseException) -> str:
    """What libav says about a file, as a person would say it."""
    text = getattr(error, "strerror", None) or _first_line(error)
    return {"Invalid data found when processing input": "damaged, or not a video"}.get(text, text)


# -- examining -------------------------------------------------------------------------------------


@lru_cache(maxsize=256)
def _examined(path: str, size: int, mtime: int) -> tuple[VideoInfo, _Packets]:
    import av

    try:
        with av.open(path) as container:
            stream = _video_stream(path, container)
            packets = _packets(container, stream)
        with av.open(path) as container:
            stream = _video_stream(path, container)
            frame = next(container.decode(stream), None)
            if frame is None:
                raise DecodeError(path, "unreadable: no frame of it decodes")
            return _describe(container, stream, frame, packets), packets
    except DecodeError:
        raise
    except Exception as error:
        raise DecodeError(path, f"unreadable: {_av_words(error)}") from None


def _packets(container: Any, stream: Any) -> _Packets:
    times: list[int | None] = []
    keys: list[int] = []
    for packet in container.demux(stream):
        if packet.size and not packet.is_discard:
            if packet.is_keyframe:
                keys.append(len(times))
            times.append(packet.pts)
    return _Packets(tuple(times), tuple(keys))


def _describe(container: Any, stream: Any, frame: Any, packets: _Packets) -> VideoInfo:
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


def _rate(stream: Any, packets: _Packets) -> float:
    times = [t for t in packets.times if t is not None]
    span = max(times) - min(times) if times else 0
    if len(times) > 1 and span > 0:
        return float(Fraction(len(times) - 1, span) / stream.time_base)
    return float(stream.average_rate or stream.guessed_rate or 25)


def _trusts_decord(container: Any, stream: Any, frame: Any, packets: _Packets) -> bool:
    """Whether decord gives the same frames as decoding from the start does."""
    step_x, step_y = _PIXELS.get(frame.format.name, (0, 0))
    return (
        _decord() is not None
        and bool(_CONTAINERS & set(container.format.name.split(",")))
        and container.duration is not None
        and stream.codec_context.codec.canonical_name in _CODECS
        and step_x > 0
        and frame.width % step_x == 0
        and frame.height % step_y == 0
        and frame.width >= 32
        and frame.width not in _BAD_WIDTHS
        and packets.closed
    )
