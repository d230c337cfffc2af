"""From pages to pixels, in NumPy, before anything is drawn.

A picture has some ten thousand cells, a machine has millions of pages. Each page has a *cell*
(where it is drawn) and a *code* (what it is, see `colouring`); one pass counts them. A cell
then gets the colour of what most of its pages are, the fainter the less of it is filled.

Curves say where in the picture the cells of a long line go: `hilbert` keeps neighbours
together, `tiles` fills squares row by row.

What can go wrong: nothing; callers pass codes and cells in range.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..entries import Ints

_FAINTEST = 0.4
"""How much of its colour a nearly empty cell still has."""

BLOCK = 1 << 20


def tally(cell: Ints, code: NDArray[np.int8], cells: int, codes: int) -> Ints:
    """How many pages of each code lie in each cell; pages with a negative code are left out.

    Returns
    -------
    ndarray of int64, shape (cells, codes)

    Examples
    --------
    >>> tally(np.array([0, 0, 1, 1]), np.array([1, 1, 0, -1], np.int8), 2, 2).tolist()
    [[0, 2], [1, 0]]
    """
    total = np.zeros(cells * codes, np.int64)
    for at in range(0, len(cell), BLOCK):  # in pieces that stay in the cache
        some = slice(at, at + BLOCK)
        place = cell[some] * codes + code[some]
        if len(code) and code[some].min() < 0:
            place = place[code[some] >= 0]
        total += np.bincount(place, minlength=len(total))
    return total.reshape(cells, codes)


def painted(counts: Ints, colours: Sequence[str], room: Any, ground: str) -> NDArray[np.float32]:
    """The colour of each cell.

    Parameters
    ----------
    counts : ndarray of shape (cells, codes)
        As `tally` gives it.
    colours : sequence of str
        One hex colour for each code.
    room : int or ndarray
        How many pages fill a cell.
    ground : str
        Colour of a cell without pages, and of what is left of one that is not full.

    Returns
    -------
    ndarray of float32, shape (cells, 4)
        Red, green, blue and opacity, from 0 to 1.
    """
    total = counts.sum(axis=1)
    full = np.clip(total / np.maximum(room, 1), 0, 1)
    weight = np.where(total > 0, _FAINTEST + (1 - _FAINTEST) * full, 0)[:, None]
    most = rgba(colours)[counts.argmax(axis=1)]
    mixed = weight * most + (1 - weight) * rgba([ground])
    return np.asarray(mixed, np.float32)


def rgba(colours: Sequence[str]) -> NDArray[np.float32]:
    """Hex colours as numbers, shape (n, 4).

    Examples
    --------
    >>> rgba(["#FF0000"]).tolist()
    [[1.0, 0.0, 0.0, 1.0]]
    """
    parts = [[int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)] + [1.0] for c in colours]
    return np.array(parts, np.float32).reshape(-1, 4)


def wrapped(cells: NDArray[np.float32], columns: int) -> NDArray[np.float32]:
    """A line of painted cells as rows of `columns`; the last row is filled up with nothing."""
    rows = -(-len(cells) // columns)
    out = np.zeros((rows * columns, 4), np.float32)
    out[: len(cells)] = cells
    return out.reshape(rows, columns, 4)


def hilbert(order: int) -> tuple[Ints, Ints]:
    """Column and row of the ``4**order`` cells of a Hilbert curve, starting at (0, 0).

    Examples
    --------
    >>> x, y = hilbert(1)
    >>> list(zip(x.tolist(), y.tolist()))
    [(0, 0), (0, 1), (1, 1), (1, 0)]
    """
    x = y = np.zeros(1, np.int64)
    for step in range(order):
        side = 1 << step
        # The quarters: turned about one diagonal, twice as they are, about the other.
        across = np.concatenate([y, x, x + side, 2 * side - 1 - y])
        up = np.concatenate([x, y + side, y + side, side - 1 - x])
        x, y = across, up
    return x, y


def tiles(cells: int, side: int, across: int) -> tuple[Ints, Ints]:
    """Column and row of `cells` cells in square tiles of `side`, `across` tiles to a row.

    Examples
    --------
    >>> x, y = tiles(6, 2, 2)
    >>> list(zip(x.tolist(), y.tolist()))
    [(0, 0), (1, 0), (0, 1), (1, 1), (2, 0), (3, 0)]
    """
    tile, inside = np.divmod(np.arange(cells), side * side)
    return tile % across * side + inside % side, tile // across * side + inside // side
