"""Frames into an mp4 file: nearly lossless for pictures to look at, exact for episodes."""

from __future__ import annotations

from fractions import Fraction
from functools import cache as once
from pathlib import Path
from typing import NamedTuple, cast

import av
import numpy as np
import numpy.typing as npt


class Codec(NamedTuple):
    """An encoder of FFmpeg: its name, its pixel format and its options."""

    name: str
    pixels: str
    options: dict[str, str]


@once
def nearly_lossless() -> Codec:
    """The encoder for pictures to look at; it is blind to the future.

    A constant quantiser without look-ahead and B-frames makes the file up to a fork independent of
    what follows; rate control would spend bits with knowledge of the outcome.
    """
    if "libx264" in av.codecs_available:
        causal = "bframes=0:rc-lookahead=0:mbtree=0:keyint=8:scenecut=0"
        options = {"preset": "veryfast", "qp": "16", "x264-params": causal}
        return Codec("libx264", "yuv420p", options)
    return Codec("mpeg4", "yuv420p", {"qscale": "2", "flags": "+qscale", "g": "8", "bf": "0"})


@once
def lossless() -> Codec:
    """The encoder that gives back every bit of RGB pictures.

    H.264 with quantiser 0 on RGB planes (High 4:4:4 Predictive): a picture of our rooms takes 0.25
    kB and 0.05 ms, and decord and PyAV both read it exactly. Builds of FFmpeg without x264 write
    PNG pictures into the same container, which PyAV alone reads.
    """
    if "libx264rgb" in av.codecs_available:
        return Codec("libx264rgb", "rgb24", {"preset": "ultrafast", "qp": "0", "g": "60"})
    return Codec("png", "rgb24", {})


def write_video(
    path: Path, frames: npt.NDArray[np.uint8], fps: int, codec: Codec | None = None
) -> None:
    """Encode `frames` (`T H W 3`) into an mp4 file, by default nearly lossless."""
    name, pixels, options = codec or nearly_lossless()
    with av.open(str(path), "w", format="mp4") as container:
        added = container.add_stream(name, rate=Fraction(fps), options=options)
        stream = cast(av.VideoStream, added)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pixels
        stream.codec_context.thread_count = 1
        for picture in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
