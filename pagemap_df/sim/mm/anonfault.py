"""Faults on private pages: new ones, swapped ones, and copy-on-write (``mm/memory.c``)."""

from __future__ import annotations

import numpy as np

from . import pagetable as pt
from . import thp
from .hardware import ANON, DIRTY, EXCLUSIVE, FRESH_ANON, KSM, LARGE, SWAPCACHE, Bools
from .reclaim import allocate, mlocked
from .vma import LOCKED
from .vmfault import Fault


def do_anonymous_page(fault: Fault, none: Bools) -> None:
    """The zero page for reads; for writes a new page, which is nobody else's."""
    kernel = fault.kernel
    if not fault.write:
        zero = np.uint64(kernel.frames.zero)
        fault.ptes[none] = zero | pt.PRESENT | pt.SPECIAL | pt.YOUNG
        return
    kernel.anon_prepare(fault.space, fault.vma)
    pfns = allocate(kernel, fault.space, int(none.sum()), FRESH_ANON | EXCLUSIVE)
    kernel.frames.mapcount[pfns] = 1
    fault.ptes[none] = pfns.view(np.uint64) | fault.bits()


def do_swap_page(fault: Fault, out: Bools) -> None:
    """Bring pages back from swap, or from the swap cache if they are still there.

    The slot stays allocated and caches the page; only a write by the last holder, a locked
    mapping or an area more than half full gives it back.
    """
    kernel, frames, swap = fault.kernel, fault.kernel.frames, fault.kernel.swap
    old = fault.ptes[out]
    entries = pt.frame(old)
    pfns = swap.cached(entries)
    absent = pfns < 0
    fresh = allocate(kernel, fault.space, int(absent.sum()), FRESH_ANON)
    frames.content[fresh] = swap.content(entries[absent])
    pfns[absent] = fresh
    swap.add_to_cache(fresh, entries[absent])
    swap.drop(entries)
    due = np.isin(pfns, mlocked(kernel)) | fault.vma.has(LOCKED)
    if fault.write:
        due |= frames.mapcount[pfns] == 0
    swap.free_in_turn(pfns, due)
    alone = ((frames.flags[pfns] & SWAPCACHE) == 0) & (frames.mapcount[pfns] == 0)
    exclusive = pt.has(old, pt.XSWAP) | alone
    frames.flags[pfns[exclusive]] |= EXCLUSIVE
    kernel.map(pfns)
    shared = pfns.view(np.uint64) | pt.PRESENT | pt.YOUNG
    fault.ptes[out] = np.where(exclusive, pfns.view(np.uint64) | fault.bits(), shared)


def do_wp_page(fault: Fault, protected: Bools) -> None:
    """Writes to present entries that forbid it."""
    if fault.vma.shared:
        pfns = pt.frame(fault.ptes[protected])
        fault.kernel.frames.flags[pfns] |= DIRTY
        fault.ptes[protected] |= pt.WRITE
        return
    huge = protected & pt.has(fault.ptes, pt.PMD)
    if huge.any():
        _wp_huge(fault, huge)
        protected = (fault.ptes & (pt.PRESENT | pt.WRITE)) == pt.PRESENT
        none = fault.ptes == pt.NONE
        if none.any():
            do_anonymous_page(fault, none)
    reuse = protected.copy()
    reuse[protected] = _reusable(fault, protected)
    pfns = pt.frame(fault.ptes[reuse])
    fault.kernel.frames.flags[pfns] |= EXCLUSIVE
    fault.ptes[reuse] |= pt.WRITE
    wp_page_copy(fault, protected & ~reuse)


def _wp_huge(fault: Fault, huge: Bools) -> None:
    """Let `thp` answer once for each PMD mapping; it may make a new leaf table."""
    for page in fault.blocks(huge):
        thp.write_protected(fault.kernel, fault.space, fault.vma, page)
        low = max(page, fault.first)
        low += -(low - fault.first) % fault.step
        begin = (low - fault.first) // fault.step
        answer = fault.leaf(page)[low - page :: fault.step]
        part = fault.ptes[begin : begin + len(answer)]
        part[:] = answer[: len(part)]


def _reusable(fault: Fault, protected: Bools) -> Bools:
    """``wp_can_reuse_anon_folio``: which pages the writer may keep."""
    kernel, frames, swap = fault.kernel, fault.kernel.frames, fault.kernel.swap
    old = fault.ptes[protected]
    pfns = pt.frame(old)
    flags = frames.flags[pfns]
    anon = ((flags & ANON) != 0) & ((flags & KSM) == 0) & ~pt.has(old, pt.SPECIAL)
    exclusive = (flags & EXCLUSIVE) != 0
    large = (flags & LARGE) != 0
    once = frames.mapcount[pfns] == 1
    swap.free_swap(pfns[anon & ~exclusive & ~large & once])
    cached = (frames.flags[pfns] & SWAPCACHE) != 0
    alone = np.where(large, False, once & ~cached)
    pages = fault.pages(protected)
    asked = large & anon & ~exclusive & ~cached
    alone[asked] = thp.owned_alone(kernel, fault.space, pages[asked], pfns[asked])
    return np.asarray(anon & (exclusive | alone))


def wp_page_copy(fault: Fault, copied: Bools) -> None:
    """Give the writer a page of its own; the old one loses a mapping."""
    count = int(copied.sum())
    if not count:
        return
    kernel = fault.kernel
    kernel.anon_prepare(fault.space, fault.vma)
    old = fault.ptes[copied]
    pfns = allocate(kernel, fault.space, count, FRESH_ANON | EXCLUSIVE)
    kernel.frames.content[pfns] = kernel.frames.content[pt.frame(old)]
    kernel.frames.mapcount[pfns] = 1
    fault.ptes[copied] = pfns.view(np.uint64) | fault.bits()
    kernel.unmap(pt.frame(old[~pt.has(old, pt.SPECIAL)]))
