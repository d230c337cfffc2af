"""Page faults: what reading and writing do to page tables (``mm/memory.c``).

`access` goes over pages in ascending order, as a loop in the process would. It works on runs
of entries at once, and the functions below bear the names of those in the kernel:

====================  =================================================================
entry                 what happens
====================  =================================================================
none, anonymous       `do_anonymous_page`: the zero page for a read, a new page for a write
none, file, read      `do_read_fault`: mapped with its neighbours in the cache
none, file, write     `do_cow_fault` (private) or `do_shared_fault`
swap                  `do_swap_page`
present, read-only,   `do_wp_page`: the same page if nobody else has it, else a copy
written to
guard marker          SIGSEGV
====================  =================================================================

What can go wrong: no mapping, or none that allows it, or a guard page (SIGSEGV), or no file
behind the page (SIGBUS): the pages before it are done, then `Signal` is raised. No frames:
`OutOfFrames`.
"""

from __future__ import annotations

import numpy as np

from . import pagetable as pt
from . import readahead, thp
from .anonfault import do_anonymous_page, do_swap_page, do_wp_page
from .filefault import do_cow_fault, do_read_fault, do_shared_fault, map_around
from .files import DISK, HUGE
from .hardware import BLOCK, OutOfFrames
from .hugetlb import fault as hugetlb_fault
from .kernel import Kernel, Signal
from .reclaim import make_room
from .vma import LOCKONFAULT, READ, SHARED, WRITE, AddressSpace, Vma
from .vmfault import Fault

_CHUNK = 1 << 16
_TRIES = 16


