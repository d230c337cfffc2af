"""MADV_PAGEOUT: which pages go, and in what order (``madvise_cold_or_pageout_pte_range``).

Pages that others map, too, stay. A large folio that is mapped here as a whole is looked at in
one piece: dropped if it was lazily freed, else split, its first page first and the others from
the last one on. A part of it that holds nothing but zeroes maps the zero page from then on,
but the page itself takes a swap slot on its way out, for a moment.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from . import pagetable as pt
from . import thp
from .hardware import ANON, BLOCK, DIRTY, LARGE, RESERVED, SWAPBACKED, SWAPCACHE, Bools, Pfns
from .kernel import Kernel
from .pagetable import Ptes
from .reclaim import evict, split_folios
from .vma import AddressSpace

_ZEROES = -1
"""In place of a frame: a part of a huge page that held nothing but zeroes."""


def pageout(kernel: Kernel, space: AddressSpace, low: int, high: int) -> None:
    """Reclaim what is mapped in a range and nowhere else."""
    kept = _drop_lazy_folios(kernel, space, low, high)
    huge = _huge_blocks(space, low, high)
    unused = _holding_zeroes(kernel, space, huge)
    split_lone_folios(kernel, space, low, high, whole=True, but=kept)
    pages, pfns, mappings = _lone(kernel, space, low, high)
    zero = [page for page in unused.tolist() if space.table.get(page) & int(pt.SPECIAL)]
    pages = np.concatenate([pages, np.array(zero, np.int64)])
    pfns = np.concatenate([pfns, np.full(len(zero), _ZEROES)])
    block = pages // BLOCK
    back = np.isin(block, huge) & (pages % BLOCK > 0)
    order = np.argsort(np.where(back, (2 * block + 1) * BLOCK - pages, pages), kind="stable")
    if not kernel.swap.alternates and kernel.swap.has_room(len(pages)):
        kernel.swap.pass_over(len(zero))
        evict(kernel, pfns[order][pfns[order] != _ZEROES], mappings)
    else:
        _in_turn(kernel, pfns[order], block[order], huge, mappings)


def _in_turn(
    kernel: Kernel, pfns: Pfns, blocks: Pfns, huge: Pfns, mappings: list[tuple[Ptes, Pfns]]
) -> None:
    """Evict frames piece by piece, as each may find other slots.

    For a huge page the kernel wants slots in one piece first, and only a device has them: the
    next swap area has its turn then.
    """
    if not len(pfns):
        return
    begins = np.diff(blocks, prepend=-1) != 0
    begins |= np.diff(pfns == _ZEROES, prepend=~(pfns[:1] == _ZEROES)) != 0
    edges = np.flatnonzero(begins).tolist()
    known = -1
    for first, stop in zip(edges, [*edges[1:], len(pfns)], strict=True):
        if blocks[first] != known and blocks[first] in huge:
            kernel.swap.rotate()
        known = blocks[first]
        if pfns[first] == _ZEROES:
            kernel.swap.pass_over(stop - first)
        else:
            evict(kernel, pfns[first:stop], mappings)


def _lone(
    kernel: Kernel, space: AddressSpace, low: int, high: int
) -> tuple[Pfns, Pfns, list[tuple[Ptes, Pfns]]]:
    """Single pages that nobody else maps: pages, frames, and entries as `evict` wants them."""
    pages, frames, mappings = [np.empty(0, np.int64)], [np.empty(0, np.int64)], []
    for first, ptes in space.table.runs(low, high):
        where = np.flatnonzero(pt.mapped(ptes))
        pfns = pt.frame(ptes[where])
        keep = kernel.frames.flags[pfns] & (LARGE | RESERVED)
        lone = (kernel.frames.mapcount[pfns] == 1) & (keep == 0)
        ptes[where[lone]] &= ~pt.YOUNG
        pages.append(first + where[lone])
        frames.append(pfns[lone])
        mappings.append((ptes, where[lone]))
    return np.concatenate(pages), np.concatenate(frames), mappings


def _holding_zeroes(kernel: Kernel, space: AddressSpace, huge: Pfns) -> Pfns:
    """Pages in blocks mapped by PMD that hold nothing but zeroes."""
    found = [np.empty(0, np.int64)]
    for number in huge.tolist():
        leaf = space.table.leaf(number * BLOCK)
        assert leaf is not None
        empty = kernel.frames.content[pt.frame(leaf)] == 0
        found.append(number * BLOCK + np.flatnonzero(empty))
    return np.concatenate(found)


def _drop_lazy_folios(kernel: Kernel, space: AddressSpace, low: int, high: int) -> set[int]:
    """Drop lazily freed large folios in one piece (``unmap_huge_pmd_locked``, Linux 6.12).

    One that was written to since only loses its PMD, and is like any other from the next time
    on; the block numbers of those.
    """
    frames, kept = kernel.frames, set()
    lazy = LARGE | ANON | SWAPBACKED | SWAPCACHE | DIRTY
    for page, ptes in list(space.table.runs(low, high)):
        where = np.flatnonzero(pt.mapped(ptes))
        pfns = pt.frame(ptes[where])
        flags = frames.flags[pfns] & lazy
        lone = (frames.mapcount[pfns] == 1) & (flags > ANON) & ((flags & ~LARGE) == ANON)
        lone = lone & of_whole_blocks(pfns, lone)
        for block in np.unique(pfns[lone] // BLOCK).tolist():
            at = where[pfns // BLOCK == block]
            old = ptes[at]
            if pt.has(old, pt.DIRTY).any():
                frames.flags[block * BLOCK : (block + 1) * BLOCK] |= SWAPBACKED | DIRTY
                ptes[at] &= ~pt.PMD
                kept.add(block)
                continue
            ptes[at] = pt.NONE
            kernel.unmap(pt.frame(old))
            if old[0] & pt.PMD:
                space.table.forget(page + int(at[0]), page + int(at[-1]) + 1)
    return kept


def _huge_blocks(space: AddressSpace, low: int, high: int) -> Pfns:
    """Numbers of the blocks that are mapped by PMD and lie in range as a whole.

    Once split, the kernel takes their first page first, and the others from the last one on.
    """
    blocks = [
        (page + np.flatnonzero(pt.has(ptes, pt.PMD))) // BLOCK
        for page, ptes in space.table.runs(low, high)
    ]
    found, pages = np.unique(np.concatenate([np.empty(0, np.int64), *blocks]), return_counts=True)
    return np.asarray(found[pages == BLOCK])


def split_lone_folios(
    kernel: Kernel,
    space: AddressSpace,
    low: int,
    high: int,
    *,
    whole: bool,
    but: Collection[int] = (),
) -> None:
    """Split large folios that nobody else maps; without `whole`, only those partly in range.

    Not the blocks `but`.
    """
    frames = kernel.frames
    lone = []
    for page, ptes in space.table.runs(low, high):
        where = np.flatnonzero(pt.mapped(ptes))
        pfns = pt.frame(ptes[where])
        large = (frames.flags[pfns] & (LARGE | ANON)) > ANON
        if not whole:
            large &= ~of_whole_blocks(pfns)
        found, at = np.unique(pfns[large] // BLOCK, return_index=True)
        at = at[~np.isin(found, list(but))]
        mine = thp.owned_alone(kernel, space, page + where[large][at], pfns[large][at])
        lone += (pfns[large][at][mine] // BLOCK).tolist()
    if lone:
        split_folios(kernel, np.unique(lone) * BLOCK)


def of_whole_blocks(pfns: Pfns, which: Bools | None = None) -> Bools:
    """Which of the frames belong to a block of which all 512 are here, or are so and `which`."""
    block = np.unique(pfns // BLOCK, return_inverse=True)[1]
    return np.asarray(np.bincount(block, which)[block] == BLOCK)
