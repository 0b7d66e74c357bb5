"""Moving MNIST: digits that drift over a black square and bounce off its sides.

Srivastava et al., *Unsupervised Learning of Video Representations using LSTMs*, ICML 2015, section
4.1: two digits, 20 frames of 64 x 64. Drawn anew from a seed, so no video equals one of the file
that the authors published. Digit images of held-out videos are in no training video.
"""

from __future__ import annotations

import gzip
import math
import os
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from jepa_video.data.encode import write_video
from jepa_video.data.prepare.layouts import TRAIN, VAL, Entry
from jepa_video.errors import UserError
from jepa_video.watched import Job, serve

CODE: Final = "from jepa_video.data.prepare.moving_mnist import main; main()"
DIGITS: Final = "digits"  # in the place of a file: those of scikit-learn
Images = npt.NDArray[np.uint8]
_IMAGES, _LABELS = 2051, 2049  # the numbers with which idx files begin


@dataclass(frozen=True)
class MnistSettings:
    """What is drawn.

    Args:
        videos_train: training videos.
        videos_val: held-out videos.
        frames: frames of a video.
        size: height and width, pixels.
        digits: digits in a video.
        speed: least and largest way of a digit from frame to frame, pixels.
        fps: frames a second that the file says.
        seed: of all draws.
    """

    videos_train: int = 9000
    videos_val: int = 1000
    frames: int = 20
    size: int = 64
    digits: int = 2
    speed: tuple[float, float] = (2.0, 5.0)
    fps: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("videos_train", "videos_val", "frames", "digits", "fps"):
            if getattr(self, name) < 1:
                raise UserError(f"mnist.{name} must be 1 or more, not {getattr(self, name)}")
        if self.size < 32 or self.size % 2:
            raise UserError(f"mnist.size must be even and 32 or more, not {self.size}")
        if not 0 <= self.speed[0] <= self.speed[1]:
            raise UserError(f"mnist.speed must be a range from 0 on, not {self.speed}")


def digit_images(source: str) -> tuple[Images, Images]:
    """Images `N H W` and their digits `N`.

    Args:
        source: an idx file of images, gzipped or not, with the file of labels beside it; a folder
            that holds the two; or `digits`, scikit-learn's.

    Raises:
        UserError: it is none of these.
    """
    if source == DIGITS:
        return _sklearn_digits()
    path = Path(source)
    if path.is_dir():
        found = sorted(path.glob("*images*idx3*"))
        if not found:
            raise UserError(f"{path} has no file of the kind train-images-idx3-ubyte.gz")
        path = found[-1]  # train before t10k
    labels = path.with_name(path.name.replace("images", "labels").replace("idx3", "idx1"))
    images, digits = _idx(path, _IMAGES), _idx(labels, _LABELS)
    if len(images) != len(digits):
        raise UserError(f"{path} has {len(images)} images and {labels} {len(digits)} labels")
    return images, digits


def _sklearn_digits() -> tuple[Images, Images]:
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise UserError(
            "the digits of scikit-learn need it: pip install scikit-learn, or give an idx file of "
            "MNIST"
        ) from None
    images, digits = load_digits(return_X_y=True)
    small = (images.reshape(-1, 8, 8) * 255 / 16).astype(np.uint8)
    return small.repeat(3, 1).repeat(3, 2), digits.astype(np.uint8)


def _idx(path: Path, kind: int) -> Images:
    """An idx file: its kind, its sizes, its bytes."""
    try:
        content = path.read_bytes()
        content = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    except (OSError, EOFError) as error:
        told = getattr(error, "strerror", None) or str(error)
        raise UserError(f"{path} cannot be read: {told}") from error
    head = np.frombuffer(content[:16], dtype=">i4")
    sizes = [int(size) for size in head[1 : 4 if kind == _IMAGES else 2]]
    start = 4 + 4 * len(sizes)
    if not len(head) or head[0] != kind or len(content) != start + math.prod(sizes):
        raise UserError(
            f"{path} is no idx file of MNIST's {'images' if len(sizes) > 1 else 'labels'}"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(sizes)


def plan(source: str, settings: MnistSettings, videos: Path) -> list[tuple[Entry, Job]]:
    """Each video as an entry and as the job that draws it."""
    _, digits = digit_images(source)
    held = np.arange(len(digits)) % 10 == 9
    counts = {TRAIN: settings.videos_train, VAL: settings.videos_val}
    pairs = _combinations(settings.digits)
    planned = []
    for part, (split, count) in enumerate(counts.items()):
        pool = np.flatnonzero(held if split == VAL else ~held)
        for number in range(count):
            chosen = _random(settings.seed, part, number).choice(pool, settings.digits, False)
            shown = tuple(sorted(int(digits[i]) for i in chosen))
            target = videos / split / f"{number:06d}.mp4"
            entry = Entry(
                str(target),
                f"{split}/{number:06d}",
                split,
                str(pairs[shown]),
                " and ".join(map(str, shown)),
                "-".join(map(str, sorted(chosen.tolist()))),
            )
            job = {"source": source, "target": str(target), "chosen": chosen.tolist()}
            planned.append((entry, {**job, "draw": [part, number], "set": asdict(settings)}))
    return planned


def _combinations(digits: int) -> dict[tuple[int, ...], int]:
    """Class numbers of the digits that a video shows, in whatever order."""
    from itertools import combinations_with_replacement

    shown = combinations_with_replacement(range(10), digits)
    return {digits: number for number, digits in enumerate(shown)}


def _random(seed: int, part: int, number: int) -> np.random.Generator:
    return np.random.default_rng([seed, part, number])


def render(job: Job) -> Images:
    """Frames `T H W 3` of one video."""
    settings = MnistSettings(**{**job["set"], "speed": tuple(job["set"]["speed"])})
    images, _ = _loaded(job["source"])
    random = _random(settings.seed, *job["draw"])
    random.random(16)  # not the numbers that chose the digits
    frames = np.zeros((settings.frames, settings.size, settings.size), np.uint8)
    for image in images[job["chosen"]]:
        room = settings.size - np.array(image.shape)
        start, angle = random.random(2) * room, random.random() * 2 * math.pi
        speed = random.uniform(*settings.speed)
        for t in range(settings.frames):
            way = start + t * speed * np.array([math.sin(angle), math.cos(angle)])
            top, left = (int(place + 0.5) for place in bounced(way, room))
            window = frames[t, top : top + image.shape[0], left : left + image.shape[1]]
            np.maximum(window, image, out=window)
    return frames[..., None].repeat(3, -1)


def bounced(way: npt.NDArray[np.float64], room: npt.NDArray[np.int_]) -> npt.NDArray[np.float64]:
    """Where a point is that would be at `way`, had it not bounced between 0 and `room`."""
    folded = np.mod(way, 2 * room)
    return np.minimum(folded, 2 * room - folded)


@lru_cache(maxsize=1)
def _loaded(source: str) -> tuple[Images, Images]:
    return digit_images(source)


def _answer(job: Job) -> Job:
    target = Path(job["target"])
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name}.{os.getpid()}.partial")
    write_video(draft, render(job), job["set"]["fps"])
    os.replace(draft, target)
    return {"reason": ""}


def main() -> None:
    """Answer jobs in a helper process."""
    serve(_answer, lambda told: {"reason": told})
