"""Faults on pages of files: fault-around, private copies, shared writes (``mm/memory.c``)."""

from __future__ import annotations

import numpy as np

from . import pagetable as pt
from . import readahead
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


def map_around(fault: Fault, page: int) -> Pfns:
    """Map what is in the cache around a page (``do_fault_around``): the pages of its window."""
    ((first, stop),) = windows(fault.vma, np.array([page]), fault.kernel.knobs.fault_around)
    around = np.arange(first, stop)
    _map_cached(fault, around, skip=RECLAIM)
    return around


def _fault_around(fault: Fault, pages: Pfns, size: int) -> None:
    """``do_fault_around``, then the faulting pages themselves."""
    vma = fault.vma
    assert vma.file is not None
    if not len(pages):
        return
    around = np.unique(windows(vma, pages, size), axis=0)
    if not _is_cached(fault, vma.file_page(around[0, 0]), vma.file_page(around[-1, 1])):
        for page in pages.tolist():
            _read_one(fault, page)
        return
    first, length = around[:, 0], around[:, 1] - around[:, 0]
    inside = np.arange(size) < length[:, None]
    _map_cached(fault, np.unique((first[:, None] + np.arange(size))[inside]))
    obtain(fault.kernel, fault.space, vma.file, vma.file_page(pages))
    _map_cached(fault, pages)


def _is_cached(fault: Fault, first: int, stop: int) -> bool:
    """Whether all of a range of the file is in memory, or need not be read, and has no mark."""
    file, flags = fault.vma.file, fault.kernel.frames.flags
    assert file is not None
    if file.kind != DISK:
        return True
    cached = file.cache[first:stop]
    return bool((cached > 0).all()) and not (flags[cached - 1] & RECLAIM).any()


def _read_one(fault: Fault, page: int) -> None:
    """A read fault on a page of a file of which not all is in memory.

    Reading lets go of the mapping, so that the fault starts over and maps what came in: what
    was read by then. Nobody waits for the disk where the page is a hole.
    """
    vma, table = fault.vma, fault.space.table
    assert vma.file is not None
    around = map_around(fault, page)
    if table.get(page):
        return
    around = around[vma.file_page(around) < vma.file.pages]
    numbers = vma.file_page(around)
    ready = (vma.file.cache[numbers] > 0) | (vma.file.disk[numbers] == 0)
    waits = vma.file.cache[vma.file_page(page)] <= 0 and vma.file.disk[vma.file_page(page)] != 0
    requests = _bring_in(fault, page)
    fault.kernel.read_in_pieces |= waits and requests > 1
    _map_cached(fault, around if waits else around[ready], skip=RECLAIM)
    _map_cached(fault, np.array([page]))


def _bring_in(fault: Fault, page: int) -> int:
    """See that a page of the file is in memory (``filemap_fault``): how many requests that took."""
    file, number = fault.vma.file, fault.vma.file_page(page)
    assert file is not None
    ahead = readahead.hit if file.cache[number] > 0 else readahead.miss
    return ahead(fault.kernel, fault.space, fault.vma, number)


def _obtain(fault: Fault, pages: Pfns) -> Pfns:
    """The frames of file pages that are faulted one by one, without fault-around."""
    file = fault.vma.file
    assert file is not None
    numbers = fault.vma.file_page(pages)
    if not _is_cached(fault, int(numbers[0]), int(numbers[-1]) + 1):
        for page in pages.tolist():
            _bring_in(fault, page)
    return obtain(fault.kernel, fault.space, file, numbers)


def _map_cached(fault: Fault, pages: Pfns, skip: np.uint64 = pt.NONE) -> None:
    """Map those of `pages` whose entry is none and whose file page is in memory.

    Not those with a flag of `skip`.
    """
    vma, kernel = fault.vma, fault.kernel
    assert vma.file is not None
    bits = pt.PRESENT | pt.YOUNG
    if vma.shared and vma.has(WRITE) and vma.file.shmem:
        bits |= pt.WRITE
    pages = pages[vma.file_page(pages) < vma.file.pages]
    cached = vma.file.pfns(vma.file_page(pages))
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
    originals = _obtain(fault, fault.pages(none))
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
    pfns = _obtain(fault, fault.pages(none))
    kernel.frames.flags[pfns] |= DIRTY
    kernel.map(pfns)
    fault.ptes[none] = pfns.view(np.uint64) | fault.bits()
