"""PSS of one process and nothing else: from words to a number, without a table.

For those who ask often. Most pages are mapped once and say so themselves (the exclusive bit),
so only the others are looked up in ``/proc/kpagecount``. Of a page mapped by a huge page table
entry the bit speaks for all 512 (Linux 6.15); a page that lies as such pages lie is looked up
too.

What can go wrong: page frames are hidden (`NotAvailable`); the process leaves
(`ProcessGone`). Pages that are being migrated at this moment are not counted.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ..columns import Reading, reading_of
from ..entries import Ints, unpack
from ..errors import NotAvailable
from ..proctext import kind_of, parse_maps
from ..source import Source, frames
from ..take import AnySource, source_of
from .figures import PSS_SHIFT, shares

_BLOCK = 1 << 15
"""Pages read together; a multiple of those under a huge entry."""

_SPARSE_PAGES = 1 << 22


def pss(pid: int, source: AnySource = None) -> int:
    """PSS of one process in bytes, as the kernel rounds it.

    Equal to ``sharing.processes(take(pids=pid, join=["mapcount"])).pss``.

    Parameters
    ----------
    pid : int
    source : Source or path, optional
        What to look at; the kernel this runs on, if not given.
    """
    opened = source_of(source)
    try:
        facts = opened.facts()
        if facts.get("pfns") == "hidden":
            raise NotAvailable(f"PSS needs page frames: {facts.get('pfns_why', 'they are hidden')}")
        reading = reading_of(facts)
        span = int(facts.get("pmd_size", 512 * reading.page_size)) // reading.page_size
        with ThreadPoolExecutor(min(len(os.sched_getaffinity(0)), 8)) as pool:
            parts = pool.map(
                lambda block: _block(opened, pid, reading, span, *block),
                _blocks(opened, pid, reading.page_size),
            )
            counted = list(parts)
        alone = sum(n for n, _ in counted)
        others = np.concatenate([np.zeros(0, np.int64), *(pfns for _, pfns in counted)])
        shared = _shared(opened, others, reading.page_size)
        return (alone * (reading.page_size << PSS_SHIFT) + shared) >> PSS_SHIFT
    finally:
        if opened is not source:
            opened.close()


def _blocks(source: Source, pid: int, page_size: int) -> Iterator[tuple[int, int]]:
    """First page and length of the parts to read; hugetlb is no part of PSS."""
    for vma in parse_maps(source.text(f"{pid}/maps"), f"{pid}/maps"):
        if kind_of(vma) == "hugetlb" or vma.end > 1 << 63:
            continue
        ranges: Iterator[tuple[int, int]] = iter([(vma.start, vma.end)])
        if vma.end - vma.start > _SPARSE_PAGES * page_size:
            ranges = source.populated(pid, vma.start, vma.end)
        for start, end in ranges:
            first, stop = start // page_size, end // page_size
            while first < stop:
                after = min((first // _BLOCK + 1) * _BLOCK, stop)
                yield first, after - first
                first = after


def _block(
    source: Source, pid: int, reading: Reading, span: int, first: int, count: int
) -> tuple[int, Ints]:
    """How many pages are surely mapped once, and the frames of the others."""
    found = unpack(source.words(f"{pid}/pagemap", first, count), reading.layout)
    if found.exclusive is None:
        return 0, found.frame[found.present]
    alone = found.present & found.exclusive
    for at in _huge(found.frame, -first % span, span):
        alone[at : at + span] = False
    return int(alone.sum()), found.frame[found.present & ~alone]


def _huge(frame: Ints, first: int, span: int) -> list[int]:
    """Where pages begin that lie as under a huge entry: aligned in both worlds, side by side."""
    head, following = frame[first::span], frame[first + 1 :: span]
    n = min(len(head), len(following))
    fits = (head[:n] & (span - 1) == 0) & (head[:n] > 0) & (following[:n] == head[:n] + 1)
    return [first + span * int(k) for k in np.flatnonzero(fits)]


def _shared(source: Source, pfns: Ints, page_size: int) -> int:
    """Fixed-point share of frames that may be mapped more than once; 0 for the zero pages."""
    pfn, entries = np.unique(pfns, return_counts=True)
    count, known = frames.lookup(source, "mapcount", pfn)
    if not known.all():
        raise NotAvailable("a page frame lies behind the end of /proc/kpagecount")
    share = shares(page_size, count.astype(np.int32))
    return int((share.astype(np.int64) * entries)[count > 0].sum())
