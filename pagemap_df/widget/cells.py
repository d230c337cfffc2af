"""What a row of cells shows: the one pass that answers a zoom step.

In: populated runs on the line (see `line`), each with a code that says what its pages are, and
a window: its first spot, how many pages a cell has, how many cells. Out: for each cell the
code that most of its pages have, and how full it is. Only runs that the window touches are
looked at, each once, however many pages they have.

A run adds its pages to the cell it begins in and to the cell it ends in; all cells between
are full of it, which a sum of ups and downs along the cells tells. So a run of a terabyte costs
what a run of a page costs.

What can go wrong: nothing is checked; runs ascend and do not overlap.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..entries import Ints

NOTHING, OUTSIDE = 255, 254
"""Codes of a cell in which nothing is, and of one behind the end of the line."""


class Window(NamedTuple):
    """A part of the line, cut into cells.

    Attributes
    ----------
    first : int
        Spot at which the first cell begins.
    per : int
        Pages in a cell.
    cells : int
        How many cells.
    """

    first: int
    per: int
    cells: int

    @property
    def edges(self) -> Ints:
        """Spots at which cells begin, and the one behind the last."""
        return self.first + self.per * np.arange(self.cells + 1, dtype=np.int64)


class Runs(NamedTuple):
    """Populated runs on the line.

    Attributes
    ----------
    at, n : ndarray of int64
        First spot of each run, ascending, and its pages.
    code : ndarray of uint8
        What its pages are.
    """

    at: Ints
    n: Ints
    code: NDArray[np.uint8]

    def within(self, window: Window) -> Runs:
        """The runs that `window` touches, in cells' own spots: 0 is where the first begins."""
        span = window.per * window.cells
        lo = int(np.searchsorted(self.at, window.first, side="right"))
        if lo and self.at[lo - 1] + self.n[lo - 1] > window.first:
            lo -= 1
        hi = int(np.searchsorted(self.at, window.first + span))
        at, n = self.at[lo:hi] - window.first, self.n[lo:hi]
        if hi > lo and (at[0] < 0 or at[-1] + n[-1] > span):  # only the ends can stand out
            n = n.copy()
            n[-1] = min(n[-1], span - at[-1])
            n[0] += min(at[0], 0)
            at[0] = max(at[0], 0)
        return Runs(at, n, self.code[lo:hi])


def tally(runs: Runs, window: Window, codes: int) -> Ints:
    """Pages of each code in each cell.

    Returns
    -------
    ndarray of int64, shape (cells, codes)

    Examples
    --------
    >>> runs = Runs(np.array([1, 4]), np.array([2, 9]), np.array([0, 1], np.uint8))
    >>> tally(runs, Window(0, 4, 3), 2).tolist()
    [[2, 0], [0, 4], [0, 4]]
    """
    seen = runs.within(window)
    last_spot = seen.at + seen.n - 1
    # A shift is several times quicker than a division.
    if window.per & (window.per - 1):
        first, last = seen.at // window.per, last_spot // window.per
    else:
        shift = window.per.bit_length() - 1
        first, last = seen.at >> shift, last_spot >> shift
    wide = np.flatnonzero(last > first)
    in_first = seen.n
    if len(wide):
        in_first = seen.n.copy()
        in_first[wide] = (first[wide] + 1) * window.per - seen.at[wide]
    size = window.cells * codes
    found = np.bincount(first * codes + seen.code, in_first, size)
    if len(wide):
        more = _across(first[wide], last[wide], last_spot[wide], seen.code[wide], window, codes)
        return (found + more).astype(np.int64).reshape(window.cells, codes)
    return found.astype(np.int64).reshape(window.cells, codes)


def _across(
    first: Ints, last: Ints, spot: Ints, code: NDArray[np.uint8], window: Window, codes: int
) -> NDArray[np.float64]:
    """What runs that leave their first cell add to the cells behind it."""
    size = window.cells * codes
    ends = np.bincount(last * codes + code, spot - last * window.per + 1, size)
    up = np.bincount((first + 1) * codes + code, minlength=size)
    down = np.bincount(last * codes + code, minlength=size)
    full = np.cumsum((up - down).reshape(window.cells, codes), axis=0)
    return np.asarray(ends + window.per * full.ravel(), np.float64)


class Painted(NamedTuple):
    """Cells, ready to be sent: three arrays of bytes.

    Attributes
    ----------
    code : ndarray of uint8
        What most pages are; `NOTHING` or `OUTSIDE`.
    fill : ndarray of uint8
        How full the cell is, 0 to 255; never 0 if anything is in it.
    """

    code: NDArray[np.uint8]
    fill: NDArray[np.uint8]


def paint(runs: Runs, window: Window, codes: int, length: int) -> Painted:
    """The cells of `window` on a line of `length` pages.

    Examples
    --------
    >>> runs = Runs(np.array([0, 3]), np.array([3, 1]), np.array([1, 0], np.uint8))
    >>> painted = paint(runs, Window(0, 4, 3), 2, 8)
    >>> painted.code.tolist(), painted.fill.tolist()
    ([1, 255, 254], [255, 0, 0])
    """
    count = tally(runs, window, max(codes, 1))
    edges = np.minimum(window.edges, length)
    room = edges[1:] - edges[:-1]
    total = count.sum(axis=1)
    code = count.argmax(axis=1).astype(np.uint8)
    code[total == 0] = NOTHING
    code[room <= 0] = OUTSIDE
    fill = np.ceil(255 * (total / np.maximum(room, 1)))
    return Painted(code, fill.astype(np.uint8))
