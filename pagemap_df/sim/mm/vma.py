"""Mappings, and the sorted list of them that makes an address space.

A `Vma` covers the pages ``first`` to ``stop``. Its flags are the kernel's, in the order of
``VmFlags``. Neighbours merge and mappings split by the rules of ``mm/vma.c``: equal flags,
same file, offsets that continue, and anonymous pages that may share an *anon_vma*.

An `AnonVma` stands for the kernel's structure of that name. It exists from the first private
page on, is shared by mappings split from one another, and its existence decides what fork
copies. After a fork, neither the child's copies nor what was merged from them merges with
mappings of another history.
"""

from __future__ import annotations

import errno
import os
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar

import numpy as np

from .files import File, ReadAhead
from .hardware import BLOCK, Pfns
from .pagetable import PageTable, Ptes

_Pages = TypeVar("_Pages", int, Pfns)

READ, WRITE, EXEC, SHARED, MAYSHARE = 1, 2, 4, 8, 0x80
GROWSDOWN, PFNMAP, LOCKED, IO = 0x100, 0x400, 0x2000, 0x4000
SEQ_READ, RAND_READ, DONTCOPY, DONTEXPAND = 0x8000, 0x10000, 0x20000, 0x40000
LOCKONFAULT, ACCOUNT, NORESERVE, HUGETLB = 0x80000, 0x100000, 0x200000, 0x400000
WIPEONFORK, DONTDUMP, MIXEDMAP, HUGEPAGE = 0x2000000, 0x4000000, 0x10000000, 0x20000000
NOHUGEPAGE, MERGEABLE = 0x40000000, 0x80000000
SOFTDIRTY, GUARDED = 1 << 27, 1 << 40
MAYREAD, MAYWRITE, MAYEXEC = 0x10, 0x20, 0x40
ACCESS = READ | WRITE | EXEC
STICKY = SOFTDIRTY | GUARDED
"""Flags that do not keep mappings from merging; the merged one has them."""
STACK_GAP = 256
"""Pages that stay free below a mapping that grows down (stack_guard_gap)."""
NAMES = {
    READ: "rd",
    WRITE: "wr",
    EXEC: "ex",
    SHARED: "sh",
    MAYREAD: "mr",
    MAYWRITE: "mw",
    MAYEXEC: "me",
    MAYSHARE: "ms",
    GROWSDOWN: "gd",
    PFNMAP: "pf",
    GUARDED: "gu",
    LOCKED: "lo",
    IO: "io",
    SEQ_READ: "sr",
    RAND_READ: "rr",
    DONTCOPY: "dc",
    DONTEXPAND: "de",
    LOCKONFAULT: "lf",
    ACCOUNT: "ac",
    NORESERVE: "nr",
    HUGETLB: "ht",
    WIPEONFORK: "wf",
    DONTDUMP: "dd",
    SOFTDIRTY: "sd",
    MIXEDMAP: "mm",
    HUGEPAGE: "hg",
    NOHUGEPAGE: "nh",
    MERGEABLE: "mg",
}
"""The letters of ``VmFlags``, in the order they are printed."""
SPECIAL = IO | DONTEXPAND | PFNMAP | MIXEDMAP
"""What makes a mapping unfit for mlock, KSM and merging (``VM_SPECIAL``)."""


class AnonVma:
    """The origin of private pages. `depth` counts the forks between it and the first one."""

    __slots__ = ("depth",)

    def __init__(self, depth: int = 0) -> None:
        self.depth = depth


