"""Reads files in a helper of this process, so that no decoder can hang or kill what reads.

Symptom: a file that passed its examination hangs or kills its decoder when the middle of it is
read for the first time, days into a run.
Why a thread with a clock fails: it leaves a decoder that hangs behind, but one that crashes takes
the process with it, and a loader whose worker dies takes the run.
Fix: one helper for each process that reads (see `watched.py`): it decodes, the frames come back
through its pipe, and a fault costs the file and a new helper. A clip of 8 frames at 192 x 144 took
7.7 ms of CPU time in place of 7.0.

No torch in this module: the helper imports it and must start quickly.
"""

from __future__ import annotations

import atexit
import os
import threading
from dataclasses import asdict
from typing import Final

import numpy as np

from jepa_video.data.decode import read_clip
from jepa_video.data.media import (
    DecodeError,
    DecoderLost,
    Frames,
    PastEnd,
    VideoInfo,
    video_info,
)
from jepa_video.watched import Job, Watched, serve

_CODE: Final = "from jepa_video.data.reader import main; main()"
_lock = threading.Lock()  # one question at a time
_helper: tuple[int, Watched] | None = None  # with the process that it belongs to


def frames_of(path: str, places: list[int], backend: str, timeout: float) -> Frames:
    """`read_clip` without its risks.

    Args:
        path: a video file.
        places: frame numbers.
        backend: as in `read_clip`.
        timeout: seconds that it may take.

    Raises:
        DecoderLost: the decoder hangs on the file or crashes.
        DecodeError, PastEnd: as in `read_clip`.
    """
    answer = _ask(path, {"places": places, "backend": backend}, timeout)
    frames: Frames = np.frombuffer(answer["bytes"], np.uint8).reshape(answer["shape"])
    return frames


def info_of(path: str, timeout: float) -> VideoInfo:
    """`video_info` without its risks; arguments and errors as in `frames_of`."""
    return VideoInfo(**_ask(path, {}, timeout)["info"])


def _ask(path: str, job: Job, timeout: float) -> Job:
    job = {**job, "path": os.path.abspath(path)}  # the helper is where this process once was
    with _lock:
        answer = _own().ask(job, timeout)
    if isinstance(answer, str):
        raise DecoderLost(path, answer)
    if "past" in answer:
        raise PastEnd(path, *answer["past"])
    if "reason" in answer:
        raise DecodeError(path, answer["reason"])
    return answer


def _own() -> Watched:
    """The helper of this process: a forked worker must not talk to that of its parent."""
    global _helper
    if _helper is None or _helper[0] != os.getpid():
        _helper = os.getpid(), Watched(_CODE, timeout=30.0)
    return _helper[1]


@atexit.register
def _close() -> None:
    if _helper is not None and _helper[0] == os.getpid():
        _helper[1].__exit__()


def _work(job: Job) -> Job:
    try:
        if "places" not in job:
            return {"info": asdict(video_info(job["path"]))}
        frames = read_clip(job["path"], job["places"], backend=job["backend"])
        return {"shape": frames.shape, "bytes": np.ascontiguousarray(frames)}
    except PastEnd as error:
        return {"past": [error.index, error.frames]}
    except DecodeError as error:
        return {"reason": error.reason}


def main() -> None:
    """Answer in the helper process."""
    serve(_work, lambda told: {"reason": told})
