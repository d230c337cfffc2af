"""Huge pages and physical runs, VMA by VMA.

A large folio (a transparent huge page of any size) is known by its flags: a head frame, then
tails. As in the kernel's ``thpmaps`` (tools/mm/thpmaps), a stretch of pages with neighbouring
addresses and frames is cut at the heads. It is *partial* if it has no head, or if the frame
behind it is a tail that is not mapped here. It is *aligned* if its address is a multiple of
its size: then the hardware can use a larger entry for it.

What can go wrong: no page flags (`NotAvailable`). Whether a folio ends where its mapping ends
is seen only in the flags of the next frame, which the snapshot may not have; such bytes are
``uncertain``, not guessed.

Examples
--------
>>> from pagemap_df.sim import Machine, Script
>>> script = Script.parse('''
... proc server
... server: heap = mmap 8 private anon rw
... server: write heap
... fork server -> worker
... snap forked
... worker: write heap[0:3]
... snap later
... ''')
>>> snaps = Machine().run(script, join=["mapcount", "flags", "huge"])
>>> table = contiguity(snaps["later"]).query("path == ''")
>>> print(table[["pid", "bytes"]].to_string(index=False))
 pid  bytes
1001  32768
1002  32768
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from .. import pageflags
from ..entries import Bools, Ints
from ..runs import bounds, range_sums, runs
from .answers import Maybe, result
from .arrays import PRESENT, Tables, numbers
from .view import View

if TYPE_CHECKING:
    import pandas as pd

FITS = ("aligned", "unaligned", "partial", "uncertain")
"""How a stretch of a large folio is mapped."""


class _Folios(NamedTuple):
    """Stretches of large folios: VMA row, first row of ``pages``, length, and an index of `FITS`."""

    vma: Ints
    row: Ints
    pages: Ints
    fit: NDArray[np.int8]


def huge(snap: Tables) -> pd.DataFrame:
    """Large folios in every VMA.

    Returns
    -------
    DataFrame
        One row per VMA with anything resident: ``pid start end path``; in bytes ``rss``, ``pmd``
        (mapped by one huge page table entry; null if ``huge`` was not joined), ``aligned``,
        ``unaligned``, ``partial`` and ``uncertain`` (see the module), and ``small`` (the rest).
        ``aligned`` includes ``pmd``. Zero pages and hugetlb are not counted.
    """
    view = View(snap)
    found = _folios(view)
    lo, hi = view.vma_ranges
    size, n = view.page_size, len(lo)
    rss = range_sums(view.resident, lo, hi) * size
    some = np.flatnonzero(rss)
    parts = {}
    for k, fit in enumerate(FITS):
        mine = found.fit == k
        parts[fit] = np.bincount(found.vma[mine], found.pages[mine], n).astype(np.int64) * size
    by_pmd = view.resident & view.bools("huge")
    no_pmd = range_sums(view.resident & view.unknown("huge"), lo, hi) > 0
    pmd = Maybe((range_sums(by_pmd, lo, hi) * size)[some], no_pmd[some])
    columns = {**_vma_columns(view, some), "rss": rss[some], "pmd": pmd}
    columns |= {fit: values[some] for fit, values in parts.items()}
    columns["small"] = (rss - sum(parts.values()))[some]
    return result(columns, {"uncertain": "take(machine_frames=True) tells them apart"})


def folios(snap: Tables) -> pd.DataFrame:
    """Large folios in every VMA, by size: the figures that ``thpmaps`` prints.

    Returns
    -------
    DataFrame
        One row per VMA and kind of folio in it: ``pid start end path``, ``type`` (``anon`` or
        ``file``), ``entry`` (``pmd`` or ``pte``; null if ``huge`` was not joined), ``fit`` (one of
        `FITS`), ``folio`` (its size in bytes; null for partial and uncertain ones), ``bytes``.
    """
    view = View(snap)
    found = _folios(view)
    anon = view.anon[found.row].astype(np.int64)
    entry = np.where(view.unknown("huge"), 2, view.bools("huge"))[found.row].astype(np.int64)
    whole = np.where(found.fit < FITS.index("partial"), found.pages, 0)
    keys, where = np.unique(
        np.stack([found.vma, anon, entry, found.fit.astype(np.int64), whole]),
        axis=1,
        return_inverse=True,
    )
    pages = np.bincount(where.ravel(), found.pages, keys.shape[1]).astype(np.int64)
    vma, anon, entry, fit, whole = keys
    columns = {
        **_vma_columns(view, vma),
        "type": [("file", "anon")[k] for k in anon.tolist()],
        "entry": [("pte", "pmd", None)[k] for k in entry.tolist()],
        "fit": [FITS[k] for k in fit.tolist()],
        "folio": Maybe(whole * view.page_size, whole == 0),
        "bytes": pages * view.page_size,
    }
    return result(columns)


def _vma_columns(view: View, vma: Ints) -> dict[str, Any]:
    return {
        "pid": view.vma_pid[vma],
        "start": view.vma_start[vma],
        "end": view.vma_end[vma],
        "path": view.vmas["path"].take(pa.array(vma)),
    }


def _folios(view: View) -> _Folios:
    view.need("flags", view.kind == PRESENT, "telling huge pages")
    rows = np.flatnonzero(view.framed & view.flag("THP") & (view.vma_of >= 0))
    vma, pfn = view.vma_of[rows], view.pfn[rows]
    lo, hi = runs((vma, 0), (view.vaddr[rows] // view.page_size, 1), (pfn, 1))
    head = view.flag("COMPOUND_HEAD")[rows]
    starts = head.copy()
    starts[lo] = True
    first = np.flatnonzero(starts)
    length = np.diff(np.append(first, len(rows)))
    at_end = np.isin(first + length, hi)
    cut, unsure = _cut_short(view, pfn[first], length, at_end)
    by_pmd = view.bools("huge")[rows[first]]
    aligned = view.vaddr[rows[first]] // view.page_size % length == 0
    rules = [~head[first] | cut & ~by_pmd, unsure & ~by_pmd, aligned]
    which = [np.int8(FITS.index(name)) for name in ("partial", "uncertain", "aligned")]
    fit = np.select(rules, which, np.int8(FITS.index("unaligned")))
    return _Folios(vma[first], rows[first], length, fit)


def _cut_short(view: View, pfn: Ints, length: Ints, at_end: Bools) -> tuple[Bools, Bools]:
    """Where a folio surely goes on behind its last mapped page, and where it may.

    A folio is a power of two in size and lies at a multiple of it. What fits that may still
    be the front of a larger one; only the next frame's flags can tell.
    """
    odd = (length & length - 1 != 0) | (pfn % length != 0)
    flags, known = _flags_of(view, pfn + length)
    tail = known & pageflags.has(flags, "COMPOUND_TAIL")
    return at_end & (tail | odd), at_end & ~known


def _flags_of(view: View, wanted: Ints) -> tuple[Ints, Bools]:
    """Flags of frames, from ``frames`` or else from pages that map them."""
    frames = view.frames
    sources = [
        (numbers(frames["pfn"], -1), numbers(frames["flags"], -1)),
        (view.pfn[view.framed & ~view.no_flags], view.flags[view.framed & ~view.no_flags]),
    ]
    out, known = np.zeros(len(wanted), np.int64), np.zeros(len(wanted), np.bool_)
    for pfn, flags in sources:
        have = np.isin(pfn, wanted) & (flags != -1)
        pfn, flags = pfn[have], flags[have]
        order = np.argsort(pfn, kind="stable")
        at = np.searchsorted(pfn, wanted, sorter=order)
        at[at == len(pfn)] = 0
        hit = pfn[order][at] == wanted if len(pfn) else np.zeros(len(wanted), np.bool_)
        out[hit & ~known] = flags[order][at][hit & ~known] if len(pfn) else 0
        known |= hit
    return out, known


def contiguity(snap: Tables) -> pd.DataFrame:
    """Physical runs of every VMA: pages with neighbouring addresses and page frames.

    Returns
    -------
    DataFrame
        One row per VMA with pages in memory: ``pid start end path``, ``bytes`` in memory,
        ``runs``, ``mean`` and ``longest`` run in bytes.

    Raises
    ------
    NotAvailable
        Page frames are hidden.
    """
    view = View(snap)
    view.need("pfn", view.kind == PRESENT, "physical runs")
    rows = np.flatnonzero(view.framed & (view.vma_of >= 0))
    vma = view.vma_of[rows]
    lo, hi = runs((vma, 0), (view.vaddr[rows] // view.page_size, 1), (view.pfn[rows], 1))
    owner, at = bounds(vma[lo])
    length = (hi - lo) * view.page_size
    total = range_sums(length, at[:-1], at[1:])
    count = np.diff(at)
    columns = {
        **_vma_columns(view, owner),
        "bytes": total,
        "runs": count,
        "mean": total / np.maximum(count, 1),
        "longest": np.maximum.reduceat(length, at[:-1]) if len(owner) else total,
    }
    return result(columns)
