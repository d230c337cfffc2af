"""What is on the map: runs of alike pages, what they are, and their colours.

In: a snapshot (or a `Folded` one), which process or all of physical memory, and what colours
are to tell. Out: `Content`: runs in page numbers, ascending, each with a code, and the legend
of codes. Neighbours with the same code are one run, so that what is alike costs nothing.

==========  ======================  =======================================================
colour      space                   a code says
==========  ======================  =======================================================
state       virtual, physical       what a page is
sharers     virtual, physical       how many page table entries map it
vma         virtual                 which mapping it is in, the largest by name
swap        virtual                 which swap device it is on
owner       physical                which process has the page frame, or that several have
change      virtual, physical       what became of it between two snapshots
age         virtual                 how many looks ago it changed, in live mode
==========  ======================  =======================================================

What can go wrong: the process is not there (`ProcessGone`); page frames are hidden
(`NotAvailable`); a colour that this space does not have (`TableError`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from .. import changes, palette
from ..algebra.arrays import PRESENT, SWAP, Tables, numbers
from ..algebra.figures import Accounts
from ..entries import Ints
from ..errors import ProcessGone, TableError
from ..plot.colouring import colouring, slots_for
from ..snapshot import Snapshot
from .folded import Folded

COLOURS: Mapping[str, tuple[str, ...]] = {
    "virtual": ("state", "sharers", "vma", "swap", "change", "age"),
    "physical": ("state", "sharers", "owner", "change"),
}
"""What colours can tell, by space."""

SAME, SAME_COLOUR = "as it was", "#CFCFD4"
AGES: Mapping[str, str] = {
    "at the last look": palette.OWNERS[5],
    "1 to 4 looks before": palette.OWNERS[1],
    "5 to 29 looks before": palette.OWNERS[6],
    "longer ago": palette.OWNERS[3],
}
AGE_STEPS = (1, 5, 30)
"""Where the classes of `AGES` begin, but the first."""


class Legend(NamedTuple):
    """Names and colours of codes."""

    title: str
    names: tuple[str, ...]
    colours: tuple[str, ...]


class Content(NamedTuple):
    """Runs of alike pages, ascending and not overlapping.

    Attributes
    ----------
    start, n : ndarray of int64
        First page (or page frame) of each run, and how many.
    code : ndarray of uint8
        Index into the names of `legend`.
    """

    start: Ints
    n: Ints
    code: NDArray[np.uint8]
    legend: Legend


class Changed(NamedTuple):
    """Pages that changed.

    Attributes
    ----------
    pid, page : ndarray of int64
        Process and page number.
    change : ndarray of int64
        Index into `changes.CHANGES`.
    frame : ndarray of int64
        Page frame it is in, or was; -1 for none, or hidden.
    age : ndarray of int64
        How many looks ago; 0 is the last.
    """

    pid: Ints
    page: Ints
    change: Ints
    frame: Ints
    age: Ints

    def rows(self, which: Any) -> Changed:
        """Some of them."""
        return Changed(*(values[which] for values in self))

    def plus(self, later: Changed) -> Changed:
        """These a look older, with those that changed `later` over them."""
        aged = self._replace(age=self.age + 1)
        every = Changed(*(np.concatenate([new, old]) for new, old in zip(later, aged, strict=True)))
        _, first = np.unique(np.stack([every.pid, every.page]), axis=1, return_index=True)
        return every.rows(first)

    def of(self, pid: int | None) -> Changed:
        """Those of one process by page, or of all by the page frame they are or were in."""
        if pid is not None:
            return self.rows(self.pid == pid)
        known = np.flatnonzero(self.frame >= 0)
        _, first = np.unique(self.frame[known], return_index=True)
        return self.rows(known[first])._replace(page=self.frame[known[first]])


def changed(before: Tables, after: Tables) -> Changed:
    """What differs between two snapshots, by process and page."""
    found = changes.pages(before, after)
    size = int(after.facts.get("page_size", 4096))
    was, now = (found[f"pfn_{when}"].to_numpy(np.int64, na_value=-1) for when in _SIDES)
    order = {name: k for k, name in enumerate(changes.CHANGES)}
    code = found["change"].astype(str).map(order).to_numpy().astype(np.int64)
    page = found["vaddr"].to_numpy() // size
    frame = np.where(now >= 0, now, was)
    return Changed(found["pid"].to_numpy(np.int64), page, code, frame, np.zeros_like(page))


_SIDES = ("before", "after")


class Rows:
    """The rows of one process, or of all: a `View` of them, and the pages each stands for."""

    def __init__(self, snap: Tables, pid: int | None) -> None:
        self.view = _view(snap, pid)
        mine = self.view.rows_of(pid) if pid is not None else slice(0, len(self.view.pages))
        self.mine = mine
        self.n = np.ones(mine.stop - mine.start, np.int64)
        if isinstance(snap, Folded):
            length = numbers(snap.arrow("extents")["n_pages"], -1)
            self.n = length[_rows_of(snap.arrow("extents"), pid)]
        self.page = self.view.vaddr[mine] // self.view.page_size


def _view(snap: Tables, pid: int | None) -> Accounts:
    """Accounts of `snap`; of the rows of `pid` alone, where others do not matter for them."""
    names = ("vmas", "frames", "swaps", "processes")
    table = snap.first_pages if isinstance(snap, Folded) else snap.arrow("pages")
    # Map counts of the kernel say all; without them, sharers are counted over all processes.
    alone = isinstance(snap, Folded) or "mapcount" in table.schema.names
    if not alone:
        return Accounts(snap)
    if pid is not None:
        table = table.slice(*_slice(_rows_of(table, pid)))
    tables = {name: snap.arrow(name) for name in names}
    facts = {**snap.facts, "complete": False} if isinstance(snap, Folded) else snap.facts
    return Accounts(Snapshot({**tables, "pages": table}, facts))


def _rows_of(table: pa.Table, pid: int | None) -> slice:
    if pid is None:
        return slice(0, len(table))
    return slice(*np.searchsorted(numbers(table["pid"], -1), [pid, pid + 1]).tolist())


def _slice(rows: slice) -> tuple[int, int]:
    return rows.start, rows.stop - rows.start


def largest(snap: Tables) -> list[tuple[int, str, int]]:
    """Processes as (pid, ``pid name``, pages), the largest first."""
    table = snap.arrow("extents" if isinstance(snap, Folded) else "pages")
    pid = numbers(table["pid"], -1)
    starts = np.flatnonzero(np.r_[True, pid[1:] != pid[:-1]][: len(pid)])
    pages = np.diff(np.append(starts, len(pid)))
    if isinstance(snap, Folded):
        pages = np.add.reduceat(numbers(table["n_pages"], -1), starts) if len(starts) else pages
    size = dict(zip(pid[starts].tolist(), pages.tolist(), strict=True))
    names = dict(
        zip(*(snap.arrow("processes")[c].to_pylist() for c in ("pid", "name")), strict=True)
    )
    every = sorted({*size, *names}, key=lambda p: (-size.get(p, 0), p))
    return [(p, f"{p} {names.get(p) or 'process'}", size.get(p, 0)) for p in every]


# -- one process -----------------------------------------------------------------------------


def of_process(snap: Tables, pid: int, color: str, found: Changed | None) -> Content:
    """What one process has.

    Parameters
    ----------
    snap : Snapshot or Folded
        With process `pid`.
    color : str
        One of ``COLOURS["virtual"]``.
    found : Changed, optional
        What changed in it; needed for ``change`` and ``age``.
    """
    rows = Rows(snap, pid)
    if color in ("change", "age"):
        if found is None:
            raise TableError(f"color={color!r} needs two snapshots: MemoryMap(before, after)")
        return overlaid(rows.page, rows.n, found, *of_changes(found, color))
    legend, code = coding(rows, color)
    keep = code >= 0
    return merged(rows.page[keep], rows.n[keep], code[keep], legend)


def coding(rows: Rows, color: str) -> tuple[Legend, NDArray[Any]]:
    """Legend, and the code of each of `rows`; -1 for what is not drawn."""
    if color in ("state", "sharers"):
        found = colouring(rows.view, color)
        return Legend(found.title, found.names, found.colours), found.code[rows.mine]
    if color == "vma":
        return _by_vma(rows)
    if color == "swap":
        return _by_swap(rows)
    raise TableError(f"color is one of {', '.join(COLOURS['virtual'])}, not {color!r}")


def _by_vma(rows: Rows) -> tuple[Legend, NDArray[Any]]:
    view, vma = rows.view, rows.view.vma_of[rows.mine]
    names = vma_names(view.vmas)
    different = dict.fromkeys([*names, "no mapping"])
    number = {name: k for k, name in enumerate(different)}
    of_vma = np.array([*(number[name] for name in names), number["no mapping"]], np.int64)
    group = of_vma[vma]
    size = np.bincount(group, rows.n, len(number)).astype(np.int64)
    sizes = {k: int(pages) for k, pages in enumerate(size.tolist()) if pages}
    slots = slots_for(sizes, {k: name for name, k in number.items()})
    place = np.array([slots.of.get(k, 0) for k in range(len(number))], np.int64)
    return Legend("mapping", slots.names, slots.colours), place[group]


def _by_swap(rows: Rows) -> tuple[Legend, NDArray[Any]]:
    view, mine = rows.view, rows.mine
    paths = dict(zip(*(view.swaps[c].to_pylist() for c in ("swap_type", "path")), strict=True))
    area = view.ints("swap_type")[mine].astype(np.int64)
    swapped = view.kind[mine] == SWAP
    sizes = np.bincount(np.where(swapped, area, -1) + 1, rows.n).astype(np.int64).tolist()
    known = {k - 1: size for k, size in enumerate(sizes) if size and k}
    slots = slots_for(known, {k: paths.get(k) or f"swap area {k}" for k in known})
    names = (*slots.names, "in swap, area hidden", "in memory", "neither")
    colours = (*slots.colours, palette.SEVERAL, palette.STATES["zero page"], palette.NOBODY)
    n = len(slots.names)
    place = np.array([*(slots.of.get(k, n) for k in range(max(known, default=-1) + 1)), n])
    there = np.where(view.kind[mine] == PRESENT, n + 1, n + 2)
    return Legend("swap device", names, colours), np.where(swapped, place[area], there)


def of_changes(found: Changed, color: str) -> tuple[Legend, NDArray[Any]]:
    """Legend and codes of changed pages; the last code is `SAME`."""
    if color == "age":
        names, colours = tuple(AGES), tuple(AGES.values())
        code: NDArray[Any] = np.searchsorted(AGE_STEPS, found.age, side="right")
        title = "last changed"
    else:
        names = tuple(name.replace("_", " ") for name in palette.CHANGES)
        colours, title = tuple(palette.CHANGES.values()), "what became of it"
        order = [tuple(palette.CHANGES).index(name) for name in changes.CHANGES]
        code = np.array(order)[found.change]
    return Legend(title, (*names, SAME), (*colours, SAME_COLOUR)), code


def overlaid(page: Ints, n: Ints, found: Changed, legend: Legend, code: NDArray[Any]) -> Content:
    """Runs of pages that are as they were, with the changed pages among or over them."""
    same = len(legend.names) - 1
    order = np.argsort(found.page, kind="stable")
    there, code = found.page[order], code[order]
    # What is left of each run between the changed pages in it.
    lo = np.searchsorted(there, page)
    hi = np.searchsorted(there, page + n)
    before = np.append(there, np.iinfo(np.int64).max)
    inner = np.repeat(page, hi - lo + 1)
    nth = np.arange(len(inner)) - np.repeat(np.cumsum(hi - lo + 1) - (hi - lo + 1), hi - lo + 1)
    row = np.repeat(lo, hi - lo + 1) + nth
    start = np.where(nth > 0, np.append(there, 0)[row - 1] + 1, inner)
    stop = np.minimum(before[row], np.repeat(page + n, hi - lo + 1))
    left = stop > start
    starts = np.concatenate([start[left], there])
    lengths = np.concatenate([(stop - start)[left], np.ones(len(there), np.int64)])
    codes = np.concatenate([np.full(int(left.sum()), same), code])
    order = np.argsort(starts, kind="stable")
    return merged(starts[order], lengths[order], codes[order], legend)


def merged(start: Ints, n: Ints, code: NDArray[Any], legend: Legend) -> Content:
    """Runs with neighbours of one code made one."""
    cut = (start[1:] != start[:-1] + n[:-1]) | (code[1:] != code[:-1])
    first = np.flatnonzero(np.r_[True, cut][: len(start)])
    stop = start + n
    last = np.append(first[1:], len(start))[: len(first)] - 1
    return Content(start[first], stop[last] - start[first], code[first].astype(np.uint8), legend)


def vma_names(vmas: pa.Table) -> list[str]:
    """What to call each row of ``vmas``: the file's name, or the kind of memory."""
    named = zip(*(vmas[c].to_pylist() for c in ("path", "kind")), strict=True)
    return [path.rpartition("/")[2] or path or kind for path, kind in named]


def check_pid(snap: Tables, pid: int | None, known: Sequence[tuple[int, str, int]]) -> int | None:
    """The process to show: `pid`, or the largest; None if there is none at all."""
    if pid is None:
        return known[0][0] if known else None
    if all(pid != one[0] for one in known):
        raise ProcessGone(f"the snapshot has no process {pid}; it has {len(known)} others")
    return pid
