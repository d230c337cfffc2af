"""fork: which entries a child gets, and what both sides lose (``copy_page_range``).

A mapping is copied page by page only if it has an anon_vma (some private page was ever made
in it) or has no file to fault from again (PFNMAP), or holds guard markers. Everything else
starts empty in the child and is faulted in. Copied private pages are write-protected on both
sides and nobody's exclusive page any more.
"""

from __future__ import annotations

import numpy as np

from . import ksm
from . import pagetable as pt
from .files import HUGE
from .hardware import EXCLUSIVE
from .kernel import Kernel
from .pagetable import Ptes
from .vma import (
    DONTCOPY,
    GUARDED,
    LOCKED,
    LOCKONFAULT,
    MIXEDMAP,
    PFNMAP,
    SHARED,
    WIPEONFORK,
    AddressSpace,
    AnonVma,
    Vma,
)


def copy_space(kernel: Kernel, parent: AddressSpace) -> AddressSpace:
    """A child's address space (``dup_mmap``)."""
    frames = kernel.frames
    child = AddressSpace(parent.mmap_base, parent.task_size, frames.zero, frames.flags)
    child.brk_first, child.brk_stop = parent.brk_first, parent.brk_stop
    child.stack_page, child.cgroup = parent.stack_page, parent.cgroup
    child.opened, child.scattered = dict(parent.opened), parent.scattered
    for vma in parent.vmas:
        if vma.has(DONTCOPY):
            continue
        twin = vma.cut(vma.first, vma.stop)
        twin.flags &= ~(LOCKED | LOCKONFAULT)
        twin.anon = _fork_anon(vma)
        if twin.file is not None:
            twin.file.users += len(twin)
        child.vmas.append(twin)
        if not vma.has(WIPEONFORK) and needs_copy(vma):
            _copy_range(kernel, parent, child, vma)
    kernel.spaces.append(child)
    if parent.merging:
        ksm.enter(kernel, child)
    return child


def _fork_anon(vma: Vma) -> AnonVma | None:
    if vma.anon is None or vma.has(WIPEONFORK):
        return None
    return AnonVma(vma.anon.depth + 1)


def needs_copy(vma: Vma) -> bool:
    """Whether fork looks at the entries at all (``vma_needs_copy``)."""
    if vma.file is not None and vma.file.kind == HUGE:
        return not vma.shared
    return vma.anon is not None or vma.has(PFNMAP | MIXEDMAP | GUARDED)


def _copy_range(kernel: Kernel, parent: AddressSpace, child: AddressSpace, vma: Vma) -> None:
    """``copy_pte_range``, for all of a mapping."""
    keep = ~pt.YOUNG & ~pt.UFFD_WP
    if vma.has(SHARED):
        keep &= ~pt.DIRTY
    else:
        keep &= ~pt.WRITE
    for first, ptes in parent.table.runs(vma.first, vma.stop):
        if not vma.has(SHARED):
            _share(kernel, ptes)
        copy = ptes & keep
        copy[ptes == pt.UFFD_MARKER] = pt.NONE
        markers = pt.has(ptes, pt.ENTRY)
        copy[markers] = ptes[markers] & ~pt.UFFD_WP
        kernel.map(pt.frame(ptes[pt.mapped(ptes)]))
        entries = ptes[pt.swapped(ptes)]
        if len(entries):
            kernel.swap.hold(pt.frame(entries))
        child.table.ensure(first, first + len(ptes))
        for page, to in child.table.runs(first, first + len(ptes)):
            to[:] = copy[page - first : page - first + len(to)]


def _share(kernel: Kernel, ptes: Ptes) -> None:
    """Write-protect private entries; their pages and slots are not exclusive any more."""
    here = pt.present(ptes)
    np.bitwise_and(ptes, ~pt.WRITE, out=ptes, where=here)
    np.bitwise_and(ptes, ~pt.XSWAP, out=ptes, where=~here)
    kernel.frames.flags[pt.frame(ptes[pt.mapped(ptes)])] &= ~EXCLUSIVE
