"""From a recorded snapshot to a machine: start where a real one stood, and ask what if.

Frames, swap slots, mappings and processes get the numbers they had. What tables do not
hold is filled in plainly: contents are all different, an exclusive page may be written in
place, files are as long as they are mapped, pages that nobody maps do not exist. Frames
and slots that somebody outside the snapshot uses stay in use for ever.

What can go wrong: frames are hidden in the snapshot, and without them nobody knows who
shares with whom: `NotAvailable`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from ..entries import SWAP_TYPE_BITS
from ..errors import NotAvailable
from ..proctext import text_to_path
from ..snapshot import Snapshot
from .machine import Machine
from .mm import pagetable as pt
from .mm.files import DEVICE, DISK, HUGE, SHMEM, File
from .mm.hardware import (
    BLOCK,
    EXCLUSIVE,
    FRESH_ANON,
    FRESH_FILE,
    FRESH_SHMEM,
    HEAD,
    HUGETLB,
    LARGE,
    MLOCKED,
    MMAP,
    PAGE_SHIFT,
    RESERVED,
    TAIL,
    THP,
    UNEVICTABLE,
    ZERO,
    Pfns,
)
from .mm.swapfile import SwapArea
from .mm.vma import (
    ACCOUNT,
    DONTEXPAND,
    GROWSDOWN,
    IO,
    MAYEXEC,
    MAYREAD,
    MAYSHARE,
    MAYWRITE,
    NAMES,
    PFNMAP,
    SHARED,
    WRITE,
    AddressSpace,
    AnonVma,
    Vma,
)
from .mm.vma import HUGETLB as VM_HUGETLB
from .process import Process, protection

_HEADROOM = 1 << 15
"""Free frames that a loaded machine has at least."""
_KINDS = {"file": DISK, "shmem": SHMEM, "hugetlb": HUGE, "vdso": DEVICE}
_DELETED = " (deleted)"
_LETTERS = {letters: bit for bit, letters in NAMES.items()}


def load(snapshot: Snapshot, *, rng: int | np.random.Generator = 0) -> Machine:
    """A machine in the state that `snapshot` shows.

    Examples
    --------
    >>> from pagemap_df.take import take
    >>> machine = Machine("64M")
    >>> task = machine.spawn("task")
    >>> heap = task.mmap(4)
    >>> task.write(range(heap, heap + 4))
    >>> again = load(take(machine))
    >>> again.process(task.pid).fork("worker")
    <Process 1002 worker>
    >>> again.rss(again.process(1002))
    7
    """
    if snapshot.facts.get("pfns") == "hidden":
        raise NotAvailable("the snapshot hides frames; take it as root to load it into a machine")
    pages, vmas = snapshot.pages, snapshot.vmas
    pfns = pages["pfn"].dropna().to_numpy(np.int64)
    top = int(pfns.max(initial=0)) + _HEADROOM
    machine = Machine(top << PAGE_SHIFT, rng=rng, era=str(snapshot.facts.get("era", "E7")))
    machine.boot_id = str(snapshot.facts.get("boot_id", machine.boot_id))
    machine.end(machine.process(1))
    _set_zero_pages(machine, pages)
    machine.kernel.frames.claim(pfns)
    _add_swap(machine, snapshot.swaps)
    files: dict[tuple[Any, ...], File] = {}
    for row in _rows(snapshot.processes):
        process = _process(machine, row)
        for vma in _rows(vmas[vmas["pid"] == row.pid]):
            process.mm.vmas.append(_vma(machine, process.mm, vma, files))
        _fill(machine, process.mm, pages[pages["pid"] == row.pid])
    _correct_counts(machine, pages)
    _hold_unknown_slots(machine, snapshot.swaps)
    return machine


def _set_zero_pages(machine: Machine, pages: pd.DataFrame) -> None:
    """Let the zero pages be where they were."""
    frames = machine.kernel.frames
    small = pages.loc[pages["kind"] == "zero", "pfn"].dropna()
    if len(small):
        frames.flags[frames.zero] &= ~ZERO
        frames.zero = int(small.iloc[0])
        frames.claim(np.array([frames.zero]))
        frames.flags[frames.zero] = RESERVED | ZERO
    huge = pages.loc[pages["kind"] == "huge_zero", "pfn"].dropna()
    if len(huge):
        frames.huge_zero = int(huge.iloc[0]) // BLOCK * BLOCK
        block = frames.huge_zero + np.arange(BLOCK)
        frames.claim(block)
        frames.flags[block] = ZERO | TAIL | THP
        frames.flags[block[0]] ^= HEAD | TAIL


def _rows(table: pd.DataFrame) -> list[Any]:
    """The rows of a table, columns as attributes."""
    return list(table.itertuples())


def _add_swap(machine: Machine, swaps: pd.DataFrame) -> None:
    areas = machine.kernel.swap.areas
    for row in _rows(swaps.dropna(subset=["swap_type"]).sort_values("swap_type")):
        while len(areas) < int(row.swap_type):
            areas.append(None)
        pages = (int(row.size) >> PAGE_SHIFT) + 1
        area = SwapArea(text_to_path(row.path), row.kind, pages, int(row.priority))
        areas.append(area)


def _process(machine: Machine, row: Any) -> Process:
    """A process without mappings; its cgroup is made if there is none of the name."""
    frames = machine.kernel.frames
    space = AddressSpace(0x7FFFF7FFF, machine.task_size, frames.zero, frames.flags)
    machine.kernel.spaces.append(space)
    space.scattered = True
    name = "" if pd.isna(row.name) else str(row.name)
    process = Process(machine, int(row.pid), 0, name, space)
    if not pd.isna(row.ppid):
        process.ppid = int(row.ppid)
    if not pd.isna(row.uid):
        process.uid = int(row.uid)
    if not pd.isna(row.start_time):
        process.start_time = int(row.start_time)
    if not pd.isna(row.cmdline):
        process.command = text_to_path(row.cmdline)
    if not pd.isna(row.cgroup):
        names = [group.name for group in machine.kernel.cgroups]
        space.cgroup = (
            names.index(row.cgroup) if row.cgroup in names else machine.cgroup(str(row.cgroup))
        )
    machine.adopt(process)
    return process


def _vma(
    machine: Machine, space: AddressSpace, row: Any, files: dict[tuple[Any, ...], File]
) -> Vma:
    first, stop = row.start >> PAGE_SHIFT, row.end >> PAGE_SHIFT
    flags = protection(row.perms[:3]) | MAYREAD | MAYWRITE | MAYEXEC
    if row.perms[3] == "s":
        flags |= SHARED | MAYSHARE
    elif flags & WRITE:
        flags |= ACCOUNT
    special = {
        "stack": GROWSDOWN,
        "vvar": IO | DONTEXPAND | PFNMAP,
        "vdso": DONTEXPAND,
        "hugetlb": VM_HUGETLB | DONTEXPAND,
    }
    flags |= special.get(row.kind, 0)
    told = getattr(row, "vm_flags", None)
    if isinstance(told, str):
        flags = sum(_LETTERS.get(letters, 0) for letters in told.split())
    vma = Vma(first, stop, flags, None, first)
    if row.kind in ("vdso", "vvar", "special"):
        vma.name = text_to_path(row.path)
    if row.kind == "stack":
        space.stack_page = stop - 1
    elif row.kind == "heap":
        space.brk_first = space.brk_first or first
        space.brk_stop = stop
    if row.kind in _KINDS:
        vma.offset = row.offset >> PAGE_SHIFT
        vma.file = _file(machine, row, files)
        vma.file.grow(vma.offset + len(vma))
        vma.file.users += len(vma)
    return vma


def _file(machine: Machine, row: Any, files: dict[tuple[Any, ...], File]) -> File:
    key = (row.device, row.inode, row.path)
    if key not in files:
        deleted = row.path.endswith(_DELETED)
        path = text_to_path(row.path.removesuffix(_DELETED))
        files[key] = machine.known_file(path, _KINDS[row.kind], row.device, row.inode)
        files[key].deleted = deleted
    return files[key]


def _fill(machine: Machine, space: AddressSpace, pages: pd.DataFrame) -> None:
    """Set the entries of one address space, and the state of the frames they map."""
    numbers = pages["vaddr"].to_numpy(np.int64) >> PAGE_SHIFT
    entries = _entries(machine, pages)
    for vma in space.vmas:
        low, high = np.searchsorted(numbers, [vma.first, vma.stop])
        if low == high:
            continue
        at, ptes = numbers[low:high], entries[low:high]
        some = pages.iloc[low:high]
        counted = pt.mapped(ptes)
        _mark_frames(machine, vma, at[counted], some[counted])
        anon = counted & ~some["file"].fillna(False).to_numpy(np.bool_)
        if anon.any() or pt.swapped(ptes).any():
            vma.anon = vma.anon or AnonVma()
        if vma.has(WRITE) and not vma.shared:
            alone = anon & some["exclusive"].fillna(False).to_numpy(np.bool_)
            ptes[alone] |= pt.WRITE | pt.DIRTY
        for number in np.unique(at // BLOCK).tolist():
            space.table.ensure(number * BLOCK, number * BLOCK + 1)
        for page, run in space.table.runs(int(at[0]), int(at[-1]) + 1):
            begin, end = np.searchsorted(at, [page, page + len(run)])
            run[at[begin:end] - page] = ptes[begin:end]
        machine.kernel.map(pt.frame(ptes[counted]))
        machine.kernel.swap.occupy(pt.frame(ptes[pt.swapped(ptes)]))


def _entries(machine: Machine, pages: pd.DataFrame) -> pt.Ptes:
    kind = pages["kind"].to_numpy(str)
    pfn = pages["pfn"].fillna(0).to_numpy(np.int64).view(np.uint64)
    offset = pages["swap_offset"].fillna(0).to_numpy(np.int64)
    slot = offset << SWAP_TYPE_BITS | pages["swap_type"].fillna(0).to_numpy(np.int64)
    zero = np.isin(kind, ["zero", "huge_zero"])
    present = pages["present"].to_numpy(np.bool_)
    ptes = np.where(present, pfn | pt.PRESENT | pt.YOUNG, pt.NONE)
    ptes |= np.where(zero, pt.SPECIAL, pt.NONE)
    huge = kind == "huge_zero"
    if "huge" in pages:
        huge |= pages["huge"].fillna(False).to_numpy(np.bool_)
    ptes |= np.where(huge, pt.PMD, pt.NONE)
    ptes[kind == "swap"] = pt.ENTRY | slot[kind == "swap"].view(np.uint64)
    ptes[kind == "marker_guard"] = pt.GUARD_MARKER
    return ptes


def _mark_frames(machine: Machine, vma: Vma, at: Pfns, pages: pd.DataFrame) -> None:
    """Flags and owners of the frames that a mapping maps."""
    frames = machine.kernel.frames
    pfns = pages["pfn"].to_numpy(np.int64)
    file = pages["file"].fillna(False).to_numpy(np.bool_)
    alone = pages["exclusive"].fillna(False).to_numpy(np.bool_)
    flags = np.where(file, FRESH_FILE, FRESH_ANON)
    if vma.file is not None and vma.file.shmem:
        flags = np.where(file, FRESH_SHMEM, flags)
    if vma.file is not None and vma.file.kind == DEVICE:
        flags = np.full(len(pfns), RESERVED)
    flags |= np.where(~file & alone, EXCLUSIVE, np.uint64(0))
    if "huge" in pages:
        large = pages["huge"].fillna(False).to_numpy(np.bool_)
        kind = HUGETLB if vma.has(VM_HUGETLB) else THP
        flags |= np.where(large, np.where(pfns % BLOCK == 0, HEAD, TAIL) | kind, np.uint64(0))
    if "flags" in pages:
        told = pages["flags"].fillna(0).to_numpy(np.int64).view(np.uint64)
        flags = np.where(told != 0, told & ~(MMAP | MLOCKED | UNEVICTABLE), flags)
    frames.flags[pfns] = flags
    blocks = np.unique(pfns[(flags & LARGE) != 0] // BLOCK * BLOCK)
    frames.claim((blocks[:, None] + np.arange(BLOCK)).ravel())
    if vma.file is not None:
        vma.file.add(vma.file_page(0) + at[file], pfns[file], frames)
    fresh = pfns[frames.content[pfns] == 0]
    frames.content[fresh] = machine.kernel.new_labels(len(fresh))


def _correct_counts(machine: Machine, pages: pd.DataFrame) -> None:
    """Where the kernel counted mappings of processes that are not in the snapshot, count them."""
    counts = machine.kernel.frames.mapcount
    if "mapcount" in pages:
        known = pages.dropna(subset=["pfn", "mapcount"])
        pfns = known["pfn"].to_numpy(np.int64)
        told = known["mapcount"].to_numpy(np.int64).astype(np.int32)
        counts[pfns] = np.maximum(counts[pfns], told)
    elif "exclusive" in pages:
        shared = pages[(pages["kind"] == "present") & ~pages["exclusive"].fillna(True).astype(bool)]
        pfns = shared["pfn"].dropna().to_numpy(np.int64)
        counts[pfns] = np.maximum(counts[pfns], 2)


def _hold_unknown_slots(machine: Machine, swaps: pd.DataFrame) -> None:
    """Slots used by what the snapshot does not show: shared memory, the swap cache, others."""
    for row in _rows(swaps.dropna(subset=["swap_type"])):
        area = machine.kernel.swap.areas[int(row.swap_type)]
        assert area is not None
        missing = (int(row.used) >> PAGE_SHIFT) - area.used
        if missing > 0:
            hidden = area.find(missing, missing)
            area.holders[hidden] = 1
            area.used += len(hidden)
