"""Line charts and interval bars as inline SVG: sharp at any size, light or dark, without a script.

Colours come from the page's style sheet (classes `s0` to `s5`), so that a chart follows the
reader's colour scheme. Each says in words what it shows (`aria-label`) and tells values on hover.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 360, 196
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 10, 26
BINS = 160  # points of a line that are drawn; more than a small chart can show
STRIPS = 32  # places with a value on hover
MOST_LINES = 6


@dataclass(frozen=True)
class Series:
    """One line: `values[i]` at `steps[i]`, with an optional standard error for a band of 2."""

    name: str
    steps: Sequence[float]
    values: Sequence[float]
    stderr: Sequence[float] | None = None


@dataclass(frozen=True)
class Point:
    """One place of a drawn line: the mean of a bin and the range that it covers."""

    step: float
    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Axis:
    """One direction of a chart: the range of values and the pixels that it fills."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The pixel of `value`, kept inside the axis."""
        low, high, value = (self._scale(number) for number in (self.low, self.high, value))
        share = (value - low) / (high - low) if high > low else 0.5
        return self.start + min(max(share, 0.0), 1.0) * (self.end - self.start)

    def _scale(self, value: float) -> float:
        return math.log10(max(value, 1e-300)) if self.log else value

    def ticks(self) -> list[float]:
        """Some three to six round numbers (or powers of ten) within the range."""
        if self.log:
            first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
            stride = max(1, round((last - first) / 4))
            powers = [10.0**power for power in range(first, last + 1, stride)]
            return [power for power in powers if self.low <= power <= self.high] or [self.high]
        step = _round_stride((self.high - self.low) / 5)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [index * step for index in range(first, last + 1)]


def _round_stride(rough: float) -> float:
    """The next of 1, 2, 5 times a power of ten that is not below `rough`."""
    if rough <= 0 or not math.isfinite(rough):
        return 1.0
    power = 10.0 ** math.floor(math.log10(rough))
    return next(f * power for f in (1.0, 2.0, 5.0, 10.0) if f * power >= rough * 0.999)


def number(value: float) -> str:
    """A number with three or four digits that mean something: 0.0512, 12.3, 1,540, 5.00e-06."""
    size = abs(value)
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else ("infinite" if value > 0 else "-infinite")
    if value == 0 or (size >= 1000 and size < 1e7):
        return f"{value:,.0f}"
    if size < 1e-3 or size >= 1e7:
        return f"{value:.2e}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(size)))}f}"


def _tick(value: float) -> str:
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e7 else f"{value:.4g}"


def thin(series: Series, bins: int = BINS) -> list[Point]:
    """The finite values of a line as at most `bins` points with mean and range."""
    errors = series.stderr or [0.0] * len(series.values)
    rows = [
        (step, value, 2 * error if math.isfinite(error) else 0.0)
        for step, value, error in zip(series.steps, series.values, errors, strict=True)
        if math.isfinite(value)
    ]
    size = max(1, math.ceil(len(rows) / bins))
    return [_bin(rows[at : at + size]) for at in range(0, len(rows), size)]


def _bin(rows: Sequence[tuple[float, float, float]]) -> Point:
    return Point(
        step=sum(row[0] for row in rows) / len(rows),
        mean=sum(row[1] for row in rows) / len(rows),
        low=min(row[1] - row[2] for row in rows),
        high=max(row[1] + row[2] for row in rows),
    )


