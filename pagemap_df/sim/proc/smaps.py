"""What ``smaps`` says of a mapping, by the kernel's arithmetic (``fs/proc/task_mmu.c``).

`measure` adds figures up over page table entries, in bytes; PSS in units of 1/4096 byte,
each page's share rounded down, as the kernel does it. `smap` is one mapping's entry;
`rollup` sums before it rounds, so that it may exceed the sum of what smaps prints.
"""

from __future__ import annotations

import numpy as np

from ... import proctext
from ..mm import pagetable as pt
from ..mm import thp
from ..mm.files import HUGE
from ..mm.hardware import (
    ANON,
    BLOCK,
    DIRTY,
    KSM,
    LARGE,
    PAGE_SHIFT,
    PAGE_SIZE,
    REFERENCED,
    SWAPBACKED,
    Bools,
)
from ..mm.kernel import Kernel
from ..mm.pagetable import Ptes
from ..mm.vma import HUGETLB, LOCKED, NAMES, SHARED, WRITE, AddressSpace, Vma

_PSS_SHIFT = 12
_UNIT = PAGE_SIZE << _PSS_SHIFT

_SUMS = [
    "Rss",
    "Pss",
    "Pss_Dirty",
    "Shared_Clean",
    "Shared_Dirty",
    "Private_Clean",
    "Private_Dirty",
    "Referenced",
    "Anonymous",
    "KSM",
    "LazyFree",
    "AnonHugePages",
    "ShmemPmdMapped",
    "FilePmdMapped",
    "Shared_Hugetlb",
    "Private_Hugetlb",
    "Swap",
    "SwapPss",
    "Locked",
]
_SCALED = ("Pss", "Pss_Dirty", "SwapPss", "Locked", "Pss_Anon", "Pss_File", "Pss_Shmem")


