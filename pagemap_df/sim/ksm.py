"""Same-page merging (``mm/ksm.c``).

`scan` does in one step what ksmd does over two full passes: anonymous pages of equal contents
in mappings that asked for it become one write-protected page each. A page without a twin
stays as it is; one that several processes have from a fork is not its own twin. Any later write copies, even one that changes nothing, and even by the last
user.
"""

from __future__ import annotations

import numpy as np

from . import pagetable as pt
from .hardware import ANON, BLOCK, DIRTY, EXCLUSIVE, FRESH_ANON, KSM, LARGE, Bools, Pfns
from .kernel import Kernel
from .pagetable import Ptes
from .reclaim import allocate, make_room, split_folios
from .vma import HUGETLB, MERGEABLE, SHARED, SPECIAL, AddressSpace, Vma

_PASSES = 3
"""As many as find a twin for a page that was met next to itself."""


def suitable(vma: Vma) -> bool:
    """Whether MERGEABLE means anything here (``vma_ksm_compatible``)."""
    return not vma.has(SHARED | SPECIAL | HUGETLB)


def enter(kernel: Kernel, space: AddressSpace) -> None:
    """Let ksmd look at an address space from now on, after those before (``__ksm_enter``)."""
    if not space.merging:
        space.merging = 1 + max((other.merging for other in kernel.spaces), default=0)


def scan(kernel: Kernel) -> int:
    """Merge what can be merged; how many entries were changed."""
    huge = _split_candidates(kernel)
    slots = _mergeable(kernel)
    if not slots:
        return 0
    frames = kernel.frames
    pfns = np.concatenate([pt.frame(ptes[where]) for ptes, where in slots])
    target = np.full(len(pfns), -1, np.int64)
    some = np.flatnonzero(_candidates(kernel, pfns))
    target[some] = _choose(kernel, pfns[some].tolist(), frames.content[pfns[some]].tolist(), huge)
    new = np.unique(target[(target >= 0) & (target != frames.zero)])
    kernel.swap.free_swap(new[(frames.flags[new] & KSM) == 0])
    frames.flags[new] = (frames.flags[new] | KSM | DIRTY) & ~EXCLUSIVE
    at = 0
    for ptes, where in slots:
        chosen = target[at : at + len(where)]
        at += len(where)
        _point_to(kernel, ptes, where[chosen >= 0], chosen[chosen >= 0])
    return int((target >= 0).sum())


def _mergeable(kernel: Kernel) -> list[tuple[Ptes, Pfns]]:
    """Entries that may change: anonymous pages that are not merged yet, as ksmd meets them."""
    return _anonymous(kernel, merged=False)


def _anonymous(kernel: Kernel, *, merged: bool) -> list[tuple[Ptes, Pfns]]:
    """Entries in mappings that ksmd goes over, of pages that are merged or are not."""
    wanted = ANON | KSM if merged else ANON
    slots = []
    for space in sorted(kernel.spaces, key=lambda space: space.merging):
        for vma in space.vmas:
            if vma.has(MERGEABLE):
                for _, ptes in space.table.runs(vma.first, vma.stop):
                    where = np.flatnonzero(pt.mapped(ptes))
                    flags = kernel.frames.flags[pt.frame(ptes[where])]
                    where = where[(flags & (ANON | KSM)) == wanted]
                    if len(where):
                        slots.append((ptes, where))
    return slots


def _candidates(kernel: Kernel, pfns: Pfns) -> Bools:
    """Which pages have a twin in another frame, a merged one, or the zero page."""
    frames = kernel.frames
    labels = frames.content[pfns]
    values, kinds = np.unique(labels, return_inverse=True)
    _, first = np.unique(pfns, return_index=True)
    several = np.bincount(kinds[first], minlength=len(values)) > 1
    merged = frames.content[np.flatnonzero(frames.flags & KSM)]
    zero = (labels == 0) & kernel.knobs.ksm_zero
    return np.asarray(several[kinds] | np.isin(labels, merged) | zero)


