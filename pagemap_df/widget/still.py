"""A scene as an SVG picture: for reports, for nbconvert, for hosts without widgets.

The whole line in one picture, wrapped like text, with addresses on the left, the names of
mappings on the right and a legend below. Cells of one row that look alike are one rectangle,
so the size of the picture is bounded however much memory it shows. No plotting library and
no browser is needed.

What can go wrong: nothing; a scene with nothing in it is a picture of its message.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

import numpy as np

from .. import palette, printing
from .cells import NOTHING, OUTSIDE
from .scene import CHANGED, Answer, Scene

COLUMNS, MOST_ROWS = 96, 28
_CELL, _ROW = 7, 12
_LEFT, _RIGHT, _TOP, _LINE = 112, 206, 34, 18
_WIDTH = _LEFT + COLUMNS * _CELL + _RIGHT
_SHADES = 8
_FAINTEST = 0.4
_INK, _FAINT = "#222222", "#666666"


def svg(scene: Scene) -> str:
    """The whole of `scene` as one SVG document.

    Examples
    --------
    >>> from pagemap_df import load_dataset
    >>> svg(Scene(load_dataset("preforked-family")))[:4]
    '<svg'
    """
    if scene.message or not scene.line.length:
        return _document(60, [_text(12, 34, scene.message or "Nothing is mapped.", 13)])
    cells = max(COLUMNS, min(COLUMNS * MOST_ROWS, scene.line.length))
    per = scene.fitting(cells)
    rows = -(-scene.line.length // (per * COLUMNS))
    answer = scene.cells(0, per, COLUMNS, rows)
    down = _TOP + rows * _ROW
    parts = [
        _text(12, 20, scene.title, 13, weight="bold"),
        *_cells(scene, answer),
        *_gutters(answer),
        *_legend(scene, down + 14, per),
    ]
    lines = 1 + int(parts[-1].split('y="')[1].split('"')[0].split(".")[0]) - down
    return _document(down + lines + 16, parts)


def _document(height: int, parts: list[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" '
        f'viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif" role="img">'
        f'<rect width="{_WIDTH}" height="{height}" fill="#FFFFFF"/>{"".join(parts)}</svg>'
    )


def _text(x: float, y: float, words: str, size: int = 10, colour: str = _INK, **more: str) -> str:
    extra = "".join(f' {name.replace("_", "-")}="{value}"' for name, value in more.items())
    fonts = {"weight": "font-weight", "anchor": "text-anchor", "family": "font-family"}
    for short, name in fonts.items():
        extra = extra.replace(f" {short}=", f" {name}=")
    return f'<text x="{x:g}" y="{y:g}" font-size="{size}" fill="{colour}"{extra}>{escape(words)}</text>'


def _cells(scene: Scene, answer: Answer) -> Iterator[str]:
    count = answer.columns * answer.rows
    code, fill, mark = np.frombuffer(answer.data, np.uint8).reshape(3, count)
    shade = np.where(code < OUTSIDE, -(-fill.astype(int) * _SHADES // 255), 0)
    look = code.astype(int) * (_SHADES + 1) + shade
    colours = scene.content.legend.colours
    row = np.arange(count) // answer.columns
    for lo, hi in _alike(look, row):
        if code[lo] != OUTSIDE:
            colour = palette.UNTOUCHED
            if code[lo] != NOTHING:
                colour = blend(colours[code[lo]], int(shade[lo]) / _SHADES)
            yield _box(lo, hi, answer.columns, 1, _ROW - 2, colour)
    changed = (mark & CHANGED > 0).astype(int)
    for lo, hi in _alike(changed, row):
        if changed[lo]:
            yield _box(lo, hi, answer.columns, _ROW - 3, 2, _INK)


def _alike(look: np.ndarray, row: np.ndarray) -> Iterator[tuple[int, int]]:
    """Neighbours in a row that look alike, as first and behind the last."""
    cut = np.flatnonzero((look[1:] != look[:-1]) | (row[1:] != row[:-1])) + 1
    return zip([0, *cut.tolist()], [*cut.tolist(), len(look)], strict=True)


def _box(lo: int, hi: int, columns: int, down: int, height: int, colour: str) -> str:
    x, y = _LEFT + lo % columns * _CELL, _TOP + lo // columns * _ROW + down
    return f'<rect x="{x}" y="{y}" width="{(hi - lo) * _CELL}" height="{height}" fill="{colour}"/>'


def blend(colour: str, full: float) -> str:
    """`colour` on the ground of the map, the fainter the less a cell is full.

    Examples
    --------
    >>> blend("#000000", 1.0), blend("#000000", 0.0)
    ('#000000', '#929294')
    """
    weight = _FAINTEST + (1 - _FAINTEST) * full
    parts = [
        round(weight * int(colour[k : k + 2], 16) + (1 - weight) * int(ground, 16))
        for k, ground in ((k, palette.UNTOUCHED[k : k + 2]) for k in (1, 3, 5))
    ]
    return "#" + "".join(f"{part:02X}" for part in parts)


def _gutters(answer: Answer) -> Iterator[str]:
    every = max(answer.rows // 14, 1)
    for row in range(0, answer.rows, every):
        if answer.addresses[row]:
            y = _TOP + row * _ROW + _ROW - 3
            yield _text(
                _LEFT - 6, y, answer.addresses[row], 10, _FAINT, anchor="end", family="monospace"
            )
    for row, name in answer.labels:
        y = _TOP + row * _ROW + _ROW - 3
        yield _text(_LEFT + COLUMNS * _CELL + 8, y, name, 10)


def _legend(scene: Scene, y: int, per: int) -> Iterator[str]:
    x = _LEFT
    entries = [
        (one["colour"], f"{one['name']}: {one['size']}") for one in scene.legend if one["bytes"]
    ]
    for colour, words in [*entries, (palette.UNTOUCHED, scene.ground_name)]:
        wide = 30 + 6 * len(words)
        if x + wide > _WIDTH - 10:
            x, y = _LEFT, y + _LINE
        yield (
            f'<rect x="{x}" y="{y - 9}" width="11" height="11" fill="{colour}" '
            f'stroke="{_FAINT}" stroke-width="0.4"/>'
        )
        yield _text(x + 16, y, words, 10)
        x += wide
    cell = f"A cell is {printing.size(per * scene.page_size)}; long empty stretches are left out."
    if scene.changed is not None:
        cell += " Underlined: something changed."
    yield _text(_LEFT, y + _LINE, cell, 10, _FAINT)
