"""What each page is, as a small number with a name and a colour.

A `Colouring` is one way to see pages: by state, or by how many map them. Codes are per row of
``pages`` and index its names; -1 is a page that is nowhere. `slots_for` gives a handful of
owners colours of their own and puts the rest together.

What can go wrong: nothing here raises; what is not known has a name of its own
(``in memory``, ``unknown``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import palette, printing
from ..algebra.arrays import ELSEWHERE, GUARD, HUGE_ZERO, PRESENT, SWAP, ZERO
from ..algebra.figures import Accounts
from ..algebra.holders import Holdings
from ..algebra.view import View
from ..entries import KINDS, Ints
from ..errors import TableError

STATES = tuple(palette.STATES)
SHARERS = tuple(palette.SHARERS)


class Colouring(NamedTuple):
    """One way to see pages.

    Attributes
    ----------
    title : str
        Of the legend.
    names, colours : tuple of str
        By code.
    code : ndarray of int8
        Of each page; -1 for what is not drawn.
    """

    title: str
    names: tuple[str, ...]
    colours: tuple[str, ...]
    code: NDArray[np.int8]

    def entries(self, counts: Ints, page_size: int) -> list[tuple[str, str]]:
        """Lines of a legend: each code that occurs, with its bytes."""
        return [
            (f"{name}  {printing.size(int(count) * page_size)}", colour)
            for name, colour, count in zip(self.names, self.colours, counts, strict=True)
            if count
        ]


def colouring(view: Accounts, by: str) -> Colouring:
    """The pages of `view` seen by ``state`` or by ``sharers``."""
    if by == "state":
        return Colouring("state", STATES, tuple(palette.STATES.values()), _states(view))
    if by == "sharers":
        code = sharer_classes(view.sharers.entries)
        code[~np.isin(view.kind, (PRESENT, *ELSEWHERE))] = SHARERS.index("not mapped")
        code[view.kind == KINDS.index("absent")] = -1
        return Colouring("entries that map it", SHARERS, tuple(palette.SHARERS.values()), code)
    raise TableError(f"pages can be coloured by 'state' or 'sharers', not {by!r}")


def sharer_classes(entries: NDArray[Any]) -> NDArray[np.int8]:
    """Index into `SHARERS` of a number of page table entries; negative is unknown, 0 is none."""
    steps = np.array(palette.SHARER_STEPS)
    most = int(steps[-1]) + 1
    table = np.searchsorted(steps, np.arange(most), side="right").astype(np.int8)
    table[0] = SHARERS.index("not mapped")
    table = np.append(table, np.int8(SHARERS.index("unknown")))  # index -1
    return np.asarray(table[np.clip(entries, -1, most - 1)], np.int8)


def _states(view: Accounts) -> NDArray[np.int8]:
    """Index into `STATES` of each page."""
    simple = {ZERO: "zero page", HUGE_ZERO: "zero page", SWAP: "in swap", GUARD: "guard"}
    simple |= dict.fromkeys(ELSEWHERE, "being moved") | {PRESENT: "in memory"}
    table = np.full(len(KINDS), STATES.index("marker"), np.int8)
    table[KINDS.index("absent")] = -1
    for kind, name in simple.items():
        table[kind] = STATES.index(name)
    code = table[view.kind]
    _, own, left = view.sides
    # Rows of a table: nature; columns: shared, own.
    fine = [("anonymous, shared", "anonymous, own"), ("file, shared", "file, own")]
    fine.append(("shared memory", "shared memory"))
    natures = np.array([[STATES.index(name) for name in row] for row in fine], np.int8)
    nature = np.where(view.shmem, np.int8(2), (~view.anon).view(np.int8))
    told = (view.kind == PRESENT) & ~view.no_anon & ~(left & (nature < 2))
    return _marked(view, np.where(told, natures[nature, own.view(np.int8)], code))


def _marked(view: View, code: NDArray[np.int8]) -> NDArray[np.int8]:
    """`code` with what flags and mappings tell better."""
    code[view.flag("KSM") & (view.kind == PRESENT)] = STATES.index("KSM")
    code[view.hugetlb] = STATES.index("hugetlb")
    return code


class Slots(NamedTuple):
    """Colours for a handful of owners.

    Attributes
    ----------
    of : dict
        Owner -> its place; the others have place ``len(colours) - 1``.
    names, colours : tuple of str
        By place.
    """

    of: dict[int, int]
    names: tuple[str, ...]
    colours: tuple[str, ...]


def slots_for(sizes: Mapping[int, int], names: Mapping[int, str]) -> Slots:
    """Give the largest of `sizes` (owner -> bytes) colours of their own.

    Examples
    --------
    >>> slots_for({7: 10, 8: 99}, {7: "a", 8: "b"}).names
    ('b', 'a')
    """
    order = sorted(sizes, key=lambda owner: (-sizes[owner], owner))
    few, rest = order[: len(palette.OWNERS)], order[len(palette.OWNERS) :]
    of = {owner: place for place, owner in enumerate(few)}
    of |= dict.fromkeys(rest, len(few))
    colours: Sequence[str] = palette.OWNERS[: len(few)]
    last = (f"{len(rest):,} others",) if rest else ()
    return Slots(
        of,
        (*(names[owner] for owner in few), *last),
        (*colours, *((palette.OTHERS,) if rest else ())),
    )


def process_names(view: View) -> dict[int, str]:
    """``pid name`` for every process, also for those that only pages speak of."""
    told = zip(*(view.processes[c].to_pylist() for c in ("pid", "name")), strict=True)
    out = {int(pid): f"{pid} process" for pid in view.process_rows[0].tolist()}
    return out | {pid: f"{pid} {name or 'process'}" for pid, name in told}


class Owned(NamedTuple):
    """Frames or swap slots that somebody holds.

    Attributes
    ----------
    key : ndarray of int64
        Page frame number, or slot as in `View.slot`.
    colours : Colouring
        What each is: whose, the largest owners by name, or of several.
    """

    key: Ints
    colours: Colouring


def by_owner(view: View, held: Holdings, keys: Ints) -> Owned:
    """Who has each frame or slot of `held`; `keys` has the key of every row of ``pages``."""
    owner, key = np.full(held.n, -1, np.int32), np.zeros(held.n, np.int64)
    holders = np.zeros(held.n, np.int32)
    key[held.code] = keys[held.rows]
    for i, (lo, hi) in enumerate(zip(held.at[:-1].tolist(), held.at[1:].tolist(), strict=True)):
        mine = held.code[lo:hi]
        owner[mine] = i
        holders[mine] += 1  # a repeated index is added to once: a holder counts once
    several = holders > 1
    alone = np.bincount(owner[(owner >= 0) & ~several], minlength=len(held.pids)).tolist()
    names = process_names(view)
    pids = held.pids.tolist()
    slots = slots_for(dict(enumerate(alone)), {i: names[pid] for i, pid in enumerate(pids)})
    place = np.array([*(slots.of[i] for i in range(len(pids))), -1], np.int8)
    code = np.where(several, np.int8(len(slots.names)), place[owner])
    known = owner >= 0
    names_, colours = (*slots.names, "several of them"), (*slots.colours, palette.SEVERAL)
    return Owned(key[known], Colouring("held by", names_, colours, code[known]))
