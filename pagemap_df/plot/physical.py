"""Physical memory as a map: every page frame a dot, coloured by owner, map count or use.

Frames are laid out along a Hilbert curve, which keeps neighbours together, so that contiguous
memory is a patch and fragmented memory is dust; or in tiles, where the address can be read
off the axes. Up to `CELLS` cells; a cell is a power of two of frames and naturally aligned,
as the buddy allocator's blocks are.

In: a snapshot. With ``machine_frames=True`` it has all frames of the machine, else only those
that its processes map. What can go wrong (`NotAvailable`): page frames are hidden, or what
the colours are to tell was not joined.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .. import layout, palette, printing
from ..algebra.arrays import PRESENT, Tables, numbers
from ..algebra.figures import Accounts
from ..algebra.holders import Holdings
from ..entries import Ints
from ..errors import NotAvailable, TableError
from . import canvas, pixels
from .colouring import SHARERS, Colouring, by_owner, sharer_classes
from .given import tables_of

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

CELLS = 1 << 16
"""Cells of a map at most."""

_TILE = 32
"""Side of a tile in cells."""


class _Grid(NamedTuple):
    """Where cells go: column and row of each, and the size of it all in cells."""

    x: Ints
    y: Ints
    width: int
    height: int


def plot_physical(
    data: Tables | pd.DataFrame,
    *,
    by: str = "owner",
    curve: str = "hilbert",
    ax: Axes | None = None,
) -> Axes:
    """Map of physical memory.

    Parameters
    ----------
    data : Snapshot or DataFrame
        A snapshot, or a frame of pages.
    by : {"owner", "mapcount", "use"}
        What colours say: which process has it; how many page table entries map it
        (/proc/kpagecount); what it is in use for (flags of /proc/kpageflags).
    curve : {"hilbert", "tiles"}
        How frames are laid out; the first at the lower or upper left.
    ax : Axes, optional
        Axes to draw on; new ones if not given.

    Returns
    -------
    Axes
        A cell has the colour of what most of its frames are, fainter the fewer are known;
        light grey are cells nothing is known of.

    Raises
    ------
    NotAvailable
        Frames are hidden, or the column that `by` needs was not joined.
    """
    if curve not in ("hilbert", "tiles"):
        raise TableError(f"curve is 'hilbert' or 'tiles', not {curve!r}")
    view = Accounts(tables_of(data))
    pfn, colours = _coloured(view, by)
    title = f"physical memory by {by}"
    if not len(pfn):
        return canvas.message(ax, title, "No page frame is known: nothing is in memory here.")
    span = max(int(pfn.max()), int(numbers(view.frames["pfn"], -1).max(initial=0))) + 1
    scale = 1 << max(-(-span // CELLS) - 1, 0).bit_length()
    cells = -(-span // scale)
    counts = pixels.tally(pfn // scale, colours.code, cells, len(colours.names))
    painted = pixels.painted(counts, colours.colours, scale, palette.UNTOUCHED)
    grid = _hilbert(cells) if curve == "hilbert" else _tiled(cells)
    image = np.zeros((grid.height, grid.width, 4), np.float32)
    image[grid.y[:cells], grid.x[:cells]] = painted
    ax = canvas.axes(ax, 4.6 + 4.4 * min(grid.width / grid.height, 1.6), 5.4)
    ax.imshow(image, origin="lower" if curve == "hilbert" else "upper", interpolation="nearest")
    ax.set_title(title)
    (_mark_curve if curve == "hilbert" else _mark_tiles)(ax, grid, scale * view.page_size, cells)
    entries = colours.entries(counts.sum(axis=0), view.page_size)
    canvas.legend(ax, [*entries, ("nothing known", palette.UNTOUCHED)], colours.title)
    return ax


def _coloured(view: Accounts, by: str) -> tuple[Ints, Colouring]:
    """Frame numbers, and what each is."""
    if by == "owner":
        return by_owner(view, Holdings.of_frames(view, "a map of owners"), view.pfn)
    if by not in ("mapcount", "use"):
        raise TableError(f"frames can be coloured by 'owner', 'mapcount' or 'use', not {by!r}")
    view.need("pfn", view.kind == PRESENT, "a map of physical memory")
    column = "mapcount" if by == "mapcount" else "flags"
    pfn, values = numbers(view.frames["pfn"], -1), numbers(view.frames[column], -1)
    unknown = view.frames[column].null_count
    if len(pfn) and unknown == len(pfn):
        raise NotAvailable(
            f"a map by {by} needs frames.{column}, which this snapshot does not have; take it "
            f"with join=[{column!r}] or machine_frames=True, as root"
        )
    if by == "mapcount":
        code = sharer_classes(values)
        return pfn, Colouring("entries that map it", SHARERS, tuple(palette.SHARERS.values()), code)
    code = layout.use_of(values)
    if unknown:
        code[view.frames[column].is_null().to_numpy()] = -1
    return pfn, Colouring("in use for", tuple(palette.USES), tuple(palette.USES.values()), code)


def _hilbert(cells: int) -> _Grid:
    """Up to three squares side by side; the curve leaves each where the next begins."""
    order = 0
    while cells > 3 << 2 * order:
        order += 1
    side, squares = 1 << order, -(-cells // (1 << 2 * order))
    x, y = pixels.hilbert(order)
    across = np.concatenate([x + side * k for k in range(squares)])
    return _Grid(across, np.tile(y, squares), side * squares, side)


def _tiled(cells: int) -> _Grid:
    tiles = -(-cells // (_TILE * _TILE))
    across = max(int(np.ceil(np.sqrt(tiles * 1.6))), 1)
    x, y = pixels.tiles(cells, _TILE, across)
    return _Grid(x, y, min(across, tiles) * _TILE, -(-tiles // across) * _TILE)


def _mark_curve(ax: Axes, grid: _Grid, cell: int, cells: int) -> None:
    """Say where memory begins and ends, and how much a square holds."""
    part = max(grid.height // 4, 1)
    for at in range(part, max(grid.width, grid.height), part):
        for line, end in ((ax.axhline, grid.height), (ax.axvline, grid.width)):
            if at < end:
                line(at - 0.5, color="white", linewidth=0.6, alpha=0.7)
    step = part * part
    for n in range(0, cells, step):
        x, y = grid.x[n : n + step], grid.y[n : n + step]
        where = (int(x.min()) + part / 2 - 0.5, int(y.min()) + part / 2 - 0.5)
        _write(ax, f"{n * cell:#x}", where)
    ax.set_xticks([])
    ax.set_yticks([])
    ax.set_xlabel(
        f"Hilbert curve through frames 0 to {cells * cell:#x}; a cell is {printing.size(cell)}"
    )
    ax.set_ylabel(f"squares of {printing.size(step * cell)}, with the address each begins at")


def _write(ax: Axes, text: str, where: tuple[float, float]) -> None:
    from matplotlib.patheffects import withStroke

    around = [withStroke(linewidth=1.6, foreground="white", alpha=0.8)]
    style = {"fontsize": canvas.SMALL - 2, "ha": "center", "va": "center", "color": "#333333"}
    ax.text(*where, text, path_effects=around, **style)  # type: ignore[arg-type]


def _mark_tiles(ax: Axes, grid: _Grid, cell: int, cells: int) -> None:
    """Ticks: x is bytes into a row of tiles, y the address where the row begins."""
    tile = _TILE * _TILE * cell
    across, down = grid.width // _TILE, grid.height // _TILE
    every = max(across // 6, 1)
    ticks = range(0, across, every)
    ax.set_xticks(
        [t * _TILE - 0.5 for t in ticks], [printing.size(t * tile) for t in ticks], fontsize=7
    )
    every = max(down // 12, 1)
    ticks = range(0, down, every)
    heads = [f"{t * across * tile:#x}" for t in ticks]
    ax.set_yticks([t * _TILE - 0.5 for t in ticks], heads, fontsize=7, family="monospace")
    for at in range(1, max(across, down)):
        for line, end in ((ax.axhline, down), (ax.axvline, across)):
            if at < end:
                line(at * _TILE - 0.5, color="white", linewidth=0.6, alpha=0.7)
    ax.set_xlabel(f"bytes into a row of tiles; a cell is {printing.size(cell)}")
    ax.set_ylabel("physical address of the row of tiles")
