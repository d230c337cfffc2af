"""The columns of a snapshot as bare NumPy arrays, loaded when first asked for.

Unknown values need a place in an array: integers have -1, bools come with a mask of where they
are unknown. Rows are put in order (process, then address) if they are not, for everything
above relies on it.

What can go wrong: a column an answer needs is missing or hidden. `Arrays.need` raises
`NotAvailable` with what to do about it. Two rows for one address are refused (`TableError`).
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ..entries import KINDS, Bools, Ints
from ..errors import Hidden, NotAvailable, ProcessGone, TableError
from ..runs import bounds, concatenated, runs

ABSENT = KINDS.index("absent")
PRESENT = KINDS.index("present")
ZERO, HUGE_ZERO = KINDS.index("zero"), KINDS.index("huge_zero")
SWAP = KINDS.index("swap")
GUARD = KINDS.index("marker_guard")
ELSEWHERE = tuple(KINDS.index(kind) for kind in ("migration", "hwpoison", "device"))
"""Words that are not present but name a page frame; smaps counts them as resident."""

SLOT_BITS = 50
"""A swap slot as one number: ``swap_type << SLOT_BITS | swap_offset``."""

IN_SWAP = 1 << 62
"""Set in a `View.place` that is a swap slot."""

_HOW_TO_JOIN = {
    "mapcount": "take the snapshot with join=['mapcount'], as root",
    "flags": "take the snapshot with join=['flags'], as root",
    "huge": "take the snapshot with join=['huge']",
    "pfn": "read pagemap with CAP_SYS_ADMIN (as root)",
    "swap_offset": "read pagemap with CAP_SYS_ADMIN (as root)",
}


class Tables(Protocol):
    """What a snapshot must be able to do for an analysis."""

    facts: dict[str, Any]

    def arrow(self, name: str) -> pa.Table:
        """The table called `name`."""


class Arrays:
    """The columns of ``pages`` and ``vmas`` of one snapshot.

    Parameters
    ----------
    snap : Tables
        A snapshot.
    complete : bool, optional
        Whether every process of the machine is in it. If not given, the fact ``complete`` of
        the snapshot; if that is missing, False.
    """

    def __init__(self, snap: Tables, complete: bool | None = None) -> None:
        self.facts = snap.facts
        self.complete = bool(snap.facts.get("complete")) if complete is None else complete
        self.page_size = int(snap.facts.get("page_size", 4096))
        self.frames = snap.arrow("frames")
        self.processes, self.swaps = snap.arrow("processes"), snap.arrow("swaps")
        self.vmas = _in_order(snap.arrow("vmas"), "start")
        self.pages = _in_order(snap.arrow("pages"), "vaddr")

    def ints(self, name: str) -> Ints:
        """Column `name` of ``pages``; -1 where null, and everywhere if it is not there.

        Of the column's own width, if that is signed.
        """
        if not self._any(name):
            return np.full(len(self.pages), -1, np.int64)
        return numbers(self.pages[name], -1)

    def bools(self, name: str, unknown: bool = False) -> Bools:
        """Column `name` of ``pages``; `unknown` where null, or everywhere."""
        if not self._any(name):
            return np.full(len(self.pages), unknown)
        return np.asarray(pc.fill_null(self.pages[name], unknown).to_numpy(), np.bool_)

    def unknown(self, name: str) -> Bools:
        """Where column `name` of ``pages`` is null, or everywhere if it is not there."""
        if not self._any(name):
            return np.ones(len(self.pages), np.bool_)
        if not self.pages[name].null_count:
            return np.zeros(len(self.pages), np.bool_)
        return np.asarray(pc.is_null(self.pages[name]).to_numpy(), np.bool_)

    def _any(self, name: str) -> bool:
        """Whether a column of ``pages`` is there and holds anything but null."""
        if name not in self.pages.schema.names:
            return False
        return bool(self.pages[name].null_count < max(len(self.pages), 1))

    def need(self, name: str, rows: Bools, what_for: str) -> None:
        """Raise `NotAvailable`, or `Hidden`, if column `name` is unknown for *all* of `rows`."""
        if rows.any() and self.unknown(name)[rows].all():
            why = self.facts.get("pfns_why") if name in ("pfn", "swap_offset") else None
            error = Hidden if why else NotAvailable
            raise error(
                f"{what_for} needs pages.{name}, which this snapshot does not have"
                + (f" ({why})" if why else "")
                + f"; {_HOW_TO_JOIN[name]}"
            )

    @cached_property
    def pid(self) -> Ints:
        """Process of each page."""
        return self.ints("pid")

    @cached_property
    def vaddr(self) -> Ints:
        """Address of each page."""
        return self.ints("vaddr")

    @cached_property
    def kind(self) -> NDArray[np.int8]:
        """Index into `KINDS` of each page."""
        parts = []
        for chunk in self.pages["kind"].chunks:
            words = chunk.dictionary.to_pylist()
            place, code = np.array([KINDS.index(k) for k in words], np.int8), chunk.indices
            same = code.type == pa.int8() and tuple(words) == KINDS[: len(words)]
            parts.append(code.to_numpy() if same else place[code.to_numpy()])
        return np.concatenate(parts) if parts else np.zeros(0, np.int8)

    @cached_property
    def pfn(self) -> Ints:
        """Page frame of each page, -1 if it has none or it is hidden."""
        return self.ints("pfn")

    @cached_property
    def slot(self) -> Ints:
        """Swap slot of each page as one number, -1 if it has none or it is hidden."""
        offset = self.ints("swap_offset")
        if not self._any("swap_offset"):
            return offset
        return np.where(offset < 0, -1, self.ints("swap_type") << SLOT_BITS | offset)

    @cached_property
    def process_rows(self) -> tuple[Ints, Ints]:
        """The pids that have pages, and where their rows begin, with the length behind."""
        return bounds(self.pid)

    def rows_of(self, pid: int) -> slice:
        """The rows of ``pages`` of one process."""
        return slice(*np.searchsorted(self.pid, [pid, pid + 1]).tolist())

    def process(self, pid: int) -> dict[str, Any]:
        """Row of ``processes``; `ProcessGone` if the snapshot does not have it."""
        known = self.processes["pid"].to_pylist()
        if pid not in known:
            raise ProcessGone(f"the snapshot has no process {pid}; it has {len(known)} others")
        return dict(self.processes.slice(known.index(pid), 1).to_pylist()[0])

    @cached_property
    def framed(self) -> Bools:
        """Pages in memory of their own, hugetlb too, whose frame is known."""
        return np.asarray((self.kind == PRESENT) & (self.pfn >= 0), np.bool_)

    @cached_property
    def place(self) -> Ints:
        """Where each page's own content is: its PFN, or its swap slot with bit 62 set.

        -1 for zero pages, markers, and what is hidden. Equal places are the same memory.
        """
        swapped = np.where(self.slot >= 0, self.slot | IN_SWAP, -1)
        return np.where(self.framed, self.pfn, swapped)

    @cached_property
    def vma_pid(self) -> Ints:
        """Process of each VMA."""
        return numbers(self.vmas["pid"], -1)

    @cached_property
    def vma_start(self) -> Ints:
        """First address of each VMA."""
        return numbers(self.vmas["start"], -1)

    @cached_property
    def vma_end(self) -> Ints:
        """First address behind each VMA."""
        return numbers(self.vmas["end"], -1)

    @cached_property
    def vma_ranges(self) -> tuple[Ints, Ints]:
        """Rows ``[lo, hi)`` of ``pages`` that lie in each row of ``vmas``."""
        owner, start, end = self.vma_pid, self.vma_start, self.vma_end
        lo, hi = np.zeros(len(owner), np.int64), np.zeros(len(owner), np.int64)
        pids, at = self.process_rows
        for first, stop in zip(*runs((owner, 0)), strict=True):
            k = int(np.searchsorted(pids, owner[first]))
            if k == len(pids) or pids[k] != owner[first]:
                continue
            mine = self.vaddr[at[k] : at[k + 1]]
            lo[first:stop] = at[k] + np.searchsorted(mine, start[first:stop])
            hi[first:stop] = at[k] + np.searchsorted(mine, end[first:stop])
        return lo, hi

    @cached_property
    def vma_of(self) -> Ints:
        """Row of ``vmas`` in which each page lies, -1 if in none."""
        lo, hi = self.vma_ranges
        out = np.full(len(self.pages), -1, np.int64)
        out[concatenated(lo, hi)] = np.repeat(np.arange(len(lo)), hi - lo)
        return out

    def vma_is(self, *kinds: str) -> Bools:
        """Where a page lies in a VMA of one of `kinds`."""
        wanted = pc.is_in(self.vmas["kind"].cast(pa.string()), pa.array(kinds))
        if not pc.any(wanted).as_py():
            return np.zeros(len(self.pages), np.bool_)
        return np.append(wanted.to_numpy(), False)[self.vma_of].astype(np.bool_)

    @cached_property
    def leaders(self) -> dict[int, int]:
        """For each pid, the lowest pid in the snapshot with the same address space."""
        lowest: dict[int, int] = {}
        out = {}
        pids = self.processes["pid"].to_pylist()
        for pid, mm in sorted(zip(pids, self.processes["mm"].to_pylist(), strict=True)):
            out[pid] = pid if mm is None else lowest.setdefault(mm, pid)
        return out

    @cached_property
    def once(self) -> Bools:
        """Where a page belongs to the first process with its address space."""
        pids, at = self.process_rows
        first = np.array([self.leaders.get(p, p) == p for p in pids.tolist()], np.bool_)
        return np.repeat(first, np.diff(at))


def same_machine(before: Tables, after: Tables) -> None:
    """Raise `TableError` unless two snapshots are of one host, one boot and one page size.

    Page frames and swap slots of another boot are other memory, however equal the numbers.
    """
    for fact in ("host", "boot_id", "page_size"):
        one, other = before.facts.get(fact), after.facts.get(fact)
        if one is not None and other is not None and one != other:
            raise TableError(
                f"the snapshots cannot be compared: {fact} is {one!r} in one and {other!r} in "
                "the other; take both on one host between two boots"
            )


def numbers(column: pa.ChunkedArray, null: int) -> Ints:
    """A column of signed integers or uint8 as an array, with `null` for null."""
    if column.type == pa.uint8():
        column = column.cast(pa.int64())
    if column.null_count:
        column = pc.fill_null(column, pa.scalar(null, column.type))
    return np.asarray(column.to_numpy())


def _in_order(table: pa.Table, address: str) -> pa.Table:
    """`table` sorted by process and address; as it is if it is so already."""
    pid, at = numbers(table["pid"], -1), numbers(table[address], -1)
    up = at[1:] > at[:-1]
    edge = np.flatnonzero(~up)
    same = pid[edge + 1] == pid[edge]
    if bool((pid[1:] >= pid[:-1]).all()):
        if not same.any():
            return table
        if (at[edge + 1] == at[edge])[same].all():
            raise TableError(
                f"{address} occurs twice in one process: are these two snapshots in one?"
            )
    return _in_order(table.take(np.lexsort((at, pid))), address)
