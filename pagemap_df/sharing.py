"""How much memory is whose: by process, by VMA, by group, and what one more costs.

The words are those of smaps. RSS counts every page a process maps. PSS divides each page by
the page table entries that map it. USS counts the pages nobody else maps. For several
processes together none of the three is right: RSS counts twice, and PSS and USS do not see
that two sharers are in the same group. What is right is the *union of page frames*, which
`groups` computes.

A process in these tables is an address space. Processes that share one (CLONE_VM) show the
same figures in `processes`, as in smaps; column ``mm`` says so, and ``df[df.mm == df.pid]``
counts once. Everything that adds processes up counts an address space once by itself.

All figures are bytes. What is not known is null, and ``.attrs["accuracy"]`` says for each
column where it is a bound, what it needs, and by what it was computed. Columns are computed
from page words and page frames, not copied from smaps; where a snapshot holds the kernel's
own figures too, the two can be compared.

What can go wrong: without map counts PSS is null (take the snapshot with
``join=["mapcount"]``); without PFNs no frame can be told from another, and everything that
needs frames raises `NotAvailable` with the reason. A process whose pages could not be read
has no VMAs here and null in every figure.

Examples
--------
>>> from pagemap_df.sim import Machine, Script
>>> script = Script.parse('''
... proc server
... server: heap = mmap 8 private anon rw
... server: write heap
... fork server -> worker
... snap forked
... worker: write heap[0:3]
... snap later
... ''')
>>> snaps = Machine().run(script, join=["mapcount", "flags", "huge"])
>>> now = snaps["later"]
>>> heap = vmas(now).query("kind == 'anon'")
>>> print(heap[["pid", "rss", "pss", "uss"]].to_string(index=False))
 pid   rss   pss   uss
1001 32768 22528 12288
1002 32768 22528 12288
>>> fate = lost(snaps["forked"], now, parent=1001, child=1002, per="page")
>>> print(fate[fate.path == ""].state.to_list())
['by_child', 'by_child', 'by_child', 'shared', 'shared', 'shared', 'shared', 'shared']
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from .algebra import figures
from .algebra.answers import Maybe, result
from .algebra.arrays import PRESENT, SWAP, Tables
from .algebra.cow import lost
from .algebra.figures import PSS_SHIFT, Accounts
from .algebra.grouping import labels
from .algebra.holders import Holdings, matrix, mechanisms, sets
from .algebra.quick import pss
from .algebra.view import View
from .entries import Bools, Ints
from .runs import bounds, range_sums

if TYPE_CHECKING:
    import pandas as pd

    from .algebra.grouping import Grouping

__all__ = [
    "cost",
    "groups",
    "lost",
    "matrix",
    "mechanisms",
    "processes",
    "pss",
    "sets",
    "vmas",
]


def vmas(
    snap: Tables, *, only: Iterable[str] | None = None, complete: bool | None = None
) -> pd.DataFrame:
    """The figures of smaps for every VMA.

    Parameters
    ----------
    snap : Snapshot
        With the columns ``mapcount``, ``flags`` and ``huge`` joined for all figures to be known.
    only : iterable of str, optional
        The figures wanted, of `figures.ORDER`; all if not given, which takes longer.
    complete : bool, optional
        Whether every process of the machine is in `snap`; if not given, as `snap` says.

    Returns
    -------
    DataFrame
        One row per VMA, sorted by ``pid`` and ``start``: the columns ``pid start end perms path
        kind`` of the VMA, ``vss``, and the figures of `figures.ORDER` under their smaps names in
        small letters, in bytes. smaps prints them divided by 1024 and cut.
    """
    view = Accounts(snap, complete)
    sums = figures.by_vma(view, only)
    named = {name: view.vmas[name] for name in ("perms", "path", "kind")}
    own = {"pid": view.vma_pid, "start": view.vma_start, "end": view.vma_end, **named}
    return result({**own, "vss": view.vma_end - view.vma_start, **sums.columns()}, _notes(view))


def processes(
    snap: Tables, *, only: Iterable[str] | None = None, complete: bool | None = None
) -> pd.DataFrame:
    """The figures of smaps_rollup for every process.

    Returns
    -------
    DataFrame
        One row per process, sorted by ``pid``: ``pid ppid name uid cgroup mm``, and the columns
        of `vmas` summed, PSS before it is cut to bytes. ``mm`` is the lowest pid in `snap` with
        the same address space. Figures are null for a process without a single VMA: a kernel
        thread, or one that could not be read.
    """
    view = Accounts(snap, complete)
    owners, at = bounds(view.vma_pid)
    sums = figures.by_vma(view, only).grouped(at)
    pids = np.union1d(owners, np.array(view.processes["pid"], np.int64)).astype(np.int64)
    row, blank = _rows(owners, pids)
    leader = np.array([view.leaders.get(p, p) for p in pids.tolist()], np.int64)
    own = {"pid": pids, **_told(view, pids, "ppid", "name", "uid", "cgroup"), "mm": leader}
    vss = range_sums(view.vma_end - view.vma_start, at[:-1], at[1:])
    totals = {"vss": Maybe(vss, np.zeros(len(vss), np.bool_)), **sums.columns()}
    return result({**own, **_spread(totals, row, blank)}, _notes(view))


def _rows(have: Ints, want: Ints) -> tuple[Ints, Bools]:
    """Row of each wanted pid among those there are, and where there is none."""
    row = np.searchsorted(have, want)
    row[row == len(have)] = 0
    blank = have[row] != want if len(have) else np.ones(len(want), np.bool_)
    return row, np.asarray(blank, np.bool_)


def _spread(columns: dict[str, Maybe], row: Ints, blank: Bools) -> dict[str, Maybe]:
    if blank.all():
        return {name: Maybe(np.zeros(len(row), np.int64), blank) for name in columns}
    return {n: Maybe(c.values[row], blank | c.unknown[row]) for n, c in columns.items()}


def _told(view: View, pids: Ints, *names: str) -> dict[str, pa.ChunkedArray]:
    """Columns of ``processes`` for `pids`; null for a pid that is not in it."""
    have = {pid: row for row, pid in enumerate(view.processes["pid"].to_pylist())}
    rows = pa.array([have.get(pid) for pid in pids.tolist()], pa.int64())
    return {name: view.processes[name].take(rows) for name in names}


def _notes(view: View) -> dict[str, str]:
    basis = view.sharers.basis
    notes = dict(figures.NOTES)
    notes["pss"] += f"; from {basis}"
    notes["uss"] += f"; from {basis}"
    if view.facts.get("pfns") == "hidden":
        why = view.facts.get("pfns_why", "page frames are hidden")
        notes["pss"] += f"; unknown for pages mapped more than once: {why}"
    return notes


def groups(snap: Tables, *, by: Grouping = None, complete: bool | None = None) -> pd.DataFrame:
    """Memory of groups of processes as the union of their page frames.

    Parameters
    ----------
    by : optional
        What makes a group; see `pagemap_df.algebra.grouping.labels`. All processes if not given.

    Returns
    -------
    DataFrame
        One row per group, the largest first: ``group``, ``processes``; in bytes ``mapped`` (every
        mapping counted, so shared pages twice), ``union`` (every frame once), ``inside`` (of
        these, frames that two or more of the group hold), ``outside`` (frames that others hold
        too), ``alone`` (``union - outside``: what would be free without the group), ``pss``, and
        ``swap`` (every swap slot once). hugetlb pages are counted, zero pages are not.

    Raises
    ------
    NotAvailable
        Page frames are hidden.
    """
    view = Accounts(snap, complete)
    frames = Holdings.of_frames(view, "a union of frames")
    members = _members(labels(view, by))
    found = frames.unions(list(members.values()))
    order = np.argsort(-found.union, kind="stable")
    size, unknown = view.page_size, found.doubt[order] > 0
    columns: dict[str, Any] = {
        "group": [list(members)[k] for k in order.tolist()],
        "processes": np.array([len(pids) for pids in members.values()], np.int64)[order],
    }
    for name in ("mapped", "union", "inside"):
        columns[name] = getattr(found, name)[order] * size
    columns["outside"] = Maybe(found.outside[order] * size, unknown)
    columns["alone"] = Maybe((found.union - found.outside)[order] * size, unknown)
    pss = _pss_of(view, members.values())
    columns["pss"] = pa.array([pss[k] for k in order.tolist()], pa.int64())
    slots = Holdings.of_slots(view).unions(list(members.values()))
    columns["swap"] = slots.union[order] * size
    basis = f"from {view.sharers.basis}"
    return result(columns, {"outside": basis, "alone": basis, "pss": basis})


def _members(label: dict[int, str]) -> dict[str, set[int]]:
    out: dict[str, set[int]] = {}
    for pid, name in label.items():
        out.setdefault(name, set()).add(pid)
    return out


def _pss_of(view: Accounts, groups: Iterable[set[int]]) -> list[int | None]:
    """PSS of groups, each address space once; None where it is unknown."""
    pids, at = view.process_rows
    sums = range_sums(view.share.amount, at[:-1], at[1:]).tolist()
    share = dict(zip(pids.tolist(), sums, strict=True))
    doubt = set(pids[range_sums(view.share.doubt, at[:-1], at[1:]) > 0].tolist())
    out: list[int | None] = []
    for group in groups:
        spaces = {view.leaders.get(pid, pid) for pid in group}
        out.append(None if spaces & doubt else sum(share.get(s, 0) for s in spaces) >> PSS_SHIFT)
    return out


def cost(snap: Tables, pid: int, *, complete: bool | None = None) -> pd.DataFrame:
    """What a process alone would free, and what one more fork of it would add.

    Returns
    -------
    DataFrame
        One row. If it went away: ``frees`` (bytes of anonymous and hugetlb page frames that all
        entries are its own of), ``leaves`` (file and shared-memory pages only it maps: they stay
        in the page cache, or with the object, until that is reclaimed or removed), ``keeps``
        (pages that others map too), ``frees_swap`` (slots only it holds). If it forked:
        ``fork_adds`` (page tables that fork(2) copies, at least) and ``fork_may_add`` (its private
        writable pages, in memory and in swap: what copy-on-write adds at most once parent or
        child have written all of them). Null where not known.
    """
    view = Accounts(snap, complete)
    view.process(pid)
    columns: dict[str, Any] = {"pid": np.array([pid], np.int64), **_fate(view, pid)}
    columns["frees_swap"] = _only_slots(view, pid)
    notes = {"frees_swap": figures.NOTES["swappss"], "frees": f"from {view.sharers.basis}"}
    return result(columns | _fork_cost(view, pid), notes)


def _shares_space(view: View, pid: int) -> bool:
    return sum(leader == view.leaders[pid] for leader in view.leaders.values()) > 1


def _one(value: int, unknown: bool = False) -> Maybe:
    return Maybe(np.array([value], np.int64), np.array([unknown], np.bool_))


def _fate(view: View, pid: int) -> dict[str, Maybe]:
    """Bytes of the frames of a process, by what would become of them without it."""
    view.need("pfn", (view.kind == PRESENT) & (view.pid == pid), "what a process would free")
    mine = view.rows_of(pid)
    rows = mine.start + np.flatnonzero(view.framed[mine])
    _, first, own = np.unique(view.pfn[rows], return_index=True, return_counts=True)
    rows, entries = rows[first], view.sharers.entries[rows[first]]
    sole = (entries <= own) & (not _shares_space(view, pid))
    anon, unknown = view.anon[rows], bool((entries < 0).any())
    parts = {"frees": sole & anon, "leaves": sole & ~anon, "keeps": ~sole}
    return {name: _one(int(m.sum()) * view.page_size, unknown) for name, m in parts.items()}


def _only_slots(view: View, pid: int) -> Maybe:
    """Bytes of the swap slots that no other process names."""
    mine = view.rows_of(pid)
    slot = view.slot[mine]
    others = np.isin(slot, view.slot[(view.pid != pid) & (view.slot >= 0)])
    only = np.unique(slot[(slot >= 0) & ~others])
    swapped = view.kind[mine] == SWAP
    unknown = bool((swapped & (slot < 0)).any()) or (bool(swapped.any()) and not view.complete)
    return _one(len(only) * view.page_size, unknown)


def _fork_cost(view: View, pid: int) -> dict[str, Any]:
    """Page tables that fork copies, and the pages copy-on-write may copy later.

    fork(2) copies the tables of private mappings that ever held an anonymous page, unless
    MADV_DONTFORK or MADV_WIPEONFORK (``dc``, ``wf`` in VmFlags) forbids (vma_needs_copy in
    mm/memory.c). A table is one page, and holds one 8-byte entry per page or lower table.
    """
    mine = view.rows_of(pid)
    private, swapped = view.anon & (view.kind == PRESENT), view.kind == SWAP
    perms = view.vmas["perms"].to_pylist()
    held = range_sums(private | swapped, *view.vma_ranges) > 0
    copied = held & np.array([p[3:4] == "p" for p in perms], np.bool_) & ~_kept_from_fork(view)
    rows = mine.start + np.flatnonzero(np.append(copied, False)[view.vma_of[mine]])
    page = view.vaddr[rows] // view.page_size
    fanout, tables = (view.page_size // 8).bit_length() - 1, 1
    for level in (1, 2, 3):
        tables += len(np.unique(page >> fanout * level))
    writable = np.array([p[1:2] == "w" for p in perms] + [False], np.bool_)[view.vma_of[rows]]
    pages = int((writable & (private | swapped)[rows]).sum())
    return {
        "fork_adds": _one(tables * view.page_size),
        "fork_may_add": _one(pages * view.page_size),
    }


def _kept_from_fork(view: View) -> Bools:
    if "vm_flags" not in view.vmas.schema.names:
        return np.zeros(len(view.vmas), np.bool_)
    words = [set((text or "").split()) for text in view.vmas["vm_flags"].to_pylist()]
    return np.array([bool(flags & {"dc", "wf"}) for flags in words], np.bool_)
