"""Who holds which page frame: exact sets of processes, who shares with whom, and by what.

Everything starts from `Holdings`: the frames (or swap slots) of a snapshot as codes, and for
each address space the rows it has. From there a union is a count, and the exact set of holders
of every frame is one pass (`runs.sets`).

A set is named by the lowest pid of each address space in it. Frames held by a process that is
not in the snapshot are in the set of those that are, and are told by their map count.

What can go wrong: frames are hidden (`NotAvailable`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from .. import runs
from ..entries import Bools, Ints
from .answers import Maybe, result
from .arrays import HUGE_ZERO, PRESENT, SWAP, ZERO, Tables
from .view import View

if TYPE_CHECKING:
    import pandas as pd

_SETS_AT_ONCE = 1 << 16


class Census(NamedTuple):
    """The different sets of holders, the one with most frames first, and what each holds.

    Attributes
    ----------
    frames : ndarray of int64
        How many frames (or slots) exactly this set holds.
    beyond : ndarray of int64
        How many of them page table entries beyond the snapshot map too.
    doubt : ndarray of int64
        For how many of them that is unknown.
    offsets, members : ndarray of int
        Set ``i`` is ``members[offsets[i] : offsets[i + 1]]``, holders by their place.
    """

    frames: Ints
    beyond: Ints
    doubt: Ints
    offsets: Ints
    members: NDArray[np.int32]

    @property
    def size(self) -> Ints:
        """How many holders each set has."""
        return np.diff(self.offsets)


class Unions(NamedTuple):
    """Of each group, in frames: rows, the union, and parts of the union.

    `doubt` is how many of the union may or may not belong to `outside`.
    """

    mapped: Ints
    union: Ints
    inside: Ints
    outside: Ints
    doubt: Ints


class Holdings:
    """Which address space has which frames, or which swap slots.

    Attributes
    ----------
    view : View
        The snapshot.
    rows : ndarray of int64 or slice
        Rows of ``pages``, each address space once.
    pids : ndarray of int64
        The holders, ascending.
    at : ndarray of int64
        Holder ``i`` has ``rows[at[i] : at[i + 1]]``.
    code : ndarray of int
        Frame or slot of each of `rows`, as a number below `n`.
    """

    def __init__(self, view: View, keys: Ints, rows: Bools) -> None:
        self.view = view
        chosen = rows & view.once
        self.rows = slice(None) if chosen.all() else np.flatnonzero(chosen)
        self.pids, self.at = runs.bounds(view.pid[self.rows])
        self.code, self.n, _ = runs.codes(keys[self.rows])

    @classmethod
    def of_frames(cls, view: View, what_for: str) -> Holdings:
        """Every frame in memory, hugetlb too, without zero pages."""
        view.need("pfn", view.kind == PRESENT, what_for)
        return cls(view, view.pfn, view.framed)

    @classmethod
    def of_slots(cls, view: View) -> Holdings:
        """Every swap slot that a page table entry names and the reader could see."""
        return cls(view, view.slot, (view.kind == SWAP) & (view.slot >= 0))

    @classmethod
    def of(cls, what: Literal["frames", "slots"], view: View, what_for: str) -> Holdings:
        """Of the one or the other."""
        if what not in ("frames", "slots"):
            raise ValueError(f"of is 'frames' or 'slots', not {what!r}")
        return cls.of_slots(view) if what == "slots" else cls.of_frames(view, what_for)

    @cached_property
    def entries(self) -> NDArray[np.int32]:
        """Page table entries that map each frame, on the whole machine; -1 for unknown."""
        out = np.full(self.n, -1, np.int32)
        out[self.code] = self.view.sharers.entries[self.rows]
        return out

    @cached_property
    def sets(self) -> runs.Sets:
        """The exact set of holders of each frame."""
        return runs.sets(self.code, self.n, self.at)

    @cached_property
    def census(self) -> Census:
        """The different sets of holders."""
        of, n = self.sets.of, len(self.sets.parent)
        frames = np.bincount(of, minlength=n)
        frames[0] = 0
        number = np.flatnonzero(frames)
        number = number[np.argsort(-frames[number], kind="stable")]
        offsets, members = runs.member_lists(self.sets, number.astype(np.int32))
        size = np.zeros(n, np.int32)
        size[number] = np.diff(offsets)
        twice = (frames * size).sum() != len(self.code)  # somebody has a frame twice
        seen = np.bincount(self.code, minlength=self.n) if twice else size[of]
        beyond = np.bincount(of[self.entries > seen], minlength=n)
        doubt = np.bincount(of[(self.entries < 0) & (of > 0)], minlength=n)
        return Census(frames[number], beyond[number], doubt[number], offsets, members)

    def unions(self, groups: Sequence[set[int]]) -> Unions:
        """Unions of the frames of groups of pids, all at once from the sets of holders.

        A frame of a set is shared with outsiders if the set has members outside of the group,
        or if it is mapped beyond the snapshot.
        """
        census, n = self.census, len(groups)
        where = np.repeat(np.arange(len(census.frames)), census.size)
        pairs, mapped = [np.zeros(0, np.int64)], np.zeros(n, np.int64)
        for group_of in self._layers(groups):
            group = group_of[census.members]
            pairs.append((where * n + group)[group >= 0])
            known = group_of >= 0
            rows = np.diff(self.at)[known]
            mapped += np.bincount(group_of[known], rows, n).astype(np.int64)
        pair, members = np.unique(np.concatenate(pairs), return_counts=True)
        which, group = np.divmod(pair, max(n, 1))

        def total(amounts: Ints) -> Ints:
            return np.bincount(group, amounts, n).astype(np.int64)  # exact: far below 2**53

        frames = census.frames[which]
        alone = census.size[which] == members
        return Unions(
            mapped,
            total(frames),
            total(np.where(members > 1, frames, 0)),
            total(np.where(alone, census.beyond[which], frames)),
            total(np.where(alone, census.doubt[which], 0)),
        )

    def _layers(self, groups: Sequence[set[int]]) -> list[Ints]:
        """For each holder its group, or -1; more than once if it belongs to several.

        It can: processes that share an address space may have different names.
        """
        belongs: list[list[int]] = [[] for _ in self.pids]
        place = {pid: k for k, pid in enumerate(self.pids.tolist())}
        for g, pids in enumerate(groups):
            for space in {self.view.leaders.get(pid, pid) for pid in pids} & place.keys():
                belongs[place[space]].append(g)
        deepest = max(map(len, belongs), default=0)
        return [
            np.array([some[k] if k < len(some) else -1 for some in belongs], np.int64)
            for k in range(deepest)
        ]


def sets(
    snap: Tables, *, of: Literal["frames", "slots"] = "frames", complete: bool | None = None
) -> pd.DataFrame:
    """The table keyed by the exact set of processes that hold a frame.

    Parameters
    ----------
    snap : Snapshot
    of : {"frames", "slots"}
        Page frames in memory, or swap slots.
    complete : bool, optional
        Whether every process of the machine is in `snap`; if not given, as `snap` says.

    Returns
    -------
    DataFrame
        One row per set, the one with most frames first: ``pids`` (ascending; an address space
        under its lowest pid), ``n_pids``, ``frames`` (or ``slots``), ``bytes``, and for frames
        ``outside``: bytes of them that page table entries beyond the set map too, null where map
        counts are unknown.
    """
    view = View(snap, complete)
    held = Holdings.of(of, view, "a set of holders")
    census, size = held.census, view.page_size
    columns = {
        "pids": pa.LargeListArray.from_arrays(census.offsets, held.pids[census.members]),
        "n_pids": census.size,
        of: census.frames,
        "bytes": census.frames * size,
    }
    if of == "frames":
        columns["outside"] = Maybe(census.beyond * size, census.doubt > 0)
    return result(columns, {"outside": f"from {view.sharers.basis}"})


def matrix(
    snap: Tables, *, of: Literal["frames", "slots"] = "frames", complete: bool | None = None
) -> pd.DataFrame:
    """Bytes that every two processes share, from the exact sets of `sets`.

    Returns
    -------
    DataFrame
        Square, int64: index and columns are pids (one for each address space that holds
        anything); the diagonal is what a process holds in all.
    """
    import pandas as pd

    view = View(snap, complete)
    held = Holdings.of(of, view, "who shares with whom")
    census = held.census
    total = np.zeros((len(held.pids), len(held.pids)))
    for first in range(0, len(census.frames), _SETS_AT_ONCE):
        at = census.offsets[first : first + _SETS_AT_ONCE + 1]
        within = np.zeros((len(at) - 1, len(held.pids)))
        within[np.repeat(np.arange(len(at) - 1), np.diff(at)), census.members[at[0] : at[-1]]] = 1
        weight = census.frames[first : first + len(within), None]
        total += within.T @ (within * weight)  # exact: far below 2**53
    pids = pd.Index(held.pids, name="pid")
    return pd.DataFrame(total.astype(np.int64) * view.page_size, index=pids, columns=pids)


MECHANISMS = ("page cache", "shared memory", "fork", "KSM", "zero page", "vDSO", "hugetlb")
"""By what a page comes to be mapped more than once."""


def mechanisms(snap: Tables, *, complete: bool | None = None) -> pd.DataFrame:
    """By what mechanism each process shares what it shares.

    A page is shared if two page table entries or more map it, of any process or of one. What
    is anonymous and not KSM can only be shared by fork.

    Returns
    -------
    DataFrame
        One row per process and mechanism that occurs: ``pid``, ``mechanism`` (one of
        `MECHANISMS`), ``mapped`` (bytes of pages so shared), ``frames`` (different page frames
        among them, null where hidden), ``by_pmd`` (bytes of them that a huge page table entry
        maps, null if unknown).

    Raises
    ------
    NotAvailable
        Page flags are unknown: KSM and shared memory could not be told from fork.
    """
    view = View(snap, complete)
    view.need("flags", view.kind == PRESENT, "the mechanism of sharing")
    how = _mechanism(view)
    rows = np.flatnonzero(how >= 0)
    rows = rows[np.lexsort((view.pfn[rows], how[rows], view.pid[rows]))]
    lo, hi = runs.runs((view.pid[rows], 0), (how[rows], 0))
    pfn = view.pfn[rows]
    other = np.ones(len(rows), np.bool_)
    other[1:] = pfn[1:] != pfn[:-1]
    other[lo] = True
    by_pmd, unsure = view.bools("huge")[rows], view.unknown("huge")[rows]
    size = view.page_size
    columns = {
        "pid": view.pid[rows][lo],
        "mechanism": pa.array([MECHANISMS[k] for k in how[rows][lo].tolist()], pa.string()),
        "mapped": (hi - lo) * size,
        "frames": Maybe(runs.range_sums(other, lo, hi), runs.range_sums(pfn < 0, lo, hi) > 0),
        "by_pmd": Maybe(
            runs.range_sums(by_pmd, lo, hi) * size, runs.range_sums(unsure, lo, hi) > 0
        ),
    }
    return result(columns, {"mapped": f"shared or not: from {view.sharers.basis}"})


def _mechanism(view: View) -> NDArray[np.int8]:
    """Index into `MECHANISMS` of each page, -1 if it is not shared."""
    zero = (view.kind == ZERO) | (view.kind == HUGE_ZERO)
    shared = (view.sharers.entries >= 2) | zero
    by_bit = (view.sharers.entries < 0) & ~view.bools("exclusive", True) & (view.kind == PRESENT)
    conditions = {
        "zero page": zero,
        "hugetlb": view.hugetlb,
        "KSM": view.flag("KSM"),
        "vDSO": view.vma_is("vdso"),
        "fork": view.anon,
        "shared memory": view.shmem,
        "page cache": view.file,
    }
    which = [np.int8(MECHANISMS.index(name)) for name in conditions]
    how = np.select(list(conditions.values()), which, np.int8(-1))
    return np.where(shared | by_bit, how, np.int8(-1))
