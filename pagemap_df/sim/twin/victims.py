"""Telling the model which pages memory pressure took: the one thing it cannot know.

The kernel is looked at before the model moves. What an entry maps in the model and does not
map in the kernel is gone, from all who map it or from one of them; where the kernel has the
zero page instead, or single pages, a huge page was split; what the page cache of a file no
longer holds is gone from there; and of pages that were lazily freed, some turned out to be
written to after all. Pressure also wakes who writes dirty files to disk, so that both sides
write all of it.
"""

from __future__ import annotations

import array
import ctypes
import os
from dataclasses import dataclass

import numpy as np

from ...entries import ENTRY, FRAME, PRESENT, Words
from ...pageflags import mask
from ..mm import pagetable as pt
from ..mm.files import DEVICE, DISK, File
from ..mm.hardware import ANON, BLOCK, DIRTY, KSM, LARGE, PAGE_SIZE, SWAPBACKED, Bools, Pfns
from ..mm.kernel import Kernel
from ..mm.pagetable import Ptes
from ..mm.reclaim import drop_cache, evict, split_folios, write_back
from . import child
from .abi import CACHESTAT
from .arena import FIRST, STOP, Model
from .play import Play
from .session import Session


@dataclass
class _Run:
    """Entries of a run that map frames in the model, and the kernel's words for them."""

    ptes: Ptes
    where: Pfns
    words: Words

    @property
    def pfns(self) -> Pfns:
        """The frames in the model."""
        return pt.frame(self.ptes[self.where])

    @property
    def gone(self) -> Bools:
        """Where the kernel has nothing present."""
        return np.asarray((self.words & np.uint64(PRESENT)) == 0)

    @property
    def swapped(self) -> Bools:
        """Where the kernel has a swap entry."""
        return np.asarray(self.gone & ((self.words & np.uint64(ENTRY)) != 0))

    def frames(self) -> Pfns:
        """The frames in the kernel."""
        return (self.words & np.uint64(FRAME)).view(np.int64)


def tell(model: Model, real: Play, host: Session) -> None:
    """Let the model lose what the kernel has taken."""
    kernel, model.pressed = model.machine.kernel, True
    zeros = host.source.facts()["zero_pfns"]
    runs = _runs(model, real, host)
    split = [run.pfns[run.gone | np.isin(run.frames(), zeros)] for run in runs]
    split += [_in_pieces(kernel, run, host) for run in runs]
    if _split(kernel, np.concatenate([_NONE, *split])):
        runs = _runs(model, real, host)
    gone = np.unique(np.concatenate([_NONE, *(run.pfns[run.gone] for run in runs)]))
    left = np.unique(np.concatenate([_NONE, *(run.pfns[~run.gone] for run in runs)]))
    _warm_again(kernel, runs, host)
    for run in runs:
        # What was lazily freed cannot be in swap, unless it was written to after all.
        kernel.frames.flags[run.pfns[run.swapped]] |= SWAPBACKED
        single = run.where[run.gone & ~run.swapped & np.isin(run.pfns, left)]
        old = pt.frame(run.ptes[single])
        run.ptes[single] = pt.NONE
        kernel.unmap(old)
    gone = np.setdiff1d(gone, left)
    model.merged_out |= bool((kernel.frames.flags[gone] & KSM).any())
    evict(kernel, gone, writeback=True)
    _shrink_caches(model, real)


_NONE = np.empty(0, np.int64)


def _runs(model: Model, real: Play, host: Session) -> list[_Run]:
    found = []
    for name, task in real.tasks.items():
        space = model.run.processes[name].space
        if space is None:
            continue
        for vma in space.vmas:
            moved = 0
            if not FIRST <= vma.first < STOP:
                if vma.file is None or vma.file.kind == DEVICE:
                    continue
                moved = model.image_moves(name)
            for first, ptes in space.table.runs(vma.first, vma.stop):
                where = np.flatnonzero(pt.mapped(ptes))
                words = host.source.words(f"{task.pid}/pagemap", first + moved, len(ptes))
                found.append(_Run(ptes, where, words[where]))
        host.source.release(task.pid)
    return found


