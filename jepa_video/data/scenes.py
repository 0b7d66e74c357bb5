"""What the embedded synthetic videos show: settings, balanced labels, and the frames of one video.

Two to four equal shapes share a heading and a speed over a textured background that pans by
itself, among distractors glued to that background. After the middle something happens: nothing
(`cruise`), a wall throws them back (`bounce`), a pillar hides them (`occlusion`), or at a marker
they turn left or right by the toss of a coin (`fork`), which nothing before the turn foretells.

Labels are drawn crossed and balanced, appearance and camera independently of them. Walls, pillars
and markers fade in and out around the event: were they there from the first frame, their place
beside the shapes would tell the heading without any motion.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from jepa_video.data.sprites import Floats, Sprite, Waves, paint
from jepa_video.errors import UserError

FORMAT: Final = 5  # raise it when the same settings draw other pictures
SHAPES: Final = ("circle", "square", "triangle", "cross")
DIRECTIONS: Final = ("E", "NE", "N", "NW", "W", "SW", "S", "SE")
SPEEDS: Final = {"slow": 0.7, "medium": 1.4, "fast": 2.2}  # pixels a frame at 64 x 64
NUMBERS: Final = {"one": 1, "two": 2, "three": 3, "four": 4}
EVENTS: Final = ("cruise", "bounce", "occlusion", "fork")
FACTORS: Final = ("shape", "direction", "speed", "number", "event", "fork")
# Turns of the heading in degrees, counter-clockwise as seen on the screen.
FORKS: Final[dict[int, dict[str, float]]] = {
    2: {"left": 45.0, "right": -45.0},
    4: {"way0": -90.0, "way1": -45.0, "way2": 45.0, "way3": 90.0},
}
SPLITS: Final = {"train": 0, "val": 1}
_MARGIN: Final = 1.3  # how far a shape goes out of the picture before it turns round, in radii
Labels = dict[str, str]


@dataclass(frozen=True)
class SyntheticSettings:
    """What to draw; the same settings draw the same frames on any number of processes.

    Attributes:
        videos_train: number of videos for training.
        videos_val: number of held-out videos.
        frames: frames in a video.
        size: side of the square picture in pixels; the world scales with it.
        fps: nominal frames a second.
        fork_ways: 2 (45 degrees left or right) or 4 (45 or 90 degrees to either side).
        events: the events that occur, of `EVENTS`, in turn; one named twice occurs twice as often.
        numbers: how many shapes there may be, of `NUMBERS`.
        directions: the headings that occur, of `DIRECTIONS`.
        speeds: the speeds that occur, of `SPEEDS`.
        turn: range of the time of the event, as shares of the video.
        spread: side of the central square in which events take place, as a share of the picture.
        contrast: range of the distance in colour (0..1) between a shape and the mean background.
        colours: how far the colours of background and things vary between videos, as a share of
            the default; at 0 they are light grey on grey in every video.
        texture: standard deviation of the background texture (0..1).
        lighter: share of the things that are lighter than the background; the rest is darker.
        radius: range of the size of shapes and distractors, pixels at 64 x 64.
        distractors: least and greatest number of things glued to the background.
        pan: greatest speed of the camera, pixels a frame at 64 x 64.
        jitter: greatest deviation of a heading from its compass point, degrees.
        seed: of everything.
    """

    videos_train: int = 1800
    videos_val: int = 900
    frames: int = 24
    size: int = 64
    fps: int = 8
    fork_ways: int = 2
    events: tuple[str, ...] = ("cruise", "occlusion", "cruise", "bounce", "cruise", "fork")
    numbers: tuple[str, ...] = ("two", "three", "four")
    directions: tuple[str, ...] = DIRECTIONS
    speeds: tuple[str, ...] = tuple(SPEEDS)
    turn: tuple[float, float] = (13 / 23, 17 / 23)  # the middle clip sees more before than after
    spread: float = 1.0
    contrast: tuple[float, float] = (0.35, 0.6)
    colours: float = 1.0
    texture: float = 0.04
    radius: tuple[float, float] = (8.0, 10.0)
    lighter: float = 1.0
    distractors: tuple[int, int] = (1, 2)
    pan: float = 0.4
    jitter: float = 10.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.fork_ways not in FORKS:
            raise UserError(f"fork_ways must be 2 or 4, got {self.fork_ways}")
        known = {"events": EVENTS, "numbers": NUMBERS, "directions": DIRECTIONS, "speeds": SPEEDS}
        for name, names in known.items():
            asked = getattr(self, name)
            if not asked or set(asked) - set(names):
                raise UserError(f"{name} must be some of {', '.join(names)}, got {asked}")
        if not 0 <= self.turn[0] <= self.turn[1] <= 1:
            raise UserError(f"turn must be two rising shares of the video, got {self.turn}")
        if not 0 <= self.spread <= 1:
            raise UserError(f"spread must be from 0 to 1, got {self.spread}")
        if self.frames < 8 or self.size < 16 or self.size % 2:
            raise UserError(
                "a synthetic video has at least 8 frames and an even size of at least 16 pixels, "
                f"got frames={self.frames}, size={self.size}"
            )

    def digest(self) -> str:
        """Twelve hexadecimal digits that name these settings and the format."""
        text = json.dumps([FORMAT, asdict(self)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def draw_labels(settings: SyntheticSettings, split: str) -> list[Labels]:
    """The factors of every video of `split`, crossed and balanced so that none predicts another.

    By default every 24 videos hold each direction at each speed once, every 288 each of these with
    each number and shape once, and a cell meets all events before one comes again. The order is
    shuffled.
    """
    rng = np.random.default_rng([settings.seed, SPLITS[split], 0])
    count = settings.videos_train if split == "train" else settings.videos_val
    pairs = [(d, s) for d in settings.directions for s in settings.speeds]
    looks = [(n, s) for n in settings.numbers for s in SHAPES]
    order = {pair: rng.permutation(len(looks)) for pair in pairs}
    first_event = rng.permutation(len(pairs) * len(looks))
    rows: list[Labels] = []
    for block in range(-(-count // len(pairs))):
        lap, turn = divmod(block, len(looks))
        for p in rng.permutation(len(pairs))[: count - len(rows)]:
            look = int(order[pairs[p]][turn])
            (direction, speed), (number, shape) = pairs[p], looks[look]
            event = (int(first_event[p * len(looks) + look]) + lap) % len(settings.events)
            values = (shape, direction, speed, number, settings.events[event], "")
            rows.append(dict(zip(FACTORS, values, strict=True)))
    _toss_coins(rows, list(FORKS[settings.fork_ways]), rng)
    return [rows[i] for i in rng.permutation(len(rows))]


def _toss_coins(rows: list[Labels], ways: list[str], rng: np.random.Generator) -> None:
    """Give the rows with a fork their ways: equally often, in random order."""
    forked = [row for row in rows if row["event"] == "fork"]
    for place, i in enumerate(rng.permutation(len(forked))):
        forked[i]["fork"] = ways[place % len(ways)]


def render(
    settings: SyntheticSettings, labels: Labels, split: str, index: int
) -> npt.NDArray[np.uint8]:
    """The frames of one video, `T S S 3`.

    All random draws are the same whatever `labels["fork"]` says, so that two outcomes of the coin
    share every pixel up to the turn.
    """
    canvas, layers = _scene(settings, labels, split, index)
    for layer in layers:
        for sprite in layer:
            paint(canvas, sprite)
    frames: npt.NDArray[np.uint8] = np.clip(np.rint(255 * canvas), 0, 255).astype(np.uint8)
    return frames


@dataclass(frozen=True)
class Track:
    """Where a shape is, in a world whose sides are joined: `_around` brings back what leaves.

    Attributes:
        turns: place along x and y in turns of that world, `T 2`, 0..1 between its two ends.
        velocity: pixels a frame, `T 2`.
    """

    turns: npt.NDArray[np.float64]
    velocity: npt.NDArray[np.float64]


def tracks(settings: SyntheticSettings, labels: Labels, split: str, index: int) -> list[Track]:
    """The way of every shape of a video, from the same draws as its frames."""
    _, layers = _scene(settings, labels, split, index)
    found = []
    for sprite in layers[2]:
        margin = _MARGIN * sprite.radius
        period = settings.size - 1 + 2 * margin
        turns = (sprite.centre.astype(np.float64) + margin) / period
        step = np.diff(turns, axis=0, append=2 * turns[-1:] - turns[-2:-1])
        step = step - np.round(step)  # one that crosses the seam is still a small step
        found.append(Track(turns, step * period))
    return found


def _scene(
    settings: SyntheticSettings, labels: Labels, split: str, index: int
) -> tuple[Floats, tuple[list[Sprite], ...]]:
    """Background `T S S 3` and, in the order of painting, distractors, props, shapes, props."""
    rng = np.random.default_rng([settings.seed, SPLITS[split], 1, index])
    unit = settings.size / 64
    vary = 0.15 * settings.colours
    base = rng.uniform(0.5 - vary, 0.5 + vary, 3).astype(np.float32)
    heading = rng.uniform(0, 2 * np.pi)
    camera = unit * settings.pan * np.sqrt(rng.uniform()) * _towards(heading)
    pan = (np.arange(settings.frames)[:, None] * camera).astype(np.float32)
    octaves = [Waves.draw(rng, 16, (16 * unit, 48 * unit), settings.texture)]
    octaves.append(Waves.draw(rng, 16, (6 * unit, 16 * unit), 0.5 * settings.texture))
    waves = Waves(*(np.concatenate(parts) for parts in zip(*map(_parts, octaves), strict=True)))
    canvas = base + waves.panned(pan, settings.size)
    things = _distractors(settings, base, pan, rng)
    return canvas, (things, *_actors(settings, labels, base, rng))


def _parts(waves: Waves) -> tuple[Floats, Floats, Floats]:
    return waves.vectors, waves.phases, waves.colours


def _towards(angle: float) -> npt.NDArray[np.float64]:
    """The unit vector of a heading: 0 is east, a quarter turn is north, which is up."""
    return np.array([np.cos(angle), -np.sin(angle)])


def _skin(
    settings: SyntheticSettings, base: Floats, rng: np.random.Generator
) -> tuple[Floats, Waves]:
    """A mean colour at the drawn contrast to the background, lighter or darker, and a texture."""
    lighter = 1.0 if rng.uniform() < settings.lighter else -1.0
    colour = lighter + 0.6 * settings.colours * rng.normal(size=3)
    colour *= rng.uniform(*settings.contrast) / np.linalg.norm(colour) * np.sqrt(3) / 2
    unit = settings.size / 64
    grain = Waves.draw(rng, 3, (4 * unit, 9 * unit), 0.06, channels=1)
    return (base + colour).astype(np.float32), grain


def _distractors(
    settings: SyntheticSettings, base: Floats, pan: Floats, rng: np.random.Generator
) -> list[Sprite]:
    """Things as large and as visible as the shapes, that move with the background and throb."""
    low, high = settings.distractors
    time_ = np.arange(settings.frames)
    unit = settings.size / 64
    sprites = []
    for _ in range(rng.integers(low, high + 1)):
        middle = rng.uniform(0, settings.size, 2) + pan.mean(0)
        beat, phase, tilt = rng.uniform(0.3, 0.8), rng.uniform(0, 7, 2), rng.uniform(0, 7)
        sprites.append(
            Sprite(
                "blob",
                (middle - pan).astype(np.float32),
                unit * rng.uniform(*settings.radius),
                *_skin(settings, base, rng),
                angle=(tilt + 0.3 * np.sin(beat * time_ + phase[0])).astype(np.float32),
                scale=(1 + 0.12 * np.sin(beat * time_ + phase[1])).astype(np.float32),
            )
        )
    return sprites


def _actors(
    settings: SyntheticSettings, labels: Labels, base: Floats, rng: np.random.Generator
) -> tuple[list[Sprite], list[Sprite], list[Sprite]]:
    """The labelled shapes and the props of their event below and above, in order of painting."""
    unit, frames = settings.size / 64, settings.frames
    angle = np.deg2rad(45 * DIRECTIONS.index(labels["direction"]))
    angle += np.deg2rad(rng.uniform(-settings.jitter, settings.jitter))
    velocity = unit * SPEEDS[labels["speed"]] * _towards(angle)
    turn_at = rng.uniform(*settings.turn) * (frames - 1)
    radius = unit * rng.uniform(*settings.radius)
    tilt, spin, props_size = rng.uniform(-0.4, 0.4), rng.uniform(-0.08, 0.08), rng.uniform(3, 5)
    after = _after(settings, labels, velocity, tilt)
    since = np.arange(frames)[:, None] - turn_at
    travel = np.where(since < 0, since * velocity, since * after)  # T 2, zero at the event
    margin = _MARGIN * radius
    places = _places(settings, radius, margin if labels["event"] == "cruise" else 0.0, rng)
    below: list[Sprite] = []
    shapes: list[Sprite] = []
    above: list[Sprite] = []
    props = {"bounce": ("bar", below), "fork": ("ring", below), "occlusion": ("circle", above)}
    for event in places[: _count(labels)]:
        first = rng.uniform(0, 2 * np.pi)
        turning = (first + spin * np.arange(frames)).astype(np.float32)
        path = _around(event + travel, settings.size, margin)
        shapes.append(Sprite(labels["shape"], path, radius, *_skin(settings, base, rng), turning))
        skin = _skin(settings, base, rng)
        if labels["event"] in props:
            outline, layer = props[labels["event"]]
            size = radius + unit * props_size if outline == "circle" else radius
            wall = angle + tilt
            place = event + (1.4 * radius * _towards(wall) if outline == "bar" else 0)
            still = np.repeat(place[None], frames, 0).astype(np.float32)
            facing = np.full(frames, -wall, np.float32)
            shown = np.clip((7 - np.abs(since[:, 0])) / 2, 0, 1).astype(np.float32)
            layer.append(Sprite(outline, still, size, *skin, facing, opacity=shown))
    return below, shapes, above


def _count(labels: Labels) -> int:
    return NUMBERS[labels["number"]]


def _after(
    settings: SyntheticSettings, labels: Labels, velocity: npt.NDArray[np.float64], tilt: float
) -> npt.NDArray[np.float64]:
    """The velocity after the event; `tilt` turns a wall out of the perpendicular, radians."""
    if labels["event"] == "fork":
        turn = np.deg2rad(FORKS[settings.fork_ways][labels["fork"]])
        return _rotated(velocity, turn)
    if labels["event"] == "bounce":
        normal = _rotated(velocity, tilt)
        return velocity - 2 * (velocity @ normal) / (normal @ normal) * normal
    return velocity


def _rotated(vector: npt.NDArray[np.float64], angle: float) -> npt.NDArray[np.float64]:
    """Counter-clockwise as seen on the screen, where y points downwards."""
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array([cos * vector[0] + sin * vector[1], cos * vector[1] - sin * vector[0]])


def _around(path: npt.NDArray[np.float64], size: int, margin: float) -> Floats:
    """What leaves the picture on one side comes back on the other; it turns round out of sight.

    A shape is then as likely to be in one place as in another at every moment, whatever its
    heading: without that, where it stands would tell where it goes.
    """
    period = size - 1 + 2 * margin
    return (np.mod(path + margin, period) - margin).astype(np.float32)


def _places(
    settings: SyntheticSettings, radius: float, margin: float, rng: np.random.Generator
) -> npt.NDArray[np.float64]:
    """Four places at the time of the event, apart from each other, up to `margin` out of view.

    Always four, so that later draws do not depend on the number of shapes.
    """
    side = settings.size - 1 + 2 * margin
    candidates = side * rng.uniform(size=(64, 2)) - margin
    if settings.spread < 1:
        middle = (settings.size - 1) / 2
        candidates = middle + settings.spread * (candidates - middle)
    chosen = [candidates[0]]
    for _ in range(3):  # the first that clears all, or else the one that comes nearest to it
        gaps = np.linalg.norm(candidates[:, None] - np.array(chosen), axis=-1).min(1)
        clear = gaps > 2.6 * radius
        chosen.append(candidates[int(np.argmax(clear) if clear.any() else np.argmax(gaps))])
    return np.array(chosen)