@dataclass(eq=False)
class Vma:
    """One mapping.

    Attributes
    ----------
    first, stop : int
        Pages, half-open.
    flags : int
        The kernel's ``vm_flags``.
    file : File or None
        What is mapped; shared anonymous memory is a shmem file.
    offset : int
        Page of the file (or of an imaginary one, for anonymous memory) at ``first``.
    anon : AnonVma or None
        Set once a private page has been made.
    name : bytes
        What maps prints for special mappings.
    """

    first: int
    stop: int
    flags: int
    file: File | None = None
    offset: int = 0
    anon: AnonVma | None = None
    name: bytes = b""

    def __len__(self) -> int:
        """Pages."""
        return self.stop - self.first

    def __bool__(self) -> bool:
        """Mappings are never empty."""
        return True

    def has(self, flags: int) -> bool:
        """Whether any of `flags` is set."""
        return bool(self.flags & flags)

    @property
    def shared(self) -> bool:
        """Whether writes are seen by others."""
        return self.has(SHARED)

    @property
    def anonymous(self) -> bool:
        """Whether no file is behind it (``vma_is_anonymous``)."""
        return self.file is None

    @property
    def perms(self) -> str:
        """As in maps."""
        letters = ((READ, "r"), (WRITE, "w"), (EXEC, "x"))
        shown = "".join(letter if self.has(bit) else "-" for bit, letter in letters)
        return shown + ("s" if self.has(MAYSHARE) else "p")

    def file_page(self, page: _Pages) -> _Pages:
        """The page of the file behind a virtual page, or an array of them (``linear_page_index``)."""
        return page - self.first + self.offset

    def cut(self, first: int, stop: int) -> Vma:
        """A copy of the part from `first` to `stop`."""
        return replace(self, first=first, stop=stop, offset=self.file_page(first))


def mergeable(left: Vma, right: Vma) -> bool:
    """Whether two neighbours may become one (``can_vma_merge_after``)."""
    return (
        left.stop == right.first
        and (left.flags ^ right.flags) & ~STICKY == 0
        and not left.has(SPECIAL)
        and left.file is right.file
        and left.name == right.name
        and left.offset + len(left) == right.offset
        and _same_origin(left.anon, right.anon)
    )


def _same_origin(one: AnonVma | None, other: AnonVma | None) -> bool:
    """``is_mergeable_anon_vma``: the same, or one of them none and the other not from a fork."""
    if one is other:
        return True
    only = one or other
    return (one is None or other is None) and only is not None and only.depth == 0


class Merged(NamedTuple):
    """Pages that ksmd has looked at, what they held, and the merged pages they are part of."""

    pages: Pfns
    labels: Pfns
    nodes: Pfns


