"""swapoff: bring everything back and forget the area (``try_to_unuse``)."""

from __future__ import annotations

import numpy as np

from ...entries import swap_type
from . import pagetable as pt
from .filemap import obtain
from .hardware import DIRTY, FRESH_ANON, Pfns
from .kernel import Kernel
from .reclaim import allocate, make_room
from .vma import AddressSpace


def swapoff(kernel: Kernel, number: int) -> None:
    """Empty an area. Pages come back clean in the table, dirty as folios, not exclusive."""
    for space in kernel.spaces:
        for _, ptes in space.table.runs(0, space.task_size):
            where = np.flatnonzero(pt.swapped(ptes))
            where = where[swap_type(pt.frame(ptes[where])) == number]
            if len(where):
                _fetch(kernel, space, ptes, where)
    if kernel.spaces:
        for file in kernel.files.values():
            if file.shmem:
                out = np.flatnonzero(file.cache < 0)
                out = out[swap_type(file.entries(out)) == number]
                make_room(kernel, kernel.spaces[0], len(out))
                obtain(kernel, kernel.spaces[0], file, out)
    area = kernel.swap.areas[number]
    assert area is not None
    left = area.cache[area.cache > 0] - 1
    kernel.swap.remove_from_cache(left)
    kernel.frames.flags[left] |= DIRTY
    kernel.swap.off(number)


def _fetch(kernel: Kernel, space: AddressSpace, ptes: pt.Ptes, where: Pfns) -> None:
    """``unuse_pte`` for some entries of a run."""
    make_room(kernel, space, len(where))
    entries = pt.frame(ptes[where])
    pfns = kernel.swap.cached(entries)
    absent = pfns < 0
    fresh = allocate(kernel, space, int(absent.sum()), FRESH_ANON)
    kernel.frames.content[fresh] = kernel.swap.content(entries[absent])
    pfns[absent] = fresh
    kernel.swap.add_to_cache(fresh, entries[absent])
    kernel.swap.drop(entries)
    kernel.map(pfns)
    ptes[where] = pfns.view(np.uint64) | pt.PRESENT
    kernel.swap.free_swap(pfns)
