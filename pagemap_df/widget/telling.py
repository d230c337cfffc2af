"""One page of a large snapshot in words, without looking at the rest of it.

`story.page` counts over a whole snapshot. For one page it is enough to have the rows of all
who hold the same page frame or swap slot, and those are found by a look at one column.

What can go wrong: the process is not there (`ProcessGone`).
"""

from __future__ import annotations

import pyarrow as pa

from .. import story
from ..algebra.arrays import Tables, numbers
from ..snapshot import Snapshot
from . import folded


def page_story(snap: Tables, pid: int, vaddr: int) -> story.Story:
    """`story.page`, from a snapshot cut down to what that page's story needs.

    That is the rows of all who hold the same page frame or swap slot: found by a look at one
    column, however large the snapshot is.
    """
    size = int(snap.facts.get("page_size", 4096))
    vaddr -= vaddr % size
    rows = folded.between(snap, pid, vaddr, vaddr + size)
    if len(rows):
        one = rows.to_pylist()[0]
        if one["kind"] == "present" and one["pfn"] is not None:
            rows = folded.of_place(snap, "pfn", one["pfn"], one["pfn"] + 1)
        elif one["swap_offset"] is not None:
            rows = folded.of_place(snap, "swap_offset", one["swap_offset"], one["swap_offset"] + 1)
            rows = rows.filter(pa.array(numbers(rows["swap_type"], -1) == one["swap_type"]))
    names = ("vmas", "frames", "swaps", "processes")
    tables = {name: snap.arrow(name) for name in names}
    return story.page(Snapshot({**tables, "pages": rows}, snap.facts), pid, vaddr)


def bare_story(snap: Tables, pid: int, vaddr: int) -> str:
    """What the row of a page says, where mappings are unknown."""
    rows = folded.between(snap, pid, vaddr, vaddr + 1).to_pylist()
    if not rows:
        return f"{vaddr:#x}: nothing is there."
    told = []
    for name, value in rows[0].items():
        if name not in ("pid", "vaddr") and value is not None and value is not False:
            shown = f"{value:#x}" if name in ("pfn", "flags") else str(value)
            told.append(name if value is True else f"{name} {shown}")
    return f"{vaddr:#x} of process {pid}: {', '.join(told)}."
