"""Video files for tests, made with PyAV: every frame carries its number in its pixels."""

from __future__ import annotations

import os
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import pytest

BITS = 8
SHARED = Path(
    os.environ.get("JEPA_VIDEO_TEST_DATA", Path(__file__).parents[1] / ".." / "shared" / "data")
)


def picture(number: int, height: int, width: int) -> npt.NDArray[np.uint8]:
    """A frame: its number in eight bars, white or black; the top half is reddened."""
    frame = np.full((height, width, 3), 16, dtype=np.uint8)
    for bit in range(BITS):
        if number >> bit & 1:
            frame[:, bit * width // BITS : (bit + 1) * width // BITS] = 235
    frame[: height // 4] = (200, 40, 40)
    return frame


def numbers(frames: npt.NDArray[np.uint8]) -> list[int]:
    """The numbers that upright frames `T H W 3` carry."""
    height, width = frames.shape[1:3]
    low = frames[:, height // 2 : -height // 8 or None]
    bars = [low[:, :, int((bit + 0.5) * width / BITS)].mean(axis=(1, 2)) for bit in range(BITS)]
    return [sum((bar[t] > 125) << bit for bit, bar in enumerate(bars)) for t in range(len(frames))]


def write_clip(
    path: Path | str,
    frames: int = 40,
    *,
    height: int = 64,
    width: int = 128,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    times: Sequence[int] | None = None,
    rate: int = 25,
    rotation: int = 0,
    options: dict[str, str] | None = None,
    muxer: dict[str, str] | None = None,
    container: str | None = None,
) -> Path:
    """Write a video; `times` are in quarters of a frame. Skips where the build lacks the codec."""
    if codec not in av.codecs_available:
        pytest.skip(f"this build of FFmpeg has no {codec}")
    with av.open(str(path), "w", format=container, options=muxer or {}) as out:
        stream = out.add_stream(codec, rate=rate, options=options or {})
        stream.height, stream.width, stream.pix_fmt = height, width, pixels
        stream.codec_context.thread_count = 1
        stream.codec_context.time_base = Fraction(1, 4 * rate)
        if rotation:
            stream.set_display_rotation(rotation)
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(picture(number, height, width), format="rgb24")
            frame.pts = times[number] if times else 4 * number
            frame.time_base = Fraction(1, 4 * rate)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return Path(path)


def write_sound(path: Path) -> Path:
    """A file with sound and no picture."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("aac", rate=44100, layout="mono")
        sound = np.sin(np.arange(44100) / 20, dtype=np.float32)[None]
        frame = av.AudioFrame.from_ndarray(sound, format="fltp", layout="mono")
        frame.sample_rate = 44100
        out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return path