class AddressSpace:
    """Mappings and page table of a process (``mm_struct``).

    Attributes
    ----------
    vmas : list of Vma
        Ascending, disjoint.
    table : PageTable
    users : int
        Processes that share it.
    cgroup : int
        Row of the memory cgroup that pays for its pages.
    lock_future : int
        Flags that new mappings get (mlockall).
    merging : int
        Place in the order in which ksmd goes over address spaces; 0 for not at all.
    merged : Merged
        What ksmd remembers of its pages.
    opened : dict of int to ReadAhead
        Of each file it has mapped, by number; shared with children, as open files are.
    scattered : bool
        Whether pages of one large folio may lie far from each other: mremap moves them.
    """

    def __init__(
        self,
        mmap_base: int,
        task_size: int,
        zero: int,
        flags: Ptes | None = None,
    ) -> None:
        self.vmas: list[Vma] = []
        self.table = PageTable(zero, flags)
        self.users = 1
        self.mmap_base, self.task_size = mmap_base, task_size
        self.brk_first = self.brk_stop = 0
        self.stack_page = 0
        self.lock_future = 0
        self.merging = 0
        self._searched = (mmap_base, 0)
        self.cgroup = 0
        self.opened: dict[int, ReadAhead] = {}
        self.scattered = False
        self.merged = Merged(*np.empty((3, 0), np.int64))

    def index(self, page: int) -> int:
        """Position of the first mapping that ends above `page`."""
        return bisect_right(self.vmas, page, key=_stop)

    def find(self, page: int) -> Vma | None:
        """The mapping that covers `page`, if any."""
        at = self.index(page)
        if at < len(self.vmas) and self.vmas[at].first <= page:
            return self.vmas[at]
        return None

    def overlapping(self, first: int, stop: int) -> list[Vma]:
        """Mappings with a page in the range."""
        if first >= stop:
            return []
        at = self.index(first)
        end = at
        while end < len(self.vmas) and self.vmas[end].first < stop:
            end += 1
        return self.vmas[at:end]

    def parts(self, first: int, stop: int) -> Iterator[tuple[Vma, int, int]]:
        """Mappings with the part of the range that lies in each."""
        for vma in self.overlapping(first, stop):
            yield vma, max(first, vma.first), min(stop, vma.stop)

    def covered(self, first: int, stop: int) -> bool:
        """Whether the range has no hole."""
        return sum(high - low for _, low, high in self.parts(first, stop)) == stop - first

    def first_taken(self, page: int) -> int:
        """The first page from `page` on that is mapped, or the gap before a stack."""
        at = self.index(page)
        if at == len(self.vmas):
            return self.task_size
        vma = self.vmas[at]
        return max(vma.first - (STACK_GAP if vma.has(GROWSDOWN) else 0), 0)

    def contiguous(self, first: int, stop: int) -> int:
        """Where the mappings from `first` on have their first hole; `stop` if they have none."""
        page = first
        for vma in self.overlapping(first, stop):
            if vma.first > page:
                return page
            page = vma.stop
        return min(page, stop)

    def gap(self, pages: int, align: int = 1) -> int | None:
        """The highest place below the base where `pages` fit; what was searched once is not again."""
        top, largest = self._searched
        if pages <= largest or top > self.mmap_base:
            top, largest = self.mmap_base, 0
        at = bisect_left(self.vmas, top, key=_first)
        while at:
            at -= 1
            vma = self.vmas[at]
            low = _aligned_down(top - pages, align)
            if low >= vma.stop:
                return low
            largest = max(largest, top - vma.stop)
            top = min(top, vma.first - (STACK_GAP if vma.has(GROWSDOWN) else 0))
            self._searched = (top, largest)
        low = _aligned_down(top - pages, align)
        return low if low >= 16 else None

    def insert(self, vma: Vma) -> Vma:
        """Add a mapping where there is none, merged with its neighbours if they agree."""
        at = self.index(vma.first)
        self.vmas.insert(at, vma)
        return self._merge_around(at)

    def _merge_around(self, at: int) -> Vma:
        """Merge the mapping at a position with what follows and what goes before."""
        vma = self.vmas[at]
        left = self.vmas[at - 1] if at else None
        right = self.vmas[at + 1] if at + 1 < len(self.vmas) else None
        joins_left = left is not None and mergeable(left, vma)
        joins_right = right is not None and mergeable(vma, right)
        if joins_left and joins_right and left and right:
            joins_right = _same_origin(left.anon, right.anon)
        if joins_right and right:
            vma.stop, vma.anon = right.stop, vma.anon or right.anon
            vma.flags |= right.flags & STICKY
            del self.vmas[at + 1]
        if joins_left and left:
            left.stop, left.anon = vma.stop, left.anon or vma.anon
            left.flags |= vma.flags & STICKY
            del self.vmas[at]
            return left
        return vma

    def split(self, page: int) -> None:
        """Have a boundary at `page` (``split_vma``); no PMD mapping lies across one.

        EINVAL inside a huge page of hugetlb.
        """
        at = self.index(page)
        if at < len(self.vmas) and self.vmas[at].first < page:
            vma = self.vmas[at]
            if vma.has(HUGETLB) and page % BLOCK:
                raise fail(errno.EINVAL, "inside a huge page")
            self.table.split(page)
            self.vmas.insert(at + 1, vma.cut(page, vma.stop))
            vma.stop = page

    def remove(self, first: int, stop: int) -> list[Vma]:
        """Take the range out of the list; what was in it is returned."""
        self._searched = (self.mmap_base, 0)
        self.split(first)
        self.split(stop)
        gone = self.overlapping(first, stop)
        at = self.index(first)
        del self.vmas[at : at + len(gone)]
        return gone

    def change(self, first: int, stop: int, flags: Callable[[Vma], int]) -> None:
        """Give the mappings of the range other flags, splitting and merging (``vma_modify``)."""
        page = first
        for vma in self.overlapping(first, stop):
            new = flags(vma)
            low, high = max(page, vma.first), min(stop, vma.stop)
            if new == vma.flags:
                continue
            self.split(low)
            self.split(high)
            at = self.index(low)
            self.vmas[at].flags = new
            self._merge_around(at)


def fail(code: int, why: str) -> OSError:
    """The error a system call ends with."""
    return OSError(code, f"{os.strerror(code)} ({why})")


def _first(vma: Vma) -> int:
    return vma.first


def _stop(vma: Vma) -> int:
    return vma.stop


def _aligned_down(page: int, align: int) -> int:
    """The highest multiple of `align` not above `page`."""
    return page - page % align
