"""What is on a map of physical memory: page frames that processes of a snapshot have.

In: a snapshot. Out: `Content` in page frame numbers. Several processes, or several places in
one, may have the same frame; it is on the map once.

What can go wrong: page frames are hidden (`NotAvailable`); a colour that frames do not have
(`TableError`).
"""

from __future__ import annotations

import numpy as np

from .. import palette
from ..algebra.arrays import PRESENT, Tables
from ..entries import Ints
from ..errors import TableError
from ..plot.colouring import process_names, slots_for
from .content import COLOURS, Changed, Content, Legend, Rows, coding, merged, of_changes, overlaid


def of_frames(snap: Tables, color: str, found: Changed | None) -> Content:
    """The page frames that processes of a snapshot have."""
    rows = Rows(snap, None)
    view = rows.view
    view.need("pfn", view.kind == PRESENT, "a map of physical memory")
    at = np.flatnonzero(view.framed)
    at = at[np.argsort(view.pfn[at], kind="stable")]
    frame, n = view.pfn[at], rows.n[at]
    if color == "owner":
        return _owners(rows, at, frame, n)
    frame, n, kept = _disjoint(frame, n)
    if color == "change":
        if found is None:
            raise TableError("color='change' needs two snapshots: MemoryMap(before, after)")
        return overlaid(frame, n, found, *of_changes(found, color))
    if color not in COLOURS["physical"]:
        raise TableError(f"color is one of {', '.join(COLOURS['physical'])}, not {color!r}")
    legend, code = coding(rows, color)
    return merged(frame, n, code[at[kept]], legend)


def _disjoint(start: Ints, n: Ints) -> tuple[Ints, Ints, Ints]:
    """Runs cut where an earlier one covers them: starts, lengths, and which of them are left."""
    stop = np.maximum.accumulate(start + n) if len(start) else start
    begin = np.maximum(start, np.append(0, stop[:-1])[: len(start)])
    left = np.flatnonzero(start + n > begin)
    return begin[left], (start + n - begin)[left], left


def _owners(rows: Rows, at: Ints, frame: Ints, n: Ints) -> Content:
    """Each frame's process, or that several have it.

    Between two neighbouring ends of runs the same rows cover all frames. Their number, the sum
    of their owners' places and that of its squares tell whether all owners are one.
    """
    view = rows.view
    pid = view.pid[at].astype(np.int64)
    who, index = np.unique(pid, return_inverse=True)
    size = np.bincount(index, n, len(who)).astype(np.int64)
    sizes = dict(zip(who.tolist(), size.tolist(), strict=True))
    slots = slots_for(sizes, process_names(view))
    place = np.arange(len(who))[index] + 1
    edge, where = np.unique(np.concatenate([frame, frame + n]), return_inverse=True)
    sums = []
    for weight in (np.ones(len(place), np.int64), place, place * place):
        step = np.bincount(where, np.concatenate([weight, -weight]), len(edge))
        sums.append(np.cumsum(step).astype(np.int64))
    count, total, squares = (part[:-1] for part in sums)
    held = np.flatnonzero(count > 0)
    one = squares[held] * count[held] == total[held] ** 2
    of_who = np.array([slots.of[p] for p in who.tolist()], np.int64)
    owner = total[held] // count[held] - 1
    code = np.where(one, of_who[np.where(one, owner, 0)] if len(who) else 0, len(slots.names))
    legend = Legend("owner", (*slots.names, "several"), (*slots.colours, palette.SEVERAL))
    return merged(edge[held], np.diff(edge)[held], code, legend)