def access(
    kernel: Kernel,
    space: AddressSpace,
    pages: range,
    *,
    write: bool,
    value: int | None = None,
    keep: bool = False,
) -> None:
    """Read or write one byte or more of each of `pages`.

    Parameters
    ----------
    pages : range
        Ascending virtual pages.
    value : int, optional
        What is written: pages with equal values become equal. Something new each time if not
        given; 0 makes pages of zeroes.
    keep : bool
        Fault as a write does, but leave the contents alone.
    """
    good, signal = _permitted(space, pages, write=write)
    limit = kernel.cgroups[space.cgroup].limit or kernel.frames.total
    most = max(1, min(_CHUNK, limit // 8))
    for vma, part in _split_by_vma(space, good):
        on_disk = vma.file is not None and vma.file.kind == DISK
        size = max(1, most // readahead.WINDOW) if on_disk else most
        for at in range(0, len(part), size):
            _handle(kernel, space, vma, part[at : at + size], write=write, keep=keep)
            if write and not keep:
                _label(kernel, space, part[at : at + size], value)
    if signal:
        if signal.name == "SIGBUS" and not write:
            _behind_the_end(kernel, space, signal.page)
        raise signal


def _behind_the_end(kernel: Kernel, space: AddressSpace, page: int) -> None:
    """Map what the cache has around a page behind the end of its file: that comes first."""
    vma = space.find(page)
    if vma is not None and vma.file is not None and vma.file.kind != HUGE:
        _allocate_tables(space, range(page, page + 1))
        for fault in _faults(kernel, space, vma, range(page, page + 1), write=False):
            map_around(fault, page)


def populate(
    kernel: Kernel, space: AddressSpace, first: int, stop: int, *, strict: bool = False
) -> bool:
    """Fault pages in without touching them; whether that went well (``__mm_populate``).

    Private writable memory is faulted as if written to, so that no copy is due later. What
    cannot be populated is left out, or with `strict` ends it; what is locked on fault waits.
    """
    well = True
    for vma, low, high in list(space.parts(first, stop)):
        if vma.has(LOCKONFAULT):
            continue
        write = vma.has(WRITE) and not vma.has(SHARED)
        try:
            access(kernel, space, range(low, high), write=write, keep=True)
        except Signal:
            well = False
            if strict:
                break
    return well


def _permitted(space: AddressSpace, pages: range, *, write: bool) -> tuple[range, Signal | None]:
    """The pages up to the first that may not be touched, and what happens there."""
    at = 0
    while at < len(pages):
        page = pages[at]
        vma = space.find(page)
        if vma is None or not vma.has(WRITE if write else READ | WRITE):
            return pages[:at], Signal("SIGSEGV", page)
        stop = vma.stop
        if vma.file is not None:
            stop = min(stop, vma.file.pages - vma.offset + vma.first)
            if page >= stop:
                guarded = space.table.get(page) == int(pt.GUARD_MARKER)
                return pages[:at], Signal("SIGSEGV" if guarded else "SIGBUS", page)
        at = -(-(stop - pages.start) // pages.step)
    return pages, None


def _split_by_vma(space: AddressSpace, pages: range) -> list[tuple[Vma, range]]:
    parts = []
    at = 0
    while at < len(pages):
        vma = space.find(pages[at])
        assert vma is not None
        end = -(-(vma.stop - pages.start) // pages.step)
        parts.append((vma, pages[at:end]))
        at = end
    return parts


def _handle(
    kernel: Kernel,
    space: AddressSpace,
    vma: Vma,
    pages: range,
    *,
    write: bool,
    keep: bool,
) -> None:
    """``handle_mm_fault`` for pages of one mapping."""
    if vma.file is not None and vma.file.kind == HUGE:
        hugetlb_fault(kernel, space, vma, pages, write=write)
        return
    if thp.allowed(kernel, vma):
        thp.fault(kernel, space, vma, pages, write=write)
    _allocate_tables(space, pages)
    plenty = len(pages) * (readahead.most(vma) + 1) < kernel.frames.free
    if not plenty or kernel.cgroups[space.cgroup].limit is not None:
        _prepare(kernel, space, vma, pages, write=write)
    for fault in _faults(kernel, space, vma, pages, write=write):
        fault.keep = keep
        entries = bool(np.bitwise_or.reduce(fault.ptes) & pt.ENTRY)
        guard = np.flatnonzero(pt.guards(fault.ptes)).tolist() if entries else []
        if guard:
            fault.ptes = fault.ptes[: guard[0]]
        _handle_run(fault, entries=entries)
        if guard:
            raise Signal("SIGSEGV", fault.first + guard[0] * fault.step)


def _prepare(kernel: Kernel, space: AddressSpace, vma: Vma, pages: range, *, write: bool) -> None:
    """Make room for all frames the faults will take; making it may cost pages that were there."""
    for _ in range(_TRIES):
        need = _need(kernel, space, vma, pages, write=write)
        if not make_room(kernel, space, need):
            return
    raise OutOfFrames(need)


def _allocate_tables(space: AddressSpace, pages: range) -> None:
    if pages.step <= BLOCK:
        space.table.ensure(pages[0], pages[-1] + 1)
    else:
        for page in pages:
            space.table.ensure(page, page + 1)


def _faults(
    kernel: Kernel, space: AddressSpace, vma: Vma, pages: range, *, write: bool
) -> list[Fault]:
    """The runs of entries that `pages` fall into."""
    found = []
    for first, ptes in space.table.runs(pages[0], pages[-1] + 1):
        skip = -(first - pages.start) % pages.step
        if skip < len(ptes):
            view = ptes[skip :: pages.step]
            found.append(Fault(kernel, space, vma, first + skip, pages.step, view, write))
    return found


def _need(kernel: Kernel, space: AddressSpace, vma: Vma, pages: range, *, write: bool) -> int:
    """At most how many frames the faults will take."""
    ready = pt.PRESENT | pt.WRITE if write else pt.PRESENT
    unready = out = 0
    for fault in _faults(kernel, space, vma, pages, write=write):
        unready += int(((fault.ptes & ready) != ready).sum())
        out += int(pt.swapped(fault.ptes).sum())
    if vma.file is None or not unready:
        return unready if write else out
    low, high = vma.file_page(pages[0]), vma.file_page(pages[-1]) + 1
    absent = int((vma.file.cache[low:high] <= 0).sum())
    if vma.file.kind == DISK:
        absent = min(absent * readahead.most(vma), vma.file.pages)
    return absent + (unready if write and not vma.shared else out)


def _handle_run(fault: Fault, *, entries: bool) -> None:
    """``handle_pte_fault`` for a run; `entries` says whether any is a swap entry or marker."""
    ptes = fault.ptes
    none = ptes == pt.NONE
    if none.any():
        if fault.vma.anonymous:
            do_anonymous_page(fault, none)
        elif not fault.write:
            do_read_fault(fault, none)
        elif fault.vma.shared:
            do_shared_fault(fault, none)
        else:
            do_cow_fault(fault, none)
    if entries and (out := pt.swapped(ptes)).any():
        do_swap_page(fault, out)
    if fault.write:
        protected = (ptes & (pt.PRESENT | pt.WRITE)) == pt.PRESENT
        if protected.any():
            do_wp_page(fault, protected)
        _dirty(fault)
    else:
        ptes |= pt.YOUNG


def _dirty(fault: Fault) -> None:
    """The hardware marks what it writes; the kernel marks the folio and leaves the entry."""
    if fault.keep:
        clean = pt.mapped(fault.ptes) & ~pt.has(fault.ptes, pt.DIRTY)
        fault.kernel.frames.mark_dirty(pt.frame(fault.ptes[clean]))
        return
    fault.ptes |= pt.YOUNG | pt.DIRTY
    for page in fault.blocks(pt.has(fault.ptes, pt.PMD)):
        fault.leaf(page)[:] |= pt.YOUNG | pt.DIRTY


def _label(kernel: Kernel, space: AddressSpace, pages: range, value: int | None) -> None:
    """Note what was written."""
    for first, ptes in space.table.runs(pages[0], pages[-1] + 1):
        skip = -(first - pages.start) % pages.step
        pfns = pt.frame(ptes[skip :: pages.step])
        if value is None:
            kernel.frames.content[pfns] = kernel.new_labels(len(pfns))
        else:
            kernel.frames.content[pfns] = -value