def _split(kernel: Kernel, pfns: Pfns) -> bool:
    """Split the large folios among `pfns`; whether there were any."""
    large = pfns[(kernel.frames.flags[pfns] & LARGE) != 0]
    if len(large):
        split_folios(kernel, np.unique(large // BLOCK * BLOCK))
    return bool(len(large))


def _in_pieces(kernel: Kernel, run: _Run, host: Session) -> Pfns:
    """The first page of each large folio of the model that is none in the kernel any more."""
    large = np.flatnonzero(((kernel.frames.flags[run.pfns] & LARGE) != 0) & ~run.gone)
    _, at = np.unique(run.pfns[large] // BLOCK, return_index=True)
    flags = [_flags(host, pfn) for pfn in run.frames()[large[at]].tolist()]
    return run.pfns[large[at]][[not it & mask("THP", "HUGE") for it in flags]]


def _flags(host: Session, pfn: int) -> int:
    """Of a frame in the kernel."""
    return int(host.source.words("kpageflags", pfn, 1)[0])


def _warm_again(kernel: Kernel, runs: list[_Run], host: Session) -> None:
    """Lazily freed pages that were dirty after all are like any others from then on."""
    frames = kernel.frames
    for run in runs:
        here = ~run.gone & ((frames.flags[run.pfns] & (ANON | SWAPBACKED)) == ANON)
        for pfn, real in zip(run.pfns[here].tolist(), run.frames()[here].tolist(), strict=True):
            if _flags(host, real) & mask("SWAPBACKED"):
                frames.flags[pfn] |= SWAPBACKED | DIRTY


def _shrink_caches(model: Model, real: Play) -> None:
    """Write files to disk, and let their page cache lose what is not in the kernel's any more."""
    kernel = model.machine.kernel
    numbers = set()
    for name, fd in real.shelf.fds.items():
        file = model.run.files[name]
        if file.number not in kernel.files or not file.pages:
            continue
        numbers.add(file.number)
        if file.kind == DISK:
            # Some of it has been written to disk already, or will be any moment.
            os.fdatasync(fd)
            write_back(kernel, file)
        _lose(kernel, file, range(file.pages), fd)
    for name, task in real.tasks.items():
        for vma in model.run.processes[name].mm.overlapping(FIRST, STOP):
            if vma.file is not None and vma.file.shmem and vma.file.number not in numbers:
                fd = _open_behind(task.pid, vma.first * PAGE_SIZE)
                try:
                    _lose(kernel, vma.file, range(vma.offset, vma.offset + len(vma)), fd)
                finally:
                    os.close(fd)


def _open_behind(pid: int, address: int) -> int:
    """Open the nameless file that a process maps at an address."""
    folder = f"/proc/{pid}/map_files"
    for name in os.listdir(folder):
        low, _, high = name.partition("-")
        if int(low, 16) <= address < int(high, 16):
            return os.open(f"{folder}/{name}", os.O_RDONLY)
    raise FileNotFoundError(f"process {pid} maps no file at {address:#x}, and the model does")


def _lose(kernel: Kernel, file: File, pages: range, fd: int) -> None:
    """Let part of a file's cache lose what is not in that of the kernel."""
    cached = file.resident(pages.start, pages.stop)
    lost = [page for page in cached.tolist() if not _in_page_cache(fd, page)]
    drop_cache(kernel, file.cache[lost] - 1, writeback=True)


def _in_page_cache(fd: int, page: int) -> bool:
    """Whether a file has a page in its cache (Linux 6.5).

    Not mincore: that says so of what is in the swap cache, too.
    """
    span, found = array.array("Q", [page * PAGE_SIZE, PAGE_SIZE]), array.array("Q", bytes(40))
    if child.libc.syscall(CACHESTAT, fd, *(_address(a) for a in (span, found)), 0):
        raise OSError(ctypes.get_errno(), "cachestat")
    return bool(found[0])


def _address(numbers: array.array[int]) -> ctypes.c_void_p:
    return ctypes.c_void_p(numbers.buffer_info()[0])
