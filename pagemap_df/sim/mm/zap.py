"""Taking page table entries away: unmap, discard, truncate (``zap_pte_range``).

What an emptied entry held loses a mapping or a holder, and dies if that was the last. A PMD
mapping that is hit in part is split first. Page tables stay, as holes in the page table
matter to huge page faults, until `forget_tables` or a discard of all that a table covers.
"""

from __future__ import annotations

import numpy as np

from . import hugetlb
from . import pagetable as pt
from .files import HUGE, File
from .hardware import ANON, BLOCK, DIRTY, REFERENCED
from .kernel import Kernel
from .pagetable import Ptes
from .vma import AddressSpace, Vma


def zap(
    kernel: Kernel,
    space: AddressSpace,
    vma: Vma,
    first: int,
    stop: int,
    *,
    copies: bool = True,
    guards: bool = False,
) -> None:
    """Empty the entries of part of a mapping.

    Parameters
    ----------
    copies : bool
        Private pages go as well as those of the file.
    guards : bool
        Guard markers go too (munmap), or stay (DONTNEED).
    """
    if vma.file is not None and vma.file.kind == HUGE:
        first, stop = -(-first // BLOCK) * BLOCK, stop // BLOCK * BLOCK
    space.table.split(first)
    space.table.split(stop)
    for page, ptes in space.table.runs(first, stop):
        doomed = ptes != pt.NONE
        if not guards:
            doomed &= ~pt.guards(ptes)
        if not copies:
            counted = pt.mapped(ptes)
            counted[counted] = (kernel.frames.flags[pt.frame(ptes[counted])] & ANON) == 0
            doomed &= counted
        old = ptes[doomed]
        if vma.file is not None and vma.file.kind == HUGE:
            hugetlb.restore(kernel, space, vma, page + np.flatnonzero(doomed), pt.frame(old))
        ptes[doomed] = pt.NONE
        _let_go(kernel, old)
    _free_empty_leaves(space, first, stop)


def _let_go(kernel: Kernel, old: Ptes) -> None:
    """Take back what entries that are gone referred to."""
    entries = old[pt.swapped(old)]
    if len(entries):
        kernel.drop_entries(pt.frame(entries))
    gone = old[pt.mapped(old)]
    pfns = pt.frame(gone)
    of_file = kernel.frames.owner[pfns] != 0
    if of_file.any():
        kernel.frames.flags[pfns[of_file & pt.has(gone, pt.DIRTY)]] |= DIRTY
        kernel.frames.flags[pfns[of_file & pt.has(gone, pt.YOUNG)]] |= REFERENCED
    kernel.unmap(pfns)


def _free_empty_leaves(space: AddressSpace, first: int, stop: int) -> None:
    """Free tables that were emptied as a whole (CONFIG_PT_RECLAIM, Linux 6.14)."""
    low, high = -(-first // BLOCK) * BLOCK, stop // BLOCK * BLOCK
    for page, ptes in list(space.table.runs(low, high)) if low < high else []:
        full = ptes.reshape(-1, BLOCK).any(axis=1)
        for number in np.flatnonzero(~full).tolist():
            space.table.forget(page + number * BLOCK, page + (number + 1) * BLOCK)


def forget_tables(space: AddressSpace, first: int, stop: int) -> None:
    """Free the tables that no mapping around an unmapped range uses (``free_pgtables``)."""
    at = space.index(first)
    low = space.vmas[at - 1].stop if at else 0
    high = space.vmas[at].first if at < len(space.vmas) else space.task_size
    low, high = max(low, first // BLOCK * BLOCK), min(high, -(-stop // BLOCK) * BLOCK)
    space.table.forget(low, high)


def unmap_file(kernel: Kernel, file: File, first: int, stop: int, *, copies: bool) -> None:
    """Empty all entries that map a range of a file (``unmap_mapping_range``).

    With `copies`, private pages made from them too, as truncation does.
    """
    for space in kernel.spaces:
        for vma in space.vmas:
            if vma.file is file:
                low = max(vma.first, first - vma.offset + vma.first)
                high = min(vma.stop, stop - vma.offset + vma.first)
                if low < high:
                    zap(kernel, space, vma, low, high, copies=copies)
