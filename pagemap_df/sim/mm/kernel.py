"""What all rules share: the state of the kernel, and the life of a frame.

`Kernel` holds frames, swap, files, address spaces, cgroups and knobs. Its methods are the
ground that the rules of ``fault``, ``fork``, ``reclaim`` and the rest stand on: map a frame,
unmap it, let it die when nothing needs it any more.

A frame is needed while page table entries map it, a file caches it, or the swap cache holds
it for somebody's swap entry. A large folio is needed as long as any part of it is.

What can go wrong: `Signal` ends a process that touched what it may not; `OutOfFrames` wants
somebody killed. Both are for the machine on top to act on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from . import pagetable as pt
from .files import File
from .hardware import ANON, BLOCK, HUGETLB, LARGE, SWAPCACHE, UPTODATE, ZERO, Frames, Pfns
from .pagetable import Ptes
from .swapfile import SwapDevices
from .vma import ACCESS, STICKY, AddressSpace, AnonVma, Vma


class Signal(Exception):
    """A process touched a page it may not touch."""

    def __init__(self, name: str, page: int) -> None:
        super().__init__(f"{name} at {page << 12:#x}")
        self.name, self.page = name, page


@dataclass
class Knobs:
    """Settings under ``/sys/kernel/mm`` and ``/proc/sys/vm``.

    Attributes
    ----------
    thp : str
        ``transparent_hugepage/enabled``: always, madvise or never.
    zero_huge : bool
        ``transparent_hugepage/use_zero_page``.
    fault_around : int
        Pages, a power of two; ``fault_around_bytes`` of debugfs.
    ksm_zero : bool
        ``ksm/use_zero_pages``.
    ksm_sharing : int
        ``ksm/max_page_sharing``.
    """

    thp: str = "madvise"
    zero_huge: bool = True
    fault_around: int = 16
    ksm_zero: bool = False
    ksm_sharing: int = 256


@dataclass
class Cgroup:
    """A memory cgroup: `used` and `limit` in pages, no limit if None."""

    name: str
    inode: int
    limit: int | None = None
    used: int = 0


@dataclass
class Kernel:
    """State, and the ground rules on it."""

    frames: Frames
    swap: SwapDevices
    rng: np.random.Generator
    knobs: Knobs = field(default_factory=Knobs)
    spaces: list[AddressSpace] = field(default_factory=list)
    files: dict[int, File] = field(default_factory=dict)
    cgroups: list[Cgroup] = field(default_factory=lambda: [Cgroup("/", 1)])
    huge_pool: list[int] = field(default_factory=list)
    huge_total: int = 0
    huge_reserved: int = 0
    huge_surplus: int = 0
    """Pages of the pool that are to go when they come free."""
    labels: int = 1
    short: bool = False
    """Whether there ever were not enough frames, or a cgroup reached its limit."""
    read_in_pieces: bool = False
    """Whether somebody ever waited for one of several requests to a disk, and looked at all."""
    collapse_read: bool = False
    """Whether MADV_COLLAPSE ever found pages in swap."""
    ksm_chains: dict[int, list[int]] = field(default_factory=dict)
    """Label of contents -> merged pages that hold them, the one to try first first."""

    def new_labels(self, count: int) -> Pfns:
        """Labels of contents that nothing had before."""
        self.labels += count
        return np.arange(self.labels - count, self.labels)

    def map(self, pfns: Pfns) -> None:
        """One more entry maps each of `pfns` (``folio_add_*_rmap``)."""
        np.add.at(self.frames.mapcount, pfns, np.int32(1))

    def unmap(self, pfns: Pfns) -> None:
        """One entry less maps each of `pfns`; what nobody needs then is freed."""
        np.subtract.at(self.frames.mapcount, pfns, np.int32(1))
        idle = pfns[self.frames.mapcount[pfns] == 0]
        if len(idle):
            self.free_idle(idle)

    def free_idle(self, pfns: Pfns) -> None:
        """Free those of the unmapped `pfns` that neither a file nor a swap entry needs."""
        frames = self.frames
        pfns = pfns[frames.owner[pfns] == 0]
        large = (frames.flags[pfns] & LARGE) != 0
        if large.any():
            for head in np.unique(pfns[large] // BLOCK * BLOCK).tolist():
                self._free_folio(head)
            pfns = pfns[~large]
        self.swap.free_swap(pfns)
        dead = (frames.flags[pfns] & (SWAPCACHE | ANON)) == ANON
        self._give_back(np.unique(pfns[dead]))

    def _free_folio(self, head: int) -> None:
        """Free a large folio if no part of it is mapped."""
        frames = self.frames
        if frames.mapcount[head : head + BLOCK].any() or frames.owner[head]:
            return
        if not frames.flags[head] & HUGETLB:
            self.uncharge(np.arange(head, head + BLOCK))
            frames.release_block(head)
        elif self.huge_surplus:
            self.huge_surplus -= 1
            self.huge_total -= 1
            frames.release_block(head)
        else:
            frames.flags[head : head + BLOCK] = HUGETLB | LARGE
            self.huge_pool.append(head)

    def _give_back(self, pfns: Pfns) -> None:
        self.uncharge(pfns)
        self.frames.release(pfns)

    def free_cached(self, pfns: Pfns) -> None:
        """Free frames that just left a file's cache and are not mapped."""
        small = (self.frames.flags[pfns] & LARGE) == 0
        self._give_back(pfns[small & (self.frames.mapcount[pfns] == 0)])
        for head in np.unique(pfns[~small] // BLOCK * BLOCK).tolist():
            self._free_folio(head)

    def charge(self, pfns: Pfns, cgroup: int) -> None:
        """Account new frames to a cgroup."""
        self.frames.cgroup[pfns] = cgroup
        self.cgroups[cgroup].used += len(pfns)

    def uncharge(self, pfns: Pfns) -> None:
        """Take frames off their cgroups' accounts."""
        if len(pfns):
            counts = np.bincount(self.frames.cgroup[pfns], minlength=1)
            for number in np.flatnonzero(counts).tolist():
                self.cgroups[number].used -= int(counts[number])

    def drop_entries(self, entries: Pfns) -> None:
        """One holder less of each swap entry (``free_swap_and_cache``)."""
        if not len(entries):
            return
        pfns = self.swap.cached(entries)
        # While swap is nearly full, it matters which slots come free before which.
        state = np.where(pfns < 0, -1, np.minimum(self.frames.mapcount[pfns], 1))
        edges = np.flatnonzero(np.diff(state)) + 1
        edges = edges[: len(edges) if self.swap.nearly_full else 0]
        for some, cached in zip(np.split(entries, edges), np.split(pfns, edges), strict=True):
            self.swap.drop(some)
            cached = cached[cached >= 0]
            self.swap.free_in_turn(cached[self.frames.mapcount[cached] > 0])
            cached = np.unique(cached)
            self.free_idle(cached[self.frames.mapcount[cached] == 0])

    def anon_prepare(self, space: AddressSpace, vma: Vma) -> None:
        """Give a mapping its anon_vma before its first private page (``anon_vma_prepare``)."""
        if vma.anon is not None:
            return
        at = space.index(vma.first)
        if at + 1 < len(space.vmas) and _shareable(vma, space.vmas[at + 1]):
            vma.anon = space.vmas[at + 1].anon
        elif at and _shareable(space.vmas[at - 1], vma):
            vma.anon = space.vmas[at - 1].anon
        else:
            vma.anon = AnonVma()

    def huge_zero(self) -> int:
        """Head of the huge zero page, made on first use; -1 if there is no room for it."""
        if self.frames.huge_zero is None:
            pfns = self.frames.alloc_block(UPTODATE | ZERO)
            if pfns is None:
                return -1
            self.frames.huge_zero = int(pfns[0])
        return self.frames.huge_zero

    def rmap(self, wanted: Pfns) -> Iterator[tuple[AddressSpace, int, Ptes, Pfns]]:
        """All entries that map `wanted`: space, first page and entries of a run, positions."""
        mark = np.zeros(self.frames.span, np.bool_)
        mark[wanted] = True
        for space in self.spaces:
            for page, ptes in space.table.runs(0, space.task_size):
                where = np.flatnonzero(pt.mapped(ptes))
                where = where[mark[pt.frame(ptes[where])]]
                if len(where):
                    yield space, page, ptes, where


def _shareable(left: Vma, right: Vma) -> bool:
    """Whether one may use the other's anon_vma (``reusable_anon_vma``)."""
    donor = left.anon or right.anon
    return (
        donor is not None
        and donor.depth == 0
        and left.stop == right.first
        and left.file is right.file
        and (left.flags ^ right.flags) & ~(ACCESS | STICKY) == 0
        and right.offset == left.offset + len(left)
    )
