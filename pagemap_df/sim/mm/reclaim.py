"""Getting frames, and getting them back: allocation, swapping out, memory pressure.

`make_room` is called before a rule looks at page tables, because reclaim changes them. It
evicts what has not been used for longest: each call first gives every frame whose accessed bit
is set a new age and clears the bit (a clock with as many hands as there are calls), then
takes the oldest. That is the idea of ``mm/vmscan.c``, not its timing.

`evict` is what becomes of a page: ``shrink_folio_list`` in short. Anonymous pages get a slot,
keep it if they are clean, and leave a swap entry in every table that mapped them; lazily
freed ones that are clean are dropped; pages of files are unmapped, and leave the cache if they
are clean.

What can go wrong: nothing can be evicted. Then `OutOfFrames` goes up, to the OOM killer.
"""

from __future__ import annotations

import numpy as np

from . import pagetable as pt
from .files import File
from .hardware import (
    ANON,
    BLOCK,
    DIRTY,
    EXCLUSIVE,
    HUGETLB,
    KSM,
    LARGE,
    LRU,
    RECLAIM,
    RESERVED,
    SWAPBACKED,
    SWAPCACHE,
    THP,
    Bools,
    OutOfFrames,
    Pfns,
)
from .kernel import Cgroup, Kernel
from .pagetable import Ptes
from .vma import LOCKED, AddressSpace

_BATCH = 32
"""SWAP_CLUSTER_MAX: the least that one round of reclaim asks for."""


def allocate(kernel: Kernel, space: AddressSpace, count: int, flags: np.uint64) -> Pfns:
    """`count` frames charged to the cgroup of `space`; room must have been made."""
    pfns = kernel.frames.alloc(count, flags)
    kernel.charge(pfns, space.cgroup)
    return pfns


def make_room(kernel: Kernel, space: AddressSpace, count: int) -> bool:
    """See that `count` frames can be had; whether page tables may have changed meanwhile."""
    changed = False
    group = kernel.cgroups[space.cgroup]
    if group.limit is not None and group.used + count > group.limit:
        kernel.short = changed = True
        shrink(kernel, group.used + count - group.limit, space.cgroup)
        _still_missing(group.used + count - group.limit, group)
    if count > kernel.frames.free:
        kernel.short = changed = True
        shrink(kernel, count - kernel.frames.free)
        _still_missing(count - kernel.frames.free, None)
    return changed


def _still_missing(missing: int, group: Cgroup | None) -> None:
    if missing > 0:
        raise OutOfFrames(missing, group.name if group else None)