def _axes(lines: Sequence[Sequence[Point]], zero: bool, top: float | None) -> tuple[Axis, Axis]:
    points = [point for line in lines for point in line]
    low, high = min(point.low for point in points), max(point.high for point in points)
    high = high if top is None else max(high, top)
    typical = sorted(point.mean for point in points)
    # A first step that is 30 times the rest would press everything else onto the floor.
    log = low > 0 and not zero and high > 30 * typical[len(typical) // 4]
    if zero:
        low, high = min(low, 0.0), max(high, 0.0)
    if not log:
        margin = 0.06 * (high - low) or 0.06 * abs(high) or 1.0
        low, high = (low if zero and low == 0 else low - margin), high + margin
    first, last = min(point.step for point in points), max(point.step for point in points)
    return (
        Axis(first, last, LEFT, WIDTH - RIGHT),
        Axis(low, high, HEIGHT - BOTTOM, TOP, log=log),
    )


def _grid(x: Axis, y: Axis) -> list[str]:
    parts = []
    for value in y.ticks():
        at = y(value)
        rule = "zero" if value == 0 else "grid"
        parts.append(f'<path class="{rule}" d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 5}" y="{at + 3.5:.1f}" class="y">{_tick(value)}</text>')
    for value in x.ticks():
        at = x(value)
        anchor = ' class="y"' if at > WIDTH - RIGHT - 14 else ' class="x"'
        parts.append(f'<text x="{at:.1f}" y="{HEIGHT - 9}"{anchor}>{_tick(value)}</text>')
    return parts


def _line(points: Sequence[Point], x: Axis, y: Axis, index: int) -> list[str]:
    if len(points) == 1:
        spot = points[0]
        place = f'cx="{x(spot.step):.1f}" cy="{y(spot.mean):.1f}"'
        return [f'<circle class="s{index} dot" {place} r="3"/>']
    parts = []
    if any(point.high > point.low for point in points):
        upper = " ".join(f"{x(point.step):.1f},{y(point.high):.1f}" for point in points)
        lower = " ".join(f"{x(point.step):.1f},{y(point.low):.1f}" for point in reversed(points))
        parts.append(f'<polygon class="s{index} band" points="{upper} {lower}"/>')
    path = " ".join(f"{x(point.step):.1f},{y(point.mean):.1f}" for point in points)
    return [*parts, f'<polyline class="s{index} line" points="{path}"/>']


def _hover(names: Sequence[str], lines: Sequence[Sequence[Point]], x: Axis, unit: str) -> list[str]:
    """Invisible strips whose `<title>` the browser shows as a tip: the values at that step."""
    longest = max(lines, key=len)
    chosen = longest[:: max(1, len(longest) // STRIPS)]
    width = (x.end - x.start) / max(1, len(chosen))
    parts = []
    for point in chosen:
        told = [f"{unit} {number(point.step)}"]
        for name, line in zip(names, lines, strict=True):
            step = point.step
            nearest = min(line, key=lambda other: abs(other.step - step))
            told.append(f"{escape(name)} {number(nearest.mean)}")
        left = min(max(x(point.step) - width / 2, x.start), x.end - width)
        parts.append(
            f'<rect class="tip" x="{left:.1f}" y="{TOP}" width="{width:.1f}" '
            f'height="{HEIGHT - TOP - BOTTOM}"><title>{"; ".join(told)}</title></rect>'
        )
    return parts


def in_words(name: str, points: Sequence[Point], unit: str = "step") -> str:
    """What a line does, for those who do not see it."""
    first, last = points[0], points[-1]
    if len(points) == 1:
        return f"{name} is {number(last.mean)} at {unit} {number(last.step)}"
    low, high = min(points, key=lambda at: at.mean), max(points, key=lambda at: at.mean)
    return (
        f"{name} goes from {number(first.mean)} at {unit} {number(first.step)} to "
        f"{number(last.mean)} at {unit} {number(last.step)}, between {number(low.mean)} and "
        f"{number(high.mean)}"
    )


def line_chart(
    title: str,
    series: Sequence[Series],
    note: str = "",
    zero: bool = False,
    unit: str = "step",
    top: float | None = None,
) -> str:
    """A figure with up to six lines, over training steps or what `unit` names.

    Args:
        title: what is shown, plain text.
        series: the lines; those without a finite value are named as such, not drawn.
        note: a sentence below, plain text.
        zero: whether the value 0 must be in sight (for gaps and shares).
        unit: what is counted from left to right.
        top: a value that must be in sight too, so that several charts share a scale.
    """
    lines = {one.name: thin(one) for one in series}
    broken = {one.name: sum(not math.isfinite(value) for value in one.values) for one in series}
    lost = [f"{name}: {n} logged values are not finite" for name, n in broken.items() if n]
    drawn = {name: points for name, points in lines.items() if points}
    caption = f"<figcaption>{escape(title)}</figcaption>"
    small = "".join(f"<p class='small'>{escape(text)}.</p>" for text in lost)
    small += f"<p class='small'>{escape(note)}</p>" if note else ""
    if not drawn:
        small = f"<p class='missing'>Nothing to draw.</p>{small}"
        return f"<figure class='chart'>{caption}{small}</figure>"
    x, y = _axes(list(drawn.values()), zero, top)
    parts = _grid(x, y)
    for index, points in enumerate(drawn.values()):
        parts += _line(points, x, y, index % MOST_LINES)
    parts += _hover(list(drawn), list(drawn.values()), x, unit)
    told = "; ".join(in_words(name, points, unit) for name, points in drawn.items())
    label = escape(f"{title}: {told}")
    frame = f'viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}"'
    svg = f"<svg {frame}>{''.join(parts)}</svg>"
    scale = "<span class='scale'>log scale</span>" if y.log else ""
    return f"<figure class='chart'>{scale}{caption}{_legend(drawn)}{svg}{small}</figure>"


def _legend(drawn: dict[str, list[Point]]) -> str:
    items = "".join(
        f"<li><i class='key s{index % MOST_LINES}'></i>{escape(name)} "
        f"<b>{number(points[-1].mean)}</b></li>"
        for index, (name, points) in enumerate(drawn.items())
    )
    return f"<ul class='legend'>{items}</ul>"


def bar(value: float, interval: tuple[float, float] | None, shade: int) -> str:
    """A bar from 0 to 1 with an interval as whiskers: decoration beside a written number."""
    place: Callable[[float], float] = Axis(0.0, 1.0, 0.0, 120.0)
    shape = 'height="10" y="3" rx="2"'
    parts = [f'<rect class="track" width="120" {shape}/>']
    parts.append(f'<rect class="s{shade} bar" width="{place(value):.1f}" {shape}/>')
    if interval is not None:
        low, high = place(interval[0]), place(interval[1])
        line = f"M{low:.1f} 8H{high:.1f}M{low:.1f} 4V12M{high:.1f} 4V12"
        parts.append(f'<path class="whisker" d="{line}"/>')
    return f'<svg class="bar" viewBox="0 0 120 16" aria-hidden="true">{"".join(parts)}</svg>'
