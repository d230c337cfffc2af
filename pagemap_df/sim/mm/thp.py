"""Transparent huge pages of anonymous memory (``mm/huge_memory.c``).

A fault in an aligned 2 MiB that lies inside one mapping and has no page table yet is answered
with a huge page, if policy wants it: written, with a folio of 512 frames; read, with the
huge zero page, or with a folio too if that is switched off. Both are mapped by PMD. Whatever
touches only part of it (a shared page written to, a partial unmap) splits the PMD mapping into
512 entries; the folio stays large.
"""

from __future__ import annotations

import errno

import numpy as np

from . import pagetable as pt
from .hardware import BLOCK, EXCLUSIVE, FRESH_ANON, SWAPCACHE, THP, Bools, Pfns
from .kernel import Kernel
from .vma import HUGEPAGE, NOHUGEPAGE, WRITE, AddressSpace, Vma


def allowed(kernel: Kernel, vma: Vma) -> bool:
    """Whether policy gives `vma` huge pages at a fault (``thp_vma_allowable_order``)."""
    if not vma.anonymous or vma.name or vma.has(NOHUGEPAGE) or kernel.knobs.thp == "never":
        return False
    return kernel.knobs.thp == "always" or vma.has(HUGEPAGE)


def whole_blocks(first: int, stop: int) -> range:
    """Numbers of the aligned blocks of 512 that lie inside a range of pages."""
    return range(-(-first // BLOCK), stop // BLOCK)


def fault(kernel: Kernel, space: AddressSpace, vma: Vma, pages: range, *, write: bool) -> None:
    """Answer the faults of `pages` that may be answered by huge pages."""
    inside = whole_blocks(vma.first, vma.stop)
    low = max(inside.start, pages.start // BLOCK)
    high = min(inside.stop, pages[-1] // BLOCK + 1)
    for number in range(low, high):
        if number in space.table.leaves or not _touched(pages, number):
            continue
        kernel.anon_prepare(space, vma)
        if not write and kernel.knobs.zero_huge:
            map_huge_zero(kernel, space, number)
        elif not _map_new(kernel, space, vma, number):
            return


def _touched(pages: range, number: int) -> bool:
    first = max(pages.start, number * BLOCK)
    first += -(first - pages.start) % pages.step
    return first < min(pages.stop, (number + 1) * BLOCK)


def _map_new(kernel: Kernel, space: AddressSpace, vma: Vma, number: int) -> bool:
    """Map a new huge page; False if no 512 frames hang together, or the cgroup has no room."""
    group = kernel.cgroups[space.cgroup]
    if group.limit is not None and group.used + BLOCK > group.limit:
        return False
    pfns = kernel.frames.alloc_block(FRESH_ANON | EXCLUSIVE | THP)
    if pfns is None:
        return False
    kernel.charge(pfns, space.cgroup)
    kernel.anon_prepare(space, vma)
    bits = pt.PRESENT | pt.PMD | pt.YOUNG | pt.DIRTY | _writable(vma)
    map_block(kernel, space, number, pfns, bits)
    return True


def map_block(
    kernel: Kernel, space: AddressSpace, number: int, pfns: Pfns, bits: np.uint64
) -> None:
    """Let the PMD slot `number` map 512 frames."""
    space.table.ensure(number * BLOCK, (number + 1) * BLOCK)
    leaf = space.table.leaf(number * BLOCK)
    assert leaf is not None
    leaf[:] = pfns.view(np.uint64) | bits
    if not bits & pt.SPECIAL:
        kernel.map(pfns)


def map_huge_zero(kernel: Kernel, space: AddressSpace, number: int) -> None:
    """Map the huge zero page, if there is room for one."""
    head = kernel.huge_zero()
    if head >= 0:
        bits = pt.PRESENT | pt.PMD | pt.SPECIAL | pt.YOUNG
        map_block(kernel, space, number, head + np.arange(BLOCK), bits)


def _writable(vma: Vma) -> np.uint64:
    return pt.WRITE if vma.has(WRITE) else pt.NONE


def write_protected(kernel: Kernel, space: AddressSpace, vma: Vma, page: int) -> None:
    """A write to a PMD mapping that forbids it (``do_huge_pmd_wp_page``).

    An exclusive page, or one with no other reference, is written in place. The huge zero page
    gives way to a new huge page. Else the PMD is split, and single pages are copied.
    """
    leaf = space.table.leaf(page)
    assert leaf is not None
    frames = kernel.frames
    if leaf[0] & pt.SPECIAL:
        leaf[:] = pt.NONE
        del space.table.leaves[page // BLOCK]
        if not _map_new(kernel, space, vma, page // BLOCK):
            space.table.ensure(page, page + 1)
        return
    pfns = pt.frame(leaf)
    head = int(pfns[0])
    alone = not frames.flags[head] & SWAPCACHE and bool((frames.mapcount[pfns] == 1).all())
    if frames.flags[head] & EXCLUSIVE or alone:
        frames.flags[pfns] |= EXCLUSIVE
        leaf |= pt.WRITE | pt.DIRTY
    else:
        space.table.split_leaf(leaf)


def owned_alone(kernel: Kernel, space: AddressSpace, pages: Pfns, pfns: Pfns) -> Bools:
    """Whether all mappings of the large folios of `pfns`, mapped at `pages`, are in `space`.

    ``folio_maybe_mapped_shared``. A folio was mapped in one piece: its other pages are found at
    most a page table away, unless mremap took them elsewhere.
    """
    frames = kernel.frames
    heads = pfns // BLOCK * BLOCK
    starts = np.maximum(pages - (pfns - heads), 0)
    total = frames.mapcount.reshape(-1, BLOCK)[heads // BLOCK].sum(axis=1)
    mine = np.zeros(len(heads), np.int64)
    for at, (start, head) in enumerate(zip(starts.tolist(), heads.tolist(), strict=True)):
        near = space.table.read(start, start + BLOCK)
        mine[at] = (pt.mapped(near) & (pt.frame(near) // BLOCK == head // BLOCK)).sum()
    if space.scattered and (mine < total).any():
        found = np.zeros(frames.span // BLOCK, np.int64)
        for _, ptes in space.table.runs(0, space.task_size):
            blocks = pt.frame(ptes[pt.mapped(ptes)]) // BLOCK
            found += np.bincount(blocks, minlength=len(found))
        mine = found[heads // BLOCK]
    return np.asarray((mine == total) & ((frames.flags[heads] & SWAPCACHE) == 0))


def collapse(kernel: Kernel, space: AddressSpace, vma: Vma, number: int) -> int:
    """Gather 512 pages into a new huge page (``collapse_huge_page``, MADV_COLLAPSE).

    Pages that are absent become zeroes; swapped ones must have been brought in. 0, or an errno:
    EINVAL for a hole without a page table or a marker, EAGAIN for a page that is there twice
    (the first time it was locked), ENOMEM if no 512 frames hang together.
    """
    old = space.table.leaf(number * BLOCK)
    if old is None or not old.any() or pt.has(old, pt.ENTRY).any():
        return errno.EINVAL
    if old[0] & pt.PMD:
        return 0
    counted = pt.mapped(old)
    gone = pt.frame(old[counted])
    if len(np.unique(gone)) < len(gone):
        return errno.EAGAIN
    pfns = kernel.frames.alloc_block(FRESH_ANON | EXCLUSIVE | THP)
    if pfns is None:
        return errno.ENOMEM
    kernel.charge(pfns, space.cgroup)
    kernel.anon_prepare(space, vma)
    kernel.frames.content[pfns[counted]] = kernel.frames.content[gone]
    bits = pt.PRESENT | pt.PMD | pt.YOUNG | pt.DIRTY | _writable(vma)
    old[:] = pfns.view(np.uint64) | bits
    kernel.map(pfns)
    kernel.unmap(gone)
    return 0
