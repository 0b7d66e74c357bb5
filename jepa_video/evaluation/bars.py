"""A bar for each row of a comparison as inline SVG: the mean, and every seed as a dot on it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

from .charts import TOP, WIDTH, Axis, number

LEFT, RIGHT, HEIGHT = 104, 54, 18


def bar_chart(
    title: str,
    rows: Mapping[str, Sequence[float]],
    marks: Sequence[tuple[str, float]] = (),
    note: str = "",
) -> str:
    """A figure with a horizontal bar for each row.

    Args:
        title: what is shown, plain text.
        rows: the values of each row by its name, from above; a row without one gets a dash.
        marks: values for comparison, each with a word, as dashed lines across all rows.
        note: a sentence below, plain text.
    """
    finite = {name: [v for v in values if math.isfinite(v)] for name, values in rows.items()}
    seen = [v for values in finite.values() for v in values] + [value for _, value in marks]
    x = Axis(min([0.0, *seen]), max([0.0, *seen]) or 1.0, LEFT, WIDTH - RIGHT)
    height = TOP + HEIGHT * len(finite) + 4
    parts = []
    for row, (name, values) in enumerate(finite.items()):
        parts += _bar(name, values, x, TOP + HEIGHT * row)
    for word, value in marks:
        tip = f"<title>{escape(word)} {number(value)}</title>"
        parts.append(f'<path class="mark" d="M{x(value):.1f} {TOP}V{height - 4}">{tip}</path>')
    told = "; ".join(f"{name} {_mean_in_words(values)}" for name, values in finite.items())
    frame = f'viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(f"{title}: {told}")}"'
    beside = ", ".join(f"{word} {number(value)}" for word, value in marks)
    small = f"<p class='small'>Dashed: {escape(beside)}.</p>" if beside else ""
    small += f"<p class='small'>{escape(note)}</p>" if note else ""
    caption = f"<figcaption>{escape(title)}</figcaption>"
    return f"<figure class='chart'>{caption}<svg {frame}>{''.join(parts)}</svg>{small}</figure>"


def _mean_in_words(values: Sequence[float]) -> str:
    return number(sum(values) / len(values)) if values else "not measured"


def _bar(name: str, values: Sequence[float], x: Axis, top: float) -> list[str]:
    middle = top + HEIGHT / 2
    parts = [f'<text x="{LEFT - 6}" y="{middle + 3.5:.1f}" class="y">{escape(name)}</text>']
    if not values:
        return [*parts, f'<text x="{LEFT}" y="{middle + 3.5:.1f}">\N{EN DASH}</text>']
    mean = sum(values) / len(values)
    start, end = sorted((x(0.0), x(mean)))
    place = f'x="{start:.1f}" width="{end - start:.1f}" y="{top + 3:.1f}"'
    parts.append(f'<rect class="s0 bar" {place} height="{HEIGHT - 6}" rx="2"/>')
    for value in values:
        parts.append(f'<circle class="seed" cx="{x(value):.1f}" cy="{middle:.1f}" r="2.6"/>')
    right = f'x="{WIDTH - 4}" y="{middle + 3.5:.1f}" class="y"'
    return [*parts, f"<text {right}>{number(mean)}</text>"]
