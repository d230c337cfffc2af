"""Small snapshots by hand: one line a mapping, one letter a page.

    snapshot({7: ["heap rw-p a1 a2 - s5"], 8: ["heap rw-p a1 a3 z"]})

A mapping is its name, its permissions and its pages. A page is a letter and a number:

====  =====================================================================
``-``   nothing
``a``   anonymous, in page frame N
``f``   file page in frame N
``m``   shared memory in frame N
``k``   merged by KSM, in frame N
``h``   hugetlb, in frame N
``l``   anonymous, given up with MADV_FREE, in frame N
``z``   the zero page
``s``   in slot N of swap area 0; ``S`` of area 1
``g``   a guard page
====  =====================================================================

Map counts are counted over all that is given, as a kernel would, plus one for each mark ``+``
behind a page (a process that is not in the snapshot). ``!`` marks a page mapped by PMD.
Mappings lie at 1 MiB, 2 MiB, …, in the order given, unless the line ends with ``@PAGE``.
"""

from collections import Counter

import pyarrow as pa

from pagemap_df import pageflags, schema
from pagemap_df.snapshot import Snapshot

PAGE = 4096
FLAGS = {
    "a": pageflags.mask("ANON", "SWAPBACKED", "MMAP", "LRU"),
    "l": pageflags.mask("ANON", "MMAP", "LRU"),
    "f": pageflags.mask("MMAP", "LRU", "UPTODATE"),
    "m": pageflags.mask("SWAPBACKED", "MMAP", "LRU"),
    "k": pageflags.mask("ANON", "KSM", "SWAPBACKED"),
    "h": pageflags.mask("HUGE", "ANON"),
}
FACTS = {"page_size": PAGE, "host": "here", "boot_id": "b", "pfns": "visible", "complete": False}
JOINED = ("mapcount", "flags", "huge")


def address(mapping: int, page: int = 0) -> int:
    """Address of a page of the nth mapping."""
    return (mapping + 1 << 20) + page * PAGE


def snapshot(processes, *, join=JOINED, swaps=(), facts=None, who=None, mm=None, hidden=False):
    """A snapshot of `processes`: pid -> mapping lines. `who`: pid -> columns of processes."""
    mm = mm or {}
    count = Counter()
    for pid, lines in processes.items():
        for line in lines if mm.get(pid, pid) == pid else ():
            count.update(_frame(word) for word in _words(line))
            count.update({_frame(word): word.count("+") for word in _words(line)})
    vmas, pages = [], []
    for pid in sorted(processes):
        for n, line in enumerate(processes[pid]):
            start = int(line.partition("@")[2] or address(n) // PAGE) * PAGE
            vmas.append(_vma(pid, line, start))
            for k, word in enumerate(_words(line)):
                if word != "-":
                    row = _page(word, count)
                    pages.append(
                        {"pid": pid, "vaddr": start + k * PAGE, "vma": len(vmas) - 1} | row
                    )
    if hidden:
        pages = [{**row, "pfn": None, "swap_type": None, "swap_offset": None} for row in pages]
        facts = {"pfns": "hidden", "pfns_why": "not root", **(facts or {})}
    tables = {
        "pages": _table("pages", pages, join),
        "vmas": _table("vmas", vmas, ()),
        "processes": _table("processes", [_process(p, mm, who) for p in sorted(processes)], ()),
        "swaps": _table("swaps", list(swaps), ()),
    }
    return Snapshot(tables, {**FACTS, **(facts or {})})


def area(number, used, path="/swap"):
    """A row of the swaps table; `used` in pages."""
    swap = {"swap_type": number, "path": path, "kind": "file", "size": 1 << 20, "evidence": "told"}
    return {**swap, "used": used * PAGE, "priority": -2}


def _words(line):
    return line.partition("@")[0].split()[2:]


def _frame(word):
    return int(word[1:].rstrip("+!") or 0) if word[0] in FLAGS else None


def _vma(pid, line, start):
    name, perms = line.split()[:2]
    kinds = {"heap": "heap", "shm": "shmem", "tlb": "hugetlb", "lib": "file", "vdso": "vdso"}
    end = start + max(len(_words(line)), 1) * PAGE
    vma = {"pid": pid, "start": start, "end": end, "perms": perms, "offset": 0, "device": "00:00"}
    kind = kinds.get(name, "anon")
    return {**vma, "inode": 0, "path": f"[{name}]", "kind": kind, "changed": False}


def _page(word, count):
    letter = word[0]
    row = {"kind": "present", "present": True, "swapped": False, "file": letter in "fm"}
    row |= {"exclusive": False, "uffd_wp": False, "guard": False, "huge": "!" in word}
    if letter in FLAGS:
        frame = _frame(word)
        row |= {"pfn": frame, "mapcount": count[frame], "flags": FLAGS[letter]}
        return {**row, "exclusive": count[frame] == 1}
    if letter == "z":
        return {**row, "kind": "zero", "pfn": 999_999, "mapcount": 0, "flags": 1 << 24}
    row["present"] = False
    if letter == "g":
        return {**row, "kind": "marker_guard", "guard": True}
    slot = {"swap_type": int(letter == "S"), "swap_offset": int(word[1:])}
    return {**row, **slot, "kind": "swap", "swapped": True}


def _process(pid, mm, who):
    row = {"pid": pid, "ppid": 1, "name": f"p{pid}", "uid": 0, "start_time": pid, "state": "S"}
    return {
        **row,
        "cgroup": "/",
        "cmdline": f"p{pid}",
        "mm": mm.get(pid, pid),
        **(who or {}).get(pid, {}),
    }


def _table(name, rows, join):
    spec = schema.TABLES[name]
    columns = [c for c in spec.columns if not c.on_request or c.name in join]
    plain = pa.table(
        {c.name: pa.array([r.get(c.name) for r in rows], _plain(c.type)) for c in columns}
    )
    return schema.conform(plain, name)


def _plain(type_):
    return type_.value_type if pa.types.is_dictionary(type_) else type_
