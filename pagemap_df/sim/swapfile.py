"""Swap areas, their slots, and the swap cache.

A swap entry is one number, as in the frame field of a pagemap word: type in the low five
bits, offset above. For each slot there is a count of its *holders* (page table entries and
shared-memory objects), the frame that still or already caches it (the swap cache), and a
label of the contents.

A slot is in use while it has holders or is cached. Slot 0 is the area's header and bad.
Slots are handed out onwards from where the last one was, so that one just freed is not used
again at once; areas of equal priority take turns page by page (``mm/swapfile.c``).

What can go wrong: no slot is free. Then `SwapDevices.alloc` gives fewer than asked.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..entries import swap_frame, swap_offset, swap_type
from .hardware import DIRTY, SWAPCACHE, Frames, Pfns

MAX_AREAS = 28
"""Types above are migration entries and markers (Linux 6.18, x86-64 as configured by Debian)."""


class SwapArea:
    """One swap device or file.

    Parameters
    ----------
    path : bytes
        What ``/proc/swaps`` prints.
    kind : str
        ``"file"`` or ``"partition"``.
    pages : int
        Size, header included.
    priority : int
        Higher is used first.
    """

    def __init__(self, path: bytes, kind: str, pages: int, priority: int) -> None:
        self.path, self.kind, self.pages, self.priority = path, kind, pages, priority
        self.holders = np.zeros(pages, np.uint16)
        self.cache = np.zeros(pages, np.int64)
        """PFN + 1 of the frame in the swap cache, or 0."""
        self.content = np.zeros(pages, np.int64)
        self.used = 0
        self._cursor = 1

    @property
    def free(self) -> int:
        """Slots that can be handed out."""
        return self.pages - 1 - self.used

    def take(self, count: int) -> Pfns:
        """Up to `count` free offsets, onwards from the last one and around."""
        found: list[Pfns] = []
        want = min(count, self.free)
        for first, stop in ((self._cursor, self.pages), (1, self._cursor)):
            while want and first < stop:
                window = slice(first, min(stop, first + max(4 * want, 512)))
                empty = (self.holders[window] == 0) & (self.cache[window] == 0)
                offsets = np.flatnonzero(empty)[:want] + first
                found.append(offsets)
                want -= len(offsets)
                first = window.stop
        offsets = np.concatenate(found) if found else np.empty(0, np.int64)
        if len(offsets):
            self._cursor = int(offsets[-1]) + 1
        self.used += len(offsets)
        return offsets


class SwapDevices:
    """The swap areas of a machine by type, and what the kernel does with their slots."""

    def __init__(self, frames: Frames) -> None:
        self.areas: list[SwapArea | None] = []
        self._frames = frames
        self._turn = 0
        self._least = -1

    def on(self, path: bytes, kind: str, pages: int, priority: int | None) -> int:
        """Switch an area on: its type, the lowest free number (``alloc_swap_info``)."""
        if priority is None:
            self._least -= 1
            priority = self._least
        area = SwapArea(path, kind, pages, priority)
        for number, old in enumerate(self.areas):
            if old is None:
                self.areas[number] = area
                return number
        if len(self.areas) == MAX_AREAS:
            raise OSError(1, "no more swap types")
        self.areas.append(area)
        return len(self.areas) - 1

    def off(self, number: int) -> None:
        """Forget an area nobody uses any more."""
        self.areas[number] = None

    @property
    def free(self) -> int:
        """Free slots of all areas."""
        return sum(area.free for area in self.areas if area)

    @property
    def nearly_full(self) -> bool:
        """Whether more than half is in use (``vm_swap_full``)."""
        total = sum(area.pages - 1 for area in self.areas if area)
        return self.free * 2 < total

    def alloc(self, count: int) -> Pfns:
        """Entries for up to `count` pages, without holders yet, by priority."""
        given: list[Pfns] = []
        ranks = sorted({area.priority for area in self.areas if area}, reverse=True)
        for rank in ranks:
            numbers = [n for n, a in enumerate(self.areas) if a and a.priority == rank]
            entries = self._alternate(numbers, count)
            given.append(entries)
            count -= len(entries)
            if not count:
                break
        return np.concatenate(given) if given else np.empty(0, np.int64)

    def _alternate(self, numbers: list[int], count: int) -> Pfns:
        """`count` entries from areas of one priority, one from each in turn."""
        if len(numbers) == 1:
            return swap_frame(numbers[0], self._area(numbers[0]).take(count))
        entries: list[Pfns] = []
        while count and (able := [n for n in numbers if self._area(n).free]):
            turn = self._turn % len(able)
            able = able[turn:] + able[:turn]
            rounds = min(-(-count // len(able)), *(self._area(n).free for n in able))
            shares = [
                min(rounds, count // len(able) + (k < count % len(able))) for k in range(len(able))
            ]
            part = np.full((rounds, len(able)), -1, np.int64)
            for column, (number, share) in enumerate(zip(able, shares, strict=True)):
                part[:share, column] = swap_frame(number, self._area(number).take(share))
            entries.append(part.ravel()[part.ravel() >= 0])
            self._turn += len(entries[-1])
            count -= len(entries[-1])
        return np.concatenate(entries) if entries else np.empty(0, np.int64)

    def _area(self, number: int) -> SwapArea:
        area = self.areas[number]
        assert area is not None, "an entry names an area that was switched off"
        return area

    def _by_area(self, entries: Pfns) -> Iterator[tuple[SwapArea, np.ndarray, Pfns]]:
        """Each area that occurs in `entries`, where it does, and the offsets there."""
        types = swap_type(entries)
        for number, area in enumerate(self.areas):
            if area is not None and (where := types == number).any():
                yield area, where, swap_offset(entries[where])

    def holders(self, entries: Pfns) -> Pfns:
        """How many page table entries and objects hold each slot (``swp_swapcount``)."""
        counts = np.zeros(len(entries), np.int64)
        for area, where, offsets in self._by_area(entries):
            counts[where] = area.holders[offsets]
        return counts

    def cached(self, entries: Pfns) -> Pfns:
        """The PFN in the swap cache for each entry, or -1."""
        pfns = np.full(len(entries), -1, np.int64)
        for area, where, offsets in self._by_area(entries):
            pfns[where] = area.cache[offsets] - 1
        return pfns

    def content(self, entries: Pfns) -> Pfns:
        """The label of what each slot holds."""
        labels = np.zeros(len(entries), np.int64)
        for area, where, offsets in self._by_area(entries):
            labels[where] = area.content[offsets]
        return labels

    def hold(self, entries: Pfns) -> None:
        """One more holder of each entry (``swap_duplicate``)."""
        for area, _, offsets in self._by_area(entries):
            np.add.at(area.holders, offsets, np.uint16(1))

    def occupy(self, entries: Pfns) -> None:
        """One more holder of each entry, whose slots may have been free."""
        for area, _, offsets in self._by_area(entries):
            once = np.unique(offsets)
            area.used += int(((area.holders[once] == 0) & (area.cache[once] == 0)).sum())
            np.add.at(area.holders, offsets, np.uint16(1))

    def drop(self, entries: Pfns) -> None:
        """One holder less of each entry (``swap_free``); free slots nobody caches."""
        for area, _, offsets in self._by_area(entries):
            np.subtract.at(area.holders, offsets, np.uint16(1))
            once = np.unique(offsets)
            area.used -= int(((area.holders[once] == 0) & (area.cache[once] == 0)).sum())

    def store(self, entries: Pfns, content: Pfns) -> None:
        """Give slots contents and one holder each, without going through the cache (shmem)."""
        for area, where, offsets in self._by_area(entries):
            area.content[offsets] = content[where]
            area.holders[offsets] = 1

    def add_to_cache(self, pfns: Pfns, entries: Pfns) -> None:
        """Let frames cache slots (``add_to_swap_cache``)."""
        for area, where, offsets in self._by_area(entries):
            area.cache[offsets] = pfns[where] + 1
        self._frames.flags[pfns] |= SWAPCACHE
        self._frames.index[pfns] = entries

    def write(self, pfns: Pfns) -> None:
        """Write frames of the swap cache out to their slots."""
        for area, where, offsets in self._by_area(self._frames.index[pfns]):
            area.content[offsets] = self._frames.content[pfns[where]]
        self._frames.flags[pfns] &= ~DIRTY

    def remove_from_cache(self, pfns: Pfns) -> None:
        """Let go of the slots that frames cache; slots without holders are free then."""
        self._frames.flags[pfns] &= ~SWAPCACHE
        for area, _, offsets in self._by_area(self._frames.index[pfns]):
            area.cache[offsets] = 0
            area.used -= int((area.holders[offsets] == 0).sum())

    def free_while_full(self, pfns: Pfns) -> None:
        """Do so one by one as long as swap is nearly full (``mem_cgroup_swap_full``)."""
        for at in range(len(pfns)):
            if not self.nearly_full:
                return
            self.free_swap(pfns[at : at + 1])

    def free_swap(self, pfns: Pfns) -> None:
        """Remove those frames from the cache whose slots have no holder (``folio_free_swap``).

        Their only copy is in memory then: they become dirty.
        """
        pfns = pfns[(self._frames.flags[pfns] & SWAPCACHE) != 0]
        if len(pfns):
            pfns = pfns[self.holders(self._frames.index[pfns]) == 0]
            self.remove_from_cache(pfns)
            self._frames.flags[pfns] |= DIRTY
