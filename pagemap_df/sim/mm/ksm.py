"""Same-page merging (``mm/ksm.c``).

`scan` does in one step what ksmd does over some full passes: anonymous pages of equal contents
in mappings that asked for it become one write-protected page each. A page without a twin
stays as it is; one that several processes have from a fork is not its own twin. Any later
write copies, even one that changes nothing, and even by the last user.

ksmd remembers each page that it has looked at (``struct ksm_rmap_item``): what it held, and
which merged page it was made part of. A page that has changed since is only noted when it is
met again, and only then does the merged page learn that it has left.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from . import pagetable as pt
from .hardware import ANON, BLOCK, DIRTY, EXCLUSIVE, FRESH_ANON, KSM, LARGE, Bools, Frames, Pfns
from .kernel import Kernel
from .pagetable import Ptes
from .reclaim import allocate, make_room, split_folios
from .vma import HUGETLB, MERGEABLE, SHARED, SPECIAL, AddressSpace, Merged, Vma

_PASSES = 4
_NO, _UNSEEN = -1, np.iinfo(np.int64).min


def suitable(vma: Vma) -> bool:
    """Whether MERGEABLE means anything here (``vma_ksm_compatible``)."""
    return not vma.has(SHARED | SPECIAL | HUGETLB)


def enter(kernel: Kernel, space: AddressSpace) -> None:
    """Let ksmd look at an address space from now on, after those before (``__ksm_enter``)."""
    if not space.merging:
        space.merging = 1 + max((other.merging for other in kernel.spaces), default=0)


def scan(kernel: Kernel) -> int:
    """Merge what can be merged; how many entries were changed."""
    rows = [_Rows(kernel, space) for space in _in_order(kernel)]
    if not rows:
        return 0
    frames = kernel.frames
    targets, nodes = _Ksmd(kernel, rows).passes()
    new = np.unique(nodes[nodes >= 0])
    new = new[(frames.flags[new] & KSM) == 0]
    kernel.swap.free_swap(new)
    frames.flags[new] = (frames.flags[new] | KSM | DIRTY) & ~EXCLUSIVE
    ends = np.cumsum([len(some.pages) for some in rows])[:-1]
    return sum(
        some.become(kernel, *new)
        for some, *new in zip(rows, np.split(targets, ends), np.split(nodes, ends), strict=True)
    )


def _in_order(kernel: Kernel) -> list[AddressSpace]:
    """The address spaces that ksmd goes over, one after the other."""
    able = [space for space in kernel.spaces if space.merging]
    return sorted(able, key=lambda space: space.merging)


def _entries(kernel: Kernel, space: AddressSpace) -> list[tuple[int, Ptes, Pfns]]:
    """Entries that ksmd looks at: first page and entries of a run, positions of anonymous pages."""
    found = []
    for vma in space.vmas:
        if vma.has(MERGEABLE):
            for first, ptes in space.table.runs(vma.first, vma.stop):
                where = np.flatnonzero(pt.mapped(ptes))
                where = where[(kernel.frames.flags[pt.frame(ptes[where])] & ANON) != 0]
                found.append((first, ptes, where))
    return found


class _Rows:
    """What ksmd meets in one address space, and what it remembers of it, by page.

    Attributes
    ----------
    pages : int64 array
        Ascending: those that are there, and those that were there the last time.
    pfns : int64 array
        The frame of each, -1 where there is none any more.
    labels, known : int64 array
        What it holds, and what it held if it was met before.
    nodes : int64 array
        The merged page that it was made part of, -1 for none.
    """

    def __init__(self, kernel: Kernel, space: AddressSpace) -> None:
        self.space, self._entries = space, _entries(kernel, space)
        found = [first + where for first, _, where in self._entries]
        here = np.concatenate([space.merged.pages[:0], *found])
        self.pages = np.union1d(here, space.merged.pages)
        self.pfns, self.nodes = np.full((2, len(self.pages)), _NO)
        self.known = np.full(len(self.pages), _UNSEEN)
        for first, ptes, where in self._entries:
            self.pfns[self._at(first + where)] = pt.frame(ptes[where])
        self.labels = np.where(self.pfns < 0, _UNSEEN, kernel.frames.content[self.pfns])
        at = self._at(space.merged.pages)
        self.known[at], self.nodes[at] = space.merged.labels, space.merged.nodes

    def _at(self, pages: Pfns) -> Pfns:
        return np.searchsorted(self.pages, pages)

    def become(self, kernel: Kernel, targets: Pfns, nodes: Pfns) -> int:
        """Let entries map other frames, and note what was met; how many entries changed."""
        there = targets >= 0
        changed = there & ((targets != self.pfns) | ((nodes != self.nodes) & (nodes >= 0)))
        for first, ptes, where in self._entries:
            at = self._at(first + where)
            some = changed[at]
            _point_to(kernel, ptes, where[some], targets[at[some]])
        self.space.merged = Merged(self.pages[there], self.labels[there], nodes[there])
        return int(changed.sum())


class _Ksmd:
    """The daemon on its way through all rows, page by page (``cmp_and_merge_page``).

    Pages that could not be merged wait in the *unstable tree* of a pass for their like: a row
    by what it holds. What is looked for there passes by the first that was put in, and is lost
    if that one is gone meanwhile.
    """

    def __init__(self, kernel: Kernel, rows: list[_Rows]) -> None:
        self.kernel, self.frames, self.knobs = kernel, kernel.frames, kernel.knobs
        self.unstable: dict[int, int] = {}
        self.root = _NO
        self.pfns, self.labels, self.known, self.nodes = (
            np.concatenate([getattr(some, name) for some in rows])
            for name in ("pfns", "labels", "known", "nodes")
        )
        self.users = self._alive(kernel)
        self.chains = kernel.ksm_chains

    def _alive(self, kernel: Kernel) -> Counter[int]:
        """How many pages each merged page is known to be made of; chains lose what is gone."""
        frames = self.frames
        merged = np.flatnonzero(frames.flags & KSM)
        self.nodes[~np.isin(self.nodes, merged)] = _NO
        for label, chain in kernel.ksm_chains.items():
            there = np.isin(chain, merged) & (frames.content[chain] == label)
            kernel.ksm_chains[label] = [pfn for pfn, it in zip(chain, there, strict=True) if it]
        chained = {pfn for chain in kernel.ksm_chains.values() for pfn in chain}
        for pfn in set(merged.tolist()) - chained:  # of a machine that was loaded
            kernel.ksm_chains.setdefault(int(frames.content[pfn]), []).append(pfn)
        users = Counter(dict.fromkeys(merged.tolist(), 0))
        users.update(self.nodes[self.nodes >= 0].tolist())
        return users

    def passes(self) -> tuple[Pfns, Pfns]:
        """Where all rows lead to in the end: their frames, and what they were made part of."""
        rows = np.flatnonzero(self._interesting()).tolist()
        for _ in range(_PASSES):
            self.unstable, self.root = {}, _NO
            for row in rows:
                self._meet(row)
        return self.pfns, self.nodes

    def _interesting(self) -> Bools:
        """Rows of which something may come: pages with a twin, and what was merged."""
        alive = self.pfns >= 0
        twin = np.zeros(len(self.pfns), np.bool_)
        twin[alive] = _have_twins(self.frames, self.pfns[alive], self.knobs.ksm_zero)
        return twin | (self.nodes >= 0)

    def _meet(self, row: int) -> None:
        pfn, label, node = (int(array[row]) for array in (self.pfns, self.labels, self.nodes))
        if pfn in self.users and node == pfn:
            return
        if node >= 0:
            self.users[node] -= 1
            self.nodes[row] = _NO
        if pfn in self.users:
            self._join(row, pfn)
        elif pfn < 0 or pfn == self.frames.zero:
            return
        elif self.known[row] != label:
            self.known[row] = label
        elif label == 0 and self.knobs.ksm_zero:
            self.pfns[row] = self.frames.zero
        elif (room := self._room(label)) is not None:
            if self._small(row):
                self._join(row, room)
        elif self.root >= 0 and self.pfns[self.root] < 0:
            return
        elif label in self.unstable:
            self._pair(row, self.unstable[label])
        else:
            self.unstable[label] = row
            if self.root < 0:
                self.root = row

    def _room(self, label: int) -> int | None:
        """The first merged page in the chain with room for one more, which goes to its head."""
        chain, most = self.chains.get(label, []), self.knobs.ksm_sharing
        found = next((pfn for pfn in chain if 0 < self.users[pfn] < most), None)
        if found is not None and self.users[found] + 1 < most:
            chain.remove(found)
            chain.insert(0, found)
        return found

    def _join(self, row: int, pfn: int) -> None:
        self.pfns[row] = self.nodes[row] = pfn
        self.users[pfn] += 1

    def _small(self, row: int) -> bool:
        """Split the huge page of a row, if it is of one: whether the page is still there.

        What holds nothing but zeroes is not; it maps the zero page from then on.
        """
        pfn = int(self.pfns[row])
        if self.frames.flags[pfn] & LARGE:
            block = pfn // BLOCK
            split_folios(self.kernel, np.array([block * BLOCK]))
            mine = np.flatnonzero(self.pfns // BLOCK == block)
            gone = (self.frames.flags[self.pfns[mine]] & ANON) == 0
            self.pfns[mine[gone]] = _NO
        return bool(self.pfns[row] >= 0)

    def _pair(self, row: int, other: int) -> None:
        """Merge a page with the one that waits for its like.

        Two pages of one huge page only get it split when they meet, and wait.
        """
        pfn, waiting = int(self.pfns[row]), int(self.pfns[other])
        if waiting < 0 or pfn == waiting:
            return
        together = pfn // BLOCK == waiting // BLOCK and self.frames.flags[pfn] & LARGE
        if not self._small(row) or together or not self._small(other):
            return
        label = int(self.labels[row])
        del self.unstable[label]
        self.users[pfn] = 0
        self.chains.setdefault(label, []).insert(0, pfn)
        self._join(other, pfn)
        self._join(row, pfn)


def _have_twins(frames: Frames, pfns: Pfns, zero: bool) -> Bools:
    """Which pages have a twin in another frame, a merged one, or the zero page."""
    labels = frames.content[pfns]
    values, kinds = np.unique(labels, return_inverse=True)
    _, first = np.unique(pfns, return_index=True)
    several = np.bincount(kinds[first], minlength=len(values)) > 1
    merged = frames.content[np.flatnonzero(frames.flags & KSM)]
    return np.asarray(several[kinds] | np.isin(labels, merged) | ((labels == 0) & zero))


def _point_to(kernel: Kernel, ptes: Ptes, where: Pfns, pfns: Pfns) -> None:
    """Let entries map merged pages, write-protected."""
    old = ptes[where]
    kernel.frames.flags[pt.frame(old[pt.has(old, pt.DIRTY)])] |= DIRTY  # write_protect_page
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
