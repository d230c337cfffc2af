"""madvise: all of its advice that changes what a page map shows (``mm/madvise.c``).

`madvise` applies one advice to a range and raises `OSError` as the kernel does. ENOMEM for a
hole in the range comes last: what is mapped has been treated by then.
"""

from __future__ import annotations

import errno
from collections.abc import Callable

import numpy as np

from . import ksm, readahead, thp
from . import pagetable as pt
from .fault import access
from .files import DISK
from .hardware import BLOCK, DIRTY, LARGE, SWAPBACKED, SWAPCACHE
from .kernel import Kernel, Signal
from .mmap import punch
from .pageout import of_whole_blocks, split_lone_folios
from .pageout import pageout as reclaim_range
from .reclaim import make_room, mlocked
from .vma import (
    DONTCOPY,
    GUARDED,
    HUGEPAGE,
    HUGETLB,
    IO,
    LOCKED,
    MERGEABLE,
    NOHUGEPAGE,
    PFNMAP,
    RAND_READ,
    READ,
    SEQ_READ,
    SPECIAL,
    WIPEONFORK,
    WRITE,
    AddressSpace,
    Vma,
    fail,
)
from .zap import unmap_file, zap

Part = tuple[Kernel, AddressSpace, Vma, int, int]
"""A mapping and the pages of it that the advice is about."""


def madvise(kernel: Kernel, space: AddressSpace, first: int, stop: int, advice: str) -> None:
    """Give `advice` ("DONTNEED", ...) for the pages from `first` to `stop`."""
    if advice not in ADVICE:
        raise fail(errno.EINVAL, f"no advice {advice}")
    if first == stop:
        return
    if advice in _FLAGS:
        _change_flags(kernel, space, first, stop, advice)
    elif advice in _POPULATE:
        _populate(kernel, space, first, stop, write=advice == "POPULATE_WRITE")
        return
    else:
        for vma, low, high in list(space.parts(first, stop)):
            _ACTIONS[advice]((kernel, space, vma, low, high))
    if not space.covered(first, stop):
        raise fail(errno.ENOMEM, "a hole in the range")


_FLAGS: dict[str, tuple[int, int]] = {
    "NORMAL": (0, RAND_READ | SEQ_READ),
    "RANDOM": (RAND_READ, SEQ_READ),
    "SEQUENTIAL": (SEQ_READ, RAND_READ),
    "DONTFORK": (DONTCOPY, 0),
    "DOFORK": (0, DONTCOPY),
    "WIPEONFORK": (WIPEONFORK, 0),
    "KEEPONFORK": (0, WIPEONFORK),
    "HUGEPAGE": (HUGEPAGE, NOHUGEPAGE),
    "NOHUGEPAGE": (NOHUGEPAGE, HUGEPAGE),
    "MERGEABLE": (MERGEABLE, 0),
    "UNMERGEABLE": (0, MERGEABLE),
}
_POPULATE = ("POPULATE_READ", "POPULATE_WRITE")


def _change_flags(kernel: Kernel, space: AddressSpace, first: int, stop: int, advice: str) -> None:
    on, off = _FLAGS[advice]

    def flags(vma: Vma) -> int:
        if advice == "WIPEONFORK" and (vma.file is not None or vma.shared):
            raise fail(errno.EINVAL, "not private anonymous memory")
        if advice == "MERGEABLE":
            if not ksm.suitable(vma):
                return vma.flags
            ksm.enter(kernel, space)
        if advice == "UNMERGEABLE" and vma.has(MERGEABLE):
            ksm.unmerge(kernel, space, vma, max(first, vma.first), min(stop, vma.stop))
        return vma.flags & ~off | on

    space.change(first, stop, flags)


def _populate(kernel: Kernel, space: AddressSpace, first: int, stop: int, *, write: bool) -> None:
    """Prefault; signals become EFAULT, holes ENOMEM."""
    end = space.contiguous(first, stop)
    for vma, low, high in list(space.parts(first, end)):
        if vma.has(IO | PFNMAP) or not vma.has(WRITE if write else READ):
            raise fail(errno.EINVAL, "not accessible")
        try:
            if write:
                access(kernel, space, range(low, high), write=True, keep=True)
            else:
                access(kernel, space, range(low, high), write=False)
        except Signal as signal:
            raise fail(errno.EFAULT, f"{signal.name} at a page") from None
    if end < stop:
        raise fail(errno.ENOMEM, "a hole in the range")


def dontneed(part: Part) -> None:
    """Drop private pages and mappings of shared ones; guard markers stay."""
    _kernel, _space, vma, _low, _high = part
    if vma.has(LOCKED):
        raise fail(errno.EINVAL, "locked")
    dontneed_locked(part)


def dontneed_locked(part: Part) -> None:
    """The same, of locked memory too."""
    kernel, space, vma, low, high = part
    if vma.has(SPECIAL & ~HUGETLB) and not vma.has(HUGETLB):
        raise fail(errno.EINVAL, "a special mapping")
    if vma.has(HUGETLB):
        if low % BLOCK:
            raise fail(errno.EINVAL, "inside a huge page")
        high = high // BLOCK * BLOCK
    zap(kernel, space, vma, low, high)


