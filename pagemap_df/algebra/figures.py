"""The figures of smaps, computed from pages: one number per VMA and figure.

The kernel walks a VMA and adds up, page by page (smaps_account in fs/proc/task_mmu.c). This
module does the same over whole columns. Most figures are "bytes of the pages for which
something is true"; a `Figure` is that mask, with the mask of pages for which it is unknown. A
VMA with one page in doubt has an unknown figure.

PSS is fixed point, as in the kernel: ``floor(page_size * 4096 / m)`` for a page that `m` page
table entries map. The sum is cut to bytes at the very end, once per VMA (smaps) or once per
process (smaps_rollup), which is why the latter is not the sum of the former.

Not computed, because no interface exports the bits of page table entries: the split into
clean and dirty, Pss_Dirty, Referenced.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..entries import Bools, Ints
from ..errors import TableError
from ..runs import range_sums
from .answers import Maybe
from .arrays import GUARD, HUGE_ZERO, SWAP, ZERO
from .view import View

PSS_SHIFT = 12
"""Fixed point of PSS: so many binary digits behind the byte."""

_TABLE = 1 << 16


class Figure(NamedTuple):
    """What each page adds to a figure, and where that is unknown (None: nowhere).

    `amount` is a mask for figures that are bytes of pages, fixed point for those of `FIXED`.
    """

    amount: NDArray[Any]
    unknown: Bools | None = None

    @property
    def doubt(self) -> Bools:
        """`unknown` as a mask in any case."""
        return np.zeros(len(self.amount), np.bool_) if self.unknown is None else self.unknown


NOTES = {
    "rss": "equal to smaps; where frames are hidden, zero pages cannot be told and are counted",
    "pss": "as the kernel rounds it: fixed point with 12 digits, cut to bytes once",
    "uss": "equal to Private_Clean + Private_Dirty of smaps",
    "lazyfree": "upper bound: a page written since MADV_FREE counts until the folio is dirty",
    "locked": "needs VmFlags: take the snapshot with smaps=True",
    "swap": "swap entries, as VmSwap; shared memory that is swapped out leaves no entry",
    "swappss": "needs every process of the machine; swap counts are not exported",
}


def shares(size: int, count: NDArray[np.int32]) -> NDArray[np.int32]:
    """What a page of `size` bytes mapped `count` times adds to PSS, in fixed point.

    0 where the count is unknown (-1).

    Examples
    --------
    >>> shares(4096, np.array([0, 1, 2, 3, -1], np.int32))
    array([16777216, 16777216,  8388608,  5592405,        0], dtype=int32)
    """
    whole = size << PSS_SHIFT
    most = int(count.max(initial=1))
    if most > _TABLE:
        share = whole // np.maximum(count, 1)
        return np.where(count < 0, 0, share).astype(np.int32)
    table = np.append(whole // np.maximum(np.arange(most + 1), 1), 0).astype(np.int32)
    out = np.empty(len(count), np.int32)
    for k in range(0, len(count), _TABLE):  # in parts that stay in the cache
        out[k : k + _TABLE] = table[count[k : k + _TABLE]]
    return out


class Accounts(View):
    """A `View` that also knows what each page counts for."""

    @cached_property
    def share(self) -> Figure:
        """What each page adds to PSS."""
        count, resident = self.sharers.entries, self.resident
        if self.elsewhere.any():
            count = np.where(self.elsewhere, np.int32(1), count)
        amount = shares(self.page_size, count)
        if not resident.all():
            amount[~resident] = 0
        return Figure(amount, resident & (count < 0))

    @cached_property
    def swap_share(self) -> Figure:
        """What each swap entry adds to SwapPss: the page over the entries that name its slot.

        Unknown unless every process is in the snapshot and slots are visible.
        """
        swapped = np.asarray(self.kind == SWAP, np.bool_)
        if not self.complete:
            return Figure(np.zeros(len(swapped), np.int32), swapped)
        entries = self.seen(np.where(swapped, self.slot, -1))
        return Figure(shares(self.page_size, entries), swapped & (entries < 0))

    @cached_property
    def sides(self) -> tuple[Bools, Bools, Bools]:
        """Where a resident page is shared, private, and where neither is known.

        Entries that name a frame without being present count as shared: smaps_account is told
        ``present = false`` for them and then never asks for a map count (Linux 6.12).
        """
        count, resident = self.sharers.entries, self.resident
        shared = resident & ((count >= 2) | self.elsewhere)
        private = resident & (count >= 0) & ~shared
        left = resident & (count < 0) & ~shared
        if not left.any():
            return shared, private, left
        known, alone = ~self.unknown("exclusive"), self.bools("exclusive")
        return shared | left & known & ~alone, private | left & alone, left & ~known

    @cached_property
    def locked(self) -> Figure:
        """What each page adds to Locked: its PSS if VmFlags call the VMA locked (``lo``)."""
        if "vm_flags" not in self.vmas.schema.names:
            return Figure(np.zeros_like(self.share.amount), self.resident)
        words = [(text or "??").split() for text in self.vmas["vm_flags"].to_pylist()]
        locked = np.array([*("lo" in flags for flags in words), False], np.bool_)[self.vma_of]
        unsaid = np.array([*("??" in flags for flags in words), False], np.bool_)[self.vma_of]
        return Figure(np.where(locked, self.share.amount, 0), self.resident & unsaid)

    def split(self, nature: Bools) -> Figure:
        """Resident pages of one nature, for which it must be known what is anonymous."""
        return Figure(self.resident & nature, self.resident & self.no_anon)

    def part(self, nature: Bools) -> Figure:
        """PSS of pages of one nature."""
        doubt = self.share.doubt | self.split(nature).doubt
        return Figure(np.where(nature, self.share.amount, 0), doubt)

    def flagged(self, nature: Bools) -> Figure:
        """Resident pages of one nature, for which the flags must be known."""
        return Figure(self.resident & nature, self.resident & self.no_flags)

    def by_pmd(self, nature: Bools) -> Figure:
        """Pages of one nature that a huge page table entry maps."""
        mapped = self.resident & self.bools("huge") & (self.kind != HUGE_ZERO)
        return Figure(mapped & nature, self.resident & self.unknown("huge"))

    def of_hugetlb(self, alone: bool) -> Figure:
        """Hugetlb pages, told apart by the test that makes the exclusive bit."""
        mine = self.hugetlb & (self.bools("exclusive") == alone)
        return Figure(mine, self.hugetlb & self.unknown("exclusive"))


FIXED: Mapping[str, Callable[[Accounts], Figure]] = {
    "pss": lambda of: of.share,
    "swappss": lambda of: of.swap_share,
    "pss_anon": lambda of: of.part(of.anon),
    "pss_file": lambda of: of.part(of.file),
    "pss_shmem": lambda of: of.part(of.shmem),
    "locked": lambda of: of.locked,
}
"""The figures that are summed in fixed point."""

BYTES: Mapping[str, Callable[[Accounts], Figure]] = {
    "rss": lambda of: Figure(of.resident),
    "uss": lambda of: Figure(of.sides[1], of.sides[2]),
    "shared": lambda of: Figure(of.sides[0], of.sides[2]),
    "anon": lambda of: of.split(of.anon),
    "file": lambda of: of.split(of.file),
    "shmem": lambda of: of.split(of.shmem),
    "ksm": lambda of: of.flagged(of.flag("KSM")),
    "lazyfree": lambda of: of.flagged(of.anon & ~of.flag("SWAPBACKED") & ~of.flag("DIRTY")),
    "anonhugepages": lambda of: of.by_pmd(of.anon),
    "shmempmdmapped": lambda of: of.by_pmd(of.shmem),
    "filepmdmapped": lambda of: of.by_pmd(of.file),
    "shared_hugetlb": lambda of: of.of_hugetlb(alone=False),
    "private_hugetlb": lambda of: of.of_hugetlb(alone=True),
    "zero": lambda of: Figure((of.kind == ZERO) | (of.kind == HUGE_ZERO)),
    "guard": lambda of: Figure(of.kind == GUARD),
    "swap": lambda of: Figure(of.kind == SWAP),
}
"""The figures that are bytes of pages."""

ORDER = (
    *("rss", "pss", "uss", "shared", "anon", "file", "shmem", "swap", "swappss"),
    *("pss_anon", "pss_file", "pss_shmem", "ksm", "lazyfree", "locked"),
    *("anonhugepages", "shmempmdmapped", "filepmdmapped", "shared_hugetlb", "private_hugetlb"),
    *("zero", "guard"),
)
"""All figures, in the order of columns."""


class Sums(NamedTuple):
    """Figures summed over ranges of pages.

    Attributes
    ----------
    values : dict of str to ndarray of int64
        Bytes; those of `FIXED` in fixed point still.
    unknown : dict of str to ndarray of int64
        How many pages leave a figure in doubt.
    """

    values: dict[str, Ints]
    unknown: dict[str, Ints]

    def grouped(self, at: Ints) -> Sums:
        """Sums of neighbouring rows: group ``i`` is rows ``at[i] : at[i + 1]``."""
        lo, hi = at[:-1], at[1:]
        return Sums(
            {name: range_sums(values, lo, hi) for name, values in self.values.items()},
            {name: range_sums(values, lo, hi) for name, values in self.unknown.items()},
        )

    def columns(self) -> dict[str, Maybe]:
        """The figures in bytes, null where in doubt."""
        out = {}
        for name, values in self.values.items():
            whole = values >> PSS_SHIFT if name in FIXED else values
            out[name] = Maybe(whole, self.unknown[name] > 0)
        return out


def by_vma(of: Accounts, only: Iterable[str] | None = None) -> Sums:
    """Some figures, or all, for every row of ``vmas``."""
    wanted = ORDER if only is None else tuple(only)
    if wrong := [name for name in wanted if name not in ORDER]:
        raise TableError(f"there is no figure {wrong[0]!r}; there are {', '.join(ORDER)}")
    lo, hi = of.vma_ranges
    values, unknown = {}, {}
    for name in wanted:
        figure = FIXED[name](of) if name in FIXED else BYTES[name](of)
        unit = 1 if name in FIXED else of.page_size
        values[name] = range_sums(figure.amount, lo, hi) * unit
        if figure.unknown is None or not figure.unknown.any():
            unknown[name] = np.zeros(len(lo), np.int64)
        else:
            unknown[name] = range_sums(figure.unknown, lo, hi)
    return Sums(values, unknown)
