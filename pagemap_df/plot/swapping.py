"""Swap areas as maps of their slots: every slot a dot, coloured by who has a page in it.

Slots are laid out row by row (`bands`), one band for each area. A slot that several processes
name has a colour of its own. What no process of the snapshot names is light grey: free, or
used by shared memory, by the swap cache or by processes that were not taken.

What can go wrong: slots are hidden from the reader (`NotAvailable`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .. import palette, printing
from ..algebra.arrays import SLOT_BITS, SWAP, Tables
from ..algebra.figures import Accounts
from ..algebra.holders import Holdings
from . import bands, canvas, pixels
from .bands import COLUMNS, Band
from .colouring import by_owner
from .given import tables_of

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_OFFSETS = (1 << SLOT_BITS) - 1


def plot_swap(data: Tables | pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Map of the slots of every swap area, with their owners.

    Parameters
    ----------
    data : Snapshot or DataFrame
        A snapshot, or a frame of pages; then areas are as large as their last slot.
    ax : Axes, optional
        Axes to draw on; new ones if not given.

    Returns
    -------
    Axes
        x is bytes along a row, y the slot that a row begins with.

    Raises
    ------
    NotAvailable
        Pages are in swap, but slots are hidden.
    """
    view = Accounts(tables_of(data))
    view.need("swap_offset", view.kind == SWAP, "a map of swap slots")
    held = Holdings.of_slots(view)
    areas = _areas(view, held)
    if not areas:
        return canvas.message(ax, "swap", "No page is in swap, and there is no swap area.")
    slot, owners = by_owner(view, held, view.slot)
    colours, code = owners.colours, owners.code
    scale = bands.scale_for(sum(size for size, _ in areas.values()), len(areas))
    shown, total = [], np.zeros(len(colours), np.int64)
    for area, (size, path) in areas.items():
        mine = slot >> SLOT_BITS == area
        cells = max(-(-size // scale), 1)
        cell = (slot[mine] & _OFFSETS) // scale
        counts = pixels.tally(cell, code[mine], cells, len(colours))
        room = np.full(cells, scale)
        room[-1] = size - (cells - 1) * scale
        painted = pixels.painted(counts, colours, room, palette.UNTOUCHED)
        rows = [str(first * scale) for first in range(0, cells, COLUMNS)]
        kept, whole = (printing.size(int(n) * view.page_size) for n in (counts.sum(), size))
        label = f"{canvas.shortened(path, 30)}  {kept} of {whole}"
        shown.append(Band(label, pixels.wrapped(painted, COLUMNS), rows))
        total += counts.sum(axis=0)
    ax = canvas.axes(ax, 10.5, bands.height_for(shown) + 0.5)
    cell_bytes = scale * view.page_size
    across = f"bytes along the row; a cell is {printing.size(cell_bytes)}"
    bands.draw(ax, shown, cell_bytes, across=across, up="slot that the row begins with")
    ax.set_title("swap slots by owner" if len(slot) else "swap slots: no process here has any")
    grey = ("held by none of them", palette.UNTOUCHED)
    canvas.legend(ax, [*owners.entries(total, view.page_size), grey], owners.title, below=True)
    return ax


def _areas(view: Accounts, held: Holdings) -> dict[int, tuple[int, str]]:
    """Slots and path of each area by its number: those of ``swaps``, and those of entries.

    An area whose number is not certain is only there if entries speak of it. Slot 0 is the
    header, so an area has a slot more than its size says.
    """
    last: dict[int, int] = {}
    slot = view.slot[held.rows]
    number = slot >> SLOT_BITS
    for area in np.flatnonzero(np.bincount(number)).tolist():
        last[area] = int(slot[number == area].max() & _OFFSETS)
    out = {area: (end + 1, f"swap area {area}") for area, end in last.items()}
    columns = (view.swaps[name].to_pylist() for name in ("swap_type", "path", "size"))
    for area, path, size in zip(*columns, strict=True):
        if area is not None:
            slots = max(size // view.page_size, last.get(area, 0)) + 1
            out[area] = (slots, path)
    return dict(sorted(out.items()))
