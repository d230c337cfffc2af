"""One page's whole story, in words and as a row.

In: a snapshot, a pid and an address. Out: what the page table says, what that means, who else
has the same memory, and what it counts in each figure. The words say no more than the row.

What can go wrong: the process is not in the snapshot (`ProcessGone`). An address outside of
every mapping is an answer, not an error.

Examples
--------
>>> from pagemap_df.sim import Machine, Script
>>> script = Script.parse('''
... swap 16M
... proc server
... server: heap = mmap 8 private anon rw
... server: write heap
... server: madvise heap[0:4] PAGEOUT
... fork server -> worker
... snap now
... ''')
>>> snaps = Machine().run(script, join=["mapcount", "flags", "huge"])
>>> heap = snaps["now"].vmas.query("pid == 1002 and kind == 'anon'").start.item()
>>> print(page(snaps["now"], 1002, heap))
0x... of process 1002 (worker) is page 1 of 8 in anonymous memory, rw-p. It is in swap, in slot 1
of /swap0. The same memory is held by process 1001.
>>> print(page(snaps["now"], 1002, heap + 7 * 4096))
0x... of process 1002 (worker) is page 8 of 8 in anonymous memory, rw-p. It is in memory, in page
frame 0x... It is anonymous memory. 2 page table entries map it, so it adds 2048 bytes to PSS. The
kernel's flags: ... The same memory is held by process 1001.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from . import pageflags
from .algebra.answers import result
from .algebra.arrays import Tables
from .algebra.figures import PSS_SHIFT, Accounts
from .algebra.view import View

if TYPE_CHECKING:
    import pandas as pd

_MEANING = {
    "absent": "Nothing is there: the page was never touched, or was given back, or it is shared"
    " memory that is in swap, which leaves no trace here.",
    "zero": "It is the zero page: it was read but never written, and takes no memory.",
    "huge_zero": "It is part of the huge zero page: read but never written, it takes no memory.",
    "migration": "The kernel is moving it to another page frame at this moment.",
    "hwpoison": "Hardware found its memory broken; touching it kills the process.",
    "device": "It is in the memory of a device.",
    "marker_uffd": "It is write-protected for userfaultfd and holds nothing yet.",
    "marker_guard": "It is a guard page: touching it kills the process.",
    "marker_poison": "It is marked as lost; touching it kills the process.",
    "unknown_special": "Its word is of a kind that this version does not know.",
}

_COLUMNS = (
    *("kind", "present", "swapped", "pfn", "swap_type", "swap_offset", "file", "exclusive"),
    *("soft_dirty", "uffd_wp", "guard", "mapcount", "flags", "cgroup", "huge"),
)


@dataclass(frozen=True)
class Story:
    """What is known of one page.

    Attributes
    ----------
    row : DataFrame
        One row: ``pid name vaddr``, ``start end perms path`` of the VMA, the columns of ``pages``
        that the snapshot has, ``holders`` (pids with the same page frame or slot, this one too)
        and ``pss`` (bytes it adds to PSS). What does not apply is null.
    text : str
        The same in sentences.
    """

    row: pd.DataFrame
    text: str

    def __str__(self) -> str:
        """The sentences."""
        return self.text


def page(snap: Tables, pid: int, vaddr: int) -> Story:
    """The story of the page of process `pid` at `vaddr` (bytes, anywhere in the page)."""
    view = Accounts(snap)
    process = view.process(pid)
    vaddr -= vaddr % view.page_size
    vma, row = _find(view, pid, vaddr)
    facts = {"pid": pid, "name": process["name"], "vaddr": vaddr, **_mapping(view, vma)}
    facts |= _words_of(view, row)
    facts["holders"] = _holders(view, row)
    known = row is not None and not view.share.doubt[row]
    facts["pss"] = int(view.share.amount[row]) >> PSS_SHIFT if known else None
    types = {name: view.pages.schema.field(name).type for name in _COLUMNS if name in facts}
    types |= {"kind": pa.string(), "holders": pa.list_(pa.int64())}
    types |= {"start": pa.int64(), "end": pa.int64(), "perms": pa.string(), "path": pa.string()}
    types |= {"name": pa.string(), "pss": pa.int64()}
    columns = {name: pa.array([value], types.get(name)) for name, value in facts.items()}
    return Story(result(columns), " ".join(_sentences(view, facts)))


def _find(view: View, pid: int, vaddr: int) -> tuple[int | None, int | None]:
    """Row of ``vmas`` and row of ``pages`` of an address."""
    inside = (view.vma_pid == pid) & (view.vma_start <= vaddr) & (vaddr < view.vma_end)
    vma = np.flatnonzero(inside)
    mine = view.rows_of(pid)
    at = mine.start + int(np.searchsorted(view.vaddr[mine], vaddr))
    found = at < mine.stop and view.vaddr[at] == vaddr
    return (int(vma[0]) if len(vma) else None), (at if found else None)


def _mapping(view: View, vma: int | None) -> dict[str, Any]:
    names = ("start", "end", "perms", "path")
    if vma is None:
        return dict.fromkeys(names)
    return {name: view.vmas[name][vma].as_py() for name in names}


def _words_of(view: View, row: int | None) -> dict[str, Any]:
    have = [name for name in _COLUMNS if name in view.pages.schema.names]
    if row is None:
        return {**dict.fromkeys(have), "kind": "absent", "present": False, "swapped": False}
    return {name: view.pages[name][row].as_py() for name in have}


def _holders(view: View, row: int | None) -> list[int] | None:
    if row is None or view.place[row] < 0:
        return None
    return [int(pid) for pid in np.unique(view.pid[view.place == view.place[row]])]


def _sentences(view: View, facts: dict[str, Any]) -> list[str]:
    who = f"process {facts['pid']}" + (f" ({facts['name']})" if facts["name"] else "")
    if facts["start"] is None:
        return [f"{facts['vaddr']:#x} lies in no mapping of {who}."]
    size = view.page_size
    place = (facts["vaddr"] - facts["start"]) // size + 1
    of = (facts["end"] - facts["start"]) // size
    name = facts["path"] or "anonymous memory"
    out = [f"{facts['vaddr']:#x} of {who} is page {place} of {of} in {name}, {facts['perms']}."]
    if facts["kind"] == "present":
        out += _in_memory(view, facts)
    elif facts["kind"] == "swap":
        out.append(_in_swap(view, facts))
    else:
        out.append(_MEANING[facts["kind"]])
    others = [pid for pid in facts["holders"] or [] if pid != facts["pid"]]
    if others:
        out.append(f"The same memory is held by {_listed(others)}.")
    return out


def _in_memory(view: View, facts: dict[str, Any]) -> list[str]:
    if facts["pfn"] is None:
        why = view.facts.get("pfns_why") or "the reader could not see page frames"
        return [f"It is in memory; in which page frame is not known: {why}."]
    out = [f"It is in memory, in page frame {facts['pfn']:#x}."]
    if facts.get("flags") is not None:
        out.append(f"It is {_nature(facts['flags'])}.")
    elif facts["file"] is not None:
        out.append(f"It is {'a file page or shared memory' if facts['file'] else 'anonymous'}.")
    count = facts.get("mapcount")
    if count is not None:
        entries = "One page table entry maps" if count == 1 else f"{count} page table entries map"
        share = f", so it adds {facts['pss']} bytes to PSS" if facts["pss"] else ""
        out.append(f"{entries} it{share}.")
    elif facts["exclusive"] is not None:
        out.append("Nobody else maps it." if facts["exclusive"] else "Others may map it too.")
    if facts.get("huge"):
        out.append("It is mapped by a huge page table entry.")
    if facts.get("flags") is not None:
        names = pageflags.describe(facts["flags"], view.facts.get("release"))
        out.append(f"The kernel's flags: {names}.")
    return out


def _nature(flags: int) -> str:
    """What a mapped frame is, for people; the first that is true."""
    natures = {
        "HUGE": "a hugetlb page, which smaps keeps out of RSS and PSS",
        "KSM": "one of several equal pages that KSM merged",
        "ANON": "anonymous memory",
        "SWAPBACKED": "shared memory",
        "RESERVED": "memory that the kernel itself set aside",
    }
    for name, nature in natures.items():
        if flags & pageflags.mask(name):
            return nature
    return "in the page cache"


def _in_swap(view: View, facts: dict[str, Any]) -> str:
    if facts["swap_offset"] is None:
        return "It is in swap; in which slot is hidden from a reader without CAP_SYS_ADMIN."
    paths = zip(*(view.swaps[c].to_pylist() for c in ("swap_type", "path")), strict=True)
    path = dict(paths).get(facts["swap_type"]) or f"swap area {facts['swap_type']}"
    return f"It is in swap, in slot {facts['swap_offset']} of {path}."


def _listed(pids: list[int]) -> str:
    few = ", ".join(map(str, pids[:8]))
    more = f" and {len(pids) - 8} more" if len(pids) > 8 else ""
    return f"process {few}{more}" if len(pids) == 1 else f"processes {few}{more}"
