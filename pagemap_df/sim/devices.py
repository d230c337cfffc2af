"""What a machine has besides processes: files, swap areas, the huge page pool, cgroups."""

from __future__ import annotations

import numpy as np

from .mm import ksm
from .mm.filemap import obtain
from .mm.files import DEVICE, DISK, HUGE, SHMEM, File
from .mm.hardware import BLOCK, DIRTY, HEAD, HUGETLB, PAGE_SIZE, RESERVED, TAIL, Frames, size_of
from .mm.hugetlb import spare
from .mm.kernel import Cgroup, Kernel, Knobs
from .mm.mmap import put_file, truncate
from .mm.reclaim import make_room, shrink
from .mm.swapfile import SwapDevices
from .mm.swapoff import swapoff
from .mm.vma import AddressSpace

TASK_SIZE = 0x7FFFFFFFF
"""Pages of an x86-64 address space with 4-level tables."""


class Devices:
    """The part of a machine that system calls reach through file descriptors and sysfs.

    Attributes
    ----------
    kernel : Kernel
        The state of it all.
    """

    def __init__(self, memory: int | str, rng: np.random.Generator, thp: str) -> None:
        frames = Frames(size_of(memory), rng)
        self.kernel = Kernel(frames, SwapDevices(frames), rng, Knobs(thp=thp))
        self._inodes = 1000
        self._nobody = AddressSpace(TASK_SIZE, TASK_SIZE, frames.zero)

    def _new_file(self, path: bytes, pages: int, kind: str, device: str) -> File:
        self._inodes += 1
        number = max(self.kernel.files, default=0) + 1
        file = File(number, path, pages, kind, device, self._inodes)
        self.kernel.files[number] = file
        return file

    def device_file(self, path: bytes, pages: int) -> File:
        """A file whose pages are frames of the kernel: the vDSO."""
        file = self._new_file(path, pages, DEVICE, "00:00")
        pfns = np.flatnonzero(self.kernel.frames.flags == RESERVED)[-pages:]
        file.add(np.arange(pages), pfns, self.kernel.frames)
        return file

    def file(self, name: str, pages: int, *, cold: bool = False) -> File:
        """A file on disk, written and still cached unless `cold`."""
        path = name.encode() if name.startswith("/") else f"/srv/{name}".encode()
        file = self._new_file(path, pages, DISK, "fe:00")
        file.disk = self.kernel.new_labels(pages)
        if not cold:
            make_room(self.kernel, self._nobody, pages)
            obtain(self.kernel, self._nobody, file, np.arange(pages))
        return file

    def known_file(self, path: bytes, kind: str, device: str, inode: int) -> File:
        """A file with a given identity, empty."""
        file = self._new_file(path, 0, kind, device)
        file.inode = inode
        return file

    def memfd(self, name: str, pages: int) -> File:
        """A memfd, all holes; it stays open for as long as the machine runs."""
        file = self._new_file(f"/memfd:{name}".encode(), pages, SHMEM, "00:01")
        file.deleted, file.users = True, 1
        return file

    def shared_anonymous(self, pages: int) -> File:
        """What is behind a MAP_SHARED|MAP_ANONYMOUS mapping (``shmem_zero_setup``)."""
        file = self._new_file(b"/dev/zero", pages, SHMEM, "00:01")
        file.deleted = True
        return file

    def huge_file(self, pages: int) -> File:
        """What is behind a MAP_HUGETLB mapping."""
        pages = -(-pages // BLOCK) * BLOCK
        file = self._new_file(b"/anon_hugepage", pages, HUGE, "00:0f")
        file.deleted = True
        return file

    def unlink(self, file: File) -> None:
        """Remove a file's name; it lives on while it is mapped."""
        file.deleted = True
        put_file(self.kernel, file, 0)

    def truncate(self, file: File, pages: int) -> None:
        """Set a file's size."""
        truncate(self.kernel, file, pages)

    def write_file(self, space: AddressSpace, file: File, pages: range) -> None:
        """write(2): pages enter the cache, dirty, without any mapping being touched."""
        if not len(pages):
            return
        file.grow(pages[-1] + 1)
        numbers = np.asarray(pages)
        make_room(self.kernel, space, len(numbers))
        pfns = obtain(self.kernel, space, file, numbers)
        self.kernel.frames.flags[pfns] |= DIRTY
        self.kernel.frames.content[pfns] = self.kernel.new_labels(len(pfns))

    def swapon(
        self,
        size: int | str,
        *,
        path: str | None = None,
        priority: int | None = None,
        kind: str = "file",
    ) -> int:
        """Switch on a swap area of `size` bytes: its type."""
        pages = size_of(size) // PAGE_SIZE
        number = len(self.kernel.swap.areas)
        name = (path or f"/swap{number}").encode()
        return self.kernel.swap.on(name, kind, pages, priority)

    def swapoff(self, number: int) -> None:
        """Bring everything back from an area and switch it off."""
        swapoff(self.kernel, number)

    def huge_pages(self, count: int) -> int:
        """Make the hugetlb pool so large, if there are frames in one piece: how large it is.

        What is in use or reserved beyond that is surplus, and goes when it comes free.
        """
        kernel = self.kernel
        while kernel.huge_total < count:
            pfns = kernel.frames.alloc_block(HUGETLB)
            if pfns is None:
                break
            kernel.frames.flags[pfns] = HUGETLB | TAIL
            kernel.frames.flags[pfns[0]] = HUGETLB | HEAD
            kernel.huge_pool.append(int(pfns[0]))
            kernel.huge_total += 1
        while kernel.huge_total > count and spare(kernel) > 0:
            kernel.frames.release_block(kernel.huge_pool.pop())
            kernel.huge_total -= 1
        kernel.huge_surplus = max(0, kernel.huge_total - count)
        return kernel.huge_total

    def ksm_run(self) -> int:
        """Let KSM go over all mergeable memory: how many entries it changed."""
        return ksm.scan(self.kernel)

    def reclaim(self, pages: int) -> int:
        """Take so many pages away, least recently used first: how many came free."""
        return shrink(self.kernel, pages)

    def cgroup(self, name: str, limit: int | str | None = None) -> int:
        """Make a memory cgroup: its number, for `spawn`."""
        pages = None if limit is None else size_of(limit) // PAGE_SIZE
        self._inodes += 1
        self.kernel.cgroups.append(Cgroup(name, self._inodes, pages))
        return len(self.kernel.cgroups) - 1
