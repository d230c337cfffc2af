"""Swap areas, their slots, and the swap cache.

A swap entry is one number, as in the frame field of a pagemap word: type in the low five
bits, offset above. For each slot there is a count of its *holders* (page table entries and
shared-memory objects), the frame that still or already caches it (the swap cache), and a
label of the contents.

A slot is in use while it has holders or is cached. Slot 0 is the area's header and bad.
Slots are handed out onwards from where the last one was, cluster by cluster, so that one just
freed is not used again at once; areas of equal priority take turns page by page. While more
than half of swap is in use, slots that only the swap cache still holds are taken from it where
they are come across (``mm/swapfile.c``).

What can go wrong: no slot is free. Then `SwapDevices.alloc` gives fewer than asked.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ...entries import swap_frame, swap_offset, swap_type
from .hardware import DIRTY, SWAPCACHE, Bools, Frames, Pfns

CLUSTER = 512
"""Slots (SWAPFILE_CLUSTER)."""
TAKEN = -1
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
        """PFN + 1 of the frame in the swap cache, 0 for none, `TAKEN` before it is there."""
        self.content = np.zeros(pages, np.int64)
        self.used = 0
        self.turn = 0
        """Among areas of one priority, the lowest is used next."""
        self._cursor = 1

    @property
    def free(self) -> int:
        """Slots that can be handed out."""
        return self.pages - 1 - self.used

    def find(self, count: int, spare: int) -> Pfns:
        """Up to `count` offsets to hand out, onwards from the last one and around.

        They are free; in clusters that are not full, slots that only the swap cache holds will
        do as well, once `spare` free ones have been found, and until the last one is.
        """
        found: list[Pfns] = []
        left = self.free
        for first, stop in self._clusters():
            cache = self.cache[first:stop]
            unheld = (self.holders[first:stop] == 0) & (cache != TAKEN)
            free = unheld & (cache == 0)
            ahead = np.cumsum(free) - free
            able = free | (unheld & (ahead >= spare) & (ahead < left))
            offsets = np.flatnonzero(able)[:count]
            if len(offsets) and (free.any() or first == self._cursor):
                found.append(offsets + first)
                taken = int(free[offsets].sum())
                spare, left = spare - taken, left - taken
                count -= len(offsets)
            if not count:
                break
        offsets = np.concatenate([np.empty(0, np.int64), *found])
        self._cursor = int(offsets[-1]) + 1 if len(offsets) and not count else 0
        return offsets

    def _clusters(self) -> Iterator[tuple[int, int]]:
        """Ranges of offsets: the rest of the current cluster, those in use, those that are not."""
        number, rest = divmod(self._cursor, CLUSTER)
        current = self._cursor if rest and self._cursor < self.pages else None
        if current is not None:
            yield current, min((number + 1) * CLUSTER, self.pages)
        firsts = np.arange(0, self.pages, CLUSTER)
        used = np.add.reduceat((self.holders > 0) | (self.cache != 0), firsts, dtype=np.int64) > 0
        for first in (*firsts[used].tolist(), *firsts[~used].tolist()):
            low, high = max(first, 1), min(first + CLUSTER, self.pages)
            yield low, current if current is not None and first == number * CLUSTER else high

    def cached_only(self) -> Pfns:
        """Offsets that nothing but the swap cache holds, in as many clusters as are in use."""
        low = max(1, self.used // CLUSTER) * CLUSTER
        return np.flatnonzero((self.holders[:low] == 0) & (self.cache[:low] > 0))


class SwapDevices:
    """The swap areas of a machine by type, and what the kernel does with their slots.

    Attributes
    ----------
    areas : list of SwapArea or None
        By type.
    raced : bool
        Whether slots were found in full swap in time by who needed them, which on a real
        machine is a matter of luck.
    """

    def __init__(self, frames: Frames) -> None:
        self.raced = False
        self.areas: list[SwapArea | None] = []
        self._frames = frames
        self._turns = 0
        self._least = -1

    def on(self, path: bytes, kind: str, pages: int, priority: int | None) -> int:
        """Switch an area on: its type, the lowest free number (``alloc_swap_info``)."""
        if priority is None:
            self._least -= 1
            priority = self._least
        area = SwapArea(path, kind, pages, priority)
        self._requeue(area)
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
        return self.free * 2 < self._total

    def has_room(self, count: int) -> bool:
        """Whether no more than half is in use after `count` more slots."""
        return (self.free - count) * 2 >= self._total

    @property
    def _total(self) -> int:
        """Slots of all areas."""
        return sum(area.pages - 1 for area in self.areas if area)

    @property
    def alternates(self) -> bool:
        """Whether the areas that are used first take turns."""
        ranks = [area.priority for area in self.areas if area]
        return ranks.count(max(ranks, default=0)) > 1

    def rotate(self) -> None:
        """Let one turn pass."""
        able = [area for area in self.areas if area and area.free]
        if able:
            self._requeue(min(able, key=lambda area: (-area.priority, area.turn)))

    def _requeue(self, area: SwapArea) -> None:
        """Put an area behind its equals (``plist_requeue``)."""
        self._turns += 1
        area.turn = self._turns

    def _give_back(self, area: SwapArea, count: int) -> None:
        """So many slots are free again; an area that was full waits behind its equals."""
        if count and not area.free:
            self._requeue(area)
        area.used -= count

    def pass_over(self, count: int) -> None:
        """Hand out so many slots that come back at once: the next search begins behind them."""
        entries = self.alloc(min(count, max(self.free - 1, 0)))
        for area, _, offsets in self._by_area(entries):
            area.cache[offsets] = 0
            self._give_back(area, len(offsets))

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
            return self._take(numbers[0], count)
        entries: list[Pfns] = []
        while count and (able := [n for n in numbers if self._area(n).free]):
            able.sort(key=lambda n: self._area(n).turn)
            rounds = min(-(-count // len(able)), *(self._area(n).free for n in able))
            shares = [
                min(rounds, count // len(able) + (k < count % len(able))) for k in range(len(able))
            ]
            part = np.full((rounds, len(able)), -1, np.int64)
            for column, (number, share) in enumerate(zip(able, shares, strict=True)):
                part[:share, column] = self._take(number, share)
            entries.append(part.ravel()[part.ravel() >= 0])
            last = len(entries[-1]) % len(able)
            for number in able[last:] + able[:last]:
                self._requeue(self._area(number))
            count -= len(entries[-1])
        return np.concatenate(entries) if entries else np.empty(0, np.int64)

    def _take(self, number: int, count: int) -> Pfns:
        """Up to `count` entries of one area (``cluster_alloc_swap_entry``)."""
        area, taken = self._area(number), [np.empty(0, np.int64)]
        while count:
            spare = max(0, self.free - (self._total + 1) // 2 + 1)
            offsets = area.find(count, spare)
            if not len(offsets):
                break
            self._uncache(area, offsets[area.cache[offsets] > 0])
            area.cache[offsets] = TAKEN
            area.used += len(offsets)
            taken.append(swap_frame(number, offsets))
            count -= len(offsets)
            if not area.free and self.nearly_full:
                self._find_more(area, count)
        return np.concatenate(taken)

    def _find_more(self, area: SwapArea, wanted: int) -> None:
        """The last slot is taken: look for more in the swap cache (``swap_reclaim_work``).

        The kernel has a worker for that, and who wants slots meanwhile goes without.
        """
        offsets = area.cached_only()
        self._uncache(area, offsets)
        self.raced |= wanted > 0 and len(offsets) > 0

    def _uncache(self, area: SwapArea, offsets: Pfns) -> None:
        """Take slots that nobody holds out of the swap cache; their frames become dirty."""
        pfns = area.cache[offsets] - 1
        self.remove_from_cache(pfns)
        self._frames.flags[pfns] |= DIRTY

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
            self._give_back(area, int(((area.holders[once] == 0) & (area.cache[once] == 0)).sum()))

    def store(self, entries: Pfns, content: Pfns) -> None:
        """Give slots contents and one holder each, without going through the cache (shmem)."""
        for area, where, offsets in self._by_area(entries):
            area.content[offsets] = content[where]
            area.holders[offsets] = 1
            area.cache[offsets] = 0

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
            self._give_back(area, int((area.holders[offsets] == 0).sum()))

    def free_in_turn(self, pfns: Pfns, due: Bools | None = None) -> None:
        """Do so with those that are `due`, and with all as long as swap is nearly full.

        One by one (``mem_cgroup_swap_full``): each that is freed may be why it no longer is.
        """
        at = 0
        while at < len(pfns) and self.nearly_full:
            self.free_swap(pfns[at : at + 1])
            at += 1
        if due is not None:
            self.free_swap(pfns[at:][due[at:]])

    def free_swap(self, pfns: Pfns) -> None:
        """Remove those frames from the cache whose slots have no holder (``folio_free_swap``).

        Their only copy is in memory then: they become dirty.
        """
        pfns = pfns[(self._frames.flags[pfns] & SWAPCACHE) != 0]
        if len(pfns):
            pfns = pfns[self.holders(self._frames.index[pfns]) == 0]
            self.remove_from_cache(pfns)
            self._frames.flags[pfns] |= DIRTY
