"""What happened to each page between two snapshots.

Pages are matched by process and address. A process is the same if pid and start time are; a
pid used again is another process, whose old pages were freed and whose new ones came.

==================  ===================================================================
``faulted_in``      it was nowhere (or the zero page, or a marker) and is in memory
``freed``           it was in memory or swap and is nowhere
``swapped_out``     it was not in swap and is
``swapped_in``      it was in swap and is in memory
``unshared``        copy-on-write: another page frame, for it was shared and is not
``left_alone``      same page frame; it was shared, and the others have gone
``shared``          same page frame; another page table entry maps it now (a fork)
``merged``          KSM put it together with equal pages, or with the zero page
``migrated``        another page frame, all else being equal
``huge_formed``     a huge page table entry maps it now
``huge_split``      a huge page table entry mapped it, now it has one of its own
``guard_placed``    it is a guard page now
``guard_removed``   it was one
``zero_mapped``     it was nowhere and maps the zero page: read, never written
``zero_dropped``    the reverse
``other``           anything else: markers, migration under way, another slot
==================  ===================================================================

One page has one change, the first of these that is true in the order of `CHANGES`. Only the
two moments are known: a page that went out and came back between them did not change.

What can go wrong: snapshots of two machines, boots or page sizes (`TableError`). Without
page frames (hidden) changes of frame are not seen; without ``huge`` or ``flags``, huge pages
and KSM are not. ``.attrs["accuracy"]`` says so.

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
>>> table = processes(snaps["forked"], snaps["later"]).query("unshared + left_alone > 0")
>>> print(table[["name", "unshared", "left_alone"]].to_string(index=False))
  name  unshared  left_alone
server         0       12288
worker     12288           0
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from . import runs
from .algebra.answers import Maybe, result
from .algebra.arrays import ELSEWHERE, GUARD, HUGE_ZERO, PRESENT, SWAP, ZERO, Tables, same_machine
from .algebra.view import View
from .entries import KINDS, Bools, Ints
from .errors import TableError

if TYPE_CHECKING:
    import pandas as pd

CHANGES = (
    "guard_placed",
    "guard_removed",
    "swapped_out",
    "swapped_in",
    "zero_mapped",
    "zero_dropped",
    "merged",
    "faulted_in",
    "freed",
    "huge_formed",
    "huge_split",
    "unshared",
    "migrated",
    "shared",
    "left_alone",
    "other",
)
"""All changes, the more telling first."""

_VPN_BITS = 44
_ABSENT = KINDS.index("absent")


class _Facets(NamedTuple):
    """What is compared, one array each; -1 for what is unknown."""

    kind: NDArray[np.int8]
    place: Ints
    shared: NDArray[np.int8]
    huge: NDArray[np.int8]
    ksm: NDArray[np.int8]
    anon: NDArray[np.int8]

    def at(self, rows: Ints) -> _Facets:
        """Of some rows; row -1 is a page that is nowhere."""
        rest = (runs.taken(values, rows, -1) for values in self[1:])
        return _Facets(runs.taken(self.kind, rows, _ABSENT), *rest)


class _Changed(NamedTuple):
    """Pages that changed: their row in either snapshot (-1: not there) and what changed."""

    before: View
    after: View
    old: Ints
    new: Ints
    change: NDArray[np.int8]

    def either(self, name: str) -> NDArray[Any]:
        """Array `name` of a `View` at each page: as it is later, or was if it is gone."""
        late, early = getattr(self.after, name), getattr(self.before, name)
        gone = self.new < 0
        out = np.empty(len(gone), np.int64)
        out[~gone], out[gone] = late[self.new[~gone]], early[self.old[gone]]
        return out


def pages(before: Tables, after: Tables) -> pd.DataFrame:
    """Every page that changed.

    Returns
    -------
    DataFrame
        Sorted by ``pid`` and ``vaddr``: those, ``change`` (one of `CHANGES`), ``start`` and ``path``
        of the VMA it is in (or was, if it is gone), ``kind_before``, ``kind_after`` (``absent`` if
        nowhere), ``pfn_before`` and ``pfn_after`` (null if not in memory, or hidden).
    """
    found = _changed(before, after)
    pid, vaddr = found.either("pid"), found.either("vaddr")
    order = np.lexsort((vaddr, pid))
    found = found._replace(old=found.old[order], new=found.new[order], change=found.change[order])
    start, path = _vma_names(found)
    sides = {"before": (found.before, found.old), "after": (found.after, found.new)}
    kinds, frames = {}, {}
    for name, (view, row) in sides.items():
        kinds[f"kind_{name}"] = _words(runs.taken(view.kind, row, _ABSENT), KINDS)
        pfn = runs.taken(view.pfn, row, -1)
        frames[f"pfn_{name}"] = Maybe(pfn, pfn < 0)
    columns = {
        "pid": pid[order],
        "vaddr": vaddr[order],
        "change": _words(found.change, CHANGES),
        "start": start,
        "path": path,
    }
    return result({**columns, **kinds, **frames}, _notes(found))


def processes(before: Tables, after: Tables) -> pd.DataFrame:
    """Bytes of each change, summed by process.

    Returns
    -------
    DataFrame
        One row per process of either snapshot: ``pid name``, ``rss_before rss_after swap_before
        swap_after`` (null in a snapshot that does not have it), and one column for each of
        `CHANGES`.
    """
    found = _changed(before, after)
    views = (found.before, found.after)
    pids = np.unique(np.concatenate([np.array(v.processes["pid"], np.int64) for v in views]))
    names: dict[int, str | None] = {}
    for view in views:
        names |= dict(zip(*(view.processes[c].to_pylist() for c in ("pid", "name")), strict=True))
    columns: dict[str, Any] = {"pid": pids, "name": [names[pid] for pid in pids.tolist()]}
    for what in ("rss", "swap"):
        for when, view in zip(("before", "after"), views, strict=True):
            columns[f"{what}_{when}"] = _size(view, what, pids)
    where = np.searchsorted(pids, found.either("pid"))
    return result(columns | _sums(found, where, len(pids)), _notes(found))


def vmas(before: Tables, after: Tables) -> pd.DataFrame:
    """Bytes of each change, summed by VMA; only VMAs in which something changed.

    Returns
    -------
    DataFrame
        Sorted by ``pid`` and ``start``: those, ``path``, and one column for each of `CHANGES`.
    """
    found = _changed(before, after)
    start, path = _vma_names(found)
    pid = found.either("pid")
    keys, first, where = np.unique(
        np.stack([pid, start.values]), axis=1, return_index=True, return_inverse=True
    )
    columns = {
        "pid": keys[0],
        "start": Maybe(keys[1], start.unknown[first]),
        "path": path.take(pa.array(first)),
    }
    return result(columns | _sums(found, where.ravel(), len(first)), _notes(found))


def timeline(snaps: Sequence[Tables]) -> pd.DataFrame:
    """`processes` between each snapshot and the next, one below the other.

    Returns
    -------
    DataFrame
        As `processes`, with ``step`` (0 for what changed between the first two) and ``taken_at``
        (of the later; null if the snapshot does not say) in front.
    """
    import pandas as pd

    if len(snaps) < 2:
        raise TableError(f"a timeline needs two snapshots or more, not {len(snaps)}")
    parts = []
    for step, (before, after) in enumerate(itertools.pairwise(snaps)):
        part = processes(before, after)
        part.insert(0, "step", step)
        taken_at = after.facts.get("taken_at")
        part.insert(1, "taken_at", pd.Series([taken_at] * len(part), dtype="str"))
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def _changed(before: Tables, after: Tables) -> _Changed:
    same_machine(before, after)
    a, b = View(before), View(after)
    key_a, key_b = _keys(a, b)
    i, j = runs.matched(key_a, key_b)
    facets: tuple[_Facets, _Facets] = (_facets(a), _facets(b))
    other = np.zeros(len(i), np.bool_)
    for name in _Facets._fields:
        # Where all pages are in both, which is usual, nothing need be copied.
        was, now = (
            values if len(rows) == len(values) else values[rows]
            for values, rows in ((getattr(facets[0], name), i), (getattr(facets[1], name), j))
        )
        other |= (was != now) & (was != -1) & (now != -1)
    gone, come = runs.missing(len(key_a), i), runs.missing(len(key_b), j)
    old = np.concatenate([i[other], gone, np.full(len(come), -1)])
    new = np.concatenate([j[other], np.full(len(gone), -1), come])
    return _Changed(a, b, old, new, _classified(facets[0].at(old), facets[1].at(new)))


def _keys(a: View, b: View) -> tuple[Ints, Ints]:
    """Process and page as one number, ascending: equal for the same page of the same process."""
    born = []
    for view in (a, b):
        known = zip(*(view.processes[c].to_pylist() for c in ("pid", "start_time")), strict=True)
        born.append({pid: (pid, time or 0) for pid, time in known})
    rank = {who: n for n, who in enumerate(sorted({*born[0].values(), *born[1].values()}))}
    keys = []
    for view, mine in zip((a, b), born, strict=True):
        pids, at = view.process_rows
        if strangers := set(pids.tolist()) - set(mine):
            raise TableError(f"pages names processes that processes lacks: {sorted(strangers)[:5]}")
        ranks = np.array([rank[mine[pid]] for pid in pids.tolist()], np.int64)
        page = view.vaddr // view.page_size
        keys.append(np.repeat(ranks << _VPN_BITS, np.diff(at)) | page)
    return keys[0], keys[1]


def _facets(view: View) -> _Facets:
    def known(values: Bools, unknown: Bools) -> NDArray[np.int8]:
        return np.where(unknown, np.int8(-1), values.view(np.int8))

    entries = view.sharers.entries
    alone = known(~view.bools("exclusive"), view.unknown("exclusive"))
    shared = np.where(entries < 0, alone, (entries > 1).view(np.int8))
    # Zero pages are neither shared nor anonymous, whatever bits or flags say of them.
    elsewhere = view.kind != PRESENT
    return _Facets(
        view.kind,
        view.place,
        np.where(elsewhere, np.int8(-1), shared),
        known(view.bools("huge"), view.unknown("huge")),
        known(view.flag("KSM"), view.no_flags),
        known(view.anon, view.no_anon | elsewhere),
    )


def _classified(a: _Facets, b: _Facets) -> NDArray[np.int8]:
    """Index into `CHANGES` of pages that were `a` and are `b`."""
    was_in, is_in = (np.isin(x.kind, (PRESENT, *ELSEWHERE)) for x in (a, b))
    was_zero, is_zero = (np.isin(x.kind, (ZERO, HUGE_ZERO)) for x in (a, b))
    was_held, is_held = was_in | (a.kind == SWAP), is_in | (b.kind == SWAP)
    both = (a.kind == PRESENT) & (b.kind == PRESENT)
    moved = both & (a.place >= 0) & (b.place >= 0) & (a.place != b.place)
    stayed = both & ~moved
    unmerged = (a.ksm == 1) & (b.ksm == 0)
    own_now = (a.shared == 1) & (b.shared == 0)
    rules = {
        "guard_placed": (b.kind == GUARD) & (a.kind != GUARD),
        "guard_removed": (a.kind == GUARD) & (b.kind != GUARD),
        "swapped_out": (b.kind == SWAP) & (a.kind != SWAP),
        "swapped_in": (a.kind == SWAP) & is_in,
        "zero_mapped": is_zero & ~was_held & ~was_zero,
        "zero_dropped": was_zero & ~is_held & ~is_zero,
        "merged": both & (a.ksm == 0) & (b.ksm == 1) | was_in & is_zero,
        "faulted_in": is_in & ~was_in,
        "freed": was_held & ~is_held,
        "huge_formed": both & (a.huge == 0) & (b.huge == 1),
        "huge_split": stayed & (a.huge == 1) & (b.huge == 0),
        "unshared": moved & (own_now | unmerged | (a.anon == 0) & (b.anon == 1)),
        "migrated": moved,
        "shared": stayed & (a.shared == 0) & (b.shared == 1),
        "left_alone": stayed & own_now,
    }
    which = [np.int8(CHANGES.index(name)) for name in rules]
    return np.select(list(rules.values()), which, np.int8(CHANGES.index("other")))


def _words(code: NDArray[np.int8], words: tuple[str, ...]) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(code), pa.array(words))


def _vma_names(found: _Changed) -> tuple[Maybe, pa.ChunkedArray]:
    """Start and path of the VMA of each page; null for a page outside of all."""
    vma, gone = found.either("vma_of"), found.new < 0
    late, early = found.after.vmas["path"], found.before.vmas["path"]
    texts = [late.cast(pa.string()), early.cast(pa.string())]
    paths = pa.chunked_array([c for text in texts for c in text.chunks], pa.string())
    starts = np.concatenate([found.after.vma_start, found.before.vma_start, [-1]])
    row = np.where(vma < 0, -1, vma + np.where(gone, len(late), 0))
    where = pa.array(row, mask=row < 0)
    return Maybe(starts[row], row < 0), paths.take(where).dictionary_encode()


def _sums(found: _Changed, where: Ints, n: int) -> dict[str, Ints]:
    flat = np.bincount(where * len(CHANGES) + found.change, minlength=n * len(CHANGES))
    count = flat.reshape(n, len(CHANGES)) * found.after.page_size
    return dict(zip(CHANGES, count.T, strict=True))


def _size(view: View, what: str, pids: Ints) -> Maybe:
    """Bytes in memory or in swap of each process; unknown if the snapshot does not have it."""
    mask = view.resident if what == "rss" else view.kind == SWAP
    have, at = view.process_rows
    size = dict(zip(have.tolist(), runs.range_sums(mask, at[:-1], at[1:]).tolist(), strict=True))
    known = set(view.processes["pid"].to_pylist())
    values = np.array([size.get(p, 0) for p in pids.tolist()], np.int64) * view.page_size
    return Maybe(values, np.array([p not in known for p in pids.tolist()], np.bool_))


def _notes(found: _Changed) -> dict[str, str]:
    """What could not be seen, by the column that misses it."""
    notes: dict[str, str] = {}
    blind = {
        "pfn": ("unshared", "migrated"),
        "huge": ("huge_formed", "huge_split"),
        "flags": ("merged",),
    }
    for column, missed in blind.items():
        for view in (found.before, found.after):
            rows = view.kind == PRESENT
            if rows.any() and view.unknown(column)[rows].all():
                notes |= dict.fromkeys(missed, f"not seen: a snapshot has no pages.{column}")
    return notes
