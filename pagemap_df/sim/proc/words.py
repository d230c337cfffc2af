"""From page table entries to the words of pagemap and kpage* (``fs/proc/task_mmu.c``, 6.18)."""

from __future__ import annotations

import numpy as np

from ...entries import Fields, Layout, Words, pack
from ..mm import pagetable as pt
from ..mm.hardware import ANON, BLOCK, HUGETLB, LARGE, MLOCKED, MMAP, UNEVICTABLE, Pfns
from ..mm.kernel import Kernel
from ..mm.pagetable import Ptes
from ..mm.reclaim import mlocked
from ..mm.vma import AddressSpace


def fields(kernel: Kernel, ptes: Ptes) -> Fields:
    """What pagemap says of entries.

    The exclusive bit of a page in a PMD mapping is that of the mapping's first page (6.15
    on); a page without a struct page has neither flag, but the huge zero page counts as file.
    """
    frames = kernel.frames
    here = pt.present(ptes)
    number = pt.frame(ptes)
    counted = pt.mapped(ptes)
    pfns = np.where(counted, number, 0)
    huge = pt.has(ptes, pt.PMD) & here
    file = counted & ((frames.flags[pfns] & ANON) == 0)
    if huge.any():
        file |= huge & pt.has(ptes, pt.SPECIAL)
        pfns = np.where(huge & counted, pfns // BLOCK * BLOCK, pfns)
    return Fields(
        here,
        pt.has(ptes, pt.ENTRY),
        number,
        file=file,
        exclusive=counted & (frames.mapcount[pfns] == 1),
        soft_dirty=pt.has(ptes, pt.SOFT),
        uffd_wp=pt.has(ptes, pt.UFFD_WP),
        guard=pt.guards(ptes),
    )


def pagemap(kernel: Kernel, space: AddressSpace, first: int, count: int, layout: Layout) -> Words:
    """The words of a range of pages, whatever mappings there are."""
    words = np.full(count, layout.absent, np.uint64)
    for page, ptes in space.table.runs(first, first + count):
        words[page - first : page - first + len(ptes)] = pack(fields(kernel, ptes), layout)
    return words


def kpagecount(kernel: Kernel, first: int, stop: int) -> Words:
    """Map counts of frames; a page of a hugetlb folio counts as its head."""
    return kernel.frames.mapcount[first:stop].astype(np.uint64)


def kpageflags(kernel: Kernel, first: int, stop: int) -> Words:
    """Flags of frames; tails show those of their head, as from 6.10 on."""
    frames = kernel.frames
    flags = frames.flags[first:stop].copy()
    mapped = frames.mapcount[first:stop] > 0
    large = np.flatnonzero(flags & LARGE)
    if len(large):
        heads = (large + first) // BLOCK * BLOCK
        own = flags[large] & LARGE
        flags[large] = frames.flags[heads] & ~LARGE | own
        mapped[large] = (
            np.add.reduceat(frames.mapcount[: frames.span], np.arange(0, frames.span, BLOCK))[
                heads // BLOCK
            ]
            > 0
        )
    flags[mapped] |= MMAP
    flags[_within(mlocked(kernel), first, stop)] |= MLOCKED | UNEVICTABLE
    return flags


def kpagecgroup(kernel: Kernel, first: int, stop: int) -> Words:
    """Inode of the memory cgroup that pays for each frame, 0 for none."""
    inodes = np.array([0, *(group.inode for group in kernel.cgroups[1:])], np.uint64)
    inodes[0] = kernel.cgroups[0].inode
    charged = kernel.frames.flags[first:stop] & (ANON | np.uint64(1 << 5))
    return np.where(
        (charged != 0) & ((kernel.frames.flags[first:stop] & HUGETLB) == 0),
        inodes[kernel.frames.cgroup[first:stop]],
        np.uint64(0),
    )


def _within(pfns: Pfns, first: int, stop: int) -> Pfns:
    return pfns[(pfns >= first) & (pfns < stop)] - first
