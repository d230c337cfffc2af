"""Page tables: one 64-bit entry a page, in leaf tables of 512 as the hardware has them.

The upper levels carry no information of their own here, so a table is a dictionary from the
number of a PMD slot (page number // 512) to a leaf. Leaves that come into being together lie
side by side in one array; `PageTable.runs` gives a range back as a few long array *views*,
and rules read and write those. An absent leaf is the kernel's hole; an entry of 0 in a leaf
is its none-pte. A huge page mapped by PMD is 512 entries with the `PMD` bit.

Entries have the bits of the kernel, in places of our own:

=========  ======  ==================================================================
name       bit     meaning
=========  ======  ==================================================================
PRESENT    63      maps the frame in bits 0-49
ENTRY      62      not empty and not present: a swap entry (bits 0-49) or a marker
UFFD_WP    57      write-protected by userfaultfd
XSWAP      56      on a swap entry: the page was exclusive when it left
SOFT       55      soft-dirty
SPECIAL    54      no struct page: the zero page, a device
PMD        53      part of a PMD mapping
YOUNG      52      accessed
DIRTY      51      written through
WRITE      50      may be written without a fault
=========  ======  ==================================================================
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from ...entries import MARKER_TYPE, MARKERS, swap_frame
from . import hardware
from .hardware import BLOCK, Bools, Pfns

Ptes = NDArray[np.uint64]
"""Page table entries."""

PRESENT, ENTRY, UFFD_WP = np.uint64(1 << 63), np.uint64(1 << 62), np.uint64(1 << 57)
XSWAP, SOFT, SPECIAL = np.uint64(1 << 56), np.uint64(1 << 55), np.uint64(1 << 54)
PMD, YOUNG, DIRTY, WRITE = (np.uint64(1 << bit) for bit in (53, 52, 51, 50))
FRAME = np.uint64((1 << 50) - 1)
NONE = np.uint64(0)

GUARD_MARKER = ENTRY | np.uint64(swap_frame(MARKER_TYPE, MARKERS["marker_guard"]))
UFFD_MARKER = ENTRY | UFFD_WP | np.uint64(swap_frame(MARKER_TYPE, MARKERS["marker_uffd"]))
_TYPE = np.uint64(31)


def frame(ptes: Ptes) -> Pfns:
    """PFNs of present entries, swap entries of others."""
    return (ptes & FRAME).view(np.int64)


def present(ptes: Ptes) -> Bools:
    """Which entries map something."""
    return np.asarray((ptes & PRESENT) != NONE)


def has(ptes: Ptes, bits: np.uint64) -> Bools:
    """Which entries have any of `bits`."""
    return np.asarray((ptes & bits) != NONE)


def mapped(ptes: Ptes) -> Bools:
    """Which entries map a frame that is counted (``vm_normal_page``)."""
    return np.asarray((ptes & (PRESENT | SPECIAL)) == PRESENT)


def swapped(ptes: Ptes) -> Bools:
    """Which entries are swap entries proper."""
    return np.asarray(((ptes & ENTRY) != NONE) & ((ptes & _TYPE) != _TYPE))


def guards(ptes: Ptes) -> Bools:
    """Which entries are guard markers."""
    return np.asarray(ptes == GUARD_MARKER)


class PageTable:
    """The page table of one address space.

    Parameters
    ----------
    zero : int
        PFN of the zero page.
    flags : uint64 array, optional
        Flags of all frames, which are told what entries knew of them.
    """

    def __init__(self, zero: int, flags: Ptes | None = None) -> None:
        self.leaves: dict[int, tuple[Ptes, int]] = {}
        self._zero = np.uint64(zero) | PRESENT | SPECIAL
        self._flags = flags

    def ensure(self, first: int, stop: int) -> None:
        """Have leaf tables for all of the pages (``pte_alloc``)."""
        missing = [n for n in range(first // BLOCK, -(-stop // BLOCK)) if n not in self.leaves]
        begin = 0
        for end in range(1, len(missing) + 1):
            if end == len(missing) or missing[end] != missing[end - 1] + 1:
                array = np.zeros((end - begin) * BLOCK, np.uint64)
                for row, number in enumerate(missing[begin:end]):
                    self.leaves[number] = (array, row)
                begin = end

    def runs(self, first: int, stop: int) -> Iterator[tuple[int, Ptes]]:
        """Views of what there is of the range: the first page of each, and its entries."""
        span = range(first // BLOCK, -(-stop // BLOCK))
        numbers: Iterable[int] = span
        if len(span) > len(self.leaves):
            numbers = sorted(n for n in self.leaves if span.start <= n < span.stop)
        begin = last = row = start_row = -1
        array: Ptes | None = None
        for number in numbers:
            leaf = self.leaves.get(number)
            if leaf is None:
                continue
            if array is not leaf[0] or number != last + 1 or leaf[1] != row + 1:
                if array is not None:
                    yield self._view(array, begin, start_row, row, first, stop)
                array, start_row = leaf
                begin = number
            row, last = leaf[1], number
        if array is not None:
            yield self._view(array, begin, start_row, row, first, stop)

    @staticmethod
    def _view(
        array: Ptes, number: int, start_row: int, row: int, first: int, stop: int
    ) -> tuple[int, Ptes]:
        origin = (number - start_row) * BLOCK
        low = max(first, number * BLOCK)
        high = min(stop, origin + (row + 1) * BLOCK)
        return low, array[low - origin : high - origin]

    def leaf(self, page: int) -> Ptes | None:
        """The 512 entries of the leaf that covers `page`, or None for a hole."""
        found = self.leaves.get(page // BLOCK)
        return None if found is None else found[0][found[1] * BLOCK : (found[1] + 1) * BLOCK]

    def split(self, page: int) -> None:
        """Have no PMD mapping across `page` (``split_huge_pmd_address``)."""
        leaf = self.leaf(page)
        if page % BLOCK and leaf is not None:
            self.split_leaf(leaf)

    def split_leaf(self, leaf: Ptes) -> None:
        """Let 512 entries stand by themselves; of the huge zero page nothing remains.

        The page learns that it is dirty if the entry was (``__split_huge_pmd_locked``).
        """
        if leaf[0] & PMD:
            leaf &= ~PMD
            if leaf[0] & SPECIAL:
                leaf[:] = self._zero | leaf & YOUNG
            elif leaf[0] & DIRTY and self._flags is not None:
                self._flags[frame(leaf)] |= hardware.DIRTY

    def get(self, page: int) -> int:
        """One entry, 0 for none or a hole."""
        leaf = self.leaf(page)
        return 0 if leaf is None else int(leaf[page % BLOCK])

    def read(self, first: int, stop: int) -> Ptes:
        """A copy of the entries of a range, 0 where there are none."""
        entries = np.zeros(stop - first, np.uint64)
        for page, ptes in self.runs(first, stop):
            entries[page - first : page - first + len(ptes)] = ptes
        return entries

    def write(self, first: int, entries: Ptes) -> None:
        """Set the entries of a range; leaves are made where one is not 0."""
        pages = np.flatnonzero(entries)
        for number in np.unique((pages + first) // BLOCK).tolist():
            self.ensure(number * BLOCK, number * BLOCK + 1)
        for page, ptes in self.runs(first, first + len(entries)):
            ptes[:] = entries[page - first : page - first + len(ptes)]

    def forget(self, first: int, stop: int) -> None:
        """Free the leaves whose 512 pages all lie in the range (``free_pgtables``)."""
        numbers = range(-(-first // BLOCK), stop // BLOCK)
        if len(numbers) > len(self.leaves):
            doomed = [n for n in self.leaves if numbers.start <= n < numbers.stop]
        else:
            doomed = [n for n in numbers if n in self.leaves]
        for number in doomed:
            del self.leaves[number]
