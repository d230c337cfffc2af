"""Pages of files on demand: the page cache as faults see it.

`obtain` sees that pages are in memory: from disk with read-around, from swap or as a new
zeroed page for shmem (a hole is filled by a read, too: there is no zero page for files).
`windows` is fault-around: a read fault maps up to sixteen pages that are in the cache anyway,
in a window aligned in *virtual* pages, clipped to mapping and page table (``do_fault_around``
in ``mm/memory.c``; fault_around_bytes).
"""

from __future__ import annotations

import numpy as np

from .files import DISK, File
from .hardware import BLOCK, DIRTY, FRESH_FILE, FRESH_SHMEM, RECLAIM, Pfns
from .kernel import Kernel
from .reclaim import allocate
from .vma import EXEC, RAND_READ, AddressSpace, Vma

READ_AHEAD = 32
"""Pages that a fault on a cold file reads around it (read_ahead_kb = 128)."""


def obtain(
    kernel: Kernel, space: AddressSpace, file: File, pages: Pfns, vma: Vma | None = None
) -> Pfns:
    """The PFN of each page of `file`, ascending; what is not in memory is brought in.

    `vma` is where the faults are, if it is faults that want them.
    """
    absent = pages[file.cache[pages] <= 0]
    if len(absent):
        if file.kind == DISK:
            _read(kernel, space, file, read_around(file, absent, vma))
        else:
            _fill_shmem(kernel, space, file, absent)
    pfns = file.cache[pages] - 1
    kernel.frames.flags[pfns] &= ~RECLAIM
    return pfns


def read_around(file: File, absent: Pfns, vma: Vma | None = None) -> Pfns:
    """What is read when `absent` pages are faulted one after the other.

    As much again before a page as behind it; only what follows, to the end of the mapping, of
    one that may be executed (Linux 6.16); nothing else after MADV_RANDOM.

    Examples
    --------
    >>> from pagemap_df.sim.files import DISK
    >>> cold = File(1, b"/lib", 100, DISK, "fe:00", 7)
    >>> read_around(cold, np.array([0, 1, 40]))[[0, 31, 32, -1]].tolist()
    [0, 31, 32, 55]
    """
    reading = np.zeros(file.pages, np.bool_)
    for page in absent.tolist():
        if not reading[page]:
            first, stop = max(0, page - READ_AHEAD // 2), file.pages
            if vma is not None and vma.has(RAND_READ):
                first, stop = page, page + 1
            elif vma is not None and vma.has(EXEC):
                first, stop = page, vma.offset + len(vma)
            reading[first : min(first + READ_AHEAD, stop)] = True
    reading &= file.cache == 0
    return np.flatnonzero(reading)


def _read(kernel: Kernel, space: AddressSpace, file: File, pages: Pfns) -> None:
    pfns = allocate(kernel, space, len(pages), FRESH_FILE)
    kernel.frames.content[pfns] = file.disk[pages]
    file.add(pages, pfns, kernel.frames)


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
