"""How long a snapshot will take, from a small sample of it.

The processes' own figures say how many pages there are. What one page and one process cost is
measured: on part of the largest mapping of the largest process, and on the smallest process.

In: a source, and which processes. Out: an `Estimate`, good to a factor of a few. What can go
wrong: none of the processes can be read (`ProcessGone`).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .. import columns, procstatus, proctext
from ..errors import NotAvailable, NotPermitted, ProcessGone
from ..snapshot import Snapshot
from ..source import Source
from ..take import AnySource, source_of, take


@dataclass(frozen=True)
class Estimate:
    """How long one snapshot will take: `seconds`, for `processes` with `pages` in all."""

    processes: int
    pages: int
    seconds: float


def estimate(source: AnySource = None, pids: int | Iterable[int] | None = None) -> Estimate:
    """Guess how long a snapshot of `pids` (all, if None) will take.

    Examples
    --------
    >>> import os
    >>> estimate(pids=os.getpid()).processes
    1
    """
    opened = source_of(source)
    try:
        page = int(opened.facts()["page_size"])
        chosen = opened.pids() if pids is None else [pids] if isinstance(pids, int) else pids
        sizes = {pid: size // page for pid in chosen if (size := _size(opened, pid))}
        if not sizes:
            raise ProcessGone("none of the processes to watch has memory that can be read")
        by_size = sorted(sizes, key=lambda pid: sizes[pid])
        per_page = _page_seconds(opened, by_size[-1], page)
        began = time.perf_counter()
        _readable(opened, by_size)
        per_process = time.perf_counter() - began
        pages = sum(sizes.values())
        return Estimate(len(sizes), pages, pages * per_page + len(sizes) * per_process)
    finally:
        if opened is not source:
            opened.close()


def _size(source: Source, pid: int) -> int:
    try:
        status = procstatus.parse_status(source.text(f"{pid}/status"))
    except (ProcessGone, NotPermitted, NotAvailable):
        return 0
    finally:
        source.release(pid)
    return 1024 * sum(int(status.get(name, "0").split()[0]) for name in ("VmRSS", "VmSwap"))


def _readable(source: Source, by_size: Sequence[int]) -> Snapshot:
    """The smallest process that can be taken."""
    for pid in by_size:
        try:
            return take(source, pids=pid)
        except (ProcessGone, NotPermitted):
            continue
    raise ProcessGone("none of the processes to watch could be read")


def _page_seconds(source: Source, pid: int, page: int) -> float:
    """Seconds to read and decode one page of the largest mapping of `pid`."""
    try:
        vmas = proctext.parse_maps(source.text(f"{pid}/maps"))
        largest = max((v for v in vmas if v.end < 1 << 63), key=lambda v: v.end - v.start)
        first, count = largest.start // page, (largest.end - largest.start) // page
        began = time.perf_counter()
        words = source.words(f"{pid}/pagemap", first, min(count, columns.BLOCK))
        reading = columns.reading_of(source.facts())
        columns.block(words, columns.Ranges.one(largest.start, len(words)), pid, reading)
        return (time.perf_counter() - began) / max(len(words), 1)
    except (ProcessGone, NotPermitted, NotAvailable, ValueError):
        return 0.0
    finally:
        source.release(pid)
