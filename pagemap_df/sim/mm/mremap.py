"""mremap: mappings that move, grow and shrink (``mm/mremap.c``).

Entries move as they are: frames, swap entries and markers keep their identity.
"""

from __future__ import annotations

import errno

from . import ksm
from .fault import populate
from .hardware import BLOCK
from .kernel import Kernel
from .mmap import munmap
from .pagetable import Ptes
from .vma import (
    DONTEXPAND,
    HUGETLB,
    LOCKED,
    LOCKONFAULT,
    MERGEABLE,
    PFNMAP,
    AddressSpace,
    Vma,
    fail,
)
from .zap import forget_tables


def mremap(
    kernel: Kernel,
    space: AddressSpace,
    first: int,
    old: int,
    new: int,
    *,
    fixed: int | None = None,
    maymove: bool = True,
    keep: bool = False,
) -> int:
    """Give the mapping of `old` pages at `first` a size of `new`: where it is then.

    Of no page, if it is shared, it makes another mapping.

    Parameters
    ----------
    fixed : int, optional
        Where to move it (MREMAP_FIXED).
    keep : bool
        Leave an empty mapping behind (MREMAP_DONTUNMAP).
    """
    _check_arguments(first, old, new, fixed, keep=keep)
    if fixed is not None and old == new:
        return _move_all(kernel, space, first, old, fixed, keep=keep)
    vma, old, new = _checked(space, first, old, new, fixed, keep=keep)
    if fixed is not None or keep:
        return _to(kernel, space, (first, old, new), fixed, keep=keep)
    if new <= old:
        if new < old:
            munmap(kernel, space, first + new, first + old)
        return first
    if _grow(kernel, space, vma, first, old, new):
        return first
    if not maymove:
        raise fail(errno.ENOMEM, "no room to grow in place")
    return _move(kernel, space, vma, (first, old, new), fixed=None, keep=False)


def _check_arguments(first: int, old: int, new: int, fixed: int | None, *, keep: bool) -> None:
    """What is wrong whatever is mapped (``check_mremap_params``)."""
    if new <= 0 or (keep and old != new):
        raise fail(errno.EINVAL, "size")
    if fixed is not None and fixed < first + old and first < fixed + new:
        raise fail(errno.EINVAL, "the target overlaps the source")


