"""Bands of cells: long lines of memory wrapped like text, one band below the other.

The address map and the swap map are made of these. A band is a line of painted cells that
begins a new row, with a label on its right and the address (or slot) of its rows on the left.
Labels never overlap: a band that is lower than its label gets room below it, and where there
is no room for all, the labels of the smallest bands are left out.

What can go wrong: nothing; any number of bands is drawn, though beyond some tens without
labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from . import canvas

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = 128
"""Cells in a row."""

ROWS = 96
"""Rows that a picture has at most, give or take one a band."""

_LINE = 0.155
"""Height of a label, inches."""

_APART = 0.95
"""Least distance of two labels, in lines."""

_AROUND = 0.95
"""Inches above and below the axes for title and ticks."""


@dataclass(frozen=True)
class Band:
    """One line of cells.

    Attributes
    ----------
    label : str
        Stands right of it.
    image : ndarray, shape (rows, COLUMNS, 4)
        As `pixels.wrapped` gives it.
    rows : sequence of str
        Stands left of each row, if there is room.
    """

    label: str
    image: NDArray[np.float32]
    rows: Sequence[str]


def scale_for(pages: int, bands: int) -> int:
    """How many pages, a power of two, a cell must have so that all fit.

    Examples
    --------
    >>> scale_for(1000, 1), scale_for(10**6, 1)
    (1, 128)
    """
    room = max(ROWS - bands // 2, ROWS // 4) * COLUMNS
    return 1 << max(-(-pages // room) - 1, 0).bit_length()


def height_for(bands: Sequence[Band]) -> float:
    """Inches of a figure in which all of them have a label, but no more than 11."""
    rows = sum(max(0.055 * len(band.rows), _LINE) for band in bands)
    return float(np.clip(rows + _AROUND, 2.6, 11))


def draw(ax: Axes, bands: Sequence[Band], cell_bytes: int, *, across: str, up: str) -> None:
    """Draw `bands` on empty axes; x is bytes along a row, y has the labels of rows."""
    top, row = _places(ax, [len(band.rows) for band in bands])
    width = COLUMNS * cell_bytes
    bottom = 0.0
    for band, y in zip(bands, top, strict=True):
        bottom = y + len(band.rows) * row
        box = (0, width, bottom, y)
        ax.imshow(band.image, extent=box, aspect="auto", interpolation="nearest", zorder=2)
    ax.set_xlim(0, width)
    ax.set_ylim(bottom, 0)
    canvas.sizes(ax.xaxis, across)
    _label(ax, bands, top, row)
    ax.set_ylabel(up)
    for side in ("top", "right", "left"):
        ax.spines[side].set_visible(False)


def _places(ax: Axes, rows: Sequence[int]) -> tuple[list[float], float]:
    """Where bands begin, from the top, in lines of text; and the height of a row."""
    figure: Any = ax.figure
    inches = figure.get_size_inches()[1] * ax.get_position().height
    lines = max((inches - 0.3) / _LINE, 1.0)
    label = min(1.0, lines / len(rows))
    low, high = 0.0, lines
    for _ in range(40):
        row = (low + high) / 2
        used = sum(max(n * row + 0.15 * label, label) for n in rows)
        low, high = (low, row) if used > lines else (row, high)
    row = min(low, 1.0) or 0.01
    heights = [max(n * row + 0.15 * label, label) for n in rows]
    return [float(y) for y in np.cumsum([0.0, *heights[:-1]])], row


def _label(ax: Axes, bands: Sequence[Band], top: list[float], row: float) -> None:
    """Ticks on the left, names on the right, each only where the last one is far enough."""
    ticks: list[float] = []
    texts: list[str] = []
    last, last_name = -_APART, -_APART
    lines = top[-1] + len(bands[-1].rows) * row
    by_size = sorted(range(len(bands)), key=lambda i: -len(bands[i].rows))
    chosen = set(by_size[: max(int(lines), 1)])
    for i, (band, y) in enumerate(zip(bands, top, strict=True)):
        if i in chosen and y + row / 2 - last_name >= _APART:
            last_name = y + row / 2
            _name(ax, band.label, last_name)
        # What is inside of a band leaves room for the head of the next one.
        stop = (top[i + 1] + row / 2 if i + 1 < len(top) else lines + 1) - _APART
        for n, text in enumerate(band.rows):
            at = y + (n + 0.5) * row
            if text and (at - last >= _APART if n == 0 else at - last >= 2 and at <= stop):
                last = at
                ticks.append(at)
                texts.append(text)
    ax.set_yticks(ticks, texts, fontsize=canvas.SMALL - 1, family="monospace")


def _name(ax: Axes, text: str, y: float) -> None:
    ax.text(
        1.01,
        y,
        text,
        transform=ax.get_yaxis_transform(),
        fontsize=canvas.SMALL - 1,
        va="center",
        gid="band",
    )
