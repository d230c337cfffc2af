"""Huge pages from the reserved pool (``mm/hugetlb.c``).

All mappings of hugetlb are of files of kind `HUGE`, whose cache is in base pages like any
other; a page of 2 MiB is 512 of them, mapped by PMD, charged to nobody and never reclaimed.

What can go wrong: the pool is empty at a fault: SIGBUS. mmap looks at the pool first, so
that only fork's copies run into it.
"""

from __future__ import annotations

import numpy as np

from . import pagetable as pt
from .files import File
from .hardware import ANON, BLOCK, EXCLUSIVE, HEAD, HUGETLB, TAIL, UPTODATE, Pfns
from .kernel import Kernel, Signal
from .vma import WRITE, AddressSpace, Vma


def fault(kernel: Kernel, space: AddressSpace, vma: Vma, pages: range, *, write: bool) -> None:
    """Answer faults; a read allocates, too."""
    for number in sorted({page // BLOCK for page in pages}):
        first = number * BLOCK
        space.table.ensure(first, first + BLOCK)
        leaf = space.table.leaf(first)
        assert leaf is not None
        if not leaf[0] & pt.PRESENT:
            _no_page(kernel, space, vma, number, write=write)
        if write and not leaf[0] & pt.WRITE:
            _cow(kernel, space, vma, number)
        leaf |= pt.YOUNG | (pt.DIRTY if write else pt.NONE)


def reserve(kernel: Kernel, file: File, first: int, pages: int, owner: AddressSpace | None) -> bool:
    """Let the pool keep pages for part of a file; whether it has so many to spare.

    What is mapped privately is kept for its owner, and for no child of it.
    """
    numbers = set(range(first // BLOCK, (first + pages) // BLOCK))
    if len(numbers) > spare(kernel):
        return False
    file.reserved, file.owner = numbers, owner
    kernel.huge_reserved += len(numbers)
    return True


def unreserve(kernel: Kernel, space: AddressSpace | None, vma: Vma) -> None:
    """A mapping goes: what was kept for its owner is free again."""
    if vma.file is not None and vma.file.reserved and vma.file.owner is space:
        low = vma.offset // BLOCK
        gone = vma.file.reserved & set(range(low, low + len(vma) // BLOCK))
        vma.file.reserved -= gone
        kernel.huge_reserved -= len(gone)


def restore(kernel: Kernel, space: AddressSpace, vma: Vma, pages: Pfns, pfns: Pfns) -> None:
    """Keep a page for the owner of a private mapping again that lets go of its own (Linux 6.9).

    Only if nobody else has it, and the pool is not to shrink.
    """
    file = vma.file
    if file is None or vma.shared or file.owner is not space or kernel.huge_surplus:
        return
    alone = (kernel.frames.flags[pfns] & ANON != 0) & (kernel.frames.mapcount[pfns] == 1)
    kept = set((vma.file_page(pages[alone]) // BLOCK).tolist()) - file.reserved
    file.reserved |= kept
    kernel.huge_reserved += len(kept)


def spare(kernel: Kernel) -> int:
    """Pages of the pool that are not kept for anybody."""
    return len(kernel.huge_pool) - kernel.huge_reserved


def take(kernel: Kernel, space: AddressSpace, vma: Vma, number: int, flags: np.uint64) -> Pfns:
    """A zeroed page of the pool, for the virtual huge page `number`."""
    file, at = vma.file, vma.file_page(number * BLOCK) // BLOCK
    assert file is not None
    if at in file.reserved and file.owner in (None, space):
        file.reserved.remove(at)
        kernel.huge_reserved -= 1
    elif spare(kernel) <= 0:
        raise Signal("SIGBUS", number * BLOCK)
    pfns = kernel.huge_pool.pop() + np.arange(BLOCK)
    kernel.frames.flags[pfns] = flags | UPTODATE | HUGETLB | TAIL
    kernel.frames.flags[pfns[0]] ^= HEAD | TAIL
    kernel.frames.content[pfns] = 0
    return pfns


def _no_page(kernel: Kernel, space: AddressSpace, vma: Vma, number: int, *, write: bool) -> None:
    file = vma.file
    assert file is not None
    at = np.arange(vma.file_page(number * BLOCK), vma.file_page(number * BLOCK) + BLOCK)
    cached = file.cache[at[0]] > 0
    bits = pt.PRESENT | pt.PMD
    if vma.shared:
        if not cached:
            pfns = take(kernel, space, vma, number, np.uint64(0))
            file.add(at, pfns, kernel.frames)
        bits |= pt.WRITE if vma.has(WRITE) else pt.NONE
        pfns = file.cache[at] - 1
    elif cached and not write:
        pfns = file.cache[at] - 1
    else:
        kernel.anon_prepare(space, vma)
        pfns = take(kernel, space, vma, number, ANON | EXCLUSIVE)
        if cached:
            kernel.frames.content[pfns] = kernel.frames.content[file.cache[at] - 1]
        bits |= pt.WRITE if vma.has(WRITE) else pt.NONE
    leaf = space.table.leaf(number * BLOCK)
    assert leaf is not None
    leaf[:] = pfns.view(np.uint64) | bits
    kernel.map(pfns)


def _cow(kernel: Kernel, space: AddressSpace, vma: Vma, number: int) -> None:
    """A write to a protected huge page (``hugetlb_wp``): in place if alone, else a whole copy."""
    leaf = space.table.leaf(number * BLOCK)
    assert leaf is not None
    old = pt.frame(leaf).copy()
    frames = kernel.frames
    anon = bool(frames.flags[old[0]] & ANON)
    if anon and not vma.shared and frames.mapcount[old[0]] > 1 and spare(kernel) <= 0:
        _take_from_others(kernel, space, vma, old)
    if vma.shared or (anon and frames.mapcount[old[0]] == 1):
        if anon:
            frames.flags[old] |= EXCLUSIVE
        leaf |= pt.WRITE
        return
    kernel.anon_prepare(space, vma)
    new = take(kernel, space, vma, number, ANON | EXCLUSIVE)
    frames.content[new] = frames.content[old]
    leaf[:] = new.view(np.uint64) | pt.PRESENT | pt.PMD | pt.WRITE
    kernel.map(new)
    kernel.unmap(old)


def _take_from_others(kernel: Kernel, space: AddressSpace, vma: Vma, pfns: Pfns) -> None:
    """The owner of a page shared with children takes it from them (``unmap_ref_private``)."""
    assert vma.file is not None
    if vma.file.owner is not space:
        return
    for other, _, ptes, where in list(kernel.rmap(pfns)):
        if other is not space:
            gone = pt.frame(ptes[where])
            ptes[where] = pt.NONE
            kernel.unmap(gone)
