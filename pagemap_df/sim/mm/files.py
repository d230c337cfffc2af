"""Files and their page cache.

A `File` on disk keeps a label of what each of its pages holds there; a shmem file (shared
anonymous memory, memfd, tmpfs) has no disk and lives in the cache and in swap; a hugetlbfs
file is cached in units of 512 pages. ``cache`` holds for each page PFN + 1, or 0 for not in
memory, or for shmem the negative ``-1 - entry`` of the swap slot it went to.

What can go wrong: pages beyond the end of the file have no place in the cache. The fault
that asks for one is a SIGBUS, raised above.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .hardware import DIRTY, Bools, Frames, Pfns

DISK, SHMEM, HUGE, DEVICE = "disk", "shmem", "hugetlb", "device"


@dataclass
class ReadAhead:
    """What was last read ahead of who opened a file (``struct file_ra_state``), in pages.

    The last `ahead` of the `size` pages from `start` on begin with a mark.
    """

    start: int = 0
    size: int = 0
    ahead: int = 0


class File:
    """An inode with its page cache.

    Parameters
    ----------
    number : int
        Number in the machine, from 1; `Frames.owner` refers to it.
    path : bytes
        As maps shows it, without " (deleted)".
    pages : int
        Size.
    kind : str
        `DISK`, `SHMEM`, `HUGE` or `DEVICE` (no page cache to speak of: the vDSO).
    device : str
        ``major:minor``.
    inode : int
    """

    def __init__(
        self, number: int, path: bytes, pages: int, kind: str, device: str, inode: int
    ) -> None:
        self.number, self.path, self.pages, self.kind = number, path, pages, kind
        self.device, self.inode = device, inode
        self.deleted = False
        self.users = 0
        """Pages of mappings, and open descriptors."""
        self.reserved: set[int] = set()
        """Of a hugetlb file: numbers of huge pages that the pool keeps for it."""
        self.owner: object = None
        """For whom, if mapped privately: one address space, and no child of it."""
        self.cache = np.zeros(pages, np.int64)
        self.disk = np.zeros(pages if kind == DISK else 0, np.int64)

    @property
    def shmem(self) -> bool:
        """Whether it lives in memory and swap alone."""
        return self.kind == SHMEM

    @property
    def shown_path(self) -> bytes:
        """What maps prints."""
        return self.path + b" (deleted)" if self.deleted else self.path

    def pfns(self, pages: Pfns) -> Pfns:
        """PFN of each page, -1 where it is not in memory. All `pages` lie below the end."""
        found = self.cache[pages] - 1
        found[found < -1] = -1
        return found

    def resident(self, first: int, stop: int) -> Pfns:
        """Which pages of the range are in memory, ascending."""
        return np.flatnonzero(self.cache[max(first, 0) : max(stop, 0)] > 0) + max(first, 0)

    def swapped(self, pages: Pfns) -> Bools:
        """Which pages of a shmem file are in swap."""
        return self.cache[pages] < 0

    def entries(self, pages: Pfns) -> Pfns:
        """The swap entries of pages that are in swap."""
        return -1 - self.cache[pages]

    def add(self, pages: Pfns, pfns: Pfns, frames: Frames) -> None:
        """Put frames into the cache (``filemap_add_folio``)."""
        self.cache[pages] = pfns + 1
        frames.owner[pfns] = self.number
        frames.index[pfns] = pages

    def remove(self, pages: Pfns, frames: Frames, *, keep: bool = True) -> Pfns:
        """Take pages out of the cache and return their frames, which still exist.

        With `keep`, what was dirty is written to disk first.
        """
        pfns = self.cache[pages] - 1
        if keep and self.kind == DISK:
            self.disk[pages] = frames.content[pfns]
        self.cache[pages] = 0
        frames.owner[pfns] = 0
        frames.flags[pfns] &= ~DIRTY
        return pfns

    def grow(self, pages: int) -> None:
        """Make the file at least `pages` long; what is new is a hole."""
        if pages > self.pages:
            self.cache = np.concatenate([self.cache, np.zeros(pages - self.pages, np.int64)])
            if self.kind == DISK:
                self.disk = np.concatenate([self.disk, np.zeros(pages - self.pages, np.int64)])
            self.pages = pages

    def shrink(self, pages: int) -> None:
        """Cut the file; the cache beyond must be empty already."""
        self.cache = self.cache[:pages].copy()
        self.disk = self.disk[:pages].copy()
        self.pages = pages
