"""Copy-on-write lost: what parent and child shared at the fork, and what became of it.

After fork(2) both sides map the same page frames of private memory. Whoever writes first gets
a copy, and the memory is there twice. `lost` follows each page from a snapshot near the fork
to a later one and says who it was: the side whose page frame changed is the side that wrote,
for the kernel leaves the old frame to the other (wp_page_copy, mm/memory.c).

In: one snapshot or two, and two pids. Out: one row per VMA, or per page, with a state:

===================  ==================================================================
``shared``           both still have the same page frame (the same as ever, or migrated)
``by_child``         the child wrote: it has a frame of its own, the parent the old one
``by_parent``        the parent wrote
``by_both``          neither has the old frame, and they differ
``unshared``         they differ, and with one snapshot nobody can say who wrote
``swapped``          one or both have it in swap
``freed_by_child``   the child has it no more: unmapped, MADV_DONTNEED, or gone
``freed_by_parent``  likewise the parent
``freed``            likewise both
===================  ==================================================================

What can go wrong: hidden page frames (`NotAvailable`); a pid that is not there or is another
process by now (`ProcessGone`); snapshots of two machines (`TableError`). A page that was
copied and then migrated, or copied twice, is reported as what its last frame looks like.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from .. import runs
from ..entries import Bools, Ints
from ..errors import ProcessGone
from .answers import Maybe, result
from .arrays import IN_SWAP, PRESENT, Tables, same_machine
from .view import View

if TYPE_CHECKING:
    import pandas as pd

STATES = (
    "shared",
    "by_child",
    "by_parent",
    "by_both",
    "unshared",
    "swapped",
    "freed_by_child",
    "freed_by_parent",
    "freed",
)
"""What can have become of a page that parent and child shared."""

_LOST = ("by_child", "by_parent", "by_both", "unshared")


class _Followed(NamedTuple):
    """Pages shared at the fork: addresses, VMA rows, and where they are later (-1: nowhere)."""

    vaddr: Ints
    vma: Ints
    then: Ints | None
    parent: Ints
    child: Ints


def lost(
    before: Tables,
    after: Tables | None = None,
    *,
    parent: int,
    child: int,
    per: Literal["vma", "page"] = "vma",
) -> pd.DataFrame:
    """What became of the memory that `parent` and `child` shared.

    Parameters
    ----------
    before : Snapshot
        Near the fork. If it was taken just before the fork it has only the parent, and the child
        is taken to have got all of the parent's anonymous pages.
    after : Snapshot, optional
        Later. If not given, `before` is all there is: pages of both at the same address are
        compared as they are now, and who wrote is not known.
    parent, child : int
        Pids. Any two processes with a common ancestor will do.
    per : {"vma", "page"}
        One row per VMA of the parent, the one with most lost first, or one row per page.

    Returns
    -------
    DataFrame
        Per VMA: ``start end perms path kind``, ``lost`` (bytes in the states by_child, by_parent,
        by_both and unshared) and the bytes in each of `STATES`. Per page: ``vaddr``, ``state``,
        ``start`` and ``path`` of the VMA, and the page frames ``pfn`` (at the fork),
        ``parent_pfn`` and ``child_pfn``, null where not in memory.
    """
    if per not in ("vma", "page"):
        raise ValueError(f"per is 'vma' or 'page', not {per!r}")
    then = View(before)
    if after is None:
        pages = _compared(then, parent, child)
    else:
        same_machine(before, after)
        pages = _followed(then, View(after), parent, child)
    state = _states(pages)
    return _per_page(then, pages, state) if per == "page" else _per_vma(then, pages, state)


def _compared(now: View, parent: int, child: int) -> _Followed:
    """Pages that both have in a private mapping, at one moment."""
    a, b = _private(now, parent), _private(now, child)
    i, j = runs.matched(now.vaddr[a], now.vaddr[b])
    rows, other = a[i], b[j]
    either_anon = (now.anon[rows] | now.anon[other]) & ~(now.no_anon[rows] | now.no_anon[other])
    keep = either_anon | (now.place[rows] == now.place[other])
    rows, other = rows[keep], other[keep]
    return _Followed(now.vaddr[rows], now.vma_of[rows], None, now.place[rows], now.place[other])


def _followed(then: View, later: View, parent: int, child: int) -> _Followed:
    """Pages that both had at the fork, and where they are later."""
    rows = _private(then, parent)
    if child in then.processes["pid"].to_pylist():
        same = _looked_up(then, child, then.vaddr[rows]) == then.place[rows]
    else:
        same = then.anon[rows]
    rows = rows[same]
    vaddr = then.vaddr[rows]
    places = [_looked_up(later, _still(then, later, pid), vaddr) for pid in (parent, child)]
    return _Followed(vaddr, then.vma_of[rows], then.place[rows], *places)


def _still(then: View, later: View, pid: int) -> int | None:
    """`pid` if it is the same process in both, None if it is gone in the later."""
    if pid not in later.processes["pid"].to_pylist():
        if pid not in then.processes["pid"].to_pylist():
            raise ProcessGone(f"neither snapshot has a process {pid}")
        return None
    born = later.process(pid)["start_time"]
    if pid in then.processes["pid"].to_pylist() and then.process(pid)["start_time"] != born:
        return None
    return pid


def _private(view: View, pid: int) -> Ints:
    """Rows of a process's pages in private mappings that have a place."""
    view.process(pid)
    mine = view.rows_of(pid)
    rows = np.arange(mine.start, mine.stop)
    view.need("pfn", (view.kind == PRESENT) & (view.pid == pid), "following pages through a fork")
    private = np.array([p[3:4] == "p" for p in view.vmas["perms"].to_pylist()] + [False], np.bool_)
    return rows[private[view.vma_of[rows]] & (view.place[rows] >= 0)]


