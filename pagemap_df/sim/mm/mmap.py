"""mmap, munmap, mprotect, mremap, brk, mlock: calls that change mappings (``mm/mmap.c``).

All take pages, not bytes, and raise `OSError` with the kernel's errno: EINVAL for arguments
that make no sense, ENOMEM for ranges with holes, EACCES, EEXIST, EFAULT.
"""

from __future__ import annotations

import errno
from collections.abc import Callable

from . import hugetlb
from . import pagetable as pt
from .fault import populate
from .files import HUGE, File, ReadAhead
from .hardware import BLOCK, EXCLUSIVE
from .kernel import Kernel
from .vma import (
    ACCESS,
    ACCOUNT,
    DONTEXPAND,
    HUGETLB,
    LOCKED,
    LOCKONFAULT,
    MAYEXEC,
    MAYREAD,
    MAYWRITE,
    NORESERVE,
    READ,
    SHARED,
    SPECIAL,
    WRITE,
    AddressSpace,
    Vma,
    fail,
)
from .zap import forget_tables, unmap_file, zap


def mmap(
    kernel: Kernel,
    space: AddressSpace,
    pages: int,
    flags: int,
    *,
    file: File | None = None,
    offset: int = 0,
    fixed: int | None = None,
    replace: bool = True,
    fill: bool = False,
    name: bytes = b"",
) -> int:
    """Make a mapping: its first page.

    Parameters
    ----------
    flags : int
        Flags of `vma`.
    fixed : int, optional
        Where to put it; what was there goes, or with ``replace=False`` is an EEXIST.
    fill : bool
        MAP_POPULATE.
    """
    if pages <= 0:
        raise fail(errno.EINVAL, "no pages")
    flags |= space.lock_future
    huge = file is not None and file.kind == HUGE
    if file is not None and huge:
        pages = -(-pages // BLOCK) * BLOCK
        flags = (flags | HUGETLB | DONTEXPAND) & ~LOCKED
        owner = None if flags & SHARED else space
        if not flags & NORESERVE and not hugetlb.reserve(kernel, file, offset, pages, owner):
            raise fail(errno.ENOMEM, "huge page pool")
    if fixed is None:
        align = BLOCK if huge or (file is None and pages % BLOCK == 0) else 1
        first = space.gap(pages, align)
        if first is None:
            raise fail(errno.ENOMEM, "no room in the address space")
    else:
        first = _fixed(kernel, space, fixed, pages, replace=replace)
    vma = Vma(first, first + pages, flags, file, offset if file else first, None, name)
    if file is not None:
        file.users += pages
        space.opened.setdefault(file.number, ReadAhead())
    space.insert(vma)
    if fill or flags & LOCKED:
        populate(kernel, space, first, first + pages)
    return first


def _fixed(kernel: Kernel, space: AddressSpace, first: int, pages: int, *, replace: bool) -> int:
    if first < 16 or first + pages > space.task_size:
        raise fail(errno.ENOMEM if first >= 16 else errno.EPERM, "outside the address space")
    if space.overlapping(first, first + pages):
        if not replace:
            raise fail(errno.EEXIST, "something is mapped there")
        munmap(kernel, space, first, first + pages)
    return first


def munmap(kernel: Kernel, space: AddressSpace, first: int, stop: int) -> None:
    """Take a range out of the address space; holes are no error."""
    if first >= stop:
        raise fail(errno.EINVAL, "no pages")
    for vma in space.remove(first, stop):
        close(kernel, space, vma)
    forget_tables(space, first, stop)


def close(kernel: Kernel, space: AddressSpace, vma: Vma) -> None:
    """A mapping goes, and all that is in it (``remove_vma``)."""
    zap(kernel, space, vma, vma.first, vma.stop, guards=True)
    hugetlb.unreserve(kernel, space, vma)
    put_file(kernel, vma.file, len(vma))


def put_file(kernel: Kernel, file: File | None, pages: int) -> None:
    """So many pages less map `file`; a deleted file without mappings goes, too."""
    if file is None:
        return
    file.users -= pages
    if file.deleted and not file.users:
        kernel.huge_reserved -= len(file.reserved)
        truncate(kernel, file, 0)
        del kernel.files[file.number]


def truncate(kernel: Kernel, file: File, pages: int) -> None:
    """Set the size of a file; pages beyond go from all mappings, private copies included."""
    if pages >= file.pages:
        file.grow(pages)
        return
    unmap_file(kernel, file, pages, file.pages, copies=True)
    punch(kernel, file, pages, file.pages)
    file.shrink(pages)


def punch(kernel: Kernel, file: File, first: int, stop: int) -> None:
    """Make a hole of unmapped pages of a file."""
    resident = file.resident(first, stop)
    kernel.free_cached(file.remove(resident, kernel.frames, keep=False))
    out = first + (file.cache[first:stop] < 0).nonzero()[0]
    kernel.swap.drop(file.entries(out))
    file.cache[first:stop] = 0
    if len(file.disk):
        file.disk[first:stop] = 0


def mprotect(kernel: Kernel, space: AddressSpace, first: int, stop: int, access: int) -> None:
    """Change what is allowed, up to the first hole, which is an ENOMEM.

    Entries lose their write bit, or get it where a fault could decide nothing. Pages keep
    their frames: forbidding everything hides nothing from pagemap. Locked private memory that
    becomes writable is copied at once, so that no write needs a fault.
    """
    end, locked = space.contiguous(first, stop), []
    if end > first:
        locked = [
            (low, high)
            for vma, low, high in space.parts(first, end)
            if access & WRITE and vma.flags & (WRITE | SHARED | LOCKED) == LOCKED
        ]
        space.change(first, end, lambda vma: _protected(vma, access))
    for vma, low, high in space.parts(first, end):
        for _, ptes in space.table.runs(low, high):
            if not access & WRITE:
                ptes[pt.present(ptes)] &= ~pt.WRITE
            else:
                _allow_writing(kernel, vma, ptes)
    for low, high in locked:
        populate(kernel, space, low, high)
    if end < stop:
        raise fail(errno.ENOMEM, "a hole in the range")


def _protected(vma: Vma, access: int) -> int:
    """Flags after mprotect; what may be written is accounted for (``mprotect_fixup``)."""
    flags = vma.flags & ~ACCESS | access
    if access & WRITE:
        if not vma.has(ACCOUNT | WRITE | HUGETLB | SHARED | NORESERVE):
            flags |= ACCOUNT
    elif vma.anonymous and vma.anon is None:
        flags &= ~ACCOUNT
    return flags


def _allow_writing(kernel: Kernel, vma: Vma, ptes: pt.Ptes) -> None:
    """``can_change_pte_writable``: where no fault has to decide anything."""
    counted = pt.mapped(ptes)
    if vma.shared:
        able = counted & pt.has(ptes, pt.DIRTY)
    else:
        able = counted.copy()
        able[counted] = (kernel.frames.flags[pt.frame(ptes[counted])] & EXCLUSIVE) != 0
    ptes[able] |= pt.WRITE


def brk(kernel: Kernel, space: AddressSpace, stop: int) -> int:
    """Move the end of the heap to page `stop`; where it is then."""
    if stop < space.brk_first:
        return space.brk_stop
    if stop < space.brk_stop:
        if not space.overlapping(stop, space.brk_stop):
            return space.brk_stop
        munmap(kernel, space, stop, space.brk_stop)
    elif stop > space.brk_stop:
        if stop + 1 > space.first_taken(space.brk_stop):
            return space.brk_stop
        flags = heap_flags() | space.lock_future
        space.insert(Vma(space.brk_stop, stop, flags, None, space.brk_stop))
        if flags & LOCKED:
            populate(kernel, space, space.brk_stop, stop)
    space.brk_stop = stop
    return stop


def heap_flags() -> int:
    """Of private writable anonymous memory."""
    return READ | WRITE | MAYREAD | MAYWRITE | MAYEXEC | ACCOUNT


def mlock(
    kernel: Kernel, space: AddressSpace, first: int, stop: int, *, onfault: bool = False
) -> None:
    """Lock a range: populated, and never reclaimed. Ends at the first hole with ENOMEM."""
    bits = LOCKED | (LOCKONFAULT if onfault else 0)

    def locked(vma: Vma) -> int:
        if vma.has(SPECIAL | HUGETLB):
            return vma.flags
        return vma.flags & ~(LOCKED | LOCKONFAULT) | bits

    _up_to_hole(space, first, stop, locked)
    if not populate(kernel, space, first, stop, strict=True):
        raise fail(errno.ENOMEM, "some page could not be populated")


def _up_to_hole(space: AddressSpace, first: int, stop: int, flags: Callable[[Vma], int]) -> None:
    end = space.contiguous(first, stop)
    if end > first:
        space.change(first, end, flags)
    if end < stop:
        raise fail(errno.ENOMEM, "a hole in the range")


def munlock(space: AddressSpace, first: int, stop: int) -> None:
    """Undo mlock. Pages stay."""
    _up_to_hole(space, first, stop, lambda vma: vma.flags & ~(LOCKED | LOCKONFAULT))
