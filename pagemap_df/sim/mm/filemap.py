"""Pages of files on demand: the page cache as faults see it.

`obtain` sees that pages are in memory: from disk, from swap or as a new zeroed page for shmem
(a hole is filled by a read, too: there is no zero page for files).
`windows` is fault-around: a read fault maps up to sixteen pages that are in the cache anyway,
in a window aligned in *virtual* pages, clipped to mapping and page table (``do_fault_around``
in ``mm/memory.c``; fault_around_bytes).
"""

from __future__ import annotations

import numpy as np

from .files import DISK, File
from .hardware import BLOCK, DIRTY, FRESH_FILE, FRESH_SHMEM, Pfns
from .kernel import Kernel
from .reclaim import allocate
from .vma import AddressSpace, Vma


def obtain(kernel: Kernel, space: AddressSpace, file: File, pages: Pfns) -> Pfns:
    """The PFN of each page of `file`, ascending; what is not in memory is brought in.

    From disk those alone: what a fault reads around them is for `readahead` to say.
    """
    absent = pages[file.cache[pages] <= 0]
    if len(absent):
        if file.kind == DISK:
            read(kernel, space, file, absent)
        else:
            _fill_shmem(kernel, space, file, absent)
    return file.cache[pages] - 1


def read(kernel: Kernel, space: AddressSpace, file: File, pages: Pfns) -> Pfns:
    """Read `pages`, which are not in memory, from disk: their frames."""
    pfns = allocate(kernel, space, len(pages), FRESH_FILE)
    kernel.frames.content[pfns] = file.disk[pages]
    file.add(pages, pfns, kernel.frames)
    return pfns


def _fill_shmem(kernel: Kernel, space: AddressSpace, file: File, pages: Pfns) -> None:
    """Pages from swap, whose slots are given back at once, and zeroed ones for holes."""
    pfns = allocate(kernel, space, len(pages), FRESH_SHMEM)
    out = file.swapped(pages)
    entries = file.entries(pages[out])
    kernel.frames.content[pfns[out]] = kernel.swap.content(entries)
    kernel.frames.flags[pfns[out]] |= DIRTY
    kernel.swap.drop(entries)
    file.add(pages, pfns, kernel.frames)


def windows(vma: Vma, faults: Pfns, size: int) -> Pfns:
    """First pages of the fault-around windows of single `faults`, with their ends.

    Parameters
    ----------
    faults : int64 array
        Virtual pages, ascending.
    size : int
        Pages of a window; a power of two.

    Returns
    -------
    int64 array, shape (n, 2)
        Half-open ranges of virtual pages, ascending, one for each fault.

    Examples
    --------
    >>> vma = Vma(5, 600, 0)
    >>> windows(vma, np.array([10, 30, 509]), 16).tolist()
    [[5, 21], [16, 32], [496, 512]]
    """
    table = faults // BLOCK * BLOCK
    first = np.maximum(np.maximum(faults // size * size, vma.first), table)
    stop = np.minimum(np.minimum(first + size, table + BLOCK), vma.stop)
    return np.stack([first, stop], axis=1)
