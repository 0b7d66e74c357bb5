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

import os
from collections.abc import Sequence
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from jepa_video.data.media import (
    CONTAINERS,
    DecodeError,
    DecoderLost,
    Frames,
    PastEnd,
    VideoInfo,
    av_words,
    decord_module,
    examined,
    first_line,
    has_decord,
    identity,
    upright,
    video_info,
    video_stream,
)

__all__ = [
    "DecodeError",
    "DecoderLost",
    "Frames",
    "PastEnd",
    "VideoInfo",
    "has_decord",
    "read_clip",
    "video_info",
]

Backend = Literal["auto", "decord", "pyav"]

SEEK_FROM: Final = 96  # below this frame number decoding from the start costs less than a seek


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
        timeout: seconds that it may take. With it the file is read in a helper process, which a
            decoder may hang or crash (see `reader.py`).

    Raises:
        IndexError: an index is negative, or at or after the end of the video.
        TypeError: an index is not a whole number.
        DecodeError: the file cannot be read, with the reason in plain words; `DecoderLost` where
            the decoder hung or crashed.
    """
    wanted = _whole(indices)
    name, _, _ = identity(path)  # a file that is gone or empty has a plainer reason than libav's
    if backend not in ("auto", "decord", "pyav"):
        raise ValueError(f"backend must be auto, decord or pyav, not {backend!r}")
    if timeout is None:
        return _read(name, wanted, backend)
    from jepa_video.data.reader import frames_of  # which reads by this function

    return frames_of(name, wanted, backend, timeout)


def _read(path: str, wanted: list[int], backend: str) -> Frames:
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


def _read_decord(path: str, wanted: list[int]) -> Frames:
    decord = decord_module()
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
        raise DecodeError(path, f"unreadable by decord: {first_line(error)}") from None
    if order[-1] >= count:
        raise PastEnd(path, int(order[-1]), count)
    return frames if order.tolist() == wanted else frames[where]


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
        raise DecodeError(path, f"unreadable: {av_words(error)}") from None
    shapes = {frame.shape for frame in found.values()}
    if len(shapes) > 1:
        raise DecodeError(path, "the frame size changes within the video")
    return np.stack([found[index] for index in wanted])


def _from_start(path: str, wanted: set[int]) -> dict[int, Frames]:
    """Decode from frame 0: slow for late frames of long files, and right for every file."""
    import av

    found: dict[int, Frames] = {}
    painter = av.video.reformatter.VideoReformatter()
    last, count = max(wanted), 0
    with av.open(path) as container:
        stream = video_stream(path, container)
        for frame in container.decode(stream):
            if count in wanted:
                found[count] = upright(frame, painter)
            count += 1
            if count > last:
                return found
    raise PastEnd(path, last, count)


def _after_seek(path: str, wanted: list[int]) -> dict[int, Frames]:
    """Decode from the key frame before the first frame wanted; empty where times name no frames."""
    import av

    info, packets = examined(*identity(path))
    if wanted[-1] >= info.frames:
        raise PastEnd(path, wanted[-1], info.frames)
    if not packets.clean or packets.cut or not CONTAINERS & set(info.container.split(",")):
        return {}
    times = sorted(t for t in packets.times if t is not None)
    number = {times[index]: index for index in wanted}
    found: dict[int, Frames] = {}
    painter = av.video.reformatter.VideoReformatter()
    with av.open(path) as container:
        stream = video_stream(path, container)
        next(container.decode(stream))  # old x264 files say in frame 0 how the others are coded
        container.seek(times[wanted[0]], stream=stream, backward=True)
        for frame in container.decode(stream):
            if frame.pts in number:
                found[number[frame.pts]] = upright(frame, painter)
            if len(found) == len(wanted):
                return found
            if frame.pts is None or frame.pts > times[wanted[-1]]:
                break
    return {}
