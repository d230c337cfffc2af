"""What the tests of the simulator ask it for: words and figures by page of a mapping."""

from typing import Any

import numpy as np

from pagemap_df import entries, proctext
from pagemap_df.sim import Machine, Process

E7 = entries.layout("E7")


def words(process: Process, first: int, count: int) -> entries.Words:
    return process.machine.words(f"{process.pid}/pagemap", first, count)


def seen(process: Process, first: int, count: int) -> entries.Fields:
    return entries.unpack(words(process, first, count), E7)


def letters(process: Process, first: int, count: int) -> str:
    """One letter a page: ``.`` none, ``P`` present, ``X`` also exclusive, ``S`` entry, ``z`` zero.

    Small letters for pages of files.
    """
    found = seen(process, first, count)
    zero = process.machine.kernel.frames.zero
    text = ""
    for n in range(count):
        if found.present[n]:
            letter = "X" if found.exclusive[n] else "P"
            letter = "Z" if found.frame[n] == zero else letter
            text += letter.lower() if found.file[n] else letter
        else:
            text += "S" if found.entry[n] else "."
    return text


def pfns(process: Process, first: int, count: int) -> list[int]:
    return seen(process, first, count).frame.tolist()


def smap(process: Process, page: int) -> dict[str, int]:
    """Figures of the mapping at a page, in kB."""
    maps = proctext.parse_smaps(process.machine.text(f"{process.pid}/smaps"))
    found = next(m for m in maps if m.vma.start <= page << 12 < m.vma.end)
    return {name: value // 1024 for name, value in found.figures.items()}


def flags(machine: Machine, pfn: int) -> set[str]:
    from pagemap_df import pageflags

    return set(pageflags.names(int(machine.words("kpageflags", pfn, 1)[0])))


def check(machine: Machine) -> None:
    """What must hold whatever happened: nothing is counted that is not there."""
    kernel, frames = machine.kernel, machine.kernel.frames
    mapped = np.zeros(frames.span, np.int64)
    holders: dict[int, int] = {}
    for process in machine.processes.values():
        for vma in process.mm.vmas:
            found = entries.unpack(words(process, vma.first, len(vma)), E7)
            counted = found.frame[found.present]
            counted = counted[counted != frames.zero]
            if frames.huge_zero is not None:
                counted = counted[
                    (counted < frames.huge_zero) | (counted >= frames.huge_zero + 512)
                ]
            np.add.at(mapped, counted, 1)
            for entry in found.frame[found.entry & ~found.guard].tolist():
                holders[entry] = holders.get(entry, 0) + 1
    assert np.array_equal(mapped, frames.mapcount), np.flatnonzero(mapped != frames.mapcount)
    for file in kernel.files.values():
        for entry in file.entries(np.flatnonzero(file.cache < 0)).tolist():
            holders[entry] = holders.get(entry, 0) + 1
    for number, area in enumerate(kernel.swap.areas):
        if area is not None:
            for offset in np.flatnonzero(area.holders).tolist():
                assert area.holders[offset] == holders.pop(offset << 5 | number)
            used = (area.holders > 0) | (area.cache > 0)
            assert area.used == used.sum()
    assert not holders
    from pagemap_df.sim.mm.hardware import BUDDY

    free = np.flatnonzero(frames.flags & BUDDY)
    assert len(free) == frames.free
    assert not frames.mapcount[free].any()


def pss_units(machine: Machine) -> tuple[float, int]:
    """Sum of PSS over all processes, and distinct mapped frames times the page size."""
    total = 0
    frames: set[int] = set()
    for process in machine.processes.values():
        for vma in process.mm.vmas:
            total += smap(process, vma.first)["Pss"]
            found: Any = seen(process, vma.first, len(vma))
            frames |= set(found.frame[found.present].tolist())
    return total, 4 * len(frames - {machine.kernel.frames.zero})
