"""Reading files ahead of faults (``do_sync_mmap_readahead``, ``mm/readahead.c``).

A fault on a page that is not in the cache reads a window around it and marks one page near its
end (PG_readahead). A fault that finds the mark reads the next window before anybody misses it,
and takes the mark away; fault-around does not map marked pages, so that such a fault comes.
MADV_RANDOM, MADV_SEQUENTIAL, MADV_HUGEPAGE and executable mappings have windows of their own.

Left out: that large folios are read where the file system has them, and that windows are not
read any more once a hundred more faults have missed than hit (``mmap_miss``).
"""

from __future__ import annotations

import numpy as np

from . import filemap
from .files import File, ReadAhead
from .hardware import BLOCK, RECLAIM
from .kernel import Kernel
from .vma import EXEC, HUGEPAGE, RAND_READ, SEQ_READ, AddressSpace, Vma

WINDOW = 32
"""Pages (read_ahead_kb = 128)."""
MOST = 320
"""Pages that MADV_WILLNEED reads at most (max_sectors_kb = 1280)."""


def miss(kernel: Kernel, space: AddressSpace, vma: Vma, page: int) -> int:
    """Read what a fault on `page` of a file, which is not in memory, brings in: the requests."""
    file = vma.file
    assert file is not None
    state = space.opened[file.number]
    first, ahead = page, 0
    if vma.has(HUGEPAGE):
        first, ahead = page // BLOCK * BLOCK, BLOCK
        state.size = BLOCK if vma.has(RAND_READ) else 2 * BLOCK
        state.ahead = ahead
        return read(kernel, space, file, first, state.size, ahead)
    if vma.has(RAND_READ):
        return read(kernel, space, file, page, 1)
    if vma.has(SEQ_READ):
        if page:
            return read(kernel, space, file, page, WINDOW)
        ahead = WINDOW // 2
        size = WINDOW
    elif vma.has(EXEC):
        size = min(WINDOW, vma.offset + len(vma) - page)
    else:
        first, size, ahead = max(0, page - WINDOW // 2), WINDOW, WINDOW // 4
    state.start, state.size, state.ahead = first, size, ahead
    return read(kernel, space, file, first, size, ahead)


def hit(kernel: Kernel, space: AddressSpace, vma: Vma, page: int) -> int:
    """Read the next window if `page`, which is in memory, has the mark (``page_cache_async_ra``)."""
    file = vma.file
    assert file is not None
    pfn = int(file.cache[page]) - 1
    if vma.has(RAND_READ) or not kernel.frames.flags[pfn] & RECLAIM:
        return 0
    kernel.frames.flags[pfn] &= ~RECLAIM
    state = space.opened[file.number]
    if page == state.start + state.size - state.ahead:
        state.start += state.size
        state.size = max(state.size, _next_size(state))
    else:
        absent = np.flatnonzero(file.cache[page + 1 : page + 1 + WINDOW] <= 0)
        behind = min(page + 1 + WINDOW, file.pages)
        start = page + 1 + int(absent[0]) if len(absent) else behind
        if start - page > WINDOW:
            return 0
        state.start, state.size = start, start - page + WINDOW
        state.size = _next_size(state)
    state.ahead = state.size
    return read(kernel, space, file, state.start, state.size, state.ahead)


def most(vma: Vma) -> int:
    """How many pages one fault may bring in."""
    return 2 * BLOCK if vma.has(HUGEPAGE) else WINDOW


def _next_size(state: ReadAhead) -> int:
    """``get_next_ra_size``: up to the most in one or two steps."""
    if state.size < WINDOW // 16:
        return 4 * state.size
    return 2 * state.size if state.size <= WINDOW // 2 else WINDOW


def read(
    kernel: Kernel, space: AddressSpace, file: File, first: int, pages: int, ahead: int = 0
) -> int:
    """Read pages of a file, those that are not in memory (``do_page_cache_ra``).

    The last `ahead` of them begin with the mark, unless that page is in memory already. Holes
    are not asked for: how many requests to the disk it takes, one for pages that go together.
    """
    pages = min(pages, file.pages - first)
    if pages <= 0:
        return 0
    absent = first + np.flatnonzero(file.cache[first : first + pages] == 0)
    pfns = filemap.read(kernel, space, file, absent)
    if 0 < ahead <= pages:
        kernel.frames.flags[pfns[absent == first + pages - ahead]] |= RECLAIM
    asked = absent[file.disk[absent] != 0]
    return len(asked[:1]) + int((np.diff(asked) > 1).sum())
