"""What the pages of a snapshot are: resident, anonymous, shared memory, mapped how often.

`View` adds to the bare columns what every analysis asks. Where a snapshot was taken without
page flags or map counts, the next best source answers, and where none does, the answer is
unknown: there is a mask for that, and a sentence that says what the rest stands on.
"""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import pageflags
from ..entries import Bools, Ints
from ..runs import codes
from .arrays import ELSEWHERE, PRESENT, Arrays, numbers


class Sharers(NamedTuple):
    """How many page table entries map each page, and how that is known.

    Attributes
    ----------
    entries : ndarray of int32
        Per row of ``pages``; -1 for unknown.
    basis : str
        A sentence.
    """

    entries: NDArray[np.int32]
    basis: str


class View(Arrays):
    """A snapshot's pages, and what they are."""

    @cached_property
    def flags(self) -> Ints:
        """Flag word of each page's frame; 0 where unknown, see `no_flags`."""
        if not self._any("flags"):
            return np.zeros(len(self.pages), np.int64)
        return numbers(self.pages["flags"], 0)

    @cached_property
    def no_flags(self) -> Bools:
        """Where the flag word is unknown."""
        return self.unknown("flags")

    def flag(self, *names: str) -> Bools:
        """Where a frame is known to have all these flags."""
        if not self._any("flags"):
            return np.zeros(len(self.pages), np.bool_)
        return pageflags.has(self.flags, *names)

    @cached_property
    def hugetlb(self) -> Bools:
        """Pages of hugetlb mappings, which smaps keeps apart from all others."""
        huge = self.vma_is("hugetlb") | self.flag("HUGE")
        return np.asarray((self.kind == PRESENT) & huge, np.bool_)

    @cached_property
    def elsewhere(self) -> Bools:
        """Words that are not present but name a frame: migration, device, hwpoison."""
        return np.isin(self.kind, ELSEWHERE)

    @cached_property
    def resident(self) -> Bools:
        """What Rss counts: no zero page, no hugetlb, but entries that name a frame."""
        return np.asarray((self.kind == PRESENT) & ~self.hugetlb | self.elsewhere, np.bool_)

    @cached_property
    def anon(self) -> Bools:
        """Anonymous: by the ANON flag, or else by bit 61, which lies only for huge zero pages."""
        by_bit = ~self.bools("file", True)
        return np.asarray(np.where(self.no_flags, by_bit, self.flag("ANON")), np.bool_)

    @cached_property
    def no_anon(self) -> Bools:
        """Where it is unknown whether a page is anonymous."""
        return np.asarray(self.no_flags & self.unknown("file"), np.bool_)

    @cached_property
    def shmem(self) -> Bools:
        """Shared memory and tmpfs: swap-backed but not anonymous, or else by its VMA."""
        by_flags = self.flag("SWAPBACKED") & ~self.flag("ANON")
        by_vma = self.vma_is("shmem") & ~self.anon
        return np.asarray(np.where(self.no_flags, by_vma, by_flags), np.bool_)

    @cached_property
    def file(self) -> Bools:
        """What is neither anonymous nor shared memory."""
        return np.asarray(~self.anon & ~self.shmem, np.bool_)

    @cached_property
    def sharers(self) -> Sharers:
        """How many page table entries map each page: the best that this snapshot knows."""
        meaning = self._mapcount_meaning()
        if self._any("mapcount") and meaning != "references":
            doubt = ", which averages over large folios" if meaning == "average" else ""
            count = self.ints("mapcount").astype(np.int32, copy=False)
            return Sharers(count, f"map counts of the kernel (/proc/kpagecount){doubt}")
        if self.complete and self.framed.any():
            seen = self.seen(np.where(self.framed, self.pfn, -1))
            return Sharers(seen, "entries counted in the snapshot, all processes")
        alone = self.bools("exclusive") & ~self.hugetlb
        return Sharers(
            np.where(alone, 1, -1).astype(np.int32),
            "the exclusive bit alone, which is the same for all pages of a PMD-mapped huge page",
        )

    def _mapcount_meaning(self) -> str:
        """What kpagecount counts there: as the facts say, or else as the kernel's version does."""
        release = self.facts.get("release")
        if "mapcount" in self.facts or not release:
            return str(self.facts.get("mapcount", "exact"))
        return pageflags.mapcount_meaning(release)

    def seen(self, keys: Ints) -> NDArray[np.int32]:
        """How many entries in the snapshot have the same key, each address space once.

        -1 where there is no key (a negative one).
        """
        rows = np.flatnonzero(keys >= 0)
        code, n, _ = codes(keys[rows])
        count = np.full(len(keys), -1, np.int32)
        count[rows] = np.bincount(code[self.once[rows]], minlength=n)[code]
        return count
