"""The parts of a self-contained web page: style, tables, pictures; plain text is escaped here."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path

from .album import Picture, Plate

STYLE = """
:root { color-scheme: light dark;
  --paper: #fcfcfa; --card: #fff; --ink: #1d2024; --soft: #5b6169; --rule: #dfe1e4;
  --track: #e9ebee;
  --good: #00734f; --warn: #9a5b00; --bad: #b3261e; --link: #0b5cad;
  --s0: #0b66b0; --s1: #c4520a; --s2: #00805c; --s3: #a8558a; --s4: #a87b00; --s5: #2f8fb8; }
@media (prefers-color-scheme: dark) { :root {
  --paper: #15171a; --card: #1c1f23; --ink: #e9eaec; --soft: #a3a9b1; --rule: #33373d;
  --track: #2b2f35;
  --good: #4cc79a; --warn: #f0b45a; --bad: #ff8a80; --link: #7db8f5;
  --s0: #64aef0; --s1: #f58a4b; --s2: #4cc79a; --s3: #dd95c2; --s4: #e0b94a; --s5: #86d2ef; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main, header, footer { max-width: 1080px; margin: 0 auto; padding: 0 20px; }
header { padding-top: 34px; }
header .kind { color: var(--soft); font-size: .9rem; margin: 0; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 2px 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 0 0 6px; }
h3 { font-size: 1.02rem; margin: 26px 0 2px; }
section { padding: 26px 0 22px; border-top: 1px solid var(--rule); }
section:first-of-type { border-top: 0; padding-top: 14px; }
p { margin: 6px 0 10px; max-width: 46em; }
a { color: var(--link); }
nav { font-size: .9rem; margin: 10px 0 0; display: flex; flex-wrap: wrap; gap: 2px 16px; }
.small, .facts { color: var(--soft); font-size: .86rem; }
.lead { font-size: 1.22rem; line-height: 1.45; max-width: 40em; margin: 6px 0 14px; }
.tiles { display: grid; gap: 10px; margin: 14px 0 18px;
  grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); }
.tile { background: var(--card); border: 1px solid var(--rule); border-radius: 8px;
  padding: 10px 12px; }
.tile b { display: block; font-size: 1.35rem; line-height: 1.25;
  font-variant-numeric: tabular-nums; }
.tile span { color: var(--soft); font-size: .82rem; line-height: 1.3; display: block; }
.wide { overflow-x: auto; margin: 10px 0; }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 6px 18px 6px 0; vertical-align: top;
  border-bottom: 1px solid var(--rule); }
thead th { color: var(--soft); font-weight: 500; vertical-align: bottom; }
tbody th { font-weight: 500; }
td .small { display: block; white-space: nowrap; font-weight: 400; }
td.best { font-weight: 650; }
td.path { overflow-wrap: anywhere; min-width: 14em; }
svg.bar { display: block; width: 120px; height: 16px; }
.note { border-left: 4px solid var(--soft); background: var(--card); padding: 10px 14px;
  margin: 10px 0; border-radius: 0 8px 8px 0; max-width: 52em; }
.note b { margin-right: .4em; } .note p { margin: 2px 0; }
.note.good { border-color: var(--good); } .note.good b { color: var(--good); }
.note.warn { border-color: var(--warn); } .note.warn b { color: var(--warn); }
.note.bad { border-color: var(--bad); } .note.bad b { color: var(--bad); }
.missing { color: var(--soft); font-style: italic; }
.charts { display: grid; gap: 14px; margin: 12px 0;
  grid-template-columns: repeat(auto-fill, minmax(min(300px, 100%), 1fr)); }
figure { margin: 0; }
.chart { background: var(--card); border: 1px solid var(--rule); border-radius: 8px;
  padding: 10px 12px 6px; position: relative; break-inside: avoid; }
.chart figcaption { font-weight: 600; font-size: .92rem; line-height: 1.3; }
.chart .scale { float: right; color: var(--soft); font-size: .74rem; }
.chart svg { display: block; width: 100%; height: auto; }
.chart p { margin: 2px 0 4px; }
.legend { list-style: none; margin: 2px 0 4px; padding: 0; display: flex; flex-wrap: wrap;
  gap: 0 14px; font-size: .8rem; color: var(--soft); }
.legend b { color: var(--ink); font-variant-numeric: tabular-nums; font-weight: 600; }
.key { display: inline-block; width: 14px; height: 3px; border-radius: 2px; vertical-align: middle;
  margin-right: 5px; background: currentColor; }
svg text { font: 10.5px system-ui, sans-serif; fill: var(--soft); }
svg .x { text-anchor: middle; } svg .y { text-anchor: end; }
svg .grid { stroke: var(--rule); fill: none; } svg .zero { stroke: var(--soft); fill: none; }
svg .line { fill: none; stroke: currentColor; stroke-width: 1.7; stroke-linejoin: round; }
svg .band { fill: currentColor; opacity: .17; } svg .dot, svg .bar { fill: currentColor; }
svg .track { fill: var(--track); }
svg .whisker { stroke: var(--ink); stroke-width: 1.4; fill: none; }
svg .seed { fill: var(--card); stroke: var(--ink); stroke-width: 1.2; }
svg .mark { stroke: var(--ink); stroke-width: 1.2; stroke-dasharray: 3 3; fill: none; }
svg .tip { fill: transparent; } svg .tip:hover { fill: var(--soft); fill-opacity: .13; }
.s0 { color: var(--s0); } .s1 { color: var(--s1); } .s2 { color: var(--s2); }
.s3 { color: var(--s3); } .s4 { color: var(--s4); } .s5 { color: var(--s5); }
.row { display: flex; flex-wrap: wrap; gap: 8px 20px; margin: 8px 0; }
.plate { break-inside: avoid-page; }
.plate img { display: block; max-width: 100%; height: auto; border-radius: 4px; }
.plate .still { display: none; }
.plate figcaption { font-size: .8rem; color: var(--soft); line-height: 1.35; margin-top: 3px;
  overflow-wrap: anywhere; }
.grid { display: grid; gap: 10px 14px; }
.grid .head { font-size: .84rem; color: var(--soft); align-self: end; }
pre { background: var(--card); border: 1px solid var(--rule); border-radius: 8px;
  padding: 12px 14px; overflow-x: auto;
  font: .84rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
details > summary { cursor: pointer; color: var(--link); margin: 8px 0; }
footer { padding: 18px 20px 40px; color: var(--soft); font-size: .84rem; }
@media (min-width: 800px) { .row figure:not(:only-child) { max-width: calc(50% - 10px); } }
@media (max-width: 560px) { .lead { font-size: 1.1rem; } body { font-size: 15px; }
  th, td { padding-right: 12px; } svg.bar { width: 64px; } td .small { white-space: normal; } }
@media (prefers-reduced-motion: reduce) {
  .plate .has-still { display: none; } .plate .still { display: block; } }
@media print { :root { color-scheme: light; --paper: #fff; --card: #fff; --ink: #000; --soft: #444;
    --rule: #ccc; --track: #eee; --s0: #0b66b0; --s1: #c4520a; --s2: #00805c; --s3: #a8558a;
    --s4: #a87b00; --s5: #2f8fb8; --good: #00734f; --warn: #9a5b00; --bad: #b3261e; --link: #000; }
  body { font-size: 10.5pt; } nav { display: none; } pre { white-space: pre-wrap; }
  .charts { grid-template-columns: repeat(3, 1fr); }
  .plate .has-still { display: none; } .plate .still { display: block; } }
""".strip()

_MEDIA = {".png": "image/png", ".webp": "image/webp", ".gif": "image/gif", ".jpg": "image/jpeg"}
_MEDIA[".mp4"] = "video/mp4"


def document(title: str, head: str, sections: Sequence[str], foot: str) -> str:
    """The whole page; `title` is plain text, the rest is markup."""
    return (
        "<!DOCTYPE html>\n"
        '<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{STYLE}\n</style>\n</head>\n<body>\n"
        f"<header>{head}</header>\n<main>\n" + "\n".join(sections) + "\n</main>\n"
        f"<footer>{foot}</footer>\n</body>\n</html>\n"
    )


def section(name: str, title: str, *parts: str) -> str:
    """A section with an anchor; `title` is plain text, `parts` are markup."""
    return f'<section id="{name}">\n<h2>{escape(title)}</h2>\n' + "\n".join(parts) + "\n</section>"


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph of plain text, with a class of the style sheet where one is given."""
    shade = f' class="{kind}"' if kind else ""
    return f"<p{shade}>{escape(text)}</p>"


def missing(text: str) -> str:
    """Names a part that the run folder does not have."""
    return paragraph(text, "missing")


def note(kind: str, word: str, text: str) -> str:
    """A boxed remark, `good`, `warn`, `bad` or `plain`; `word` says so too, not colour alone."""
    return f'<div class="note {kind}"><p><b>{escape(word)}</b>{escape(text)}</p></div>'


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], first_is_head: bool = True) -> str:
    """A table; `heads` are plain text, cells are markup, the first of a row names the row."""
    top = "".join(f'<th scope="col">{escape(head)}</th>' for head in heads)
    body = []
    for first, *rest in rows:
        lead = f'<th scope="row">{first}</th>' if first_is_head else f"<td>{first}</td>"
        cells = "".join(c if c.startswith("<td") else f"<td>{c}</td>" for c in rest)
        body.append(f"<tr>{lead}{cells}</tr>")
    inner = f"<thead><tr>{top}</tr></thead><tbody>{''.join(body)}</tbody>"
    return f'<div class="wide"><table>{inner}</table></div>'


def folded(title: str, inner: str) -> str:
    """Markup that opens on a click."""
    return f"<details><summary>{escape(title)}</summary>{inner}</details>"


def embedded(path: Path) -> str:
    """A picture file as a data address.

    Raises:
        OSError: where the file cannot be read.
    """
    kind = _MEDIA.get(path.suffix.lower(), "application/octet-stream")
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"


def _image(folder: Path, picture: Picture) -> str:
    try:
        source = embedded(folder / Path(picture.file).name)
        still = embedded(folder / Path(picture.still).name) if picture.still else ""
    except OSError:
        return missing(f"The file {picture.file} is missing.")
    alt = escape(picture.alt)
    if not still:
        return f'<img src="{source}" alt="{alt}">'
    moving = f'<img class="has-still" src="{source}" alt="{alt}">'
    return f'{moving}<img class="still" src="{still}" alt="{alt}">'


def plate(folder: Path, shown: Plate) -> str:
    """A plate of the picture pack with its images inside the page: a grid where columns have names.

    Without names the pictures of a row stand side by side as far as the screen is wide.
    """
    rows = [[_figure(folder, picture) for picture in row] for row in shown.rows]
    if shown.columns:
        count = max(len(row) for row in rows)
        cells = [f'<div class="head">{escape(head)}</div>' for head in shown.columns[:count]]
        cells += [cell for row in rows for cell in [*row, *["<div></div>"] * (count - len(row))]]
        columns = f"grid-template-columns: repeat({count}, minmax(104px, 1fr))"
        inner = (
            f'<div class="wide"><div class="grid" style="{columns}">{"".join(cells)}</div></div>'
        )
    else:
        inner = "".join(f'<div class="row">{"".join(row)}</div>' for row in rows)
    return (
        f'<div class="plate"><h3>{escape(shown.title)}</h3>{paragraph(shown.caption)}{inner}</div>'
    )


def _figure(folder: Path, picture: Picture) -> str:
    label = f"<figcaption>{escape(picture.label)}</figcaption>" if picture.label else ""
    return f"<figure>{_image(folder, picture)}{label}</figure>"
