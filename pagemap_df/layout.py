"""How memory lies: huge pages by VMA, physical runs, what frames are used for, what is free.

Two views. Of processes (`hugepages`): which parts of a VMA are covered by large folios, whole
or in part, and how long its runs of neighbouring page frames are. Of the machine (here): what
each frame is in use for, and in which block sizes memory is free; that needs
``take(machine_frames=True)``.

What can go wrong: page flags are missing, or the snapshot has not all frames
(`NotAvailable`). Memory holes look like frames the kernel uses without any flag; only
``/proc/iomem`` tells them apart.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from . import pageflags
from .algebra.answers import Maybe, result
from .algebra.arrays import PRESENT, Tables, numbers
from .algebra.hugepages import FITS, contiguity, folios, huge
from .algebra.view import View
from .entries import Bools, Ints
from .errors import NotAvailable, TableError
from .procstatus import IoRange
from .runs import aligned_blocks, runs

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["FITS", "USES", "contiguity", "folios", "fragmentation", "histogram", "huge", "usage"]

USES = (
    "hole",
    "offline",
    "poisoned",
    "free",
    "slab",
    "page tables",
    "reserved",
    "hugetlb",
    "zero page",
    "KSM",
    "anonymous",
    "shared memory",
    "page cache",
    "kernel",
)
"""What a frame is in use for; the first that is true."""

MAX_ORDER = 10
"""Largest block of the buddy allocator, as a power of two of pages (x86-64, most others)."""


def usage(snap: Tables, ram: Iterable[IoRange] | None = None) -> pd.DataFrame:
    """What the page frames of the machine are in use for.

    Parameters
    ----------
    snap : Snapshot
        Taken with ``machine_frames=True``.
    ram : iterable of IoRange, optional
        ``procstatus.parse_iomem`` of ``/proc/iomem``. Frames outside of ``System RAM`` are then
        holes; without it they count as ``kernel``, for their flags are 0 too.

    Returns
    -------
    DataFrame
        One row per use that occurs, in the order of `USES`: ``use``, ``frames``, ``bytes``.
    """
    pfn, flags = _machine(snap, "what frames are in use for")
    use = use_of(flags)
    if ram is not None:
        use[~_inside(pfn, ram, _page_size(snap))] = USES.index("hole")
    count = np.bincount(use, minlength=len(USES))
    some = np.flatnonzero(count)
    columns = {
        "use": [USES[k] for k in some.tolist()],
        "frames": count[some],
        "bytes": count[some] * _page_size(snap),
    }
    return result(columns, {} if ram is not None else {"frames": "kernel includes memory holes"})


def use_of(flags: Ints) -> NDArray[np.int8]:
    """What each frame is in use for, by its flag word: an index into `USES`."""

    def has(*names: str) -> Bools:
        return pageflags.has(flags, *names)

    # Slab and page table frames keep other data where ANON and KSM are read: they come first.
    rules = {
        "offline": has("OFFLINE"),
        "poisoned": has("HWPOISON"),
        "free": has("BUDDY"),
        "slab": has("SLAB"),
        "page tables": has("PGTABLE"),
        "zero page": has("ZERO_PAGE"),
        "reserved": has("RESERVED"),
        "hugetlb": has("HUGE"),
        "KSM": has("KSM"),
        "anonymous": has("ANON"),
        "shared memory": has("SWAPBACKED"),
        "page cache": has("LRU") | has("MMAP") | has("UPTODATE"),
    }
    which = [np.int8(USES.index(name)) for name in rules]
    return np.select(list(rules.values()), which, np.int8(USES.index("kernel")))


def _inside(pfn: Ints, ram: Iterable[IoRange], page_size: int) -> Bools:
    inside = np.zeros(len(pfn), np.bool_)
    for part in ram:
        if part.depth or part.name != "System RAM":
            continue
        if part.start is None or part.end is None:
            raise NotAvailable("/proc/iomem hides addresses; read it with CAP_SYS_ADMIN (as root)")
        first, stop = -(-part.start // page_size), part.end // page_size
        inside[slice(*np.searchsorted(pfn, [first, stop]))] = True
    return inside


def histogram(snap: Tables, of: Literal["machine", "pages"] = "machine") -> pd.DataFrame:
    """How many page frames have each word of flags, as ``page-types --raw`` counts them.

    Parameters
    ----------
    of : {"machine", "pages"}
        All frames of a snapshot taken with ``machine_frames=True``, or mapped pages.

    Returns
    -------
    DataFrame
        One row per word that occurs, the lowest first: ``flags``, ``names``, ``frames``, ``bytes``.
    """
    if of == "machine":
        _, flags = _machine(snap, "a histogram of flags")
    elif of == "pages":
        view = View(snap)
        view.need("flags", view.kind == PRESENT, "a histogram of flags")
        flags = view.flags[~view.no_flags]
    else:
        raise ValueError(f"of is 'machine' or 'pages', not {of!r}")
    word, count = np.unique(flags, return_counts=True)
    release = snap.facts.get("release")
    columns = {
        "flags": word,
        "names": [pageflags.describe(w, release) for w in word.tolist()],
        "frames": count,
        "bytes": count * _page_size(snap),
    }
    return result(columns)


def fragmentation(snap: Tables) -> pd.DataFrame:
    """Free memory by block size, as the buddy allocator could hand it out.

    Free frames next to each other are cut into naturally aligned blocks, which is what the
    allocator has merged them into. Frames in per-CPU lists are not marked free.

    Returns
    -------
    DataFrame
        One row per order 0 … `MAX_ORDER`: ``order``, ``block`` (bytes), ``blocks``, ``free`` (bytes in
        them), and ``unusable`` (part of all free memory in smaller blocks, which a request of
        this order cannot have; null if nothing is free).
    """
    pfn, flags = _machine(snap, "free blocks")
    free = pfn[pageflags.has(flags, "BUDDY")]
    lo, hi = runs((free, 1))
    count = aligned_blocks(free[lo], free[hi - 1] + 1, MAX_ORDER + 1)
    block = _page_size(snap) << np.arange(MAX_ORDER + 1)
    held = count * block
    smaller = np.cumsum(held) - held
    none = np.full(len(block), not held.sum())
    columns = {
        "order": np.arange(MAX_ORDER + 1),
        "block": block,
        "blocks": count,
        "free": held,
        "unusable": Maybe(smaller / max(held.sum(), 1), none),
    }
    return result(columns)


def _machine(snap: Tables, what_for: str) -> tuple[Ints, Ints]:
    """Frame numbers and flags of the whole machine, ascending."""
    frames = snap.arrow("frames")
    pfn = numbers(frames["pfn"], -1)
    if not len(pfn) or pfn[0] != 0 or len(pfn) != pfn[-1] + 1:
        raise NotAvailable(
            f"{what_for} needs all frames of the machine; take(machine_frames=True), as root"
        )
    if frames["flags"].null_count == len(frames):
        raise NotAvailable(f"{what_for} needs frames.flags: /proc/kpageflags, readable by root")
    return pfn, numbers(frames["flags"], 0)


def _page_size(snap: Tables) -> int:
    size = snap.facts.get("page_size")
    if size is None:
        raise TableError("the snapshot does not say its page size (fact page_size)")
    return int(size)
