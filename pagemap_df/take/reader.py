"""Read the pages of one process: plan the ranges, read them on all cores, decode.

Two threads take turns at blocks of a few ten thousand words: while one waits for the
kernel, the other decodes. ``pread`` and NumPy both give up the interpreter's lock.

In a process that maps much more than it has populated, the source is first asked which
parts of its large mappings hold anything, so a reservation of a tebibyte costs what was
touched in it.

In: a source, a pid, its VMAs, a `columns.Reading`. Out: record batches, ascending by
address. What can go wrong: the process leaves (`ProcessGone`); mappings change meanwhile,
which `take` finds out by reading ``maps`` again.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Self

import numpy as np
import pyarrow as pa

from .. import columns, eras
from ..columns import BLOCK, Ranges, Reading, Slab
from ..proctext import Vma
from ..source import Source

SPARSE_PAGES = 2048
"""Mappings up to this size are read whole: asking first would cost more."""

_SPARSE_FACTOR = 4
_NEAR_PAGES = 256
_WORTHWHILE = 3
"""Blocks from which on threads pay."""

_LAST_ADDRESS = 1 << 63


@dataclass(frozen=True)
class Segment:
    """`count` pages from page number `first` on, inside row `vma` of the ``vmas`` table."""

    first: int
    count: int
    vma: int


class Reader:
    """Reads processes of one source one after the other. Also a context manager.

    Parameters
    ----------
    source : Source
        Where the words come from.
    reading : Reading
        How to decode them.
    check : bool
        Raise `EraError` at a word that the era cannot have written: for words from files.
    """

    def __init__(self, source: Source, reading: Reading, *, check: bool = False) -> None:
        self.source, self.reading, self.check = source, reading, check
        self._local = threading.local()
        self._pool: ThreadPoolExecutor | None = None

    def __enter__(self) -> Self:
        """Use the reader inside a ``with``."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown()

    def begin(
        self, pid: int, vmas: Sequence[Vma], first_row: int = 0, populated: int | None = None
    ) -> Callable[[], list[pa.RecordBatch]]:
        """Begin to read the populated pages of `pid`; calling what this gives waits for them.

        Parameters
        ----------
        vmas : sequence of Vma
            Its mappings; ``vma`` of a page is `first_row` plus the index in here.
        populated : int, optional
            Bytes that the process is known to have in memory and in swap, to tell whether
            asking for populated ranges is worthwhile. Unknown means it is.

        Returns
        -------
        callable
            Gives the batches, ascending by address, none of them empty; or raises what went
            wrong.
        """
        work = list(_blocks(self._segments(pid, vmas, first_row, populated)))
        parts: Iterable[pa.RecordBatch]
        if len(work) < _WORTHWHILE:
            parts = [self._read(pid, segments) for segments in work]
        else:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(min(len(os.sched_getaffinity(0)), 8))
            parts = self._pool.map(lambda segments: self._read(pid, segments), work)
        return lambda: [batch for batch in parts if batch.num_rows]

    def _segments(
        self, pid: int, vmas: Sequence[Vma], first_row: int, populated: int | None
    ) -> Iterator[Segment]:
        page = self.reading.page_size
        below = [(row, vma) for row, vma in enumerate(vmas, first_row) if vma.end < _LAST_ADDRESS]
        mapped = sum(vma.end - vma.start for _, vma in below)
        ask = populated is None or mapped > _SPARSE_FACTOR * populated
        for row, vma in below:
            ranges: Iterable[tuple[int, int]] = ((vma.start, vma.end),)
            if ask and not self.reading.holes and vma.end - vma.start > SPARSE_PAGES * page:
                parts = self.source.populated(pid, vma.start, vma.end)
                ranges = _joined(parts, _NEAR_PAGES * page)
            for start, end in ranges:
                yield Segment(start // page, (end - start) // page, row)

    def _read(self, pid: int, segments: list[Segment]) -> pa.RecordBatch:
        if not hasattr(self._local, "slab"):
            self._local.slab, self._local.buffer = Slab(), np.empty(BLOCK, np.uint64)
        slab, words = self._local.slab, self._local.buffer[: sum(s.count for s in segments)]
        path, at = f"{pid}/pagemap", 0
        for first, count in _contiguous(segments):
            part = words[at : at + count]
            got = self.source.words_into(path, first, part)
            # Behind the end of the file (an exited process, an address beyond its limit)
            # nothing is mapped.
            part[got:] = self.reading.layout.absent
            if self.check:
                name, offset = self.source.where(path, first)
                eras.check(part, self.reading.layout, path=name, offset=offset)
            at += count
        ranges = Ranges(
            np.array([s.first for s in segments], np.int64) * self.reading.page_size,
            np.array([s.count for s in segments], np.int64),
            np.array([s.vma for s in segments], np.int32),
        )
        return columns.block(words, ranges, pid, self.reading, slab)


def _contiguous(segments: Iterable[Segment]) -> Iterator[tuple[int, int]]:
    """Page ranges to read in one go: VMAs often follow each other without a gap."""
    first = count = 0
    for segment in segments:
        if count and segment.first == first + count:
            count += segment.count
            continue
        if count:
            yield first, count
        first, count = segment.first, segment.count
    if count:
        yield first, count


def _joined(ranges: Iterable[tuple[int, int]], near: int) -> Iterator[tuple[int, int]]:
    """Join ascending ranges that lie at most `near` bytes apart: holes are cheap to read."""
    start = end = None
    for first, last in ranges:
        if end is not None and first - end <= near:
            end = last
            continue
        if start is not None and end is not None:
            yield start, end
        start, end = first, last
    if start is not None and end is not None:
        yield start, end


def _blocks(segments: Iterable[Segment]) -> Iterator[list[Segment]]:
    """Cut and group segments into lists of at most `BLOCK` pages.

    A large segment begins a block of its own: its words are likely all alike, which makes
    them cheap to decode as long as they are not mixed with others.
    """
    block: list[Segment] = []
    room = BLOCK
    for segment in segments:
        if block and segment.count > BLOCK // 2:
            yield block
            block, room = [], BLOCK
        done = 0
        while done < segment.count:
            size = min(segment.count - done, room)
            block.append(Segment(segment.first + done, size, segment.vma))
            done, room = done + size, room - size
            if room == 0:
                yield block
                block, room = [], BLOCK
    if block:
        yield block
