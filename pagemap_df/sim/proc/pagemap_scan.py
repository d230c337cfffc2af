"""PAGEMAP_SCAN on a simulated address space (``do_pagemap_scan``, Linux 6.7 to 6.18).

In and out is a `Scan`. Every page of every mapping has categories; those that match the
masks become regions, neighbours with equal reported categories being one.

Two things are as they are in the kernel, not as one would wish. A page whose table exists is
WRITTEN even if it was never touched (6.18.44); and after more than 512 regions ``walk_end``
stays where the last round began, although the walk went to the end.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from ...source.scan import CATEGORIES
from ..mm import pagetable as pt
from ..mm.hardware import ANON, PAGE_SIZE
from ..mm.kernel import Kernel
from ..mm.pagetable import Ptes
from ..mm.vma import HUGETLB, PFNMAP, AddressSpace, Vma, fail

WP_MATCHING, CHECK_WPASYNC = 1, 2
_ALL = sum(CATEGORIES.values())
_ROUND = 512
"""Regions that one round collects: PAGEMAP_WALK_SIZE in pages."""

Region = tuple[int, int, int]
"""Start and end in bytes, categories."""


@dataclass(frozen=True)
class Scan:
    """A request, and with `regions` and `walk_end` its answer (``struct pm_scan_arg``).

    Attributes
    ----------
    start, end : int
        Bytes.
    vec_len : int
        Room for so many regions.
    max_pages : int
        0 for no limit.
    inverted, mask, anyof, returned : int
        ``category_inverted``, ``category_mask``, ``category_anyof_mask``, ``return_mask``.
    """

    start: int
    end: int
    vec_len: int = 1 << 20
    max_pages: int = 0
    inverted: int = 0
    mask: int = 0
    anyof: int = 0
    returned: int = _ALL
    flags: int = 0
    regions: list[Region] = field(default_factory=list)
    walk_end: int = 0


def scan(kernel: Kernel, space: AddressSpace, request: Scan) -> Scan:
    """Answer a request; errors are `OSError`."""
    _check(space, request)
    first, stop = request.start // PAGE_SIZE, -(-request.end // PAGE_SIZE)
    if request.flags & CHECK_WPASYNC and space.overlapping(first, stop):
        raise fail(errno.EPERM, "a mapping without asynchronous write-protection")
    matching: Iterator[tuple[int, int, int]] = iter(())
    if not request.flags & WP_MATCHING:
        matching = _matching(kernel, space, request, first, stop)
    regions: list[tuple[int, int, int]] = []
    collected = pages = 0
    walk_end = 0
    for low, high, kinds in matching:
        joins = bool(regions) and collected and regions[-1][1:] == (low, kinds)
        if not joins and collected == min(_ROUND, request.vec_len - len(regions) + collected):
            walk_end = low
            if len(regions) == request.vec_len:
                break
            collected = 0
        taken = high - low if not request.max_pages else min(high - low, request.max_pages - pages)
        pages += taken
        if joins:
            regions[-1] = (regions[-1][0], low + taken, kinds)
        elif taken:
            regions.append((low, low + taken, kinds))
            collected += 1
        if taken < high - low:
            walk_end = low + taken
            break
    found = [(low * PAGE_SIZE, high * PAGE_SIZE, kinds) for low, high, kinds in regions]
    return replace(request, regions=found, walk_end=walk_end * PAGE_SIZE or stop * PAGE_SIZE)


def _check(space: AddressSpace, request: Scan) -> None:
    masks = request.inverted | request.mask | request.anyof | request.returned
    if masks & ~_ALL or request.flags & ~(WP_MATCHING | CHECK_WPASYNC):
        raise fail(errno.EINVAL, "an unknown category or flag")
    if request.start % PAGE_SIZE:
        raise fail(errno.EINVAL, "start is not at a page")
    if request.end < request.start or request.end > space.task_size * PAGE_SIZE:
        raise fail(errno.EFAULT, "not a range of user memory")


def _matching(
    kernel: Kernel, space: AddressSpace, request: Scan, first: int, stop: int
) -> Iterator[tuple[int, int, int]]:
    """Ranges of matching pages with their reported categories, ascending."""
    for low, high, kinds in _categories(kernel, space, first, stop):
        flipped = kinds ^ request.inverted
        if flipped & request.mask != request.mask:
            continue
        if request.anyof and not flipped & request.anyof:
            continue
        yield low, high, kinds & request.returned


def _categories(
    kernel: Kernel, space: AddressSpace, first: int, stop: int
) -> Iterator[tuple[int, int, int]]:
    """Ranges of equal categories over the mappings in a range, holes in the table included."""
    for vma, low, high in space.parts(first, stop):
        if vma.has(PFNMAP):
            continue
        nothing = CATEGORIES["HUGE"] if vma.has(HUGETLB) else 0
        page = low
        for begin, ptes in space.table.runs(low, high):
            if begin > page:
                yield page, begin, nothing
            kinds = _kinds(kernel, vma, ptes)
            edges = np.flatnonzero(np.diff(kinds)) + 1
            starts = [0, *edges.tolist()]
            for at, end in zip(starts, [*starts[1:], len(ptes)], strict=True):
                yield begin + at, begin + end, int(kinds[at])
            page = begin + len(ptes)
        if page < high:
            yield page, high, nothing


def _kinds(kernel: Kernel, vma: Vma, ptes: Ptes) -> NDArray[np.int64]:
    """Categories of single entries."""
    here, entry = pt.present(ptes), pt.has(ptes, pt.ENTRY)
    counted = pt.mapped(ptes)
    pfns = np.where(counted, pt.frame(ptes), 0)
    file = counted & ((kernel.frames.flags[pfns] & ANON) == 0)
    zero = here & pt.has(ptes, pt.SPECIAL)
    kinds = np.zeros(len(ptes), np.int64)
    told = {
        "PRESENT": here,
        "SWAPPED": entry,
        "WRITTEN": ~pt.has(ptes, pt.UFFD_WP),
        "FILE": file,
        "PFNZERO": zero,
        "HUGE": pt.has(ptes, pt.PMD) & here,
        "GUARD": pt.guards(ptes),
        "SOFT_DIRTY": pt.has(ptes, pt.SOFT),
    }
    for name, where in told.items():
        kinds[where] |= CATEGORIES[name]
    if vma.has(HUGETLB):
        kinds |= CATEGORIES["HUGE"]
        kinds[~here] = CATEGORIES["HUGE"]
    return kinds