def _checked(
    space: AddressSpace, first: int, old: int, new: int, fixed: int | None, *, keep: bool
) -> tuple[Vma, int, int]:
    """The mapping and the sizes, huge pages counted whole (``check_prep_vma``)."""
    vma = space.find(first)
    if vma is None:
        raise fail(errno.EFAULT, "nothing is mapped there")
    if vma.has(HUGETLB):
        old, new = (-(-pages // BLOCK) * BLOCK for pages in (old, new))
        if first % BLOCK or (fixed or 0) % BLOCK or new > old:
            raise fail(errno.EINVAL, "inside a huge page, or growing one")
    if fixed is None and not keep and new <= old:
        return vma, old, new
    if not old and not vma.shared:
        raise fail(errno.EINVAL, "only shared memory is mapped once more")
    if keep and vma.has(DONTEXPAND | PFNMAP):
        raise fail(errno.EINVAL, "this mapping may not be left behind")
    if first + min(old, new) > vma.stop or (new > old and first + old > vma.stop):
        raise fail(errno.EFAULT, "not within one mapping")
    if new != old and vma.has(DONTEXPAND | PFNMAP):
        raise fail(errno.EFAULT, "this mapping may not change its size")
    return vma, old, new


def _move_all(
    kernel: Kernel, space: AddressSpace, first: int, pages: int, to: int, *, keep: bool
) -> int:
    """Move all mappings of a range, and the gaps between them (``remap_move``, Linux 6.17)."""
    parts = [(low, high) for _, low, high in space.parts(first, first + pages)]
    if not parts or parts[0][0] > first:
        raise fail(errno.EFAULT, "nothing is mapped there")
    for low, high in parts:
        target = to + low - first
        _, old, new = _checked(space, low, high - low, high - low, target, keep=keep)
        _to(kernel, space, (low, old, new), target, keep=keep)
    return to


def _to(
    kernel: Kernel,
    space: AddressSpace,
    sizes: tuple[int, int, int],
    fixed: int | None,
    *,
    keep: bool,
) -> int:
    """Clear the target, cut what is too long, and move (``mremap_to``)."""
    first, old, new = sizes
    if fixed is not None and space.overlapping(fixed, fixed + new):
        munmap(kernel, space, fixed, fixed + new)
    if new < old:
        munmap(kernel, space, first + new, first + old)
        old = new
    vma = space.find(first)
    if vma is None:
        raise fail(errno.EFAULT, "the target took the source away")
    return _move(kernel, space, vma, (first, old, new), fixed=fixed, keep=keep)


def _grow(kernel: Kernel, space: AddressSpace, vma: Vma, first: int, old: int, new: int) -> bool:
    """Grow in place if the mapping ends here and nothing is behind it."""
    if first + old != vma.stop or space.overlapping(vma.stop, first + new):
        return False
    if first + new > space.task_size:
        return False
    more = vma.cut(vma.first, vma.stop)
    more.first, more.stop = vma.stop, first + new
    more.offset = vma.file_page(vma.stop)
    if vma.file is not None:
        vma.file.users += new - old
    locked = vma.has(LOCKED)
    space.insert(more)
    if locked:
        populate(kernel, space, first + old, first + new)
    return True


def _move(
    kernel: Kernel,
    space: AddressSpace,
    vma: Vma,
    sizes: tuple[int, int, int],
    *,
    fixed: int | None,
    keep: bool,
) -> int:
    """Move entries and mapping (``move_vma``).

    The new mapping comes first, and may merge with the old one if that has no page yet.
    """
    first, old, new = sizes
    align = BLOCK if vma.anonymous and new % BLOCK == 0 else 1
    to = space.gap(new, align) if fixed is None else fixed
    if to is None:
        raise fail(errno.ENOMEM, "no room in the address space")
    if vma.has(MERGEABLE):
        ksm.unmerge(kernel, space, vma, first, first + old)
    twin = vma.cut(first, first + old)
    twin.first, twin.stop = to, to + new
    if twin.anonymous and twin.anon is None:
        twin.offset = to
    locked = vma.has(LOCKED)
    moved = _take_tables(space, first, first + old, to)
    space.insert(twin)
    if vma.file is not None:
        vma.file.users += new - (0 if keep else old)
    if keep:
        _leave_behind(space, first, first + old)
    elif old:
        space.remove(first, first + old)
        forget_tables(space, first, first + old)
    for page, entries in moved:
        space.table.ensure(page, page + len(entries))
        space.table.write(page, entries)
    if locked and new > old:
        populate(kernel, space, to + old, to + new)
    return to


def _take_tables(space: AddressSpace, first: int, stop: int, to: int) -> list[tuple[int, Ptes]]:
    """Entries of a range, which is left empty, and the pages they are for now.

    Where the source has a table the target gets one, be it empty. Whole tables, and PMD
    mappings as such, move to places of the same alignment only (``move_page_tables``).
    """
    table = space.table
    table.split(first)
    table.split(stop)
    aligned = (to - first) % BLOCK == 0
    space.scattered |= bool(not aligned or first % BLOCK or stop % BLOCK)
    found = []
    for page, ptes in table.runs(first, stop):
        if not aligned:
            for at in range(page // BLOCK * BLOCK, page + len(ptes), BLOCK):
                table.split(at + 1)
        found.append((page - first + to, ptes.copy()))
        ptes[:] = 0
    if aligned:
        table.forget(first, stop)
    return found


def _leave_behind(space: AddressSpace, first: int, stop: int) -> None:
    """What MREMAP_DONTUNMAP leaves: all of the mapping, unlocked (``dontunmap_complete``).

    It forgets its anon_vma if it was moved as a whole.
    """
    vma = space.find(first)
    assert vma is not None
    vma.flags &= ~(LOCKED | LOCKONFAULT)
    if (vma.first, vma.stop) == (first, stop):
        vma.anon = None