def _split_candidates(kernel: Kernel) -> set[int]:
    """Split huge pages with pages to merge; their block numbers."""
    found = [pt.frame(ptes[where]) for ptes, where in _mergeable(kernel)]
    if found:
        pfns = np.concatenate(found)
        pfns = pfns[_candidates(kernel, pfns)]
        large = pfns[(kernel.frames.flags[pfns] & LARGE) != 0]
        if len(large):
            split_folios(kernel, np.unique(large // BLOCK * BLOCK))
            return set((large // BLOCK).tolist())
    return set()


def _choose(kernel: Kernel, pfns: list[int], labels: list[int], huge: set[int]) -> list[int]:
    """For each entry the page it is to map, or -1 (``cmp_and_merge_page``, page by page).

    A page joins the first merged one in the chain of those that has room for one more, which
    goes to the head of the chain. Else it waits in the *unstable tree* for the next of equal
    contents in another frame, and that one's frame is the merged page.
    Two pages of one `huge` page only get it split when they meet, and wait.
    """
    frames, most = kernel.frames, kernel.knobs.ksm_sharing
    users, stable = _sharing(kernel), kernel.ksm_chains
    target = [-1] * len(pfns)
    for _ in range(_PASSES):
        unstable: dict[int, int] = {}
        for at, (pfn, label) in enumerate(zip(pfns, labels, strict=True)):
            if target[at] >= 0:
                continue
            room = next((one for one in stable.get(label, ()) if users[one] < most), None)
            if pfn in users or room is not None:
                huge.discard(pfn // BLOCK)
                target[at] = pfn if pfn in users or room is None else room
                users[target[at]] += 1
                if room == target[at] and users[room] < most:
                    stable[label].remove(room)
                    stable[label].insert(0, room)
            elif label == 0 and kernel.knobs.ksm_zero:
                target[at] = frames.zero
            elif label not in unstable:
                unstable[label] = at
            elif pfns[unstable[label]] // BLOCK == pfn // BLOCK in huge:
                huge.remove(pfn // BLOCK)
            elif pfns[unstable[label]] != pfn:
                huge -= {pfn // BLOCK, pfns[unstable[label]] // BLOCK}
                target[at] = target[unstable.pop(label)] = pfn
                users[pfn] = 2
                stable.setdefault(label, []).insert(0, pfn)
    return target


def _sharing(kernel: Kernel) -> dict[int, int]:
    """How many entries that ksmd knows of map each merged page; chains lose those that are gone."""
    frames = kernel.frames
    found = [pt.frame(ptes[where]) for ptes, where in _anonymous(kernel, merged=True)]
    counts = np.bincount(np.concatenate([np.empty(0, np.int64), *found]), minlength=1)
    merged = np.flatnonzero(frames.flags & KSM)
    for label, chain in list(kernel.ksm_chains.items()):
        there = np.isin(chain, merged) & (frames.content[chain] == label)
        kernel.ksm_chains[label] = [pfn for pfn, it in zip(chain, there, strict=True) if it]
    known = {pfn for chain in kernel.ksm_chains.values() for pfn in chain}
    for pfn in merged.tolist():
        if pfn not in known:  # of a machine that was loaded
            kernel.ksm_chains.setdefault(int(frames.content[pfn]), []).append(pfn)
    return {pfn: int(counts[pfn]) if pfn < len(counts) else 0 for pfn in merged.tolist()}


def _point_to(kernel: Kernel, ptes: Ptes, where: Pfns, pfns: Pfns) -> None:
    """Let entries map merged pages, write-protected."""
    old = ptes[where]
    zero = pfns == kernel.frames.zero
    bits = old & (pt.YOUNG | pt.SOFT | pt.UFFD_WP)
    ptes[where] = pfns.view(np.uint64) | pt.PRESENT | bits | np.where(zero, pt.SPECIAL, pt.NONE)
    kernel.map(pfns[~zero])
    kernel.unmap(pt.frame(old))


def unmerge(kernel: Kernel, space: AddressSpace, vma: Vma, first: int, stop: int) -> None:
    """Give a range private pages again (``unmerge_ksm_pages``).

    As nobody writes, they are clean and not writable yet (FAULT_FLAG_UNSHARE).
    """
    for _page, ptes in list(space.table.runs(first, stop)):
        where = np.flatnonzero(pt.mapped(ptes))
        where = where[(kernel.frames.flags[pt.frame(ptes[where])] & KSM) != 0]
        make_room(kernel, space, len(where))
        old = pt.frame(ptes[where])
        new = allocate(kernel, space, len(where), FRESH_ANON | EXCLUSIVE)
        kernel.frames.content[new] = kernel.frames.content[old]
        kernel.map(new)
        ptes[where] = new.view(np.uint64) | pt.PRESENT | pt.YOUNG
        kernel.unmap(old)
