"""The address space of a process as a map: every page a dot, empty stretches folded.

Neighbouring mappings of one file, and anonymous ones that touch, make a *region*. Within a
region stretches with nothing in them are left out if they are long compared with what is
there, so that a tebibyte of reservation does not hide a heap. What remains is wrapped like
text (`bands`): a region of some size begins a row of its own, and small regions that follow
each other share one.

In: a snapshot or a frame of pages (then regions are guessed from gaps between pages). What can
go wrong: the process is not there (`ProcessGone`).
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import palette, printing
from ..algebra.arrays import Tables
from ..algebra.figures import Accounts
from ..algebra.view import View
from ..entries import Bools, Ints
from ..runs import concatenated
from . import bands, canvas, pixels
from .bands import COLUMNS, Band
from .colouring import Colouring, colouring, process_names
from .given import tables_of

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_GUESS = 256
"""Pages of a gap that part two regions where mappings are unknown."""

_MOST = 1024
"""Regions at most; where there are more, neighbours are put together."""

_FOLDS = 2048
"""Stretches that are folded at most."""

_BLANK = 1
"""Cells between two regions that share a row, and of a folded stretch."""


class _Regions(NamedTuple):
    """Regions in page numbers, half-open, ascending, with a name each."""

    start: Ints
    stop: Ints
    names: list[str]


class _Pieces(NamedTuple):
    """What is drawn of each region: stretches of pages, and the region each is in."""

    start: Ints
    stop: Ints
    region: Ints


def plot_address_space(
    data: Tables | pd.DataFrame,
    pid: int | None = None,
    *,
    by: str = "state",
    ax: Axes | None = None,
) -> Axes:
    """Map of the address space of one process.

    Parameters
    ----------
    data : Snapshot or DataFrame
        A snapshot, or a frame of pages.
    pid : int, optional
        Which process; the one with most pages, if not given.
    by : {"state", "sharers"}
        What colours say: what each page is, or how many page table entries map it.
    ax : Axes, optional
        Axes to draw on; new ones if not given.

    Returns
    -------
    Axes
        x is bytes along a row, y has the address of the rows. A cell has the colour of what
        most of its pages are, fainter the less of it is filled; light grey is mapped and empty.

    Raises
    ------
    ProcessGone
        There is no process `pid`.

    Examples
    --------
    >>> from pagemap_df import load_dataset
    >>> from pagemap_df.plot import blank
    >>> plot_address_space(load_dataset("preforked-family"), ax=blank()).get_ylabel()
    'address of the row'
    """
    view = Accounts(tables_of(data))
    pids, at = view.process_rows
    if pid is None and len(pids):
        pid = int(pids[np.argmax(np.diff(at))])
    elif pid is not None and pid not in pids:
        view.process(pid)
    title = "address space" if pid is None else f"address space of {process_names(view)[pid]}"
    colours = colouring(view, by)
    drawn = view.rows_of(-1 if pid is None else pid)
    page, code = view.vaddr[drawn] // view.page_size, colours.code[drawn]
    page, code = page[code >= 0], code[code >= 0]
    if not len(page):
        return canvas.message(ax, title, "This process has no page in memory or in swap.")
    found = _regions(view, pid or 0, page)
    inside = _inside(found, page)
    return _drawn(ax, title, view, found, colours._replace(code=code[inside]), page[inside])


def _regions(view: View, pid: int, page: Ints) -> _Regions:
    mine = np.flatnonzero(view.vma_pid == pid)
    if len(mine):
        start, stop = (a[mine] // view.page_size for a in (view.vma_start, view.vma_end))
        columns = (view.vmas[name].take(mine).to_pylist() for name in ("path", "kind", "inode"))
        told = list(zip(*columns, strict=True))
        names = [path.rpartition("/")[2] or path or kind for path, kind, _ in told]
        named = np.array([bool(inode) for _, _, inode in told], np.bool_)
        same = np.array([a == b for a, b in itertools.pairwise(names)], np.bool_)
        cut = ~(same & (named[1:] | (start[1:] == stop[:-1])))
    else:
        start, stop, names = page, page + 1, [""] * len(page)
        cut = np.diff(page) > _GUESS
    first = np.r_[0, np.flatnonzero(cut) + 1]
    last = np.r_[first[1:], len(start)] - 1
    return _thinned(_Regions(start[first], stop[last], [names[i] for i in first.tolist()]))


def _thinned(found: _Regions) -> _Regions:
    """At most `_MOST` regions, so that placing them stays quick."""
    n = len(found.start)
    if n <= _MOST:
        return found
    cut = np.linspace(0, n, _MOST + 1).astype(np.int64)
    names = [f"{b - a} mappings" for a, b in itertools.pairwise(cut)]
    return _Regions(found.start[cut[:-1]], found.stop[cut[1:] - 1], names)


def _inside(found: _Regions, page: Ints) -> Bools:
    """Pages that lie in a region; a mapping may have gone before its pages were read."""
    at = np.searchsorted(found.start, page, side="right") - 1
    return np.asarray((at >= 0) & (page < found.stop[at]), np.bool_)


def _pieces(found: _Regions, page: Ints) -> _Pieces:
    """Regions without their long empty stretches."""
    lo = np.searchsorted(page, found.start)
    hi = np.searchsorted(page, found.stop)
    some = hi > lo
    head, tail = np.zeros_like(found.start), np.zeros_like(found.start)
    head[some] = page[lo[some]] - found.start[some]
    tail[some] = found.stop[some] - page[hi[some] - 1] - 1
    head[~some] = (found.stop - found.start)[~some]
    gap = np.diff(page) - 1
    gap[hi[some][:-1] - 1] = 0
    fold = _longest(np.concatenate([gap, head, tail]), len(page) + 64 * len(found.start))
    start = np.where(head > fold, np.where(some, found.start + head, found.start), found.start)
    stop = np.where(tail > fold, found.stop - tail, found.stop)
    stop = np.where(~some, np.minimum(found.stop, found.start + fold), stop)
    broken = np.flatnonzero(gap > fold)
    starts = np.sort(np.concatenate([start, page[broken + 1]]))
    stops = np.sort(np.concatenate([stop, page[broken] + 1]))
    return _Pieces(starts, stops, np.searchsorted(found.start, starts, side="right") - 1)


def _longest(gaps: Ints, populated: int) -> int:
    """The longest empty stretch to keep.

    All that are kept together are at most a few times the pages, but never are more than
    `_FOLDS` left out: beyond that a map would consist of folds.
    """
    gaps = np.sort(gaps[gaps > 0])
    kept = int(np.searchsorted(np.cumsum(gaps), 3 * populated, side="right"))
    if kept < len(gaps):
        kept = int(np.searchsorted(gaps, gaps[kept]))  # equal ones all stay or all go
    kept = max(kept, len(gaps) - _FOLDS)
    return int(gaps[kept - 1]) if kept else 1


class _Layout(NamedTuple):
    """Where everything goes.

    `begin` and `band` are the first cell and the band of each region; the others are of each
    cell: pages that fill it (0 for a blank one) and the address it begins at (-1 for none).
    """

    scale: int
    begin: Ints
    band: Ints
    room: Ints
    address: Ints


def _laid_out(found: _Regions, pieces: _Pieces, page: Ints, page_size: int) -> tuple[_Layout, Ints]:
    """The layout, and the cell of each page."""
    length = pieces.stop - pieces.start
    scale = bands.scale_for(int(length.sum()), min(len(found.start), 40))
    cells = -(-length // scale)
    # A folded stretch leaves a blank cell; a region begins wherever its band has come to.
    blank = _BLANK * np.r_[False, pieces.region[1:] == pieces.region[:-1]]
    size = np.bincount(pieces.region, cells + blank, len(found.start)).astype(np.int64)
    begin, band = _arranged(size)
    before = np.cumsum(cells + blank) - cells - blank
    own = before - before[np.searchsorted(pieces.region, pieces.region)]
    at = begin[pieces.region] + own + blank
    total = int((begin + size).max())
    room, address = np.zeros(total, np.int64), np.full(total, -1, np.int64)
    cell = concatenated(at, at + cells)
    nth = cell - np.repeat(at, cells)
    room[cell] = np.minimum(np.repeat(length, cells) - nth * scale, scale)
    address[cell] = (np.repeat(pieces.start, cells) + nth * scale) * page_size
    piece = np.searchsorted(pieces.start, page, side="right") - 1
    where = at[piece] + (page - pieces.start[piece]) // scale
    return _Layout(scale, begin, band, room, address), where


def _drawn(
    ax: Axes | None, title: str, view: View, found: _Regions, colours: Colouring, page: Ints
) -> Axes:
    layout, cell = _laid_out(found, _pieces(found, page), page, view.page_size)
    counts = pixels.tally(cell, colours.code, len(layout.room), len(colours.names))
    painted = pixels.painted(counts, colours.colours, layout.room, palette.UNTOUCHED)
    painted[layout.room == 0] = 0
    shown = _bands(view, found, page, layout, painted)
    ax = canvas.axes(ax, 10.5, bands.height_for(shown) + 0.5)
    unit = layout.scale * view.page_size
    across = f"bytes along the row; a cell is {printing.size(unit)}, empty stretches are folded"
    bands.draw(ax, shown, unit, across=across, up="address of the row")
    ax.set_title(title)
    entries = colours.entries(counts.sum(axis=0), view.page_size)
    canvas.legend(ax, [*entries, ("mapped, empty", palette.UNTOUCHED)], colours.title, below=True)
    return ax


def _arranged(size: Ints) -> tuple[Ints, Ints]:
    """First cell of each region, and its band. Large regions have a band of their own."""
    begin, band = np.zeros_like(size), np.zeros_like(size)
    at, number, small = 0, -1, False
    for i, cells in enumerate(size.tolist()):
        large = cells >= COLUMNS // 4
        if large or not small:
            at = -(-at // COLUMNS) * COLUMNS
            number += 1
        begin[i], band[i] = at, number
        at += cells + (0 if large else _BLANK)
        small = not large
    return begin, band


def _bands(
    view: View, found: _Regions, page: Ints, layout: _Layout, painted: NDArray[np.float32]
) -> list[Band]:
    first = np.flatnonzero(np.r_[True, np.diff(layout.band) > 0])
    cut = np.append(layout.begin[first], len(painted)).tolist()
    populated = np.searchsorted(page, found.stop) - np.searchsorted(page, found.start)
    out = []
    for k, a in enumerate(first.tolist()):
        some = slice(a, first[k + 1] if k + 1 < len(first) else None)
        there, size = (
            printing.size(int(pages.sum()) * view.page_size)
            for pages in (populated[some], found.stop[some] - found.start[some])
        )
        heads = layout.address[cut[k] : cut[k + 1] : COLUMNS].tolist()
        rows = [f"{head:#x}" if head >= 0 else "" for head in heads]
        label = f"{_label(found.names[some])}  {there} of {size}"
        out.append(Band(label, pixels.wrapped(painted[cut[k] : cut[k + 1]], COLUMNS), rows))
    return out


def _label(names: list[str]) -> str:
    known = list(dict.fromkeys(name for name in names if name))
    if len(known) <= 1:
        return canvas.shortened(known[0] if known else "pages", 26)
    return f"{canvas.shortened(known[0], 16)} … {canvas.shortened(known[-1], 16)} ({len(names)})"
