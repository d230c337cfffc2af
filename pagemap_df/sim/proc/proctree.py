"""The text files of a simulated machine's /proc, in the kernel's format."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ... import procstatus, proctext
from ...errors import NotAvailable
from ..mm import pagetable as pt
from ..mm.hardware import ANON, HUGETLB, PAGE_SHIFT, PAGE_SIZE, RESERVED
from ..mm.kernel import Kernel
from ..mm.swapfile import SwapArea
from ..mm.vma import LOCKED, AddressSpace
from ..process import Process
from .smaps import line, rollup, smap

_KIB = PAGE_SIZE // 1024


def counters(kernel: Kernel, space: AddressSpace) -> dict[str, int]:
    """Pages of an address space by kind: ``rss``, ``anon``, ``file``, ``shmem``, ``swap``, ..."""
    found = dict.fromkeys(("anon", "file", "shmem", "swap", "hugetlb"), 0)
    shmem = np.zeros(max(kernel.files, default=0) + 1, np.bool_)
    shmem[[number for number, file in kernel.files.items() if file.shmem]] = True
    frames = kernel.frames
    for _, ptes in space.table.runs(0, space.task_size):
        pfns = pt.frame(ptes[pt.mapped(ptes)])
        flags = frames.flags[pfns]
        huge = (flags & HUGETLB) != 0
        anon = ((flags & ANON) != 0) & ~huge
        file = ~anon & ~huge & ((flags & RESERVED) == 0)
        of_shmem = file & shmem[frames.owner[pfns]]
        found["anon"] += int(anon.sum())
        found["shmem"] += int(of_shmem.sum())
        found["file"] += int((file & ~of_shmem).sum())
        found["hugetlb"] += int(huge.sum())
        found["swap"] += int(pt.swapped(ptes).sum())
    found["rss"] = found["anon"] + found["file"] + found["shmem"]
    return found


def badness(space: AddressSpace) -> int:
    """What the OOM killer goes by: pages in memory and in swap, and page tables."""
    total = len(space.table.leaves)
    for _, ptes in space.table.runs(0, space.task_size):
        total += int((pt.mapped(ptes) | pt.swapped(ptes)).sum())
    return total


def swap_name(area: SwapArea) -> str:
    """Path of an area as text, as tables have it."""
    return proctext.path_to_text(area.path)


def process_text(kernel: Kernel, process: Process, name: str) -> bytes:
    """A file of ``/proc/<pid>``; `NotAvailable` for one that is not simulated."""
    if name not in _PROCESS_FILES:
        raise NotAvailable(f"{process.pid}/{name}: this machine has no such file")
    if process.space is None and name in ("maps", "smaps", "cmdline"):
        return b""
    return _PROCESS_FILES[name](kernel, process)


def machine_text(kernel: Kernel, path: str) -> bytes:
    """A file of ``/proc`` itself."""
    if path not in _MACHINE_FILES:
        raise NotAvailable(f"{path}: this machine has no such file")
    return _MACHINE_FILES[path](kernel)


def _maps(kernel: Kernel, process: Process) -> bytes:
    space = process.mm
    return proctext.format_maps(line(space, vma) for vma in space.vmas)


def _smaps(kernel: Kernel, process: Process) -> bytes:
    space = process.mm
    return proctext.format_smaps(smap(kernel, space, vma) for vma in space.vmas)


def _rollup(kernel: Kernel, process: Process) -> bytes:
    space = process.mm
    start, end = (space.vmas[0].first, space.vmas[-1].stop) if space.vmas else (0, 0)
    return proctext.format_rollup(rollup(kernel, space), start << PAGE_SHIFT, end << PAGE_SHIFT)


def _sizes(kernel: Kernel, space: AddressSpace) -> dict[str, str]:
    """The Vm* lines of status."""
    pages = counters(kernel, space)
    pages["size"] = sum(map(len, space.vmas))
    pages["locked"] = sum(len(vma) for vma in space.vmas if vma.has(LOCKED))
    pages["tables"] = len(space.table.leaves) + 3
    names = {
        "VmSize": "size",
        "VmLck": "locked",
        "VmRSS": "rss",
        "RssAnon": "anon",
        "RssFile": "file",
        "RssShmem": "shmem",
        "VmPTE": "tables",
        "VmSwap": "swap",
        "HugetlbPages": "hugetlb",
    }
    return {name: f"{pages[key] * _KIB:8d} kB" for name, key in names.items()}


def _status(kernel: Kernel, process: Process) -> bytes:
    ids = "\t".join([str(process.uid)] * 4)
    fields = {
        "Name": process.name,
        "State": "S (sleeping)" if process.space else "Z (zombie)",
        "Tgid": str(process.pid),
        "Pid": str(process.pid),
        "PPid": str(process.ppid),
        "Uid": ids,
        "Gid": ids,
    }
    if process.space is not None:
        fields |= _sizes(kernel, process.space)
    return procstatus.format_status(fields | {"Threads": "1"})


def _stat(kernel: Kernel, process: Process) -> bytes:
    name = process.name.encode()[:15]
    return procstatus.format_stat(
        procstatus.Stat(
            process.pid, name, "S" if process.space else "Z", process.ppid, process.start_time
        )
    )


def _statm(kernel: Kernel, process: Process) -> bytes:
    pages = counters(kernel, process.mm)
    size = sum(map(len, process.mm.vmas))
    shared = pages["file"] + pages["shmem"]
    return f"{size} {pages['rss']} {shared} 0 0 {pages['anon']} 0\n".encode()


def _cmdline(kernel: Kernel, process: Process) -> bytes:
    return procstatus.format_cmdline(process.command.split(b" ")) if process.command else b""


def _comm(kernel: Kernel, process: Process) -> bytes:
    return process.name.encode()[:15] + b"\n"


def _cgroup(kernel: Kernel, process: Process) -> bytes:
    name = kernel.cgroups[process.space.cgroup if process.space else 0].name
    path = name if name.startswith("/") else f"/{name}"
    return procstatus.format_cgroup([procstatus.CgroupLine(0, (), path.encode())])


def _swaps(kernel: Kernel) -> bytes:
    return procstatus.format_swaps(
        procstatus.SwapArea(
            area.path,
            area.kind,
            (area.pages - 1) * PAGE_SIZE,
            area.used * PAGE_SIZE,
            area.priority,
        )
        for area in kernel.swap.areas
        if area is not None
    )


def _meminfo(kernel: Kernel) -> bytes:
    areas = [area for area in kernel.swap.areas if area is not None]
    rows = {
        "MemTotal": kernel.frames.total,
        "MemFree": kernel.frames.free,
        "MemAvailable": kernel.frames.free,
        "SwapTotal": sum(area.pages - 1 for area in areas),
        "SwapFree": sum(area.free for area in areas),
    }
    return b"".join(
        f"{name + ':':<15} {pages * _KIB:>8} kB\n".encode() for name, pages in rows.items()
    )


def _iomem(kernel: Kernel) -> bytes:
    return procstatus.format_iomem(
        procstatus.IoRange(first << PAGE_SHIFT, stop << PAGE_SHIFT, "System RAM", 0)
        for first, stop in kernel.frames.ranges
    )


def _stat_of_machine(kernel: Kernel) -> bytes:
    return b"cpu  0 0 0 0 0 0 0 0 0 0\nbtime 1200000000\n"


_PROCESS_FILES: dict[str, Callable[[Kernel, Process], bytes]] = {
    "maps": _maps,
    "smaps": _smaps,
    "smaps_rollup": _rollup,
    "status": _status,
    "stat": _stat,
    "statm": _statm,
    "cmdline": _cmdline,
    "comm": _comm,
    "cgroup": _cgroup,
}
_MACHINE_FILES: dict[str, Callable[[Kernel], bytes]] = {
    "swaps": _swaps,
    "meminfo": _meminfo,
    "iomem": _iomem,
    "stat": _stat_of_machine,
    "version": lambda kernel: b"Linux version 6.18.0 (simulated)\n",
}
