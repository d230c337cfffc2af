"""Telling the model which pages memory pressure took: the one thing it cannot know.

The kernel is looked at before the model moves: what an entry maps in the model and does not
map in the kernel is gone, and so is what the page cache of a file no longer holds.
"""

from __future__ import annotations

import ctypes
import mmap
import os

import numpy as np

from .. import pagetable as pt
from ..files import DISK
from ..hardware import BLOCK, LARGE, PAGE_SIZE, Pfns
from ..reclaim import evict, split_folios
from .arena import FIRST, STOP, Model
from .play import Play
from .session import Session

_PRESENT = np.uint64(1 << 63)
_libc = ctypes.CDLL(None, use_errno=True)


def tell(model: Model, real: Play, host: Session) -> None:
    """Let the model lose what the kernel has taken."""
    kernel = model.machine.kernel
    gone = _unmapped(model, real, host)
    if len(gone):
        large = gone[(kernel.frames.flags[gone] & LARGE) != 0]
        if len(large):
            split_folios(kernel, np.unique(large // BLOCK * BLOCK))
            gone = _unmapped(model, real, host)
        evict(kernel, gone, writeback=True)
    for name, fd in real.shelf.fds.items():
        file = model.run.files[name]
        if file.kind == DISK and file.number in kernel.files and file.pages:
            cached = file.resident(0, file.pages)
            lost = cached[~_in_memory(fd, file.pages)[cached]]
            lost = lost[kernel.frames.mapcount[file.cache[lost] - 1] == 0]
            kernel.free_cached(file.remove(lost, kernel.frames))


def _unmapped(model: Model, real: Play, host: Session) -> Pfns:
    """Frames that the model maps and the kernel does not."""
    found = [np.empty(0, np.int64)]
    for name, task in real.tasks.items():
        space = model.run.processes[name].space
        if space is None:
            continue
        for vma in space.overlapping(FIRST, STOP):
            for first, ptes in space.table.runs(vma.first, vma.stop):
                words = host.source.words(f"{task.pid}/pagemap", first, len(ptes))
                away = pt.mapped(ptes) & ((words & _PRESENT) == 0)
                found.append(pt.frame(ptes[away]))
        host.source.release(task.pid)
    return np.unique(np.concatenate(found))


def _in_memory(fd: int, pages: int) -> np.ndarray:
    """Which pages of a file are in the page cache (mincore)."""
    answer = np.zeros(pages, np.uint8)
    with mmap.mmap(fd, pages * PAGE_SIZE, mmap.MAP_SHARED) as mapping:
        start = ctypes.addressof(ctypes.c_char.from_buffer(mapping))
        size = ctypes.c_size_t(pages * PAGE_SIZE)
        if _libc.mincore(ctypes.c_void_p(start), size, ctypes.c_void_p(answer.ctypes.data)):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return (answer & 1) != 0