def _looked_up(view: View, pid: int | None, vaddr: Ints) -> Ints:
    """Place of the pages at `vaddr` in a process; -1 where it has none."""
    out = np.full(len(vaddr), -1, np.int64)
    if pid is not None:
        mine = view.rows_of(pid)
        i, j = runs.matched(vaddr, view.vaddr[mine])
        out[i] = view.place[mine][j]
    return out


def _states(pages: _Followed) -> NDArray[np.int8]:
    """Index into `STATES` of each page."""
    parent, child = pages.parent, pages.child
    no_parent, no_child = parent < 0, child < 0
    swapped = ~no_parent & (parent & IN_SWAP != 0) | ~no_child & (child & IN_SWAP != 0)
    conditions: list[tuple[str, Bools]] = [
        ("freed", no_parent & no_child),
        ("swapped", swapped),
        ("freed_by_parent", no_parent),
        ("freed_by_child", no_child),
        ("shared", parent == child),
    ]
    if pages.then is not None:
        conditions.append(("by_child", parent == pages.then))
        conditions.append(("by_parent", child == pages.then))
    which = [np.int8(STATES.index(name)) for name, _ in conditions]
    rest = np.int8(STATES.index("unshared" if pages.then is None else "by_both"))
    return np.select([where for _, where in conditions], which, rest)


def _per_vma(view: View, pages: _Followed, state: NDArray[np.int8]) -> pd.DataFrame:
    vma, place = np.unique(pages.vma, return_inverse=True)
    count = np.zeros((len(vma), len(STATES)), np.int64)
    np.add.at(count, (place, state), view.page_size)
    by_state = dict(zip(STATES, count.T, strict=True))
    total = np.sum([by_state[name] for name in _LOST], axis=0)
    order = np.argsort(-total, kind="stable")
    vma = vma[order]
    named = {name: view.vmas[name].take(vma) for name in ("perms", "path", "kind")}
    columns = {"start": view.vma_start[vma], "end": view.vma_end[vma], **named}
    columns |= {"lost": total[order], **{name: v[order] for name, v in by_state.items()}}
    return result(columns)


def _per_page(view: View, pages: _Followed, state: NDArray[np.int8]) -> pd.DataFrame:
    def frame(place: Ints) -> Maybe:
        return Maybe(place, (place < 0) | (place & IN_SWAP != 0))

    names = pa.DictionaryArray.from_arrays(pa.array(state), pa.array(STATES))
    then = np.where(pages.parent == pages.child, pages.parent, -1)
    columns = {
        "vaddr": pages.vaddr,
        "state": names,
        "start": view.vma_start[pages.vma],
        "path": view.vmas["path"].take(pages.vma),
        "pfn": frame(then if pages.then is None else pages.then),
        "parent_pfn": frame(pages.parent),
        "child_pfn": frame(pages.child),
    }
    return result(columns)