def free(part: Part) -> None:
    """Private anonymous pages may be dropped when memory is short, until written again."""
    kernel, space, vma, low, high = part
    if not vma.anonymous or vma.has(LOCKED):
        raise fail(errno.EINVAL, "locked, or not private anonymous memory")
    split_lone_folios(kernel, space, low, high, whole=False)
    frames = kernel.frames
    for _, ptes in space.table.runs(low, high):
        entries = ptes[pt.swapped(ptes)]
        ptes[pt.swapped(ptes)] = pt.NONE
        kernel.drop_entries(pt.frame(entries))
        counted = pt.mapped(ptes)
        pfns = pt.frame(ptes[counted])
        flags = frames.flags[pfns]
        lone = frames.mapcount[pfns] == 1
        usable = ((flags & (SWAPCACHE | DIRTY)) == 0) | lone
        huge = pt.has(ptes[counted], pt.PMD)
        usable &= ((flags & LARGE) == 0) | (
            of_whole_blocks(pfns) & (of_whole_blocks(pfns, lone) | ~huge)
        )
        kernel.swap.free_swap(pfns[usable])
        lazy = usable & ((frames.flags[pfns] & SWAPCACHE) == 0) & ~np.isin(pfns, mlocked(kernel))
        frames.flags[pfns[lazy]] &= ~(DIRTY | SWAPBACKED)
        counted[counted] = usable
        ptes[counted] &= ~(pt.DIRTY | pt.YOUNG)


def pageout(part: Part) -> None:
    """Reclaim what is mapped here and nowhere else."""
    kernel, space, vma, low, high = part
    if vma.has(LOCKED | HUGETLB | SPECIAL):
        raise fail(errno.EINVAL, "locked or special")
    reclaim_range(kernel, space, low, high)


def cold(part: Part) -> None:
    """Take the accessed bits away."""
    kernel, space, vma, low, high = part
    if vma.has(LOCKED | HUGETLB | SPECIAL):
        raise fail(errno.EINVAL, "locked or special")
    split_lone_folios(kernel, space, low, high, whole=False)
    for _, ptes in space.table.runs(low, high):
        where = np.flatnonzero(pt.mapped(ptes))
        lone = kernel.frames.mapcount[pt.frame(ptes[where])] == 1
        ptes[where[lone]] &= ~pt.YOUNG


def willneed(part: Part) -> None:
    """Read pages of a file ahead. Swapped ones only go to the swap cache, which nothing shows."""
    kernel, space, vma, low, high = part
    if vma.file is not None and vma.file.kind == DISK:
        pages = min(high - low, readahead.MOST)
        make_room(kernel, space, pages)
        readahead.read(kernel, space, vma.file, vma.file_page(low), pages)


def remove(part: Part) -> None:
    """Punch a hole into a shared file."""
    kernel, _space, vma, low, high = part
    if vma.has(LOCKED):
        raise fail(errno.EINVAL, "locked")
    if vma.file is None or not vma.shared:
        raise fail(errno.EINVAL if vma.file is None else errno.EACCES, "not a shared file mapping")
    first, stop = vma.file_page(low), min(vma.file_page(high), vma.file.pages)
    unmap_file(kernel, vma.file, first, stop, copies=False)
    punch(kernel, vma.file, first, stop)


def collapse(part: Part) -> None:
    """Make huge pages of what is aligned and has a page table."""
    kernel, space, vma, low, high = part
    if not vma.anonymous or vma.anon is None or vma.has(NOHUGEPAGE | SPECIAL):
        raise fail(errno.EINVAL, "not fit for huge pages")
    if not thp.whole_blocks(vma.first, vma.stop) or -(-low // BLOCK) > high // BLOCK:
        raise fail(errno.EINVAL, "no 2 MiB of it are aligned")
    failed = 0
    for number in thp.whole_blocks(low, high):
        guarded = not _swap_in(kernel, space, number)
        failed = thp.collapse(kernel, space, vma, number) or failed
        if guarded or failed == errno.ENOMEM:
            break
    if failed:
        raise fail(failed, "not all of it could be collapsed")


def _swap_in(kernel: Kernel, space: AddressSpace, number: int) -> bool:
    """Bring in what is swapped out of a block, up to the first guard page; whether there is none."""
    leaf = space.table.leaf(number * BLOCK)
    if leaf is None:
        return True
    entries = np.flatnonzero(pt.has(leaf, pt.ENTRY))
    guards = np.flatnonzero(pt.guards(leaf[entries]))
    pages = number * BLOCK + entries[: guards[0] if len(guards) else None]
    kernel.collapse_read |= bool(pt.swapped(leaf[pages - number * BLOCK]).any())
    for run in np.split(pages, np.flatnonzero(np.diff(pages) > 1) + 1):
        if len(run):
            access(kernel, space, range(int(run[0]), int(run[-1]) + 1), write=False)
    return not len(guards)


def guard_install(part: Part) -> None:
    """Drop what is there and leave markers that no access survives."""
    kernel, space, vma, low, high = part
    if vma.has(LOCKED | SPECIAL | HUGETLB):
        raise fail(errno.EINVAL, "locked or special")
    if vma.anonymous:
        kernel.anon_prepare(space, vma)
    vma.flags |= GUARDED
    zap(kernel, space, vma, low, high)
    space.table.ensure(low, high)
    for _, ptes in space.table.runs(low, high):
        ptes[:] = pt.GUARD_MARKER


def guard_remove(part: Part) -> None:
    """Take guard markers away."""
    _kernel, space, vma, low, high = part
    if vma.has(SPECIAL | HUGETLB):
        raise fail(errno.EINVAL, "special")
    for _, ptes in space.table.runs(low, high):
        ptes[pt.guards(ptes)] = pt.NONE


_ACTIONS: dict[str, Callable[[Part], None]] = {
    "DONTNEED": dontneed,
    "DONTNEED_LOCKED": dontneed_locked,
    "FREE": free,
    "PAGEOUT": pageout,
    "COLD": cold,
    "WILLNEED": willneed,
    "REMOVE": remove,
    "COLLAPSE": collapse,
    "GUARD_INSTALL": guard_install,
    "GUARD_REMOVE": guard_remove,
}

ADVICE = (*_FLAGS, *_POPULATE, *_ACTIONS)
"""Everything `madvise` understands."""
