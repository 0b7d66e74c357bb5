"""Videos at a short side, a constant rate and a key frame every 25 frames: fast to decode anywhere.

Runs in helper processes (see `watched.py`), which a decoder may hang or crash. A file appears under
its name by one move when it is whole. No torch in this module: helpers must start quickly.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import av
from av.video.reformatter import VideoReformatter

from jepa_video.data.media import DecodeError, av_words, upright, video_info, video_stream
from jepa_video.errors import UserError
from jepa_video.watched import Job, Watched, in_parallel, serve

GOP: Final = 25
CODE: Final = "from jepa_video.data.prepare.reencode import main; main()"
T = TypeVar("T")


def need_encoder() -> None:
    """Raise where this build of FFmpeg cannot write H.264."""
    if "libx264" not in av.codecs_available:
        raise UserError(
            "this build of PyAV has no libx264: install the wheel of `av`, or leave "
            "--settings.short_side and --settings.fps away"
        )


def encode_all(jobs: list[Job], workers: int | None, timeout: float) -> Iterator[tuple[Job, str]]:
    """Each job with the reason why it failed, empty where it did not, as they come.

    Args:
        jobs: `source`, `target`, `short_side` (None: as it is), `fps`, `frames` (of the source),
            `quality` (x264's constant rate factor).
        workers: helper processes; by default one for each core.
        timeout: seconds that one file may take.
    """

    def work(helper: Watched, job: Job) -> tuple[Job, str]:
        answer = helper.ask(job)
        return job, answer if isinstance(answer, str) else str(answer["reason"])

    return in_parallel(jobs, lambda: Watched(CODE, timeout), work, workers)


def encode(job: Job) -> None:
    """Write `job["target"]` from `job["source"]`.

    Raises:
        DecodeError: the source does not decode to its end, or what was written does not.
    """
    target = Path(job["target"])
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        read, written = _transcode(job, draft)
        if read < job["frames"] - max(3, job["frames"] // 50):
            told = f"truncated ({read} of {job['frames']} frames decode)"
            raise DecodeError(job["source"], told)
        found = video_info(draft).frames
        if found != written:
            raise DecodeError(job["source"], f"encoded to {found} frames in place of {written}")
        os.replace(draft, target)
    finally:
        draft.unlink(missing_ok=True)


def _transcode(job: Job, draft: Path) -> tuple[int, int]:
    """Frames read and frames written."""
    source, rate = job["source"], Fraction(job["fps"]).limit_denominator(1001)
    written, painter, stream = 0, VideoReformatter(), None
    counted = _Counted()
    with (
        av.open(source) as container,
        av.open(str(draft), "w", format="mp4", options={"movflags": "faststart"}) as out,
    ):
        incoming = video_stream(source, container)
        timed = counted(_timed(container.decode(incoming), float(rate)))
        for frame in steady(timed, float(rate)):
            pixels = av.VideoFrame.from_ndarray(upright(frame, painter), format="rgb24")
            if stream is None:
                size = scaled(pixels.height, pixels.width, job["short_side"])
                stream = _stream(out, rate, size, job["quality"])
            height, width = stream.height, stream.width
            small = pixels.reformat(width, height, "yuv420p", interpolation="AREA")
            small.pts, small.time_base = written, 1 / rate
            out.mux(stream.encode(small))
            written += 1
        if stream is None:
            raise DecodeError(source, "unreadable: no frame of it decodes")
        out.mux(stream.encode())
    return counted.count, written


class _Counted:
    """Passes things on and counts them."""

    count = 0

    def __call__(self, things: Iterable[T]) -> Iterator[T]:
        for thing in things:
            self.count += 1
            yield thing


def _timed(frames: Iterable[Any], rate: float) -> Iterator[tuple[float, Any]]:
    """Frames with their seconds; those without a time stamp by their number."""
    for number, frame in enumerate(frames):
        yield number / rate if frame.time is None else frame.time, frame


def steady(timed: Iterable[tuple[float, T]], rate: float) -> Iterator[T]:
    """Pictures at a constant rate: each at the slot nearest to its time.

    A slot that no picture is nearest to repeats the one before; of two for one slot, the first
    stays. A source that is at this rate already passes through unchanged.
    """
    first: float | None = None
    before: T | None = None
    slot = 0
    for time, picture in timed:
        first = time if first is None else first
        # Halves go down, so that half the rate takes every second picture.
        place = math.floor((time - first) * rate + 0.5 - 1e-6)
        while slot < place and before is not None:
            yield before
            slot += 1
        if place >= slot:
            yield picture
            slot += 1
        before = picture


def scaled(height: int, width: int, short_side: int | None) -> tuple[int, int]:
    """Even height and width with that short side; never larger than the source."""
    scale = min(1.0, (short_side or min(height, width)) / min(height, width))
    tall, wide = (max(2, 2 * round(side * scale / 2)) for side in (height, width))
    return tall, wide


def _stream(out: Any, rate: Fraction, size: tuple[int, int], quality: int) -> av.VideoStream:
    """H.264 with a key frame every `GOP`, and no frame that refers to a later one."""
    options = {"crf": str(quality), "preset": "medium", "g": str(GOP), "bf": "0"}
    options |= {"sc_threshold": "0", "keyint_min": str(GOP)}
    stream = cast(av.VideoStream, out.add_stream("libx264", rate=rate, options=options))
    stream.height, stream.width = size
    stream.pix_fmt = "yuv420p"
    stream.codec_context.thread_count = 1  # the parallel work is over files
    stream.codec_context.time_base = 1 / rate
    return stream


def _answer(job: Job) -> Job:
    try:
        encode(job)
    except DecodeError as error:
        return {"reason": error.reason}
    except (av.FFmpegError, OSError) as error:
        return {"reason": f"does not decode to its end: {av_words(error)}"}
    return {"reason": ""}


def main() -> None:
    """Answer jobs in a helper process."""
    serve(_answer, lambda told: {"reason": told})
