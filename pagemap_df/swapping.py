"""What sits in swap: whose, in which slots of which area, how scattered, and what is unseen.

A swapped page is a page table entry that names a slot: the number of a swap area and a place
in it, in pages. The same slot may be named by several processes after a fork. Everything here
counts such entries and slots, and only those whose word says *swap*: guard pages, migrations
and other markers set the same bit and are not counted.

Three things use swap that no page table entry shows, so ``/proc/swaps`` knows of more than
processes hold: shared memory that is swapped out (its entries are plain empty), pages that
were read back while their slot was kept (swap cache), and processes that are not in the
snapshot. `areas` gives the remainder as ``unaccounted`` and does not guess.

What can go wrong: slots are hidden from readers without CAP_SYS_ADMIN (null in all columns
but the bytes); the number of an area is not certain (null area).

Examples
--------
>>> from pagemap_df.sim import Machine, Script
>>> script = Script.parse('''
... swap 16M
... proc server
... server: heap = mmap 8 private anon rw
... server: write heap
... server: madvise heap[0:4] PAGEOUT
... fork server -> worker
... snap now
... ''')
>>> snaps = Machine().run(script, join=["mapcount", "flags", "huge"])
>>> now = snaps["now"]
>>> print(processes(now)[["name", "area", "swap", "shared", "swappss"]].to_string(index=False))
  name   area  swap  shared  swappss
server /swap0 16384   16384     8192
worker /swap0 16384   16384     8192
>>> print(areas(now)[["path", "used", "held", "unaccounted"]].to_string(index=False))
  path  used  held  unaccounted
/swap0 16384 16384            0
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from . import changes
from .algebra import figures
from .algebra.answers import Maybe, result
from .algebra.arrays import SLOT_BITS, SWAP, Tables
from .algebra.figures import PSS_SHIFT, Accounts
from .algebra.holders import Holdings
from .algebra.view import View
from .entries import Ints
from .runs import member_lists, range_sums, runs

if TYPE_CHECKING:
    import pandas as pd

_NOTES = {
    "swappss": figures.NOTES["swappss"],
    "shared": "slots that at least two processes in the snapshot name",
    "unaccounted": "swapped shared memory, slots kept for pages read back, other processes",
}


def processes(snap: Tables, *, complete: bool | None = None) -> pd.DataFrame:
    """What each process has in each swap area.

    Parameters
    ----------
    snap : Snapshot
    complete : bool, optional
        Whether every process of the machine is in `snap`; if not given, as `snap` says.

    Returns
    -------
    DataFrame
        One row per process and area: ``pid name swap_type area``; bytes ``swap``, ``shared``
        (in slots that another process names too) and ``swappss`` (null unless complete);
        ``runs`` (stretches of pages that lie in neighbouring slots, up or down, as read-ahead
        likes it), ``first_slot``, ``last_slot``, and ``density`` (the part of the slots between
        those that is its own).
    """
    view = Accounts(snap, complete)
    rows, lo, hi = _by_area(view, view.pid)
    names = dict(zip(*(view.processes[c].to_pylist() for c in ("pid", "name")), strict=True))
    pids = view.pid[rows[lo]]
    own = {"pid": pids, "name": [names.get(pid) for pid in pids.tolist()]}
    return result({**own, **_held(view, rows, lo, hi)}, _NOTES)


def vmas(snap: Tables, *, complete: bool | None = None) -> pd.DataFrame:
    """What each VMA has in each swap area; columns as in `processes`, with the VMA's.

    Pages outside of every VMA, of a process that changed while it was read, are left out.
    """
    view = Accounts(snap, complete)
    rows, lo, hi = _by_area(view, view.vma_of)
    vma = view.vma_of[rows[lo]]
    own = {
        "pid": view.vma_pid[vma],
        "start": view.vma_start[vma],
        "end": view.vma_end[vma],
        "path": view.vmas["path"].take(vma),
    }
    return result({**own, **_held(view, rows, lo, hi)}, _NOTES)


def _by_area(view: View, owner: Ints) -> tuple[Ints, Ints, Ints]:
    """Swapped rows, brought together by owner and area; and where each group begins and ends."""
    rows = np.flatnonzero((view.kind == SWAP) & (owner >= 0))
    area = view.ints("swap_type")[rows]
    rows = rows[np.lexsort((area, owner[rows]))]
    return rows, *runs((owner[rows], 0), (view.ints("swap_type")[rows], 0))


def _held(view: Accounts, rows: Ints, lo: Ints, hi: Ints) -> dict[str, Any]:
    slot = view.slot[rows]
    hidden = slot < 0
    unknown = range_sums(hidden, lo, hi) > 0
    offset = slot & (1 << SLOT_BITS) - 1
    company = view.seen(np.where(view.kind == SWAP, view.slot, -1)) > 1
    near = np.zeros(len(rows), np.bool_)
    near[1:] = (np.abs(np.diff(slot)) == 1) & (np.diff(view.vaddr[rows]) == view.page_size)
    near[lo] = False
    share = view.swap_share
    first = np.minimum.reduceat(offset, lo) if len(lo) else lo
    last = np.maximum.reduceat(offset, lo) if len(lo) else lo
    size = view.page_size
    in_doubt = range_sums(share.doubt[rows], lo, hi) > 0
    return {
        **_area_of(view, view.ints("swap_type")[rows[lo]]),
        "swap": (hi - lo) * size,
        "shared": Maybe(range_sums(company[rows], lo, hi) * size, unknown),
        "swappss": Maybe(range_sums(share.amount[rows], lo, hi) >> PSS_SHIFT, in_doubt),
        "runs": Maybe(hi - lo - range_sums(near, lo, hi), unknown),
        "first_slot": Maybe(first, unknown),
        "last_slot": Maybe(last, unknown),
        "density": pa.array((hi - lo) / (last - first + 1), mask=unknown),
    }


def _area_of(view: View, swap_type: Ints) -> dict[str, Any]:
    """The number and the path of areas; null where hidden or not certain."""
    swaps = view.swaps
    path = dict(zip(*(swaps[c].to_pylist() for c in ("swap_type", "path")), strict=True))
    return {
        "swap_type": Maybe(swap_type.astype(np.uint8), swap_type < 0),
        "area": pa.array(
            [path.get(t) if t >= 0 else None for t in swap_type.tolist()], pa.string()
        ),
    }


def slots(snap: Tables) -> pd.DataFrame:
    """Every swap slot that a process in the snapshot names.

    Returns
    -------
    DataFrame
        One row per slot: ``swap_type swap_offset area``, ``pids`` (those that name it; an
        address space under its lowest pid) and ``n_pids``.

    Raises
    ------
    NotAvailable
        Slots are hidden.
    """
    view = Accounts(snap)
    view.need("swap_offset", view.kind == SWAP, "a table of slots")
    held = Holdings.of_slots(view)
    code = np.unique(held.code)
    slot = np.zeros(held.n, np.int64)
    slot[held.code] = view.slot[held.rows]
    offsets, flat = member_lists(held.sets, held.sets.of[code])
    columns = {
        **_area_of(view, slot[code] >> SLOT_BITS),
        "swap_offset": slot[code] & (1 << SLOT_BITS) - 1,
        "pids": pa.LargeListArray.from_arrays(offsets, held.pids[flat]),
        "n_pids": np.diff(offsets),
    }
    return result(columns)


def areas(snap: Tables) -> pd.DataFrame:
    """What each swap area holds, and how much of it nobody in the snapshot accounts for.

    Returns
    -------
    DataFrame
        One row per area: ``swap_type path priority size used``; ``held`` (bytes in slots that
        processes name), ``unaccounted`` (``used - held``; a few pages below zero if the kernel
        swapped in between), ``runs`` (stretches of neighbouring slots) and ``density`` (the part
        that is held of the slots from the first to the last one). Null if the area's number is
        not certain or slots are hidden.
    """
    view = Accounts(snap)
    swaps = view.swaps
    hidden = bool(((view.kind == SWAP) & (view.slot < 0)).any())
    held = np.unique(view.slot[view.slot >= 0])
    rows = []
    for swap_type in swaps["swap_type"].to_pylist():
        known = swap_type is not None and not hidden
        first = (swap_type or 0) << SLOT_BITS
        mine = held[slice(*np.searchsorted(held, [first, first + (1 << SLOT_BITS)]))]
        rows.append(_layout(mine, view.page_size) if known else (None,) * 3)
    size, runs_, density = zip(*rows, strict=True) if rows else ((), (), ())
    used = swaps["used"].to_pylist()
    left = [None if h is None else u - h for u, h in zip(used, size, strict=True)]
    columns = {
        **{name: swaps[name] for name in ("swap_type", "path", "priority", "size", "used")},
        "held": pa.array(size, pa.int64()),
        "unaccounted": pa.array(left, pa.int64()),
        "runs": pa.array(runs_, pa.int64()),
        "density": pa.array(density, pa.float64()),
    }
    return result(columns, _NOTES)


def _layout(slots: Ints, page_size: int) -> tuple[int, int, float | None]:
    """Bytes, runs and density of ascending slots."""
    n = len(slots)
    if n == 0:
        return 0, 0, None
    lo, _ = runs((slots, 1))
    return n * page_size, len(lo), n / int(slots[-1] - slots[0] + 1)


def moved(before: Tables, after: Tables) -> pd.DataFrame:
    """Bytes that went to swap and came back between two snapshots, by process.

    Returns
    -------
    DataFrame
        One row per process in which anything moved: ``pid name swapped_out swapped_in``.

    Raises
    ------
    TableError
        The snapshots are of different machines, boots or page sizes.
    """
    summed = changes.processes(before, after)
    both = summed[["pid", "name", "swapped_out", "swapped_in"]]
    return both[(both.swapped_out > 0) | (both.swapped_in > 0)].reset_index(drop=True)