def shrink(kernel: Kernel, count: int, cgroup: int | None = None) -> int:
    """Evict at least `count` pages if that many can be; how many frames came free."""
    frames = kernel.frames
    before = frames.free
    _age(kernel)
    flags = frames.flags
    able = ((flags & LRU) != 0) & ((flags & (RESERVED | HUGETLB | KSM)) == 0)
    if cgroup is not None:
        able &= frames.cgroup == cgroup
    able[mlocked(kernel)] = False
    if not kernel.swap.free:
        able &= ((flags & SWAPBACKED) == 0) | ((flags & (SWAPCACHE | DIRTY)) == SWAPCACHE)
    victims = np.flatnonzero(able)
    heads = victims[(flags[victims] & LARGE) != 0]
    victims = victims[(flags[victims] & LARGE) == 0]
    want = max(count, _BATCH)
    if len(victims) < want and len(heads):
        split_folios(kernel, np.unique(heads // BLOCK * BLOCK))
        victims = np.flatnonzero(able)
    order = np.argsort(frames.age[victims], kind="stable")
    evict(kernel, victims[order[:want]], writeback=True)
    return frames.free - before


def _age(kernel: Kernel) -> None:
    """Give frames used since the last time a new age, and clear the accessed bits."""
    now = kernel.frames.tick()
    for space in kernel.spaces:
        for _, ptes in space.table.runs(0, space.task_size):
            young = pt.mapped(ptes) & pt.has(ptes, pt.YOUNG)
            kernel.frames.age[pt.frame(ptes[young])] = now
            ptes[young] &= ~pt.YOUNG


def mlocked(kernel: Kernel) -> Pfns:
    """Frames in mlocked mappings (PG_mlocked)."""
    found = [np.empty(0, np.int64)]
    for space in kernel.spaces:
        for vma in space.vmas:
            if vma.has(LOCKED):
                for _, ptes in space.table.runs(vma.first, vma.stop):
                    found.append(pt.frame(ptes[pt.mapped(ptes)]))
    return np.concatenate(found)


def split_folios(kernel: Kernel, heads: Pfns) -> None:
    """Make single pages of large anonymous folios (``split_folio``).

    Tables that map them lose the PMD. Where one entry is dirty, so are all parts. Parts that
    hold nothing but zeroes are not kept: the zero page is mapped instead
    (``try_to_map_unused_to_zeropage``, Linux 6.12).
    """
    frames = kernel.frames
    parts = (heads[:, None] + np.arange(BLOCK)).ravel()
    frames.flags[parts] &= ~(LARGE | THP)
    zeroed: list[Pfns] = []
    for space, page, ptes, where in list(kernel.rmap(parts)):
        ptes[where] &= ~pt.PMD
        dirty = np.unique(pt.frame(ptes[where[pt.has(ptes[where], pt.DIRTY)]]) // BLOCK)
        frames.flags[(dirty[:, None] * BLOCK + np.arange(BLOCK)).ravel()] |= DIRTY
        empty = where[frames.content[pt.frame(ptes[where])] == 0]
        empty = empty[~_in_locked(space, empty + page)]
        zeroed.append(pt.frame(ptes[empty]))
        ptes[empty] = np.uint64(frames.zero) | pt.PRESENT | pt.SPECIAL | ptes[empty] & pt.YOUNG
    if zeroed:
        kernel.unmap(np.concatenate(zeroed))
    kernel.free_idle(parts[(frames.mapcount[parts] == 0) & ((frames.flags[parts] & ANON) != 0)])


def _in_locked(space: AddressSpace, pages: Pfns) -> Bools:
    """Which of the pages lie in mlocked mappings."""
    locked = [(vma.first, vma.stop) for vma in space.vmas if vma.has(LOCKED)]
    found = np.zeros(len(pages), np.bool_)
    for first, stop in locked:
        found |= (pages >= first) & (pages < stop)
    return found


def evict(
    kernel: Kernel,
    pfns: Pfns,
    mappings: list[tuple[Ptes, Pfns]] | None = None,
    *,
    writeback: bool = False,
) -> None:
    """Take small pages away from all who map them (``shrink_folio_list``).

    Parameters
    ----------
    mappings : list, optional
        The entries that map them, and maybe others: entries of a run, positions. Looked for if
        not given.
    writeback : bool
        Write dirty pages of files first, instead of leaving them in the cache.
    """
    flags = kernel.frames.flags
    if mappings is None:
        mappings = [(ptes, where) for _, _, ptes, where in kernel.rmap(pfns)]
    mappings = [(ptes, where[_that_map(ptes[where], pfns)]) for ptes, where in mappings]
    clean = pfns[(flags[pfns] & DIRTY) == 0]
    for ptes, where in mappings:
        flags[pt.frame(ptes[where[pt.has(ptes[where], pt.DIRTY)]])] |= DIRTY
    anon = (flags[pfns] & ANON) != 0
    left = swap_out(kernel, pfns[anon], mappings)
    flags[np.intersect1d(left, clean)] &= ~DIRTY
    for ptes, where in mappings:
        where = where[pt.present(ptes[where])]
        where = where[(flags[pt.frame(ptes[where])] & ANON) == 0]
        old = ptes[where]
        ptes[where] = pt.NONE
        kernel.unmap(pt.frame(old))
    drop_cache(kernel, pfns[~anon], writeback=writeback)


def _that_map(ptes: Ptes, pfns: Pfns) -> Bools:
    return np.asarray(pt.present(ptes) & np.isin(pt.frame(ptes), pfns))


def swap_out(kernel: Kernel, pfns: Pfns, mappings: list[tuple[Ptes, Pfns]]) -> Pfns:
    """Move anonymous pages to swap; those for which there was no slot, which stay as they are.

    Parameters
    ----------
    pfns : int64 array
        Frames, their dirty bits gathered from the tables. Each gets a slot unless it has one.
        What was lazily freed and then written to stays, and is like any other from then on.
    mappings : list
        All entries that map them (and maybe other frames): entries of a run, positions.
    """
    flags = kernel.frames.flags
    again = (flags[pfns] & (SWAPBACKED | DIRTY)) == DIRTY
    flags[pfns[again]] |= SWAPBACKED
    pfns = pfns[~again]
    left = [np.empty(0, np.int64)]
    while len(pfns):
        count = _at_once(kernel, pfns)
        left.append(_swap_out(kernel, pfns[:count], mappings))
        pfns = pfns[count:]
    return np.concatenate(left)


def _at_once(kernel: Kernel, pfns: Pfns) -> int:
    """How many of the pages can go in one step.

    Where swap is nearly full, a page that needs a slot may take that of one that comes later.
    """
    if kernel.swap.has_room(len(pfns)):
        return len(pfns)
    kept = (kernel.frames.flags[pfns] & SWAPCACHE) != 0
    others = np.flatnonzero(kept != kept[0])
    return int(others[0]) if len(others) else len(pfns)


def _swap_out(kernel: Kernel, pfns: Pfns, mappings: list[tuple[Ptes, Pfns]]) -> Pfns:
    frames, swap = kernel.frames, kernel.swap
    lazy = (frames.flags[pfns] & (SWAPBACKED | DIRTY)) == 0
    kept = (frames.flags[pfns] & SWAPCACHE) != 0
    fresh = pfns[~lazy & ~kept]
    entries = swap.alloc(len(fresh))
    left: Pfns = fresh[len(entries) :]
    fresh = fresh[: len(entries)]
    swap.add_to_cache(fresh, entries)
    frames.flags[fresh] |= DIRTY
    gone = np.concatenate([fresh, pfns[kept], pfns[lazy & ~kept]])
    leaving = np.zeros(frames.span, np.bool_)
    leaving[gone] = True
    swap.write(gone[(frames.flags[gone] & (SWAPCACHE | DIRTY)) == (SWAPCACHE | DIRTY)])
    for ptes, where in mappings:
        old = ptes[where]
        take = leaving[pt.frame(old)] & pt.present(old)
        _leave_entries(kernel, ptes, where[take])
    # A merged page is still the merged one if it comes back from the swap cache.
    cached = gone[(frames.flags[gone] & (SWAPCACHE | KSM)) == SWAPCACHE]
    swap.remove_from_cache(cached)
    kernel.free_idle(gone)
    return left


def _leave_entries(kernel: Kernel, ptes: Ptes, where: Pfns) -> None:
    """Replace present entries by swap entries, or by nothing where the page was lazily freed."""
    frames = kernel.frames
    pfns = pt.frame(ptes[where])
    entries = pt.ENTRY | frames.index[pfns].view(np.uint64)
    entries |= np.where((frames.flags[pfns] & EXCLUSIVE) != 0, pt.XSWAP, pt.NONE)
    held = (frames.flags[pfns] & SWAPCACHE) != 0
    ptes[where] = np.where(held, entries, pt.NONE)
    kernel.swap.hold(frames.index[pfns[held]])
    np.subtract.at(frames.mapcount, pfns, np.int32(1))


def write_back(kernel: Kernel, file: File) -> None:
    """Write a file's dirty pages to disk: clean then, and not writable without a fault.

    ``filemap_write_and_wait``, and ``folio_mkclean`` for the entries that map them.
    """
    frames = kernel.frames
    pages = file.resident(0, file.pages)
    pfns = file.cache[pages] - 1
    for _, _, ptes, where in list(kernel.rmap(pfns)):
        where = where[pt.has(ptes[where], pt.DIRTY | pt.WRITE)]
        frames.flags[pt.frame(ptes[where[pt.has(ptes[where], pt.DIRTY)]])] |= DIRTY
        ptes[where] &= ~(pt.DIRTY | pt.WRITE)
    dirty = (frames.flags[pfns] & DIRTY) != 0
    file.disk[pages[dirty]] = frames.content[pfns[dirty]]
    frames.flags[pfns[dirty]] &= ~(DIRTY | RECLAIM)


def drop_cache(kernel: Kernel, pfns: Pfns, *, writeback: bool) -> None:
    """Take unmapped pages of files out of the cache if they are clean; shmem goes to swap.

    A shmem page that nobody ever wrote to is clean and leaves a hole.
    """
    frames = kernel.frames
    for number in np.unique(frames.owner[pfns]).tolist():
        if not number:
            continue
        file = kernel.files[number]
        mine = pfns[(frames.owner[pfns] == number) & (frames.mapcount[pfns] == 0)]
        if file.shmem:
            dirty = (frames.flags[mine] & DIRTY) != 0
            out = mine[dirty]
            entries = kernel.swap.alloc(len(out))
            out = out[: len(entries)]
            kernel.swap.store(entries, frames.content[out])
            mine = np.concatenate([mine[~dirty], out])
            pages = frames.index[out]
            file.remove(frames.index[mine], frames)
            file.cache[pages] = -1 - entries
        else:
            keep = ((frames.flags[mine] & DIRTY) != 0) & (not writeback)
            frames.flags[mine[keep]] |= RECLAIM
            mine = mine[~keep]
            file.remove(frames.index[mine], frames)
        kernel.free_cached(mine)
