"""Faults on pages of files: fault-around, private copies, shared writes (``mm/memory.c``)."""

from __future__ import annotations

import numpy as np

from . import pagetable as pt
from .filemap import obtain, windows
from .files import DEVICE, DISK
from .hardware import DIRTY, EXCLUSIVE, FRESH_ANON, RECLAIM, Bools, Pfns
from .reclaim import allocate
from .vma import WRITE
from .vmfault import Fault


def do_read_fault(fault: Fault, none: Bools) -> None:
    """Map pages of a file that are in the cache, around each fault; then those that were not.

    Windows are aligned in virtual pages, but the first one of a mapping that starts unaligned
    is a full one from the start on and overlaps the second. So faults before the first
    boundary come first: what they map spares others a fault.
    """
    vma, size = fault.vma, fault.kernel.knobs.fault_around
    assert vma.file is not None
    pages = fault.pages(none)
    if vma.file.kind == DEVICE:
        _map_cached(fault, pages)
        return
    boundary = -(-vma.first // size) * size
    for some in (pages[pages < boundary][:1], pages):
        if len(some):
            table = fault.space.table.read(int(some[0]), int(some[-1]) + 1)
            _fault_around(fault, some[table[some - some[0]] == pt.NONE], size)


def _fault_around(fault: Fault, pages: Pfns, size: int) -> None:
    """``do_fault_around``, then the faulting pages themselves."""
    vma = fault.vma
    assert vma.file is not None
    if not len(pages):
        return
    numbers = pages - vma.first + vma.offset
    if vma.file.kind == DISK:
        obtain(fault.kernel, fault.space, vma.file, numbers, vma)
    around = np.unique(windows(vma, pages, size), axis=0)
    first, length = around[:, 0], around[:, 1] - around[:, 0]
    inside = np.arange(size) < length[:, None]
    _map_cached(fault, np.unique((first[:, None] + np.arange(size))[inside]), skip=RECLAIM)
    obtain(fault.kernel, fault.space, vma.file, numbers, vma)
    _map_cached(fault, pages)


def _map_cached(fault: Fault, pages: Pfns, skip: np.uint64 = pt.NONE) -> None:
    """Map those of `pages` whose entry is none and whose file page is in memory.

    Not those with a flag of `skip`.
    """
    vma, kernel = fault.vma, fault.kernel
    assert vma.file is not None
    bits = pt.PRESENT | pt.YOUNG
    if vma.shared and vma.has(WRITE) and vma.file.shmem:
        bits |= pt.WRITE
    pages = pages[pages - vma.first + vma.offset < vma.file.pages]
    cached = vma.file.pfns(pages - vma.first + vma.offset)
    usable = (cached >= 0) & ((kernel.frames.flags[cached] & skip) == pt.NONE)
    pages, cached = pages[usable], cached[usable]
    if not len(pages):
        return
    for first, ptes in fault.space.table.runs(int(pages[0]), int(pages[-1]) + 1):
        low, high = np.searchsorted(pages, [first, first + len(ptes)])
        at, pfns = pages[low:high] - first, cached[low:high]
        empty = ptes[at] == pt.NONE
        ptes[at[empty]] = pfns[empty].view(np.uint64) | bits
        kernel.map(pfns[empty])


def do_cow_fault(fault: Fault, none: Bools) -> None:
    """A write to a private file page nobody mapped here: straight to a copy."""
    vma, kernel = fault.vma, fault.kernel
    assert vma.file is not None
    kernel.anon_prepare(fault.space, vma)
    pages = fault.pages(none) - vma.first + vma.offset
    originals = obtain(kernel, fault.space, vma.file, pages, vma)
    pfns = allocate(kernel, fault.space, len(originals), FRESH_ANON | EXCLUSIVE)
    kernel.frames.content[pfns] = kernel.frames.content[originals]
    kernel.frames.mapcount[pfns] = 1
    fault.ptes[none] = pfns.view(np.uint64) | fault.bits()


def do_shared_fault(fault: Fault, none: Bools) -> None:
    """A write to a shared file page: mapped writable, and dirty (``fault_dirty_shared_page``).

    A shmem page that was read before is mapped writable already: a write to that sets the
    dirty bit of the entry, and the folio learns of it only when it is unmapped.
    """
    vma, kernel = fault.vma, fault.kernel
    assert vma.file is not None
    pages = fault.pages(none) - vma.first + vma.offset
    pfns = obtain(kernel, fault.space, vma.file, pages, vma)
    kernel.frames.flags[pfns] |= DIRTY
    kernel.map(pfns)
    fault.ptes[none] = pfns.view(np.uint64) | fault.bits()