def measure(kernel: Kernel, space: AddressSpace, vma: Vma) -> dict[str, int]:
    """Figures of one mapping by name; pages and, for the scaled ones, PSS units."""
    sums = dict.fromkeys((*_SUMS, "Pss_Anon", "Pss_File", "Pss_Shmem"), 0)
    if vma.has(HUGETLB):
        _measure_hugetlb(kernel, space, vma, sums)
        return sums
    for _, ptes in space.table.runs(vma.first, vma.stop):
        counted = ptes[pt.mapped(ptes)]
        if len(counted):
            _measure_present(kernel, vma, counted, sums)
        entries = ptes[pt.swapped(ptes)]
        if len(entries):
            holders = kernel.swap.holders(pt.frame(entries))
            sums["Swap"] += len(entries)
            sums["SwapPss"] += int((_UNIT // np.maximum(holders, 1)).sum())
    if vma.file is not None and vma.file.shmem:
        sums["Swap"] += _shmem_swap(space, vma)
    if vma.has(LOCKED):
        sums["Locked"] = sums["Pss"]
    return sums


def _measure_present(kernel: Kernel, vma: Vma, ptes: Ptes, sums: dict[str, int]) -> None:
    """``smaps_account`` for the entries of a run that map counted pages."""
    frames = kernel.frames
    pfns = pt.frame(ptes)
    flags = frames.flags[pfns]
    dirty, young, anon = pt.has(ptes, pt.DIRTY), pt.has(ptes, pt.YOUNG), (flags & ANON) != 0
    large = (flags & LARGE) != 0
    if large.any():
        flags = np.where(large, frames.flags[np.where(large, pfns // BLOCK * BLOCK, pfns)], flags)
    lazy = anon & ((flags & (SWAPBACKED | DIRTY)) == 0) & ~dirty
    dirty |= (flags & DIRTY) != 0
    count = frames.mapcount[pfns]
    shared = count > 1
    pss = _UNIT // np.maximum(count, 1).astype(np.int64)
    huge = pt.has(ptes, pt.PMD)

    def add(name: str, which: Bools) -> None:
        sums[name] += int(np.count_nonzero(which))

    sums["Rss"] += len(ptes)
    total = int(pss.sum())
    sums["Pss"] += total
    sums["Pss_Dirty"] += int(pss[dirty].sum())
    of_anon = int(pss[anon].sum())
    sums["Pss_Anon"] += of_anon
    shmem = vma.file is not None and vma.file.shmem
    sums["Pss_Shmem" if shmem else "Pss_File"] += total - of_anon
    add("Shared_Clean", shared & ~dirty)
    add("Shared_Dirty", shared & dirty)
    add("Private_Clean", ~shared & ~dirty)
    add("Private_Dirty", ~shared & dirty)
    add("Referenced", young | ((flags & REFERENCED) != 0))
    add("Anonymous", anon)
    add("KSM", (flags & KSM) != 0)
    add("LazyFree", lazy)
    add("AnonHugePages", huge & anon)
    add("ShmemPmdMapped" if shmem else "FilePmdMapped", huge & ~anon)


def _measure_hugetlb(kernel: Kernel, space: AddressSpace, vma: Vma, sums: dict[str, int]) -> None:
    """Huge pages of the pool are in neither Rss nor Pss."""
    for _, ptes in space.table.runs(vma.first, vma.stop):
        pfns = pt.frame(ptes[pt.present(ptes)])
        shared = int(np.count_nonzero(kernel.frames.mapcount[pfns] > 1))
        sums["Shared_Hugetlb"] += shared
        sums["Private_Hugetlb"] += len(pfns) - shared


def _shmem_swap(space: AddressSpace, vma: Vma) -> int:
    """Pages of a shmem object that are in swap, unless a private copy hides them."""
    assert vma.file is not None
    stop = min(vma.offset + len(vma), vma.file.pages)
    out = vma.file.cache[vma.offset : stop] < 0
    if not vma.has(SHARED) and vma.has(WRITE):
        out = out & (space.table.read(vma.first, vma.first + len(out)) == pt.NONE)
    return int(np.count_nonzero(out))


def _bytes(sums: dict[str, int], names: list[str]) -> dict[str, int]:
    return {
        name: sums[name] >> _PSS_SHIFT if name in _SCALED else sums[name] << PAGE_SHIFT
        for name in names
    }


def line(space: AddressSpace, vma: Vma) -> proctext.Vma:
    """A mapping as maps shows it."""
    device, inode, offset, path = "00:00", 0, 0, vma.name
    if vma.file is not None and not vma.name:
        device, inode, path = vma.file.device, vma.file.inode, vma.file.shown_path
        offset = vma.offset << PAGE_SHIFT
    elif not path and vma.first < space.brk_stop and vma.stop > space.brk_first:
        path = b"[heap]"
    elif not path and vma.first <= space.stack_page < vma.stop:
        path = b"[stack]"
    start, end = vma.first << PAGE_SHIFT, vma.stop << PAGE_SHIFT
    return proctext.Vma(start, end, vma.perms, offset, device, inode, path)


def smap(kernel: Kernel, space: AddressSpace, vma: Vma) -> proctext.Smap:
    """A mapping as smaps shows it."""
    unit = (BLOCK if vma.file is not None and vma.file.kind == HUGE else 1) * PAGE_SIZE
    figures = {"Size": len(vma) << PAGE_SHIFT, "KernelPageSize": unit, "MMUPageSize": unit}
    figures |= _bytes(measure(kernel, space, vma), list(_SUMS))
    letters = tuple(letter for bit, letter in NAMES.items() if vma.flags & bit)
    return proctext.Smap(line(space, vma), figures, letters, thp_eligible(kernel, vma), {})


def thp_eligible(kernel: Kernel, vma: Vma) -> bool:
    """THPeligible: policy allows it and an aligned 2 MiB lies inside."""
    return thp.allowed(kernel, vma) and bool(thp.whole_blocks(vma.first, vma.stop))


def rollup(kernel: Kernel, space: AddressSpace) -> dict[str, int]:
    """Figures of smaps_rollup in bytes."""
    total = dict.fromkeys((*_SUMS, "Pss_Anon", "Pss_File", "Pss_Shmem"), 0)
    for vma in space.vmas:
        for name, value in measure(kernel, space, vma).items():
            total[name] += value
    at = _SUMS.index("Pss_Dirty") + 1
    names = [*_SUMS[:at], "Pss_Anon", "Pss_File", "Pss_Shmem", *_SUMS[at:]]
    return _bytes(total, names)
